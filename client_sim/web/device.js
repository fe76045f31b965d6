/**
 * The reference device for a browser page: `FleetpushDevice`, on MQTT.js over WebSocket. The twin of client_sim/device.py.
 *
 *     const device = new FleetpushDevice({ deviceId: "kiosk-1", token, url: "wss://push.example/mqtt", onPush: show });
 *     device.actions.play = play;          // a person chose it; its return value is sent as the action's result
 *     device.commands.reboot = reboot;     // a push of kind `command` with the data {"command": "reboot"}
 *     await device.start();
 *
 * Laws
 * 1. One effect per push, also when the page goes between the effect and the acknowledgement: the journal commits
 *    before the effect and after it, and the PUBACK leaves last (journal.js says what is known in between).
 * 2. What the device says is on disk before it is sent, and stays there until the server has acknowledged it.
 * 3. An acknowledgement belongs to the connection its push came by. Packet identifiers are reused, so a late one on a
 *    new connection would acknowledge another push.
 * 4. Reconnecting has full jitter: a fleet cut off at once does not return at once (backoff.js has the schedule).
 * 5. What is on the screen unanswered is in the journal (`onRestore`): a page that is reloaded, or died, shows it again.
 * 6. One tab is the device. A second one with the same client id would throw the first out, and be thrown out by it;
 *    the tabs of a browser share a lock, whose holder connects. It passes on when its tab goes.
 *
 * Pushes are handled one at a time, in order; callbacks may be asynchronous and slow. MQTT.js reads nothing while it
 * waits for its own message handler, not even the answer to its ping, so the handler does not wait: it declines the
 * acknowledgement, and the PUBACK is written here when the effect is over.
 *
 * Speaks MQTT 3.1.1 and subscribes with QoS 1: the journal already gives one effect.
 */

import mqtt from "./node_modules/mqtt/dist/mqtt.esm.js";
import { Absence, Backoff } from "./backoff.js";
import { FINISHED, GONE, INTERRUPTED, Journal } from "./journal.js";

export { Backoff };
export const CLIENT = "fleetpush-web/1";
/** Receipts travel in lists, well below the 4 KiB of a small device's packet. */
const RECEIPTS_PER_MESSAGE = 20;
/** Characters of such a list, whatever results it carries; the server takes 64 KiB. */
const RECEIPTS_CHARACTERS = 16_384;
/** Seconds in which a connection that may have died meanwhile must prove that it has not. */
const PROBE_SECONDS = 10;
const PUBACK = 0x40;
/** Actions of a push that asks for consent, and the answer that choosing one is. */
const CONSENT_ACTIONS = new Map([
  ["consent.granted", "granted"],
  ["consent.denied", "denied"],
]);
/** Messages from a tab that waits to the one that is the device. */
const HOW_IS_IT = "how is it?";
const SOMETHING_QUEUED = "there is something to say";
/** Path of what the server keeps for pushes. */
const ATTACHMENT = /^\/v1\/attachments\/[0-9a-f]{64}$/;
const FETCH_ATTEMPTS = 6;

/** A push as it arrived. `message` is the whole JSON object, with fields that this version does not know. */
export class Push {
  /** `age`: milliseconds since it arrived. `signedBy`: the thumbprint of the key that signed its data; null: nobody's. */
  constructor(message, age = 0, signedBy = null) {
    this.message = message;
    this.signedBy = signedBy;
    this.pushId = message.push_id;
    this.kind = String(message.kind ?? "alert");
    this.expiresIn = Number.isInteger(message.expires_in) ? message.expires_in : 0;
    this.receivedAt = performance.now() - Math.max(0, age);
  }

  /** Throws for what cannot be a push. */
  static parse(payload) {
    const message = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
    if (!isObject(message) || typeof message.push_id !== "string") throw new Error("not a JSON object with a push_id");
    return new Push(message);
  }

  get notification() {
    return isObject(this.message.notification) ? this.message.notification : {};
  }

  get data() {
    return this.message.data;
  }

  /** The order's name: data {"command": "reboot", ..}. Null for other kinds, and for one without a name. */
  get command() {
    const name = this.kind === "command" && isObject(this.data) ? this.data.command : null;
    return typeof name === "string" ? name : null;
  }

