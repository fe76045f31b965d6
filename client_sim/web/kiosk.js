/**
 * The page: a kiosk that is a device. It shows what is pushed, lets a person answer, plays music when told to.
 *
 * The credential comes once in the address's fragment (#device=kiosk-1&token=…&url=ws://…/mqtt, which no server is ever
 * sent and which leaves the address bar at once), or from the form; it is kept in localStorage. An address that would make
 * the page another device has to be confirmed by the person: anybody can send a link. Whoever can open the
 * developer tools of this browser can read it there: it opens this one device, and `fleetpush devices rotate` voids it.
 *
 * The other scripts of a page find the device as `fleetpush.device`, and what silent pushes bring as the window's event
 * `fleetpush-data` (its `detail` is the push).
 */

import { Banners, make, others } from "./banners.js";
import { EnrolmentRefused, codeAddress, enrol, renew } from "./enrolment.js";
import { Player } from "./player.js";
import { fillIn, hasText, isolated, language, text } from "./texts.js";

/** Where pages of before kept the permission that the server knows of, whichever device they were. */
const PERMISSION_OF_ORIGIN = "permission";
const CREDENTIAL = "fleetpush.credential";
/** Time between two looks at whether the token has to be renewed. */
const RENEWAL_CHECK_MS = 600_000;
/** Lines of what was pushed lately. */
const RECENT_LINES = 6;
/** Attempts without an opened connection after which the page says what to check: about 3 seconds of them. */
const UNOPENED_ATTEMPTS = 3;
const MQTT_JS = "node_modules/mqtt/dist/mqtt.esm.js";
/** The keys whose commands the page obeys, where there are some: `fleetpush kiosk --trust FILE`, or a file of that name. */
const TRUSTED_KEYS = "trusted-keys.json";
/** Brings it, without the scripts of packages. */
const INSTALL_MQTT_JS = "npm install --ignore-scripts";

const $ = (id) => document.getElementById(id);
const player = new Player(drawPlayer);
const answers = {
  opened: (push) => answered(push, text("what_opened"), device.opened(push)),
  dismissed: (push, reason) => answered(push, text(`what_${reason ?? "dismissed"}`), device.dismissed(push, reason)),
  muted: async (push) => {
    await device.setChannels({ [push.channel]: false });
    await answered(push, text("what_muted", { channel: isolated(push.channel) }), device.dismissed(push));
  },
  acted: async (push, action, text) => {
    const result = await device.act(push, action.id, text);
    answered(push, describe(action.title ?? action.id, result));
    await drawConsent(); // that may have been the answer
  },
};
const banners = new Banners($("banners"), $("name"), answers, (push, address) =>
  device.keeps(push, address) ? device.fetch(push, address).then((blob) => URL.createObjectURL(blob)) : address,
);
/** Push id -> its operating system notification, as long as its banner is there. */
const notifications = new Map();
let device = null;
/** The address of an enrolment code that the page was opened with (#enrol=https://…/enrol%23CODE). */
let label = null;

fillIn(document);
adoptCredential();
addEventListener("hashchange", () => adoptCredential() && location.reload());
drawClock();
drawPlayer();
$("play").addEventListener("click", () => (player.playing ? player.pause() : player.play()));
$("next").addEventListener("click", () => player.next());
$("setup").addEventListener("submit", enter);
$("by-code").addEventListener("submit", enterCode);
$("allow").addEventListener("click", ask);
await begin();

// Who we are

/**
 * From the fragment into localStorage, and out of the address bar (and so of the history). True: it is there now. A page
 * that has another one asks first: whoever can make somebody open a link must not take the device away, or give another.
 */
function adoptCredential() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!given.has("token") && !given.has("enrol")) return false;
  history.replaceState(null, "", location.pathname + location.search);
  if (given.has("enrol")) {
    label = given.get("enrol");
    return keptCredential() === null; // a page that is a device already does not become another by a code
  }
  const wanted = credentialOf(given);
  const kept = keptCredential();
  if (JSON.stringify(kept) === JSON.stringify(wanted)) return false;
  if (kept !== null) {
    askToReplace(kept, wanted);
    return false;
  }
  keep(wanted);
  return true;
}

