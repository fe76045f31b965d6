/** Whom a push is for, in words: for lists, the page of a push and the questions before it is sent. */

import { html } from "../html.js";
import { t } from "../texts.js";

const LONGEST_EXPRESSION = 120;
const LISTED_DEVICES = 3;

/** A sentence; `target` as the API has it. Texts: texts/LANG/targets.js. */
export function targetWords(target) {
  const [by, value] = Object.entries(target)[0] ?? ["nobody", ""];
  if (by === "devices") {
    const names = value.slice(0, LISTED_DEVICES).join(", ");
    return t("targets.devices", { n: value.length, names: value.length > LISTED_DEVICES ? `${names}, …` : names });
  }
  if (by === "all") return t("targets.all");
  const text = String(value);
  const shown = text.length > LONGEST_EXPRESSION ? `${text.slice(0, LONGEST_EXPRESSION)} …` : text;
  return t.has(`targets.${by}`) ? t(`targets.${by}`, { value: shown }) : `${by}: ${shown}`;
}

/** The same, leading to the device or the campaign where it is one. */
export function targetLink(target, href) {
  if (typeof target.device === "string") return html`<a href=${href(`devices/${target.device}`)}>${targetWords(target)}</a>`;
  if (typeof target.campaign === "string") return html`<a href=${href(`campaigns/${target.campaign}`)}>${targetWords(target)}</a>`;
  return html`<span>${targetWords(target)}</span>`;
}

/** What a list calls a push: its title, else its text, else what kind it is. */
export function pushTitle({ notification, kind, template }) {
  return notification?.title || notification?.body || (template ? `${t(`targets.kind_${kind}`)} (${template.name})` : t(`targets.kind_${kind}`));
}
