"""The ledger: the only module that writes the state of a delivery.

Laws
1. A push to N devices is N rows, each in exactly one state; rows leave only by retention, which keeps their counts.
2. What is true is what is on disk, with one overlay: a delivery that is WAITING on disk and whose device is in
   `ActivePush.sent` has been handed over and is reported as `sent`. So a delivery costs one insert and one update,
   and a crash forgets nothing: what was in flight is simply still waiting.
3. Nothing goes backwards: among receipts the furthest wins and each first time stamp is kept; a receipt for an end
   that a receipt can revive moves it and leaves `after_<end>` as the reason; REVOKED never moves.
4. One order for everything. Operations run on the writer thread in the order in which the loop submitted them, and
   their callbacks come back in that order. Mailbox pages are read there too, so that at the moment of a callback `sent`
   holds exactly the hand-overs whose outcome that operation could not see. This is what makes "no push twice after
   its acknowledgement was recorded" hold without a lock.

Two kinds of functions: `*_rows` functions take the writer's connection and run inside an operation; the methods of
`Ledger` belong to the loop. An operation may look into `ActivePush.sent` (a set of ints: one membership test, or one
copy, is atomic under the interpreter lock). What the loop hands over between that look and the commit has ended on disk
and is on its way all the same: law 3 has what arrives of it, and of QoS 0, where nobody will say so, what was sent.

Cost: statements are over sets, one JSON array of device numbers per push, so that SQLite works with the interpreter
lock released; acknowledgements collect while one flush is on its way and leave as one operation when it is back.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any, TypeVar

from gateway.delivery.attempts import count_attempts
from gateway.delivery.event_log import HANDED_OVER, log_deliveries, log_handles, log_moved, log_push
from gateway.delivery.headroom import least_valuable_first
from gateway.delivery.push import ActivePush, ActivePushes, load_pushes, push_number
from gateway.delivery_states import ENDS_A_RECEIPT_REVIVES, RECEIPT_STATES, DeliveryState
from gateway.errors import problem
from gateway.store.protocols import Timers, Writer
from gateway.store.rows import insert_rows

log = logging.getLogger(__name__)
T = TypeVar("T")

DEVICE_BITS = 32
DEVICE_MASK = (1 << DEVICE_BITS) - 1
MAX_ATTEMPTS = 10
"""Times that a device may not take a push before that ends `refused`: with the usual `ack_timeout` an hour of attempts,
and more starts than a device needs to find a bad moment."""
RETRY_SECONDS = 0.5
"""Pause before an operation that the disk refused is tried again; acknowledgements wait in memory meanwhile."""
ENDED_TOGETHER = 100
"""Deliveries of a mailbox that one operation ends, about 4 ms: each is of another push, and has an event of its own."""
RECALLED_TOGETHER = 500
"""Deliveries of a push that one operation recalls, about 5 ms."""
SWEEP_PUSHES = 200
"""Pushes whose lifetime ended that one sweep looks at; the writer is shared, so slices stay small."""

_BECOMES = (
    "CASE state "
    + " ".join(f"WHEN {state:d} THEN 'after_{state.label}'" for state in ENDS_A_RECEIPT_REVIVES)
    + " ELSE {otherwise} END"
)
_AFTER = _BECOMES.format(otherwise="reason")
_UNLESS_ANSWERED = (
    f"CASE WHEN state > {DeliveryState.DISMISSED:d} THEN reason ELSE coalesce(reason, receipt.value ->> 2) END"
)
_ONLY_OF_AN_END = "CASE WHEN reason LIKE 'after_%' THEN reason END"
_REASON_OF = {
    "dismissed": _BECOMES.format(otherwise=_UNLESS_ANSWERED),
    "opened": _BECOMES.format(otherwise=_ONLY_OF_AN_END),
    "acted": _BECOMES.format(otherwise=_ONLY_OF_AN_END),
}
"""What a receipt makes of the reason, where it is not kept: a device says why it dismissed a push by itself, and a
person's answer is stronger than that."""
_MOVES = f"< {DeliveryState.REVOKED:d}"
"""States that a receipt may move."""
# `+state` keeps SQLite on the primary key: without it the partial index over waiting rows looks attractive.
_ACKNOWLEDGE = (
    f"UPDATE delivery SET reason = {_AFTER}, state = CASE WHEN state BETWEEN 10 AND 14 THEN state ELSE 10 END, qos = ?,"
    " delivered_at = coalesce(delivered_at, ?)"
    f" WHERE push_no = ? AND device_no IN (SELECT value FROM json_each(?)) AND +state {_MOVES}"
)
_ACKNOWLEDGE_SINGLE = (
    f"UPDATE delivery SET reason = {_AFTER}, state = CASE WHEN state BETWEEN 10 AND 14 THEN state ELSE 10 END, qos = ?,"
    " delivered_at = coalesce(delivered_at, ?) FROM json_each(?) AS handle"
    " WHERE delivery.push_no = handle.value >> 32 AND delivery.device_no = handle.value & 4294967295"
    f" AND +delivery.state {_MOVES}"
)
_FIRST = " AND delivery.delivered_at IS NULL"
"""With this after it: nothing was known to have arrived before."""
_OF_PUSH = " WHERE push_no = ? AND device_no IN (SELECT value FROM json_each(?)) AND +state "
_SENT = f"UPDATE delivery SET state = {DeliveryState.SENT:d}, qos = 0{_OF_PUSH}= {DeliveryState.WAITING:d}"
_SENT_AFTER_END = (
    f"UPDATE delivery SET reason = {_AFTER}, state = {DeliveryState.SENT:d}, qos = 0{_OF_PUSH}{HANDED_OVER}"
)
_END_HANDLES = (
    "UPDATE delivery SET state = ?, reason = ?, ended_at = coalesce(ended_at, ?) FROM json_each(?) AS handle"
    " WHERE delivery.push_no = handle.value >> 32 AND delivery.device_no = handle.value & 4294967295"
    " AND +delivery.state = 0"
)
_USE_ANEW = (
    "UPDATE alert_use SET at = ? FROM json_each(?) AS handle"
    " WHERE alert_use.device_no = handle.value & 4294967295 AND alert_use.push_no = handle.value >> 32"
)
_RECEIPT = (
    "UPDATE delivery SET reason = {after},"
    " state = CASE WHEN state BETWEEN 10 AND 14 THEN max(state, {rank}) ELSE {rank} END,"
    " delivered_at = coalesce(delivered_at, ?1), {column} = coalesce({column}, ?1){extra}"
    " FROM json_each(?2) AS receipt"
    " WHERE delivery.push_no = receipt.value ->> 0 AND delivery.device_no = receipt.value ->> 1"
    " AND +delivery.state {moves}"
)
_ACTION = (
    ", action = coalesce(action, receipt.value ->> 2),"
    " result = coalesce(result, CASE WHEN action IS NULL THEN receipt.value ->> 3 END)"
)
_RECEIPT_STATEMENTS = {
    event: _RECEIPT.format(
        after=_REASON_OF.get(event, _AFTER),
        moves=_MOVES,
        rank=int(state),
        column=f"{event}_at",
        extra=_ACTION if event == "acted" else "",
    )
    for event, state in RECEIPT_STATES.items()
}


