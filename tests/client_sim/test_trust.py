"""A device with pinned keys: it obeys what they have signed, once, and answers everything else with a reason."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_sim import journal as journal_module
from client_sim import trust as trust_module
from client_sim.async_device import AsyncDevice
from client_sim.backoff import Backoff
from client_sim.device import Device
from client_sim.journal import Journal, Use
from client_sim.push import Push
from client_sim.signatures import (
    EncryptionKey,
    KeySet,
    PushRefused,
    SigningKey,
    Statement,
    encrypt_for,
    sign_key_set,
    sign_push,
)
from client_sim.testing import FakeServer
from client_sim.trust import TrustedKeys
from tests.documents.markdown import blocks

ROOT = Path(__file__).resolve().parents[2]
HERE = "default/devices/kiosk-1"
OPS, OTHER, STRANGER, SPARE = SigningKey.new(), SigningKey.new(), SigningKey.new(), SigningKey.new()
AT_ONCE = Backoff(base=0.001, cap=0.01)


def signed(
    key: SigningKey = OPS,
    *audiences: str,
    kind: str = "command",
    data: Any = None,
    age: float = 0,
    lifetime: int = 3600,
) -> str:
    """A signed order to obey once."""
    order = {"command": "obey"} if data is None else data
    return sign_push(key, Statement.new(audiences or (HERE,), kind, order, time.time() - age, lifetime))


class World:
    """A server that would do anything, and a device that should not."""

    def __init__(self, folder: Path, server: FakeServer, pinned: list[SigningKey], **options: Any) -> None:
        self.server = server
        self.given: list[Push] = []
        """The pushes that handlers were given."""
        self.trusted = TrustedKeys([key.public for key in pinned], **options)
        self._folder = folder
        self.device = self.start()

    def start(self) -> Device:
        self.device = Device(
            "kiosk-1", "token", port=self.server.port, journal=self._folder / "kiosk-1.db", on_push=self.given.append,
            trusted_keys=self.trusted, backoff=AT_ONCE,
        )  # fmt: skip
        self.device.commands["obey"] = self.obey
        return self.device.start()

    def obey(self, push: Push) -> dict[str, Any]:
        self.given.append(push)
        return {"obeyed": push.data}

    def restart(self) -> None:
        self.device.close()
        self.start()

    def command(self, token: str | None = None, **further: Any) -> Any:
        """The result of a command."""
        fields: dict[str, Any] = {} if token is None else {"signed": token}
        push_id = self.server.push("kiosk-1", kind="command", **fields, **further)
        return self.server.wait(push_id, "acted")["result"]

    def refused(self, token: str | None = None, **further: Any) -> str:
        """The reason for which a command is refused, and with which no handler was called."""
        before = len(self.given)
        result = self.command(token, **further)
        assert result["error"].startswith("refused: ")
        assert len(self.given) == before
        return str(result["refused"])


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server
        assert server.complaints == []


StartWorld = Callable[..., World]


@pytest.fixture
def world_of(tmp_path: Path, server: FakeServer) -> Iterator[StartWorld]:
    worlds: list[World] = []

    def start(*pinned: SigningKey, **options: Any) -> World:
        worlds.append(World(tmp_path, server, list(pinned or (OPS,)), **options))
        return worlds[-1]

    yield start
    for world in worlds:
        world.device.close()


@pytest.fixture
def world(world_of: StartWorld) -> World:
    return world_of()


def test_a_signed_command_is_obeyed_as_it_was_signed(world: World) -> None:
    """What stands beside it is nothing that a handler sees."""
    token = signed(data={"command": "obey", "volume": 3})
    beside = {"data": {"command": "obey", "volume": 99}, "notification": {"title": "x"}}
    assert world.command(token, **beside) == {"obeyed": {"command": "obey", "volume": 3}}
    (push,) = world.given
    assert push.signed_by == OPS.key_id
    assert push.message.keys().isdisjoint({"signed", "notification"})
    assert push.notification == {}


def test_an_unsigned_command_is_refused(world: World) -> None:
    assert world.refused(data={"command": "obey"}) == "unsigned"
    assert world.refused(data={"command": "obey"}, signed=None) == "unsigned"


def test_an_altered_command_is_refused(world: World) -> None:
    header, payload, signature = signed().split(".")
    _, other, _ = signed(data={"command": "obey", "volume": 99}).split(".")
    assert world.refused(f"{header}.{other}.{signature}") == "bad_signature"
    assert world.refused(f"{header}.{payload}.{'A' * 86}") == "bad_signature"
    assert world.refused("signed") == "malformed"


def test_a_command_of_a_stranger_is_refused(world: World) -> None:
    assert world.refused(signed(STRANGER)) == "unknown_key"
    header, _, _ = signed().split(".")  # which names the key that is trusted
    _, payload, signature = signed(STRANGER).split(".")
    assert world.refused(f"{header}.{payload}.{signature}") == "bad_signature"


@pytest.mark.parametrize(
    "audience",
    ["default/devices/kiosk-2", "shop/devices/kiosk-1", "shop/all", "default/tags/lobby", "kiosk-1", "default/all/"],
)
def test_a_command_for_another_device_is_refused(world: World, audience: str) -> None:
    assert world.refused(signed(OPS, audience)) == "other_device"


def test_a_command_may_be_for_several(world_of: StartWorld) -> None:
    """The tags are those that the device itself was set up with: a server could make up others."""
    world = world_of(tags=["hall"])
    assert "obeyed" in world.command(signed(OPS, "default/devices/kiosk-2", HERE))
    assert "obeyed" in world.command(signed(OPS, "default/tags/hall"))
    assert "obeyed" in world.command(signed(OPS, "default/all"))
    assert world.refused(signed(OPS, "default/tags/lobby")) == "other_device"


def test_a_command_is_carried_out_once_in_however_many_pushes(world: World) -> None:
    """Also by the next process of the device."""
    token = signed()
    assert "obeyed" in world.command(token)
    assert world.refused(token) == "replayed"
    world.restart()
    assert world.refused(token) == "replayed"
    assert len(world.given) == 1
    assert "obeyed" in world.command(signed()), "the same order, signed anew"


def test_a_flood_of_pushes_makes_no_device_forget_what_it_has_done(
    world: World, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same push once more, after so many others that its id is forgotten: the signature's is not."""
    monkeypatch.setattr(journal_module, "REMEMBERED_PUSHES", 2)
    token = signed()
    server.push("kiosk-1", kind="command", signed=token, push_id="the-push")
    assert "obeyed" in server.wait("the-push", "acted")["result"]
    for number in range(3):
        server.wait(server.push("kiosk-1", data=number), "delivered")
    world.device.close()
    with FakeServer() as thief:
        there = World(tmp_path, thief, [OPS])
        with closing(there.device):
            thief.push("kiosk-1", kind="command", signed=token, push_id="the-push")
            assert thief.wait("the-push", "acted")["result"]["refused"] == "replayed"
        assert there.given == []


