/**
 * When a device tries again. The twin of client_sim/backoff.py, which says why.
 *
 * A delay is drawn between nothing and a ceiling (full jitter), which doubles with each attempt, up to the time that the
 * device has been away: a restart of the server is over for every device when it has taken as long again.
 */

/** Seconds until the next attempt. */
export class Backoff {
  constructor({ base = 1, cap = 120, random = Math.random } = {}) {
    Object.assign(this, { base, cap, random });
  }

  /** After so many attempts within the seconds since the device was last connected. */
  delay(attempts, awaySeconds = Infinity) {
    const ceiling = Math.min(this.base * 2 ** Math.min(attempts, 30), Math.max(this.base, awaySeconds));
    return this.random() * Math.min(this.cap, ceiling);
  }
}

/** The time that a device has been without a subscribed connection, and its attempts to get one. Begins when made. */
export class Absence {
  #backoff;
  /** Milliseconds, never back. */
  #clock;
  #attempts = 0;
  #since;

  constructor(backoff, clock = () => performance.now()) {
    this.#backoff = backoff;
    this.#clock = clock;
    this.#since = clock();
  }

  /** An attempt begins. */
  attempt() {
    this.#attempts += 1;
  }

  /** It has led to a subscribed connection, or the time before is to count no more. */
  end() {
    this.#attempts = 0;
  }

  /** Seconds until the next attempt, when a connection or an attempt has ended. */
  delay() {
    const now = this.#clock();
    if (this.#attempts === 0) this.#since = now;
    return this.#backoff.delay(this.#attempts, (now - this.#since) / 1000);
  }
}
