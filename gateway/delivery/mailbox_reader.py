"""Reading mailboxes: which is read next, how much of it at once, and how urgent a push must be to be read now.

A connected device is a `DeviceConnection`, whose state says how its next push travels:

    CLOSED    connected but not able to take pushes (no subscription, or the ledger still checks its inflight messages)
    WAITING   in a queue for its mailbox to be read
    READING   being read
    OPEN      its mailbox is empty: what is accepted goes from group commit to socket without being read back
    FULL      the engine had no room; the rest waits on disk until the engine says `ready`

There is a queue for each priority. A device enters the first; having been given what is critical, it goes on to the
queue of the most urgent push that is left. The first queues are read first, many devices with one statement.

Laws
1. Critical first across the fleet. While a storm of connections goes on, only the first queue is read: what is less
   urgent waits until (nearly) everybody is back who has something critical, but not longer than `STORM_LIMIT_MS`.
2. The first `DeviceConnection.open_priorities` priorities are up to date: such pushes go straight to the socket,
   whatever else the device waits for, and none that was stored before `DeviceConnection.read_to` is left. So a read is
   of one priority only.
3. What one read takes of memory and of the loop is bounded, however many devices and pushes wait.

Everything but the read itself (`store/deliveries/mailbox_reads`) runs on the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from gateway.audience.policy import CRITICAL
from gateway.delivery.engine import Message
from gateway.delivery.heartbeat_states import SERVER_APP
from gateway.delivery.ledger import RETRY_SECONDS, Ledger
from gateway.delivery.push import ActivePush, load_pushes
from gateway.delivery_states import PRIORITIES
from gateway.store.deliveries.alert_uses import limited_deliveries
from gateway.store.deliveries.mailbox_reads import ALL_PRIORITIES, MailboxRead, read_mailboxes
from gateway.store.deliveries.pushes import last_push_nos
from gateway.store.protocols import Timers, Writer
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

READ_DEVICES = 250
"""Devices whose mailboxes one statement reads."""
READ_ROWS = 1_000
"""Pushes that one read hands over, about 10 ms of the loop."""
STORM_CONNECTS = 200
"""Connections within STORM_MS that make a storm; CALM_MS after the last one it is over."""
STORM_MS = 1_000
CALM_MS = 300
STORM_LIMIT_MS = 30_000
"""Milliseconds that a storm may keep back what is not critical: so long may the whole fleet take to return."""


NoteNewest = Callable[[Mapping[int, int]], Collection[int]]
"""Called with the newest push of each app of a read, before anything is handed over. It answers the apps of which later
pushes have been handed out since the read was asked for. Their mailboxes are read once more."""


class HandOverState(Enum):
    """Ways in which the next push of a connected device travels; the module explains each."""

    CLOSED = "closed"
    WAITING = "waiting"
    READING = "reading"
    OPEN = "open"
    FULL = "full"


@dataclass(slots=True, eq=False)
class DeviceConnection:
    """A connected device: where its pushes go, and how far its mailbox has been read."""

    client_id: str
    device_no: int
    app_no: int
    topic: str
    connected_at: int
    deliver: Callable[[Message, int], bool]
    """The engine's `deliver_to` for this client."""
    granted: int = 0
    """QoS of its subscription to its push topic."""
    state: HandOverState = HandOverState.CLOSED
    read_priority: int = 0
    """The queue that the device is in: the priority that is read next."""
    open_priorities: int = 0
    """Priorities, from the most urgent on, that need no reading: such pushes go straight to the socket."""
    read_to: list[int] = field(default_factory=lambda: [0] * ALL_PRIORITIES)
    """The last push of its app (or of the server's own), by priority, that was stored when this part of its mailbox
    was read; what is later comes by `fan_out`."""


