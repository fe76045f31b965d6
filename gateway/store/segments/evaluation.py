"""Evaluation of conditions: in which order they are found as sets, and when the devices that are left are asked.

Of the conditions that are joined by `&&` those come first that leave few devices, as far as one can know, each as a set
(`set_algebra`); when few are left, or what remains cannot be found by itself, those devices are asked the rest with one
statement. So `!` costs what the devices cost that are left out. Few is what the questions cost, of which there is one
for each device and condition: of a small fleet, too, sixty conditions are sixty sets (`_is_searched`).

`now_ms` is the time on the wall, as the API shows it. Times of devices are server time in the ledger, so moments are
translated (`timestamps.wall_time`). A device that is connected is seen now.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pyroaring import BitMap

from gateway.store.audience.device_sets import ALL_TAG, numbers_json, queried_devices
from gateway.store.segments.set_algebra import evaluate, is_of_sets, read_sets, set_key
from gateway.store.segments.sql_compiler import (
    Fragment,
    Given,
    NowMatches,
    Parameter,
    ServerTime,
    compile_question,
    compile_search,
    rank_of,
)
from gateway.store.segments.terms import (
    AllOf,
    HasChannelReceipt,
    HasMissed,
    HasReceipt,
    IsMember,
    IsOnline,
    Moment,
    Term,
    terms_within,
)
from gateway.store.segments.value_forms import attribute_form
from gateway.store.transaction import Transaction
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
class SegmentPlan:
    """The order in which conditions are evaluated. Made by `plan_of`."""

    steps: tuple[Term, ...]
    """The conditions that can be evaluated as sets, in the order in which they are."""
    rest: tuple[Term, ...]
    """The others."""


def plan_of(term: Term) -> SegmentPlan:
    """Plan the evaluation of a condition."""
    terms = term.terms if isinstance(term, AllOf) else (term,)
    ranked = [(rank, not is_of_sets(one), one) for one in terms if (rank := rank_of(one)) is not None]
    steps = tuple(one for _, _, one in sorted(ranked, key=lambda found: (found[1], found[0])))
    return SegmentPlan(steps, tuple(one for one in terms if one not in steps))


def matching_devices(
    transaction: Transaction, app_no: int, plan: SegmentPlan, now_ms: int, online: Iterable[int]
) -> BitMap:
    """Return the live devices of an app that match. Reader thread.

    `online`: the numbers of the devices that are connected.
    """
    sets = read_sets(transaction, app_no, plan.steps)
    connected = BitMap(online)
    form = attribute_form(transaction)

    @cache  # of a large fleet it takes longer than many a statement, and several may ask for it
    def connected_json() -> str:
        return numbers_json(connected)

    def devices_of(term: Term) -> BitMap:
        match term:
            case IsMember():
                return sets[set_key(term)]
            case IsOnline():
                return connected
        return queried_devices(transaction, *_bound(compile_search(term, form), app_no, now_ms, connected_json))

    everybody = found = sets[ALL_TAG]
    left = list(plan.steps)
    while left and _is_searched(left, len(found), len(everybody)):
        found = evaluate(left.pop(0), found, devices_of)
    rest = (*left, *plan.rest)
    if not found or not rest:
        return found
    asked = compile_question(rest, form)
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
        matching |= queried_devices(transaction, *_bound(asked, app_no, now_ms, connected_json, part))
    return matching


def matching_members(transaction: Transaction, app_no: int, term: Term) -> BitMap:
    """Return the live devices of an app that match a condition over tags and topics alone. One statement; any
    thread."""
    sets = read_sets(transaction, app_no, [term])

    def devices_of(one: Term) -> BitMap:
        assert isinstance(one, IsMember), "the condition has no others"
        return sets[set_key(one)]

    return evaluate(term, sets[ALL_TAG], devices_of)


def _is_searched(left: Sequence[Term], devices: int, fleet: int) -> bool:
    """Whether the next of these conditions is found by itself, instead of all being asked of so many devices."""
    if is_of_sets(left[0]) or devices > FEW_DEVICES:
        return True
    return devices * len(terms_within(AllOf(tuple(left)))) > FEW_DEVICES and devices * QUESTION_DEVICES >= fleet


def _bound(
    statement: Fragment, app_no: int, now_ms: int, online_json: Callable[[], str], candidates: str = "[]"
) -> tuple[str, list[Any]]:
    """A statement with the values of its parameters."""

    def wall_ms(moment: Moment) -> int:
        return now_ms + moment.ms if moment.from_now else moment.ms

    connected = online_json() if Given.ONLINE in statement.parameters else "[]"
    given: dict[Given, int | str] = {Given.APP: app_no, Given.ONLINE: connected, Given.CANDIDATES: candidates}

    def value(parameter: Parameter) -> str | int | float | bytes:
        match parameter:
            case Given():
                return given[parameter]
            case ServerTime(moment):
                return wall_time.to_server(wall_ms(moment))
            case NowMatches(compared, moment):
                return _COMPARED[compared](now_ms, wall_ms(moment))
        return parameter

    return statement.sql, [value(parameter) for parameter in statement.parameters]
