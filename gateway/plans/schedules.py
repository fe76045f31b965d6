"""Schedules as people make, read and change them.

What a schedule is: a push with dates. It is checked like a push when it is made, so that what is refused then is not
refused every morning at nine; what can only be known when it is due (a target's devices, an attachment that is gone) is
the run's problem.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice, takewhile
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, StringConstraints

from gateway.delivery.acceptance import Acceptance
from gateway.delivery.escalations import Escalations
from gateway.delivery.in_flight import InFlight
from gateway.delivery.push import PushRequest
from gateway.delivery.push_timing import DATES_OF_DAY, DEVICE_ZONE, SCHEDULE_FIELDS, Repeat, has_few_dates, scheduled_by
from gateway.delivery.reports import cursor_number, read_counts
from gateway.delivery.submission import AppRef, Submission, nobody_known, remembered_answer
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.pages import ListPage, fill_page
from gateway.plans.due_times import DAY_MS, EAST_MS, WEST_MS, naive_ms
from gateway.plans.parts import readable_request, request_text
from gateway.plans.schedule_runner import RUNS_UNDER_WAY, ScheduleRunner
from gateway.plans.timing import GRACE_MS, Timing
from gateway.printable import Printable
from gateway.store.audience.devices import device_rows
from gateway.store.audited_writes import about
from gateway.store.database import Database
from gateway.store.deliveries.idempotency import remember_answers
from gateway.store.deliveries.plan_parts import parts_of_run
from gateway.store.plans import schedules as rows
from gateway.store.plans.schedules import KIND, RunRow, RunState, ScheduleRow, ScheduleState
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_of_wall, rfc3339_or_none, wall_time

SCHEDULES_OF_APP = 1_000
"""Schedules of an app that are active or paused: each is looked at after a restart, and at nine all may be due."""
SCHEDULE_BYTES_OF_APP = 64 * 1024 * 1024
"""Bytes of their pushes: a hundred lists of ten thousand devices."""
AHEAD_MS = 366 * DAY_MS
"""How far ahead a time may be: a year, as a ttl."""
WRONG_CLOCK_MS = 2 * DAY_MS
"""Distance ahead at which no date can have begun: by the devices' clocks it is 14 hours."""
COUNTED_PARTS = 1_000
"""Parts whose counts a page of runs sums up: about 50 ms of a reader. Later runs of the page are on the next one."""
_OPEN = (ScheduleState.ACTIVE, ScheduleState.PAUSED)
StateName = Literal["active", "paused", "ended", "cancelled"]