def handle_of(push_no: int, device_no: int) -> int:
    """The name of a delivery at the engine: one integer."""
    return push_no << DEVICE_BITS | device_no


class Ledger:
    """Owner of the delivery states: rows on disk, hand-overs in memory.

    `clock` gives server time in milliseconds. `on_recorded` is called on the loop after a flush with the QoS 2
    handles whose acknowledgement is now on disk (the carrier keeps its own record of those until then), `on_ended` with
    the handles of deliveries that have ended, or have a receipt, although they may not have been offered to anybody.
    """

    def __init__(
        self, database: Writer, clock: Callable[[], int], timers: Timers, max_attempts: int = MAX_ATTEMPTS
    ) -> None:
        self.pushes = ActivePushes()
        self.on_recorded: Callable[[list[int]], None] = lambda handles: None
        self.on_ended: Callable[[list[int]], None] = lambda handles: None
        self.act_now: Callable[[], list[int]] = list
        """Pushes of ttl 0 that are being offered: the sweep leaves them alone."""
        self._database = database
        self._clock = clock
        self._timers = timers
        self._outcomes: dict[tuple[int, int], list[int]] = {}
        self._refusals: list[tuple[int, int]] = []
        self._not_taken: list[int] = []
        self._max_attempts = max_attempts
        self.failed_attempts = 0
        """Times that a device did not take what it was sent, for metrics."""
        self._flush_scheduled = self._flush_under_way = False
        self._next_expiry = 0
        self._sweep_under_way = False
        self._landing: set[int] = set()
        """Pushes whose lifetime is over, with nothing left but what is in flight: the sweep need not look at them."""
        self.accepting_since: int | None = None
        """Server time of the pushes that are on their way to the disk; nobody has been offered them yet."""
        self._recalled: dict[int, None] = {}
        self.changed: set[int] = set()
        """Numbers of pushes of which something is on disk that was not counted yet (`analytics`)."""
        self.gated = False
        """Whether any delivery may be gated (`Delivery.not_before`)."""
        self._withheld: set[int] = set()
        """Handles in flight that were not wanted any more when somebody last changed their mind."""
        self.judge_in_place: Callable[[sqlite3.Connection, list[int], int], tuple[dict[int, list[int]], list[int]]] = (
            lambda connection, devices, now: ({}, [])
        )
        """Set by the gate. On the writer thread, of these devices: the critical pushes that are let through though they
        are muted, in order, and the handles of those that have ended."""
        self.judge_unwanted: Callable[[list[int]], None] = lambda handles: None
        """Set by `Wishes`: end those of these waiting deliveries that are still not wanted."""

    # -- what the mailbox reports ---------------------------------------------------------------------------------

    def acknowledged(self, push_no: int, device_no: int, qos: int) -> None:  # Hot path.
        """The device took it; `qos` is the effective one. QoS 0: handed over, and nobody will ever acknowledge."""
        key = (push_no, qos)
        devices = self._outcomes.get(key)
        if devices is None:
            self._outcomes[key] = [device_no]
            if not self._flush_scheduled:
                self._flush_scheduled = True
                self._timers.call_soon(self._flush)
        else:
            devices.append(device_no)

    def refused(self, push_no: int, device_no: int, reason_code: int) -> None:
        """The device answered with a reason code >= 0x80, or could not be sent so large a packet (0x95)."""
        self._refusals.append((handle_of(push_no, device_no), reason_code))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._timers.call_soon(self._flush)

    def not_taken(self, push_no: int, device_no: int) -> None:
        """Lost, and the device has shown that it did not take it: an attempt that failed (`attempts`)."""
        self.failed_attempts += 1
        self._not_taken.append(handle_of(push_no, device_no))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._timers.call_soon(self._flush)
        self.lost(push_no, device_no)

    def lost(self, push_no: int, device_no: int) -> None:
        """The connection ended first. It is waiting again, unless it is judged to have ended."""
        push = self.pushes.get(push_no)
        if push is None or device_no not in push.sent:
            return
        self.pushes.settle(push, (device_no,))
        if handle_of(push_no, device_no) in self._withheld:
            self._withheld.discard(handle_of(push_no, device_no))
            self.judge_unwanted([handle_of(push_no, device_no)])
        if push.recalled or push.collapse_key is not None or push.expires_at <= self._clock():
            self.judge([handle_of(push_no, device_no)], lambda alive, loaded: None)

    def flush(self) -> None:
        """Submit everything reported so far now, so that it comes before what the caller submits next."""
        if self._flush_scheduled:
            self._flush(wait_for_one=False)

    def _flush(self, wait_for_one: bool = True) -> None:
        if wait_for_one and self._flush_under_way:
            return  # its callback flushes again: acknowledgements batch by themselves, at the pace of the disk
        outcomes, self._outcomes = self._outcomes, {}
        refusals, self._refusals = self._refusals, []
        not_taken, self._not_taken = self._not_taken, []
        self._flush_scheduled = False
        if not outcomes and not refusals and not not_taken:
            return
        self._flush_under_way = True
        now = self._clock()

        def operation(connection: sqlite3.Connection) -> None:
            record_outcomes(connection, outcomes, refusals, now)
            if not_taken:
                spent = count_attempts(connection, not_taken, self._max_attempts)
                end_rows(connection, spent, DeliveryState.REFUSED, "not_acknowledged", now)

        self.submit_until_done(operation, lambda _: self._recorded(outcomes, refusals))

    def _recorded(
        self,
        outcomes: dict[tuple[int, int], list[int]],
        refusals: list[tuple[int, int]],
    ) -> None:
        exactly_once: list[int] = []
        for (push_no, qos), devices in outcomes.items():
            push = self.pushes.get(push_no)
            if push is not None:
                self.pushes.settle(push, devices)
            self.changed.add(push_no)
            if self._withheld:
                self._withheld.difference_update([handle_of(push_no, device_no) for device_no in devices])
            if qos == 2:
                exactly_once.extend(handle_of(push_no, device_no) for device_no in devices)
        for handle, _ in refusals:
            self._withheld.discard(handle)
            push = self.pushes.get(handle >> DEVICE_BITS)
            if push is not None:
                self.pushes.settle(push, (handle & DEVICE_MASK,))
        self._flush_under_way = False
        if self._flush_scheduled:
            self._flush()
        if exactly_once:
            self.on_recorded(exactly_once)

    # -- judgement -------------------------------------------------------------------------------------------------

    def judge(
        self,
        handles: list[int],
        done: Callable[[list[int], list[ActivePush]], None],
        awaiting_pubrec: AbstractSet[int] = frozenset(),
        device_no: int | None = None,
    ) -> None:
        """End those of the handles that are recalled, over or superseded; the rest is still worth sending.

        Gated ones are left to the gate, except those of `awaiting_pubrec`: of QoS 2, let through before, and perhaps
        received; and, if all are of `device_no`, what is judged in its place. `done(alive, pushes)` is called on the
        loop: handles still waiting, oldest first as given, and the pushes of them that were not in memory when it was
        read.
        """
        self.flush()
        now = self._clock()

        def operation(connection: sqlite3.Connection) -> tuple[list[int], list[ActivePush], list[int]]:
            alive = judge_rows(connection, handles, now, awaiting_pubrec)
            ended: list[int] = []
            if self.gated and device_no is not None:
                passed, ended = self.judge_in_place(connection, [device_no], now)
                known = {*alive, *(handle_of(push_no, device_no) for push_no in passed.get(device_no, ()))}
                alive = [handle for handle in handles if handle in known]
            missing = {handle >> DEVICE_BITS for handle in alive}
            return alive, load_pushes(connection, [no for no in missing if self.pushes.get(no) is None]), ended

        def on_commit(found: tuple[list[int], list[ActivePush], list[int]]) -> None:
            alive, loaded, ended = found
            self.note_ended(ended)
            done(alive, loaded)

        self.submit_until_done(operation, on_commit)

    def note_ended(self, handles: list[int]) -> None:
        """These have ended on disk, by a rule."""
        if handles:
            self.changed.update([handle >> DEVICE_BITS for handle in handles])
            self.on_ended(handles)

    async def recover(self, held: Sequence[int]) -> None:
        """After a restart, before the first connection: every connection of the last run has ended."""
        now = self._clock()
        ended = await self._database.write(lambda connection: recover_rows(connection, held, now))
        if ended:
            log.info("%d deliveries were in flight when the server stopped, and had been recalled or superseded", ended)

    def withhold(self, handles: Iterable[int]) -> None:
        """Have these deliveries judged if they are lost: they were in flight, and were not wanted, when an operation
        looked. Those that have been lost since are judged at once."""
        lost: list[int] = []
        for handle in handles:
            if self.is_sent(handle >> DEVICE_BITS, handle & DEVICE_MASK):
                self._withheld.add(handle)
            else:
                lost.append(handle)
        if lost:
            self.judge_unwanted(lost)

    def end(self, handles: list[int], state: DeliveryState, reason: str) -> None:
        """End waiting deliveries, for instance those of ttl 0 that could not be handed over at once."""
        now = self._clock()
        self.submit_until_done(
            lambda connection: end_rows(connection, handles, state, reason, now),
            lambda count: None,
        )

    def submit_until_done(self, operation: Callable[[sqlite3.Connection], T], done: Callable[[T], None]) -> None:
        """Have the writer do it, again and again if the disk is full."""

        def on_error(error: BaseException) -> None:
            log.error("the ledger cannot be written, trying again: %s", error)
            self._timers.call_later(RETRY_SECONDS, lambda: self.submit_until_done(operation, done))

        self._database.submit(operation, done, on_error)

    def expects_expiry(self, expires_at: int) -> None:
        """A push with this end of life was accepted."""
        if expires_at < self._next_expiry:
            self._next_expiry = expires_at

    def sweep(self) -> None:
        """End what has outlived its ttl. Called a few times a second; costs nothing until something is due."""
        now = self._clock()
        landed = {no for no in self._landing if not self.is_in_flight(no)}
        if (now < self._next_expiry and not landed) or self._sweep_under_way:
            return
        self._sweep_under_way = True
        self._landing -= landed
        self._next_expiry = now + 86_400_000  # lowered by what is accepted meanwhile, and by the sweep's answer
        self.flush()
        landing = [*self._landing, *self.act_now()]
        offered_before = self.accepting_since if self.accepting_since is not None else now + 1

        def on_commit(found: tuple[list[int], bool, int | None]) -> None:
            self._sweep_under_way = False
            in_flight, more, next_expiry = found
            self._landing.update(in_flight)
            if next_expiry is not None:
                self.expects_expiry(next_expiry)
            if more:
                self.sweep()

        def on_error(error: BaseException) -> None:
            log.error("expired deliveries cannot be ended, trying again: %s", error)
            self._sweep_under_way = False
            self._next_expiry = now

        self._database.submit(
            lambda connection: sweep_rows(connection, now, offered_before, landing, self.sent_of),
            on_commit,
            on_error,
        )

    # -- commands of the API ---------------------------------------------------------------------------------------

    async def recall(self, app_no: int, push_id: str) -> dict[str, int] | None:
        """Take back what is still waiting. None: no such push.

        `in_flight`: handed over, its outcome still open (a lost one will end `cancelled`); `too_late`: delivered.
        From the first line on nothing of the push is handed over any more.
        """
        push_no = await self._database.write(lambda connection: push_number(connection, app_no, push_id), app_no)
        if push_no is None:
            return None
        self._recalled[push_no] = None
        while len(self._recalled) > 10_000:  # only needed until the operation below is on disk
            del self._recalled[next(iter(self._recalled))]
        push = self.pushes.get(push_no)
        if push is not None:
            push.recalled = True
        self.flush()
        now = self._clock()
        final = await self._database.write(lambda connection: begin_recall(connection, push_no, now), app_no)
        if final is not None:
            return final
        found = Counter(cancelled=0, in_flight=0, too_late=0)
        after: int | None = 0
        while after is not None:  # if the server ends before the last, `recover_rows` does the rest
            seen = after
            part, after = await self._database.write(
                lambda rows: recall_rows(rows, push_no, seen, self.sent_of(push_no), now),  # noqa: B023  awaited here
                app_no,
            )
            found.update(part)
        return dict(found)

    def is_recalled(self, push: ActivePush) -> bool:
        return push.recalled or push.no in self._recalled

    async def empty_mailbox(self, device_no: int, app_no: int | None = None) -> int:
        """Cancel what waits for a device (reason `mailbox_emptied`); what is in flight goes on. How many."""
        self.flush()
        now = self._clock()

        last: int | None = None

        def operation(connection: sqlite3.Connection) -> tuple[int, int, list[int]]:
            handles = self._waiting_handles(connection, device_no)
            newest = max(handles, default=0) if last is None else last
            handles = [handle for handle in handles if handle <= newest][:ENDED_TOGETHER]
            ended = end_rows(connection, handles, DeliveryState.CANCELLED, "mailbox_emptied", now)
            return ended, newest, handles

        total = 0
        while True:
            ended, last, handles = await self._database.write(operation, app_no)
            self.on_ended(handles)
            total += ended
            if len(handles) < ENDED_TOGETHER:
                return total

    def _waiting_handles(self, connection: sqlite3.Connection, device_no: int) -> list[int]:
        return [
            handle_of(push_no, device_no)
            for (push_no,) in connection.execute(
                "SELECT push_no FROM delivery WHERE device_no = ? AND state = 0",
                (device_no,),
            ).fetchall()
            if not self.is_sent(push_no, device_no)
        ]

    def is_sent(self, push_no: int, device_no: int) -> bool:
        """Handed over, outcome not on disk yet. May be asked from the writer thread (see above)."""
        push = self.pushes.get(push_no)
        return push is not None and device_no in push.sent

    def is_in_flight(self, push_no: int) -> bool:
        """Whether any delivery of the push is."""
        push = self.pushes.get(push_no)
        return push is not None and bool(push.sent)

    def sent_of(self, push_no: int) -> list[int]:
        """Devices to which a push was handed over, outcome not on disk yet."""
        push = self.pushes.get(push_no)
        return list(push.sent) if push is not None else []


