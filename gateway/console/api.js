/**
 * The public API, as a page that is signed in asks it.
 *
 * The session's cookie goes along by itself; the header `Fleetpush-Console` says that a page of this origin asks, which
 * a page of another one cannot say. Who gets no answer hears of it (`Unreachable`), and so does `connection` (live.js);
 * a session that has ended is renewed by its person before the question is asked again (`onSessionEnd`).
 */

import { connection } from "./live.js";

/** Longer than anything that the server does for one request. */
const ANSWER_MS = 30_000;
const UNAUTHORIZED = 401;

/** A refusal: `status`, `code`, `title`, `detail`, `retryable`, and what else the problem document has (RFC 9457). */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.title ?? `HTTP ${status}`);
    this.name = "Problem";
    Object.assign(this, document, { status, code: document.code ?? `http_${status}` });
  }
}

/** No answer: the server is away, or the way to it. */
export class Unreachable extends Error {
  constructor(cause) {
    super("the server does not answer", { cause });
    this.name = "Unreachable";
    this.code = "unreachable";
  }
}

let renewSession = null;

/** Ask `renew` when a session has ended: a promise of whether there is one again. */
export function onSessionEnd(renew) {
  renewSession = renew;
}

/** An address with encoded values: path`/v1/devices/${id}`. */
export function path(strings, ...values) {
  return strings.reduce((before, after, number) => before + encodeURIComponent(values[number - 1]) + after);
}

/** Where something is, with a query of what is not null, undefined or empty. */
export function withQuery(address, query) {
  const given = query instanceof URLSearchParams ? query : new URLSearchParams();
  if (given !== query) {
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== null && value !== undefined && value !== "") given.set(name, value);
    }
  }
  return given.size > 0 ? `${address}?${given}` : address;
}

export class Api {
  /** `signal`: when it is aborted, so are the questions, with an AbortError. */
  constructor(signal = null) {
    this.signal = signal;
  }

  get(address, query) {
    return this.call("GET", address, { query });
  }

  post(address, body, options) {
    return this.call("POST", address, { ...options, body });
  }

  put(address, body, options) {
    return this.call("PUT", address, { ...options, body });
  }

  patch(address, body, options) {
    return this.call("PATCH", address, { ...options, body });
  }

  delete(address, query) {
    return this.call("DELETE", address, { query });
  }

  /**
   * What is answered: of JSON its value, of other types a Blob, null of nothing. `body`: a Blob as it is, everything else
   * as JSON. `session: false`: a 401 is an answer like any other. Throws Problem, Unreachable; an AbortError when the
   * screen has gone. `seen(headers)`: is told the headers of what is answered.
   */
  async call(method, address, { query, body, headers, seen, session = true } = {}) {
    const raw = body instanceof Blob;
    const answer = await this.#fetch(withQuery(address, query), {
      method,
      headers: {
        "Fleetpush-Console": "1",
        ...(body === undefined || raw ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined || raw ? body : JSON.stringify(body),
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
    });
    if (answer.ok) {
      seen?.(answer.headers);
      return contentOf(answer);
    }
    const problem = new Problem(answer.status, await documentOf(answer));
    if (answer.status !== UNAUTHORIZED || !session || renewSession === null) throw problem;
    if (!(await renewSession(problem))) throw problem;
    this.signal?.throwIfAborted();
    return this.call(method, address, { query, body, headers, seen, session: false });
  }

  async #fetch(address, options) {
    const timeout = AbortSignal.timeout(ANSWER_MS);
    try {
      const signal = this.signal === null ? timeout : AbortSignal.any([this.signal, timeout]);
      const answer = await fetch(address, { ...options, signal });
      connection.answered();
      return answer;
    } catch (error) {
      this.signal?.throwIfAborted();
      connection.failed();
      throw new Unreachable(error);
    }
  }
}

async function contentOf(answer) {
  if (answer.status === 204) return null;
  const type = answer.headers.get("Content-Type") ?? "";
  if (type.startsWith("application/json")) return answer.json();
  return type === "" ? null : answer.blob();
}

/** Of a proxy in between, which knows no problem documents, only the status. */
async function documentOf(answer) {
  try {
    return Object(await answer.json());
  } catch {
    return {};
  }
}
