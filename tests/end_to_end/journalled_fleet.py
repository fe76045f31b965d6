"""A fleet of thousands and its senders behind a balancer, and a judge of what both have seen.

Each device keeps a journal: every PUBLISH that arrived, on which connection, with or without DUP, and whether its
acknowledgement was written. Each sender keeps what was answered: it sends a push again under its key until that is
accepted, as senders are told to. Whatever dies meanwhile, a device connects again by the same address, and a sender
asks again there.

`judge` compares the journals with what the servers say (`/v1`) and with the rows of PostgreSQL, which it reads with SQL
and a decoder of sets of its own. It shares no code with the server. The packets are written by hand (`tests.wire`).

 1. A push that was accepted exists once for its key, for exactly its devices, and its counts conserve.
 2. Every device that a push was for has it (lost 0), and nobody else has.
 3. A delivery is booked as delivered if, and only if, its device's journal says that it arrived.
 4. First arrivals are in the order of acceptance, where that is known: a push that was asked for after the answer to
    another comes after it.
 5. Nothing comes again once its acknowledgement was seen in the ledger. What comes again without DUP, because a server
    did not live to store the acknowledgement, is counted (`repeated`): MQTT allows it, and `push_id` is the guard.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import psycopg

from tests.end_to_end.harness import Api, Device, wait_for
from tests.wire import DISCONNECT, PINGREQ, connect, puback, subscribe

HOST = "127.0.0.1"
PING_SECONDS = 3.0
"""Between two signs of life: a connection that is silent for twice as long is given up."""
CONNECT_SECONDS = 5.0
SENDER_PAUSE_SECONDS = 0.02
SOME_DEVICES = 50
_DELIVERED: Final = 10
"""As rows have it (gateway/README.md, the life of a delivery)."""
_ARRAY_VALUES: Final = 4_096
"""Most values of a container that are a list (RoaringFormatSpec)."""


@dataclass(frozen=True, slots=True)
class Arrival:
    push_id: str
    at: float
    dup: bool
    connection: int


@dataclass(slots=True)
class JournallingDevice:
    """A device of the contract, with QoS 1."""

    enrolled: Device
    journal: list[Arrival] = field(default_factory=list)
    connections: int = 0
    connected: bool = False

    @property
    def id(self) -> str:
        return self.enrolled.id


@dataclass(frozen=True, slots=True)
class Accepted:
    """A push that was answered with 202, under its key."""

    devices: frozenset[str]
    asked_at: float
    answered_at: float


@dataclass(slots=True)
class Verdict:
    """What `judge` has found to be so, and counted."""

    pushes: int
    deliveries: int
    repeated: int
    """Arrivals after the first without DUP."""
    with_dup: int
    unavailable_s: float
    """The longest time in which no sender was answered."""


class JournalledFleet:
    """Devices in a loop of a thread of its own, and senders in threads; `start`, any faults, `finish`, `judge`."""

    def __init__(self, api: Api, mqtt_port: int, http_url: str, devices: int, senders: int = 4) -> None:
        """`api` enrols the devices, and is asked at the end. Devices connect to `mqtt_port`, senders ask `http_url`."""
        self._mqtt_port = mqtt_port
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
        self._leaving = threading.Event()
        self._loop_thread = threading.Thread(target=lambda: asyncio.run(self._live_all()), daemon=True)
        self._senders = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(senders)]

    def start(self) -> None:
        """Connect everybody, then begin to send."""
        self._loop_thread.start()
        self.wait_connected()
        self._answered_at = time.monotonic()
        for sender in self._senders:
            sender.start()

    def wait_connected(self) -> None:
        wait_for(lambda: all(device.connected for device in self.devices), timeout=120, what="all devices")

    def finish(self, api: Api) -> None:
        """No more pushes; wait for what is under way, then let the devices go. Every node has to be there again."""
        self._stopping.set()
        for sender in self._senders:
            sender.join(120)
            assert not sender.is_alive(), "a sender is not answered"
        self.wait_connected()
        for push_id, sent in self.accepted.items():
            wait_for(
                lambda: api.counts(push_id)["delivered"] == len(sent.devices),  # noqa: B023
                timeout=60,
                what=f"{push_id} to be delivered to {len(sent.devices)}",
            )
        self._leaving.set()
        self._loop_thread.join(30)

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

    # -- devices

    async def _live_all(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None), asyncio.TaskGroup() as lives:
                for device in self.devices:
                    lives.create_task(self._live(device))

    async def _live(self, device: JournallingDevice) -> None:
        while not self._leaving.is_set():
            try:
                await self._connection(device)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                pass
            except Exception as error:  # a device's failure is the run's failure
                self.faults.append(f"{device.id}: {error!r}")
                return
            device.connected = False
            await asyncio.sleep(random.uniform(0.05, 0.5))

    async def _connection(self, device: JournallingDevice) -> None:
        """Connect, subscribe if there is no session, and acknowledge until the connection ends."""
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, self._mqtt_port)
        try:
            name = device.enrolled.client_id
            writer.write(connect(name, clean=False, username=name, password=device.enrolled.token))
            async with asyncio.timeout(CONNECT_SECONDS):
                first, body = await _read_packet(reader)
                if first != 0x20 or body[1] == 3:  # nobody can be looked up at the moment
                    return
                assert body[1] == 0, f"refused with {body[1]}"
                if not body[0]:
                    writer.write(subscribe(1, (device.enrolled.topics["push"], 1)))
            device.connections += 1
            device.connected = True
            await self._acknowledge_all(device, reader, writer)
        finally:
            writer.close()

    async def _acknowledge_all(
        self, device: JournallingDevice, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        silent = 0
        reading = asyncio.ensure_future(_read_packet(reader))
        try:
            while not self._leaving.is_set():
                done, _ = await asyncio.wait([reading], timeout=PING_SECONDS)
                if not done:
                    silent += 1
                    if silent > 2:
                        return
                    writer.write(PINGREQ)
                    continue
                silent = 0
                first, body = reading.result()
                reading = asyncio.ensure_future(_read_packet(reader))
                if first >> 4 == 3:
                    device.journal.append(_arrival(first, body, device.connections))
                    (packet_id,) = struct.unpack_from(">H", body, 2 + int.from_bytes(body[:2], "big"))
                    writer.write(puback(packet_id))
            writer.write(DISCONNECT)
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError):
                await reading

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
        luck = dice.random()
        if luck < 0.02:
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

    def judge(self, api: Api, database: str) -> Verdict:
        """`database`: the address of a PostgreSQL whose rows count."""
        assert not self.faults, self.faults[:5]
        arrived = {(arrival.push_id, device.id) for device in self.devices for arrival in device.journal}
        wanted = {(push_id, device_id) for push_id, sent in self.accepted.items() for device_id in sent.devices}
        assert not wanted - arrived, f"lost: {sorted(wanted - arrived)[:5]} of {len(wanted - arrived)}"
        assert not arrived - wanted, f"nobody's: {sorted(arrived - wanted)[:5]} of {len(arrived - wanted)}"
        for push_id, sent in self.accepted.items():
            counts = api.counts(push_id)
            assert counts["targeted"] == counts["delivered"] == len(sent.devices), f"{push_id}: {counts}"
        with psycopg.connect(database) as connection:
            booked, keys, pushes = booked_in_rows(connection)
        assert booked == arrived, f"rows differ from journals: {sorted(booked ^ arrived)[:5]}"
        assert keys == len(self.accepted) == pushes, f"{keys} keys, {pushes} pushes, {len(self.accepted)} accepted"
        for device in self.devices:
            self._judge_order(device)
            for arrival in device.journal:
                recorded_at = self.recorded.get((device.id, arrival.push_id))
                assert recorded_at is None or arrival.at < recorded_at, f"again after it was booked: {arrival}"
        again = [arrival for device in self.devices for arrival in repeats(device.journal)]
        with_dup = sum(arrival.dup for arrival in again)
        return Verdict(len(self.accepted), len(arrived), len(again) - with_dup, with_dup, self._unavailable_s)

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


def repeats(journal: Sequence[Arrival]) -> Iterator[Arrival]:
    """The arrivals of what had arrived before."""
    seen: set[str] = set()
    for arrival in journal:
        if arrival.push_id in seen:
            yield arrival
        seen.add(arrival.push_id)


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


async def _read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The first byte of a packet, and what follows its length."""
    first = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            return first, await reader.readexactly(length)


def _arrival(first: int, body: bytes, connection: int) -> Arrival:
    payload = body[2 + int.from_bytes(body[:2], "big") + (2 if first & 6 else 0) :]
    return Arrival(json.loads(payload)["push_id"], time.monotonic(), bool(first & 8), connection)
