/** A list of what is in one state or another, for a screen that is called as the API calls its list. */

import { html, update } from "../html.js";
import { select } from "./field.js";
import { PAGE_ROWS, pages, table } from "./table.js";

const POLL_SECONDS = 5;

/**
 * Draw the list, and keep it true. `states`: those that one can choose, which is in the address; `key(row)`, `columns`: see
 * table.js. Of the texts of the screen it needs title, make, state, any, none and none_match.
 */
export async function openStateList(view, { states, key, columns }) {
  const { root, place, t, api, query, session, href, go } = view;
  const list = html`<div data-keep></div>`;
  const title = t(`${place}.title`);
  update(
    root,
    html`
      <header class="head">
        <h1>${title}</h1>
        ${session.may("send") && html`<a class="button primary" href=${href("compose")}>${t(`${place}.make`)}</a>`}
      </header>
      <div class="filter">
        ${select({
          label: t(`${place}.state`), name: "state", value: query.get("state") ?? "",
          options: [["", t(`${place}.any`)], ...states.map((state) => [state, t(`states.${state}`)])],
          onchange: (event) => go(place, { state: event.target.value }),
        })}
      </div>`,
    list,
  );
  await view.every(POLL_SECONDS, async () => {
    const page = await api.get(`/v1/${place}`, { state: query.get("state"), cursor: query.get("cursor"), limit: PAGE_ROWS });
    const empty = t(query.get("state") ? `${place}.none_match` : `${place}.none`);
    update(list, table({ columns, rows: page.items, key, caption: title, empty }), pages(view, page.next_cursor));
  });
}
