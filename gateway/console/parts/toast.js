/** A sentence at the edge of the page that says what has just been done, to screen readers too, and goes by itself. */

import { html } from "../html.js";
import { t } from "../texts.js";
import { explain } from "./problem.js";

const SHOWN_MS = 8_000;
const AT_A_TIME = 3;

/** Say that something is done. `failed`: it is not, and the sentence stays until it is closed. */
export function toast(sentence, { failed = false } = {}) {
  const place = document.getElementById("toasts");
  const close = () => box.remove();
  const box = html`
    <div class=${failed ? "toast failed" : "toast"}>
      <p>${sentence}</p>
      <button type="button" class="plain" aria-label=${t("common.close")} onclick=${close}>×</button>
    </div>
  `;
  while (place.children.length >= AT_A_TIME) place.firstChild.remove();
  place.append(box);
  if (!failed) setTimeout(close, SHOWN_MS);
}

/** Say why it did not work; nothing of a question that went with its screen. */
export function toastError(error) {
  if (error.name !== "AbortError") toast(explain(error), { failed: true });
}