# -- statements: each runs on the writer thread inside an operation ---------------------------------------------------


def insert_single_rows(connection: sqlite3.Connection, rows: list[tuple[int, int, int, int, int]]) -> None:
    """Deliveries of pushes to one device each: (push_no, device_no, priority, size, 0), in the order of the pushes."""
    insert_rows(connection, "delivery", "push_no, device_no, priority, size, state", rows)


def insert_listed_rows(
    connection: sqlite3.Connection, push_no: int, priority: int, size: int, devices: Sequence[int]
) -> None:
    """Deliveries of one push to these devices, sorted so that the clustered table is appended to."""
    listed = "SELECT value AS no FROM json_each(?) ORDER BY value"
    insert_selected_rows(connection, push_no, priority, size, listed, (json.dumps(devices),))


def insert_selected_rows(
    connection: sqlite3.Connection,
    push_no: int,
    priority: int,
    size: int,
    select: str,
    parameters: Sequence[Any],
) -> int:
    """Deliveries for every device number that `select` yields; how many."""
    return connection.execute(
        f"INSERT INTO delivery (push_no, device_no, priority, size, state) SELECT ?, no, ?, ?, 0 FROM ({select})",
        (push_no, priority, size, *parameters),
    ).rowcount


def suppress_rows(
    connection: sqlite3.Connection,
    app_no: int,
    push_no: int,
    reason: str,
    select: str,
    parameters: Sequence[Any],
    now: int,
) -> int:
    """End the waiting deliveries of a push to the device numbers that `select` yields; how many."""
    among = f"device_no IN ({select})"
    if not log_push(connection, app_no, "suppressed", now, push_no, reason, among, parameters):
        return 0
    return connection.execute(
        "UPDATE delivery SET state = ?, reason = ?, ended_at = ?"
        f" WHERE push_no = ? AND +state = {DeliveryState.WAITING:d} AND {among}",
        (int(DeliveryState.SUPPRESSED), reason, now, push_no, *parameters),
    ).rowcount


