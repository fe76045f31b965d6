/** What is done to one device: a test push, a command, changes, a new token, its removal, and its mailbox. */

import { path } from "../api.js";
import { html, update } from "../html.js";
import { confirm, dialog } from "./dialog.js";
import { input, select, setError, textarea, wordsIn } from "./field.js";
import { submission } from "./form.js";
import { explainDelivery } from "./explanation.js";
import { shown } from "./timeline.js";
import { toast } from "./toast.js";

const TEST_TTL = 600;
const CALL_WAITS = ["5", "10", "20"];

/** A form in a dialog: `fields` are its nodes; `act(elements)` gives what the dialog answers, undefined to stay open. */
function formDialog(view, title, verb, fields, act) {
  const { t, signal } = view;
  return dialog(title, (close) => {
    const { button, refusal, submit } = submission({
      verb,
      act: async (elements) => {
        const answer = await act(elements);
        if (answer !== undefined) close(answer);
      },
    });
    return html`
      <form onsubmit=${submit}>
        ${fields}
        ${refusal}
        <div class="buttons"><button type="button" onclick=${() => close()}>${t("common.cancel")}</button>${button}</div>
      </form>`;
  }, signal);
}

/** Send a push to the device alone; the screen then follows it. */
export async function testPush(view, device) {
  const { t, api } = view;
  const sent = await formDialog(view, t("device.test_title"), t("device.test_verb"), [
    html`<p>${t("device.test_sentence", { name: device.name ?? device.device_id })}</p>`,
    input({ label: t("device.test_heading"), name: "title", value: t("device.test_default"), required: true, maxlength: 200 }),
    textarea({ label: t("device.test_body"), name: "body", value: t("device.test_default_body"), maxlength: 1000 }),
  ], ({ title, body }) =>
    api.post("/v1/pushes", {
      target: { device: device.device_id },
      notification: { title: title.value, ...(body.value && { body: body.value }) },
      ttl: TEST_TTL,
    }));
  if (sent !== null) view.go(`devices/${device.device_id}`, { push: sent.push_id });
}

/** Send a command, wait for the answer, and show it. */
export async function callCommand(view, device) {
  const { t, api } = view;
  const answer = html`<div role="status"></div>`;
  await formDialog(view, t("device.call_title"), t("device.call_verb"), [
    html`<p>${t("device.call_sentence")}</p>`,
    input({ label: t("device.command"), name: "command", required: true, pattern: "[A-Za-z0-9_.:\\-]{1,64}", autocomplete: "off", autocapitalize: "none" }),
    textarea({ label: t("device.command_data"), name: "data", value: "{}", spellcheck: "false", hint: t("device.command_data_hint") }),
    select({ label: t("device.wait"), name: "wait", value: "10", options: CALL_WAITS.map((n) => [n, t("device.wait_seconds", { n: Number(n) })]) }),
    answer,
  ], async ({ command, data, wait }) => {
    let values;
    try {
      values = JSON.parse(data.value || "{}");
      if (values === null || typeof values !== "object" || Array.isArray(values)) throw new SyntaxError("an object");
      setError(data, null);
    } catch {
      setError(data, t("device.no_object"));
      return undefined;
    }
    update(answer, html`<p>${t("device.call_waiting")}</p>`);
    try {
      const found = await api.post(path`/v1/devices/${device.device_id}/call`, { command: command.value.trim(), data: values, wait: Number(wait.value) });
      update(answer, callAnswer(view, found, device));
    } catch (error) {
      update(answer);
      throw error;
    }
    return undefined; // the answer stays, and one can ask again
  });
}

function callAnswer({ t, href }, found, device) {
  const { why, todo } = explainDelivery({ ...found, qos: 1 }, device.online);
  return html`
    <h3>${t(`device.call_${found.status}`)}</h3>
    ${found.status === "answered"
      ? html`<pre class="answer">${shown(found.result)}</pre>`
      : html`<p>${why}</p><p>${todo}</p>`}
    <p><a href=${href(`devices/${device.device_id}`, { push: found.push_id })}>${t("device.call_look")}</a></p>`;
}

