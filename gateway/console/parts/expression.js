/**
 * A field for an expression over devices (docs/segments.md): it completes names, tags and topics, says how many devices
 * the expression selects now, and shows a mistake where it is.
 *
 * A combobox (WAI-ARIA): the list opens while somebody types or at Ctrl+Space; arrows choose, Enter or Tab takes, Escape
 * closes. What is counted is asked after a pause, and only the last question is answered.
 */

import { html, update } from "../html.js";
import { t } from "../texts.js";
import { field } from "./field.js";
import { explain } from "./problem.js";

const PAUSE_MS = 350;
const OFFERED = 8;
/** Names of the language with an example each: those of gateway/audience/segment_language/names.py; a test compares. */
export const NAMES = {
  tags: "'hall' in tags",
  topics: "'news' in topics",
  attributes: "attributes.model == 'K2'",
  id: "id == 'kiosk-1'",
  name: "name.startsWith('Hall')",
  locale: "locale == 'de-CH'",
  timezone: "timezone == 'Europe/Berlin'",
  consent: "consent == 'granted'",
  last_seen: "last_seen > now - duration('7d')",
  enrolled_at: "enrolled_at < timestamp('2026-01-01T00:00:00Z')",
  online: "online",
  now: "last_seen > now - duration('7d')",
  has: "has(attributes.model)",
  size: "size(tags) > 2",
  version: "version(attributes.version) < version('2.3')",
  timestamp: "enrolled_at < timestamp('2026-01-01T00:00:00Z')",
  duration: "last_seen > now - duration('7d')",
  muted: "muted('offers')",
  delivered: "delivered('PUSH_ID')",
  displayed: "displayed('PUSH_ID')",
  dismissed: "dismissed('PUSH_ID')",
  opened: "opened('PUSH_ID')",
  acted: "acted('PUSH_ID')",
  missed: "missed('PUSH_ID')",
  delivered_channel: "delivered_channel('offers', duration('7d'))",
  displayed_channel: "displayed_channel('offers', duration('7d'))",
  dismissed_channel: "dismissed_channel('offers', duration('7d'))",
  opened_channel: "opened_channel('offers', duration('7d'))",
  acted_channel: "acted_channel('offers', duration('7d'))",
  startsWith: "attributes.model.startsWith('K')",
  endsWith: "id.endsWith('-test')",
  contains: "name.contains('Hall')",
};
/** Names that stand with a value behind them; the others are functions. */
const VALUES = new Set(["tags", "topics", "attributes", "id", "name", "locale", "timezone", "consent", "last_seen", "enrolled_at", "online", "now"]);
const METHODS = new Set(["startsWith", "endsWith", "contains"]);
const WORD = /[A-Za-z_]+$/;
const OPEN_TEXT = /^(?:[^'"]|'[^']*'|"[^"]*")*(['"])([A-Za-z0-9_.:-]*)$/;

let number = 0;

/**
 * The field. `api`: of the view; `changed(text, found)`: called when it is checked, `found` is {devices, examples}, or
 * null for an empty text or one with a mistake; `checks`: whether to count by itself. Gives {node, input, check(), show(problem)}.
 */