def digest_rows(
    connection: sqlite3.Connection,
    push_no: int,
    device_no: int,
    priority: int,
    size: int,
    members: Sequence[int],
    now: int,
) -> None:
    """The delivery of a digest, gated like its members, and the end of theirs."""
    connection.execute(
        "INSERT INTO delivery (push_no, device_no, priority, size, state, not_before) VALUES (?, ?, ?, ?, 0, 0)",
        (push_no, device_no, priority, size),
    )
    log_deliveries(connection, "superseded", now, [(member, [device_no]) for member in members], "digested")
    connection.execute(
        "UPDATE delivery SET state = 21, reason = 'digested', ended_at = ?, replaced_by = ?"
        " WHERE push_no IN (SELECT value FROM json_each(?)) AND device_no = ? AND +state = 0",
        (now, push_no, json.dumps(list(members)), device_no),
    )


def waiting_devices(connection: sqlite3.Connection, push_no: int) -> list[int]:
    (text,) = connection.execute(
        "SELECT json_group_array(device_no) FROM delivery WHERE push_no = ? AND +state = 0",
        (push_no,),
    ).fetchone()
    return list(json.loads(text))


def record_outcomes(
    connection: sqlite3.Connection,
    outcomes: dict[tuple[int, int], list[int]],
    refusals: Iterable[tuple[int, int]],
    now: int,
) -> None:
    for handle, code in refusals:
        reason = "packet_too_large" if code == 0x95 else f"reason_code_0x{code:02x}"
        end_rows(connection, [handle], DeliveryState.REFUSED, reason, now)
    single: dict[int, list[int]] = {}
    first: list[tuple[int, list[int]]] = []
    given: list[tuple[int, list[int]]] = []
    for (push_no, qos), devices in outcomes.items():
        if not qos:
            given.append((push_no, devices))
        elif len(devices) == 1:
            single.setdefault(qos, []).append(handle_of(push_no, devices[0]))
        else:
            group = (qos, now, push_no, json.dumps(devices))
            if connection.execute(_ACKNOWLEDGE + _FIRST, group).rowcount < len(devices):
                handles = [handle_of(push_no, device_no) for device_no in devices]
                devices = [handle & DEVICE_MASK for handle in _first_of(connection, handles, qos, now)]
                connection.execute(_ACKNOWLEDGE, group)
            first.append((push_no, devices))
    for qos, handles in single.items():  # pushes to one device each: one statement for all of them
        parameters = (qos, now, json.dumps(handles))
        if connection.execute(_ACKNOWLEDGE_SINGLE + _FIRST, parameters).rowcount < len(handles):
            rest, handles = parameters, _first_of(connection, handles, qos, now)
            connection.execute(_ACKNOWLEDGE_SINGLE, rest)
        first += [(handle >> DEVICE_BITS, [handle & DEVICE_MASK]) for handle in handles]
    if first:
        log_moved(connection, "delivered", now, first)
    if given:
        log_deliveries(connection, "sent", now, given)
        for push_no, devices in given:
            of_push = (push_no, json.dumps(devices))
            if connection.execute(_SENT, of_push).rowcount < len(devices):
                connection.execute(_SENT_AFTER_END, of_push)


