"""The mailbox: from the delivery rows of a device to its connection, in order.

A device that is away costs nothing here: its mailbox is rows. A connected device has a `Slot` (`drain` says in which
states); what waits for it is read by `drain`, what is accepted for it comes through `fan_out`.

Laws
1. Order per device and priority. A page is read in drain order, and pushes go straight to the socket only when a page
   said that nothing more waits; a hand-over that fails ends that. Pushes accepted meanwhile are on a later page.
2. Nothing is handed over twice: `ActivePush.sent` is consulted at the moment of hand-over, on the loop (see the
   ledger's fourth law for why this is enough), and nothing after its ttl or its recall. An offer that is still under
   way (`fan_out`) leaves out a device whose mailbox was read after the push was stored: `Slot.read_to`.
3. From hand-over to socket nothing awaits: `_offer_slice` and `_hand_over_page` are one call stack into the carrier.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.auth import DeviceIdentity
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.drain import Drain, Lane, Slot
from gateway.delivery.engine import ACKNOWLEDGED, COMPLETED, LOST, UNHANDLED, Body, Engine, Message, ReasonCode
from gateway.delivery.fan_out import BUNDLE_BYTES, FanOutQueue
from gateway.delivery.handles import DEVICE_BITS, DEVICE_MASK, handle_of
from gateway.delivery.latency import LatencyHistogram
from gateway.delivery.ledger import Ledger
from gateway.delivery.ledger_statements import ENDED_TOGETHER, revoke_removed_rows, revoke_rows
from gateway.delivery.push import ActivePush, load_pushes
from gateway.delivery_states import DeliveryState
from gateway.device_topics import DEFAULT_APP, device_topic
from gateway.device_topics import client_id as client_id_of
from gateway.store.protocols import Timers, Writer

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Presence:
    online: bool
    connected_at: int | None
    """Milliseconds; None while offline."""
    address: str | None
    """HOST:PORT; None while offline."""


class Mailbox:
    """Hands deliveries to the engine; is the engine's events. `clock` gives server time in milliseconds."""

    def __init__(
        self,
        *,
        database: Writer,
        ledger: Ledger,
        activity: DeviceActivity,
        clock: Callable[[], int],
        timers: Timers,
        on_published: Callable[[str, DeviceIdentity | None, Message, Callable[[int], None], int | None], None],
        on_released: Callable[[str, Sequence[int], Callable[[], None]], None],
        on_connected: Callable[[DeviceIdentity, int], None],
        on_disconnected: Callable[[DeviceIdentity, int, str, str], None],
        on_revoked: Callable[[], None],
    ) -> None:
        """`on_published` and `on_released` take what devices say; `on_connected` and `on_disconnected` are not called
        for side connections; `on_revoked` is called when a credential is void."""
        self._database = database
        self._ledger = ledger
        self._activity = activity
        self._clock = clock
        self._timers = timers
        self._engine: Engine
        self._slots: dict[str, Slot] = {}
        self._by_device: dict[int, Slot] = {}
        self._identities: dict[str, DeviceIdentity] = {}
        self._exactly_once: dict[int, str] = {}
        self._interrupted: set[int] = set()
        """Handles of QoS 2 that were in flight when the last run was killed. What was in flight before them with QoS 1
        waits on disk, so they are not repeated first, but when their mailbox is read."""
        self._drain = Drain(database, ledger, clock, timers, self._hand_over_page, self._count_in_flight)
        self._fan_outs = FanOutQueue()
        self._offer_scheduled = False
        self.latency = LatencyHistogram()
        """From the acceptance of a push to its hand-over to devices that were waiting for it, for metrics."""
        self._message = Message(topic="", body=Body(payload=b""))
        self._on_published, self._on_released = on_published, on_released
        self._on_connected, self._on_disconnected = on_connected, on_disconnected
        self._on_revoked = on_revoked
        self.act_now = self._fan_outs.act_now

    def connect(
        self,
        *,
        engine: Engine,
        on_ready: Callable[[int, bool], None],
        on_returned: Callable[[int, str, str], None],
    ) -> None:
        """Connect the mailbox with those that are made after it; once, before the first push.

        `engine` is its carrier: deliveries past PUBREC before a restart are in flight from here on. `on_ready` is
        called with the device number when a device can take pushes, for the first time on this connection (True) or
        again; `on_returned` the first time only, with device number, app id and device id.
        """
        self._engine, self._on_ready, self._on_returned = engine, on_ready, on_returned

    async def recover(self) -> None:
        """After a restart, before the first connection: what the engine still holds cannot be handed over again."""
        for principal in await self._strangers():
            self._engine.remove_session(principal, lambda: None)
        now = self._clock()
        while await self._database.write(lambda connection: revoke_removed_rows(connection, now)):
            pass
        self._interrupted = set(self._engine.unfinished())
        held = self._engine.past_pubrec()
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

    def is_open(self, device_no: int, priority: int) -> bool:
        """Whether a push accepted now may go straight to the device. If not it is read from the disk in its turn; with
        a ttl of 0 it has ended."""
        slot = self._by_device.get(device_no)
        return slot is not None and priority < slot.drained

    def offer(self, accepted: Iterable[tuple[ActivePush, Sequence[int]]]) -> None:
        """Pushes were accepted for these devices: hand them over where the lane is open, leave them on disk elsewhere.

        The first slice at once, the rest in the next turns of the loop.
        """
        for push, device_nos in accepted:
            self._fan_outs.add(push, device_nos)
        if not self._offer_scheduled:
            self._offer_slice()

    def _offer_slice(self) -> None:
        for pushes, device_nos, overtakes in self._fan_outs.take():
            if len(pushes) == 1:
                self._offer(pushes[0], device_nos, overtakes)
            else:
                self._offer_together(pushes, device_nos)
        self._offer_scheduled = bool(self._fan_outs)
        if self._offer_scheduled:
            self._timers.call_soon(self._offer_slice)

    def _offer(self, push: ActivePush, device_nos: Sequence[int], overtakes: bool = False) -> None:  # Hot path.
        push = self._ledger.pushes.add(push)
        now = self._clock()
        act_now = push.ttl == 0
        if self._ledger.is_recalled(push) or not (act_now or push.expires_at > now):
            return
        slots = self._by_device
        priority = push.priority
        push_no = push.no
        handle = push_no << DEVICE_BITS
        sent = push.sent
        before = len(sent)
        unacknowledged = push.qos == 0
        message = self._message
        message.body = push.body(now)
        message.qos = push.qos
        missed: list[int] = []
        for device_no in device_nos:
            slot = slots.get(device_no)
            if slot is not None and priority < slot.drained:
                if slot.read_to[priority] >= push_no:
                    continue
                if overtakes:
                    for earlier in self._fan_outs.overtaken(push, device_no):
                        self._offer(earlier, (device_no,))
                    message.body = push.body(now)
                    message.qos = push.qos
                    if priority >= slot.drained:
                        if act_now:
                            missed.append(handle_of(push_no, device_no))
                        continue
                if device_no in sent:
                    continue
                # The same as `_hand_over_each`, without a call for each of ten thousand devices.
                sent.add(device_no)
                message.topic = slot.topic
                if slot.deliver(message, handle | device_no):
                    if unacknowledged or not slot.granted:
                        self._handed_over(push, device_no)
                    continue
                self._ledger.pushes.settle(push, (device_no,))
                self._drain.leave(slot, Lane.FULL)
            if act_now:
                missed.append(handle_of(push_no, device_no))
        if handed_over := len(sent) - before:
            self.latency.add(now - push.accepted_at, handed_over)
        if missed:
            self._ledger.end(missed, DeliveryState.EXPIRED, "ttl")

    def _offer_together(self, pushes: list[ActivePush], device_nos: Sequence[int]) -> None:  # Hot path.
        """The same of several pushes to the same devices, all of QoS 1 and none of ttl 0."""
        now = self._clock()
        alive = [
            (push, push.no << DEVICE_BITS, push.sent, push.body(now))
            for push in map(self._ledger.pushes.add, pushes)
            if push.expires_at > now and not self._ledger.is_recalled(push)
        ]
        before = [len(sent) for _, _, sent, _ in alive]
        slots = self._by_device
        engine = self._engine
        priority = pushes[0].priority
        message = self._message
        for device_no in device_nos:
            slot = slots.get(device_no)
            if slot is None or priority >= slot.drained:
                continue
            read_to = slot.read_to[priority]
            if not slot.granted:
                if not self._hand_over_each(slot, [push for push, *_ in alive if push.no > read_to]):
                    self._drain.leave(slot, Lane.FULL)
                continue
            deliver = slot.deliver
            message.topic = slot.topic
            message.qos = 1
            engine.cork(slot.client_id)
            try:
                for push, handle, sent, body in alive:
                    if push.no <= read_to or device_no in sent:
                        continue
                    sent.add(device_no)
                    message.body = body
                    if not deliver(message, handle | device_no):
                        self._ledger.pushes.settle(push, (device_no,))
                        self._drain.leave(slot, Lane.FULL)
                        break
            finally:
                engine.uncork(slot.client_id)
        for (push, _, sent, _), count in zip(alive, before, strict=True):
            if handed_over := len(sent) - count:
                self.latency.add(now - push.accepted_at, handed_over)

    def _hand_over_page(self, slot: Slot, pushes: list[ActivePush]) -> bool:
        """What was read of a mailbox, as far as there is room; False if there was not enough."""
        together = len(pushes) > 1 and sum(push.size for push in pushes) <= BUNDLE_BYTES
        if not together:
            return self._hand_over_each(slot, pushes)
        self._engine.cork(slot.client_id)
        try:
            return self._hand_over_each(slot, pushes)
        finally:
            self._engine.uncork(slot.client_id)

    def _hand_over_each(self, slot: Slot, pushes: list[ActivePush]) -> bool:  # Hot path.
        ledger = self._ledger
        add = ledger.pushes.add
        deliver = slot.deliver
        device_no = slot.device_no
        message = self._message
        message.topic = slot.topic
        now = self._clock()
        for push in pushes:
            push = add(push)
            # What is now or never comes here from the alert limiter only, and is now.
            if (push.expires_at <= now and push.ttl) or device_no in push.sent or ledger.is_recalled(push):
                continue
            push.sent.add(device_no)
            message.body = push.body(now)
            message.qos = push.qos
            if not deliver(message, push.no << DEVICE_BITS | device_no):
                ledger.pushes.settle(push, (device_no,))
                return False
            if push.qos == 0 or not slot.granted:
                self._handed_over(push, device_no)
        return True

    def is_subscribed(self, app_id: str, device_id: str, leaf: str) -> bool:
        """Whether the device is connected and has subscribed to that topic of its own."""
        topic = device_topic(app_id, device_id, leaf)
        name = client_id_of(app_id, device_id)
        return name in self._slots and self._engine.granted_qos(name, topic) is not None

    def is_taking(self, device_no: int) -> bool:
        """Whether the device is connected and subscribed."""
        slot = self._by_device.get(device_no)
        return slot is not None and slot.lane is not Lane.CLOSED

    def read_again(self, device_nos: Iterable[int]) -> None:
        """What is judged in its place waits for these devices: read their mailboxes, if they are connected."""
        for device_no in device_nos:
            slot = self._by_device.get(device_no)
            if slot is not None:
                self._drain.read_again(slot)

    def hand_over_passed(self, device_no: int, pushes: list[ActivePush]) -> bool:
        """What the alert limiter has let through for a device; False if it had no room for all of it."""
        slot = self._by_device.get(device_no)
        if slot is None or slot.lane is Lane.CLOSED:
            return True  # it is judged again when the device is back
        if self._hand_over_each(slot, pushes):
            return True
        self._drain.leave(slot, Lane.FULL)
        return False

    def _count_in_flight(self, client_id: str) -> int:
        return self._engine.in_flight(client_id)

    def _handed_over(self, push: ActivePush, device_no: int) -> None:
        """Nobody will ever acknowledge it; unless it was too large, that is all."""
        if device_no in push.sent:
            self._ledger.acknowledged(push.no, device_no, 0)

    # -- engine events ---------------------------------------------------------------------------------------------

    def connected(self, client_id: str, identity: object, session_present: bool) -> None:
        assert isinstance(identity, DeviceIdentity), "the authenticator attaches it"
        self._identities[client_id] = identity
        now = self._clock()
        self._activity.seen(identity.device_no, now)
        if client_id != identity.client_id:
            return  # a side connection: publishes only
        slot = Slot(
            client_id=client_id,
            device_no=identity.device_no,
            app_no=identity.app_no,
            topic=device_topic(identity.app_id, identity.device_id, "push"),
            connected_at=now,
            deliver=self._engine.deliver_to(client_id),
        )
        self._slots[client_id] = slot
        self._by_device[identity.device_no] = slot
        self._activity.connected(identity.device_no, now)
        self._drain.noticed_connection(now)
        self._on_connected(identity, now)

    def disconnected(self, client_id: str, reason: str, detail: str = "") -> None:
        identity = self._identities.pop(client_id, None)
        slot = self._slots.pop(client_id, None)
        if slot is not None:
            self._drain.leave(slot, Lane.CLOSED)
            self._by_device.pop(slot.device_no, None)
        if identity is not None:
            self._activity.seen(identity.device_no, self._clock())
            if slot is not None:
                self._on_disconnected(identity, slot.connected_at, reason, detail)

    def ready(self, client_id: str, send_quota: int) -> None:
        slot = self._slots.get(client_id)
        if slot is None:
            return
        granted = self._engine.granted_qos(client_id, slot.topic)
        if granted is None:
            self._drain.leave(slot, Lane.CLOSED)
            return
        slot.granted = granted
        first = slot.lane is Lane.CLOSED
        self._on_ready(slot.device_no, first)
        if first:
            identity = self._identities[client_id]
            self._on_returned(slot.device_no, identity.app_id, identity.device_id)
        if slot.lane is Lane.CLOSED or slot.lane is Lane.FULL:
            self._drain.begin(slot)

    def delivery_ended(self, client_id: str, handle: int, outcome: int) -> None:  # Hot path.
        if outcome == ACKNOWLEDGED:
            self._ledger.acknowledged(handle >> DEVICE_BITS, handle & DEVICE_MASK, 1)
        elif outcome == COMPLETED:
            self._exactly_once[handle] = client_id
            self._ledger.acknowledged(handle >> DEVICE_BITS, handle & DEVICE_MASK, 2)
        elif outcome == LOST:
            self._interrupted.discard(handle)  # it was handed over in this run
            self._ledger.lost(handle >> DEVICE_BITS, handle & DEVICE_MASK)
        elif outcome == UNHANDLED:
            self._interrupted.discard(handle)
            self._ledger.not_taken(handle >> DEVICE_BITS, handle & DEVICE_MASK)
        else:
            self._ledger.refused(handle >> DEVICE_BITS, handle & DEVICE_MASK, outcome)

    def resume(
        self, client_id: str, handles: Sequence[int], done: Callable[[Mapping[int, Message | None]], None]
    ) -> None:
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
                    self.resume(client_id, handles, done)
                    return
                found[no] = present
            now = self._clock()
            messages: dict[int, Message | None] = {}
            for handle in alive:
                push = self._ledger.pushes.add(found[handle >> DEVICE_BITS])
                if self._ledger.is_recalled(push) or push.expires_at <= now:
                    continue
                if handle in self._interrupted:
                    messages[handle] = None
                    continue
                push.sent.add(handle & DEVICE_MASK)
                messages[handle] = Message(topic=slot.topic, body=push.body(now), qos=push.qos)
            done(messages)

        self._ledger.judge(list(handles), judged, self._engine.awaiting_pubrec(client_id), slot.device_no)

    def published(
        self, client_id: str, message: Message, done: Callable[[int], None], identifier: int | None = None
    ) -> None:
        self._on_published(client_id, self._identities.get(client_id), message, done, identifier)

    def released(self, client_id: str, identifiers: Sequence[int], done: Callable[[], None]) -> None:
        self._on_released(client_id, identifiers, done)

    def ended(self, handles: list[int]) -> None:
        """Waiting deliveries have ended on disk before anybody was offered them."""
        if self._fan_outs:
            self._fan_outs.withdraw((handle >> DEVICE_BITS, handle & DEVICE_MASK) for handle in handles)

    def recorded(self, handles: list[int]) -> None:
        for handle in handles:
            client_id = self._exactly_once.pop(handle, None)
            if client_id is not None:
                self._engine.forget(client_id, handle)

    # -- commands --------------------------------------------------------------------------------------------------

    def presence(self, device_no: int) -> Presence:
        slot = self._by_device.get(device_no)
        if slot is None:
            return Presence(False, None, None)
        return Presence(True, slot.connected_at, self._identities[slot.client_id].peer)

    def online_devices(self, app_no: int) -> list[int]:
        return [slot.device_no for slot in self._slots.values() if slot.app_no == app_no]

    @property
    def online(self) -> int:
        return len(self._slots)

    async def remove_device(
        self,
        device_no: int,
        client_id: str,
        forget_device: Callable[[sqlite3.Connection, int], None],
        app_no: int | None = None,
    ) -> int:
        """Remove a device: `forget_device(connection, now)` and the end of its first deliveries are one commit.

        Then its connections are closed and its session is deleted, on disk too: who enrols the id again after a crash
        must not find it; and what else waits for it ends, after a kill at the next start. How many ended `revoked`.
        """
        self._ledger.flush()
        now = self._clock()

        def operation(connection: sqlite3.Connection) -> int:
            forget_device(connection, now)
            return revoke_rows(connection, device_no, now)

        revoked = await self._database.write(operation, app_no)
        forgotten = asyncio.Event()
        self._engine.remove_session(client_id, forgotten.set)
        self.disconnect_device(client_id, ReasonCode.ADMINISTRATIVE_ACTION)
        await forgotten.wait()
        more = revoked
        while more == ENDED_TOGETHER:
            more = await self._database.write(lambda connection: revoke_rows(connection, device_no, now), app_no)
            revoked += more
        return revoked

    def disconnect_device(self, client_id: str, reason_code: int = ReasonCode.NOT_AUTHORIZED) -> int:
        """Close all connections of a device, side connections included, and let nobody in who was looked up before.

        Its token was rotated, or it was removed: that is on disk.
        """
        self._on_revoked()
        return self._engine.disconnect(client_id, reason_code)
