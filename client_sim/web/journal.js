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

/** The state of a push id in the journal. */
export const NEW = "new";
/** Begun by an earlier page that went before it finished. */
export const INTERRUPTED = "interrupted";
export const FINISHED = "finished";
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
    const request = indexedDB.open(name, 2);
    request.onupgradeneeded = ({ oldVersion }) => {
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
