"""Funnels: counts of pushes in the database, by push and by hour of a channel, tag and app.

Statements of `analytics`, for the writer's thread and the readers'. What a push counted before is kept with it
(`push_funnel`), so that the difference can be added to the hours (`funnel`).
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pyroaring import BitMap

from gateway.delivery_states import SHOWN, DeliveryState
from gateway.store.audience.device_sets import SEGMENT_BITS, largest_tags, whole_segment
from gateway.store.deliveries.delivery_sets import (
    delivered_times,
    device_of_row,
    listed,
    outcomes_of,
    rows_by_state,
    segments_with_rows,
    waiting_of,
)
from gateway.store.numbers import last_number
from gateway.store.transaction import Transaction

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
WRITER_DELIVERIES = 1_000
"""Deliveries of those: with 64 tags of each device about 25 ms, with a few about 2."""
PART_DELIVERIES = 5_000
"""Deliveries of a part of a larger push."""
MAX_TAGS = 500
"""Tags that are counted of a push, those with most of its deliveries; and in an hour of an app, the first that there
are. The writer stores them all each time that a push is counted, in about 10 ms."""
SAMPLE_DELIVERIES = 10_000
"""Deliveries of a push whose times are looked at one by one."""
PART_ROWS = 2_000
"""Rows of hours that are added up in one read, and those of the hour it has begun with: up to 80 ms."""
PART_HOURS = 1_000
"""Hours that one read looks at, though there may be nothing in them."""
KEPT_TAGS = 2_000
"""Tags whose sums are kept while hours are added up, about 5 MB: each hour may have 500 others."""
STEP = math.log(1.2)
LAST_DEVICE = 2**53
RECOUNTED_PUSHES = 10_000
"""Newest pushes that a restart counts anew when it does not know what had changed: after an upgrade, or when events
left that had not been counted."""

Tally = Counter[str]
"""Stages; `d<step>` and `o<step>` for the times to deliver and to open; `opted_out`; and `shown`, `acted_on`: what was
delivered and acted of what people see."""


class CountedTo(NamedTuple):
    """Position of log and pushes up to which everything has been counted."""

    event_no: int
    push_no: int


def position(transaction: Transaction) -> CountedTo:
    return CountedTo(last_number(transaction, "event"), last_number(transaction, "push"))


def store_position(transaction: Transaction, reached: CountedTo, later: Iterable[int]) -> None:
    """Store that everything is counted up to here, but for the pushes that are counted `later`. Writer thread."""
    transaction.execute(
        "INSERT OR REPLACE INTO analytics_position (no, event_no, push_no, later) VALUES (1, ?, ?, ?)",
        (*reached, json.dumps(sorted(later))),
    )


def changed_pushes(transaction: Transaction, after: CountedTo, to: CountedTo) -> set[int]:
    """The pushes that are new, or of which something is, behind one position and up to another. Reader thread."""
    numbers = {no for (no,) in transaction.execute("SELECT no FROM push WHERE no > ? AND no <= ?", (after[1], to[1]))}
    rows = transaction.execute(
        "SELECT DISTINCT push_no FROM event WHERE no > ? AND no <= ? AND push_no IS NOT NULL", (after[0], to[0])
    )
    return numbers.union(no for (no,) in rows)


def uncounted_pushes(transaction: Transaction) -> tuple[set[int], bool]:
    """Find the pushes of which something may not have been counted; False if some of them may be missing."""
    numbers: set[int] = set()
    row = transaction.execute("SELECT event_no, push_no, later FROM analytics_position").fetchone()
    if row is not None:
        event_no, push_no, later = row
        numbers.update(json.loads(later))
        numbers.update(no for (no,) in transaction.execute("SELECT no FROM push WHERE no > ?", (push_no,)))
        numbers.update(
            no
            for (no,) in transaction.execute(
                "SELECT DISTINCT push_no FROM event WHERE no > ? AND push_no IS NOT NULL", (event_no,)
            )
        )
        (lost_to,) = transaction.execute("SELECT coalesce(max(events_lost_to), 0) FROM application").fetchone()
        if lost_to <= event_no:
            return numbers, True
    numbers.update(
        no
        for (no,) in transaction.execute(
            "SELECT no FROM push WHERE no > coalesce((SELECT max(push_no) FROM push_funnel), 0) - ?1"
            " ORDER BY no DESC LIMIT ?1 * 11",
            (RECOUNTED_PUSHES,),
        )
    )
    return numbers, row is None and not numbers


class Uncounted(NamedTuple):
    """Pushes that were not counted."""

    left: list[int]
    """Pushes that there was no time for."""
    large: list[int]
    """Pushes with more than WRITER_DELIVERIES."""


def count_rows(transaction: Transaction, push_nos: list[int]) -> Uncounted:
    """Count these pushes anew and add the difference to their hours. Writer thread."""
    listed: dict[int, OpenPush] = {}
    rest = Uncounted([], [])
    size = 0
    for push_no, push in open_pushes(transaction, push_nos).items():
        if push.targeted > WRITER_DELIVERIES:
            rest.large.append(push_no)
        elif size + push.targeted > WRITER_DELIVERIES:
            rest.left.append(push_no)
        else:
            size += push.targeted
            listed[push_no] = push
    if listed:
        tallies, by_tag = _counted(transaction, [no for no, push in listed.items() if not push.in_sets])
        for push_no, push in listed.items():
            if push.in_sets:
                tallies[push_no], by_tag[push_no] = Counter(), {}
                for segment in segments_with_rows(transaction, push_no):
                    add_segment(transaction, push_no, push, segment, tallies[push_no], by_tag[push_no])
        store_counts(transaction, listed, tallies, by_tag)
    return rest


class OpenPush(NamedTuple):
    """A push whose counts are not final."""

    app_no: int
    channel: str | None
    accepted_at: int
    targeted: int
    in_sets: int
    shown: bool
    """Whether people see it."""


def open_pushes(transaction: Transaction, push_nos: list[int]) -> dict[int, OpenPush]:
    """Find the pushes among these whose counts are not final."""
    rows = _rows(
        transaction,
        f"SELECT json_group_array(json_array(no, app_no, channel, accepted_at, targeted, in_sets, kind IN {SHOWN}))"
        " FROM push"
        " WHERE no IN (SELECT value FROM json_each(?)) AND final_counts IS NULL AND app_no > 0",  # beats are nobody's
        json.dumps(push_nos),
    )
    return {no: OpenPush(*rest) for no, *rest in rows}


def count_part(transaction: Transaction, push_no: int, after: int) -> tuple[Tally, dict[str, Tally], int | None]:
    """Count the deliveries of a push to the next PART_DELIVERIES devices behind a number.

    Answers the number of the last as well, if there may be more. Reader thread.
    """
    push = open_pushes(transaction, [push_no]).get(push_no)
    if push is not None and push.in_sets:  # a segment at a time
        tally: Tally = Counter()
        of_tags: dict[str, Tally] = {}
        segments = segments_with_rows(transaction, push_no, after >> SEGMENT_BITS if after else 0)
        if segments:
            add_segment(transaction, push_no, push, segments[0], tally, of_tags)
        return tally, of_tags, (segments[0] + 1) << SEGMENT_BITS if len(segments) > 1 else None
    last = device_of_row(transaction, push_no, after, PART_DELIVERIES)
    tallies, by_tag = _counted(transaction, [push_no], after, LAST_DEVICE if last is None else last)
    return tallies[push_no], by_tag[push_no], last


def store_counts(
    transaction: Transaction,
    pushes: dict[int, OpenPush],
    tallies: dict[int, Tally],
    by_tag: dict[int, dict[str, Tally]],
) -> None:
    """Store the counts of these pushes, and add the difference to their hours. Writer thread."""
    wanted = json.dumps(list(pushes))
    before: dict[int, Any] = dict(
        _rows(
            transaction,
            "SELECT json_group_array(json_array(push_no, json(content))) FROM push_funnel"
            " WHERE push_no IN (SELECT value FROM json_each(?))",
            wanted,
        )
    )
    added: dict[tuple[int, str, str, int], Tally] = defaultdict(Counter)
    for push_no, (app_no, channel, accepted_at, *_) in pushes.items():
        hour = accepted_at // HOUR_MS
        old = before.get(push_no, {"tally": {}, "tags": {}})
        tally = tallies[push_no]
        difference = _less(tally, old["tally"])
        added[app_no, "all", "", hour].update(difference)
        added[app_no, "channel", channel or "", hour].update(difference)
        for tag in by_tag[push_no].keys() | old["tags"].keys():
            added[app_no, "tag", tag, hour].update(_less(by_tag[push_no].get(tag, {}), old["tags"].get(tag, {})))
    counted = [[push_no, {"tally": tallies[push_no], "tags": by_tag[push_no]}] for push_no in pushes]
    transaction.execute(
        "INSERT OR REPLACE INTO push_funnel (push_no, content) SELECT value ->> 0, value -> 1 FROM json_each(?)",
        (json.dumps(counted),),
    )
    add_rows(transaction, added)


def _less(new: Mapping[str, int], old: Mapping[str, int]) -> dict[str, int]:
    found = {name: new.get(name, 0) - old.get(name, 0) for name in new.keys() | old.keys()}
    return {name: count for name, count in found.items() if count}


_WANTED = (
    "json_each(?1, '$[0]') AS wanted CROSS JOIN push AS p ON p.no = wanted.value CROSS JOIN delivery AS d"
    " ON d.push_no = p.no AND d.device_no > ?1 ->> 1 AND d.device_no <= ?1 ->> 2"
)


def _counted(
    transaction: Transaction, push_nos: list[int], after: int = 0, last: int = LAST_DEVICE
) -> tuple[dict[int, Tally], dict[int, dict[str, Tally]]]:
    """Count the deliveries to devices with numbers behind `after`, up to `last`."""
    wanted = json.dumps([push_nos, after, last])
    tallies: dict[int, Tally] = {push_no: Counter() for push_no in push_nos}
    by_tag: dict[int, dict[str, Tally]] = defaultdict(lambda: defaultdict(Counter))
    for push_no, kind, state, count in _rows(
        transaction,
        "SELECT json_group_array(json_array(no, kind, state, count)) FROM (SELECT p.no, p.kind, d.state,"
        f" count(*) AS count FROM {_WANTED} GROUP BY p.no, d.state)",
        wanted,
    ):
        _add_state(tallies[push_no], kind in SHOWN, state, count)
    for push_no, kind, tag, state, count in _rows(
        transaction,
        "WITH found AS MATERIALIZED (SELECT p.no, p.kind, t.tag, d.state, count(*) AS count"
        f" FROM {_WANTED} CROSS JOIN device_tag AS t ON t.device_no = d.device_no GROUP BY p.no, t.tag, d.state),"
        " ranked AS (SELECT no, tag, row_number() OVER (PARTITION BY no ORDER BY sum(count) DESC, tag) AS place"
        "  FROM found GROUP BY no, tag)"
        " SELECT json_group_array(json_array(no, kind, tag, state, count)) FROM found JOIN ranked USING (no, tag)"
        f" WHERE place <= {MAX_TAGS}",
        wanted,
    ):
        _add_state(by_tag[push_no][tag], kind in SHOWN, state, count)
    for push_no, delivered, opened in _rows(
        transaction,
        "SELECT json_group_array(json_array(no, json(delivered), json(opened))) FROM (SELECT p.no,"
        " json_group_array(d.delivered_at - p.accepted_at) FILTER (WHERE d.delivered_at IS NOT NULL) AS delivered,"
        " json_group_array(coalesce(d.opened_at, d.acted_at) - p.accepted_at)"
        f"  FILTER (WHERE p.kind IN {SHOWN} AND (d.opened_at IS NOT NULL OR d.acted_at IS NOT NULL)) AS opened"
        f" FROM {_WANTED} AND d.device_no % (1 + p.targeted / {SAMPLE_DELIVERIES}) = 0 GROUP BY p.no)",
        wanted,
    ):
        for prefix, times in (("d", delivered), ("o", opened)):
            for milliseconds in times:
                tallies[push_no][f"{prefix}{time_step(milliseconds)}"] += 1
    return tallies, by_tag


def add_segment(
    transaction: Transaction,
    push_no: int,
    push: OpenPush,
    segment: int,
    tally: Tally,
    by_tag: dict[str, Tally],
) -> None:
    """Count the deliveries of a push that was stored as sets, to the devices of one segment."""
    first, last = segment << SEGMENT_BITS, ((segment + 1) << SEGMENT_BITS) - 1
    states = rows_by_state(transaction, push_no, first, last)
    rows = BitMap.union(*states.values()) if states else BitMap()
    waiting = waiting_of(transaction, push_no, whole_segment(segment))
    states[DeliveryState.WAITING] = states.get(DeliveryState.WAITING, BitMap()) | waiting
    for outcome in outcomes_of(transaction, push_no, segment=segment):
        here = outcome.devices - rows
        states[outcome.state] = states.get(outcome.state, BitMap()) | here
        if outcome.state is DeliveryState.DELIVERED and here:
            tally[f"d{time_step(outcome.at - push.accepted_at)}"] += len(here)
    for state, devices in states.items():
        _add_state(tally, push.shown, state, len(devices))
    _add_times(transaction, push_no, push, first, last, tally)
    for tag, state, count in _tags_of_states(transaction, push.app_no, segment, states):
        _add_state(by_tag.setdefault(tag, Counter()), push.shown, state, count)


def _add_times(transaction: Transaction, push_no: int, push: OpenPush, first: int, last: int, tally: Tally) -> None:
    """Add the times that rows know; those of a sample count for all."""
    every = 1 + push.targeted // SAMPLE_DELIVERIES
    delivered, opened = transaction.execute(
        "SELECT json_group_array(delivered_at - ?1) FILTER (WHERE delivered_at IS NOT NULL),"
        " json_group_array(coalesce(opened_at, acted_at) - ?1)"
        "  FILTER (WHERE opened_at IS NOT NULL OR acted_at IS NOT NULL)"
        " FROM delivery WHERE push_no = ?2 AND device_no BETWEEN ?3 AND ?4 AND device_no % ?5 = 0",
        (push.accepted_at, push_no, first, last, every),
    ).fetchone()
    for prefix, times in (("d", json.loads(delivered)), ("o", json.loads(opened) if push.shown else ())):
        for milliseconds in times:
            tally[f"{prefix}{time_step(milliseconds)}"] += every


def _tags_of_states(
    transaction: Transaction, app_no: int, segment: int, states: Mapping[DeliveryState, BitMap]
) -> Iterator[tuple[str, DeliveryState, int]]:
    """Count devices by tag and state: (tag, state, devices) each, the MAX_TAGS tags with most of them."""
    members = BitMap.union(*states.values())
    if len(members) <= WRITER_DELIVERIES:
        tags: dict[str, BitMap] = {}
        for tag, device_no in transaction.execute(
            "SELECT t.tag, t.device_no FROM json_each(?) AS x CROSS JOIN device_tag AS t ON t.device_no = x.value",
            (listed(members),),
        ):
            tags.setdefault(tag, BitMap()).add(device_no)
    else:
        tags = largest_tags(transaction, app_no, segment, members, MAX_TAGS)
    for tag in sorted(tags, key=lambda tag: (-len(tags[tag]), tag))[:MAX_TAGS]:
        for state, devices in states.items():
            if count := devices.intersection_cardinality(tags[tag]):
                yield tag, state, count


def time_step(milliseconds: int) -> int:
    """The step of a histogram that a time belongs to."""
    return int(math.log(max(milliseconds, 0) + 1) / STEP)


def _add_state(tally: Tally, shown: bool, state: int, count: int) -> None:
    tally["targeted"] += count
    if state != DeliveryState.SUPPRESSED:
        tally["eligible"] += count
    if not DeliveryState.DELIVERED <= state <= DeliveryState.ACTED:
        return
    tally["delivered"] += count
    if state == DeliveryState.ACTED:
        tally["acted"] += count
    if not shown:
        return
    tally["shown"] += count
    for stage in ("displayed", "opened"):
        if state >= DeliveryState[stage.upper()]:
            tally[stage] += count
    if state == DeliveryState.DISMISSED:
        tally["dismissed"] += count
    if state == DeliveryState.ACTED:
        tally["acted_on"] += count


def add_rows(transaction: Transaction, added: Mapping[tuple[int, str, str, int], Mapping[str, int]]) -> None:
    """Add counts to hours: (app, dimension, key, hour since the epoch) -> counts. Writer thread."""
    wanted = [[*key, dict(tally)] for key, tally in _counted_tags(transaction, added) if tally]
    if not wanted:
        return
    totals: list[list[Any]] = []
    for app_no, dimension, name, hour, tally, before in _rows(
        transaction,
        "SELECT json_group_array(json_array(value ->> 0, value ->> 1, value ->> 2, value ->> 3, json(value -> 4),"
        " (SELECT json(f.content) FROM funnel AS f WHERE f.app_no = value ->> 0 AND f.dimension = value ->> 1"
        "  AND f.key = value ->> 2 AND f.hour = value ->> 3))) FROM json_each(?)",
        json.dumps(wanted),
    ):
        total: Tally = Counter(before or {})
        total.update(tally)
        totals.append([app_no, dimension, name, hour, {stage: count for stage, count in total.items() if count}])
    transaction.execute(
        "INSERT OR REPLACE INTO funnel (app_no, dimension, key, hour, content)"
        " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value -> 4 FROM json_each(?)",
        (json.dumps(totals),),
    )


def _counted_tags(
    transaction: Transaction, added: Mapping[tuple[int, str, str, int], Mapping[str, int]]
) -> Iterator[tuple[tuple[int, str, str, int], Mapping[str, int]]]:
    """Leave out tags that would be more than MAX_TAGS in their hour."""
    tags: dict[tuple[int, int], set[str]] = {}
    for key, tally in added.items():
        app_no, dimension, tag, hour = key
        if dimension == "tag":
            known = tags.get((app_no, hour))
            if known is None:
                known = tags[app_no, hour] = {
                    known_tag
                    for (known_tag,) in transaction.execute(
                        "SELECT key FROM funnel INDEXED BY funnel_age WHERE hour = ? AND app_no = ? AND dimension = ?",
                        (hour, app_no, "tag"),
                    )
                }
            if tag not in known:
                if len(known) >= MAX_TAGS:
                    continue
                known.add(tag)
        yield key, tally


def _rows(transaction: Transaction, sql: str, parameter: str) -> list[Any]:
    """Run a statement that answers one row of JSON, whatever it finds: each row is a pass of the interpreter lock."""
    (text,) = transaction.execute(sql, (parameter,)).fetchone()
    found: list[Any] = json.loads(text)
    return found


def known_hours(transaction: Transaction) -> tuple[int, int]:
    """The first hour that there may be something of, and the one after the last."""
    first, last = transaction.execute(
        "SELECT (SELECT min(hour) FROM funnel), (SELECT max(hour) FROM funnel)"
    ).fetchone()
    return (0, 0) if first is None else (first, last + 1)


class HoursPart(NamedTuple):
    """Hours that were added up."""

    tallies: dict[str, Tally]
    is_full: bool
    """An hour had as many keys as are counted."""
    first: int
    """The first of them."""


def add_up_hours(
    transaction: Transaction,
    app_no: int,
    dimension: str,
    first: int,
    before: int,
    name_of: Callable[[str, int], str],
) -> HoursPart:
    """Add up the last hours before one, back to `first`, as many as is good in one read. Reader thread.

    `name_of` has the key of a row and its hour, and says under what it counts.
    """
    tallies: dict[str, Tally] = defaultdict(Counter)
    rows, is_full, hour = 0, False, before
    while hour > first and rows < PART_ROWS and before - hour < PART_HOURS:
        hour -= 1
        keys, contents = transaction.execute(  # not parsed by SQLite as well: that took as long as the rest
            "SELECT json_group_array(key), '[' || coalesce(group_concat(content), '') || ']'"
            " FROM funnel INDEXED BY funnel_age WHERE hour = ? AND app_no = ? AND dimension = ?",
            (hour, app_no, dimension),
        ).fetchone()
        found = json.loads(keys)
        for key, tally in zip(found, json.loads(contents), strict=True):
            tallies[name_of(key, hour)].update(tally)
        rows += len(found)
        is_full = is_full or len(found) >= MAX_TAGS
    return HoursPart(tallies, is_full, hour)


def read_tally(transaction: Transaction, push_no: int) -> Tally | None:
    """The counts of a push, those who opted out after it included; None: none are kept. Reader thread."""
    row = transaction.execute("SELECT content FROM push_funnel WHERE push_no = ?", (push_no,)).fetchone()
    if row is None:
        return None
    tally: Tally = Counter(json.loads(row[0])["tally"])
    if "opted_out" not in tally:  # its deliveries are still there
        tally["opted_out"] = opted_out_after(transaction, push_no)
    return tally


def opted_out_after(transaction: Transaction, push_no: int) -> int:
    """Count the people who withdrew consent within a day of having been sent this push.

    Read from its deliveries, if they are few, else from the withdrawals since.
    """
    targeted, accepted_at, closed_at, in_sets = transaction.execute(
        "SELECT targeted, accepted_at, closed_at, in_sets FROM push WHERE no = ?", (push_no,)
    ).fetchone()
    within = "c.consent = 'denied' AND c.recorded_at BETWEEN d.delivered_at AND d.delivered_at + ?2"
    if targeted <= PART_DELIVERIES and not in_sets:
        rows = transaction.execute(
            "SELECT count(*) FROM delivery AS d WHERE d.push_no = ?1 AND EXISTS (SELECT 1 FROM consent_record AS c"
            f" INDEXED BY consent_record_of_device WHERE c.device_no = d.device_no AND {within})",
            (push_no, DAY_MS),
        )
        return int(rows.fetchone()[0])
    until = 2**53 if closed_at is None else closed_at + 2 * DAY_MS
    withdrawals: dict[int, list[int]] = defaultdict(list)
    for device_no, recorded_at in transaction.execute(
        "SELECT device_no, recorded_at FROM consent_record INDEXED BY consent_denied"
        " WHERE consent = 'denied' AND recorded_at BETWEEN ? AND ?",
        (accepted_at, until),
    ):
        withdrawals[device_no].append(recorded_at)
    delivered = delivered_times(transaction, push_no, BitMap(withdrawals)) if withdrawals else {}
    return sum(
        any(at <= recorded_at <= at + DAY_MS for recorded_at in withdrawals[device_no])
        for device_no, at in delivered.items()
    )


def finish_row(transaction: Transaction, push_no: int) -> None:
    """Keep what is read from a push's deliveries, which are about to be removed. Writer thread."""
    transaction.execute(
        "UPDATE push_funnel SET content = json_set(content, '$.tally.opted_out', ?) WHERE push_no = ?",
        (opted_out_after(transaction, push_no), push_no),
    )


