/**
 * Who is signed in: what the server says of its session's cookie, which no script can read.
 *
 * Tabs tell each other when somebody signs in or out. Another person or another app in this browser means that what is on
 * the screen is of somebody else: the page begins again.
 */

import { Api, Problem } from "./api.js";

const PATH = "/v1/session";
const api = new Api();
const tabs = new BroadcastChannel("fleetpush.console");

/** The answer of the server, and what it permits. */
class Session {
  constructor(document) {
    Object.assign(this, document);
  }

  /** Whether it has a scope: `admin` has all. */
  may(scope) {
    return this.scopes.includes(scope) || this.scopes.includes("admin");
  }

  isOf(other) {
    return ["app", "role", "name"].every((field) => this[field] === other[field]);
  }
}

/** The session of this browser; null without one. Throws Unreachable. */
export async function current() {
  try {
    return new Session(await api.call("GET", PATH, { session: false }));
  } catch (error) {
    if (error instanceof Problem && error.status === 401) return null;
    throw error;
  }
}

/** How one can sign in: {oidc: {name} | null}. */
export function options() {
  return api.call("GET", `${PATH}/options`, { session: false });
}

/** Exchange a key for a session. Throws Problem. */
export async function signIn(key) {
  await api.call("POST", PATH, { body: { key }, session: false });
  tabs.postMessage("changed");
}

/** End the session. Gives where the browser is to go: an identity provider may want to end its own. */
export async function signOut() {
  const answer = await api.call("DELETE", PATH, { session: false }).catch((error) => {
    if (!(error instanceof Problem)) throw error;
    return null; // it had ended before
  });
  tabs.postMessage("changed");
  return answer?.provider_sign_out ?? null;
}

/** Call `fn` when another tab has signed in or out. */
export function onOtherTab(fn) {
  tabs.addEventListener("message", fn);
}
