/** Times as people read them: how long ago, in the viewer's zone, and in the device's where that is another one. */

import { html } from "../html.js";
import { language, t } from "../texts.js";

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;
const STEPS = [
  [MINUTE, 1, "second"],
  [HOUR, MINUTE, "minute"],
  [DAY, HOUR, "hour"],
  [30 * DAY, DAY, "day"],
];
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const formats = new Map();

/** The viewer's zone. */
export const here = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** A point in time: date and time in `zone`. `at`: as the API gives it. */
export function dateTime(at, zone = here) {
  return format(zone, { dateStyle: "medium", timeStyle: "medium" }).format(new Date(at));
}

/** "3 minutes ago", "in 2 days"; a date when it is further than a month. */
export function ago(at, now = Date.now()) {
  const seconds = Math.round((new Date(at).getTime() - now) / 1000);
  const step = STEPS.find(([below]) => Math.abs(seconds) < below);
  if (step === undefined) return format(here, { dateStyle: "medium" }).format(new Date(at));
  return relative.format(Math.trunc(seconds / step[1]), step[2]);
}

/**
 * <time> of a point in time. `zone`: the device's, shown beside ours where the clocks differ. `exact`: date and time
 * instead of how long ago, which is then its title.
 */
export function time(at, { zone = null, exact = false } = {}) {
  if (at === null || at === undefined) return html`<span class="quiet">${t("common.never")}</span>`;
  const ours = dateTime(at);
  const theirs = zone === null ? ours : (inZone(at, zone) ?? ours);
  const beside = theirs === ours ? null : html` <span class="quiet">${t("common.device_time", { at: theirs, zone })}</span>`;
  return html`<time datetime=${at} title=${exact ? ago(at) : ours}>${exact ? ours : ago(at)}${beside}</time>`;
}

/** "2 h 5 min": a lifetime or a pause in words. */
export function duration(seconds) {
  const units = [[DAY, "day"], [HOUR, "hour"], [MINUTE, "minute"], [1, "second"]];
  let rest = Math.round(seconds);
  const parts = [];
  for (const [length, unit] of units) {
    const n = Math.floor(rest / length);
    rest -= n * length;
    if (n > 0 && parts.length < 2) {
      parts.push(new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "long" }).format(n));
    }
  }
  return parts.length > 0 ? parts.join(" ") : t("common.at_once");
}

/** null for a zone that this browser does not know: a device says what it likes. */
function inZone(at, zone) {
  try {
    return dateTime(at, zone);
  } catch {
    return null;
  }
}

function format(zone, options) {
  const key = `${zone} ${JSON.stringify(options)}`;
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(language, { ...options, timeZone: zone }));
  return formats.get(key);
}
