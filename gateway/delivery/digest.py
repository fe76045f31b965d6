"""A digest: one alert in the place of several that a cap has held back for the same person.

It is a push of its own, stored by the alert limiter in the operation that lets it through: "5 offers", with the titles
of the first few, the ids of all in `data.digest`, their channel, the most urgent of their priorities and the longest of
the lifetimes that are left. Its members end `superseded`, reason `digested`, and name it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from gateway.delivery.push import PushRequest, wire_size
from gateway.delivery.submission import new_push_ids
from gateway.delivery_states import PRIORITIES
from gateway.store.audience.devices import device_id_of
from gateway.store.deliveries.ledger_statements import digest_rows
from gateway.store.deliveries.push_texts import content_for
from gateway.store.deliveries.pushes import NewDigest, digest_members, insert_digest
from gateway.store.numbers import draw_numbers, has_sequences, last_number
from gateway.store.transaction import Transaction

BODY_TITLES = 5
TITLE_CHARACTERS = 80
LISTED_IDS = 50
"""Members that the digest names; all are counted in its title."""


class Digests:
    """Stores digests. Writer thread.

    `numbers` gives the number of a push, and is shared with acceptance.
    """

    def __init__(self, numbers: PushNumbers) -> None:
        self._numbers = numbers

    def store(
        self,
        transaction: Transaction,
        device_no: int,
        channel: str | None,
        channel_name: str | None,
        members: Sequence[int],
        now_ms: int,
    ) -> int:
        """Store a digest of these pushes (numbers, in order) to one device and end their deliveries; its number."""
        pushes = digest_members(transaction, members)
        device_id = device_id_of(transaction, device_no)
        titles = [_title(content_for(transaction, push.push_no, push.content, device_no)) for push in pushes]
        body = "\n".join(titles[:BODY_TITLES]) + ("\n…" if len(titles) > BODY_TITLES else "")
        ttl = max(1, (max(push.expires_at for push in pushes) - now_ms) // 1000)
        request = PushRequest.model_validate(
            {
                "target": {"device": device_id},
                "notification": {"title": f"{len(pushes)} {channel_name or channel or 'messages'}", "body": body},
                "data": {"digest": [push.push_id for push in pushes[:LISTED_IDS]]},
                "priority": PRIORITIES[min(push.priority for push in pushes)],
                "qos": max(push.qos for push in pushes),
                "ttl": ttl,
                **({} if channel is None else {"channel": channel}),
            }
        )
        content = request.content()
        number = self._numbers.assign(transaction)
        priority = PRIORITIES.index(request.priority)
        size = wire_size(request, content)
        insert_digest(
            transaction,
            NewDigest(
                number,
                new_push_ids(1, now_ms)[0],
                pushes[0].app_no,
                priority,
                request.qos,
                ttl,
                channel,
                json.dumps({"device": device_id}),
                content,
                size,
                now_ms,
                now_ms + ttl * 1000,
            ),
        )
        digest_rows(transaction, number, device_no, priority, size, members, now_ms)
        return number


class PushNumbers:
    """Numbers for new pushes, shared by those who store any. Writer thread.

    `has_nodes`: other nodes draw numbers as well.
    """

    def __init__(self, has_nodes: bool = False) -> None:
        self.has_nodes = has_nodes
        self._last: int | None = None
        """The last number that was used; None where it has to be asked for."""

    def draw(self, transaction: Transaction, count: int) -> Sequence[int]:
        """Draw the next numbers, in rising order. After some were used `used` has to be called."""
        if self._last is None:
            if self.has_nodes or has_sequences(transaction):
                return draw_numbers(transaction, "push", count)
            self._last = last_number(transaction, "push")
        return range(self._last + 1, self._last + 1 + count)

    def used(self, number: int) -> None:
        """Note that numbers up to this one are used; one that is rolled back is left out."""
        if self._last is not None:
            self._last = number

    def assign(self, transaction: Transaction) -> int:
        """Use the next number."""
        (number,) = self.draw(transaction, 1)
        self.used(number)
        return number


def _title(content: str) -> str:
    notification = json.loads(content).get("notification", {})
    text = str(notification.get("title") or notification.get("body") or "").replace("\n", " ")
    return text if len(text) <= TITLE_CHARACTERS else text[: TITLE_CHARACTERS - 1] + "…"
