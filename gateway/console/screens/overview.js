/** The first screen: what goes on, now. */

import { html, update } from "../html.js";

export const texts = "overview";

export async function open(view) {
  update(view.root, html`<h1>${view.t("overview.title")}</h1>`);
}
