"""Take-over of devices between nodes: who connects is served by one node, which has its session.

    CONNECT ─▶ authenticated ─▶ claim: the row says who serves it ─▶ ours ─▶ session loaded ─▶ adopted ─▶ answered
                                       └─ another node's ─▶ asked to yield ─▶ moved ─▶ session loaded ─▶ …

Laws
1. Nothing of it happens before the credential is proved, and nothing to side connections: those only publish.
2. A device is answered after its row names this node, on disk. The node that it names is the only one that moves it to
   a live node, and does so when nothing of the device is left with it: disconnected (0x8E), its acknowledgements
   stored, its session released. While that goes on it lets the device in no more.
3. One claim for each device at a time: a CONNECT that comes meanwhile shares it, and they are answered in order. Two
   nodes that want a device at once ask whom the row names, and nobody waits for who waits.
4. A claim ends: with the answer, or a moment before the broker would give up waiting, with 0x88. They are bounded as
   handshakes are (`Broker.is_busy`).
5. A credential that became void while its device was claimed is looked up again.

Devices that connect while a claim is under way share the next: one statement for up to BATCH_DEVICES. Runs on the loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, cast

from broker.authorization import Accepted, Authenticator, Credentials, Exchange, Refused
from broker.broker import Broker
from broker.protocol.packets import ReasonCode
from broker.store import StoredState
from gateway.nodes.membership import Membership
from gateway.nodes.peer_client import PeerClient, PeerUnavailable
from gateway.nodes.peer_routes import BODY_BYTES, MalformedQuestion, PeerVerbs
from gateway.store.app_locks import NO_APP
from gateway.store.database import Database
from gateway.store.nodes.broker_sessions import LoadedSessions, SharedSessionStore, load_sessions
from gateway.store.nodes.connections import ServingNode, claim_devices, hand_over_devices
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

VERB: Final = "yield"
BATCH_DEVICES: Final = 2_000
"""Devices that one statement claims; more wait for the next, so that the loop is never held long."""
YIELD_SECONDS: float = 1.0
"""Time for a node to yield, after which it is asked again."""
RETRY_SECONDS: float = 0.1
"""Time until a device is claimed again that could not be moved: its node did not answer, or was busy with it."""
GIVE_UP_SECONDS: Final = 0.5
"""Time by which a claim is given up before the broker's connect timeout, so that the client is told when to come."""
RELEASE_SECONDS: float = 3.0
"""Time for the sessions of a question to be stored, less than a node takes to answer (`peer_routes.ANSWER_SECONDS`)."""
_UNAVAILABLE: Final = Refused(ReasonCode.SERVER_UNAVAILABLE, "its node did not give it up in time")


class RevocationCounter(Authenticator, Protocol):
    """An authenticator of devices that says whether credentials have become void."""

    @property
    def revocations(self) -> int:
        """Number of times that credentials have become void."""


class AuthenticatedDevice(Protocol):
    """The identity of a device that was accepted."""

    @property
    def device_no(self) -> int: ...


@dataclass(slots=True, frozen=True)
class DeliveryCalls:
    """The calls to the deliveries of this node when devices come and go."""

    flush: Callable[[], None]
    """Has what was reported so far written before what is written next, if the disk does not refuse it."""
    confirm: Callable[[], Awaitable[bool]]
    """Has what was reported so far stored; False: something was refused, and is tried again. Raises StorageError."""
    note_held: Callable[[Sequence[tuple[str, int]], Iterable[int]], Awaitable[list[tuple[str, int]]]]
    """Told what is past PUBREC in sessions that come (client and handle), and what was interrupted by a node's end;
    answers what of the former is to be forgotten."""


@dataclass(slots=True, frozen=True)
class _Waiting:
    """A CONNECT that waits for the claim of its device."""

    credentials: Credentials
    accepted: Accepted
    answer: Callable[[Accepted | Refused], None]
    revocations: int


@dataclass(slots=True, eq=False)
class _Claim:
    """A device on its way to this node."""

    device_no: int
    client_id: str
    deadline: float
    """Seconds of the loop's clock."""
    waiting: list[_Waiting] = field(default_factory=list)


