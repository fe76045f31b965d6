"""The ledger: owner of the state of every delivery; its statements (`ledger_statements`) alone write it.

Laws
1. A push to N devices is N deliveries, each a row or a member of one set (`delivery_sets`), in exactly one state; they
   leave only by retention, which keeps their counts.
2. What is true is what is on disk, with one overlay: a delivery that is WAITING on disk and whose device is in
   `ActivePush.sent` has been handed over and is reported as `sent`. So a delivery costs one insert and one update, or a
   share of those, and a crash forgets nothing: what was in flight is simply still waiting.
3. Nothing goes backwards: among receipts the furthest wins and each first time stamp is kept; a receipt for an end
   that a receipt can revive moves it and leaves `after_<end>` as the reason; REVOKED never moves.
4. One order for everything. Operations run on the writer thread in the order in which the loop submitted them, and
   their callbacks come back in that order. Mailbox pages are read there too, so that at the moment of a callback `sent`
   holds exactly the hand-overs whose outcome that operation could not see. This is what makes "no push twice after
   its acknowledgement was recorded" hold without a lock. An acceptance takes its pushes when the writer begins with it:
   one that came after a page was asked for may be on that page, and is handed over once, from there.

The methods of `Ledger` belong to the loop; `*_rows` functions run on the writer thread, inside an operation, which
may look into `ActivePush.sent` (a set of ints: one membership test, or one copy, is atomic under the interpreter lock).
What the loop hands over between that look and the commit has ended on disk and is on its way all the same: law 3 has
what arrives of it, and of QoS 0, where nobody will say so, what was sent.

Cost: a push to many is a set of devices, and so is a group of its acknowledgements. Statements over rows take one JSON
array of device numbers per push, so that SQLite works with the interpreter lock released. Outcomes that come one by one
gather for a few milliseconds and leave with pushes that are being stored (`flush_along`), so that these do not wait for
an fsync of theirs. When many come, what has gathered while one flush is on its way leaves as one operation when it is
back.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import TypeVar

from pyroaring import BitMap

from gateway.delivery.engine import ReasonCode
from gateway.delivery.push import ActivePush, ActivePushes, load_pushes
from gateway.delivery.recalls import Recalls
from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK, handle_of
from gateway.delivery_states import DeliveryState
from gateway.store.app_locks import EVERY_APP, NO_APP, Apps, DeclaredApps
from gateway.store.deliveries.attempts import count_attempts
from gateway.store.deliveries.ledger_statements import (
    ENDED_DELIVERIES,
    end_devices,
    end_rows,
    record_outcomes,
    sweep_rows,
    waiting_handles,
)
from gateway.store.deliveries.pushes import push_number
from gateway.store.deliveries.stale_deliveries import end_stale_rows, recover_rows
from gateway.store.deliveries.whole_deliveries import whole_delivery
from gateway.store.protocols import Timers, Writer
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_ATTEMPTS = 10
"""Times that a device may not take a push before that ends `refused`: with the usual `ack_timeout` an hour of attempts,
and more starts than a device needs to find a bad moment."""
CHECK_SECONDS = 0.005
"""Time between two checks of the outcomes that gather."""
DUE_CHECKS = 2
"""Checks after which outcomes leave: with the next acceptance, or alone if there was none since the check before."""
MAX_CHECKS = 4
"""Checks after which they leave alone, whatever is accepted."""
MANY_OUTCOMES = 100
"""Outcomes that wait for no acceptance."""
LOST_HANDLES = 2_000
"""Lost deliveries that one operation checks, about 20 ms: those of a fleet are lost at once when a network goes."""
RETRY_SECONDS = 0.5
"""Pause before an operation that the disk refused is tried again; acknowledgements wait in memory meanwhile."""


class Ledger:
    """Owner of the delivery states: rows on disk, hand-overs in memory. Loop.

    `clock_ms` gives server time in milliseconds. `confirm` is that of `Recalls`. `connect` comes before anything else.
    """

    def __init__(
        self,
        *,
        database: Writer,
        clock_ms: Callable[[], int],
        timers: Timers,
        max_attempts: int = MAX_ATTEMPTS,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.pushes = ActivePushes()
        self._database = database
        self._clock_ms = clock_ms
        self._timers = timers
        self._outcomes: dict[tuple[int, int], list[int]] = {}
        self._refusals: list[tuple[int, str]] = []
        self._unhandled: list[int] = []
        self._lost: list[int] = []
        """Handles of what was lost and may not be worth sending again."""
        self._max_attempts = max_attempts
        self.failed_attempts = 0
        """Times that a device did not take what it was sent, for metrics."""
        self._flushes_under_way = 0
        self._gathering = False
        """A timer will look at what has gathered."""
        self._checks = 0
        """Checks since the last flush."""
        self._is_accepting = False
        """Something has been accepted since the last check."""
        self._next_expiry = 0
        self._sweep_under_way = False
        self._expired_in_flight: set[int] = set()
        """Pushes whose lifetime is over, with nothing left but what is in flight: the sweep need not look at them."""
        self.accepting_since: int | None = None
        """Server time of the pushes that are on their way to the disk; nobody has been handed them yet."""
        self.accepted_at = 0
        """Server time at which the writer has last stored pushes, and ended what they supersede. Outcomes and receipts
        that it stores afterwards are no earlier, though they may have been reported before: the times of a delivery are
        in the order of its events. Writer thread."""
        self.recalls = Recalls(self, database, clock_ms, confirm)
        self.changed: set[int] = set()
        """Numbers of pushes of which something is on disk that was not counted yet (`analytics`)."""
        self.awaited: dict[int, Callable[[], None]] = {}
        """Push number -> what wakes the senders that wait for its delivery (`awaited_pushes`)."""
        self.limited = False
        """Whether any delivery may be limited (`Delivery.not_before`)."""
        self.offer_ms = 0
        """Milliseconds in which other nodes may hand out a push of ttl 0 as well (`new_pushes`)."""
        self._refused = self._retried = 0
        """How often the disk has refused an operation, and how often one was tried again."""
        self._unwanted: set[int] = set()
        """Handles in flight that were not wanted any more when somebody last changed their mind."""

    def connect(
        self,
        *,
        on_recorded: Callable[[list[int]], None],
        on_ended: Callable[[list[int]], None],
        on_devices_ended: Callable[[list[tuple[int, BitMap]]], None],
        act_now: Callable[[], list[int]],
        check_in_place: Callable[[Transaction, list[int], int], tuple[dict[int, list[int]], list[int]]],
        suppress_unwanted: Callable[[list[int]], None],
        on_acknowledged: Callable[[Mapping[tuple[int, int], Sequence[int]], int], None],
        read_again: Callable[[Iterable[int]], None],
    ) -> None:
        """Connect to the components that are made later; once, before the first push.

        `on_recorded` is called on the loop after a flush with the QoS 2 handles whose acknowledgement is now on disk
        (the engine keeps its own record of those until then), `on_ended` with the handles of deliveries that have
        ended, or have a receipt, although nobody may have been handed them, `on_devices_ended` with (push number,
        devices) of those that ended as sets. `act_now` lists the pushes of ttl 0 that
        are being fanned out: the sweep leaves them alone. `check_in_place`, on the writer thread, answers of these
        devices the critical pushes that are let through though they are muted, in order, and the handles of those that
        have ended. `suppress_unwanted` ends those of these waiting deliveries that are still not wanted.
        `on_acknowledged` is called on the loop before a flush: the devices by push and effective QoS, and the time.
        `read_again` reads the mailboxes of those of these devices that are connected.
        """
        self.read_again = read_again
        self.on_recorded, self.on_ended, self.act_now = on_recorded, on_ended, act_now
        self.on_devices_ended = on_devices_ended
        self.check_in_place, self.suppress_unwanted = check_in_place, suppress_unwanted
        self.on_acknowledged = on_acknowledged

    # -- outcomes of hand-overs ------------------------------------------------------------------------------------

    def acknowledged(self, push_no: int, device_no: int, qos: int) -> None:  # Hot path.
        """Record that the device took a delivery; `qos` is the effective one.

        QoS 0: it was handed over, and nobody will ever acknowledge it.
        """
        key = (push_no, qos)
        devices = self._outcomes.get(key)
        if devices is None:
            self._outcomes[key] = [device_no]
            if not self._gathering:
                self._gather()
        else:
            devices.append(device_no)

    def refused(self, push_no: int, device_no: int, reason_code: int) -> None:
        """Record that the device answered with a reason code >= 0x80, or could not be sent so large a packet (0x95)."""
        too_large = reason_code == ReasonCode.PACKET_TOO_LARGE
        reason = "packet_too_large" if too_large else f"reason_code_0x{reason_code:02x}"
        self._refusals.append((handle_of(push_no, device_no), reason))
        if not self._gathering:
            self._gather()

    def unhandled(self, push_no: int, device_no: int) -> None:
        """Record an attempt that failed: lost, and the device has shown that it did not take it (`attempts`)."""
        self.failed_attempts += 1
        self._unhandled.append(handle_of(push_no, device_no))
        if not self._gathering:
            self._gather()
        self.lost(push_no, device_no)

    def lost(self, push_no: int, device_no: int) -> None:
        """Put a delivery back whose connection ended first: it is waiting again, unless it turns out to have ended."""
        push = self.pushes.get(push_no)
        if push is None or device_no not in push.sent:
            return
        self.pushes.clear_sent(push, (device_no,))
        if handle_of(push_no, device_no) in self._unwanted:
            self._unwanted.discard(handle_of(push_no, device_no))
            self.suppress_unwanted([handle_of(push_no, device_no)])
        if push.recalled or push.collapse_key is not None or push.expires_at <= self._clock_ms():
            if not self._lost:  # a server of many that leave at once checks them together
                self._timers.call_soon(self._end_lost)
            self._lost.append(handle_of(push_no, device_no))

    def moved(self, push_no: int, device_no: int) -> None:
        """Forget what a device has received exactly once and not completed yet: any node may load its session."""
        if (push := self.pushes.get(push_no)) is not None:
            self.pushes.clear_sent(push, (device_no,))
        self._unwanted.discard(handle_of(push_no, device_no))

    def _end_lost(self) -> None:
        """End what is not worth sending of what was lost, a part at a time: thousands of connections end at once."""
        lost, self._lost = self._lost[:LOST_HANDLES], self._lost[LOST_HANDLES:]
        if self._lost:
            self._timers.call_soon(self._end_lost)
        self.flush()
        now_ms = self._clock_ms()
        self.submit_until_done(
            lambda transaction: end_stale_rows(transaction, lost, now_ms),
            lambda alive: None,
            lambda: self.apps_of_handles(lost),
        )

    def apps_of_handles(self, handles: Iterable[int]) -> Apps:
        """The apps of these deliveries; every app, if one is of a push that is not in memory. Any thread."""
        return self.pushes.apps_of([handle >> DEVICE_BITS for handle in handles])

    def flush(self) -> None:
        """Submit everything reported so far now, so that it comes before what the caller submits next."""
        outcomes, self._outcomes = self._outcomes, {}
        refusals, self._refusals = self._refusals, []
        unhandled, self._unhandled = self._unhandled, []
        self._checks = 0
        if not outcomes and not refusals and not unhandled:
            return
        self._flushes_under_way += 1
        now_ms = self._clock_ms()
        self.on_acknowledged(outcomes, now_ms)
        known = self.pushes.get
        maybe_sets = [no for no in {no for no, _ in outcomes} if (push := known(no)) is None or push.in_sets]

        def operation(transaction: Transaction) -> None:
            at = now_ms if now_ms > self.accepted_at else self.accepted_at  # max() would be a call more
            record_outcomes(transaction, outcomes, refusals, at, maybe_sets)
            if unhandled:
                spent = count_attempts(transaction, unhandled, self._max_attempts)
                end_rows(transaction, spent, DeliveryState.REFUSED, "not_acknowledged", at)

        def apps() -> Apps:
            others = [handle >> DEVICE_BITS for handle in chain((handle for handle, _ in refusals), unhandled)]
            return self.pushes.apps_of(chain((no for no, _ in outcomes), others))

        self.submit_until_done(operation, lambda _: self._recorded(outcomes, refusals), apps)

    def flush_along(self) -> None:
        """Submit what has gathered for a while, to share a commit with what the caller has just submitted."""
        self._is_accepting = True
        if self._checks >= DUE_CHECKS:
            self._flush_next()

    def _flush_next(self) -> None:
        """Submit what has gathered, unless a flush is on its way, which does it when it is back."""
        if not self._flushes_under_way:
            self.flush()

    def _gather(self) -> None:
        self._gathering = True
        self._timers.call_later(CHECK_SECONDS, self._check_gathered)

    def _check_gathered(self) -> None:
        """Flush what has gathered for long enough."""
        if not self._outcomes and not self._refusals and not self._unhandled:
            self._gathering = False
            return
        self._checks += 1
        self._flush_if_due()
        self._is_accepting = False
        self._gather()

    def _flush_if_due(self) -> None:
        if self._checks >= MAX_CHECKS or (
            self._checks >= DUE_CHECKS
            and (not self._is_accepting or sum(map(len, self._outcomes.values())) >= MANY_OUTCOMES)
        ):
            self._flush_next()

    def _recorded(self, outcomes: dict[tuple[int, int], list[int]], refusals: list[tuple[int, str]]) -> None:
        exactly_once: list[int] = []
        for (push_no, qos), devices in outcomes.items():
            push = self.pushes.get(push_no)
            if push is not None:
                self.pushes.clear_sent(push, devices)
            self.changed.add(push_no)
            if self._unwanted:
                self._unwanted.difference_update([handle_of(push_no, device_no) for device_no in devices])
            if qos == 2:
                exactly_once.extend(handle_of(push_no, device_no) for device_no in devices)
        for handle, _ in refusals:
            self._unwanted.discard(handle)
            push = self.pushes.get(handle >> DEVICE_BITS)
            if push is not None:
                self.pushes.clear_sent(push, (handle & DEVICE_MASK,))
        if self.awaited:
            self._wake_senders([push_no for push_no, _ in outcomes])
            self._wake_senders([handle >> DEVICE_BITS for handle, _ in refusals])
        self._flushes_under_way -= 1
        self._flush_if_due()
        if exactly_once:
            self.on_recorded(exactly_once)

    def _wake_senders(self, push_nos: Iterable[int]) -> None:
        """Wake the senders that wait for these pushes, of which an outcome is on disk."""
        for push_no in push_nos:
            wake = self.awaited.get(push_no)
            if wake is not None:
                wake()

    # -- ends ------------------------------------------------------------------------------------------------------

    def end_stale(
        self,
        handles: list[int],
        done: Callable[[list[int], list[ActivePush]], None],
        awaiting_pubrec: AbstractSet[int] = frozenset(),
        device_no: int | None = None,
    ) -> None:
        """End those of the handles that are recalled, over or superseded; the rest is still worth sending.

        Limited ones are left to the alert limiter, except those of `awaiting_pubrec`: of QoS 2, let through before, and
        perhaps received; and, if all are of `device_no`, what is checked in its place. `done(alive, pushes)` is called
        on the loop: handles still waiting, oldest first as given, and the pushes of them that were not in memory when
        it was read.

        When their texts are many, they are loaded by several operations, each of which checks anew: what the last one
        has found is true.
        """
        self._end_stale(handles, done, awaiting_pubrec, device_no, {})

    def _end_stale(
        self,
        handles: list[int],
        done: Callable[[list[int], list[ActivePush]], None],
        awaiting_pubrec: AbstractSet[int],
        device_no: int | None,
        loaded: dict[int, ActivePush],
    ) -> None:
        """`end_stale`, with the pushes that the operations before have `loaded`, by number."""
        self.flush()
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> tuple[list[int], set[int], list[int]]:
            alive = end_stale_rows(transaction, handles, now_ms, awaiting_pubrec)
            ended: list[int] = []
            if self.limited and device_no is not None:
                passed, ended = self.check_in_place(transaction, [device_no], now_ms)
                known = {*alive, *(handle_of(push_no, device_no) for push_no in passed.get(device_no, ()))}
                alive = [handle for handle in handles if handle in known]
            get_for = self.pushes.get_for
            missing = [one for one in alive if get_for(one >> DEVICE_BITS, one & DEVICE_MASK) is None]
            devices = {handle & DEVICE_MASK for handle in missing}
            unknown = {handle >> DEVICE_BITS for handle in missing}.difference(loaded)
            found = load_pushes(transaction, unknown, devices)
            loaded.update((push.no, push) for push in found)
            return alive, unknown.difference(loaded) if found else set(), ended

        def on_commit(found: tuple[list[int], set[int], list[int]]) -> None:
            alive, left, ended = found
            self.note_ended(ended)
            if left:
                self._end_stale(handles, done, awaiting_pubrec, device_no, loaded)
            else:
                done(alive, list(loaded.values()))

        self.submit_until_done(operation, on_commit, lambda: self.apps_of_handles(handles))

    def note_ended(self, handles: list[int]) -> None:
        """Note deliveries that a rule has ended on disk."""
        if handles:
            self.changed.update([handle >> DEVICE_BITS for handle in handles])
            self.on_ended(handles)

    def note_devices_ended(self, ended: list[tuple[int, BitMap]]) -> None:
        """Note deliveries that a rule has ended on disk as sets: (push number, devices) each."""
        if ended:
            self.changed.update([push_no for push_no, _ in ended])
            self.on_devices_ended(ended)

    async def recover(self, held: Sequence[int]) -> None:
        """End what was in flight when the last run stopped and is not worth sending; before the first connection."""
        now_ms = self._clock_ms()
        ended = await self._database.write(lambda transaction: recover_rows(transaction, held, now_ms))
        if ended:
            log.info("%d deliveries were in flight when the server stopped, and had been recalled or superseded", ended)

    def suppress_when_lost(self, handles: Iterable[int]) -> None:
        """Suppress these deliveries, which are in flight and not wanted, if they are lost.

        Those that have been lost since an operation found them are suppressed at once.
        """
        lost: list[int] = []
        for handle in handles:
            if self.is_sent(handle >> DEVICE_BITS, handle & DEVICE_MASK):
                self._unwanted.add(handle)
            else:
                lost.append(handle)
        if lost:
            self.suppress_unwanted(lost)

    def end_devices(self, push_no: int, app_no: int, devices: BitMap, state: DeliveryState, reason: str) -> None:
        """End what waits of a push of this app for these devices, of which nobody was handed it."""
        now_ms = self._clock_ms()
        self.submit_until_done(
            lambda transaction: end_devices(transaction, push_no, devices, state, reason, now_ms),
            lambda count: None,
            frozenset((app_no,)),
        )

    def end(self, handles: list[int], state: DeliveryState, reason: str) -> None:
        """End waiting deliveries, for instance those of ttl 0 that could not be handed over at once."""
        now_ms = self._clock_ms()
        self.submit_until_done(
            lambda transaction: end_rows(transaction, handles, state, reason, now_ms),
            lambda count: None,
            lambda: self.apps_of_handles(handles),
        )

    def submit_until_done(
        self, operation: Callable[[Transaction], T], done: Callable[[T], None], apps: DeclaredApps = None
    ) -> None:
        """Have the writer run an operation, again and again if the disk is full; `apps` whose rows it may write."""

        def on_error(error: BaseException) -> None:
            log.error("the ledger cannot be written, trying again: %s", error)
            self._refused += 1
            self._timers.call_later(RETRY_SECONDS, again)

        def again() -> None:
            self._retried += 1
            self.submit_until_done(operation, done, apps)

        self._database.submit(operation, done, on_error, apps=apps)

    async def confirm_reported(self) -> bool:
        """Have all that was reported so far stored, before what is written next, by another node too. False: something
        was refused, and is tried again. Raises StorageError."""
        refused, waits = self._refused, self._refused > self._retried
        self.flush()
        await self._database.write(lambda transaction: None, apps=NO_APP)
        return not waits and self._refused == refused and not self._lost

    def expects_expiry(self, expires_at: int) -> None:
        """Expect the end of life of a push that was accepted (server time in ms)."""
        if expires_at < self._next_expiry:
            self._next_expiry = expires_at

    def sweep(self) -> None:
        """End what has outlived its ttl. Called a few times a second; costs nothing until something is due."""
        now_ms = self._clock_ms()
        ended_meanwhile = {no for no in self._expired_in_flight if not self.is_in_flight(no)}
        if (now_ms < self._next_expiry and not ended_meanwhile) or self._sweep_under_way:
            return
        self._sweep_under_way = True
        self._expired_in_flight -= ended_meanwhile
        self._next_expiry = now_ms + 86_400_000  # lowered by what is accepted meanwhile, and by the sweep's answer
        self.flush()
        expired_in_flight = [*self._expired_in_flight, *self.act_now()]
        offered_before = self._offered_before(now_ms)

        def on_commit(found: tuple[list[int], bool, int | None]) -> None:
            self._sweep_under_way = False
            in_flight, more, next_expiry = found
            self._expired_in_flight.update(in_flight)
            if next_expiry is not None:
                self.expects_expiry(next_expiry)
            if more:
                self.sweep()

        def on_error(error: BaseException) -> None:
            log.error("expired deliveries cannot be ended, trying again: %s", error)
            self._sweep_under_way = False
            self._next_expiry = now_ms

        self._database.submit(
            lambda transaction: sweep_rows(transaction, now_ms, offered_before, expired_in_flight, self.sent_of),
            on_commit,
            on_error,
            apps=EVERY_APP,  # of one server; where there are nodes, `sweep_apps` is called
        )

    def _offered_before(self, now_ms: int) -> int:
        """The time of acceptance from which on pushes of ttl 0 may still be handed over at once."""
        return (self.accepting_since if self.accepting_since is not None else now_ms + 1) - self.offer_ms

    def expired(self) -> tuple[int, int, list[int]]:
        """Return the time, `_offered_before`, and the pushes with nothing left to end: what `expired_pushes` needs."""
        now_ms = self._clock_ms()
        return now_ms, self._offered_before(now_ms), [*self._expired_in_flight, *self.act_now()]

    async def sweep_apps(
        self, apps: frozenset[int], elsewhere: Mapping[int, BitMap], in_flight_elsewhere: Iterable[int]
    ) -> bool:
        """End a slice of what has outlived its ttl in these apps; whether there may be more. Raises StorageError.

        `elsewhere`: devices to which pushes are in flight from other nodes; `in_flight_elsewhere` are left alone.
        """
        self._expired_in_flight = {no for no in self._expired_in_flight if self.is_in_flight(no)}
        self.flush()
        now_ms, offered_before, left_alone = self.expired()
        left_alone += in_flight_elsewhere
        in_flight, more, _ = await self._database.write(
            lambda transaction: sweep_rows(
                transaction, now_ms, offered_before, left_alone,
                lambda push_no: [*self.sent_of(push_no), *elsewhere.get(push_no, ())], apps,
            ),
            apps=apps,
        )  # fmt: skip
        self._expired_in_flight.update(push_no for push_no in in_flight if self.is_in_flight(push_no))
        return more

    # -- commands of the API ---------------------------------------------------------------------------------------

    def is_recalled(self, push: ActivePush) -> bool:
        """Whether a push is recalled, or about to be."""
        return push.recalled or push.no in self.recalls.noted

    async def empty_mailbox(self, device_no: int, app_no: int | None = None) -> int:
        """Cancel what waits for a device (reason `mailbox_emptied`); what is in flight goes on. How many."""
        self.flush()
        now_ms = self._clock_ms()
        last: int | None = None

        def operation(transaction: Transaction) -> tuple[int, int, list[int]]:
            waiting = waiting_handles(transaction, device_no)
            handles = [handle for handle in waiting if not self.is_sent(handle >> DEVICE_BITS, device_no)]
            newest = max(handles, default=0) if last is None else last
            handles = [handle for handle in handles if handle <= newest][:ENDED_DELIVERIES]
            ended = end_rows(transaction, handles, DeliveryState.CANCELLED, "mailbox_emptied", now_ms)
            return ended, newest, handles

        total = 0
        while True:
            ended, last, handles = await self._database.write(operation, app_no)
            self.on_ended(handles)
            total += ended
            if len(handles) < ENDED_DELIVERIES:
                return total

    async def remove_from_mailbox(self, app_no: int, push_id: str, device_no: int) -> dict[str, int] | None:
        """Cancel one push for one device (reason `removed_from_mailbox`); None if it was not for that device.

        `cancelled`, `in_flight` and `too_late`, one of them 1, as by a recall. What is in flight goes on.
        """
        self.flush()
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> tuple[dict[str, int], int] | None:
            push_no = push_number(transaction, app_no, push_id)
            found = None if push_no is None else whole_delivery(transaction, push_no, device_no)
            if push_no is None or found is None:
                return None
            counts = {"cancelled": 0, "in_flight": 0, "too_late": 0}
            handle = handle_of(push_no, device_no)
            if found.state != DeliveryState.WAITING:
                return {**counts, "too_late": 1}, 0
            if self.is_sent(push_no, device_no):
                return {**counts, "in_flight": 1}, 0
            end_rows(transaction, [handle], DeliveryState.CANCELLED, "removed_from_mailbox", now_ms)
            return {**counts, "cancelled": 1}, handle

        done = await self._database.write(operation, app_no)
        if done is None:
            return None
        counts, handle = done
        if handle:
            self.on_ended([handle])
        return counts

    def is_sent(self, push_no: int, device_no: int) -> bool:
        """Whether a delivery is handed over and its outcome not on disk yet. Loop or writer thread (see the module)."""
        push = self.pushes.get(push_no)
        return push is not None and device_no in push.sent

    def is_in_flight(self, push_no: int) -> bool:
        """Whether any delivery of the push is in flight."""
        push = self.pushes.get(push_no)
        return push is not None and bool(push.sent)

    def sent_of(self, push_no: int) -> list[int]:
        """Devices to which a push was handed over and whose outcome is not on disk yet. Loop or writer thread."""
        push = self.pushes.get(push_no)
        return list(push.sent) if push is not None else []
