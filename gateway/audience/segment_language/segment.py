"""A segment: an expression that was compiled, and the devices that it selects.

`compile_expression` and `resolve` are for a reader thread, whose reads are bounded in time (`store/read_queue`) and
belong to an app. Compiling takes 5 ms at most: too much for the loop, when a batch has thousands of expressions. What
was compiled lately is kept by `target_resolution`.

`now_ms` is the time on the wall, as the API shows it. Times of devices are server time in the ledger, so moments are
translated (`timestamps.wall_time`). A device that is connected is seen now.

Of the conditions that are joined by `&&` those come first that leave few devices, as far as one can know, each as a set
(`set_algebra`); when few are left, or what remains cannot be found by itself, those devices are asked the rest with one
statement. So `!` costs what the devices cost that are left out. Few is what the questions cost, of which there is one
for each device and condition: of a small fleet, too, sixty conditions are sixty sets (`_is_searched`).
"""

from __future__ import annotations

import json
import operator
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pyroaring import BitMap

from gateway.audience.segment_language.grammar import parse
from gateway.audience.segment_language.messages import invalid, quoted
from gateway.audience.segment_language.set_algebra import evaluate, is_of_sets, read_sets, set_key
from gateway.audience.segment_language.sql_compiler import (
    Fragment,
    Given,
    NowMatches,
    Parameter,
    ServerTime,
    compile_question,
    compile_search,
    rank_of,
)
from gateway.audience.segment_language.syntax_tree import Place
from gateway.audience.segment_language.terms import (
    AllOf,
    HasChannelReceipt,
    HasMissed,
    HasReceipt,
    IsMuted,
    IsOnline,
    Membership,
    Moment,
    Term,
    TimeTest,
    terms_within,
)
from gateway.audience.segment_language.type_checker import check
from gateway.store.audience.device_sets import ALL_TAG, numbers_json, queried_devices
from gateway.timestamps import wall_time

