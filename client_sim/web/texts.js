/**
 * The page's own words, by language: that of the browser (`navigator.languages`), English where there is none.
 *
 * `texts.json` beside this file adds languages and replaces single texts: {"fr": {"connected": "Connecté"}, "de": {..}}.
 * What a language lacks is said in English. `{name}` stands for what is filled in; `direction` is `rtl` for a language
 * that is written from right to left. Who changes `ask_text`, `alerts_off_text` or `page_only_text` changes `ask_version`:
 * it is kept with the answer, as proof of what was asked.
 */

const TEXTS = {
  en: {
    direction: "ltr",
    title: "Fleetpush kiosk",
    starting: "Starting",
    messages: "Messages",
    ask_title: "May we notify you?",
    ask_text:
      "With your permission, alerts appear on this page, and as notifications while it is in the background. If you " +
      "refuse, no alerts are sent to this device; you can turn them on again here.",
    ask_version: "2026-11-2",
    ask_allow: "Allow notifications",
    alerts_off_title: "Alerts are off for this device",
    alerts_off_text: "The server sends none; other messages may still come. Turned on again, alerts appear on this page.",
    alerts_off_change: "Turn alerts on",
    page_only_title: "Alerts appear on this page only",
    page_only_text: "The browser's settings do not allow notifications from this page.",
    page_only_change: "Turn alerts off",
    code_title: "Do you have a code?",
    code_text: "It is on the label for this device: sixteen letters and digits.",
    code_server: "Server",
    code_code: "Code",
    code_enrol: "Enrol",
    enrolling: "Enrolling",
    enrol_failed: "{server} does not answer. Check its address, and that this browser trusts its certificate.",
    setup_title: "Which device is this?",
    setup_text:
      "An operator gets these from “fleetpush devices add”, or opens the address that “fleetpush kiosk” prints.",
    setup_server: "Server",
    setup_device: "Device",
    setup_token: "Token",
    setup_app: "Application",
    setup_connect: "Connect",
    not_set_up: "Not set up",
    replace_title: "Become another device?",
    replace_text: "The address that was opened here makes this page {new}. Until now it is {old}.",
    replace_yes: "Change",
    replace_no: "Stay {old}",
    player: "Player",
    playing: "Playing",
    paused: "Paused",
    play: "Play",
    pause: "Pause",
    next: "Next",
    position: "Position",
    recently: "Recently",
    nothing: "Nothing yet. What is pushed to this device appears here.",
    waiting: "Not this tab",
    connecting: "Connecting",
    connected: "Connected",
    disconnected: "Offline, trying again",
    refused: "Refused by the server",
    failed: "Not started",
    mqtt_js_missing:
      "MQTT.js is missing ({file}). In the folder of this page, run {command}; with “fleetpush kiosk”, start it again. " +
      "Then reload.",
    check: "{url} does not answer. Check the address, that the server runs, and that it lets {origin} in (--ws-origins).",
    check_tls:
      "{url} does not answer. Check the address, that the server runs, that this browser trusts its certificate " +
      "(import the CA), and that it lets {origin} in (--ws-origins).",
    other_connecting: "another tab is connecting",
    other_connected: "another tab is connected",
    other_disconnected: "another tab is offline",
    other_refused: "another tab is refused",
    mute: "Mute {channel}",
    dismiss: "Dismiss: {title}",
    file_missing: "{file}: not to be had",
    what_new: "new",
    what_opened: "opened",
    what_dismissed: "dismissed",
    what_ttl: "no longer valid",
    what_screen_full: "left: too many messages",
    what_collapse_key: "replaced",
    what_muted: "muted: {channel}",
    what_withdrawn: "withdrawn",
    what_interrupted: "interrupted",
    missed: "Missed while away",
    missed_expired: "{count} expired",
    missed_overflowed: "{count} overflowed",
    missed_cancelled: "{count} cancelled",
    missed_other: "{count} {state}",
  },
  de: {
    title: "Fleetpush-Kiosk",
    starting: "Startet",
    messages: "Nachrichten",
    ask_title: "Dürfen wir Sie benachrichtigen?",
    ask_text:
      "Mit Ihrer Erlaubnis erscheinen Meldungen auf dieser Seite, und als Benachrichtigung, wenn sie im Hintergrund ist. " +
      "Lehnen Sie ab, werden keine Meldungen an dieses Gerät gesendet; hier können Sie sie wieder einschalten.",
    ask_version: "2026-11-2-de",
    ask_allow: "Benachrichtigungen erlauben",
    alerts_off_title: "Meldungen sind für dieses Gerät aus",
    alerts_off_text:
      "Der Server sendet keine; andere Nachrichten können weiter kommen. Wieder eingeschaltet, erscheinen Meldungen auf " +
      "dieser Seite.",
    alerts_off_change: "Meldungen einschalten",
    page_only_title: "Meldungen erscheinen nur auf dieser Seite",
    page_only_text: "Die Einstellungen des Browsers erlauben keine Benachrichtigungen von dieser Seite.",
    page_only_change: "Meldungen ausschalten",
    code_title: "Haben Sie einen Code?",
    code_text: "Er steht auf dem Etikett für dieses Gerät: sechzehn Buchstaben und Ziffern.",
    code_server: "Server",
    code_code: "Code",
    code_enrol: "Anmelden",
    enrolling: "Meldet sich an",
    enrol_failed: "{server} antwortet nicht. Prüfen Sie die Adresse, und ob dieser Browser dem Zertifikat vertraut.",
    setup_title: "Welches Gerät ist das?",
    setup_text:
      "Diese Angaben liefert „fleetpush devices add“; oder öffnen Sie die Adresse, die „fleetpush kiosk“ ausgibt.",
    setup_server: "Server",
    setup_device: "Gerät",
    setup_token: "Token",
    setup_app: "Anwendung",
    setup_connect: "Verbinden",
    not_set_up: "Nicht eingerichtet",
    replace_title: "Ein anderes Gerät werden?",
    replace_text: "Die hier geöffnete Adresse macht diese Seite zu {new}. Bisher ist sie {old}.",
    replace_yes: "Ändern",
    replace_no: "{old} bleiben",
    player: "Wiedergabe",
    playing: "Läuft",
    paused: "Pausiert",
    play: "Abspielen",
    pause: "Pause",
    next: "Weiter",
    position: "Position",
    recently: "Zuletzt",
    nothing: "Noch nichts. Was an dieses Gerät gesendet wird, erscheint hier.",
    waiting: "Nicht in diesem Tab",
    connecting: "Verbindet",
    connected: "Verbunden",
    disconnected: "Offline, neuer Versuch",
    refused: "Vom Server abgelehnt",
    failed: "Nicht gestartet",
    mqtt_js_missing:
      "MQTT.js fehlt ({file}). Führen Sie im Ordner dieser Seite {command} aus; „fleetpush kiosk“ starten Sie neu. Laden " +
      "Sie dann die Seite neu.",
    check:
      "{url} antwortet nicht. Prüfen Sie die Adresse, ob der Server läuft und ob er {origin} zulässt (--ws-origins).",
    check_tls:
      "{url} antwortet nicht. Prüfen Sie die Adresse, ob der Server läuft, ob dieser Browser seinem Zertifikat " +
      "traut (CA importieren) und ob der Server {origin} zulässt (--ws-origins).",
    other_connecting: "ein anderer Tab verbindet",
    other_connected: "ein anderer Tab ist verbunden",
    other_disconnected: "ein anderer Tab ist offline",
    other_refused: "ein anderer Tab wird abgelehnt",
    mute: "{channel} stummschalten",
    dismiss: "Verwerfen: {title}",
    file_missing: "{file}: nicht verfügbar",
    what_new: "neu",
    what_opened: "geöffnet",
    what_dismissed: "verworfen",
    what_ttl: "nicht mehr gültig",
    what_screen_full: "entfernt: zu viele Nachrichten",
    what_collapse_key: "ersetzt",
    what_muted: "stumm: {channel}",
    what_withdrawn: "zurückgezogen",
    what_interrupted: "unterbrochen",
    missed: "In Abwesenheit verpasst",
    missed_expired: "{count} abgelaufen",
    missed_overflowed: "{count} verdrängt",
    missed_cancelled: "{count} zurückgezogen",
    missed_other: "{count} {state}",
  },
};

