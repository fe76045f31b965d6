"""`fleetpush demo`: the main job on real sockets, told as it happens, and checked at the end.

A real server process on free ports and a data directory of its own; three devices, each the reference client; a push to
one that is online, acted on; one to a device that is offline, across `kill -9` and a restart; one that expires. Every
promise is checked against what the server says and what the devices saw; the exit code is 0 only if all hold. Nothing
is left behind.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.cli.server_client import ServerClient
from gateway.cli.terminal import PROGRAM, Failure, describe_counts, draw_notification, fail, print_table

if TYPE_CHECKING:
    from client_sim.device import Device
    from client_sim.push import Push

STEP_SECONDS = 12.0
"""Time for what takes milliseconds, on a machine that is busy with other things."""
SHORT_TTL_SECONDS = 2

T = TypeVar("T")


class BrokenPromise(Exception):
    """A promise that the demo found broken."""


class Kiosk:
    """One device of the demo: what it was given, and what it saw."""

    def __init__(self, enrolled: dict[str, Any], folder: Path) -> None:
        self.device_id = str(enrolled["device_id"])
        self._token = str(enrolled["token"])
        self._port = int(enrolled["mqtt"]["port"])
        self._journal = folder / f"{self.device_id}.db"
        self._arrived: SimpleQueue[Push] = SimpleQueue()
        self.device: Device | None = None
        self.seen: list[str] = []

    def connect(self) -> None:
        from client_sim.backoff import Backoff
        from client_sim.device import Device

        self.device = Device(
            self.device_id,
            self._token,
            port=self._port,
            journal=self._journal,
            on_push=self._arrive,
            backoff=Backoff(base=0.1, cap=1.0),
        )
        self.device.actions["play"] = lambda push: {"played": push.notification.get("title")}
        self.device.start()
        if not self.device.wait_connected(STEP_SECONDS):
            raise BrokenPromise(f"{self.device_id} could not connect")

    def _arrive(self, push: Push) -> None:
        self.seen.append(push.push_id)
        self._arrived.put(push)

    def next_push(self) -> Push:
        try:
            return self._arrived.get(timeout=STEP_SECONDS)
        except Empty:
            raise BrokenPromise(f"no push reached {self.device_id} within {STEP_SECONDS:g} s") from None

    def close(self) -> None:
        if self.device is not None:
            self.device.close()


def print_text(text: str = "") -> None:
    print(text, flush=True)


def wait_for(what: str, found: Callable[[], T]) -> T:
    deadline = time.monotonic() + STEP_SECONDS
    while not (value := found()):
        if time.monotonic() > deadline:
            raise BrokenPromise(f"{what}: not within {STEP_SECONDS:g} s")
        time.sleep(0.05)
    return value


def promise_soon(what: str, found: Callable[[], object]) -> None:
    wait_for(what, found)
    promise(what, True)


def promise(what: str, kept: bool) -> None:
    print_text(f"   {'[kept]  ' if kept else '[BROKEN]'} {what}")
    if not kept:
        raise BrokenPromise(what)


class Demo:
    """The demo: a server of its own in a folder, and its kiosks."""

    def __init__(self, folder: Path) -> None:
        from client_sim.simulator.server_process import ServerProcess

        self._folder = folder
        self._server = ServerProcess(folder)
        self._kiosks: dict[str, Kiosk] = {}

    def run(self) -> None:
        from client_sim.simulator.server_process import ServerDidNotStart

        try:
            self._story()
        except ServerDidNotStart as error:
            fail(str(error))
        except (BrokenPromise, Failure) as error:
            print_text()
            if words := self._server.last_log_lines():
                print_text(f"The server's last words:\n{words}")
            fail(f"the demo broke a promise: {error}")
        finally:
            for kiosk in self._kiosks.values():
                kiosk.close()
            self._server.kill()

    def _client(self) -> ServerClient:
        return ServerClient(self._server.url, self._server.key)

    def _story(self) -> None:
        began = time.monotonic()
        print_text("Fleetpush demo: a real server, three devices, one kill -9.")
        print_text()
        seconds = self._server.start()
        print_text(f"1. The server is ready after {seconds:.1f} s: HTTP on port {self._server.http_port}, MQTT on port "
            f"{self._server.mqtt_port} (process {self._server.pid}).")  # fmt: skip
        with self._client() as client:
            for device_id in ("kiosk-1", "kiosk-2", "kiosk-3"):
                self._kiosks[device_id] = Kiosk(
                    client.call("POST", "/v1/devices", json={"device_id": device_id}), self._folder
                )
            print_text("2. kiosk-1, kiosk-2 and kiosk-3 are enrolled, each with a token of its own.")
            played = self._push_online(client)
            waiting, brief = self._push_offline(client)
        self._kill_and_restart()
        with self._client() as client:
            self._bring_back(client, waiting)
            self._let_expire(client, brief)
            self._ledger(client, {"kiosk-1": played, "kiosk-2": waiting, "kiosk-3": brief})
        promise("the server ends cleanly when told to", self._server.stop() == 0)
        print_text()
        print_text(f"All as promised, in {time.monotonic() - began:.0f} s. Now yours, in three terminals:")
        print_text()
        for command in ("serve", "listen kiosk-1", "push kiosk-1 'Hello' --action play"):
            print_text(f"   {PROGRAM} {command}")

    def _push_online(self, client: ServerClient) -> str:
        kiosk = self._kiosks["kiosk-1"]
        kiosk.connect()
        assert kiosk.device is not None, "connected"
        print_text("3. kiosk-1 is online. A push with an action, as the person in front of it sees it:")
        print_text()
        notification = {
            "title": "Film tonight",
            "body": "The trailer is ready in the foyer.",
            "actions": [{"id": "play", "title": "Play"}, {"id": "later", "title": "Later"}],
        }
        sent = client.post_once(
            {"target": {"device": "kiosk-1"}, "notification": notification, "priority": "high"}, None
        )
        push = kiosk.next_push()
        draw_notification("kiosk-1", push.message)
        kiosk.device.displayed(push)
        print_text("   The person presses Play:")
        result = kiosk.device.act(push, "play")
        push_id = str(sent["push_id"])
        promise(f"the action was executed: {result}", result == {"played": "Film tonight"})
        promise_soon("the ledger says acted", lambda: counts(client, push_id)["acted"] == 1)
        return push_id

    def _push_offline(self, client: ServerClient) -> tuple[str, str]:
        print_text("4. kiosk-2 and kiosk-3 are offline. One push each; the second may live for two seconds only.")
        hello = {"title": "Opening hours", "body": "From Monday we open at eight."}
        waiting = client.post_once({"target": {"device": "kiosk-2"}, "notification": hello, "ttl": 3600}, None)
        late = {"title": "Tram in two minutes"}
        brief = client.post_once(
            {"target": {"device": "kiosk-3"}, "notification": late, "ttl": SHORT_TTL_SECONDS}, None
        )
        promise("both are accepted, that is: on disk", waiting["targeted"] == brief["targeted"] == 1)
        return str(waiting["push_id"]), str(brief["push_id"])

    def _kill_and_restart(self) -> None:
        pid = self._server.pid
        self._server.kill()
        print_text(f"5. The server was killed: kill -9 {pid}, right after its last answer.")
        seconds = self._server.start()
        print_text(f"   Restarted on the same data, ready after {seconds:.1f} s.")
        kiosk = self._kiosks["kiosk-1"]
        assert kiosk.device is not None, "connected before"
        device = kiosk.device
        promise_soon("kiosk-1 came back by itself", lambda: device.connected)

    def _bring_back(self, client: ServerClient, waiting: str) -> None:
        kiosk = self._kiosks["kiosk-2"]
        kiosk.connect()
        assert kiosk.device is not None, "connected"
        print_text("6. kiosk-2 connects for the first time:")
        print_text()
        push = kiosk.next_push()
        draw_notification("kiosk-2", push.message)
        kiosk.device.displayed(push)
        promise("it got the push that was accepted before the crash", push.push_id == waiting)
        promise_soon("the ledger says delivered and displayed", lambda: counts(client, waiting)["displayed"] == 1)

    def _let_expire(self, client: ServerClient, brief: str) -> None:
        print_text("7. kiosk-3 stays away longer than its push may live.")
        promise_soon("its push is booked expired, with the reason", lambda: counts(client, brief)["expired"] == 1)
        kiosk = self._kiosks["kiosk-3"]
        kiosk.connect()
        # What arrives first decides whether the expired one was held back.
        print_text("   A later push goes to the same topic, data only: nothing may come before it.")
        after = client.post_once({"target": {"device": "kiosk-3"}, "kind": "silent", "data": "are you there?"}, None)
        promise("kiosk-3, back too late, is not given it", kiosk.next_push().push_id == after["push_id"])
        wait_for("the later push is delivered", lambda: counts(client, str(after["push_id"]))["delivered"] == 1)

    def _ledger(self, client: ServerClient, pushes: dict[str, str]) -> None:
        print_text("8. The ledger:")
        print_text()
        rows, sums_hold = [], True
        for push in reversed(list(client.items("/v1/pushes"))):
            numbers = push["counts"]
            sums_hold &= sum(n for state, n in numbers.items() if state != "targeted") == numbers["targeted"]
            for delivery in client.items(f"/v1/pushes/{push['push_id']}/deliveries"):
                title = push.get("notification", {}).get("title", "(data only)")
                columns = (
                    title,
                    delivery["device_id"],
                    delivery["state"],
                    delivery["reason"],
                    describe_counts(numbers),
                )
                rows.append(columns)
        print_table(("push", "device", "state", "reason", "counts"), rows, "no pushes", aligned=True)
        print_text()
        promise("every push is accounted for, to the last delivery", sums_hold and len(rows) == len(pushes) + 1)
        ends = {
            device_id: client.call("GET", f"/v1/pushes/{push_id}")["counts"] for device_id, push_id in pushes.items()
        }
        reached = (ends["kiosk-1"]["acted"], ends["kiosk-2"]["displayed"], ends["kiosk-3"]["expired"])
        promise("kiosk-1 acted, kiosk-2 displayed, kiosk-3's expired with its reason", reached == (1, 1, 1))
        once = all(len(kiosk.seen) == len(set(kiosk.seen)) for kiosk in self._kiosks.values())
        promise("no device saw a push twice", once)


def counts(client: ServerClient, push_id: str) -> dict[str, int]:
    found: dict[str, int] = client.call("GET", f"/v1/pushes/{push_id}")["counts"]
    return found


def run() -> None:
    with tempfile.TemporaryDirectory(prefix="fleetpush-demo-", ignore_cleanup_errors=True) as folder:
        Demo(Path(folder)).run()
