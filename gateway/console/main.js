/**
 * The page: navigation, who is signed in, whether there is a connection, and the screen that the address names.
 */

import { onSessionEnd } from "./api.js";
import { html, isSafeAddress, update } from "./html.js";
import { connection } from "./live.js";
import { dialog } from "./parts/dialog.js";
import { problem } from "./parts/problem.js";
import { toastError } from "./parts/toast.js";
import { Router, SCREENS, href } from "./router.js";
import { current, onOtherTab, signOut } from "./session.js";
import { signInAddress, signInForm, signInPage } from "./sign-in.js";
import { LANGUAGES, choose, language, load, t } from "./texts.js";

const THEME = "fleetpush.console.theme";
const THEMES = ["auto", "light", "dark"];

const $ = (id) => document.getElementById(id);
let session = null;

wear(localStorage.getItem(THEME));
document.documentElement.lang = language;
await load("common", "signin", "states", "reasons", "problems");
connection.addEventListener("change", drawConnection);
onSessionEnd(renew);
addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
onOtherTab(() => void otherTab());
await begin();

async function begin() {
  $("skip").textContent = t("common.skip");
  try {
    session = await current();
  } catch (error) {
    $("main").replaceChildren(problem(error, () => location.reload()));
    connection.addEventListener("change", () => location.reload(), { once: true });
    return;
  }
  const signingIn = location.pathname === "/console/sign-in";
  if (session === null && !signingIn) return location.replace(signInAddress());
  if (session !== null && signingIn) return location.replace("/console/");
  drawHeader();
  if (signingIn) return signInPage($("main"));
  await new Router($("main"), session, opened).open();
}

// Around the screens

function opened(place, title) {
  document.title = title === null ? "Fleetpush" : `${title} – Fleetpush`;
  const shown = SCREENS[place]?.under ?? place;
  for (const link of $("nav").querySelectorAll("a")) {
    if (link.dataset.place === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showMenu(false);
}

/** On a narrow screen navigation and settings are behind a button. */
function showMenu(open) {
  document.body.dataset.menu = open ? "open" : "closed";
  $("menu").setAttribute("aria-expanded", String(open));
}

function drawHeader() {
  const menu = $("menu");
  menu.setAttribute("aria-label", t("common.menu"));
  menu.hidden = session === null;
  menu.onclick = () => showMenu(document.body.dataset.menu !== "open");
  $("nav").hidden = session === null;
  $("nav").setAttribute("aria-label", t("common.navigation"));
  if (session !== null) {
    const listed = Object.entries(SCREENS).filter(([, { listed, scope }]) => listed && (!scope || session.may(scope)));
    update($("nav"), html`<ul>${listed.map(([place]) => html`
      <li><a href=${href(place)} data-place=${place}>${t(`common.nav_${place}`)}</a></li>`)}</ul>`);
  }
  update(
    $("who"),
    session && html`<span class="identity"><span class="quiet">${t("common.app")}</span> <b>${session.app}</b> · ${
      session.sign_in === "key" ? t("common.with_key", { name: session.name }) : session.name} · ${t(`common.role_${session.role}`)}</span>`,
    html`<span class="settings">
      ${picker(t("common.language"), "language", Object.entries(LANGUAGES), language, choose)}
      ${picker(t("common.theme"), "theme", THEMES.map((theme) => [theme, t(`common.theme_${theme}`)]), theme(), wear)}
      ${session && html`<button type="button" id="sign-out" onclick=${leave}>${t("common.sign_out")}</button>`}
    </span>`,
  );
}

function picker(label, name, entries, chosen, choice) {
  return html`<select name=${name} aria-label=${label} onchange=${(event) => choice(event.target.value)}>${entries.map(
    ([value, text]) => html`<option value=${value} selected=${value === chosen}>${text}</option>`,
  )}</select>`;
}

function theme() {
  return document.documentElement.dataset.theme ?? "auto";
}

function wear(theme) {
  if (!THEMES.includes(theme)) return;
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(THEME, theme);
}

function drawConnection() {
  $("connection").textContent = connection.lost ? t("common.connection_lost") : "";
}

// The session

async function leave() {
  let provider;
  try {
    provider = await signOut();
  } catch (error) {
    toastError(error);
    return;
  }
  $("main").replaceChildren(); // nor does the browser's Back show it
  location.assign(provider !== null && isSafeAddress(provider) ? provider : "/console/sign-in");
}

let renewing = null;
/** Goes on without the sign-in that is being asked for: somebody has signed in elsewhere. */
let proceed = null;

/** Ask its person to sign in again, above what is on the screen: nothing that was typed is lost. Resolves to true. */
function renew() {
  renewing ??= ask().finally(() => (renewing = null));
  return renewing;
}

async function ask() {
  const here = location.pathname + location.search;
  const signIn = (close) => {
    proceed = () => close(true);
    return html`<p>${t("signin.again")}</p>${signInForm(proceed, here)}`;
  };
  // Another tab may have signed in meanwhile.
  const done = (await current()) !== null || (await dialog(t("signin.ended"), signIn));
  proceed = null;
  if (done !== true) {
    location.assign(signInAddress());
    return false;
  }
  return isStillOurs();
}

/** Another tab has signed in or out: what it did is done here, too. */
async function otherTab() {
  const found = await current().catch(() => session);
  if (proceed !== null && found !== null) proceed();
  else await isStillOurs();
}

/** Begin again if the browser's session is another person's, or nobody's. */
async function isStillOurs() {
  const found = await current().catch(() => session);
  if (found === null ? session === null || proceed !== null : session !== null && found.isOf(session)) return true;
  location.reload();
  return false;
}
