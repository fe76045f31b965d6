"""`python broken_server.py FAULT serve ...`: Fleetpush with a fault that a simulation has to find.

drops          one of 1,000 deliveries is booked as delivered and never sent
sends-twice    one of 1,000 is sent a second time on the same connection
answers-twice  each receipt is acknowledged twice
too-late       pushes live half a minute longer than their sender said
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from broker.connection import Connection
from broker.protocol.packets import Publish
from gateway.cli import main
from gateway.delivery import acceptance
from gateway.delivery.engine import ACKNOWLEDGED, EmbeddedEngine, Engine, Message
from gateway.delivery.mailbox import Mailbox
from gateway.delivery.submission import AppRef, Draft, Submission, draft_of

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


def now_and_then(instead: Callable[[str, Deliver, Message, int], bool]) -> None:
    """One of a thousand messages is delivered by `instead(client_id, deliver, message, handle)`."""
    outlet = EmbeddedEngine.outlet
    handed_over = 0

    def wrapped(self: EmbeddedEngine, client_id: str) -> Deliver:
        deliver = outlet(self, client_id)

        def deliver_mostly(message: Message, handle: int) -> bool:
            nonlocal handed_over
            handed_over += 1
            if handed_over % EVERY:
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


FAULTS = {"drops": drops, "sends-twice": sends_twice, "answers-twice": answers_twice, "too-late": too_late}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    main()
