/** Tables that become lists of cards on a narrow screen, and pages of them by the cursor of the API. */

import { html } from "../html.js";
import { t } from "../texts.js";

/** Rows of one page; more than fit on a screen, and never the fleet. */
export const PAGE_ROWS = 50;

/**
 * A table. `columns`: [{label, cell(row) -> what html takes, numeric?}]; `key(row)`: what a row is found again
 * by; `caption`: its name for screen readers; `empty`: a sentence for no rows. `select`: {chosen: Set of keys, label(row),
 * change(key, chosen)} gives each row a checkbox. `many`: its columns
 * need more than a small screen has, so that it becomes cards sooner.
 */
export function table({ columns, rows, key, caption, empty, select = null, many = false }) {
  if (rows.length === 0) return html`<p class="empty">${empty}</p>`;
  return html`
    <div class="table" data-columns=${many ? "many" : null} tabindex="0" role="region" aria-label=${caption}>
      <table>
        <caption class="unseen">${caption}</caption>
        <thead>
          <tr>
            ${select && html`<th scope="col"><span class="unseen">${t("common.choose")}</span></th>`}
            ${columns.map(({ label, numeric }) => html`<th scope="col" class=${numeric ? "number" : null}>${capital(label)}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${rows.map((row) => html`
            <tr data-key=${key(row)}>
              ${select && choice(row, key(row), select)}
              ${columns.map(({ label, numeric, cell }) => html`
                <td data-label=${capital(label)} class=${numeric ? "number" : null}><div>${cell(row)}</div></td>`)}
            </tr>`)}
        </tbody>
      </table>
    </div>
  `;
}

/** The name of a column, which may be the word for a state. */
function capital(label) {
  return label.charAt(0).toLocaleUpperCase() + label.slice(1);
}

function choice(row, key, { chosen, label, change }) {
  const changed = (event) => change(key, event.target.checked);
  return html`<td class="choice"><input type="checkbox" aria-label=${label(row)} checked=${chosen.has(key)} onchange=${changed} /></td>`;
}

/**
 * Links to the first and the next page of a list, for the address of the screen (`view`), which has the cursor in its
 * query. Back is the browser's. `next`: the answer's `next_cursor`.
 */
export function pages(view, next) {
  const first = view.query.get("cursor") !== null;
  if (!first && !next) return null;
  const address = (cursor) => {
    const query = new URLSearchParams(view.query);
    query.delete("cursor");
    if (cursor) query.set("cursor", cursor);
    return view.href(view.place, query);
  };
  return html`
    <nav class="pages" aria-label=${t("common.pages")}>
      ${first && html`<a class="button" href=${address(null)}>${t("common.first_page")}</a>`}
      ${next && html`<a class="button" rel="next" href=${address(next)}>${t("common.next_page")}</a>`}
    </nav>
  `;
}