function askToReplace(kept, wanted) {
  const called = ({ device, url }) => isolated(`${device} (${URL.canParse(url) ? new URL(url).host : url})`);
  $("replace-text").textContent = text("replace_text", { new: called(wanted), old: called(kept) });
  $("replace-no").textContent = text("replace_no", { old: isolated(kept.device) });
  $("replace-no").onclick = () => $("replace").close();
  $("replace-yes").onclick = () => {
    keep(wanted);
    location.reload();
  };
  // Above everything, the messages included; Escape is no.
  if (!$("replace").open) $("replace").showModal();
  $("replace-no").focus();
}

function credentialOf(given) {
  const { device, token, url, app = "default" } = Object.fromEntries(given);
  return { device, token, url, app };
}

/** The credential that the page is to have; null before there is one. */
function keptCredential() {
  return JSON.parse(localStorage.getItem(CREDENTIAL) ?? "null");
}

function keep(credential) {
  const kept = keptCredential();
  // Still there if the page never got as far as to be the device whose it is. It is not the other's.
  if (["device", "app", "url"].some((name) => kept?.[name] !== credential[name])) {
    localStorage.removeItem(PERMISSION_OF_ORIGIN);
  }
  localStorage.setItem(CREDENTIAL, JSON.stringify(credential));
}

function enter(event) {
  event.preventDefault();
  keep(credentialOf(new FormData($("setup"))));
  location.reload();
}

function enterCode(event) {
  event.preventDefault();
  const { code, server } = Object.fromEntries(new FormData($("by-code")));
  tradeCode(code, server);
}

/** Trades a code for a credential, with which the page begins anew; or says why not, and lets the person type another. */
async function tradeCode(code, server) {
  drawState("connecting", "");
  $("state-text").textContent = text("enrolling");
  $("code-refused").textContent = "";
  try {
    keep(await enrol(code, { server }));
    location.reload();
  } catch (error) {
    drawState("refused", "");
    $("code-refused").textContent =
      error instanceof EnrolmentRefused ? error.message : text("enrol_failed", { server: isolated(serverOf(code, server)) });
    drawCodeForm(code, server);
  }
}

function serverOf(code, server) {
  try {
    return codeAddress(code, server).server;
  } catch {
    return code;
  }
}

async function begin() {
  const credential = keptCredential();
  if (credential === null && label !== null) {
    await tradeCode(label);
    return;
  }
  if (credential === null) {
    drawState("refused", "");
    $("state-text").textContent = text("not_set_up");
    drawCodeForm("", "");
    drawSetup({});
    return;
  }
  $("name").textContent = credential.device;
  document.title = `${credential.device} · Fleetpush`;
  try {
    // Only now: the credential must leave the address bar also if this fails, and MQTT.js takes its time.
    const { FleetpushDevice } = await import("./device.js");
    const trustedKeys = await pinnedKeys();
    device = new FleetpushDevice({
      deviceId: credential.device,
      token: credential.token,
      url: credential.url,
      app: credential.app,
      onPush: handle,
      onObeyed: (push, result) => remember(push, describe(push.command, result)),
      onInterrupted: (push) => remember(push, text("what_interrupted")),
      onRestore: restore,
      onState: drawState,
      onNotice: heed,
      trustedKeys,
    });
    adoptPermission();
    const orders = { play: () => player.play(), pause: () => player.pause(), next: () => player.next() };
    Object.assign(device.actions, orders);
    Object.assign(device.commands, orders);
    globalThis.fleetpush = { device };
    await device.start();
    setInterval(renewToken, RENEWAL_CHECK_MS);
    renewToken();
    await reportKey();
  } catch (error) {
    if (await isThere(MQTT_JS)) {
      drawState("failed", error.message);
      drawSetup(credential);
    } else {
      drawState("failed", text("mqtt_js_missing", { file: MQTT_JS, command: INSTALL_MQTT_JS }));
    }
    return;
  }
  await agree();
  document.addEventListener("visibilitychange", () => document.hidden || agree());
}

/** Undefined without any. A file that cannot be had, or used, is no reason to obey everybody: the page then does not start. */
async function pinnedKeys() {
  const answer = await fetch(TRUSTED_KEYS);
  if (!answer.ok) throw new Error(`${TRUSTED_KEYS}: answered ${answer.status}`);
  const pinned = await answer.json();
  if (Array.isArray(pinned.keys) && pinned.keys.length === 0) return undefined;
  const { TrustedKeys } = await import("./trust.js");
  return new TrustedKeys(pinned);
}

