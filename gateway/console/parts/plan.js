/** A push with dates, in words: when it is sent, and what it is called (texts/LANG/plan.js). */

import { t } from "../texts.js";
import { pushTitle } from "./target.js";
import { dateTime, duration } from "./time.js";

const DEVICE = "device";
/** A cron expression for one time of day: on all days, on some of the week, or on one of the month. */
const ONE_TIME = /^(\d{1,2}) (\d{1,2}) (\*|\d{1,2}) \* (\*|[0-7](?:[-,][0-7])*)$/;
/** A Sunday, which the days of a week are counted from. */
const SUNDAY = Date.UTC(2026, 0, 4);
const DAY_MS = 86_400_000;

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
    parts.push(repeatText(cron, zone(clock)));
    if (until) parts.push(t("plan.until", { at: dateTime(until) }));
    if (count) parts.push(t("plan.times", { n: count }));
  }
  if (push.window) parts.push(t("plan.window", { from: push.window.from, to: push.window.to, zone: zone(push.window.zone) }));
  if (push.spread) parts.push(t("plan.spread", { length: duration(push.spread) }));
  return parts.join("; ");
}

/** A cron expression in words; as it is where it is not a plain one. `zone`: whose clock, in words. */
function repeatText(cron, zone) {
  const [, minute, hour, day, week] = ONE_TIME.exec(cron.trim().replace(/\s+/g, " ")) ?? [];
  // Cron takes a day of the month and one of the week together for either of them.
  if (minute === undefined || (day !== "*" && week !== "*")) return t("plan.repeat", { cron, zone });
  const at = `${hour.padStart(2, "0")}:${minute.padStart(2, "0")}`;
  if (week !== "*") return t("plan.weekly", { days: daysText(week), at, zone });
  return day === "*" ? t("plan.daily", { at, zone }) : t("plan.monthly", { day, at, zone });
}

/** "Monday to Friday", "Tuesday and Sunday". `week`: the field of a cron expression, 0 and 7 both Sunday. */
function daysText(week) {
  const names = new Intl.DateTimeFormat(t.language, { weekday: "long", timeZone: "UTC" });
  const name = (number) => names.format(SUNDAY + Number(number) * DAY_MS);
  const days = week.split(",").map((part) => {
    const [from, to] = part.split("-");
    return to === undefined ? name(from) : t("plan.day_range", { from: name(from), to: name(to) });
  });
  return new Intl.ListFormat(t.language).format(days);
}
