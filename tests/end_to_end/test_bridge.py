"""`fleetpush bridge` between the real server and the brokers of others: Mosquitto, and amqtt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from client_sim.device import Device
from client_sim.push import Push
from client_sim.signatures import SigningKey
from client_sim.trust import TrustedKeys
from tests.benchmarks.tools import amqtt
from tests.certificates import Authority
from tests.end_to_end.conftest import Name, StartServer
from tests.end_to_end.harness import Server, clean_environment, fleetpush, wait_for
from tests.end_to_end.mosquitto_broker import PASSWORD, USERNAME, MosquittoBroker, Onlooker
from tests.end_to_end.warm_start import WarmProcess

STATUS = "fleetpush/status"


class BridgeProcess:
    """`fleetpush bridge` as a process, which remembers in `folder`."""

    def __init__(self, server: Server, folder: Path, *options: str) -> None:
        self._arguments = ["bridge", "--refresh", "1s", "--discovery", "homeassistant", *options]
        self._folder = folder
        key = server.api.call("POST", "/v1/keys", 201, json={"name": "bridge", "scopes": ["read", "send"]})
        self.environment = clean_environment(
            FLEETPUSH_URL=server.url,
            FLEETPUSH_KEY=key["key"],
            FLEETPUSH_BRIDGE_PASSWORD=PASSWORD,
            XDG_STATE_HOME=str(folder),
        )
        self._errors = folder / "bridge.stderr"
        self._output = ""
        self._process: WarmProcess

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    def start(self) -> Self:
        """Start it, and wait until it is ready."""
        assert self.launch().wait(30), self.errors
        assert self._process.poll() is None, self.errors
        return self

    def launch(self) -> threading.Event:
        """Start it; the event is set when it is ready, or has ended."""
        with self._errors.open("ab") as errors:
            self._process = WarmProcess(self._arguments, errors.fileno(), self.environment, self._folder)
        ready = threading.Event()
        threading.Thread(target=self._read, args=(self._process, ready), daemon=True).start()
        return ready

    def end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        return self._process.wait(15)

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def wait_said(self, text: str) -> None:
        wait_for(lambda: text in self.errors, what=f"{text!r} in {self.errors}")

    def _read(self, process: WarmProcess, ready: threading.Event) -> None:
        with process.stdout:
            for line in process.stdout:
                if line.startswith("bridge ready"):
                    ready.set()
        ready.set()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def onlooker(broker: MosquittoBroker) -> Iterator[Onlooker]:
    with Onlooker(broker.port) as onlooker:
        yield onlooker


def address(broker: MosquittoBroker) -> tuple[str, str]:
    return "--to", f"mqtt://{USERNAME}@127.0.0.1:{broker.port}"


def device_of(server: Server, enrolled: Any) -> Device:
    return Device(enrolled.id, enrolled.token, port=server.mqtt_port)


def config_topic(device_id: str) -> str:
    return f"homeassistant/device/fleetpush_{device_id}/config"


def test_a_device_is_announced_obeys_buttons_and_is_cleared(
    server: Server, name: Name, tmp_path: Path, broker: MosquittoBroker, onlooker: Onlooker
) -> None:
    api, kiosk, other = server.api, server.api.enrol(name(), tags=["bridged"]), server.api.enrol(name())
    topics = f"fleetpush/devices/{kiosk.id}"
    obeyed: list[Any] = []
    device = device_of(server, kiosk)

    @device.command("reboot")
    def reboot(push: Push) -> dict[str, int]:
        obeyed.append(push.data)
        return {"uptime": 0}

    device.commands["wipe"] = obeyed.append
    options = ("--tag", "bridged", "--notify", "--command", "reboot")
    with BridgeProcess(server, tmp_path, *address(broker), *options) as bridge:
        before = onlooker.retained()
        assert before[STATUS] == "online"
        assert before[f"{topics}/connectivity"] == "offline"
        assert not [topic for topic in before if other.id in topic]
        with device:
            device.report({"battery": 81, "version": "2.3", "commands": [*device.commands]})
            onlooker.wait_retained(f"{topics}/connectivity", "online")
            onlooker.wait_retained(f"{topics}/attributes", '{"battery":81,"version":"2.3"}')
            told = wait_for(lambda: onlooker.json(config_topic(kiosk.id)), what="an announcement")
            assert {*told["cmps"]} == {"connectivity", "battery", "version", "result", "notify", "command_reboot"}
            onlooker.publish(told["cmps"]["command_reboot"]["command_topic"], '{"delay": 1}')
            result = onlooker.wait_result(kiosk.id, "acted")
            assert (result["command"], result["result"]) == ("reboot", {"uptime": 0})
            assert obeyed == [{"delay": 1, "command": "reboot"}]
            assert api.delivery(result["push_id"])["state"] == "acted", "it is in the ledger"

            for topic, payload in (
                (f"{topics}/command/wipe", "PRESS"),
                (f"{topics}/command/reboot", b"\xff{"),
                (f"fleetpush/devices/{other.id}/command/reboot", "PRESS"),
                ("fleetpush/devices/~/notify", "Hi"),
            ):
                onlooker.publish(topic, payload)
            bridge.wait_said("not_allowed")
            bridge.wait_said("unusable")
            assert len(obeyed) == 1
            onlooker.publish(told["cmps"]["notify"]["command_topic"], '{"title": "Door", "body": "Open?"}')
            push_id = onlooker.wait_result(kiosk.id, "delivered")["push_id"]
            assert api.only(push_id) == {"delivered": 1}
        onlooker.wait_retained(f"{topics}/connectivity", "offline")
        api.call("DELETE", f"/v1/devices/{kiosk.id}", 204)
        wait_for(lambda: not [topic for topic in onlooker.retained() if kiosk.id in topic], what="its topics to go")
        assert bridge.end(signal.SIGTERM) == 0
        assert onlooker.retained()[STATUS] == "offline"


def test_a_restart_of_the_bridge_carries_nothing_out_twice_and_owes_no_outcome(
    server: Server, name: Name, tmp_path: Path, broker: MosquittoBroker, onlooker: Onlooker
) -> None:
    api = server.api
    fields: dict[str, Any] = {"tags": ["restart"], "attributes": {"commands": ["reboot"]}}
    kiosk, sign, removed = (api.enrol(name(), **fields) for _ in range(3))
    topics = f"fleetpush/devices/{kiosk.id}"
    options = ("--tag", "restart", "--notify", "--command", "reboot")
    bridge = BridgeProcess(server, tmp_path, *address(broker), *options)
    with bridge:
        onlooker.publish(f"fleetpush/devices/{sign.id}/notify", "While you were out")
        owed = onlooker.wait_result(sign.id, "accepted")["push_id"]
        state = tmp_path / "fleetpush" / "bridge" / f"127.0.0.1-{server.http_port}" / "fleetpush.json"
        wait_for(lambda: state.exists() and owed in state.read_text(), what="the push to be remembered")
        bridge.end(signal.SIGKILL)
    onlooker.wait_retained(STATUS, "offline")  # its will
    api.call("DELETE", f"/v1/devices/{removed.id}", 204)
    onlooker.publish(f"{topics}/command/reboot", retain=True)
    onlooker.publish(f"{topics}/command/reboot")
    done: list[str] = []
    with device_of(server, sign):
        api.wait_counts(owed, delivered=1)
    with device_of(server, kiosk) as device:
        device.commands["reboot"] = lambda push: done.append(push.push_id)
        with bridge:
            onlooker.wait_retained(STATUS, "online")
            bridge.wait_said("retained")
            assert onlooker.wait_result(sign.id, "delivered")["push_id"] == owed
            assert onlooker.retained().get(config_topic(removed.id)) is None
            wait_for(
                lambda: not [topic for topic in onlooker.retained() if removed.id in topic],
                what="orphans to be cleared",
            )
            onlooker.publish(f"{topics}/command/reboot", b"", retain=True)  # takes it away, and is no order itself
            onlooker.publish(f"{topics}/command/reboot")
            onlooker.wait_result(kiosk.id, "acted")
            assert len(done) == 1, "neither the retained one nor the one that came while it was away"
            second = BridgeProcess(server, tmp_path, *address(broker), *options)
            second.launch().wait(30)
            assert second.end(signal.SIGKILL) == 1
            assert "another bridge uses" in second.errors


@pytest.mark.full_only  # ten seconds: the restart of the bridge always runs
def test_both_sides_may_go_and_come_back(
    start_server: StartServer, tmp_path: Path, broker: MosquittoBroker, onlooker: Onlooker
) -> None:
    server = start_server()
    kiosk = server.api.enrol("kiosk-1")
    with BridgeProcess(server, tmp_path, *address(broker), "--device", "kiosk-1", "--notify") as bridge:
        before = onlooker.retained()
        broker.kill9()
        broker.start()
        with Onlooker(broker.port) as again:
            wait_for(lambda: again.retained() == before, what="everything to be there again")
            server.kill9()
            again.wait_retained(STATUS, "offline")
            again.publish("fleetpush/devices/kiosk-1/notify", "Anybody there?")
            assert "no answer" in again.wait_result("kiosk-1", "failed")["reason"]
            server.start()
            again.wait_retained(STATUS, "online")
            with device_of(server, kiosk):
                again.wait_retained("fleetpush/devices/kiosk-1/connectivity", "online")
                again.publish("fleetpush/devices/kiosk-1/notify", "And now?")
                again.wait_result("kiosk-1", "delivered")
        assert bridge.errors.count("No connection to the broker") == 1
        assert bridge.errors.count("No answer of the server") == 1


def test_tls_a_wrong_password_and_the_end_of_a_bridge(server: Server, name: Name, tmp_path: Path) -> None:
    authority = Authority.in_folder(tmp_path / "ca")
    kiosk = server.api.enrol(name())
    with MosquittoBroker(tmp_path / "mosquitto", authority.issue("broker", "localhost")) as broker:
        to = ["--to", f"mqtts://{USERNAME}@localhost:{broker.port}", "--ca", str(authority.certificate)]
        options = ["--device", kiosk.id]
        with BridgeProcess(server, tmp_path, *to, *options) as bridge:
            environment = bridge.environment
            assert bridge.end(signal.SIGINT) == 0
            assert "without TLS" not in bridge.errors
        clear = ["bridge", *to, "--discovery", "homeassistant", "--clear"]
        cleared = fleetpush(*clear, env=environment)
        assert cleared.returncode == 0, cleared.stderr
        for broker_options, password, why in (
            (to[:2], PASSWORD, "certificate verify failed"),
            (to, "wrong", "refuses the bridge: Not authorized"),
        ):
            bridge = BridgeProcess(server, tmp_path, *broker_options, *options)
            bridge.environment["FLEETPUSH_BRIDGE_PASSWORD"] = password
            bridge.launch()
            bridge.wait_said(why)
            assert bridge.end(signal.SIGTERM) == 0, "it goes on trying until it is ended"


def test_amqtt_is_a_broker_like_any_other_and_commands_are_signed(server: Server, name: Name, tmp_path: Path) -> None:
    key = SigningKey.new()
    key.write(tmp_path / "bridge.jwk")
    signed = ("--sign", str(tmp_path / "bridge.jwk"))
    kiosk = server.api.enrol(name(), attributes={"commands": ["reboot"], "battery": 7})
    trusted = TrustedKeys([key.public])
    journal = tmp_path / "kiosk.db"
    device = Device(kiosk.id, kiosk.token, port=server.mqtt_port, journal=journal, trusted_keys=trusted)
    with amqtt() as (port, _), device:
        device.commands["reboot"] = lambda push: "done"
        options = ("--to", f"mqtt://127.0.0.1:{port}", "--device", kiosk.id, "--command", "*", *signed)
        bridge = BridgeProcess(server, tmp_path, *options)
        del bridge.environment["FLEETPUSH_BRIDGE_PASSWORD"]
        with bridge, Onlooker(port, None) as onlooker:
            assert "command_reboot" in onlooker.json(config_topic(kiosk.id))["cmps"]
            onlooker.wait_retained(f"fleetpush/devices/{kiosk.id}/connectivity", "online")
            onlooker.publish(f"fleetpush/devices/{kiosk.id}/command/reboot")
            assert onlooker.wait_result(kiosk.id, "acted")["result"] == "done"
