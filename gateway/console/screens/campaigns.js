/** The campaigns of the app, the newest first: what each is doing, and how far it is. */

import { html, update } from "../html.js";
import { badge, word } from "../parts/badge.js";
import { select } from "../parts/field.js";
import { PAGE_ROWS, pages, table } from "../parts/table.js";
import { time } from "../parts/time.js";

export const styles = ["fleet", "lists"];

const POLL_SECONDS = 5;
const STATES = ["awaiting_approval", "scheduled", "running", "paused", "completed", "aborted"];

export async function open(view) {
  const { root, t, api, query, session, href } = view;
  const list = html`<div data-keep></div>`;
  update(
    root,
    html`
      <header class="head">
        <h1>${t("campaigns.title")}</h1>
        ${session.may("send") && html`<a class="button primary" href=${href("compose")}>${t("campaigns.make")}</a>`}
      </header>
      <div class="filter">
        ${select({
          label: t("campaigns.state"), name: "state", value: query.get("state") ?? "",
          options: [["", t("campaigns.any")], ...STATES.map((state) => [state, t(`states.${state}`)])],
          onchange: (event) => view.go("campaigns", { state: event.target.value }),
        })}
      </div>`,
    list,
  );
  await view.every(POLL_SECONDS, async () => {
    const page = await api.get("/v1/campaigns", { state: query.get("state"), cursor: query.get("cursor"), limit: PAGE_ROWS });
    update(
      list,
      table({
        columns: columns(view), rows: page.items, key: ({ campaign_id }) => campaign_id, caption: t("campaigns.title"),
        empty: query.get("state") ? t("campaigns.none_match") : t("campaigns.none"),
      }),
      pages(view, page.next_cursor),
    );
  });
}

function columns({ t, href }) {
  return [
    { label: t("campaigns.campaign"), cell: ({ campaign_id, name }) => html`<a class="device" href=${href(`campaigns/${campaign_id}`)}>${name}</a>` },
    { label: t("campaigns.state"), cell: ({ state, phase }) => html`${badge(state)}${phase && html` <span class="quiet">${word(phase)}</span>`}` },
    { label: t("campaigns.groups"), cell: ({ group, groups }) => (groups === null ? "–" : t("campaigns.group_of", { group: group ?? 0, groups })) },
    { label: t("campaigns.targeted"), numeric: true, cell: ({ targeted }) => t.number(targeted) },
    { label: t("campaigns.why"), cell: ({ reason }) => reason ?? "–" },
    { label: t("campaigns.made"), cell: ({ created_at }) => time(created_at) },
  ];
}
