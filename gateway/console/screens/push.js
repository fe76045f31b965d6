/**
 * One push: how far it has come, who did not get it and why, what it says; taking it back, and sending it again.
 *
 * The funnel is asked for while it is seen, often while something is under way. A group of deliveries that is open is in
 * the address (`state`, `reason`, `cursor`), so that it can be passed on.
 */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { unhurried } from "../live.js";
import { badge } from "../parts/badge.js";
import { confirm } from "../parts/dialog.js";
import { explainDelivery } from "../parts/explanation.js";
import { facts } from "../parts/facts.js";
import { ENDS, OPEN_STATES, countIn, funnel, notReached, share, underWay } from "../parts/funnel.js";
import { drawNotification } from "../parts/notification.js";
import { problem } from "../parts/problem.js";
import { table } from "../parts/table.js";
import { pushTitle, targetLink } from "../parts/target.js";
import { duration, time } from "../parts/time.js";
import { toast, toastError } from "../parts/toast.js";

export const texts = ["push", "pushes", "targets", "notification", "explanations"];
export const styles = ["pushes"];

const LOOK_SECONDS = 2;
/** A push that rests: nothing is under way, and nothing has changed for so long. Receipts may come for days. */
const RESTS_AFTER_MS = 60_000;
/** Of one that rests, every so manieth look is one. */
const RESTING_LOOKS = 5;
const LISTED_DEVICES = 20;
const LISTED_TEXTS = 5;
const NAMED_DEVICES = 5;
/** Ends of which `missed(ID)` is true (docs/segments.md): nobody has decided against these devices. */
const MISSED = ["expired", "cancelled", "overflowed"];

export async function open(view) {
  const id = view.path.id;
  const shown = { push: null, groups: [], devices: null, problem: null, said: null, looks: 0, changedAt: 0 };
  const places = frame(view);

  async function look() {
    const rests = shown.push !== null && underWay(shown.push) === 0 && Date.now() - shown.changedAt > RESTS_AFTER_MS;
    if (rests && shown.looks++ % RESTING_LOOKS !== 0) return;
    const push = await view.api.get(path`/v1/pushes/${id}`);
    if (JSON.stringify(push.counts) !== JSON.stringify(shown.push?.counts)) shown.changedAt = Date.now();
    shown.push = push;
    await lookAtGroups();
    draw();
  }

  async function lookAtGroups() {
    try {
      const { items } = await view.api.get(path`/v1/pushes/${id}/reasons`);
      shown.groups = inOrder(items);
      shown.devices = await devicesOf(view, id);
      shown.problem = null;
    } catch (error) {
      if (error.name === "AbortError" || error.code === "unreachable") throw error;
      Object.assign(shown, { groups: [], devices: null, problem: error });
    }
  }

  async function choose(group, cursor = null) {
    const isOpen = cursor === null && group !== null && isChosen(view.query, group);
    view.replaceQuery(isOpen || group === null ? {} : queryOf(group, cursor));
    try {
      shown.devices = await devicesOf(view, id);
      draw();
    } catch (error) {
      toastError(error);
    }
  }

  function draw() {
    const { push } = shown;
    update(places.title, pushTitle(shown.said ?? push));
    update(places.acts, acts(view, push, () => void look().catch(() => {})));
    update(places.funnel, funnel(push), forecastWords(view, push));
    update(places.groups, groupsOf(view, shown, choose));
    update(places.facts, facts(rowsOf(view, push)));
  }

  await view.every(LOOK_SECONDS, unhurried(look));
  // Devices that got different texts: the first one stands for them in the title.
  shown.said = await drawTexts(view, shown.push, places.content);
  draw();
}

function frame(view) {
  const { t } = view;
  update(view.root, html`
    <p><a href=${view.href("pushes")}>${t("push.all")}</a></p>
    <div class="row spread"><h1 dir="auto"></h1><div class="buttons acts"></div></div>
    <div class="push-page">
      <div>
        <section class="card" aria-labelledby="funnel-title"><h2 id="funnel-title">${t("push.funnel")}</h2><div class="funnel-place"></div></section>
        <section class="card" aria-labelledby="groups-title"><h2 id="groups-title">${t("push.by_reason")}</h2><div class="groups"></div></section>
      </div>
      <div>
        <section class="card" aria-labelledby="content-title"><h2 id="content-title">${t("push.content")}</h2><div class="content" data-keep></div></section>
        <section class="card" aria-labelledby="facts-title"><h2 id="facts-title">${t("push.facts")}</h2><dl></dl></section>
      </div>
    </div>
  `);
  const find = (selector) => view.root.querySelector(selector);
  return {
    title: find("h1"), acts: find(".acts"), funnel: find(".funnel-place"), groups: find(".groups"), content: find(".content"),
    facts: find("dl"),
  };
}