def test_a_command_that_is_over_is_refused(world: World) -> None:
    assert world.refused(signed(age=4000)) == "expired"
    assert "obeyed" in world.command(signed(age=3700)), "clocks may differ by five minutes"


def test_a_clock_that_is_wrong_refuses_and_says_so(world_of: StartWorld) -> None:
    clock = [0.0]
    world = world_of(clock=lambda: clock[0])
    token = signed()
    assert world.refused(token) == "clock"
    assert "here it is 1970-01-01T00:00:00Z only" in world.command(token)["error"]
    clock[0] = 4e9
    assert world.refused(token) == "expired"
    clock[0] = time.time()
    assert "obeyed" in world.command(token), "what was refused was not used"


def test_a_device_without_a_clock_obeys_however_late_but_once(world_of: StartWorld) -> None:
    world = world_of(clock=None)
    token = signed(age=1e9)
    assert "obeyed" in world.command(token)
    assert world.refused(token) == "replayed"


def test_what_was_signed_as_something_else_is_no_command(world: World) -> None:
    assert world.refused(signed(kind="silent")) == "other_kind"
    assert world.refused(signed(OPS, data={"command": "obey"}, kind="alert")) == "other_kind"


def test_what_is_no_text_is_refused(world: World) -> None:
    for odd in (0, ["a"], {"toString": 1}):
        assert world.refused(odd) == "malformed"  # type: ignore[arg-type]  # a server may send it
    order = Statement.new([HERE], "command", {"command": "obey"}, time.time(), 60)
    with pytest.raises(PushRefused, match="jti"):
        Statement.of_claims(order.claims() | {"jti": "\ud800"})


