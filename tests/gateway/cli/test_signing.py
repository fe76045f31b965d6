"""Keys on the publisher's machine, and what the commands make of them; no server is asked for a signature."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from client_sim.signatures import (
    EncryptionKey,
    KeySet,
    SignedToken,
    SigningKey,
    Statement,
    decrypt,
    public_keys,
)
from tests.gateway.cli.fake_server import FakeServer, Outcome, run_command


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    assert run_command("signing", "new", "ops.jwk").exit_code == 0
    return SigningKey.load(tmp_path / "ops.jwk")


def accepted(fake: FakeServer) -> None:
    fake.answer = lambda request: {"push_id": "p1", "targeted": 1, "suppressed": 0, "unknown": []}


def statement_in(token: str, key: SigningKey) -> Statement:
    return Statement.of_claims(SignedToken(token).verify(key.okp))


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.exit_code in (1, 2)
    for word in words:
        assert word in outcome.stderr


def test_a_new_key_is_a_secret_and_not_overwritten(tmp_path: Path) -> None:
    made = run_command("signing", "new", "a.jwk", "--json")
    path = tmp_path / "a.jwk"
    assert path.stat().st_mode & 0o777 == 0o600
    public = json.loads(made.stdout)
    assert "d" not in public
    assert public["kid"] == SigningKey.load(path).key_id
    kept = path.read_bytes()
    refused(run_command("signing", "new", "a.jwk"), "is there already")
    assert path.read_bytes() == kept
    refused(run_command("signing", "new", "nowhere/a.jwk"), "nowhere/a.jwk cannot be written: No such file")


def test_public_halves_of_keys_are_what_devices_pin(key: SigningKey, tmp_path: Path) -> None:
    run_command("signing", "new", "b.jwk")
    shown = run_command("signing", "show", "ops.jwk", "b.jwk")
    assert f"fingerprint {key.key_id}" in shown.stderr
    jwks = json.loads(shown.stdout)["keys"]
    assert all("d" not in jwk for jwk in jwks)
    assert [*public_keys(jwks, "Ed25519")] == [key.key_id, SigningKey.load(tmp_path / "b.jwk").key_id]
    Path("public.json").write_text(shown.stdout)
    assert json.loads(run_command("signing", "show", "public.json").stdout)["keys"] == jwks


@pytest.mark.parametrize("content", [None, "", "{}", '{"keys": 7}', '{"keys": [{"kty": "RSA"}]}'])
def test_a_file_without_a_key_is_named(content: str | None) -> None:
    if content is not None:
        Path("bad.jwk").write_text(content)
    refused(run_command("signing", "show", "bad.jwk"), "bad.jwk", "signing new")


def test_a_key_that_others_may_read_signs_nothing(fake: FakeServer, key: SigningKey) -> None:
    Path("ops.jwk").chmod(0o644)
    refused(fake.run("push", "kiosk-1", "--data", "1", "--sign", "ops.jwk"), "chmod 600")
    assert fake.requests == []


def test_a_push_is_signed_for_those_it_is_sent_to(fake: FakeServer, key: SigningKey) -> None:
    accepted(fake)
    order = ["--kind", "command", "--data", '{"command": "play"}', "--sign", "ops.jwk", "--ttl", "2h"]
    for target, audiences in (
        (["kiosk-1"], ["default/devices/kiosk-1"]),
        (["--device", "a", "--device", "b"], ["default/devices/a", "default/devices/b"]),
        (["--tag", "hall"], ["default/tags/hall"]),
        (["--all", "--app", "shop"], ["shop/all"]),
    ):
        assert fake.run("push", *target, *order).exit_code == 0
        sent = fake.requests[-1].json
        statement = statement_in(sent["signed"], key)
        assert list(statement.audiences) == audiences
        assert (statement.kind, statement.data) == ("command", {"command": "play"}) == (sent["kind"], sent["data"])
        assert statement.expires_at - statement.issued_at == 7200
        assert abs(statement.issued_at - time.time()) < 60


def test_data_without_a_kind_is_signed_as_silent_and_for_a_day(fake: FakeServer, key: SigningKey) -> None:
    accepted(fake)
    fake.run("push", "kiosk-1", "--data", "[1]", "--sign", "ops.jwk")
    statement = statement_in(fake.only.json["signed"], key)
    assert (statement.kind, statement.data, statement.expires_at - statement.issued_at) == ("silent", [1], 86_400)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["kiosk-1", "Hello", "--sign", "ops.jwk"], "a signature is for data"),
        (["kiosk-1", "--data", "1", "--encrypt"], "--encrypt needs --sign"),
        (["kiosk-1", "--data", "1", "--sign", "ops.jwk", "--signed", "x"], "is signed already"),
        (["kiosk-1", "--data", "1", "--sign", "ops.jwk", "--idempotency-key", "k"], "signing push"),
        (["kiosk-1", "--data", "1", "--sign", "ops.jwk", "--encrypt"], "signing trust kiosk-1"),
        (["--all", "--data", "1", "--sign", "ops.jwk", "--encrypt"], "for one device"),
        (["kiosk-1", "--kind", "command", "--signed", "missing"], "missing cannot be read"),
        (["kiosk-1", "--signed", "order.jws"], "--signed needs the --kind"),
    ],
)
def test_wrong_use_sends_nothing(fake: FakeServer, key: SigningKey, words: list[str], says: str) -> None:
    refused(fake.run("push", *words), says)
    assert fake.requests == []


def test_what_is_encrypted_is_sent_in_the_clear_nowhere(fake: FakeServer, key: SigningKey) -> None:
    device = EncryptionKey.new()
    fake.answer = lambda request: {"attributes": {"encryption_key": device.public}}
    assert fake.run("signing", "trust", "kiosk-1").exit_code == 0
    accepted(fake)
    secret = ["--data", '{"command": "pin", "pin": "4711"}', "--sign", "ops.jwk", "--encrypt"]
    fake.run("push", "kiosk-1", "--kind", "command", *secret)
    sent = fake.requests[-1]
    assert b"4711" not in sent.body
    assert b"pin" not in sent.body
    assert sent.json.keys() == {"target", "kind", "encrypted"}
    assert statement_in(decrypt(sent.json["encrypted"], device), key).data == {"command": "pin", "pin": "4711"}
    fake.answer = lambda request: {"status": "answered", "push_id": "p1", "state": "acted", "reason": None, "result": 1}
    fake.run("call", "kiosk-1", "pin", "--data", '{"pin": "4711"}', "--sign", "ops.jwk", "--encrypt")
    sent = fake.requests[-1]
    assert b"pin" not in sent.body
    assert statement_in(decrypt(sent.json["encrypted"], device), key).data == {"command": "pin", "pin": "4711"}


def test_a_call_is_signed_for_as_long_as_it_waits(fake: FakeServer, key: SigningKey) -> None:
    fake.answer = lambda request: {"status": "answered", "push_id": "p1", "state": "acted", "reason": None, "result": 1}
    fake.run("call", "kiosk-1", "play", "--data", '{"volume": 3}', "--wait", "7", "--sign", "ops.jwk")
    sent = fake.only.json
    statement = statement_in(sent["signed"], key)
    assert statement.data == {"command": "play", "volume": 3}
    assert statement.expires_at - statement.issued_at == 7
    assert (sent["command"], sent["data"]) == ("play", {"volume": 3})
    refused(fake.run("call", "kiosk-1", "play", "--data", "[1]", "--sign", "ops.jwk"), "JSON object")
    refused(fake.run("call", "kiosk-1", "play", "--encrypt"), "--encrypt needs --sign")
    fake.answer = lambda request: {
        "status": "answered", "push_id": "p1", "state": "acted", "reason": None,
        "result": {"error": "refused: over", "refused": "expired"},
    }  # fmt: skip
    refused(fake.run("call", "kiosk-1", "play"), "the device could not do it: refused: over")


def test_what_was_signed_elsewhere_is_sent_as_it_is(fake: FakeServer, key: SigningKey) -> None:
    accepted(fake)
    made = run_command("signing", "push", "kiosk-1", "--sign", "ops.jwk", "--data", '{"command": "play"}')
    statement = statement_in(made.stdout.strip(), key)
    assert (statement.kind, statement.audiences) == ("command", ("default/devices/kiosk-1",))
    Path("order.jws").write_text(made.stdout)
    fake.run("push", "kiosk-1", "--kind", "command", "--signed", "order.jws", "--idempotency-key", "k")
    assert fake.only.json["signed"] == made.stdout.strip()


def test_a_key_set_names_its_keys(key: SigningKey, tmp_path: Path) -> None:
    run_command("signing", "new", "root.jwk")
    root = SigningKey.load(tmp_path / "root.jwk")
    options = ["--root", "root.jwk", "--version", "3", "--revoke", "old", "--expires", "90d"]
    made = run_command("signing", "keys", "ops.jwk", *options)
    key_set = KeySet.of_claims(SignedToken(made.stdout.strip()).verify(root.okp))
    assert (key_set.version, key_set.revoked) == (3, ("old",))
    assert [*public_keys(key_set.signers, "Ed25519")] == [key.key_id]
    assert key_set.expires_at == key_set.issued_at + 90 * 86_400
    refused(run_command("signing", "keys", "ops.jwk", "--root", "missing.jwk"), "missing.jwk", "signing new")


# Keys of devices


def attributes(fake: FakeServer, value: Any) -> None:
    fake.answer = lambda request: {"attributes": {} if value is None else {"encryption_key": value}}


def test_a_key_is_pinned_and_the_server_cannot_change_it(fake: FakeServer, tmp_path: Path) -> None:
    first, second = EncryptionKey.new(), EncryptionKey.new()
    attributes(fake, first.public)
    pinned = fake.run("signing", "trust", "kiosk-1", "--json")
    path = tmp_path / "home" / "fleetpush" / "device-keys.json"
    assert json.loads(pinned.stdout)["fingerprint"] == first.key_id
    assert path.stat().st_mode & 0o777 == 0o600
    assert fake.run("signing", "trust", "kiosk-1").exit_code == 0, "the same again"
    attributes(fake, second.public)
    refused(fake.run("signing", "trust", "kiosk-1"), f"{first.key_id} is pinned", "a stolen server")
    refused(fake.run("signing", "trust", "kiosk-1", "--fingerprint", first.key_id), "somebody has changed it")
    assert json.loads(path.read_text())["default/devices/kiosk-1"]["x"] == first.public["x"]
    assert fake.run("signing", "trust", "kiosk-1", "--fingerprint", second.key_id).exit_code == 0
    assert json.loads(path.read_text())["default/devices/kiosk-1"]["x"] == second.public["x"]


@pytest.mark.parametrize("value", [None, "key", {"kty": "OKP"}, SigningKey.new().public])
def test_a_device_without_a_key_is_named(fake: FakeServer, value: Any) -> None:
    attributes(fake, value)
    refused(fake.run("signing", "trust", "kiosk-1"), "kiosk-1 has reported no key")


def test_a_file_of_pins_that_is_broken_is_named(fake: FakeServer) -> None:
    Path("pins.json").write_text("{")
    attributes(fake, EncryptionKey.new().public)
    refused(fake.run("signing", "trust", "kiosk-1", "--device-keys", "pins.json"), "pins.json")