def _first_of(connection: sqlite3.Connection, handles: list[int], qos: int, now: int) -> list[int]:
    """Of those that were just acknowledged with _FIRST the ones that it moved: of the others, which had a receipt
    before, no QoS is known yet."""
    (text,) = connection.execute(
        "SELECT json_group_array(handle.value) FROM json_each(?) AS handle CROSS JOIN delivery AS d"
        " ON d.push_no = handle.value >> 32 AND d.device_no = handle.value & 4294967295"
        " WHERE d.delivered_at = ? AND d.qos = ?",
        (json.dumps(handles), now, qos),
    ).fetchone()
    return list(json.loads(text))


def end_rows(
    connection: sqlite3.Connection,
    handles: list[int],
    state: DeliveryState,
    reason: str,
    now: int,
) -> int:
    """End those of the handles that are waiting on disk; how many."""
    if not handles:
        return 0
    log_handles(connection, state.label, now, handles, reason)
    return connection.execute(_END_HANDLES, (int(state), reason, now, json.dumps(handles))).rowcount


def supersede_rows(
    connection: sqlite3.Connection,
    push_no: int,
    collapse_key: str,
    is_sent: Callable[[int, int], bool],
    now: int,
) -> list[int]:
    """End older waiting deliveries with the push's collapse key on its devices; their handles.

    The index has what waits with that key: as a rule one of a device at most, and those in flight.
    """
    connection.execute("UPDATE delivery SET collapse_key = ? WHERE push_no = ? AND +state = 0", (collapse_key, push_no))
    handles = [
        handle_of(older, device_no)
        for older, device_no in connection.execute(
            "SELECT d.push_no, d.device_no FROM delivery AS n"
            " CROSS JOIN delivery AS d INDEXED BY delivery_collapse"  # CROSS: in this order, whatever it estimates
            "   ON d.device_no = n.device_no AND d.state = 0 AND d.collapse_key = ?2 AND d.push_no < ?1"
            " WHERE n.push_no = ?1 AND +n.state = 0",
            (push_no, collapse_key),
        )
        if not is_sent(older, device_no)
    ]
    end_rows(connection, handles, DeliveryState.SUPERSEDED, "collapse_key", now)
    return handles


