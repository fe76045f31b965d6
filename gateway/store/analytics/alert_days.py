"""Days of alerts: how many alerts each device had on a day, and what its person did about them, as sets of devices.

Statements of `fatigue`, for the writer's thread and the readers'. A *day* is one of UTC. What happened is followed in
the event log, behind whoever writes it: a push costs nothing more for being counted here. `alert_day` has a row for
each app, segment of devices, day, channel and measure; when a day is over, `fatigue_day` gets its sums by *bucket*:
devices together that had about as many alerts in the seven days up to its end. The rows of a day are needed for
RECENT_DAYS.

A device counts on a day, as a *device-day*, if it is there at its end, had an alert in the last RECENT_DAYS and its
person had not opted out before the day. So who has not heard of the app for two weeks is no sign of patience, and who
has left cannot leave again.

Cost, of a reader in the background: 30 pushes to 90,000 devices each and 20,000 reactions are followed in 0.3 s, and a
segment with fifty tags is summed up in 7 ms. The writer stores sets as they are.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pyroaring import BitMap

from gateway.store.analytics.alert_counts import SEGMENT_SIZE, DeviceCounts, unstack
from gateway.store.analytics.funnels import DAY_MS, MAX_TAGS, time_step
from gateway.store.audience.device_sets import ALL_TAG, SEGMENT_BITS, largest_tags, pack, segments_of, unpack
from gateway.store.audience.preferences import MAX_CHANNELS, choices_of
from gateway.store.numbers import last_number
from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

BUCKETS = (0, 2, 4, 8, 15, 29)
"""First number of alerts within seven days of each bucket: 0-1, 2-3, 4-7, 8-14, 15-28, 29 and more. Their ends are a
week's alerts at one, two and four a day, and below that half and a quarter of one; each doubling is about what people
tell apart."""
WEEK_DAYS = 7
RECENT_DAYS = 14
"""Days for which somebody counts who had no alert since."""
READ_ENTRIES = 2_000
"""Numbers of the event log that one read looks at, about 10 ms of a reader."""
READ_DEVICES = 200_000
"""Devices of entries that one read counts."""
READ_KEYS = 50
"""Segments of a channel's day that one read touches: three rows each, of 8 KiB for each digit of what was counted."""
TIME_STEPS = 160
"""Steps of times to open: the last is more than a year."""
NO_CHANNEL = ""
CONSENT = ""
"""Stands for a channel in what was opted out of: all of them."""
COUNTED_EVENTS = ("delivery.delivered", "delivery.dismissed", "delivery.opened", "delivery.acted")


def bucket_name(bucket: int) -> str:
    """The name of a bucket: `0-1`, `29+`."""
    first = BUCKETS[bucket]
    return f"{first}-{BUCKETS[bucket + 1] - 1}" if bucket + 1 < len(BUCKETS) else f"{first}+"


def bucket_of(alerts: int) -> int:
    """The bucket of a number of alerts within seven days."""
    return max(bucket for bucket, first in enumerate(BUCKETS) if alerts >= first)


class DayKey(NamedTuple):
    """A segment of a channel's day."""

    app_no: int
    segment: int
    day: int
    channel: str


@dataclass(slots=True)
class DayCounts:
    """Counts of a segment on a day: by place in the segment."""

    alerts: DeviceCounts = field(default_factory=DeviceCounts)
    opened: DeviceCounts = field(default_factory=DeviceCounts)
    dismissed: DeviceCounts = field(default_factory=DeviceCounts)
    times: BitMap = field(default_factory=BitMap)
    """Devices that opened something, by the step of the time that it took, stacked."""

    def add(self, other: DayCounts) -> None:
        self.alerts.add(other.alerts)
        self.opened.add(other.opened)
        self.dismissed.add(other.dismissed)
        self.times |= other.times


class FollowedEvents(NamedTuple):
    """Rows that one read of the event log has added to."""

    rows: list[tuple[int, int, int, str, str, bytes]]
    """Rows of `alert_day`, as they will be."""
    reached: int
    """Number of the last entry that was looked at."""
    last_day: int | None
    """The day of the last that was counted; None: nothing was."""
    more: bool


# -- following the event log -------------------------------------------------------------------------------------------


