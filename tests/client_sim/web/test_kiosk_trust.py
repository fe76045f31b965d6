"""A page with pinned keys in headless Chromium: it obeys what they have signed, once, and refuses the rest by name.

Signed and encrypted by joserfc, verified and decrypted by jose on the browser's own cryptography: neither is ours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from client_sim.signatures import (
    EncryptionKey,
    KeySet,
    SigningKey,
    Statement,
    encrypt_for,
    public_keys,
    sign_key_set,
    sign_push,
)
from tests.browser import Page
from tests.client_sim.web.conftest import Kiosk, Served, serve_page
from tests.end_to_end.harness import wait_for

ROOT_KEY, OPS, LEAVER, THIEF = (SigningKey.new() for _ in range(4))
ECHO = "fleetpush.device.commands.echo = (push) => ({ given: push.data, by: push.signedBy })"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """As every other page's, but with a pinned key."""
    folder = tmp_path_factory.mktemp("trust")
    pinned = folder / "trusted-keys.json"
    pinned.write_text(json.dumps({"keys": [ROOT_KEY.public]}))
    with serve_page(folder / "data", "--trust", str(pinned)) as served:
        yield served


def connected(kiosk: Kiosk, page: Page | None = None) -> Page:
    """The page, new or loaded anew, with a command that tells what it was given."""
    if page is None:
        page = kiosk.connected()
    else:
        page.reload()
        page.wait_for('document.querySelector("#state")?.dataset.state === "connected"')
    page.evaluate(f"({ECHO}) && true")
    return page


def order(kiosk: Kiosk, key: SigningKey, *audiences: str, kind: str = "command", age: float = 0, **data: Any) -> str:
    audience = audiences or (f"default/devices/{kiosk.id}",)
    return sign_push(key, Statement.new(audience, kind, {"command": "echo", **data}, time.time() - age, 600))


def answer(kiosk: Kiosk, token: str | None = None, **fields: Any) -> Any:
    """The result of a command in the ledger."""
    signature = {} if token is None else {"signed": token}
    push_id = kiosk.api.push(kiosk.id, kind="command", **signature, **fields)
    return wait_for(lambda: kiosk.api.delivery(push_id)["result"], what="the page's answer")


def refused(kiosk: Kiosk, token: str | None = None, **fields: Any) -> str:
    return str(answer(kiosk, token, **fields)["refused"])


def test_a_page_obeys_what_was_signed_and_refuses_the_rest(kiosk: Kiosk) -> None:
    page = connected(kiosk)
    direct = order(kiosk, ROOT_KEY, volume=3)
    beside = {"command": "echo", "volume": 99}
    assert answer(kiosk, direct, data=beside) == {"given": {"command": "echo", "volume": 3}, "by": ROOT_KEY.key_id}
    keys = sign_key_set(ROOT_KEY, KeySet(1, (OPS.public, LEAVER.public)))
    adopted = {"key_set": {"version": 1, "keys": sorted([OPS.key_id, LEAVER.key_id])}}
    assert answer(kiosk, keys) == adopted
    assert answer(kiosk, keys) == adopted, "the same again is no news"
    good, by_leaver = order(kiosk, OPS), order(kiosk, LEAVER)
    assert answer(kiosk, good)["by"] == OPS.key_id
    newer = sign_key_set(ROOT_KEY, KeySet(2, (OPS.public,), (LEAVER.key_id,)))
    assert answer(kiosk, newer)["key_set"]["version"] == 2
    connected(kiosk, page)
    header, payload, signature = order(kiosk, OPS, volume=99).split(".")
    attempts = {
        "replayed": refused(kiosk, good),
        "altered": refused(kiosk, f"{header}.{payload}.{good.rpartition('.')[2]}"),
        "cut": refused(kiosk, f"{header}.{payload}.{signature[:-8]}"),
        "no token": refused(kiosk, "a.b.c"),
        "expired": refused(kiosk, order(kiosk, OPS, age=3600)),
        "from the future": refused(kiosk, order(kiosk, OPS, age=-3600)),
        "for another device": refused(kiosk, order(kiosk, OPS, "default/devices/other", "shop/all")),
        "as data": refused(kiosk, order(kiosk, OPS, kind="silent")),
        "by a revoked key": refused(kiosk, by_leaver),
        "by the root itself": refused(kiosk, order(kiosk, ROOT_KEY)),
        "by a thief": refused(kiosk, order(kiosk, THIEF)),
        "unsigned": refused(kiosk, data={"command": "echo"}),
        "old keys": refused(kiosk, keys),
        "a thief's keys": refused(kiosk, sign_key_set(THIEF, KeySet(9, (THIEF.public,)))),
        "keys that are none": refused(kiosk, sign_key_set(ROOT_KEY, KeySet(9, ({"kty": "oct"},)))),
    }
    assert attempts == {
        "replayed": "replayed",
        "altered": "bad_signature",
        "cut": "bad_signature",
        "no token": "malformed",
        "expired": "expired",
        "from the future": "clock",
        "for another device": "other_device",
        "as data": "other_kind",
        "by a revoked key": "revoked_key",
        "by the root itself": "unknown_key",
        "by a thief": "unknown_key",
        "unsigned": "unsigned",
        "old keys": "old_key_set",
        "a thief's keys": "unknown_key",
        "keys that are none": "malformed",
    }
    assert answer(kiosk, order(kiosk, OPS, "default/all"))["by"] == OPS.key_id, "it works as before"


