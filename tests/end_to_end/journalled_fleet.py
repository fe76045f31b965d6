"""A fleet of thousands and its senders behind a balancer, and a judge of what both have seen.

Each device keeps a journal (`journalling_devices`); one in a hundred is paho's. Each sender keeps what was answered: it
sends a push again under its key until that is accepted, as senders are told to. Whatever dies meanwhile, a device
connects again by the same address, and a sender asks again there.

`judge` compares the journals with what the servers say (`/v1`) and with the rows of PostgreSQL, which it reads with SQL
and a decoder of sets of its own. It shares no code with the server. The packets are written by hand (`tests.wire`).

 1. A push that was accepted exists once for its key, for exactly its devices, and its counts conserve.
 2. Every device that a push was for has it (lost 0), and nobody else has.
 3. A delivery is booked as delivered if, and only if, its device's journal says that it arrived.
 4. First arrivals are in the order of acceptance, where that is known: a push that was asked for after the answer to
    another comes after it.
 5. Nothing comes again once its acknowledgement was seen in the ledger, nor on the connection on which it came. What
    comes again has DUP, or its device has lost a connection in between to a node that has ended or was cut off, and
    acknowledgements with it (`is_explained`): `push_id` is the guard then.
"""

from __future__ import annotations

import itertools
import random
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import psycopg

from tests.cluster import ServedConnections
from tests.end_to_end.harness import Api, wait_for
from tests.end_to_end.journalling_devices import Arrival, JournallingDevice, PahoDevices, SocketDevices
from tests.end_to_end.nodes_behind_balancer import Outage

SENDER_PAUSE_SECONDS = 0.02
EVERYBODY_SECONDS = 5.0
"""Between two pushes to all devices at least: they are not to be nearly all of the deliveries."""
SOME_DEVICES = 50
PAHO_SHARE = 100
"""One device of so many is paho's."""
CHECKED_REPORTS = 1_000
"""Pushes whose counts are asked of the API: the rows say it of all."""
_DELIVERED: Final = 10
"""As rows have it (gateway/README.md, the life of a delivery)."""
_ARRAY_VALUES: Final = 4_096
"""Most values of a container that are a list (RoaringFormatSpec)."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A push that was answered with 202, under its key."""

    devices: frozenset[str]
    asked_at: float
    answered_at: float


@dataclass(slots=True)
class Verdict:
    """What `judge` has found to be so, and measured."""

    pushes: int
    deliveries: int
    repeated: int
    """Arrivals after the first without DUP, each explained."""
    with_dup: int
    unavailable_s: float
    """The longest time in which no sender was answered."""
    away_s: float
    """The longest time from a fault, or the last packet of a connection, until its device was served again."""
    p99_s: float
    """From acceptance to arrival, at a device that was connected to its node all the time."""
    latest_s: float
    """From acceptance to arrival, at the device that waited longest."""

    def __str__(self) -> str:
        return (
            f"{self.pushes} pushes, {self.deliveries} deliveries, lost 0, again {self.with_dup} with DUP and "
            f"{self.repeated} explained; no answer for {self.unavailable_s:.1f} s, a device away for {self.away_s:.1f} "
            f"s, p99 {self.p99_s:.2f} s, latest {self.latest_s:.1f} s"
        )


