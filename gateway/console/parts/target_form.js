/** Whom a push is for: chosen from what there is, or by an expression. */

import { html, listen, update } from "../html.js";
import { t } from "../texts.js";
import { expressionField } from "./expression.js";
import { input, select, setError, textarea } from "./field.js";

const WAYS = ["device", "devices", "tag", "topic", "segment", "where", "all"];
const OFFERED = 50;
const PAUSE_MS = 250;
let number = 0;

/** How each is offered: (api, begun) -> [[value, note]]. */
const OFFERS = {
  device: async (api, begun) => (await api.get("/v1/devices", { q: begun || null, limit: OFFERED })).items.map(({ device_id: id, name }) => [id, name ?? ""]),
  tag: async (api, begun) => (await api.get("/v1/tags", { prefix: begun || null, limit: OFFERED })).items.map(({ tag, devices }) => [tag, t("compose.devices", { n: devices })]),
  topic: async (api) => (await api.get("/v1/topics", { limit: OFFERED })).items.map(({ topic, devices }) => [topic, t("compose.devices", { n: devices })]),
  segment: async (api) => (await api.get("/v1/segments", { limit: OFFERED })).items.map(({ name, expression }) => [name, expression]),
};

/** The form. `fields`: of the draft, which it changes; `changed()`: after that. Gives {node, show(problem)}. */
export function targetForm(view, fields, changed) {
  const place = html`<div data-keep></div>`;
  let shown = null;

  function draw() {
    shown = null;
    const { by } = fields;
    if (by === "all") update(place, html`<p>${t("compose.all_devices")}</p>`);
    else if (by === "devices") {
      place.replaceChildren(textarea({
        label: t("compose.by_devices"), hint: t("compose.devices_hint"), name: "devices", value: fields.devices, rows: 3, spellcheck: "false",
      }));
    } else if (by === "where") {
      shown = expressionField({ api: view.api, label: t("compose.by_where"), hint: t("compose.where_hint"), value: fields.where, checks: false });
      place.replaceChildren(shown.node);
    } else {
      place.replaceChildren(offeredInput({ api: view.api, offer: OFFERS[by], label: t(`compose.by_${by}`), name: by, value: fields[by] }));
    }
  }

  const node = html`
    <div>
      ${select({
        label: t("compose.by"), name: "by", value: fields.by, options: WAYS.map((way) => [way, t(`compose.by_${way}`)]),
        onchange: (event) => {
          fields.by = event.target.value;
          draw();
          changed();
        },
      })}
      ${place}
    </div>
  `;
  draw();
  return {
    node,
    show(problem) {
      if (shown !== null) return shown.show(problem);
      const control = place.querySelector("input, textarea");
      if (control !== null) setError(control, problem && problem.detail);
      else if (problem) place.append(html`<p class="error" role="alert">${problem.detail}</p>`);
    },
  };
}

/** An input that offers what there is while somebody types. */
export function offeredInput({ api, offer, ...attributes }) {
  const list = html`<datalist id=${`offered-${++number}`}></datalist>`;
  const node = html`<div>${input({ ...attributes, list: list.id, autocomplete: "off", spellcheck: "false" })}${list}</div>`;
  const control = node.querySelector("input");
  let timer = null;
  let asked = 0;
  const ask = async () => {
    const mine = ++asked;
    try {
      const found = await offer(api, control.value.trim());
      if (mine === asked) update(list, found.map(([value, note]) => html`<option value=${value} data-key=${value}>${note}</option>`));
    } catch (error) {
      if (error.name !== "AbortError") console.warn(error.message); // one can type it
    }
  };
  listen(control, "focus", () => void ask());
  listen(control, "input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => void ask(), PAUSE_MS);
  });
  return node;
}
