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
/** Signed pushes kept, those that end first forgotten first. */
export const REMEMBERED_STATEMENTS = 10_000;

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
/** It ends before one that was forgotten, so nobody can tell. */
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
    const request = indexedDB.open(name, 3);
    request.onupgradeneeded = ({ oldVersion }) => {
      const statements = request.result.createObjectStore("statements", { keyPath: "id" });
      statements.createIndex("expires_at", "expires_at");
      if (oldVersion === 2) return;
      const screen = request.result.createObjectStore("screen", { keyPath: "no", autoIncrement: true });
      screen.createIndex("push_id", "push_id", { unique: true });
      if (oldVersion === 1) return;
      const handled = request.result.createObjectStore("handled", { keyPath: "no", autoIncrement: true });
      handled.createIndex("push_id", "push_id", { unique: true });
      request.result.createObjectStore("outbox", { keyPath: "no", autoIncrement: true });
      request.result.createObjectStore("facts");
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

  /** The pushes on the screen, unanswered, when an earlier page went: { message, arrived_at, displayed, opened }, in order. */
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
    return this.#write(["outbox", "facts"], async (transaction) => {
      const facts = transaction.objectStore("facts");
      const last = await answer(facts.get("consent"));
      const seq = Math.max(Date.now(), (last?.seq ?? 0) + 1);
      facts.put({ ...last, seq, channels: { ...last?.channels, ...channels } }, "consent");
      await enqueue(transaction, "settings", JSON.stringify({ channels, seq }));
    });
  }

  /** The channel choices as given to `addChannels`. */
  async channels() {
    const transaction = this.#database.transaction(["facts"]);
    return (await answer(transaction.objectStore("facts").get("consent")))?.channels ?? {};
  }

  /** The person's last answer, here (`addConsent`) or elsewhere (`noteConsent`); undefined if there was none. */
  async consent() {
    const transaction = this.#database.transaction(["facts"]);
    return (await answer(transaction.objectStore("facts").get("consent")))?.consent;
  }

  /**
   * Commit that a push uses a signed statement, which no other push may then use again. No clock is asked: one is forgotten
   * only for want of room (`most` are kept), and then, with it, everything is refused that ends no later.
   */
  useStatement(id, expiresAt, pushId, most = REMEMBERED_STATEMENTS) {
    return this.#write(["statements", "facts"], async (transaction) => {
      const statements = transaction.objectStore("statements");
      const facts = transaction.objectStore("facts");
      const row = await answer(statements.get(id));
      if (row !== undefined) return row.push_id === pushId ? AGAIN : REPLAYED;
      const forgottenUntil = (await answer(facts.get("forgotten until"))) ?? -1;
      if (expiresAt <= forgottenUntil) return FORGOTTEN;
      await answer(statements.add({ id, expires_at: expiresAt, push_id: pushId }));
      if ((await answer(statements.count())) > most) {
        const byEnd = statements.index("expires_at");
        const first = (await answer(byEnd.openKeyCursor())).key;
        facts.put(first, "forgotten until");
        for (const key of await answer(byEnd.getAllKeys(IDBKeyRange.only(first)))) statements.delete(key);
      }
      return FIRST;
    });
  }

  /** What the device was told about keys since it was set up: { keySet, revoked }, both missing at first. */
  async trusted() {
    const transaction = this.#database.transaction(["facts"]);
    return (await answer(transaction.objectStore("facts").get("trusted"))) ?? {};
  }

  keepTrusted(facts) {
    return this.#write(["facts"], (transaction) => answer(transaction.objectStore("facts").put(facts, "trusted")));
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

function forget(store, lastNo) {
  if (lastNo > 0) store.delete(IDBKeyRange.upperBound(lastNo));
}

function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
