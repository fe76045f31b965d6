"""The history of one device: which of an app's newest pushes and log entries are about it.

Neither is indexed by device (`delivery/history_pages`), so the newest ones are looked through, a slice at a time, and
whether one is about the device is decided in the statement. In the event log that is by the text of an entry's list of
devices, which is not parsed for it, or by the outcome set of its segment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from gateway.delivery_states import DeliveryState
from gateway.store.audience.device_sets import SEGMENT_BITS
from gateway.store.deliveries.delivery_sets import outcomes_of, pushes_waiting_for
from gateway.store.deliveries.whole_deliveries import WholeDelivery, member_of
from gateway.store.set_functions import IN_SET
from gateway.store.transaction import Transaction

Hit = TypeVar("Hit")

SLICE_OUTCOMES = 2_000
"""Outcome sets that a slice looks at, some 10 ms: a push to a large fleet has hundreds."""
_DELIVERY_COLUMNS = ", ".join(f"d.{name}" for name in WholeDelivery._fields)


class Slice(NamedTuple, Generic[Hit]):
    """Hits of one slice, the newest first."""

    hits: list[Hit]
    reached: int
    """Number of the last row that was looked at."""
    is_end: bool
    """Whether no older one is worth a look."""
    reached_at: int | None = None
    """Its time in milliseconds of server time, if the slice has seen it."""


# -- event log ---------------------------------------------------------------------------------------------------------


def find_entries(
    transaction: Transaction, app_no: int, device_no: int, before: int, entries: int, types: Sequence[str]
) -> Slice[tuple[int, str]]:
    """Find the entries about a device among so many of its app that come before one. Reader thread."""
    parameters = {
        "app_no": app_no,
        "before": before,
        "entries": entries,
        "types": json.dumps(types),
        "device_no": device_no,
        "digits": str(device_no),
        "first": f"[{device_no},",
        "within": f",{device_no},",
        "last": f",{device_no}]",
        "only": f"[{device_no}]",
        "segment": device_no >> SEGMENT_BITS,
    }
    found, last, last_at, count = transaction.execute(FOUND, parameters).fetchone()
    if not count:
        return Slice([], before, True)
    hits = sorted(map(tuple, json.loads(found)), reverse=True)
    return Slice([(int(no), str(event)) for no, event in hits], last, count < entries, last_at)


_LISTED = (
    "instr(e.devices, :digits) > 0 AND (instr(e.devices, :first) > 0 OR instr(e.devices, :within) > 0"
    " OR instr(e.devices, :last) > 0 OR e.devices = :only)"
)
"""Lists are `[1,2,3]`, and of connections `[[1, when, {..}], [2, ..]]`. What only seems to be the device is left out
when the entry is read. The digits alone are looked for first: most entries lack them, and are passed over once."""
_IS_ABOUT = (
    "CASE WHEN e.device_no IS NOT NULL THEN e.device_no = :device_no"
    " WHEN e.outcome_no IS NOT NULL THEN EXISTS (SELECT 1 FROM outcome_set AS o WHERE o.no = e.outcome_no"
    f"  AND o.segment = :segment AND {IN_SET}(o.devices, :device_no))"
    f" ELSE e.devices IS NOT NULL AND {_LISTED} END"
)
FOUND = (
    "SELECT json_group_array(json_array(no, type)) FILTER (WHERE is_about), min(no), min(at), count(*) FROM ("
    "SELECT e.no, e.at, e.type, CASE WHEN e.type IN (SELECT value FROM json_each(:types))"
    f" THEN {_IS_ABOUT} ELSE FALSE END AS is_about FROM event AS e INDEXED BY event_of_app"
    " WHERE e.app_no = :app_no AND e.no < :before ORDER BY e.no DESC LIMIT :entries)"
)


class EntryPush(NamedTuple):
    """The push that an entry of the event log is about."""

    no: int
    kind: str
    accepted_at: int
    """Milliseconds of server time."""
    content: str
    """As it is stored: JSON, or what stands for several texts."""


def push_of_entry(transaction: Transaction, entry_no: int) -> EntryPush:
    """The push of an entry that has one."""
    row = transaction.execute(
        "SELECT p.no, p.kind, p.accepted_at, p.content FROM event AS e JOIN push AS p ON p.no = e.push_no"
        " WHERE e.no = ?",
        (entry_no,),
    ).fetchone()
    return EntryPush._make(row)


def entry_time(transaction: Transaction, entry_no: int) -> int | None:
    """The time of an entry, in milliseconds of server time; None if it has left the log."""
    row = transaction.execute("SELECT at FROM event WHERE no = ?", (entry_no,)).fetchone()
    return None if row is None else int(row[0])


# -- deliveries --------------------------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """The deliveries that are asked for; None: all."""

    state: DeliveryState | None = None
    reason: str | None = None
    """Empty: those without a reason."""

    def fits(self, delivery: WholeDelivery, in_flight: bool | None) -> bool:
        """Whether a delivery is asked for. `in_flight`: None is not known yet, so that what waits may be `sent`."""
        if self.reason is not None and (delivery.reason or "") != self.reason:
            return False
        if self.state is None or delivery.state == self.state:
            return not (self.state is DeliveryState.WAITING and in_flight)
        return self.state is DeliveryState.SENT and delivery.state == DeliveryState.WAITING and in_flight is not False


EVERYTHING = Wanted()


def find_pushes(
    transaction: Transaction,
    app_no: int,
    device_no: int,
    before: int,
    limit: int,
    pushes: int,
    wanted: Wanted = EVERYTHING,
) -> Slice[int]:
    """Find the newest pushes before one that have a delivery to a device which is wanted, among so many of its app.

    Reader thread.
    """
    segment = device_no >> SEGMENT_BITS
    oldest = transaction.execute(_OLDEST).fetchone()[0]
    if oldest is None:
        return Slice([], before, True)
    scope = {"app_no": app_no, "before": before, "pushes": pushes, "oldest": oldest}
    last, count = transaction.execute(f"SELECT min(no), count(*) FROM {SLICE}", scope).fetchone()
    if not count:
        return Slice([], before, True)
    waiting = set(pushes_waiting_for(transaction, device_no))
    rows = transaction.execute(
        CANDIDATES, scope | {"device_no": device_no, "segment": segment, "waiting": json.dumps(list(waiting))}
    )
    found: list[int] = []
    outcomes = 0
    for push_no, *row in rows:
        if row[0] is not None:
            delivery: WholeDelivery | None = WholeDelivery._make(row)
        elif push_no in waiting:
            delivery = WholeDelivery(device_no, DeliveryState.WAITING)
        else:
            delivery, looked_at = _outcome_of(transaction, push_no, device_no)
            outcomes += looked_at
        if delivery is not None and wanted.fits(delivery, None):
            found.append(push_no)
        if len(found) == limit or outcomes >= SLICE_OUTCOMES:
            rows.close()
            return Slice(found, push_no, False)
    return Slice(found, last, count < pushes)


_OLDEST = (
    "SELECT min(no) FROM (SELECT min(push_no) AS no FROM delivery UNION ALL SELECT min(push_no) FROM waiting_set"
    " UNION ALL SELECT min(push_no) FROM outcome_set)"
)
"""The oldest push of which anything is kept: of those before it the counts are, for a year."""
SLICE = (
    "(SELECT no FROM push INDEXED BY push_of_app WHERE app_no = :app_no AND no < :before AND no >= :oldest"
    " ORDER BY no DESC LIMIT :pushes)"
)
CANDIDATES = (
    f"SELECT p.no, {_DELIVERY_COLUMNS} FROM {SLICE} AS p"
    " LEFT JOIN delivery AS d ON d.push_no = p.no AND d.device_no = :device_no"
    " WHERE d.push_no IS NOT NULL OR p.no IN (SELECT value FROM json_each(:waiting)) OR EXISTS ("
    " SELECT 1 FROM outcome_set AS o INDEXED BY outcome_set_of_push WHERE o.push_no = p.no AND o.segment = :segment)"
    " ORDER BY p.no DESC"
)


def _outcome_of(transaction: Transaction, push_no: int, device_no: int) -> tuple[WholeDelivery | None, int]:
    """The delivery of a push to a device that has no row, if an outcome set has it; and how many were looked at."""
    looked_at = 0
    for outcome in outcomes_of(transaction, push_no, segment=device_no >> SEGMENT_BITS):
        looked_at += 1
        if device_no in outcome.devices:
            return member_of(outcome, device_no), looked_at
    return None, looked_at


class DeviceDelivery(NamedTuple):
    """A delivery to a device beside its push; times in milliseconds of server time."""

    push_no: int
    push_id: str
    kind: str
    channel: str | None
    priority: int
    collapse_key: str | None
    accepted_at: int
    expires_at: int
    content: str
    """As it is stored: JSON, or what stands for several texts."""
    size: int
    """Bytes of the push."""
    replaced_by: str | None
    """Id of the push that it was digested into."""
    attempts: int
    """Attempts that have failed."""
    delivery: WholeDelivery | None
    """None: it has been removed."""


def deliveries_to_device(transaction: Transaction, device_no: int, push_nos: Sequence[int]) -> Iterator[DeviceDelivery]:
    """The deliveries of these pushes to a device, in their order, as far as they are read."""
    waiting = set(pushes_waiting_for(transaction, device_no))
    rows = transaction.execute(
        "SELECT p.no, p.id, p.kind, p.channel, p.priority, p.collapse_key, p.accepted_at, p.expires_at, p.content,"
        f" p.size, r.id, coalesce(a.count, 0), {_DELIVERY_COLUMNS}"
        " FROM json_each(?1) AS w CROSS JOIN push AS p ON p.no = w.value"
        " LEFT JOIN delivery AS d ON d.push_no = p.no AND d.device_no = ?2"
        " LEFT JOIN push AS r ON r.no = d.replaced_by"
        " LEFT JOIN failed_attempt AS a ON a.push_no = p.no AND a.device_no = ?2 ORDER BY w.key",
        (json.dumps(push_nos), device_no),
    )
    for row in rows:
        if row[12] is not None:
            delivery: WholeDelivery | None = WholeDelivery._make(row[12:])
        elif row[0] in waiting:
            delivery = WholeDelivery(device_no, DeliveryState.WAITING)
        else:
            delivery, _ = _outcome_of(transaction, row[0], device_no)
        yield DeviceDelivery._make((*row[:12], delivery))


def acceptance_time(transaction: Transaction, push_no: int) -> int | None:
    """The time at which a push was accepted, in milliseconds of server time; None if it has left."""
    row = transaction.execute("SELECT accepted_at FROM push WHERE no = ?", (push_no,)).fetchone()
    return None if row is None else int(row[0])