class ScheduleFields(DescribedModel):
    """A push with dates."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[Printable, StringConstraints(min_length=1, max_length=64)] | None = None
    """Name for people, 1 to 64 characters; it need not be unique. Left out: none."""
    missed: Literal["catch_up", "skip"] = "catch_up"
    """What becomes of a date that was missed by more than a minute because the server was away: `catch_up` (it is sent
    at once while its ttl lasts; of several the last one) or `skip` (it is not). A `command` is never caught up."""
    push: PushRequest
    """The push, with one or more of `send_at`, `send_at_local`, `repeat`, `window` and `spread`."""


class ScheduleStore:
    """Makes, shows and changes schedules. Loop.

    `runner` looks at them; `answer_remembered` is called for each answer that is kept with its idempotency key.
    """

    def __init__(
        self,
        *,
        database: Database,
        acceptance: Acceptance,
        escalations: Escalations,
        in_flight: InFlight,
        runner: ScheduleRunner,
        clock_ms: Callable[[], int],
        storage_left: Callable[[], bool],
        idempotency_ms: int,
        answer_remembered: Callable[[int, int], None],
    ) -> None:
        self._database = database
        self._acceptance = acceptance
        self._escalations = escalations
        self._in_flight = in_flight
        self._runner = runner
        self._clock_ms = clock_ms
        self._storage_left = storage_left
        self._idempotency_ms = idempotency_ms
        self._answer_remembered = answer_remembered
        self.refused = 0
        """Schedules that were refused because an app has too many, for metrics."""

    # -- making ----------------------------------------------------------------------------------------------------

    async def create(
        self, app: AppRef, fields: ScheduleFields, key: str | None = None, body_hash: bytes | None = None
    ) -> dict[str, Any]:
        """Make a schedule: `{"schedule_id", "next"}`. Raises Problem 404, 413, 422, 429, 503, 507.

        With an idempotency key, which comes with the hash of the body: the same body is answered the same again.
        """
        since = wall_time.of(self._clock_ms())
        refusal: Problem | None = None
        upcoming: list[int] = []
        try:
            upcoming = await self._checked(app, fields.push, since)
            if not self._storage_left():
                raise problem("storage_full", "the disk is full: nothing was stored; free space and send again")
        except Problem as found:
            if key is None:
                raise
            refusal = found
        schedule_id = f"s{secrets.token_urlsafe(12)}"
        answer = {"schedule_id": schedule_id, "next": [rfc3339_of_wall(at) for at in upcoming]}
        text, now_ms = request_text(fields.push), self._clock_ms()

        def store(transaction: Transaction) -> tuple[dict[str, Any] | Problem, bool]:
            if key is not None:
                after_ms = now_ms - self._idempotency_ms
                earlier = remembered_answer(transaction, app.no, key, body_hash, after_ms)
                if earlier is not None:
                    return earlier, False
            if refusal is not None:
                return refusal, False
            count, size = rows.usage_of_app(transaction, app.no)
            if count >= SCHEDULES_OF_APP or size + len(text) > SCHEDULE_BYTES_OF_APP:
                return _too_many(count), False
            about("schedule", schedule_id)
            rows.insert_schedule(transaction, schedule_id, app.no, fields.name, text, fields.missed, since, now_ms)
            if key is not None:
                remember_answers(transaction, [(app.no, key, body_hash, json.dumps(answer), now_ms)])
            return answer, True

        result, is_new = await self._database.write(store, app.no)
        if isinstance(result, Problem):
            self.refused += result.code == "too_many_schedules"
            raise result
        if is_new:
            self._runner.expect(since)
            if key is not None:
                self._answer_remembered(app.no, len(key) + len(json.dumps(answer)))
        return result

    async def preview(self, app: AppRef, fields: ScheduleFields) -> dict[str, Any]:
        """The next dates of a schedule, which is not made: `{"next"}`. Raises Problem as `create`."""
        upcoming = await self._checked(app, fields.push, wall_time.of(self._clock_ms()))
        return {"next": [rfc3339_of_wall(at) for at in upcoming]}

    async def _checked(self, app: AppRef, request: PushRequest, since: int) -> list[int]:
        """Check a push with dates as it would be checked when it is due; its next instants. Raises Problem."""
        _check_times(request, since)
        # Without the fields that make it a schedule it is checked as a push.
        push = request.model_copy(update=dict.fromkeys(SCHEDULE_FIELDS))
        pending = self._acceptance.pending(app, Submission(push))
        if not pending.is_prepared:
            await self._acceptance.prepare(pending)
        if request.kind == "command":
            await self._runner.resolve(app.no, request)
        timing = self._runner.timing_of(request, app.no, since)
        if _has_crowded_dates(timing, request.spread):
            raise problem(
                "invalid_request",
                f"spread: more than {RUNS_UNDER_WAY} runs would be under way: shorten it, or have fewer dates",
            )
        listed = request.target.devices if request.target.device is None else [request.target.device]

        def read(transaction: Transaction) -> list[int]:
            if listed is not None and not device_rows(transaction, app.no, listed):
                raise nobody_known(listed)
            return timing.upcoming(None, 0, self._runner.zones(transaction, timing, app.no))

        upcoming = await self._database.read(read, app.no)
        if not upcoming:
            raise problem(
                "invalid_request",
                "no date would ever be sent: all are over, or the ttl ends before the window opens",
            )
        return upcoming

    # -- reading ---------------------------------------------------------------------------------------------------

    async def get(self, app_no: int, schedule_id: str) -> dict[str, Any]:
        """A schedule with its next dates and its last run. Raises Problem 404."""
        found = await self._find(app_no, schedule_id)
        return await self._shown(found)

    async def _shown(self, found: ScheduleRow) -> dict[str, Any]:
        sent = await self._sent(found.no, 2**62, 1)

        def read(transaction: Transaction) -> dict[str, Any]:
            described = self._describe(transaction, found, 5)
            run = next(iter(self._runs(transaction, found.no, 2**62, sent)), None)
            return described | {"last_run": None if run is None else run[1]}

        return await self._database.read(read, found.app_no)

    async def page(self, app_no: int, state: str | None, limit: int, cursor: str | None) -> ListPage:
        """A page of the schedules of an app, the newest first."""
        before = cursor_number(cursor) or 2**62
        wanted = [state] if state is not None else [each.value for each in ScheduleState]

        def read(transaction: Transaction) -> ListPage:
            found = rows.schedules_of_app(transaction, app_no, before, wanted)
            return fill_page(found, limit, lambda row: self._describe(transaction, row, 1), lambda row: row.no)

        return await self._database.read(read, app_no)

    async def runs(self, app_no: int, schedule_id: str, limit: int, cursor: str | None) -> ListPage:
        """A page of the runs of a schedule, the newest first, with the pushes they were sent in. Raises Problem 404."""
        found = await self._find(app_no, schedule_id)
        before = cursor_number(cursor) or 2**62
        sent = await self._sent(found.no, before, limit)

        def read(transaction: Transaction) -> ListPage:
            counted = 0
            taken: list[tuple[int, dict[str, Any]]] = []
            more = False
            for run in self._runs(transaction, found.no, before, sent):
                if len(taken) == limit or counted >= COUNTED_PARTS:
                    more = True
                    break
                taken.append(run)
                counted += len(run[1]["push_ids"])
            page = fill_page(iter(taken), limit, lambda run: run[1], lambda run: run[0])
            return page._replace(next_cursor=str(taken[-1][0])) if more and page.next_cursor is None else page

        return await self._database.read(read, app_no)

    async def _sent(self, schedule_no: int, before: int, limit: int) -> dict[int, list[int]]:
        """The deliveries in flight of the pushes of so many runs before this one, by push number."""

        def read(transaction: Transaction) -> list[int]:
            numbers: list[int] = []
            for run in islice(rows.runs_of_schedule(transaction, schedule_no, before), limit):
                numbers += [no for no, _ in parts_of_run(transaction, KIND, run.no)]
                if len(numbers) >= COUNTED_PARTS:
                    break
            return numbers

        return await self._in_flight.devices_of(await self._database.read(read))

    def _runs(
        self, transaction: Transaction, schedule_no: int, before: int, sent: dict[int, list[int]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for run in list(rows.runs_of_schedule(transaction, schedule_no, before)):
            yield run.no, _describe_run(transaction, run, sent)

    def _describe(self, transaction: Transaction, row: ScheduleRow, dates: int) -> dict[str, Any]:
        request = readable_request(row.push)
        upcoming: list[int] = []
        if request is not None and row.state in _OPEN:
            timing = self._runner.timing_of(request, row.app_no, row.since)
            zones = self._runner.zones(transaction, timing, row.app_no)
            upcoming = timing.upcoming(row.last_date, row.used, zones, dates)
        return {
            "schedule_id": row.id,
            "name": row.name,
            "state": row.state,
            "missed": row.missed,
            "push": json.loads(row.push),
            "next": [rfc3339_of_wall(at) for at in upcoming],
            "failures": row.failures,
            "created_at": rfc3339(row.created_at),
            "updated_at": rfc3339(row.updated_at),
            "ended_at": rfc3339_or_none(row.ended_at),
        }

    async def _find(self, app_no: int, schedule_id: str) -> ScheduleRow:
        found = await self._database.read(
            lambda transaction: rows.schedule_by_id(transaction, app_no, schedule_id), app_no
        )
        if found is None:
            raise _unknown(schedule_id)
        return found

    # -- changing --------------------------------------------------------------------------------------------------

    async def fields(self, app_no: int, schedule_id: str) -> dict[str, Any]:
        """The fields of a schedule that can be changed, as it was made. Raises Problem 404."""
        row = await self._find(app_no, schedule_id)
        return {"name": row.name, "missed": row.missed, "push": json.loads(row.push)}

    async def change(self, app: AppRef, schedule_id: str, fields: ScheduleFields) -> dict[str, Any]:
        """Replace the fields of a schedule; dates that change are counted from now. Raises Problem 404, 409, 422."""
        row = await self._open(app.no, schedule_id)
        former = readable_request(row.push)
        is_single = former is not None and former.repeat is None
        if row.used and is_single:
            raise _begun()
        since = wall_time.of(self._clock_ms())
        await self._checked(app, fields.push, since)
        columns: dict[str, Any] = {
            "name": fields.name,
            "missed": fields.missed,
            "push": request_text(fields.push),
        }
        last_date = _passed(row, since)
        # Else a date that is due now, and has not begun, would be left out by a new title.
        if former is None or last_date != row.last_date or _times(former) != _times(fields.push):
            columns |= {"since": since, "last_date": last_date}
            if former is None or former.repeat != fields.push.repeat:
                columns["used"] = 0
            if former is None or not _go_on(former.repeat, fields.push.repeat):
                columns["last_date"] = None
        if row.state == ScheduleState.ACTIVE:
            columns["wake"] = since
        return await self._change(row, columns, must_not_begin=is_single)

    async def pause(self, app_no: int, schedule_id: str) -> dict[str, Any]:
        """Send nothing of a schedule until it is resumed. Raises Problem 404, 409."""
        row = await self._open(app_no, schedule_id)
        return await self._change(row, {"state": ScheduleState.PAUSED, "wake": None, "asked": None})

    async def resume(self, app_no: int, schedule_id: str) -> dict[str, Any]:
        """Go on with a schedule; its dates are counted from now. Raises Problem 404, 409."""
        row = await self._open(app_no, schedule_id)
        if row.state == ScheduleState.ACTIVE:
            return await self._shown(row)
        since = wall_time.of(self._clock_ms())
        # A single time stays what it was: "the next 09:00" is not another one now.
        columns: dict[str, Any] = {"state": ScheduleState.ACTIVE, "wake": since}
        request = readable_request(row.push)
        if request is None or request.repeat is not None:
            columns |= {"since": since, "last_date": _passed(row, since)}
        return await self._change(row, columns)

    async def run_now(self, app_no: int, schedule_id: str) -> dict[str, Any]:
        """Begin a run of a schedule at once, besides its dates. Raises Problem 404, 409."""
        row = await self._open(app_no, schedule_id)
        if row.state == ScheduleState.PAUSED:
            raise problem("schedule_ended", "the schedule is paused: resume it first")
        wall_ms = wall_time.of(self._clock_ms())
        return await self._change(row, {"asked": wall_ms, "wake": wall_ms})

    async def cancel(self, app: AppRef, schedule_id: str, *, recall: bool) -> dict[str, Any]:
        """End a schedule and what is under way of it; `recall` takes back what was sent and has not ended.

        Cancelling it again does no harm. Raises Problem 404.
        """
        row = await self._find(app.no, schedule_id)

        def operation(transaction: Transaction) -> int:
            current = rows.schedule_of(transaction, row.no)
            if current is None or current.state not in _OPEN:
                return 0
            now_ms = self._clock_ms()
            rows.change_schedule(
                transaction, current, now_ms, state=ScheduleState.CANCELLED, wake=None, asked=None, ended_at=now_ms
            )
            return rows.cancel_runs(transaction, current, now_ms)

        stopped = await self._database.write(operation, app.no)
        answer: dict[str, Any] = {"schedule_id": row.id, "stopped": stopped}
        if recall:
            recalled = {"cancelled": 0, "in_flight": 0, "too_late": 0}
            for push_id in await self._database.read(
                lambda transaction: rows.unfinished_pushes(transaction, row.no), app.no
            ):
                part = await self._escalations.recall(app, push_id)
                for name, count in (part or {}).items():
                    recalled[name] += count
            answer["recalled"] = recalled
        return answer

    async def _open(self, app_no: int, schedule_id: str) -> ScheduleRow:
        row = await self._find(app_no, schedule_id)
        if row.state not in _OPEN:
            raise problem("schedule_ended", f"the schedule is {row.state}: make a new one")
        return row

    async def _change(
        self, row: ScheduleRow, columns: dict[str, Any], *, must_not_begin: bool = False
    ) -> dict[str, Any]:
        """Change columns of a schedule. Raises Problem 409 if it has ended meanwhile, or begun and must not have."""
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> ScheduleRow | None:
            current = rows.schedule_of(transaction, row.no)
            if current is None or current.state not in _OPEN:
                return None
            if must_not_begin and current.used:
                raise _begun()
            if current.last_date != row.last_date:
                columns.pop("last_date", None)
            rows.change_schedule(transaction, current, now_ms, **columns)
            return rows.schedule_of(transaction, row.no)

        changed = await self._database.write(operation, row.app_no)
        if changed is None:
            raise problem("schedule_ended", "the schedule has ended meanwhile: make a new one")
        if changed.wake is not None:
            self._runner.expect(changed.wake)
        return await self._shown(changed)


def _passed(row: ScheduleRow, wall_ms: int) -> int | None:
    """The date behind which a schedule goes on, after somebody has changed or resumed it.

    One that is days ahead was begun by a machine's clock that was wrong: without this it would be waited for.
    """
    return None if row.last_date is not None and row.last_date > wall_ms + WRONG_CLOCK_MS else row.last_date


def _times(request: PushRequest) -> tuple[object, ...]:
    """What says when the dates of a push are due."""
    return request.send_at, request.send_at_local, request.repeat, request.window


def _go_on(before: Repeat | None, after: Repeat | None) -> bool:
    """Whether the dates of a changed schedule grow from the last one: it repeats as before, by one clock or by many.

    So a device in the west is not sent a date anew for which it waits in the run under way. Of any other dates there
    were none before.
    """
    if before is None or after is None:
        return False
    return (before.zone == DEVICE_ZONE) == (after.zone == DEVICE_ZONE)


def _begun() -> Problem:
    return problem("schedule_ended", "it has begun: cancel it and make a new one, or wait for its end")


def schedule_hash(body: bytes) -> bytes:
    """The hash of a request that makes a schedule, for its idempotency key: no push has the same."""
    return hashlib.sha256(b"schedule\0" + body).digest()


def _check_times(request: PushRequest, since: int) -> None:
    """Check that the times of a push go together, and lie ahead. Raises Problem 422."""
    given = [name for name in ("send_at", "send_at_local", "repeat") if getattr(request, name) is not None]
    trouble: str | None = None
    if scheduled_by(request) is None:
        trouble = f"push: give one of {', '.join(SCHEDULE_FIELDS)}; without them it is sent at once, by POST /v1/pushes"
    elif len(given) > 1:
        trouble = f"{given[0]} and {given[1]}: give one of them"
    elif request.send_at_local is not None and not _is_near(request.send_at_local, since):
        trouble = "send_at_local: must lie ahead, by a year at most"
    elif request.repeat is not None and request.window is not None and request.window.zone == DEVICE_ZONE:
        if not has_few_dates(request.repeat.cron):
            trouble = (
                f'window: by each device\'s own clock ("device") a repetition has at most {DATES_OF_DAY} dates a day'
            )
    elif request.send_at is not None and not -GRACE_MS <= int(request.send_at.timestamp() * 1000) - since <= AHEAD_MS:
        trouble = "send_at: must lie ahead, by a year at most"
    elif request.target.duty is not None:
        timing = Timing.of(request, "UTC", since)
        if timing.is_by_device or request.spread is not None:
            trouble = (
                'a push to a "duty" is due at one time for all: without send_at_local, spread, and the zone "device"'
            )
    elif (request.signed is not None or request.encrypted is not None) and request.repeat is not None:
        trouble = 'repeat: "signed" and "encrypted" are good for one time, and devices take them once'
    if trouble is not None:
        raise problem("invalid_request", trouble)


def _has_crowded_dates(timing: Timing, spread_s: int | None) -> bool:
    """Whether the first dates of a schedule follow each other faster than its runs end."""
    lasts_ms = (spread_s or 0) * 1000 + (EAST_MS + WEST_MS if timing.is_by_device else 0)
    dates = timing.dates(None)
    first = next(dates, None)
    if first is None or not lasts_ms:
        return False
    during = takewhile(lambda date: date < first + lasts_ms, dates)
    return sum(1 for _ in islice(during, RUNS_UNDER_WAY)) == RUNS_UNDER_WAY


def _is_near(local: str, since: int) -> bool:
    """Whether a local time lies within a year, and a day for the zones; one without a date always does."""
    if "T" not in local:
        return True
    return -DAY_MS <= naive_ms(datetime.fromisoformat(local)) - since <= AHEAD_MS + DAY_MS


def _describe_run(transaction: Transaction, run: RunRow, sent: dict[int, list[int]]) -> dict[str, Any]:
    parts = parts_of_run(transaction, KIND, run.no)
    counts: dict[str, int] = {}
    for number, _ in parts:
        for name, count in read_counts(transaction, number, sent.get(number, [])).items():
            counts[name] = counts.get(name, 0) + count
    return {
        "run": run.no,
        "due": rfc3339_of_wall(run.due),
        "state": run.state,
        "reason": run.reason if run.left_out or run.state != RunState.RUNNING else None,
        "problem": run.problem,
        "asked": run.date is None,
        "targeted": run.targeted,
        "left_out": run.left_out,
        "skipped_dates": run.skipped_dates,
        "started_at": rfc3339(run.started_at),
        "ended_at": rfc3339_or_none(run.ended_at),
        "push_ids": [push_id for _, push_id in parts],
        "counts": counts or None,
    }


def _unknown(schedule_id: str) -> Problem:
    return problem("schedule_not_found", f"no schedule {schedule_id!r} in this app")


def _too_many(count: int) -> Problem:
    return problem(
        "too_many_schedules",
        f"the app has {count} schedules that are active or paused, of {SCHEDULES_OF_APP}, or the devices that they list"
        " take too much room: cancel some, or use tags",
    )
