/** Why something did not work, in the words of the server's problem document, and a way to try again. */

import { html } from "../html.js";
import { t } from "../texts.js";

/**
 * A box that says what went wrong. `error`: a Problem, an Unreachable, or anything else that was thrown. `retry`: called
 * by its button; without one there is none.
 */
export function problem(error, retry = null) {
  return html`
    <div class="problem" role="alert" data-code=${error.code ?? "error"}>
      <p>${explain(error)}</p>
      ${error.code && t.has(`problems.${error.code}`) ? html`<p class="quiet">${error.detail}</p>` : null}
      ${retry && html`<button type="button" onclick=${retry}>${t("common.retry")}</button>`}
    </div>
  `;
}

/** One sentence for a person: ours where we have one for the code, else the server's. */
export function explain(error) {
  if (error.code && t.has(`problems.${error.code}`)) return t(`problems.${error.code}`);
  return error.detail ?? error.title ?? error.message ?? String(error);
}