/** The operator's; without the file, or with one that is no JSON, there are none. */
async function ownTexts() {
  try {
    const answer = await fetch("texts.json");
    return answer.ok ? Object(await answer.json()) : {};
  } catch (error) {
    console.warn(`texts.json is not used: ${error.message}`);
    return {};
  }
}

const own = await ownTexts();
const known = new Set([...Object.keys(TEXTS), ...Object.keys(own)]);
/** Its tag: `de` also for a browser that wants `de-AT`, unless there is that. */
export const language =
  navigator.languages.flatMap((tag) => [tag, tag.split("-")[0]]).find((tag) => known.has(tag)) ?? "en";
const words = { ...TEXTS.en, ...own.en, ...TEXTS[language], ...Object(own[language]) };

/** One of the texts, with `values` in the places of their names. */
export function text(name, values = {}) {
  return String(words[name] ?? name).replace(/\{(\w+)\}/g, (place, key) => values[key] ?? place);
}

/** Whether there is such a text. */
export function hasText(name) {
  return Object.hasOwn(words, name);
}

/** Others' words inside ours: their direction changes nothing around them (U+2068 to U+2069). */
export function isolated(others) {
  return `\u2068${others}\u2069`;
}

/** Put the texts where a document names them: `data-text`, `data-label` (for screen readers). */
export function fillIn(root) {
  document.documentElement.lang = language;
  document.documentElement.dir = text("direction");
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(element.dataset.label));
  }
}
