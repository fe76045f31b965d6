"""The runner of schedules: begins the runs whose dates are due, and sends their parts.

What is true of a schedule is on disk (`store/plans/schedules`). A look at one reads it, its runs and their devices on a
reader, in the turn of its app, and finds by pure functions what is due (`timing`, `due_parts`); each step of that is an
operation of its own, after which it is looked at again, until nothing is due. So a kill between any two steps loses
nothing and repeats nothing: the next start looks at all schedules.

    look ─▶ a date is due ─▶ resolve its target (reader) ─▶ begin the run: its date and its devices (one operation)
        └─▶ a part is due ─▶ accept a push to these devices, which takes them out of those that wait (one operation)
        └─▶ nothing is due ─▶ note when to look again

Fair among apps: those that are due are looked at some at a time, apps in turn, and a part is accepted like any push: in
the app's turn among others (`acceptance_queue`). Nothing is kept in memory for a schedule; until the next one is due, a
comparison four times a second is all that there is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import NamedTuple

from pydantic import ValidationError
from pyroaring import BitMap

from gateway.audience.policy import PolicyStore
from gateway.audience.target_resolution import TargetResolver
from gateway.audience.time_zones import is_time_zone
from gateway.delivery.acceptance import Acceptance
from gateway.delivery.push import PushRequest
from gateway.delivery.submission import AppRef, PendingPush, approval_needed
from gateway.errors import Problem, problem
from gateway.latency import LatencyHistogram
from gateway.plans.device_zones import devices_by_zone, zones_of_app
from gateway.plans.due_parts import DueGroup, DueParts, RunRules, find_due_parts
from gateway.plans.due_times import EAST_MS, WEST_MS
from gateway.plans.parts import RunPart, is_of_nobody, part_push, readable_request, stored_request
from gateway.plans.slices import slice_count
from gateway.plans.timing import GRACE_MS, LOOK_MS, NextDate, Timing
from gateway.store.database import Database
from gateway.store.errors import StorageError
from gateway.store.plans import schedules as rows
from gateway.store.plans.schedules import KIND, NewRun, RunRow, RunState, ScheduleRow, ScheduleState
from gateway.store.plans.waiting_devices import waiting_devices
from gateway.store.transaction import Transaction
from gateway.timestamps import wall_time

log = logging.getLogger(__name__)

OPEN_SCHEDULES = 16
"""Schedules that are looked at at a time: enough to share commits, and a tenth of what readers let wait."""
BACKLOG_SCHEDULES = 500
"""Schedules that are found due at once; finding them means to sort all that are."""
BACKLOG_MS = 1_000
"""Time after which it is looked for those that have become due meanwhile, of other apps perhaps."""
UNSEEN_SCHEDULES = 50
"""Schedules that are looked at for the first time since a start, of those that are not due, a quarter of a second: a
sixth of a core, while devices return."""
OPEN_SCHEDULES_OF_APP = 4
"""Of one app: its thousand schedules that are due at nine leave most of those to others."""
STEPS_PER_TURN = 1_000
"""Steps of a schedule before others have their turn again; a run has 100 slices in 40 zones at most."""
REMOVED_SCHEDULES = 100
"""Schedules that one operation removes: with 100 runs each about 10 ms."""
RUNS_UNDER_WAY = 64
"""Runs of a schedule under way at a time, each of which keeps its devices and is looked at with the others: those of 26
hours around the earth and a spread of a day, 24 dates a day."""
TOO_MANY_RUNS = f"{RUNS_UNDER_WAY} runs of the schedule are under way: have a shorter spread, or fewer dates"
UNREADABLE = "invalid_request: the push is no longer valid here: change it (PATCH), then resume the schedule"
"""Problem of a run whose push was good once, and is no longer: its time zone was taken out of tzdata, for example."""
RETRY_MS = 500
"""Time after which a schedule is looked at again of which a step could not be done; it doubles each time."""
RETRY_AT_MOST_MS = 15_000
"""The most that it becomes, a quarter of what is late and on time: an expression that takes too long uses an eighth of
a reader."""
LOG_MS = 60_000
"""Time between two lines in the log about the schedules of an app."""
NOT_NOW = (503, 507)
"""Statuses of refusals that are not of the push: it is tried again."""


@dataclass(slots=True, frozen=True)
class FoundRun:
    """A run under way, and what is due of it."""

    row: RunRow
    request: PushRequest
    parts_due: DueParts


@dataclass(slots=True)
class Found:
    """Result of a look at a schedule."""

    row: ScheduleRow
    request: PushRequest
    timing: Timing
    date: NextDate
    runs: list[FoundRun] = field(default_factory=list)

    @property
    def wake(self) -> int | None:
        """The instant of the next look."""
        wakes = [run.parts_due.wake for run in self.runs] + [self.date.wake]
        return min((wake for wake in wakes if wake is not None), default=None)


class Retry(NamedTuple):
    """The time of the next attempt at a schedule of which a step could not be done, and the delay before it."""

    at: int
    delay_ms: int


class ScheduleRunner:
    """Begins the runs of schedules and sends their parts. Loop.

    `clock_ms` gives server time. `storage_left` says whether the disk has room for another push: until then what is due
    waits.
    """

    def __init__(
        self,
        *,
        database: Database,
        acceptance: Acceptance,
        targets: TargetResolver,
        policies: PolicyStore,
        clock_ms: Callable[[], int],
        storage_left: Callable[[], bool],
    ) -> None:
        self._database = database
        self._acceptance = acceptance
        self._targets = targets
        self._policies = policies
        self._clock_ms = clock_ms
        self._storage_left = storage_left
        self._wake: int | None = None
        """The instant at which the next schedule is to be looked at; None: there is none."""
        self._unseen: dict[int, int] = {}
        """Schedules that have not been looked at since the start: number and app."""
        self._retry: dict[int, Retry] = {}
        """Schedules of which a step could not be done, by number."""
        self._logged_at: dict[int, int] = {}
        """When a failure was logged last, by app."""
        self.runs = {state.value: 0 for state in RunState if state not in (RunState.RUNNING, RunState.CANCELLED)}
        """Runs that have ended, by how, for metrics."""
        self.parts = 0
        """Pushes that were sent, for metrics."""
        self.lateness = LatencyHistogram()
        """How long after they were due parts were on disk, but for what was missed, for metrics."""

    async def load(self) -> None:
        """Have every schedule looked at, since zones may have other rules now. Before the first connection."""
        self._unseen = dict(
            await self._database.read(
                lambda transaction: rows.due_schedules(transaction, 2**62, (), rows.MANY_SCHEDULES)
            )
        )
        if self._unseen:
            self.expect(0)

    async def follow_others(self) -> None:
        """Learn when the next schedule is due: another node may have stored a change of one."""
        first = await self._database.read_soon(partial(rows.next_wake, after=-1))
        if first is not None:
            self.expect(first)

    def expect(self, instant: int) -> None:
        """Expect a schedule to be due at this instant."""
        self._wake = instant if self._wake is None else min(self._wake, instant)

    def _now(self) -> int:
        return wall_time.of(self._clock_ms())

    async def run_due(self) -> None:
        """Look at the schedules that are due, until none is. Called a few times a second."""
        if self._wake is None or self._now() < self._wake or not self._storage_left():
            return
        under_way: dict[asyncio.Task[None], tuple[int, int]] = {}
        backlog: list[tuple[int, int]] = []
        found_at = 0
        unseen = dict(islice(self._unseen.items(), UNSEEN_SCHEDULES))
        for no in unseen:
            del self._unseen[no]
        try:
            while True:
                if not backlog or self._clock_ms() - found_at >= BACKLOG_MS:
                    found_at = self._clock_ms()
                    self._wake = None  # lowered by what is stored meanwhile, and by what is found
                    busy = [no for no, _ in under_way.values()]
                    backlog, following = await self._database.read(partial(self._find_due, self._now(), busy))
                    if following is not None:
                        self.expect(following)
                    for no in (*busy, *(no for no, _ in backlog)):
                        unseen.pop(no, None)
                    backlog += unseen.items()  # behind those that are due
                backlog = self._start(backlog, under_way)
                for no, _ in under_way.values():
                    unseen.pop(no, None)
                if not under_way:
                    break
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del under_way[task]
            if self._unseen:
                self.expect(0)
        except BaseException:  # nothing could be read, or the server ends
            self._unseen |= unseen
            self.expect(0)
            for task in under_way:  # what they have stored is stored
                task.cancel()
            raise

    def _start(
        self, backlog: list[tuple[int, int]], under_way: dict[asyncio.Task[None], tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Start to look at schedules of the backlog, as many as may be; those that are left."""
        apps = Counter(app_no for _, app_no in under_way.values())
        left: list[tuple[int, int]] = []
        for number, (no, app_no) in enumerate(backlog):
            if len(under_way) >= OPEN_SCHEDULES:
                return left + backlog[number:]
            if apps[app_no] >= OPEN_SCHEDULES_OF_APP:
                left.append((no, app_no))
            else:
                apps[app_no] += 1
                under_way[asyncio.ensure_future(self._advance(no, app_no))] = no, app_no
        return left

    def _find_due(
        self, wall_ms: int, busy: list[int], transaction: Transaction
    ) -> tuple[list[tuple[int, int]], int | None]:
        """Find the schedules to look at, apps in turn, and the instant of the next one behind. Reader thread."""
        clock_ms = self._clock_ms()
        waiting = {no: retry.at for no, retry in list(self._retry.items()) if retry.at > clock_ms}
        due = rows.due_schedules(transaction, wall_ms, [*busy, *waiting], BACKLOG_SCHEDULES)
        following = rows.next_wake(transaction, wall_ms)
        if waiting:
            retry_at = wall_ms + min(waiting.values()) - clock_ms
            following = retry_at if following is None else min(following, retry_at)
        return due, following

    async def _advance(self, no: int, app_no: int) -> None:
        """Do what is due of a schedule, step by step. Whatever fails is tried again later."""
        try:
            for _ in range(STEPS_PER_TURN):
                try:
                    found = await self._database.read(partial(self._find, no), app_no)
                except ValidationError:
                    await self._stop_unreadable(no, app_no)
                    break
                if found is None or await self._step(found):
                    break
                self._retry.pop(no, None)
            self._retry.pop(no, None)
        except (Problem, StorageError) as error:
            self._retry_later(no, app_no, error)
        except Exception as error:
            self._retry_later(no, app_no, error, exc_info=True)

    def _retry_later(self, no: int, app_no: int, error: Exception, *, exc_info: bool = False) -> None:
        """Have a schedule looked at again later, each time it fails after twice the time. Logged once for many."""
        now_ms, former = self._clock_ms(), self._retry.get(no)
        delay_ms = RETRY_MS if former is None else min(former.delay_ms * 2, RETRY_AT_MOST_MS)
        self._retry[no] = Retry(now_ms + delay_ms, delay_ms)
        for ended in [each for each, retry in self._retry.items() if retry.at < now_ms - LOG_MS]:
            del self._retry[ended]  # it was cancelled, or paused
        if now_ms - self._logged_at.get(app_no, -LOG_MS) >= LOG_MS:
            self._logged_at[app_no] = now_ms
            log.warning(
                "schedule %d of app %d: what is due could not be done, trying again: %s",
                no, app_no, error, exc_info=exc_info,
            )  # fmt: skip

    async def _stop_unreadable(self, no: int, app_no: int) -> None:
        """Pause a schedule whose push can no longer be read, and end such runs of it."""
        now_ms, wall_ms = self._clock_ms(), self._now()
        failed = await self._database.write(
            lambda transaction: _stop_unreadable(transaction, no, wall_ms, now_ms), app_no
        )
        self.runs[RunState.FAILED] += failed

    # -- looks: reader thread --------------------------------------------------------------------------------------

    def timing_of(self, request: PushRequest, app_no: int, since: int) -> Timing:
        """The timing of a push in an app. Any thread."""
        zone = self._policies.of(app_no).policy.timezone
        return Timing.of(request, zone if is_time_zone(zone) else "UTC", since)

    def zones(self, transaction: Transaction, timing: Timing, app_no: int) -> list[str]:
        """The zones in which a date may be due: the default one, and those of the devices if they matter."""
        if not timing.is_by_device:
            return [timing.default_zone]
        return list(dict.fromkeys([timing.default_zone, *zones_of_app(transaction, app_no)]))

    def _find(self, no: int, transaction: Transaction) -> Found | None:
        row = rows.schedule_of(transaction, no)
        if row is None or row.wake is None:
            return None
        request, wall_ms = stored_request(row.push), self._now()
        timing = self.timing_of(request, row.app_no, row.since)
        if row.state == ScheduleState.ACTIVE:
            date = timing.find_next(row.last_date, row.used, self.zones(transaction, timing, row.app_no), wall_ms)
        else:
            date = NextDate(0, None, None, None)
        found = Found(row, request, timing, date)
        if row.state != ScheduleState.PAUSED:
            found.runs = [self._find_run(transaction, row, run, wall_ms) for run in rows.running_runs(transaction, no)]
        return found

    def _find_run(self, transaction: Transaction, schedule: ScheduleRow, run: RunRow, wall_ms: int) -> FoundRun:
        assert run.push is not None, "until it ends"
        assert run.since is not None, "until it ends"
        request = stored_request(run.push)
        timing = self.timing_of(request, schedule.app_no, run.since)
        rules = RunRules(
            ttl_s=request.ttl,
            catches_up=run.missed == "catch_up" and request.kind != "command",
            slices=run.slices,
            slice_ms=max(1, (request.spread or 0) * 1000 // run.slices),
        )
        if request.target.duty is not None:
            devices = BitMap([0])  # stands for whoever has the duty then
        else:
            devices = waiting_devices(transaction, KIND, run.no)
        groups = _groups(transaction, schedule, timing, run, devices, wall_ms)
        parts_due = find_due_parts(groups, rules, wall_ms)
        if timing.is_by_device and parts_due.wake is not None:  # a device may come into a zone in which it is due
            parts_due.wake = min(parts_due.wake, wall_ms + LOOK_MS)
        return FoundRun(run, request, parts_due)

    async def resolve(self, app_no: int, request: PushRequest) -> BitMap:
        """The devices that a push is for now. Raises Problem 403 if it needs the approval that no schedule has, 503.

        The whole run is compared with what the policy allows: its parts may be small.
        """
        devices = await self._targets.resolve(app_no, request.target)
        refusal = approval_needed(self._policies.of(app_no).policy, request.kind, len(devices))
        if refusal is not None:
            raise refusal
        return devices

    # -- steps -----------------------------------------------------------------------------------------------------

    async def _step(self, found: Found) -> bool:
        """Do the first thing that is due; whether there was nothing left to do."""
        if found.row.asked is not None and found.row.state == ScheduleState.ACTIVE:
            await self._begin(found, None, found.row.asked, 0)
            return False
        if found.date.begin is not None:
            assert found.date.due is not None, "it is due"
            await self._begin(found, found.date.begin, found.date.due, found.date.skipped)
            return False
        for run in found.runs:
            for reason, devices in run.parts_due.left_out.items():
                await self._exclude(found.row, run.row, devices, reason)
            for ttl, devices in run.parts_due.parts.items():
                await self._send(found.row, run, devices, ttl)
            if run.parts_due.left_out or run.parts_due.parts:
                return False
            if run.parts_due.wake is None:  # nobody waits: they were left out by a step that was interrupted
                await self._end(found.row, rows.end_if_nobody_waits, run.row.no)
                return False
        wake, now_ms = found.wake, self._clock_ms()
        if wake is not None and wake == found.row.wake:
            self.expect(wake)
            return True
        rested = await self._database.write(
            lambda transaction: rows.rest(transaction, found.row, wake, wake is None, now_ms), found.row.app_no
        )
        if rested and wake is not None:
            self.expect(wake)
        return rested

    async def _begin(self, found: Found, date: int | None, due: int, skipped: int) -> None:
        """Begin a run: resolve its target, and note its devices with its date."""
        row, request, timing = found.row, found.request, found.timing
        refusal: str | None = None
        devices = BitMap()
        starts = 1
        try:
            if len(found.runs) >= RUNS_UNDER_WAY:
                raise problem("invalid_request", TOO_MANY_RUNS)
            if request.target.duty is not None:
                devices = BitMap([0])
            else:
                devices = await self.resolve(row.app_no, request)
                if date is not None and timing.is_by_device and devices:
                    devices, starts = await self._database.read(
                        partial(_still_due, row.app_no, timing, date, devices), row.app_no
                    )
                    if not devices:  # it was over for all of them when the schedule was made: no date of theirs
                        await self._database.write(partial(rows.pass_over, row=row, date=date), row.app_no)
                        return
        except Problem as error:
            if error.status in NOT_NOW and self._now() < due + _lifetime_ms(request, timing):
                raise
            refusal = f"{error.code}: {error.detail}"
        run = NewRun(
            date=date,
            due=due,
            state=RunState.FAILED if refusal else RunState.RUNNING if devices else RunState.DONE,
            reason=None if devices or refusal else "no_devices",
            problem=refusal,
            slices=slice_count(request.spread, len(devices), starts),
            devices=devices,
            skipped_dates=skipped,
        )
        now_ms = self._clock_ms()
        begun = await self._database.write(
            lambda transaction: rows.begin_run(transaction, row, run, now_ms), row.app_no
        )
        if begun is not None and run.state != RunState.RUNNING:
            self._count(run.state)

    def _count(self, state: RunState | None) -> None:
        if state is not None:
            self.runs[state] += 1

    async def _send(self, row: ScheduleRow, run: FoundRun, devices: BitMap, ttl: int) -> None:
        """Send a part of a run to some of its devices."""
        run_no, due = run.row.no, run.parts_due.due
        ended: RunState | None = None

        def check(transaction: Transaction) -> Problem | None:
            if rows.is_running(transaction, run_no):
                return None
            return problem("gone", "the run has ended meanwhile")

        def store_more(transaction: Transaction, pending: PendingPush, now_ms: int) -> None:
            nonlocal ended
            ended = rows.end_if_nobody_waits(transaction, run_no, now_ms)

        def stored(pending: PendingPush) -> None:
            self.parts += 1
            self._count(ended)
            if due is not None:
                self.lateness.add(max(0, self._now() - due), 1)

        part = RunPart(KIND, row.id, run_no, devices, check, store_more, stored)
        try:
            pending = part_push(self._acceptance, AppRef(row.app_no, row.app_id), run.request, ttl, part)
            await self._acceptance.accept_pending(pending)
        except Problem as refusal:
            if refusal.code == "gone":
                return
            if is_of_nobody(refusal):
                await self._exclude(row, run.row, devices, "removed")
            elif refusal.status in NOT_NOW:
                raise
            else:
                await self._end(row, rows.end_run, run_no, f"{refusal.code}: {refusal.detail}")

    async def _exclude(self, row: ScheduleRow, run: RunRow, devices: BitMap, reason: str) -> None:
        now_ms = self._clock_ms()
        ended = await self._database.write(
            lambda transaction: rows.exclude_devices(transaction, run.no, devices, reason, now_ms), row.app_no
        )
        self._count(ended)

    async def _end(self, row: ScheduleRow, end: Callable[..., RunState | None], run_no: int, *problem: str) -> None:
        now_ms = self._clock_ms()
        self._count(
            await self._database.write(lambda transaction: end(transaction, run_no, now_ms, *problem), row.app_no)
        )

    async def remove_ended(self, kept_ms: int) -> None:
        """Remove schedules that ended longer ago, and their runs, some at a time."""
        before = self._clock_ms() - kept_ms
        while await self._database.write(lambda transaction: rows.remove_ended(transaction, before, REMOVED_SCHEDULES)):
            pass


def _lifetime_ms(request: PushRequest, timing: Timing) -> int:
    """Time after a run is due first at which it is over for all of its devices."""
    return max(request.ttl * 1000, GRACE_MS) + (EAST_MS + WEST_MS if timing.is_by_device else 0)


def _groups(
    transaction: Transaction, schedule: ScheduleRow, timing: Timing, run: RunRow, devices: BitMap, wall_ms: int
) -> list[DueGroup]:
    """Divide the devices of a run that wait by when they are due. Reader thread."""
    date, app_no = run.date, schedule.app_no
    if date is None:
        return [DueGroup(devices, run.due)]
    if not timing.is_by_device:
        opens, closes = timing.hours(run.due, timing.default_zone, wall_ms)
        is_stale = timing.is_stale(date, timing.default_zone)
        return [DueGroup(devices, run.due, is_stale=is_stale, opens=opens, closes=closes)]
    following = timing.next_date(date)
    if run.push != schedule.push or (
        following is not None and (schedule.last_date is None or following > schedule.last_date)
    ):
        following = None  # whatever is due has begun before its parts are looked at; other dates take no one's place
    groups = []
    for zone, here in devices_by_zone(transaction, app_no, devices, timing.default_zone).items():
        # None: they have come into a zone in which it is over, and have had no part.
        of_zone = timing.due(date, zone)
        due = wall_ms if of_zone is None else of_zone
        next_due = None if following is None else timing.due(following, zone)
        groups.append(DueGroup(here, due, next_due, timing.is_stale(date, zone), *timing.hours(due, zone, wall_ms)))
    return groups


def _still_due(app_no: int, timing: Timing, date: int, devices: BitMap, transaction: Transaction) -> tuple[BitMap, int]:
    """The devices for which a date is not over yet, and the number of instants at which it is due. Reader thread."""
    found = BitMap()
    instants: set[int] = set()
    for zone, here in devices_by_zone(transaction, app_no, devices, timing.default_zone).items():
        due = timing.due(date, zone)
        if due is not None:
            found |= here
            instants.add(due)
    return found, len(instants)


def _stop_unreadable(transaction: Transaction, schedule_no: int, wall_ms: int, now_ms: int) -> int:
    """Pause a schedule whose push can no longer be read, and end such runs, saying so; how many failed.

    Writer thread.
    """
    failed = 0
    for running in rows.running_runs(transaction, schedule_no):
        if running.push is None or readable_request(running.push) is None:
            failed += rows.end_run(transaction, running.no, now_ms, UNREADABLE) is not None
    row = rows.schedule_of(transaction, schedule_no)
    if row is None or row.state != ScheduleState.ACTIVE or readable_request(row.push) is not None:
        return failed
    run = NewRun(None, wall_ms, RunState.FAILED, None, UNREADABLE, 1, BitMap(), 0)
    rows.begin_run(transaction, row, run, now_ms)
    rows.pause(transaction, schedule_no)
    return failed + 1