def test_data_may_be_signed_too(world: World, server: FakeServer) -> None:
    """A program asks `signed_by`. What is wrong with a signature is a reason not to show the push at all."""
    plain = server.push("kiosk-1", data={"price": 1})
    good = server.push("kiosk-1", data={"price": 99}, signed=signed(kind="silent", data={"price": 2}))
    bad = server.push("kiosk-1", data={"price": 3}, signed=signed(STRANGER, kind="silent", data={"price": 3}))
    server.wait(plain, "delivered")
    server.wait(good, "delivered")
    (receipt,) = server.wait(bad, "dismissed")["receipts"]
    assert receipt["reason"] == "unknown_key"
    assert [(push.data, push.signed_by) for push in world.given] == [({"price": 1}, None), ({"price": 2}, OPS.key_id)]


def test_a_program_may_want_all_its_data_signed(world_of: StartWorld, server: FakeServer) -> None:
    world = world_of(kinds=["command", "silent"])
    refused = server.push("kiosk-1", data={"price": 1})
    (receipt,) = server.wait(refused, "dismissed")["receipts"]
    assert receipt["reason"] == "unsigned"
    shown = server.push("kiosk-1", notification={"title": "Bread"})
    server.wait(shown, "delivered")
    assert [push.push_id for push in world.given] == [shown]


def test_a_button_cannot_order_what_nobody_has_signed(world: World, server: FakeServer) -> None:
    """It would be the way around: a person is easily made to press OK."""
    action = {"id": "ok", "title": "OK", "command": "obey"}
    push_id = server.push("kiosk-1", notification={"title": "Update", "actions": [action, {"id": "no", "title": "No"}]})
    server.wait(push_id, "delivered")
    world.device.actions["no"] = lambda push: "nothing happens"
    (push,) = world.given
    assert world.device.act(push, "ok") == {
        "error": "refused: nobody has signed the command of this button", "refused": "unsigned",
    }  # fmt: skip
    assert world.device.act(push, "no") == "nothing happens"
    assert len(world.given) == 1


def test_a_button_runs_no_handler_of_a_command(world: World, server: FakeServer) -> None:
    """Also not if it is called like the command, or under another name: the function is what must be signed for."""
    world.device.actions["obey"] = lambda push: "obeyed"
    world.device.actions["ok"] = world.obey
    world.device.actions["no"] = lambda push: "nothing happens"
    actions = [{"id": name, "title": name} for name in ("obey", "ok", "no")]
    push_id = server.push("kiosk-1", notification={"title": "Update", "actions": actions})
    server.wait(push_id, "delivered")
    (push,) = world.given
    assert [world.device.act(push, name)["refused"] for name in ("obey", "ok")] == ["unsigned"] * 2
    assert world.device.act(push, "no") == "nothing happens"
    assert len(world.given) == 1


def test_a_program_whose_commands_need_no_signature_has_buttons_for_them(
    world_of: StartWorld, server: FakeServer
) -> None:
    world = world_of(kinds=["silent"])
    action = {"id": "ok", "title": "OK", "command": "obey"}
    server.wait(server.push("kiosk-1", notification={"title": "Update", "actions": [action]}), "delivered")
    (push,) = world.given
    assert world.device.act(push, "ok") == {"obeyed": None}


