/**
 * The pushes on display: a card each, newest on top, until somebody answers it. What leaves without an answer is
 * dismissed with the reason: `screen_full`, `collapse_key` (a newer one takes its place), `ttl` (it asked for that).
 *
 * What a push says is others' text and is only ever set as text; its addresses are used if they are http(s). Everything
 * can be reached and answered by keyboard. A new card takes no focus away; one that goes gives its focus to the next.
 */

import { isolated, text } from "./texts.js";

/** Cards on display; of more, the oldest leaves. More than a person reads; they scroll in the upper half of the screen. */
const MAX_CARDS = 20;
/** Milliseconds that a browser's timer can wait at most: 24 days. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** Milliseconds for the browser to begin saving a file. */
const SAVE_MS = 60_000;

export class Banners {
  #list;
  #answer;
  #resting;
  #source;
  /** Newest first. */
  #shown = [];

  /**
   * list     the element that holds them.
   * resting  the element that takes the focus when the last card goes.
   * answer   { opened(push), acted(push, action, text), dismissed(push, reason), muted(push) }; each resolves when the
   *          answer is kept. `text` is what was typed, where the action asks; `reason` why no person put it away.
   * source   (push, address) -> the address, where a browser may load an image or a file of it; of what takes the
   *          device's credential a promise of a blob: address.
   */
  constructor(list, resting, answer, source) {
    this.#list = list;
    this.#resting = resting;
    this.#answer = answer;
    this.#source = source;
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#dismiss(this.#focused() ?? this.#shown[0]);
    });
  }

  /** Show it; in place of the one with its collapse key, if that is still there. `opened`: somebody had done so before. */
  show(push, opened = false) {
    const banner = { push, opened, answered: false, element: null };
    banner.element = this.#draw(banner);
    const { collapseKey } = push;
    const old = collapseKey === null ? undefined : this.#shown.find((other) => other.push.collapseKey === collapseKey);
    this.#shown.unshift(banner);
    this.#list.prepend(banner.element);
    if (old) this.#dismissFor(old, "collapse_key");
    const unanswered = this.#shown.filter(({ answered }) => !answered);
    if (unanswered.length > MAX_CARDS) this.#dismissFor(unanswered.at(-1), "screen_full");
    this.#dismissInTime(banner);
  }

  /** Dismiss a card that no person has put away. */
  #dismissFor(banner, reason) {
    this.#end(banner, () => this.#answer.dismissed(banner.push, reason));
  }

  #dismissInTime(banner) {
    const left = banner.push.leavesScreenIn;
    if (left === null || banner.answered) return;
    if (left <= 0) this.#dismissFor(banner, "ttl");
    else setTimeout(() => this.#dismissInTime(banner), Math.min(left, LONGEST_TIMER_MS));
  }

  /** Take it away unanswered: it was recalled. The push, if it was there. */
  withdraw(pushId) {
    const banner = this.#shown.find(({ push }) => push.pushId === pushId);
    if (banner === undefined || banner.answered) return undefined;
    banner.answered = true;
    this.#remove(banner);
    return banner.push;
  }

  has(push) {
    return this.#find(push) !== undefined;
  }

  /** Somebody opened it, here or elsewhere. Without anything else to choose from, that was it. */
  open(push) {
    const banner = this.#find(push);
    const url = webAddress(push.notification.url);
    // At once: a browser opens windows for a click, not for what comes of it later.
    if (url !== null) window.open(url, "_blank", "noopener,noreferrer");
    if (banner === undefined) return;
    const first = !banner.opened;
    banner.opened = true;
    const send = async () => first && this.#answer.opened(push);
    if (push.actions.length === 0) this.#end(banner, send);
    else send();
  }

  #act(banner, action) {
    const url = webAddress(action.url);
    if (url !== null) window.open(url, "_blank", "noopener,noreferrer");
    if (typeof action.input === "string") this.#askFor(banner, action);
    else this.#end(banner, () => this.#answer.acted(banner.push, action));
  }

  /** In place of the buttons, until it is answered or Escape brings them back. */
  #askFor(banner, action) {
    const form = make("form", "banner-reply");
    const field = make("input", "banner-input");
    field.maxLength = 1000;
    field.required = true;
    field.dir = "auto";
    field.setAttribute("aria-label", action.input);
    field.placeholder = action.input;
    const send = make("button", "banner-action", action.title ?? action.id);
    send.dir = "auto";
    form.append(field, send);
    const buttons = banner.element.querySelector(".banner-actions");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (text !== "") this.#end(banner, () => this.#answer.acted(banner.push, action, text));
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      form.replaceWith(buttons);
      buttons.querySelector("button").focus();
    });
    buttons.replaceWith(form);
    field.focus();
  }

  #dismiss(banner) {
    if (banner !== undefined) this.#end(banner, () => this.#answer.dismissed(banner.push));
  }

  /** It takes one answer, and goes when that is kept: what left the screen cannot be lost with the page. */
  async #end(banner, send) {
    if (banner.answered) return;
    banner.answered = true;
    for (const button of banner.element.querySelectorAll("button")) button.disabled = true;
    try {
      await send();
    } finally {
      this.#remove(banner);
    }
  }

  #remove(banner) {
    const index = this.#shown.indexOf(banner);
    if (index < 0) return;
    // A disabled button has lost its focus to the page already.
    const focused = banner === this.#focused() || document.activeElement === document.body;
    this.#shown.splice(index, 1);
    banner.element.remove();
    if (focused) {
      const next = this.#shown[Math.min(index, this.#shown.length - 1)];
      (next?.element.querySelector("button") ?? this.#resting).focus();
    }
  }

  async #load(picture, push, address) {
    try {
      picture.src = await this.#source(push, address);
      await picture.decode();
    } catch (error) {
      console.warn(`no image: ${error.message}`);
      picture.remove();
    } finally {
      if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
    }
  }

  /** The file that belongs to it: a link, whose click fetches and saves what takes the device's credential. */
  #link(push) {
    const { url, name } = Object(push.notification.attachment);
    const address = webAddress(url);
    if (address === null) return null;
    const called = String(name || lastPart(address));
    const link = make("a", "banner-file", called);
    link.dir = "auto";
    link.href = address;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    link.addEventListener("click", (event) => {
      const source = this.#source(push, address);
      if (source === address) return;
      event.preventDefault();
      this.#save(link, called, source);
    });
    return link;
  }

  /** Saved, not opened: a document of others at an address of ours could read what this page keeps. */
  async #save(link, called, source) {
    link.setAttribute("aria-busy", "true");
    link.textContent = `${called} …`;
    try {
      const saved = make("a", "");
      saved.href = await source;
      saved.download = called;
      saved.click();
      setTimeout(() => URL.revokeObjectURL(saved.href), SAVE_MS);
      link.textContent = called;
    } catch (error) {
      console.warn(`no file: ${error.message}`);
      link.textContent = text("file_missing", { file: called });
    } finally {
      link.removeAttribute("aria-busy");
    }
  }

  #find(push) {
    return this.#shown.find((banner) => banner.push.pushId === push.pushId);
  }

  #focused() {
    return this.#shown.find(({ element }) => element.contains(document.activeElement));
  }

  #draw(banner) {
    const { push } = banner;
    const { title, body } = push.notification;
    const element = make("article", "banner");
    element.dataset.priority = push.priority;
    element.dataset.push = push.pushId;
    // An alert interrupts what a screen reader says, a status waits for its end.
    element.setAttribute("role", push.kind === "alert" ? "alert" : "status");
    const image = webAddress(push.notification.image);
    if (image !== null) {
      const picture = make("img", "banner-image");
      picture.alt = "";
      picture.referrerPolicy = "no-referrer";
      picture.onerror = () => picture.remove();
      this.#load(picture, push, image);
      element.append(picture);
    }
    const words = button("banner-text", () => this.open(push));
    if (title) words.append(others("strong", "banner-title", title));
    if (body) words.append(others("span", "banner-body", body));
    element.append(words);
    const link = this.#link(push);
    if (link !== null) element.append(link);
    if (push.actions.length > 0) {
      const actions = make("div", "banner-actions");
      for (const action of push.actions) {
        const choice = button("banner-action", () => this.#act(banner, action));
        choice.textContent = String(action.title ?? action.id);
        choice.dir = "auto";
        choice.dataset.action = action.id;
        actions.append(choice);
      }
      element.append(actions);
    }
    if (push.channel !== null) {
      const mute = button("banner-mute", () => this.#end(banner, () => this.#answer.muted(push)));
      mute.textContent = text("mute", { channel: isolated(push.channel) });
      element.append(mute);
    }
    const close = button("banner-close", () => this.#dismiss(banner));
    close.setAttribute("aria-label", text("dismiss", { title: isolated(title ?? body) }));
    close.textContent = "×";
    element.append(close);
    return element;
  }
}

/** An http(s) address, normalised; null for anything else. */
export function webAddress(text) {
  if (typeof text !== "string" || !URL.canParse(text)) return null;
  const url = new URL(text);
  return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
}

/** What an address would be called as a file: the end of its path, without one its host. */
function lastPart(address) {
  const { pathname, hostname } = new URL(address);
  const last = pathname.split("/").at(-1);
  try {
    return decodeURIComponent(last) || hostname;
  } catch {
    return last; // a lone % is no encoding
  }
}

export function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = String(text);
  return element;
}

/** Words of others, from right to left if they are. */
export function others(tag, className, words) {
  const element = make(tag, className, words);
  element.dir = "auto";
  return element;
}

function button(className, onClick) {
  const element = make("button", className);
  element.type = "button";
  element.addEventListener("click", onClick);
  return element;
}