  get channel() {
    return typeof this.message.channel === "string" ? this.message.channel : null;
  }

  get priority() {
    return String(this.message.priority ?? "normal");
  }

  get collapseKey() {
    return typeof this.message.collapse_key === "string" ? this.message.collapse_key : null;
  }

  get actions() {
    const found = this.notification.actions;
    return Array.isArray(found) ? found.filter((action) => isObject(action) && typeof action.id === "string") : [];
  }

  /** One of the actions, by its id; empty if the push has none of it. */
  choice(action) {
    return this.actions.find(({ id }) => id === action) ?? {};
  }

  /** The server that keeps this push's attachments, as `https://host`; a sender cannot put it in. */
  get fetchFrom() {
    return typeof this.message.fetch_from === "string" ? this.message.fetch_from : null;
  }

  /** Seconds over which a fleet spreads its fetches of what belongs to it; 0: at once. */
  get fetchWithin() {
    return Number.isInteger(this.message.fetch_within) ? Math.max(0, this.message.fetch_within) : 0;
  }

  /** Milliseconds until it is to leave the screen by itself; null if it stays there until somebody answers it. */
  get leavesScreenIn() {
    if (this.notification.expires !== "screen" || this.expiresIn <= 0) return null;
    return this.expiresIn * 1000 - (performance.now() - this.receivedAt);
  }

  /** True when the lifetime ended while the push waited here. `expires_in` 0 means at once or not at all: it is at once now. */
  get expired() {
    return this.expiresIn > 0 && performance.now() - this.receivedAt > this.expiresIn * 1000;
  }
}

