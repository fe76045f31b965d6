/**
 * The devices of the app: searched, filtered, chosen, and changed together.
 *
 * The address has the search and the page. What is chosen is a set of ids, or everything that the filter selects: that
 * is changed after its number and some names were read and confirmed here. Up to CHANGED_DEVICES are those that were
 * counted, by their ids; who is selected by now does not matter. Of more the server changes what the filter selects, part
 * by part, and refuses if the number is another one by then.
 */

import { html, update } from "../html.js";
import { badge } from "../parts/badge.js";
import { confirm, dialog } from "../parts/dialog.js";
import { enrol } from "../parts/enrolment.js";
import { expressionField } from "../parts/expression.js";
import { input, select, wordsIn } from "../parts/field.js";
import { problem } from "../parts/problem.js";
import { PAGE_ROWS, pages, table } from "../parts/table.js";
import { time } from "../parts/time.js";
import { toast, toastError } from "../parts/toast.js";

export const texts = ["fleet", "expression", "enrolment"];
export const styles = ["fleet", "expression"];

const POLL_SECONDS = 5;
/** Every so many polls the whole selection is counted. */
const COUNT_EVERY = 6;
/** The API's, for one request. */
const CHANGED_DEVICES = 1000;
/** Failures that are listed. */
const LISTED_FAILURES = 20;
const SEARCH_PAUSE_MS = 300;
const SHOWN_TAGS = 4;
const FILTERS = ["q", "where", "online", "has_error", "waiting"];
const MAX_EXPRESSION = 4096;

export async function open(view) {
  await new Fleet(view).open();
}

class Fleet {
  #view;
  #page = { items: [], next_cursor: null };
  #count = null;
  #polls = 0;
  #chosen = new Set();
  #all = false;
  #timer = null;
  #where = null;
  #results = html`<div class="results" data-keep></div>`;
  #asked = 0;

  constructor(view) {
    this.#view = view;
  }

