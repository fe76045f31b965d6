/**
 * Write a push, see what a device would get and who would get it, try it on one device, and send it, or hand it to a
 * second person.
 *
 * What is written is a draft (drafts.js): the address has its id, and each change is kept. After a pause the server is
 * asked what it thinks of the whole: the forecast, the preview for a device, and the next dates. Its refusals are shown at
 * the field that they name.
 */

import { path } from "../api.js";
import { Draft } from "../drafts.js";
import { html, update } from "../html.js";
import { connection, unhurried } from "../live.js";
import { badge } from "../parts/badge.js";
import { confirm } from "../parts/dialog.js";
import { setError } from "../parts/field.js";
import { ENDS } from "../parts/funnel.js";
import { forgetsToRender, messageForm } from "../parts/message_form.js";
import { drawNotification } from "../parts/notification.js";
import { problem } from "../parts/problem.js";
import { offeredInput, targetForm } from "../parts/target_form.js";
import { targetWords } from "../parts/target.js";
import { duration, here } from "../parts/time.js";
import { lifetimeForm, scheduleForm } from "../parts/timing_form.js";
import { toast, toastError } from "../parts/toast.js";
import { FieldError, emptyFields, fieldsOfPush, hasContent, isComposed, lifetimeOf, pushOf, shows, targetOf, timesOf } from "../push_request.js";

export const texts = ["compose", "expression", "targets", "notification"];
export const styles = ["pushes", "compose", "expression"];

const PAUSE_MS = 400;
const REFRESH_SECONDS = 20;
const TEST_LOOK_SECONDS = 1;
/** Looks at a test before its person has to ask again: two minutes. */
const TEST_LOOKS = 120;
/** From so many devices on the number is typed before it is sent. */
const MANY_DEVICES = 1_000;
const NAMED_DEVICES = 5;
const TEST_DEVICE = "fleetpush.console.test_device";
const LAST_STATES = [...ENDS, "acted", "dismissed"];
/** Start of a problem's place -> the field it is shown at. */
const FIELD_OF = [
  [/^target/, "target"], [/^notification\.title/, "title"], [/^notification\.body/, "body"], [/^notification\.image/, "image"],
  [/^notification\.url/, "url"], [/^notification\.attachment\.name/, "attachment_name"], [/^notification\.attachment/, "attachment_url"],
  [/^notification\.actions\.(\d+)\.(\w+)/, "action"], [/^notification/, "body"], [/^data/, "data"], [/^channel/, "channel"],
  [/^collapse_key/, "collapse_key"], [/^ttl/, "life"], [/^template/, "template"], [/^send_at_local/, "local"], [/^send_at/, "at"],
  [/^repeat/, "cron"], [/^window/, "window_from"], [/^spread/, "spread"], [/^name/, "name"],
];
const OF_TARGET = ["invalid_expression", "device_not_found", "segment_not_found", "duty_not_found"];

export async function open(view) {
  const draft = await draftOf(view);
  if (view.query.get("draft") !== draft.id) view.replaceQuery({ draft: draft.id });
  await new Composer(view, draft).open();
}

/** The draft that the address names; else a new one of what it asks for; else the newest that is not sent. */
async function draftOf(view) {
  const { query, session } = view;
  const named = query.get("draft") && Draft.find(session, query.get("draft"));
  if (named) return named;
  let fields = null;
  if (query.get("again")) {
    const push = await view.api.get(path`/v1/pushes/${query.get("again")}`);
    if (push.texts !== undefined && !push.template) toast(view.t("compose.again_texts"), { failed: true });
    fields = fieldsOfPush(push);
  }
  for (const by of ["device", "tag", "topic", "segment", "where"]) {
    if (query.get(by)) fields = { ...(fields ?? emptyFields()), by, [by]: query.get(by) };
  }
  if (fields === null && !query.get("new") && !query.get("draft")) {
    const newest = Draft.newest(session);
    if (newest !== null) return newest;
  }
  const draft = Draft.begin(session, fields ?? emptyFields());
  draft.fields.device_test = localStorage.getItem(TEST_DEVICE) ?? "";
  draft.save();
  return draft;
}