def remove_tallies(transaction: Transaction, count: int) -> int:
    """Remove up to `count` tallies of pushes that are forgotten; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM push_funnel WHERE push_no IN (SELECT push_no FROM push_funnel"
        " WHERE push_no < coalesce((SELECT min(no) FROM push), 0) LIMIT ?)",
        (count,),
    ).rowcount


def remove_funnels(transaction: Transaction, before: int, count: int) -> int:
    """Remove up to `count` rows of hours before this one; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM funnel WHERE (app_no, dimension, key, hour) IN"
        " (SELECT app_no, dimension, key, hour FROM funnel WHERE hour < ? LIMIT ?)",
        (before, count),
    ).rowcount


def opted_out(
    transaction: Transaction, app_no: int, device_no: int, denied: bool, muted: Iterable[str], now_ms: int
) -> None:
    """Count in this hour that a person has denied consent, or muted channels. Writer thread."""
    hour = now_ms // HOUR_MS
    added: dict[tuple[int, str, str, int], Mapping[str, int]] = {
        (app_no, "channel", channel, hour): {"opted_out": 1} for channel in muted
    }
    if denied:
        added[app_no, "all", "", hour] = {"opted_out": 1}
        for (tag,) in transaction.execute("SELECT tag FROM device_tag WHERE device_no = ?", (device_no,)):
            added[app_no, "tag", tag, hour] = {"opted_out": 1}
    add_rows(transaction, added)
