"""An upgrade as a test of every package has it: the old server is replaced while its fleet and a sender are busy.

Most devices are connected, others are away with pushes waiting, and a program sends all the time. Afterwards everything
that was accepted has arrived where it was to, and no session was forgotten.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

from tests.deploy.paho_fleet import PahoFleet
from tests.end_to_end.harness import Api, wait_for

CONNECTED_DEVICES = 500
AWAY_DEVICES = 50
ROWS = 25
"""Of devices; the sender pushes to one row after the other."""
SENDS_PER_SECOND = 10
LONGEST_ABSENCE_SECONDS = 30.0
"""Much more than a device is away (the output says how long that was): the machine is busy with all of them."""


class Sender:
    """A program that sends while the server is upgraded: as the documents say, with a key, and again after a failure.
    A context; `accepted` has each push and the row that it went to."""

    def __init__(self, url: str, key: str, trust: ssl.SSLContext | bool) -> None:
        self.accepted: dict[str, int] = {}
        self.failures = 0
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx2.Client(base_url=url, headers=headers, trust_env=False, verify=trust)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        for number in itertools.count():
            body = {"target": {"tag": f"row-{number % ROWS}"}, "data": number}
            while not self._send(number, body):
                self.failures += 1
                time.sleep(1 / SENDS_PER_SECOND)
            if self._ending.wait(1 / SENDS_PER_SECOND):
                return

    def _send(self, number: int, body: dict[str, object]) -> bool:
        try:
            answer = self._client.post("/v1/pushes", json=body, headers={"Idempotency-Key": str(number)})
        except httpx2.TransportError:
            return False
        if answer.status_code == 503:
            return False
        assert answer.status_code == 202, answer.text
        self.accepted[answer.json()["push_id"]] = number % ROWS
        return True


class Drill:
    """The fleet of one server, which has just been started for the first time; `upgrade` replaces that."""

    def __init__(self, url: str, key: str, mqtt_port: int, ca: Path | None = None) -> None:
        """`ca` vouches for the server, if it speaks TLS."""
        self.url = url
        self.key = key
        self.mqtt_port = mqtt_port
        self.ca = ca
        self._trust: ssl.SSLContext | bool = False if ca is None else ssl.create_default_context(cafile=ca)

    def version(self) -> str:
        """The version that the server names in its metrics."""
        text = httpx2.get(f"{self.url}/metrics", trust_env=False, verify=self._trust).text
        (line,) = (line for line in text.splitlines() if line.startswith("fleetpush_build_info{"))
        return line.partition('version="')[2].partition('"')[0]

    def upgrade(self, replace: Callable[[], None]) -> None:
        """Check that nothing is lost while `replace` ends the old server and starts a newer one."""
        names = [f"sign-{number}" for number in range(CONNECTED_DEVICES + AWAY_DEVICES)]
        rows = [names[row::ROWS] for row in range(ROWS)]
        api = Api(self.url, self.key, self.ca)
        try:
            many = (api.enrol_many(ids, tags=[f"row-{row}", "signs"]) for row, ids in enumerate(rows))
            enrolled = {device.id: device for devices in many for device in devices}
            present = PahoFleet([enrolled[name] for name in names[:CONNECTED_DEVICES]], self.mqtt_port, self.ca)
            late = PahoFleet([enrolled[name] for name in names[CONNECTED_DEVICES:]], self.mqtt_port, self.ca)
            with present:
                wait_for(lambda: present.connected == CONNECTED_DEVICES, timeout=120, what="the fleet to connect")
                first = api.push({"tag": "signs"}, data="first")
                wait_for(lambda: api.counts(first)["delivered"] == CONNECTED_DEVICES, timeout=60, what="the first push")
                sender = self._send_meanwhile(replace)
                wait_for(lambda: present.connected == CONNECTED_DEVICES, timeout=120, what="the fleet to come back")
                with late:
                    pushes = {first: names, **{push_id: rows[row] for push_id, row in sender.accepted.items()}}
                    for push_id, targeted in pushes.items():
                        api.wait_counts(push_id, timeout=120, delivered=len(targeted))
        finally:
            api.close()
        devices = {**present.devices, **late.devices}
        for name in names:
            wanted = {push_id for push_id, targeted in pushes.items() if name in targeted}
            assert set(devices[name].push_ids) == wanted
        absence = max(device.longest_absence for device in present.devices.values())
        print(
            f"upgrade: {len(pushes)} pushes, {sum(map(len, pushes.values()))} deliveries, all delivered; a device was "
            f"away for {absence:.1f} s at most, and {sender.failures} requests were tried again"
        )
        assert 0 < absence < LONGEST_ABSENCE_SECONDS
        assert [device.id for device in present.devices.values() if device.sessions_lost] == []

    def _send_meanwhile(self, replace: Callable[[], None]) -> Sender:
        with Sender(self.url, self.key, self._trust) as sender:
            wait_for(lambda: len(sender.accepted) >= ROWS, timeout=60, what="pushes before the upgrade")
            replace()
            before = len(sender.accepted)
            wait_for(lambda: len(sender.accepted) >= before + ROWS, timeout=60, what="pushes after the upgrade")
        return sender


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def answers(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
