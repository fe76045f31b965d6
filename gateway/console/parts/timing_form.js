/** How long a push may come, in words; and when it is sent, with the next dates. */

import { html, update } from "../html.js";
import { lifetimeOf } from "../push_request.js";
import { t } from "../texts.js";
import { input, select } from "./field.js";
import { dateTime, duration, here, time } from "./time.js";

const UNITS = ["minute", "hour", "day", "never"];
const TIMES = ["now", "at", "local", "repeat"];
const REPEATS = ["daily", "weekdays", "mondays", "cron"];

/** The lifetime. Gives {node, draw()}: `draw` says it anew in words. */
export function lifetimeForm(fields) {
  const words = html`<p class="lifetime" role="status" data-keep></p>`;
  const amount = input({ label: t("compose.life"), name: "life", value: fields.life, type: "number", min: "0", step: "any" });
  const node = html`
    <div>
      <div class="pair">
        ${amount}
        ${select({ label: t("compose.life_unit"), name: "life_unit", value: fields.life_unit, options: UNITS.map((unit) => [unit, t(`compose.life_${unit}`)]) })}
      </div>
      ${words}
    </div>
  `;
  function draw() {
    amount.hidden = fields.life_unit === "never";
    try {
      const seconds = lifetimeOf(fields);
      if (seconds === 0) words.textContent = t("compose.life_none");
      else if (fields.when === "now") {
        words.textContent = t("compose.life_words", { life: duration(seconds), until: dateTime(new Date(Date.now() + seconds * 1000).toISOString()) });
      } else words.textContent = t("compose.life_words_later", { life: duration(seconds) });
    } catch {
      words.textContent = "";
    }
  }
  draw();
  return { node, draw };
}

/** When it is sent. Gives {node, dates(answer)}: `dates` shows those of a preview, null takes them away. */
export function scheduleForm(fields, changed) {
  const place = html`<div data-keep></div>`;
  const dates = html`<div class="dates" role="status" data-keep></div>`;

  function draw() {
    const rows = [];
    if (fields.when === "at") rows.push(input({ label: t("compose.at"), hint: t("compose.at_hint", { zone: here }), name: "at", type: "datetime-local", value: fields.at }));
    if (fields.when === "local") rows.push(input({ label: t("compose.local"), hint: t("compose.local_hint"), name: "local", type: "time", value: fields.local }));
    if (fields.when === "repeat") rows.push(...repetition());
    if (fields.when !== "now") rows.push(limits());
    place.replaceChildren(...rows);
  }

  function repetition() {
    const isCron = fields.repeat === "cron";
    return [
      select({
        label: t("compose.repeat"), name: "repeat", value: fields.repeat, options: REPEATS.map((each) => [each, t(`compose.repeat_${each}`)]),
        onchange: (event) => {
          fields.repeat = event.target.value;
          draw();
          changed();
          place.querySelector("[name=repeat]").focus();
        },
      }),
      isCron
        ? input({ label: t("compose.cron"), hint: t("compose.cron_hint"), name: "cron", value: fields.cron, spellcheck: "false", autocomplete: "off" })
        : input({ label: t("compose.repeat_time"), name: "repeat_time", type: "time", value: fields.repeat_time }),
      select({ label: t("compose.zone"), name: "zone", value: fields.zone, options: [["device", t("compose.zone_device")], ["viewer", t("compose.zone_viewer", { zone: here })]] }),
    ];
  }

  function limits() {
    return html`
      <details class="more" open=${fields.window_from !== "" || fields.spread !== "" || fields.name !== ""}>
        <summary>${t("compose.limits")}</summary>
        <div class="pair">
          ${input({ label: t("compose.window_from"), name: "window_from", type: "time", value: fields.window_from })}
          ${input({ label: t("compose.window_to"), name: "window_to", type: "time", value: fields.window_to })}
        </div>
        ${input({ label: t("compose.spread"), hint: t("compose.spread_hint"), name: "spread", type: "number", min: "0", max: "1440", value: fields.spread })}
        ${input({ label: t("compose.schedule_name"), name: "name", value: fields.name, autocomplete: "off" })}
      </details>
    `;
  }

  const node = html`
    <div>
      ${select({
        label: t("compose.when"), name: "when", value: fields.when, options: TIMES.map((when) => [when, t(`compose.when_${when}`)]),
        onchange: (event) => {
          fields.when = event.target.value;
          draw();
          changed();
        },
      })}
      ${place}${dates}
    </div>
  `;
  draw();
  return {
    node,
    dates(answer) {
      if (answer === null) return update(dates);
      if (answer.next.length === 0) return update(dates, html`<p>${t("compose.no_dates")}</p>`);
      update(dates, html`<p>${t("compose.next_dates")}</p>`, html`<ol>${answer.next.map((at) => html`<li>${time(at, { exact: true })}</li>`)}</ol>`,
        fields.when === "local" || fields.zone === "device" ? html`<p class="hint">${t("compose.first_device")}</p>` : null);
    },
  };
}
