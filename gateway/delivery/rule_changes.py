"""New rules of an app, put to what waits: a slice of the writer at a time, apps in turn.

Rules are checked when a push is accepted, and hold for what waits as well: what is not wanted under the new ones ends
(`consent`), what they may hold back is checked when it is handed over (`not_before`, `alert_limiter`). A fleet of ten
thousand devices with thirty alerts each takes the writer two seconds, so that is done in slices, one at a time, and
everybody else has the writer in between; until its slice comes, what waits goes by the rules before.

Laws
1. Everything that waits ends up under the last rules. A change while a pass is under way begins it anew, and a push
   that is stored meanwhile is checked by the new rules already.
2. A kill between two slices changes nothing: the change has a row (`RuleChange`), written together with the rules and
   deleted together with the last slice; what has one at a start is done before the first connection. To put something
   under the same rules twice does no harm.
3. What the rules do not concern keeps its place in its mailbox.
4. One pass of an app at most, however often its rules change; one slice of all apps at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pyroaring import BitMap

from gateway.audience.policy import PolicyStore
from gateway.delivery.alert_limiter import AlertLimiter, mark_changed_rows
from gateway.delivery.consent import PreferenceStore, end_unwanted_parts, unwanted_selected
from gateway.delivery.ledger import Ledger
from gateway.delivery_handles import handle_of
from gateway.delivery_states import DeliveryState
from gateway.store.audience.preferences import Refusal, refusing_devices
from gateway.store.database import Database
from gateway.store.deliveries.app_slices import BEGIN, SlicePosition, cut, next_slice
from gateway.store.deliveries.delivery_sets import note_rows_made, some_to_rows, to_rows, waiting_of
from gateway.store.deliveries.ledger_statements import SWEEP_DEVICES, end_devices
from gateway.store.deliveries.rule_changes import forget_rule_change, note_rule_change, pushes_waiting_in_sets
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

SET_PUSHES = 20
"""Pushes stored as sets that one operation puts under new rules, about 5 ms."""
SET_ROWS = 1_000
"""Deliveries of those that become rows in one, because they are checked at hand-over from now on."""
LONG_PASS_MS = 2_000
"""A pass that took longer is told in the log."""


class SetPosition(NamedTuple):
    """A position before the first slice of rows: pushes stored as sets up to this one have been visited."""

    push_no: int


BEGIN_SETS = SetPosition(0)


@dataclass(slots=True, eq=False)
class _Pass:
    """An app whose deliveries are to be put under its rules."""

    app_no: int
    began_at: int
    after: SlicePosition | SetPosition = BEGIN_SETS
    slices: int = 0


@dataclass(slots=True)
class _Slice:
    """Result of an operation, for the loop."""

    ended: list[int] = field(default_factory=list)
    devices_ended: list[tuple[int, BitMap]] = field(default_factory=list)
    """Pushes stored as sets, and the devices for which they ended."""
    in_flight: set[int] = field(default_factory=set)
    """Handles that are in flight and not wanted."""
    goes_on: SlicePosition | SetPosition | None = None


class RuleChanges:
    """Puts what waits under the changed rules of its app, slice by slice. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        preferences: PreferenceStore,
        alert_limiter: AlertLimiter,
        policies: PolicyStore,
        clock_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._preferences = preferences
        self._alert_limiter = alert_limiter
        self._policies = policies
        self._clock_ms = clock_ms
        self._passes: dict[int, _Pass] = {}
        """Passes by app; the first is the next to have its turn."""
        self._under_way = False
        self.slices = 0
        """Operations, for metrics."""

    @property
    def waiting(self) -> int:
        """Apps of which something is still to be put under new rules, for metrics."""
        return len(self._passes)

    def start(self, app_no: int) -> None:
        """Put what waits in an app under its rules: they have changed, or what they say at this time has."""
        self._alert_limiter.rules_changed(app_no)
        before = self._passes.get(app_no)
        self._passes[app_no] = _Pass(app_no, before.began_at if before is not None else self._clock_ms())
        if not self._under_way:
            self._start_slice()

    def wall_clock_set(self) -> None:
        """Put what waits under quiet hours again, which begin and end at other moments: the machine's clock was set."""
        for app_no in self._policies.apps_with_frequency_limits():
            self.start(app_no)

    def _start_slice(self) -> None:
        self._under_way = True
        app_no, under_way = next(iter(self._passes.items()))
        self._ledger.flush()

        def on_commit(found: _Slice) -> None:
            self._under_way = False
            self.slices += 1
            self._after_commit(found)
            under_way.slices += 1
            last = self._passes.pop(app_no)
            if last is not under_way:  # the rules have changed again
                self._passes[app_no] = last
            elif found.goes_on is not None:
                under_way.after = found.goes_on
                self._passes[app_no] = under_way  # behind the others
            else:
                self._done(under_way)
            if self._passes:
                self._start_slice()

        operation = self._operation(app_no, under_way.after, limits_changed=True)
        self._ledger.submit_until_done(operation, on_commit, frozenset((app_no,)))

    def _after_commit(self, found: _Slice) -> None:
        self._ledger.note_devices_ended(found.devices_ended)
        self._preferences.after_commit(found.ended, found.in_flight)

    def _done(self, finished: _Pass) -> None:
        self._alert_limiter.check_app(finished.app_no)
        took = self._clock_ms() - finished.began_at
        if took > LONG_PASS_MS:
            text = "new rules of app number %d: what waited has been put under them in %.1f s, in %d slices"
            log.info(text, finished.app_no, took / 1000, finished.slices)

    def _operation(
        self, app_no: int, after: SlicePosition | SetPosition, limits_changed: bool
    ) -> Callable[[Transaction], _Slice]:
        now_ms, number = self._clock_ms(), self._policies.last_changes.get(app_no, 0)
        policies, is_sent, sent_of = self._policies, self._ledger.is_sent, self._ledger.sent_of

        def operation(transaction: Transaction) -> _Slice:
            done = _Slice()
            if limits_changed and after == BEGIN_SETS:  # there already, unless it is the clock that has changed
                note_rule_change(transaction, app_no, number)
            begin = after
            if isinstance(begin, SetPosition):
                if _put_sets_under_rules(transaction, app_no, begin, policies, sent_of, limits_changed, now_ms, done):
                    return done
                begin = BEGIN
            parts, done.goes_on = next_slice(transaction, app_no, begin)
            if parts and policies.is_guarded(app_no):
                rules = policies.of(app_no)
                done.ended, done.in_flight, end = end_unwanted_parts(transaction, rules, parts, is_sent, now_ms)
                if end is not None:
                    done.goes_on = end
                    parts = cut(parts, end)
            if parts and limits_changed and self._ledger.limited:
                mark_changed_rows(transaction, app_no, parts, policies, now_ms)
            if done.goes_on is None:
                forget_rule_change(transaction, app_no, number)
            return done

        return operation

    async def recover(self) -> None:
        """Go on where the last run stopped; after a restart, before the first connection.

        That is what had not been put under new rules, and of every app what was in flight when somebody changed their
        mind.
        """
        unfinished = set(self._policies.last_changes)
        for app_no in unfinished.union(self._policies.guarded()):
            after: SlicePosition | SetPosition | None = BEGIN_SETS
            while after is not None:
                operation = self._operation(app_no, after, app_no in unfinished)
                found = await self._database.write(operation, apps=frozenset((app_no,)))
                self._after_commit(found)  # what is past PUBREC is in flight already
                after = found.goes_on


