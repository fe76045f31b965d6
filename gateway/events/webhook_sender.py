"""The webhook sender: it sends events to webhooks, signed, in batches, and does not give up for a day.

Laws
1. Nothing is lost while the event log has it: a position moves, on disk, when a receiver has answered 2xx, or with the
   dead letter that holds the events. So after a crash the last batch may come again; every event has its own id, and a
   batch that is sent again has the `webhook-id` that it had.
2. The events of a device are sent in order: it belongs to one lane, and a lane has one request under way.
3. What a receiver does not take holds up its lane alone, and is found: a batch that is refused, or that fails while
   others are taken, is halved until the one event is left that its program cannot take. That is a dead letter when it
   is a day old: one whose turn comes later gets a few attempts, so that many hold it up no longer than one does.
4. A webhook that has taken nothing for a day is disabled, with a notice (`webhook.disabled`); enabled again, it goes on
   where it was.

Requests are those of Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gateway.errors import problem
from gateway.events.bounded_streams import ExtraReads
from gateway.events.dns import ConcurrencyLimit, DnsResolver, RequestFailed
from gateway.events.event_feed import EventFeed, Follower
from gateway.events.guarded_client import GuardedClient, Network, ReceiverResponse
from gateway.events.webhooks import (
    DEAD_LETTERS,
    LANES_PER_WEBHOOK,
    LETTERS_BYTES,
    LaneProgress,
    WebhookState,
    WebhookStore,
    key_of,
)
from gateway.pages import to_json
from gateway.store.database import Database
from gateway.store.deliveries.event_log import Event, Position, log_of_app
from gateway.store.events import webhooks as rows
from gateway.store.transaction import Transaction
from gateway.timestamps import retry_after_ms, rfc3339, wall_time

log = logging.getLogger(__name__)

BATCH_EVENTS = 100
"""Events of a request."""
BATCH_BYTES = 256 * 1024
"""Bytes of a request, about; a larger event goes by itself."""
GRACE_SECONDS = 1.0
"""Seconds that requests under way have when the server ends or their webhook is changed."""
MAX_REQUESTS = 50
"""Requests under way, of all webhooks together."""
MAX_REQUESTS_PER_APP = 20
"""Requests under way of one app's webhooks: its receivers that do not answer hold up its own."""
FIRST_DELAY_MS = 5_000
LONGEST_DELAY_MS = 3_600_000
"""The longest time between two attempts: twice as long each time, minus up to half at random, so that lanes do not come
together."""
STORE_MS = 3_600_000
"""Time after which a position is stored although nothing was sent."""
GIVE_UP_MS = 86_400_000
"""Time of failing after which events are given up. An event that is older and refused is given up after:"""
OLD_ATTEMPTS = 3
"""Attempts to send an old event, FIRST_DELAY_MS apart."""
OLD_LETTERS = 100
"""Dead letters that come of that in a row. Who takes nothing in between refuses everything, not some events: from there
on it has its day, and is disabled then. A tenth of the room for dead letters."""
BUSY = (408, 425, 429, 502, 503, 504)
"""Answers that say nothing about the events."""
TEST_TYPE = "webhook.test"
"""Type of the event of a test. It is in no event log."""
ERROR_CHARACTERS = 300
"""Characters of an error."""


@dataclass(slots=True, eq=False)
class _Receiver:
    """A webhook's address while it is enabled: its client, its running tasks, and what has failed."""

    webhook: WebhookState
    client: GuardedClient
    follower: Follower
    url: str
    dirty: set[int] = field(default_factory=lambda: set(range(LANES_PER_WEBHOOK)))
    """Lanes for which there may be something."""
    pending: dict[int, list[tuple[Position, Event]]] = field(default_factory=dict)
    """Batches that have failed: they are sent again as they were, or halved."""
    limits: dict[int, int] = field(default_factory=dict)
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    dropped: bool = False
    """Whether no further request is started."""
    disabling: bool = False
    """Whether the webhook is being disabled on disk: lanes that fail together say so once."""
    old_letters: int = 0
    """Since something was taken, see OLD_LETTERS."""
    replays: bool = True
    """Whether there may be dead letters to send again."""


