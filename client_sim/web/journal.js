/**
 * The device's memory across page loads: pushes begun and finished, those on the screen unanswered, and messages to send.
 * The twin of client_sim/journal.py, in IndexedDB.
 *
 * The once-only rule lives in two steps. `begin` commits the push id before the effect, `finish` after it, and only
 * then may the PUBACK leave. A push that was begun and never finished died inside its effect (the page was closed or
 * reloaded): whether that took place nobody can know, so it is not begun a second time but reported as interrupted.
 * Everything that died later is found finished and merely acknowledged.
 *
 * Every write asks for durability "strict": the answer comes when it is on disk, not when it is in a cache.
 */

/** Push ids kept, the oldest forgotten first; twenty times the default mailbox, so none can still be waiting. */
export const REMEMBERED_PUSHES = 20_000;
/** Messages kept for a server that does not come back; after that the oldest are lost. */
export const OUTBOX_MESSAGES = 10_000;
/** Pushes kept for a screen that is to be restored, the oldest forgotten first; five times what the page shows. */
export const SCREEN_PUSHES = 100;
/** Signed pushes kept of each key, those that end first forgotten first. */
export const REMEMBERED_STATEMENTS = 10_000;
/** Keys of which something was forgotten; beyond that the one that lies furthest back counts for every key. */
export const FORGETFUL_KEYS = 1_000;
/** Versions of the database that had tables of their own for the screen, for statements, and for those of each key. */
const SCREEN_VERSION = 2;
const STATEMENTS_VERSION = 3;
const KEYS_VERSION = 4;

/** The state of a push id in the journal. */
export const NEW = "new";
/** Begun by an earlier page that went before it finished. */
export const INTERRUPTED = "interrupted";
export const FINISHED = "finished";

/** What is known of a signed push that is about to be used. */
export const FIRST = "first";
/** By the same push, which has either been interrupted or was forgotten. */
export const AGAIN = "again";
/** By another push. */
export const REPLAYED = "replayed";
/** It ends before one of its key that was forgotten, so nobody can tell. */
export const FORGOTTEN = "forgotten";
/** Of a receipt: its push has left the screen. */
export const GONE = "gone";

export class Journal {
  #database;

  constructor(database) {
    this.#database = database;
    // A page of a later version wants to change the tables; this one ends its work and lets it.
    database.onversionchange = () => database.close();
  }

  static async open(name) {
    const request = indexedDB.open(name, KEYS_VERSION);
    request.onupgradeneeded = ({ oldVersion }) => {
      if (oldVersion < 1) {
        const handled = request.result.createObjectStore("handled", { keyPath: "no", autoIncrement: true });
        handled.createIndex("push_id", "push_id", { unique: true });
        request.result.createObjectStore("outbox", { keyPath: "no", autoIncrement: true });
        request.result.createObjectStore("facts");
      }
      if (oldVersion < SCREEN_VERSION) {
        const screen = request.result.createObjectStore("screen", { keyPath: "no", autoIncrement: true });
        screen.createIndex("push_id", "push_id", { unique: true });
      }
      if (oldVersion < STATEMENTS_VERSION) request.result.createObjectStore("statements", { keyPath: "id" });
      if (oldVersion < KEYS_VERSION) {
        const statements = request.transaction.objectStore("statements");
        if (oldVersion === STATEMENTS_VERSION) nameKeys(statements);
        statements.createIndex("key_end", ["key_id", "expires_at"]);
        const forgetful = request.result.createObjectStore("forgetful", { keyPath: "key_id" });
        forgetful.createIndex("forgotten_until", "forgotten_until");
      }
    };
    return new Journal(await answer(request));
  }