FEW_DEVICES = 20_000
"""Devices that are asked what remains, although it could be found by itself: 10 ms for each condition."""
QUESTION_DEVICES = 4
"""Devices that are found in the time that it takes to ask one: a quarter of a fleet is asked no faster than all of them
are found."""
PART_DEVICES = 262_144
"""Devices that one statement asks: each takes 75 bytes of memory meanwhile, which a reader does not give back."""
_COMPARED: Final[dict[str, Callable[[int, int], bool]]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(slots=True, frozen=True)
class Segment:
    """An expression over the devices of an app, ready to be asked. Made by `compile_expression`."""

    text: str
    term: Term = field(repr=False)
    _steps: tuple[Term, ...] = field(repr=False)
    """The conditions that can be evaluated as sets, in the order in which they are."""
    _rest: tuple[Term, ...] = field(repr=False)
    """The others."""
    _pushes: dict[str, Place] = field(repr=False)

    @property
    def needs_online(self) -> bool:
        """Whether it depends on which devices are connected."""
        return any(
            isinstance(one, IsOnline) or (isinstance(one, TimeTest) and one.field == "last_seen")
            for one in terms_within(self.term)
        )

    @property
    def push_ids(self) -> tuple[str, ...]:
        """The pushes whose receipts it asks for."""
        return tuple(self._pushes)

    @property
    def channel_ids(self) -> tuple[str, ...]:
        """The channels that it names."""
        named = (one.channel for one in terms_within(self.term) if isinstance(one, IsMuted | HasChannelReceipt))
        return tuple(dict.fromkeys(named))

    def devices(self, connection: sqlite3.Connection, app_no: int, now_ms: int, online: Iterable[int] = ()) -> BitMap:
        """The live devices of the app that match. Reader thread."""
        sets = read_sets(connection, app_no, self._steps)
        connected = BitMap(online)

        def devices_of(term: Term) -> BitMap:
            match term:
                case Membership():
                    return sets[set_key(term)]
                case IsOnline():
                    return connected
            return queried_devices(connection, *_bound(compile_search(term), app_no, now_ms, connected))

        everybody = found = sets[ALL_TAG]
        left = list(self._steps)
        while left and _is_searched(left, len(found), len(everybody)):
            found = evaluate(left.pop(0), found, devices_of)
        rest = (*left, *self._rest)
        if not found or not rest:
            return found
        asked = compile_question(rest)
        # Receipts are read once for each statement, however many devices it asks.
        within = (one for term in rest for one in terms_within(term))
        size = (
            len(found)
            if any(isinstance(one, HasReceipt | HasMissed | HasChannelReceipt) for one in within)
            else PART_DEVICES
        )
        matching = BitMap()
        for start in range(0, len(found), size):
            part = numbers_json(found[start : start + size])
            matching |= queried_devices(connection, *_bound(asked, app_no, now_ms, connected, part))
        return matching

    def check_pushes(self, connection: sqlite3.Connection, app_no: int) -> None:
        """Refuse pushes of which nothing is known, or nothing is kept. Raises InvalidExpression. Reader thread."""
        if not self._pushes:
            return
        rows = connection.execute(
            "SELECT p.id, p.final_counts IS NULL FROM json_each(?) AS x CROSS JOIN push AS p"
            " ON p.id = x.value AND p.app_no = ?",
            (json.dumps(list(self._pushes)), app_no),
        )
        kept = dict(rows.fetchall())
        for push_id, place in self._pushes.items():
            if push_id not in kept:
                sentence = f"there is no push {quoted(push_id)} in this app, or it is not kept any more"
                raise invalid(self.text, place, f"{sentence}; take the push_id of a newer one")
            if not kept[push_id]:
                sentence = "the deliveries of this push were removed by retention, so nobody knows who got it"
                raise invalid(self.text, place, f"{sentence}; take the push_id of a newer one")


def _is_searched(left: Sequence[Term], devices: int, fleet: int) -> bool:
    """Whether the next of these conditions is found by itself, instead of all being asked of so many devices."""
    if is_of_sets(left[0]) or devices > FEW_DEVICES:
        return True
    return devices * len(terms_within(AllOf(tuple(left)))) > FEW_DEVICES and devices * QUESTION_DEVICES >= fleet


def _bound(
    statement: Fragment, app_no: int, now_ms: int, online: Iterable[int], candidates: str = "[]"
) -> tuple[str, list[Any]]:
    """A statement with the values of its parameters."""

    def wall_ms(moment: Moment) -> int:
        return now_ms + moment.ms if moment.from_now else moment.ms

    connected = numbers_json(BitMap(online)) if Given.ONLINE in statement.parameters else "[]"
    given: dict[Given, int | str] = {Given.APP: app_no, Given.ONLINE: connected, Given.CANDIDATES: candidates}

    def value(parameter: Parameter) -> str | int | float | bytes:
        match parameter:
            case Given():
                return given[parameter]
            case ServerTime(moment):
                return wall_time.to_server(wall_ms(moment))
            case NowMatches(compared, moment):
                return int(_COMPARED[compared](now_ms, wall_ms(moment)))
        return parameter

    return statement.sql, [value(parameter) for parameter in statement.parameters]


def compile_expression(text: str) -> Segment:
    """Compile an expression. Raises InvalidExpression. Reader thread; 5 ms at most."""
    term = check(text, parse(text))
    terms = term.terms if isinstance(term, AllOf) else (term,)
    ranked = [(rank, not is_of_sets(one), one) for one in terms if (rank := rank_of(one)) is not None]
    steps = tuple(one for _, _, one in sorted(ranked, key=lambda found: (found[1], found[0])))
    return Segment(
        text,
        term,
        steps,
        tuple(one for one in terms if one not in steps),
        {one.push_id: one.place for one in terms_within(term) if isinstance(one, HasReceipt | HasMissed)},
    )


def resolve(
    connection: sqlite3.Connection, app_no: int, segment: Segment, now_ms: int, online: Iterable[int] = ()
) -> BitMap:
    """The live devices of an app that match now (wall time). Raises InvalidExpression. Reader thread.

    `online` has the numbers of the connected devices, if `segment.needs_online`.
    """
    segment.check_pushes(connection, app_no)
    return segment.devices(connection, app_no, now_ms, online)
