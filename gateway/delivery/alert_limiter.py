"""The alert limiter: caps, quiet hours and mutes, checked when an alert is handed over and not before.

An alert under such rules, or a critical push for those who have muted its channel, is stored as *limited*
(`Delivery.not_before`), and nothing else is: fan-out and mailbox reader leave it alone, and
only the alert limiter hands it over. (A critical one that caps and quiet hours do not concern is checked here, and
handed over by the mailbox reader, in its place.) So ten days offline do not arrive at once, and what was accepted by
day does not arrive at night. A limited delivery waits like any other until then: it can expire, be superseded, recalled
or overflow.

Laws
1. A cap holds over every hour, day or week, whatever was lost or crashed between: an alert that is let through is
   counted on disk (`alert_use`) before it leaves, once; sent again, it is checked again and counts from then on. What
   was sent with QoS 2 and may have arrived is not checked again: it goes out under its identifier, or not at all.
2. Nothing is let through in quiet hours, and nothing muted. What excess says `defer` of waits with the time when it is
   checked again; what it says `drop` of ends `suppressed` with its reason.
3. `critical` passes all of that, as often as the app's ration for a device allows; each such use is a row
   (`critical_use`). One more is checked like any other; the same one, sent again, is the same use, from then on.
4. Apps without such rules pay nothing: `active` is False and no limited delivery exists.

One check is under way at a time, for many devices; `tick` finds those whose time has come.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gateway.audience.frequency import LONGEST_MS, MAX_CAP_ALERTS, WINDOWS_MS, Hours
from gateway.audience.policy import CRITICAL, PolicyStore
from gateway.delivery.alert_rules import Alert, Person, SentAlert, check_alert, members_of
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.digest import Digests
from gateway.delivery.hand_over import HandOver
from gateway.delivery.ledger import RETRY_SECONDS, Ledger
from gateway.delivery.push import ActivePush, load_pushes
from gateway.delivery_handles import handle_of
from gateway.delivery_states import PRIORITIES, DeliveryState
from gateway.store.audience.preferences import choices_of, frequency_preferences
from gateway.store.database import Database
from gateway.store.deliveries.alert_uses import (
    LimitedDelivery,
    count_limited,
    count_uses,
    critical_pushes_since,
    critical_uses,
    forget_single_uses,
    forget_uses,
    is_any_limited,
    limited_deliveries,
    record_critical_uses,
    repeat_critical_uses,
    uses_since,
)
from gateway.store.deliveries.app_slices import PushPart
from gateway.store.deliveries.event_log import log_of_device
from gateway.store.deliveries.ledger_statements import end_rows
from gateway.store.deliveries.not_before import defer_rows, mark_device_rows, mark_muted_rows, mark_part_rows
from gateway.store.deliveries.pushes import push_id_of
from gateway.store.protocols import Timers
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

log = logging.getLogger(__name__)

CHECKED_DEVICES = 250
"""Devices of one check."""
SPARE_ALERTS = 200
"""Alerts of a device that there are too many of before they are removed together."""
FORGOTTEN_ROWS = 5_000
"""Rows that one check removes of those, 10 ms."""
CHECKED_ROWS = 2_000
"""Deliveries that one check looks at, or those of one mailbox."""


@dataclass(slots=True)
class _Checked:
    """Result of an operation, for the loop."""

    passed: dict[int, list[int]] = field(default_factory=dict)
    """Device number -> push numbers, in mailbox order."""
    later: dict[int, int] = field(default_factory=dict)
    """Device number -> when it is to be looked at again."""
    again: list[int] = field(default_factory=list)
    """Devices that there was no time for."""
    ended: list[int] = field(default_factory=list)
    in_place: set[int] = field(default_factory=set)
    """Devices of which something is checked only when their mailbox is read."""
    digests: list[int] = field(default_factory=list)
    """Pushes that were made of others."""
    loaded: list[ActivePush] = field(default_factory=list)


class AlertLimiter:
    """Hands limited deliveries over when the app's and the person's rules allow them. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        connections: DeviceConnections,
        hand_over: HandOver,
        policies: PolicyStore,
        clock_ms: Callable[[], int],
        timers: Timers,
        digests: Digests,
    ) -> None:
        self._digests = digests
        self._database = database
        self._ledger = ledger
        self._connections = connections
        self._hand_over = hand_over
        self._policies = policies
        self._clock_ms = clock_ms
        self._timers = timers
        self._due: dict[int, None] = {}
        """Devices to be checked."""
        self._full: set[int] = set()
        """Devices that had no room for what was let through."""
        self._later: list[tuple[int, int]] = []
        """(time, device number): a heap; what `_next` does not confirm is void."""
        self._next: dict[int, int] = {}
        self._act_now: dict[int, set[int]] = {}
        """Push number of ttl 0 -> devices for which it is being checked."""
        self._under_way = self._scheduled = False

    async def load(self) -> None:
        """Learn whether any delivery is limited; before the first connection, and before `RuleChanges.recover`."""
        is_limited = await self._database.read(is_any_limited)
        self._ledger.limited |= is_limited or not self._policies.apps_limited_at_hand_over().isdisjoint(
            self._policies.last_changes
        )

    def add(self, push_no: int, devices: Sequence[int], ttl: int) -> None:
        """Take a limited push that was accepted for these devices."""
        self._ledger.limited = True
        here = [device_no for device_no in devices if self._hand_over.is_taking(device_no)]
        if not ttl:
            present = set(here)
            missed = [handle_of(push_no, device_no) for device_no in devices if device_no not in present]
            if missed:
                self._ledger.end(missed, DeliveryState.EXPIRED, "ttl")
            if present:
                self._act_now[push_no] = present
        self.check(here)

    def act_now(self) -> list[int]:
        """The numbers of pushes of ttl 0 that are being checked."""
        return list(self._act_now)

    def add_muted(self, push_no: int, devices: Sequence[int], ttl: int) -> None:
        """Take a critical push that was accepted for devices which have muted its channel. It keeps its place in the
        mailbox."""
        if ttl:
            self._hand_over.read_again(devices)
        else:
            self.add(push_no, devices, ttl)

    def check(self, devices: Iterable[int]) -> None:
        """Check soon what waits for these devices. Those that are not connected are checked when they come."""
        if not self._ledger.limited:
            return
        self._due.update(dict.fromkeys(devices))
        if self._due and not self._under_way and not self._scheduled:
            self._scheduled = True
            self._timers.call_soon(self._check_due)

    def ready(self, device_no: int, first: bool) -> None:
        """Check the deliveries of a device that can take pushes, for the `first` time on this connection or again."""
        if first or device_no in self._full:
            self._full.discard(device_no)
            self.check((device_no,))

    def tick(self) -> None:
        """Check the devices whose time has come. Called a few times a second."""
        now_ms = self._clock_ms()
        due = []
        while self._later and self._later[0][0] <= now_ms:
            at, device_no = heapq.heappop(self._later)
            if self._next.get(device_no) == at:
                del self._next[device_no]
                due.append(device_no)
        if due:
            self.check(due)

    def device_changed(self, device_no: int) -> None:
        """Check a device's deliveries again: its time zone is another one, or the groups that it is in."""
        if self._ledger.limited:
            now_ms = self._clock_ms()
            self._database.submit(
                lambda transaction: mark_device_rows(transaction, device_no, now_ms, limited_only=True),
                lambda _: self.check((device_no,)),
                lambda error: log.error("a new time zone or tag could not be applied to what waits: %s", error),
                apps=lambda: self._connections.apps_of((device_no,)),
            )

    def rules_changed(self, app_no: int) -> None:
        """Expect limited deliveries of an app: what waits is about to be put under new rules (`rule_changes`)."""
        if app_no in self._policies.apps_limited_at_hand_over():
            self._ledger.limited = True

    def check_app(self, app_no: int) -> None:
        """Check what may be handed over now that an app's deliveries have been put under new rules."""
        if self._ledger.limited:
            self.check(self._connections.online_devices(app_no))

    def _check_due(self) -> None:
        self._scheduled = False
        if self._under_way or not self._due:
            return
        devices = list(self._due)[:CHECKED_DEVICES]
        for device_no in devices:
            del self._due[device_no]
        here = [device_no for device_no in devices if self._hand_over.is_taking(device_no)]
        self._end_missed(set(devices).difference(here))
        devices = here
        if not devices:
            self.check(())
            return
        self._under_way = True
        self._ledger.flush()
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> _Checked:
            checked = check_rows(transaction, devices, self._policies, self._ledger.is_sent, self._digests, now_ms)
            missing = {
                no
                for device_no, numbers in checked.passed.items()
                for no in numbers
                if self._ledger.pushes.get_for(no, device_no) is None
            }
            checked.loaded = load_pushes(transaction, missing, checked.passed) if missing else []
            return checked

        def on_error(error: BaseException) -> None:
            log.error("what is due could not be checked, trying again: %s", error)
            self._under_way = False
            self._timers.call_later(RETRY_SECONDS, lambda: self.check(devices))

        self._database.submit(
            operation,
            lambda checked: self._checked(devices, checked),
            on_error,
            apps=lambda: self._connections.apps_of(devices),
        )

    def check_in_place(
        self, transaction: Transaction, devices: list[int], now_ms: int
    ) -> tuple[dict[int, list[int]], list[int]]:
        """Check the muted critical deliveries of devices whose mailboxes are being read. Writer thread.

        Answers device number -> push numbers that are let through, in order, and the handles of those that ended.
        """
        checked = check_rows(
            transaction, devices, self._policies, self._ledger.is_sent, self._digests, now_ms, in_place=True
        )
        return checked.passed, checked.ended

    def _checked(self, devices: list[int], checked: _Checked) -> None:
        self._under_way = False
        self._hand_over.read_again(checked.in_place)
        self._ledger.note_ended(checked.ended)
        self._ledger.changed.update(checked.digests)
        for one in checked.loaded:
            self._ledger.expects_expiry(one.expires_at)
        loaded = {push.no: push for push in checked.loaded}
        for device_no, numbers in checked.passed.items():
            pushes: list[ActivePush] = []
            for no in numbers:
                push = self._ledger.pushes.get_for(no, device_no) or loaded.get(no)
                if push is None:  # its texts are for the next check, or it is not in memory any more
                    break
                pushes.append(push)
            if not self._hand_over.hand_over_limited(device_no, pushes):
                self._full.add(device_no)
            elif len(pushes) < len(numbers):
                checked.again.append(device_no)
        for device_no, at in checked.later.items():
            if at < self._next.get(device_no, at + 1):
                self._next[device_no] = at
                heapq.heappush(self._later, (at, device_no))
        self._end_missed(set(devices).difference(checked.again))
        self.check(checked.again)

    def _end_missed(self, devices: Iterable[int]) -> None:
        """End pushes of ttl 0 that were checked for these devices (or they left) and not handed over."""
        if not self._act_now:
            return
        missed = []
        for push_no, waiting in list(self._act_now.items()):
            for device_no in waiting.intersection(devices):
                waiting.discard(device_no)
                if not self._ledger.is_sent(push_no, device_no):
                    missed.append(handle_of(push_no, device_no))
            if not waiting:
                del self._act_now[push_no]
        if missed:
            self._ledger.end(missed, DeliveryState.EXPIRED, "ttl")

    async def critical_uses(self, app_no: int, limit: int, cursor: int | None) -> dict[str, Any]:
        """The audit: every critical push that passed a rule, the newest first."""
        read = partial(critical_uses, app_no=app_no, before=cursor, count=limit + 1)
        uses = await self._database.read(read, app_no)
        items = [
            {"device_id": use.device_id, "push_id": use.push_id, "passed": use.passed, "at": rfc3339(use.at)}
            for use in uses[:limit]
        ]
        return {"items": items, "next_cursor": str(uses[limit - 1].no) if len(uses) > limit else None}


