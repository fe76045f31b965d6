/**
 * Limits of alerts and quiet hours: as sentences, and as fields of a form (texts/LANG/rules.js).
 *
 * A form's part is {node, read()}: `read()` gives what the API takes, null for none.
 */

import { html } from "../html.js";
import { t } from "../texts.js";
import { checkbox, input, select } from "./field.js";

/** The API's, for each limits of caps. */
const MAX_LIMITS = 3;
const MAX_GROUPS = 20;
const WINDOWS = ["hour", "day", "week"];
const LARGEST_COUNT = 1000;
const LARGEST_ADAPTIVE = 50;

// As sentences

/** "at most 3 a day, 10 a week; what is more is dropped"; null: "no limit". */
export function capsText(caps) {
  if (caps === null) return t("rules.no_caps");
  const parts = [];
  if (caps.limits.length > 0) parts.push(limitsText(caps.limits));
  if (caps.adaptive) parts.push(t("rules.adaptive_text", { floor: caps.adaptive.floor_per_day, ceiling: caps.adaptive.ceiling_per_day }));
  for (const { tag, segment, limits } of caps.groups ?? []) {
    const values = { name: tag ?? segment, limits: limits.length === 0 ? t("rules.no_caps") : limitsText(limits) };
    parts.push(tag === null ? t("rules.segment_text", values) : t("rules.tag_text", values));
  }
  return `${parts.join("; ")}; ${t(`rules.excess_${caps.excess}_text`)}`;
}

export function hoursText(hours, none = t("rules.no_hours")) {
  return hours === null ? none : t("rules.hours_text", { start: hours.start, end: hours.end, excess: t(`rules.hours_${hours.excess}_text`) });
}

function limitsText(limits) {
  return limits.map(({ count, per }) => t(`rules.limit_${per}`, { n: count })).join(", ");
}

// As fields

/** Fields for quiet hours; `value`: as the API gives them, or null. */
export function hoursFields(value, legend) {
  const time = (name, label) =>
    input({ label, name: `hours-${name}`, type: "time", value: value?.[name] ?? (name === "start" ? "22:00" : "07:00"), required: true });
  const box = html`
    <div class="limit">
      ${time("start", t("rules.from"))}
      ${time("end", t("rules.to"))}
      ${select({ label: t("rules.then"), name: "hours-excess", value: value?.excess ?? "defer", options: ["defer", "drop"].map((each) => [each, t(`rules.hours_${each}`)]) })}
    </div>`;
  const on = switched(t("rules.has_hours"), "hours", value !== null, box);
  const node = html`<fieldset><legend>${legend}</legend>${on.node}</fieldset>`;
  const field = (name) => box.querySelector(`[name=hours-${name}]`).value;
  return { node, read: () => (on.checked() ? { start: field("start"), end: field("end"), excess: field("excess") } : null) };
}

/** Fields for caps; `adapts`: whether they can set themselves, as a channel's. */
export function capsFields(value, legend, { adapts = false } = {}) {
  const limits = limitsFields(value?.limits ?? []);
  const groups = [];
  const groupList = html`<div></div>`;
  const addGroup = (group) => {
    const fields = groupFields(group, () => {
      groups.splice(groups.indexOf(fields), 1);
      fields.node.remove();
      more.disabled = false;
    });
    groups.push(fields);
    groupList.append(fields.node);
    more.disabled = groups.length >= MAX_GROUPS;
  };
  const more = html`<button type="button" name="add-group" onclick=${() => addGroup({ tag: "", segment: null, limits: [] })}>${t("rules.add_group")}</button>`;
  const adaptive = adapts ? adaptiveFields(value?.adaptive ?? null) : null;
  for (const group of value?.groups ?? []) addGroup(group);
  const excess = html`<div>${select({
    label: t("rules.excess"), name: "excess", value: value?.excess ?? "drop", options: ["drop", "defer", "digest"].map((each) => [each, t(`rules.excess_${each}`)]),
  })}</div>`;
  const node = html`
    <fieldset>
      <legend>${legend}</legend>
      ${limits.node}
      ${adaptive?.node}
      ${groupList}
      <p>${more}</p>
      ${excess}
    </fieldset>`;
  const read = () => {
    const caps = { limits: limits.read(), groups: groups.map((group) => group.read()), excess: excess.querySelector("select").value };
    const bounds = adaptive?.read() ?? null;
    if (caps.limits.length === 0 && caps.groups.length === 0 && bounds === null) return null;
    return { ...caps, adaptive: bounds }; // null is said: in a merge patch what is left out stays
  };
  return { node, read };
}

