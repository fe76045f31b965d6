"""Escalations: a push to a duty goes on to the next step until somebody acts.

What is true of an escalation is on disk (`store/deliveries/escalations`); here are the moments at which something is
due, and what follows a commit. Nothing is kept in memory for an escalation: a timer knows when the next one is due, and
one operation of the writer sees to those that are.

Cost: an app without duties pays nothing. Once there is any, each `acted` and `opened` that devices report is looked up
by the number of its push.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.delivery.duties import DutyFields, devices_of_step, read_duty, unknown_duty
from gateway.delivery.escalation_progress import (
    ALL_ESCALATIONS,
    CLEARED_PUSHES,
    DUE_STEPS,
    RUNNING_ESCALATIONS,
    DueEscalation,
    advance,
    due_escalations,
    exhaust,
    record_acts,
)
from gateway.delivery.ledger import RETRY_SECONDS, Ledger
from gateway.delivery.submission import AppRef, PendingPush
from gateway.errors import Problem, problem
from gateway.store.database import Database
from gateway.store.deliveries.escalations import (
    EscalationState,
    StepPush,
    count_all_running,
    count_running,
    due_or_uncleared,
    end_recalled,
    insert_escalation,
    later_step_ids,
    next_due,
    note_cleared,
    steps_to_clear,
)
from gateway.store.deliveries.ledger_statements import ReceiptRow
from gateway.store.protocols import Timers
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

FAR_MS = 2**62
"""A time at which nothing is due."""

StoreMade = Callable[
    [
        Callable[[Transaction, int], list[PendingPush]],
        Callable[[], None],
        Callable[[BaseException], None],
    ],
    None,
]
"""`Acceptance.store_made`."""
ClearScreens = Callable[[StepPush, Callable[[], None]], None]
"""Tells the devices that show a push to take it off the screen, and calls back when they have been told."""


@dataclass(slots=True, eq=False)
class FirstStep:
    """Stores the escalation along with a push to a duty."""

    owner: Escalations
    name: str
    duty: DutyFields | None = None
    left_out: int = 0
    due_at: int = 0
    superseded: int = 0

    def choose(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> Problem | None:
        app_no = pending.app.no
        self.duty = read_duty(transaction, app_no, self.name)
        if self.duty is None:
            return unknown_duty(self.name)
        if count_running(transaction, app_no) >= RUNNING_ESCALATIONS or self.owner.running >= ALL_ESCALATIONS:
            self.owner.refused += 1
            return problem(
                "too_many_escalations",
                f"nobody has acted on {RUNNING_ESCALATIONS} pushes of this app to duties, or {ALL_ESCALATIONS} of all:"
                " recall some, or wait",
            )
        self.owner.in_use = True  # here: whoever reads it on this thread comes later
        chosen = devices_of_step(transaction, app_no, self.duty.steps[0])
        pending.devices, pending.unknown, self.left_out = chosen.numbers, chosen.unknown, chosen.left_out
        return None

    def store(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> None:
        assert self.duty is not None, "chosen before"
        assert pending.collapse_key is not None, "every push to a duty has one"
        self.due_at = due_after(self.duty, 0, pending, now_ms)
        self.superseded = insert_escalation(
            transaction,
            pending.push_no,
            pending.app.no,
            self.name,
            self.duty.model_dump_json(exclude_none=True),
            pending.collapse_key,
            self.due_at,
            self.left_out,
            now_ms,
        )

    def stored(self, pending: PendingPush) -> None:
        self.owner.started(self.due_at, self.superseded)


@dataclass(slots=True, eq=False)
class NextStep:
    """Stores along with a later step how far its escalation has come."""

    owner: Escalations
    due: DueEscalation
    left_out: int = 0
    due_at: int = 0

    def choose(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> Problem | None:
        step = self.due.duty.step(self.due.row.step + 1)
        assert step is not None, "there is one, or it has ended"
        chosen = devices_of_step(transaction, self.due.row.app_no, step)
        pending.devices, pending.unknown, self.left_out = chosen.numbers, chosen.unknown, chosen.left_out
        return None

    def store(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> None:
        due, step = self.due, self.due.row.step + 1
        self.due_at = due_after(due.duty, step, pending, now_ms)
        advance(
            transaction,
            due,
            pending.push_no,
            pending.push_id,
            pending.targeted,
            self.due_at,
            self.left_out,
            now_ms,
        )

    def stored(self, pending: PendingPush) -> None:
        self.owner.steps += 1
        self.owner.expect(self.due_at)


def due_after(duty: DutyFields, number: int, pending: PendingPush, now_ms: int) -> int:
    """The time at which the step behind this one is due: at once, if this one is for nobody."""
    step = duty.step(number)
    assert step is not None, "it has just been sent"
    return now_ms + step.wait_s * 1000 if pending.targeted > pending.suppressed else now_ms


class Escalations:
    """Sends what is due of escalations, and ends those on which somebody acts. Loop.

    `clock_ms` gives server time in milliseconds. `storage_left` says whether the disk has room for another push: until
    then, steps wait. `store_made` is acceptance's. `clear_screens` tells devices to take a push off their screens.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        clock_ms: Callable[[], int],
        timers: Timers,
        storage_left: Callable[[], bool],
        store_made: StoreMade,
        clear_screens: ClearScreens,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._clock_ms = clock_ms
        self._timers = timers
        self._storage_left = storage_left
        self._store_made = store_made
        self._clear_screens = clear_screens
        self._next_due = FAR_MS
        self._under_way = False
        self._clearing = False
        self._clear_again = False
        """Something has ended since it was last looked for what to clear."""
        self.is_shared = False
        """Whether other nodes store escalations as well: then one of them has `tick` called, and clears screens."""
        self.in_use = False
        """Whether there is any escalation: receipts are looked up then."""
        self.running = 0
        """Escalations on which nobody has acted yet, for metrics."""
        self.steps = 0
        """Steps that were sent, beyond the first ones, for metrics."""
        self.ended = dict.fromkeys(
            (state.value for state in EscalationState if state is not EscalationState.RUNNING), 0
        )
        """Escalations that have ended, by how, for metrics."""
        self.refused = 0
        """Pushes to duties that were refused because too many are under way, for metrics."""

    async def load(self) -> None:
        """Find what is under way; before the first connection."""

        def read(transaction: Transaction) -> tuple[bool, int, int | None]:
            return (*count_all_running(transaction), next_due(transaction, -1))

        self.in_use, self.running, first = await self._database.read(read)
        self.in_use = self.in_use or self.is_shared
        self._next_due = FAR_MS if first is None else first
        self._clear_again = self.in_use  # what the last run has not cleared: at the first tick

    async def follow_others(self) -> None:
        """Learn what other nodes have stored: when the next step is due, and whether screens are to be cleared."""
        first, is_uncleared = await self._database.read_soon(due_or_uncleared)
        if first is not None:
            self.expect(first)
        self._clear_again = self._clear_again or is_uncleared

    def first_step(self, name: str) -> FirstStep:
        """Make what is stored along with a push to this duty."""
        return FirstStep(self, name)

    def started(self, due_at: int, superseded: int) -> None:
        """Learn of a new escalation, and of how many it has superseded."""
        self.running += 1
        self.expect(due_at)
        if superseded:
            self._note_ended(EscalationState.SUPERSEDED, superseded, superseded)

    def expect(self, due_at: int) -> None:
        """Expect something to be due at this time."""
        self._next_due = min(self._next_due, due_at)

    def _note_ended(self, state: EscalationState, count: int, running: int) -> None:
        self.ended[state] += count
        self.running -= running
        if state is not EscalationState.EXHAUSTED:
            self._clear()

    # -- steps -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Send the steps that are due. Called a few times a second; costs nothing until something is."""
        if self._clear_again and not self._clearing:
            self._clearing = True
            self._clear_next((0, -1))
        if self._next_due == FAR_MS or self._under_way or self._clock_ms() < self._next_due or not self._storage_left():
            return
        self._under_way = True
        self._next_due = FAR_MS  # lowered by what is stored meanwhile, and by the operation's answer
        found: list[tuple[int, int | None]] = []
        """Of the last run of the operation: how many have ended, and when the next one is due."""

        def make(transaction: Transaction, now_ms: int) -> list[PendingPush]:
            due = due_escalations(transaction, now_ms)
            over = [one for one in due if one.duty.step(one.row.step + 1) is None or one.row.expires_at <= now_ms]
            for one in over:
                exhaust(transaction, one, now_ms)
            gone = {one.row.push_no for one in over}
            # Of the others: what is stored now is expected when it is.
            found.append((len(over), now_ms if len(due) == DUE_STEPS else next_due(transaction, now_ms)))
            return [self._step(one, now_ms) for one in due if one.row.push_no not in gone]

        def done() -> None:
            self._under_way = False
            over, following = found[-1]
            if over:
                self._note_ended(EscalationState.EXHAUSTED, over, over)
            if following is not None:
                self.expect(following)

        def on_error(error: BaseException) -> None:
            log.error("the next steps of escalations cannot be stored, trying again: %s", error)
            self._under_way = False
            self._timers.call_later(RETRY_SECONDS, lambda: self.expect(0))

        self._store_made(make, done, on_error)

    def _step(self, due: DueEscalation, now_ms: int) -> PendingPush:
        step = due.duty.step(due.row.step + 1)
        assert step is not None, "others have ended"
        return PendingPush(
            app=AppRef(due.row.app_no, due.row.app_id),
            kind=due.row.kind,
            priority=due.row.priority,
            qos=due.row.qos,
            ttl=max(1, (due.row.expires_at - now_ms) // 1000),
            channel=due.row.channel,
            collapse_key=due.row.collapse_key,
            content=due.row.content,
            frame_size=due.row.size,
            listed=[],
            target=step.target(),
            along=NextStep(self, due),
        )

    # -- ends ------------------------------------------------------------------------------------------------------

    def record_acts(
        self,
        transaction: Transaction,
        receipts: Sequence[ReceiptRow],
        now_ms: int,
    ) -> list[bool]:
        """End what these receipts act upon; for each, whether it was running. Writer thread, with the receipts."""
        return record_acts(transaction, receipts, now_ms) if self.in_use and receipts else []

    def acted(self, ended: Sequence[bool]) -> None:
        """Learn that escalations have ended because somebody has acted: those for which it is true were running."""
        if ended:
            self._note_ended(EscalationState.ACTED, len(ended), sum(ended))

    async def recall(self, app: AppRef, push_id: str) -> dict[str, int] | None:
        """Take back a push, with all its steps if it was sent to a duty, and have devices clear their screens.

        Answers and raises as `Recalls.recall`.
        """
        was: str | None = None
        later: list[str] = []
        if self.in_use:
            now_ms = self._clock_ms()
            was, later = await self._database.write(
                lambda transaction: (
                    end_recalled(transaction, app.no, push_id, now_ms),
                    later_step_ids(transaction, app.no, push_id),
                ),
                app.no,
            )
        found: Counter[str] | None = None
        for one in (push_id, *later):
            part = await self._ledger.recalls.recall(app.no, one)
            if part is None:
                return None
            if was is None and (part["in_flight"] or part["too_late"]):
                self._clear_screens(StepPush(0, one, app.id, None), lambda: None)
            if found is None:
                found = Counter(part)
            else:
                found.update(part)
        if was is not None:
            self._note_ended(EscalationState.RECALLED, 1, int(was == EscalationState.RUNNING))
        return None if found is None else dict(found)

    def _clear(self) -> None:
        """Take back what was sent of escalations that have ended, one after the other."""
        self._clear_again = True
        if not self._clearing and not self.is_shared:
            self._clearing = True
            self._clear_next((0, -1))

    def _clear_next(self, after: tuple[int, int]) -> None:
        """Take back the next pushes, or note that all of an escalation are, behind (escalation, step)."""
        if not after[0]:
            self._clear_again = False
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> list[tuple[int, int, StepPush]]:
            found = steps_to_clear(transaction, after, CLEARED_PUSHES)
            if after[0] and (not found or found[0][0] != after[0]):
                note_cleared(transaction, after[0])
            for _, _, step in found:
                self._ledger.recalls.recall_few(transaction, step.push_no, now_ms)
            return found

        def on_commit(found: list[tuple[int, int, StepPush]]) -> None:
            if not found:
                if self._clear_again:
                    self._clear_next((0, -1))
                else:
                    self._clearing = False
                return
            untold = [step for _, _, step in found]
            self._ledger.recalls.note([step.push_no for step in untold])
            remaining = len(untold)

            def told() -> None:
                nonlocal remaining
                remaining -= 1
                if not remaining:
                    self._clear_next(found[-1][:2])

            for step in untold:
                self._clear_screens(step, told)

        def on_error(error: BaseException) -> None:
            log.error("the steps of an escalation cannot be taken back, trying again: %s", error)
            self._timers.call_later(RETRY_SECONDS, lambda: self._clear_next(after))

        self._ledger.flush()
        self._database.submit(operation, on_commit, on_error)
