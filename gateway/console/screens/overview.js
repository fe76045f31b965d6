/**
 * The first screen: what goes on, now. Figures and curves of `GET /v1/stats`, which are in the server's memory; the last
 * pushes; and the way to a device or a push by its id, from which a timeline says why.
 */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { badge } from "../parts/badge.js";
import { bars, short } from "../parts/bars.js";
import { input } from "../parts/field.js";
import { problem } from "../parts/problem.js";
import { table } from "../parts/table.js";
import { ago, time } from "../parts/time.js";
import { language } from "../texts.js";

export const texts = "overview";
export const styles = "overview";

const STATS_SECONDS = 3;
/** The last pushes cost a read of the database: they are asked for when figures have moved, or after so many rounds. */
const PUSHES_ROUNDS = 10;
const MOVING = ["pushes", "sent", "delivered", "displayed", "opened", "acted", "expired", "cancelled", "superseded", "refused"];
const MINUTES = 60;
const LAST_PUSHES = 6;
const GIBIBYTE = 2 ** 30;
/** Days before a certificate's end from which it is worth a colour. */
const SOON_DAYS = 30;

export async function open(view) {
  const { t, root, api } = view;
  const now = html`<div class="now"></div>`;
  const pushes = html`<section class="card" aria-labelledby="last-pushes"></section>`;
  const health = html`<section class="card" aria-labelledby="health"></section>`;
  update(root, html`
    <h1>${t("overview.title")}</h1>
    ${findForm(view)}
    ${now}
    <div class="halves">${pushes}${health}</div>
  `);
  let seen = null;
  let rounds = 0;
  const look = async () => {
    const stats = await api.get("/v1/stats", { minutes: MINUTES });
    update(now, alerts(view, stats), figures(view, stats));
    update(health, healthOf(view, stats));
    const moved = JSON.stringify(MOVING.map((name) => stats.curves[name].slice(-2)));
    if (moved === seen && ++rounds < PUSHES_ROUNDS) return;
    const { items } = await api.get("/v1/pushes", { limit: LAST_PUSHES });
    update(pushes, lastPushes(view, items));
    seen = moved;
    rounds = 0;
  };
  await view.every(STATS_SECONDS, look, (error) => {
    if (error.code !== "unreachable") update(now, problem(error));
  });
}

// To a device or a push

function findForm(view) {
  const { t } = view;
  const submit = async (event) => {
    event.preventDefault();
    const wanted = form.elements.q.value.trim();
    if (wanted === "") return form.elements.q.focus();
    const found = /^[\w-]{1,64}$/.test(wanted) && ((await is(view, "devices", wanted)) || (await is(view, "pushes", wanted)));
    if (found) return view.go(found);
    return view.go("fleet", { q: wanted });
  };
  const form = html`
    <form class="find" role="search" onsubmit=${submit} data-keep>
      ${input({ label: t("overview.find"), name: "q", type: "search", autocomplete: "off", spellcheck: "false", maxlength: 100 })}
      <button type="submit" class="primary">${t("overview.find_button")}</button>
    </form>
  `;
  return form;
}

/** Its place if there is one of this id, else null. */
async function is(view, kind, id) {
  try {
    await view.api.get(kind === "devices" ? path`/v1/devices/${id}` : path`/v1/pushes/${id}`);
    return `${kind}/${id}`;
  } catch (error) {
    if (error.status === 410) return `${kind}/${id}`; // its page says since when it is gone
    if (error.status >= 400 && error.status < 500) return null;
    throw error;
  }
}

// What goes on

function figures({ t }, { curves, online, devices, waiting, waiting_counted_at: counted, since }) {
  const { from, step_seconds: step } = curves;
  const length = curves.pushes.length;
  const arrived = Array.from({ length }, (_, at) => curves.delivered[at] + curves.sent[at]);
  const figure = (name, value, values, below) => html`
    <section class="card figure" data-figure=${name} aria-labelledby=${`figure-${name}`}>
      <h2 id=${`figure-${name}`}>${t(`overview.${name}`)}</h2>
      <p class="value">${value}</p>
      ${bars({ label: t(`overview.${name}`), values, from, step, length: MINUTES })}
      <p class="quiet">${below}</p>
    </section>
  `;
  const minute = (values) => html`<span>${short(values.at(-1) ?? 0)}</span> <small>${t("overview.this_minute")}</small>`;
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const held = Math.min(length, Math.max(1, Math.ceil((Date.parse(from) + length * step * 1000 - Date.parse(since)) / 60_000)));
  return html`
    <div class="cards">
      ${figure("online", html`<span>${t.number(online)}</span> <small>${t("overview.of_devices", { n: devices })}</small>`, curves.online, t("overview.connects", { n: sum(curves.connects), minutes: held }))}
      ${figure("pushes", minute(curves.pushes), curves.pushes, t("overview.sum_pushes", { n: sum(curves.pushes), minutes: held }))}
      ${figure("deliveries", minute(arrived), arrived, t("overview.sum_deliveries", { n: sum(arrived), minutes: held }))}
      ${figure("waiting", t.number(waiting), curves.waiting, counted ? t("overview.counted", { ago: ago(counted) }) : t("overview.not_counted"))}
    </div>
  `;
}