def test_a_page_that_forgot_a_push_has_not_forgotten_its_signature(kiosk: Kiosk) -> None:
    """A server may send so many pushes that the journal forgets one, and then that one again."""
    page = connected(kiosk)
    token = order(kiosk, ROOT_KEY)
    assert "given" in answer(kiosk, token)
    push_id = page.evaluate(
        """new Promise((resolve) => {
            const request = indexedDB.open(fleetpush.device.name);
            request.onsuccess = () => {
                const write = request.result.transaction(["handled", "statements"], "readwrite");
                const found = write.objectStore("statements").getAll();
                write.objectStore("handled").clear();
                write.oncomplete = () => { request.result.close(); resolve(found.result[0].push_id); };
            };
        })"""
    )
    said = page.evaluate(
        f"""(async () => {{
            const {{ Journal }} = await import("./journal.js");
            const {{ TrustedKeys }} = await import("./trust.js");
            const journal = await Journal.open(fleetpush.device.name);
            const trusted = new TrustedKeys(await (await fetch("trusted-keys.json")).json());
            const verifier = await trusted.verifier("default", {json.dumps(kiosk.id)}, journal);
            const message = {{ signed: {json.dumps(token)} }};
            const push = {{ pushId: {json.dumps(push_id)}, kind: "command", message }};
            const said = [];
            for (const known of ["interrupted", "new"]) {{
                const {{ signedBy, refused }} = await verifier.admit(push, known);
                said.push(signedBy ?? refused.reason);
            }}
            journal.close();
            return said;
        }})()"""
    )
    assert said == [ROOT_KEY.key_id, "replayed"]


def test_a_page_reads_what_was_encrypted_for_it(kiosk: Kiosk) -> None:
    page = connected(kiosk)
    jwk = wait_for(lambda: kiosk.api.device(kiosk.id)["attributes"].get("encryption_key"), what="the page's key")
    assert [*public_keys([jwk], "X25519")] == [jwk["kid"]]
    token = order(kiosk, ROOT_KEY, pin="4711")
    encrypted = encrypt_for(jwk, token)
    assert answer(kiosk, encrypted=encrypted)["given"] == {"command": "echo", "pin": "4711"}
    assert refused(kiosk, encrypted=encrypted) == "replayed"
    assert refused(kiosk, encrypted=encrypt_for(jwk, order(kiosk, THIEF))) == "unknown_key"
    assert refused(kiosk, encrypted=encrypt_for(EncryptionKey.new().public, token)) == "cannot_decrypt"
    kept = """new Promise((resolve) => {
        const request = indexedDB.open(fleetpush.device.name);
        request.onsuccess = () => {
            const facts = request.result.transaction(["facts"]).objectStore("facts").get("encryption key");
            facts.onsuccess = () => resolve(facts.result.privateKey.extractable);
        };
    })"""
    assert page.evaluate(kept) is False, "not even the page can read the private key"
    connected(kiosk, page)
    assert answer(kiosk, encrypted=encrypt_for(jwk, order(kiosk, ROOT_KEY)))["by"] == ROOT_KEY.key_id


def test_a_button_cannot_order_what_nobody_has_signed(kiosk: Kiosk) -> None:
    page = connected(kiosk)
    actions = [{"id": "ok", "title": "OK", "command": "echo"}]
    push_id = kiosk.push(notification={"actions": actions})
    page.click(f'.banner[data-push="{push_id}"] [data-action="ok"]')
    result = wait_for(lambda: kiosk.api.delivery(push_id)["result"], what="the refusal")
    assert result["refused"] == "unsigned"


