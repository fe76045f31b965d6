/**
 * The channels of the app: what people can mute, with its limits. The address names the one that is open
 * (`?channel=ID`), or that one is being made (`?new=1`).
 *
 * A change sends the fields that were changed here, and no others: what somebody else has changed meanwhile stays.
 */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { confirm } from "../parts/dialog.js";
import { factsCard } from "../parts/facts.js";
import { checkbox, input, select, textarea } from "../parts/field.js";
import { submission } from "../parts/form.js";
import { capsFields, capsText, hoursFields, hoursText } from "../parts/rules.js";
import { PAGE_ROWS, pages, table } from "../parts/table.js";
import { time } from "../parts/time.js";
import { toast, toastError } from "../parts/toast.js";

export const texts = ["channels", "rules"];
export const styles = ["fleet", "lists"];

const POLL_SECONDS = 15;
const IMPORTANCES = ["high", "default", "low"];

export async function open(view) {
  await new Channels(view).open();
}

class Channels {
  #view;

  constructor(view) {
    this.#view = view;
  }

  async open() {
    const { root, t, session, query, api, href } = this.#view;
    const opened = query.get("channel");
    const making = query.get("new") !== null;
    const list = html`<div data-keep></div>`;
    const channel = opened === null ? null : await api.get(path`/v1/channels/${opened}`);
    update(
      root,
      html`
        <header class="head">
          <h1>${t("channels.title")}</h1>
          ${session.may("admin") && !making && html`<a class="button primary" href=${href("channels", { new: 1 })}>${t("channels.make")}</a>`}
        </header>
        <p class="quiet">${t("channels.about")}</p>`,
      making && session.may("admin") && this.#form(null),
      channel !== null && (session.may("admin") ? this.#form(channel) : this.#details(channel)),
      list,
    );
    await this.#view.every(POLL_SECONDS, async () => {
      const page = await api.get("/v1/channels", { limit: PAGE_ROWS, cursor: query.get("cursor") });
      update(list, this.#table(page.items), pages(this.#view, page.next_cursor));
    });
  }

  #table(rows) {
    const { t, href } = this.#view;
    return table({
      caption: t("channels.title"), rows, key: ({ id }) => id, empty: t("channels.none"),
      columns: [
        { label: t("channels.channel"), cell: ({ id, name }) => html`<a class="device" href=${href("channels", { channel: id })}>${name}</a> <span class="quiet id code">${id}</span>` },
        { label: t("channels.importance"), cell: ({ importance }) => t(`channels.importance_${importance}`) },
        { label: t("channels.muting"), cell: ({ may_mute }) => t(may_mute ? "channels.may" : "channels.may_not") },
        { label: t("channels.caps"), cell: ({ caps, adapted }) => html`${capsText(caps)}${adapted && html` <b>${t("channels.adapted", { n: adapted.per_day })}</b>`}` },
        { label: t("channels.hours"), cell: ({ quiet_hours }) => hoursText(quiet_hours, t("channels.hours_of_policy")) },
        { label: t("channels.changed"), cell: ({ updated_at }) => time(updated_at) },
      ],
    });
  }

  #details(channel) {
    const { t } = this.#view;
    const rows = [
      ["id", html`<span class="code">${channel.id}</span>`],
      ["description", channel.description ?? "–"],
      ["sound", channel.sound ?? "–"],
      ["importance", t(`channels.importance_${channel.importance}`)],
      ["muting", t(channel.may_mute ? "channels.may" : "channels.may_not")],
      ["caps", capsText(channel.caps)],
      ["hours", hoursText(channel.quiet_hours, t("channels.hours_of_policy"))],
      ["made", time(channel.created_at, { exact: true })],
    ];
    return factsCard(channel.name, rows.map(([name, value]) => [t(`channels.${name}`), value]));
  }

  /** `channel`: the one to be changed; null: one is made. */
  #form(channel) {
    const { t, api, href } = this.#view;
    const caps = capsFields(channel?.caps ?? null, t("channels.caps"), { adapts: true });
    const hours = hoursFields(channel?.quiet_hours ?? null, t("channels.hours"));
    const text = (name) => form.elements[name].value.trim() || null;
    const read = () => ({
      name: text("name"), description: text("description"), importance: form.elements.importance.value, sound: text("sound"),
      may_mute: form.elements.may_mute.checked, caps: caps.read(), quiet_hours: hours.read(),
    });
    const { button, refusal, submit } = submission({
      verb: t(channel === null ? "channels.make_verb" : "channels.save"),
      act: async () => {
        const now = read();
        if (channel === null) await api.post("/v1/channels", { id: text("id"), ...now });
        else await api.patch(path`/v1/channels/${channel.id}`, changed(first, now));
        toast(t("channels.saved", { name: now.name }));
        this.#view.go("channels");
      },
    });
    const form = html`
      <form class="card" onsubmit=${submit} data-keep>
        <h2>${channel === null ? t("channels.make") : channel.name}</h2>
        ${channel === null
          ? input({ label: t("channels.id"), name: "id", required: true, maxlength: 64, pattern: "[A-Za-z0-9_.:\\-]+", hint: t("channels.id_hint"), autocapitalize: "none", autocomplete: "off" })
          : html`<p class="quiet">${t("channels.id")}: <span class="code">${channel.id}</span></p>`}
        ${input({ label: t("channels.name"), name: "name", required: true, maxlength: 64, value: channel?.name ?? "" })}
        ${textarea({ label: t("channels.description"), name: "description", maxlength: 512, value: channel?.description ?? "" })}
        ${select({ label: t("channels.importance"), name: "importance", value: channel?.importance ?? "default", options: IMPORTANCES.map((each) => [each, t(`channels.importance_${each}`)]) })}
        ${input({ label: t("channels.sound"), name: "sound", maxlength: 256, value: channel?.sound ?? "" })}
        ${checkbox({ label: t("channels.may_mute"), name: "may_mute", checked: channel?.may_mute ?? true })}
        ${caps.node}
        ${hours.node}
        ${refusal}
        <div class="buttons">
          ${button}
          <a class="button" href=${href("channels")}>${t("common.cancel")}</a>
          ${channel !== null && html`<button type="button" id="remove" class="danger" onclick=${() => this.#remove(channel)}>${t("channels.remove")}</button>`}
        </div>
      </form>`;
    const first = read();
    return form;
  }

  /** Ask with the number of people who have muted it. */
  async #remove(channel) {
    const { t, api, signal } = this.#view;
    let muted;
    try {
      muted = (await api.post("/v1/segments/preview", { expression: `muted('${channel.id}')` })).devices;
    } catch (error) {
      toastError(error);
      return;
    }
    const done = await confirm({
      title: t("channels.remove_title"),
      sentence: t("channels.remove_sentence", { n: muted }),
      names: [`${channel.name} (${channel.id})`],
      verb: t("channels.remove_verb"),
      signal,
      act: () => api.delete(path`/v1/channels/${channel.id}`),
    });
    if (done === null) return;
    toast(t("channels.removed", { name: channel.name }));
    this.#view.go("channels");
  }
}

/** The fields of `now` that are others than in `first`. */
function changed(first, now) {
  return Object.fromEntries(Object.entries(now).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(first[name])));
}
