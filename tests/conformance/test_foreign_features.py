"""New features of 5.0, and the rules of sessions, seen by paho-mqtt: a client that reads the standard without us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.properties import Properties

from tests.conformance.foreign import MosquittoSub, PahoClient, mosquitto_pub
from tests.conformance.standalone import BrokerProcess

Name = Callable[[], str]
BOTH = pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5], ids=["3.1.1", "5.0"])


@pytest.fixture(scope="module")
def general_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker with the options that foreign suites ask for."""
    options = ("--allow-anonymous", "--server-keep-alive", "60", "--deny-filter", "test/nosubscribe")
    with BrokerProcess(tmp_path_factory.mktemp("general"), *options) as process:
        yield process


def told(properties: Properties | None, name: str) -> Any:
    return getattr(properties, name, None)


# -- CONNECT -----------------------------------------------------------------------------------------------------------


def test_the_server_tells_its_limits_and_its_keep_alive(general_broker: BrokerProcess, name: Name) -> None:
    with PahoClient(general_broker.port, name(), keep_alive=10) as client:
        assert told(client.told, "ServerKeepAlive") is None
    with PahoClient(general_broker.port, name(), keep_alive=600) as client:
        assert told(client.told, "ServerKeepAlive") == 60
        assert told(client.told, "ReceiveMaximum") == 1_024
        assert told(client.told, "TopicAliasMaximum") == 16
        assert told(client.told, "MaximumPacketSize") == 1024 * 1024


def test_a_client_without_an_identifier_is_given_one(broker: BrokerProcess) -> None:
    with PahoClient(broker.port, "") as one, PahoClient(broker.port, "") as other:
        identifiers = {told(client.told, "AssignedClientIdentifier") for client in (one, other)}
    assert len(identifiers) == 2
    assert all(identifiers)


@BOTH
def test_wrong_credentials_are_refused(tmp_path: Path, version: int, name: Name) -> None:
    (tmp_path / "passwords").write_text("")
    with BrokerProcess(tmp_path / "data", "--password-file", str(tmp_path / "passwords")) as broker:
        client = PahoClient(broker.port, name(), version, username="nobody", accepted=False)
        assert client.reason.value == 0x86
        client.vanish()


def test_a_denied_filter_is_refused(general_broker: BrokerProcess, name: Name) -> None:
    with PahoClient(general_broker.port, name()) as client:
        assert client.try_to_subscribe("test/nosubscribe") == 0x87
        client.subscribe("test/subscribe")


@BOTH
def test_the_newer_connection_takes_over(broker: BrokerProcess, version: int, name: Name) -> None:
    client_id = name()
    older = PahoClient(broker.port, client_id, version, stays=True)
    with PahoClient(broker.port, client_id, version, stays=True) as newer:
        assert newer.session_present
        code = older.expect_goodbye()
        assert version == paho.MQTTv311 or code == 0x8E
        newer.subscribe(name())
    older.vanish()


@BOTH
def test_a_session_stays_as_long_as_asked(broker: BrokerProcess, version: int, name: Name) -> None:
    client_id = name()
    for present in (False, True):
        with PahoClient(broker.port, client_id, version, stays=True) as client:
            assert client.session_present is present
    with PahoClient(broker.port, client_id, version) as client:
        assert not client.session_present
    with PahoClient(broker.port, client_id, version, stays=True) as client:
        assert not client.session_present


def test_a_session_of_no_seconds_is_gone(broker: BrokerProcess, name: Name) -> None:
    client_id = name()
    for _ in range(2):
        with PahoClient(broker.port, client_id, stays=True, SessionExpiryInterval=0) as client:
            assert not client.session_present


@BOTH
def test_pings_keep_a_quiet_client_alive(broker: BrokerProcess, version: int, name: Name) -> None:
    with PahoClient(broker.port, name(), version, keep_alive=1) as client, PahoClient(broker.port, name()) as witness:
        topic = name()
        witness.subscribe(topic)
        # Three of its keep alives pass, by the server's clock.
        PahoClient(broker.port, name(), will=(topic, "later"), will_delay=3, SessionExpiryInterval=60).vanish()
        assert witness.next()[3] == b"later"
        client.subscribe(topic, 1)


# -- wills -------------------------------------------------------------------------------------------------------------


def test_a_will_waits_and_is_taken_back(broker: BrokerProcess, name: Name) -> None:
    topic, client_id = name(), name()
    with PahoClient(broker.port, name()) as witness:
        witness.subscribe(topic)
        mortal: dict[str, Any] = {"will_delay": 1, "stays": True}
        PahoClient(broker.port, client_id, will=(topic, "taken back"), **mortal).vanish()
        PahoClient(broker.port, client_id, will=(topic, "heard"), **mortal).vanish()
        assert witness.next() == (topic, 1, False, b"heard")
        assert witness.heard() == []


