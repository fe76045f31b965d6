"""A server that was stolen, with every key that it has, cannot make a device act; and the ledger says what it tried."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client_sim.backoff import Backoff
from client_sim.device import Device
from client_sim.push import Push
from client_sim.signatures import KeySet, SigningKey, Statement, encrypt_for, sign_key_set, sign_push
from client_sim.trust import TrustedKeys
from tests.conformance.foreign import MosquittoSub, mosquitto_pub
from tests.end_to_end.conftest import Name
from tests.end_to_end.harness import Api, Server, wait_for
from tests.gateway.cli.fake_server import run_command
from tests.third_party import require

AT_ONCE = Backoff(base=0.01, cap=0.1)


class Lock:
    """A door: a device that opens it on a signed command."""

    def __init__(self, folder: Path, device_id: str, token: str, port: int, *pinned: SigningKey) -> None:
        self.opened: list[Any] = []
        self.trusted = TrustedKeys([key.public for key in pinned], encryption_key=folder / f"{device_id}.jwk")
        self.device = Device(
            device_id, token, port=port, journal=folder / f"{device_id}.db", trusted_keys=self.trusted, backoff=AT_ONCE
        )
        self.device.commands["open"] = self.open

    def open(self, push: Push) -> str:
        self.opened.append(push.data)
        return "open"


def order(key: SigningKey, device_id: str, *, age: float = 0, lifetime: int = 600, **more: Any) -> str:
    data = {"command": "open", **more}
    now = time.time() - age
    return sign_push(key, Statement.new([f"default/devices/{device_id}"], "command", data, now, lifetime))


def booked(api: Api, push_id: str) -> Any:
    """The result in the ledger, when there is one."""
    return wait_for(lambda: api.delivery(push_id)["result"], what="the device's answer in the ledger")


def test_each_refusal_is_booked_with_its_reason(server: Server, api: Api, name: Name, tmp_path: Path) -> None:
    """Whoever has the server's admin key sends what they like: nothing opens, and each attempt is in the ledger."""
    root, ops, leaver, thief = (SigningKey.new() for _ in range(4))
    enrolled, other = api.enrol(name()), api.enrol(name())
    lock = Lock(tmp_path, enrolled.id, enrolled.token, server.mqtt_port, root)

    def send(token: str | None = None, **fields: Any) -> Any:
        signature = {} if token is None else {"signed": token}
        return booked(api, api.push(enrolled.id, kind="command", **signature, **fields))

    def refused(token: str | None = None, **fields: Any) -> str:
        push_id = api.push(enrolled.id, kind="command", **({} if token is None else {"signed": token}), **fields)
        reason = str(booked(api, push_id)["refused"])
        assert api.only(push_id) == {"acted": 1}
        return reason

    with lock.device:
        keys = sign_key_set(root, KeySet(1, (ops.public, leaver.public)))
        assert send(keys)["key_set"]["version"] == 1
        good = order(ops, enrolled.id, door=1)
        assert send(good, data={"command": "open", "door": 99}) == "open"
        by_leaver = order(leaver, enrolled.id)
        assert "key_set" in send(sign_key_set(root, KeySet(2, (ops.public,), (leaver.key_id,))))
        header, payload, _ = order(ops, enrolled.id, door=99).split(".")
        found = {
            "replayed": refused(good),
            "altered": refused(f"{header}.{payload}.{good.rpartition('.')[2]}"),
            "expired": refused(order(ops, enrolled.id, age=3600)),
            "for another device": refused(order(ops, other.id)),
            "by a revoked key": refused(by_leaver),
            "by a thief's key": refused(order(thief, enrolled.id)),
            "unsigned": refused(data={"command": "open"}),
            "old keys": refused(keys),
            "a thief's keys": refused(sign_key_set(thief, KeySet(9, (thief.public,)))),
        }
        jwk = lock.trusted.encryption_key
        assert jwk is not None
        secret = api.push(enrolled.id, kind="command", encrypted=encrypt_for(jwk, order(ops, enrolled.id, door=2)))
        assert booked(api, secret) == "open"
        assert "door" not in json.dumps(api.call("GET", f"/v1/pushes/{secret}", 200)), "carried unread"
    assert found == {
        "replayed": "replayed",
        "altered": "bad_signature",
        "expired": "expired",
        "for another device": "other_device",
        "by a revoked key": "revoked_key",
        "by a thief's key": "unknown_key",
        "unsigned": "unsigned",
        "old keys": "old_key_set",
        "a thief's keys": "unknown_key",
    }
    assert lock.opened == [{"command": "open", "door": 1}, {"command": "open", "door": 2}]


def test_a_call_is_answered_at_once_with_a_refusal(server: Server, api: Api, name: Name, tmp_path: Path) -> None:
    ops = SigningKey.new()
    enrolled = api.enrol(name())
    lock = Lock(tmp_path, enrolled.id, enrolled.token, server.mqtt_port, ops)
    path = f"/v1/devices/{enrolled.id}/call"
    with lock.device:
        answer = api.call("POST", path, 200, json={"command": "open", "wait": 20})
        assert (answer["status"], answer["result"]["refused"]) == ("answered", "unsigned")
        signed = {"command": "open", "wait": 20, "signed": order(ops, enrolled.id)}
        assert api.call("POST", path, 200, json=signed)["result"] == "open"


@contextmanager
def broker_of_the_thief(folder: Path) -> Iterator[int]:
    """Mosquitto on a port of its own, which lets everybody in: who has taken over the server's address runs it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = folder / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([require("mosquitto"), "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: reachable(port), what="mosquitto to listen")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def inject(port: int, topic: str, push: dict[str, Any]) -> None:
    """Publish anything to the device's topic, byte for byte."""
    message = json.dumps({"v": 1, "kind": "command", **push})
    mosquitto_pub(port, "mqttv311", f"{topic}push", message, "-q", "1")