class Takeover:
    """An `Authenticator` before which a device is claimed, and the answers to nodes that want one. Loop."""

    def __init__(
        self,
        *,
        sessions: SharedSessionStore,
        database: Database,
        membership: Membership,
    ) -> None:
        self._sessions = sessions
        self._database = database
        self._membership = membership
        self._loop = asyncio.get_running_loop()
        self._authenticator: RevocationCounter
        self._peers: PeerClient
        self._broker: Broker
        self._delivery: DeliveryCalls
        self._claims: dict[int, _Claim] = {}
        self._queue: list[_Claim] = []
        self._is_claiming = False
        self._yielding: set[int] = set()
        """Devices that another node is given; who of them connects here waits until that has been done."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.claimed = 0
        """Devices that were claimed, for metrics."""
        self.yielded = 0
        """Devices that were given to other nodes."""
        self.given_up = 0
        """Claims that have ended without an answer in time."""

    def connect(
        self,
        broker: Broker,
        delivery: DeliveryCalls,
        authenticator: RevocationCounter,
        peers: PeerClient,
        verbs: PeerVerbs,
    ) -> None:
        """Connect to the components that are made later; once, before the first connection."""
        self._broker, self._delivery = broker, delivery
        self._authenticator, self._peers = authenticator, peers
        verbs.add(VERB, self.answer)

    @property
    def waiting(self) -> int:
        """Number of devices that are being claimed."""
        return len(self._claims)

    async def end(self) -> None:
        """End what is under way; the broker takes no connections any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- `Authenticator` -----------------------------------------------------------------------------------------------

    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        self._authenticator.authenticate(credentials, partial(self._authenticated, credentials, answer))

    def exchange(self, method: str, credentials: Credentials) -> Exchange | None:
        return self._authenticator.exchange(method, credentials)

    def _authenticated(
        self, credentials: Credentials, answer: Callable[[Accepted | Refused], None], answered: Accepted | Refused
    ) -> None:
        if isinstance(answered, Refused) or not answered.persistent:
            answer(answered)
            return
        device_no = cast(AuthenticatedDevice, answered.identity).device_no
        client_id = credentials.client_id
        claim = self._claims.get(device_no)
        is_here = device_no not in self._yielding and self._broker.is_connected(client_id)
        if claim is None and is_here and self._membership.may_serve():
            answer(answered)  # it takes its own place over
            return
        if claim is None:
            claim = self._begin(device_no, client_id)
        claim.waiting.append(_Waiting(credentials, answered, answer, self._authenticator.revocations))

    def claim_due(self, devices: Iterable[tuple[int, str]]) -> None:
        """Claim devices (number and client) whose session is due, for the broker to see to; they are away."""
        for device_no, client_id in devices:
            is_busy = device_no in self._claims or device_no in self._yielding
            if not is_busy and client_id not in self._broker.sessions:
                self._begin(device_no, client_id)

    def _begin(self, device_no: int, client_id: str) -> _Claim:
        patience = self._broker.settings.connect_timeout - GIVE_UP_SECONDS
        claim = self._claims[device_no] = _Claim(device_no, client_id, self._loop.time() + patience)
        self._enqueue((claim,))
        return claim

    # -- claims --------------------------------------------------------------------------------------------------------

    def _enqueue(self, claims: Iterable[_Claim]) -> None:
        """Claim devices with the next batch, but for those whose time is over."""
        for claim in claims:
            if self._loop.time() >= claim.deadline:
                self.given_up += 1
                self._answer(claim, _UNAVAILABLE)
            elif claim.device_no not in self._yielding:  # or when that has been done
                self._queue.append(claim)
        if self._queue and not self._is_claiming:
            self._is_claiming = True
            self._loop.call_soon(self._claim_batch)

    def _claim_batch(self) -> None:
        claims, self._queue = self._queue[:BATCH_DEVICES], self._queue[BATCH_DEVICES:]
        claims = [claim for claim in claims if claim.device_no not in self._yielding]
        own = self._membership.own
        clients = {claim.device_no: claim.client_id for claim in claims}

        def operation(transaction: Transaction) -> tuple[Mapping[int, ServingNode], LoadedSessions]:
            elsewhere = claim_devices(transaction, clients, own.no, own.epoch)
            ours = [client_id for device_no, client_id in clients.items() if device_no not in elsewhere]
            return elsewhere, load_sessions(transaction, ours, own.no, own.epoch)

        self._sessions.run(operation, partial(self._claimed, claims))

    def _claimed(self, claims: list[_Claim], found: tuple[Mapping[int, ServingNode], LoadedSessions]) -> None:
        elsewhere, loaded = found
        self._is_claiming = False
        self._enqueue(())
        self._admit([claim for claim in claims if claim.device_no not in elsewhere], loaded)
        by_node: dict[tuple[int, int], list[tuple[_Claim, int]]] = {}
        for claim in claims:
            serving = elsewhere.get(claim.device_no)
            if serving is not None:
                by_node.setdefault((serving.no, serving.epoch), []).append((claim, serving.generation))
        for (no, epoch), asked in by_node.items():
            self._start(self._ask_node(no, epoch, asked))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- devices that are this node's ----------------------------------------------------------------------------------

    def _admit(self, claims: list[_Claim], loaded: LoadedSessions) -> None:
        """Adopt the sessions of devices that this node serves, and answer them."""
        self.claimed += len(claims)
        busy = [claim for claim in claims if claim.client_id in loaded.elsewhere]
        self._try_again(busy)  # a node is about to end it, or to publish its will
        state = loaded.state
        held: dict[str, list[tuple[str, int]]] = {}
        interrupted = []
        for session in state.sessions:
            for row in session.outbound:
                if row.handle is None or row.qos != 2:
                    continue
                if row.released:
                    held.setdefault(session.client_id, []).append((session.client_id, row.handle))
                elif session.client_id in loaded.interrupted:
                    interrupted.append(row.handle)
        ready = [claim for claim in claims if claim.client_id not in loaded.elsewhere]
        if not held and not interrupted:
            self._adopt(ready, state)
            return
        rows = [row for of_client in held.values() for row in of_client]
        self._start(self._note_held_and_adopt(ready, state, rows, interrupted))

    async def _note_held_and_adopt(
        self, claims: list[_Claim], state: StoredState, held: list[tuple[str, int]], interrupted: list[int]
    ) -> None:
        try:
            unknown = await self._delivery.note_held(held, interrupted)
        except Exception as error:  # above all a database that is away
            log.warning("what devices have not acknowledged cannot be loaded, trying again: %s", error)
            self._try_again(claims)
            return
        self._adopt(claims, state, unknown)

    def _adopt(self, claims: list[_Claim], state: StoredState, unknown: Iterable[tuple[str, int]] = ()) -> None:
        here = self._broker.sessions
        # Those that are here were about to be released.
        state.sessions = [session for session in state.sessions if session.client_id not in here]
        self._broker.adopt(state)
        for client_id, handle in unknown:
            self._broker.forget(client_id, handle)
        for claim in claims:
            self._answer(claim, None)

    def _answer(self, claim: _Claim, refused: Refused | None) -> None:
        """Answer everybody who waits for a device, in order."""
        del self._claims[claim.device_no]
        for waiting in claim.waiting:
            try:
                if refused is not None:
                    waiting.answer(refused)
                elif waiting.revocations != self._authenticator.revocations:
                    self.authenticate(waiting.credentials, waiting.answer)
                else:
                    waiting.answer(waiting.accepted)
            except Exception:  # the others wait as well
                log.exception("an answer to a CONNECT failed")
        if claim.client_id in self._broker.sessions and not self._broker.is_connected(claim.client_id):
            self._broker.release(claim.client_id, _note_nothing)

    def _try_again(self, claims: list[_Claim]) -> None:
        if claims:
            self._loop.call_later(RETRY_SECONDS, self._enqueue, claims)

    # -- devices that are another node's -------------------------------------------------------------------------------

    async def _ask_node(self, no: int, epoch: int, asked: list[tuple[_Claim, int]]) -> None:
        """Ask the node that serves devices to yield them, and load what it has yielded."""
        node = next((node for node in self._membership.peers() if (node.no, node.epoch) == (no, epoch)), None)
        for part in _parts(asked):
            claims = [claim for claim, _ in part]
            moved: set[int] = set()
            try:
                if node is not None:  # or it has ended, or begun a moment ago
                    moved = _read_moved(await self._peers.ask(node, VERB, self._question(part), YIELD_SECONDS))
            except PeerUnavailable:
                pass  # it is asked again, until it answers or its lease has ended
            except (ValueError, TypeError, KeyError) as error:
                log.warning("node %d has answered what is no answer: %s", no, error)
            ours = [claim for claim in claims if claim.device_no in moved]
            if ours:
                self._sessions.load([claim.client_id for claim in ours], partial(self._admit, ours))
            left = [claim for claim in claims if claim.device_no not in moved]
            self._try_again([claim for claim in left if claim.waiting])
            for claim in left:
                if not claim.waiting:  # it was due, and may be so no more; whoever looks for those finds it again
                    self._answer(claim, _UNAVAILABLE)

    def _question(self, part: list[tuple[_Claim, int]]) -> bytes:
        own = self._membership.own
        devices = [[claim.device_no, generation, claim.client_id] for claim, generation in part]
        away = [claim.device_no for claim, _ in part if not claim.waiting]
        question = {"node": [own.no, own.epoch], "devices": devices, "away": away}
        return json.dumps(question, separators=(",", ":")).encode()

    # -- answers to other nodes ----------------------------------------------------------------------------------------

    async def answer(self, body: bytes) -> bytes:
        """Yield devices to a node that asks (`POST /nodes/yield`), and answer with those that it serves from now on.

        Raises MalformedQuestion, StorageError.
        """
        other, asked, away = _read_question(body)
        # Who is being claimed or yielded here is not given away: the row decides, and it is asked again.
        wanted = {
            device_no: client_id
            for device_no, (_, client_id) in asked.items()
            if device_no not in self._claims
            and device_no not in self._yielding
            and not (device_no in away and self._broker.is_connected(client_id))
        }
        self._yielding |= wanted.keys()
        try:
            released = await self._release(wanted)
            if not await self._delivery.confirm():
                released = set()  # what it has acknowledged would be handed to it once more; it is asked for again
            own = self._membership.own
            generations = {device_no: asked[device_no][0] for device_no in sorted(released)}
            moved = await self._database.write(
                partial(hand_over_devices, asked=generations, own=(own.no, own.epoch), other=other), apps=NO_APP
            )
        finally:
            self._yielding -= wanted.keys()
            self._enqueue([self._claims[device_no] for device_no in wanted if device_no in self._claims])
        self.yielded += len(moved)
        return json.dumps({"moved": moved}, separators=(",", ":")).encode()

    async def _release(self, wanted: Mapping[int, str]) -> set[int]:
        """Disconnect devices, and wait until their sessions are stored; those that are, in time."""
        released: set[int] = set()
        every: asyncio.Future[None] = self._loop.create_future()

        def note(device_no: int) -> None:
            released.add(device_no)
            if len(released) == len(wanted) and not every.done():
                every.set_result(None)

        for device_no, client_id in wanted.items():
            self._broker.release(client_id, partial(note, device_no))
        self._delivery.flush()
        if len(released) < len(wanted):
            await asyncio.wait((every,), timeout=RELEASE_SECONDS)
        return set(released)