def overflow_rows(
    connection: sqlite3.Connection,
    crowded: Iterable[tuple[int, int, int]],
    limit: int,
    limit_bytes: int,
    is_sent: Callable[[int, int], bool],
    now: int,
) -> list[int]:
    """Bring these mailboxes, (device number, deliveries, bytes) each, back below the limits; handles of the losers.

    The oldest of the lowest priority goes first, the new ones included; what is in flight counts but stays.
    """
    losers: dict[str, list[int]] = {"mailbox_limit": [], "mailbox_bytes": []}
    for device_no, count, total in crowded:
        evicted = losers["mailbox_limit" if count > limit else "mailbox_bytes"]
        for push_no, size in least_valuable_first(connection, device_no):
            if count <= limit and total <= limit_bytes:
                break
            if is_sent(push_no, device_no):
                continue
            evicted.append(handle_of(push_no, device_no))
            count -= 1
            total -= size
    for reason, handles in losers.items():
        end_rows(connection, handles, DeliveryState.OVERFLOWED, reason, now)
    return [handle for handles in losers.values() for handle in handles]


def receipt_rows(
    connection: sqlite3.Connection,
    receipts: Sequence[tuple[int, int, str, str | None, str | None]],
    now: int,
) -> None:
    """Receipts as (push_no, device_no, event, detail, result JSON), all of existing deliveries; first ones win.

    The detail is the action of an `acted`, the reason of a `dismissed`.
    """
    by_event: dict[str, dict[tuple[int, int], list[Any]]] = {}
    for push_no, device_no, event, detail, result in receipts:
        by_event.setdefault(event, {}).setdefault((push_no, device_no), [push_no, device_no, detail, result])
    for event in RECEIPT_STATES:  # in the order of a delivery's life; what a device has shown it also has
        of_event = by_event.get(event, {}) if event != "delivered" else dict.fromkeys(chain(*by_event.values()))
        if of_event:
            log_handles(connection, event, now, [handle_of(*key) for key in of_event])
    for event, rows in by_event.items():
        connection.execute(_RECEIPT_STATEMENTS[event], (now, json.dumps(list(rows.values()))))