class MailboxReader:
    """Reads the mailboxes of connected devices, many at once, the most urgent pushes first. Loop.

    `hand_over` gives a device what was read for it and says whether there was room; `in_flight` counts what a client
    has not acknowledged; `clock_ms` gives server time in milliseconds; `may_serve` is asked before what was read is
    handed over (None: there is no lease to lose).
    """

    def __init__(
        self,
        database: Writer,
        ledger: Ledger,
        clock_ms: Callable[[], int],
        timers: Timers,
        hand_over: Callable[[DeviceConnection, list[ActivePush]], bool],
        in_flight: Callable[[str], int],
        may_serve: Callable[[], bool] | None,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._clock_ms = clock_ms
        self._timers = timers
        self._hand_over = hand_over
        self._in_flight = in_flight
        self._may_serve = may_serve
        self._queues: list[dict[int, DeviceConnection]] = [{} for _ in PRIORITIES]
        self._scheduled = self._under_way = self._delayed = False
        self._second_since = self._second_count = 0
        self._storm_since: int | None = None
        self._calm_at = 0
        self._follower: Callable[[], NoteNewest] | None = None

    def follow(self, on_asked: Callable[[], NoteNewest]) -> None:
        """Tell of each read, from now on, when it is asked for; what that answers is called when it is back."""
        self._follower = on_asked

    def count_connection(self, now_ms: int) -> None:
        """Count a device that connects: STORM_CONNECTS within STORM_MS make a storm."""
        if now_ms - self._second_since >= STORM_MS:
            self._second_since, self._second_count = now_ms, 0
        self._second_count += 1
        if self._second_count >= STORM_CONNECTS:
            self._calm_at = now_ms + CALM_MS
            if self._storm_since is None:
                self._storm_since = now_ms

    def start(self, device: DeviceConnection) -> None:
        """Read the mailbox of a device that can take pushes, from the most urgent on."""
        device.open_priorities = 0
        self._enqueue(device, 0)

    def restart(self, device: DeviceConnection) -> None:
        """Read a mailbox from the first priority on: it holds something that is checked in its place when it is read.
        Until then nothing goes straight to the socket."""
        # CLOSED and FULL are read from the first on anyway.
        if device.state is not HandOverState.CLOSED and device.state is not HandOverState.FULL:
            self.pause(device, HandOverState.FULL)
            self.start(device)

    def pause(self, device: DeviceConnection, state: HandOverState) -> None:
        """Hand nothing to the device for now; `state` says why."""
        if device.state is HandOverState.WAITING:
            del self._queues[device.read_priority][device.device_no]
        device.state = state
        device.open_priorities = 0

    @property
    def waiting(self) -> int:
        """Devices whose mailbox waits to be read, for metrics."""
        return sum(map(len, self._queues))

    def _enqueue(self, device: DeviceConnection, priority: int) -> None:
        device.state = HandOverState.WAITING
        device.read_priority = priority
        self._queues[priority][device.device_no] = device
        self._schedule_read()

    def _schedule_read(self) -> None:
        if not self._scheduled and not self._under_way:
            self._scheduled = True
            self._timers.call_soon(self._read)

    def _storm_delay_ms(self, now_ms: int) -> int:
        """Milliseconds that what is not critical has to wait for a storm to end."""
        if self._storm_since is None:
            return 0
        left = min(self._calm_at, self._storm_since + STORM_LIMIT_MS) - now_ms
        if left <= 0:
            self._storm_since = None
        return max(left, 0)

    def _read(self) -> None:
        self._scheduled = False
        if self._under_way:
            return
        priority = next((number for number, queue in enumerate(self._queues) if queue), None)
        if priority is None:
            return
        now_ms = self._clock_ms()
        delay_ms = self._storm_delay_ms(now_ms)
        if delay_ms and priority:
            if not self._delayed:
                self._delayed = True
                self._timers.call_later(delay_ms / 1000, self._storm_over)
            return
        connected, in_flight = self._dequeue(priority)
        for device in connected:
            device.state = HandOverState.READING
        self._under_way = True
        # One server checks what is limited with the first read: it has nobody to share that with.
        is_shared = priority > 0 or not self._ledger.limited or self._follower is not None
        self._submit(connected, priority, READ_ROWS // len(connected) + in_flight, is_shared)

    def _submit(self, connected: list[DeviceConnection], priority: int, limit: int, is_shared: bool) -> None:
        """Have the writer read a page of each. Nodes that read the same app do so together, if it `is_shared`; if that
        finds something to be checked in its place, which writes, the page is read again and alone."""
        note_newest = None if self._follower is None else self._follower()

        def on_commit(found: tuple[dict[int, int], list[MailboxRead], list[ActivePush], list[int]] | None) -> None:
            if found is None:
                self._submit(connected, priority, limit, False)
            else:
                self._on_read(connected, note_newest, *found)

        self._ledger.flush()  # what is acknowledged need not be read and passed over
        self._database.submit(
            self._operation(connected, priority, limit, is_shared),
            on_commit,
            lambda error: self._on_error(connected, error),
            apps=lambda: frozenset([device.app_no for device in connected]),
            is_shared=is_shared,
        )

    def _storm_over(self) -> None:
        self._delayed = False
        self._schedule_read()

    def _dequeue(self, priority: int) -> tuple[list[DeviceConnection], int]:
        """Take the first devices of a queue, and how much the busiest has in flight.

        That waits on disk as well and comes first, so as much more is read for each. Only a few of them, if it is much.
        """
        queue = self._queues[priority]
        connected: list[DeviceConnection] = []
        rows = most = 0
        for device in queue.values():
            in_flight = self._in_flight(device.client_id)
            rows += in_flight
            if connected and (len(connected) == READ_DEVICES or rows > READ_ROWS):
                break
            connected.append(device)
            most = max(most, in_flight)
        for device in connected:
            del queue[device.device_no]
        return connected, most

    def _operation(
        self, connected: list[DeviceConnection], priority: int, limit: int, is_shared: bool
    ) -> Callable[[Transaction], tuple[dict[int, int], list[MailboxRead], list[ActivePush], list[int]] | None]:
        """An operation that reads a page of each; None, if it `is_shared` and finds what has to be checked."""
        devices = [device.device_no for device in connected]
        apps = {device.app_no for device in connected}
        ledger = self._ledger

        def operation(
            transaction: Transaction,
        ) -> tuple[dict[int, int], list[MailboxRead], list[ActivePush], list[int]] | None:
            is_checked = priority == 0 and ledger.limited
            if is_checked and is_shared and limited_deliveries(transaction, devices, CRITICAL):
                return None
            # The time of the reading: a push of ttl 0 that was accepted since this was submitted is no mailbox's.
            now_ms = self._clock_ms()
            pages = read_mailboxes(transaction, devices, apps, priority, limit, ledger.is_sent, now_ms, ledger.limited)
            ended: list[int] = []
            if is_checked and not is_shared:
                passed, ended = ledger.check_in_place(transaction, devices, now_ms)
                pages = [page.with_checked(passed.get(no, [])) for no, page in zip(devices, pages, strict=False)]
            get_for = ledger.pushes.get_for
            missing = {
                no
                for page, device_no in zip(pages, devices, strict=False)
                for no in page.push_nos
                if get_for(no, device_no) is None
            }
            loaded = load_pushes(transaction, missing, devices) if missing else []
            return last_push_nos(transaction, [*apps, SERVER_APP]), pages, loaded, ended

        return operation

    def _on_error(self, connected: list[DeviceConnection], error: BaseException) -> None:
        log.error("mailboxes cannot be read, trying again: %s", error)
        self._timers.call_later(RETRY_SECONDS, lambda: self._retry(connected))

    def _retry(self, connected: list[DeviceConnection]) -> None:
        self._under_way = False
        for device in connected:
            if device.state is HandOverState.READING:
                self._enqueue(device, device.read_priority)
        self._schedule_read()

    def _on_read(
        self,
        connected: list[DeviceConnection],
        note_newest: NoteNewest | None,
        newest: dict[int, int],
        pages: list[MailboxRead],
        loaded: list[ActivePush],
        ended: list[int],
    ) -> None:
        self._ledger.note_ended(ended)
        if self._may_serve is not None and not self._may_serve():
            # Read again when there is a lease; or this process has ended by then, and another node serves the devices.
            self._timers.call_later(RETRY_SECONDS, lambda: self._retry(connected))
            return
        self._under_way = False
        behind = () if note_newest is None else note_newest(newest)
        unknown = {push.no: push for push in loaded}
        # Before the next is read: a device that is queued again may be in that, and must be given nothing of this.
        reading = HandOverState.READING
        given = [(device, page) for device, page in zip(connected, pages, strict=False) if device.state is reading]
        for device in connected[len(pages) :]:  # there were too many bytes before them
            if device.state is HandOverState.READING:
                self._enqueue(device, device.read_priority)
        self._read()  # on the writer's thread, while these are handed over
        for device, page in given:
            if device.state is HandOverState.READING:
                # Who stores a beat, a push of the server's own, holds the app of its devices as well.
                read_to = max(newest[device.app_no], newest[SERVER_APP])
                for priority in range(device.read_priority, page.next_priority):  # those in between are empty
                    device.read_to[priority] = read_to
                self._hand_over_found(device, page, unknown, device.app_no in behind)
        self._schedule_read()

    def _hand_over_found(
        self, device: DeviceConnection, page: MailboxRead, unknown: dict[int, ActivePush], is_behind: bool
    ) -> None:
        ready: list[ActivePush] = []
        is_last = page.is_last and not is_behind
        for no in page.push_nos:
            push = self._ledger.pushes.get_for(no, device.device_no) or unknown.get(no)
            if push is None:  # its texts are for the next read, or it was in memory and is not any more
                is_last = False
                break
            ready.append(push)
        if not self._hand_over(device, ready):
            self.pause(device, HandOverState.FULL)
        elif not is_last:
            self._enqueue(device, device.read_priority)
        else:
            device.open_priorities = page.next_priority
            if page.next_priority == ALL_PRIORITIES:
                device.state = HandOverState.OPEN
            else:
                self._enqueue(device, page.next_priority)