class Composer {
  constructor(view, draft) {
    this.view = view;
    this.t = view.t;
    this.draft = draft;
    this.fields = { ...emptyFields(), ...draft.fields };
    draft.fields = this.fields;
    this.asked = 0;
    this.forecast = null;
    this.examples = [];
    this.timer = null;
  }

  async open() {
    this.frame();
    if (this.draft.sent !== null) return this.drawSent();
    if (this.draft.attempt !== null) return this.resume();
    connection.addEventListener("change", () => connection.lost || this.form.inert || void this.check(), { signal: this.view.signal });
    await this.view.every(REFRESH_SECONDS, unhurried(() => (this.asked === 0 ? this.check() : this.refresh())));
  }

  /** Who is connected changes while one writes. */
  async refresh() {
    if (this.forecast === null || this.form.inert) return;
    const mine = this.asked;
    const forecast = await this.view.api.post("/v1/pushes/forecast", hasContent(this.fields) ? pushOf(this.fields) : { target: targetOf(this.fields), kind: "silent" });
    if (mine !== this.asked || this.forecast === null) return;
    this.forecast = forecast;
    this.drawReach(forecast);
    this.drawSummary();
  }

  frame() {
    const { view, t, fields } = this;
    const changed = () => this.changed();
    this.target = targetForm(view, fields, changed);
    this.lifetime = lifetimeForm(fields);
    this.schedule = scheduleForm(fields, changed);
    const section = (name, ...content) => html`<fieldset class="part" data-part=${name}><legend>${t(`compose.part_${name}`)}</legend>${content}</fieldset>`;
    update(view.root, html`
      <div class="row spread">
        <h1>${t("compose.title")}</h1>
        <button type="button" class="new-draft" onclick=${() => void view.go("compose", { new: 1 })}>${t("compose.new")}</button>
      </div>
      <div class="progress" data-keep></div>
      <form class="compose" novalidate oninput=${(event) => this.typed(event)} onsubmit=${(event) => event.preventDefault()}>
        <div class="writing" data-keep>
          ${section("target", this.target.node)}
          ${section("message", messageForm(view, fields, changed))}
          ${section("lifetime", this.lifetime.node)}
          ${section("schedule", this.schedule.node)}
        </div>
        <div class="looking">
          <section class="card reach-card" aria-labelledby="reach-title"><h2 id="reach-title">${t("compose.reach")}</h2><div class="reach-place" role="status"></div></section>
          <section class="card preview-card" aria-labelledby="preview-title"><h2 id="preview-title">${t("compose.preview")}</h2>
            <div class="preview-device" data-keep>${this.deviceInput("device_preview", t("compose.preview_device"), t("compose.preview_device_hint"))}</div>
            <div class="preview" data-keep></div>
          </section>
          <section class="card test-card" aria-labelledby="test-title"><h2 id="test-title">${t("compose.test")}</h2>
            <div data-keep>${this.deviceInput("device_test", t("compose.test_device"), null)}
              <button type="button" class="test" onclick=${() => void this.sendTest()}>${t("compose.test_send")}</button></div>
            <div class="test-result" role="status" data-keep></div>
          </section>
          <section class="card send-card" aria-labelledby="send-title"><h2 id="send-title">${t("compose.send_title")}</h2><div class="refusal" data-keep></div><div class="summary"></div></section>
        </div>
      </form>
    `);
    this.places = Object.fromEntries(
      ["progress", "reach-place", "preview", "test-result", "refusal", "summary"].map((name) => [name, view.root.querySelector(`.${name}`)]),
    );
    this.form = view.root.querySelector("form");
    this.drawSummary();
  }

  deviceInput(name, label, hint) {
    return offeredInput({
      api: this.view.api, label, hint, name, value: this.fields[name],
      offer: async (api, begun) => {
        if (begun === "" && this.examples.length > 0) return this.examples.map((id) => [id, ""]);
        return (await api.get("/v1/devices", { q: begun || null, limit: 20 })).items.map(({ device_id: id, name: called }) => [id, called ?? ""]);
      },
    });
  }