def follow_events(transaction: Transaction, after: int, horizon: int | None = None) -> FollowedEvents:
    """Read the next entries of the event log, and add them to the days' rows. Reader thread, one at a time. `horizon`:
    up to this entry, where several nodes write.

    Only `store_followed` writes those rows, so they are still the same when it does.
    """
    end = last_number(transaction, "event") if horizon is None else horizon
    last = min(after + READ_ENTRIES, end)
    rows = transaction.execute(
        "SELECT e.no, e.app_no, e.at, e.type, coalesce(p.channel, ''), p.accepted_at, p.no, e.devices, o.devices"
        " FROM event AS e CROSS JOIN push AS p ON p.no = e.push_no LEFT JOIN outcome_set AS o ON o.no = e.outcome_no"
        " WHERE e.no > ? AND e.no <= ? AND e.type IN (SELECT value FROM json_each(?)) AND p.kind = 'alert'"
        " AND p.app_no > 0 ORDER BY e.no",
        (after, last, json.dumps(COUNTED_EVENTS)),
    )
    found: dict[DayKey, DayCounts] = {}
    single: dict[tuple[DayKey, str], Counter[int]] = defaultdict(Counter)
    known: dict[tuple[int, int, int], set[str]] = {}
    room = READ_DEVICES
    last_day: int | None = None
    for no, app_no, at, event, channel, accepted_at, push_no, listed, outcome in rows:
        if room <= 0 or len(found) >= READ_KEYS:
            last = no - 1
            break
        if outcome is None and listed is None:
            continue  # its set has left: the push ended long ago
        devices = unpack(outcome) if outcome is not None else BitMap(json.loads(listed))
        event = event.removeprefix("delivery.")
        last_day = at // DAY_MS
        room -= len(devices)
        if event in ("opened", "acted"):
            devices = _opened_first(transaction, push_no, event, devices)
        for segment, here in segments_of(devices):
            places = here.shift(-(segment << SEGMENT_BITS))
            channels = known.get((app_no, segment, last_day))
            if channels is None:
                channels = known[app_no, segment, last_day] = _known_channels(transaction, app_no, segment, last_day)
            counted_as = channel if channel in channels or len(channels) < MAX_CHANNELS else NO_CHANNEL
            channels.add(counted_as)
            key = DayKey(app_no, segment, last_day, counted_as)
            counts = found.setdefault(key, DayCounts())
            measure = {"delivered": "alerts", "dismissed": "dismissed"}.get(event, "opened")
            if len(places) == 1:
                single[key, measure][places[0]] += 1
            else:
                getattr(counts, measure).add_one(places)
            if measure == "opened":
                step = min(time_step(at - accepted_at), TIME_STEPS - 1)
                counts.times |= places.shift(step << SEGMENT_BITS)
    rows.close()
    for (key, measure), added in single.items():
        getattr(found[key], measure).add_each(added)
    return FollowedEvents(list(_merged(transaction, found)), last, last_day, last < end)


def _opened_first(transaction: Transaction, push_no: int, event: str, devices: BitMap) -> BitMap:
    """Leave out devices that this event is not the first opening of: what was acted on counts as opened, once."""
    earlier = (
        "acted_at IS NOT NULL AND acted_at < opened_at"
        if event == "opened"
        else "opened_at IS NOT NULL AND opened_at <= acted_at"
    )
    (twice,) = transaction.execute(
        "SELECT json_group_array(d.device_no) FROM json_each(?) AS x CROSS JOIN delivery AS d"
        f" ON d.push_no = ? AND d.device_no = x.value WHERE {earlier}",
        (json.dumps(list(devices)), push_no),
    ).fetchone()
    return devices - BitMap(json.loads(twice))


def _known_channels(transaction: Transaction, app_no: int, segment: int, day: int) -> set[str]:
    return {
        channel
        for (channel,) in transaction.execute(
            "SELECT channel FROM alert_day WHERE app_no = ? AND segment = ? AND day = ? AND measure = 'alerts'",
            (app_no, segment, day),
        )
    }


def _merged(
    transaction: Transaction, found: Mapping[DayKey, DayCounts]
) -> Iterator[tuple[int, int, int, str, str, bytes]]:
    for key, added in found.items():
        stored = dict(
            transaction.execute(
                "SELECT measure, devices FROM alert_day"
                " WHERE app_no = ? AND segment = ? AND day = ? AND channel = ? AND measure <> 'opted_out'",
                key,
            ).fetchall()
        )
        added.add(_day_counts(stored))
        for measure in ("alerts", "opened", "dismissed"):
            counts: DeviceCounts = getattr(added, measure)
            if counts.counted():
                yield (*key, measure, counts.to_blob())
        if added.times:
            yield (*key, "times", pack(added.times))


