"""Answers leave in order, each when nothing is missing for it."""

from __future__ import annotations

from broker.answers import Answer, Answers
from broker.protocol.packets import Packet, Puback


def ids(packets: list[Packet]) -> list[int]:
    return [packet.packet_id for packet in packets if isinstance(packet, Puback)]


def test_a_later_answer_waits_for_an_earlier_one() -> None:
    """[MQTT-4.6.0-2]"""
    left: list[Packet] = []
    answers = Answers(left.append)
    first, second, third = (Answer(Puback(number), 1, None) for number in (1, 2, 3))
    for answer in (first, second, third):
        answers.owe(answer)
    answers.fulfil(second)
    assert ids(left) == []
    answers.fulfil(first)
    assert ids(left) == [1, 2]
    assert len(answers) == 1
    answers.fulfil(third)
    assert ids(left) == [1, 2, 3]
    assert len(answers) == 0


def test_all_that_is_missing_must_come_and_then_something_may_follow() -> None:
    left: list[Packet] = []
    answers = Answers(left.append)
    answer = Answer(Puback(1), 2, lambda: left.append(Puback(99)))
    answers.owe(answer)
    answers.fulfil(answer)
    assert not left
    answers.fulfil(answer)
    assert ids(left) == [1, 99]


def test_what_follows_may_owe_and_fulfil() -> None:
    left: list[Packet] = []
    answers = Answers(left.append)
    second = Answer(Puback(2), 1, None)
    first = Answer(Puback(1), 1, lambda: answers.fulfil(second))
    answers.owe(first)
    answers.owe(second)
    answers.fulfil(first)
    assert ids(left) == [1, 2]


def test_nothing_leaves_a_connection_that_has_ended() -> None:
    left: list[Packet] = []
    answers = Answers(left.append)
    answer = Answer(Puback(1), 1, None)
    answers.owe(answer)
    answers.drop()
    answers.fulfil(answer)
    assert not left