def _note_nothing() -> None:
    """Stand in for a callback of a release that nobody waits for."""


def _parts(asked: list[tuple[_Claim, int]]) -> Iterable[list[tuple[_Claim, int]]]:
    """Parts of a question that are small enough for one."""
    part: list[tuple[_Claim, int]] = []
    size = 0
    for claim, generation in asked:
        # Three numbers of at most 19 digits, and a client identifier that JSON may write with escapes.
        of_one = 68 + len(json.dumps(claim.client_id))
        if part and size + of_one > BODY_BYTES - 128:
            yield part
            part, size = [], 0
        part.append((claim, generation))
        size += of_one
    yield part


def _read_question(body: bytes) -> tuple[tuple[int, int], dict[int, tuple[int, str]], set[int]]:
    """The node that asks, generation and client of each device, and the devices that are not to be disconnected for it,
    since only their session is due. Raises MalformedQuestion."""
    try:
        question = json.loads(body)
        no, epoch = question["node"]
        asked = {int(device_no): (int(generation), str(name)) for device_no, generation, name in question["devices"]}
        return (int(no), int(epoch)), asked, {int(device_no) for device_no in question.get("away", ())}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedQuestion(f"no devices to yield: {error}") from error


def _read_moved(answer: bytes) -> set[int]:
    """Raises ValueError, TypeError, KeyError."""
    return {int(device_no) for device_no in json.loads(answer)["moved"]}
