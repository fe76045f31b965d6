/**
 * One timeline of a device: its pushes with what became of each, and everything else that happened to it.
 *
 * Two lists of the API, each the newest first and a page at a time, are merged. What is older than where one of them has
 * come to is not shown yet: something of that list may belong before it. New things are asked for from the top; what
 * was loaded stays.
 */

import { path } from "../api.js";
import { html } from "../html.js";
import { unhurried } from "../live.js";
import { badge } from "./badge.js";
import { explainDelivery, explanation } from "./explanation.js";
import { facts } from "./facts.js";
import { ARRIVED } from "./funnel.js";
import { duration, time } from "./time.js";

const PAGE = 30;
/** Items that a page may have: who looks further back chooses a kind, or goes to a push. */
export const MOST_ITEMS = 600;
/** Characters of what a device said that are shown. */
const SHOWN_CHARACTERS = 2000;
/** From one look for what is new to the next, in seconds. */
const REST = { least: 8, longest: 15 };
const BAD_ENDS = new Set(["keep_alive", "not_acknowledged", "protocol_error", "limit_exceeded", "slow_consumer", "server_busy", "internal_error"]);
/** States in which it was seen: nobody asks why not. */
export const SEEN = new Set(["displayed", "dismissed", "opened", "acted"]);
const TIMES = [...ARRIVED, "ended"];

/** Kinds of things -> the types of events that they are. Pushes come from the deliveries. */
export const KINDS = {
  push: null,
  connection: ["device.connected", "device.disconnected"],
  message: ["device.uplink"],
  settings: ["device.settings"],
  other: ["device.enrolled", "device.token_requested", "device.gap", "policy.critical", "heartbeat.*", "duty.acted"],
};

/** One of the two lists: what of it was loaded, by key, and how far back it goes. */
class Source {
  #ask;
  #items = new Map();
  #cursor = null;
  #begun = false;
  /** Everything since then was loaded: milliseconds. */
  since = Number.POSITIVE_INFINITY;

  constructor(ask) {
    this.#ask = ask;
  }

  get items() {
    return [...this.#items.values()];
  }

  get isComplete() {
    return this.#begun && this.#cursor === null;
  }

  async refresh() {
    const page = await this.#ask(null);
    // More news than a page has: what was loaded before does not join on to it.
    if (this.#begun && page.next_cursor !== null && !page.items.some((item) => this.#items.has(item.key))) {
      this.#items.clear();
      this.#begun = false;
    }
    this.#add(page, !this.#begun);
  }

  async older() {
    if (!this.isComplete) this.#add(await this.#ask(this.#cursor), true);
  }

  #add({ items, next_cursor, searched_to }, isOldest) {
    for (const item of items) this.#items.set(item.key, item);
    if (!isOldest) return;
    this.#begun = true;
    this.#cursor = next_cursor;
    const last = items.at(-1)?.at ?? searched_to;
    this.since = next_cursor === null ? Number.NEGATIVE_INFINITY : Date.parse(searched_to ?? last);
  }
}

export class Timeline {
  #sources;

