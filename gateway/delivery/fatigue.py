"""Fatigue: what people do about alerts, by how many they had in the last seven days, and at which number they leave.

Counted behind everybody else, in the background: the event log is followed a slice at a time on a reader
(`alert_days`), and when a day of UTC is over, its sums are made a segment of devices at a time, with pauses. A push
pays nothing for it. A crash loses and repeats nothing: what was added is stored with how far the log was read, and the
sums of a day are made again until they are noted as made.

The verdict compares each bucket with the lowest one of which enough is known, by a test of `significance`. It is about
opting out, as a share of device-days, and about dismissing, as a share of alerts. Figures are of whole days, so today
is in none of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from gateway.delivery.analytics import percentiles
from gateway.delivery.significance import MIN_OBSERVATIONS, Share, Verdict, compare, wilson_interval, z_score
from gateway.store.analytics.alert_days import (
    BUCKETS,
    RECENT_DAYS,
    FatiguePosition,
    Tallies,
    add_tallies,
    bucket_name,
    close_day,
    count_segment,
    first_position,
    follow_events,
    has_alerts,
    next_segment,
    read_days,
    remove_days,
    store_day,
    store_followed,
    stored_position,
)
from gateway.store.analytics.funnels import DAY_MS
from gateway.store.database import Database
from gateway.timestamps import rfc3339

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 20.0
"""Time between two looks at the event log. Sets of devices are written again as a whole when one more is in them: the
longer, the fewer times."""
REST_FACTOR = 4
"""Pause after each slice, as a multiple of the time that it took: a fifth of a core at most."""
GRACE_MS = 60_000
"""Time after the end of a day in which something of it may still be on its way to the log."""
REPORT_DAYS = 28
"""Days of a report when none are asked for: four weeks, so each day of the week as often."""
MEASURES = ("opted_out", "dismissed")
"""What is compared."""
_LOADED = "it is loaded at the start"


class Figures(NamedTuple):
    """Sums of a bucket."""

    tally: Counter[str]

    def share(self, measure: str) -> Share:
        """The share of device-days that was opted out on, or of alerts that was dismissed or opened.

        What is dismissed or opened on a later day than the alert came may be in another bucket than it.
        """
        trials = self.tally["device_days" if measure == "opted_out" else "alerts"]
        return Share(min(self.tally[measure], trials), trials)


class Fatigue:
    """Counts alerts by device and day, and answers the sums. Loop.

    `clock_ms` gives server time in milliseconds. `storage_left` says whether the disk has room to accept more: until
    then nothing is counted. `on_day_closed` is called with a day that has been summed up for every app; the next one
    waits for it.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock_ms: Callable[[], int],
        storage_left: Callable[[], bool],
        on_day_closed: Callable[[int], Any],
    ) -> None:
        self._database = database
        self._storage_left = storage_left
        self._clock_ms = clock_ms
        self._on_day_closed = on_day_closed
        self._position: FatiguePosition | None = None
        self.horizon: Callable[[], Awaitable[int]] | None = None
        """How far the event log can be followed, where several nodes write it; None: to its end."""
        self._lock = asyncio.Lock()
        """Held while something is counted: one reader at a time adds to what is stored."""

    async def load(self) -> None:
        """Read how far an earlier run has counted; before the first connection."""
        today = self._clock_ms() // DAY_MS
        self._position = await self._database.write(partial(first_position, today=today))

    async def run(self) -> None:
        """Count, until cancelled."""
        while True:
            try:
                if self._storage_left():
                    await self.count()
            except Exception as error:  # above all a full disk: it is tried again
                log.warning("alerts of the last days cannot be counted, trying again: %s", error)
            await asyncio.sleep(FOLLOW_SECONDS)

    async def count(self) -> None:
        """Follow the event log to its end, and sum up the days that are over."""
        async with self._lock:
            now_ms = self._clock_ms()
            assert self._position is not None, _LOADED
            await self._follow()
            over = (now_ms - GRACE_MS) // DAY_MS - 1
            while self._position.closed_day < over:
                if not await self._database.read(has_alerts):
                    await self._pass_over(over - 1)
                await self._close(self._position.closed_day + 1)

    async def _follow(self) -> None:
        assert self._position is not None, _LOADED
        more = True
        horizon = None if self.horizon is None else await self.horizon()
        while more:
            began = time.monotonic()
            followed = await self._database.read(partial(follow_events, after=self._position.event_no, horizon=horizon))
            if followed.reached > self._position.event_no:
                await self._database.write(partial(store_followed, followed=followed))
                self._position = self._position._replace(event_no=followed.reached)
            more = followed.more
            await self._rest(began)

    async def _close(self, day: int) -> None:
        """Sum up a day of every app."""
        assert self._position is not None, _LOADED
        app_no, tallies = 0, Tallies()
        place: tuple[int, int] | None = (0, -1)
        while place is not None:
            began = time.monotonic()
            place = await self._database.read(partial(next_segment, app_no=place[0], after=place[1]))
            if place is None or place[0] != app_no:
                await self._database.write(partial(store_day, app_no=app_no, day=day, tallies=tallies))
                tallies = Tallies()
            if place is not None:
                app_no, segment = place
                more = await self._database.read(partial(count_segment, app_no=app_no, segment=segment, day=day))
                add_tallies(tallies, more)
            await self._rest(began)
        while await self._database.write(partial(remove_days, before=day - RECENT_DAYS + 2)):
            pass
        await self._database.write(partial(close_day, day=day))
        self._position = self._position._replace(closed_day=day)
        await self._on_day_closed(day)

    async def _pass_over(self, day: int) -> None:
        """Leave out the days up to this one, of which there is nothing: the server was away for years, or its clock was
        set."""
        assert self._position is not None, _LOADED
        if day > self._position.closed_day:
            await self._database.write(partial(close_day, day=day))
            self._position = self._position._replace(closed_day=day)

    @staticmethod
    async def _rest(began: float) -> None:
        await asyncio.sleep(REST_FACTOR * (time.monotonic() - began))

    async def figures(self, app_no: int, dimension: str, key: str, first: int, last: int) -> list[Figures]:
        """The sums of days, by bucket."""
        tallies = await self._database.read(
            partial(read_days, app_no=app_no, dimension=dimension, key=key, first=first, last=last), app_no
        )
        return [Figures(tally) for tally in tallies]

    async def report(
        self, app_no: int, *, channel: str | None, tag: str | None, since: int | None, until: int | None
    ) -> dict[str, Any]:
        """The figures of an app, of a channel, or of the devices with a tag, and the verdict. At most one of both.

        Of the days from `since` to before `until` (ms), whole days; of the last REPORT_DAYS if neither is given.
        """
        position = self._position
        if self.horizon is not None:  # another node may be counting
            position = await self._database.read_soon(stored_position)
        assert position is not None, _LOADED
        last = position.closed_day if until is None else min(position.closed_day, -(-until // DAY_MS) - 1)
        first = last - REPORT_DAYS + 1 if since is None else since // DAY_MS
        dimension, key = (
            ("channel", channel) if channel is not None else ("tag", tag) if tag is not None else ("all", "")
        )
        figures = await self.figures(app_no, dimension, key or "", first, last)
        return {
            "channel": channel,
            "tag": tag,
            "since": rfc3339(first * DAY_MS),
            "until": rfc3339(max(last + 1, first) * DAY_MS),
            "counted_to": rfc3339((position.closed_day + 1) * DAY_MS),
            "base": None if (base := base_of(figures)) is None else bucket_name(base),
            "buckets": [_described(bucket, figures) for bucket in range(len(BUCKETS))],
            "leave_from": {measure: first_higher_bucket(figures, measure) for measure in MEASURES},
            "verdict": verdict_of(figures),
        }


def is_known(figures: Figures) -> bool:
    """Whether there is enough of a bucket to be compared."""
    return all(figures.share(measure).trials >= MIN_OBSERVATIONS for measure in MEASURES)


def base_of(figures: Sequence[Figures]) -> int | None:
    """The lowest bucket of which enough is known, which the others are compared with; None: there is none."""
    return next((bucket for bucket, found in enumerate(figures) if is_known(found)), None)


def comparison(figures: Sequence[Figures], bucket: int, measure: str) -> Verdict:
    """Compare a bucket with the base; not enough where that is missing, or is not below."""
    base = base_of(figures)
    if base is None or bucket <= base:
        return Verdict.NOT_ENOUGH
    return compare(figures[bucket].share(measure), figures[base].share(measure))


def first_higher_bucket(figures: Sequence[Figures], measure: str) -> str | None:
    """The first bucket of which a share is significantly higher than that of the base."""
    for bucket in range(1, len(figures)):
        if comparison(figures, bucket, measure) is Verdict.HIGHER:
            return bucket_name(bucket)
    return None


def verdict_of(figures: Sequence[Figures]) -> str:
    """`people_leave`, `no_difference`, or `not_enough_yet` if nothing could be compared."""
    found = {comparison(figures, bucket, measure) for bucket in range(1, len(figures)) for measure in MEASURES}
    if Verdict.HIGHER in found:
        return "people_leave"
    return "no_difference" if Verdict.NOT_HIGHER in found else "not_enough_yet"


def _described(bucket: int, figures: Sequence[Figures]) -> dict[str, Any]:
    tally = figures[bucket].tally
    compared = {measure: _compared(figures, bucket, measure) for measure in MEASURES} if bucket else None
    return {
        "bucket": bucket_name(bucket),
        **{name: tally[name] for name in ("device_days", "alerts", "opened", "dismissed", "opted_out")},
        "rates": {measure: described_share(figures[bucket].share(measure)) for measure in ("opened", *MEASURES)},
        "time_to_open_ms": percentiles(tally, "o"),
        "compared": compared,
    }


def _compared(figures: Sequence[Figures], bucket: int, measure: str) -> dict[str, Any]:
    verdict, base = comparison(figures, bucket, measure), base_of(figures)
    if base is None or verdict is Verdict.NOT_ENOUGH:
        return {"verdict": verdict, "z": None}
    return {"verdict": verdict, "z": round(z_score(figures[bucket].share(measure), figures[base].share(measure)), 2)}


def described_share(share: Share) -> dict[str, float] | None:
    """A share with its interval, four decimals; None without observations."""
    if not share.trials:
        return None
    interval = wilson_interval(share)
    return {"rate": round(share.rate, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}