  async open() {
    const { root, t, session, query, api } = this.#view;
    this.#where = expressionField({
      api, label: t("fleet.where"), hint: t("fleet.where_hint"), value: query.get("where") ?? "", checks: false,
    });
    update(
      root,
      html`
        <header class="head">
          <h1>${t("fleet.title")}</h1>
          <p class="count" role="status" data-keep></p>
          ${session.may("devices") && html`<button type="button" class="primary" id="enrol" onclick=${() => enrol(this.#view)}>${t("fleet.enrol")}</button>`}
        </header>
        ${this.#form()}
      `,
      this.#results,
    );
    await this.#view.every(POLL_SECONDS, () => this.#load());
  }

  // The filter

  #form() {
    const { t, query } = this.#view;
    const choice = (name, first, second) =>
      select({
        label: t(`fleet.${name}`), name, value: query.get(name) ?? "", onchange: () => this.#search(),
        options: [["", t("fleet.any")], ["true", first], ["false", second]],
      });
    return html`
      <form class="filter" role="search" aria-label=${t("fleet.filter")} onsubmit=${(event) => this.#submit(event)} data-keep>
        ${input({ label: t("fleet.q"), name: "q", type: "search", value: query.get("q") ?? "", maxlength: 100, oninput: () => this.#soon() })}
        ${choice("online", t("fleet.is_online"), t("fleet.is_offline"))}
        ${choice("has_error", t("fleet.with_error"), t("fleet.without_error"))}
        ${choice("waiting", t("fleet.with_waiting"), t("fleet.without_waiting"))}
        <div class="wide">${this.#where.node}</div>
        <div class="buttons">
          <button type="submit">${t("fleet.apply")}</button>
          <button type="button" class="plain" onclick=${() => this.#view.go("fleet")}>${t("fleet.clear")}</button>
        </div>
      </form>`;
  }

  #submit(event) {
    event.preventDefault();
    this.#search();
  }

  #soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#search(), SEARCH_PAUSE_MS);
  }

  #search() {
    clearTimeout(this.#timer);
    const { elements } = this.#view.root.querySelector("form.filter");
    const query = Object.fromEntries(FILTERS.map((name) => [name, elements[name].value.trim()]));
    this.#view.replaceQuery(query);
    this.#chosen.clear();
    this.#all = false;
    this.#polls = 0;
    void this.#load().catch((error) => {
      if (error.name !== "AbortError") update(this.#results, problem(error, () => this.#search()));
    });
  }

  /** The conditions as the API takes them in a body. */
  #filter() {
    const { query } = this.#view;
    const filter = {};
    for (const name of FILTERS) {
      const value = query.get(name);
      if (value) filter[name] = name === "q" || name === "where" ? value : value === "true";
    }
    return filter;
  }

  // The list

  async #load() {
    const { api, query } = this.#view;
    const mine = ++this.#asked;
    const counted = this.#polls % COUNT_EVERY === 0;
    this.#polls += 1;
    let page;
    try {
      page = await api.get("/v1/devices", {
        ...this.#filter(), cursor: query.get("cursor"), limit: PAGE_ROWS, with_waiting: true, with_count: counted ? true : null,
      });
    } catch (error) {
      if (mine !== this.#asked) return;
      if (error.code !== "invalid_expression") throw error;
      this.#where.show(error);
      this.#count = null;
      this.#page = { items: [], next_cursor: null };
      this.#drawCount();
      update(this.#results, html`<p class="empty">${this.#view.t("fleet.mistake")}</p>`);
      return;
    }
    if (mine !== this.#asked) return;
    this.#where.show(null);
    this.#page = page;
    if (counted) this.#count = page.count;
    this.#draw();
  }

  #draw() {
    const { t, session, query } = this.#view;
    const may = session.may("devices") || session.may("send");
    this.#drawCount();
    const filtered = FILTERS.some((name) => query.get(name));
    update(
      this.#results,
      may && this.#page.items.length > 0 && this.#bar(),
      table({
        columns: this.#columns(),
        rows: this.#page.items,
        key: (device) => device.device_id,
        caption: t("fleet.title"),
        empty: filtered ? t("fleet.none_match") : t("fleet.none"),
        select: may
          ? {
              chosen: this.#all ? new Set(this.#page.items.map(({ device_id }) => device_id)) : this.#chosen,
              label: (device) => t("fleet.choose", { name: device.device_id }),
              change: (id, isChosen) => this.#choose(id, isChosen),
            }
          : null,
      }),
      pages(this.#view, this.#page.next_cursor),
    );
  }

  #drawCount() {
    const place = this.#view.root.querySelector(".count");
    place.textContent = this.#count === null ? "" : this.#view.t("fleet.count", { n: this.#count });
  }

  #columns() {
    const { t, href } = this.#view;
    return [
      { label: t("fleet.device"), cell: (device) => html`
          <div>
            <a href=${href(`devices/${device.device_id}`)} class="device">${device.name ?? device.device_id}</a>
            ${device.name !== null && html`<span class="quiet id">${device.device_id}</span>`}
          </div>` },
      { label: t("fleet.presence"), cell: (device) => badge(device.online ? "online" : "offline") },
      { label: t("fleet.last_seen"), cell: (device) => (device.online ? t("fleet.now") : time(device.last_seen)) },
      { label: t("fleet.version"), cell: (device) => versionOf(device) ?? "–" },
      { label: t("fleet.waits"), numeric: true, cell: (device) => device.waiting },
      { label: t("fleet.last_error"), cell: (device) =>
          device.last_error === null ? "–" : html`<div>${device.last_error} <span class="quiet">${time(device.last_error_at)}</span></div>` },
      { label: t("fleet.tags"), cell: ({ tags }) => html`<span class="tags">${tags.slice(0, SHOWN_TAGS).map((tag) => html`<span class="tag">${tag}</span>`)}${
          tags.length > SHOWN_TAGS && html`<span class="quiet">${t("fleet.more_tags", { n: tags.length - SHOWN_TAGS })}</span>`}</span>` },
    ];
  }

  // What is chosen

  #choose(id, isChosen) {
    if (this.#all) {
      this.#all = false;
      this.#chosen = new Set(this.#page.items.map(({ device_id }) => device_id));
    }
    if (isChosen) this.#chosen.add(id);
    else this.#chosen.delete(id);
    this.#draw();
  }

  #bar() {
    const { t, session } = this.#view;
    const n = this.#all ? this.#count : this.#chosen.size;
    const none = n === 0;
    const where = none ? null : this.#targetQuery();
    return html`
      <div class="bar" role="group" aria-label=${t("fleet.together")}>
        <span class="chosen" role="status">${this.#all ? t("fleet.all_chosen", { n }) : t("fleet.chosen", { n })}</span>
        ${!this.#all && this.#count !== null && html`<button type="button" class="plain" id="choose-all" onclick=${() => this.#chooseAll(true)}>${t("fleet.choose_all", { n: this.#count })}</button>`}
        ${!none && html`<button type="button" class="plain" id="choose-none" onclick=${() => this.#chooseAll(false)}>${t("fleet.choose_none")}</button>`}
        <span class="actions">
          ${session.may("devices") && html`<button type="button" id="bulk-tag" disabled=${none} onclick=${() => this.#tag()}>${t("fleet.tag")}</button>`}
          ${session.may("send") && (where === null
            ? html`<button type="button" id="bulk-push" disabled title=${none ? null : t("fleet.no_push")}>${t("fleet.push")}</button>`
            : html`<a class="button" id="bulk-push" href=${this.#view.href("compose", where)}>${t("fleet.push")}</a>`)}
          ${session.may("devices") && html`<button type="button" class="danger" id="bulk-revoke" disabled=${none} onclick=${() => this.#revoke()}>${t("fleet.revoke")}</button>`}
        </span>
      </div>`;
  }

  #chooseAll(all) {
    this.#all = all;
    this.#chosen.clear();
    this.#draw();
  }

  /** The target of a push to what is chosen, for the address of the composer; null where an expression cannot say it. */
  #targetQuery() {
    if (!this.#all) {
      if (this.#chosen.size === 1) return { device: [...this.#chosen][0] };
      const where = `id in [${[...this.#chosen].map((id) => `'${id}'`).join(", ")}]`;
      return where.length <= MAX_EXPRESSION ? { where } : null;
    }
    const { q, has_error, waiting, online, where } = this.#filter();
    if (q !== undefined || has_error !== undefined || waiting !== undefined) return null;
    const parts = [where === undefined ? null : online === undefined ? where : `(${where})`, online === undefined ? null : online ? "online" : "!online"];
    const expression = parts.filter(Boolean).join(" && ");
    return { where: expression || "true" };
  }

  /** Count and name what is chosen, as it is now: {count, names, ids}; `ids` null: too many to list. */
  async #selection() {
    if (!this.#all) return { count: this.#chosen.size, names: [...this.#chosen], ids: [...this.#chosen] };
    const page = await this.#view.api.get("/v1/devices", { ...this.#filter(), limit: CHANGED_DEVICES, with_count: true });
    return {
      count: page.count,
      names: page.items.map(({ device_id, name }) => (name === null ? device_id : `${name} (${device_id})`)),
      ids: page.next_cursor === null && page.items.length === page.count ? page.items.map(({ device_id }) => device_id) : null,
    };
  }

  /** Change what is chosen, part by part: {done, failed}. `progress(n)`: so many are through. */
  async #change(path, change, { count, ids }, progress) {
    const { api } = this.#view;
    const results = [];
    const told = (answer) => {
      results.push(...answer.devices);
      progress(results.length);
    };
    if (ids === null) {
      let body = { ...change, filter: this.#filter(), expected: count };
      for (;;) {
        const answer = await api.post(path, body).catch((error) => {
          throw error.code === "selection_changed" ? new Error(this.#changedSince(results.length)) : error;
        });
        told(answer);
        if (answer.next_cursor === null) break;
        // Those that have come to be selected meanwhile are not of the number that was read and confirmed.
        body = { ...change, filter: this.#filter(), cursor: answer.next_cursor, expected: count - results.length };
      }
    } else {
      for (let start = 0; start < ids.length; start += CHANGED_DEVICES) {
        told(await api.post(path, { ...change, devices: ids.slice(start, start + CHANGED_DEVICES) }));
      }
    }
    const failed = results.filter(({ error }) => error !== undefined);
    return { done: results.length - failed.length, failed };
  }

  /** Why nothing more is changed; `n` are through. */
  #changedSince(n) {
    const { t } = this.#view;
    return n > 0 ? t("fleet.selection_changed_since", { n }) : t("fleet.selection_changed");
  }

  async #withSelection(open) {
    try {
      await open(await this.#selection());
    } catch (error) {
      toastError(error);
    }
  }

  #tag() {
    return this.#withSelection(async (selection) => {
      const { count, names } = selection;
      const { t, signal } = this.#view;
      const progress = html`<p class="progress" role="status"></p>`;
      const outcome = await confirm({
        title: t("fleet.tag_title"),
        sentence: t("fleet.tag_sentence", { n: count }),
        names,
        count,
        fields: [
          input({ label: t("fleet.tags_add"), name: "add", hint: t("fleet.tags_hint"), autocomplete: "off", autocapitalize: "none", autofocus: true }),
          input({ label: t("fleet.tags_remove"), name: "remove", autocomplete: "off", autocapitalize: "none" }),
          progress,
        ],
        verb: t("fleet.tag_verb", { n: count }),
        danger: false,
        signal,
        act: (elements) => {
          const [add, remove] = ["add", "remove"].map((name) => [...new Set(wordsIn(elements[name].value))]);
          if (add.length + remove.length === 0) throw new Error(t("fleet.no_tags"));
          return this.#change("/v1/devices/tags", { add, remove }, selection, (n) => (progress.textContent = t("fleet.progress", { n, count })));
        },
      });
      await this.#finished(outcome, "fleet.tagged");
    });
  }

  #revoke() {
    return this.#withSelection(async (selection) => {
      const { count, names } = selection;
      const { t, signal } = this.#view;
      const outcome = await confirm({
        title: t("fleet.revoke_title"),
        sentence: t("fleet.revoke_sentence", { n: count }),
        names,
        count,
        verb: t("fleet.revoke_verb", { n: count }),
        typed: count > 1 ? String(count) : null,
        signal,
        act: () => this.#change("/v1/devices/removal", {}, selection, () => {}),
      });
      await this.#finished(outcome, "fleet.revoked");
    });
  }

  /** Say what was done, and list what was not. */
  async #finished(outcome, key) {
    if (outcome === null) return;
    const { t, signal } = this.#view;
    this.#chooseAll(false);
    this.#polls = 0;
    void this.#load().catch(() => {}); // the next poll says what is wrong
    toast(t(key, { n: outcome.done }));
    if (outcome.failed.length === 0) return;
    await dialog(t("fleet.failed", { n: outcome.failed.length }), (close) => html`
      <ul class="names">${outcome.failed.slice(0, LISTED_FAILURES).map(({ device_id, error }) => html`<li><b>${device_id}</b>: ${error.detail}</li>`)}</ul>
      ${outcome.failed.length > LISTED_FAILURES && html`<p>${t("common.and_more", { n: outcome.failed.length - LISTED_FAILURES })}</p>`}
      <div class="buttons"><button type="button" class="primary" onclick=${() => close()}>${t("common.close")}</button></div>`, signal);
  }
}

/** The version that a device reports of itself, if it does. */
function versionOf({ attributes }) {
  const { version } = attributes;
  return version === undefined || version === null || typeof version === "object" ? null : String(version);
}
