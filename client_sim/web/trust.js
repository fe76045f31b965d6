/**
 * Whose orders a device in a browser obeys: pinned keys, what they have signed, and why a push is refused. The twin of
 * client_sim/trust.py, whose laws it keeps; docs/signed-commands.md describes both.
 *
 *     const trustedKeys = new TrustedKeys(await (await fetch("trusted-keys.json")).json());
 *     const device = new FleetpushDevice({ .., trustedKeys });
 *
 * JWS and JWE are read by jose, on the browser's own cryptography (Ed25519 and X25519: Chromium 137, Firefox 130, Safari
 * 17). The device's own key is made here and cannot be exported: not by this page, nor by whoever reads its storage.
 *
 * A page is as trustworthy as the server that it comes from: serve it, and the pinned keys, from elsewhere.
 */

import { compactDecrypt } from "./node_modules/jose/dist/webapi/jwe/compact/decrypt.js";
import { compactVerify } from "./node_modules/jose/dist/webapi/jws/compact/verify.js";
import { calculateJwkThumbprint } from "./node_modules/jose/dist/webapi/jwk/thumbprint.js";
import { importJWK } from "./node_modules/jose/dist/webapi/key/import.js";
import { decodeProtectedHeader } from "./node_modules/jose/dist/webapi/util/decode_protected_header.js";
import { AGAIN, FIRST, FORGOTTEN, INTERRUPTED } from "./journal.js";

const SIGNATURE = "Ed25519";
const PUSH_TYPE = "fleetpush-push+jwt";
const KEY_SET_TYPE = "fleetpush-keys+jwt";
const ENCRYPTION = { keyManagementAlgorithms: ["ECDH-ES+A256KW"], contentEncryptionAlgorithms: ["A256GCM"] };
const MAX_SIGNERS = 32;
const MAX_REVOCATIONS = 64;
const MAX_AUDIENCES = 1_000;
const MAX_REVOKED_KEYS = 1_000;
const ID_CHARACTERS = 64;
const LEEWAY_SECONDS = 300;
/** Characters of a refusal: some of them are a stranger's, and the server keeps 4 KiB of a result. */
const REFUSAL_CHARACTERS = 500;
/** Fields of a push that a handler of a signed one is not given: it gets the `data` that was signed. */
const UNSIGNED_FIELDS = ["data", "notification", "signed", "encrypted"];

/** A refusal; `reason` is one of docs/signed-commands.md. */
export class PushRefused extends Error {
  constructor(reason, text) {
    super(text.slice(0, REFUSAL_CHARACTERS));
    this.reason = reason;
  }
}

/** What a device was told about keys when it was set up. */
export class TrustedKeys {
  /**
   * pinned         a JWK set, as `fleetpush signing show KEY` prints it: publishers, or roots.
   * tags           the tags that this device goes by, for what is signed for a tag.
   * kinds          kinds of pushes that have to be signed.
   * clock          gives seconds since 1970; null: this device has no clock that is worth asking.
   * leewaySeconds  what its clock may differ from a publisher's.
   */
  constructor(pinned, { tags = [], kinds = ["command"], clock = () => Date.now() / 1000, leewaySeconds = LEEWAY_SECONDS } = {}) {
    if (!Array.isArray(pinned?.keys) || pinned.keys.length === 0) throw new Error("no pinned keys: a JWK set has `keys`");
    Object.assign(this, { pinned: pinned.keys, tags, kinds, clock, leewaySeconds });
  }

  /** Whether pushes of a kind have to be signed. */
  signedOnly(kind) {
    return this.kinds.includes(kind);
  }

  /** Decide by these keys what one device's page is given. */
  verifier(app, deviceId, journal) {
    return PushVerifier.load(this, app, deviceId, journal);
  }
}

class PushVerifier {
  #trusted;
  #journal;
  #audiences;
  /** Thumbprint -> CryptoKey, of the pinned keys and of those that may sign pushes. */
  #pinned;
  #signers;
  #revoked;
  /** Pinned key, also of earlier ones -> the highest version that it has signed. */
  #versions;
  #keySet = null;
  #decryptionKey;
  /** The public key that others encrypt for, as a JWK with its thumbprint. */
  encryptionKey;

