"""`kill -9` at the moments that hurt: after a 2xx, after SUBACK and PUBACK, inside a QoS 2 exchange, and at random.

What the server answered must be true for the process that starts after it: every accepted push reaches every device or
ends with its reason, the counts conserve (`Api.counts` checks that on every call), nothing acknowledged to a device is
forgotten, and no device is given a push again once its acknowledgement was in the ledger.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import ENDED_UNDELIVERED, Api, Device, Server, wait_for
from tests.end_to_end.wire_device import PUBREC, V4, V5, Disconnected, WireDevice

ARRIVED = ("delivered", "displayed", "dismissed", "opened", "acted")


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_kill_right_after_a_2xx_loses_nothing(start_server: StartServer, wire: Wire, full: int) -> None:
    """20 kills, 200 with --full, on two servers side by side because most of it is their starting."""
    servers = [start_server() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for strand in [pool.submit(kill_after_2xx, server, wire, 10 * full) for server in servers]:
            strand.result()


def kill_after_2xx(server: Server, wire: Wire, kills: int) -> None:
    """After a push, a batch, a push with an idempotency key, an enrolment, in turn."""
    api = server.api
    present, absent = api.enrol("present"), api.enrol("absent")
    both = {"devices": [present.id, absent.id]}
    device: WireDevice = wire(server, present).start(qos=2)
    accepted: list[str] = []
    recorded: set[str] = set()
    for number in range(kills):
        qos = 1 + number % 2
        step = number % 4
        enrolled: Device | None = None
        first: dict[str, Any] = {}
        if step == 0:
            new = [api.push(both, qos=qos)]
        elif step == 1:
            new = api.push_batch([{"target": both, "qos": qos, "data": n} for n in range(3)])
        elif step == 2:
            first = api.accept(both, key=f"round-{number}", qos=qos)
            new = [first["push_id"]]
        else:
            enrolled, new = api.enrol(f"device-{number}"), []
        server.kill9()
        accepted += new

        seen_before = len(device.received)
        server.start()
        # Nobody is connected now: what the ledger says is what it had recorded before the kill.
        for push_id in new:
            counts = api.counts(push_id)
            assert counts["targeted"] == 2
            recorded |= {push_id} if counts["delivered"] else set()
            # `sent`: of QoS 2, past PUBREC, which cannot be taken back.
            assert counts["waiting"] + counts["sent"] == 2 - counts["delivered"], counts
        if enrolled is not None:
            assert api.device(enrolled.id)["online"] is False
            assert not wire(server, enrolled).connect().session_present
        if first:
            assert api.accept(both, key=f"round-{number}", qos=qos) == first, "the twin of a push before the kill"
        assert device.connect().session_present
        for push_id in new:
            api.wait_counts(push_id, delivered=1, waiting=1)
        again = {publish.push_id for publish in device.received[seen_before:] if publish.fresh}
        assert not again & recorded, "given again after its acknowledgement was recorded"

    assert api.mailbox(absent.id) == accepted
    late: WireDevice = wire(server, absent).start(qos=2)
    late.wait_received(len(accepted))
    for push_id in accepted:
        api.wait_counts(push_id, delivered=2)
    assert sorted(late.push_ids()) == sorted(accepted), "each once"
    for qos in (1, 2):
        arrived = [publish.push_id for publish in late.received if publish.qos == qos]
        assert arrived == [push_id for push_id in accepted if push_id in set(arrived)]
    assert not any(publish.retain for publish in late.received + device.received)
    fresh = [publish.push_id for publish in device.received if publish.qos == 2 and publish.fresh]
    assert len(fresh) == len(set(fresh)), "QoS 2 is exactly once, across kills"
    assert set(device.push_ids()) == set(accepted)


def test_what_a_device_was_told_survives_a_kill_right_after(start_server: StartServer, wire: Wire, full: int) -> None:
    """A kill after each SUBACK, and after each PUBACK, PUBREC or PUBCOMP for what a device says."""
    server = start_server()
    api = server.api
    for number in range(full):
        version = (V4, V5)[number % 2]
        device = api.enrol(f"device-{number}")
        client: WireDevice = wire(server, device, version=version)
        assert not client.connect().session_present
        assert client.subscribe(qos=1) == 1
        server.restart()
        push_id = api.push(device.id)
        assert client.connect().session_present, "SUBACK promised this session"
        client.wait_push(push_id)
        api.wait_counts(push_id, delivered=1)

        assert client.receipt(push_id, "opened") == 0
        server.restart()
        assert api.only(push_id) == {"opened": 1}

        assert client.connect().session_present
        assert client.publish(client.leaf("uplink/door"), b"open") == 0
        server.restart()
        (uplink,) = api.items(f"/v1/devices/{device.id}/uplink")
        assert uplink["topic"].endswith("door")

        assert client.connect().session_present
        assert client.publish(client.leaf("report"), {"battery": 81}) == 0
        assert client.publish(client.leaf("settings"), {"consent": "granted", "channels": {"offers": False}}) == 0
        server.restart()
        assert api.device(device.id)["attributes"]["battery"] == 81

        # QoS 2 from the device: PUBREC means it is here, once, however often it is said again [MQTT-4.3.3-10].
        assert client.connect().session_present
        packet_id = client.send_publish(client.leaf("uplink/door"), b"shut", qos=2)
        assert client.wait_answer(PUBREC, packet_id) == 0
        server.restart()
        assert client.connect().session_present
        client.send_publish(client.leaf("uplink/door"), b"shut", qos=2, again=packet_id)
        assert client.wait_answer(PUBREC, packet_id) == 0
        client.release(packet_id)
        assert [item["topic"] for item in api.items(f"/v1/devices/{device.id}/uplink")] == [uplink["topic"]] * 2


def test_qos_2_is_exactly_once_when_killed_between_any_two_packets(start_server: StartServer, wire: Wire) -> None:
    server = start_server()
    api = server.api
    enrolled = api.enrol_many(["old", "new"])
    clients: list[WireDevice] = [
        wire(server, device, version=version).start(qos=2) for device, version in zip(enrolled, (V4, V5), strict=True)
    ]
    everybody = {"all": True}

    # PUBLISH arrived, PUBREC never left: the same identifier comes again, with DUP.
    for client in clients:
        client.answer = lambda publish: None
    first = api.push(everybody, qos=2)
    for client in clients:
        client.wait_push(first)
    server.restart()
    assert api.only(first) == {"waiting": 2}
    for client in clients:
        client.answer = lambda publish: 0
        assert client.connect().session_present
    api.wait_counts(first, delivered=2)
    for client in clients:
        one, two = client.received
        assert (one.packet_id, one.dup, one.fresh) == (two.packet_id, False, True)
        assert (two.dup, two.fresh) == (True, False)
        client.completing = False

    # PUBREC was taken (PUBREL came), PUBCOMP never left: PUBREL comes again, PUBLISH never.
    second = api.push(everybody, qos=2)
    for client in clients:
        client.wait_push(second)
        client.wait_released(2)
    server.restart()
    recall = api.call("DELETE", f"/v1/pushes/{second}", 200)
    assert recall["cancelled"] == 0, "past PUBREC it cannot be taken back"
    for client in clients:
        client.completing = True
        assert client.connect().session_present
        client.wait_released(3)
    api.wait_counts(second, delivered=2)
    assert all(client.push_ids().count(second) == 1 for client in clients)

    # PUBCOMP was sent: whether the server had read it or not, the device is given nothing again.
    third = api.push(everybody, qos=2)
    for client in clients:
        client.wait_push(third)
        client.wait_released(4)
    server.restart()
    assert all(client.connect().session_present for client in clients)
    api.wait_counts(third, delivered=2)
    last = api.push(everybody, qos=2)
    api.wait_counts(last, delivered=2)
    for client in clients:
        assert [publish.push_id for publish in client.received if publish.fresh] == [first, second, third, last]


def test_what_was_in_flight_is_judged_again_after_a_kill(start_server: StartServer, wire: Wire) -> None:
    """A connection that ends with the server ends like any other: recalled, over and superseded pushes end."""
    server = start_server()
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled).start()
    client.answer = lambda publish: None
    recalled = api.push(enrolled.id)
    superseded = api.push(enrolled.id, collapse_key="prices")
    over = api.push(enrolled.id, ttl=1)
    alive = api.push(enrolled.id)
    newer = api.push(enrolled.id, collapse_key="prices")
    client.wait_received(5)
    assert api.call("DELETE", f"/v1/pushes/{recalled}", 200) == {"cancelled": 0, "in_flight": 1, "too_late": 0}
    server.kill9()
    client.answer = lambda publish: 0
    server.start()
    api.wait_counts(over, expired=1)
    assert client.connect().session_present
    api.wait_counts(newer, delivered=1)
    api.wait_counts(alive, delivered=1)
    api.wait_counts(recalled, cancelled=1)
    api.wait_counts(superseded, superseded=1)
    assert client.push_ids(connection=2) == [alive, newer]


@pytest.mark.parametrize("killed", [False, True], ids=["same run", "killed"])
def test_an_identifier_that_a_device_still_holds_is_given_to_no_other_push(
    start_server: StartServer, wire: Wire, killed: bool
) -> None:
    """The device received a QoS 2 push, its PUBREC was lost, and the push is over when it returns. Until PUBREL comes,
    whatever arrives under that identifier is the old message to the device [MQTT-4.3.3-10], that is lost."""
    server = start_server()
    api = server.api
    enrolled = api.enrol("kiosk-1")
    client: WireDevice = wire(server, enrolled).start(qos=2)
    client.answer = lambda publish: None
    over = api.push(enrolled.id, qos=2, ttl=1)
    client.wait_push(over)
    client.drop()
    api.wait_counts(over, expired=1)
    client.answer = lambda publish: 0
    assert client.connect().session_present
    if killed:
        client.publish(client.leaf("uplink/here"), b"")  # its PUBACK says that everything before is stored as well
        server.restart()
        assert client.connect().session_present
    pushed = api.push_batch([{"target": {"device": enrolled.id}, "qos": 2} for _ in range(20)])
    for push_id in pushed:
        api.wait_counts(push_id, delivered=1)
    assert [publish.push_id for publish in client.received if publish.fresh and publish.push_id != over] == pushed


@pytest.mark.long
@pytest.mark.timeout(240)
def test_kills_at_random_moments_under_load(start_server: StartServer, wire: Wire, full: int) -> None:
    """2 kills, 20 with --full, while pushes of all sorts are sent and devices come and go and answer."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    load = Load(start_server(), wire, random.Random(seed))
    load.start()
    dice = random.Random(seed)
    for _ in range(2 * full):
        time.sleep(dice.uniform(0.3, 2.0))  # the moment of the kill is the experiment
        load.kill_and_restart()
    load.finish()
    load.judge()