def test_a_broker_that_says_anything_cannot_make_a_device_act(tmp_path: Path) -> None:
    """Raw MQTT, past every check of a server: also with ids, times and fields that no server would send."""
    ops, thief = SigningKey.new(), SigningKey.new()
    topic = "default/devices/door-1/"
    with broker_of_the_thief(tmp_path) as port:
        lock = Lock(tmp_path, "door-1", "token", port, ops)
        heard: list[str] = []

        def hear_until(count: int) -> None:
            while len(heard) < count:
                said = json.loads(receipts.next()[3])
                for receipt in said if isinstance(said, list) else [said]:
                    result = receipt.get("result")
                    heard.append(str(result["refused"] if isinstance(result, dict) else result or receipt["reason"]))

        with MosquittoSub(port, "mqttv311", f"{topic}receipts") as receipts, lock.device:
            assert lock.device.wait_connected(15)
            good = order(ops, "door-1")
            attempts: list[dict[str, Any]] = [
                {"data": {"command": "open"}},
                {"data": {"command": "open"}, "signed": None},
                {"data": {"command": "open"}, "signed": {"data": {"command": "open"}}},
                {"data": {"command": "open"}, "signed_by": ops.key_id},
                {"signed": good, "kind": "silent"},
                {"signed": good.rpartition(".")[0] + "."},
                {"signed": order(thief, "door-1")},
                {"signed": order(ops, "door-2")},
                {"signed": order(ops, "door-1", age=86_400), "expires_in": 60, "sent_at": "2099-01-01T00:00:00Z"},
                {"encrypted": good},
                {"notification": {"title": "x", "actions": [{"id": "open", "title": "x"}]}},
            ]
            for number, attempt in enumerate(attempts):
                inject(port, topic, {"push_id": f"raw-{number}", "expires_in": 60, **attempt})
            hear_until(len(attempts))
            assert lock.opened == []
            inject(port, topic, {"push_id": "good", "signed": good})
            wait_for(lambda: lock.opened, what="what was signed to be obeyed, whoever brings it")
            for again in range(3):
                inject(port, topic, {"push_id": f"again-{again}", "signed": good})
            hear_until(len(attempts) + 4)
    assert len(lock.opened) == 1
    assert heard[: len(attempts)] == [
        "unsigned", "unsigned", "malformed", "unsigned", "other_kind", "bad_signature", "unknown_key", "other_device",
        "expired", "cannot_decrypt", "unsigned",
    ]  # fmt: skip
    assert heard[len(attempts) :] == ["open", "replayed", "replayed", "replayed"]


def test_an_operator_signs_from_the_command_line(
    server: Server, api: Api, name: Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first key to a revoked one, as docs/signed-commands.md has it."""
    monkeypatch.setenv("FLEETPUSH_URL", server.url)
    monkeypatch.setenv("FLEETPUSH_KEY", server.admin_key)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*words: str, expect: int = 0) -> str:
        outcome = run_command(*words)
        assert outcome.exit_code == expect, outcome.stderr
        return outcome.stdout if expect == 0 else outcome.stderr

    for file in ("root.jwk", "ops.jwk", "new.jwk"):
        run("signing", "new", file)
    enrolled = api.enrol(name())
    root, ops = SigningKey.load(Path("root.jwk")), SigningKey.load(Path("ops.jwk"))
    Path("trusted-keys.json").write_text(run("signing", "show", "root.jwk"))
    lock = Lock(tmp_path, enrolled.id, enrolled.token, server.mqtt_port, root)
    lock.device.report({"encryption_key": lock.trusted.encryption_key})
    wait = ["--wait", "20"]
    with lock.device:
        Path("keys.jws").write_text(run("signing", "keys", "ops.jwk", "--root", "root.jwk", "--expires", "90d"))
        adopted = run("push", enrolled.id, "--kind", "command", "--signed", "keys.jws").strip()
        assert booked(api, adopted)["key_set"]["keys"] == [ops.key_id]
        assert run("call", enrolled.id, "open", *wait, "--sign", "ops.jwk") == '"open"\n'
        assert "nobody has signed" in run("call", enrolled.id, "open", *wait, expect=1)
        wait_for(lambda: "encryption_key" in api.device(enrolled.id)["attributes"], what="the device's report")
        assert str(lock.trusted.encryption_key["kid"]) in run("signing", "trust", enrolled.id)  # type: ignore[index]
        assert run("call", enrolled.id, "open", *wait, "--sign", "ops.jwk", "--encrypt") == '"open"\n'
        made = run("signing", "push", enrolled.id, "--sign", "ops.jwk", "--data", '{"command": "open"}')
        Path("order.jws").write_text(made)
        sent = [run("push", enrolled.id, "--kind", "command", "--signed", "order.jws").strip() for _ in range(2)]
        assert booked(api, sent[0]) == "open"
        assert booked(api, sent[1])["refused"] == "replayed"
        revoke = ["--root", "root.jwk", "--version", "2", "--revoke", ops.key_id]
        Path("keys.jws").write_text(run("signing", "keys", "new.jwk", *revoke))
        adopted = run("push", enrolled.id, "--kind", "command", "--signed", "keys.jws").strip()
        assert booked(api, adopted)["key_set"]["version"] == 2
        assert "revoked" in run("call", enrolled.id, "open", *wait, "--sign", "ops.jwk", expect=1)
        assert run("call", enrolled.id, "open", *wait, "--sign", "new.jwk") == '"open"\n'
    assert len(lock.opened) == 4
