"""Acceptance: from a valid request to rows on disk, and from the commit to the mailboxes.

`202` is answered after the commit that holds the push, its deliveries, what it superseded or pushed out of full
mailboxes, and its idempotency record. Requests that arrive while one operation is on its way to the disk are stored
together by the next: one operation, few statements, one fsync, however many callers wait.

Order inside the operation, per batch: idempotency, targets, push rows, deliveries, collapse keys, mailbox limits. A
loser may be of the same batch. Nothing in it fails for one push alone, because every request is judged before (unknown
devices and reused keys are answers, not errors).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from gateway.audience import targeting
from gateway.audience.policy import PolicyStore
from gateway.delivery.acceptance_queue import BATCH_PUSHES, OPERATION_DELIVERIES, AcceptanceQueue
from gateway.delivery.attachments import Attachments, fetch_within
from gateway.delivery.consent import suppress_selected, unwanted, wishes_of
from gateway.delivery.digest import PushNumbers
from gateway.delivery.gate import Gate
from gateway.delivery.handles import DEVICE_BITS, DEVICE_MASK, handle_of
from gateway.delivery.ledger import Ledger
from gateway.delivery.ledger_statements import (
    end_rows,
    insert_listed_rows,
    insert_selected_rows,
    insert_single_rows,
    supersede_rows,
)
from gateway.delivery.mailbox import Mailbox
from gateway.delivery.mailbox_limits import Enforced, MailboxLimits
from gateway.delivery.not_before import gate_accepted_rows
from gateway.delivery.push import (
    ActivePush,
    PushRequest,
)
from gateway.delivery.submission import (
    AcceptedPush,
    AppRef,
    Draft,
    Submission,
    answer_of,
    answer_unstored,
    draft_of,
    drafts_among,
    key_reused,
    new_push_ids,
    nobody_known,
    stored_target,
)
from gateway.delivery_states import DeliveryState
from gateway.errors import Problem, problem
from gateway.store.database import Database
from gateway.store.errors import OutcomeUnknown, StorageError
from gateway.store.protocols import Timers
from gateway.store.rows import insert_rows

log = logging.getLogger(__name__)

TURN = 50
"""Pushes of a batch that are judged before the loop gets a turn, about 0.6 ms."""
CONSIDERATE_PUSHES = 20
"""That, and the pushes of a batch that one operation stores, while others send as well, one by one: they would wait for
the batch at every step."""
CONSIDERATE_PAUSE = 0.003
"""Seconds that the loop and the writer have for the others after each of those."""
ANSWER_BYTES = 80
"""Of an answer as it is kept with its idempotency key."""
UNKNOWN_BYTES = 40
"""Of each unknown device in it, about."""
CONSIDERATE_MS = 1_000
"""How long after a single push batches are considerate."""


@dataclass(slots=True, frozen=True)
class Limits:
    max_payload: int
    """Bytes of a wire payload."""
    mailbox_deliveries: int
    mailbox_bytes: int
    idempotency_ms: int


@dataclass(slots=True, frozen=True)
class _Stored:
    """What an operation has to tell the loop."""

    losers: list[int]
    """Handles of earlier deliveries that ended by it."""
    limited: Enforced
    """What was done about the limits of mailboxes."""


_WAITING = int(DeliveryState.WAITING)
_NOT_STORED = "this line was not stored, others before it were; send it again"


class Acceptance:
    """Stores pushes and gives them to the mailbox. `clock` gives server time in milliseconds.

    `storage_left` says whether the disk has room to accept more; it keeps a reserve, so that deliveries already
    accepted can still be recorded when new ones are refused with 507.
    """

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        mailbox: Mailbox,
        limits: Limits,
        clock: Callable[[], int],
        timers: Timers,
        storage_left: Callable[[], bool],
        policies: PolicyStore,
        gate: Gate,
        numbers: PushNumbers,
        attachments: Attachments,
    ) -> None:
        self._attachments = attachments
        self._numbers = numbers
        self._gate = gate
        self._policies = policies
        self._database = database
        self._ledger = ledger
        self._mailbox = mailbox
        self._limits = limits
        self._clock = clock
        self._timers = timers
        self._storage_left = storage_left
        self.limits = MailboxLimits(ledger, limits.mailbox_deliveries, limits.mailbox_bytes, clock)
        self.limits.on_caught_up = self._submit_soon
        self.queue = AcceptanceQueue()
        self._under_way = False
        self._scheduled = False
        self._single_at = 0
        """When a push came that was not of a batch."""
        self.on_remembered: Callable[[int, int], None] = lambda app_no, size: None
        """Called for each answer that is kept with its idempotency key: the app, and about how many bytes."""
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
        self._single_at = self._clock()
        draft = self._draft(app, Submission(request, idempotency_key, body_hash))
        await self._store([draft])
        answer = answer_of(draft)
        if isinstance(answer, Problem):
            raise answer
        return answer

    async def accept_many(
        self, app: AppRef, submissions: Iterable[Submission | Problem]
    ) -> list[AcceptedPush | Problem]:
        """Store many, slice by slice; the answers in order, after the last commit. A problem is its own answer.

        `submissions` may be made while they are read: that goes on while the slice before is being stored. Raises only
        when nothing was stored; what fails later is the answer of those that were not.
        """
        answers: list[AcceptedPush | Problem] = []
        judged: list[Draft | Problem] = []
        """Those of the slice that is gathering."""
        gathered = deliveries = 0
        considerate = self._has_others()
        under_way: tuple[asyncio.Future[None], list[Draft | Problem]] | None = None
        coming = iter(submissions)
        try:
            for number, submission in enumerate(coming, 1):
                judged.append(submission if isinstance(submission, Problem) else self._judged(app, submission))
                draft = judged[-1]
                if isinstance(draft, Draft):
                    gathered += 1
                    deliveries += self.queue.deliveries(draft)
                limit = CONSIDERATE_PUSHES if considerate else BATCH_PUSHES
                if gathered >= limit or deliveries >= OPERATION_DELIVERIES:
                    if under_way is not None:
                        await under_way[0]
                        answers += map(answer_of, under_way[1])
                        under_way = None
                    under_way = asyncio.ensure_future(self._store(drafts_among(judged))), judged
                    judged, gathered, deliveries = [], 0, 0
                    if considerate:  # not the next one at once: the writer is everybody's
                        await asyncio.wait([under_way[0]])
                if number % (CONSIDERATE_PUSHES if considerate else TURN) == 0:
                    await asyncio.sleep(CONSIDERATE_PAUSE if considerate else 0)
                    considerate = self._has_others()
            if under_way is not None:
                await under_way[0]
                answers += map(answer_of, under_way[1])
                under_way = None
            await self._store(drafts_among(judged))
            answers += map(answer_of, judged)
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
            tried = chain(under_way[1] if under_way is not None else (), judged)
            answers += [answer_unstored(answer, error, refusal) for answer in tried]
            for number, answer in enumerate(coming, 1):
                answers.append(answer if isinstance(answer, Problem) else refusal)
                if number % TURN == 0:
                    await asyncio.sleep(0)
        return answers

    def _has_others(self) -> bool:
        """Does somebody send pushes one by one, for whom a batch should make room?"""
        return self._clock() - self._single_at < CONSIDERATE_MS

    def _judged(self, app: AppRef, submission: Submission) -> Draft | Problem:
        try:
            return self._draft(app, submission)
        except Problem as refusal:
            return refusal

    def _draft(self, app: AppRef, submission: Submission) -> Draft:
        """Raises Problem; with a key the draft has it, since what it was answered before comes first."""
        try:
            fetch_from = self._attachments.refer(app.no, submission.request)
            return draft_of(app, submission, self._limits.max_payload, fetch_from)
        except Problem as refusal:
            if submission.idempotency_key is None:
                raise
            return Draft(app, submission, content="", frame_size=0, listed=None, priority=0, refused=refusal)

    async def _store(self, drafts: list[Draft]) -> None:
        if not drafts:
            return
        if not self._storage_left():
            await self._refuse_new(drafts)
            return
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue.put(drafts, stored)
        self._submit_soon()
        # Shielded by design: a caller that goes away does not take back what may already be on disk.
        await stored

    def _submit_soon(self) -> None:
        if self.queue and not self._scheduled and not self._under_way:
            self._scheduled = True
            self._timers.call_soon(self._submit)

    async def _refuse_new(self, drafts: list[Draft]) -> None:
        """The disk is full: what was accepted before under its key is answered again, the rest is refused."""
        now = self._clock()

        def read(connection: sqlite3.Connection) -> None:
            for draft in drafts:
                key = draft.submission.idempotency_key
                draft.answer = self._remembered(connection, draft, key, now) if key is not None else None

        await self._database.read(read)
        for draft in drafts:
            if draft.answer is None:
                draft.answer = draft.refused or problem(
                    "storage_full", "the disk is full: nothing was accepted; free space and send again"
                )

    def _submit(self) -> None:
        self._scheduled = False
        batches = self.queue.take(self.limits.behind)
        if not batches:
            return
        self._under_way = True
        self._ledger.accepting_since = now = self._clock()
        drafts = [draft for batch in batches for draft in batch.drafts]

        def on_commit(stored: _Stored) -> None:
            for batch in batches:
                if not batch.stored.done():
                    batch.stored.set_result(None)
            try:
                self.queue.stored(drafts)
                self.limits.enforced(stored.limited)
                self._ledger.on_ended(stored.losers)
                self._hand_out(drafts, now)
            finally:  # whatever one push did, the next are stored
                self._under_way = False
                self._ledger.accepting_since = None
                if self.queue:
                    self._submit()

        def on_error(error: BaseException) -> None:
            self._under_way = False
            self._ledger.accepting_since = None
            if self.queue:
                self._submit()
            for batch in batches:
                if not batch.stored.done():
                    batch.stored.set_exception(error)

        self._database.submit(lambda connection: self._store_rows(connection, drafts, now), on_commit, on_error)

    def _hand_out(self, drafts: list[Draft], now: int) -> None:
        offered: list[tuple[ActivePush, Sequence[int]]] = []
        for draft in drafts:
            if not draft.push_no:
                continue
            self._ledger.changed.add(draft.push_no)
            self.accepted += 1
            self.targeted += draft.targeted
            key = draft.submission.idempotency_key
            if key is not None:
                self.on_remembered(draft.app.no, len(key) + ANSWER_BYTES + UNKNOWN_BYTES * len(draft.unknown))
            ttl = draft.request.ttl
            self._ledger.expects_expiry(now + ttl * 1000)
            devices = draft.devices
            if draft.gated:
                self._gate.offer(draft.push_no, devices, ttl)
                continue
            if draft.muted:
                self._gate.offer_muted(draft.push_no, [no for no in devices if no in draft.muted], ttl)
                devices = [device_no for device_no in devices if device_no not in draft.muted]
            # Most of a batch: the device is away, and there is nothing to do.
            if devices and (len(devices) != 1 or not ttl or self._mailbox.is_open(devices[0], draft.priority)):
                offered.append((draft.active_push(now), devices))
        self._mailbox.offer(offered)

    # -- on the writer thread ----------------------------------------------------------------------------------------

    def _store_rows(self, connection: sqlite3.Connection, drafts: list[Draft], now: int) -> _Stored:
        for draft in drafts:  # an operation may run twice (see `Database`, law 2)
            draft.answer, draft.push_no, draft.devices, draft.unknown, draft.suppressed = None, 0, (), (), 0
            draft.muted = frozenset()
        last_no = self._numbers.last(connection)
        known = self._known_devices(connection, drafts)
        wishes = self._known_wishes(connection, known)
        withheld: dict[str, list[int]] = {}
        answered: dict[tuple[int, str], tuple[bytes, Draft]] = {}
        twins: list[tuple[Draft, Draft]] = []
        single: list[tuple[int, int, int, int, int]] = []
        pushes: list[tuple[Any, ...]] = []
        push_ids = new_push_ids(len(drafts))
        push_no = last_no
        for draft in drafts:
            key = draft.submission.idempotency_key
            if key is not None:
                twin = answered.get((draft.app.no, key))
                if twin is not None:
                    if twin[0] == draft.submission.body_hash:
                        twins.append((draft, twin[1]))
                    else:
                        draft.answer = key_reused(key)
                    continue
                draft.answer = self._remembered(connection, draft, key, now) or draft.refused
                if draft.answer is not None:
                    continue
            if not self._resolve(draft, known):
                continue
            push_no += 1
            left_out = self._unwanted(draft, wishes)
            for device_no, reason in left_out.items():
                withheld.setdefault(reason, []).append(handle_of(push_no, device_no))
            self._insert(connection, draft, push_no, push_ids.pop(), now, left_out, single, pushes)
            if key is not None:
                assert draft.submission.body_hash is not None, "given with the key"
                answered[(draft.app.no, key)] = (draft.submission.body_hash, draft)
        if push_no == last_no:
            self._answer_twins(twins)
            return _Stored([], Enforced([], [], {}))
        self._numbers.used(push_no)
        insert_rows(connection, "push", PUSH_COLUMNS, pushes)
        insert_single_rows(connection, single)
        for reason, handles in withheld.items():
            end_rows(connection, handles, DeliveryState.SUPPRESSED, reason, now)
        if gate_accepted_rows(connection, drafts, self._policies):
            self._ledger.gated = True  # here: whatever reads mailboxes on this thread comes later
        stored = self._collapse_and_limit(connection, drafts, last_no + 1, now)
        for draft in drafts:
            if draft.push_no:
                draft.answer = AcceptedPush(draft.push_id, draft.targeted, draft.suppressed, draft.unknown)
        self._answer_twins(twins)
        connection.executemany(
            "INSERT OR REPLACE INTO idempotency_record (app_no, key, body_hash, response, created_at)"
            " VALUES (?, ?, ?, ?, ?)",
            [
                (app_no, key, body_hash, f"{{{draft.answer.members()}}}", now)
                for (app_no, key), (body_hash, draft) in answered.items()
                if isinstance(draft.answer, AcceptedPush)
            ],
        )
        return stored

    def _known_wishes(
        self, connection: sqlite3.Connection, known: dict[int, dict[str, int]]
    ) -> dict[int, dict[int, tuple[str, str]]]:
        """What the listed devices of each app want, where that may be less than everything."""
        found: dict[int, dict[int, tuple[str, str]]] = {}
        for app_no, numbers in known.items():
            if self._policies.is_guarded(app_no):
                everybody = self._policies.of(app_no).policy.consent.unknown == "suppress"
                found[app_no] = wishes_of(connection, numbers.values(), everybody)
        return found

    def _unwanted(self, draft: Draft, wishes: dict[int, dict[int, tuple[str, str]]]) -> dict[int, str]:
        """Of the listed devices those that do not want it, with the reason."""
        of_app = wishes.get(draft.app.no)
        if not of_app:
            return {}
        request = draft.request
        assert request.kind is not None, "filled in by validation"
        rules = self._policies.of(draft.app.no)
        return unwanted(rules, request.kind, request.channel, draft.priority, of_app, draft.devices)

    @staticmethod
    def _answer_twins(twins: list[tuple[Draft, Draft]]) -> None:
        for draft, first in twins:
            draft.answer = first.answer

    @staticmethod
    def _known_devices(connection: sqlite3.Connection, drafts: list[Draft]) -> dict[int, dict[str, int]]:
        wanted: dict[int, dict[str, None]] = {}
        for draft in drafts:
            if draft.listed is not None:
                wanted.setdefault(draft.app.no, {}).update(dict.fromkeys(draft.listed))
        return {app_no: targeting.device_rows(connection, app_no, list(ids)) for app_no, ids in wanted.items()}

    def _remembered(
        self, connection: sqlite3.Connection, draft: Draft, key: str, now: int
    ) -> AcceptedPush | Problem | None:
        row = connection.execute(
            "SELECT body_hash, response FROM idempotency_record WHERE app_no = ? AND key = ? AND created_at > ?",
            (draft.app.no, key, now - self._limits.idempotency_ms),
        ).fetchone()
        if row is None:
            return None
        if row[0] != draft.submission.body_hash:
            return key_reused(key)
        answer = json.loads(row[1])
        return AcceptedPush(**{**answer, "unknown": tuple(answer["unknown"])})

    @staticmethod
    def _resolve(draft: Draft, known: dict[int, dict[str, int]]) -> bool:
        """Turn listed devices into numbers; False (and an answer) when the push has nobody to go to."""
        ids = draft.listed
        if ids is None:
            return True
        numbers = known[draft.app.no]
        draft.devices = [numbers[device_id] for device_id in ids if device_id in numbers]
        if len(draft.devices) < len(ids):
            draft.unknown = tuple(device_id for device_id in ids if device_id not in numbers)
            if not draft.devices:
                draft.answer = nobody_known(draft.unknown)
                return False
        return True

    def _insert(
        self,
        connection: sqlite3.Connection,
        draft: Draft,
        push_no: int,
        push_id: str,
        now: int,
        left_out: dict[int, str],
        single: list[tuple[int, int, int, int, int]],
        pushes: list[tuple[Any, ...]],
    ) -> None:
        """Note the rows of a push and of its delivery to a single device; insert other deliveries."""
        request = draft.request
        target = request.target
        priority = draft.priority
        if draft.listed is None:
            app_no = draft.app.no
            select, parameters = targeting.select_sql(app_no, target)
            draft.targeted = insert_selected_rows(connection, push_no, priority, draft.frame_size, select, parameters)
            if self._policies.is_guarded(app_no):
                assert request.kind is not None, "filled in by validation"
                rules = self._policies.of(app_no)
                draft.suppressed = suppress_selected(
                    connection, push_no, app_no, rules, request.kind, request.channel, priority, now
                )
        else:
            draft.targeted = len(draft.devices)
            if draft.targeted == 1:
                single.append((push_no, draft.devices[0], priority, draft.frame_size, _WAITING))
            else:
                insert_listed_rows(connection, push_no, priority, draft.frame_size, draft.devices)
            if left_out:
                draft.suppressed = len(left_out)
                draft.devices = [device_no for device_no in draft.devices if device_no not in left_out]
        draft.push_no = push_no
        draft.push_id = push_id
        if draft.is_fetched:
            draft.fetch_within = fetch_within(draft.targeted, request.ttl)
        assert request.kind is not None, "filled in by validation"
        draft.gated = self._policies.is_gated(draft.app.no, request.kind, request.channel)
        pushes.append(
            (
                push_no,
                push_id,
                draft.app.no,
                request.kind,
                priority,
                request.qos,
                request.ttl,
                request.collapse_key,
                request.channel,
                stored_target(target),
                draft.whole_content if draft.fetch_within else draft.content,
                draft.frame_size,
                now,
                now + request.ttl * 1000,
                draft.targeted,
                draft.suppressed,
            ),
        )

    def _collapse_and_limit(
        self, connection: sqlite3.Connection, drafts: list[Draft], first_no: int, now: int
    ) -> _Stored:
        is_sent = self._ledger.is_sent
        losers: list[int] = []
        for draft in drafts:
            collapse_key = draft.request.collapse_key
            if draft.push_no and collapse_key is not None:
                losers += supersede_rows(connection, draft.push_no, collapse_key, is_sent, now)
        limited = self.limits.accept_rows(connection, drafts, now)
        losers += limited.losers
        lost_at_once: dict[int, set[int]] = {}
        for handle in losers:
            if handle >> DEVICE_BITS >= first_no:
                lost_at_once.setdefault(handle >> DEVICE_BITS, set()).add(handle & DEVICE_MASK)
        for draft in drafts:
            if draft.push_no in lost_at_once:
                gone = lost_at_once[draft.push_no]
                draft.devices = [device_no for device_no in draft.devices if device_no not in gone]
        return _Stored([handle for handle in losers if handle >> DEVICE_BITS < first_no], limited)


PUSH_COLUMNS = (
    "no, id, app_no, kind, priority, qos, ttl, collapse_key, channel, target, content, size, accepted_at, expires_at,"
    " targeted, suppressed"
)
