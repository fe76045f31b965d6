/**
 * A webhook: how its receiver takes what is sent, a test of it, its dead letters, and the hand on it: change, disable,
 * replay, a new secret, remove. `?change=1`: its form is open.
 */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { badge } from "../parts/badge.js";
import { confirm } from "../parts/dialog.js";
import { factsCard } from "../parts/facts.js";
import { showOnce } from "../parts/secret.js";
import { pages, table } from "../parts/table.js";
import { dateTime, time } from "../parts/time.js";
import { toast, toastError } from "../parts/toast.js";
import { webhookForm, webhookState } from "../parts/webhook.js";

export const texts = ["webhooks"];
export const styles = ["fleet", "lists"];

const POLL_SECONDS = 5;
/** A dead letter can have a hundred events. */
const LETTERS = 20;

export async function open(view) {
  await new Webhook(view).open();
}

class Webhook {
  #view;
  #found = null;
  #letters = null;
  #chosen = new Set();
  #test = null;
  #hasForm = false;

  constructor(view) {
    this.#view = view;
  }

  async open() {
    await this.#view.every(POLL_SECONDS, () => this.#load());
  }

  get #address() {
    return path`/v1/webhooks/${this.#view.path.id}`;
  }

  async #load() {
    const { api, query } = this.#view;
    [this.#found, this.#letters] = await Promise.all([
      api.get(this.#address),
      api.get(`${this.#address}/dead-letters`, { limit: LETTERS, cursor: query.get("cursor"), with_count: true }),
    ]);
    const here = new Set(this.#letters.items.map(({ id }) => id));
    for (const id of this.#chosen) if (!here.has(id)) this.#chosen.delete(id);
    this.#draw();
  }

  #draw() {
    const { root, t, session, query } = this.#view;
    const found = this.#found;
    const may = session.may("admin");
    const changing = may && query.get("change") !== null;
    update(
      root,
      html`
        <header class="head">
          <h1>${found.url}</h1>
          <p role="status">${badge(webhookState(found))}</p>
          ${may && this.#acts(changing)}
        </header>`,
      !found.enabled && html`<p class="note">${t("webhooks.disabled_why", { at: dateTime(found.disabled_at), reason: found.disabled_reason ?? "" })}</p>`,
      changing && this.#form(),
      this.#test && this.#tested(),
      this.#facts(),
      this.#deadLetters(may),
    );
  }

  /** The form once, and then what stands for it: what a person types there stays. */
  #form() {
    if (this.#hasForm) return html`<form data-key="form" data-keep></form>`;
    this.#hasForm = true;
    const { t, href, place } = this.#view;
    return webhookForm({ t, webhook: this.#found, save: (fields) => this.#change(fields), back: href(place) });
  }

  #facts() {
    const { t } = this.#view;
    const found = this.#found;
    const rows = [
      ["description", found.description ?? "–"],
      ["types", html`<span class="code">${found.types.join(", ")}</span>`],
      ["succeeded", time(found.succeeded_at)],
      ["failed", time(found.failed_at)],
      ["last_error", found.last_error ?? "–"],
      ["made", time(found.created_at, { exact: true })],
      ["changed", time(found.updated_at, { exact: true })],
    ];
    return factsCard(t("webhooks.facts"), rows.map(([name, value]) => [t(`webhooks.${name}`), value]));
  }

  #tested() {
    const { t } = this.#view;
    const { delivered, status, error, milliseconds } = this.#test;
    return html`
      <p class="note tested" role="status" data-delivered=${String(delivered)}>
        ${delivered ? t("webhooks.test_taken", { status, ms: milliseconds }) : t("webhooks.test_refused", { error, ms: milliseconds })}
      </p>`;
  }

  #deadLetters(may) {
    const { t } = this.#view;
    const { items, next_cursor, count } = this.#letters;
    const dropped = this.#found.dead_letters_dropped;
    return html`
      <section>
        <h2>${t("webhooks.letters", { n: count })}</h2>
        <p class="quiet">${t("webhooks.letters_about")}${dropped > 0 && ` ${t("webhooks.dropped", { n: dropped })}`}</p>
        ${may && count > 0 && this.#bar(count)}
        ${table({
          caption: t("webhooks.letters", { n: count }), rows: items, key: ({ id }) => id, empty: t("webhooks.no_letters"),
          select: may ? { chosen: this.#chosen, label: ({ id }) => t("webhooks.choose", { id }), change: (id, is) => this.#choose(id, is) } : null,
          columns: [
            { label: t("webhooks.at"), cell: ({ at, replaying }) => html`${time(at)}${replaying && html` <b>${t("webhooks.replaying")}</b>`}` },
            { label: t("webhooks.attempts"), numeric: true, cell: ({ attempts }) => attempts },
            { label: t("webhooks.error"), cell: ({ error }) => error },
            { label: t("webhooks.events"), cell: ({ events }) => html`
                <details><summary>${t("webhooks.events_of", { n: events.length, type: events[0]?.type ?? "" })}</summary><pre class="answer" tabindex="0">${JSON.stringify(events, null, 2)}</pre></details>` },
          ],
        })}
        ${pages(this.#view, next_cursor)}
      </section>`;
  }

  #choose(id, is) {
    if (is) this.#chosen.add(id);
    else this.#chosen.delete(id);
    this.#draw();
  }

  #bar(count) {
    const { t } = this.#view;
    const n = this.#chosen.size;
    return html`
      <div class="bar" role="group" aria-label=${t("webhooks.letters", { n: count })}>
        <span class="chosen" role="status">${t("webhooks.chosen", { n })}</span>
        <span class="actions">
          <button type="button" id="replay-chosen" disabled=${n === 0 || !this.#found.enabled} onclick=${() => this.#replay([...this.#chosen])}>${t("webhooks.replay_chosen")}</button>
          <button type="button" id="replay-all" disabled=${!this.#found.enabled} onclick=${() => this.#replay(null)}>${t("webhooks.replay_all", { n: count })}</button>
        </span>
      </div>`;
  }

  // The hand on it

  #acts(changing) {
    const { t, href, place } = this.#view;
    return html`
      <div class="actions">
        <button type="button" id="test" onclick=${(event) => this.#try(event.currentTarget)}>${t("webhooks.test")}</button>
        ${!changing && html`<a class="button" href=${href(place, { change: 1 })}>${t("webhooks.change")}</a>`}
        <button type="button" id="toggle" onclick=${() => this.#toggle()}>${t(this.#found.enabled ? "webhooks.disable" : "webhooks.enable")}</button>
        <button type="button" id="rotate" onclick=${() => this.#rotate()}>${t("webhooks.rotate")}</button>
        <button type="button" id="remove" class="danger" onclick=${() => this.#remove()}>${t("webhooks.remove")}</button>
      </div>`;
  }

  /** The receiver's answer to an event that says it is a test. */
  async #try(button) {
    const { api } = this.#view;
    button.disabled = true;
    try {
      this.#test = await api.post(`${this.#address}/test`);
      await this.#load();
    } catch (error) {
      toastError(error);
    }
    button.disabled = false;
  }

  async #change(fields) {
    const { api, t, go, place } = this.#view;
    await api.patch(this.#address, fields);
    toast(t("webhooks.saved"));
    go(place);
  }

  async #toggle() {
    const { api, t, signal } = this.#view;
    const { enabled, url } = this.#found;
    if (!enabled) {
      try {
        await api.patch(this.#address, { enabled: true });
        await this.#load();
        toast(t("webhooks.enabled"));
      } catch (error) {
        toastError(error);
      }
      return;
    }
    const done = await confirm({
      title: t("webhooks.disable_title"), sentence: t("webhooks.disable_sentence"), names: [url], verb: t("webhooks.disable_verb"), signal,
      act: () => api.patch(this.#address, { enabled: false }),
    });
    if (done !== null) await this.#load();
  }

  async #rotate() {
    const { api, t, signal } = this.#view;
    const { url } = this.#found;
    const made = await confirm({
      title: t("webhooks.rotate_title"), sentence: t("webhooks.rotate_sentence"), names: [url], verb: t("webhooks.rotate_verb"), danger: false, signal,
      act: () => api.post(`${this.#address}/secret`),
    });
    if (made !== null) await showOnce({ title: t("webhooks.rotated"), sentence: t("webhooks.secret_for", { url }), secret: made.secret, signal });
  }

  /** `ids`: of dead letters; null: all. */
  async #replay(ids) {
    const { api, t, signal } = this.#view;
    const n = ids === null ? this.#letters.count : ids.length;
    const shown = this.#letters.items.filter(({ id }) => ids === null || ids.includes(id));
    const done = await confirm({
      title: t("webhooks.replay_title"),
      sentence: t("webhooks.replay_sentence", { n, url: this.#found.url }),
      names: shown.map(({ at, events }) => `${dateTime(at)}: ${t("webhooks.events_of", { n: events.length, type: events[0]?.type ?? "" })}`),
      count: n,
      verb: t("webhooks.replay_verb", { n }),
      danger: false,
      signal,
      act: () => api.post(`${this.#address}/dead-letters/replay`, ids === null ? {} : { ids }),
    });
    if (done === null) return;
    toast(t("webhooks.replayed", { n: done.replaying }));
    this.#chosen.clear();
    await this.#load();
  }

  async #remove() {
    const { api, t, signal, go } = this.#view;
    const n = this.#letters.count;
    const done = await confirm({
      title: t("webhooks.remove_title"), sentence: t("webhooks.remove_sentence", { n }), names: [this.#found.url], verb: t("webhooks.remove_verb"), signal,
      act: () => api.delete(this.#address),
    });
    if (done === null) return;
    toast(t("webhooks.removed"));
    go("webhooks");
  }
}