def _day_counts(stored: Mapping[str, bytes]) -> DayCounts:
    counts = {
        measure: DeviceCounts.from_blob(stored[measure]) if measure in stored else DeviceCounts()
        for measure in ("alerts", "opened", "dismissed")
    }
    return DayCounts(**counts, times=unpack(stored["times"]) if "times" in stored else BitMap())


def store_followed(transaction: Transaction, followed: FollowedEvents) -> None:
    """Store what was added together with how far the log was read, so that nothing counts twice. Writer thread."""
    _store_rows(transaction, followed.rows)
    transaction.execute("UPDATE fatigue_position SET event_no = ? WHERE no = 1", (followed.reached,))


def _store_rows(transaction: Transaction, rows: Iterable[tuple[int, int, int, str, str, bytes]]) -> None:
    insert_rows(
        transaction,
        "alert_day",
        "app_no, segment, day, channel, measure, devices",
        list(rows),
        "(app_no, segment, day, channel, measure) DO UPDATE SET devices = excluded.devices",
    )


def note_opt_out(
    transaction: Transaction, app_no: int, device_no: int, denied: bool, muted: Iterable[str], now_ms: int
) -> None:
    """Note that a person has denied consent or muted channels today. Writer thread.

    Of a day and a segment as many channels are noted as an app may have.
    """
    segment, place, day = device_no >> SEGMENT_BITS, device_no & (SEGMENT_SIZE - 1), now_ms // DAY_MS
    left = [CONSENT] * denied + list(muted)
    stored = dict(
        transaction.execute(
            # The sets of other channels are not read: they have 8 KiB each.
            "SELECT channel, iif(channel IN (SELECT value FROM json_each(?)), devices, NULL) FROM alert_day"
            " WHERE app_no = ? AND segment = ? AND day = ? AND measure = 'opted_out'",
            (json.dumps(left), app_no, segment, day),
        ).fetchall()
    )
    rows: list[tuple[int, int, int, str, str, bytes]] = []
    for channel in left:
        if channel in stored or len(stored) + len(rows) <= MAX_CHANNELS:  # one more: consent
            devices = unpack(stored[channel]) if channel in stored else BitMap()
            devices.add(place)
            rows.append((app_no, segment, day, channel, "opted_out", pack(devices)))
    _store_rows(transaction, rows)


# -- the sums of a day -------------------------------------------------------------------------------------------------

Tallies = dict[tuple[str, str], list[Counter[str]]]
"""Sums by dimension (`all`, `channel`, `tag`) and key: a counter for each bucket, of `device_days`, `alerts`, `opened`,
`dismissed`, `opted_out`, and `o<step>` for times to open."""


def new_tally() -> list[Counter[str]]:
    return [Counter() for _ in BUCKETS]


def next_segment(transaction: Transaction, app_no: int, after: int) -> tuple[int, int] | None:
    """The next (app, segment) that something is known of, behind this one."""
    row: tuple[int, int] | None = transaction.execute(
        "SELECT app_no, segment FROM alert_day WHERE (app_no, segment) > (?, ?) ORDER BY app_no, segment LIMIT 1",
        (app_no, after),
    ).fetchone()
    return row


def count_segment(transaction: Transaction, app_no: int, segment: int, day: int) -> Tallies:
    """Sum up a day of an app's segment, by bucket. Reader thread.

    In memory are the days of one channel at a time, and those of all together.
    """
    opted_out: dict[str, BitMap] = {}
    later: dict[str, BitMap] = defaultdict(BitMap)
    for of_day, channel, blob in transaction.execute(
        "SELECT day, channel, devices FROM alert_day"
        " WHERE app_no = ? AND segment = ? AND day >= ? AND measure = 'opted_out'",
        (app_no, segment, day),
    ):
        later[channel] |= unpack(blob)
        if of_day == day:
            opted_out[channel] = unpack(blob)
    denied, muted = _opted_out_before(transaction, app_no, segment)
    consent = opted_out.pop(CONSENT, BitMap())
    live = _places(transaction, app_no, segment) - (denied - later[CONSENT])
    every_day: dict[int, DayCounts] = defaultdict(DayCounts)
    tallies: Tallies = {}
    for channel in _channels_with_alerts(transaction, app_no, segment, day):
        of_channel = _days_of_channel(transaction, app_no, segment, day, channel)
        for of_day, counts in of_channel.items():
            every_day[of_day].add(counts)
        left = opted_out.get(channel, BitMap())
        here = live - (muted.get(channel, BitMap()) - later[channel])
        tallies["channel", channel] = _count_buckets(_buckets(of_channel, day, here), of_channel, day, left | consent)
    left = BitMap.union(consent, *opted_out.values())
    buckets = _buckets(every_day, day, live)
    tallies["all", ""] = _count_buckets(buckets, every_day, day, left)
    among = BitMap.union(*buckets)
    first = segment << SEGMENT_BITS
    for tag, devices in largest_tags(transaction, app_no, segment, among.shift(first), MAX_TAGS).items():
        places = devices.shift(-first)
        tallies["tag", tag] = _count_buckets([bucket & places for bucket in buckets], every_day, day, left)
    return tallies


