"""Connections of devices to other nodes: who is online there, since when, from where, and how earlier ones ended.

Who is online is known from what the nodes tell each other (`connected_sets`); the rest is asked when somebody looks,
of the node that has the device, within ASK_SECONDS. What is not told by then is left out of the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from pyroaring import BitMap

from gateway.delivery.connection_events import MAX_DETAIL_CHARACTERS
from gateway.delivery.connection_report import LISTENERS, PROTOCOLS, WORDS
from gateway.delivery.connections_elsewhere import ConnectionHistory, LiveConnection, Presence
from gateway.delivery.engine import ConnectionFacts
from gateway.delivery.recent_disconnects import OF_DEVICE_DISCONNECTS, Disconnect
from gateway.nodes.connected_sets import ConnectedSets
from gateway.nodes.membership import Node
from gateway.nodes.peer_client import Ask, PeerUnavailable
from gateway.nodes.peer_routes import MalformedQuestion, is_number

VERB: Final = "connections"
ASK_SECONDS: Final = 0.1
QUESTION_DEVICES: Final = 500
"""Devices of one question: with the longest address each, their presence has 50 KiB."""
ANSWERED_APPS: Final = 2_000
"""Apps in an answer: with numbers of ten digits each, they have 50 KiB."""
ADDRESS_CHARACTERS: Final = 80
"""Characters of an address that are passed on: IPv6 with a zone and a port."""


class ConnectionsHere(Protocol):
    """The part of this node's components that answers its peers."""

    def presence(self, device_no: int) -> Presence: ...

    def history(self, device_no: int) -> ConnectionHistory: ...

    def online_here(self, app_no: int) -> int: ...

    def online_by_app_here(self) -> Mapping[int, int]: ...


class PeerConnections:
    """Asks peers for their connections, and answers for those of this node, which `here` finds. `peers` are all peers,
    `ask` is that of `PeerClient`. Runs on the *loop*."""

    def __init__(
        self,
        *,
        here: Callable[[], ConnectionsHere],
        sets: ConnectedSets,
        peers: Callable[[], Sequence[Node]],
        ask: Ask,
    ) -> None:
        self._here = here
        self._sets = sets
        self._peers = peers
        self._ask = ask

    def devices(self) -> BitMap:
        """Return the devices that are connected to another node, as of a second ago."""
        return self._sets.elsewhere()

    async def presences(self, device_nos: Sequence[int]) -> Mapping[int, Presence]:
        """Return the presence of those of these devices that are connected to another node."""
        wanted = BitMap(device_nos)
        by_node = {node: wanted & devices for node, devices in self._sets.told() if wanted.intersect(devices)}
        found = {device_no: Presence(True, None, None) for devices in by_node.values() for device_no in devices}
        answers = await asyncio.gather(*(self._presences_at(node, list(devices)) for node, devices in by_node.items()))
        for answer in answers:
            found.update(answer)
        return found

    async def histories(self, device_no: int) -> Sequence[ConnectionHistory]:
        """Return what each node knows of a device."""
        answers = await asyncio.gather(*(self._question(node, {"history": device_no}) for node in self._peers()))
        return [history for answer in answers if (history := _history(answer)) is not None]

    async def online_of(self, app_no: int) -> int:
        """Count the devices of an app that are connected to other nodes."""
        answers = await asyncio.gather(*(self._question(node, {"online": app_no}) for node in self._peers()))
        return sum(answer for answer in answers if is_number(answer))

    async def online_by_app(self) -> Mapping[int, int]:
        """Count the devices that are connected to other nodes, by app: the ANSWERED_APPS with the most of each."""
        answers = await asyncio.gather(*(self._question(node, {"apps": ANSWERED_APPS}) for node in self._peers()))
        found: Counter[int] = Counter()
        for answer in answers:
            for one in answer[:ANSWERED_APPS] if isinstance(answer, list) else ():
                match one:
                    case [app_no, online] if is_number(app_no) and is_number(online):
                        found[app_no] += online
        return found

    async def answer(self, body: bytes) -> bytes:
        """Answer a peer. Raises MalformedQuestion."""
        try:
            ((kind, about),) = json.loads(body).items()
        except (ValueError, AttributeError, RecursionError) as error:
            raise MalformedQuestion(f"this asks for no connections: {error}") from None
        here = self._here()
        found: Any
        match kind, about:
            case "presence", list() if len(about) <= QUESTION_DEVICES and all(map(is_number, about)):
                presences = ((device_no, here.presence(device_no)) for device_no in about)
                found = [(device_no, one.connected_at, one.address) for device_no, one in presences if one.online]
            case "history", int() if is_number(about):
                found = here.history(about)
            case "online", int() if is_number(about):
                found = here.online_here(about)
            case "apps", int() if is_number(about):
                found = Counter(here.online_by_app_here()).most_common(min(about, ANSWERED_APPS))
            case _:
                raise MalformedQuestion("connections are asked for by device, or by app")
        return json.dumps(found).encode()

    async def _presences_at(self, node: Node, device_nos: Sequence[int]) -> dict[int, Presence]:
        found: dict[int, Presence] = {}
        for at in range(0, len(device_nos), QUESTION_DEVICES):
            asked = device_nos[at : at + QUESTION_DEVICES]
            answer = await self._question(node, {"presence": asked})
            for one in answer if isinstance(answer, list) else ():
                match one:
                    case [int(device_no), int(connected_at), str(address)] if is_number(connected_at):
                        if device_no in asked and type(device_no) is int:
                            found[device_no] = Presence(True, connected_at, address[:ADDRESS_CHARACTERS])
        return found

    async def _question(self, node: Node, question: dict[str, Any]) -> Any:
        """Ask a peer; None if it does not answer in time, or not with JSON."""
        try:
            return json.loads(await self._ask(node, VERB, json.dumps(question).encode(), ASK_SECONDS))
        except (PeerUnavailable, ValueError, RecursionError):
            return None


def _history(answer: Any) -> ConnectionHistory | None:
    """Read what a peer says of a device; None of what no node says."""
    match answer:
        case [live, int(since), list(disconnects)] if is_number(since) and len(disconnects) <= OF_DEVICE_DISCONNECTS:
            ends = [_disconnect(one) for one in disconnects]
            return ConnectionHistory(_live(live), since, [end for end in ends if end is not None])
    return None


def _live(answer: Any) -> LiveConnection | None:
    match answer:
        case [int(connected_at), str(address), facts, int() | None as granted, int(in_flight)]:
            if not all(map(is_number, (connected_at, granted or 0, in_flight))):
                return None
            known: ConnectionFacts | None = None
            match facts:
                case [int(version), int(keep_alive), str(scheme)] if version in PROTOCOLS and scheme in LISTENERS:
                    known = ConnectionFacts(version, keep_alive, scheme)
            return LiveConnection(connected_at, address[:ADDRESS_CHARACTERS], known, granted, in_flight)
    return None


def _disconnect(answer: Any) -> Disconnect | None:
    match answer:
        case [int(at), int(lasted_ms), str(reason), str(detail)] if is_number(at) and is_number(lasted_ms):
            if reason in WORDS:
                return Disconnect(at, lasted_ms, reason, detail[:MAX_DETAIL_CHARACTERS])
    return None
