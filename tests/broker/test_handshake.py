"""The terms that CONNECT asks for and CONNACK grants."""

from __future__ import annotations

import pytest

from broker.handshake import (
    RECEIVE_MAXIMUM_MESSAGES,
    connack_properties,
    disconnect_packet,
    published_will,
    refusing_connack,
    terms_of,
    will_of,
)
from broker.protocol.packets import V3_1_1, V5, Connect, Properties, ReasonCode, Will
from broker.settings import BrokerSettings

SETTINGS = BrokerSettings(max_session_expiry=1000)


def test_a_3_1_1_session_ends_at_once_or_stays_as_long_as_allowed() -> None:
    """[MQTT-3.1.2-4] [MQTT-3.1.2-6] of 3.1.1"""
    assert terms_of(Connect("a", V3_1_1, clean_start=True), SETTINGS).expiry_interval == 0
    assert terms_of(Connect("a", V3_1_1, clean_start=False), SETTINGS).expiry_interval == 1000


def test_a_5_0_session_lives_as_long_as_asked_up_to_the_limit() -> None:
    """MQTT 5.0, 3.1.2.11.2: absent means 0, and a shorter grant is told in CONNACK."""
    for asked, granted, told in ((None, 0, None), (0, 0, None), (60, 60, None), (5000, 1000, 1000)):
        connect = Connect("a", V5, properties=Properties(session_expiry_interval=asked))
        terms = terms_of(connect, SETTINGS)
        assert terms.expiry_interval == granted
        assert connack_properties(connect, terms, SETTINGS).session_expiry_interval == told


def test_an_absent_client_identifier_is_assigned_and_told() -> None:
    """[MQTT-3.1.3-6] [MQTT-3.1.3-7]"""
    connect = Connect("", V5)
    terms = terms_of(connect, SETTINGS)
    assert terms.client_id
    assert terms.client_id != terms_of(connect, SETTINGS).client_id
    assert connack_properties(connect, terms, SETTINGS).assigned_client_identifier == terms.client_id


def test_the_servers_keep_alive_caps_that_of_5_0_clients_only() -> None:
    """[MQTT-3.1.2-21]: a 3.1.1 client could not be told. 0 is none at all."""
    settings = BrokerSettings(server_keep_alive=7)
    for version, asked, keep_alive, told in (
        (V5, 60, 7, 7), (V5, 0, 7, 7), (V5, 7, 7, None), (V5, 3, 3, None), (V3_1_1, 60, 60, None), (V3_1_1, 0, 0, None),
    ):  # fmt: skip
        connect = Connect("a", version, keep_alive=asked)
        terms = terms_of(connect, settings)
        assert terms.keep_alive == keep_alive
        if version == V5:
            assert connack_properties(connect, terms, settings).server_keep_alive == told


def test_without_a_cap_the_clients_keep_alive_holds() -> None:
    for cap in (None, 0):
        connect = Connect("a", V5, keep_alive=60)
        terms = terms_of(connect, BrokerSettings(server_keep_alive=cap))
        assert terms.keep_alive == 60
        assert connack_properties(connect, terms, SETTINGS).server_keep_alive is None


def test_limits_of_the_client_have_the_specifications_defaults() -> None:
    terms = terms_of(Connect("a", V5), SETTINGS)
    assert terms.receive_maximum == RECEIVE_MAXIMUM_MESSAGES
    assert terms.maximum_packet_size == 268_435_460
    terms = terms_of(Connect("a", V5, properties=Properties(receive_maximum=3, maximum_packet_size=99)), SETTINGS)
    assert (terms.receive_maximum, terms.maximum_packet_size) == (3, 99)


def test_the_expiry_of_a_will_begins_when_it_is_published() -> None:
    """The interval starts with the publication (MQTT 5.0, 3.1.3.2.4)."""
    properties = Properties(will_delay_interval=30, message_expiry_interval=10, content_type="text/plain")
    will = will_of(Connect("a", V5, will=Will("gone", b"w", 1, True, properties)))
    assert will is not None
    assert (will.delay, will.due_at, will.message.body.expires_at) == (30, None, None)
    message = published_will(will, 500.0)
    assert (message.topic, message.qos, message.retain) == ("gone", 1, True)
    assert message.body.expires_at == 510.0
    assert message.body.properties == Properties(content_type="text/plain")


def test_a_plain_will_has_no_properties() -> None:
    will = will_of(Connect("a", V3_1_1, will=Will("gone", b"w")))
    assert will is not None
    assert published_will(will, 1.0).body.properties is None
    assert will_of(Connect("a")) is None


def test_a_refusal_says_no_more_than_the_client_takes() -> None:
    """[MQTT-3.2.2-20], and before a client has said how much that is, nothing more."""
    hint = [("retry-after", "7")]
    told = b"\x20\x14\x00\x89\x11\x26\x00\x0bretry-after\x00\x017"
    bare = b"\x20\x03\x00\x89\x00"
    for limit, expected in ((None, told), (len(told), told), (len(told) - 1, bare)):
        terms = terms_of(Connect("a", V5, properties=Properties(maximum_packet_size=limit)), SETTINGS)
        assert refusing_connack(0x89, V5, terms, hint) == expected
    assert refusing_connack(0x89, V5, None, hint) == bare
    assert refusing_connack(0x89, V3_1_1, terms_of(Connect("a", V3_1_1), SETTINGS), hint) == b"\x20\x02\x00\x03"


def test_a_goodbye_says_no_more_than_the_client_takes() -> None:
    """[MQTT-3.14.2-3] [MQTT-3.14.2-4]: the reason for people goes first, then the hint."""
    hint = [("retry-after", "7")]
    both = b"\xe0\x1a\x8b\x18\x1f\x00\x04over\x26\x00\x0bretry-after\x00\x017"
    hinted = b"\xe0\x13\x8b\x11\x26\x00\x0bretry-after\x00\x017"
    bare = b"\xe0\x01\x8b"
    for limit, expected in ((len(both), both), (len(both) - 1, hinted), (len(hinted), hinted), (len(hinted) - 1, bare)):
        terms = terms_of(Connect("a", V5, properties=Properties(maximum_packet_size=limit)), SETTINGS)
        assert disconnect_packet(0x8B, "over", terms, hint) == expected
        assert disconnect_packet(0x8B, "over", terms, []) in (b"\xe0\x09\x8b\x07\x1f\x00\x04over", bare)


@pytest.mark.parametrize(
    ("reason_code", "said"),
    [
        (ReasonCode.SERVER_SHUTTING_DOWN, ReasonCode.SERVER_UNAVAILABLE),
        (ReasonCode.SESSION_TAKEN_OVER, ReasonCode.UNSPECIFIED_ERROR),
        (ReasonCode.SERVER_BUSY, ReasonCode.SERVER_BUSY),
    ],
)
def test_a_connack_has_no_code_that_only_a_disconnect_may_have(reason_code: ReasonCode, said: ReasonCode) -> None:
    assert refusing_connack(reason_code, V5, None, []) == bytes((0x20, 3, 0, said, 0))  # [MQTT-3.2.2-8]
