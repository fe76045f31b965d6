/** The pushes of the app, the newest first, each with how far it has come. The first page follows what happens. */

import { html, update } from "../html.js";
import { unhurried } from "../live.js";
import { reachBar } from "../parts/funnel.js";
import { PAGE_ROWS, pages, table } from "../parts/table.js";
import { pushTitle, targetWords } from "../parts/target.js";
import { time } from "../parts/time.js";

export const texts = ["pushes", "targets"];
export const styles = ["pushes"];

const LOOK_SECONDS = 5;

export async function open(view) {
  const { t } = view;
  update(view.root, html`
    <div class="row spread">
      <h1>${t("pushes.title")}</h1>
      ${view.session.may("send") && html`<a class="button primary" href=${view.href("compose", { new: 1 })}>${t("pushes.compose")}</a>`}
    </div>
    <div class="list"></div>
  `);
  const list = view.root.querySelector(".list");
  await view.every(LOOK_SECONDS, unhurried(async () => {
    const page = await view.api.get("/v1/pushes", { limit: PAGE_ROWS, cursor: view.query.get("cursor") });
    update(list, table({
      caption: t("pushes.title"),
      empty: t("pushes.none"),
      rows: page.items,
      key: (push) => push.push_id,
      columns: [
        { label: t("pushes.push"), cell: (push) => html`<a href=${view.href(`pushes/${push.push_id}`)} dir="auto">${pushTitle(push)}</a>` },
        { label: t("pushes.target"), cell: (push) => targetWords(push.target) },
        { label: t("pushes.sent_at"), cell: (push) => time(push.sent_at) },
        { label: t("pushes.targeted"), numeric: true, cell: (push) => t.number(push.targeted) },
        { label: t("pushes.reached"), cell: reachBar },
      ],
    }), pages(view, page.next_cursor));
  }));
}
