"""Connections that do everything wrong, beside a client pair that must not notice.

The kinds are drawn from a seeded random. Those that the standard closes wait for their end themselves; afterwards the
process must have the memory and the descriptors that it had before.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from tests import wire
from tests.broker.protocol.vectors import REFUSED, VECTORS
from tests.conformance.standalone import BrokerProcess
from tests.hostile.peer import SECONDS, Peer, becomes, descriptors, resident
from tests.wire import V4, V5, VERSIONS

CONNECTIONS = 2_000
WARM_UP = 500
AT_ONCE = 64
MIB = 1024 * 1024
CLAIM = b"\xff\xff\xff\x7f"
"""A remaining length of 256 MiB."""

FROM_CLIENT = [vector.data for vector in VECTORS if not vector.from_server and vector.data[0] >> 4 != 1]
CONNECTS = [vector.data for vector in VECTORS if vector.data[0] >> 4 == 1]
ILLEGAL_FIRST = [
    first
    for first in range(256)
    if first >> 4 in (0, 2, 9, 11, 13) or (first & 6 == 6 and first >> 4 == 3) or (first >> 4 == 12 and first & 15)
]

Kind = Callable[[Peer, random.Random, str], Awaitable[None]]


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed)) if changed else 0
        match chance.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                changed[at:at] = chance.randbytes(chance.randint(1, 8))
            case 2:
                del changed[at : at + chance.randint(1, 8)]
            case _:
                changed[at : at + 1] = bytes([(changed[at] if changed else 0) ^ 1 << chance.randrange(8)])
    return bytes(changed)


async def _enter(peer: Peer, chance: random.Random, name: str) -> int:
    version = chance.choice(VERSIONS)
    await peer.enter(wire.connect(name, version))
    return version


# -- what ends by the server's will ------------------------------------------------------------------------------------


async def garbage(peer: Peer, chance: random.Random, name: str) -> None:
    await peer.send(bytes([chance.choice([0, *range(0x20, 256)])]), b"\x7f", chance.randbytes(chance.randint(127, 300)))
    assert await peer.until_end() == b"", "garbage gets no answer [MQTT-4.8.0-1]"


async def garbage_after_connect(peer: Peer, chance: random.Random, name: str) -> None:
    await _enter(peer, chance, name)
    await peer.send(bytes([chance.choice(ILLEGAL_FIRST)]), chance.randbytes(chance.randint(0, 300)))
    await peer.until_end()


async def wrong_direction(peer: Peer, chance: random.Random, name: str) -> None:
    version = await _enter(peer, chance, name)
    code = b"\x00\x00" if version == V4 else b"\x00\x00\x00"
    await peer.send(chance.choice([wire.packet(0x20, code), wire.suback(1, 0), wire.unsuback(1), wire.PINGRESP]))
    goodbye = await peer.until_end()
    assert version == V4 or goodbye[2:3] == b"\x82", goodbye.hex(" ")


async def second_connect(peer: Peer, chance: random.Random, name: str) -> None:
    version = await _enter(peer, chance, name)
    await peer.send(wire.connect(name, version))
    await peer.until_end()


async def unsolicited(peer: Peer, chance: random.Random, name: str) -> None:
    await _enter(peer, chance, name)
    await peer.send(*(chance.choice([wire.puback, wire.pubcomp])(chance.randint(1, 65_535)) for _ in range(100)))
    await peer.send(wire.PINGREQ)
    assert await peer.read() == wire.PINGRESP, "ignored"
    await peer.send(wire.DISCONNECT)
    await peer.until_end()


async def refused(peer: Peer, chance: random.Random, name: str) -> None:
    """Return the packets that the specification forbids, by the codec's own list."""
    wrong = chance.choice([r for r in REFUSED if not r.from_server and r.data[0] >> 4 != 1])
    await peer.enter(wire.connect(name, V5 if wrong.version == 5 else V4))
    await peer.send(wrong.data)
    await peer.until_end()


async def claim(peer: Peer, chance: random.Random, name: str) -> None:
    if chance.random() < 0.5:
        await _enter(peer, chance, name)
    await peer.send(bytes([chance.choice([0x10, 0x30, 0x82])]), CLAIM)
    await peer.until_end()


