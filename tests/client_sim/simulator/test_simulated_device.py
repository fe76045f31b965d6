"""`SimulatedDevice` against hand-written bytes: it behaves, and it sees who does not."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from client_sim.backoff import Backoff
from client_sim.simulator.campaign_parts import ArrivedPart, build_of
from client_sim.simulator.human_behaviour import ACTED, DISPLAYED, OPENED, HumanBehaviour
from client_sim.simulator.shaped_link import Network
from client_sim.simulator.simulated_device import GONE, INFLIGHT_RECEIPTS, ONLINE, SimulatedDevice
from client_sim.simulator.simulated_push import BUILD_ERROR, result_of
from client_sim.simulator.timing_wheel import TimingWheel
from tests.client_sim.scripted_broker import (
    DISCONNECT,
    PUBACK,
    PUBLISH,
    Connection,
    ScriptedBroker,
    Sent,
    push_json,
    user_property,
)
from tests.end_to_end.harness import wait_for

PINGREQ = 0xC0
SILENT = HumanBehaviour(0.0, 0.0, 0.0, 0.0, 1)
LOOKS = HumanBehaviour(1.0, 0.0, 0.0, 0.0, 1)
ACTS = HumanBehaviour(1.0, 1.0, 1.0, 0.05, 1)


class Fleet:
    """What a device needs, and what it says (`DeviceHost`)."""

    def __init__(self, port: int, behaviour: HumanBehaviour, keep_alive: int = 60) -> None:
        self.wheel = TimingWheel(asyncio.get_running_loop())
        self.wheel.start()
        self.behaviour = behaviour
        self.backoff = Backoff(base=0.0)
        self.keep_alive = keep_alive
        self.clock_slack = 0.0
        self.week_seconds = 604_800.0
        self.departures: list[tuple[str | None, bool]] = []
        self.parts: list[ArrivedPart] = []
        self.network: Network | None = None
        self.effects: list[tuple[int, str]] = []
        self.acknowledged_levels: list[tuple[int, int]] = []
        self.failures: Counter[str] = Counter()
        self.violations: list[str] = []
        self.onlines = self.offlines = 0
        self._port = port
        self._tasks: set[asyncio.Task[Any]] = set()

    def dial(self, device: SimulatedDevice) -> None:
        loop = asyncio.get_running_loop()
        self._tasks.add(loop.create_task(loop.create_connection(lambda: device, "127.0.0.1", self._port)))

    def online(self, device: SimulatedDevice, now: float, seconds: float) -> None:
        self.onlines += 1

    def offline(self, device: SimulatedDevice, now: float) -> None:
        self.offlines += 1

    def effect(self, device: SimulatedDevice, number: int, push_id: str, now: float, expires_in: int) -> bool:
        new = (number, push_id) not in self.effects
        self.effects.append((number, push_id))
        return new

    def receipt_acknowledged(self, device: SimulatedDevice, number: int, level: int) -> None:
        self.acknowledged_levels.append((number, level))

    def left(self, device: SimulatedDevice, now: float, channel: str | None, acknowledged: bool) -> None:
        self.departures.append((channel, acknowledged))

    def part(self, device: SimulatedDevice, part: ArrivedPart) -> bool:
        new = part not in self.parts
        self.parts.append(part)
        return new

    def failed(self, what: str) -> None:
        self.failures[what] += 1

    def violated(self, device: SimulatedDevice, what: str, number: int = -1) -> None:
        self.violations.append(what)


async def until(true: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_for, true)


async def expect(connection: Connection, kind: int) -> Sent:
    return await asyncio.to_thread(connection.expect, kind)


async def accept(broker: ScriptedBroker, **how: Any) -> Connection:
    return await asyncio.to_thread(lambda: broker.accept(**how))


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker()
    yield made
    made.close()


def device_of(fleet: Fleet, version: int = 4) -> SimulatedDevice:
    return SimulatedDevice(fleet, 0, "d1", "secret", "default/devices/d1/", version)


def push(number: int) -> bytes:
    return push_json(f"push-{number}", data={"sim": number})


async def start(
    broker: ScriptedBroker, behaviour: HumanBehaviour = SILENT, **how: Any
) -> tuple[Fleet, SimulatedDevice, Connection]:
    fleet = Fleet(broker.port, behaviour, **how)
    device = device_of(fleet)
    device.connect()
    connection = await accept(broker)
    await until(lambda: device.state == ONLINE)
    return fleet, device, connection


async def end(fleet: Fleet, device: SimulatedDevice, connection: Connection) -> None:
    device.disconnect()
    await expect(connection, DISCONNECT)
    connection.vanish()
    fleet.wheel.stop()
    await asyncio.sleep(0)


@pytest.mark.parametrize("version", [4, 5])
async def test_it_asks_for_its_session_and_subscribes_to_its_own_topic(broker: ScriptedBroker, version: int) -> None:
    fleet = Fleet(broker.port, SILENT, keep_alive=90)
    device = device_of(fleet, version)
    device.connect()
    accepting = asyncio.create_task(accept(broker, mqtt5=version == 5))
    connection = await accepting
    properties = b"\x05\x11\xff\xff\xff\xff" if version == 5 else b""  # session expiry: never
    header = b"\x00\x04MQTT" + bytes([version]) + b"\xc0" + b"\x00\x5a"  # user name, password, session kept
    assert broker.connect_body == header + properties + b"\x00\x02d1" + b"\x00\x02d1" + b"\x00\x06secret"
    await until(lambda: device.state == ONLINE)
    assert (fleet.onlines, fleet.violations) == (1, [])
    await end(fleet, device, connection)
    await until(lambda: fleet.offlines == 1)


async def test_a_push_takes_effect_once_however_often_it_comes(broker: ScriptedBroker) -> None:
    fleet, device, connection = await start(broker, LOOKS)
    connection.push(7, push(1))
    assert (await expect(connection, PUBACK)).packet_id == 7
    topic, packet_id, receipt = (await expect(connection, PUBLISH)).publish()
    assert (topic, receipt) == ("default/devices/d1/receipts", {"push_id": "push-1", "event": "displayed"})
    connection.acknowledge(packet_id)
    await until(lambda: fleet.acknowledged_levels == [(1, DISPLAYED)])
    connection.vanish()

    connection = await accept(broker, session_present=True)
    connection.push(7, push(1), dup=True)
    assert (await expect(connection, PUBACK)).packet_id == 7
    connection.push(8, push(2))
    assert (await expect(connection, PUBACK)).packet_id == 8
    assert (await expect(connection, PUBLISH)).publish()[2]["push_id"] == "push-2", "no second receipt for the copy"
    assert fleet.effects == [(1, "push-1"), (1, "push-1"), (2, "push-2")]
    assert fleet.violations == []
    await end(fleet, device, connection)


async def test_people_think_before_they_act(broker: ScriptedBroker) -> None:
    fleet, device, connection = await start(broker, ACTS)
    connection.push(1, push(1))
    await expect(connection, PUBACK)
    said = [(await expect(connection, PUBLISH)).publish()[1:] for _ in range(2)]
    assert said[0][1] == {"push_id": "push-1", "event": "displayed"}
    acted = {"push_id": "push-1", "event": "acted", "action": "play", "result": result_of("push-1", "d1")}
    assert said[1][1] == [{"push_id": "push-1", "event": "opened"}, acted]
    assert not device.idle
    for packet_id, _ in said:
        connection.acknowledge(packet_id)
    await until(lambda: device.idle)
    assert fleet.acknowledged_levels == [(1, DISPLAYED), (1, ACTED)]
    assert ACTED > OPENED > DISPLAYED
    await end(fleet, device, connection)


LEAVES = HumanBehaviour(0.0, 0.0, 0.0, 0.0, 1, leave=1.0, mute=1.0)


async def test_a_person_leaves_when_they_had_too_many(broker: ScriptedBroker) -> None:
    fleet, device, connection = await start(broker, LEAVES)
    for number in (1, 2, 3):
        connection.push(number, push_json(f"push-{number}", channel="offers", data={"sim": number, "on": "offers"}))
        await expect(connection, PUBACK)
    topic, packet_id, said = (await expect(connection, PUBLISH)).publish()
    assert (topic, said) == ("default/devices/d1/settings", {"channels": {"offers": False}, "seq": 1})
    assert not device.idle
    connection.acknowledge(packet_id)
    await until(lambda: fleet.departures == [("offers", False), ("offers", True)])
    assert (fleet.acknowledged_levels, fleet.violations) == ([], [])
    assert connection.nothing_more(), "nobody leaves twice"
    await end(fleet, device, connection)


async def test_who_had_few_in_a_week_stays_and_who_denies_says_so_for_all(broker: ScriptedBroker) -> None:
    fleet, device, connection = await start(broker, replace(LEAVES, mute=0.0))
    fleet.week_seconds = 0.0
    for number in (1, 2):
        connection.push(number, push(number))
        await expect(connection, PUBACK)
    fleet.week_seconds = 604_800.0
    connection.push(3, push(3))
    await expect(connection, PUBACK)
    topic, packet_id, said = (await expect(connection, PUBLISH)).publish()
    assert (topic, said) == ("default/devices/d1/settings", {"consent": "denied", "seq": 1})
    connection.acknowledge(packet_id)
    await until(lambda: fleet.departures == [(None, False), (None, True)])
    await end(fleet, device, connection)


def part(campaign: int, failing: float) -> bytes:
    return push_json(f"part-{campaign}", kind="command", data=build_of(campaign, failing, "v1"))


async def test_a_build_is_carried_out_once_or_fails(broker: ScriptedBroker) -> None:
    fleet, device, connection = await start(broker)
    said: set[str] = set()
    for campaign in range(1, 13):
        failing = float(campaign > 1)
        connection.push(campaign, part(campaign, failing))
        await expect(connection, PUBACK)
        outcome = fleet.parts[-1].outcome
        said.add(outcome)
        if outcome != "silent":
            _, packet_id, receipt = (await expect(connection, PUBLISH)).publish()
            result = BUILD_ERROR if outcome == "error" else result_of(f"part-{campaign}", "d1")
            assert (receipt["event"], receipt["result"]) == ("acted", result)
            connection.acknowledge(packet_id)
        connection.push(campaign, part(campaign, failing), dup=True)
        await expect(connection, PUBACK)
    await until(lambda: device.idle)
    assert said == {"done", "error", "silent"}, "3.1.1 cannot refuse"
    assert (fleet.parts[0].outcome, fleet.parts[0].variant) == ("done", "v1")
    assert (fleet.acknowledged_levels, fleet.violations) == ([], [])
    await end(fleet, device, connection)


async def test_receipts_are_kept_in_order_until_they_are_acknowledged(broker: ScriptedBroker) -> None:
    """And no more of them are on their way than every server takes."""
    fleet, device, connection = await start(broker, LOOKS)
    for number in range(1, INFLIGHT_RECEIPTS + 4):
        connection.push(number, push(number))
    first = []
    for _ in range(INFLIGHT_RECEIPTS + 3 + INFLIGHT_RECEIPTS):
        packet = await asyncio.to_thread(connection.packets.get)
        assert packet is not None
        if packet.kind == PUBLISH:
            first.append(packet.publish())
    assert [receipt["push_id"] for _, _, receipt in first] == [
        f"push-{number}" for number in range(1, INFLIGHT_RECEIPTS + 1)
    ]
    connection.vanish()

    connection = await accept(broker, session_present=True)
    for topic, packet_id, receipt in first:
        again = await expect(connection, PUBLISH)
        assert again.flags == 0x0A, "QoS 1, DUP"
        assert again.publish() == (topic, packet_id, receipt)
        connection.acknowledge(packet_id)
    for number in range(INFLIGHT_RECEIPTS + 1, INFLIGHT_RECEIPTS + 4):
        waiting = await expect(connection, PUBLISH)
        assert waiting.flags == 0x02
        _, packet_id, receipt = waiting.publish()
        assert receipt["push_id"] == f"push-{number}"
        connection.acknowledge(packet_id)
    await until(lambda: device.idle)
    assert [number for number, _ in fleet.acknowledged_levels] == list(range(1, INFLIGHT_RECEIPTS + 4))
    assert fleet.violations == []
    await end(fleet, device, connection)


@pytest.mark.parametrize(
    ("answer", "violation"),
    [
        (b"\x40\x02\x00\x09", "PUBACK for packet identifier 9, which is not in flight"),
        (b"\xd0\x00", None),
        (b"\x90\x03\xff\xff\x01", "SUBACK"),
        (b"\x20\x02\x00\x00", "CONNACK"),
        (b"\x32\x09\x00\x01t\x00\x05nope", "a message that is no push of this simulation"),
        (b"\x82\x06\x00\x01\x00\x01t\x01", "protocol"),
        (b"\x34" + bytes([0]), "malformed"),
    ],
)
async def test_what_a_server_must_not_do_is_seen(broker: ScriptedBroker, answer: bytes, violation: str | None) -> None:
    fleet, device, connection = await start(broker)
    connection.send(answer)
    connection.push(1, push(1))
    if violation is None:
        await expect(connection, PUBACK)
        assert fleet.violations == []
    else:
        await until(lambda: fleet.violations)
        assert violation.lower() in fleet.violations[0].lower(), fleet.violations
    device.disconnect()
    connection.vanish()
    await until(lambda: device.state == GONE)
    fleet.wheel.stop()


async def test_a_second_puback_is_seen(broker: ScriptedBroker) -> None:
    fleet, device, connection = await start(broker, LOOKS)
    connection.push(1, push(1))
    await expect(connection, PUBACK)
    _, packet_id, _ = (await expect(connection, PUBLISH)).publish()
    connection.acknowledge(packet_id)
    connection.acknowledge(packet_id)
    await until(lambda: fleet.violations)
    assert "not in flight" in fleet.violations[0]
    await end(fleet, device, connection)


async def test_a_mute_device_owes_its_acknowledgements(broker: ScriptedBroker) -> None:
    fleet, device, connection = await start(broker)
    device.set_mute(True)
    connection.push(1, push(1))
    connection.push(2, push(2))
    await until(lambda: len(fleet.effects) == 2)
    assert connection.nothing_more()
    assert not device.idle
    device.set_mute(False)
    assert [(await expect(connection, PUBACK)).packet_id for _ in range(2)] == [1, 2]
    await until(lambda: device.idle)
    await end(fleet, device, connection)


async def test_a_deaf_device_reads_later(broker: ScriptedBroker) -> None:
    fleet, device, connection = await start(broker)
    device.set_deaf(True)
    connection.push(1, push(1))
    await asyncio.sleep(0.1)  # there is no event for what does not happen
    assert fleet.effects == []
    device.set_deaf(False)
    await expect(connection, PUBACK)
    await end(fleet, device, connection)


async def test_a_take_over_leaves_the_old_connection_to_the_server(broker: ScriptedBroker) -> None:
    fleet, device, old = await start(broker)
    device.take_over()
    new = await accept(broker, session_present=True)
    await until(lambda: fleet.onlines == 2)
    old.push(1, push(1))
    new.push(1, push(1), dup=True)
    assert (await expect(new, PUBACK)).packet_id == 1
    assert old.nothing_more(), "open, and silent"
    old.vanish()
    assert fleet.effects == [(1, "push-1")]
    await end(fleet, device, new)


async def test_a_connection_without_an_answer_to_pingreq_ends(broker: ScriptedBroker) -> None:
    fleet, device, connection = await start(broker, keep_alive=1)
    await expect(connection, PINGREQ)
    connection.send(b"\xd0\x00")
    await expect(connection, PINGREQ)
    await asyncio.to_thread(connection.expect_end)
    assert fleet.failures == {"connection without an answer to PINGREQ": 1}
    connection = await accept(broker, session_present=True)
    await until(lambda: device.state == ONLINE)
    await end(fleet, device, connection)


@pytest.mark.parametrize("where", ["connack", "disconnect"])
async def test_it_comes_back_when_the_server_says(broker: ScriptedBroker, where: str) -> None:
    """The hint replaces the growth of the back-off, which is none here: the jitter would begin at once."""
    fleet = Fleet(broker.port, SILENT)
    device = device_of(fleet, 5)
    hints: list[int | None] = []
    delay = fleet.backoff.delay

    def heard(failures: int, retry_after: int | None = None, away_seconds: float = 0.0) -> float:
        hints.append(retry_after)
        return delay(0)

    fleet.backoff.delay = heard  # type: ignore[method-assign]
    device.connect()
    hint = user_property("retry-after", "17")
    if where == "connack":
        await accept(broker, mqtt5=True, return_code=0x97, properties=hint)
    else:
        connection = await accept(broker, mqtt5=True)
        await until(lambda: device.state == ONLINE)
        connection.goodbye(0x8B, hint)
        connection.vanish()
    connection = await accept(broker, mqtt5=True)
    assert hints == [17]
    assert sum(fleet.failures.values()) == 1
    await until(lambda: device.state == ONLINE)
    await end(fleet, device, connection)


async def test_ten_thousand_that_wait_take_little() -> None:
    fleet = Fleet(0, SILENT)
    gc.collect()
    tracemalloc.start()
    try:
        devices = [SimulatedDevice(fleet, number, "", "", "", 4) for number in range(10_000)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    fleet.wheel.stop()
    assert size / len(devices) < 512, "bytes"
