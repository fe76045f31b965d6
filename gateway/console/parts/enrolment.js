/**
 * Enrolling one device: a code as a QR code and in letters, good for one device, and a look whether it was used.
 *
 * The code is shown this once. It stays on the screen until the dialog is closed, and is nowhere else in the page.
 */

import { html, update } from "../html.js";
import { every } from "../live.js";
import { dialog } from "./dialog.js";
import { input, select, wordsIn } from "./field.js";
import { submission } from "./form.js";
import { explain } from "./problem.js";
import { time } from "./time.js";

const LOOK_SECONDS = 3;
const HOUR = 3600;

/** Ask what the device shall be, and show its code. */
export async function enrol(view) {
  const { t, api, signal } = view;
  const closed = new AbortController();
  await dialog(t("enrolment.title"), (close) => {
    const place = html`<div class="enrolment"></div>`;
    const { button, refusal, submit } = submission({
      verb: t("enrolment.make"),
      act: async ({ device_id, name, tags, expires }) => {
        const { invitations } = await api.post("/v1/invitations", {
          ...(device_id.value.trim() && { device_id: device_id.value.trim() }),
          ...(name.value.trim() && { name: name.value.trim() }),
          tags: wordsIn(tags.value),
          expires_in: Number(expires.value),
          qr: true,
        });
        update(place, code(view, invitations[0], close, AbortSignal.any([signal, closed.signal])));
      },
    });
    place.append(html`
      <form onsubmit=${submit}>
        <p>${t("enrolment.sentence")}</p>
        ${input({ label: t("enrolment.device_id"), name: "device_id", hint: t("enrolment.device_id_hint"), pattern: "[A-Za-z0-9_\\-]{1,64}", autocomplete: "off", autocapitalize: "none", autofocus: true })}
        ${input({ label: t("enrolment.name"), name: "name", maxlength: 128, autocomplete: "off" })}
        ${input({ label: t("enrolment.tags"), name: "tags", hint: t("enrolment.tags_hint"), autocomplete: "off", autocapitalize: "none" })}
        ${select({ label: t("enrolment.expires"), name: "expires", value: String(24 * HOUR), options: [
          [String(HOUR), t("enrolment.hour")], [String(24 * HOUR), t("enrolment.day")], [String(7 * 24 * HOUR), t("enrolment.week")],
        ] })}
        ${refusal}
        <div class="buttons"><button type="button" onclick=${() => close()}>${t("common.cancel")}</button>${button}</div>
      </form>`);
    return place;
  }, signal);
  closed.abort();
}

function code(view, made, close, signal) {
  const { t, api, href } = view;
  const state = html`<p class="state" role="status">${t("enrolment.waiting")}</p>`;
  const look = async () => {
    const { items } = await api.get("/v1/invitations", { batch: made.batch, limit: 1 });
    const found = items[0];
    if (found?.state !== "used") return false;
    update(state, t.parts("enrolment.used", { device: html`<a href=${href(`devices/${found.device_id}`)} onclick=${() => close()}>${found.device_id}</a>` }));
    state.dataset.state = "used";
    return true;
  };
  every(LOOK_SECONDS, look, signal).catch((error) => {
    if (error.name !== "AbortError") state.textContent = explain(error);
  });
  return html`
    <div class="made">
      <img class="qr" alt=${t("enrolment.qr")} src=${`data:image/svg+xml;charset=utf-8,${encodeURIComponent(made.qr.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" '))}`} />
      <p>${t("enrolment.scan")}</p>
      <p class="letters"><code>${made.code}</code></p>
      <p class="address"><code>${made.url}</code></p>
      <p class="quiet">${t.parts("enrolment.until", { at: time(made.expires_at, { exact: true }) })}</p>
      ${state}
      <div class="buttons"><button type="button" class="primary" onclick=${() => close()}>${t("common.close")}</button></div>
    </div>`;
}
