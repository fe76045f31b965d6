/**
 * From the fields of the composer to a push of the API, and back.
 *
 * Fields are texts as a person has typed them, so that what is wrong stays on the screen and the server says what. What is
 * empty is left out of the request.
 */

import { wordsIn } from "./parts/field.js";
import { attachmentOf } from "./parts/notification.js";

const SECONDS = { minute: 60, hour: 3600, day: 86_400 };
const SIMPLE_TARGETS = ["device", "tag", "topic", "segment", "where"];

/** An empty draft. */
export function emptyFields() {
  return {
    by: "device", device: "", devices: "", tag: "", topic: "", segment: "", where: "",
    template: "", values: "", kind: "alert", title: "", body: "", image: "", url: "", actions: [],
    attachment_url: "", attachment_name: "", attachment_type: "", attachment_size: null,
    channel: "", priority: "normal", collapse_key: "", data: "", render: false, on_missing: "refuse",
    life: "1", life_unit: "day",
    when: "now", at: "", local: "", repeat: "daily", repeat_time: "09:00", cron: "", zone: "device", window_from: "", window_to: "",
    spread: "", name: "", device_preview: "", device_test: "", extra: {},
  };
}

/** A text that is no JSON, or the like: said at its field before the server is asked. */
export class FieldError extends Error {
  constructor(field, key) {
    super(key);
    this.field = field;
    this.key = key;
  }
}

/** The target; null while nobody is chosen. */
export function targetOf(fields) {
  const { by } = fields;
  if (by === "all") return { all: true };
  if (by === "devices") {
    const devices = wordsIn(fields.devices);
    return devices.length > 0 ? { devices } : null;
  }
  const value = fields[by].trim();
  return value !== "" && SIMPLE_TARGETS.includes(by) ? { [by]: value } : null;
}

/** The push without its times. `target` instead of that of the fields. Throws FieldError. */
export function pushOf(fields, target = targetOf(fields)) {
  const push = { target, ...fields.extra };
  const notification = notificationOf(fields);
  if (shows(fields) && Object.keys(notification).length > 0) push.notification = notification;
  if (fields.template === "" || fields.kind !== "alert") push.kind = fields.kind;
  if (fields.template !== "") push.template = { name: fields.template, ...optional("values", valuesOf(fields.values)) };
  const data = jsonOf(fields.data, "data");
  if (data !== undefined) push.data = data;
  Object.assign(push, optional("channel", fields.channel.trim()), optional("collapse_key", fields.collapse_key.trim()));
  if (fields.priority !== "normal") push.priority = fields.priority;
  push.ttl = lifetimeOf(fields);
  if (fields.render) push.render = "liquid";
  if (isComposed(fields) && fields.on_missing !== "refuse") push.on_missing = fields.on_missing;
  return push;
}

/** Whether there is something to send. */
export function hasContent(fields) {
  if (fields.template !== "") return true;
  if (shows(fields)) return fields.title.trim() !== "" || fields.body.trim() !== "";
  return fields.data.trim() !== "" || fields.kind === "command";
}

export function shows({ kind }) {
  return kind === "alert" || kind === "in_app";
}

/** Whether its texts are put together for each device. */
export function isComposed(fields) {
  return fields.render || fields.template !== "";
}

/** Seconds; 0: now or never. */
export function lifetimeOf({ life, life_unit: unit }) {
  if (unit === "never") return 0;
  const amount = Number(life);
  if (life.trim() === "" || !Number.isFinite(amount)) throw new FieldError("life", "life_number");
  return Math.round(amount * SECONDS[unit]);
}

