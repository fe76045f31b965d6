/** The schedules of the app, the newest first: what is sent when, and what did not work. */

import { html, update } from "../html.js";
import { badge } from "../parts/badge.js";
import { select } from "../parts/field.js";
import { nameOf, timingText } from "../parts/plan.js";
import { PAGE_ROWS, pages, table } from "../parts/table.js";
import { targetWords } from "../parts/target.js";
import { time } from "../parts/time.js";

export const texts = ["schedules", "plan", "targets"];
export const styles = ["fleet", "lists"];

const POLL_SECONDS = 5;
const STATES = ["active", "paused", "ended", "cancelled"];

export async function open(view) {
  const { root, t, api, query, session, href } = view;
  const list = html`<div data-keep></div>`;
  update(
    root,
    html`
      <header class="head">
        <h1>${t("schedules.title")}</h1>
        ${session.may("send") && html`<a class="button primary" href=${href("compose")}>${t("schedules.make")}</a>`}
      </header>
      <div class="filter">
        ${select({
          label: t("schedules.state"), name: "state", value: query.get("state") ?? "",
          options: [["", t("schedules.any")], ...STATES.map((state) => [state, t(`states.${state}`)])],
          onchange: (event) => view.go("schedules", { state: event.target.value }),
        })}
      </div>`,
    list,
  );
  await view.every(POLL_SECONDS, async () => {
    const page = await api.get("/v1/schedules", { state: query.get("state"), cursor: query.get("cursor"), limit: PAGE_ROWS });
    update(
      list,
      table({
        columns: columns(view), rows: page.items, key: ({ schedule_id }) => schedule_id, caption: t("schedules.title"),
        empty: query.get("state") ? t("schedules.none_match") : t("schedules.none"),
      }),
      pages(view, page.next_cursor),
    );
  });
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