  /** `kind`: a key of KINDS, or null for all; `state`: of deliveries alone. */
  constructor({ api, deviceId, kind = null, state = null }) {
    const deliveries = async (cursor) => {
      const page = await api.get(path`/v1/devices/${deviceId}/deliveries`, { limit: PAGE, cursor, state });
      return { ...page, items: page.items.map((one) => ({ key: `push ${one.push_id}`, kind: "push", at: one.sent_at, delivery: one })) };
    };
    const types = kind === null ? Object.values(KINDS).flat().filter(Boolean) : KINDS[kind];
    const events = async (cursor) => {
      const page = await api.get(path`/v1/devices/${deviceId}/events`, { limit: PAGE, cursor, types: types.join(",") });
      return { ...page, items: page.items.map((one) => ({ key: `event ${one.id}`, kind: kindOf(one.type), at: one.timestamp, event: one })) };
    };
    this.#sources = [
      ...(kind === null || kind === "push" ? [new Source(deliveries)] : []),
      ...(types !== null ? [new Source(events)] : []),
    ];
  }

  /** Ask for what is new, unhurried; `{ now: true }`: something is known to be. */
  refresh = unhurried(() => Promise.all(this.#sources.map((source) => source.refresh())), REST);

  /** Load the next page of whatever list ends first. */
  async older() {
    const edge = Math.max(...this.#sources.map(({ since }) => since));
    await Promise.all(this.#sources.filter(({ since }) => since === edge).map((source) => source.older()));
  }

  get isComplete() {
    return this.#sources.every((source) => source.isComplete);
  }

  /** What is known for certain, the newest first. */
  items() {
    const edge = Math.max(...this.#sources.map(({ since }) => since));
    return this.#sources
      .flatMap((source) => source.items)
      .filter(({ at }) => Date.parse(at) >= edge)
      .sort((one, other) => Date.parse(other.at) - Date.parse(one.at))
      .slice(0, MOST_ITEMS);
  }
}

function kindOf(type) {
  const found = Object.entries(KINDS).find(([, types]) => types?.includes(type));
  return found ? found[0] : "other";
}

/** A row of the timeline. `zone`: the device's; `online`: whether it is connected; `subscribed`: to its pushes. */
export function row(view, item, { zone, online, subscribed }) {
  return item.kind === "push" ? pushRow(view, item, { zone, online, subscribed }) : eventRow(view, item);
}

function pushRow(view, { key, at, delivery }, { zone, online, subscribed }) {
  const { t, href } = view;
  const why = SEEN.has(delivery.state) ? null : explainDelivery(delivery, online, subscribed).why;
  return html`
    <li data-key=${key} data-kind="push" data-state=${delivery.state}>
      <p class="line">
        ${badge(delivery.state)}
        <a href=${href(`pushes/${delivery.push_id}`)}>${delivery.title ?? delivery.body ?? t(`targets.kind_${delivery.kind}`)}</a>
        <span class="quiet">${[delivery.title === null && !delivery.body ? null : t(`targets.kind_${delivery.kind}`), delivery.channel].filter(Boolean).join(" · ")}</span>
        ${time(at)}
      </p>
      <details>
        <summary>${t("device.why")}${why && html`<span class="quiet">: ${why}</span>`}</summary>
        ${deliveryFacts(view, delivery, { zone, online, subscribed })}
      </details>
    </li>`;
}

/** Why it is so, what to do, and when what happened. */
export function deliveryFacts({ t }, delivery, { zone, online, subscribed }) {
  const times = TIMES.filter((name) => delivery[`${name}_at`]);
  const exact = (at) => time(at, { zone, exact: true });
  return html`
    ${explanation(delivery, online, subscribed)}
    <dl>${facts([
      delivery.sent_at && [t("device.sent"), exact(delivery.sent_at)],
      delivery.reason && [t("device.reason"), html`<code>${delivery.reason}</code>`],
      ...times.map((name) => [t(`device.at_${name}`), exact(delivery[`${name}_at`])]),
      delivery.expires_at && [t("device.expires"), exact(delivery.expires_at)],
      ["QoS", delivery.qos],
      delivery.attempts > 0 && [t("device.attempts"), delivery.attempts],
      delivery.action && [t("device.action"), html`<code>${delivery.action}</code>`],
      delivery.result !== null && [t("device.answer"), html`<pre class="answer">${shown(delivery.result)}</pre>`],
    ])}</dl>`;
}

function eventRow({ t }, { key, at, kind, event }) {
  const { type, data } = event;
  const bad = type === "device.disconnected" && BAD_ENDS.has(data.reason);
  return html`
    <li data-key=${key} data-kind=${kind} data-type=${type} data-look=${bad ? "bad" : null}>
      <p class="line"><b>${t.or(`device.event_${type.replace(".", "_")}`, type)}</b> ${said(t, type, data)} ${time(at)}</p>
      ${body(t, type, data)}
    </li>`;
}

/** What a line says of an event. */
function said(t, type, data) {
  switch (type) {
    case "device.connected":
      return html`<span>${t("device.from", { address: data.address ?? "–" })}</span>`;
    case "device.disconnected":
      return html`<span>${t.or(`device.end_${data.reason}`, data.reason)}</span> <span class="quiet">${t("device.lasted", { time: duration(data.duration ?? 0) })}${data.detail ? ` (${data.detail})` : ""}${
        data.flaps ? ` ${t("device.flaps", { n: data.flaps })}` : ""}</span>`;
    case "device.uplink":
      return html`<code>${data.topic}</code>`;
    default:
      return null;
  }
}

/** What stands below the line. */
function body(t, type, data) {
  if (type === "device.connected" || type === "device.disconnected") return null;
  if (type === "device.uplink") return html`<pre>${shown(data.payload ?? `base64: ${data.payload_base64 ?? ""}`)}</pre>`;
  const { device_id: _, ...rest } = data;
  if (type === "device.settings") return html`<p>${choices(t, rest)}</p>`;
  return html`<pre>${shown(rest)}</pre>`;
}

/** What a person has chosen, in words; all else as it came. */
function choices(t, { consent, channels, quiet_hours: quiet, source, ...rest }) {
  const said = [];
  if (typeof consent === "string") said.push(`${t("device.consent")}: ${t.or(`device.consent_${consent}`, consent)}`);
  for (const [channel, isOn] of Object.entries(channels ?? {})) said.push(t(isOn ? "device.unmuted_channel" : "device.muted_channel", { channel }));
  if (quiet) said.push(`${t("device.quiet_hours")}: ${quiet.start} – ${quiet.end}`);
  if (Object.keys(rest).length > 0) said.push(shown(rest));
  if (source !== undefined) said.push(t.or(`device.source_${source}`, source));
  return said.join(" · ");
}

/** A value that a device has sent, as text. */
export function shown(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)} …` : text;
}