  typed({ target }) {
    if (Object.hasOwn(this.fields, target.name) && target.type !== "file") {
      this.fields[target.name] = target.type === "checkbox" ? target.checked : target.value;
    }
    if (target.name === "device_test") this.draft.save();
    else if (target.name === "device_preview") this.soon();
    else this.changed();
  }

  /** Something else is to be sent: what was tried and counted is another push now. */
  changed() {
    this.draft.tested = null;
    this.lifetime.draw();
    this.forecast = null;
    this.drawSummary();
    this.soon();
  }

  /** Keep what is written, and ask after a pause. */
  soon() {
    this.draft.save();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.check(), PAUSE_MS);
  }

  // What the server thinks of it

  async check() {
    const mine = ++this.asked;
    const { fields, view } = this;
    const isStale = () => mine !== this.asked || view.signal.aborted;
    this.clearErrors();
    const target = targetOf(fields);
    let push;
    let times;
    try {
      // A target alone can be counted: whom it is for is known before the words are.
      push = hasContent(fields) ? pushOf(fields) : { target, kind: "silent" };
      times = timesOf(fields, here);
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      this.setFieldError(error.field, this.t(`compose.${error.key}`));
      return this.drawReach(null);
    }
    const looks = [this.lookAtReach(target, push, isStale), this.lookAtDates(target, push, times, isStale)];
    await Promise.all(looks).catch((error) => {
      if (error.name !== "AbortError") console.error(error);
    });
    if (!isStale()) await this.lookAtPreview(push, isStale);
  }

  async lookAtReach(target, push, isStale) {
    if (target === null) return this.drawReach(null);
    try {
      const forecast = await this.view.api.post("/v1/pushes/forecast", push);
      if (isStale()) return;
      this.forecast = forecast;
      this.drawReach(forecast);
      this.drawSummary();
      const examples = await this.examplesOf(target).catch(() => []);
      if (!isStale()) this.examples = examples;
    } catch (error) {
      if (isStale()) return;
      this.drawReach(null);
      this.placeError(error);
    }
  }

  /** Some devices that it is for: to preview it with, and to name before it is sent. */
  async examplesOf(target) {
    const { api } = this.view;
    const ids = ({ items }) => items.map((item) => item.device_id);
    const page = { limit: NAMED_DEVICES };
    if (target.device) return [target.device];
    if (target.devices) return target.devices.slice(0, NAMED_DEVICES);
    if (target.tag) return ids(await api.get("/v1/devices", { ...page, tag: target.tag }));
    if (target.topic) return ids(await api.get(path`/v1/topics/${target.topic}/devices`, page));
    if (target.segment) return (await api.get(path`/v1/segments/${target.segment}`)).examples;
    if (target.where) return (await api.post("/v1/segments/preview", { expression: target.where })).examples;
    return ids(await api.get("/v1/devices", page));
  }

  async lookAtDates(target, push, times, isStale) {
    if (target === null || Object.keys(times).length === 0 || !hasContent(this.fields)) return this.schedule.dates(null);
    try {
      const answer = await this.view.api.post("/v1/schedules/preview", { push: { ...push, ...times } });
      if (!isStale()) this.schedule.dates(answer);
    } catch (error) {
      if (isStale()) return;
      this.schedule.dates(null);
      this.placeError(error);
    }
  }

  async lookAtPreview(push, isStale) {
    const { fields, places, t } = this;
    if (!hasContent(fields)) return update(places.preview, html`<p class="quiet">${t("compose.nothing_yet")}</p>`);
    const device = fields.device_preview.trim() || this.examples[0];
    if (!isComposed(fields) || device === undefined) {
      const hint = isComposed(fields) ? html`<p class="quiet">${t("compose.preview_needs_device")}</p>` : null;
      return update(places.preview, hint, drawNotification(push, this.view.api), this.renderHint());
    }
    try {
      const shown = await this.view.api.post("/v1/pushes/preview", { push, device });
      if (isStale()) return;
      const missing = shown.missing.map(({ variable, where }) => html`<li data-variable=${variable}><code>${variable}</code> (${where})</li>`);
      update(
        places.preview,
        html`<p class="quiet">${t("compose.preview_of", { device })}</p>`,
        missing.length > 0 ? html`<div class="problem missing" role="alert"><p>${t("compose.lacks", { device })}</p><ul>${missing}</ul></div>` : null,
        shown.push && drawNotification(shown.push, this.view.api),
        shown.push && html`<p class="hint">${t("compose.bytes", { n: shown.size })}</p>`,
      );
    } catch (error) {
      if (isStale()) return;
      update(places.preview, problem(error));
    }
  }

  renderHint() {
    return forgetsToRender(this.fields) ? html`<p class="hint">${this.t("compose.render_forgotten")}</p>` : null;
  }

  drawReach(forecast) {
    const { t } = this;
    if (forecast === null) return update(this.places["reach-place"], html`<p class="quiet">${t("compose.reach_unknown")}</p>`);
    const suppressed = Object.entries(forecast.suppressed).filter(([, n]) => n > 0);
    const held = ["capped", "quiet_hours"].flatMap((rule) => ["dropped", "deferred"].map((how) => [`${rule}_${how}`, forecast[rule][how]])).filter(([, n]) => n > 0);
    update(
      this.places["reach-place"],
      html`<p class="count" data-count=${forecast.targeted}><b>${t("compose.devices", { n: forecast.targeted })}</b>, ${t("compose.online", { n: forecast.online })}</p>`,
      forecast.targeted > 0 && html`<p>${t("compose.likely", { n: forecast.likely })}${forecast.will_expire > 0 ? ` ${t("compose.will_expire", { n: forecast.will_expire })}` : ""}${
        forecast.unknown_presence > 0 ? ` ${t("compose.unknown_presence", { n: forecast.unknown_presence })}` : ""}</p>`,
      suppressed.map(([reason, n]) => html`<p>${badge("suppressed", reason)} ${t("compose.devices", { n })}</p>`),
      held.map(([rule, n]) => html`<p>${t(`compose.${rule}`, { n })}</p>`),
      forecast.unknown.length > 0 && html`<p class="error">${t("compose.unknown_devices", { n: forecast.unknown.length, names: forecast.unknown.slice(0, NAMED_DEVICES).join(", ") })}</p>`,
      forecast.missing?.length > 0 && html`
        <div class="problem missing"><ul>${forecast.missing.map((one) => html`
          <li data-variable=${one.variable}>${t("compose.devices_lack", { n: one.devices, variable: one.variable, names: one.examples.join(", ") })}</li>`)}</ul></div>`,
      forecast.texts > 1 && html`<p class="quiet">${t("compose.different_texts", { n: forecast.texts })}</p>`,
    );
  }

  // What is wrong, where it is

  clearErrors() {
    this.target.show(null);
    for (const control of this.form.querySelectorAll("[aria-invalid]")) setError(control, null);
    update(this.places.refusal);
  }

  placeError(error) {
    if (error.name === "AbortError") return;
    if (OF_TARGET.includes(error.code)) return this.target.show(error);
    if (error.code !== "invalid_request") return update(this.places.refusal, problem(error));
    const rest = error.detail.split("; ").filter((line) => !this.placeLine(line));
    if (rest.length > 0) update(this.places.refusal, html`<div class="problem" role="alert"><p>${rest.join("; ")}</p></div>`);
  }

  /** Show a line of a refusal at the field that it begins with; whether there is one. */
  placeLine(line) {
    const [, place, sentence] = /^(?:push\.)?([\w.]+): ([^]*)$/.exec(line) ?? [];
    const [pattern, field] = FIELD_OF.find(([begins]) => place !== undefined && begins.test(place)) ?? [];
    if (field === undefined) return false;
    if (field === "target") {
      this.target.show({ detail: sentence });
      return true;
    }
    const [, at, part] = pattern.exec(place);
    return this.setFieldError(field === "action" ? `action-${at}-${part}` : field, sentence);
  }

  setFieldError(name, sentence) {
    const control = this.form.querySelector(`[name="${name}"]`);
    if (control === null || control.id === "") return false;
    setError(control, sentence);
    return true;
  }

  // Try it

  async sendTest() {
    const device = this.fields.device_test.trim();
    if (device === "") return this.setFieldError("device_test", this.t("compose.test_device_missing"));
    if (!this.isWritten()) return;
    localStorage.setItem(TEST_DEVICE, device);
    this.draft.attemptOf("test", "/v1/pushes", pushOf(this.fields, { device }));
    await this.deliver();
  }

  async followTest(pushId) {
    const { view, t, places } = this;
    const failed = (error) => update(places["test-result"], problem(error));
    let looks = 0;
    const look = async () => {
      looks += 1;
      const { items } = await view.api.get(path`/v1/pushes/${pushId}/deliveries`);
      const [delivery] = items;
      update(places["test-result"], html`
        <p>${delivery === undefined ? null : badge(delivery.state, delivery.reason)} <a href=${view.href(`pushes/${pushId}`)}>${t("compose.test_push")}</a></p>`);
      return delivery === undefined || LAST_STATES.includes(delivery.state) || looks >= TEST_LOOKS;
    };
    await view.every(TEST_LOOK_SECONDS, look, failed).catch((error) => error.name === "AbortError" || failed(error));
  }

  // Send it

  isWritten() {
    if (targetOf(this.fields) === null) this.target.show({ detail: this.t("compose.target_missing") });
    else if (!hasContent(this.fields)) this.setFieldError(shows(this.fields) ? "title" : "data", this.t("compose.content_missing"));
    else return true;
    return false;
  }

  drawSummary() {
    const { t, fields, forecast } = this;
    const target = targetOf(fields);
    const mayApprove = fields.when === "now" || fields.when === "at";
    update(
      this.places.summary,
      target !== null && html`<p>${t(`compose.summary_${fields.when}`, { target: targetWords(target) })}</p>`,
      this.draft.tested === null ? html`<p class="hint">${t("compose.not_tested")}</p>` : html`<p class="hint">${t("compose.tested", { device: this.draft.tested })}</p>`,
      forecast === null && html`<p class="hint">${t("compose.not_ready")}</p>`,
      html`<div class="buttons">
        <button type="button" class="primary send" disabled=${forecast === null} onclick=${() => void this.send()}>${
          fields.when === "now" ? (forecast === null ? t("compose.send") : t("compose.send_to", { n: forecast.targeted })) : t("compose.plan")}</button>
        <button type="button" class="approve" disabled=${forecast === null || !mayApprove} onclick=${() => void this.handOver()}>${t("compose.hand_over")}</button>
      </div>`,
      !mayApprove && html`<p class="hint">${t("compose.no_hand_over")}</p>`,
    );
  }

  async send() {
    if (!this.isWritten() || this.forecast === null) return;
    const { t, fields } = this;
    const times = timesOf(fields, here);
    const isPlanned = Object.keys(times).length > 0;
    const push = pushOf(fields);
    const request = isPlanned
      ? ["schedule", "/v1/schedules", { ...(fields.name.trim() === "" ? {} : { name: fields.name.trim() }), push: { ...push, ...times } }]
      : ["send", "/v1/pushes?forecast=true", push];
    await this.ask(t(isPlanned ? "compose.plan_question" : "compose.send_question"), isPlanned ? t("compose.plan") : t("compose.send"), request);
  }

  async handOver() {
    if (!this.isWritten() || this.forecast === null) return;
    const { fields, t } = this;
    const { send_at: sendAt } = timesOf(fields, here);
    const name = (fields.name.trim() || fields.title.trim() || targetWords(targetOf(fields))).slice(0, 128);
    const campaign = { name, push: pushOf(fields), ask_approval: true, ...(sendAt === undefined ? {} : { send_at: sendAt }) };
    await this.ask(t("compose.hand_over_question"), t("compose.hand_over"), ["approve", "/v1/campaigns", campaign]);
  }

  /** Say the number and the names, and send when its person says so. */
  async ask(title, verb, request) {
    const { t, forecast } = this;
    const words = [t("compose.question", { n: forecast.targeted, target: targetWords(targetOf(this.fields)) })];
    if (request[0] === "send") words.push(t("compose.question_life", { life: duration(lifetimeOf(this.fields)) }));
    if (this.draft.tested === null) words.push(t("compose.not_tested"));
    const yes = await confirm({
      title,
      sentence: words.join(" "),
      names: this.examples,
      count: forecast.targeted,
      verb,
      danger: false,
      typed: forecast.targeted >= MANY_DEVICES ? String(forecast.targeted) : null,
      act: () => {
        if (this.draft.attempt === null) this.draft.attemptOf(...request);
      },
      signal: this.view.signal,
    });
    if (yes !== null) await this.deliver();
  }

  async resume() {
    if (this.draft.mayRepeat) return this.deliver();
    const { t } = this;
    this.lock(true);
    update(this.places.progress, html`
      <div class="problem" role="alert">
        <p>${t("compose.too_old")}</p>
        <div class="buttons">
          <a class="button" href=${this.view.href("pushes")}>${t("compose.look_it_up")}</a>
          <button type="button" onclick=${() => this.unlock()}>${t("compose.was_not_sent")}</button>
        </div>
      </div>`);
  }

  unlock() {
    this.draft.forget();
    this.lock(false);
    update(this.places.progress);
    void this.check();
  }

  /** Send what is stored of the attempt; until its answer is there, nothing else of the draft can be sent or changed. */
  async deliver() {
    const { view, draft, t, places } = this;
    const { what, body } = draft.attempt;
    this.lock(true);
    update(places.progress, html`<p class="card" role="status">${t("compose.sending")}</p>`);
    try {
      const answer = await draft.deliver(() => update(places.progress, html`<div class="problem unanswered" role="alert"><p>${t("compose.no_answer")}</p></div>`));
      if (what === "test") this.tested(answer, body);
      else this.sent(what, answer);
    } catch (error) {
      if (view.signal.aborted) return toastError(error);
      this.lock(false);
      update(places.progress);
      this.refused(error);
    }
  }

  tested(answer, body) {
    this.draft.tested = body.target.device;
    this.draft.save();
    if (this.view.signal.aborted) return;
    this.lock(false);
    update(this.places.progress);
    this.drawSummary();
    void this.followTest(answer.push_id);
  }

  sent(what, answer) {
    const to = { send: () => `pushes/${answer.push_id}`, schedule: () => `schedules/${answer.schedule_id}`, approve: () => `campaigns/${answer.campaign_id}` }[what]();
    this.draft.sent = { what, to };
    this.draft.fields = emptyFields();
    this.draft.save();
    toast(this.t(`compose.done_${what}`, { n: answer.targeted ?? 0 }));
    if (!this.view.signal.aborted) void this.view.go(to);
  }

  refused(error) {
    if (error.code === "idempotency_key_reused") {
      update(this.places.refusal, html`
        <div class="problem" role="alert"><p>${this.t("compose.key_reused")}</p>
          <button type="button" onclick=${() => this.unlock()}>${this.t("compose.send_as_new")}</button></div>`);
    } else if (error.code === "approval_needed") {
      update(this.places.refusal, html`<div class="problem" role="alert"><p>${this.t("compose.approval_needed")}</p><p class="quiet">${error.detail}</p></div>`);
    } else this.placeError(error);
    this.view.root.querySelector("[aria-invalid=true], .refusal .problem")?.scrollIntoView({ block: "center" });
  }

  lock(isLocked) {
    this.form.inert = isLocked;
    this.form.toggleAttribute("aria-busy", isLocked);
  }

  /** Back at a draft that was sent. */
  drawSent() {
    const { sent } = this.draft;
    this.form.remove();
    update(this.places.progress, html`
      <div class="card"><p>${this.t(`compose.was_${sent.what}`)}</p>
        <div class="buttons"><a class="button" href=${this.view.href(sent.to)}>${this.t("compose.see_it")}</a></div></div>`);
  }
}
