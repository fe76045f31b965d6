"""Handing over: from a stored delivery to the socket of its device, in order.

What is accepted for a connected device comes through `fan_out`, what waits for it is read by `mailbox_reader`, and both
end in the same hand-over here. A device that is away costs nothing: its mailbox is rows.

Laws
1. Order per device and priority. A page is read in mailbox order, and pushes go straight to the socket only when a page
   said that nothing more waits; a hand-over that fails ends that. Pushes accepted meanwhile are on a later page.
2. Nothing is handed over twice: `ActivePush.sent` is consulted at the moment of hand-over, on the loop (see the
   ledger's fourth law for why this is enough), and nothing after its ttl or its recall. A fan-out that is still under
   way leaves out a device whose mailbox was read after the push was stored: `DeviceConnection.read_to`.
3. From hand-over to socket nothing awaits: `_fan_out_slice` and `_hand_over_page` are one call stack into the engine.

Everything here runs on the loop.

What is measured for metrics costs a hot path no call for each delivery: the time until hand-over once for each push and
slice, the time until acknowledgement once for each group that was acknowledged together, and of what was read from a
mailbox only what is late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pyroaring import BitMap

from gateway.delivery.engine import Body, Engine, Message
from gateway.delivery.fan_out import BUNDLE_BYTES, FanOutQueue
from gateway.delivery.ledger import Ledger
from gateway.delivery.mailbox_reader import DeviceConnection, HandOverState, MailboxReader
from gateway.delivery.push import ActivePush
from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK, handle_of
from gateway.delivery_states import DeliveryState
from gateway.latency import BOUNDS_MS, LatencyHistogram
from gateway.store.protocols import Timers, Writer

LATE_MS = BOUNDS_MS[-1]
"""Time after its acceptance from which a delivery that is handed over counts as late."""


LEASE_LOOK_SECONDS = 0.25
"""Time after which a node without a lease looks whether it has one again."""


class HandOver:
    """Hands deliveries to the connections of devices. Loop.

    `clock_ms` gives server time in milliseconds. `DeviceConnections` keeps `devices` and says who can take pushes.
    """

    def __init__(
        self,
        *,
        database: Writer,
        ledger: Ledger,
        clock_ms: Callable[[], int],
        timers: Timers,
        may_serve: Callable[[], bool] | None,
    ) -> None:
        """`may_serve` is asked once for each slice, and nothing is handed over without it; None: there is no lease."""
        self._may_serve = may_serve
        self._ledger = ledger
        self._clock_ms = clock_ms
        self._timers = timers
        self._engine: Engine
        self.devices: dict[int, DeviceConnection] = {}
        """Connected devices by number."""
        self.connected = BitMap()
        """Their numbers."""
        self.reader = MailboxReader(
            database, ledger, clock_ms, timers, self._hand_over_page, self._count_in_flight, may_serve
        )
        self._fan_outs = FanOutQueue()
        self._fan_out_scheduled = False
        self.latency = LatencyHistogram()
        """Time from the acceptance of a push to its hand-over to devices that were waiting for it, for metrics."""
        self.acknowledgements = LatencyHistogram()
        """Time from the acceptance of a push to its acknowledgement by devices that were connected all the while."""
        self.late = {"away": 0, "limited": 0, "queued": 0}
        """Deliveries handed over late out of a mailbox, by reason; what `latency` knows to be late is not in it."""
        self._message = Message(topic="", body=Body(payload=b""))
        self.act_now = self._fan_outs.act_now

    def connect(self, engine: Engine) -> None:
        """Say who carries the messages; once, before the first push."""
        self._engine = engine

    # -- accepted pushes -------------------------------------------------------------------------------------------

    def is_open(self, device_no: int, priority: int) -> bool:
        """Whether a push that is accepted now may go straight to the device.

        If not, it is read from the disk in its turn; with a ttl of 0 it has ended.
        """
        device = self.devices.get(device_no)
        return device is not None and priority < device.open_priorities

    def fan_out(self, accepted: Iterable[tuple[ActivePush, Sequence[int]]]) -> None:
        """Hand accepted pushes over to those of their devices that can take them at once; elsewhere they stay on disk.

        The first slice at once, the rest in the next turns of the loop.
        """
        for push, device_nos in accepted:
            self._fan_outs.add(push, device_nos)
        if not self._fan_out_scheduled:
            self._fan_out_slice()

    def _fan_out_slice(self) -> None:
        if self._may_serve is not None and not self._may_serve():
            self._fan_out_scheduled = True
            self._timers.call_later(LEASE_LOOK_SECONDS, self._fan_out_slice)  # or this process has ended by then
            return
        for pushes, device_nos, overtakes in self._fan_outs.next_slice():
            if len(pushes) == 1:
                texts = pushes[0].texts
                for same in (device_nos,) if texts is None else texts.divided(device_nos):
                    self._fan_out_push(pushes[0], same, overtakes)
            else:
                self._fan_out_bundle(pushes, device_nos)
        self._fan_out_scheduled = bool(self._fan_outs)
        if self._fan_out_scheduled:
            self._timers.call_soon(self._fan_out_slice)

    def _fan_out_push(self, push: ActivePush, device_nos: Sequence[int], overtakes: bool = False) -> None:  # Hot path.
        push = self._ledger.pushes.add(push)
        now_ms = self._clock_ms()
        act_now = push.ttl == 0
        if self._ledger.is_recalled(push) or (push.expires_at <= now_ms and self._is_over(push, now_ms)):
            return
        devices = self.devices
        priority = push.priority
        push_no = push.no
        handle = push_no << DEVICE_BITS
        sent = push.sent
        before = len(sent)
        unacknowledged = push.qos == 0
        message = self._message
        first = 0 if push.texts is None else device_nos[0]  # all of them get the same text
        message.body = push.body(now_ms, first)
        message.qos = push.qos
        missed: list[int] = []
        for device_no in device_nos:
            device = devices.get(device_no)
            if device is not None and priority < device.open_priorities:
                if device.read_to[priority] >= push_no:
                    continue
                if overtakes:
                    for earlier in self._fan_outs.overtaken(push, device_no):
                        self._fan_out_push(earlier, (device_no,))
                    message.body = push.body(now_ms, first)
                    message.qos = push.qos
                    if priority >= device.open_priorities:
                        if act_now:
                            missed.append(handle_of(push_no, device_no))
                        continue
                if device_no in sent:
                    continue
                # The same as `_hand_over_each`, without a call for each of ten thousand devices.
                sent.add(device_no)
                message.topic = device.topic
                if device.deliver(message, handle | device_no):
                    if unacknowledged or not device.granted:
                        self._note_unacknowledged(push, device_no)
                    continue
                self._ledger.pushes.clear_sent(push, (device_no,))
                self.reader.pause(device, HandOverState.FULL)
            if act_now:
                missed.append(handle_of(push_no, device_no))
        if handed_over := len(sent) - before:
            self.latency.add(now_ms - push.accepted_at, handed_over)
        if missed:
            self._ledger.end(missed, DeliveryState.EXPIRED, "ttl")

    def _fan_out_bundle(self, pushes: list[ActivePush], device_nos: Sequence[int]) -> None:  # Hot path.
        """Hand several pushes over to the same devices, all of QoS 1 and none of ttl 0."""
        now_ms = self._clock_ms()
        alive = [
            (push, push.no << DEVICE_BITS, push.sent, push.body(now_ms))
            for push in map(self._ledger.pushes.add, pushes)
            if push.expires_at > now_ms and not self._ledger.is_recalled(push)
        ]
        before = [len(sent) for _, _, sent, _ in alive]
        devices = self.devices
        engine = self._engine
        priority = pushes[0].priority
        message = self._message
        for device_no in device_nos:
            device = devices.get(device_no)
            if device is None or priority >= device.open_priorities:
                continue
            read_to = device.read_to[priority]
            if not device.granted:
                if not self._hand_over_each(device, [push for push, *_ in alive if push.no > read_to]):
                    self.reader.pause(device, HandOverState.FULL)
                continue
            deliver = device.deliver
            message.topic = device.topic
            message.qos = 1
            engine.cork(device.client_id)
            try:
                for push, handle, sent, body in alive:
                    if push.no <= read_to or device_no in sent:
                        continue
                    sent.add(device_no)
                    message.body = body
                    if not deliver(message, handle | device_no):
                        self._ledger.pushes.clear_sent(push, (device_no,))
                        self.reader.pause(device, HandOverState.FULL)
                        break
            finally:
                engine.uncork(device.client_id)
        for (push, _, sent, _), count in zip(alive, before, strict=True):
            if handed_over := len(sent) - count:
                self.latency.add(now_ms - push.accepted_at, handed_over)

    def _hand_over_page(self, device: DeviceConnection, pushes: list[ActivePush]) -> bool:
        """Hand over what was read of a mailbox, as far as there is room; False if there was not enough."""
        together = len(pushes) > 1 and sum(push.size for push in pushes) <= BUNDLE_BYTES
        if not together:
            return self._hand_over_each(device, pushes)
        self._engine.cork(device.client_id)
        try:
            return self._hand_over_each(device, pushes)
        finally:
            self._engine.uncork(device.client_id)

    def _hand_over_each(
        self, device: DeviceConnection, pushes: list[ActivePush], late_reason: str = "queued"
    ) -> bool:  # Hot path.
        ledger = self._ledger
        add = ledger.pushes.add
        deliver = device.deliver
        device_no = device.device_no
        message = self._message
        message.topic = device.topic
        now_ms = self._clock_ms()
        late_before = now_ms - LATE_MS
        late = away = 0
        has_room = True
        for push in pushes:
            push = add(push)
            is_over = push.expires_at <= now_ms and self._is_over(push, now_ms)
            if is_over or device_no in push.sent or ledger.is_recalled(push):
                continue
            push.sent.add(device_no)
            message.body = push.body(now_ms, device_no)
            message.qos = push.qos
            if not deliver(message, push.no << DEVICE_BITS | device_no):
                ledger.pushes.clear_sent(push, (device_no,))
                has_room = False
                break
            if push.accepted_at < late_before:
                late += 1
                if push.accepted_at < device.connected_at:
                    away += 1
            if push.qos == 0 or not device.granted:
                self._note_unacknowledged(push, device_no)
        if late:
            away = 0 if late_reason == "limited" else away
            self.late["away"] += away
            self.late[late_reason] += late - away
        return has_room

    def _is_over(self, push: ActivePush, now_ms: int) -> bool:
        """Whether a push whose lifetime is over is not to be handed over any more.

        With a ttl of 0 it is now as long as it is on its way here; where there are other nodes, until these may have
        ended it, since a slice may have waited for a lease.
        """
        offer_ms = self._ledger.offer_ms
        return push.ttl > 0 or (offer_ms > 0 and now_ms - push.accepted_at >= offer_ms)

    def count_acknowledged(self, outcomes: Mapping[tuple[int, int], Sequence[int]], now_ms: int) -> None:
        """Measure acknowledgements that are about to be recorded: devices by push and effective QoS.

        Those of a push that come together count as the first of them does: either all of them were connected when it
        was accepted, or they have returned together.
        """
        for (push_no, qos), devices in outcomes.items():
            push = self._ledger.pushes.get(push_no) if qos else None
            device = self.devices.get(devices[0])
            if push is not None and device is not None and device.connected_at <= push.accepted_at:
                self.acknowledgements.add(now_ms - push.accepted_at, len(devices))

    def is_taking(self, device_no: int) -> bool:
        """Whether the device is connected and subscribed."""
        device = self.devices.get(device_no)
        return device is not None and device.state is not HandOverState.CLOSED

    def read_again(self, device_nos: Iterable[int]) -> None:
        """Read the mailboxes of these devices, if they are connected: something in them is checked in its place."""
        for device_no in device_nos:
            device = self.devices.get(device_no)
            if device is not None:
                self.reader.restart(device)

    def hand_over_limited(self, device_no: int, pushes: list[ActivePush]) -> bool:
        """Hand over what the alert limiter lets through for a device; False if it had no room for all of it."""
        device = self.devices.get(device_no)
        if self._may_serve is not None and not self._may_serve():
            lasting = [push for push in pushes if push.ttl]  # what is now or never ends now
            self._timers.call_later(LEASE_LOOK_SECONDS, lambda: self._hand_over_later(device_no, lasting))
            return True
        if device is None or device.state is HandOverState.CLOSED:
            return True  # it is checked again when the device is back
        if self._hand_over_each(device, pushes, "limited"):
            return True
        self.reader.pause(device, HandOverState.FULL)
        return False

    def _hand_over_later(self, device_no: int, pushes: list[ActivePush]) -> None:
        self.hand_over_limited(device_no, pushes)

    def _count_in_flight(self, client_id: str) -> int:
        return self._engine.in_flight(client_id)

    def _note_unacknowledged(self, push: ActivePush, device_no: int) -> None:
        """Record the hand-over of a push that nobody will acknowledge, unless it was too large."""
        if device_no in push.sent:
            self._ledger.acknowledged(push.no, device_no, 0)

    def withdraw_devices(self, ended: Iterable[tuple[int, BitMap]]) -> None:
        """Take devices, by push number, for which it has ended on disk out of the fan-outs that are under way."""
        if self._fan_outs:
            for push_no, devices in ended:
                if self._fan_outs.has(push_no):
                    self._fan_outs.withdraw((push_no, device_no) for device_no in devices & self.connected)

    def withdraw(self, handles: list[int]) -> None:
        """Take deliveries that have ended on disk out of the fan-outs that are under way."""
        if self._fan_outs:
            self._fan_outs.withdraw((handle >> DEVICE_BITS, handle & DEVICE_MASK) for handle in handles)
