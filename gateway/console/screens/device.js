/**
 * One device: what it is, whether it is there, what waits for it, and a timeline of everything, with the reason of each end.
 *
 * `?push=ID` asks about one push: why did it not show that? `?kind=` and `?state=` narrow the timeline.
 */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { badge, word } from "../parts/badge.js";
import { callCommand, cancelWaiting, edit, emptyMailbox, revoke, rotate, testPush } from "../parts/device-actions.js";
import { factsCard } from "../parts/facts.js";
import { ARRIVED, ENDS, OPEN_STATES } from "../parts/funnel.js";
import { pushTitle } from "../parts/target.js";
import { duration, time } from "../parts/time.js";
import { KINDS, MOST_ITEMS, SEEN, Timeline, deliveryFacts, row, shown } from "../parts/timeline.js";
import { toastError } from "../parts/toast.js";

export const texts = ["device", "explanations", "targets"];
export const styles = ["fleet"];

const POLL_SECONDS = 5;
const FOLLOW_SECONDS = 1.5;
const FOLLOWED_MS = 60_000;
/** The mailbox, which the server reads where it writes, is asked for every so many polls; what seldom changes, too. */
const MAILBOX_EVERY = 3;
const SELDOM = 12;
const SHOWN_WAITING = 20;
const SHOWN_ANSWERS = 5;
const SHOWN_ENDS = 3;
/** Of what is listed here: a device that was removed has no page. */
const STATES = [...OPEN_STATES, ...ARRIVED, ...ENDS.filter((state) => state !== "revoked")];

export async function open(view) {
  await new DeviceScreen(view).open();
}

class DeviceScreen {
  #view;
  #polls = 0;
  #opened = performance.now();
  #device = null;
  /** Facts of its connection. */
  #link = null;
  #mailbox = { items: [], next_cursor: null };
  #preferences = null;
  #consents = [];
  #asked = null;
  #timeline;