# -- messages ----------------------------------------------------------------------------------------------------------


def test_properties_arrive_as_they_were_sent(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name()) as client:
        client.subscribe(topic)
        client.publish(
            topic,
            "{}",
            ContentType="application/json",
            CorrelationData=b"\x00\xff",
            ResponseTopic="to/answer",
            PayloadFormatIndicator=1,
            UserProperty=[("a", "1"), ("a", "2")],
            MessageExpiryInterval=60,
        )
        got: Any = client.next_message().properties
    assert (got.ContentType, got.CorrelationData) == ("application/json", b"\x00\xff")
    assert (got.ResponseTopic, got.PayloadFormatIndicator) == ("to/answer", 1)
    assert got.UserProperty == [("a", "1"), ("a", "2")]
    assert 59 <= got.MessageExpiryInterval <= 60


def test_a_request_is_answered_where_it_asks_for(broker: BrokerProcess, name: Name) -> None:
    service, inbox = name(), name()
    with PahoClient(broker.port, name()) as server, PahoClient(broker.port, name()) as client:
        server.subscribe(service)
        client.subscribe(inbox)
        client.publish(service, "21 + 21", ResponseTopic=inbox, CorrelationData=b"7")
        asked: Any = server.next_message().properties
        server.publish(asked.ResponseTopic, "42", CorrelationData=asked.CorrelationData)
        answer = client.next_message()
        got: Any = answer.properties
        assert (answer.payload, got.CorrelationData) == (b"42", b"7")


def test_a_message_that_waited_has_less_time_left(broker: BrokerProcess, name: Name) -> None:
    topic, client_id = name(), name()
    with PahoClient(broker.port, client_id, stays=True) as client:
        client.subscribe(topic)
    with PahoClient(broker.port, name()) as writer:
        writer.subscribe(f"{topic}/clock")
        writer.publish(topic, "for a minute", MessageExpiryInterval=60)
        writer.publish(topic, "for a second", MessageExpiryInterval=1)
        PahoClient(broker.port, name(), will=(f"{topic}/clock", ""), will_delay=2, SessionExpiryInterval=60).vanish()
        assert writer.next_message().topic == f"{topic}/clock"
    with PahoClient(broker.port, client_id, stays=True) as client:
        message = client.next_message()
        got: Any = message.properties
        assert bytes(message.payload) == b"for a minute"
        assert got.MessageExpiryInterval in (57, 58)
        assert client.heard() == []


@pytest.mark.parametrize("qos", [1, 2])
@BOTH
def test_what_waited_comes_once_and_in_order(broker: BrokerProcess, version: int, qos: int, name: Name) -> None:
    topic, client_id = name(), name()
    with PahoClient(broker.port, client_id, version, stays=True) as client:
        client.subscribe(topic, qos)
    with PahoClient(broker.port, name(), version) as writer:
        for number in range(100):
            writer.publish(topic, str(number), qos)
    with PahoClient(broker.port, client_id, version, stays=True) as client:
        assert [int(client.next()[3]) for _ in range(100)] == list(range(100))
        assert client.heard() == []