# Keys that change


def key_set(
    root: SigningKey, version: int, *keys: SigningKey, revoked: tuple[SigningKey, ...] = (), **more: Any
) -> str:
    named = tuple(key.key_id for key in revoked)
    return sign_key_set(root, KeySet(version, tuple(key.public for key in keys), named, **more))


def test_a_key_set_says_who_may_sign(world: World) -> None:
    answer = world.command(key_set(OPS, 1, OTHER))
    assert answer == {"key_set": {"version": 1, "keys": [OTHER.key_id]}}
    assert "obeyed" in world.command(signed(OTHER))
    assert world.refused(signed(OPS)) == "unknown_key", "a root stays in its safe"
    world.restart()
    assert "obeyed" in world.command(signed(OTHER))
    assert world.refused(signed(OPS)) == "unknown_key"


def test_a_revoked_key_is_refused_and_never_comes_back(world: World) -> None:
    world.command(key_set(OPS, 1, OTHER, STRANGER))
    before = signed(OTHER)
    assert "key_set" in world.command(key_set(OPS, 2, STRANGER, revoked=(OTHER,)))
    assert world.refused(before) == "revoked_key"
    world.restart()
    assert world.refused(signed(OTHER)) == "revoked_key"
    world.command(key_set(OPS, 3, OTHER, STRANGER))
    assert world.refused(signed(OTHER)) == "revoked_key"
    assert "obeyed" in world.command(signed(STRANGER))


def test_a_key_set_never_goes_back(world: World) -> None:
    first, second = key_set(OPS, 1, OTHER), key_set(OPS, 2, STRANGER)
    world.command(first)
    assert world.command(second) == world.command(second), "the same again is no news"
    assert world.refused(first) == "old_key_set"
    assert world.refused(key_set(OPS, 2, OTHER)) == "old_key_set", "two of one version"
    world.restart()
    assert world.refused(first) == "old_key_set"
    assert "obeyed" in world.command(signed(STRANGER))


def test_only_a_pinned_key_signs_key_sets(world: World) -> None:
    assert world.refused(key_set(STRANGER, 9, STRANGER)) == "unknown_key"
    world.command(key_set(OPS, 1, OTHER))
    assert world.refused(key_set(OTHER, 2, OTHER, STRANGER)) == "unknown_key"
    header, payload, _ = key_set(OPS, 2, STRANGER).split(".")
    assert world.refused(f"{header}.{payload}.{'A' * 86}") == "bad_signature"
    command, forged = signed().split("."), key_set(OPS, 2, STRANGER).split(".")
    assert world.refused(".".join([forged[0], command[1], command[2]])) == "bad_signature", "a push is no key set"
    assert "obeyed" in world.command(signed(OTHER))


def test_a_spare_root_revokes_one_that_was_stolen(world_of: StartWorld) -> None:
    world = world_of(OPS, SPARE)
    world.command(key_set(SPARE, 1, OTHER, revoked=(OPS,)))
    assert world.refused(key_set(OPS, 2, STRANGER)) == "revoked_key"
    assert "obeyed" in world.command(signed(OTHER))


def test_a_key_set_that_is_over_is_believed_no_more(world: World) -> None:
    """Else a stolen server could keep a revocation from devices for ever."""
    world.command(key_set(OPS, 1, OTHER, expires_at=int(time.time()) - 4000))
    assert world.refused(signed(OTHER)) == "keys_expired"
    world.command(key_set(OPS, 2, OTHER, expires_at=int(time.time()) + 4000))
    assert "obeyed" in world.command(signed(OTHER))


def test_keys_that_cannot_be_used_change_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = KeySet(1, ({"kty": "oct", "k": "AAAA"},))
    assert world.refused(sign_key_set(OPS, bad)) == "malformed"
    monkeypatch.setattr(trust_module, "MAX_REVOKED_KEYS", 1)
    assert world.refused(key_set(OPS, 1, OTHER, revoked=(STRANGER, SPARE))) == "malformed"
    assert "obeyed" in world.command(signed(OPS))


