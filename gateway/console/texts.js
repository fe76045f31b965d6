/**
 * What the console says, in the languages that are complete: texts/LANG/SCREEN.js, one module for each screen, loaded
 * before the screen opens. A test compares the names.
 *
 * t("fleet.title")                         a text of texts/LANG/fleet.js
 * t("fleet.count", { n: 3 })               {n} in its place; numbers as the language writes them. A text that is an object
 *                                          has one form for each plural category of `n` (Intl.PluralRules)
 * t.parts("push.by", { who: html`..` })    an array of texts and nodes, where a value is a node
 * t.or(`reasons.${word}`, word)            the text, or what stands for it where there is none
 * t.number(1200)                           a number as the language writes it
 */

export const LANGUAGES = { en: "English", de: "Deutsch" };
const KEPT = "fleetpush.console.language";

/** What was chosen here; else the first of the browser's that there is. */
export const language = chosen() ?? spoken() ?? "en";
const plural = new Intl.PluralRules(language);
const number = new Intl.NumberFormat(language);
const texts = new Map();

function chosen() {
  const kept = localStorage.getItem(KEPT);
  return kept !== null && Object.hasOwn(LANGUAGES, kept) ? kept : null;
}

function spoken() {
  return navigator.languages.map((tag) => tag.split("-")[0]).find((tag) => Object.hasOwn(LANGUAGES, tag));
}

/** Speak another language, from the next document on. */
export function choose(tag) {
  localStorage.setItem(KEPT, tag);
  location.reload();
}

/** Load the texts of a screen, or of several. */
export async function load(...names) {
  const missing = names.filter((name) => !texts.has(name));
  const loaded = await Promise.all(missing.map((name) => import(`./texts/${language}/${name}.js`)));
  missing.forEach((name, at) => texts.set(name, loaded[at].default));
}

export function t(key, values = {}) {
  return t.parts(key, values).join("");
}

t.parts = (key, values = {}) => {
  const found = find(key);
  if (found === undefined) {
    console.error(`no text ${key} in ${language}`);
    return [key];
  }
  const form = typeof found === "string" ? found : (found[plural.select(values.n)] ?? found.other);
  return form.split(/\{(\w+)\}/).map((piece, at) => (at % 2 === 0 ? piece : written(values[piece])));
};

t.has = (key) => find(key) !== undefined;
t.or = (key, otherwise) => (t.has(key) ? t(key) : otherwise);
t.number = (n) => number.format(n);
t.language = language;

function written(value) {
  if (typeof value === "number") return t.number(value);
  return value ?? "";
}

function find(key) {
  const dot = key.indexOf(".");
  const of = texts.get(key.slice(0, dot));
  const name = key.slice(dot + 1);
  // A name may be a device's own word, and `constructor` is one that every object knows.
  return of !== undefined && Object.hasOwn(of, name) ? of[name] : undefined;
}
