/** How far a push has come: bars for a page of its own, and one line for a list. */

import { html } from "../html.js";
import { t } from "../texts.js";
import { word } from "./badge.js";

/** Cumulative steps, the widest first: field of `reached`. */
const STEPS = ["delivered", "displayed", "opened", "acted"];
/** States in which something may still happen. */
export const OPEN_STATES = ["waiting", "sent"];
/** States in which it has arrived. */
export const ARRIVED = ["delivered", "displayed", "dismissed", "opened", "acted"];
/** Ends without delivery, in the order of the API. */
export const ENDS = ["expired", "superseded", "cancelled", "suppressed", "overflowed", "refused", "revoked"];

/** Deliveries that are not over yet. */
export function underWay({ counts }) {
  return countIn(counts, OPEN_STATES);
}

/** Deliveries that ended without reaching their device. */
export function notReached({ counts }) {
  return countIn(counts, ENDS);
}

/** Deliveries in some states together. */
export function countIn(counts, states) {
  return states.reduce((sum, state) => sum + counts[state], 0);
}

/** The funnel: a bar for each step, with its number and its share of all devices. */
export function funnel(push) {
  const steps = [["targeted", push.targeted], ...STEPS.map((step) => [step, push.reached[step]])];
  return html`<ol class="funnel">${steps.map(([step, count]) => html`
    <li data-key=${step} data-step=${step}>
      <span class="funnel-name">${step === "targeted" ? t("pushes.targeted") : word(step)}</span>
      <meter class="funnel-bar" min="0" max=${Math.max(push.targeted, 1)} value=${count} aria-hidden="true"></meter>
      <span class="funnel-count">${t.number(count)}</span>
      <span class="funnel-share quiet">${step === "targeted" ? "" : share(count, push.targeted)}</span>
    </li>`)}</ol>`;
}

/** A row of a list: how many have it, how many may still get it, how many did not. */
export function reachBar(push) {
  const open = underWay(push);
  const lost = notReached(push);
  return html`
    <span class="reach">
      <meter min="0" max=${Math.max(push.targeted, 1)} value=${push.reached.delivered} aria-hidden="true"></meter>
      <span>${push.targeted === 0 ? t("pushes.nobody") : t("pushes.reach", { n: push.reached.delivered, share: share(push.reached.delivered, push.targeted) })}</span>
      ${open > 0 && html`<span class="quiet">${t("pushes.under_way", { n: open })}</span>`}
      ${lost > 0 && html`<span class="quiet">${t("pushes.not_reached", { n: lost })}</span>`}
    </span>
  `;
}

/** "37 %", never 100 % or 0 % of what is not all or none. */
export function share(count, of) {
  if (of === 0) return "";
  const exact = count / of;
  const rounded = count === 0 || count === of ? exact : Math.min(0.999, Math.max(0.001, exact));
  return new Intl.NumberFormat(t.language, { style: "percent", maximumFractionDigits: 1 }).format(rounded);
}
