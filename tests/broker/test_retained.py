"""Retained messages: one per topic, found by filter, bounded, and gone when expired."""

from __future__ import annotations

import pytest

from broker.message import Body, Message
from broker.retained import RetainedMessages


def retained(*topics: str) -> RetainedMessages:
    store = RetainedMessages(100, 10_000)
    for topic in topics:
        assert store.set(Message(topic, Body(topic.encode())))
    return store


def topics(store: RetainedMessages, topic_filter: str, now: float = 0.0) -> set[str]:
    return {message.topic for message in store.match(topic_filter, now)}


@pytest.mark.parametrize(
    ("topic_filter", "expected"),
    [
        ("a/b", {"a/b"}),
        ("a", set()),
        ("a/+", {"a/b", "a/c"}),
        ("a/#", {"a/b", "a/c", "a/c/d"}),
        ("a/b/#", {"a/b"}),
        ("+/c/#", {"a/c", "a/c/d"}),
        ("#", {"a/b", "a/c", "a/c/d", "/x"}),
        ("+/+", {"a/b", "a/c", "/x"}),
        ("/+", {"/x"}),
        ("$SYS/#", {"$SYS/a"}),
        ("$SYS/+", {"$SYS/a"}),
        ("+/a", set()),
    ],
)
def test_a_filter_finds_its_topics(topic_filter: str, expected: set[str]) -> None:
    store = retained("a/b", "a/c", "a/c/d", "/x", "$SYS/a")
    assert topics(store, topic_filter) == expected


def test_the_last_message_of_a_topic_stays() -> None:
    store = retained("a")
    store.set(Message("a", Body(b"new")))
    (message,) = store.match("+", 0)
    assert message.body.payload == b"new"
    assert len(store) == 1


def test_removing_leaves_nothing_behind() -> None:
    store = retained("a/b", "a/b/c")
    assert store.remove("a/b")
    assert not store.remove("a/b")
    assert topics(store, "#") == {"a/b/c"}
    assert store.remove("a/b/c")
    assert not store._root.children
    assert not store._bytes


def test_expired_messages_are_not_handed_out() -> None:
    """[MQTT-3.3.2-5]"""
    store = RetainedMessages(10, 1_000)
    store.set(Message("a", Body(b"x", expires_at=50.0)))
    store.set(Message("b", Body(b"x")))
    assert topics(store, "+", 49.0) == {"a", "b"}
    assert topics(store, "+", 50.0) == {"b"}
    assert topics(store, "a", 50.0) == set()
    assert topics(store, "#", 50.0) == {"b"}
    assert store.expired(50.0) == ["a"]


def test_both_bounds_hold_and_the_newest_loses() -> None:
    store = RetainedMessages(2, 10)
    assert store.set(Message("a", Body(b"12345")))
    assert not store.set(Message("b", Body(b"123456")))
    assert store.set(Message("b", Body(b"1")))
    assert not store.set(Message("c", Body(b"1")))
    assert not store.set(Message("a", Body(b"1234567890")))
    assert topics(store, "#") == {"a", "b"}
    assert store.set(Message("a", Body(b"1")))
    store.remove("b")
    assert store.set(Message("c", Body(b"123456789")))
