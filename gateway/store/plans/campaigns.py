"""Campaigns in the database: the statements that move one, each of which checks that it is where it should be.

Laws
1. A part is sent by the operation that stores its push: it removes the part's set, notes the push, and is refused
   unless the campaign runs and sends that group. What is left in `campaign_set` is what was not sent; so a kill between
   any two operations neither loses a part nor sends one twice.
2. Somebody's command and what the campaign does by itself may come in any order: each statement names the state, the
   phase and the group that it moves from, and says whether it has moved anything.
3. What has ended is cleared: parts are recalled if it was aborted, and sets that nobody will be sent leave. `cleared`
   is 0 until that is done, so the next start finishes it.

Every function runs inside an operation, on the writer thread, unless it says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from pyroaring import BitMap

from gateway.delivery_states import DeliveryState
from gateway.store.audience.device_sets import pack, segments_of, stored_devices
from gateway.store.deliveries.event_log import log_of_app
from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

HOLDOUT = -1
"""Stands for a group in the set of those that get nothing."""
SLICE_SETS = 200
"""Sets that one operation writes or removes: of 8 KiB at most each, and of some hundred bytes as a rule."""
SLICE_BYTES = 256 * 1024
"""Bytes of sets that one operation writes, about 3 ms."""


Remembered = tuple[str, bytes]
"""An idempotency key, and the hash of the body that came with it."""


class CampaignState(StrEnum):
    """States of a campaign, as the database holds them."""

    AWAITING_APPROVAL = "awaiting_approval"  #: another key has to approve it
    RUNNING = "running"  #: it starts, sends or observes
    PAUSED = "paused"  #: nothing is sent until somebody resumes it
    COMPLETED = "completed"  #: every group was sent and observed
    ABORTED = "aborted"  #: it was ended before, and what waited was recalled


class Phase(StrEnum):
    """Phases of a campaign that runs; one that is resumed goes on with its phase."""

    STARTING = "starting"  #: its time has not come, or its target is being frozen
    SENDING = "sending"  #: parts of the present group are left
    OBSERVING = "observing"  #: the present group was sent; conditions and time decide


class Campaign(NamedTuple):
    """A campaign as it stands, but for what was asked for."""

    no: int
    app_no: int
    app_id: str
    id: str
    name: str
    state: str
    phase: str
    group_no: int
    reason: str | None
    key_id: str
    approved_by: str | None
    start_at: int
    created_at: int
    started_at: int | None
    group_at: int | None
    observed_from: int | None
    paused_at: int | None
    ended_at: int | None
    targeted: int
    plan: str | None
    groups: int | None
    """Groups of the plan; None: there is none yet."""
    overruled: str
    cleared: int


_COLUMNS = (
    "c.no, c.app_no, a.id, c.id, c.name, c.state, c.phase, c.group_no, c.reason, c.key_id, c.approved_by, c.start_at,"
    " c.created_at, c.started_at, c.group_at, c.observed_from, c.paused_at, c.ended_at, c.targeted, c.plan,"
    " json_array_length(c.plan, '$.groups'), c.overruled, c.cleared"
)
_FROM = "FROM campaign AS c JOIN application AS a ON a.no = c.app_no"
_RUNNING = f"state = '{CampaignState.RUNNING}'"


# -- reading: on any thread --------------------------------------------------------------------------------------------


def read_campaign(transaction: Transaction, campaign_no: int) -> Campaign | None:
    """A campaign by its number. Any thread."""
    row = transaction.execute(f"SELECT {_COLUMNS} {_FROM} WHERE c.no = ?", (campaign_no,)).fetchone()
    return None if row is None else Campaign._make(row)


def find_campaign(transaction: Transaction, app_no: int, campaign_id: str) -> Campaign | None:
    """A campaign of an app by its id. Any thread."""
    row = transaction.execute(
        f"SELECT {_COLUMNS} {_FROM} WHERE c.id = ? AND c.app_no = ?", (campaign_id, app_no)
    ).fetchone()
    return None if row is None else Campaign._make(row)


def campaigns_before(transaction: Transaction, app_no: int, before: int, limit: int) -> list[Campaign]:
    """Campaigns of an app with numbers before this one, the newest first. Any thread."""
    rows = transaction.execute(
        f"SELECT {_COLUMNS} {_FROM} WHERE c.app_no = ? AND c.no < ? ORDER BY c.no DESC LIMIT ?",
        (app_no, before, limit),
    )
    return [Campaign._make(row) for row in rows.fetchall()]


def read_content(transaction: Transaction, campaign_no: int) -> str | None:
    """Read the request of a campaign as JSON; None: it has left. Any thread."""
    row = transaction.execute("SELECT content FROM campaign WHERE no = ?", (campaign_no,)).fetchone()
    return None if row is None else str(row[0])


def push_of_variant(transaction: Transaction, campaign_no: int, variant_no: int) -> tuple[str, str | None] | None:
    """Read the push of a campaign without its target, and the variant, as JSON; None: the campaign has left.

    Reader thread.
    """
    row = transaction.execute(
        "SELECT json_remove(content, '$.push.target') -> '$.push', content -> ('$.variants[' || ? || ']')"
        " FROM campaign WHERE no = ?",
        (variant_no, campaign_no),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def campaigns_with_work(transaction: Transaction) -> tuple[list[int], int]:
    """Numbers of the campaigns that run or have to be cleared, and how many have not ended. Any thread."""
    rows = transaction.execute(
        f"SELECT no FROM campaign WHERE ended_at IS NULL AND {_RUNNING} UNION ALL"
        " SELECT no FROM campaign WHERE cleared = 0"
    )
    numbers = [number for (number,) in rows.fetchall()]
    (count,) = transaction.execute("SELECT count(*) FROM campaign WHERE ended_at IS NULL").fetchone()
    return numbers, count


def set_of_part(transaction: Transaction, campaign_no: int, group_no: int, variant_no: int) -> BitMap:
    """The devices of a part that was not sent, or of the holdout. Any thread."""
    return stored_devices(
        transaction,
        "SELECT devices FROM campaign_set WHERE campaign_no = ? AND group_no = ? AND variant_no = ?",
        (campaign_no, group_no, variant_no),
    )


def next_variant(transaction: Transaction, campaign_no: int, group_no: int) -> int | None:
    """The first variant of a group that was not sent; None: all were. Any thread."""
    row = transaction.execute(
        "SELECT min(variant_no) FROM campaign_set WHERE campaign_no = ? AND group_no = ?", (campaign_no, group_no)
    ).fetchone()
    found: int | None = row[0]
    return found


# -- making and starting -----------------------------------------------------------------------------------------------


def count_under_way(transaction: Transaction, app_no: int) -> tuple[int, int]:
    """Count the campaigns that have not ended: of an app, and of all."""
    of_app, of_all = transaction.execute(
        "SELECT count(*) FILTER (WHERE app_no = ?), count(*) FROM campaign INDEXED BY campaign_under_way"
        " WHERE ended_at IS NULL",
        (app_no,),
    ).fetchone()
    return of_app, of_all


def made_before(transaction: Transaction, app_no: int, remembered: Remembered) -> tuple[str, bool] | None:
    """The campaign that was made with an idempotency key, and whether of the same body. Any thread."""
    row = transaction.execute(
        "SELECT id, body_hash = ? FROM campaign WHERE app_no = ? AND idempotency_key = ?",
        (remembered[1], app_no, remembered[0]),
    ).fetchone()
    return None if row is None else (row[0], bool(row[1]))


def insert_campaign(
    transaction: Transaction,
    app_no: int,
    campaign_id: str,
    name: str,
    content: str,
    state: CampaignState,
    key_id: str,
    start_at: int,
    targeted: int,
    remembered: Remembered | None,
    now_ms: int,
) -> int:
    """Store a new campaign; its number."""
    number = transaction.execute(
        "INSERT INTO campaign (app_no, id, name, content, state, phase, key_id, start_at, created_at, targeted,"
        " idempotency_key, body_hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(app_no, campaign_id, name, content, state, Phase.STARTING, key_id, start_at, now_ms, targeted),
            *((None, None) if remembered is None else remembered),
        ),
    ).lastrowid
    assert number is not None, "a row was inserted"
    if state is CampaignState.AWAITING_APPROVAL:
        log_campaign(transaction, "approval_needed", now_ms, app_no, campaign_id, name, targeted=targeted)
    return number


def log_campaign(
    transaction: Transaction, event: str, now_ms: int, app_no: int, campaign_id: str, name: str, **more: Any
) -> None:
    """Log an event of a campaign."""
    content = {"campaign_id": campaign_id, "name": name, **more}
    log_of_app(transaction, f"campaign.{event}", now_ms, app_no, content)


def is_starting(transaction: Transaction, campaign_no: int) -> bool:
    """Whether a campaign runs and its target is being frozen."""
    row = transaction.execute(
        f"SELECT 1 FROM campaign WHERE no = ? AND {_RUNNING} AND phase = ?", (campaign_no, Phase.STARTING)
    ).fetchone()
    return row is not None


def remove_sets(transaction: Transaction, campaign_no: int, *, keep_holdout: bool) -> int:
    """Remove a slice of the sets of a campaign; how many."""
    return transaction.execute(
        "DELETE FROM campaign_set WHERE rowid IN (SELECT rowid FROM campaign_set WHERE campaign_no = ?"
        " AND group_no >= ? LIMIT ?)",
        (campaign_no, 0 if keep_holdout else HOLDOUT, SLICE_SETS),
    ).rowcount


SetRow = tuple[int, int, int, bytes]
"""Group, variant, segment, devices."""


def rows_of_set(group_no: int, variant_no: int, devices: BitMap) -> list[SetRow]:
    """The rows of a set of devices. Any thread."""
    return [(group_no, variant_no, segment, pack(here)) for segment, here in segments_of(devices)]


def insert_sets(transaction: Transaction, campaign_no: int, rows: Iterable[SetRow]) -> None:
    """Store sets of a campaign that is starting."""
    insert_rows(
        transaction,
        "campaign_set",
        "campaign_no, group_no, variant_no, segment, devices",
        [(campaign_no, *row) for row in rows],
    )


def start_campaign(
    transaction: Transaction,
    campaign: Campaign,
    plan: str,
    targeted: int,
    holdout: int,
    groups: int,
    now_ms: int,
) -> bool:
    """Note that the target is frozen, and go on to its first group.

    `plan`: sizes of everything, as JSON; of so many devices, in so many groups and a holdout.
    """
    moved = transaction.execute(
        "UPDATE campaign SET phase = ?, plan = ?, targeted = ?, started_at = ?, group_at = ?"
        f" WHERE no = ? AND {_RUNNING} AND phase = ?",
        (Phase.SENDING, plan, targeted, now_ms, now_ms, campaign.no, Phase.STARTING),
    ).rowcount
    if moved:
        more = {"targeted": targeted, "holdout": holdout, "groups": groups}
        log_campaign(transaction, "started", now_ms, campaign.app_no, campaign.id, campaign.name, **more)
    return bool(moved)


def ask_approval(transaction: Transaction, campaign: Campaign, targeted: int, now_ms: int) -> bool:
    """Have a campaign that runs wait for another key."""
    moved = transaction.execute(
        f"UPDATE campaign SET state = ?, targeted = ? WHERE no = ? AND {_RUNNING}",
        (CampaignState.AWAITING_APPROVAL, targeted, campaign.no),
    ).rowcount
    if moved:
        log_campaign(
            transaction, "approval_needed", now_ms, campaign.app_no, campaign.id, campaign.name, targeted=targeted
        )
    return bool(moved)


# -- going on ----------------------------------------------------------------------------------------------------------


def is_next_part(transaction: Transaction, campaign_no: int, group_no: int, variant_no: int) -> bool:
    """Whether this part may be sent now."""
    row = transaction.execute(
        f"SELECT 1 FROM campaign WHERE no = ? AND {_RUNNING} AND phase = ? AND group_no = ? AND EXISTS"
        " (SELECT 1 FROM campaign_set WHERE campaign_no = ? AND group_no = ? AND variant_no = ?)",
        (campaign_no, Phase.SENDING, group_no, campaign_no, group_no, variant_no),
    ).fetchone()
    return row is not None


def note_part_sent(
    transaction: Transaction, campaign: Campaign, variant_no: int, push_no: int, group_name: str, now_ms: int
) -> None:
    """Note that a part is this push, and that its group was sent if it was the last one."""
    transaction.execute(
        "INSERT INTO campaign_part (campaign_no, group_no, variant_no, push_no) VALUES (?, ?, ?, ?)",
        (campaign.no, campaign.group_no, variant_no, push_no),
    )
    transaction.execute(
        "DELETE FROM campaign_set WHERE campaign_no = ? AND group_no = ? AND variant_no = ?",
        (campaign.no, campaign.group_no, variant_no),
    )
    if next_variant(transaction, campaign.no, campaign.group_no) is None:
        observe_group(transaction, campaign, group_name, now_ms)


def observe_group(transaction: Transaction, campaign: Campaign, group_name: str, now_ms: int) -> bool:
    """Note that all of the present group was sent."""
    moved = transaction.execute(
        f"UPDATE campaign SET phase = ?, observed_from = ? WHERE no = ? AND {_RUNNING} AND phase = ? AND group_no = ?",
        (Phase.OBSERVING, now_ms, campaign.no, Phase.SENDING, campaign.group_no),
    ).rowcount
    if moved:
        more = {"group": campaign.group_no + 1, "group_name": group_name}
        log_campaign(transaction, "group_sent", now_ms, campaign.app_no, campaign.id, campaign.name, **more)
    return bool(moved)


def next_group(transaction: Transaction, campaign: Campaign, group_at: int) -> bool:
    """Go on from a group that was observed to the one behind it, which begins at this time."""
    return bool(
        transaction.execute(
            "UPDATE campaign SET phase = ?, group_no = group_no + 1, group_at = ?, observed_from = NULL"
            f" WHERE no = ? AND {_RUNNING} AND phase = ? AND group_no = ?",
            (Phase.SENDING, group_at, campaign.no, Phase.OBSERVING, campaign.group_no),
        ).rowcount
    )


def complete(transaction: Transaction, campaign: Campaign, reason: str | None, now_ms: int) -> bool:
    """End a campaign whose last group was observed."""
    moved = transaction.execute(
        f"UPDATE campaign SET state = ?, reason = ?, ended_at = ?, cleared = 0 WHERE no = ? AND {_RUNNING}"
        " AND phase = ? AND group_no = ?",
        (CampaignState.COMPLETED, reason, now_ms, campaign.no, Phase.OBSERVING, campaign.group_no),
    ).rowcount
    if moved:
        log_campaign(transaction, "completed", now_ms, campaign.app_no, campaign.id, campaign.name, reason=reason)
    return bool(moved)


# -- commands ----------------------------------------------------------------------------------------------------------


def pause(transaction: Transaction, campaign: Campaign, reason: str, by: str, now_ms: int) -> bool:
    """Pause a campaign that runs. `by`: the id of a key, or `condition`."""
    moved = transaction.execute(
        f"UPDATE campaign SET state = ?, reason = ?, paused_at = ? WHERE no = ? AND {_RUNNING}",
        (CampaignState.PAUSED, reason, now_ms, campaign.no),
    ).rowcount
    if moved:
        more = {"reason": reason, "by": by}
        log_campaign(transaction, "paused", now_ms, campaign.app_no, campaign.id, campaign.name, **more)
    return bool(moved)


def resume(
    transaction: Transaction,
    campaign: Campaign,
    overruled: Mapping[str, int],
    by: str,
    now_ms: int,
    *,
    is_observed: bool,
) -> bool:
    """Have a paused campaign go on: what is observed, from now on. `is_observed`: that is not necessary any more."""
    moved = transaction.execute(
        "UPDATE campaign SET state = ?1, reason = NULL, paused_at = NULL, overruled = ?2,"
        " group_at = iif(phase = ?4, ?3, group_at), observed_from = iif(phase = ?4, ?3, observed_from)"
        " WHERE no = ?5 AND state = ?6",
        (
            CampaignState.RUNNING,
            json.dumps(dict(overruled)),
            now_ms,
            Phase.OBSERVING,
            campaign.no,
            CampaignState.PAUSED,
        ),
    ).rowcount
    if moved:
        log_campaign(transaction, "resumed", now_ms, campaign.app_no, campaign.id, campaign.name, by=by)
        if is_observed:
            next_group(transaction, campaign, now_ms)
    return bool(moved)


def approve(transaction: Transaction, campaign: Campaign, by: str, now_ms: int) -> bool:
    """Have a campaign that waits for another key start."""
    moved = transaction.execute(
        "UPDATE campaign SET state = ?, approved_by = ? WHERE no = ? AND state = ?",
        (CampaignState.RUNNING, by, campaign.no, CampaignState.AWAITING_APPROVAL),
    ).rowcount
    if moved:
        log_campaign(transaction, "approved", now_ms, campaign.app_no, campaign.id, campaign.name, by=by)
    return bool(moved)


def abort(transaction: Transaction, campaign: Campaign, reason: str, by: str, now_ms: int) -> bool:
    """End a campaign that has not ended; what waits of it is to be recalled. `by`: as of `pause`."""
    moved = transaction.execute(
        "UPDATE campaign SET state = ?, reason = ?, ended_at = ?, cleared = 0 WHERE no = ? AND ended_at IS NULL",
        (CampaignState.ABORTED, reason, now_ms, campaign.no),
    ).rowcount
    if moved:
        more = {"reason": reason, "by": by}
        log_campaign(transaction, "aborted", now_ms, campaign.app_no, campaign.id, campaign.name, **more)
    return bool(moved)


# -- parts that were sent: reader thread -------------------------------------------------------------------------------


class Part(NamedTuple):
    """A part that was sent."""

    group_no: int
    variant_no: int
    push_no: int
    push_id: str
    sent_at: int
    recalled: int
    failed: int | None
    """Results with an error when the campaign had ended."""
    is_final: int
    """Whether its deliveries have left, and only counts remain."""
    rows: int
    """Deliveries that have to be counted one by one."""


def parts_of(transaction: Transaction, campaign_no: int) -> list[Part]:
    """The parts of a campaign that were sent, in order; those whose push is no longer known are left out."""
    rows = transaction.execute(
        "SELECT p.group_no, p.variant_no, p.push_no, t.id, t.accepted_at, p.recalled, p.failed,"
        " t.final_counts IS NOT NULL, iif(t.in_sets OR t.final_counts IS NOT NULL, 0, t.targeted)"
        " FROM campaign_part AS p"
        " JOIN push AS t ON t.no = p.push_no AND t.gone_at IS NULL WHERE p.campaign_no = ?"
        " ORDER BY p.group_no, p.variant_no",
        (campaign_no,),
    )
    return [Part._make(row) for row in rows.fetchall()]


def count_failed_behind(transaction: Transaction, push_no: int, after: int, limit: int) -> tuple[int, int | None]:
    """Count errors among the next `limit` deliveries of a push behind a device.

    With the last of those, if there may be more.
    """
    # LIKE first: it is quicker than to read what is no object, or has no error.
    count, rows, last = transaction.execute(
        f"SELECT count(*) FILTER (WHERE state = {DeliveryState.ACTED:d} AND result LIKE '%\"error\"%'"
        " AND result ->> '$.error' IS NOT NULL), count(*), max(device_no) FROM (SELECT device_no, state, result"
        " FROM delivery WHERE push_no = ? AND device_no > ? ORDER BY device_no LIMIT ?)",
        (push_no, after, limit),
    ).fetchone()
    return count, last if rows == limit else None


# -- what has ended ----------------------------------------------------------------------------------------------------


def part_to_recall(transaction: Transaction, campaign_no: int) -> tuple[int, str] | None:
    """The next push (number, id) of an aborted campaign that was not recalled. Any thread."""
    row = transaction.execute(
        "SELECT p.push_no, t.id FROM campaign_part AS p JOIN push AS t ON t.no = p.push_no"
        " WHERE p.campaign_no = ? AND NOT p.recalled ORDER BY p.group_no DESC, p.variant_no LIMIT 1",
        (campaign_no,),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def note_recalled(transaction: Transaction, push_no: int) -> None:
    transaction.execute("UPDATE campaign_part SET recalled = 1 WHERE push_no = ?", (push_no,))


def note_failed(transaction: Transaction, failed: Mapping[int, int]) -> None:
    """Note how many results of each push had an error."""
    transaction.executemany(
        "UPDATE campaign_part SET failed = ? WHERE push_no = ?", [(count, no) for no, count in failed.items()]
    )


def note_cleared(transaction: Transaction, campaign_no: int) -> None:
    transaction.execute("UPDATE campaign SET cleared = 1 WHERE no = ?", (campaign_no,))


def remove_ended(transaction: Transaction, app_no: int, keep: int) -> int:
    """Remove the campaign of an app that has ended first, if there are `keep` others or more; how many."""
    (count,) = transaction.execute("SELECT count(*) FROM campaign WHERE app_no = ?", (app_no,)).fetchone()
    if count <= keep:
        return 0
    row = transaction.execute(
        "SELECT no FROM campaign WHERE app_no = ? AND ended_at IS NOT NULL AND cleared ORDER BY ended_at LIMIT 1",
        (app_no,),
    ).fetchone()
    return 0 if row is None else _remove(transaction, row[0])


def remove_ended_before(transaction: Transaction, before: int) -> int:
    """Remove one campaign that had ended by then; how many."""
    row = transaction.execute(
        "SELECT no FROM campaign INDEXED BY campaign_ended WHERE ended_at <= ? AND cleared ORDER BY ended_at LIMIT 1",
        (before,),
    ).fetchone()
    return 0 if row is None else _remove(transaction, row[0])


def _remove(transaction: Transaction, campaign_no: int) -> int:
    for table, column in (("campaign_set", "campaign_no"), ("campaign_part", "campaign_no"), ("campaign", "no")):
        transaction.execute(f"DELETE FROM {table} WHERE {column} = ?", (campaign_no,))
    return 1
