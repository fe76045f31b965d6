/** A schedule: when it is sent next, what became of each run, and the hand on it: pause, resume, run now, cancel. */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { badge, word } from "../parts/badge.js";
import { confirm } from "../parts/dialog.js";
import { factsCard } from "../parts/facts.js";
import { checkbox } from "../parts/field.js";
import { ARRIVED, countIn, underWay } from "../parts/funnel.js";
import { nameOf, timingText } from "../parts/plan.js";
import { pages, table } from "../parts/table.js";
import { targetLink } from "../parts/target.js";
import { time } from "../parts/time.js";
import { toast, toastError } from "../parts/toast.js";

export const texts = ["schedules", "plan", "targets"];
export const styles = ["fleet", "lists"];

const POLL_SECONDS = 5;
const RUNS = 20;
/** Act -> the states that it is for. */
const ACTS = { pause: ["active"], resume: ["paused"], run: ["active"], cancel: ["active", "paused"] };
/** What makes a push a schedule: left out where its devices are counted. */
const DATES = ["send_at", "send_at_local", "repeat", "window", "spread"];
const LISTED_PUSHES = 5;

export async function open(view) {
  await new Schedule(view).open();
}

class Schedule {
  #view;
  #found = null;
  #runs = null;

  constructor(view) {
    this.#view = view;
  }

  async open() {
    await this.#view.every(POLL_SECONDS, () => this.#load());
  }

