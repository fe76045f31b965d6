/** A secret that is shown this once: in a dialog that says so, with a button that copies it. */

import { html } from "../html.js";
import { t } from "../texts.js";
import { dialog } from "./dialog.js";

/**
 * Show a secret until its person says that it is kept. `sentence`: what it is for; `signal`: of the screen. The secret is
 * in this element alone, and goes with it.
 */
export function showOnce({ title, sentence, secret, signal }) {
  return dialog(title, (close) => {
    const said = html`<p role="status" class="quiet"></p>`;
    const copy = async () => {
      try {
        await navigator.clipboard.writeText(secret);
        said.textContent = t("common.copied");
      } catch {
        getSelection().selectAllChildren(place); // without TLS the browser has no clipboard: it can be copied by hand
        said.textContent = t("common.copy_by_hand");
      }
    };
    const place = html`<code class="once" tabindex="0">${secret}</code>`;
    return html`
      <p>${sentence}</p>
      ${place}
      <p><b>${t("common.shown_once")}</b></p>
      ${said}
      <div class="buttons">
        <button type="button" id="copy" onclick=${copy}>${t("common.copy")}</button>
        <button type="button" class="primary" onclick=${() => close(true)}>${t("common.kept")}</button>
      </div>`;
  }, signal);
}
