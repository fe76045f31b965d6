"""Acceptance: from a valid request to rows on disk, and from the commit to the mailboxes.

`202` is answered after the commit that holds the push, its deliveries, what it superseded or pushed out of full
mailboxes, and its idempotency record. An operation takes what waits when the writer begins with it, and from then on
the next may be submitted, which takes what comes while this one is on its way to the disk. So a push waits for what the
writer is doing and for its own commit; and however many callers wait, it is one operation, few statements, one fsync.

What the operation does is in `push_store`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from pyroaring import BitMap

from gateway.audience.policy import PolicyStore
from gateway.audience.target_resolution import TargetResolver
from gateway.delivery.acceptance_queue import BATCH_PUSHES, OPERATION_DELIVERIES, AcceptanceQueue, PushBatch
from gateway.delivery.alert_limiter import AlertLimiter
from gateway.delivery.attachments import Attachments
from gateway.delivery.digest import PushNumbers
from gateway.delivery.duties import own_collapse_key
from gateway.delivery.hand_over import HandOver
from gateway.delivery.ledger import Ledger
from gateway.delivery.mailbox_limits import MailboxLimits
from gateway.delivery.new_pushes import NewPushes
from gateway.delivery.plain_push import plain_push
from gateway.delivery.push import ActivePush, PushRequest
from gateway.delivery.push_store import PushStore, StoredPushes
from gateway.delivery.push_timing import SCHEDULE_FIELD_SET, refuse_times
from gateway.delivery.submission import (
    AcceptedPush,
    AppRef,
    PendingPush,
    StoredAlong,
    Submission,
    answer_of,
    answer_unstored,
    pending_among,
    pending_push,
    unchecked_push,
)
from gateway.delivery.text_rendering import ComposedPush, TextRenderer
from gateway.delivery.watches import Watches
from gateway.delivery_states import DeliveryState
from gateway.errors import Problem, problem
from gateway.store.app_locks import Apps
from gateway.store.audited_writes import Attempt
from gateway.store.database import Database
from gateway.store.errors import OutcomeUnknown, StorageError
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

TURN_PUSHES = 100
"""Pushes of a batch that are checked before the loop gets a turn, about 0.6 ms."""
CONSIDERATE_PUSHES = 20
"""Pushes of a batch that are checked in a turn, and that one operation stores, while others send as well, one by one:
they would wait for the batch at every step."""
CONSIDERATE_PAUSE_SECONDS = 0.003
"""Seconds that the loop and the writer have for the others after each of those."""
PREPARATION_REST_FACTOR = 4
"""Pause after the preparation of a push of a batch meanwhile, as a multiple of the time that it took. An expression of
sixty conditions is compiled in 4 ms, for which loop and writer wait, and a batch may have ten thousand of them."""
PREPARATION_REST_SECONDS = 0.1
"""The longest such pause: what takes long is a search, which leaves the interpreter to others."""
PREPARED_PUSHES_OF_APP = 8
"""Pushes to more than one device by name that an app may have in preparation, or prepared and not yet stored: each has
a set of up to 128 KiB in memory, and 4 MiB of texts if it is composed."""
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
    """The batches it has taken; None: none yet."""
    pending_pushes: list[PendingPush] = field(default_factory=list)
    accepted_at: int = 0
    """Server time at which it has begun: that of its pushes."""
    has_run: bool = False


_NOT_STORED = "this line was not stored, others before it were; send it again"


PushStored = Callable[[int, int, BitMap | Sequence[int]], None]
"""Takes an app, a push of it, and the devices that it is for, by number."""


class Acceptance:
    """Stores pushes and hands them over after the commit. Loop.

    `clock_ms` gives server time in milliseconds. `storage_left` says whether the disk has room to accept more; it keeps
    a reserve, so that deliveries already accepted can still be recorded when new ones are refused with 507.
    `first_step` gives what is stored along with a push to a duty of this name.
    `new_pushes` hands out what waits for those of other nodes; None: this is the only server.
    `on_remembered` is called for each answer that is kept with its idempotency key: the app, and about how many bytes.
    `on_stored` is called for each push after its commit; None: there are no other nodes to tell.
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
        new_pushes: NewPushes | None,
        numbers: PushNumbers,
        attachments: Attachments,
        first_step: Callable[[str], StoredAlong],
        watches: Watches,
        targets: TargetResolver,
        texts: TextRenderer,
        on_remembered: Callable[[int, int], None],
        on_stored: PushStored | None,
    ) -> None:
        self._targets = targets
        self._texts = texts
        self._first_step = first_step
        self._watches = watches
        self._attachments = attachments
        self._alert_limiter = alert_limiter
        self._new_pushes = new_pushes
        self._database = database
        self._ledger = ledger
        self._hand_over = hand_over
        self._limits = limits
        self._clock_ms = clock_ms
        self._storage_left = storage_left
        self.limits = MailboxLimits(
            ledger,
            limits.mailbox_deliveries,
            limits.mailbox_bytes,
            clock_ms,
            storage_left=storage_left,
            on_caught_up=self._submit,
        )
        self._store_of_pushes = PushStore(
            ledger=ledger,
            limits=self.limits,
            policies=policies,
            numbers=numbers,
            idempotency_ms=limits.idempotency_ms,
        )
        self.queue = AcceptanceQueue()
        self._operations: deque[_Operation] = deque()
        """Those that have not been called back, in the order of submission."""
        self._is_next_submitted = False
        """An operation has been submitted that has not begun: it takes whatever comes until then."""
        self._single_at = 0
        """Server time of the last push that was not of a batch."""
        self._preparing: defaultdict[int, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(PREPARED_PUSHES_OF_APP)
        )
        self._on_remembered = on_remembered
        self._on_stored = on_stored
        self.accepted_of: defaultdict[int, int] = defaultdict(int)
        """Pushes answered 202, by app."""
        self.targeted_of: defaultdict[int, int] = defaultdict(int)
        """Deliveries of those."""

    @property
    def accepted(self) -> int:
        """Pushes answered 202, for metrics."""
        return sum(self.accepted_of.values())

    @property
    def targeted(self) -> int:
        """Deliveries of those."""
        return sum(self.targeted_of.values())

    def plain(self, app: AppRef, body: bytes, *, is_line: bool = False) -> PendingPush | None:  # Hot path.
        """A pending push from its JSON, if that is plain (`plain_push`); else it has to be checked as a submission."""
        return plain_push(app, body, self._limits.max_payload, is_line=is_line)

    def pending(self, app: AppRef, submission: Submission) -> PendingPush:
        """Check a submission. Raises Problem 404, 413, 422; with a key the pending push has it, since what the key was
        answered before comes first."""
        duty = submission.request.target.duty
        if duty is not None and submission.request.collapse_key is None:
            submission.request.collapse_key = own_collapse_key()
        try:
            request = submission.request
            if SCHEDULE_FIELD_SET & request.__pydantic_fields_set__:
                refuse_times(request)
            fetch_from = self._attachments.refer(app.no, request)
            pending = pending_push(app, submission, self._limits.max_payload, fetch_from)
            if pending.target is not None and self._targets.is_searched_for(pending.target):
                pending.is_prepared = False
        except Problem as refusal:
            if submission.idempotency_key is None:
                raise
            pending = unchecked_push(app, submission)
            pending.refused = refusal
        if duty is not None:
            pending.along = self._first_step(duty)
        return pending

    async def accept(
        self, app: AppRef, request: PushRequest, key_id: str | None = None, attempt: Attempt | None = None
    ) -> AcceptedPush:
        """Store one push, which `key_id` sends; returns after the commit. Raises Problem (422, 404, 413, 507, 503)."""
        pending = self.pending(app, Submission(request))
        pending.key_id, pending.attempt = key_id, attempt
        return await self.accept_pending(pending)

    async def accept_pending(self, pending: PendingPush) -> AcceptedPush:  # Hot path.
        """Store a push that has been checked; as `accept`."""
        self._single_at = self._clock_ms()
        if pending.is_prepared:
            await self._store([pending])
        else:
            await self._prepare_and_store(pending)
        answer = answer_of(pending)
        if isinstance(answer, Problem):
            raise answer
        return answer

    async def _prepare_and_store(self, pending: PendingPush) -> None:
        if pending.target is None:  # a single device, whose text is no larger than any other content
            await self.prepare(pending)
            await self._store([pending])
            return
        async with self._preparing[pending.app.no]:
            await self.prepare(pending)
            await self._store([pending])

    async def prepare(self, pending: PendingPush) -> None:
        """Look up what the storing of a push needs and the writer has no time for. Raises Problem; with a key the
        pending push has it, since what the key was answered before comes first."""
        composed = pending.composed
        target = pending.target if composed is None else composed.target
        assert target is not None, "a single device needs no preparation"
        try:
            if pending.selection is None:  # a part of a plan has its devices already
                pending.selection = await self._targets.resolve(pending.app.no, target)
            if composed is not None:
                await self._texts.prepare(pending, pending.selection)
        except Problem as refusal:
            if pending.idempotency_key is None:
                raise
            pending.refused = refusal
        pending.is_prepared = True

    async def compose(self, pending: PendingPush) -> ComposedPush | None:
        """Put the content of a push together without sending it. Raises Problem 404, 422, 503.

        None of one that has no template, and no texts by locale.
        """
        return None if pending.composed is None else await self._texts.composed(pending.app, pending.composed)

    async def _prepared(self, pushes: list[PendingPush | Problem]) -> list[PendingPush]:
        """Prepare the pushes of a slice; those that can be stored. What cannot be prepared has its answer."""
        ready: list[PendingPush] = []
        for pending in pending_among(pushes):
            if not pending.is_prepared:
                began = time.monotonic()
                try:
                    await self.prepare(pending)
                except Problem as refusal:
                    pending.answer = refusal
                if self._has_others():
                    took = time.monotonic() - began
                    await asyncio.sleep(min(PREPARATION_REST_FACTOR * took, PREPARATION_REST_SECONDS))
                if pending.answer is not None:
                    continue
            ready.append(pending)
        return ready

    async def accept_many(self, pushes: Iterable[PendingPush | Problem]) -> list[AcceptedPush | Problem]:
        """Store many pushes, slice by slice; the answers in order, after the last commit. A problem is its own answer.

        `pushes` may be checked while they are read: that goes on while the slice before is being stored. Raises only
        when nothing was stored; what fails later is the answer of those that were not.
        """
        answers: list[AcceptedPush | Problem] = []
        checked: list[PendingPush | Problem] = []
        """Pushes of the slice that is gathering."""
        gathered = deliveries = 0
        considerate = self._has_others()
        under_way: tuple[asyncio.Future[None], list[PendingPush | Problem]] | None = None
        coming = iter(pushes)
        try:
            for number, push in enumerate(coming, 1):
                checked.append(push)
                if isinstance(push, PendingPush):
                    gathered += 1
                    deliveries += 1 if push.target is None else self.queue.deliveries(push)
                if gathered >= (CONSIDERATE_PUSHES if considerate else BATCH_PUSHES) or (
                    deliveries >= OPERATION_DELIVERIES
                ):
                    if under_way is not None:
                        await under_way[0]
                        answers += map(answer_of, under_way[1])
                        under_way = None
                    under_way = asyncio.ensure_future(self._store(await self._prepared(checked))), checked
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
            await self._store(await self._prepared(checked))
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

        def read(transaction: Transaction) -> None:
            for pending in pending_pushes:
                key = pending.idempotency_key
                pending.answer = (
                    self._store_of_pushes.remembered(transaction, pending, key, now_ms) if key is not None else None
                )

        await self._database.read(read)
        for pending in pending_pushes:
            if pending.answer is None:
                pending.answer = pending.refused or problem(
                    "storage_full", "the disk is full: nothing was accepted; free space and send again"
                )

    def _submit(self) -> None:
        """Have the writer store what waits, unless it is about to."""
        if self._is_next_submitted or not self.queue.has_next(self.limits.apps_behind()):
            return
        self._is_next_submitted = True
        submitted = _Operation(self._clock_ms())
        self._operations.append(submitted)
        self._ledger.accepting_since = self._operations[0].submitted_at

        def operation(transaction: Transaction) -> StoredPushes:
            if submitted.batches is None:
                self._begin(submitted)
            elif submitted.has_run:  # it runs again (see `Database`, law 2)
                self.limits.forget()
            else:  # it has waited for the locks of its apps since it took its pushes
                submitted.accepted_at = self._clock_ms()
            submitted.has_run = True
            return self._store_of_pushes.store(transaction, submitted.pending_pushes, submitted.accepted_at)

        def apps() -> Apps:
            if submitted.batches is None:
                self._begin(submitted)
            return frozenset([pending.app.no for pending in submitted.pending_pushes])

        def on_commit(stored: StoredPushes) -> None:
            for batch in submitted.batches or ():
                if not batch.stored.done():
                    batch.stored.set_result(None)
            try:
                self._after_commit(stored, submitted.pending_pushes, submitted.accepted_at)
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

        self._database.submit(operation, on_commit, on_error, apps=apps, uses_reserve=False)
        self._ledger.flush_along()

    def store_made(
        self,
        make: Callable[[Transaction, int], list[PendingPush]],
        done: Callable[[], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Store pushes to few devices that an operation makes by itself, of what it finds due.

        `make(connection, now_ms)` runs on the writer thread, and again after everything was rolled back; what it
        writes is stored with the pushes. Exactly one of the callbacks follows.
        """
        runs: list[tuple[list[PendingPush], int]] = []

        def operation(transaction: Transaction) -> StoredPushes:
            if runs:
                self.limits.forget()
            now_ms = self._clock_ms()
            runs.append((make(transaction, now_ms), now_ms))
            return self._store_of_pushes.store(transaction, runs[-1][0], now_ms)

        def on_commit(stored: StoredPushes) -> None:
            try:
                self._after_commit(stored, *runs[-1])
            finally:
                done()

        def refused(error: BaseException) -> None:
            self.limits.forget()
            on_error(error)

        self._database.submit(operation, on_commit, refused, uses_reserve=False)

    def _after_commit(self, stored: StoredPushes, pending_pushes: list[PendingPush], accepted_at: int) -> None:
        self.limits.enforced(stored.limited)
        self._ledger.on_ended(stored.losers)
        self._ledger.on_devices_ended(stored.superseded)
        if self._new_pushes is not None:
            self._new_pushes.accepted(stored.before, pending_pushes)
        self._hand_out(pending_pushes, accepted_at)

    def _begin(self, operation: _Operation) -> None:
        """Take what waits. Writer thread."""
        # In this order: the clock before the next one is submitted, which has a later time; and that before the pushes
        # are taken, so that there is an operation for whatever is put afterwards.
        operation.accepted_at = self._clock_ms()
        self._is_next_submitted = False
        operation.batches = self.queue.next_batches(self.limits.apps_behind())
        operation.pending_pushes = [pending for batch in operation.batches for pending in batch.pending_pushes]

    def _called_back(self, operation: _Operation) -> None:
        first = self._operations.popleft()
        assert first is operation, "callbacks come in the order of submission"
        self._ledger.accepting_since = self._operations[0].submitted_at if self._operations else None
        self.queue.called_back(operation.batches or ())
        self._submit()

    def _hand_out(self, pending_pushes: list[PendingPush], now_ms: int) -> None:
        accepted: list[tuple[ActivePush, Sequence[int]]] = []
        watched = self._watches.by_app
        on_stored = self._on_stored
        new_pushes = self._new_pushes
        for pending in pending_pushes:
            if not pending.push_no:
                continue
            self._ledger.changed.add(pending.push_no)
            if pending.along is not None:
                pending.along.stored(pending)
            if watched and pending.key_id is not None and pending.app.no in watched:
                self._watches.accepted(pending)
            self.accepted_of[pending.app.no] += 1
            self.targeted_of[pending.app.no] += pending.targeted
            key = pending.idempotency_key
            if key is not None:
                self._on_remembered(pending.app.no, len(key) + ANSWER_BYTES + UNKNOWN_BYTES * len(pending.unknown))
            ttl = pending.ttl
            self._ledger.expects_expiry(now_ms + ttl * 1000)
            if on_stored is not None:
                on_stored(pending.app.no, pending.push_no, pending.devices)
            if new_pushes is not None and new_pushes.is_left_to_read(pending, now_ms):
                if pending.in_sets:
                    self.limits.accepted_set(pending.push_no, pending.app.no, now_ms)
                continue
            devices = pending.devices
            if isinstance(devices, BitMap):
                self.limits.accepted_set(pending.push_no, pending.app.no, now_ms)
                here = devices & self._hand_over.connected
                if not ttl and len(here) < len(devices):
                    gone = devices - here
                    self._ledger.end_devices(pending.push_no, pending.app.no, gone, DeliveryState.EXPIRED, "ttl")
                if here:
                    accepted.append((pending.active_push(now_ms, here), list(here)))
                continue
            if pending.limited:
                self._alert_limiter.add(pending.push_no, devices, ttl)
                continue
            if pending.muted:
                self._alert_limiter.add_muted(pending.push_no, [no for no in devices if no in pending.muted], ttl)
                devices = [device_no for device_no in devices if device_no not in pending.muted]
            # Most of a batch: the device is away, and there is nothing to do.
            if devices and (len(devices) != 1 or not ttl or self._hand_over.is_open(devices[0], pending.priority)):
                accepted.append((pending.active_push(now_ms, self._hand_over.connected if ttl else devices), devices))
        self._hand_over.fan_out(accepted)