# -- on the writer thread ----------------------------------------------------------------------------------------------


def mark_changed_rows(
    transaction: Transaction, app_no: int, parts: Iterable[PushPart], policies: PolicyStore, now_ms: int
) -> None:
    """Mark what waits of some pushes to be checked at hand-over, if a rule of the app may hold it. Writer thread.

    What was checked before is checked anew. What no rule may hold is left alone: it would lose its place.
    """
    for part in parts:
        if part.kind == "alert" or (part.kind == "in_app" and part.priority == CRITICAL):
            limit = policies.is_limited(app_no, part.kind, part.channel)
            mark_part_rows(transaction, part, now_ms, limited_only=not limit)
            if policies.may_pass_mute(app_no, part.kind, part.channel, part.priority):
                assert part.channel is not None, "what has none cannot be muted"
                mark_muted_rows(transaction, part.push_no, part.channel, part.after, part.last)


def check_rows(
    transaction: Transaction,
    devices: list[int],
    policies: PolicyStore,
    is_sent: Callable[[int, int], bool],
    digests: Digests,
    now_ms: int,
    in_place: bool = False,
) -> _Checked:
    """Check what waits for these devices: count what is let through, end or defer the rest. Writer thread.

    `in_place`: only what no cap and no quiet hours may hold back, which is critical and muted: it is let through or
    ends, and keeps its place among what else is critical (`mailbox_reader`). Otherwise only the rest.
    """
    checked = _Checked()
    counts = count_limited(transaction, devices)
    chosen: list[int] = []
    total = 0
    for position, device_no in enumerate(devices):
        total += counts.get(device_no, 0)
        if chosen and total > CHECKED_ROWS and not in_place:
            checked.again = devices[position:]
            break
        chosen.append(device_no)
    rows = limited_deliveries(transaction, chosen, CRITICAL if in_place else len(PRIORITIES))
    persons = read_persons(transaction, {row[0] for row in rows}, policies, now_ms)
    if any(person.rules.counts for person in persons.values()):
        forget_uses(transaction, persons, now_ms - LONGEST_MS)
    suppressed: dict[str, list[int]] = defaultdict(list)
    deferred: list[tuple[int, int]] = []
    counted: list[tuple[int, int, str | None, int]] = []
    critical: list[tuple[int, int, int, str, int]] = []
    passed_again: list[tuple[int, int, int]] = []
    groups = _digest_groups(rows, persons, is_sent, now_ms)
    digested: set[tuple[int, int]] = set()
    for device_no, push_no, not_before, kind, channel, priority, ttl, expires_at in rows:
        person = persons.get(device_no)
        if (device_no, push_no) in digested:
            continue
        if person is None or is_sent(push_no, device_no) or (ttl and expires_at <= now_ms):
            continue
        if not_before > now_ms:
            _keep_earliest(checked.later, device_no, not_before)
            continue
        if in_place != (priority == CRITICAL and ttl > 0 and not policies.is_limited(person.app_no, kind, channel)):
            if not in_place:
                checked.in_place.add(device_no)
            continue
        decision = check_alert(Alert(push_no, kind, channel, priority, ttl), person, now_ms)
        if decision.reason is None:
            group = groups.get((device_no, channel), ())
            if push_no in group and decision.passed is None and len(group) > 1:
                known = person.rules.channels.get(channel) if channel is not None else None
                name = None if known is None else known.fields.name
                checked.ended += [handle_of(member, device_no) for member in group]
                digested.update((device_no, member) for member in group)
                push_no = digests.store(transaction, device_no, channel, name, group, now_ms)
                checked.digests.append(push_no)
            checked.passed.setdefault(device_no, []).append(push_no)
            if decision.passed is not None and push_no in person.critical_uses:
                passed_again.append((now_ms, device_no, push_no))
            elif decision.passed is not None:
                person.critical_uses.add(push_no)
                critical.append((person.app_no, device_no, push_no, decision.passed, now_ms))
            if kind == "alert" and person.rules.counts:
                person.uses = [use for use in person.uses if use.push_no != push_no]
                person.uses.append(SentAlert(push_no, channel, now_ms))
                counted.append((device_no, push_no, channel, now_ms))
        elif decision.until is None:
            suppressed[decision.reason].append(handle_of(push_no, device_no))
        else:
            deferred.append((handle_of(push_no, device_no), decision.until))
            _keep_earliest(checked.later, device_no, decision.until)
    for reason, handles in suppressed.items():
        end_rows(transaction, handles, DeliveryState.SUPPRESSED, reason, now_ms)
        checked.ended += handles
    defer_rows(transaction, deferred)
    count_uses(transaction, counted)
    _forget_uncounted(transaction, persons)
    record_critical_uses(transaction, critical)
    repeat_critical_uses(transaction, passed_again)
    for _, device_no, push_no, passed, _ in critical:
        push_id = push_id_of(transaction, push_no)
        log_of_device(transaction, "policy.critical", now_ms, device_no, {"push_id": push_id, "passed": passed})
    return checked