// Who did not get it, and why

/** The ends first, the largest of them on top; then what is under way, then what has arrived. */
function inOrder(items) {
  const rank = ({ state }) => (ENDS.includes(state) ? 0 : OPEN_STATES.includes(state) ? 1 : 2);
  return items.filter(({ count }) => count > 0).sort((one, other) => rank(one) - rank(other) || (rank(one) === 0 ? other.count - one.count : 0));
}

function queryOf({ state, reason }, cursor) {
  const query = new URLSearchParams({ state });
  query.set("reason", reason ?? "");
  if (cursor) query.set("cursor", cursor);
  return query;
}

function isChosen(query, { state, reason }) {
  return query.get("state") === state && (query.get("reason") ?? "") === (reason ?? "");
}

function devicesOf(view, id) {
  const state = view.query.get("state");
  if (state === null) return null;
  const query = new URLSearchParams({ state, limit: LISTED_DEVICES });
  if (view.query.has("reason")) query.set("reason", view.query.get("reason"));
  if (view.query.get("cursor")) query.set("cursor", view.query.get("cursor"));
  return view.api.get(path`/v1/pushes/${id}/deliveries`, query);
}

function groupsOf(view, { push, groups, devices, problem: refusal }, choose) {
  const { t } = view;
  if (refusal !== null) return refusal.code === "gone" ? html`<p class="quiet">${t("push.gone")}</p>` : problem(refusal);
  if (groups.length === 0) return html`<p class="empty">${t("pushes.nobody")}</p>`;
  const lost = notReached(push);
  return html`
    <p>${lost > 0 ? t("push.did_not_get", { n: lost }) : underWay(push) > 0 ? t("push.none_lost_yet") : t("push.all_got_it")}</p>
    <ul class="reasons">${groups.map((group) => {
      const chosen = isChosen(view.query, group);
      const { why, todo } = explainDelivery(group);
      return html`
        <li data-key=${`${group.state} ${group.reason ?? ""}`} data-state=${group.state} data-reason=${group.reason ?? ""}>
          <button type="button" class="plain reason-toggle" aria-expanded=${String(chosen)} onclick=${() => choose(group)}>
            ${badge(group.state, group.reason)}
            <span class="number">${t("push.devices", { n: group.count })}</span>
          </button>
          <p class="quiet">${why}${ENDS.includes(group.state) ? ` ${todo}` : ""}</p>
          ${chosen && devices !== null && deviceTable(view, group, devices, choose)}
        </li>`;
    })}</ul>
  `;
}

function deviceTable(view, group, { items, next_cursor: next }, choose) {
  const { t } = view;
  const columns = [
    { label: t("push.device"), cell: (row) => row.device_id === null ? t("push.removed_device") : html`<a href=${view.href(`devices/${row.device_id}`, { push: view.path.id })}>${row.device_id}</a>` },
    { label: t("push.when"), cell: (row) => time(latest(row)) },
  ];
  if (items.some((row) => row.attempts > 0)) columns.push({ label: t("push.attempts"), numeric: true, cell: (row) => t.number(row.attempts) });
  if (items.some((row) => row.not_before)) columns.push({ label: t("push.not_before"), cell: (row) => time(row.not_before) });
  if (items.some((row) => row.action)) columns.push({ label: t("push.action"), cell: (row) => html`<span dir="auto">${row.action}</span>` });
  if (items.some((row) => row.result !== null)) columns.push({ label: t("push.result"), cell: (row) => html`<code>${row.result === null ? "" : JSON.stringify(row.result)}</code>` });
  return html`
    ${table({ columns, rows: items, key: (row) => row.device_id ?? `removed ${row.ended_at}`, caption: t("push.devices_of_group"), empty: t("push.moved_on") })}
    <div class="buttons">
      ${view.query.get("cursor") && html`<button type="button" onclick=${() => choose(group, "")}>${t("common.first_page")}</button>`}
      ${next && html`<button type="button" onclick=${() => choose(group, next)}>${t("common.next_page")}</button>`}
    </div>
  `;
}

function latest(row) {
  return row.ended_at ?? row.acted_at ?? row.opened_at ?? row.dismissed_at ?? row.displayed_at ?? row.delivered_at;
}

