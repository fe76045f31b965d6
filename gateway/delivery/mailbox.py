"""The mailbox: from the delivery rows of a device to its connection, in order.

A device that is away costs nothing here: its mailbox is rows. A connected device has a `Slot`, whose lane says how
its next push travels:

    CLOSED    connected but not able to take pushes (no subscription, or its inflight messages are still being judged)
    READING   a page of its mailbox is being read
    OPEN      its mailbox is empty: what is accepted goes from group commit to socket without being read back
    FULL      the carrier had no room; the rest waits on disk until it says `ready`

Laws
1. Order per device and priority. A page is read in drain order, and the fast lane opens only when a page said there
   is no more; a hand-over that fails closes it. Pushes accepted meanwhile are on disk, hence on a later page.
2. Nothing is handed over twice: `ActivePush.sent` is consulted at the moment of hand-over, on the loop (see the
   ledger's fourth law for why this is enough), and nothing after its ttl or its recall. An offer that is still under
   way (`offers`) leaves out a device whose mailbox was read after the push was stored: `Slot.read_to`.
3. From hand-over to socket nothing awaits: `_offer_slice` and `_hand_over` are one call stack into the carrier.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from gateway.auth import DeviceIdentity
from gateway.delivery.device_facts import DeviceFacts
from gateway.delivery.device_topics import DEFAULT_APP, device_topic
from gateway.delivery.engine import ACKNOWLEDGED, COMPLETED, LOST, Body, Engine, Message, ReasonCode
from gateway.delivery.ledger import (
    DEVICE_BITS,
    DEVICE_MASK,
    RETRY_SECONDS,
    Ledger,
    handle_of,
    last_push_no,
    revoke_rows,
)
from gateway.delivery.offers import Offers
from gateway.delivery.push import ActivePush, load_pushes
from gateway.delivery.states import DeliveryState
from gateway.store.protocols import Timers, Writer

log = logging.getLogger(__name__)


READ_BYTES = 16 * 1024 * 1024
"""Wire payload that one operation reads from mailboxes: bounds what a mass reconnect takes of memory and of the loop.
The devices that found no place in it are read by the next."""


class Lane(Enum):
    CLOSED = "closed"
    READING = "reading"
    OPEN = "open"
    FULL = "full"


@dataclass(slots=True, eq=False)
class Slot:
    """A connected device."""

    client_id: str
    device_no: int
    app_no: int
    topic: str
    connected_at: int
    deliver: Callable[[Message, int], bool]
    """The carrier's outlet."""
    granted: int = 0
    """QoS of its subscription to its push topic."""
    room: int = 0
    lane: Lane = Lane.CLOSED
    read_to: int = 0
    """The last push that was stored when its mailbox was read last; what is later comes by an offer."""


@dataclass(slots=True, frozen=True)
class Presence:
    online: bool
    connected_at: int | None
    """Milliseconds; None while offline."""