def test_one_at_a_time_if_the_client_says_so(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    with (
        PahoClient(broker.port, name(), manual_ack=True, ReceiveMaximum=1) as slow,
        PahoClient(broker.port, name()) as fast,
    ):
        for client in (slow, fast):
            client.subscribe(topic)
        for number in range(3):
            fast.publish(topic, str(number))
        assert [int(fast.next()[3]) for _ in range(3)] == [0, 1, 2]
        for number in range(3):
            message = slow.next_message()
            assert int(message.payload) == number
            assert slow.messages.empty()
            slow.client.ack(message.mid, 1)


def test_what_is_too_large_for_a_client_is_not_sent_to_it(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name(), MaximumPacketSize=200) as small, PahoClient(broker.port, name()) as large:
        for client in (small, large):
            client.subscribe(topic)
        large.publish(topic, "x" * 300)
        large.publish(topic, "fits")
        assert [len(large.next()[3]) for _ in range(2)] == [300, 4]
        assert small.next()[3] == b"fits"


def test_a_client_that_sends_too_much_is_told(broker: BrokerProcess, name: Name) -> None:
    client = PahoClient(broker.port, name())
    client.client._maximum_packet_size = None  # type: ignore[attr-defined]  # it would not send it otherwise
    client.client.publish(name(), bytes(2 * 1024 * 1024), 1)
    assert client.expect_goodbye() in (0x95, 0x80)
    client.vanish()


def test_topic_aliases_are_understood_both_ways(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name(), TopicAliasMaximum=5) as client:
        client.subscribe(topic)
        client.publish(topic, "1", TopicAlias=3)
        client.publish("", "2", TopicAlias=3)
        first, second = client.next_message(), client.next_message()
    assert (first.topic, first.payload, second.payload) == (topic, b"1", b"2")
    assert told(first.properties, "TopicAlias") == told(second.properties, "TopicAlias") == 1
    assert second.topic == "", "paho leaves it to its user to resolve an alias"


# -- subscriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("handling", "expected"), [(0, [1, 1]), (1, [1, 0]), (2, [0, 0])])
def test_retain_handling(broker: BrokerProcess, name: Name, handling: int, expected: list[int]) -> None:
    topic = name()
    with PahoClient(broker.port, name()) as client:
        client.publish(topic, "kept", retain=True)
        for count in expected:
            client.subscribe(topic, 1, retainHandling=handling)
            assert client.heard() == [b"kept"] * count


@pytest.mark.parametrize("kept", [False, True])
def test_retain_as_published(broker: BrokerProcess, name: Name, kept: bool) -> None:
    topic = name()
    with PahoClient(broker.port, name()) as client:
        client.subscribe(topic, 1, retainAsPublished=kept)
        client.publish(topic, "x", retain=True)
        assert client.next() == (topic, 1, kept, b"x")


def test_no_local(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name()) as client, PahoClient(broker.port, name()) as other:
        client.subscribe(topic, 1, noLocal=True)
        client.publish(topic, "mine")
        other.publish(topic, "theirs")
        assert client.next() == (topic, 1, False, b"theirs")


def test_overlapping_subscriptions_give_one_copy_with_all_identifiers(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name()) as client:
        client.subscribe(f"{topic}/#", 0, identifier=7)
        client.subscribe(f"{topic}/+", 2, identifier=200)
        client.publish(f"{topic}/x", "once", 2)
        message = client.next_message()
        assert message.qos == 2
        assert sorted(told(message.properties, "SubscriptionIdentifier")) == [7, 200]
        assert client.heard() == []


def test_a_shared_subscription_deals_out(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    with (
        PahoClient(broker.port, name()) as one,
        PahoClient(broker.port, name()) as other,
        PahoClient(broker.port, name()) as all_of_it,
    ):
        one.subscribe(f"$share/crew/{topic}")
        other.subscribe(f"$share/crew/{topic}")
        all_of_it.subscribe(topic)
        for number in range(20):
            all_of_it.publish(topic, str(number))
        assert [int(all_of_it.next()[3]) for _ in range(20)] == list(range(20))
        parts = one.heard(), other.heard()
        assert all(parts)
        assert sorted(map(int, parts[0] + parts[1])) == list(range(20))


@BOTH
def test_unsubscribe_is_answered(broker: BrokerProcess, version: int, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name(), version) as client:
        client.subscribe(topic)
        codes = client.unsubscribe(topic), client.unsubscribe(topic)
        assert version == paho.MQTTv311 or codes == ([0], [0x11])
        client.publish(topic, "nobody hears it")
        assert client.heard() == []


def test_the_system_topics_are_there_for_who_asks(tmp_path: Path, name: Name) -> None:
    with (
        BrokerProcess(tmp_path, "--allow-anonymous", "--system-interval", "1") as broker,
        PahoClient(broker.port, name()) as everything,
        PahoClient(broker.port, name()) as client,
    ):
        everything.subscribe("#")
        client.subscribe("$SYS/broker/clients/connected")
        assert client.next()[0] == "$SYS/broker/clients/connected"
        assert client.publish("$SYS/broker/clients/connected", "9") == 0x87
        assert everything.heard() == []


# -- mosquitto's tools -------------------------------------------------------------------------------------------------


def test_mosquittos_topic_alias_is_understood(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    with MosquittoSub(broker.port, "mqttv5", topic, "-q", "1") as sub:
        for payload in ("1", "2"):
            mosquitto_pub(broker.port, "mqttv5", topic, payload, "-q", "1", "-D", "publish", "topic-alias", "3")
            assert sub.next() == (topic, 1, False, payload.encode())


def test_mosquittos_shared_subscription_deals_out(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    shared = f"$share/crew/{topic}"
    with MosquittoSub(broker.port, "mqttv5", shared) as one, MosquittoSub(broker.port, "mqttv5", shared) as other:
        for number in range(4):
            mosquitto_pub(broker.port, "mqttv5", topic, str(number), "-q", "1")
        got = [[client.next()[3], client.next()[3]] for client in (one, other)]
    assert sorted(got[0] + got[1]) == [b"0", b"1", b"2", b"3"]