/** Others encrypt for this key; whoever does compares its fingerprint with what the page says here. */
async function reportKey() {
  if (device.encryptionKey === null) return;
  console.info(`fingerprint of this page's key for what is encrypted: ${device.encryptionKey.kid}`);
  await device.report({ encryption_key: device.encryptionKey });
}

/** Whether the page's server has the file; also when that does not answer: then it is not the file that is missing. */
async function isThere(file) {
  try {
    return (await fetch(file, { method: "HEAD" })).ok;
  } catch {
    return true;
  }
}

// Permission and consent

/** Where the permission that the server knows of is kept: what one device has told, another has not. */
function permissionKey() {
  return `permission ${device.name}`;
}

function adoptPermission() {
  const told = localStorage.getItem(PERMISSION_OF_ORIGIN);
  if (told !== null) localStorage.setItem(permissionKey(), told);
  localStorage.removeItem(PERMISSION_OF_ORIGIN);
}

/** The one place that asks for permission, and a click is what leads here. */
async function ask() {
  const permission = await Notification.requestPermission();
  // What this device must remember should not be what the browser clears first when the disk is full.
  await navigator.storage?.persist?.();
  if (permission !== "default") {
    await device.consent(permission, text("ask_version"));
    localStorage.setItem(permissionKey(), permission);
  }
  await drawConsent();
}

/** The browser's answer may have been given, or changed, elsewhere: in its settings, or by whoever manages it. */
async function agree() {
  const permission = permissionNow();
  // Told when it has changed, not again and again: what a person has answered since then counts.
  if (permission !== "default" && permission !== localStorage.getItem(permissionKey())) {
    if (permission !== (await device.consented())) await device.consent(permission);
    localStorage.setItem(permissionKey(), permission);
  }
  await drawConsent();
}

function permissionNow() {
  return "Notification" in globalThis ? Notification.permission : "default";
}

/** The question while nobody has answered it; then what became of alerts, where that is not everything. */
async function drawConsent() {
  const consent = await device.consented();
  const permission = permissionNow();
  const off = consent === "denied";
  $("ask").hidden = off || !("Notification" in globalThis) || permission !== "default";
  $("alerts").hidden = !off && !(consent === "granted" && permission === "denied");
  const state = off ? "alerts_off" : "page_only";
  $("alerts-title").textContent = text(`${state}_title`);
  $("alerts-text").textContent = text(`${state}_text`);
  $("alerts-change").textContent = text(`${state}_change`);
  $("alerts-change").onclick = async () => {
    await device.consent(off ? "granted" : "denied", text("ask_version"));
    await drawConsent();
  };
}

// Pushes

function handle(push) {
  switch (push.kind) {
    case "alert":
    case "in_app":
      return show(push);
    case "silent":
      dispatchEvent(new CustomEvent("fleetpush-data", { detail: push }));
  }
  return undefined; // kinds of later versions are not for us
}

async function show(push) {
  remember(push, text("what_new"));
  banners.show(push);
  const displayed = once(() => device.displayed(push));
  if (push.kind === "alert" && permissionNow() === "granted") notify(push, displayed);
  await seen(push, displayed);
}

/** What an earlier page showed and nobody has answered. Its operating system notification is not made anew. */
async function restore(push, { displayed, opened }) {
  remember(push, text(opened ? "what_opened" : "what_new"));
  banners.show(push, opened);
  if (!displayed) await seen(push, once(() => device.displayed(push)));
}

async function seen(push, displayed) {
  if (!document.hidden) await displayed();
  // In the background nobody has seen the banner yet.
  else document.addEventListener("visibilitychange", () => banners.has(push) && displayed(), { once: true });
}

/** What the server tells about pushes. */
function heed(notice) {
  if (notice.type === "gap") rememberGap(notice);
  if (notice.type === "preferences") drawConsent();
  if (notice.type !== "clear" || !Array.isArray(notice.push_ids)) return;
  for (const pushId of notice.push_ids) {
    const push = banners.withdraw(pushId);
    if (push !== undefined) answered(push, text("what_withdrawn"));
  }
}

/** The same outside the page, for when another window covers it. */
function notify(push, displayed) {
  const { title, body } = push.notification;
  const tag = push.collapseKey ?? push.pushId;
  try {
    const notification = new Notification(String(title ?? body), {
      body: title === undefined ? undefined : body,
      tag,
      renotify: true,
      dir: "auto",
      icon: "icon.svg",
      requireInteraction: push.priority === "critical",
    });
    notification.onshow = displayed;
    notification.onclick = () => {
      window.focus();
      banners.open(push);
    };
    notifications.set(push.pushId, notification);
  } catch (error) {
    console.warn(`no notification: ${error.message}`); // Chrome on Android wants a service worker
  }
}

