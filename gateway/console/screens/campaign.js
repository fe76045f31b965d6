/**
 * A campaign: how far it is, group by group, what it waits for, and the hand on it: approve, pause, resume, abort.
 *
 * Before an act its number is read anew. The server carries an act out only from the state that it is for, so somebody
 * else's act in between is no accident: what the campaign is now is said, and shown.
 */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { badge, word } from "../parts/badge.js";
import { confirm } from "../parts/dialog.js";
import { factsCard } from "../parts/facts.js";
import { checkbox, input } from "../parts/field.js";
import { underWay } from "../parts/funnel.js";
import { table } from "../parts/table.js";
import { time } from "../parts/time.js";
import { toast, toastError } from "../parts/toast.js";

export const texts = ["campaigns"];
export const styles = ["fleet", "lists"];

const POLL_SECONDS = 3;
const ENDED = ["completed", "aborted"];
/** Act -> the states that the server permits it in. */
const ACTS = { approve: ["awaiting_approval"], pause: ["running"], resume: ["paused"] };
const REASON_CHARACTERS = 256;
/** Listed beneath a group; a campaign has ten variants at most. */
const LISTED_PARTS = 10;
const COUNTED = ["waiting", "sent", "delivered", "displayed", "opened", "acted", "dismissed", "expired", "cancelled", "suppressed", "superseded", "overflowed", "refused", "revoked"];

export async function open(view) {
  await new Campaign(view).open();
}

class Campaign {
  #view;
  #found = null;

  constructor(view) {
    this.#view = view;
  }

  async open() {
    await this.#view.every(POLL_SECONDS, () => this.#load());
  }

