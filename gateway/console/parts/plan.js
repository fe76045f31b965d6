/** A push with dates, in words: when it is sent, and what it is called (texts/LANG/plan.js). */

import { t } from "../texts.js";
import { pushTitle } from "./target.js";
import { dateTime, duration } from "./time.js";

const DEVICE = "device";

/** What a schedule is called: its name, else what its push is. */
export function nameOf({ name, push }) {
  return name ?? pushTitle(push);
}

/** The sentences for when a push with dates is sent. `push`: as it was asked for. */
export function timingText(push) {
  const zone = (of) => (of === DEVICE ? t("plan.device_clock") : of);
  const parts = [];
  if (push.send_at) parts.push(t("plan.send_at", { at: dateTime(push.send_at) }));
  if (push.send_at_local) parts.push(t("plan.send_at_local", { at: String(push.send_at_local).replace("T", " ") }));
  if (push.repeat) {
    const { cron, zone: clock, until, count } = push.repeat;
    parts.push(t("plan.repeat", { cron, zone: zone(clock) }));
    if (until) parts.push(t("plan.until", { at: dateTime(until) }));
    if (count) parts.push(t("plan.times", { n: count }));
  }
  if (push.window) parts.push(t("plan.window", { from: push.window.from, to: push.window.to, zone: zone(push.window.zone) }));
  if (push.spread) parts.push(t("plan.spread", { length: duration(push.spread) }));
  return parts.join("; ");
}
