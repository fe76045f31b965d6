/**
 * Why a delivery is in its state, and what to do about it, in plain words (texts/LANG/explanations.js).
 *
 * The key of a text is the state with its reason. Reasons that devices choose themselves are shown as they are; one that
 * this console has no words for yet is named.
 */

import { html } from "../html.js";
import { t } from "../texts.js";
import { dateTime } from "./time.js";

const REASON_CODE = /^reason_code_(0x[0-9a-f]{2})$/;
const REVIVED = /^after_[a-z]+$/;

/**
 * Key of the texts and their values: {key, values}. `delivery`: as the API gives it; `online`: whether its device is
 * connected, `subscribed`: to its pushes; null if that is not known.
 */
export function explanationOf({ state, reason = null, qos = null, not_before = null, attempts = 0 }, online = null, subscribed = null) {
  if (state === "waiting") {
    if (not_before) return { key: "waiting_limited", values: { at: dateTime(not_before) } };
    if (online && subscribed === false) return { key: "waiting_unsubscribed", values: {} };
    if (attempts > 0) return { key: "waiting_attempts", values: { n: attempts } };
    return { key: online === null ? "waiting" : online ? "waiting_online" : "waiting_offline", values: {} };
  }
  if (state === "sent") return { key: qos === 0 ? "sent_final" : "sent", values: {} };
  if (reason === null || REVIVED.test(reason)) return { key: state, values: {} };
  const code = REASON_CODE.exec(reason)?.[1];
  if (code !== undefined) return { key: "refused_reason_code", values: { code } };
  if (t.has(`explanations.${state}_${reason}`)) return { key: `${state}_${reason}`, values: {} };
  return { key: state === "dismissed" ? "dismissed_other" : "unknown", values: { reason } };
}

/** Two sentences: {why, todo}. */
export function explainDelivery(delivery, online = null, subscribed = null) {
  const { key, values } = explanationOf(delivery, online, subscribed);
  const { reason = null } = delivery;
  const revived = reason !== null && REVIVED.test(reason) && t.has(`explanations.${reason}`);
  const why = t(`explanations.${key}`, values);
  return {
    why: revived ? `${t(`explanations.${reason}`)} ${why}` : why,
    todo: t.has(`explanations.${key}_do`) ? t(`explanations.${key}_do`, values) : t("explanations.nothing_to_do"),
  };
}

/** The two sentences, to stand below the row of a delivery. */
export function explanation(delivery, online = null, subscribed = null) {
  const { why, todo } = explainDelivery(delivery, online, subscribed);
  return html`
    <dl class="explanation">
      <div><dt>${t("common.why")}</dt><dd class="why">${why}</dd></div>
      <div><dt>${t("common.what_to_do")}</dt><dd class="what-to-do">${todo}</dd></div>
    </dl>
  `;
}
