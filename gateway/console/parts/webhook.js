/** A webhook's form, and the word for how it is. */

import { html } from "../html.js";
import { input, textarea, wordsIn } from "./field.js";
import { submission } from "./form.js";

/** `disabled`, `failing` (its last attempt failed), or `enabled`. */
export function webhookState({ enabled, failed_at, succeeded_at }) {
  if (!enabled) return "disabled";
  return failed_at !== null && (succeeded_at === null || new Date(failed_at) > new Date(succeeded_at)) ? "failing" : "enabled";
}

/** `webhook`: the one to be changed, null for a new one; `save(fields)`: a promise; `back`: where cancelling leads. */
export function webhookForm({ t, webhook, save, back }) {
  const { button, refusal, submit } = submission({
    verb: t(webhook === null ? "webhooks.make_verb" : "webhooks.save"),
    act: ({ url, types, description }) =>
      save({
        url: url.value.trim(),
        types: wordsIn(types.value),
        description: description.value.trim() || null,
      }),
  });
  return html`
    <form class="card" onsubmit=${submit} data-key="form" data-keep>
      <h2>${t(webhook === null ? "webhooks.make" : "webhooks.change")}</h2>
      ${input({ label: t("webhooks.url"), name: "url", type: "url", required: true, maxlength: 2048, value: webhook?.url ?? "", hint: t("webhooks.url_hint"), autocomplete: "off" })}
      ${textarea({ label: t("webhooks.types"), name: "types", required: true, value: (webhook?.types ?? ["*"]).join("\n"), hint: t("webhooks.types_hint"), autocapitalize: "none" })}
      ${input({ label: t("webhooks.description"), name: "description", maxlength: 256, value: webhook?.description ?? "" })}
      ${refusal}
      <div class="buttons">${button}<a class="button" href=${back}>${t("common.cancel")}</a></div>
    </form>`;
}