  async #load() {
    const { api, path: { id }, query } = this.#view;
    [this.#found, this.#runs] = await Promise.all([
      api.get(path`/v1/schedules/${id}`),
      api.get(path`/v1/schedules/${id}/runs`, { limit: RUNS, cursor: query.get("cursor") }),
    ]);
    this.#draw();
  }

  #draw() {
    const { root, t } = this.#view;
    const found = this.#found;
    update(
      root,
      html`
        <header class="head">
          <h1>${nameOf(found)}</h1>
          <p role="status">${badge(found.state)}</p>
          ${this.#acts()}
        </header>`,
      found.failures > 0 && html`<p class="note">${t("schedules.failures", { n: found.failures })}</p>`,
      html`<div class="facts">${this.#facts()}${this.#next()}</div>`,
      html`<section><h2>${t("schedules.runs")}</h2>${this.#table()}${pages(this.#view, this.#runs.next_cursor)}</section>`,
      html`<details class="card"><summary>${t("schedules.push")}</summary><pre class="answer" tabindex="0">${JSON.stringify(found.push, null, 2)}</pre></details>`,
    );
  }

  #facts() {
    const { t, href } = this.#view;
    const { push, missed, created_at, updated_at, ended_at } = this.#found;
    const rows = [
      ["when", timingText(push)],
      ["to", targetLink(push.target, href)],
      ["title_of", push.notification?.title ?? null],
      ["missed", t(`schedules.missed_${missed}`)],
      ["made", time(created_at, { exact: true })],
      ["changed", time(updated_at, { exact: true })],
      ["ended", ended_at && time(ended_at, { exact: true })],
    ];
    return factsCard(t("schedules.facts"), rows.map(([name, value]) => [t(`schedules.${name}`), value]));
  }

  #next() {
    const { t } = this.#view;
    const { next, state } = this.#found;
    return html`
      <section class="card">
        <h2>${t("schedules.next_dates")}</h2>
        ${state === "paused" && html`<p class="quiet">${t("schedules.paused")}</p>`}
        ${next.length === 0
          ? html`<p class="quiet">${t("schedules.no_dates")}</p>`
          : html`<ol class="dates">${next.map((at) => html`<li>${time(at, { exact: true })}</li>`)}</ol>`}
      </section>`;
  }

  #table() {
    const { t, href } = this.#view;
    return table({
      caption: t("schedules.runs"), rows: this.#runs.items, key: ({ run }) => String(run), empty: t("schedules.no_runs"),
      columns: [
        { label: t("schedules.due"), cell: ({ due, asked }) => html`${time(due, { exact: true })}${asked && html` <span class="quiet">${t("schedules.asked")}</span>`}` },
        { label: t("schedules.state"), cell: ({ state, reason }) => badge(state, reason) },
        { label: t("schedules.devices"), numeric: true, cell: ({ targeted }) => t.number(targeted) },
        { label: t("schedules.left_out"), numeric: true, cell: ({ left_out }) => t.number(left_out) },
        { label: t("states.waiting"), numeric: true, cell: ({ counts }) => (counts === null ? "–" : t.number(underWay({ counts }))) },
        { label: t("schedules.arrived"), numeric: true, cell: ({ counts }) => (counts === null ? "–" : t.number(countIn(counts, ARRIVED))) },
        { label: t("schedules.problem"), cell: ({ problem }) => problem ?? "–" },
        { label: t("schedules.pushes"), cell: ({ push_ids }) => (push_ids.length === 0 ? "–" : html`
            <ul class="plain-list">${push_ids.slice(0, LISTED_PUSHES).map((id, at) => html`<li><a href=${href(`pushes/${id}`)}>${t("schedules.part", { n: at + 1 })}</a></li>`)}${
              push_ids.length > LISTED_PUSHES && html`<li class="quiet">${t("common.and_more", { n: push_ids.length - LISTED_PUSHES })}</li>`}</ul>`) },
      ],
    });
  }

  // The hand on it

  #acts() {
    const { t, session } = this.#view;
    const { state } = this.#found;
    if (!session.may("send")) return null;
    return html`<div class="actions">${Object.keys(ACTS).filter((act) => ACTS[act].includes(state)).map((act) => html`
      <button type="button" id=${act} class=${act === "cancel" ? "danger" : act === "resume" ? "primary" : null} onclick=${() => this.#ask(act)}>${t(`schedules.${act}`)}</button>`)}</div>`;
  }

  /** Ask with the numbers of now, and do it. */
  async #ask(act) {
    const { t, api, signal } = this.#view;
    let targeted = 0;
    try {
      await this.#load();
      if (!ACTS[act].includes(this.#found.state)) {
        toast(this.#conflict(), { failed: true });
        return;
      }
      if (act === "run") targeted = (await api.post("/v1/pushes/forecast", withoutDates(this.#found.push))).targeted;
    } catch (error) {
      toastError(error);
      return;
    }
    const open = this.#runs.items.reduce((sum, { counts }) => sum + (counts === null ? 0 : underWay({ counts })), 0);
    const n = act === "run" ? targeted : this.#found.next.length;
    const fields = act !== "cancel" || open === 0 ? null : checkbox({ label: t("schedules.recall", { n: open }), name: "recall", hint: t("schedules.recall_hint") });
    const done = await confirm({
      title: t(`schedules.${act}_title`),
      sentence: t(`schedules.${act}_sentence`, { n }),
      names: [nameOf(this.#found)],
      verb: t(`schedules.${act}_verb`, { n }),
      danger: act === "cancel",
      typed: act === "run" && targeted > 1 ? String(targeted) : null,
      fields,
      signal,
      act: (elements) => this.#do(act, elements.recall?.checked ?? false),
    });
    if (done !== null) toast(t(`schedules.${act}_done`, { name: nameOf(this.#found) }));
  }

  async #do(act, recall) {
    const { api, path: { id } } = this.#view;
    const address = path`/v1/schedules/${id}`;
    try {
      if (act === "cancel") await api.delete(address, { recall: recall ? "true" : null });
      else await api.post(`${address}/${act}`);
      await this.#load();
    } catch (error) {
      if (error.code !== "schedule_ended") throw error;
      await this.#load();
      throw new Error(this.#conflict());
    }
  }

  #conflict() {
    return this.#view.t("schedules.conflict", { state: word(this.#found.state) });
  }
}

function withoutDates(push) {
  return Object.fromEntries(Object.entries(push).filter(([name]) => !DATES.includes(name)));
}
