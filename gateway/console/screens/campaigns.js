/** The campaigns of the app, the newest first: what each is doing, and how far it is. */

import { html } from "../html.js";
import { badge, word } from "../parts/badge.js";
import { openStateList } from "../parts/state_list.js";
import { time } from "../parts/time.js";

export const styles = ["fleet", "lists"];

const STATES = ["awaiting_approval", "scheduled", "running", "paused", "completed", "aborted"];

export async function open(view) {
  await openStateList(view, { states: STATES, key: ({ campaign_id }) => campaign_id, columns: columns(view) });
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