/** What somebody should do something about; the server's own first. */
function alerts({ t, href }, { server, webhooks, heartbeats_silent: silent, senders_silent: senders }) {
  const rows = (server?.alerts ?? []).map(({ name, severity, summary }) => html`
    <li data-alert=${name}>${badge(severity)} <span>${summary}</span></li>`);
  for (const { id, url, since, last_error: error } of webhooks.failing) {
    rows.push(html`
      <li data-alert="webhook">${badge("failing")}
        <a href=${href(`webhooks/${id}`)}>${t("overview.webhook_failing", { url })}</a>
        <span class="quiet">${ago(since)}${error ? `: ${error}` : ""}</span></li>`);
  }
  if (silent > 0) rows.push(html`<li data-alert="heartbeats">${badge("failing")} ${t("overview.heartbeats_silent", { n: silent })}</li>`);
  if (senders > 0) rows.push(html`<li data-alert="senders">${badge("failing")} ${t("overview.senders_silent", { n: senders })}</li>`);
  return rows.length > 0 ? html`<ul class="alerts" aria-label=${t("overview.alerts")}>${rows}</ul>` : null;
}

// The last pushes

function lastPushes(view, items) {
  const { t, href, session } = view;
  return [
    html`<div class="row spread"><h2 id="last-pushes">${t("overview.last_pushes")}</h2>
      ${session.may("send") && html`<a class="button" href=${href("compose")}>${t("common.nav_compose")}</a>`}</div>`,
    table({
      caption: t("overview.last_pushes"),
      empty: t("overview.no_pushes"),
      key: (push) => push.push_id,
      rows: items,
      columns: [
        { label: t("overview.push"), cell: (push) => html`<a href=${href(`pushes/${push.push_id}`)}>${titleOf(view, push)}</a>` },
        { label: t("overview.when"), cell: (push) => time(push.sent_at ?? push.created_at) },
        { label: t("overview.reached"), cell: (push) => reached(view, push) },
      ],
    }),
  ];
}

function titleOf({ t }, push) {
  return push.notification?.title || push.notification?.body || t("overview.untitled", { kind: push.kind });
}

function reached({ t }, { counts, reached }) {
  const part = counts.targeted === 0 ? 0 : reached.delivered / counts.targeted;
  const words = t("overview.reached_of", { n: reached.delivered, targeted: counts.targeted });
  return html`
    <span>${words}</span>
    <svg class="reached" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true"><rect width=${part * 100} height="1" /></svg>
  `;
}

// The server

function healthOf({ t, href }, { webhooks, server }) {
  const { failing, enabled, disabled } = webhooks;
  return [
    html`<h2 id="health">${t("overview.health")}</h2>`,
    html`
      <dl>
        <dt>${t("common.nav_webhooks")}</dt>
        <dd><a href=${href("webhooks")}>${t("overview.webhooks_enabled", { n: enabled })}</a>
          ${failing.length > 0 ? badge("failing") : null}
          ${disabled > 0 ? html`<span class="quiet">${t("overview.webhooks_disabled", { n: disabled })}</span>` : null}</dd>
        ${server && [
          html`<dt>${t("overview.accepts")}</dt><dd>${badge(server.ready ? "ok" : "critical")}</dd>`,
          html`<dt>${t("overview.disk")}</dt><dd>${t("overview.disk_left", { left: size(server.disk_left_bytes), used: size(server.database_bytes) })}</dd>`,
          server.certificates.map(({ name, ends_at: end, days_left: days }) => html`
            <dt>${t(`overview.certificate_${name === "ca" ? "ca" : "server"}`)}</dt>
            <dd>${time(end)} ${days < SOON_DAYS ? badge(days < 0 ? "expired" : "warning") : null}</dd>`),
          html`<dt>${t("overview.running")}</dt><dd>${time(server.started_at)} <span class="quiet">· ${t("overview.version", { version: server.version })}</span></dd>`,
        ]}
      </dl>
    `,
    server ? null : html`<p class="quiet">${t("overview.server_hidden")}</p>`,
  ];
}

function size(bytes) {
  const [unit, of] = bytes < GIBIBYTE ? ["megabyte", 2 ** 20] : ["gigabyte", GIBIBYTE];
  return new Intl.NumberFormat(language, { style: "unit", unit, maximumFractionDigits: 1 }).format(bytes / of);
}