class Mailbox:
    """Hands deliveries to the engine; is the engine's events. `clock` gives server time in milliseconds."""

    def __init__(
        self, database: Writer, ledger: Ledger, facts: DeviceFacts, clock: Callable[[], int], timers: Timers
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._facts = facts
        self._clock = clock
        self._timers = timers
        self._engine: Engine
        self._slots: dict[str, Slot] = {}
        self._by_device: dict[int, Slot] = {}
        self._identities: dict[str, DeviceIdentity] = {}
        self._exactly_once: dict[int, str] = {}
        self._to_read: dict[int, Slot] = {}
        self._read_scheduled = False
        self._offers = Offers()
        self._offer_scheduled = False
        self._message = Message(topic="", body=Body(payload=b""))
        self.on_published: Callable[[str, DeviceIdentity | None, Message, Callable[[int], None]], None]
        """What a device says; set by the composition root to `Receipts.published`."""
        self.on_revoked: Callable[[], None] = lambda: None
        """Set by the composition root to `DeviceAuthenticator.forget`."""
        ledger.on_recorded = self._recorded
        ledger.on_ended = self._ended
        ledger.act_now = self._offers.act_now

    def attach(self, engine: Engine) -> None:
        """Give the mailbox its carrier. Deliveries past PUBREC before a restart are in flight from here on."""
        self._engine = engine

    async def recover(self) -> None:
        """After a restart, before the first connection: what the engine still holds cannot be handed over again."""
        for principal in await self._strangers():
            self._engine.remove_session(principal, lambda: None)
        held = self._engine.held()
        await self._ledger.recover([handle for _, handle in held])
        if not held:
            return
        numbers = {handle >> DEVICE_BITS for _, handle in held}
        for push in await self._database.write(lambda connection: load_pushes(connection, numbers)):
            self._ledger.pushes.add(push)
        for client_id, handle in held:
            found = self._ledger.pushes.get(handle >> DEVICE_BITS)
            if found is None:  # the push left by retention: nothing to record
                self._engine.forget(client_id, handle)
            else:
                found.sent.add(handle & DEVICE_MASK)

    async def _strangers(self) -> list[str]:
        """Whose session is stored although there is no such device: it was removed, and a kill came in between."""
        principals = self._engine.principals()

        def read(connection: sqlite3.Connection) -> list[str]:
            return [
                principal
                for (principal,) in connection.execute(
                    "SELECT session.value FROM json_each(?1) AS session WHERE NOT EXISTS ("
                    " SELECT 1 FROM device AS d JOIN application AS a ON a.no = d.app_no WHERE d.removed_at IS NULL"
                    " AND d.id = substr(session.value, instr(session.value, '/') + 1) AND a.id ="
                    " iif(instr(session.value, '/'), substr(session.value, 1, instr(session.value, '/') - 1), ?2))",
                    (json.dumps(principals), DEFAULT_APP),
                )
            ]

        return await self._database.write(read) if principals else []

    # -- accepted pushes -------------------------------------------------------------------------------------------

    def offer(self, accepted: Iterable[tuple[ActivePush, Sequence[int]]]) -> None:
        """Pushes were accepted for these devices: hand them over where the lane is open, leave them on disk elsewhere.

        The first slice at once, the rest in the next turns of the loop.
        """
        for push, device_nos in accepted:
            self._offers.add(push, device_nos)
        if not self._offer_scheduled:
            self._offer_slice()

    def _offer_slice(self) -> None:
        for push, device_nos, overtakes in self._offers.take():
            self._offer(push, device_nos, overtakes)
        self._offer_scheduled = bool(self._offers)
        if self._offer_scheduled:
            self._timers.call_soon(self._offer_slice)

    def _offer(self, push: ActivePush, device_nos: Sequence[int], overtakes: bool = False) -> None:  # Hot path.
        push = self._ledger.pushes.add(push)
        now = self._clock()
        act_now = push.ttl == 0
        if self._ledger.is_recalled(push) or not (act_now or push.expires_at > now):
            return
        slots = self._by_device
        lane_open = Lane.OPEN
        push_no = push.no
        handle = push_no << DEVICE_BITS
        sent = push.sent
        unacknowledged = push.qos == 0
        message = self._message
        message.body = push.body(now)
        message.qos = push.qos
        missed: list[int] = []
        for device_no in device_nos:
            slot = slots.get(device_no)
            if slot is not None and slot.lane is lane_open:
                if slot.read_to >= push_no:
                    continue
                if overtakes:
                    for earlier in self._offers.overtaken(push, device_no):
                        self._offer(earlier, (device_no,))
                    message.body = push.body(now)
                    message.qos = push.qos
                    if slot.lane is not lane_open:
                        if act_now:
                            missed.append(handle_of(push_no, device_no))
                        continue
                if device_no in sent:
                    continue
                # The same as `_hand_over`, without a call for each of ten thousand devices.
                sent.add(device_no)
                message.topic = slot.topic
                if slot.deliver(message, handle | device_no):
                    if unacknowledged or not slot.granted:
                        self._handed_over(push, device_no)
                    continue
                self._ledger.pushes.settle(push, (device_no,))
                slot.lane = Lane.FULL
            if act_now:
                missed.append(handle_of(push_no, device_no))
        if missed:
            self._ledger.end(missed, DeliveryState.EXPIRED, "ttl")

    def _hand_over(self, slot: Slot, push: ActivePush, message: Message) -> bool:
        device_no = slot.device_no
        sent = push.sent
        if device_no in sent:
            return True
        sent.add(device_no)
        message.topic = slot.topic
        if slot.deliver(message, push.no << DEVICE_BITS | device_no):
            if push.qos == 0 or not slot.granted:
                self._handed_over(push, device_no)
            return True
        self._ledger.pushes.settle(push, (device_no,))
        return False

    def _handed_over(self, push: ActivePush, device_no: int) -> None:
        """Nobody will ever acknowledge it; unless it was too large, that is all."""
        if device_no in push.sent:
            self._ledger.acknowledged(push.no, device_no, 0)

    # -- engine events ---------------------------------------------------------------------------------------------

    def connected(self, client_id: str, identity: object, session_present: bool) -> None:
        assert isinstance(identity, DeviceIdentity), "the authenticator attaches it"
        self._identities[client_id] = identity
        now = self._clock()
        self._facts.seen(identity.device_no, now)
        if client_id != identity.client_id:
            return  # a side connection: publishes only
        slot = Slot(
            client_id=client_id,
            device_no=identity.device_no,
            app_no=identity.app_no,
            topic=device_topic(identity.app_id, identity.device_id, "push"),
            connected_at=now,
            deliver=self._engine.outlet(client_id),
        )
        self._slots[client_id] = slot
        self._by_device[identity.device_no] = slot
        self._facts.connected(identity.device_no, now)

    def disconnected(self, client_id: str, reason: str) -> None:
        identity = self._identities.pop(client_id, None)
        slot = self._slots.pop(client_id, None)
        if slot is not None:
            slot.lane = Lane.CLOSED
            self._by_device.pop(slot.device_no, None)
        if identity is not None:
            self._facts.seen(identity.device_no, self._clock())

    def ready(self, client_id: str, room: int) -> None:
        slot = self._slots.get(client_id)
        if slot is None:
            return
        granted = self._engine.granted_qos(client_id, slot.topic)
        if granted is None:
            slot.lane = Lane.CLOSED
            return
        slot.granted = granted
        slot.room = room
        if slot.lane is Lane.CLOSED or slot.lane is Lane.FULL:
            self._read(slot)

    def settled(self, client_id: str, handle: int, outcome: int) -> None:  # Hot path.
        if outcome == ACKNOWLEDGED:
            self._ledger.acknowledged(handle >> DEVICE_BITS, handle & DEVICE_MASK, 1)
        elif outcome == COMPLETED:
            self._exactly_once[handle] = client_id
            self._ledger.acknowledged(handle >> DEVICE_BITS, handle & DEVICE_MASK, 2)
        elif outcome == LOST:
            self._ledger.lost(handle >> DEVICE_BITS, handle & DEVICE_MASK)
        else:
            self._ledger.refused(handle >> DEVICE_BITS, handle & DEVICE_MASK, outcome)

    def resume(self, client_id: str, handles: Sequence[int], done: Callable[[Mapping[int, Message]], None]) -> None:
        slot = self._slots.get(client_id)
        if slot is None:
            done({})
            return

        def judged(alive: list[int], loaded: list[ActivePush]) -> None:
            if self._slots.get(client_id) is not slot:
                done({})
                return
            found = {push.no: push for push in loaded}
            for no in {handle >> DEVICE_BITS for handle in alive} - found.keys():
                present = self._ledger.pushes.get(no)
                if present is None:  # it was in memory when it was judged, and is not any more
                    self._ledger.judge(list(handles), judged)
                    return
                found[no] = present
            now = self._clock()
            messages: dict[int, Message] = {}
            for handle in alive:
                push = self._ledger.pushes.add(found[handle >> DEVICE_BITS])
                if self._ledger.is_recalled(push) or push.expires_at <= now:
                    continue
                push.sent.add(handle & DEVICE_MASK)
                messages[handle] = Message(topic=slot.topic, body=push.body(now), qos=push.qos)
            done(messages)

        self._ledger.judge(list(handles), judged)

    def published(self, client_id: str, message: Message, done: Callable[[int], None]) -> None:
        self.on_published(client_id, self._identities.get(client_id), message, done)

    def _ended(self, handles: list[int]) -> None:
        """Waiting deliveries have ended on disk before anybody was offered them."""
        if self._offers:
            self._offers.withdraw((handle >> DEVICE_BITS, handle & DEVICE_MASK) for handle in handles)

    def _recorded(self, handles: list[int]) -> None:
        for handle in handles:
            client_id = self._exactly_once.pop(handle, None)
            if client_id is not None:
                self._engine.forget(client_id, handle)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _read(self, slot: Slot) -> None:
        """Read the next page of a mailbox; the devices that turn up in one turn of the loop are read together."""
        slot.lane = Lane.READING
        self._to_read[slot.device_no] = slot
        if not self._read_scheduled:
            self._read_scheduled = True
            self._timers.call_soon(self._read_pages)

    def _read_pages(self) -> None:
        self._read_scheduled = False
        slots, self._to_read = list(self._to_read.values()), {}
        # One more than there is room for: the hand-over that fails is what makes the carrier say `ready` again.
        wanted = [(slot.device_no, slot.room + 1) for slot in slots]
        now = self._clock()
        ledger = self._ledger

        def operation(connection: sqlite3.Connection) -> tuple[int, list[_Page], list[ActivePush]]:
            pages: list[_Page] = []
            budget = READ_BYTES
            for device_no, room in wanted:
                if budget <= 0:
                    break
                page = page_rows(connection, device_no, room, budget, ledger.is_sent, now)
                budget -= page.size
                pages.append(page)
            missing = {no for page in pages for no in page.push_nos if ledger.pushes.get(no) is None}
            return last_push_no(connection), pages, load_pushes(connection, missing) if missing else []

        def on_commit(found: tuple[int, list[_Page], list[ActivePush]]) -> None:
            read_to, pages, loaded = found
            unknown = {push.no: push for push in loaded}
            for slot, page in zip(slots, pages, strict=False):
                if slot.lane is Lane.READING and self._slots.get(slot.client_id) is slot:
                    slot.read_to = read_to
                    self._hand_over_page(slot, page.push_nos, page.is_last, unknown)
            self._read_again(slots[len(pages) :])

        def on_error(error: BaseException) -> None:
            log.error("mailboxes cannot be read, trying again: %s", error)
            self._timers.call_later(RETRY_SECONDS, lambda: self._read_again(slots))

        self._database.submit(operation, on_commit, on_error)

    def _read_again(self, slots: list[Slot]) -> None:
        for slot in slots:
            if slot.lane is Lane.READING and self._slots.get(slot.client_id) is slot:
                self._read(slot)

    def _hand_over_page(self, slot: Slot, page: list[int], last: bool, unknown: dict[int, ActivePush]) -> None:
        pushes = self._ledger.pushes
        message = self._message
        now = self._clock()
        for no in page:
            push = pushes.get(no)
            if push is None:
                found = unknown.get(no)
                if found is None:  # it was in memory when the page was read, and is not any more
                    self._read(slot)
                    return
                push = pushes.add(found)
            if push.expires_at <= now or self._ledger.is_recalled(push):
                continue
            message.body = push.body(now)
            message.qos = push.qos
            if not self._hand_over(slot, push, message):
                slot.lane = Lane.FULL
                return
        if last:
            slot.lane = Lane.OPEN
        else:
            self._read(slot)

    # -- commands --------------------------------------------------------------------------------------------------

    def presence(self, device_no: int) -> Presence:
        slot = self._by_device.get(device_no)
        return Presence(slot is not None, slot.connected_at if slot is not None else None)

    def online_devices(self, app_no: int) -> list[int]:
        return [slot.device_no for slot in self._slots.values() if slot.app_no == app_no]

    @property
    def online(self) -> int:
        return len(self._slots)

    async def remove_device(
        self, device_no: int, client_id: str, forget_device: Callable[[sqlite3.Connection, int], None]
    ) -> int:
        """Remove a device: `forget_device(connection, now)` and the end of its deliveries are one commit.

        Then its connections are closed and its session is deleted, on disk too: who enrols the id again after a crash
        must not find it. How many deliveries ended `revoked`.
        """
        self._ledger.flush()
        now = self._clock()

        def operation(connection: sqlite3.Connection) -> int:
            forget_device(connection, now)
            return revoke_rows(connection, device_no, now)

        revoked = await self._database.write(operation)
        forgotten = asyncio.Event()
        self._engine.remove_session(client_id, forgotten.set)
        self.disconnect_device(client_id, ReasonCode.ADMINISTRATIVE_ACTION)
        await forgotten.wait()
        return revoked

    def disconnect_device(self, client_id: str, reason_code: int = ReasonCode.NOT_AUTHORIZED) -> int:
        """Close all connections of a device, side connections included, and let nobody in who was looked up before.

        Its token was rotated, or it was removed: that is on disk.
        """
        self.on_revoked()
        return self._engine.disconnect(client_id, reason_code)


# -- on the writer thread ----------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class _Page:
    """The next push numbers of a mailbox, in drain order."""

    push_nos: list[int]
    size: int
    """Bytes of wire payload."""
    is_last: bool
    """Nothing more was waiting."""


def page_rows(
    connection: sqlite3.Connection,
    device_no: int,
    room: int,
    budget: int,
    is_sent: Callable[[int, int], bool],
    now: int,
) -> _Page:
    """Up to `room` pushes, and not many more bytes than `budget`: by priority, oldest first; nothing in flight or
    over."""
    page: list[int] = []
    total = 0
    for push_no, size in connection.execute(
        "SELECT d.push_no, d.size FROM delivery AS d INDEXED BY delivery_mailbox JOIN push AS p ON p.no = d.push_no"
        " WHERE d.device_no = ? AND d.state = 0 AND p.expires_at > ? ORDER BY d.priority, d.push_no",
        (device_no, now),
    ):
        if not is_sent(push_no, device_no):
            page.append(push_no)
            total += size
            if len(page) >= room or total >= budget:
                return _Page(page, total, is_last=False)
    return _Page(page, total, is_last=True)
