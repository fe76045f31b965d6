/** What is known of something: names and their values, in a list of their own or on a card. */

import { html } from "../html.js";

/** The pairs of a `dl`. `rows`: [[name, value], ..]; a row that is nothing, and one whose value is null, is left out. */
export function facts(rows) {
  return rows
    .filter((row) => row && row[1] !== null)
    .map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`);
}

/** A card with a heading and the facts beneath it. */
export function factsCard(title, rows) {
  return html`<section class="card"><h2>${title}</h2><dl>${facts(rows)}</dl></section>`;
}