async def bad_filter(peer: Peer, chance: random.Random, name: str) -> None:
    version = await _enter(peer, chance, name)
    wrong = chance.choice(["", "a#", "#/a", "a+/b", "+a", "a/#/b", "##", "++", "a\0b", "$share//a" * (version == V5)])
    await peer.send(wire.subscribe(1, (wrong, 0), version=version))
    await peer.until_end()


async def unfinished_receipts(peer: Peer, chance: random.Random, name: str) -> None:
    """More QoS 2 messages than the receive maximum, none of them released."""
    await peer.enter(wire.connect(name, V5))
    await peer.send(*(wire.publish(name, b"", 2, i, V5) for i in range(1, 1_026)))
    goodbye = await peer.until_end()
    assert goodbye[goodbye.rindex(b"\xe0") + 2] == 0x93, goodbye[-60:].hex(" ")


async def byte_by_byte(peer: Peer, chance: random.Random, name: str) -> None:
    version = chance.choice(VERSIONS)
    for byte in wire.connect(name, version) + wire.PINGREQ + wire.DISCONNECT:
        await peer.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await peer.until_end()).endswith(wire.PINGRESP)


async def flood(peer: Peer, chance: random.Random, name: str) -> None:
    version = await _enter(peer, chance, name)
    await peer.send(*[chance.choice([wire.PINGREQ, wire.publish(name, b"x" * 50, version=version)])] * 2_000)
    await peer.send(wire.DISCONNECT)
    await peer.until_end()


# -- what ends by the client's will ------------------------------------------------------------------------------------


async def mutated_connect(peer: Peer, chance: random.Random, name: str) -> None:
    await peer.send(mutated(chance.choice(CONNECTS), chance), mutated(chance.choice(FROM_CLIENT), chance))


async def mutated_packets(peer: Peer, chance: random.Random, name: str) -> None:
    await _enter(peer, chance, name)
    await peer.send(*(mutated(chance.choice(FROM_CLIENT), chance) for _ in range(chance.randint(1, 5))), wire.PINGREQ)
    await asyncio.sleep(0)


async def half_connect(peer: Peer, chance: random.Random, name: str) -> None:
    whole = wire.connect(name, chance.choice(VERSIONS))
    await peer.send(whole[: chance.randrange(len(whole))])


async def deep_filters(peer: Peer, chance: random.Random, name: str) -> None:
    version = await _enter(peer, chance, name)
    deep = chance.choice(["+/" * 127 + "+", "a/" * 500 + "#", "/" * 65_000, "+/" * 32_000 + "#", "x" * 65_535])
    await peer.send(wire.subscribe(1, *[(f"{'+/' * i}{name}", 0) for i in range(100)], (deep, 1), version=version))
    assert (await peer.read())[:1] == b"\x90"
    await peer.send(wire.publish("a/" * 100 + name, b"", version=version))


async def slow_consumer(peer: Peer, chance: random.Random, name: str) -> None:
    """Hears itself, and reads nothing of it."""
    version = await _enter(peer, chance, name)
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    await peer.send(wire.subscribe(1, (name, 0), version=version))
    await peer.send(*[wire.publish(name, bytes(50_000), version=version)] * 20)


async def resetting(peer: Peer, chance: random.Random, name: str) -> None:
    await _enter(peer, chance, name)
    await peer.send(wire.PINGREQ)


CLOSED: list[Kind] = [
    garbage, garbage_after_connect, wrong_direction, second_connect, unsolicited, refused, claim, bad_filter,
    byte_by_byte,
]  # fmt: skip
CLOSING: list[Kind] = [mutated_connect, mutated_packets, half_connect, resetting]
DEAR: list[Kind] = [unfinished_receipts, flood, deep_filters, slow_consumer]
KINDS = CLOSED * 4 + CLOSING * 6 + DEAR


