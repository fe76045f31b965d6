/** Sending a form: its button rests while that is under way, and what is refused is said above the button. */

import { html } from "../html.js";
import { explain } from "./problem.js";

/**
 * What a form needs for it: {button, refusal, submit}, `submit` for its `onsubmit`. `verb` is on the button, `look` its
 * class. `act(elements)` does it; what it throws is said as `refused(error)` puts it, and the form can be sent again.
 */
export function submission({ verb, look = "primary", act, refused = explain }) {
  const refusal = html`<p class="error" role="alert"></p>`;
  const button = html`<button type="submit" class=${look}>${verb}</button>`;
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    refusal.textContent = "";
    try {
      await act(event.currentTarget.elements);
    } catch (error) {
      if (error.name !== "AbortError") refusal.replaceChildren(refused(error));
    } finally {
      button.disabled = false;
    }
  };
  return { button, refusal, submit };
}
