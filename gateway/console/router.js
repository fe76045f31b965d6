/**
 * The address says what is on the screen: /console/SCREEN[/ID][?QUERY], by the History API.
 *
 * A screen is loaded on its first visit. It gets a `view` (README.md) whose `signal` is aborted when another one comes:
 * its questions and its polling end with it.
 */

import { Api, Problem, withQuery } from "./api.js";
import { connection, every } from "./live.js";
import { problem as drawProblem } from "./parts/problem.js";
import { html, update } from "./html.js";
import { load, t } from "./texts.js";

const BASE = "/console/";
/** First part of the address -> the screen, alone and with an id; whether the navigation names it. */
export const SCREENS = {
  overview: { alone: "overview", listed: true },
  fleet: { alone: "fleet", listed: true },
  devices: { withId: "device", under: "fleet" },
  compose: { alone: "compose", listed: true, scope: "send" },
  pushes: { alone: "pushes", withId: "push", listed: true },
  schedules: { alone: "schedules", withId: "schedule", listed: true },
  campaigns: { alone: "campaigns", withId: "campaign", listed: true },
  channels: { alone: "channels", listed: true },
  policy: { alone: "policy", listed: true },
  webhooks: { alone: "webhooks", withId: "webhook", listed: true },
  keys: { alone: "keys", listed: true, scope: "admin" },
  audit: { alone: "audit", listed: true, scope: "admin" },
};
const FIRST = "overview";
/** A screen that comes at once is not announced. */
const PATIENCE_MS = 250;

/** Where a screen is: href("devices/kiosk-1", { tab: "calls" }). Parts of the path are encoded. */
export function href(to, query) {
  return withQuery(BASE + to.split("/").map(encodeURIComponent).join("/"), query);
}

/** The address as parts: {place, id, query}, `place` a key of SCREENS or what else is there. */
export function read(address = location) {
  const [place, id, ...rest] = address.pathname.slice(BASE.length).split("/").map(decoded);
  const known = rest.filter((part) => part !== "").length === 0;
  return { place: known ? place || FIRST : "", id: id || null, query: new URLSearchParams(address.search) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // somebody's own percent sign
  }
}

/** Have the styles of a screen: css/NAME.css, once. */
function style(name) {
  if (document.getElementById(`css-${name}`)) return null;
  const address = new URL(`./css/${name}.css`, import.meta.url).href;
  const link = html`<link id=${`css-${name}`} rel="stylesheet" href=${address} />`;
  const there = new Promise((resolve) => {
    link.addEventListener("load", resolve);
    link.addEventListener("error", resolve); // it can be read without
  });
  document.head.append(link);
  return there;
}

/** Only these styles apply: how a screen looks does not depend on what was visited before. */
function wear(names) {
  for (const { id, sheet } of document.head.querySelectorAll("link[id^=css-]")) {
    if (sheet !== null) sheet.disabled = !names.includes(id.slice("css-".length));
  }
}

/** Names of the styles that a screen asks for. */
function stylesOf(module) {
  return [module.styles ?? []].flat();
}

export class Router {
  #root;
  #session;
  #opened;
  #leaving = new AbortController();

  /** Screens go into `root`. `opened(place, title)` is told of each that is there. */
  constructor(root, session, opened) {
    this.#root = root;
    this.#session = session;
    this.#opened = opened;
    addEventListener("popstate", () => void this.open());
    document.addEventListener("click", (event) => this.#follow(event));
  }

  go(to, query) {
    history.pushState(null, "", href(to, query));
    scrollTo(0, 0);
    return this.open({ focus: true });
  }

  /** Open what the address says. `focus`: on its heading, as if a document had been loaded. */
  async open({ focus = false } = {}) {
    this.#leaving.abort();
    const leaving = (this.#leaving = new AbortController());
    const { signal } = leaving;
    const { place, id, query } = read();
    const screen = Object.hasOwn(SCREENS, place) ? SCREENS[place] : {};
    const name = id === null ? screen.alone : screen.withId;
    const root = html`<div class="screen" data-screen=${name ?? "none"} aria-busy="true"></div>`;
    const patience = setTimeout(() => root.append(html`<p class="loading">${t("common.loading")}</p>`), PATIENCE_MS);
    update(this.#root);
    this.#root.append(root);
    this.#opened(place, null);
    try {
      if (name === undefined) throw new Problem(404, { code: "no_screen", detail: t("common.no_screen") });
      if (screen.scope && !this.#session.may(screen.scope)) {
        throw new Problem(403, { code: "forbidden", detail: t("common.no_permission", { role: this.#session.role }) });
      }
      const module = await this.#module(name);
      if (signal.aborted) return;
      clearTimeout(patience);
      wear(stylesOf(module));
      update(root);
      await module.open(this.#view(root, { place, id, query }, signal));
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem) && error.code !== "unreachable") console.error(error);
      update(root, html`<h1>${t("common.failed")}</h1>`, drawProblem(error, () => void this.open()));
      if (error.code === "unreachable") connection.addEventListener("change", () => void this.open(), { once: true, signal });
    } finally {
      clearTimeout(patience);
    }
    if (signal.aborted) return;
    root.removeAttribute("aria-busy");
    const heading = root.querySelector("h1");
    this.#opened(place, heading?.textContent ?? null);
    if (focus && heading !== null) {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    }
  }

  async #module(name) {
    const module = await import(`./screens/${name}.js`).catch((error) => this.#reloaded(error));
    await Promise.all([load(...[module.texts ?? name].flat()), ...stylesOf(module).map(style)]);
    return module;
  }

  /** Files that are missing: of another version than the server's, after an upgrade; or the way to it. */
  async #reloaded(error) {
    const index = await new Api().call("GET", BASE);
    if (!(await index.text()).includes(new URL(".", import.meta.url).pathname)) {
      location.reload();
      return new Promise(() => {});
    }
    console.error(error);
    throw new Problem(404, { code: "no_screen", detail: t("common.not_yet") });
  }

  #view(root, { place, id, query }, signal) {
    const view = {
      root,
      path: { id },
      place: id === null ? place : `${place}/${id}`,
      query,
      api: new Api(signal),
      t,
      session: this.#session,
      signal,
      href,
      go: (to, wanted) => this.go(to, wanted),
      replaceQuery: (wanted) => {
        if (signal.aborted) return;
        const address = withQuery(location.pathname, wanted);
        history.replaceState(null, "", address);
        view.query = new URLSearchParams(location.search);
      },
      every: (seconds, fn, failed) => every(seconds, fn, signal, failed),
    };
    return view;
  }

  /** A click on a link to a screen opens it without a new document, unless the person wants a tab or a download. */
  #follow(event) {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey)
      return;
    const link = event.target.closest?.("a[href]");
    if (!link || link.target || link.hasAttribute("download")) return;
    const to = new URL(link.href);
    if (to.origin !== location.origin || !to.pathname.startsWith(BASE) || to.pathname === `${BASE}sign-in`) return;
    if (to.hash && to.pathname === location.pathname && to.search === location.search) return;
    event.preventDefault();
    history.pushState(null, "", to);
    scrollTo(0, 0);
    void this.open({ focus: true });
  }
}