def _channels_with_alerts(transaction: Transaction, app_no: int, segment: int, day: int) -> list[str]:
    """The channels of which a segment has had alerts in the RECENT_DAYS up to a day."""
    rows = transaction.execute(
        "SELECT DISTINCT channel FROM alert_day WHERE app_no = ? AND segment = ? AND day > ? AND day <= ?"
        " AND measure <> 'opted_out'",
        (app_no, segment, day - RECENT_DAYS, day),
    )
    return [channel for (channel,) in rows.fetchall()]


def _days_of_channel(
    transaction: Transaction, app_no: int, segment: int, day: int, channel: str
) -> dict[int, DayCounts]:
    """The counts of a channel in the RECENT_DAYS up to a day; of the days before that one the alerts alone."""
    blobs: dict[int, dict[str, bytes]] = defaultdict(dict)
    days = json.dumps(list(range(day - RECENT_DAYS + 1, day + 1)))
    for of_day, measure, blob in transaction.execute(
        "SELECT d.day, d.measure, d.devices FROM json_each(?) AS x CROSS JOIN alert_day AS d"
        " ON d.app_no = ? AND d.segment = ? AND d.day = x.value AND d.channel = ?"
        " AND (d.measure = 'alerts' OR (d.day = ? AND d.measure <> 'opted_out'))",
        (days, app_no, segment, channel, day),
    ):
        blobs[of_day][measure] = blob
    return {of_day: _day_counts(stored) for of_day, stored in blobs.items()}


def _places(transaction: Transaction, app_no: int, segment: int) -> BitMap:
    row = transaction.execute(
        "SELECT devices FROM device_set WHERE app_no = ? AND tag = ? AND segment = ?", (app_no, ALL_TAG, segment)
    ).fetchone()
    return BitMap() if row is None else unpack(row[0]).shift(-(segment << SEGMENT_BITS))


def _opted_out_before(transaction: Transaction, app_no: int, segment: int) -> tuple[BitMap, dict[str, BitMap]]:
    """The places of devices whose person denies consent, and of those who have muted a channel, now."""
    first = segment << SEGMENT_BITS
    denied: list[int] = []
    muted: dict[str, list[int]] = defaultdict(list)
    for device_no, consent, choices in transaction.execute(
        "SELECT no, consent, channels FROM device INDEXED BY device_restricted"
        " WHERE app_no = ? AND no >= ? AND no < ? AND (consent = 'denied' OR channels <> '{}')",
        (app_no, first, first + SEGMENT_SIZE),
    ):
        if consent == "denied":
            denied.append(device_no - first)
        for channel, wanted in choices_of(choices).items():
            if not wanted:
                muted[channel].append(device_no - first)
    return BitMap(denied), {channel: BitMap(places) for channel, places in muted.items()}


def _buckets(days: Mapping[int, DayCounts], day: int, here: BitMap) -> list[BitMap]:
    """Divide the devices that count on a day by their alerts in the seven days up to its end."""
    week = DeviceCounts()
    recent = BitMap()
    for of_day, counts in days.items():
        recent |= counts.alerts.counted()
        if of_day > day - WEEK_DAYS:
            week.add(counts.alerts)
    above = [recent & here, *(week.at_least(first, recent & here) for first in BUCKETS[1:]), BitMap()]
    return [above[bucket] - above[bucket + 1] for bucket in range(len(BUCKETS))]


def _count_buckets(
    buckets: Iterable[BitMap], days: Mapping[int, DayCounts], day: int, opted_out: BitMap
) -> list[Counter[str]]:
    counts = days.get(day)
    steps = [*unstack(counts.times, TIME_STEPS)] if counts is not None and counts.times else []
    tallies = []
    for devices in buckets:
        tally: Counter[str] = Counter(device_days=len(devices), opted_out=devices.intersection_cardinality(opted_out))
        if counts is not None and devices:
            tally["alerts"] = counts.alerts.total(devices)
            tally["opened"] = counts.opened.total(devices)
            tally["dismissed"] = counts.dismissed.total(devices)
            for step, places in enumerate(steps):
                if places and (opened := places.intersection_cardinality(devices)):
                    tally[f"o{step}"] = opened
        tallies.append(tally)
    return tallies