def _digest_groups(
    rows: Iterable[LimitedDelivery], persons: dict[int, Person], is_sent: Callable[[int, int], bool], now_ms: int
) -> dict[tuple[int, str | None], list[int]]:
    """Group by (device, channel) the pushes that go as one digest when there is room.

    Those are the ones that are due, if a cap says so and has held one of them back. What is critical goes by itself,
    and so does what was let through before: it counts already, and may have arrived.
    """
    groups: dict[tuple[int, str | None], list[int]] = defaultdict(list)
    limit: set[tuple[int, str | None]] = set()
    for device_no, push_no, not_before, kind, channel, priority, ttl, expires_at in rows:
        person = persons.get(device_no)
        if (
            person is None
            or kind != "alert"
            or priority == CRITICAL
            or not ttl
            or expires_at <= now_ms
            or not_before > now_ms
            or any(use.push_no == push_no for use in person.uses)
        ):
            continue
        caps = (person.rules.policy.caps, person.rules.caps(channel))
        if any(each is not None and each.excess == "digest" for each in caps) and not is_sent(push_no, device_no):
            groups[device_no, channel].append(push_no)
            if not_before:
                limit.add((device_no, channel))
    return {key: members for key, members in groups.items() if key in limit}


def _keep_earliest(later: dict[int, int], device_no: int, at: int) -> None:
    later[device_no] = min(at, later.get(device_no, at))


