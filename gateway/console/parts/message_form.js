/** What a push says: words, image, file, actions, and for programs data. */

import { html } from "../html.js";
import { isComposed, shows } from "../push_request.js";
import { t } from "../texts.js";
import { checkbox, input, select, setError, textarea } from "./field.js";
import { explain } from "./problem.js";
import { offeredInput } from "./target_form.js";

const KINDS = ["alert", "in_app", "silent", "command"];
const PRIORITIES = ["critical", "high", "normal", "low"];
const MAX_ACTIONS = 8;
const OFFERED = 50;
/** What is uploaded may be for a push that is sent later; a year is the longest. */
const KEPT_SECONDS = 31_536_000;
const TEMPLATE = /\{\{|\{%/;

/** The form. `fields`: of the draft, which it changes; `changed()`: after that. Gives its node. */
export function messageForm(view, fields, changed) {
  const words = html`<div data-keep></div>`;
  const actions = html`<div data-keep></div>`;

  function drawWords() {
    const isShown = shows(fields);
    words.replaceChildren(...(isShown ? shownWords() : [dataField()]));
    actions.hidden = !isShown;
  }

  function shownWords() {
    return [
      input({ label: t("compose.title_field"), name: "title", value: fields.title, autocomplete: "off" }),
      textarea({ label: t("compose.body"), name: "body", value: fields.body, rows: 4 }),
      upload({
        label: t("compose.image"), hint: t("compose.image_hint"), name: "image", accept: "image/*", value: fields.image,
        taken: ({ id }) => (fields.image = `attachment:${id}`),
      }),
      input({ label: t("compose.url"), hint: t("compose.url_hint"), name: "url", value: fields.url, inputmode: "url", autocomplete: "off" }),
      upload({
        label: t("compose.attachment"), hint: t("compose.attachment_hint"), name: "attachment_url", value: fields.attachment_url,
        taken: ({ id, content_type: type, size }, file) => {
          Object.assign(fields, { attachment_url: `attachment:${id}`, attachment_name: file.name.slice(0, 128), attachment_type: type, attachment_size: size });
          words.querySelector("[name=attachment_name]").value = fields.attachment_name;
          return fields.attachment_url;
        },
      }),
      input({ label: t("compose.attachment_name"), name: "attachment_name", value: fields.attachment_name, autocomplete: "off" }),
    ];
  }

  function dataField() {
    return textarea({ label: t("compose.data"), hint: t("compose.data_hint"), name: "data", value: fields.data, rows: 5, spellcheck: "false", class: "code" });
  }

  /** An address, or a file that is uploaded and becomes one. `taken(answer, file)` gives the address. */
  function upload({ label, hint, name, accept, value, taken }) {
    const chooser = html`<input type="file" class="unseen" tabindex="-1" aria-hidden="true" accept=${accept} onchange=${() => void send()} />`;
    const button = html`<button type="button" onclick=${() => chooser.click()}>${t("compose.upload")}</button>`;
    const node = html`<div class="upload">${input({ label, hint, name, value, inputmode: "url", autocomplete: "off" })}${button}${chooser}</div>`;
    const control = node.querySelector("input");
    async function send() {
      const [file] = chooser.files;
      if (file === undefined) return;
      button.disabled = true;
      setError(control, null);
      try {
        const headers = { "Content-Type": file.type || "application/octet-stream" };
        const answer = await view.api.post("/v1/attachments", file, { headers, query: { ttl: KEPT_SECONDS } });
        control.value = taken(answer, file);
        changed();
      } catch (error) {
        if (error.name !== "AbortError") setError(control, explain(error));
      } finally {
        button.disabled = false;
        chooser.value = "";
      }
    }
    return node;
  }

  function drawActions() {
    const rows = fields.actions.map((action, at) => html`
      <fieldset class="action" data-key=${at}>
        <legend>${t("compose.action_number", { n: at + 1 })}</legend>
        ${["title", "id", "url", "input"].map((part) => input({
          label: t(`compose.action_${part}`), name: `action-${at}-${part}`, value: action[part], autocomplete: "off",
          oninput: (event) => {
            action[part] = event.target.value;
            changed();
          },
        }))}
        <button type="button" onclick=${() => remove(at)}>${t("compose.action_remove", { n: at + 1 })}</button>
      </fieldset>`);
    actions.replaceChildren(...rows, html`
      <button type="button" class="action-add" disabled=${fields.actions.length >= MAX_ACTIONS} onclick=${add}>${t("compose.action_add")}</button>`);
  }

  function add() {
    fields.actions.push({ id: `action-${fields.actions.length + 1}`, title: "", url: "", input: "" });
    drawActions();
    changed();
    actions.querySelector(`[name="action-${fields.actions.length - 1}-title"]`).focus();
  }

  function remove(at) {
    fields.actions.splice(at, 1);
    drawActions();
    changed();
    actions.querySelector(".action-add").focus();
  }

  const node = html`
    <div>
      ${select({
        label: t("compose.kind"), name: "kind", value: fields.kind, options: KINDS.map((kind) => [kind, t(`compose.kind_${kind}`)]),
        onchange: (event) => {
          fields.kind = event.target.value;
          drawWords();
          changed();
        },
      })}
      ${words}${actions}
      <details class="more" open=${fields.template !== "" || fields.render || fields.channel !== "" || fields.collapse_key !== ""}>
        <summary>${t("compose.more")}</summary>
        ${checkbox({ label: t("compose.render"), hint: t("compose.render_hint"), name: "render", checked: fields.render })}
        ${select({ label: t("compose.on_missing"), name: "on_missing", value: fields.on_missing, options: ["refuse", "leave_out"].map((way) => [way, t(`compose.on_missing_${way}`)]) })}
        ${offeredInput({
          api: view.api, label: t("compose.template"), hint: t("compose.template_hint"), name: "template", value: fields.template,
          offer: async (api) => (await api.get("/v1/templates", { limit: OFFERED })).items.map(({ name, version }) => [name, `@${version}`]),
        })}
        ${textarea({ label: t("compose.values"), hint: t("compose.values_hint"), name: "values", value: fields.values, rows: 2, spellcheck: "false" })}
        ${offeredInput({
          api: view.api, label: t("compose.channel"), hint: t("compose.channel_hint"), name: "channel", value: fields.channel,
          offer: async (api) => (await api.get("/v1/channels", { limit: OFFERED })).items.map(({ id, name }) => [id, name]),
        })}
        ${select({ label: t("compose.priority"), name: "priority", value: fields.priority, options: PRIORITIES.map((each) => [each, t(`compose.priority_${each}`)]) })}
        ${input({ label: t("compose.collapse_key"), hint: t("compose.collapse_key_hint"), name: "collapse_key", value: fields.collapse_key, autocomplete: "off" })}
      </details>
    </div>
  `;
  drawWords();
  drawActions();
  return node;
}

/** Whether a text looks like a template that is not one yet. */
export function forgetsToRender(fields) {
  return !isComposed(fields) && (TEMPLATE.test(fields.title) || TEMPLATE.test(fields.body));
}