def test_other_pinned_keys_end_the_key_set_of_before(world: World, world_of: StartWorld) -> None:
    world.command(key_set(OPS, 5, OTHER))
    world.device.close()
    again = world_of(SPARE)
    assert again.refused(signed(OTHER)) == "unknown_key"
    assert "obeyed" in again.command(signed(SPARE))
    assert "key_set" in again.command(key_set(SPARE, 1, STRANGER)), "a thief's version 999 does not bind it"


def test_a_key_set_does_not_go_back_when_one_of_two_roots_is_pinned_no_more(
    world_of: StartWorld, server: FakeServer
) -> None:
    world = world_of(OPS, SPARE)
    first = key_set(SPARE, 1, STRANGER)
    world.command(first)
    world.command(key_set(OPS, 2, OTHER))
    world.device.close()
    again = world_of(SPARE)
    assert again.refused(first) == "old_key_set"
    assert "key_set" in again.command(key_set(SPARE, 2, OTHER))


def test_a_refusal_is_short_whatever_a_stranger_calls_himself(world: World, server: FakeServer) -> None:
    name = f"{'x' * 300}\U0001f600"
    header = base64.urlsafe_b64encode(json.dumps({"alg": "Ed25519", "kid": name}).encode()).rstrip(b"=").decode()
    result = world.command(f"{header}.e30.AAAA")
    assert result["refused"] in ("malformed", "unknown_key")
    assert len(result["error"]) <= trust_module.REFUSAL_CHARACTERS


# What is encrypted


def test_what_is_encrypted_is_read_by_its_device_alone(world_of: StartWorld, tmp_path: Path) -> None:
    world = world_of(encryption_key=tmp_path / "kiosk-1.jwk")
    jwk = world.trusted.encryption_key
    assert jwk is not None
    token = signed(data={"command": "obey", "pin": "4711"})
    assert world.command(encrypted=encrypt_for(jwk, token)) == {"obeyed": {"command": "obey", "pin": "4711"}}
    assert world.refused(encrypted=encrypt_for(jwk, token)) == "replayed"
    assert world.refused(encrypted=encrypt_for(EncryptionKey.new().public, signed())) == "cannot_decrypt"
    assert world.refused(encrypted=encrypt_for(jwk, signed(STRANGER))) == "unknown_key", "anybody can encrypt"
    assert world.refused(encrypted=encrypt_for(jwk, '{"command": "obey"}')) == "malformed", "it has to be signed"
    assert world.refused(encrypted="x", signed=signed()) == "cannot_decrypt"
    again = TrustedKeys([OPS.public], encryption_key=tmp_path / "kiosk-1.jwk")
    assert again.encryption_key == jwk, "the key stays"
    assert (tmp_path / "kiosk-1.jwk").stat().st_mode & 0o777 == 0o600


def test_a_device_without_a_key_says_that_it_cannot_decrypt(world: World) -> None:
    assert world.refused(encrypted=encrypt_for(EncryptionKey.new().public, signed())) == "cannot_decrypt"


# Life