def _forget_uncounted(transaction: Transaction, persons: dict[int, Person]) -> None:
    """Remove alerts of the last week that no limit looks back at, because there were so many since.

    Where devices are in a group without limits, or have hundreds in an hour, all of a week would be read each time.
    """
    useless: list[tuple[int, int]] = []
    for device_no, person in persons.items():
        if len(person.uses) < MAX_CAP_ALERTS + SPARE_ALERTS:
            continue
        since = Counter(use.channel for use in person.uses[-MAX_CAP_ALERTS:])
        for use in reversed(person.uses[:-MAX_CAP_ALERTS]):
            caps = person.rules.caps(use.channel)
            if caps is None or since[use.channel] > caps.counted_alerts:  # one more: that which is checked again
                useless.append((device_no, use.push_no))
            since[use.channel] += 1
    forget_single_uses(transaction, useless[:FORGOTTEN_ROWS])


def read_persons(
    transaction: Transaction, devices: Collection[int], policies: PolicyStore, now_ms: int
) -> dict[int, Person]:
    """The people of devices, with what counts for a check at this time. Any thread."""
    persons: dict[int, Person] = {}
    for device_no, app_no, zone, hours, choices in frequency_preferences(transaction, devices):
        rules = policies.of(app_no)
        persons[device_no] = Person(
            app_no=app_no,
            rules=rules,
            zone=zone or rules.policy.timezone,
            hours=None if hours is None else Hours.model_validate_json(hours),
            choices=choices_of(choices),
        )
    for app_no in {person.app_no for person in persons.values()}:
        if groups := policies.of(app_no).cap_groups:
            of_app = [device_no for device_no, person in persons.items() if person.app_no == app_no]
            in_segment = partial(policies.segments.members, app_no)
            for device_no, selector in members_of(transaction, of_app, groups, in_segment):
                persons[device_no].groups.add(selector)
    if any(person.rules.counts for person in persons.values()):
        for device_no, push_no, channel, at in uses_since(transaction, devices, now_ms - LONGEST_MS):
            persons[device_no].uses.append(SentAlert(push_no, channel, at))
    for device_no, push_no in critical_pushes_since(transaction, devices, now_ms - WINDOWS_MS["day"]):
        persons[device_no].critical_uses.add(push_no)
    return persons