/** A checkbox that shows `box` while it is checked: {node, checked()}. */
function switched(label, name, is, box) {
  box.hidden = !is;
  enable(box, is);
  const changed = (event) => {
    box.hidden = !event.target.checked;
    enable(box, event.target.checked);
  };
  const node = html`<div>${checkbox({ label, name: `has-${name}`, checked: is, onchange: changed })}${box}</div>`;
  return { node, checked: () => node.querySelector(`[name=has-${name}]`).checked };
}

/** What is hidden is not checked by the browser either. */
function enable(box, is) {
  for (const control of box.querySelectorAll("input, select")) control.disabled = !is;
}

/** A list of limits that grows and shrinks: {node, read()}. */
function limitsFields(values) {
  const rows = [];
  const list = html`<div></div>`;
  const more = html`<button type="button" name="add-limit" onclick=${() => add({ count: 3, per: WINDOWS.find((per) => !rows.some((row) => row.per() === per)) ?? "day" })}>${t("rules.add_limit")}</button>`;
  const add = ({ count, per }) => {
    const node = html`
      <div class="limit">
        ${input({ label: t("rules.at_most"), name: "count", type: "number", min: 1, max: LARGEST_COUNT, value: count, required: true })}
        ${select({ label: t("rules.per"), name: "per", value: per, options: WINDOWS.map((each) => [each, t(`rules.per_${each}`)]) })}
        <button type="button" class="plain" aria-label=${t("rules.remove_limit")} onclick=${() => remove()}>×</button>
      </div>`;
    const row = { node, per: () => node.querySelector("select").value, count: () => Number(node.querySelector("input").value) };
    const remove = () => {
      rows.splice(rows.indexOf(row), 1);
      node.remove();
      more.disabled = false;
    };
    rows.push(row);
    list.append(node);
    more.disabled = rows.length >= MAX_LIMITS;
  };
  for (const value of values) add(value);
  return { node: html`<div>${list}<p>${more}</p></div>`, read: () => rows.map((row) => ({ count: row.count(), per: row.per() })) };
}

/** Limits of the devices with a tag, or in a saved segment. */
function groupFields({ tag, segment, limits }, remove) {
  const fields = limitsFields(limits);
  const kinds = [["tag", t("rules.by_tag")], ["segment", t("rules.by_segment")]];
  const node = html`
    <div class="limits-of">
      <div class="limit">
        ${select({ label: t("rules.group_of"), name: "kind", value: tag === null ? "segment" : "tag", options: kinds })}
        ${input({ label: t("rules.group_name"), name: "group", value: tag ?? segment, required: true, maxlength: 64, autocomplete: "off", autocapitalize: "none" })}
        <button type="button" class="plain" onclick=${remove}>${t("rules.remove_group")}</button>
      </div>
      ${fields.node}
    </div>`;
  return { node, read: () => ({ [node.querySelector("[name=kind]").value]: node.querySelector("[name=group]").value.trim(), limits: fields.read() }) };
}

function adaptiveFields(value) {
  const number = (name, label, given, required) =>
    input({ label, name, type: "number", min: 1, max: LARGEST_ADAPTIVE, value: given ?? "", required });
  const box = html`
    <div class="limit">
      ${number("floor", t("rules.floor"), value?.floor_per_day ?? 1, true)}
      ${number("ceiling", t("rules.ceiling"), value?.ceiling_per_day ?? 8, true)}
      ${number("start", t("rules.start"), value?.start_per_day, false)}
    </div>`;
  const on = switched(t("rules.adapts"), "adaptive", value !== null, box);
  const read = (name) => box.querySelector(`[name=${name}]`).value;
  return {
    node: on.node,
    read: () =>
      on.checked()
        ? { floor_per_day: Number(read("floor")), ceiling_per_day: Number(read("ceiling")), start_per_day: read("start") === "" ? null : Number(read("start")) }
        : null,
  };
}