def test_a_process_that_dies_in_a_signed_command_does_not_repeat_it(server: FakeServer, tmp_path: Path) -> None:
    """And what it tells of is what was signed: `on_interrupted` is a way into the program, too."""
    pinned = tmp_path / "trusted.json"
    pinned.write_text(json.dumps({"keys": [OPS.public]}))
    program = textwrap.dedent(f"""
        import os, threading
        from pathlib import Path
        from client_sim.device import Device
        from client_sim.trust import TrustedKeys

        trusted = TrustedKeys(Path({str(pinned)!r}))
        path = Path({str(tmp_path / "kiosk-1.db")!r})
        device = Device("kiosk-1", "token", port={server.port}, journal=path, trusted_keys=trusted)
        device.commands["obey"] = lambda push: os._exit(9)
        device.start()
        threading.Event().wait(15)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    token = signed(data={"command": "obey", "volume": 3})
    push_id = server.push("kiosk-1", kind="command", data={"volume": 99}, signed=token)
    assert process.wait(15) == 9
    told: list[Any] = []

    def interrupted(push: Push) -> Any:
        told.append(push.data)
        return {"back": True}

    trusted = TrustedKeys(pinned)
    device = Device(
        "kiosk-1",
        "token",
        port=server.port,
        journal=tmp_path / "kiosk-1.db",
        on_interrupted=interrupted,
        trusted_keys=trusted,
        backoff=AT_ONCE,
    )
    with device:
        assert server.wait(push_id, "acted")["result"] == {"back": True}
        again = server.push("kiosk-1", kind="command", signed=token)
        assert server.wait(again, "acted")["result"]["refused"] == "replayed"
    assert told == [{"command": "obey", "volume": 3}]


async def test_a_device_on_asyncio_has_them_too(server: FakeServer, tmp_path: Path) -> None:
    async def obey(push: Push) -> Any:
        return push.data

    trusted = TrustedKeys([OPS.public])
    async with AsyncDevice(
        "kiosk-1", "token", port=server.port, journal=tmp_path / "j.db", trusted_keys=trusted
    ) as device:
        device.commands["obey"] = obey
        good = server.push("kiosk-1", kind="command", signed=signed())
        bad = server.push("kiosk-1", kind="command", data={"command": "obey"})
        assert (await asyncio.to_thread(server.wait, good, "acted"))["result"] == {"command": "obey"}
        assert (await asyncio.to_thread(server.wait, bad, "acted"))["result"]["refused"] == "unsigned"


def test_the_examples_of_the_document_work(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "signed-commands.md"
    program, publisher = (block.text for block in blocks(page) if block.language == "python")
    monkeypatch.chdir(tmp_path)
    OPS.write(Path("ops.jwk"))
    Path("trusted-keys.json").write_text(json.dumps({"keys": [OPS.public]}))
    names: dict[str, Any] = {"token": "token"}
    exec(program.replace('host="push.example"', f"port={server.port}"), names)
    with closing(names["device"]):
        done = names["device"].commands["open"] = lambda push: push.data
        assert done is not names["open_door"], "which does nothing"
        exec(publisher, names)
        fields = {name: value for name, value in names["push"].items() if name != "target"}
        push_id = server.push("door-1", **fields)
        assert server.wait(push_id, "acted")["result"] == {"command": "open"}
        jwk = names["trusted"].encryption_key
        server.wait_until(lambda: server.attributes["door-1"].get("encryption_key") == jwk)


def test_a_device_that_forgets_cannot_have_them() -> None:
    with pytest.raises(ValueError, match="journal in a file"):
        Device("kiosk-1", "token", trusted_keys=TrustedKeys([OPS.public]))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"keys": []}', '{"keys": [{}]}', '{"keys": {"a": 1}}'])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trusted.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"trusted\.json|no key"):
        TrustedKeys(path)


def test_what_was_used_is_remembered_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that end first are forgotten first, and with them everything of their key that ends no later."""
    monkeypatch.setattr(journal_module, "REMEMBERED_STATEMENTS", 3)
    journal = Journal(tmp_path / "j.db")
    assert [journal.use_statement("k", f"s{end}", end, "p1") for end in (50, 10, 40, 20)] == [Use.FIRST] * 4
    assert journal.use_statement("k", "s10", 10, "p2") is Use.FORGOTTEN
    assert journal.use_statement("k", "other", 10, "p2") is Use.FORGOTTEN
    assert journal.use_statement("k", "s20", 20, "p2") is Use.REPLAYED
    assert journal.use_statement("k", "s20", 20, "p1") is Use.AGAIN
    assert journal.use_statement("k", "s11", 11, "p2") is Use.FIRST
    assert journal.use_statement("k", "s11", 11, "p3") is Use.FORGOTTEN, "it was the first to go"
    assert journal.use_statement("another", "s10", 10, "p2") is Use.FIRST
    journal.close()
    again = Journal(tmp_path / "j.db")
    assert again.use_statement("k", "s10", 10, "p2") is Use.FORGOTTEN
    assert again.use_statement("another", "s10", 10, "p3") is Use.REPLAYED
    again.close()


def test_a_key_that_signs_no_more_leaves_one_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should it come back, nothing is used twice. The number furthest back is the first to count for all."""
    monkeypatch.setattr(journal_module, "FORGETFUL_KEYS", 2)
    path = tmp_path / "j.db"
    journal = Journal(path)
    for key, end in (("a", 10), ("b", 20), ("c", 30), ("d", 40)):
        journal.use_statement(key, "s", end, "p1")
    journal.keep_trusted({}, {"c", "d"})
    assert journal.use_statement("a", "s", 10, "p2") is Use.FORGOTTEN
    assert journal.use_statement("a", "new", 11, "p2") is Use.FIRST
    assert journal.use_statement("c", "s", 30, "p2") is Use.REPLAYED
    journal.keep_trusted({}, {"d"})
    assert [journal.use_statement(key, "s", end, "p2") for key, end in (("b", 20), ("c", 30))] == [Use.FORGOTTEN] * 2
    assert journal.use_statement("a", "new", 11, "p2") is Use.FORGOTTEN
    assert journal.use_statement("e", "s", 11, "p2") is Use.FORGOTTEN
    assert journal.use_statement("e", "s", 12, "p2") is Use.FIRST
    journal.close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT key_id FROM used_statement ORDER BY 1").fetchall() == [("d",), ("e",)]


def test_a_journal_from_before_keys_had_a_memory_each_is_carried_on(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "j.db")) as database, database:
        database.executescript(
            "CREATE TABLE statement (id TEXT PRIMARY KEY, expires_at INTEGER NOT NULL, push_id TEXT NOT NULL)"
            " WITHOUT ROWID; CREATE INDEX statement_end ON statement (expires_at);"
            "CREATE TABLE trust (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
            "INSERT INTO statement VALUES ('k.a.b', 50, 'p1'); INSERT INTO trust VALUES ('forgotten_until', '20');"
            "PRAGMA user_version=1"
        )
    for _ in range(2):
        journal = Journal(tmp_path / "j.db")
        assert journal.use_statement("k", "a.b", 50, "p1") is Use.AGAIN
        assert journal.use_statement("k", "a.b", 50, "p2") is Use.REPLAYED
        assert journal.use_statement("another", "c", 20, "p2") is Use.FORGOTTEN
        journal.close()


def test_a_flood_of_one_key_costs_that_key_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has stolen one publisher's key cannot make a device refuse what the others sign."""
    monkeypatch.setattr(journal_module, "REMEMBERED_STATEMENTS", 2)
    world.command(key_set(OPS, 1, OTHER, STRANGER))
    for lifetime in (10_000, 10_001, 10_002):
        assert "obeyed" in world.command(signed(STRANGER, lifetime=lifetime))
    assert world.refused(signed(STRANGER)) == "expired"
    assert "obeyed" in world.command(signed(OTHER))
    world.restart()
    assert world.refused(signed(STRANGER)) == "expired"
    assert "obeyed" in world.command(signed(OTHER))


def test_a_forgotten_statement_is_over_for_the_device(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "REMEMBERED_STATEMENTS", 2)
    old = signed(lifetime=600)
    assert "obeyed" in world.command(old)
    for lifetime in (1000, 2000):
        world.command(signed(lifetime=lifetime))
    assert world.refused(old) == "expired"


def test_a_statement_names_its_key(world: World) -> None:
    """A publisher cannot use up what another one has signed."""
    world.command(key_set(OPS, 1, OTHER, STRANGER))
    statement = Statement.new([HERE], "command", {"command": "obey"}, time.time(), 60)
    assert "obeyed" in world.command(sign_push(OTHER, statement))
    assert "obeyed" in world.command(sign_push(STRANGER, replace(statement, data={"command": "obey"})))