def test_a_button_runs_no_handler_of_a_command(kiosk: Kiosk) -> None:
    """Also not if it is called like the command, or under another name: the function is what must be signed for."""
    page = connected(kiosk)
    page.evaluate(
        """(() => {
            const { actions, commands } = fleetpush.device;
            globalThis.ran = [];
            commands.wipe = () => { ran.push("wipe"); return "wiped"; };
            actions.wipe = () => ran.push("a button of its own");
            actions.ok = commands.wipe;
            actions.no = () => { ran.push("no"); return "nothing happens"; };
            return true;
        })()"""
    )

    def pressed(action: str) -> Any:
        push_id = kiosk.push(action)
        page.click(f'.banner[data-push="{push_id}"] [data-action="{action}"]')
        return wait_for(lambda: kiosk.api.delivery(push_id)["result"], what="the result")

    results = {action: pressed(action) for action in ("wipe", "ok", "play", "no")}
    refusal = {"error": "refused: nobody has signed the command of this button", "refused": "unsigned"}
    assert results == {"wipe": refusal, "ok": refusal, "play": refusal, "no": "nothing happens"}
    assert page.evaluate("ran") == ["no"]
    assert answer(kiosk, order(kiosk, ROOT_KEY, command="wipe")) == "wiped", "as a signed command it is run"


RESTORING = """(async () => {
    const { FleetpushDevice } = await import("./device.js");
    const { Journal } = await import("./journal.js");
    const { TrustedKeys } = await import("./trust.js");
    const pinned = await (await fetch("trusted-keys.json")).json();
    const { id, token, url, messages, kinds } = %s;
    const given = [];
    // What a page of before has stored and did not live to verify.
    const name = `fleetpush ${new URL(url).host} ${id}`;
    const journal = await Journal.open(name);
    for (const message of messages) await journal.begin(message.push_id, message);
    journal.close();
    for (const load of [1, 2]) {
        const note = (how) => (push) => { given.push([load, how, push.pushId, push.signedBy, push.data ?? null]); };
        const trustedKeys = new TrustedKeys(pinned, { kinds });
        const options = { onPush: note("new"), onRestore: note("restored"), trustedKeys };
        const device = new FleetpushDevice({ deviceId: id, token, url, ...options });
        await device.start();
        while (!device.connected) await new Promise((resolve) => setTimeout(resolve, 10));
        await device.flush(10);
        await device.close();
    }
    return given;
})()"""


def test_an_alert_that_nobody_has_signed_is_not_restored(kiosk: Kiosk) -> None:
    """The page of before died between storing and verifying it; what was signed comes back as it was signed."""
    page = kiosk.connected()
    device = kiosk.api.enrol(f"{kiosk.id}-restored")
    audience = f"default/devices/{device.id}"
    good = sign_push(ROOT_KEY, Statement.new([audience], "alert", {"say": "signed"}, time.time(), 600))
    bad = sign_push(THIEF, Statement.new([audience], "alert", {"say": "stolen"}, time.time(), 600))
    shown = {"kind": "alert", "expires_in": 600, "notification": {"title": "x"}, "data": {"say": "beside"}}
    messages = [
        shown | {"push_id": "unsigned"},
        shown | {"push_id": "by-a-thief", "signed": bad},
        shown | {"push_id": "good", "signed": good},
    ]
    about = {"id": device.id, "token": device.token, "messages": messages, "kinds": ["command", "alert"]}
    about["url"] = f"ws://127.0.0.1:{kiosk.relay.port}/mqtt"
    given = page.evaluate(RESTORING % json.dumps(about))
    assert given == [[load, "restored", "good", ROOT_KEY.key_id, {"say": "signed"}] for load in (1, 2)]


@pytest.mark.full_only
def test_signed_data_says_who_signed_it_and_bad_data_does_not_come(kiosk: Kiosk) -> None:
    page = connected(kiosk)
    page.evaluate(
        "globalThis.came = []; addEventListener('fleetpush-data', (e) => came.push(e.detail.signedBy)) && true"
    )
    bad = kiosk.api.push(kiosk.id, data=1, signed=order(kiosk, THIEF, kind="silent"))
    kiosk.api.push(kiosk.id, data=1, signed=order(kiosk, ROOT_KEY, kind="silent"))
    kiosk.api.push(kiosk.id, data=1)
    page.wait_for("came.length === 2")
    assert page.evaluate("came") == [ROOT_KEY.key_id, None]
    wait_for(lambda: kiosk.api.delivery(bad)["state"] == "dismissed", what="the refusal")
    assert kiosk.api.delivery(bad)["reason"] == "unknown_key"


