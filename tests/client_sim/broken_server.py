"""`python broken_server.py FAULT serve ...`: Fleetpush with a fault that a simulation has to find.

drops          one of 1,000 deliveries is booked as delivered and never sent
sends-twice    one of 1,000 is sent a second time on the same connection
answers-twice  each receipt is acknowledged twice
too-late       pushes live half a minute longer than their sender said
superseded, suppressed, overflowed, cancelled, refused
               one of 100 ends so for no reason, instead of being sent
too-early      one of 100 expires at once, whatever its ttl
miscounts      the counts of a push leave a delivery out
no-answer      one receipt of 100 is booked and never acknowledged
no-webhook     one request of three to a webhook is not made, and counts as taken
no-event       the first event of one page of three is not sent on an event stream
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Sequence
from typing import Any

from broker.connection import Connection
from broker.protocol.packets import Publish
from gateway.cli import main
from gateway.delivery import acceptance, reports
from gateway.delivery.engine import ACKNOWLEDGED, EmbeddedEngine, Engine, Message
from gateway.delivery.event_log import Page, log_handles
from gateway.delivery.ledger import DEVICE_BITS, DEVICE_MASK
from gateway.delivery.mailbox import Mailbox
from gateway.delivery.states import DeliveryState
from gateway.delivery.submission import AppRef, Draft, Submission, draft_of
from gateway.outreach.couriers import Couriers
from gateway.outreach.event_feed import EventFeed
from gateway.outreach.guarded_client import Answer

EVERY = 1_000
LONGER = 30
"""Seconds."""


Deliver = Callable[[Message, int], bool]


def drops() -> None:
    attach = Mailbox.attach
    mailboxes: list[Mailbox] = []

    def attach_and_remember(self: Mailbox, engine: Engine) -> None:
        mailboxes.append(self)
        attach(self, engine)

    def pretend(client_id: str, deliver: Deliver, message: Message, handle: int) -> bool:
        asyncio.get_running_loop().call_soon(mailboxes[0].settled, client_id, handle, ACKNOWLEDGED)
        return True

    Mailbox.attach = attach_and_remember  # type: ignore[method-assign]
    now_and_then(pretend)


def sends_twice() -> None:
    def twice(client_id: str, deliver: Deliver, message: Message, handle: int) -> bool:
        return deliver(message, handle) and deliver(message, handle)

    now_and_then(twice)


def now_and_then(instead: Callable[[str, Deliver, Message, int], bool], every: int = EVERY) -> None:
    """One of so many messages is delivered by `instead(client_id, deliver, message, handle)`."""
    outlet = EmbeddedEngine.outlet
    handed_over = 0

    def wrapped(self: EmbeddedEngine, client_id: str) -> Deliver:
        deliver = outlet(self, client_id)

        def deliver_mostly(message: Message, handle: int) -> bool:
            nonlocal handed_over
            handed_over += 1
            if handed_over % every:
                return deliver(message, handle)
            return instead(client_id, deliver, message, handle)

        return deliver_mostly

    EmbeddedEngine.outlet = wrapped  # type: ignore[method-assign]


def answers_twice() -> None:
    owe = Connection._owe_acknowledgement

    def owe_two(self: Connection, publish: Publish, unheard: int) -> Callable[[int], None]:
        both = owe(self, publish, unheard), owe(self, publish, unheard)

        def done(reason_code: int) -> None:
            for one in both:
                one(reason_code)

        return done

    Connection._owe_acknowledgement = owe_two  # type: ignore[method-assign]


def too_late() -> None:
    def longer(app: AppRef, submission: Submission, max_payload: int, fetch_from: str | None) -> Draft:
        submission.request.__dict__["ttl"] += LONGER
        return draft_of(app, submission, max_payload, fetch_from)

    vars(acceptance)["draft_of"] = longer


def ends(state: DeliveryState, reason: str) -> Callable[[], None]:
    """Instead of being sent one of 100 ends in `state`; its event is told, as of one that ended so by right."""

    def plant() -> None:
        attach = Mailbox.attach
        mailboxes: list[Mailbox] = []

        def attach_and_remember(self: Mailbox, engine: Engine) -> None:
            mailboxes.append(self)
            attach(self, engine)

        def end(client_id: str, deliver: Deliver, message: Message, handle: int) -> bool:
            mailbox = mailboxes[0]
            now = mailbox._clock()

            def operation(connection: sqlite3.Connection) -> None:
                connection.execute(
                    "UPDATE delivery SET state = ?, reason = ?, ended_at = ? WHERE push_no = ? AND device_no = ?",
                    (state, reason, now, handle >> DEVICE_BITS, handle & DEVICE_MASK),
                )
                log_handles(connection, state.label, now, [handle], reason)

            mailbox._database.submit(operation, lambda _: None, lambda error: None)
            return False

        Mailbox.attach = attach_and_remember  # type: ignore[method-assign]
        now_and_then(end, 100)

    return plant


def miscounts() -> None:
    count_states = reports.count_states

    def count_wrongly(connection: sqlite3.Connection, push_no: int, sent: Sequence[int]) -> dict[str, int]:
        counts = count_states(connection, push_no, sent)
        return {state: count - (count == max(counts.values())) for state, count in counts.items()}

    vars(reports)["count_states"] = count_wrongly


def no_answer() -> None:
    owe = Connection._owe_acknowledgement
    heard = 0

    def owe_mostly(self: Connection, publish: Publish, unheard: int) -> Callable[[int], None]:
        nonlocal heard
        heard += 1
        return owe(self, publish, unheard) if heard % 100 else lambda reason_code: None

    Connection._owe_acknowledgement = owe_mostly  # type: ignore[method-assign]


def no_webhook() -> None:
    attempt = Couriers._attempt
    attempts = 0

    async def attempt_mostly(self: Couriers, route: Any, events: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return await attempt(self, route, events) if attempts % 3 else Answer(200, None, "")

    Couriers._attempt = attempt_mostly  # type: ignore[method-assign]


def no_event() -> None:
    read = EventFeed.read
    pages = 0

    async def read_mostly(self: EventFeed, *arguments: Any, **named: Any) -> Page:
        nonlocal pages
        page = await read(self, *arguments, **named)
        pages += bool(page.events)
        of_a_webhook = len(arguments) > 4 or "lanes" in named
        if of_a_webhook or not page.events or pages % 3:
            return page
        return Page(page.events[1:], page.position, page.more)

    EventFeed.read = read_mostly  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "superseded": ends(DeliveryState.SUPERSEDED, "collapse_key"),
    "suppressed": ends(DeliveryState.SUPPRESSED, "no_consent"),
    "overflowed": ends(DeliveryState.OVERFLOWED, "mailbox_limit"),
    "cancelled": ends(DeliveryState.CANCELLED, "recalled"),
    "refused": ends(DeliveryState.REFUSED, "reason_code_0x97"),
    "too-early": ends(DeliveryState.EXPIRED, "ttl"),
    "miscounts": miscounts,
    "no-answer": no_answer,
    "no-webhook": no_webhook,
    "no-event": no_event,
    "drops": drops,
    "sends-twice": sends_twice,
    "answers-twice": answers_twice,
    "too-late": too_late,
}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    main()
