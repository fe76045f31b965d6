/** The schedules of the app, the newest first: what is sent when, and what did not work. */

import { html } from "../html.js";
import { badge } from "../parts/badge.js";
import { nameOf, timingText } from "../parts/plan.js";
import { openStateList } from "../parts/state_list.js";
import { targetWords } from "../parts/target.js";
import { time } from "../parts/time.js";

export const texts = ["schedules", "plan", "targets"];
export const styles = ["fleet", "lists"];

const STATES = ["active", "paused", "ended", "cancelled"];

export async function open(view) {
  await openStateList(view, { states: STATES, key: ({ schedule_id }) => schedule_id, columns: columns(view) });
}

function columns({ t, href }) {
  return [
    { label: t("schedules.schedule"), cell: (schedule) => html`<a class="device" href=${href(`schedules/${schedule.schedule_id}`)}>${nameOf(schedule)}</a>` },
    { label: t("schedules.state"), cell: ({ state, failures }) => html`${badge(state)}${failures > 0 && html` <span class="error">${t("schedules.failures", { n: failures })}</span>`}` },
    { label: t("schedules.next"), cell: ({ next }) => (next.length === 0 ? "–" : time(next[0], { exact: true })) },
    { label: t("schedules.when"), cell: ({ push }) => timingText(push) },
    { label: t("schedules.to"), cell: ({ push }) => targetWords(push.target) },
  ];
}
