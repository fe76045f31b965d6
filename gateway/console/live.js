/**
 * What is on the screen stays true: questions that are asked again and again, and whether there is an answer at all.
 *
 * A question waits for its answer before it is asked again. A page that nobody sees asks nothing; seen again, it asks at
 * once. Without an answer the page says so, and asks ever less often, until there is one again.
 */

const LONGEST_PAUSE_SECONDS = 30;
/** From one look for the server to the next while there is no answer. */
const LOOK_SECONDS = { first: 1, longest: 15 };
/** Many consoles that were opened together do not ask together for ever. */
const SPREAD = 0.1;
const REST_FACTOR = 20;

/**
 * Whether the server answers. Who asks it says `answered()` or `failed()`; the event `change` comes when `lost` has
 * changed. While it is lost the connection looks for the server itself: nobody else may be asking.
 */
class Connection extends EventTarget {
  lost = false;

  answered() {
    this.#become(false);
  }

  failed() {
    this.#become(true);
  }

  #become(lost) {
    if (this.lost === lost) return;
    this.lost = lost;
    this.dispatchEvent(new Event("change"));
    if (lost) void this.#look();
  }

  async #look() {
    const found = new AbortController();
    this.addEventListener("change", () => found.abort(), { once: true });
    for (let pause = LOOK_SECONDS.first; this.lost; pause = Math.min(pause * 1.5, LOOK_SECONDS.longest)) {
      await nextTurn(pause, found.signal);
      if (!this.lost) return;
      await fetch("/healthz", { cache: "no-store" }).then(
        () => this.answered(),
        () => {},
      );
    }
  }
}

export const connection = new Connection();

/**
 * Call `fn` now, and `seconds` after each end of it while somebody sees the page, until `signal` is aborted or `fn` gives
 * true: what it looks for has come. What it throws the first time goes to the caller; later on `failed(error)` is told,
 * and the next call may succeed.
 */
export async function every(seconds, fn, signal, failed = () => {}) {
  if ((await fn()) === true) return;
  let pause = seconds;
  const again = async () => {
    for (;;) {
      await nextTurn(pause * (1 + SPREAD * (Math.random() - 0.5)), signal);
      if (signal.aborted) return;
      try {
        if ((await fn()) === true) return;
        pause = seconds;
      } catch (error) {
        if (signal.aborted) return;
        pause = Math.min(Math.max(pause * 2, 1), Math.max(LONGEST_PAUSE_SECONDS, seconds));
        failed(error);
      }
    }
  };
  void again();
}

/**
 * `fn`, but it rests REST_FACTOR times as long as it took: what is dear to the server is asked for less often, so that
 * many consoles together take a share of it that does not grow with what they look at. `least`, `longest`: bounds of the
 * rest, in seconds. Called with `{ now: true }` it does not rest: something is known to be new.
 */
export function unhurried(fn, { least = 0, longest = Number.POSITIVE_INFINITY } = {}) {
  let restsUntil = 0;
  return async ({ now = false } = {}) => {
    const begun = performance.now();
    if (begun < restsUntil && !now) return;
    let rest = 0;
    try {
      await fn();
      rest = least * 1000; // what has failed may be asked again sooner
    } finally {
      const ended = performance.now();
      restsUntil = ended + Math.min(Math.max(rest, REST_FACTOR * (ended - begun)), longest * 1000);
    }
  };
}

/** Resolves after `seconds`, at the next moment that the page is seen; at once when it is shown again or the network is back. */
function nextTurn(seconds, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      document.removeEventListener("visibilitychange", shown);
      connection.removeEventListener("change", back);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const shown = () => {
      if (!document.hidden) done();
    };
    const back = () => {
      if (!connection.lost) done();
    };
    const timer = setTimeout(shown, seconds * 1000);
    addEventListener("online", done);
    document.addEventListener("visibilitychange", shown);
    connection.addEventListener("change", back);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}
