/**
 * What a device must not forget when its page goes: which pushes it has begun to handle, which of them are on the screen
 * unanswered, and what it has to say to the server and could not yet. The twin of client_sim/journal.py, in IndexedDB.
 *
 * The once-only rule lives in two steps. `begin` commits the push id before the effect, `finish` after it, and only
 * then may the PUBACK leave. A push that was begun and never finished died inside its effect (the page was closed or
 * reloaded): whether that took place nobody can know, so it is not begun a second time but reported as interrupted.
 * Everything that died later is found finished and merely acknowledged.
 *
 * Every write asks for durability "strict": the answer comes when it is on disk, not when it is in a cache.
 */

/** Push ids kept, the oldest forgotten first; twenty times the default mailbox, so none can still be waiting. */
export const REMEMBERED = 20_000;
/** Statements kept for a server that does not come back; after that the oldest are lost. */
export const UNSAID = 10_000;
/** Pushes kept for a screen that is to be restored, the oldest forgotten first; five times what the page shows. */
export const ON_SCREEN = 100;

/** What the journal says of a push id. */
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
      forget(handled, no - REMEMBERED);
      if (message !== undefined) {
        const screen = transaction.objectStore("screen");
        const row = { push_id: pushId, message, arrived_at: Date.now(), displayed: false, opened: false };
        forget(screen, (await answer(screen.add(row))) - ON_SCREEN);
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

  /** Something to say below the device's topics: receipts, settings, report, uplink/… */
  add(leaf, payload) {
    return this.#write(["outbox"], (transaction) => say(transaction, leaf, payload));
  }

  /** The same of a receipt, and in the same step what it means for the screen: `gone`, or facts to note with the push. */
  addReceipt(payload, pushId, screen) {
    return this.#write(["outbox", "screen"], async (transaction) => {
      await note(transaction, pushId, screen);
      await say(transaction, "receipts", payload);
    });
  }

  /** What was on the screen, unanswered, when an earlier page went: { message, arrived_at, displayed, opened }, in order. */
  onScreen() {
    return answer(this.#database.transaction(["screen"]).objectStore("screen").getAll());
  }

  /** These have left the screen without an answer of this device. */
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
      await say(transaction, "settings", JSON.stringify({ consent, seq, ...more }));
    });
  }

  /** Channels that the person mutes (false) or takes up again (true), numbered like an answer. */
  addChannels(channels) {
    return this.#write(["outbox", "facts"], async (transaction) => {
      const facts = transaction.objectStore("facts");
      const last = await answer(facts.get("consent"));
      const seq = Math.max(Date.now(), (last?.seq ?? 0) + 1);
      facts.put({ ...last, seq, channels: { ...last?.channels, ...channels } }, "consent");
      await say(transaction, "settings", JSON.stringify({ channels, seq }));
    });
  }

  /** What `addChannels` has said, all together. */
  async channels() {
    const transaction = this.#database.transaction(["facts"]);
    return (await answer(transaction.objectStore("facts").get("consent")))?.channels ?? {};
  }

  /** What the last `addConsent` said; undefined if there was none. */
  async consent() {
    const transaction = this.#database.transaction(["facts"]);
    return (await answer(transaction.objectStore("facts").get("consent")))?.consent;
  }

  /** The oldest statements that nobody has acknowledged, in order. */
  unsaid(limit) {
    return answer(this.#database.transaction(["outbox"]).objectStore("outbox").getAll(null, limit));
  }

  /** Those up to and including `lastNo` have arrived. */
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

async function say(transaction, leaf, payload) {
  const outbox = transaction.objectStore("outbox");
  forget(outbox, (await answer(outbox.add({ leaf, payload }))) - UNSAID);
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