export function expressionField({ api, label, hint = null, name = "where", value = "", changed = () => {}, checks = true }) {
  const id = `expression-${++number}`;
  const list = html`<ul class="offers" id=${`${id}-list`} role="listbox" aria-label=${t("expression.offers")} hidden data-keep></ul>`;
  const result = html`<p class="result" role="status" data-keep></p>`;
  const place = html`<pre class="place" data-keep hidden></pre>`;
  let offers = [];
  let chosen = -1;
  let timer = null;
  let asked = 0;
  let offered = 0;

  const input = html`
    <textarea rows="1" spellcheck="false" autocapitalize="none" autocomplete="off" name=${name} role="combobox"
      aria-autocomplete="list" aria-expanded="false" aria-controls=${`${id}-list`} oninput=${typed} onkeydown=${pressed}
      onblur=${close} placeholder="'hall' in tags && !online">${value}</textarea>`;
  const node = html`
    <div class="expression" data-keep>
      ${field({
        label, hint, id,
        control: (given) => {
          for (const [attribute, text] of Object.entries(given)) if (text) input.setAttribute(attribute, text);
          return input;
        },
      })}
      ${list}${place}${result}
    </div>`;

  function typed() {
    fit();
    void offer();
    if (!checks) return;
    clearTimeout(timer);
    timer = setTimeout(() => void check(), PAUSE_MS);
  }

  function fit() {
    input.rows = Math.min(8, Math.max(1, input.value.split("\n").length, Math.ceil(input.value.length / 60)));
  }

  /** Ask what it selects now. */
  async function check() {
    clearTimeout(timer);
    const text = input.value.trim();
    const mine = ++asked;
    if (text === "") {
      show(null);
      result.textContent = "";
      changed("", null);
      return;
    }
    try {
      const found = await api.post("/v1/segments/preview", { expression: text });
      if (mine !== asked) return;
      show(null);
      const names = found.examples.join(", ");
      result.textContent = t("expression.selects", { n: found.devices }) + (names ? ` ${names}${found.devices > found.examples.length ? ", …" : ""}` : "");
      changed(text, found);
    } catch (error) {
      if (error.name === "AbortError" || mine !== asked) return;
      show(error);
      changed(text, null);
    }
  }

  /** Show what is wrong with it, where it is; null: nothing. */
  function show(problem) {
    const [sentence, ...lines] = (problem?.code === "invalid_expression" ? problem.detail : problem ? explain(problem) : "").split("\n");
    node.querySelector(".error").textContent = sentence;
    place.textContent = lines.map((line) => line.replace(/^ {2}/, "")).join("\n");
    place.hidden = lines.length === 0;
    if (problem) {
      input.setAttribute("aria-invalid", "true");
      result.textContent = "";
    } else input.removeAttribute("aria-invalid");
  }

  async function offer() {
    const before = input.value.slice(0, input.selectionStart);
    const open = OPEN_TEXT.exec(before);
    const mine = ++offered;
    const found = open ? await named(open[1], open[2], before) : words(before);
    if (mine !== offered || document.activeElement !== input) return;
    draw(found);
  }

  function words(before) {
    const word = WORD.exec(before)?.[0] ?? "";
    if (word === "") return [];
    const isMethod = before.at(-word.length - 1) === ".";
    if (isMethod && /attributes\.\w*$/.test(before)) return [];
    return Object.keys(NAMES)
      .filter((each) => each.toLowerCase().startsWith(word.toLowerCase()) && each !== word && METHODS.has(each) === isMethod)
      .slice(0, OFFERED)
      .map((each) => ({ text: each, insert: VALUES.has(each) ? each : `${each}(`, replaces: word.length, note: NAMES[each] }));
  }

  /** Tags that begin with what is between the quotes. */
  async function named(quote, begun, before) {
    if (/(==|!=|\(|\[|,)\s*['"][^'"]*$/.test(before)) return [];
    try {
      const page = await api.get("/v1/tags", { prefix: begun || null, limit: OFFERED });
      return page.items.map(({ tag, devices }) => ({
        text: tag, insert: `${quote}${tag}${quote} in tags`, replaces: begun.length + 1,
        note: devices === undefined ? "" : t("expression.devices", { n: devices }),
      }));
    } catch (error) {
      if (error.name !== "AbortError") console.warn(error.message); // one can type it
      return [];
    }
  }

  function draw(found) {
    offers = found;
    chosen = -1;
    list.hidden = offers.length === 0;
    input.setAttribute("aria-expanded", String(offers.length > 0));
    input.removeAttribute("aria-activedescendant");
    update(list, offers.map(({ text, note }, at) => html`
      <li id=${`${id}-${at}`} role="option" aria-selected="false" onmousedown=${(event) => (event.preventDefault(), take(at))}>
        <b>${text}</b> <span class="quiet">${note}</span>
      </li>`));
  }

  function close() {
    draw([]);
  }

  function choose(at) {
    chosen = (at + offers.length) % offers.length;
    for (const [place, option] of [...list.children].entries()) option.setAttribute("aria-selected", String(place === chosen));
    input.setAttribute("aria-activedescendant", `${id}-${chosen}`);
    list.children[chosen].scrollIntoView({ block: "nearest" });
  }

  function take(at) {
    const { insert, replaces } = offers[at];
    const end = input.selectionStart;
    const closing = /^['"]$/.test(insert[0] ?? "") && input.value[end] === insert[0] ? 1 : 0;
    input.setRangeText(insert, end - replaces, end + closing, "end");
    close();
    typed();
  }

  function pressed(event) {
    if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      void offer();
    } else if (offers.length > 0 && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      choose(chosen + (event.key === "ArrowDown" ? 1 : chosen < 0 ? 0 : -1));
    } else if (offers.length > 0 && (event.key === "Enter" || event.key === "Tab") && (chosen >= 0 || event.key === "Tab")) {
      event.preventDefault();
      take(Math.max(chosen, 0));
    } else if (offers.length > 0 && event.key === "Escape") {
      event.preventDefault();
      close();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      close();
      input.form?.requestSubmit();
    }
  }

  fit();
  if (value.trim() !== "" && checks) void check();
  return { node, input, check, show };
}
