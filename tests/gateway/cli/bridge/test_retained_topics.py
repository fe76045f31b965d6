"""Retained topics: a slow broker, one that comes back, and one that never had anything."""

from __future__ import annotations

from gateway.cli.bridge.retained_topics import MAX_IN_FLIGHT_MESSAGES, RetainedTopics
from tests.gateway.cli.bridge.fakes import FakeBroker


def test_a_slow_broker_gets_the_last_value_and_never_an_older_one_after_it() -> None:
    broker = FakeBroker()
    topics = RetainedTopics(broker.publish)
    for value in (b"1", b"2", b"3", b"3"):
        topics.set("a", value)
    assert broker.published == [("a", b"1")], "one on its way at a time"
    assert not topics.is_published("a")
    topics.acknowledged(1)
    assert broker.published == [("a", b"1"), ("a", b"3")]
    topics.acknowledged(2)
    assert topics.is_published("a")
    assert topics.is_complete


def test_what_is_on_its_way_is_bounded() -> None:
    broker = FakeBroker()
    topics = RetainedTopics(broker.publish)
    for number in range(3 * MAX_IN_FLIGHT_MESSAGES):
        topics.set(f"t/{number}", b"x")
    assert len(broker.published) == MAX_IN_FLIGHT_MESSAGES
    for message_id in range(1, 3 * MAX_IN_FLIGHT_MESSAGES + 1):
        topics.acknowledged(message_id)
    assert [topic for topic, _ in broker.published] == [f"t/{number}" for number in range(3 * MAX_IN_FLIGHT_MESSAGES)]
    assert topics.is_complete


def test_a_new_connection_gets_everything_again_and_what_was_cleared_meanwhile() -> None:
    broker = FakeBroker()
    topics = RetainedTopics(broker.publish)
    topics.set("a", b"1")
    topics.set("b", b"1")
    topics.acknowledged(1)
    broker.connected = False
    topics.set("a", b"2")
    topics.clear("b")
    topics.clear("of a former run")
    assert len(broker.published) == 2
    broker.connected = True
    topics.publish_all()
    topics.acknowledged(2)  # paho repeats it by itself, under its identifier
    assert broker.published[2:] == [("a", b"2"), ("b", b""), ("of a former run", b"")]
    assert broker.retained == {"a": b"2"}


def test_topics_are_published_in_the_order_of_their_change() -> None:
    """A device's connectivity is cleared last: it is how a later run finds what was left."""
    broker = FakeBroker()
    topics = RetainedTopics(broker.publish)
    topics.set("config", b"1")
    topics.clear("config")
    topics.clear("connectivity")
    assert broker.published == [("config", b"1")], "not the second before the first"
    topics.acknowledged(1)
    assert broker.published[1:] == [("config", b""), ("connectivity", b"")]
