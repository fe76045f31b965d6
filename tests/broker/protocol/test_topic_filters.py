"""Topic names, topic filters, and what matches what: the examples of the specification (4.7), and a second opinion."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocol.topic_filters import matches, split_shared, valid_topic_filter, valid_topic_name


@pytest.mark.parametrize(
    "topic",
    ["a", "/", "a/b", "/a", "a/", "a//b", " ", "Accounts payable", "$SYS/x", "$share", "ä/\U0002a6d4", "a" * 65_535],
)
def test_topic_names(topic: str) -> None:
    assert valid_topic_name(topic)
    assert valid_topic_filter(topic)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a#", "a\0b", "\ud800", "a" * 65_536, "é" * 32_768])
def test_what_is_no_topic_name(topic: str) -> None:
    assert not valid_topic_name(topic)


@pytest.mark.parametrize(
    "topic_filter",
    ["#", "+", "/#", "/+", "+/+", "sport/#", "sport/tennis/#", "+/tennis/#", "sport/+/player1", "a/+/", "$SYS/#"],
)
def test_topic_filters(topic_filter: str) -> None:
    assert valid_topic_filter(topic_filter)
    assert valid_topic_filter(f"$share/group/{topic_filter}")


@pytest.mark.parametrize(
    "topic_filter",
    [
        "",
        "sport/tennis#",
        "sport/tennis/#/ranking",
        "#/",
        "##",
        "a/##",
        "sport+",
        "+a",
        "a/b+/c",
        "++",
        "\0",
        "a" * 65_536,
    ],
)
def test_what_is_no_topic_filter(topic_filter: str) -> None:
    assert not valid_topic_filter(topic_filter)
    assert not valid_topic_filter(f"$share/group/{topic_filter}")


@pytest.mark.parametrize("topic_filter", ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a"])
def test_what_is_no_shared_subscription(topic_filter: str) -> None:
    assert not valid_topic_filter(topic_filter)


def test_split_shared() -> None:
    assert split_shared("$share/g/a/+") == ("g", "a/+")
    assert split_shared("$share/g//") == ("g", "/")
    assert split_shared("$shared/g/a") == (None, "$shared/g/a")
    assert split_shared("$share") == (None, "$share")
    assert split_shared("a/$share/g") == (None, "a/$share/g")


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("a/b", "a/b"),
        ("sport/tennis/player1/#", "sport/tennis/player1"),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
        ("sport/#", "sport"),
        ("#", "a"),
        ("#", "/"),
        ("sport/tennis/+", "sport/tennis/player1"),
        ("sport/+", "sport/"),
        ("+/+", "/finance"),
        ("/+", "/finance"),
        ("+/#", "a"),
        ("$SYS/#", "$SYS/a/b"),
        ("$SYS/monitor/+", "$SYS/monitor/Clients"),
        ("a/+/#", "a/$b"),
    ],
)
def test_matches(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("a/b", "a/B"),
        ("a", "a/"),
        ("a", "/a"),
        ("sport/tennis/+", "sport/tennis/player1/ranking"),
        ("sport/+", "sport"),
        ("+", "/finance"),
        ("a/+/#", "a"),
        ("a/#", "ab"),
        ("#", "$SYS/a"),
        ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ("+", "$SYS"),
        ("+/#", "$SYS"),
    ],
)
def test_does_not_match(topic_filter: str, topic: str) -> None:
    assert not matches(topic_filter, topic)


LEVELS = st.lists(st.sampled_from(["", "a", "b", "$a"]), min_size=1, max_size=4)
FILTERS = st.lists(st.sampled_from(["", "a", "b", "$a", "+"]), min_size=1, max_size=4)


@given(LEVELS.map("/".join).filter(bool), FILTERS.map("/".join).filter(bool), st.booleans())
def test_matches_as_a_regular_expression_says(topic: str, topic_filter: str, open_ended: bool) -> None:
    pattern = "/".join("[^/]*" if level == "+" else re.escape(level) for level in topic_filter.split("/"))
    if open_ended:
        topic_filter += "/#"
        pattern += "(/.*)?"
    expected = re.fullmatch(pattern, topic) is not None and not (topic[0] == "$" and topic_filter[0] == "+")
    assert valid_topic_filter(topic_filter)
    assert matches(topic_filter, topic) == expected
