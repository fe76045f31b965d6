/**
 * The rules of the app, and which critical pushes have passed them.
 *
 * They are replaced as a whole, so the server is told which ones the form began with (`If-Match`): if somebody has
 * changed them meanwhile, nothing is saved, and the page says so.
 */

import { html, update } from "../html.js";
import { facts } from "../parts/facts.js";
import { input, select, textarea, wordsIn } from "../parts/field.js";
import { submission } from "../parts/form.js";
import { explain } from "../parts/problem.js";
import { capsFields, capsText, hoursFields, hoursText } from "../parts/rules.js";
import { pages, table } from "../parts/table.js";
import { time } from "../parts/time.js";
import { toast } from "../parts/toast.js";
import { word } from "../parts/badge.js";

export const texts = ["policy", "rules"];
export const styles = ["fleet", "lists"];

const POLL_SECONDS = 15;
const USES = 20;
const VERDICTS = ["allow", "suppress"];
const KINDS = ["in_app", "silent", "command"];
const PRECONDITION_FAILED = 412;

export async function open(view) {
  const { root, t, api, query, session } = view;
  let tag = null;
  const policy = await api.call("GET", "/v1/policy", { seen: (headers) => (tag = headers.get("ETag")) });
  const uses = html`<section data-keep></section>`;
  update(
    root,
    html`<header class="head"><h1>${t("policy.title")}</h1></header>`,
    session.may("admin") ? form(view, policy, tag) : details(view, policy),
    uses,
  );
  await view.every(POLL_SECONDS, async () => {
    const page = await api.get("/v1/policy/critical-uses", { limit: USES, cursor: query.get("cursor") });
    update(uses, html`<h2>${t("policy.uses")}</h2>`, usesTable(view, page.items), pages(view, page.next_cursor));
  });
}

function usesTable({ t, href }, rows) {
  return table({
    caption: t("policy.uses"), rows, key: ({ device_id, push_id, at }) => `${device_id} ${push_id} ${at}`, empty: t("policy.no_uses"),
    columns: [
      { label: t("policy.at"), cell: ({ at }) => time(at) },
      { label: t("policy.device"), cell: ({ device_id }) => (device_id === null ? "–" : html`<a href=${href(`devices/${device_id}`)}>${device_id}</a>`) },
      { label: t("policy.push"), cell: ({ push_id }) => (push_id === null ? "–" : html`<a href=${href(`pushes/${push_id}`)}>${push_id}</a>`) },
      { label: t("policy.passed"), cell: ({ passed }) => word(passed, "reasons") },
    ],
  });
}

function details({ t }, policy) {
  const verdict = (is) => t(`policy.${is}`);
  const rows = [
    ["unknown", verdict(policy.consent.unknown)],
    ...KINDS.map((kind) => [`denied_${kind}`, verdict(policy.consent.denied[kind])]),
    ["caps", capsText(policy.caps)],
    ["hours", hoursText(policy.quiet_hours)],
    ["timezone", policy.timezone],
    ["critical", t.number(policy.critical.per_day)],
    ["topics", policy.joinable_topics.join(", ") || "–"],
    ["approve_above", policy.approve_above === null ? t("policy.no_approval") : t.number(policy.approve_above)],
  ];
  return html`<section class="card"><dl>${facts(rows.map(([name, value]) => [t(`policy.${name}`), value]))}</dl></section>`;
}

function form({ t, api, go }, policy, tag) {
  const caps = capsFields(policy.caps, t("policy.caps"));
  const hours = hoursFields(policy.quiet_hours, t("policy.hours"));
  const verdict = (name, value) =>
    select({ label: t(`policy.${name}`), name, value, options: VERDICTS.map((each) => [each, t(`policy.${each}`)]) });
  const read = (elements) => {
    const { unknown, timezone, critical, topics, approve_above } = elements;
    return {
      consent: { unknown: unknown.value, denied: Object.fromEntries(KINDS.map((kind) => [kind, elements[`denied_${kind}`].value])) },
      caps: caps.read(),
      quiet_hours: hours.read(),
      timezone: timezone.value.trim(),
      critical: { per_day: Number(critical.value) },
      joinable_topics: wordsIn(topics.value),
      approve_above: approve_above.value === "" ? null : Number(approve_above.value),
    };
  };
  const conflict = () => html`${t("policy.conflict")} <button type="button" onclick=${() => go("policy")}>${t("policy.reload")}</button>`;
  const { button, refusal, submit } = submission({
    verb: t("policy.save"),
    act: async (elements) => {
      await api.put("/v1/policy", read(elements), { headers: { "If-Match": tag } });
      toast(t("policy.saved"));
      go("policy");
    },
    refused: (error) => (error.status === PRECONDITION_FAILED ? conflict() : explain(error)),
  });
  return html`
    <form class="card" onsubmit=${submit} data-keep>
      <fieldset>
        <legend>${t("policy.consent")}</legend>
        ${verdict("unknown", policy.consent.unknown)}
        ${KINDS.map((kind) => verdict(`denied_${kind}`, policy.consent.denied[kind]))}
      </fieldset>
      ${caps.node}
      ${hours.node}
      ${input({ label: t("policy.timezone"), name: "timezone", value: policy.timezone, required: true, hint: t("policy.timezone_hint"), autocomplete: "off" })}
      ${input({ label: t("policy.critical"), name: "critical", type: "number", min: 0, max: 1000, value: policy.critical.per_day, required: true, hint: t("policy.critical_hint") })}
      ${textarea({ label: t("policy.topics"), name: "topics", value: policy.joinable_topics.join("\n"), hint: t("policy.topics_hint") })}
      ${input({ label: t("policy.approve_above"), name: "approve_above", type: "number", min: 0, value: policy.approve_above ?? "", hint: t("policy.approve_hint") })}
      ${refusal}
      <p class="hint">${t("policy.also_waiting")}</p>
      <div class="buttons">${button}</div>
    </form>`;
}