class Load:
    """Pushes and devices around a server that is being killed, and the books that are kept of it from outside."""

    DEVICES = 12
    SENDERS = 2

    def __init__(self, server: Server, wire: Wire, dice: random.Random) -> None:
        self.server = server
        self.api = server.api
        enrolled = self.api.enrol_many([f"kiosk-{n}" for n in range(self.DEVICES)], tags=["hall"])
        self.devices: list[WireDevice] = [
            wire(server, device, version=(V4, V5)[n % 2]) for n, device in enumerate(enrolled)
        ]
        self.accepted: dict[str, dict[str, Any]] = {}
        """Push id -> the request, for every 202."""
        self.recalled: set[str] = set()
        """Pushes for which a recall was attempted: they may end cancelled."""
        self.receipts: set[tuple[str, str]] = set()
        """(device id, push id) of receipts that the server acknowledged."""
        self.recorded: dict[tuple[str, str], float] = {}
        """(device id, push id) -> when the ledger was first seen to have its acknowledgement."""
        self.faults: list[str] = []
        self._subscribed: set[str] = set()
        self._open = threading.Event()
        self._stopping = threading.Event()
        self._staying = threading.Event()
        self._resting = 0
        self._rest = threading.Condition()
        seeds = [dice.randrange(1 << 32) for _ in range(self.DEVICES + self.SENDERS)]
        self._threads = [
            threading.Thread(target=self._guard, args=(self._live, n, random.Random(seeds[n])), daemon=True)
            for n in range(self.DEVICES)
        ]
        self._senders = [
            threading.Thread(target=self._guard, args=(self._send, n, random.Random(seeds[-1 - n])), daemon=True)
            for n in range(self.SENDERS)
        ]

    def start(self) -> None:
        self._open.set()
        for thread in self._threads + self._senders:
            thread.start()

    def kill_and_restart(self) -> None:
        self._open.clear()
        self.server.kill9()
        with self._rest:
            everybody = len([thread for thread in self._threads + self._senders if thread.is_alive()])
            assert self._rest.wait_for(lambda: self._resting >= everybody, 20), "the load did not come to rest"
        self.server.start()
        self._note_recorded()
        self._open.set()

    def finish(self) -> None:
        """No more pushes; every device stays, and everything comes to its end."""
        self._staying.set()
        self._stopping.set()
        for thread in self._senders:
            thread.join(30)
        for push_id, request in self.accepted.items():
            wait_for(lambda: self._ended(push_id, request), timeout=60, what=f"{push_id} to end: {request}")  # noqa: B023
        self._note_recorded()
        self._staying.clear()
        for thread in self._threads:
            thread.join(30)

    def judge(self) -> None:
        assert not self.faults, self.faults[:5]
        assert len(self.accepted) > 20, "a load worth the name"
        arrivals: dict[tuple[str, str], list[Any]] = {}
        for device in self.devices:
            for publish in device.received:
                arrivals.setdefault((device.client_id, publish.push_id), []).append(publish)
                assert not publish.retain
                assert publish.qos <= self.accepted.get(publish.push_id, {"qos": 2})["qos"]
        for push_id, request in self.accepted.items():
            deliveries = self.api.deliveries(push_id)
            assert len(deliveries) == self.api.counts(push_id)["targeted"] == len(expected(request, self.devices))
            for device_id, delivery in deliveries.items():
                state, seen = delivery["state"], arrivals.get((device_id, push_id), [])
                told = f"{push_id} to {device_id} is {delivery}, arrived {len(seen)} times, was {request}"
                if state in ARRIVED:
                    assert seen, told
                elif state == "sent":
                    assert request["qos"] == 0, told
                else:
                    assert state in ENDED_UNDELIVERED, told
                    assert request["ttl"] < 60 or "collapse_key" in request or push_id in self.recalled, told
                if request["qos"] == 2 and device_id in self.qos_2_devices:
                    fresh = sum(publish.fresh for publish in seen)
                    assert fresh == 1 if state in ARRIVED else fresh <= 1, told
                if (device_id, push_id) in self.receipts:
                    assert state == "displayed", f"an acknowledged receipt was forgotten: {told}"
                after = self.recorded.get((device_id, push_id))
                if after is not None:
                    assert all(publish.at < after for publish in seen), f"again after its acknowledgement: {told}"

    @property
    def qos_2_devices(self) -> set[str]:
        return {device.client_id for device in self.devices[:4]}

    def _guard(self, work: Any, number: int, dice: random.Random) -> None:
        try:
            work(number, dice)
        except Exception as error:  # a thread's failure is the test's failure
            self.faults.append(f"{work.__name__} {number}: {error!r}")
            raise

    def _pause(self) -> None:
        """Wait here while the server is down."""
        with self._rest:
            self._resting += 1
            self._rest.notify_all()
        self._open.wait(60)
        with self._rest:
            self._resting -= 1

    def _live(self, number: int, dice: random.Random) -> None:
        """A device that comes, answers, and goes, with or without a word."""
        device, qos = self.devices[number], 2 if number < 4 else 1
        while self._staying.is_set() or not self._stopping.is_set():
            if not self._open.is_set():
                self._pause()
            try:
                self._visit(device, qos, dice)
            except (Disconnected, OSError):
                continue
        device.drop()

    def _visit(self, device: WireDevice, qos: int, dice: random.Random) -> None:
        staying = self._staying.is_set()
        silent, completing = dice.random() < 0.3, dice.random() < 0.7
        device.answer = lambda publish: None if silent and not staying else 0
        device.completing = completing or staying
        connack = device.connect()
        if device.client_id in self._subscribed and not connack.session_present:
            self.faults.append(f"{device.client_id} lost its session")
        if not connack.session_present:
            assert device.subscribe(qos=qos) == qos
            self._subscribed.add(device.client_id)
        until = time.monotonic() + dice.uniform(0.05, 0.8)
        while staying if self._staying.is_set() else time.monotonic() < until:
            if not device.connected:
                raise Disconnected(device.client_id)
            if device.received and not staying and dice.random() < 0.5:
                push_id = dice.choice(device.received).push_id
                if device.receipt(push_id, "displayed") == 0:
                    self.receipts.add((device.client_id, push_id))
            time.sleep(0.02)
        if dice.random() < 0.5:
            device.disconnect()
        else:
            device.drop()
        if not self._staying.is_set():
            self._staying.wait(dice.uniform(0, 0.6))  # away

    def _send(self, number: int, dice: random.Random) -> None:
        api = Api(self.server.url, self.server.admin_key)
        try:
            while not self._stopping.is_set():
                if not self._open.is_set():
                    self._pause()
                request = some_push(dice)
                try:
                    answer = api.request("POST", "/v1/pushes", json=request)
                    if answer.status_code == 202:
                        push_id = answer.json()["push_id"]
                        self.accepted[push_id] = request
                        if dice.random() < 0.05:
                            self.recalled.add(push_id)
                            api.request("DELETE", f"/v1/pushes/{push_id}")
                        elif dice.random() < 0.2:
                            api.counts(push_id)
                    else:
                        self.faults.append(f"{answer.status_code} {answer.text}")
                except httpx2.HTTPError:
                    continue  # killed before the answer: no promise was made
                time.sleep(0.01)
        finally:
            api.close()

    def _ended(self, push_id: str, request: dict[str, Any]) -> bool:
        counts = self.api.counts(push_id)
        return counts["waiting"] == 0 and (counts["sent"] == 0 or request["qos"] == 0)

    def _note_recorded(self) -> None:
        for push_id in list(self.accepted):
            for device_id, delivery in self.api.deliveries(push_id).items():
                if delivery["state"] in ARRIVED:
                    self.recorded.setdefault((device_id, push_id), time.monotonic())


def some_push(dice: random.Random) -> dict[str, Any]:
    targets: list[dict[str, Any]] = [
        {"device": f"kiosk-{dice.randrange(Load.DEVICES)}"},
        {"devices": [f"kiosk-{n}" for n in dice.sample(range(Load.DEVICES), 5)]},
        {"tag": "hall"},
        {"all": True},
    ]
    request: dict[str, Any] = {
        "target": dice.choice(targets),
        "qos": dice.choice((0, 1, 1, 1, 2, 2)),
        "ttl": dice.choice((0, 1, 3600, 3600, 3600, 3600)),
        "priority": dice.choice(("critical", "high", "normal", "low")),
        "data": dice.randrange(1000),
    }
    if dice.random() < 0.1:
        request["collapse_key"] = dice.choice("ab")
    return request


def expected(request: dict[str, Any], devices: list[WireDevice]) -> set[str]:
    target = request["target"]
    if "device" in target:
        return {target["device"]}
    return set(target["devices"]) if "devices" in target else {device.client_id for device in devices}