// What can be done about it

function acts(view, push, changed) {
  if (!view.session.may("send")) return null;
  const { t } = view;
  const missed = countIn(push.counts, MISSED);
  return [
    push.recalled_at === null && underWay(push) + push.reached.delivered > 0
      ? html`<button type="button" class="danger" data-key="recall" onclick=${() => void recall(view, push, changed)}>${t("push.recall")}</button>`
      : null,
    missed > 0
      ? html`<a class="button" data-key="again" href=${view.href("compose", { again: push.push_id })}>${t("push.again", { n: missed })}</a>`
      : null,
  ];
}

async function recall(view, { push_id: id }, changed) {
  const { t } = view;
  try {
    // As it is now, and not as it was drawn.
    const push = await view.api.get(path`/v1/pushes/${id}`);
    const waiting = await view.api.get(path`/v1/pushes/${id}/deliveries`, { state: "waiting", limit: NAMED_DEVICES });
    const open = underWay(push);
    const sentence = `${t("push.recall_waiting", { n: open })} ${t("push.recall_arrived", { n: push.reached.delivered })}`;
    const answer = await confirm({
      title: t("push.recall_title"),
      sentence,
      names: waiting.items.map((row) => row.device_id ?? t("push.removed_device")),
      count: open,
      verb: t("push.recall"),
      act: () => view.api.delete(path`/v1/pushes/${id}`),
      signal: view.signal,
    });
    if (answer === null) return;
    toast(t("push.recalled", { n: answer.cancelled, in_flight: answer.in_flight, too_late: answer.too_late }));
    changed();
  } catch (error) {
    toastError(error);
  }
}

// What it is

function forecastWords(view, { forecast, targeted }) {
  if (!forecast) return null;
  const expected = view.t("push.forecast", { n: forecast.likely, share: share(forecast.likely, targeted) });
  return html`<p class="quiet">${expected}</p>`;
}

/** What is known of it, see parts/facts.js. */
function rowsOf(view, push) {
  const { t } = view;
  const lifetime = push.ttl === 0 ? t("push.now_or_never") : duration(push.ttl);
  return [
    [t("push.target"), targetLink(push.target, view.href)],
    [t("push.kind"), t(`targets.kind_${push.kind}`)],
    [t("push.sent_at"), time(push.sent_at, { exact: true })],
    [t("push.lifetime"), push.ttl === 0 ? lifetime : html`<span>${lifetime}, ${t("push.until")} ${time(push.expires_at, { exact: true })}</span>`],
    push.recalled_at && [t("push.recalled_at"), time(push.recalled_at, { exact: true })],
    [t("push.priority"), t(`push.priority_${push.priority}`)],
    push.channel && [t("push.channel"), push.channel],
    push.collapse_key && [t("push.collapse_key"), html`<span dir="auto">${push.collapse_key}</span>`],
    push.template && [t("push.template"), `${push.template.name} @${push.template.version}`],
    push.schedule_id && [t("push.schedule"), html`<a href=${view.href(`schedules/${push.schedule_id}`)}>${push.schedule_id}</a>`],
    push.campaign_id && [t("push.campaign"), html`<a href=${view.href(`campaigns/${push.campaign_id}`)}>${push.campaign_id}</a>`],
    push.escalation_of && [t("push.escalation_of"), html`<a href=${view.href(`pushes/${push.escalation_of}`)}>${push.escalation_of}</a>`],
    [t("push.id"), html`<code>${push.push_id}</code>`],
  ];
}

/** What its devices were told: one text for all, or some of those that differ. A promise of a push with the first one. */
async function drawTexts(view, push, place) {
  const { t } = view;
  if (push.texts === undefined) {
    update(place, drawNotification(push, view.api));
    return push;
  }
  try {
    const { items } = await view.api.get(path`/v1/pushes/${push.push_id}/texts`, { limit: LISTED_TEXTS });
    update(place, html`<p>${t("push.texts", { n: push.texts })}</p>`, items.map((text, at) => html`
      <details class="more" open=${at === 0}>
        <summary dir="auto">${t("push.text_of", { n: text.devices })}: ${pushTitle({ ...push, ...text })}</summary>
        ${drawNotification({ ...push, ...text }, view.api)}
      </details>`));
    return { ...push, ...items[0] };
  } catch (error) {
    if (error.name !== "AbortError") update(place, problem(error));
    return push;
  }
}
