/** The state of something, as a word with a colour and a shape: told apart without colour, too. */

import { html } from "../html.js";
import { t } from "../texts.js";

/** State -> how it looks. `good`: as it shall be; `going`: under way; `bad`: needs somebody; `ended`: over, without harm. */
const LOOKS = {
  waiting: "going", sent: "going", scheduled: "going", running: "going", paused: "ended",
  delivered: "good", displayed: "good", opened: "good", acted: "good", dismissed: "ended",
  expired: "bad", overflowed: "bad", refused: "bad", superseded: "ended", cancelled: "ended", suppressed: "ended",
  revoked: "ended", online: "good", offline: "ended", enabled: "good", disabled: "bad", failing: "bad", aborted: "ended",
  finished: "good", ok: "good", warning: "bad", critical: "bad",
  active: "good", ended: "ended", completed: "good", awaiting_approval: "going", starting: "going", sending: "going",
  observing: "going", done: "good", skipped: "ended", failed: "bad", valid: "good",
};

/** `state`: a state of a delivery, or another key of LOOKS. `reason`: why, in the API's word. */
export function badge(state, reason = null) {
  return html`<span class="badge" data-look=${LOOKS[state] ?? "ended"} data-state=${state}>${word(state)}${
    reason ? html`<span class="reason">${word(reason, "reasons")}</span>` : null
  }</span>`;
}

/** The word for a state or a reason: the API's own where there is none. */
export function word(name, of = "states") {
  return t.or(`${of}.${name}`, name);
}
