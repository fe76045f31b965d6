"""Acceptance: from a valid request to rows on disk, and from the commit to the mailboxes.

`202` is answered after the commit that holds the push, its deliveries, what it superseded or pushed out of full
mailboxes, and its idempotency record. An operation takes what waits when the writer begins with it, and from then on
the next may be submitted, which takes what comes while this one is on its way to the disk. So a push waits for what the
writer is doing and for its own commit; and however many callers wait, it is one operation, few statements, one fsync.

Order inside the operation, per batch: idempotency, targets, push rows, deliveries, collapse keys, mailbox limits. A
loser may be of the same batch. Nothing in it fails for one push alone, because every request is checked before (unknown
devices and reused keys are answers, not errors).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from gateway.audience import targeting
from gateway.audience.policy import PolicyStore
from gateway.delivery.acceptance_queue import BATCH_PUSHES, OPERATION_DELIVERIES, AcceptanceQueue, PushBatch
from gateway.delivery.alert_limiter import AlertLimiter
from gateway.delivery.attachments import Attachments, fetch_within
from gateway.delivery.consent import preferences_of, suppress_selected, unwanted
from gateway.delivery.digest import PushNumbers
from gateway.delivery.hand_over import HandOver
from gateway.delivery.handles import DEVICE_BITS, DEVICE_MASK, handle_of
from gateway.delivery.ledger import Ledger
from gateway.delivery.ledger_statements import (
    end_rows,
    insert_listed_rows,
    insert_selected_rows,
    insert_single_rows,
    supersede_rows,
)
from gateway.delivery.mailbox_limits import EnforcedLimits, MailboxLimits
from gateway.delivery.not_before import mark_accepted_rows
from gateway.delivery.push import (
    ActivePush,
    PushRequest,
)
from gateway.delivery.submission import (
    AcceptedPush,
    AppRef,
    PendingPush,
    Submission,
    answer_of,
    answer_unstored,
    key_reused,
    new_push_ids,
    nobody_known,
    pending_among,
    pending_push,
    stored_target,
)
from gateway.delivery_states import DeliveryState
from gateway.errors import Problem, problem
from gateway.store.database import Database
from gateway.store.errors import OutcomeUnknown, StorageError
from gateway.store.rows import insert_rows

log = logging.getLogger(__name__)

TURN_PUSHES = 50
"""Pushes of a batch that are checked before the loop gets a turn, about 0.6 ms."""
CONSIDERATE_PUSHES = 20
"""Pushes of a batch that are checked in a turn, and that one operation stores, while others send as well, one by one:
they would wait for the batch at every step."""
CONSIDERATE_PAUSE_SECONDS = 0.003
"""Seconds that the loop and the writer have for the others after each of those."""
ANSWER_BYTES = 80
"""Size of an answer as it is kept with its idempotency key."""
UNKNOWN_BYTES = 40
"""Size of each unknown device in it, about."""
CONSIDERATE_MS = 1_000
"""Time after a single push during which batches are considerate."""


@dataclass(slots=True, frozen=True)
class AcceptanceLimits:
    """Limits of what is accepted."""

    max_payload: int
    """Bytes of a wire payload."""
    mailbox_deliveries: int
    mailbox_bytes: int
    idempotency_ms: int


@dataclass(slots=True, eq=False)
class _Operation:
    """An operation that stores pushes: the loop submits it, and the writer decides what it stores."""

    submitted_at: int
    """Server time."""
    batches: list[PushBatch] | None = None
    """The batches it has taken; None: it has not begun."""
    pending_pushes: list[PendingPush] = field(default_factory=list)
    accepted_at: int = 0
    """Server time at which it has begun: that of its pushes."""


@dataclass(slots=True, frozen=True)
class _Stored:
    """Result of an operation, for the loop."""

    losers: list[int]
    """Handles of earlier deliveries that ended by it."""
    limited: EnforcedLimits
    """Mailboxes that were brought below their limits."""


_WAITING = int(DeliveryState.WAITING)
_NOT_STORED = "this line was not stored, others before it were; send it again"


class Acceptance:
    """Stores pushes and hands them over after the commit. Loop.

    `clock_ms` gives server time in milliseconds. `storage_left` says whether the disk has room to accept more; it keeps
    a reserve, so that deliveries already accepted can still be recorded when new ones are refused with 507.
    `on_remembered` is called for each answer that is kept with its idempotency key: the app, and about how many bytes.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        hand_over: HandOver,
        limits: AcceptanceLimits,
        clock_ms: Callable[[], int],
        storage_left: Callable[[], bool],
        policies: PolicyStore,
        alert_limiter: AlertLimiter,
        numbers: PushNumbers,
        attachments: Attachments,
        on_remembered: Callable[[int, int], None],
    ) -> None:
        self._attachments = attachments
        self._numbers = numbers
        self._alert_limiter = alert_limiter
        self._policies = policies
        self._database = database
        self._ledger = ledger
        self._hand_over = hand_over
        self._limits = limits
        self._clock_ms = clock_ms
        self._storage_left = storage_left
        self.limits = MailboxLimits(
            ledger, limits.mailbox_deliveries, limits.mailbox_bytes, clock_ms, on_caught_up=self._submit
        )
        self.queue = AcceptanceQueue()
        self._operations: deque[_Operation] = deque()
        """Those that have not been called back, in the order of submission."""
        self._is_next_submitted = False
        """An operation has been submitted that has not begun: it takes whatever comes until then."""
        self._single_at = 0
        """Server time of the last push that was not of a batch."""
        self._on_remembered = on_remembered
        self.accepted = 0
        """Pushes answered 202, for metrics."""
        self.targeted = 0
        """Deliveries of those."""

    async def accept(
        self,
        app: AppRef,
        request: PushRequest,
        *,
        idempotency_key: str | None = None,
        body_hash: bytes | None = None,
    ) -> AcceptedPush:
        """Store one push; returns after the commit. Raises Problem (422, 404, 413, 507, 503)."""
        self._single_at = self._clock_ms()
        pending = self._pending(app, Submission(request, idempotency_key, body_hash))
        await self._store([pending])
        answer = answer_of(pending)
        if isinstance(answer, Problem):
            raise answer
        return answer

    async def accept_many(
        self, app: AppRef, submissions: Iterable[Submission | Problem]
    ) -> list[AcceptedPush | Problem]:
        """Store many pushes, slice by slice; the answers in order, after the last commit. A problem is its own answer.

        `submissions` may be made while they are read: that goes on while the slice before is being stored. Raises only
        when nothing was stored; what fails later is the answer of those that were not.
        """
        answers: list[AcceptedPush | Problem] = []
        checked: list[PendingPush | Problem] = []
        """Submissions of the slice that is gathering."""
        gathered = deliveries = 0
        considerate = self._has_others()
        under_way: tuple[asyncio.Future[None], list[PendingPush | Problem]] | None = None
        coming = iter(submissions)
        try:
            for number, submission in enumerate(coming, 1):
                checked.append(submission if isinstance(submission, Problem) else self._check(app, submission))
                pending = checked[-1]
                if isinstance(pending, PendingPush):
                    gathered += 1
                    deliveries += self.queue.deliveries(pending)
                limit = CONSIDERATE_PUSHES if considerate else BATCH_PUSHES
                if gathered >= limit or deliveries >= OPERATION_DELIVERIES:
                    if under_way is not None:
                        await under_way[0]
                        answers += map(answer_of, under_way[1])
                        under_way = None
                    under_way = asyncio.ensure_future(self._store(pending_among(checked))), checked
                    checked, gathered, deliveries = [], 0, 0
                    if considerate:  # not the next one at once: the writer is everybody's
                        await asyncio.wait([under_way[0]])
                if number % (CONSIDERATE_PUSHES if considerate else TURN_PUSHES) == 0:
                    await asyncio.sleep(CONSIDERATE_PAUSE_SECONDS if considerate else 0)
                    considerate = self._has_others()
            if under_way is not None:
                await under_way[0]
                answers += map(answer_of, under_way[1])
                under_way = None
            await self._store(pending_among(checked))
            answers += map(answer_of, checked)
        except Exception as error:
            if under_way is not None:  # whatever failed, it may be on disk
                await asyncio.wait([under_way[0]])
                if under_way[0].exception() is None:
                    answers += map(answer_of, under_way[1])
                    under_way = None
            if not answers:
                raise
            log.error("the rest of a batch could not be stored: %s", error)
            code = error.code if isinstance(error, StorageError) else "unavailable"
            refusal = problem("unavailable" if code == OutcomeUnknown.code else code, _NOT_STORED)
            # With an unknown outcome the slice that was to follow is told the same: it may have been under way as well.
            tried = chain(under_way[1] if under_way is not None else (), checked)
            answers += [answer_unstored(answer, error, refusal) for answer in tried]
            for number, answer in enumerate(coming, 1):
                answers.append(answer if isinstance(answer, Problem) else refusal)
                if number % TURN_PUSHES == 0:
                    await asyncio.sleep(0)
        return answers

    def _has_others(self) -> bool:
        """Whether somebody sends pushes one by one, for whom a batch should make room."""
        return self._clock_ms() - self._single_at < CONSIDERATE_MS

    def _check(self, app: AppRef, submission: Submission) -> PendingPush | Problem:
        try:
            return self._pending(app, submission)
        except Problem as refusal:
            return refusal

    def _pending(self, app: AppRef, submission: Submission) -> PendingPush:
        """Check a submission. Raises Problem; with a key the pending push has it, since what it was answered before
        comes first."""
        try:
            fetch_from = self._attachments.refer(app.no, submission.request)
            return pending_push(app, submission, self._limits.max_payload, fetch_from)
        except Problem as refusal:
            if submission.idempotency_key is None:
                raise
            return PendingPush(app, submission, content="", frame_size=0, listed=None, priority=0, refused=refusal)

    async def _store(self, pending_pushes: list[PendingPush]) -> None:
        if not pending_pushes:
            return
        if not self._storage_left():
            await self._refuse_new(pending_pushes)
            return
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.put(pending_pushes, stored)
        self._submit()
        # Shielded by design: a caller that goes away does not take back what may already be on disk.
        await stored

    async def _refuse_new(self, pending_pushes: list[PendingPush]) -> None:
        """Answer again what was accepted before under its key, and refuse the rest: the disk is full."""
        now_ms = self._clock_ms()

        def read(connection: sqlite3.Connection) -> None:
            for pending in pending_pushes:
                key = pending.submission.idempotency_key
                pending.answer = self._remembered(connection, pending, key, now_ms) if key is not None else None

        await self._database.read(read)
        for pending in pending_pushes:
            if pending.answer is None:
                pending.answer = pending.refused or problem(
                    "storage_full", "the disk is full: nothing was accepted; free space and send again"
                )

    def _submit(self) -> None:
        """Have the writer store what waits, unless it is about to."""
        if self._is_next_submitted or not self.queue.has_next(self.limits.behind):
            return
        self._is_next_submitted = True
        submitted = _Operation(self._clock_ms())
        self._operations.append(submitted)
        self._ledger.accepting_since = self._operations[0].submitted_at

        def operation(connection: sqlite3.Connection) -> _Stored:
            if submitted.batches is None:
                self._begin(submitted)
            else:  # it runs again (see `Database`, law 2)
                self.limits.forget()
            return self._store_rows(connection, submitted.pending_pushes, submitted.accepted_at)

        def on_commit(stored: _Stored) -> None:
            for batch in submitted.batches or ():
                if not batch.stored.done():
                    batch.stored.set_result(None)
            try:
                self.limits.enforced(stored.limited)
                self._ledger.on_ended(stored.losers)
                self._hand_out(submitted.pending_pushes, submitted.accepted_at)
            finally:  # whatever one push did, the next are stored
                self._called_back(submitted)

        def on_error(error: BaseException) -> None:
            if submitted.batches is None:  # the disk has refused even its beginning
                self._begin(submitted)
            self.limits.forget()
            self._called_back(submitted)
            for batch in submitted.batches or ():
                if not batch.stored.done():
                    batch.stored.set_exception(error)

        self._database.submit(operation, on_commit, on_error)
        self._ledger.flush_along()

    def _begin(self, operation: _Operation) -> None:
        """Take what waits. Writer thread."""
        # In this order: the clock before the next one is submitted, which has a later time; and that before the pushes
        # are taken, so that there is an operation for whatever is put afterwards.
        operation.accepted_at = self._clock_ms()
        self._is_next_submitted = False
        operation.batches = self.queue.next_batches(self.limits.behind)
        operation.pending_pushes = [pending for batch in operation.batches for pending in batch.pending_pushes]

    def _called_back(self, operation: _Operation) -> None:
        first = self._operations.popleft()
        assert first is operation, "callbacks come in the order of submission"
        self._ledger.accepting_since = self._operations[0].submitted_at if self._operations else None
        self.queue.called_back(operation.batches or ())
        self._submit()

    def _hand_out(self, pending_pushes: list[PendingPush], now_ms: int) -> None:
        accepted: list[tuple[ActivePush, Sequence[int]]] = []
        for pending in pending_pushes:
            if not pending.push_no:
                continue
            self._ledger.changed.add(pending.push_no)
            self.accepted += 1
            self.targeted += pending.targeted
            key = pending.submission.idempotency_key
            if key is not None:
                self._on_remembered(pending.app.no, len(key) + ANSWER_BYTES + UNKNOWN_BYTES * len(pending.unknown))
            ttl = pending.request.ttl
            self._ledger.expects_expiry(now_ms + ttl * 1000)
            devices = pending.devices
            if pending.limited:
                self._alert_limiter.add(pending.push_no, devices, ttl)
                continue
            if pending.muted:
                self._alert_limiter.add_muted(pending.push_no, [no for no in devices if no in pending.muted], ttl)
                devices = [device_no for device_no in devices if device_no not in pending.muted]
            # Most of a batch: the device is away, and there is nothing to do.
            if devices and (len(devices) != 1 or not ttl or self._hand_over.is_open(devices[0], pending.priority)):
                accepted.append((pending.active_push(now_ms), devices))
        self._hand_over.fan_out(accepted)

    # -- on the writer thread ----------------------------------------------------------------------------------------

    def _store_rows(self, connection: sqlite3.Connection, pending_pushes: list[PendingPush], now_ms: int) -> _Stored:
        for pending in pending_pushes:  # an operation may run twice (see `Database`, law 2)
            pending.answer, pending.push_no, pending.devices, pending.unknown, pending.suppressed = None, 0, (), (), 0
            pending.muted = frozenset()
        last_no = self._numbers.last(connection)
        known = self._known_devices(connection, pending_pushes)
        preferences = self._known_preferences(connection, known)
        withheld: dict[str, list[int]] = {}
        answered: dict[tuple[int, str], tuple[bytes, PendingPush]] = {}
        twins: list[tuple[PendingPush, PendingPush]] = []
        single: list[tuple[int, int, int, int, int]] = []
        pushes: list[tuple[Any, ...]] = []
        push_ids = new_push_ids(len(pending_pushes), now_ms)
        push_no = last_no
        for pending in pending_pushes:
            key = pending.submission.idempotency_key
            if key is not None:
                twin = answered.get((pending.app.no, key))
                if twin is not None:
                    if twin[0] == pending.submission.body_hash:
                        twins.append((pending, twin[1]))
                    else:
                        pending.answer = key_reused(key)
                    continue
                pending.answer = self._remembered(connection, pending, key, now_ms) or pending.refused
                if pending.answer is not None:
                    continue
            if not self._resolve(pending, known):
                continue
            push_no += 1
            left_out = self._unwanted(pending, preferences)
            for device_no, reason in left_out.items():
                withheld.setdefault(reason, []).append(handle_of(push_no, device_no))
            self._insert(connection, pending, push_no, push_ids.pop(), now_ms, left_out, single, pushes)
            if key is not None:
                assert pending.submission.body_hash is not None, "given with the key"
                answered[(pending.app.no, key)] = (pending.submission.body_hash, pending)
        if push_no == last_no:
            self._answer_twins(twins)
            return _Stored([], EnforcedLimits([], {}))
        self._numbers.used(push_no)
        insert_rows(connection, "push", PUSH_COLUMNS, pushes)
        insert_single_rows(connection, single)
        for reason, handles in withheld.items():
            end_rows(connection, handles, DeliveryState.SUPPRESSED, reason, now_ms)
        if mark_accepted_rows(connection, pending_pushes, self._policies):
            self._ledger.limited = True  # here: whatever reads mailboxes on this thread comes later
        stored = self._collapse_and_limit(connection, pending_pushes, last_no + 1, now_ms)
        for pending in pending_pushes:
            if pending.push_no:
                pending.answer = AcceptedPush(pending.push_id, pending.targeted, pending.suppressed, pending.unknown)
        self._answer_twins(twins)
        connection.executemany(
            "INSERT OR REPLACE INTO idempotency_record (app_no, key, body_hash, response, created_at)"
            " VALUES (?, ?, ?, ?, ?)",
            [
                (app_no, key, body_hash, f"{{{pending.answer.members()}}}", now_ms)
                for (app_no, key), (body_hash, pending) in answered.items()
                if isinstance(pending.answer, AcceptedPush)
            ],
        )
        return stored

    def _known_preferences(
        self, connection: sqlite3.Connection, known: dict[int, dict[str, int]]
    ) -> dict[int, dict[int, tuple[str, str]]]:
        """Preferences of the listed devices of each app, where they may be less than everything. Writer thread."""
        found: dict[int, dict[int, tuple[str, str]]] = {}
        for app_no, numbers in known.items():
            if self._policies.is_guarded(app_no):
                everybody = self._policies.of(app_no).policy.consent.unknown == "suppress"
                found[app_no] = preferences_of(connection, numbers.values(), everybody)
        return found

    def _unwanted(self, pending: PendingPush, preferences: dict[int, dict[int, tuple[str, str]]]) -> dict[int, str]:
        """The listed devices that do not want the push, with the reason. Writer thread."""
        of_app = preferences.get(pending.app.no)
        if not of_app:
            return {}
        request = pending.request
        assert request.kind is not None, "filled in by validation"
        rules = self._policies.of(pending.app.no)
        return unwanted(rules, request.kind, request.channel, pending.priority, of_app, pending.devices)

    @staticmethod
    def _answer_twins(twins: list[tuple[PendingPush, PendingPush]]) -> None:
        for pending, first in twins:
            pending.answer = first.answer

    @staticmethod
    def _known_devices(connection: sqlite3.Connection, pending_pushes: list[PendingPush]) -> dict[int, dict[str, int]]:
        wanted: dict[int, dict[str, None]] = {}
        for pending in pending_pushes:
            if pending.listed is not None:
                wanted.setdefault(pending.app.no, {}).update(dict.fromkeys(pending.listed))
        return {app_no: targeting.device_rows(connection, app_no, list(ids)) for app_no, ids in wanted.items()}

    def _remembered(
        self, connection: sqlite3.Connection, pending: PendingPush, key: str, now_ms: int
    ) -> AcceptedPush | Problem | None:
        row = connection.execute(
            "SELECT body_hash, response FROM idempotency_record WHERE app_no = ? AND key = ? AND created_at > ?",
            (pending.app.no, key, now_ms - self._limits.idempotency_ms),
        ).fetchone()
        if row is None:
            return None
        if row[0] != pending.submission.body_hash:
            return key_reused(key)
        answer = json.loads(row[1])
        return AcceptedPush(**{**answer, "unknown": tuple(answer["unknown"])})

    @staticmethod
    def _resolve(pending: PendingPush, known: dict[int, dict[str, int]]) -> bool:
        """Turn listed devices into numbers; False (and an answer) when the push has nobody to go to."""
        ids = pending.listed
        if ids is None:
            return True
        numbers = known[pending.app.no]
        pending.devices = [numbers[device_id] for device_id in ids if device_id in numbers]
        if len(pending.devices) < len(ids):
            pending.unknown = tuple(device_id for device_id in ids if device_id not in numbers)
            if not pending.devices:
                pending.answer = nobody_known(pending.unknown)
                return False
        return True

    def _insert(
        self,
        connection: sqlite3.Connection,
        pending: PendingPush,
        push_no: int,
        push_id: str,
        now_ms: int,
        left_out: dict[int, str],
        single: list[tuple[int, int, int, int, int]],
        pushes: list[tuple[Any, ...]],
    ) -> None:
        """Note the rows of a push and of its delivery to a single device; insert other deliveries."""
        request = pending.request
        target = request.target
        priority = pending.priority
        if pending.listed is None:
            app_no = pending.app.no
            select, parameters = targeting.select_sql(app_no, target)
            pending.targeted = insert_selected_rows(
                connection, push_no, priority, pending.frame_size, select, parameters
            )
            if self._policies.is_guarded(app_no):
                assert request.kind is not None, "filled in by validation"
                rules = self._policies.of(app_no)
                pending.suppressed = suppress_selected(
                    connection, push_no, app_no, rules, request.kind, request.channel, priority, now_ms
                )
        else:
            pending.targeted = len(pending.devices)
            if pending.targeted == 1:
                single.append((push_no, pending.devices[0], priority, pending.frame_size, _WAITING))
            else:
                insert_listed_rows(connection, push_no, priority, pending.frame_size, pending.devices)
            if left_out:
                pending.suppressed = len(left_out)
                pending.devices = [device_no for device_no in pending.devices if device_no not in left_out]
        pending.push_no = push_no
        pending.push_id = push_id
        if pending.is_fetched:
            pending.fetch_within = fetch_within(pending.targeted, request.ttl)
        assert request.kind is not None, "filled in by validation"
        pending.limited = self._policies.is_limited(pending.app.no, request.kind, request.channel)
        pushes.append(
            (
                push_no,
                push_id,
                pending.app.no,
                request.kind,
                priority,
                request.qos,
                request.ttl,
                request.collapse_key,
                request.channel,
                stored_target(target),
                pending.whole_content if pending.fetch_within else pending.content,
                pending.frame_size,
                now_ms,
                now_ms + request.ttl * 1000,
                pending.targeted,
                pending.suppressed,
            ),
        )

    def _collapse_and_limit(
        self, connection: sqlite3.Connection, pending_pushes: list[PendingPush], first_no: int, now_ms: int
    ) -> _Stored:
        is_sent = self._ledger.is_sent
        losers: list[int] = []
        for pending in pending_pushes:
            collapse_key = pending.request.collapse_key
            if pending.push_no and collapse_key is not None:
                losers += supersede_rows(connection, pending.push_no, collapse_key, is_sent, now_ms)
        limited = self.limits.accept_rows(connection, pending_pushes, now_ms)
        losers += limited.losers
        lost_at_once: dict[int, set[int]] = {}
        for handle in losers:
            if handle >> DEVICE_BITS >= first_no:
                lost_at_once.setdefault(handle >> DEVICE_BITS, set()).add(handle & DEVICE_MASK)
        for pending in pending_pushes:
            if pending.push_no in lost_at_once:
                gone = lost_at_once[pending.push_no]
                pending.devices = [device_no for device_no in pending.devices if device_no not in gone]
        return _Stored([handle for handle in losers if handle >> DEVICE_BITS < first_no], limited)


PUSH_COLUMNS = (
    "no, id, app_no, kind, priority, qos, ttl, collapse_key, channel, target, content, size, accepted_at, expires_at,"
    " targeted, suppressed"
)
