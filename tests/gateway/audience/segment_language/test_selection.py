"""What an expression selects, compared with a model that was written for the purpose."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audience.segment_language.segment import compile_expression, resolve
from gateway.store.segments import evaluation
from tests.gateway.audience.segment_language.fleet import NOW_MS, PUSHES, TEXTS, Fleet, make_fleet
from tests.gateway.audience.segment_language.model import (
    ATOMS,
    COMPARE,
    EVENTS,
    EXPRESSIONS,
    MATCHES,
    MOMENTS,
    PARTS,
    SPANS,
    Expression,
    channel_receipt,
    joined,
    negated,
    receipt,
    text_match,
    time_test,
)
from tests.gateway.delivery.machinery import APP_NO

_fleets: dict[int, Fleet] = {}


def fleet_of(seed: int) -> Fleet:
    if seed not in _fleets:
        _fleets[seed] = make_fleet(seed)
    return _fleets[seed]


@pytest.fixture(scope="module", autouse=True)
def closed_fleets() -> Iterator[None]:
    yield
    while _fleets:
        _fleets.popitem()[1].connection.close()


def check(fleet: Fleet, expression: Expression) -> None:
    wanted = sorted(device.no for device in fleet.devices if expression.meaning(device))
    segment = compile_expression(expression.text)
    online = fleet.online if segment.needs_online else ()
    for few, part in ((10**9, 10**9), (0, 50)):  # as of a small fleet, which is asked, and as of a large one
        with patch.multiple(evaluation, FEW_DEVICES=few, PART_DEVICES=part):
            assert list(resolve(fleet.connection, APP_NO, segment, NOW_MS, online)) == wanted


@settings(deadline=None)  # the first of each seed makes a fleet
@given(st.integers(0, 3), st.lists(ATOMS, min_size=4, max_size=4))
def test_a_condition_selects_whom_it_means(seed: int, expressions: list[Expression]) -> None:
    for expression in expressions:
        check(fleet_of(seed), expression)


@settings(deadline=None)  # the first of each seed makes a fleet
@given(st.integers(0, 3), st.lists(EXPRESSIONS, min_size=2, max_size=2))
def test_conditions_are_joined_as_they_say(seed: int, expressions: list[Expression]) -> None:
    for expression in expressions:
        check(fleet_of(seed), expression)


def test_every_text_is_matched_to_its_end() -> None:
    parts = [*PARTS, *(text for text in TEXTS if len(text) <= 128)]
    for part, method, field in product(parts, MATCHES, ("long", "name")):
        check(fleet_of(0), text_match(field, method, part))


def test_every_receipt_counts_what_comes_after_it() -> None:
    for event in EVENTS:
        for push_id in PUSHES:
            check(fleet_of(0), receipt(event, push_id))
        for span in SPANS:
            check(fleet_of(0), channel_receipt(event, "offers", span))


def test_every_comparison_with_a_time_is_true_or_false() -> None:
    for field, sign, moment in product(("last_seen", "enrolled_at"), COMPARE, MOMENTS[:4]):
        check(fleet_of(0), time_test(field, sign, moment))


def test_what_is_found_by_one_condition_is_asked_the_others() -> None:
    opened, acted = receipt("opened", "P1"), receipt("displayed", "P3")
    named, timed = text_match("name", "contains", "1"), time_test("last_seen", "!=", MOMENTS[0])
    either = joined("||", [joined("&&", [opened, named]), joined("&&", [acted, timed])])
    for expression in (either, joined("&&", [either, negated(named)]), negated(either)):
        check(fleet_of(0), expression)
