"""The truth of a simulation: what is found, what is not, and that a correct server is never accused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_sim.simulator.comparison import Comparison
from client_sim.simulator.event_observer import BITS as EVENT_BITS
from client_sim.simulator.event_observer import TYPES
from client_sim.simulator.expectations import MAILBOX_DELIVERIES, MAX_ATTEMPTS, Expectations
from client_sim.simulator.human_behaviour import ACTED, DISPLAYED, OPENED

A, B = 0, 1
BITS = {name.removeprefix("delivery."): bit for name, bit in EVENT_BITS.items()}
IDS = ["kiosk-a", "kiosk-b"]


class History:
    """A ledger, with shorter words for what happens to it."""

    def __init__(self, speed: float = 1.0) -> None:
        self.expectations = Expectations(IDS, speed)
        for index in (A, B):
            self.expectations.online(index, 0.5)

    def push(
        self,
        at: float,
        *targets: int,
        ttl: float = 60,
        priority: str = "normal",
        answer: float = 0.1,
        key: str | None = None,
        qos: int = 1,
    ) -> int:
        number = self.expectations.sending(at, targets or None, ttl, priority, key, qos=qos)
        self.expectations.accepted(number, f"push-{number}", at + answer, len(targets) or len(IDS))
        return number

    def arrive(self, number: int, index: int, when: float, expires_in: int | None = None) -> None:
        self.expectations.arrived(number, index, when, expires_in)

    def leave(self, index: int, when: float) -> None:
        """With a goodbye."""
        self.expectations.away(index, when)
        self.expectations.offline(index, when + 0.1)

    def come_back(self, index: int, when: float) -> None:
        self.expectations.back(index, when)
        self.expectations.online(index, when, when - 0.1)

    def server(self, number: int, *deliveries: tuple[int, str] | tuple[int, str, str]) -> None:
        self.expectations.record_states(
            number, [(one[0], one[1], one[2] if len(one) > 2 else None) for one in deliveries]
        )

    def delivered(self, number: int, index: int, when: float) -> None:
        """As it should be."""
        self.arrive(number, index, when)
        self.server(number, (index, "delivered"))

    def compare(self) -> Comparison:
        return self.expectations.compare(1.0)


def found(history: History) -> dict[str, int]:
    """What is wrong; nothing when all is well."""
    comparison = history.compare()
    counts = {
        name: getattr(comparison, name)
        for name in (
            "lost",
            "duplicated",
            "late",
            "out_of_order",
            "expired_online",
            "disagreements",
            "violations",
            "unexplained",
            "contradictions",
            "events_wrong",
            "unanswered",
        )
    }
    wrong = {name: count for name, count in counts.items() if count}
    assert comparison.clean == (not wrong)
    assert bool(comparison.findings) == bool(wrong)
    return wrong


def fine(history: History) -> None:
    first, second = history.push(1), history.push(2, B)
    for index in (A, B):
        history.arrive(first, index, 1.2)
    history.server(first, (A, "delivered"), (B, "delivered"))
    history.delivered(second, B, 2.2)


def never_arrived(history: History) -> None:
    history.server(history.push(1, A), (A, "waiting"))


def unknown_to_the_server(history: History) -> None:
    history.push(1, A)


def booked_only(history: History) -> None:
    history.server(history.push(1, A), (A, "delivered"))


def ended_with_a_reason(history: History) -> None:
    history.expectations.offline(A, 0.9)
    history.server(history.push(1, A, key="k"), (A, "superseded", "collapse_key"))
    history.server(history.push(2, A, ttl=3), (A, "expired", "ttl"))
    newer = history.push(3, A, key="k")
    history.expectations.online(A, 9)
    history.delivered(newer, A, 9.1)


def ended_without_a_reason(history: History) -> None:
    history.push(1, A, key="k")
    history.server(0, (A, "superseded"))
    history.delivered(history.push(2, A, key="k"), A, 2.2)


def superseded_by_nothing(history: History) -> None:
    history.server(history.push(1, A, key="k"), (A, "superseded", "collapse_key"))
    history.delivered(history.push(2, B, key="k"), B, 2.2)  # of another device
    history.delivered(history.push(2, A, key="j"), A, 2.2)  # of another key


def superseded_by_what_was_under_way(history: History) -> None:
    """Two requests at a time are accepted in either order."""
    first, second = history.push(1, A, key="k", answer=0.5), history.push(1.2, A, key="k")
    history.delivered(first, A, 1.6)
    history.server(second, (A, "superseded", "collapse_key"))


def came_although_superseded(history: History) -> None:
    history.expectations.offline(A, 0.9)
    older, newer = history.push(1, A, key="k"), history.push(2, A, key="k")
    history.expectations.online(A, 5)
    history.delivered(older, A, 5.1)
    history.delivered(newer, A, 5.2)


def came_before_it_was_superseded(history: History) -> None:
    for at in (1, 2):
        history.delivered(history.push(at, A, key="k"), A, at + 0.5)


def expired_early(history: History) -> None:
    """A ttl of an hour, and the server calls it over after ten seconds."""
    history.expectations.offline(A, 0.9)
    number = history.push(1, A, ttl=3_600)
    history.expectations.record_states(number, [(A, "expired", "ttl")], read_at=11)


def expired_though_long_connected(history: History) -> None:
    history.expectations.offline(A, 0.9)
    number = history.push(1, A, ttl=60)
    history.expectations.online(A, 20)
    history.expectations.offline(A, 40)
    history.server(number, (A, "expired", "ttl"))


def overflowed_too_soon(history: History) -> None:
    history.server(history.push(1, A), (A, "overflowed", "mailbox_limit"))


def overflowed(history: History) -> None:
    history.expectations.offline(A, 0.9)
    for _ in range(1_001):
        history.server(history.push(1, A, ttl=0), (A, "overflowed", "mailbox_limit"))


def refused_by_nobody(history: History) -> None:
    history.server(history.push(1, A), (A, "refused", "reason_code_0x97"))


def given_up(history: History, attempts: int) -> None:
    history.expectations.hindered(A)
    number = history.push(1, A)
    for attempt in range(attempts):
        history.expectations.offline(A, 2 + attempt)
        history.expectations.online(A, 2.5 + attempt)
    history.server(number, (A, "refused", "not_acknowledged"))


def refused_by_a_mute_device(history: History) -> None:
    given_up(history, MAX_ATTEMPTS)


def given_up_too_soon(history: History) -> None:
    given_up(history, MAX_ATTEMPTS - 1)


def at_most_once(history: History) -> None:
    """Of QoS 0 `sent` is the last word, be it that it arrived or that the connection ended."""
    first, second = history.push(1, A, qos=0, ttl=5), history.push(2, A, qos=0)
    history.arrive(first, A, 1.1)
    history.expectations.offline(A, 2.1)
    history.expectations.record_states(first, [(A, "sent", "after_expired")], 9)
    history.expectations.record_states(second, [(A, "sent", None)], 9)


def at_most_once_and_connected(history: History) -> None:
    history.expectations.record_states(history.push(1, A, qos=0), [(A, "sent", None)], 9)


def sent_for_good(history: History) -> None:
    history.arrive(history.push(1, A), A, 1.1)
    history.server(0, (A, "sent"))


def revived_after_a_rule(history: History) -> None:
    history.expectations.may_suppress = frozenset({"no_consent"})
    history.arrive(history.push(1, A), A, 1.2)
    history.server(0, (A, "delivered", "after_suppressed"))
    history.expectations.record_events(
        "the event stream", {("push-0", A): BITS["suppressed"] | BITS["delivered"]}, TYPES
    )


def revived_after_nothing(history: History) -> None:
    for at, end in ((1, "suppressed"), (2, "superseded"), (3, "overflowed"), (4, "cancelled"), (5, "refused")):
        number = history.push(at, A)
        history.arrive(number, A, at + 0.2)
        history.server(number, (A, "delivered", f"after_{end}"))


def refused_as_invalid(history: History) -> None:
    number = history.expectations.sending(1, (A,), 60, "normal")
    history.expectations.refused(number, "push refused: invalid_request")


def sent_although_refused(history: History) -> None:
    refused_as_invalid(history)
    history.expectations.named(0, A, "push-0")
    history.delivered(0, A, 1.2)


def a_key_that_is_ignored(history: History) -> None:
    history.delivered(history.push(1, A), A, 1.2)
    history.expectations.repeated(0, "push-0")
    history.expectations.repeated(0, "another")


def waited(history: History, expires_in: int) -> None:
    history.leave(A, 0.5)
    number = history.push(1, A, ttl=60)
    history.come_back(A, 11)
    history.arrive(number, A, 11.5, expires_in)
    history.server(number, (A, "delivered"))


def told_what_is_left(history: History) -> None:
    waited(history, 50)


def told_the_expiry_of_the_acceptance(history: History) -> None:
    waited(history, 60)


def told_too_short_an_expiry(history: History) -> None:
    waited(history, 40)


def acknowledged_before_it_left(history: History) -> None:
    history.delivered(history.push(1, A), A, 1.2)
    history.leave(A, 3)
    history.come_back(A, 5)
    history.expectations.redelivered(0, A, 5.1)


def acknowledged_before_a_kill(history: History) -> None:
    history.delivered(history.push(1, A), A, 1.2)
    history.expectations.killed(1.25)
    history.leave(A, 3)
    history.come_back(A, 5)
    history.expectations.redelivered(0, A, 5.1)


def overflowing(history: History, *ended: int) -> None:
    """Four pushes wait, and these of them overflow when the fourth comes."""
    history.leave(A, 0.5)
    priorities = ("normal", "normal", "low", "normal")
    numbers = [history.push(at, A, priority=priority) for at, priority in enumerate(priorities, 3)]
    history.come_back(A, 10)
    for number in sorted(numbers, key=lambda number: priorities[number], reverse=True):
        if number in ended:
            after = {A: 6.0 - (3 + number)}
            history.expectations.record_states(number, [(A, "overflowed", "mailbox_limit")], 11, after)
        else:
            history.delivered(number, A, 10 + number / 10 + priorities[number].count("low"))
    history.expectations._sent_to[A] = MAILBOX_DELIVERIES


def overflowed_in_order(history: History) -> None:
    overflowing(history, 0, 2)


def overflowed_newest_first(history: History) -> None:
    overflowing(history, 2, 3)


def overflowed_urgent_first(history: History) -> None:
    overflowing(history, 0)


def listed(history: History, *numbers: int) -> None:
    history.leave(A, 0.5)
    for at, priority in enumerate(("low", "critical", "low"), 3):
        history.push(at, A, priority=priority)
    history.expectations.check_mailbox(A, [f"push-{number}" for number in numbers], (8, 8.1))
    history.come_back(A, 10)
    for turn, number in enumerate((1, 0, 2)):
        history.delivered(number, A, 10.1 + turn / 10)


def listed_in_order(history: History) -> None:
    listed(history, 1, 0, 2)


def left_out_of_the_list(history: History) -> None:
    listed(history, 1, 2)


def listed_out_of_order(history: History) -> None:
    listed(history, 1, 2, 0)


def listed_by_age(history: History) -> None:
    listed(history, 0, 1, 2)


def cancelled_by_nobody(history: History) -> None:
    history.server(history.push(1, A), (A, "cancelled", "recalled"))


def suppressed_by_no_rule(history: History) -> None:
    history.expectations.may_suppress = frozenset({"capped"})
    history.server(history.push(1, A), (A, "suppressed", "no_consent"))


def suppressed_because_its_person_left(history: History) -> None:
    history.expectations.departures.left(A, 2.0, None, False)
    history.server(history.push(1, A), (A, "suppressed", "no_consent"))
    history.server(history.push(3, A), (A, "suppressed", "no_consent"))


def revived_after_its_person_left(history: History) -> None:
    history.expectations.departures.left(A, 1.1, None, False)
    number = history.push(1, A)
    history.arrive(number, A, 1.2)
    history.server(number, (A, "delivered", "after_suppressed"))


def revived_after_another_person_left(history: History) -> None:
    history.expectations.departures.left(B, 1.1, None, False)
    number = history.push(1, A)
    history.arrive(number, A, 1.2)
    history.server(number, (A, "delivered", "after_suppressed"))


def suppressed_for_another_reason(history: History) -> None:
    history.expectations.departures.left(A, 0.5, None, False)
    history.server(history.push(1, A), (A, "suppressed", "channel_muted"))


def another_person_left(history: History) -> None:
    history.expectations.departures.left(B, 0.5, None, False)
    history.server(history.push(1, A), (A, "suppressed", "no_consent"))


def it_came_though_its_person_had_left(history: History) -> None:
    history.expectations.departures.left(A, 0.5, None, False)
    history.expectations.departures.left(A, 0.6, None, True)
    number = history.push(1, A)
    history.arrive(number, A, 1.2)
    history.server(number, (A, "delivered"))


def it_came_before_the_server_knew(history: History) -> None:
    history.expectations.departures.left(A, 0.5, None, False)
    number = history.push(1, A)
    history.arrive(number, A, 1.2)
    history.server(number, (A, "delivered"))
    history.expectations.departures.left(A, 1.3, None, True)


def in_another_channel_than_the_muted_one(history: History) -> None:
    history.expectations.departures.left(A, 0.5, "offers", True)
    number = history.push(1, A)
    history.arrive(number, A, 1.2)
    history.server(number, (A, "delivered"))


def suppressed_by_a_rule(history: History) -> None:
    history.expectations.may_suppress = frozenset({"capped"})
    history.server(history.push(1, A), (A, "suppressed", "capped"))


def drained_out_of_priority(history: History) -> None:
    history.expectations.away(A, 0.5)
    history.expectations.offline(A, 0.6)
    low, critical = history.push(2, A, priority="low"), history.push(3, A, priority="critical")
    history.expectations.back(A, 4)
    history.expectations.online(A, 4)
    history.delivered(low, A, 4.1)
    history.delivered(critical, A, 4.2)


def in_no_priority_after_a_cut(history: History) -> None:
    """To a connection that died unseen something may have been handed over; that comes first."""
    history.expectations.offline(A, 0.6)
    low, critical = history.push(2, A, priority="low"), history.push(3, A, priority="critical")
    history.expectations.online(A, 4)
    history.delivered(low, A, 4.1)
    history.delivered(critical, A, 4.2)


def an_event_untold(history: History) -> None:
    number = history.push(1)
    for index in (A, B):
        history.arrive(number, index, 1.2)
    history.server(number, (A, "delivered"), (B, "delivered"))
    history.expectations.record_events("the webhook", {("push-0", A): BITS["delivered"]}, ("delivery.delivered",))


def told_by_one_alone(history: History) -> None:
    number = history.push(1, A)
    history.arrive(number, A, 1.2)
    history.expectations.receipt_acknowledged(number, A, DISPLAYED)
    history.server(number, (A, "displayed"))
    displayed, both = BITS["displayed"], BITS["displayed"] | BITS["delivered"]
    history.expectations.record_events("the event stream", {("push-0", A): displayed}, TYPES)
    history.expectations.record_events(
        "the webhook", {("push-0", A): both}, ("delivery.delivered", "delivery.displayed")
    )


def an_event_of_nothing(history: History) -> None:
    history.delivered(history.push(1, A), A, 1.2)
    history.expectations.record_events("the event stream", {("push-0", A): BITS["delivered"] | BITS["opened"]}, TYPES)


def an_event_that_was_not_asked_for(history: History) -> None:
    history.delivered(history.push(1, A), A, 1.2)
    history.expectations.record_events("the webhook", {}, ("delivery.acted",))


def revived(history: History) -> None:
    """Both events are true: it expired, and a receipt proved that it had arrived."""
    number = history.push(1, A, ttl=2)
    history.arrive(number, A, 1.5)
    history.server(number, (A, "delivered", "after_expired"))
    history.expectations.record_events("the event stream", {("push-0", A): BITS["expired"] | BITS["delivered"]}, TYPES)


def never_acknowledged(history: History) -> None:
    history.delivered(history.push(1, A), A, 1.2)
    history.expectations.unanswered(0, A)


def contradictory(history: History) -> None:
    history.delivered(history.push(1, A), A, 1.2)
    history.expectations.contradicts(0, -1, "counts sum to 2")


def for_too_few(history: History) -> None:
    number = history.expectations.sending(1, None, 60, "normal")
    history.expectations.accepted(number, "push-0", 1.1, 1)
    for index in (A, B):
        history.arrive(number, index, 1.2)
    history.server(number, (A, "delivered"), (B, "delivered"))


def twice(history: History) -> None:
    number = history.push(1, A)
    history.delivered(number, A, 1.2)
    history.expectations.duplicated(number, A, 1.3)


def two_pushes_of_one_request(history: History) -> None:
    number = history.push(1, A)
    history.delivered(number, A, 1.2)
    history.expectations.named(number, A, "push-of-the-repetition")


def under_way_at_its_end(history: History) -> None:
    history.delivered(history.push(1, A, ttl=5), A, 1.1 + 5 + 0.9)


def late(history: History) -> None:
    history.delivered(history.push(1, A, ttl=5), A, 1.1 + 5 + 1.1)


def overtaken(history: History) -> None:
    first, second = history.push(1, A), history.push(2, A)
    history.delivered(second, A, 2.2)
    history.delivered(first, A, 2.3)


def overtaken_by_what_was_asked_for_before_its_promise(history: History) -> None:
    first, second = history.push(1, A, answer=1.5), history.push(2, A)
    history.delivered(second, A, 2.2)
    history.delivered(first, A, 2.6)


def overtaken_by_another_priority(history: History) -> None:
    first, second = history.push(1, A, priority="low"), history.push(2, A, priority="critical")
    history.delivered(second, A, 2.2)
    history.delivered(first, A, 2.3)


def overtaken_on_another_device(history: History) -> None:
    first, second = history.push(1, A), history.push(2, B)
    history.delivered(second, B, 2.2)
    history.delivered(first, A, 2.3)


def expired_online(history: History) -> None:
    history.server(history.push(1, A, ttl=5), (A, "expired", "ttl"))


def expired_after_a_break(history: History) -> None:
    number = history.push(1, A, ttl=5)
    history.expectations.offline(A, 3)
    history.expectations.online(A, 3.1)
    history.server(number, (A, "expired", "ttl"))


def expired_while_kept_away(history: History) -> None:
    history.expectations.away(A, 0.9)
    number = history.push(1, A, ttl=5)
    history.expectations.back(A, 7)
    history.server(number, (A, "expired", "ttl"))


def gone_when_it_was_late(history: History) -> None:
    number = history.push(1, A, ttl=5)
    history.expectations.offline(A, 6.2)
    history.server(number, (A, "expired", "ttl"))


def unbooked(history: History) -> None:
    number = history.push(1, A)
    history.arrive(number, A, 1.2)
    history.server(number, (A, "expired", "ttl"))


def at_a_stranger(history: History) -> None:
    number = history.push(1, A)
    history.delivered(number, A, 1.2)
    history.arrive(number, B, 1.2)


def booked_for_a_stranger(history: History) -> None:
    number = history.push(1, A)
    history.delivered(number, A, 1.2)
    history.server(number, (B, "delivered"))


def receipt_unheard(history: History) -> None:
    number = history.push(1, A)
    history.delivered(number, A, 1.2)
    history.expectations.receipt_acknowledged(number, A, OPENED)


def receipt_invented(history: History) -> None:
    number = history.push(1, A)
    history.arrive(number, A, 1.2)
    history.expectations.receipt_acknowledged(number, A, DISPLAYED)
    history.server(number, (A, "acted"))


def receipts_in_another_order(history: History) -> None:
    number = history.push(1, A)
    history.arrive(number, A, 1.2)
    for level in (ACTED, DISPLAYED, OPENED):
        history.expectations.receipt_acknowledged(number, A, level)
    history.server(number, (A, "acted"))


def forbidden_by_the_protocol(history: History) -> None:
    history.expectations.violation(-1, A, "PUBACK for packet identifier 7, which is not in flight")


def sent_again(history: History) -> None:
    history.delivered(history.push(1, A), A, 1.2)
    for _ in range(3):
        history.expectations.redelivered(0, A, 1.3)


def unanswered_and_never_seen(history: History) -> None:
    history.expectations.sending(1, (A,), 60, "normal")


def unanswered_but_arrived(history: History) -> None:
    number = history.expectations.sending(1, (A,), 60, "normal")
    history.expectations.named(number, A, "push-0")
    history.delivered(number, A, 1.2)


@pytest.mark.parametrize(
    ("happens", "wrong"),
    [
        (fine, {}),
        (never_arrived, {"lost": 1}),
        (unknown_to_the_server, {"lost": 1}),
        (booked_only, {"lost": 1, "disagreements": 1}),
        (ended_with_a_reason, {}),
        (ended_without_a_reason, {"lost": 1}),
        (superseded_by_nothing, {"unexplained": 1}),
        (superseded_by_what_was_under_way, {}),
        (came_although_superseded, {"unexplained": 1}),
        (came_before_it_was_superseded, {}),
        (expired_early, {"unexplained": 1}),
        (expired_though_long_connected, {"expired_online": 1}),
        (overflowed_too_soon, {"unexplained": 1}),
        (overflowed, {}),
        (refused_by_nobody, {"unexplained": 1}),
        (refused_by_a_mute_device, {}),
        (given_up_too_soon, {"unexplained": 1}),
        (at_most_once, {}),
        (at_most_once_and_connected, {"lost": 1}),
        (sent_for_good, {"disagreements": 1}),
        (revived_after_a_rule, {}),
        (revived_after_nothing, {"unexplained": 5}),
        (refused_as_invalid, {"contradictions": 1}),
        (sent_although_refused, {"contradictions": 1, "disagreements": 1}),
        (a_key_that_is_ignored, {"duplicated": 1}),
        (told_what_is_left, {}),
        (told_the_expiry_of_the_acceptance, {"late": 1}),
        (told_too_short_an_expiry, {"late": 1}),
        (acknowledged_before_it_left, {"violations": 1}),
        (acknowledged_before_a_kill, {}),
        (overflowed_in_order, {}),
        (overflowed_newest_first, {"unexplained": 1}),
        (overflowed_urgent_first, {"unexplained": 1}),
        (listed_in_order, {}),
        (left_out_of_the_list, {"contradictions": 1}),
        (listed_out_of_order, {"contradictions": 1}),
        (listed_by_age, {"contradictions": 1}),
        (cancelled_by_nobody, {"unexplained": 1}),
        (suppressed_by_no_rule, {"unexplained": 1}),
        (suppressed_by_a_rule, {}),
        (suppressed_because_its_person_left, {}),
        (revived_after_its_person_left, {}),
        (revived_after_another_person_left, {"unexplained": 1}),
        (suppressed_for_another_reason, {"unexplained": 1}),
        (another_person_left, {"unexplained": 1}),
        (it_came_though_its_person_had_left, {"unexplained": 1}),
        (it_came_before_the_server_knew, {}),
        (in_another_channel_than_the_muted_one, {}),
        (drained_out_of_priority, {"out_of_order": 1}),
        (in_no_priority_after_a_cut, {}),
        (an_event_untold, {"events_wrong": 1}),
        (an_event_of_nothing, {"events_wrong": 1}),
        (told_by_one_alone, {"events_wrong": 1}),
        (an_event_that_was_not_asked_for, {}),
        (revived, {}),
        (never_acknowledged, {"unanswered": 1}),
        (contradictory, {"contradictions": 1}),
        (for_too_few, {"lost": 1}),
        (twice, {"duplicated": 1}),
        (two_pushes_of_one_request, {"duplicated": 1}),
        (under_way_at_its_end, {}),
        (late, {"late": 1}),
        (overtaken, {"out_of_order": 1}),
        (overtaken_by_what_was_asked_for_before_its_promise, {}),
        (overtaken_by_another_priority, {}),
        (overtaken_on_another_device, {}),
        (expired_online, {"expired_online": 1}),
        (expired_after_a_break, {}),
        (expired_while_kept_away, {}),
        (gone_when_it_was_late, {"expired_online": 1}),
        (unbooked, {"disagreements": 1}),
        (at_a_stranger, {"disagreements": 1}),
        (booked_for_a_stranger, {"disagreements": 1}),
        (receipt_unheard, {"disagreements": 1}),
        (receipt_invented, {"disagreements": 1}),
        (receipts_in_another_order, {}),
        (forbidden_by_the_protocol, {"violations": 1}),
        (sent_again, {}),
        (unanswered_and_never_seen, {}),
        (unanswered_but_arrived, {}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_wrong_is_found_and_nothing_else(happens: Callable[[History], None], wrong: dict[str, int]) -> None:
    history = History()
    happens(history)
    assert found(history) == wrong


def test_a_ttl_counts_on_the_server_s_clock() -> None:
    history = History(speed=100)
    history.delivered(history.push(1, A, ttl=500), A, 1.1 + 5 + 0.9)
    history.delivered(history.push(10, B, ttl=500), B, 10.1 + 5 + 1.1)
    assert found(history) == {"late": 1}


def test_a_finding_names_push_and_device() -> None:
    history = History()
    late(history)
    (finding,) = history.compare().findings
    assert (finding.kind, finding.push_id, finding.device_id) == ("late", "push-0", "kiosk-a")
    assert finding.detail == "it took effect 1.100 s after its end"


def test_no_kind_of_finding_crowds_out_another() -> None:
    history = History()
    for second in range(2_000):
        history.server(history.push(second + 1, A), (A, "waiting"))
    overtaken(history)
    comparison = history.compare()
    assert comparison.lost == 2_000
    assert {finding.kind for finding in comparison.findings} == {"lost", "out_of_order"}
    assert len(comparison.findings) < 200


# A server and its devices in a few lines, to be right or wrong on purpose.


@dataclass
class Delivery:
    number: int
    index: int
    expires: float
    priority: str
    state: str = "waiting"
    level: int = -1


class Model:
    """Correct: hands over in order by priority, to who is online, nothing after its ttl, once."""

    def __init__(self) -> None:
        self.expectations = Expectations(IDS)
        self.now = 1.0
        self.online = [False, False]
        self.deliveries: list[Delivery] = []

    def tick(self) -> None:
        self.now += 0.25
        for one in self.deliveries:
            if one.state == "waiting" and one.expires <= self.now:
                one.state = "expired"

    def push(self, targets: tuple[int, ...], ttl: int, priority: str) -> None:
        number = self.expectations.sending(self.now, targets, ttl, priority)
        # Answered when it is stored; handed over after that.
        self.deliveries += [Delivery(number, index, self.now + ttl, priority) for index in targets]
        self.expectations.accepted(number, f"push-{number}", self.now, len(targets))
        self.hand_over()

    def hand_over(self) -> None:
        for one in sorted(self.deliveries, key=lambda one: ("critical", "normal").index(one.priority)):
            if one.state == "waiting" and self.online[one.index]:
                one.state, one.level = "delivered", 0
                self.expectations.arrived(one.number, one.index, self.now)

    def switch(self, index: int) -> None:
        self.online[index] = not self.online[index]
        if self.online[index]:
            self.expectations.online(index, self.now)
            self.hand_over()
        else:
            self.expectations.offline(index, self.now)

    def receipt(self, level: int) -> None:
        for one in self.deliveries:
            if one.level >= 0 and one.level < level:
                one.level, one.state = level, ("delivered", "displayed", "opened", "acted")[level]
                self.expectations.receipt_acknowledged(one.number, one.index, level)
                return

    def compare(self) -> Comparison:
        for index in (A, B):
            if not self.online[index]:
                self.switch(index)
        for one in self.deliveries:
            reason = "some" if one.state in ("expired", "overflowed") else None
            self.expectations.record_states(one.number, [(one.index, one.state, reason)])
        return self.expectations.compare(0.5)


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"),
            st.sampled_from([(A,), (B,), (A, B)]),
            st.integers(1, 10),
            st.sampled_from(["critical", "normal"]),
        ),
        st.tuples(st.just("switch"), st.sampled_from([A, B])),
        st.tuples(st.just("receipt"), st.sampled_from([DISPLAYED, OPENED, ACTED])),
        st.tuples(st.just("tick")),
    ),
    max_size=60,
)


def played(steps: list[tuple[Any, ...]]) -> Model:
    model = Model()
    for name, *arguments in steps:
        getattr(model, name)(*arguments)
    return model


@given(STEPS)
def test_a_correct_server_is_never_accused(steps: list[tuple[Any, ...]]) -> None:
    model = played(steps)
    comparison = model.compare()
    assert comparison.clean, comparison.findings
    assert comparison.deliveries == len(model.deliveries) == comparison.delivered + sum(comparison.ended.values())


def drop(model: Model, victim: Delivery) -> None:
    victim.state = "delivered"


def unbook(model: Model, victim: Delivery) -> None:
    model.expectations.arrived(victim.number, victim.index, model.now)
    victim.state = "overflowed"


def repeat(model: Model, victim: Delivery) -> None:
    model.expectations.arrived(victim.number, victim.index, model.now)
    model.expectations.arrived(victim.number, victim.index, model.now)
    victim.state = "delivered"


def delay(model: Model, victim: Delivery) -> None:
    model.expectations.arrived(victim.number, victim.index, victim.expires + 1)
    victim.state = "delivered"


def invent(model: Model, victim: Delivery) -> None:
    model.expectations.arrived(victim.number, victim.index, model.now)
    victim.state = "acted"


FAULTS: dict[Callable[[Model, Delivery], None], set[str]] = {
    drop: {"lost", "disagreements"},
    unbook: {"disagreements"},
    repeat: {"duplicated"},
    delay: {"late"},
    invent: {"disagreements"},
}


@settings(max_examples=50)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@given(steps=STEPS)
def test_one_fault_among_much_that_is_right_is_found(
    fault: Callable[[Model, Delivery], None], steps: list[tuple[Any, ...]]
) -> None:
    model = played(steps)
    model.online = [False, False]
    for index in (A, B):
        model.expectations.offline(index, model.now)
    model.push((A,), 5, "normal")
    fault(model, model.deliveries[-1])
    comparison = model.compare()
    wrong = {name for name in ("lost", "duplicated", "late", "disagreements") if getattr(comparison, name)}
    assert wrong == FAULTS[fault]


SIZE = """
import resource
from client_sim.simulator.expectations import Expectations

devices, pushes = 10_000, 200
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
expectations = Expectations([f"device-{index}" for index in range(devices)])
for second in range(1, pushes + 1):
    number = expectations.sending(second, None, 60, "normal")
    expectations.accepted(number, f"push-{number}", second, devices)
    for index in range(devices):
        expectations.arrived(number, index, second + 0.1)
    expectations.record_states(number, ((index, "delivered", None) for index in range(devices)))
comparison = expectations.compare(1.0)
assert comparison.clean and comparison.delivered == devices * pushes, comparison
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.full_only
@pytest.mark.long
def test_two_million_deliveries_fit() -> None:
    result = subprocess.run([sys.executable, "-c", SIZE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 1_024, "MiB"
