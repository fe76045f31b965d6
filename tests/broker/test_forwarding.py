"""Parts of a PUBLISH that the server forwards, and parts that it adds."""

from __future__ import annotations

from broker.forwarding import body_of, forwarded_properties, identifier_properties, render
from broker.message import Body, Message
from broker.protocol.packets import V3_1_1, V5, Properties
from broker.session_queue import MessageCopy, SharedMessage


def test_the_publishers_properties_are_kept_and_the_others_are_not() -> None:
    """[MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]"""
    pairs = [("b", "1"), ("a", "2"), ("b", "3")]
    kept = Properties(
        payload_format_indicator=1,
        content_type="text/plain",
        response_topic="answers",
        correlation_data=b"42",
        user_properties=pairs,
    )
    published = Properties(
        payload_format_indicator=1,
        content_type="text/plain",
        response_topic="answers",
        correlation_data=b"42",
        user_properties=pairs,
        topic_alias=3,
        message_expiry_interval=60,
    )
    body = body_of(b"x", published, 100.0)
    assert body.properties == kept
    assert body.expires_at == 160.0


def test_a_body_without_anything_to_forward_has_no_properties() -> None:
    assert body_of(b"x", None, 0.0).properties is None
    assert body_of(b"x", Properties(topic_alias=3), 0.0).properties is None


def test_what_is_left_of_the_expiry_interval_is_forwarded_in_whole_seconds() -> None:
    """[MQTT-3.3.2-6]"""
    body = Body(b"x", expires_at=100.0)
    assert forwarded_properties(body, lambda: 40.5) == b"\x02\x00\x00\x00\x3c"
    assert forwarded_properties(body, lambda: 99.9) == b"\x02\x00\x00\x00\x01"
    assert forwarded_properties(body, lambda: 100.0) == b"\x02\x00\x00\x00\x00"


def test_properties_are_encoded_once_per_body() -> None:
    body = Body(b"x", Properties(content_type="a"))
    first = forwarded_properties(body, lambda: 0.0)
    assert first == b"\x03\x00\x01a"
    assert forwarded_properties(body, lambda: 0.0) is first


def test_each_subscription_identifier_is_a_property_of_its_own() -> None:
    """[MQTT-3.3.4-3] [MQTT-3.3.4-4]"""
    assert identifier_properties([]) == b""
    assert identifier_properties([1, 300]) == b"\x0b\x01\x0b\xac\x02"


def test_a_copy_is_rendered_for_the_clients_version() -> None:
    copy = MessageCopy(SharedMessage(Message("a/b", Body(b"hi"))), 1, True, (9,), 0)
    assert render(copy, 0x0102, 0x08, V3_1_1, lambda: 0.0) == b"\x3b\x09\x00\x03a/b\x01\x02hi"
    assert render(copy, 0x0102, 0, V5, lambda: 0.0) == b"\x33\x0c\x00\x03a/b\x01\x02\x02\x0b\x09hi"