  /**
   * Commit that handling starts, unless it had started before. `message` is what will be on the screen from now on, until
   * somebody answers it; undefined for what is not shown.
   */
  begin(pushId, message) {
    return this.#write(["handled", "screen"], async (transaction) => {
      const handled = transaction.objectStore("handled");
      const row = await answer(handled.index("push_id").get(pushId));
      if (row !== undefined) return row.finished ? FINISHED : INTERRUPTED;
      const no = await answer(handled.add({ push_id: pushId, finished: false }));
      forget(handled, no - REMEMBERED_PUSHES);
      if (message !== undefined) {
        const screen = transaction.objectStore("screen");
        const row = { push_id: pushId, message, arrived_at: Date.now(), displayed: false, opened: false };
        forget(screen, (await answer(screen.add(row))) - SCREEN_PUSHES);
      }
      return NEW;
    });
  }

  finish(pushId) {
    return this.#write(["handled"], async (transaction) => {
      const handled = transaction.objectStore("handled");
      const row = await answer(handled.index("push_id").get(pushId));
      if (row !== undefined) handled.put({ ...row, finished: true });
    });
  }

  /** Commit a message to send; `leaf` is the topic below the device's own: receipts, settings, report, uplink/… */
  add(leaf, payload) {
    return this.#write(["outbox"], (transaction) => enqueue(transaction, leaf, payload));
  }

  /** Commit a receipt, and in the same step what it means for the screen: `gone`, or facts to note with the push. */
  addReceipt(payload, pushId, screen) {
    return this.#write(["outbox", "screen"], async (transaction) => {
      await note(transaction, pushId, screen);
      await enqueue(transaction, "receipts", payload);
    });
  }

  /** Note that a push on the screen was verified: from now on it is what was signed, and nothing beside it. */
  noteSigned(pushId, message, signedBy) {
    return this.#write(["screen"], (transaction) => note(transaction, pushId, { message, signed_by: signedBy }));
  }

  /**
   * The pushes on the screen, unanswered, when an earlier page went: { message, arrived_at, displayed, opened, signed_by },
   * in order. Those without `signed_by` nobody has verified.
   */
  onScreen() {
    return answer(this.#database.transaction(["screen"]).objectStore("screen").getAll());
  }

  /** Note that pushes have left the screen without an answer of this device. */
  withdraw(pushIds) {
    return this.#write(["screen"], async (transaction) => {
      for (const pushId of pushIds) await note(transaction, pushId, GONE);
    });
  }

  /**
   * The person's choice, with a sequence number above every earlier one: above the last, and, should this storage ever
   * be emptied, above what it had reached by then.
   */
  addConsent(consent, more) {
    return this.#write(["outbox", "facts"], async (transaction) => {
      const facts = transaction.objectStore("facts");
      const last = await answer(facts.get("consent"));
      const seq = Math.max(Date.now(), (last?.seq ?? 0) + 1);
      facts.put({ ...last, consent, seq }, "consent");
      await enqueue(transaction, "settings", JSON.stringify({ consent, seq, ...more }));
    });
  }

  /** Note the consent that the server tells, unless it has yet to hear of the last answer given here. */
  noteConsent(consent, seq) {
    return this.#write(["facts"], async (transaction) => {
      const facts = transaction.objectStore("facts");
      const last = await answer(facts.get("consent"));
      if (seq >= (last?.seq ?? 0)) facts.put({ ...last, consent }, "consent");
    });
  }

  /** Channels that the person mutes (false) or takes up again (true), numbered like an answer. */
  addChannels(channels) {
    return this.#addChoices("channels", channels);
  }

  /** Topics that the device joins (true) or leaves (false), numbered like an answer. */
  addTopics(topics) {
    return this.#addChoices("topics", topics);
  }

  #addChoices(name, choices) {
    return this.#write(["outbox", "facts"], async (transaction) => {
      const facts = transaction.objectStore("facts");
      const last = await answer(facts.get("consent"));
      const seq = Math.max(Date.now(), (last?.seq ?? 0) + 1);
      facts.put({ ...last, seq, [name]: { ...last?.[name], ...choices } }, "consent");
      await enqueue(transaction, "settings", JSON.stringify({ [name]: choices, seq }));
    });
  }

  /** The channel choices as given to `addChannels`. */
  channels() {
    return this.#choices("channels");
  }

  /** The topics as given to `addTopics`. */
  topics() {
    return this.#choices("topics");
  }

  async #choices(name) {
    const transaction = this.#database.transaction(["facts"]);
    return (await answer(transaction.objectStore("facts").get("consent")))?.[name] ?? {};
  }

  /** The person's last answer, here (`addConsent`) or elsewhere (`noteConsent`); undefined if there was none. */
  async consent() {
    const transaction = this.#database.transaction(["facts"]);
    return (await answer(transaction.objectStore("facts").get("consent")))?.consent;
  }

  /**
   * Commit that a push uses a statement that a key has signed, which no other push may then use again. No clock is asked:
   * one is forgotten only for want of room (`most` of each key are kept), and then, with it, everything of its key is
   * refused that ends no later. So whoever has one key can have no statement of another one refused.
   */
  useStatement(keyId, statementId, expiresAt, pushId, most = REMEMBERED_STATEMENTS) {
    return this.#write(["statements", "forgetful", "facts"], async (transaction) => {
      const statements = transaction.objectStore("statements");
      const id = `${keyId}.${statementId}`;
      const row = await answer(statements.get(id));
      if (row !== undefined) return row.push_id === pushId ? AGAIN : REPLAYED;
      if (expiresAt <= (await forgottenUntil(transaction, keyId))) return FORGOTTEN;
      await answer(statements.add({ id, key_id: keyId, expires_at: expiresAt, push_id: pushId }));
      const byEnd = statements.index("key_end");
      if ((await answer(byEnd.count(endsOf(keyId)))) > most) {
        const [, first] = (await answer(byEnd.openKeyCursor(endsOf(keyId)))).key;
        await forgetStatements(transaction, keyId, first);
      }
      return FIRST;
    });
  }

  /** What the device was told about keys since it was set up: { keySet, revoked }, both missing at first. */
  async trusted() {
    const transaction = this.#database.transaction(["facts"]);
    return (await answer(transaction.objectStore("facts").get("trusted"))) ?? {};
  }

  /** Commit what was told; what was used of keys that are none of these signers is forgotten, up to its latest end. */
  keepTrusted(facts, signers) {
    return this.#write(["facts", "statements", "forgetful"], async (transaction) => {
      transaction.objectStore("facts").put(facts, "trusted");
      const byEnd = transaction.objectStore("statements").index("key_end");
      // From the last end of a key to that of the key before it.
      let cursor = await answer(byEnd.openKeyCursor(null, "prev"));
      while (cursor !== null) {
        const [keyId, last] = cursor.key;
        if (!signers.includes(keyId)) await forgetStatements(transaction, keyId, last);
        cursor = await answer(byEnd.openKeyCursor(IDBKeyRange.upperBound([keyId], true), "prev"));
      }
    });
  }

  /** The device's own pair of keys, made if there is none; the private one cannot be exported. */
  async encryptionKey(make) {
    const transaction = this.#database.transaction(["facts"]);
    const kept = await answer(transaction.objectStore("facts").get("encryption key"));
    if (kept !== undefined) return kept;
    const pair = await make();
    await this.#write(["facts"], (again) => answer(again.objectStore("facts").put(pair, "encryption key")));
    return pair;
  }

  /** The oldest messages that the server has not acknowledged, in order. */
  queued(limit) {
    return answer(this.#database.transaction(["outbox"]).objectStore("outbox").getAll(null, limit));
  }

  /** Remove the messages up to and including `lastNo`, which the server has acknowledged. */
  remove(lastNo) {
    return this.#write(["outbox"], (transaction) => forget(transaction.objectStore("outbox"), lastNo));
  }

  close() {
    this.#database.close();
  }

  async #write(stores, work) {
    const transaction = this.#database.transaction(stores, "readwrite", { durability: "strict" });
    const committed = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error("the transaction was aborted"));
    });
    const [result] = await Promise.all([work(transaction), committed]);
    return result;
  }
}

