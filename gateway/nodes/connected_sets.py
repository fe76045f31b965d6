"""Sets of the devices that are connected to each node, as the nodes tell each other once a second.

A node sends its peers the part of its set that has changed since they last took it, and each keeps what it was told as
long as the node that said it is live. So a set is a second old, and may be older where a peer does not answer: it says
who is worth a question, and nothing is decided by it alone.

A part is the set of all connected devices in some blocks of 65,536 numbers, in the portable format of Roaring bitmaps.
It replaces what was known of these blocks: one that comes twice, or after a later one was lost, does no harm.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pyroaring import BitMap, FrozenBitMap

from gateway.nodes.membership import Node
from gateway.nodes.peer_client import Ask, PeerUnavailable
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion

VERB: Final = "connected"
EXCHANGE_SECONDS: Final = 1.0
ASK_SECONDS: Final = 1.0
"""Time for a peer to take a part."""
BLOCK_BITS: Final = 16
_BLOCKS: Final = 1 << 16
"""Blocks of 65,536 numbers that there are: numbers of devices have 32 bits."""
_HEADER: Final = struct.Struct("!QQII")
"""Number and epoch of the node, the first block of the part, and the block behind its last one."""
_BLOCK_OVERHEAD_BYTES: Final = 16
_PART_BYTES: Final = BODY_BYTES - 1_024
NOT_KNOWN: Final = b"not known"
"""The answer to a node that has begun since the last renewal: it sends its part again."""


@dataclass(slots=True)
class _Outgoing:
    """What a peer has been told."""

    taken: FrozenBitMap = field(default_factory=FrozenBitMap)
    """The set as it was when the peer had last taken all of it."""
    unsure: set[int] = field(default_factory=set)
    """Blocks that it has been told of since, or some of them."""
    sending: asyncio.Task[None] | None = None


class ConnectedSets:
    """The sets of all nodes. `connected` gives the one of this node `own`, which changes under way; `peers` and
    `is_live` are those of `Membership`, `ask` is that of `PeerClient`. Runs on the *loop*."""

    def __init__(
        self,
        *,
        own: Node,
        connected: Callable[[], BitMap],
        peers: Callable[[], Sequence[Node]],
        is_live: Callable[[int, int], bool],
        ask: Ask,
    ) -> None:
        self._own = own
        self._connected = connected
        self._peers = peers
        self._is_live = is_live
        self._ask = ask
        self._snapshot = FrozenBitMap()
        self._outgoing: dict[Node, _Outgoing] = {}
        self._told: dict[int, tuple[Node, BitMap]] = {}
        """What the peers have said, by number."""

    async def run(self) -> None:
        """Tell the peers what has changed, once a second, until cancelled."""
        while True:
            self.exchange()
            await asyncio.sleep(EXCHANGE_SECONDS)

    def exchange(self) -> None:
        """Begin to tell each peer what has changed since it was last told; one that is still being told is left out."""
        connected = self._connected()
        if connected != self._snapshot:
            self._snapshot = FrozenBitMap(connected)
        for node in self._peers():
            outgoing = self._outgoing.setdefault(node, _Outgoing())
            if outgoing.sending is None and outgoing.taken is not self._snapshot:
                outgoing.sending = asyncio.get_running_loop().create_task(self._tell(node, outgoing))

    def ended(self, node: Node) -> None:
        """Forget a node that has ended: what it said, and what it was told."""
        told = self._told.get(node.no)
        if told is not None and told[0].epoch <= node.epoch:
            del self._told[node.no]
        outgoing = self._outgoing.pop(node, None)
        if outgoing is not None and outgoing.sending is not None:
            outgoing.sending.cancel()

    async def end(self) -> None:
        """Tell nobody anything more."""
        tasks = [outgoing.sending for outgoing in self._outgoing.values() if outgoing.sending is not None]
        for node in list(self._outgoing):
            self.ended(node)
        await asyncio.gather(*tasks, return_exceptions=True)

    def holders(self, device_nos: BitMap | Sequence[int]) -> list[Node]:  # Hot path.
        """Return the peers to which any of these devices is connected."""
        if isinstance(device_nos, BitMap):
            return [node for node, told in self._told.values() if device_nos.intersect(told)]
        if len(device_nos) == 1:
            device_no = device_nos[0]
            return [node for node, told in self._told.values() if device_no in told]
        return [node for node, told in self._told.values() if any(device_no in told for device_no in device_nos)]

    def told(self) -> list[tuple[Node, BitMap]]:
        """Return the peers and the devices that are connected to each."""
        return list(self._told.values())

    def elsewhere(self) -> BitMap:
        """Return the devices that are connected to a peer."""
        return BitMap.union(BitMap(), *(told for _, told in self._told.values()))

    async def answer(self, body: bytes) -> bytes:
        """Take a part of a peer's set. Raises MalformedQuestion."""
        try:
            no, epoch, first, end = _HEADER.unpack_from(body)
            part = BitMap.deserialize(body[_HEADER.size :])
        except (struct.error, ValueError, IndexError) as error:
            raise MalformedQuestion(f"this is no part of a set: {error}") from None
        begin, behind = first << BLOCK_BITS, end << BLOCK_BITS
        if not first < end <= _BLOCKS or (part and (part.min() < begin or part.max() >= behind)):
            raise MalformedQuestion("devices are outside of the blocks that the part is of")
        if no == self._own.no or not self._is_live(no, epoch):
            return NOT_KNOWN
        node = next(node for node in self._peers() if node.no == no)
        told = self._told.get(no)
        if told is None or told[0] != node:
            told = self._told[no] = node, BitMap()
        told[1].remove_range(begin, behind)
        told[1].update(part)
        return b""

    async def _tell(self, node: Node, outgoing: _Outgoing) -> None:
        snapshot = self._snapshot
        outgoing.unsure.update(_blocks(snapshot ^ outgoing.taken))
        try:
            for part in _parts(self._own, snapshot, sorted(outgoing.unsure)):
                if await self._ask(node, VERB, part, ASK_SECONDS) == NOT_KNOWN:
                    return
            outgoing.taken = snapshot
            outgoing.unsure.clear()
        except PeerUnavailable:
            pass  # it is told all of it again
        finally:
            outgoing.sending = None


def _parts(own: Node, connected: FrozenBitMap, blocks: Sequence[int]) -> Iterator[bytes]:
    """Make the parts that say what is in these blocks."""
    first: int | None = None
    end = size = 0
    for block in blocks:
        count = connected.range_cardinality(block << BLOCK_BITS, (block + 1) << BLOCK_BITS)
        bytes_of_block = min(2 * count, 8_192) + _BLOCK_OVERHEAD_BYTES
        if first is not None and (block != end or size + bytes_of_block > _PART_BYTES):
            yield _part(own, connected, first, end)
            first = None
        if first is None:
            first, size = block, 0
        end = block + 1
        size += bytes_of_block
    if first is not None:
        yield _part(own, connected, first, end)


def _blocks(numbers: FrozenBitMap) -> Iterator[int]:
    left = BitMap(numbers)
    while left:
        block = left.min() >> BLOCK_BITS
        left.remove_range(block << BLOCK_BITS, (block + 1) << BLOCK_BITS)
        yield block


def _part(own: Node, connected: FrozenBitMap, first: int, end: int) -> bytes:
    of_part = BitMap(connected)
    of_part.remove_range(0, first << BLOCK_BITS)
    of_part.remove_range(end << BLOCK_BITS, _BLOCKS << BLOCK_BITS)
    return _HEADER.pack(own.no, own.epoch, first, end) + of_part.serialize()