/** Resolves when `said`, the receipt, is kept. */
function answered(push, how, said) {
  notifications.get(push.pushId)?.close();
  notifications.delete(push.pushId);
  remember(push, how);
  return said;
}

/** `Play: playing · Morning light`, or whatever else the result says in words. */
function describe(title, result) {
  const words = typeof result === "object" && result !== null ? Object.values(result) : [result];
  const said = words.filter((word) => typeof word === "string");
  return said.length > 0 ? `${title}: ${said.join(" · ")}` : String(title);
}

function once(call) {
  let called = null;
  return () => (called ??= call());
}

// What is drawn

function drawState(state, detail) {
  $("state").dataset.state = state;
  const words = [text(state)];
  if (state === "refused" || state === "failed") words.push(detail);
  if (state === "waiting") words.push(text(`other_${detail.split(" ").at(-1)}`));
  $("state-text").textContent = words.filter(Boolean).join(": ");
  if (state === "refused" && detail) drawSetup(keptCredential());
  if (state === "connected") $("setup").hidden = true;
  if (state === "disconnected") drawCheck();
  else if (state !== "connecting") $("check").textContent = "";
}

/** Renews a token that ends when it is time for it, in one tab; what fails is tried at the next look. */
function renewToken() {
  return navigator.locks.request("fleetpush.renewal", async () => {
    const credential = keptCredential();
    if (!(credential?.renewAt <= Date.now())) return;
    try {
      const renewed = await renew(credential);
      keep(renewed);
      device.useToken(renewed.token);
    } catch (error) {
      console.warn(`the token was not renewed: ${error.message}`);
    }
  });
}

/** What to check about a server that no attempt has reached: a browser does not say what is wrong. */
function drawCheck() {
  if (device.unopenedAttempts < UNOPENED_ATTEMPTS) return;
  const { url } = keptCredential();
  const { protocol } = new URL(url);
  $("check").textContent = text(protocol === "wss:" ? "check_tls" : "check", { url: isolated(url), origin: location.origin });
}

function drawCodeForm(code, server) {
  const form = $("by-code");
  if (!form.hidden) return;
  form.elements.code.value = code;
  form.elements.server.value = server || (code ? serverOf(code, "") : "");
  form.hidden = false;
}

function drawSetup(credential) {
  const form = $("setup");
  if (!form.hidden) return;
  for (const name of ["url", "device", "app"]) {
    if (credential[name]) form.elements[name].value = credential[name];
  }
  form.hidden = false;
}

/** One line for each push; the newest word about it replaces the one before. */
function remember(push, what) {
  $("nothing").hidden = true;
  const list = $("recent");
  let line = [...list.children].find((child) => child.dataset.push === push.pushId);
  if (line === undefined) {
    const { title, body } = push.notification;
    line = make("li", "");
    line.dataset.push = push.pushId;
    line.append(
      make("time", "", timeOf(new Date())),
      others("span", "recent-title", title ?? body ?? push.kind),
      others("span", "recent-what"),
    );
    list.prepend(line);
    while (list.children.length > RECENT_LINES) list.lastElementChild.remove();
  }
  line.querySelector(".recent-what").textContent = what;
}

/** What ended while the device was away: one line for all of it. */
function rememberGap({ count, reasons }) {
  const words = Object.entries(Object(reasons)).map(([state, number]) =>
    text(hasText(`missed_${state}`) ? `missed_${state}` : "missed_other", { count: number, state }),
  );
  const gap = { pushId: `gap ${Date.now()}`, kind: "gap", notification: { title: text("missed") } };
  remember(gap, words.length > 0 ? words.join(", ") : String(count));
}

function drawPlayer() {
  const { playing } = player;
  $("player").dataset.playing = playing;
  $("track-state").textContent = text(playing ? "playing" : "paused");
  $("track").textContent = player.title;
  $("progress").value = player.progress;
  $("play").textContent = text(playing ? "pause" : "play");
}

function timeOf(moment) {
  return moment.toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit" });
}

function drawClock() {
  const now = new Date();
  $("clock").textContent = timeOf(now);
  setTimeout(drawClock, 60_000 - (now % 60_000));
}
