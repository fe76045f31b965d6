/**
 * What a device must not forget when its page goes: which pushes it has begun to handle, and what it has to say to the
 * server and could not yet. The twin of client_sim/journal.py, in IndexedDB.
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

/** What the journal says of a push id. */
export const NEW = "new";
/** Begun by an earlier page that went before it finished. */
export const INTERRUPTED = "interrupted";
export const FINISHED = "finished";

export class Journal {
  #database;

  constructor(database) {
    this.#database = database;
    // A page of a later version wants to change the tables; this one ends its work and lets it.
    database.onversionchange = () => database.close();
  }

  static async open(name) {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
      const handled = request.result.createObjectStore("handled", { keyPath: "no", autoIncrement: true });
      handled.createIndex("push_id", "push_id", { unique: true });
      request.result.createObjectStore("outbox", { keyPath: "no", autoIncrement: true });
      request.result.createObjectStore("facts");
    };
    return new Journal(await answer(request));
  }

  /** Commit that handling starts, unless it had started before. */
  begin(pushId) {
    return this.#write(["handled"], async (transaction) => {
      const handled = transaction.objectStore("handled");
      const row = await answer(handled.index("push_id").get(pushId));
      if (row !== undefined) return row.finished ? FINISHED : INTERRUPTED;
      const no = await answer(handled.add({ push_id: pushId, finished: false }));
      forget(handled, no - REMEMBERED);
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

function forget(store, lastNo) {
  if (lastNo > 0) store.delete(IDBKeyRange.upperBound(lastNo));
}

function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
