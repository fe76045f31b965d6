"""The connection to the operator's broker, as far as it needs no broker."""

from __future__ import annotations

import paho.mqtt.client as paho
import pytest

from gateway.cli.bridge import broker_connection
from gateway.cli.bridge.bridge_options import BrokerAddress
from gateway.cli.bridge.broker_connection import (
    MAX_PAYLOAD_BYTES,
    BrokerConnection,
    BrokerMessage,
    BrokerNews,
    OwnTopicFound,
)
from gateway.cli.bridge.topics import BridgeTopics


def arriving(topic: bytes, payload: bytes = b"PRESS", *, retained: bool = False) -> paho.MQTTMessage:
    message = paho.MQTTMessage(topic=topic)
    message.payload = payload
    message.retain = retained
    return message


def connection(posted: list[BrokerNews]) -> BrokerConnection:
    address = BrokerAddress("127.0.0.1", 1, None, None, None)
    return BrokerConnection(address, BridgeTopics("fleetpush"), ["a"], posted.append)


def test_messages_that_wait_are_bounded_and_the_newest_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_connection, "MAX_WAITING_MESSAGES", 2)
    posted: list[BrokerNews] = []
    broker = connection(posted)
    for number in range(5):
        broker._arrived(broker._client, None, arriving(f"t/{number}".encode()))
    assert [news.topic for news in posted if isinstance(news, BrokerMessage)] == ["t/0", "t/1"]
    assert broker.dropped == 3
    broker.handled()
    broker._arrived(broker._client, None, arriving(b"t/5"))
    assert len(posted) == 3


def test_a_large_message_is_not_kept_and_a_topic_that_is_no_text_is_none() -> None:
    posted: list[BrokerNews] = []
    broker = connection(posted)
    broker._arrived(broker._client, None, arriving(b"\xff"))
    broker._arrived(broker._client, None, arriving(b"a", b"x" * (MAX_PAYLOAD_BYTES + 1)))
    (found,) = posted
    assert isinstance(found, BrokerMessage)
    assert (found.topic, found.payload, found.retained) == ("a", None, False)


def test_of_its_own_topics_it_wants_what_is_retained_and_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_connection, "MAX_FOUND_TOPICS", 2)
    posted: list[BrokerNews] = []
    broker = connection(posted)
    own = b"fleetpush/devices/kiosk-%d/connectivity"
    broker._arrived(broker._client, None, arriving(own % 0, b"online"))  # its own, as it publishes it
    for number in range(1, 4):
        broker._arrived(broker._client, None, arriving(own % number, b"online", retained=True))
    assert posted == [OwnTopicFound((own % number).decode()) for number in (1, 2)]


def test_without_a_connection_nothing_is_published() -> None:
    broker = connection([])
    assert broker.publish("a", b"x") is None
    broker._closing.set()
