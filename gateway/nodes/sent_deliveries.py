"""Deliveries in flight at other nodes: which devices have a push that they have not acknowledged yet.

What is in flight waits on disk, and the node that handed it over is the only one that knows better. So whoever counts
or lists deliveries, or recalls a push, asks the others first. They have ASK_SECONDS: what is not told by then is shown
as waiting, or ends `cancelled` although it is on its way, and moves by its acknowledgement like any other end.

An answer has the devices of as many pushes as fit, and of a push to very many a part. More is asked for as long as
there is time.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Final

from pyroaring import BitMap

from gateway.nodes.membership import Node
from gateway.nodes.peer_client import Ask, PeerUnavailable
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion, is_number

VERB: Final = "sent"
ASK_SECONDS: Final = 0.1
LEAST_SECONDS: Final = 0.02
"""Time that a question for more needs: with less left it is not asked."""
QUESTION_PUSHES: Final = 1_000
"""Pushes of one question: with numbers of 19 digits they have 20 KiB."""
PART_DEVICES: Final = 6_000
"""Devices of one push in an answer, at most. They fit wherever their numbers are: 10 bytes each."""
MAX_DEVICES: Final = 500_000
"""Devices that one peer is believed to have pushes in flight to, of all pushes that are asked for: as many deliveries
as are counted for a page. It is some 20 MiB, whatever a peer says."""
TURN_DEVICES: Final = 10_000
"""Devices that are looked at in a turn of the loop, about 1 ms."""
_PART: Final = struct.Struct("!Q?I")
"""Number of the push, whether there are more devices, and the length of the Roaring bitmap that follows."""


class SentDeliveries:
    """Asks peers for their deliveries in flight, and answers for those of this node. `sent_of` gives the devices to
    which a push is in flight from here; `peers` are all peers, `holders` those that have any of these devices; `ask` is
    that of `PeerClient`. Runs on the *loop*."""

    def __init__(
        self,
        *,
        sent_of: Callable[[int], Collection[int]],
        peers: Callable[[], Sequence[Node]],
        holders: Callable[[Sequence[int]], Sequence[Node]],
        ask: Ask,
    ) -> None:
        self._sent_of = sent_of
        self._peers = peers
        self._holders = holders
        self._ask = ask

    async def elsewhere(self, push_nos: Sequence[int], device_no: int | None = None) -> Mapping[int, BitMap]:
        """Return the devices to which these pushes are in flight from other nodes, by push number.

        With `device_no` it is about that device alone. What is not told within ASK_SECONDS is missing.
        """
        nodes = self._peers() if device_no is None else self._holders([device_no])
        found: dict[int, BitMap] = {}
        if nodes and push_nos:
            await asyncio.gather(*(self._ask_for_all(node, push_nos, device_no, found) for node in nodes))
        return found

    async def answer(self, body: bytes) -> bytes:
        """Answer a peer. Raises MalformedQuestion."""
        push_nos, device_no, after = _parsed(body)
        answer = bytearray()
        seen = 0
        for push_no in push_nos:
            sent = self._sent_of(push_no)
            if device_no is not None:
                sent = (device_no,) if device_no in sent else ()
            devices = BitMap(sent)
            if after:
                devices.remove_range(0, after + 1)
                after = 0
            is_part = len(devices) > PART_DEVICES
            if is_part:
                devices = BitMap(islice(devices, PART_DEVICES))
            content = devices.serialize()
            if len(answer) + _PART.size + len(content) > BODY_BYTES:
                break
            answer += _PART.pack(push_no, is_part, len(content)) + content
            if is_part:
                break
            seen += len(devices)
            if seen > TURN_DEVICES:
                seen = 0
                await asyncio.sleep(0)
        return bytes(answer)

    async def _ask_for_all(
        self, node: Node, push_nos: Sequence[int], device_no: int | None, found: dict[int, BitMap]
    ) -> None:
        """Ask a peer, again and again until it has told everything or the time is over."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + ASK_SECONDS
        room = MAX_DEVICES
        at = after = 0
        while at < len(push_nos) and room > 0 and (left := deadline - clock()) > LEAST_SECONDS:
            asked = push_nos[at : at + QUESTION_PUSHES]
            question = {"pushes": asked, "device": device_no or 0, "after": after}
            try:
                parts = _parts(await self._ask(node, VERB, json.dumps(question).encode(), left), asked)
            except (PeerUnavailable, _BadAnswer):
                return
            if not parts:
                return
            for push_no, devices, is_part in parts:
                if devices:
                    found.setdefault(push_no, BitMap()).update(devices)
                room -= len(devices)
                after = devices.max() if is_part else 0
                at += not is_part


class _BadAnswer(Exception):
    """A peer has answered something else than was asked."""


def _parts(answer: bytes, asked: Sequence[int]) -> list[tuple[int, BitMap, bool]]:
    """Read the parts of an answer, of the pushes in the order in which they were asked for. Raises _BadAnswer."""
    found: list[tuple[int, BitMap, bool]] = []
    at = 0
    for expected in asked:
        if at == len(answer):
            break
        try:
            push_no, is_part, length = _PART.unpack_from(answer, at)
            at += _PART.size
            devices = BitMap.deserialize(answer[at : at + length])
        except (struct.error, ValueError, IndexError) as error:
            raise _BadAnswer(str(error)) from None
        at += length
        if push_no != expected or len(devices) > PART_DEVICES or (is_part and not devices):
            raise _BadAnswer("of another push, or of too many devices")
        found.append((push_no, devices, is_part))
        if is_part:
            break
    return found


def _parsed(body: bytes) -> tuple[list[int], int | None, int]:
    """Read a question: pushes, the device if it is about one, and behind which device. Raises MalformedQuestion."""
    try:
        question = json.loads(body)
        push_nos, device_no, after = question["pushes"], question["device"], question["after"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedQuestion(f"this asks for no pushes: {error}") from None
    if not isinstance(push_nos, list) or len(push_nos) > QUESTION_PUSHES:
        raise MalformedQuestion(f"{QUESTION_PUSHES} pushes can be asked for")
    if not all(map(is_number, (*push_nos, device_no, after))):
        raise MalformedQuestion("pushes and devices have numbers")
    if max(device_no, after) >= 1 << 32:
        raise MalformedQuestion("numbers of devices have 32 bits")
    return push_nos, device_no or None, after