class JournalledFleet:
    """Devices, and senders in threads; `start`, any faults, `finish`, `judge`."""

    def __init__(self, api: Api, mqtt_port: int, http_url: str, devices: int, senders: int = 4) -> None:
        """`api` enrols the devices, and is asked at the end. Devices connect to `mqtt_port`, senders ask `http_url`."""
        self._http_url = http_url
        self._key = api.key
        names = [f"kiosk-{number}" for number in range(devices)]
        self.devices: list[JournallingDevice] = []
        for first in range(0, devices, 1_000):
            enrolled = api.enrol_many(names[first : first + 1_000], tags=["hall"])
            self.devices += [JournallingDevice(device) for device in enrolled]
        self.accepted: dict[str, Accepted] = {}
        self.recorded: dict[tuple[str, str], float] = {}
        """(device, push) -> when its acknowledgement was first seen in the ledger."""
        self.faults: list[str] = []
        self._accepting = threading.Lock()
        self._answered_at = time.monotonic()
        self._unavailable_s = 0.0
        self._stopping = threading.Event()
        self._everybody_at = self._started_at = 0.0
        others = self.devices[::PAHO_SHARE]
        self._kinds = (
            PahoDevices(others, mqtt_port),
            SocketDevices([device for device in self.devices if device not in others], mqtt_port, self.faults),
        )
        self._senders = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(senders)]

    def start(self) -> None:
        """Connect everybody, then begin to send."""
        for kind in self._kinds:
            kind.start()
        self.wait_connected()
        self._answered_at = self._started_at = time.monotonic()
        for sender in self._senders:
            sender.start()

    def wait_connected(self) -> None:
        wait_for(lambda: all(device.connected for device in self.devices), timeout=120, what="all devices")

    def finish(self, database: str) -> None:
        """No more pushes; wait for what is under way, then let the devices go. Every node has to be there again."""
        self._stopping.set()
        for sender in self._senders:
            sender.join(120)
            assert not sender.is_alive(), "a sender is not answered"
        self.wait_connected()
        wait_for(lambda: self._wanted() <= self._arrived(), timeout=60, what="every push to arrive")
        with psycopg.connect(database, autocommit=True) as connection:
            wait_for(lambda: self._wanted() <= booked_in_rows(connection)[0], timeout=60, what="all to be booked")
        for kind in self._kinds:
            kind.leave()

    def note_recorded(self, api: Api, pushes: int = 20) -> None:
        """Remember which acknowledgements of the latest pushes to few devices the ledger has by now."""
        with self._accepting:
            latest = list(self.accepted.items())[-500:]
        few = [push_id for push_id, sent in latest if len(sent.devices) <= SOME_DEVICES]
        with suppress(AssertionError, httpx2.HTTPError):  # asked while nobody answers
            for push_id in few[-pushes:]:
                for device_id, delivery in api.deliveries(push_id).items():
                    if delivery["state"] == "delivered":
                        self.recorded.setdefault((device_id, push_id), time.monotonic())

    # -- senders

    def _send(self, sender: int) -> None:
        dice = random.Random(sender)
        for number in itertools.count():
            if self._stopping.is_set():
                return
            request, devices = self._some_push(dice)
            try:
                self._send_until_accepted(f"sender-{sender}-{number}", request, devices)
            except AssertionError as error:
                self.faults.append(str(error))
                return
            time.sleep(SENDER_PAUSE_SECONDS)

    def _some_push(self, dice: random.Random) -> tuple[dict[str, Any], frozenset[str]]:
        luck, now = dice.random(), time.monotonic()
        if luck < 0.02 and now - self._everybody_at > EVERYBODY_SECONDS:
            self._everybody_at = now
            chosen, target = self.devices, {"tag": "hall"}
        elif luck < 0.1:
            chosen = dice.sample(self.devices, min(SOME_DEVICES, len(self.devices)))
            target = {"devices": [device.id for device in chosen]}  # type: ignore[dict-item]  # one of several targets
        else:
            chosen = [dice.choice(self.devices)]
            target = {"device": chosen[0].id}
        return {"target": target, "data": dice.randrange(1_000)}, frozenset(device.id for device in chosen)

    def _send_until_accepted(self, key: str, request: dict[str, Any], devices: frozenset[str]) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Idempotency-Key": key}
        asked_at = time.monotonic()
        while True:
            try:
                answer = httpx2.post(f"{self._http_url}/v1/pushes", json=request, headers=headers, timeout=5)
            except httpx2.HTTPError:
                time.sleep(0.1)
                continue
            if answer.status_code in (429, 500, 502, 503, 504):  # the balancer's answers are among them
                time.sleep(0.1)
                continue
            assert answer.status_code == 202, f"{answer.status_code} {answer.text}"
            now = time.monotonic()
            self._unavailable_s = max(self._unavailable_s, now - self._answered_at)
            self._answered_at = now
            push_id = answer.json()["push_id"]
            with self._accepting:
                assert push_id not in self.accepted, f"{push_id} was answered under two keys"
                self.accepted[push_id] = Accepted(devices, asked_at, now)
            return

    # -- the judgement

    def judge(self, api: Api, database: str, served: ServedConnections, outages: Sequence[Outage]) -> Verdict:
        """`database`: the address of a PostgreSQL whose rows count. `served`: which node has had which connection."""
        assert not self.faults, self.faults[:5]
        arrived, wanted = self._arrived(), self._wanted()
        assert not wanted - arrived, f"lost: {sorted(wanted - arrived)[:5]} of {len(wanted - arrived)}"
        assert not arrived - wanted, f"nobody's: {sorted(arrived - wanted)[:5]} of {len(arrived - wanted)}"
        for push_id, sent in list(self.accepted.items())[:: len(self.accepted) // CHECKED_REPORTS + 1]:
            counts = api.counts(push_id)
            assert counts["targeted"] == counts["delivered"] == len(sent.devices), f"{push_id}: {counts}"
        with psycopg.connect(database) as connection:
            booked, keys, pushes = booked_in_rows(connection)
        assert booked == arrived, f"rows differ from journals: {sorted(booked ^ arrived)[:5]}"
        assert keys == len(self.accepted) == pushes, f"{keys} keys, {pushes} pushes, {len(self.accepted)} accepted"
        repeated = with_dup = 0
        for device in self.devices:
            self._judge_order(device)
            for arrival in device.journal:
                recorded_at = self.recorded.get((device.id, arrival.push_id))
                assert recorded_at is None or arrival.at < recorded_at, f"again after it was booked: {arrival}"
            for before, again in device.repeats():
                told = f"{device.id}: {before}, and {again}"
                assert before.connection != again.connection, f"again on one connection: {told}"
                assert again.dup or is_explained(device, before, again, served, outages), f"again without DUP: {told}"
                with_dup += again.dup
                repeated += not again.dup
        waits = sorted(self._waits())
        there = sorted(wait for wait, connected in waits if connected)
        p99 = there[len(there) * 99 // 100]
        away = max(self._absences([outage.since for outage in outages]), default=0.0)
        return Verdict(
            len(self.accepted), len(arrived), repeated, with_dup, self._unavailable_s, away, p99, waits[-1][0]
        )

    def _arrived(self) -> set[tuple[str, str]]:
        return {(arrival.push_id, device.id) for device in self.devices for arrival in list(device.journal)}

    def _wanted(self) -> set[tuple[str, str]]:
        return {(push_id, device_id) for push_id, sent in self.accepted.items() for device_id in sent.devices}

    def _waits(self) -> Iterator[tuple[float, bool]]:
        """From each acceptance to the first arrival, and whether the device was connected there before it was asked."""
        for device in self.devices:
            first = {arrival.push_id: arrival for arrival in reversed(device.journal)}
            for push_id, arrival in first.items():
                sent = self.accepted[push_id]
                connected = device.connections[arrival.connection].at < sent.asked_at
                yield max(arrival.at - sent.answered_at, 0.0), connected

    def _absences(self, faults: Sequence[float]) -> Iterator[float]:
        for device in self.devices:
            for since, until in device.absences:
                if since > self._started_at:
                    yield until - min((at for at in faults if since < at < until), default=since)

    def _judge_order(self, device: JournallingDevice) -> None:
        latest: Accepted | None = None
        seen: set[str] = set()
        for arrival in device.journal:
            if arrival.push_id in seen:
                continue
            seen.add(arrival.push_id)
            sent = self.accepted[arrival.push_id]
            assert latest is None or sent.answered_at >= latest.asked_at, f"{device.id}: {arrival} after a later push"
            latest = sent if latest is None or sent.asked_at > latest.asked_at else latest


def is_explained(
    device: JournallingDevice, before: Arrival, again: Arrival, served: ServedConnections, outages: Sequence[Outage]
) -> bool:
    """Whether a connection in between was ended by the end of its node, or when that was cut off: what was acknowledged
    there may not have been stored. (When the first came does not count: what a node sent may be read after its end.)"""
    ends = device.connections[before.connection + 1 : again.connection + 1]
    for connection, following in zip(device.connections[before.connection :], ends, strict=False):
        found, at_next = served.find(connection.port, connection.at), served.find(following.port, following.at)
        if found is not None:
            began, node = found
            next_at = at_next[0] if at_next else following.at
            if any(each.node == node and began < each.since < next_at for each in outages):
                return True
    return False


def booked_in_rows(connection: psycopg.Connection[Any]) -> tuple[set[tuple[str, str]], int, int]:
    """What the rows of PostgreSQL say: (push, device) of what is delivered, records under a key, pushes."""
    execute = connection.execute
    execute("SET search_path TO fleetpush")
    pushes = dict(execute("SELECT no, id FROM push WHERE app_no > 0").fetchall())
    devices = dict(execute("SELECT no, id FROM device").fetchall())
    in_row: dict[int, set[int]] = defaultdict(set)
    booked = set()
    for push_no, device_no, state in execute("SELECT push_no, device_no, state FROM delivery"):
        in_row[push_no].add(device_no)
        if state >= _DELIVERED and state < 20 and push_no in pushes:
            booked.add((pushes[push_no], devices[device_no]))
    for push_no, packed in execute("SELECT push_no, devices FROM outcome_set WHERE state = %s", (_DELIVERED,)):
        for device_no in decoded_set(packed):
            if device_no not in in_row[push_no]:
                booked.add((pushes[push_no], devices[device_no]))
    (keys,) = execute("SELECT count(*) FROM idempotency_record").fetchone() or (0,)
    return booked, keys, len(pushes)


def decoded_set(packed: bytes) -> Iterator[int]:
    """The numbers of a set in Roaring's portable format (github.com/RoaringBitmap/RoaringFormatSpec), 32 bits."""
    (cookie,) = struct.unpack_from("<I", packed)
    if cookie & 0xFFFF == 12_347:
        containers = (cookie >> 16) + 1
        run_bytes = (containers + 7) // 8
        runs = int.from_bytes(packed[4 : 4 + run_bytes], "little")
        place = 4 + run_bytes
    else:
        assert cookie == 12_346, f"no such cookie: {cookie}"
        (containers,) = struct.unpack_from("<I", packed, 4)
        runs, place = 0, 8
    heads = [struct.unpack_from("<HH", packed, place + 4 * number) for number in range(containers)]
    place += 4 * containers
    if not runs or containers >= 4:
        place += 4 * containers  # where each begins, which follows from the rest
    for number, (key, least) in enumerate(heads):
        high, count = key << 16, least + 1
        if runs >> number & 1:
            (length,) = struct.unpack_from("<H", packed, place)
            for run in range(length):
                start, further = struct.unpack_from("<HH", packed, place + 2 + 4 * run)
                yield from range(high + start, high + start + further + 1)
            place += 2 + 4 * length
        elif count <= _ARRAY_VALUES:
            yield from (high + value for value in struct.unpack_from(f"<{count}H", packed, place))
            place += 2 * count
        else:
            bits = int.from_bytes(packed[place : place + 8_192], "little")
            yield from (high + bit for bit in range(1 << 16) if bits >> bit & 1)
            place += 8_192