def judge_rows(
    connection: sqlite3.Connection, handles: list[int], now: int, awaiting_pubrec: AbstractSet[int] = frozenset()
) -> list[int]:
    """End the recalled, expired and superseded ones; the handles that are still waiting, in the order given. Gated ones
    are left to the gate, those of `awaiting_pubrec` excepted, which count against caps from now on (see `judge`)."""
    rows = connection.execute(
        "SELECT handle.value, d.not_before IS NOT NULL, p.recalled_at IS NOT NULL, p.expires_at <= ?,"
        " p.collapse_key IS NOT NULL AND EXISTS ("
        "  SELECT 1 FROM push AS q JOIN delivery AS n ON n.push_no = q.no AND n.device_no = d.device_no"
        "  WHERE q.app_no = p.app_no AND q.collapse_key = p.collapse_key AND q.no > p.no"
        f"   AND n.state != {DeliveryState.SUPPRESSED:d})"
        " FROM json_each(?) AS handle JOIN delivery AS d"
        "   ON d.push_no = handle.value >> 32 AND d.device_no = handle.value & 4294967295 AND +d.state = 0"
        " JOIN push AS p ON p.no = d.push_no ORDER BY handle.key",
        (now, json.dumps(handles)),
    ).fetchall()
    alive: list[int] = []
    recalled: list[int] = []
    expired: list[int] = []
    superseded: list[int] = []
    gated: list[int] = []
    for handle, is_gated, is_recalled, is_expired, is_superseded in rows:
        verdict = recalled if is_recalled else expired if is_expired else superseded if is_superseded else alive
        if verdict is alive and is_gated:
            verdict = alive if handle in awaiting_pubrec else gated
        verdict.append(handle)
    if awaiting_pubrec:
        again = json.dumps([handle for handle in alive if handle in awaiting_pubrec])
        connection.execute(_USE_ANEW, (now, again))
    end_rows(connection, recalled, DeliveryState.CANCELLED, "recalled", now)
    end_rows(connection, expired, DeliveryState.EXPIRED, "ttl", now)
    end_rows(connection, superseded, DeliveryState.SUPERSEDED, "collapse_key", now)
    return alive


def recover_rows(connection: sqlite3.Connection, held: Sequence[int], now: int) -> int:
    """After a crash, judge what was in flight: a waiting delivery that is recalled, or superseded by a newer one of its
    collapse key, ends; those of `held` (handles past PUBREC) go on. How many ended. The sweep ends what is over.

    A recall and a newer push end what waits when they come, so only what was in flight then can be found here.
    """
    suspects = [
        handle_of(push_no, device_no)
        for push_no, device_no in connection.execute(
            "SELECT d.push_no, d.device_no FROM push AS p JOIN delivery AS d ON d.push_no = p.no AND +d.state = 0"
            " WHERE p.closed_at IS NULL AND (p.recalled_at IS NOT NULL OR p.collapse_key IS NOT NULL)"
        )
    ]
    goes_on = set(held)
    suspects = [handle for handle in suspects if handle not in goes_on]
    return len(suspects) - len(judge_rows(connection, suspects, now))


