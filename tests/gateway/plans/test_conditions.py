"""Conditions of campaigns: what is one, what is none and why, and what they say about counts."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.plans.conditions import METRICS, OPERATORS, BadCondition, Sample, parse_condition, parse_duration


def test_a_condition_in_full() -> None:
    found = parse_condition("refused + failed >= 2.5 % in 10m of at least 30")
    assert (found.metrics, found.operator, found.amount, found.is_percent) == (("refused", "failed"), ">=", 2.5, True)
    assert (found.within_ms, found.sample) == (600_000, 30)


@pytest.mark.parametrize(
    ("text", "column", "help_"),
    [
        ("", 1, "a metric should be; write, for example, acted >= 95% in 10m"),
        ("ackted >= 95%", 1, "do you mean acted?"),
        ("acted + dissmissed >= 95%", 9, "do you mean dismissed?"),
        ("suppressed > 3", 1, "no part of what a condition counts"),
        ("acted", 6, "it ends where >=, >, <= or < or + should be"),
        ("acted => 3", 7, "there is '=>'"),
        ("acted == 3", 7, "counts grow"),
        ("acted >=", 9, "a percentage such as 95% or a number"),
        ("acted >= 3.5", 11, "there is '.5'"),
        ("acted >= 120%", 10, "at most 100%"),
        ("acted + acted > 1", 9, "counted already"),
        ("acted >= 95% within 3m", 14, "in DURATION"),
        ("acted >= 95% in 10x", 17, "with s, m, h or d"),
        ("acted >= 95% in 99d", 17, "1 second to 30 days"),
        ("acted >= 95% of at least 0", 26, "at least 1"),
        ("acted >= 5 or failed > 3", 12, "there is 'or'"),
        (f"acted{' ' * 200}>= 5", 1, "at most 200 characters"),
    ],
)
def test_what_is_wrong_is_shown_where_it_is(text: str, column: int, help_: str) -> None:
    with pytest.raises(BadCondition) as caught:
        parse_condition(text)
    assert caught.value.column == column
    assert help_ in str(caught.value)
    assert f"column {column}" in str(caught.value)


@given(
    metrics=st.lists(st.sampled_from(METRICS), min_size=1, max_size=4, unique=True),
    operator=st.sampled_from(list(OPERATORS)),
    amount=st.integers(0, 100),
    percent=st.booleans(),
    duration=st.sampled_from(["", " in 90s", " in 2h"]),
    sample=st.sampled_from(["", " of at least 20"]),
    blanks=st.sampled_from([" ", "  ", "\t"]),
)
def test_what_was_written_is_understood(
    metrics: list[str], operator: str, amount: int, percent: bool, duration: str, sample: str, blanks: str
) -> None:
    text = f"{' + '.join(metrics)} {operator} {amount}{'%' if percent else ''}{duration}{sample}"
    found = parse_condition(text.replace(" ", blanks))
    assert found == parse_condition(text)
    assert (list(found.metrics), found.operator, found.amount, found.is_percent) == (metrics, operator, amount, percent)
    assert parse_condition(found.text) == found


@settings(max_examples=50)
@given(text=st.text(max_size=60) | st.from_regex(r"[a-z+ ]{1,20}(>=|<|=)? ?[0-9.%a-z ]{0,20}", fullmatch=True))
def test_anything_else_is_refused_with_a_place_in_it(text: str) -> None:
    with suppress(BadCondition):
        parse_condition(text)
        return
    with pytest.raises(BadCondition) as caught:
        parse_condition(text)
    assert 1 <= caught.value.column <= len(text) + 1


COUNTS = {
    "waiting": 10,
    "sent": 5,
    "delivered": 20,
    "displayed": 10,
    "opened": 5,
    "acted": 30,
    "refused": 3,
    "failed": 4,
}
SAMPLE = Sample(COUNTS, 100)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("delivered >= 65", True),  # cumulative: with what was displayed, opened and acted on
        ("delivered > 65", False),
        ("displayed >= 45%", True),
        ("opened < 36%", True),
        ("acted >= 30%", True),
        ("failed + acted >= 31", False),  # what failed was acted on: counted once
        ("refused + failed >= 7", True),
        ("waiting <= 10", True),
        ("dismissed > 0", False),
        ("refused >= 3% of at least 86", None),
        ("refused >= 3% of at least 85", True),  # all but those that wait or are on their way
        ("refused >= 3 of at least 90", True),  # a number needs no sample
    ],
)
def test_what_conditions_count(text: str, holds: bool | None) -> None:
    assert parse_condition(text).is_true(SAMPLE) is holds


def test_nobody_is_no_share_of_nobody() -> None:
    assert parse_condition("acted >= 0%").is_true(Sample({}, 0)) is None
    assert parse_condition("acted >= 1").is_true(Sample({}, 0)) is False


def test_a_small_group_is_a_sample_when_all_have_an_outcome() -> None:
    condition = parse_condition("acted >= 50%")
    two = Sample({"acted": 2}, 2)
    assert condition.is_true(two, 20) is None
    assert condition.is_true(two, 20, capped=True) is True
    assert condition.is_true(Sample({"acted": 1, "waiting": 1}, 2), 20, capped=True) is None


def test_a_condition_shows_how_it_stands() -> None:
    assert parse_condition("acted  >=  95%").shown(SAMPLE) == "acted >= 95% (30 of 100: 30%)"
    assert parse_condition("refused >= 3").shown(SAMPLE) == "refused >= 3 (3)"


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90_000), (" 10 m ", 600_000), ("2H", 7_200_000), ("1d", 86_400_000)]
)
def test_durations(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "m", "10", "0s", "-1m", "1.5h", "31d", "10w", "9999999999s", "١m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
