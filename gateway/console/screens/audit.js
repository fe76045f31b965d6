/** The audit log of the app: who changed what, when, from where. The address has the filter and the page. */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { badge } from "../parts/badge.js";
import { input } from "../parts/field.js";
import { PAGE_ROWS, pages, table } from "../parts/table.js";
import { time } from "../parts/time.js";

export const styles = ["fleet", "lists"];

const POLL_SECONDS = 10;
/** Offered for the action; anything else can be typed. */
const KINDS = [
  "app", "attachment", "campaign", "channel", "device", "duty", "heartbeat", "invitation", "key", "policy", "push", "schedule", "segment",
  "session", "template", "token_request", "topic", "watch", "webhook",
];
const TEXTS = ["actor", "action", "object"];
const TIMES = ["from", "to"];
/** Kinds of objects -> the screens that show one. */
const SHOWN = { device: "devices", push: "pushes", campaign: "campaigns", schedule: "schedules", webhook: "webhooks" };

export async function open(view) {
  const { root, t, api, query } = view;
  const list = html`<div data-keep></div>`;
  const chain = html`<section class="card" data-keep></section>`;
  update(root, html`<header class="head"><h1>${t("audit.title")}</h1></header><p class="quiet">${t("audit.about")}</p>`, filter(view), evidence(view), list, chain);
  await view.every(POLL_SECONDS, async () => {
    const wanted = Object.fromEntries([...TEXTS, ...TIMES].map((name) => [name, query.get(name)]));
    const [page, ends] = await Promise.all([
      api.get("/v1/audit", { ...wanted, limit: PAGE_ROWS, cursor: query.get("cursor") }),
      api.get("/v1/audit/chain"),
    ]);
    const filtered = Object.values(wanted).some((value) => value);
    update(list, entries(view, page.items, filtered ? t("audit.none_match") : t("audit.none")), pages(view, page.next_cursor));
    update(chain, chainOf(view, ends));
  });
}

function filter({ t, query, go, href }) {
  const submit = (event) => {
    event.preventDefault();
    const { elements } = form;
    const wanted = Object.fromEntries(TEXTS.map((name) => [name, elements[name].value.trim()]));
    for (const name of TIMES) wanted[name] = elements[name].value && new Date(elements[name].value).toISOString();
    go("audit", wanted);
  };
  const text = (name) =>
    input({
      label: t(`audit.${name}`), name, value: query.get(name) ?? "", maxlength: 200, autocomplete: "off", autocapitalize: "none",
      placeholder: t(`audit.${name}_like`), list: name === "action" ? "audit-actions" : null,
    });
  const at = (name) => input({ label: t(`audit.${name}`), name, type: "datetime-local", step: 1, value: localOf(query.get(name)) });
  const form = html`
    <form class="filter" role="search" aria-label=${t("audit.filter")} onsubmit=${submit} data-keep>
      ${TEXTS.map(text)}
      ${TIMES.map(at)}
      <datalist id="audit-actions">${KINDS.map((kind) => html`<option value=${`${kind}.*`}></option>`)}</datalist>
      <div class="buttons">
        <button type="submit">${t("audit.apply")}</button>
        <a class="button plain" href=${href("audit")}>${t("audit.clear")}</a>
      </div>
    </form>`;
  return form;
}

/** What can be proved of a device, as a file: its deliveries, events and entries, with the proof of the chain. */
function evidence({ t, query }) {
  const device = /^device:(.+)$/.exec(query.get("object") ?? "")?.[1];
  if (device === undefined) return null;
  return html`<p><a class="button" id="evidence" href=${path`/v1/devices/${device}/evidence`} download=${`${device}.evidence.jsonl`}>${t("audit.evidence", { device })}</a></p>`;
}

function entries({ t, href }, rows, empty) {
  const narrow = (name, value) => html`<a class="code" href=${href("audit", { [name]: value })}>${value}</a>`;
  return table({
    many: true,
    caption: t("audit.title"), rows, key: ({ seq }) => String(seq), empty,
    columns: [
      { label: t("audit.seq"), numeric: true, cell: ({ seq }) => seq },
      { label: t("audit.at"), cell: ({ at }) => time(at, { exact: true }) },
      { label: t("audit.actor"), cell: ({ actor, address }) => html`
          ${actor === "" ? html`<span class="quiet">${t("audit.nobody")}</span>` : narrow("actor", actor)}
          <span class="quiet id code">${address}</span>` },
      { label: t("audit.action"), cell: ({ action }) => narrow("action", action) },
      { label: t("audit.object"), cell: ({ object }) => (object === "" ? "–" : html`${narrow("object", object)} ${shown({ t, href }, object)}`) },
      { label: t("audit.result"), cell: ({ result }) => badge(result) },
      { label: t("audit.details"), cell: ({ details, hash }) => html`
          <details><summary>${summaryOf(t, details)}</summary><pre class="answer" tabindex="0">${JSON.stringify(details, null, 2)}\n${hash}</pre></details>` },
    ],
  });
}

/** A link to the screen of an object, if there is one. */
function shown({ t, href }, object) {
  const colon = object.indexOf(":");
  const kind = object.slice(0, colon);
  if (colon < 0 || colon === object.length - 1 || !Object.hasOwn(SHOWN, kind)) return null;
  return html`<a href=${href(`${SHOWN[kind]}/${object.slice(colon + 1)}`)}>${t("audit.show")}</a>`;
}

function summaryOf(t, details) {
  const names = Object.keys(details);
  return names.length === 0 ? t("audit.no_details") : names.join(", ");
}

function chainOf({ t }, { head, base, oldest_at }) {
  return html`
    <h2>${t("audit.chain")}</h2>
    <p>${t("audit.chain_about")}</p>
    <dl>
      <dt>${t("audit.head")}</dt><dd class="code">${head.seq}:${head.hash}</dd>
      <dt>${t("audit.base")}</dt><dd class="code">${base.seq}:${base.hash}</dd>
      <dt>${t("audit.oldest")}</dt><dd>${oldest_at === null ? "–" : time(oldest_at, { exact: true })}</dd>
    </dl>`;
}

/** A time as a field of the browser's own zone has it; empty for none. */
function localOf(at) {
  const found = new Date(at ?? "");
  if (Number.isNaN(found.getTime())) return "";
  return new Date(found.getTime() - found.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}