class WebhookSender:
    """Sends events to the receivers of all enabled webhooks. `clock_ms` gives server time in milliseconds; `allowed`
    are private networks that may be asked. Runs on the *loop*."""

    def __init__(
        self,
        *,
        database: Database,
        feed: EventFeed,
        store: WebhookStore,
        clock_ms: Callable[[], int],
        allowed: Sequence[Network],
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._feed = feed
        self._store = store
        self._clock_ms = clock_ms
        self._allowed = allowed
        self._dice = dice
        self._receivers: dict[str, _Receiver] = {}
        self._limit = ConcurrencyLimit(MAX_REQUESTS, MAX_REQUESTS_PER_APP)
        self._resolver = DnsResolver()
        self._extra = ExtraReads()
        self._closing: dict[str, asyncio.Task[None]] = {}
        """Webhook id -> the end of its receiver, which the next one waits for."""
        self._tested: set[str] = set()
        self._ended = False
        self.may_send: Callable[[], bool] | None = None
        """Asked before each request, where another node may be sending by now; None: there are none."""
        self.sends = True
        """Whether this server sends; with several nodes one of them does."""
        self.succeeded = self.failed = self.dead_letters = self.disabled = 0
        """Requests answered with 2xx and others, dead letters made, webhooks disabled; for metrics."""

    @property
    def lanes_busy(self) -> int:
        """Lanes that have something under way, for metrics."""
        return sum(len(receiver.tasks) for receiver in self._receivers.values())

    def failing(self) -> list[float]:
        """Seconds for which each of the enabled webhooks that fail has been failing, for metrics."""
        now_ms = self._clock_ms()
        since = (receiver.webhook.failing_since for receiver in self._receivers.values())
        return [(now_ms - began) / 1000 for began in since if began is not None]

    def start(self) -> None:
        """Begin to send to all webhooks that are enabled, if it is this server that sends."""
        for webhook_id in self._store.webhooks:
            self.webhook_changed(webhook_id)

    def tick(self) -> None:
        """Send what is due. Called a few times a second."""
        for receiver in list(self._receivers.values()):
            self._start_due(receiver)

    async def end(self) -> None:
        """End all sending: what is under way is given up, and sent again after the next start."""
        self._ended = True
        receivers, self._receivers = list(self._receivers.values()), {}
        for receiver in receivers:
            self._drop(receiver)
        if self._closing:
            await asyncio.wait(self._closing.values())
        await self._resolver.close()

    async def test(self, webhook: WebhookState) -> dict[str, Any]:
        """Send a webhook an event that says it is a test, enabled or not: the receiver's answer as the API shows it.

        What is known of the webhook does not change. Raises Problem 503 while another test of it is under way.
        """
        if webhook.id in self._tested:
            raise problem("busy", "another test of this webhook is under way: wait for its answer")
        self._tested.add(webhook.id)
        client = GuardedClient(self._allowed, self._resolver.of_share(webhook.app_no), extra=self._extra)
        event_id, at = f"test_{secrets.token_hex(8)}", rfc3339(self._clock_ms())
        event = {"id": event_id, "type": TEST_TYPE, "timestamp": at, "data": {"webhook_id": webhook.id}}
        began = time.perf_counter()
        try:
            sent = [Event(event_id, TEST_TYPE, at, to_json(event))]
            outcome = await self._post(webhook, client, webhook.fields.url, message_id_of(webhook.id, sent), sent)
        finally:
            self._tested.discard(webhook.id)
            await client.close()
        taken = isinstance(outcome, ReceiverResponse) and 200 <= outcome.status < 300
        return {
            "delivered": taken,
            "status": outcome.status if isinstance(outcome, ReceiverResponse) else None,
            "error": None if taken else _described(outcome),
            "milliseconds": round((time.perf_counter() - began) * 1000),
            "event": event,
        }

    # -- receivers ---------------------------------------------------------------------------------------------------

    def webhook_changed(self, webhook_id: str) -> None:
        """Go on with what the store knows of a webhook, which was made, changed or removed. The old receiver ends
        before the new one begins, however often that happens meanwhile: a lane has one request under way."""
        receiver = self._receivers.pop(webhook_id, None)
        if receiver is not None:
            self._drop(receiver)
        elif webhook_id not in self._closing:
            self._add(webhook_id)

    def _add(self, webhook_id: str) -> None:
        webhook = self._store.webhooks.get(webhook_id)
        if webhook is None or not webhook.fields.enabled or self._ended or not self.sends:
            return
        receiver = _Receiver(
            webhook,
            GuardedClient(self._allowed, self._resolver.of_share(webhook.app_no), extra=self._extra),
            self._feed.follow(webhook.app_no, lambda: self._has_events(webhook_id)),
            webhook.fields.url,
        )
        self._receivers[webhook_id] = receiver
        self._start_due(receiver)

    def _drop(self, receiver: _Receiver) -> None:
        """End a receiver, then begin the next one of its webhook if there is to be one. What is under way may end
        within GRACE_SECONDS: what was answered in time need not be sent again."""
        receiver.dropped = True
        self._feed.unfollow(receiver.follower)
        tasks = list(receiver.tasks.values())

        async def close() -> None:
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
                for task in late:
                    task.cancel()
                if late:
                    await asyncio.wait(late)
            await receiver.client.close()

        def closed(closing: asyncio.Task[None]) -> None:
            del self._closing[receiver.webhook.id]
            self._add(receiver.webhook.id)

        closing = asyncio.get_running_loop().create_task(close())
        self._closing[receiver.webhook.id] = closing
        closing.add_done_callback(closed)

    def _has_events(self, webhook_id: str) -> None:
        receiver = self._receivers.get(webhook_id)
        if receiver is not None:
            receiver.dirty.update(range(LANES_PER_WEBHOOK))
            self._start_due(receiver)

    def replay_asked(self, webhook_id: str) -> None:
        receiver = self._receivers.get(webhook_id)
        if receiver is not None:
            receiver.replays = True
            self._start_due(receiver)

    def _start_due(self, receiver: _Receiver) -> None:
        if receiver.disabling:
            return  # what its other lanes are to be sent waits, until it is enabled again
        now_ms = self._clock_ms()
        for lane in receiver.webhook.lanes:
            if lane.no in receiver.dirty and lane.no not in receiver.tasks and lane.next_at <= now_ms:
                self._run(receiver, lane.no, self._send_lane(receiver, lane))
        if receiver.replays and LANES_PER_WEBHOOK not in receiver.tasks:
            receiver.replays = False
            self._run(receiver, LANES_PER_WEBHOOK, self._replay(receiver))

    def _run(self, receiver: _Receiver, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        receiver.tasks[number] = task

        def ended(task: asyncio.Task[None]) -> None:
            if receiver.tasks.get(number) is task:
                del receiver.tasks[number]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("webhook %s: what is next cannot be sent: %s", receiver.webhook.id, error)
                if number == LANES_PER_WEBHOOK:
                    receiver.replays = True
                else:
                    receiver.dirty.add(number)
                    receiver.webhook.lanes[number].next_at = self._clock_ms() + FIRST_DELAY_MS

        task.add_done_callback(ended)

    # -- a lane ------------------------------------------------------------------------------------------------------

    async def _send_lane(self, receiver: _Receiver, lane: LaneProgress) -> None:
        """Everything there is for a lane, until an attempt fails."""
        webhook = receiver.webhook
        while not receiver.dropped:
            limit = receiver.limits.get(lane.no, BATCH_EVENTS)
            batch = receiver.pending.get(lane.no)
            behind: Position | None = None
            if batch is None:
                receiver.dirty.discard(lane.no)
                page = await self._feed.read(
                    webhook.app_no, lane.position, limit, webhook.wanted, lane.no, LANES_PER_WEBHOOK
                )
                batch = page.events
                behind = page.position
                if not batch:
                    await self._skip_to(webhook, lane, page.position)
                    if page.more:
                        continue
                    return
                receiver.dirty.add(lane.no)
            sent = _one_request(batch[:limit])
            outcome = await self._attempt(receiver, [event for _, event in sent])
            if isinstance(outcome, ReceiverResponse) and 200 <= outcome.status < 300:
                rest = batch[len(sent) :]
                if rest and lane.no in receiver.pending:
                    receiver.pending[lane.no] = rest
                else:
                    receiver.pending.pop(lane.no, None)
                receiver.limits[lane.no] = min(BATCH_EVENTS, limit * 2)
                receiver.old_letters = 0
                await self._record_success(webhook, lane, behind if behind is not None and not rest else sent[-1][0])
                continue
            receiver.pending[lane.no] = batch
            if _is_refusal(outcome) or _is_up(webhook, lane):
                receiver.limits[lane.no] = max(1, len(sent) // 2)
            if await self._record_failure(receiver, lane, sent, outcome):
                receiver.pending.pop(lane.no, None)
                continue
            return

    async def _record_success(self, webhook: WebhookState, lane: LaneProgress, position: Position) -> None:
        now_ms = self._clock_ms()
        lane.position, lane.attempts, lane.failing_since, lane.next_at = position, 0, None, 0
        webhook.succeeded_at = now_ms

        def write(transaction: Transaction) -> None:
            rows.note_success(transaction, webhook.key, now_ms)
            _store_lane(transaction, webhook, lane)

        await self._database.write(write, webhook.app_no)

    async def _skip_to(self, webhook: WebhookState, lane: LaneProgress, position: Position) -> None:
        """Move a lane past events that are not wanted. On disk its position is kept up now and then, so that after a
        restart what retention has removed since is not taken for something that was lost."""
        lane.position = position
        now_ms = self._clock_ms()
        if now_ms - lane.stored_at >= STORE_MS:
            lane.stored_at = now_ms
            await self._database.write(lambda transaction: _store_lane(transaction, webhook, lane), webhook.app_no)

    async def _record_failure(
        self,
        receiver: _Receiver,
        lane: LaneProgress,
        sent: list[tuple[Position, Event]],
        outcome: ReceiverResponse | RequestFailed,
    ) -> bool:
        """An attempt has failed. Whether the lane goes on at once, behind what is a dead letter now."""
        webhook, now_ms = receiver.webhook, self._clock_ms()
        error = _described(outcome)
        lane.attempts += 1
        lane.failing_since = lane.failing_since if lane.failing_since is not None else now_ms
        old = (
            _is_refusal(outcome)
            and sent[0][1].timestamp <= rfc3339(now_ms - GIVE_UP_MS)
            and receiver.old_letters < OLD_LETTERS
        )
        lane.next_at = now_ms + self._delay(1 if old else lane.attempts, outcome)
        webhook.failed_at, webhook.last_error = now_ms, error
        before = lane.position, lane.attempts, lane.failing_since, lane.next_at
        letter: tuple[list[Event], int] | None = None
        why: str | None = None
        if isinstance(outcome, ReceiverResponse) and outcome.status == 410:
            why = "the receiver answered 410: it is gone for good"
        elif now_ms - lane.failing_since >= GIVE_UP_MS:
            letter = [event for _, event in sent], lane.attempts
            if webhook.succeeded_at is None or webhook.succeeded_at < lane.failing_since:
                why = f"it has taken nothing for a day: {error}"
        elif old and len(sent) == 1 and lane.attempts >= OLD_ATTEMPTS:
            letter = [sent[0][1]], lane.attempts
            receiver.old_letters += 1
        if letter is not None:
            lane.position, lane.attempts, lane.failing_since, lane.next_at = sent[-1][0], 0, None, 0
        if receiver.disabling:
            why = None
        receiver.disabling = receiver.disabling or why is not None

        def write(transaction: Transaction) -> bool:
            if not rows.note_failure(transaction, webhook.key, error, now_ms):
                return False
            _store_lane(transaction, webhook, lane)
            if letter is not None:
                webhook.dropped = _store_dead_letter(transaction, webhook, *letter, error, now_ms)
            if why is not None:
                rows.disable_webhook(transaction, webhook.no, why, now_ms)
                about = {"webhook_id": webhook.id, "reason": why}
                log_of_app(transaction, "webhook.disabled", now_ms, webhook.app_no, about)
            return True

        try:
            if not await self._database.write(write, webhook.app_no):
                return False  # it was removed meanwhile
        except Exception:
            # Nothing is passed over that is on no disk.
            lane.position, lane.attempts, lane.failing_since, lane.next_at = before
            receiver.disabling = receiver.disabling and why is None
            raise
        if letter is not None:
            self.dead_letters += 1
            log.warning(
                "webhook %s: %d events are dead letters now: %s", webhook.id, len(letter[0]), error,
                extra={"webhook": webhook.id},
            )  # fmt: skip
        if why is not None:
            self.disabled += 1
            webhook.disabled_at, webhook.disabled_reason = now_ms, why
            webhook.fields = webhook.fields.model_copy(update={"enabled": False})
            log.warning("webhook %s is disabled: %s", webhook.id, why, extra={"webhook": webhook.id})
            # Not from within one of the tasks that this cancels.
            asyncio.get_running_loop().call_soon(self.webhook_changed, webhook.id)
        return letter is not None and not receiver.disabling

    def _delay(self, attempts: int, outcome: ReceiverResponse | RequestFailed) -> int:
        delay = min(FIRST_DELAY_MS * 2 ** min(attempts - 1, 20), LONGEST_DELAY_MS)
        delay = int(delay * (1 - self._dice() / 2))
        asked = outcome.retry_after if isinstance(outcome, ReceiverResponse) else None
        if asked is not None:
            delay = max(delay, min(retry_after_ms(asked, wall_time.of(self._clock_ms())), LONGEST_DELAY_MS))
        return delay

    # -- dead letters ------------------------------------------------------------------------------------------------

    async def _replay(self, receiver: _Receiver) -> None:
        """Send each letter for which somebody has asked once more, the oldest first."""
        webhook = receiver.webhook
        while not receiver.dropped:
            found = await self._database.read(partial(rows.next_replay, key=webhook.key), webhook.app_no)
            if found is None:
                return
            number, events = found
            outcome = await self._attempt(receiver, _events_of(events))
            if isinstance(outcome, ReceiverResponse) and 200 <= outcome.status < 300:
                booking = partial(rows.remove_replayed, key=webhook.key, number=number)
            else:
                booking = partial(rows.note_replay_failed, key=webhook.key, number=number, error=_described(outcome))
            await self._database.write(booking, webhook.app_no)

    # -- a request ---------------------------------------------------------------------------------------------------

    async def _attempt(self, receiver: _Receiver, events: list[Event]) -> ReceiverResponse | RequestFailed:
        message_id = message_id_of(receiver.webhook.id, events)
        return await self._post(receiver.webhook, receiver.client, receiver.url, message_id, events)

    async def _post(
        self, webhook: WebhookState, client: GuardedClient, url: str, message_id: str, events: list[Event]
    ) -> ReceiverResponse | RequestFailed:
        now_ms = self._clock_ms()
        listed = b",".join(event.json for event in events)
        body = b'{"type":"events","timestamp":"%b","data":{"events":[%b]}}' % (rfc3339(now_ms).encode(), listed)
        seconds = wall_time.of(now_ms) // 1000  # receivers compare it with their clocks
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Fleetpush",
            "webhook-id": message_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signature(webhook.secrets(now_ms), message_id, seconds, body),
        }
        async with self._limit.slot(webhook.app_no):
            if self.may_send is not None and not self.may_send():
                return RequestFailed("this node may not send any more")
            try:
                answer = await client.post(url, body, headers)
            except RequestFailed as failure:
                self.failed += 1
                return failure
        if 200 <= answer.status < 300:
            self.succeeded += 1
        else:
            self.failed += 1
        return answer


def message_id_of(webhook_id: str, events: list[Event]) -> str:
    """Return the id of a request, the same for the same events: receivers know by it what they have had. That holds
    after a restart too."""
    return "msg_" + hashlib.sha256(" ".join([webhook_id, *(event.id for event in events)]).encode()).hexdigest()[:32]


def signature(secrets: Sequence[str], message_id: str, seconds: int, body: bytes) -> str:
    """One for each secret, as in Standard Webhooks: `v1,` and Base64."""
    signed = f"{message_id}.{seconds}.".encode() + body
    macs = (hmac.new(key_of(secret), signed, hashlib.sha256).digest() for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(mac).decode()}" for mac in macs)


def _one_request(events: list[tuple[Position, Event]]) -> list[tuple[Position, Event]]:
    """Return as many events, from the first on, as fit into one request."""
    size = 0
    for number, (_, event) in enumerate(events):
        size += len(event.json)
        if size > BATCH_BYTES and number:
            return events[:number]
    return events


def _is_up(webhook: WebhookState, lane: LaneProgress) -> bool:
    """Whether something was taken since this lane began to fail: it is up, and an event may be what brings it down."""
    since = lane.failing_since
    return since is not None and webhook.succeeded_at is not None and webhook.succeeded_at >= since


def _is_refusal(outcome: ReceiverResponse | RequestFailed) -> bool:
    """Whether it may be about the events: somebody was there to refuse them."""
    return isinstance(outcome, ReceiverResponse) and outcome.status not in BUSY and not 300 <= outcome.status < 400


def _described(outcome: ReceiverResponse | RequestFailed) -> str:
    if isinstance(outcome, RequestFailed):
        return str(outcome)[:ERROR_CHARACTERS]
    if 300 <= outcome.status < 400:
        return f"answered {outcome.status}: redirects are not followed; change the webhook's url"
    return f"answered {outcome.status}: {outcome.text}".rstrip(": \n")[:ERROR_CHARACTERS]


def _store_lane(transaction: Transaction, webhook: WebhookState, lane: LaneProgress) -> None:
    rows.store_lane(transaction, webhook.key, lane.no, lane.position, lane.attempts, lane.failing_since, lane.next_at)


def _events_of(letter: str) -> list[Event]:
    """The events of a dead letter."""
    return [Event(event["id"], event["type"], event["timestamp"], to_json(event)) for event in json.loads(letter)]


def _store_dead_letter(
    transaction: Transaction, webhook: WebhookState, events: list[Event], attempts: int, error: str, now_ms: int
) -> int:
    """Make a dead letter, and room for it; how many of the webhook had to go until now."""
    listed = (b"[%b]" % b",".join(event.json for event in events)).decode()
    return rows.insert_dead_letter(
        transaction, webhook.no, listed, attempts, error, webhook.dropped, DEAD_LETTERS, LETTERS_BYTES, now_ms
    )
