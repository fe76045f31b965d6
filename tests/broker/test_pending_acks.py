"""Acknowledgements leave in order, each when its conditions are met."""

from __future__ import annotations

from broker.pending_acks import PendingAck, PendingAcks
from broker.protocol.packets import Packet, Puback


def ids(packets: list[Packet]) -> list[int]:
    return [packet.packet_id for packet in packets if isinstance(packet, Puback)]


def test_a_later_acknowledgement_waits_for_an_earlier_one() -> None:
    """[MQTT-4.6.0-2]"""
    sent: list[Packet] = []
    acks = PendingAcks(sent.append)
    first, second, third = (PendingAck(Puback(number), 1, None) for number in (1, 2, 3))
    for ack in (first, second, third):
        acks.append(ack)
    acks.condition_met(second)
    assert ids(sent) == []
    acks.condition_met(first)
    assert ids(sent) == [1, 2]
    assert len(acks) == 1
    acks.condition_met(third)
    assert ids(sent) == [1, 2, 3]
    assert len(acks) == 0


def test_all_conditions_must_be_met_before_the_callback() -> None:
    sent: list[Packet] = []
    acks = PendingAcks(sent.append)
    ack = PendingAck(Puback(1), 2, lambda: sent.append(Puback(99)))
    acks.append(ack)
    acks.condition_met(ack)
    assert not sent
    acks.condition_met(ack)
    assert ids(sent) == [1, 99]


def test_a_callback_may_append_and_meet_conditions() -> None:
    sent: list[Packet] = []
    acks = PendingAcks(sent.append)
    second = PendingAck(Puback(2), 1, None)
    first = PendingAck(Puback(1), 1, lambda: acks.condition_met(second))
    acks.append(first)
    acks.append(second)
    acks.condition_met(first)
    assert ids(sent) == [1, 2]


def test_nothing_leaves_a_connection_that_has_ended() -> None:
    sent: list[Packet] = []
    acks = PendingAcks(sent.append)
    ack = PendingAck(Puback(1), 1, None)
    acks.append(ack)
    acks.clear()
    acks.condition_met(ack)
    assert not sent