async def storm(port: int, seed: int, count: int) -> dict[str, int]:
    """Open so many hostile connections; return the number of each kind."""
    chance = random.Random(seed)
    made: dict[str, int] = {}
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            kind = chance.choice(KINDS)
            made[kind.__name__] = made.get(kind.__name__, 0) + 1
            peer = await Peer.open(port)
            try:
                await kind(peer, chance, f"hostile-{seed}-{number}")
            except (TimeoutError, AssertionError) as error:
                raise AssertionError(f"{kind.__name__}, connection {number} of seed {seed}: {error!r}") from error
            finally:
                if kind is resetting or chance.random() < 0.3:
                    peer.reset()
                await peer.close()

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return made


class HealthyPair:
    """One publishes numbers with QoS 1, one after the other; the other counts what comes."""

    def __init__(self) -> None:
        self.sent = 0
        self.heard: list[int] = []
        self.stop = False

    async def run(self, port: int) -> None:
        publisher, subscriber = await Peer.open(port), await Peer.open(port)
        await publisher.enter(wire.connect("healthy-publisher", V5))
        await subscriber.enter(wire.connect("healthy-subscriber", V4))
        await subscriber.send(wire.subscribe(1, ("healthy", 1)))
        assert (await subscriber.read())[:1] == b"\x90"
        listening = asyncio.create_task(self._listen(subscriber))
        while not self.stop:
            packet_id = self.sent % 65_535 + 1
            await publisher.send(wire.publish("healthy", b"%d" % self.sent, 1, packet_id, V5))
            assert await publisher.read() == wire.puback(packet_id)
            self.sent += 1
        await publisher.send(wire.publish("healthy", b"end", 1, 1, V5))
        await listening
        await publisher.close()
        await subscriber.close()

    async def _listen(self, subscriber: Peer) -> None:
        while packet := await subscriber.read(60):
            assert packet[0] & 0xFE == 0x32, packet.hex(" ")
            packet_id, payload = int.from_bytes(packet[11:13]), packet[13:]
            await subscriber.send(wire.puback(packet_id))
            if payload == b"end":
                return
            self.heard.append(int(payload))
        raise AssertionError("the healthy subscriber was closed")


@pytest.mark.timeout(60)
async def test_a_healthy_pair_beside_hostile_connections(full: int, capsys: pytest.CaptureFixture[str]) -> None:
    with BrokerProcess(None) as broker:
        pid = broker.pid
        before = descriptors(pid)
        pair = HealthyPair()
        healthy = asyncio.create_task(pair.run(broker.port))
        await storm(broker.port, 1, WARM_UP)
        warm = resident(pid)
        began = time.monotonic()
        made = await storm(broker.port, 2, CONNECTIONS * full)
        seconds = time.monotonic() - began
        pair.stop = True
        await asyncio.wait_for(healthy, SECONDS)
        after = await becomes(lambda: descriptors(pid), before)
        growth = resident(pid) - warm
        with capsys.disabled():
            print(
                f"\n{sum(made.values())} hostile connections of {len(made)} kinds in {seconds:.0f} s, {pair.sent}"
                f" healthy messages, memory {growth / MIB:+.1f} MiB, descriptors {before} before and {after} after"
            )
        assert sum(made.values()) == CONNECTIONS * full
        assert len(made) == len({*KINDS})
        assert pair.sent > 0
        assert pair.heard == list(range(pair.sent)), "lost or duplicated"
        assert growth < 32 * MIB
        assert after == before


@pytest.mark.parametrize("hang_up", ["half", "disconnect", "not"])
async def test_who_asks_and_never_reads_is_cut_off(hang_up: str) -> None:
    """Whether it says that it has finished or not: its socket and the bytes in it do not stay."""
    with BrokerProcess(None) as broker:
        before = descriptors(broker.pid)
        loop = asyncio.get_running_loop()
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            raw.connect(("127.0.0.1", broker.port))
            raw.setblocking(False)
            await loop.sock_sendall(raw, wire.connect("mute", V4, keep_alive=1) + wire.subscribe(1, ("mute", 0)))
            packet = wire.publish("mute", bytes(900_000))
            async with asyncio.timeout(SECONDS):
                for _ in range(8):
                    await loop.sock_sendall(raw, packet)
            if hang_up == "disconnect":
                await loop.sock_sendall(raw, wire.DISCONNECT)
            elif hang_up == "half":
                raw.shutdown(socket.SHUT_WR)
            assert await becomes(lambda: descriptors(broker.pid), before, 4) == before
