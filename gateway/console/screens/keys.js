/**
 * Keys and apps. A key is shown once, when it is made. Admins of the app `default` see the keys of every app (`?app=ID`)
 * and make apps (`?tab=apps`); `?new=1`: one is being made.
 */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { badge } from "../parts/badge.js";
import { confirm } from "../parts/dialog.js";
import { checkbox, input } from "../parts/field.js";
import { submission } from "../parts/form.js";
import { showOnce } from "../parts/secret.js";
import { PAGE_ROWS, pages, table } from "../parts/table.js";
import { time } from "../parts/time.js";
import { toast } from "../parts/toast.js";

export const styles = ["fleet", "lists"];

const POLL_SECONDS = 10;
const MAIN_APP = "default";
const SCOPES = ["read", "send", "devices", "admin"];

export async function open(view) {
  await new Keys(view).open();
}

class Keys {
  #view;
  #list = html`<div data-keep></div>`;

  constructor(view) {
    this.#view = view;
  }

  /** The app whose keys are shown. */
  get #app() {
    const { query, session } = this.#view;
    return query.get("app") ?? session.app;
  }

  async open() {
    const { root, t, session, query, href } = this.#view;
    const managesAll = session.app === MAIN_APP;
    const apps = managesAll && query.get("tab") === "apps";
    const making = query.get("new") !== null;
    const here = (more) => href("keys", { tab: apps ? "apps" : null, app: query.get("app"), ...more });
    update(
      root,
      html`
        <header class="head">
          <h1>${t("keys.title")}</h1>
          ${!making && html`<a class="button primary" href=${here({ new: 1 })}>${t(apps ? "keys.make_app" : "keys.make")}</a>`}
        </header>`,
      managesAll && html`
        <nav class="chips" aria-label=${t("keys.title")}>
          <a class="button" href=${href("keys")} aria-current=${apps ? null : "page"}>${t("keys.tab_keys")}</a>
          <a class="button" href=${href("keys", { tab: "apps" })} aria-current=${apps ? "page" : null}>${t("keys.tab_apps")}</a>
        </nav>`,
      !apps && query.get("app") !== null && html`<p class="note">${t("keys.of_app", { app: this.#app })} <a href=${href("keys")}>${t("keys.own")}</a></p>`,
      making && (apps ? this.#appForm(here()) : this.#keyForm(here())),
      this.#list,
    );
    await this.#view.every(POLL_SECONDS, () => this.#load(apps));
  }

  async #load(apps) {
    const { api, query } = this.#view;
    const paged = { limit: PAGE_ROWS, cursor: query.get("cursor") };
    const page = await api.get(apps ? "/v1/apps" : "/v1/keys", apps ? paged : { app: query.get("app"), ...paged });
    update(this.#list, apps ? this.#apps(page.items) : this.#keys(page.items), pages(this.#view, page.next_cursor));
  }

  #keys(rows) {
    const { t } = this.#view;
    return table({
      caption: t("keys.title"), rows, key: ({ id }) => id, empty: t("keys.none"),
      columns: [
        { label: t("keys.name"), cell: ({ id, name }) => html`<b>${name}</b><span class="quiet id code">${id}</span>` },
        { label: t("keys.scopes"), cell: ({ scopes }) => html`<span class="tags">${scopes.map((scope) => html`<span class="tag">${scope}</span>`)}</span>` },
        { label: t("keys.state"), cell: ({ revoked_at }) => (revoked_at === null ? badge("valid") : html`${badge("revoked")} <span class="quiet">${time(revoked_at)}</span>`) },
        { label: t("keys.made"), cell: ({ created_at }) => time(created_at) },
        { label: t("keys.act"), cell: (key) => (key.revoked_at === null
            ? html`<button type="button" class="revoke" aria-label=${t("keys.revoke_of", { name: key.name })} onclick=${() => this.#revoke(key)}>${t("keys.revoke")}</button>` : "–") },
      ],
    });
  }

  #apps(rows) {
    const { t, href } = this.#view;
    return table({
      caption: t("keys.tab_apps"), rows, key: ({ id }) => id, empty: "",
      columns: [
        { label: t("keys.app"), cell: ({ id }) => html`<a class="device" href=${href("keys", { app: id })}>${id}</a>` },
        { label: t("keys.made"), cell: ({ created_at }) => time(created_at, { exact: true }) },
      ],
    });
  }

  #keyForm(back) {
    const { t, api, signal } = this.#view;
    const app = this.#app;
    return this.#form(t("keys.make"), t("keys.make_verb"), back, html`
      <div>
        ${input({ label: t("keys.name"), name: "name", required: true, maxlength: 128, hint: t("keys.name_hint"), autocomplete: "off" })}
        <fieldset>
          <legend>${t("keys.scopes")}</legend>
          ${SCOPES.map((scope) => checkbox({ label: t(`keys.scope_${scope}`), name: `scope-${scope}`, checked: scope === "read" }))}
        </fieldset>
      </div>`, async (elements) => {
      const scopes = SCOPES.filter((scope) => elements[`scope-${scope}`].checked);
      if (scopes.length === 0) throw new Error(t("keys.no_scope"));
      const made = await api.post("/v1/keys", { name: elements.name.value.trim(), scopes, app });
      await showOnce({ title: t("keys.made_title", { name: made.name }), sentence: t("keys.made_sentence", { app: made.app, scopes: made.scopes.join(", ") }), secret: made.key, signal });
    });
  }

  #appForm(back) {
    const { t, api } = this.#view;
    return this.#form(t("keys.make_app"), t("keys.make_app_verb"), back, html`
      <div>${input({ label: t("keys.app"), name: "id", required: true, maxlength: 32, pattern: "[a-z0-9\\-]+", hint: t("keys.app_hint"), autocapitalize: "none", autocomplete: "off" })}</div>`, async (elements) => {
      const made = await api.post("/v1/apps", { id: elements.id.value.trim() });
      toast(t("keys.app_made", { app: made.id }));
    });
  }

  /** `save(elements)`: does it; then the list is shown again, at `back`. */
  #form(title, verb, back, fields, save) {
    const { t, query, go } = this.#view;
    const { button, refusal, submit } = submission({
      verb,
      act: async (elements) => {
        await save(elements);
        go("keys", { tab: query.get("tab"), app: query.get("app") });
      },
    });
    return html`
      <form class="card" onsubmit=${submit} data-keep>
        <h2>${title}</h2>
        ${fields}
        ${refusal}
        <div class="buttons">${button}<a class="button" href=${back}>${t("common.cancel")}</a></div>
      </form>`;
  }

  async #revoke(key) {
    const { t, api, signal } = this.#view;
    const done = await confirm({
      title: t("keys.revoke_title"),
      sentence: t("keys.revoke_sentence"),
      names: [`${key.name} (${key.id}, ${key.app}: ${key.scopes.join(", ")})`],
      verb: t("keys.revoke_verb"),
      signal,
      act: () => api.delete(path`/v1/keys/${key.id}`),
    });
    if (done === null) return;
    toast(t("keys.revoked", { name: key.name }));
    await this.#load(false).catch(() => {}); // the next poll says what is wrong; one may have revoked one's own key
  }
}