/** The fields that make it a schedule; empty for a push that is sent at once. `zone`: the viewer's. Throws FieldError. */
export function timesOf(fields, zone) {
  const times = {};
  if (fields.when === "at") times.send_at = instantOf(fields.at);
  if (fields.when === "local") {
    if (fields.local === "") throw new FieldError("local", "time_missing");
    times.send_at_local = fields.local;
  }
  const clock = fields.zone === "device" ? "device" : zone;
  if (fields.when === "repeat") times.repeat = { cron: cronOf(fields), zone: clock };
  if (fields.when !== "now") {
    if (fields.window_from !== "" || fields.window_to !== "") times.window = { from: fields.window_from, to: fields.window_to, zone: clock };
    if (fields.spread.trim() !== "") times.spread = Math.round(Number(fields.spread) * 60) || 0;
  }
  return times;
}

function cronOf({ repeat, repeat_time: time, cron }) {
  if (repeat === "cron") return cron;
  if (time === "") throw new FieldError("repeat_time", "time_missing");
  const [hour, minute] = time.split(":").map(Number);
  return `${minute} ${hour} * * ${{ daily: "*", weekdays: "1-5", mondays: "1" }[repeat]}`;
}

/** A point in time of what the viewer's clock shows. */
function instantOf(local) {
  const at = new Date(local);
  if (local === "" || Number.isNaN(at.getTime())) throw new FieldError("at", "time_missing");
  return at.toISOString();
}

function notificationOf(fields) {
  const actions = fields.actions.map((action) => ({
    id: action.id.trim(),
    title: action.title,
    ...optional("url", action.url.trim()),
    ...optional("input", action.input.trim()),
  }));
  const attachment = fields.attachment_url.trim() === "" ? "" : {
    url: fields.attachment_url.trim(),
    ...optional("name", fields.attachment_name),
    ...optional("content_type", fields.attachment_type),
    ...(fields.attachment_size === null ? {} : { size: fields.attachment_size }),
  };
  return {
    ...optional("title", fields.title),
    ...optional("body", fields.body),
    ...optional("image", fields.image.trim()),
    ...optional("url", fields.url.trim()),
    ...optional("attachment", attachment),
    ...(actions.length > 0 ? { actions } : {}),
  };
}

function optional(name, value) {
  return value === "" || value === undefined ? {} : { [name]: value };
}

/** "dish=fish" on each line. */
function valuesOf(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  if (lines.length === 0) return undefined;
  return Object.fromEntries(lines.map((line) => {
    const at = line.indexOf("=");
    if (at < 1) throw new FieldError("values", "values_form");
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  }));
}

function jsonOf(text, field) {
  if (text.trim() === "") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    throw new FieldError(field, "no_json");
  }
}

/** Fields that make a push like one that was sent, for those that missed it. */
export function fieldsOfPush(push) {
  const { notification = {} } = push;
  const [life, unit] = lifetimeFields(push.ttl);
  const attachment = notification.attachment ?? {};
  return {
    ...emptyFields(),
    by: "where", where: `missed('${push.push_id}')`,
    kind: push.kind,
    title: notification.title ?? "", body: notification.body ?? "", url: notification.url ?? "",
    image: addressOf(notification.image ?? ""),
    attachment_url: addressOf(attachment.url ?? ""), attachment_name: attachment.name ?? "",
    attachment_type: attachment.content_type ?? "", attachment_size: attachment.size ?? null,
    actions: (notification.actions ?? []).map(({ id, title, url = "", input = "" }) => ({ id, title, url, input })),
    // The texts of a push that was made with one are not kept: those of its template are.
    template: push.texts !== undefined && push.template ? push.template.name : "",
    channel: push.channel ?? "", priority: push.priority, collapse_key: push.collapse_key ?? "",
    data: push.data === undefined ? "" : JSON.stringify(push.data, null, 2),
    life, life_unit: unit,
    extra: push.deadline === undefined ? {} : { deadline: push.deadline },
  };
}

function addressOf(address) {
  const id = attachmentOf(address);
  return id === undefined ? address : `attachment:${id}`;
}

function lifetimeFields(ttl) {
  if (ttl === 0) return ["1", "never"];
  const unit = ["day", "hour"].find((each) => ttl % SECONDS[each] === 0) ?? "minute";
  return [String(ttl / SECONDS[unit]), unit];
}