def add_tallies(tallies: Tallies, more: Tallies) -> None:
    """Add sums to others of the same app; beyond twice MAX_TAGS, the tags with fewest device-days leave."""
    for key, buckets in more.items():
        for tally, added in zip(tallies.setdefault(key, new_tally()), buckets, strict=True):
            tally.update(added)
    tags = [key for key in tallies if key[0] == "tag"]
    if len(tags) > 2 * MAX_TAGS:
        for key in sorted(tags, key=lambda key: -_device_days(tallies[key]))[MAX_TAGS:]:
            del tallies[key]


def _device_days(buckets: Iterable[Counter[str]]) -> int:
    return sum(tally["device_days"] for tally in buckets)


def store_day(transaction: Transaction, app_no: int, day: int, tallies: Tallies) -> None:
    """Store the sums of an app's day; it may have been done before. Writer thread."""
    tags = sorted((key for key in tallies if key[0] == "tag"), key=lambda key: -_device_days(tallies[key]))
    rows = [
        (app_no, *key, day, json.dumps([{name: count for name, count in tally.items() if count} for tally in buckets]))
        for key, buckets in tallies.items()
        if key not in tags[MAX_TAGS:] and _device_days(buckets)
    ]
    insert_rows(
        transaction,
        "fatigue_day",
        "app_no, dimension, key, day, content",
        rows,
        "(app_no, dimension, key, day) DO UPDATE SET content = excluded.content",
    )


def has_alerts(transaction: Transaction) -> bool:
    """Whether anything is known of the last days. Reader thread."""
    return bool(transaction.execute("SELECT EXISTS (SELECT 1 FROM alert_day)").fetchone()[0])


def close_day(transaction: Transaction, day: int) -> None:
    """Note that a day has been summed up for all apps. Writer thread."""
    transaction.execute("UPDATE fatigue_position SET closed_day = ? WHERE no = 1", (day,))


REMOVED_ROWS = 200
"""Rows of up to 64 KiB that one operation removes."""


def remove_days(transaction: Transaction, before: int) -> int:
    """Remove some rows of days that are needed no more; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM alert_day WHERE rowid IN (SELECT rowid FROM alert_day WHERE day < ? LIMIT ?)",
        (before, REMOVED_ROWS),
    ).rowcount


def remove_day_counts(transaction: Transaction, before: int, count: int) -> int:
    """Remove up to `count` counts of days before this one; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM fatigue_day WHERE (app_no, dimension, key, day) IN"
        " (SELECT app_no, dimension, key, day FROM fatigue_day WHERE day < ? LIMIT ?)",
        (before, count),
    ).rowcount


class FatiguePosition(NamedTuple):
    """Position of the event log and of days up to which everything has been counted."""

    event_no: int
    closed_day: int


def first_position(transaction: Transaction, today: int) -> FatiguePosition:
    """The position that was stored, or a first one: the log from its beginning, and days from its first. Writer
    thread."""
    transaction.execute(
        "INSERT OR IGNORE INTO fatigue_position (no, event_no, closed_day)"
        " VALUES (1, 0, coalesce((SELECT at / ? FROM event ORDER BY no LIMIT 1), ?) - 1)",
        (DAY_MS, today),
    )
    row = transaction.execute("SELECT event_no, closed_day FROM fatigue_position WHERE no = 1").fetchone()
    return FatiguePosition(*row)


def stored_position(transaction: Transaction) -> FatiguePosition | None:
    """The position that is stored; None before the first. A single statement."""
    row = transaction.execute("SELECT event_no, closed_day FROM fatigue_position WHERE no = 1").fetchone()
    return None if row is None else FatiguePosition(*row)


def read_days(
    transaction: Transaction, app_no: int, dimension: str, key: str, first: int, last: int
) -> list[Counter[str]]:
    """The sums of days together, by bucket. Reader thread."""
    total = new_tally()
    for (content,) in transaction.execute(
        "SELECT content FROM fatigue_day WHERE app_no = ? AND dimension = ? AND key = ? AND day BETWEEN ? AND ?",
        (app_no, dimension, key, first, last),
    ):
        for tally, added in zip(total, json.loads(content), strict=True):
            tally.update(added)
    return total