def _put_sets_under_rules(
    transaction: Transaction,
    app_no: int,
    after: SetPosition,
    policies: PolicyStore,
    sent_of: Callable[[int], list[int]],
    limits_changed: bool,
    now_ms: int,
    done: _Slice,
) -> bool:
    """End what is not wanted of the next pushes that wait as sets, and make rows of what is checked at hand-over.

    False if there are none: then the rows have their turn. Writer thread.
    """
    rules = policies.of(app_no)
    pushes = pushes_waiting_in_sets(transaction, app_no, after.push_no, SET_PUSHES)
    unwilling: dict[Refusal, BitMap] = {}
    room = SWEEP_DEVICES
    for push_no, kind, channel, priority in pushes:
        waiting = waiting_of(transaction, push_no)
        if policies.is_guarded(app_no):
            sent = BitMap(sent_of(push_no))
            for reason, devices in unwanted_selected(
                transaction, app_no, rules, kind, channel, priority, waiting, unwilling
            ).items():
                done.in_flight.update(handle_of(push_no, device_no) for device_no in devices & sent)
                gone = devices - sent
                end_devices(transaction, push_no, gone, DeliveryState.SUPPRESSED, reason, now_ms)
                done.devices_ended.append((push_no, gone))
                room -= len(gone)
        if limits_changed and policies.is_limited(app_no, kind, channel):
            some, _ = some_to_rows(transaction, push_no, SET_ROWS)
            note_rows_made(transaction, BitMap(some))
            if len(some) == SET_ROWS:  # there may be more of it
                done.goes_on = SetPosition(push_no - 1)
                return True
        elif limits_changed and policies.may_pass_mute(app_no, kind, channel, priority):
            muting = refusing_devices(transaction, app_no, Refusal("channel_muted", channel=channel))
            muted = muting & waiting_of(transaction, push_no)
            if muted:
                to_rows(transaction, push_no, muted[:SET_ROWS])
                note_rows_made(transaction, muted[:SET_ROWS])
            if len(muted) > SET_ROWS:
                done.goes_on = SetPosition(push_no - 1)
                return True
        if room <= 0:
            done.goes_on = SetPosition(push_no)
            return True
    done.goes_on = SetPosition(pushes[-1].push_no) if len(pushes) == SET_PUSHES else BEGIN
    return bool(pushes)