  constructor(view) {
    this.#view = view;
    const { api, path: { id }, query } = view;
    const kind = query.get("kind");
    this.#timeline = new Timeline({
      api, deviceId: id, kind: Object.hasOwn(KINDS, kind ?? "") ? kind : null, state: STATES.includes(query.get("state")) ? query.get("state") : null,
    });
  }

  async open() {
    await this.#view.every(POLL_SECONDS, () => this.#load());
    if (this.#view.query.get("push")) await this.#view.every(FOLLOW_SECONDS, () => this.#follow());
  }

  /** A push that was just sent is watched closely for a while. */
  async #follow() {
    const state = this.#asked?.delivery?.state;
    if ((state !== "waiting" && state !== "sent") || performance.now() - this.#opened > FOLLOWED_MS) return;
    const asked = await this.#ask(this.#view.query.get("push"));
    if (asked.delivery?.state !== state) await this.#load();
  }

  async #load({ all = false } = {}) {
    const { api, path: { id }, query } = this.#view;
    const device = path`/v1/devices/${id}`;
    const seldom = all || this.#polls % SELDOM === 0;
    const withMailbox = all || this.#polls % MAILBOX_EVERY === 0;
    this.#polls += 1;
    const push = query.get("push");
    const [found, link, mailbox, preferences, consents, asked] = await Promise.all([
      api.get(device),
      api.get(`${device}/connection`),
      withMailbox ? api.get(`${device}/mailbox`, { limit: SHOWN_WAITING }) : this.#mailbox,
      seldom ? api.get(`${device}/preferences`) : this.#preferences,
      seldom ? api.get(`${device}/consent`).then(({ items }) => items) : this.#consents,
      push ? this.#ask(push) : null,
      this.#timeline.refresh(),
    ]);
    const changed =
      this.#device !== null &&
      (found.online !== this.#device.online || found.last_error_at !== this.#device.last_error_at || asked?.delivery?.state !== this.#asked?.delivery?.state);
    if (all || changed) await this.#timeline.refresh({ now: true });
    const current = changed && !withMailbox ? await api.get(`${device}/mailbox`, { limit: SHOWN_WAITING }) : mailbox;
    this.#device = found;
    this.#link = link;
    this.#mailbox = current;
    this.#preferences = preferences;
    this.#consents = consents;
    this.#asked = asked;
    this.#draw();
  }

  /** The delivery that the address asks about: {push, delivery} or {problem}. */
  async #ask(pushId) {
    const { api, path: { id } } = this.#view;
    const push = path`/v1/pushes/${pushId}`;
    try {
      const page = await api.get(`${push}/deliveries`, { device: id, limit: 1 });
      const described = this.#asked?.push ?? (await api.get(push));
      return { push: described, delivery: page.items[0] ?? null };
    } catch (error) {
      if (error.status === 404 || error.status === 410) return { problem: error };
      throw error;
    }
  }

  #draw() {
    const { root, t, query } = this.#view;
    const device = this.#device;
    const zone = { zone: device.timezone, online: device.online, subscribed: this.#link.subscribed_qos !== null };
    update(
      root,
      html`
        <header class="head">
          <h1>${device.name ?? device.device_id}</h1>
          <p>${badge(device.online ? "online" : "offline")} <span class="quiet">${device.device_id}</span></p>
          ${this.#actions()}
        </header>`,
      query.get("push") && this.#answer(zone),
      html`<div class="facts">${this.#connection(zone)}${this.#facts(zone)}${this.#choices(zone)}${this.#waiting(zone)}</div>`,
      this.#history(zone),
    );
  }

  // What can be done

  #actions() {
    const { t, session } = this.#view;
    const device = this.#device;
    const button = (id, act, look = null) => html`
      <button type="button" id=${id} class=${look} onclick=${() => this.#do(act)}>${t(`device.${id.replace("-", "_")}`)}</button>`;
    const actions = [
      session.may("send") && button("test-push", () => testPush(this.#view, device), "primary"),
      session.may("send") && button("call-command", () => callCommand(this.#view, device)),
      session.may("devices") && button("edit-device", () => edit(this.#view, device)),
      session.may("devices") && button("rotate-token", () => rotate(this.#view, device)),
      session.may("devices") && button("revoke-device", () => revoke(this.#view, device), "danger"),
    ].filter(Boolean);
    return actions.length > 0 && html`<div class="actions">${actions}</div>`;
  }

  async #do(act) {
    try {
      if (await act()) await this.#load({ all: true });
    } catch (error) {
      toastError(error);
    }
  }

  // The question

  #answer(zone) {
    const { t, href, path: { id }, query } = this.#view;
    const { push, delivery, problem } = this.#asked;
    const away = html`<a class="button plain" href=${href(`devices/${id}`)} aria-label=${t("common.close")}>×</a>`;
    const pushId = query.get("push");
    if (problem) {
      const text = problem.status === 410 ? t("device.push_gone") : t("device.push_unknown");
      return html`<section class="card asked"><div class="row spread"><h2>${t("device.question", { title: pushId })}</h2>${away}</div><p>${text}</p></section>`;
    }
    const title = pushTitle(push);
    const question = t(delivery !== null && SEEN.has(delivery.state) ? "device.became" : "device.question", { title });
    return html`
      <section class="card asked" aria-label=${question}>
        <div class="row spread"><h2>${question}</h2>${away}</div>
        ${delivery === null
          ? html`<p class="why">${t("device.no_target")}</p><p class="what-to-do">${t("device.no_target_do")}</p>`
          : html`<p>${badge(delivery.state)}</p>${deliveryFacts(this.#view, { ...delivery, expires_at: push.expires_at }, zone)}`}
        <p><a href=${href(`pushes/${pushId}`)}>${t("device.to_push")}</a></p>
      </section>`;
  }

  // What is known

  #connection({ zone }) {
    const { t } = this.#view;
    const device = this.#device;
    const link = this.#link;
    return factsCard(t("device.connection"), [
      [t("device.presence"), word(device.online ? "online" : "offline")],
      [t("device.connected_at"), time(device.connected_at, { zone, exact: true })],
      [t("device.last_seen"), device.online ? t("device.now") : time(device.last_seen, { zone, exact: true })],
      device.address !== null && [t("device.address"), html`<code>${device.address}</code>`],
      link.protocol && [t("device.protocol"), `MQTT ${link.protocol}${link.listener ? `, ${link.listener.toUpperCase()}` : ""}`],
      link.keep_alive !== null && [t("device.keep_alive"), link.keep_alive === 0 ? t("device.no_keep_alive") : duration(link.keep_alive)],
      device.online && [t("device.subscribed"), link.subscribed_qos !== null ? t("device.is_subscribed") : t("device.not_subscribed")],
      link.in_flight > 0 && [t("device.in_flight"), link.in_flight],
      link.disconnects.length > 0 && [t("device.ended"), html`<ul class="answers">${link.disconnects.slice(0, SHOWN_ENDS).map((end) => html`
        <li>${t.or(`device.end_${end.reason}`, end.reason)} ${time(end.at, { zone })}${end.detail && html` <span class="quiet">${end.detail}</span>`}</li>`)}</ul>`],
      [t("device.last_error"), device.last_error === null ? "–" : html`<span class="last-error">${device.last_error}</span> · ${time(device.last_error_at, { zone })}`],
      [t("device.token_ends"), device.token_expires_at === null ? t("device.never_ends") : time(device.token_expires_at, { zone, exact: true })],
    ]);
  }

  #facts({ zone }) {
    const { t } = this.#view;
    const device = this.#device;
    const attributes = Object.entries(device.attributes);
    return factsCard(t("device.facts"), [
      [t("device.tags"), device.tags.length === 0 ? "–" : html`<span class="tags">${device.tags.map((tag) => html`<span class="tag">${tag}</span>`)}</span>`],
      device.topics.length > 0 && [t("device.topics"), html`<span class="tags">${device.topics.map((topic) => html`<span class="tag">${topic}</span>`)}</span>`],
      [t("device.locale"), device.locale ?? "–"],
      [t("device.zone"), device.timezone ?? "–"],
      [t("device.enrolled"), time(device.created_at, { zone, exact: true })],
      ...attributes.map(([name, value]) => [html`<code>${name}</code>`, shown(value)]),
    ]);
  }

  #choices({ zone }) {
    const { t } = this.#view;
    const { consent, channels, quiet_hours: quiet } = this.#preferences;
    const muted = channels.filter((channel) => channel.muted).map((channel) => channel.name ?? channel.id);
    return factsCard(t("device.choices"), [
      [t("device.consent"), t(`device.consent_${consent}`)],
      [t("device.muted"), muted.length === 0 ? t("device.none_muted") : muted.join(", ")],
      [t("device.quiet_hours"), quiet ? `${quiet.start} – ${quiet.end}` : "–"],
      this.#consents.length > 0 && [t("device.answers"), html`<ul class="answers">${this.#consents.slice(0, SHOWN_ANSWERS).map((record) => html`
        <li><b>${t(`device.consent_${record.consent}`)}</b> ${t(`device.source_${record.source}`)} ${time(record.recorded_at, { zone, exact: true })}</li>`)}</ul>`],
    ]);
  }

  #waiting({ zone }) {
    const { t, session, href, path: { id } } = this.#view;
    const { items, next_cursor: more } = this.#mailbox;
    const may = session.may("devices");
    const titles = new Map(this.#timeline.items().map(({ delivery }) => [delivery?.push_id, delivery?.title ?? delivery?.body]));
    return html`
      <section class="card" id="mailbox">
        <div class="row spread">
          <h2>${t("device.mailbox")}</h2>
          ${may && items.length > 0 && html`<button type="button" id="empty-mailbox" onclick=${() => this.#do(() => emptyMailbox(this.#view, this.#device, items))}>${t("device.empty")}</button>`}
        </div>
        ${items.length === 0 ? html`<p class="quiet">${t("device.nothing_waits")}</p>` : html`
          <ol class="waiting">${items.map((entry) => html`
            <li data-key=${entry.push_id}>
              ${badge(entry.state)} <a href=${href(`devices/${id}`, { push: entry.push_id })}>${titles.get(entry.push_id) ?? t(`targets.kind_${entry.kind}`)}</a>
              <span class="quiet">${t(`device.priority_${entry.priority}`)}${entry.collapse_key && ` · ${t("device.collapse_key", { key: entry.collapse_key })}`} · ${t("device.until")} ${time(entry.expires_at, { zone })}</span>
              ${may && html`<button type="button" class="plain cancel" onclick=${() => this.#do(() => cancelWaiting(this.#view, this.#device, entry))}>${t("device.cancel")}<span class="unseen"> ${entry.push_id}</span></button>`}
            </li>`)}</ol>
          ${more && html`<p class="quiet">${t("device.more_waits")}</p>`}`}
      </section>`;
  }

  // The timeline

  #history(zone) {
    const { t, href, path: { id }, query } = this.#view;
    const kind = query.get("kind");
    const state = query.get("state");
    const items = this.#timeline.items();
    const chip = (value) => html`
      <a class="button" href=${href(`devices/${id}`, { kind: value })} aria-current=${(kind ?? null) === value ? "true" : null}>${t(`device.kinds_${value ?? "all"}`)}</a>`;
    return html`
      <section id="timeline" aria-label=${t("device.timeline")}>
        <h2>${t("device.timeline")}</h2>
        <nav class="chips" aria-label=${t("device.kinds")}>
          ${[null, ...Object.keys(KINDS)].map(chip)}
        </nav>
        ${kind === "push" && html`
          <p class="row"><label for="state">${t("device.state")}</label>
            <select id="state" value=${state ?? ""} onchange=${(event) => this.#view.go(`devices/${id}`, { kind, state: event.target.value })}>
              <option value="">${t("device.any_state")}</option>
              ${STATES.map((name) => html`<option value=${name} selected=${name === state}>${word(name)}</option>`)}
            </select></p>`}
        ${items.length === 0 && this.#timeline.isComplete && html`<p class="empty">${t("device.nothing_happened")}</p>`}
        <ol class="timeline">${items.map((item) => row(this.#view, item, zone))}</ol>
        ${!this.#timeline.isComplete && (items.length < MOST_ITEMS
          ? html`<p><button type="button" id="older" onclick=${() => this.#do(() => this.#older())}>${t("device.older")}</button></p>`
          : html`<p class="quiet">${t("device.enough")}</p>`)}
      </section>`;
  }

  async #older() {
    await this.#timeline.older();
    this.#draw();
  }
}