async function enqueue(transaction, leaf, payload) {
  const outbox = transaction.objectStore("outbox");
  forget(outbox, (await answer(outbox.add({ leaf, payload }))) - OUTBOX_MESSAGES);
}

async function note(transaction, pushId, facts) {
  const screen = transaction.objectStore("screen");
  const row = await answer(screen.index("push_id").get(pushId));
  if (row === undefined) return;
  if (facts === GONE) screen.delete(row.no);
  else screen.put({ ...row, ...facts });
}

/** Have the statements of a journal of before name their keys, which their ids begin with. */
function nameKeys(statements) {
  statements.deleteIndex("expires_at");
  statements.openCursor().onsuccess = ({ target: { result: cursor } }) => {
    if (cursor === null) return;
    cursor.update({ ...cursor.value, key_id: cursor.value.id.split(".", 1)[0] });
    cursor.continue();
  };
}

/** The ends of all statements of a key, up to one: an array is more than every number. */
function endsOf(keyId, last = []) {
  return IDBKeyRange.bound([keyId], [keyId, last]);
}

/** The latest end of what was forgotten of a key; -1 if nothing was. */
async function forgottenUntil(transaction, keyId) {
  const row = await answer(transaction.objectStore("forgetful").get(keyId));
  const ofAll = await answer(transaction.objectStore("facts").get("forgotten until"));
  return Math.max(row?.forgotten_until ?? -1, ofAll ?? -1);
}

/** Forget the statements of a key that end no later than `last`. */
async function forgetStatements(transaction, keyId, last) {
  const statements = transaction.objectStore("statements");
  for (const id of await answer(statements.index("key_end").getAllKeys(endsOf(keyId, last)))) statements.delete(id);
  const forgetful = transaction.objectStore("forgetful");
  const until = Math.max(last, await forgottenUntil(transaction, keyId));
  await answer(forgetful.put({ key_id: keyId, forgotten_until: until }));
  if ((await answer(forgetful.count())) <= FORGETFUL_KEYS) return;
  const { value } = await answer(forgetful.index("forgotten_until").openCursor());
  const ofAll = await answer(transaction.objectStore("facts").get("forgotten until"));
  transaction.objectStore("facts").put(Math.max(value.forgotten_until, ofAll ?? -1), "forgotten until");
  forgetful.delete(value.key_id);
}

function forget(store, lastNo) {
  if (lastNo > 0) store.delete(IDBKeyRange.upperBound(lastNo));
}

function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