def sweep_rows(
    connection: sqlite3.Connection,
    now: int,
    offered_before: int,
    landing: list[int],
    sent_of: Callable[[int], list[int]],
) -> tuple[list[int], bool, int | None]:
    """End the waiting deliveries of pushes whose lifetime is over. Answers those pushes of which some are in flight
    (lost, they will end `expired`), whether the slice was full, and when to look again (ms; None: nothing unfinished).

    Left alone are pushes of ttl 0 accepted from `offered_before` on, which may still be handed over at once, and those
    of `landing`, which could otherwise fill every slice.
    """
    due = connection.execute(
        "SELECT no, app_no FROM push WHERE closed_at IS NULL AND expires_at <= ? AND (ttl > 0 OR accepted_at < ?)"
        " AND no NOT IN (SELECT value FROM json_each(?)) ORDER BY expires_at LIMIT ?",
        (now, offered_before, json.dumps(landing), SWEEP_PUSHES),
    ).fetchall()
    in_flight: list[int] = []
    for push_no, app_no in due:
        sent = sent_of(push_no)
        among, listed = "device_no NOT IN (SELECT value FROM json_each(?))", json.dumps(sent)
        if log_push(connection, app_no, "expired", now, push_no, "ttl", among, (listed,)):
            connection.execute(
                "UPDATE delivery SET state = 20, reason = 'ttl', ended_at = ?"
                f" WHERE push_no = ? AND +state = 0 AND {among}",
                (now, push_no, listed),
            )
        if sent:
            in_flight.append(push_no)
        else:
            connection.execute("UPDATE push SET closed_at = ? WHERE no = ?", (now, push_no))
    (next_expiry,) = connection.execute(
        "SELECT min(expires_at) FROM push WHERE closed_at IS NULL AND no NOT IN (SELECT value FROM json_each(?))",
        (json.dumps(landing + in_flight),),
    ).fetchone()
    return in_flight, len(due) == SWEEP_PUSHES, next_expiry


def begin_recall(connection: sqlite3.Connection, push_no: int, now: int) -> dict[str, int] | None:
    """Note that a push is recalled; what is to be said of one without deliveries. Raises Problem 410 for a push whose
    counts are no longer kept."""
    row = connection.execute("SELECT final_counts FROM push WHERE no = ? AND gone_at IS NULL", (push_no,)).fetchone()
    if row is None:
        raise problem("gone", "this push ended long ago and its counts are no longer kept")
    (final,) = row
    if final is not None:  # retention has removed its deliveries
        counts = json.loads(final)
        delivered = [state.label for state in DeliveryState if 1 <= state <= 14]
        return {"cancelled": 0, "in_flight": 0, "too_late": sum(counts[label] for label in delivered)}
    connection.execute("UPDATE push SET recalled_at = coalesce(recalled_at, ?) WHERE no = ?", (now, push_no))
    return None


def recall_rows(
    connection: sqlite3.Connection, push_no: int, after: int, sent: list[int], now: int
) -> tuple[dict[str, int], int | None]:
    """Cancel what waits of a push for some devices, with numbers behind `after`; how many are cancelled, in flight and
    too late among them, and where to go on."""
    (app_no,) = connection.execute("SELECT app_no FROM push WHERE no = ?", (push_no,)).fetchone()
    edge = connection.execute(
        "SELECT device_no FROM delivery WHERE push_no = ? AND device_no > ? ORDER BY device_no LIMIT 1 OFFSET ?",
        (push_no, after, RECALLED_TOGETHER - 1),
    ).fetchone()
    here = (after, DEVICE_MASK if edge is None else edge[0])
    cancelled, among = 0, "device_no > ? AND device_no <= ? AND device_no NOT IN (SELECT value FROM json_each(?))"
    listed = (*here, json.dumps(sent))
    if log_push(connection, app_no, "cancelled", now, push_no, "recalled", among, listed):
        cancelled = connection.execute(
            "UPDATE delivery SET state = 22, reason = 'recalled', ended_at = ?"
            f" WHERE push_no = ? AND +state = 0 AND {among}",
            (now, push_no, *listed),
        ).rowcount
    in_flight, too_late = connection.execute(
        "SELECT count(*) FILTER (WHERE state = 0), count(*) FILTER (WHERE state BETWEEN 1 AND 14)"
        " FROM delivery WHERE push_no = ? AND device_no > ? AND device_no <= ?",
        (push_no, *here),
    ).fetchone()
    counts = {"cancelled": cancelled, "in_flight": in_flight, "too_late": too_late}
    return counts, None if edge is None else edge[0]


def revoke_rows(connection: sqlite3.Connection, device_no: int, now: int) -> int:
    """The device is removed: what had not ended, in flight or not, ends `revoked`, ENDED_TOGETHER at most; how many."""
    waiting = connection.execute(
        "SELECT push_no FROM delivery WHERE device_no = ? AND state = 0 LIMIT ?", (device_no, ENDED_TOGETHER)
    )
    handles = [handle_of(push_no, device_no) for (push_no,) in waiting]
    return end_rows(connection, handles, DeliveryState.REVOKED, "device_removed", now)


def revoke_removed_rows(connection: sqlite3.Connection, now: int) -> int:
    """At a start: as `revoke_rows`, of a device whose removal was interrupted."""
    found = connection.execute(
        "SELECT no FROM device INDEXED BY device_removed WHERE removed_at IS NOT NULL AND EXISTS (SELECT 1"
        " FROM delivery INDEXED BY delivery_mailbox WHERE device_no = device.no AND state = 0) LIMIT 1"
    ).fetchone()
    return 0 if found is None else revoke_rows(connection, found[0], now)