@pytest.mark.full_only
def test_what_was_used_is_remembered_within_bounds(kiosk: Kiosk) -> None:
    """Those that end first are forgotten first, and with them everything of their key that ends no later."""
    page = kiosk.connected()
    uses = [(50, "p1"), (10, "p1"), (40, "p1"), (20, "p1"), (10, "p2"), (20, "p2"), (20, "p1"), (11, "p2"), (11, "p3")]
    said = page.evaluate(
        f"""(async () => {{
            const {{ Journal }} = await import("./journal.js");
            const journal = await Journal.open("of its own");
            const said = [];
            for (const [end, push] of {json.dumps(uses)}) {{
                said.push(await journal.useStatement("k", `s${{end}}`, end, push, 3));
            }}
            said.push(await journal.useStatement("another", "s10", 10, "p2", 3));
            journal.close();
            return said;
        }})()"""
    )
    assert said == [*["first"] * 4, "forgotten", "replayed", "again", "first", "forgotten", "first"]


def test_a_key_that_signs_no_more_leaves_one_number(kiosk: Kiosk) -> None:
    """Should it come back, nothing is used twice; of the others nothing is forgotten."""
    page = kiosk.connected()
    uses = [("a", 10), ("b", 20), ("c", 30), "keep", ("a", 10), ("a", 11), ("b", 20), ("c", 30)]
    said = page.evaluate(
        f"""(async () => {{
            const {{ Journal }} = await import("./journal.js");
            const journal = await Journal.open("of keys that go");
            const said = [];
            for (const use of {json.dumps(uses)}) {{
                if (use === "keep") await journal.keepTrusted({{ versions: {{}} }}, ["b"]);
                else said.push(await journal.useStatement(use[0], `s${{use[1]}}`, use[1], `p${{said.length}}`));
            }}
            journal.close();
            return said;
        }})()"""
    )
    assert said == [*["first"] * 3, "forgotten", "first", "replayed", "forgotten"]


def test_journals_of_older_pages_are_carried_on(kiosk: Kiosk) -> None:
    """Of all versions that there were, with a push that they have handled, and a statement that they have used."""
    page = kiosk.connected()
    said = page.evaluate(
        """(async () => {
            const { Journal } = await import("./journal.js");
            const said = [];
            for (const version of [1, 2, 3]) {
                await new Promise((resolve) => {
                    const request = indexedDB.open(`older ${version}`, version);
                    request.onupgradeneeded = () => {
                        for (const name of ["handled", "outbox", ...(version > 1 ? ["screen"] : [])]) {
                            const numbered = { keyPath: "no", autoIncrement: true };
                            const store = request.result.createObjectStore(name, numbered);
                            if (name !== "outbox") store.createIndex("push_id", "push_id", { unique: true });
                            if (name === "handled") store.add({ push_id: "p1", finished: true });
                        }
                        request.result.createObjectStore("facts").put(5, "forgotten until");
                        if (version < 3) return;
                        const statements = request.result.createObjectStore("statements", { keyPath: "id" });
                        statements.createIndex("expires_at", "expires_at");
                        statements.add({ id: "k.s0", expires_at: 9, push_id: "p0" });
                    };
                    request.onsuccess = () => { request.result.close(); resolve(); };
                });
                const journal = await Journal.open(`older ${version}`);
                said.push(await journal.begin("p1"), await journal.useStatement("k", "s1", 10, "p2"));
                said.push((await journal.onScreen()).length, await journal.useStatement("k", "s0", 9, "p2"));
                said.push(await journal.useStatement("k", "s2", 5, "p2"));
                journal.close();
            }
            return said;
        })()"""
    )
    assert said == [
        *["finished", "first", 0, "first", "forgotten"] * 2,
        *["finished", "first", 0, "replayed", "forgotten"],
    ]


def test_without_its_file_of_keys_the_page_does_not_start(kiosk: Kiosk) -> None:
    """Else whoever can make one download fail would have a page that obeys everybody."""
    lost = """const real = fetch;
        globalThis.fetch = (address, ...more) => String(address).includes("trusted-keys")
            ? Promise.resolve(new Response("", { status: 503 })) : real(address, ...more);"""
    fragment = {"device": kiosk.id, "token": kiosk.device.token, "url": f"ws://127.0.0.1:{kiosk.relay.port}/mqtt"}
    page = kiosk.context.open(f"{kiosk.origin}/#{urlencode(fragment)}", lost)
    page.wait_for('document.querySelector("#state")?.dataset.state === "failed"')
    assert "trusted-keys.json: answered 503" in page.text("#state-text")
    assert kiosk.api.device(kiosk.id)["online"] is False
