/** Dialogs: the browser's own <dialog>, modal, closed by Escape, focus back where it was. */

import { html } from "../html.js";
import { t } from "../texts.js";
import { submission } from "./form.js";

/** Names that a question lists before "and n more". */
const LISTED_NAMES = 5;
let number = 0;

/**
 * Open a modal dialog. `content(close)`: its nodes; `close(value)` ends it. A promise of that value, null when it was
 * dismissed, and when the screen goes (`signal`).
 */
export function dialog(title, content, signal = null) {
  const id = `dialog-${++number}`;
  let answer = null;
  const close = (value = null) => {
    answer = value;
    box.close();
  };
  const box = html`
    <dialog aria-labelledby=${id}>
      <h2 id=${id}>${title}</h2>
      ${content(close)}
    </dialog>
  `;
  const gone = () => box.close();
  document.body.append(box);
  box.showModal();
  signal?.addEventListener("abort", gone);
  return new Promise((resolve) => {
    box.addEventListener("close", () => {
      signal?.removeEventListener("abort", gone);
      box.remove();
      resolve(answer);
    });
  });
}

/**
 * Ask before something that cannot be taken back, and do it. `sentence` says the number; `names` are those it happens to,
 * of `count` altogether; `verb` is on the button; `act(elements)` does it, and what it throws is said in the dialog, which
 * stays. A promise of what `act` gave, null when the person did not want to. `typed`: a word to type first, for what is
 * large. `fields`: nodes below the names, for what else has to be said; they are among the `elements`.
 */
export function confirm({ title, sentence, names = [], count = names.length, verb, act, typed = null, danger = true, fields = null, signal }) {
  const content = (close) => {
    const { button, refusal, submit } = submission({
      verb,
      look: danger ? "danger" : "primary",
      act: async (elements) => {
        if (typed !== null && elements.typed.value.trim() !== typed) throw new Error(t("common.type_to_confirm", { word: typed }));
        close((await act(elements)) ?? true);
      },
    });
    return html`
      <form onsubmit=${submit}>
        <p>${sentence}</p>
        ${names.length > 0 && html`<ul class="names">${names.slice(0, LISTED_NAMES).map((name) => html`<li>${name}</li>`)}</ul>`}
        ${count > LISTED_NAMES && names.length > 0 && html`<p>${t("common.and_more", { n: count - Math.min(LISTED_NAMES, names.length) })}</p>`}
        ${fields}
        ${typed !== null && html`<p><label>${t("common.type_to_confirm", { word: typed })} <input name="typed" autocomplete="off" /></label></p>`}
        ${refusal}
        <div class="buttons">
          <button type="button" onclick=${() => close()} autofocus>${t("common.cancel")}</button>
          ${button}
        </div>
      </form>
    `;
  };
  return dialog(title, content, signal);
}