  async #load() {
    this.#found = await this.#view.api.get(path`/v1/campaigns/${this.#view.path.id}`);
    this.#draw();
  }

  #draw() {
    const { root, t } = this.#view;
    const found = this.#found;
    update(
      root,
      html`
        <header class="head">
          <h1>${found.name}</h1>
          <p role="status">${badge(found.state)}${found.phase && html` <span class="quiet">${word(found.phase)}</span>`}</p>
          ${this.#acts()}
        </header>`,
      found.reason && html`<p class="note" data-state=${found.state}>${found.reason}</p>`,
      found.state === "awaiting_approval" && html`<p class="note">${t("campaigns.awaits", { n: found.targeted, key: found.created_by })}</p>`,
      this.#progress(),
      html`<div class="facts">${this.#facts()}${this.#counts()}</div>`,
      this.#groups(),
      this.#variants(),
      html`<details class="card"><summary>${t("campaigns.plan")}</summary><pre class="answer" tabindex="0">${JSON.stringify(found.plan, null, 2)}</pre></details>`,
    );
  }

  // What is known

  #progress() {
    const { t } = this.#view;
    const { targeted, holdout, not_planned, group_results: groups } = this.#found;
    if (groups.length === 0) return null;
    const all = Math.max(0, targeted - (holdout ?? 0) - (not_planned ?? 0));
    const reached = groups.reduce((sum, { parts }) => sum + parts.reduce((part, { targeted: n }) => part + n, 0), 0);
    return html`
      <div class="card">
        <p class="row spread"><span id="progress-label">${t("campaigns.progress", { n: reached, all })}</span></p>
        <progress max=${Math.max(1, all)} value=${Math.min(reached, Math.max(1, all))} aria-labelledby="progress-label"></progress>
      </div>`;
  }

  #facts() {
    const { t } = this.#view;
    const found = this.#found;
    const rows = [
      ["targeted", t.number(found.targeted)],
      ["blast_radius", t.number(found.blast_radius)],
      ["holdout", !found.holdout ? null : t.number(found.holdout)],
      ["not_planned", found.not_planned ? t.number(found.not_planned) : null],
      ["made", html`${time(found.created_at, { exact: true })} ${t("campaigns.by_key")} <span class="code">${found.created_by}</span>`],
      ["approved_by", found.approved_by && html`<span class="code">${found.approved_by}</span>`],
      ["starts", time(found.start_at, { exact: true })],
      ["started", found.started_at && time(found.started_at, { exact: true })],
      ["paused", found.paused_at && time(found.paused_at, { exact: true })],
      ["ended", found.ended_at && time(found.ended_at, { exact: true })],
    ];
    return factsCard(t("campaigns.facts"), rows.map(([name, value]) => [t(`campaigns.${name}`), value]));
  }

  #counts() {
    const { t } = this.#view;
    const { counts, failed } = this.#found;
    const some = COUNTED.filter((state) => counts[state] > 0);
    return html`
      <section class="card">
        <h2>${t("campaigns.counts")}</h2>
        ${some.length === 0
          ? html`<p class="quiet">${t("campaigns.nothing_sent")}</p>`
          : html`<dl class="counts">${some.map((state) => html`<dt>${badge(state)}</dt><dd class="number">${t.number(counts[state])}</dd>`)}</dl>`}
        ${failed > 0 && html`<p class="error">${t("campaigns.failed", { n: failed })}</p>`}
      </section>`;
  }

  #groups() {
    const { t } = this.#view;
    const { group_results: groups } = this.#found;
    if (groups.length === 0) return html`<p class="empty">${t("campaigns.not_started")}</p>`;
    return html`
      <section>
        <h2>${t("campaigns.groups")}</h2>
        ${table({
          caption: t("campaigns.groups"), rows: groups, key: ({ group }) => String(group), empty: "", many: true,
          columns: [
            { label: t("campaigns.group"), cell: ({ group, name }) => html`<b>${group}</b> ${name}` },
            { label: t("campaigns.state"), cell: ({ state }) => badge(state) },
            { label: t("campaigns.size"), numeric: true, cell: ({ size }) => t.number(size) },
            { label: t("states.delivered"), numeric: true, cell: ({ reached }) => t.number(reached.delivered) },
            { label: t("states.opened"), numeric: true, cell: ({ reached }) => t.number(reached.opened) },
            { label: t("states.acted"), numeric: true, cell: ({ reached }) => t.number(reached.acted) },
            { label: t("campaigns.missed"), numeric: true, cell: ({ counts }) => t.number(counts.refused + counts.expired + counts.overflowed) },
            { label: t("campaigns.conditions"), cell: ({ conditions }) => this.#conditions(conditions) },
            { label: t("campaigns.parts"), cell: ({ parts }) => this.#parts(parts) },
          ],
        })}
      </section>`;
  }

  #conditions(conditions) {
    const { t } = this.#view;
    if (conditions.length === 0) return "–";
    const state = (holds) => (holds === null ? "unknown" : String(holds));
    return html`<ul class="conditions">${conditions.map(({ kind, condition, holds }) => html`
      <li data-kind=${kind} data-holds=${state(holds)}>
        <span class="quiet">${t(`campaigns.${kind}`)}</span> <span class="code">${condition}</span> <b>${t(`campaigns.holds_${state(holds)}`)}</b>
      </li>`)}</ul>`;
  }

  #parts(parts) {
    const { t, href } = this.#view;
    if (parts.length === 0) return "–";
    return html`<ul class="plain-list">${parts.slice(0, LISTED_PARTS).map(({ push_id, variant, targeted, recalled }) => html`
      <li><a href=${href(`pushes/${push_id}`)}>${t("campaigns.part", { n: targeted, variant: variant ?? "" })}</a>${recalled && html` <span class="quiet">${t("campaigns.recalled")}</span>`}</li>`)}</ul>`;
  }

  #variants() {
    const { t } = this.#view;
    const { variants, result } = this.#found;
    if (variants === null) return null;
    const share = (rate) => (rate === null ? "–" : t("campaigns.percent", { rate: Math.round(rate * 1000) / 10 }));
    return html`
      <section>
        <h2>${t("campaigns.variants")}</h2>
        <p class="verdict" data-verdict=${result.verdict}>${t(`campaigns.verdict_${result.verdict}`, { winner: result.winner, goal: word(result.goal) })}${result.preliminary && html` <span class="quiet">${t("campaigns.preliminary")}</span>`}</p>
        ${table({
          caption: t("campaigns.variants"), rows: variants, key: ({ id }) => id, empty: "",
          columns: [
            { label: t("campaigns.variant"), cell: ({ id }) => id },
            { label: t("campaigns.weight"), numeric: true, cell: ({ weight }) => weight },
            { label: t("campaigns.size"), numeric: true, cell: ({ size }) => size ?? "–" },
            { label: t("campaigns.goal"), numeric: true, cell: ({ goal }) => t("campaigns.goal_count", { count: goal.count, of: goal.of }) },
            { label: t("campaigns.rate"), numeric: true, cell: ({ goal }) => share(goal.rate) },
            { label: t("campaigns.interval"), numeric: true, cell: ({ goal }) => (goal.rate === null ? "–" : goal.interval.map(share).join(" – ")) },
          ],
        })}
      </section>`;
  }

  // The hand on it

  #acts() {
    const { t, session } = this.#view;
    const { state } = this.#found;
    if (!session.may("send") || ENDED.includes(state)) return null;
    const able = Object.keys(ACTS).filter((act) => ACTS[act].includes(state));
    return html`
      <div class="actions">
        ${able.map((act) => html`<button type="button" id=${act} class=${act === "pause" ? null : "primary"} onclick=${() => this.#ask(act)}>${t(`campaigns.${act}`)}</button>`)}
        <button type="button" id="abort" class="danger" onclick=${() => this.#ask("abort")}>${t("campaigns.abort")}</button>
      </div>`;
  }

  /** Ask with the numbers of now, and do it. */
  async #ask(act) {
    const { t, signal } = this.#view;
    try {
      await this.#load();
    } catch (error) {
      toastError(error);
      return;
    }
    if (!this.#mayNow(act)) {
      toast(this.#conflict(), { failed: true });
      return;
    }
    const found = this.#found;
    const left = found.group_results.length === 0 ? found.targeted : this.#unsent();
    const done = await confirm({
      title: t(`campaigns.${act}_title`),
      sentence: this.#sentence(act, left),
      names: [found.name],
      fields: this.#fields(act),
      verb: t(`campaigns.${act}_verb`, { n: act === "approve" ? found.targeted : left }),
      danger: act === "abort",
      typed: act === "abort" && found.targeted > 1 ? String(found.targeted) : null,
      signal,
      act: (elements) => this.#do(act, elements),
    });
    if (done !== null) toast(t(`campaigns.${act}_done`, { name: found.name }));
  }

  /** What an act does, with its numbers; `left`: devices that nothing was sent to. */
  #sentence(act, left) {
    const { t } = this.#view;
    const { targeted, blast_radius } = this.#found;
    if (act !== "abort") return t(`campaigns.${act}_sentence`, { n: act === "approve" ? targeted : left });
    return [
      t("campaigns.abort_sentence", { n: underWay(this.#found) }),
      t("campaigns.abort_rest", { n: left }),
      t("campaigns.abort_stay", { n: blast_radius }),
    ].join(" ");
  }

  #fields(act) {
    const { t } = this.#view;
    if (act === "pause" || act === "abort") {
      return input({ label: t("campaigns.reason"), name: "reason", maxlength: REASON_CHARACTERS, autocomplete: "off" });
    }
    if (act !== "resume" || (this.#found.group ?? 0) >= (this.#found.groups ?? 0)) return null;
    return checkbox({ label: t("campaigns.next_group"), name: "next_group", hint: t("campaigns.next_group_hint") });
  }

  async #do(act, elements) {
    const { api, path: { id } } = this.#view;
    const reason = elements.reason?.value.trim();
    const body = act === "approve" ? undefined : act === "resume" ? { next_group: elements.next_group?.checked ?? false } : reason ? { reason } : {};
    try {
      this.#found = await api.post(`${path`/v1/campaigns/${id}`}/${act}`, body);
      this.#draw();
    } catch (error) {
      if (error.code !== "campaign_state") throw error;
      await this.#load();
      throw new Error(this.#conflict());
    }
  }

  #mayNow(act) {
    const { state } = this.#found;
    return act === "abort" ? !ENDED.includes(state) : ACTS[act].includes(state);
  }

  #conflict() {
    return this.#view.t("campaigns.conflict", { state: word(this.#found.state) });
  }

  /** Devices of groups that nothing was sent to yet. */
  #unsent() {
    return this.#found.group_results.reduce((sum, { size, parts }) => sum + Math.max(0, size - parts.reduce((n, part) => n + part.targeted, 0)), 0);
  }
}