/** One device. `start` it once; `close` ends it, its session stays on the server. */
export class FleetpushDevice {
  /**
   * onPush         shows it, or does it. Commands go to it as well as long as none is in `commands`; what it returns (or
   *                resolves to) for one is the result sent back.
   * onObeyed       called with a command of `commands` that was carried out, and its result.
   * onInterrupted  called instead for a push whose effect an earlier page began and did not survive. For a `command`
   *                what it returns is the result; nothing is {"error": "interrupted"}.
   * onState        (`waiting` | `connecting` | `connected` | `disconnected` | `refused`, detail in words); `waiting`
   *                for another tab that is the device.
   * onRestore      called at the start with each push that was on the screen, unanswered, when an earlier page went, and
   *                { displayed, opened }: what was said of it. With it the journal keeps an alert or `in_app` until
   *                `dismissed`, `act` or, of one without actions, `opened` is called for it.
   * onNotice       what the server tells about pushes, { type: "gap" | "preferences" | "clear", .. }. May come twice.
   * trustedKeys    obey commands that one of these keys has signed, and no others (`TrustedKeys` of trust.js).
   */
  constructor({ deviceId, token, url, app = "default", onPush, onObeyed, onInterrupted, onRestore, onState, onNotice, keepAlive = 60, backoff, trustedKeys }) {
    this.deviceId = deviceId;
    /** Action id -> handler, which is given the push. Without a prototype: ids come from others, "constructor" too. */
    this.actions = Object.create(null);
    /** Command -> handler. With trusted keys no button of a push runs one of these: nobody signs a notification. */
    this.commands = Object.create(null);
    this.#clientId = app === "default" ? deviceId : `${app}/${deviceId}`;
    this.#topic = `${app}/devices/${deviceId}/`;
    this.#token = token;
    this.#tls = new URL(url).protocol === "wss:";
    this.#onPush = onPush;
    this.#onObeyed = onObeyed;
    this.#onInterrupted = onInterrupted;
    this.#onRestore = onRestore;
    this.#onState = onState;
    this.#onNotice = onNotice;
    this.#app = app;
    this.#trustedKeys = trustedKeys;
    this.#absence = new Absence(backoff ?? new Backoff());
    /** One name for lock, channel and database: this device at this server. */
    this.#name = `fleetpush ${new URL(url).host} ${this.#clientId}`;
    this.#client = mqtt.connect(url, {
      manualConnect: true,
      clientId: this.#clientId,
      username: this.#clientId,
      password: token,
      clean: false,
      protocolVersion: 4,
      keepalive: keepAlive,
      createWebsocket: (address, protocols) => this.#open(address, protocols),
      reconnectPeriod: 0, // its timer has no jitter; ours calls reconnect()
      resubscribe: false,
      log: () => {}, // its debug output holds the password
    });
    this.#listen();
  }

  #clientId;
  /** Connects with another token from the next time on; the connection that there is stays. */
  useToken(token) {
    this.#token = token;
    this.#client.options.password = token;
  }

  #token;
  /** Connects with TLS: then the token goes nowhere without. */
  #tls;
  #topic;
  #name;
  #onPush;
  #onObeyed;
  #onInterrupted;
  #onRestore;
  #onState;
  #onNotice;
  #app;
  #trustedKeys;
  /** Decides which pushes the page is given; null: all of them. */
  #verifier = null;
  #absence;
  #client;
  #journal = null;
  #channel = null;
  /** What the last onState said, for tabs that ask. */
  #state = "waiting";
  #begun = false;
  #unopened = 0;
  #retry = null;
  /** What ended the connection, if something said so; a refusal has been told already. */
  #reason = "";
  #refused = false;
  #subscribed = false;
  /** No further push is begun. */
  #stopping = false;
  /** The connection is to end. */
  #closing = false;
  /** Aborts the wait for the lock, and whatever listens to the window. */
  #end = new AbortController();
  #release = null;
  /** The end of the push in hand and all that wait for their turn. */
  #queue = Promise.resolve();
  #sending = null;
  #moreToSend = false;

  // Life

  /** Resolves when this tab has become the device, or knows that another one is. */
  async start() {
    if (!navigator.locks) throw new Error("a browser is a device only on a page from https: or localhost");
    this.#journal = await Journal.open(this.#name);
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#tabMessage(data);
    return new Promise((resolve, reject) => {
      const own = async (lock) => {
        if (lock === null) return false;
        // Only now: the tab that was the device before may have been told of other keys.
        this.#verifier = (await this.#trustedKeys?.verifier(this.#app, this.deviceId, this.#journal)) ?? null;
        resolve();
        this.#run();
        return new Promise((release) => (this.#release = () => release(true)));
      };
      navigator.locks
        .request(this.#name, { ifAvailable: true }, own)
        .then((owned) => {
          if (owned || this.#closing) return;
          this.#reportState("waiting", "another tab is connected");
          this.#channel.postMessage(HOW_IS_IT);
          resolve();
          return navigator.locks.request(this.#name, { signal: this.#end.signal }, own);
        })
        .catch((error) => {
          if (!this.#closing) reject(error);
        });
    });
  }

  /** Finish the push in hand, send what is queued if connected, and disconnect. */
  async close() {
    if (this.#stopping) return;
    this.#stopping = true;
    await this.#queue;
    if (this.#subscribed) await this.flush(2);
    this.#closing = true;
    this.#end.abort();
    clearTimeout(this.#retry);
    // It waits for what is unanswered, which may be never.
    if (this.#client.connected) await Promise.race([this.#client.endAsync(), pause(1)]);
    this.#client.stream?.destroy();
    this.#channel?.close();
    this.#journal?.close();
    this.#release?.();
  }

  /** This device at this server: a name for what a page keeps for it, as for its lock, channel and database. */
  get name() {
    return this.#name;
  }

  /** The public key that others encrypt for, to be reported as `encryption_key`; null without trusted keys. */
  get encryptionKey() {
    return this.#verifier?.encryptionKey ?? null;
  }

  get connected() {
    return this.#subscribed;
  }

  /** Attempts in a row that never opened a connection. Why not, a browser does not tell a page. */
  get unopenedAttempts() {
    return this.#unopened;
  }

  // What a device says

  displayed(push) {
    return this.#receipt(push, "displayed", {}, { displayed: true });
  }

  /** It stays on the screen while there are actions to choose from. */
  opened(push) {
    return this.#receipt(push, "opened", {}, push.actions.length > 0 ? { opened: true } : GONE);
  }

  /** Put away: by the person, or by the program, which then says why (`ttl`, `screen_full`; `[a-z0-9_]{1,32}`). */
  dismissed(push, reason) {
    return this.#receipt(push, "dismissed", { reason }, GONE);
  }

  /**
   * Run the handler of an action, or of the command that it names, and book it as acted with what the handler returned.
   * `text` is what the person typed, where the action has an `input`: the handler's second argument, without one the
   * result. `consent.granted` and `consent.denied` need none: they are the person's answer.
   */
  async act(push, action, text) {
    const { command } = push.choice(action);
    const handler = typeof command === "string" ? this.#handlerOf(command) : this.actions[action];
    let result;
    if (this.#commandsAreSigned && this.#isCommand(action, command, handler)) {
      result = { error: "refused: nobody has signed the command of this button", refused: "unsigned" };
    } else if (handler) {
      result = await outcome((given) => handler(given, text), push);
    } else if (typeof command === "string") {
      result = { error: `unknown command '${command}'` };
    } else {
      result = await this.#answer(push, action, text);
    }
    await this.#receipt(push, "acted", { action, result }, GONE);
    return result;
  }

  get #commandsAreSigned() {
    // Not what verifies: a tab that waits has none yet.
    return this.#trustedKeys?.signedOnly("command") ?? false;
  }

  /** Whether a button is an order: it names one, is called like one, or has the handler of one. */
  #isCommand(action, command, handler) {
    return command !== undefined || action in this.commands || Object.values(this.commands).includes(handler);
  }

  /** The handler of a command; also one of `actions`, which the buttons run anyway where nothing has to be signed. */
  #handlerOf(command) {
    return this.commands[command] ?? (this.#commandsAreSigned ? undefined : this.actions[command]);
  }

  /** Carry out a command; its result. */
  async #obey(push) {
    if (Object.keys(this.commands).length === 0) return outcome(this.#onPush, push);
    const handler = push.command === null ? undefined : this.#handlerOf(push.command);
    if (!handler) return { error: push.command === null ? "unknown command" : `unknown command '${push.command}'` };
    const result = await outcome(handler, push);
    try {
      this.#onObeyed?.(push, result);
    } catch (error) {
      console.error("onObeyed failed:", error);
    }
    return result;
  }

  async #answer(push, action, text) {
    const consent = CONSENT_ACTIONS.get(action);
    if (consent === undefined) return text;
    const asked = isObject(push.data) ? push.data.text_version : undefined;
    const version = typeof asked === "string" && asked.length <= 64 ? asked : undefined;
    await this.consent(consent, version);
    return version === undefined ? { consent } : { consent, text_version: version };
  }

  /** Channels to mute (false) or to take up again (true), by name; the others stay as they are. */
  async setChannels(channels) {
    await this.#journal.addChannels(channels);
    this.#sendSoon();
  }

  /** The channel choices as given to `setChannels`: false for a muted one. */
  channels() {
    return this.#journal.channels();
  }

  /** Topics to join (true) or to leave (false), by name, where the app lets devices; the others stay as they are. */
  async setTopics(topics) {
    await this.#journal.addTopics(topics);
    this.#sendSoon();
  }

  /** The topics as given to `setTopics`: true for one that was joined here. */
  topics() {
    return this.#journal.topics();
  }

  /** The person's choice, `granted` or `denied`, and the version of the text that asked. */
  async consent(consent, textVersion) {
    await this.#journal.addConsent(consent, { text_version: textVersion, client: CLIENT });
    this.#sendSoon();
  }

  /** The person's last answer: as given to `consent`, or, with `onNotice`, as the server told; undefined before. */
  consented() {
    return this.#journal.consent();
  }

  /** Facts about the device, merged into its attributes on the server. */
  report(attributes) {
    return this.#enqueue("report", JSON.stringify(attributes));
  }

  /** Send a message of the program (text or Uint8Array) under the device's own `uplink/` topic. */
  uplink(below, payload) {
    return this.#enqueue(`uplink/${below}`, payload);
  }

  /** Whether the push's server keeps what is at this address, and wants this device's credential for it. */
  keeps(push, address) {
    const from = push.fetchFrom;
    if (from === null || !address.startsWith(from) || (this.#tls && !address.startsWith("https:"))) return false;
    return ATTACHMENT.test(address.slice(from.length));
  }

  /**
   * Fetch a picture or file of a push by its address, as a Blob. A fleet does not come all at once: it waits for a moment
   * of its own within `push.fetchWithin` seconds, and again when a busy server says. The credential goes to the device's
   * server only, and from a device that connects with TLS never in the clear.
   */
  async fetch(push, address) {
    const ours = this.keeps(push, address);
    const headers = ours ? { Authorization: `Basic ${btoa(`${this.#clientId}:${this.#token}`)}` } : {};
    const options = { headers, credentials: "omit", referrerPolicy: "no-referrer", redirect: ours ? "error" : "follow" };
    await pause(Math.max(0, Math.random() * push.fetchWithin - (performance.now() - push.receivedAt) / 1000));
    for (let attempt = 1; ; attempt += 1) {
      let why;
      try {
        const answer = await globalThis.fetch(address, options);
        if (answer.ok) return await answer.blob();
        why = new Error(`${address}: answered ${answer.status}`);
        if (![429, 502, 503, 504].includes(answer.status)) attempt = FETCH_ATTEMPTS;
      } catch (error) {
        why = error; // the network, or a refusal that a page of another origin may not read
      }
      if (attempt >= FETCH_ATTEMPTS) throw why;
      await pause(Math.random() * 2 ** attempt);
    }
  }

  /** Wait until the server has acknowledged everything queued; false if it did not in so many seconds. */
  async flush(timeout) {
    const sent = (async () => {
      await this.#sending;
      return (await this.#journal.queued(1)).length === 0;
    })();
    return Promise.race([sent, pause(timeout).then(() => false)]);
  }

  /** `screen`: what it means for the push on the screen (`Journal.addReceipt`). */
  async #receipt(push, event, more, screen) {
    const receipt = { push_id: push.pushId, event, at: new Date().toISOString(), ...more };
    await this.#journal.addReceipt(JSON.stringify(receipt), push.pushId, screen);
    this.#sendSoon();
  }

  async #enqueue(leaf, payload) {
    await this.#journal.add(leaf, payload);
    this.#sendSoon();
  }

  #sendSoon() {
    this.#moreToSend = true;
    if (this.#release === null) this.#channel?.postMessage(SOMETHING_QUEUED);
    this.#sending ??= this.#sendAll()
      .catch((error) => {
        this.#moreToSend = false;
        if (!this.#closing) console.error("what the device says could not be sent:", error);
      })
      .finally(() => {
        this.#sending = null;
        // Queued since the last read.
        if (this.#moreToSend && this.#subscribed) this.#sendSoon();
      });
  }

  /** One message on its way at a time keeps their order. MQTT.js sends it again after a reconnect, until it is answered. */
  async #sendAll() {
    while (this.#moreToSend && this.#subscribed) {
      this.#moreToSend = false;
      const rows = batch(await this.#journal.queued(RECEIPTS_PER_MESSAGE));
      if (rows.length === 0) continue;
      const payload = rows.length === 1 ? rows[0].payload : `[${rows.map((row) => row.payload).join(",")}]`;
      await this.#client.publishAsync(this.#topic + rows[0].leaf, payload, { qos: 1 });
      await this.#journal.remove(rows.at(-1).no);
      this.#moreToSend = true;
    }
  }

  // Pushes, one at a time

  #arrived(packet, connection) {
    if (packet.topic === `${this.#topic}notices`) {
      this.#noticed(packet, connection);
      return;
    }
    let push = null;
    try {
      push = Push.parse(packet.payload);
    } catch (error) {
      console.warn(`dropped a message that is no push: ${error.message}`);
    }
    this.#queue = this.#queue.then(async () => {
      if (this.#stopping) return;
      try {
        if (push !== null) await this.#handle(push);
      } catch (error) {
        // The journal failed (disk full, storage emptied): unacknowledged, so that the server sends it again.
        console.error(`push ${push.pushId} could not be handled:`, error);
        return;
      }
      this.#acknowledge(packet, connection);
    });
  }

  async #noticed(packet, connection) {
    try {
      const notice = JSON.parse(new TextDecoder().decode(packet.payload));
      if (notice?.type === "clear" && Array.isArray(notice.push_ids)) {
        await this.#journal.withdraw(notice.push_ids.filter((pushId) => typeof pushId === "string"));
      }
      if (notice?.type === "preferences" && typeof notice.consent === "string") {
        await this.#journal.noteConsent(notice.consent, Number(notice.seq));
      }
      if (isObject(notice)) this.#onNotice?.(notice);
    } catch (error) {
      console.error("a notice could not be handled:", error);
    }
    this.#acknowledge(packet, connection);
  }

  async #handle(push) {
    if (push.kind === "heartbeat") return; // to acknowledge it is all there is to do
    const shown = this.#onRestore && (push.kind === "alert" || push.kind === "in_app") && !push.expired;
    const known = await this.#journal.begin(push.pushId, shown ? push.message : undefined);
    if (known === FINISHED) return;
    const admitted = await this.#admit(push, known);
    if (admitted === null) {
      await this.#journal.finish(push.pushId);
      return;
    }
    if (shown && admitted.signedBy !== null) {
      await this.#journal.noteSigned(push.pushId, admitted.message, admitted.signedBy);
    }
    if (known === INTERRUPTED) {
      console.warn(`push ${push.pushId} was begun before and its page went: not begun again`);
      // What was to be shown is on the screen again already.
      const result = shown ? undefined : this.#onInterrupted && (await outcome(this.#onInterrupted, admitted));
      if (push.kind === "command") await this.#receipt(push, "acted", { result: result ?? { error: "interrupted" } }, GONE);
    } else if (shown || !push.expired) {
      if (push.kind === "command") await this.#receipt(push, "acted", { result: await this.#obey(admitted) }, GONE);
      else await outcome(this.#onPush, admitted);
    }
    await this.#journal.finish(push.pushId);
  }

  /** The push as it was signed, or as it is where that does not matter; null: refused, or done here, and answered. */
  async #admit(push, known) {
    if (this.#verifier === null) return push;
    const { message, signedBy, refused, result } = await this.#verifier.admit(push, known);
    if (message !== undefined) return new Push(message, performance.now() - push.receivedAt, signedBy);
    if (refused === undefined) {
      await this.#receipt(push, "acted", { result }, GONE);
    } else if (push.kind === "command") {
      const { reason } = refused;
      await this.#receipt(push, "acted", { result: { error: `refused: ${refused.message}`, refused: reason } }, GONE);
    } else {
      await this.#receipt(push, "dismissed", { reason: refused.reason }, GONE);
    }
    return null;
  }

  #acknowledge({ qos, messageId }, connection) {
    if (qos === 1 && connection === this.#client.stream && this.#client.connected) {
      connection.write(Uint8Array.of(PUBACK, 2, messageId >> 8, messageId & 0xff));
    }
  }

  // The connection

  #run() {
    const { signal } = this.#end;
    addEventListener("online", () => this.#reconnectSoon(), { signal });
    addEventListener("offline", () => this.#probe(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#reconnectSoon(), { signal });
    this.#restore()
      .catch((error) => console.error("the screen could not be restored:", error))
      .finally(() => this.#connect());
  }

  async #restore() {
    if (!this.#onRestore) return;
    for (const row of await this.#journal.onScreen()) {
      const push = await this.#restored(row);
      if (push !== null) await this.#onRestore(push, { displayed: row.displayed, opened: row.opened });
    }
  }

  /**
   * A push that an earlier page had on the screen, as that page was given it; null: refused now. What is stored before it
   * was verified (the page died in between, or obeyed everybody) is verified here: onRestore is a way into the page, too.
   */
  async #restored({ message, arrived_at, signed_by }) {
    // A wall clock is all that outlives a page; one that was set back makes nothing older than it is.
    const push = new Push(message, Date.now() - arrived_at, signed_by ?? null);
    if (push.signedBy !== null) return push;
    const admitted = await this.#admit(push, INTERRUPTED);
    if (admitted === null) await this.#journal.finish(push.pushId);
    else if (admitted.signedBy !== null) {
      await this.#journal.noteSigned(push.pushId, admitted.message, admitted.signedBy);
    }
    return admitted;
  }

  #listen() {
    const client = this.#client;
    client.on("connect", () => {
      // Also into a session that is present: it may have died between CONNECT and SUBSCRIBE.
      const leaves = this.#onNotice ? ["push", "notices"] : ["push"];
      const topics = leaves.map((leaf) => this.#topic + leaf);
      client.subscribe(topics, { qos: 1 }, (error) => this.#subscribeAnswered(error));
    });
    client.on("error", (error) => {
      this.#reason = error.message;
      this.#refused = error.message.startsWith("Connection refused");
      if (this.#refused) this.#reportState("refused", error.message.replace("Connection refused: ", ""));
    });
    client.on("close", () => this.#lost());
    client.handleMessage = (packet, done) => {
      this.#arrived(packet, client.stream);
      done(new Error("acknowledged later")); // with an error it reads on and sends no PUBACK
    };
  }

  /** MQTT.js does not tell an attempt that never opened from a connection that ended. */
  #open(address, protocols) {
    const socket = new WebSocket(address, protocols);
    socket.addEventListener("open", () => (this.#unopened = 0));
    return socket;
  }

  #connect() {
    const client = this.#client;
    this.#retry = null;
    this.#reason = "";
    this.#refused = false;
    this.#absence.attempt();
    this.#unopened += 1;
    this.#reportState("connecting", "");
    try {
      if (this.#begun) {
        // The stores are handed on: without them it would forget what is unanswered.
        client.reconnect({ incomingStore: client.incomingStore, outgoingStore: client.outgoingStore });
      } else {
        this.#begun = true;
        client.connect();
      }
    } catch (error) {
      // The browser will not even try: ws: from a page on https:, for example.
      this.#reason = error.message;
      this.#lost();
    }
  }

  #subscribeAnswered(error) {
    if (error?.packet) {
      this.#refused = true;
      this.#reportState("refused", `subscription to ${this.#topic}push`);
      this.#client.stream.destroy();
    } else if (!error) {
      this.#absence.end();
      this.#subscribed = true;
      this.#reportState("connected", "");
      this.#sendSoon();
    }
  }

  #lost() {
    this.#subscribed = false;
    if (this.#closing || this.#retry !== null) return;
    if (!this.#refused) this.#reportState("disconnected", this.#reason || "connection lost");
    this.#reconnectLater();
  }

  #reconnectLater() {
    this.#retry = setTimeout(() => this.#connect(), this.#absence.delay() * 1000);
  }

  /** The network is back, or somebody looks at the page: try soon, with the jitter of a first attempt. */
  #reconnectSoon() {
    if (this.#retry !== null) {
      clearTimeout(this.#retry);
      this.#absence.end();
      this.#reconnectLater();
    }
    this.#probe();
  }

  /** A machine that slept or changed its network may hold a connection that is none any more. */
  #probe() {
    const client = this.#client;
    if (!this.#subscribed) return;
    const connection = client.stream;
    const proven = () => clearTimeout(timer);
    const timer = setTimeout(() => {
      client.removeListener("packetreceive", proven);
      this.#reason ||= "no answer";
      connection.destroy();
    }, PROBE_SECONDS * 1000);
    client.once("packetreceive", proven);
    client.sendPing();
  }

  // Between tabs

  #reportState(state, detail) {
    if (state !== "waiting") {
      this.#state = state;
      this.#channel?.postMessage({ state });
    }
    this.#callOnState(state, detail);
  }

  #tabMessage(message) {
    const owner = this.#release !== null;
    if (message === HOW_IS_IT) {
      if (owner) this.#channel.postMessage({ state: this.#state });
    } else if (message === SOMETHING_QUEUED) {
      if (owner) this.#sendSoon();
    } else if (!owner) {
      this.#callOnState("waiting", `another tab is ${message.state}`);
    }
  }

  #callOnState(state, detail) {
    try {
      this.#onState?.(state, detail);
    } catch (error) {
      console.error("onState failed:", error);
    }
  }
}

/** The oldest rows that travel as one message: receipts up to the limits of a list, any other message by itself. */
function batch(rows) {
  if (rows[0]?.leaf !== "receipts") return rows.slice(0, 1);
  let length = 0;
  const end = rows.findIndex(
    ({ leaf, payload }, index) => leaf !== "receipts" || ((length += payload.length + 1) > RECEIPTS_CHARACTERS && index > 0),
  );
  return end < 0 ? rows : rows.slice(0, end);
}

/** Run a handler and return its result, if it is JSON; an error becomes a result that says so. */
async function outcome(handler, push) {
  try {
    const result = await handler(push);
    JSON.stringify(result);
    return result;
  } catch (error) {
    console.error(`a handler failed on push ${push.pushId}:`, error);
    return { error: String(error) };
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}
