/**
 * A push that is being written: kept in this tab until it is sent, and sent once.
 *
 * What is written is in the tab's storage under the draft's id, which is in the address: it survives a reload, a lost
 * connection and a way to another screen, and no other person finds it (`owner`). Each draft has one idempotency key. The
 * request is stored, word for word, before it leaves. As long as its answer is missing, it alone is repeated, with that
 * key, and nothing else can be sent of the draft: so a double click, a second tab, a reload and a line that breaks in the
 * middle make one push. The server remembers keys for 24 hours; what is older is not repeated but looked up by a person.
 *
 * At most MAX_DRAFTS are kept in a tab; of more, the oldest leaves.
 */

import { Api } from "./api.js";
import { connection } from "./live.js";

const PREFIX = "fleetpush.console.draft.";
const MAX_DRAFTS = 20;
/** Less than the 24 hours for which the server knows a key. */
const REPEATED_MS = 20 * 3_600_000;
const PAUSE_MS = 3_000;
/** A refusal for certain, although its status says that the server has failed: nothing was stored. */
const REFUSED = new Set(["storage_full"]);

/** Who writes: drafts of another person, or for another app, are not theirs. */
function ownerOf({ app, name, role }) {
  return JSON.stringify([app, name, role]);
}

export class Draft {
  constructor(kept) {
    Object.assign(this, kept);
  }

  /** A new one. `fields`: what it begins with, see screens/compose.js. */
  static begin(session, fields) {
    return new Draft({ id: random(), key: random(), owner: ownerOf(session), at: Date.now(), fields, attempt: null, sent: null, tests: 0, tested: null });
  }

  /** One that is kept; null if there is none of this person by that id. */
  static find(session, id) {
    const draft = read(PREFIX + id);
    return draft !== null && draft.owner === ownerOf(session) ? draft : null;
  }

  /** The newest that is not sent, or of which that is not known; null without one. */
  static newest(session) {
    return all().find((draft) => draft.owner === ownerOf(session) && draft.sent === null) ?? null;
  }

  save() {
    this.at = Date.now();
    try {
      sessionStorage.setItem(PREFIX + this.id, JSON.stringify(this));
      for (const old of all().slice(MAX_DRAFTS)) old.drop();
    } catch {
      // A full storage: what is written is on the screen, and only a reload would lose it.
    }
  }

  drop() {
    sessionStorage.removeItem(PREFIX + this.id);
  }

  /** Begin to send: `address` and `body` of the request, and `what` it is (`send`, `schedule`, `approve`, `test`). */
  attemptOf(what, address, body) {
    const key = what === "test" ? `${this.key}.test${this.tests}` : this.key;
    this.attempt = { what, address, body, key, begun: Date.now() };
    this.save();
  }

  get mayRepeat() {
    return Date.now() - this.attempt.begun < REPEATED_MS;
  }

  /**
   * Send what `attemptOf` has stored until there is an answer, whatever becomes of the screen; a promise of the answer.
   * `waiting(error)`: there is none yet. Throws the Problem with which it was refused: nothing was sent then.
   */
  async deliver(waiting) {
    const { what } = this.attempt;
    // A screen that was left and opened again waits for what the first one has begun.
    let delivery = deliveries.get(this.id);
    if (delivery === undefined) {
      delivery = { listeners: new Set(), answer: null };
      delivery.answer = repeat(this.attempt, (error) => delivery.listeners.forEach((listener) => listener(error)));
      deliveries.set(this.id, delivery);
    }
    delivery.listeners.add(waiting);
    try {
      const answer = await delivery.answer;
      if (what === "test") this.tests += 1;
      return answer;
    } finally {
      deliveries.delete(this.id);
      this.attempt = null;
      this.save();
    }
  }

  /** Nobody repeats it any more: its person has looked up what became of it. It gets a key of its own, as a new push. */
  forget() {
    this.attempt = null;
    this.key = random();
    this.save();
  }
}

/** Draft id -> what is being sent of it in this document: {answer: a promise, listeners}. */
const deliveries = new Map();

/** Send an attempt until there is an answer to it; `waiting(error)` each time that there is none. Throws Problem. */
async function repeat({ address, body, key }, waiting) {
  const api = new Api();
  for (;;) {
    try {
      return await api.post(address, body, { headers: { "Idempotency-Key": key } });
    } catch (error) {
      if (!isUnknown(error)) throw error;
      waiting(error);
      await untilWorthwhile();
    }
  }
}

/** Whether it may have been stored all the same. */
function isUnknown(error) {
  if (error.code === "unreachable") return true;
  return error.status >= 500 && !REFUSED.has(error.code);
}

function untilWorthwhile() {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      connection.removeEventListener("change", back);
      removeEventListener("online", done);
      resolve();
    };
    const back = () => connection.lost || done();
    const timer = setTimeout(done, PAUSE_MS);
    connection.addEventListener("change", back);
    addEventListener("online", done);
  });
}

/** All drafts of this tab, the one that was changed last first. */
function all() {
  return Object.keys(sessionStorage)
    .filter((name) => name.startsWith(PREFIX))
    .map(read)
    .filter((draft) => draft !== null)
    .sort((one, other) => other.at - one.at);
}

function read(name) {
  try {
    const kept = JSON.parse(sessionStorage.getItem(name));
    return kept === null ? null : new Draft(kept);
  } catch {
    return null;
  }
}

function random() {
  return crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