  static async load(trusted, app, deviceId, journal) {
    const verifier = new PushVerifier();
    verifier.#trusted = trusted;
    verifier.#journal = journal;
    const tags = trusted.tags.map((tag) => `${app}/tags/${tag}`);
    verifier.#audiences = new Set([`${app}/devices/${deviceId}`, `${app}/all`, ...tags]);
    verifier.#pinned = verifier.#signers = await publicKeys(trusted.pinned);
    const { keySet, revoked, versions } = await journal.trusted();
    verifier.#revoked = new Set(revoked ?? []);
    verifier.#versions = versions ?? {};
    if (keySet !== undefined) {
      try {
        verifier.#adopt(await verifier.#readKeySet(keySet));
      } catch (error) {
        // The pinned keys are others now. Whoever could change those could have changed everything.
        console.warn(`the key set of before is forgotten: ${error.message}`);
      }
    }
    const pair = await journal.encryptionKey(() => crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"]));
    const { kty, crv, x } = await crypto.subtle.exportKey("jwk", pair.publicKey);
    verifier.#decryptionKey = pair.privateKey;
    verifier.encryptionKey = { kty, crv, x, use: "enc", kid: await calculateJwkThumbprint({ kty, crv, x }) };
    return verifier;
  }

  /**
   * { message, signedBy } for the page; or { refused } or { result }, which answers the push in its place. `known` is what
   * the journal knew of the push's id.
   */
  async admit(push, known) {
    try {
      let { signed } = push.message;
      if ("encrypted" in push.message) signed = await this.#decrypt(push.message.encrypted);
      if (signed === undefined || signed === null) {
        if (!this.#trusted.signedOnly(push.kind)) return { message: push.message, signedBy: null };
        throw new PushRefused("unsigned", `this device obeys no ${push.kind} that nobody has signed`);
      }
      if (typeof signed !== "string") throw new PushRefused("malformed", "no signed push: `signed` is no text");
      const token = readHeader(signed);
      if (token.typ === KEY_SET_TYPE) return { result: { key_set: await this.#takeOver(token) } };
      return await this.#verified(push, token, known);
    } catch (error) {
      if (!(error instanceof PushRefused)) throw error;
      console.warn(`push ${push.pushId} is refused: ${error.reason}: ${error.message}`);
      return { refused: error };
    }
  }

  async #decrypt(text) {
    try {
      const { plaintext } = await compactDecrypt(text, this.#decryptionKey, ENCRYPTION);
      return new TextDecoder("utf-8", { fatal: true }).decode(plaintext);
    } catch (error) {
      throw new PushRefused("cannot_decrypt", `it is not encrypted for this device's key: ${error.message}`);
    }
  }

  async #verified(push, token, known) {
    if (token.typ !== PUSH_TYPE) throw new PushRefused("malformed", `it is signed as '${token.typ}', not as a push`);
    if (this.#revoked.has(token.kid)) throw new PushRefused("revoked_key", `the key ${token.kid} was revoked`);
    const key = this.#signers.get(token.kid);
    if (key === undefined) throw new PushRefused("unknown_key", `the key ${token.kid} is none that this device trusts`);
    const claims = await claimsOf(token, key);
    checkPush(claims);
    const audiences = [claims.aud].flat();
    if (!audiences.some((audience) => this.#audiences.has(audience))) {
      throw new PushRefused("other_device", `it was signed for ${audiences.slice(0, 3).join(", ")}`);
    }
    if (claims.kind !== push.kind) {
      throw new PushRefused("other_kind", `it was signed as '${claims.kind}', and comes as '${push.kind}'`);
    }
    this.#checkTime(claims);
    const use = await this.#journal.useStatement(token.kid, claims.jti, claims.exp, push.pushId);
    if (use === FORGOTTEN) throw new PushRefused("expired", "it ends before what this device remembers of its key");
    // Of the same push, which is not told as interrupted: the journal keeps fewer push ids than a server can make up.
    const told = use === AGAIN && known === INTERRUPTED;
    if (use !== FIRST && !told) throw new PushRefused("replayed", "it was used before");
    const message = Object.fromEntries(Object.entries(push.message).filter(([name]) => !UNSIGNED_FIELDS.includes(name)));
    if (claims.data !== undefined && claims.data !== null) message.data = claims.data;
    return { message, signedBy: token.kid };
  }

  #checkTime({ iat, exp }) {
    if (this.#trusted.clock === null) return;
    const now = this.#trusted.clock();
    const leeway = this.#trusted.leewaySeconds;
    const here = `here it is ${timeOf(now)}`;
    const end = this.#keySet?.exp;
    if (end !== undefined && now > end + leeway) {
      throw new PushRefused("keys_expired", `the key set ended at ${timeOf(end)}; ${here}`);
    }
    if (now > exp + leeway) throw new PushRefused("expired", `it ended at ${timeOf(exp)}; ${here}`);
    if (now < iat - leeway) throw new PushRefused("clock", `it was signed at ${timeOf(iat)}; ${here} only`);
  }

  async #readKeySet(text) {
    const token = readHeader(text);
    const root = this.#pinned.get(token.kid);
    if (root === undefined) {
      throw new PushRefused("unknown_key", `a key set has to be signed by a pinned key, which ${token.kid} is not`);
    }
    const claims = await claimsOf(token, root);
    checkKeySet(claims);
    try {
      return { ...claims, signers: await publicKeys(claims.keys) };
    } catch (error) {
      throw new PushRefused("malformed", `it has ${error.message}`);
    }
  }

  #adopt(keySet) {
    this.#keySet = keySet;
    this.#signers = keySet.signers;
  }

  /** Take a key set in the place of the present one; what to answer. */
  async #takeOver(token) {
    if (this.#revoked.has(token.kid)) throw new PushRefused("revoked_key", `the key ${token.kid} was revoked`);
    const keySet = await this.#readKeySet(token.text);
    const present = Math.max(...[...this.#pinned.keys()].map((root) => this.#versions[root] ?? 0));
    const same = keySet.version === this.#keySet?.version && (await this.#journal.trusted()).keySet === token.text;
    if (keySet.version <= present && !same) {
      throw new PushRefused("old_key_set", `a key set of version ${keySet.version}; this device has ${present}`);
    }
    const revoked = [...new Set([...this.#revoked, ...(keySet.revoked ?? [])])];
    if (revoked.length > MAX_REVOKED_KEYS) throw new PushRefused("malformed", `more than ${MAX_REVOKED_KEYS} revoked keys`);
    const versions = { ...this.#versions, [token.kid]: keySet.version };
    await this.#journal.keepTrusted({ keySet: token.text, revoked, versions }, [...keySet.signers.keys()]);
    this.#revoked = new Set(revoked);
    this.#versions = versions;
    this.#adopt(keySet);
    return { version: keySet.version, keys: [...keySet.signers.keys()].sort() };
  }
}

/** Keys by their thumbprints, which are computed here. Throws for one that is no key of Ed25519. */
async function publicKeys(jwks) {
  const found = new Map();
  for (const jwk of jwks) {
    const { kty, crv, x } = Object(jwk);
    if (kty !== "OKP" || crv !== SIGNATURE || typeof x !== "string") throw new Error("no key: a JWK of OKP Ed25519");
    try {
      found.set(await calculateJwkThumbprint({ kty, crv, x }), await importJWK({ kty, crv, x }, SIGNATURE));
    } catch (error) {
      throw new Error(`a key that cannot be used: ${error.message}`);
    }
  }
  return found;
}

/** A compact JWS as it arrived: its header is a claim like any other until `claimsOf`. */
function readHeader(text) {
  let header;
  try {
    header = decodeProtectedHeader(text);
  } catch (error) {
    throw new PushRefused("malformed", `no signed push: ${error.message}`);
  }
  if (typeof header.kid !== "string" || "crit" in header) throw new PushRefused("malformed", "no header of a signed push");
  return { text, kid: header.kid, typ: header.typ };
}

/** The claims that the owner of this key has signed. */
async function claimsOf(token, key) {
  let payload;
  try {
    ({ payload } = await compactVerify(token.text, key, { algorithms: [SIGNATURE] }));
  } catch (error) {
    if (error.code === "ERR_JWS_SIGNATURE_VERIFICATION_FAILED") {
      throw new PushRefused("bad_signature", "its signature is wrong: it was altered, or never signed");
    }
    throw new PushRefused("malformed", `no signed push: ${error.message}`);
  }
  let claims;
  try {
    claims = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
  } catch (error) {
    throw new PushRefused("malformed", `its claims are no JSON: ${error.message}`);
  }
  if (typeof claims !== "object" || claims === null || Array.isArray(claims)) {
    throw new PushRefused("malformed", "its claims are no JSON object");
  }
  return claims;
}

function checkPush(claims) {
  const audiences = typeof claims.aud === "string" ? [claims.aud] : claims.aud;
  if (!areTexts(audiences, MAX_AUDIENCES) || audiences.length === 0) {
    throw new PushRefused("malformed", "its audience (`aud`) is no list of texts");
  }
  if (!areTexts([claims.jti, claims.kind], 2) || claims.jti.length < 1 || claims.jti.length > ID_CHARACTERS) {
    throw new PushRefused("malformed", `it needs a \`jti\` of 1 to ${ID_CHARACTERS} characters, and a \`kind\``);
  }
  checkNumbers(claims, ["iat", "exp"]);
}

function checkKeySet(claims) {
  if (!Array.isArray(claims.keys) || claims.keys.length > MAX_SIGNERS) {
    throw new PushRefused("malformed", `a key set has a list of at most ${MAX_SIGNERS} \`keys\``);
  }
  if (!areTexts(claims.revoked ?? [], MAX_REVOCATIONS)) {
    throw new PushRefused("malformed", `\`revoked\` is a list of at most ${MAX_REVOCATIONS} thumbprints`);
  }
  checkNumbers(claims, "exp" in claims ? ["version", "iat", "exp"] : ["version", "iat"]);
}

function checkNumbers(claims, names) {
  const wrong = names.find((name) => !Number.isSafeInteger(claims[name]) || claims[name] < 0);
  if (wrong !== undefined) throw new PushRefused("malformed", `its \`${wrong}\` is no whole number`);
}

function areTexts(values, most) {
  return Array.isArray(values) && values.length <= most && values.every((value) => typeof value === "string");
}

/** A time as people read it; a clock may show anything. */
function timeOf(seconds) {
  const time = new Date(Math.floor(seconds) * 1000);
  return Number.isNaN(time.getTime()) ? `${seconds} s after 1970` : time.toISOString().replace(".000", "");
}
