/**
 * Enrolment by a code: what a label says, traded once for the device's token.
 *
 *     const credential = await enrol("https://push.example/enrol#K7QF-2M9T-4XWA-0HZP");
 *
 * The nonce is stored before the code is shown. A page that is closed before it has read the answer shows the same one
 * the next time, and is answered once more. Whom to trust is the browser's affair: it knows nothing of the fingerprint on a
 * label, and connects to servers whose certificate it trusts.
 */

const BEGUN = "fleetpush.enrolling";
const ADDRESS = /^(https?:\/\/[^/#?\s]+)\/enrol#([0-9A-Za-z-]+)(?:\.[A-Za-z0-9_-]{43})?$/;
const NONCE_BYTES = 32;
/** Attempts while the server is busy or does not answer, and the pause before the second, which doubles. */
const ATTEMPTS = 5;
const FIRST_PAUSE_MS = 1000;
/** A token that ends is renewed after such a share of its life: each page draws its own moment. */
const FIRST_RENEWAL = 0.6;
const LAST_RENEWAL = 0.7;
const RETRYABLE = [429, 502, 503, 504, 507];

/** The server refuses; `code` is its problem's, such as `code_used`. */
export class EnrolmentRefused extends Error {
  constructor(message, code) {
    super(message);
    this.name = "EnrolmentRefused";
    this.code = code;
  }
}

/** What a label says: {server, code}; a code alone needs the server's address. Throws TypeError. */
export function codeAddress(text, server) {
  const found = ADDRESS.exec(text.trim());
  if (found !== null) return { server: found[1], code: found[2] };
  if (!server) throw new TypeError("a code alone needs the address of the server");
  return { server: server.trim().replace(/\/+$/, ""), code: text.trim() };
}

/**
 * Trades a code for a credential, {device, token, url, app, server, renewAt}. `about` is what the device knows of itself: {device_id, name,
 * attributes}. Throws EnrolmentRefused; or TypeError when no server answers, or it does not let this page read the answer.
 */
export async function enrol(text, { server, about = {} } = {}) {
  const label = codeAddress(text, server);
  const body = JSON.stringify({ ...about, code: label.code, nonce: await nonceFor(label.code) });
  const credential = credentialIn(await send(`${label.server}/v1/enrol`, body), label.server);
  localStorage.removeItem(BEGUN);
  return credential;
}

/** The credential with a new token, for one whose token ends: `renewAt` says when. Throws as `enrol` does. */
export async function renew({ server, device, token }) {
  return credentialIn(await send(`${server}/v1/devices/${device}/token/renewal`, "{}", token), server);
}

function credentialIn({ device_id, token, token_expires_in, mqtt }, server) {
  const credential = { device: device_id, token, url: reachable(mqtt.websocket, server), app: mqtt.topics.push.split("/")[0], server };
  const share = FIRST_RENEWAL + Math.random() * (LAST_RENEWAL - FIRST_RENEWAL);
  return token_expires_in === null ? credential : { ...credential, renewAt: Date.now() + token_expires_in * 1000 * share };
}

async function send(url, body, token) {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  for (let attempt = 1; ; attempt += 1) {
    let failure;
    try {
      const answer = await fetch(url, { method: "POST", headers, body });
      if (answer.ok) return await answer.json();
      const problem = await answer.json().catch(() => ({}));
      failure = new EnrolmentRefused(problem.detail ?? `it answers ${answer.status}`, problem.code ?? "");
      if (!RETRYABLE.includes(answer.status)) throw failure;
    } catch (error) {
      if (error === failure) throw error;
      failure ??= error;
    }
    if (attempt === ATTEMPTS) throw failure;
    await new Promise((resume) => setTimeout(resume, Math.random() * FIRST_PAUSE_MS * 2 ** attempt));
  }
}

/** The nonce of an attempt before with this code, or a new one. The code itself is not kept. */
async function nonceFor(code) {
  const shown = hex(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(code)));
  const begun = JSON.parse(localStorage.getItem(BEGUN) ?? "null");
  if (begun?.code === shown) return begun.nonce;
  const nonce = hex(crypto.getRandomValues(new Uint8Array(NONCE_BYTES)));
  localStorage.setItem(BEGUN, JSON.stringify({ code: shown, nonce }));
  return nonce;
}

function hex(bytes) {
  return [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A server that listens on every address does not know which of them is dialled: then it is the one that was. */
function reachable(websocket, server) {
  const url = new URL(websocket);
  if (["0.0.0.0", "[::]"].includes(url.hostname)) url.hostname = new URL(server).hostname;
  return url.href;
}