/** Change what is known of it. The promise is true when something was changed. */
export function edit(view, device) {
  const { t, api } = view;
  return formDialog(view, t("device.edit_title"), t("device.save"), [
    input({ label: t("device.name"), name: "name", value: device.name ?? "", maxlength: 128 }),
    input({ label: t("device.tags"), name: "tags", value: device.tags.join(", "), hint: t("device.tags_hint"), autocapitalize: "none" }),
    input({ label: t("device.zone"), name: "timezone", value: device.timezone ?? "", hint: t("device.zone_hint"), autocomplete: "off" }),
    input({ label: t("device.locale"), name: "locale", value: device.locale ?? "", hint: t("device.locale_hint"), autocomplete: "off" }),
  ], async ({ name, tags, timezone, locale }) => {
    await api.patch(path`/v1/devices/${device.device_id}`, {
      name: name.value.trim() || null,
      tags: wordsIn(tags.value),
      timezone: timezone.value.trim() || null,
      locale: locale.value.trim() || null,
    });
    return true;
  });
}

/** Give it a new token, and show that once. */
export async function rotate(view, device) {
  const { t, api, signal } = view;
  const credential = await confirm({
    title: t("device.rotate_title"),
    sentence: t("device.rotate_sentence"),
    names: [device.device_id],
    verb: t("device.rotate_verb"),
    act: () => api.post(path`/v1/devices/${device.device_id}/token`),
    signal,
  });
  if (credential === null) return;
  await dialog(t("device.token_title"), (close) => html`
    <p>${t("device.token_sentence")}</p>
    <dl>
      <dt>${t("device.token")}</dt><dd><code class="token">${credential.token}</code></dd>
      <dt>${t("device.user")}</dt><dd><code>${credential.mqtt.username}</code></dd>
      <dt>${t("device.server")}</dt><dd><code>${credential.mqtt.host}:${credential.mqtt.port}</code></dd>
    </dl>
    <div class="buttons"><button type="button" class="primary" onclick=${() => close()}>${t("common.close")}</button></div>`, signal);
}

export async function revoke(view, device) {
  const { t, api, signal } = view;
  const done = await confirm({
    title: t("device.revoke_title"),
    sentence: t("device.revoke_sentence"),
    names: [device.name === null ? device.device_id : `${device.name} (${device.device_id})`],
    verb: t("device.revoke_verb"),
    act: async () => {
      await api.delete(path`/v1/devices/${device.device_id}`);
      return true;
    },
    signal,
  });
  if (done === null) return;
  toast(t("device.revoked", { name: device.device_id }));
  view.go("fleet");
}

/** Cancel all that waits. The promise is true when it was done. */
export async function emptyMailbox(view, device, waiting) {
  const { t, api, signal } = view;
  const done = await confirm({
    title: t("device.empty_title"),
    sentence: t("device.empty_sentence"),
    names: waiting.map(({ push_id }) => push_id),
    verb: t("device.empty_verb"),
    act: () => api.delete(path`/v1/devices/${device.device_id}/mailbox`),
    signal,
  });
  if (done !== null) toast(t("device.emptied", { n: done.cancelled }));
  return done !== null;
}

/** Cancel one push for this device. The promise is true when it was tried. */
export async function cancelWaiting(view, device, entry) {
  const { t, api, signal } = view;
  const done = await confirm({
    title: t("device.cancel_title"),
    sentence: t("device.cancel_sentence", { name: device.name ?? device.device_id }),
    names: [entry.push_id],
    verb: t("device.cancel_verb"),
    act: () => api.delete(path`/v1/devices/${device.device_id}/mailbox/${entry.push_id}`),
    signal,
  });
  if (done === null) return false;
  const outcome = done.cancelled ? "cancelled" : done.in_flight ? "in_flight" : "too_late";
  toast(t(`device.cancel_${outcome}`), { failed: !done.cancelled });
  return true;
}
