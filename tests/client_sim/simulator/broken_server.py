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

On the way to the device:
wrong-device   one of 100 goes to another device, and is booked for the right one
mixed-up       one of 100 has the content of the push before it
truncated      one of 100 loses the actions of its notification
downgraded     one of 100 is sent with QoS 0 and booked as delivered
retained       one of 20 has the RETAIN flag
no-expiry      devices that speak 5.0 are told no message expiry interval
fresh-expiry   `expires_in` is always that of the acceptance
backwards      what has waited is handed over newest first
urgent-last    what has waited is handed over least urgent first
new-names      what was in flight is repeated under another push id
again          whoever comes back gets the last push that it has acknowledged once more
never-drained  one device of three that comes back is not given what waits
gives-up       a push that was not taken once ends `refused`

At acceptance:
collapses-none     a newer push supersedes nothing
collapses-newest   a newer push ends instead of the one that waits
overflows-newest   a full mailbox loses its newest push
twice              an idempotency key is ignored
fewer              one of seven devices is left out
shuffled           the answers of a batch are turned round
turned-away        one valid push of 20 is refused
refused-and-sent   one valid push of 20 is refused, and sent all the same

What devices say:
misbooked      one receipt of 20 is booked on the device's push before
no-result      one result of three is lost
late-booking   receipts are acknowledged a second before they are stored

What senders are told:
stale-counts       counts stay what they were when somebody asked first
misreached         `reached` leaves those out who acted
no-time            what was acted on has no `delivered_at`
wrong-qos          deliveries are listed with QoS 2
short-mailbox      the list of what waits for a device leaves the first out
wrong-funnel       analytics of a push count one delivery too many
always-online      a device that was online once is online for ever
wrong-push         one event of 20 names the push of the event before it
wrong-webhook      one request of three to a webhook names another device in its last event
bare-acted         `delivery.acted` has neither action nor result
newest-first       a webhook is told the newest of its events first
no-coming          `device.connected` is not told of one device of three

Of people and campaigns:
never-minds    who has muted a channel or denied consent is sent everything all the same
never-stops    a campaign goes on whatever comes back
another-order  a campaign gives its parts out in an order of its own

After a kill:
no-sessions    sessions are not restored
no-mailbox     one of 20 waiting deliveries is gone
"""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyroaring import BitMap

from broker import outbound
from broker.broker import Broker
from broker.connection import Connection
from broker.protocol.packets import Publish
from gateway.__main__ import main
from gateway.audience.policy import PolicyStore, Rules
from gateway.delivery import acceptance, consent, push_store, receipts, reports
from gateway.delivery.acceptance import Acceptance
from gateway.delivery.analytics import Analytics
from gateway.delivery.connection_events import ConnectionEvents
from gateway.delivery.connections_elsewhere import Presence
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.engine import ACKNOWLEDGED, Body, EmbeddedEngine, Message
from gateway.delivery.hand_over import HandOver
from gateway.delivery.ledger import Ledger
from gateway.delivery.mailbox_reader import HandOverState
from gateway.delivery.push import ActivePush
from gateway.delivery.push_store import PushStore
from gateway.delivery.receipts import Receipts
from gateway.delivery.reports import Reports
from gateway.delivery.submission import AppRef, PendingPush, Submission, pending_push
from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK, handle_of
from gateway.delivery_states import DeliveryState
from gateway.errors import problem
from gateway.events.event_feed import EventFeed
from gateway.events.guarded_client import ReceiverResponse
from gateway.events.webhook_sender import WebhookSender
from gateway.plans import assignment, target_freeze
from gateway.plans.conditions import Condition
from gateway.store.deliveries import event_log, ledger_statements
from gateway.store.deliveries.delivery_sets import handles_to_rows
from gateway.store.deliveries.event_log import Event, EventPage, log_handles
from gateway.store.deliveries.ledger_statements import end_devices
from gateway.store.transaction import Transaction

EVERY = 1_000
LONGER = 30
"""Seconds."""


Deliver = Callable[[Message, int], bool]


def remembered_connections() -> list[DeviceConnections]:
    """The server's one register of connections, when it is there."""
    connect = DeviceConnections.connect
    found: list[DeviceConnections] = []

    def connect_and_remember(self: DeviceConnections, **options: Any) -> None:
        found.append(self)
        connect(self, **options)

    DeviceConnections.connect = connect_and_remember  # type: ignore[method-assign]
    return found


def drops() -> None:
    servers = remembered_connections()

    def pretend(client_id: str, deliver: Deliver, message: Message, handle: int) -> bool:
        asyncio.get_running_loop().call_soon(servers[0].delivery_ended, client_id, handle, ACKNOWLEDGED)
        return True

    now_and_then(pretend)


def sends_twice() -> None:
    def twice(client_id: str, deliver: Deliver, message: Message, handle: int) -> bool:
        return deliver(message, handle) and deliver(message, handle)

    now_and_then(twice)


def now_and_then(instead: Callable[[str, Deliver, Message, int], bool], every: int = EVERY) -> None:
    """One of so many messages is delivered by `instead(client_id, deliver, message, handle)`."""
    deliver_to = EmbeddedEngine.deliver_to
    handed_over = 0

    def wrapped(self: EmbeddedEngine, client_id: str) -> Deliver:
        deliver = deliver_to(self, client_id)

        def deliver_mostly(message: Message, handle: int) -> bool:
            nonlocal handed_over
            handed_over += 1
            if handed_over % every:
                return deliver(message, handle)
            return instead(client_id, deliver, message, handle)

        return deliver_mostly

    EmbeddedEngine.deliver_to = wrapped  # type: ignore[method-assign]


def answers_twice() -> None:
    owe = Connection._queue_publish_ack

    def owe_two(self: Connection, publish: Publish, default_code: int) -> Callable[[int], None]:
        both = owe(self, publish, default_code), owe(self, publish, default_code)

        def done(reason_code: int) -> None:
            for one in both:
                one(reason_code)

        return done

    Connection._queue_publish_ack = owe_two  # type: ignore[method-assign]


def too_late() -> None:
    def longer(app: AppRef, submission: Submission, max_payload: int, fetch_from: str | None) -> PendingPush:
        submission.request.__dict__["ttl"] += LONGER
        return pending_push(app, submission, max_payload, fetch_from)

    vars(acceptance)["pending_push"] = longer


def ends(state: DeliveryState, reason: str) -> Callable[[], None]:
    """Instead of being sent one of 100 ends in `state`; its event is told, as of one that ended so by right."""

    def plant() -> None:
        servers = remembered_connections()

        def end(client_id: str, deliver: Deliver, message: Message, handle: int) -> bool:
            server = servers[0]
            now = server._clock_ms()

            def operation(connection: Transaction) -> None:
                handles_to_rows(connection, [handle])
                log_handles(connection, state.label, now, [handle], reason)
                connection.execute(
                    "UPDATE delivery SET state = ?, reason = ?, ended_at = ? WHERE push_no = ? AND device_no = ?",
                    (state, reason, now, handle >> DEVICE_BITS, handle & DEVICE_MASK),
                )

            server._database.submit(operation, lambda _: None, lambda error: None)
            return False

        now_and_then(end, 100)

    return plant


def miscounts() -> None:
    count_states = reports.count_states

    def count_wrongly(connection: Transaction, push_no: int, sent: Sequence[int]) -> dict[str, int]:
        counts = count_states(connection, push_no, sent)
        return {state: count - (count == max(counts.values())) for state, count in counts.items()}

    vars(reports)["count_states"] = count_wrongly


def no_answer() -> None:
    owe = Connection._queue_publish_ack
    heard = 0

    def queue_mostly(self: Connection, publish: Publish, default_code: int) -> Callable[[int], None]:
        nonlocal heard
        heard += 1
        return owe(self, publish, default_code) if heard % 100 else lambda reason_code: None

    Connection._queue_publish_ack = queue_mostly  # type: ignore[method-assign]


def no_webhook() -> None:
    attempt = WebhookSender._attempt
    attempts = 0

    async def attempt_mostly(self: WebhookSender, receiver: Any, events: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return await attempt(self, receiver, events) if attempts % 3 else ReceiverResponse(200, None, "")

    WebhookSender._attempt = attempt_mostly  # type: ignore[method-assign]


def no_event() -> None:
    read = EventFeed.read
    pages = 0

    async def read_mostly(self: EventFeed, *arguments: Any, **named: Any) -> EventPage:
        nonlocal pages
        page = await read(self, *arguments, **named)
        of_a_push = [one for one in page.events if b'"push_id"' in one[1].json]
        pages += bool(of_a_push)
        of_a_webhook = len(arguments) > 4 or "lanes" in named
        if of_a_webhook or not of_a_push or pages % 3:
            return page
        return EventPage([one for one in page.events if one is not of_a_push[0]], page.position, page.more)

    EventFeed.read = read_mostly  # type: ignore[method-assign]


# On the way to the device


def changed_messages(change: Callable[[Message], Message], every: int) -> Callable[[], None]:
    """One of so many messages is handed over as `change` makes it."""

    def plant() -> None:
        now_and_then(lambda client_id, deliver, message, handle: deliver(change(message), handle), every)

    return plant


def with_payload(message: Message, payload: bytes) -> Message:
    body = message.body
    return Message(message.topic, Body(payload, body.properties, body.expires_at), message.qos)


def wrong_device() -> None:
    others: dict[str, tuple[str, Deliver]] = {}

    def to_another(client_id: str, deliver: Deliver, message: Message, handle: int) -> bool:
        others[client_id] = message.topic, deliver
        topic, other = next((found for name, found in others.items() if name != client_id), (message.topic, deliver))
        return other(Message(topic, message.body, message.qos), handle)

    now_and_then(to_another, 100)


def mixed_up() -> None:
    before = Body(b"")

    def with_the_body_before(message: Message) -> Message:
        nonlocal before
        body, before = before, message.body
        return Message(message.topic, body if body.payload else message.body, message.qos)

    changed_messages(with_the_body_before, 50)()


def truncated(message: Message) -> Message:
    return with_payload(message, re.sub(rb',"actions":\[[^]]*\]', b"", message.body.payload))


def downgraded() -> None:
    servers = remembered_connections()

    def at_most_once(client_id: str, deliver: Deliver, message: Message, handle: int) -> bool:
        asyncio.get_running_loop().call_soon(servers[0].delivery_ended, client_id, handle, ACKNOWLEDGED)
        return deliver(Message(message.topic, message.body, 0), handle)

    now_and_then(at_most_once, 100)


def retained() -> None:
    head_of: Callable[[int, int], bytes] = vars(outbound)["head_at_least_once"]
    heads = 0

    def head_with_retain(topic_length: int, payload_length: int) -> bytes:
        nonlocal heads
        heads += 1
        head = head_of(topic_length, payload_length)
        return head if heads % 20 else bytes([head[0] | 1]) + head[1:]

    vars(outbound)["head_at_least_once"] = head_with_retain


def no_expiry(message: Message) -> Message:
    return Message(message.topic, Body(message.body.payload, message.body.properties), message.qos)


def fresh_expiry() -> None:
    body = ActivePush.body
    ActivePush.body = lambda self, now_ms, device_no=0: body(  # type: ignore[method-assign]
        self, self.accepted_at, device_no
    )


def reordered_page(order: Callable[[list[ActivePush]], list[ActivePush]]) -> Callable[[], None]:
    def plant() -> None:
        hand_over = HandOver._hand_over_page
        HandOver._hand_over_page = lambda self, device, pushes: hand_over(self, device, order(pushes))  # type: ignore[method-assign]

    return plant


def urgent_last() -> None:
    insert, insert_set = vars(push_store)["insert_single_rows"], vars(push_store)["insert_set"]

    def insert_upside_down(connection: Transaction, rows: list[tuple[int, int, int, int, int]]) -> None:
        insert(connection, [(push, device, 3 - priority, size, state) for push, device, priority, size, state in rows])

    vars(push_store)["insert_single_rows"] = insert_upside_down
    vars(push_store)["insert_set"] = lambda connection, push, app, priority, devices: insert_set(
        connection, push, app, 3 - priority, devices
    )


def new_names() -> None:
    resume = DeviceConnections.resume

    def resume_renamed(
        self: DeviceConnections, client_id: str, handles: Sequence[int], done: Callable[..., None]
    ) -> None:
        def renamed(messages: Mapping[int, Message | None]) -> None:
            done({handle: message and anew(message) for handle, message in messages.items()})

        resume(self, client_id, handles, renamed)

    def anew(message: Message) -> Message:
        name = secrets.token_urlsafe(15).encode()
        return with_payload(
            message, re.sub(rb'"push_id":"[^"]*"', b'"push_id":"%b"' % name, message.body.payload, count=1)
        )

    DeviceConnections.resume = resume_renamed  # type: ignore[method-assign]


def again() -> None:
    deliver_to, ready = EmbeddedEngine.deliver_to, DeviceConnections.ready
    last: dict[str, tuple[Message, int]] = {}

    def noting_deliver_to(self: EmbeddedEngine, client_id: str) -> Deliver:
        deliver = deliver_to(self, client_id)

        def deliver_and_note(message: Message, handle: int) -> bool:
            last[client_id] = Message(message.topic, message.body, message.qos), handle
            return deliver(message, handle)

        return deliver_and_note

    def ready_and_again(self: DeviceConnections, client_id: str, send_quota: int) -> None:
        device = self._by_client.get(client_id)
        if device is not None and device.state is HandOverState.CLOSED and client_id in last:
            device.deliver(*last[client_id])
        ready(self, client_id, send_quota)

    EmbeddedEngine.deliver_to = noting_deliver_to  # type: ignore[method-assign]
    DeviceConnections.ready = ready_and_again  # type: ignore[method-assign]


def never_read() -> None:
    ready = DeviceConnections.ready
    seen: set[str] = set()

    def ready_mostly(self: DeviceConnections, client_id: str, send_quota: int) -> None:
        device = self._by_client.get(client_id)
        returned = device is not None and device.state is HandOverState.CLOSED and client_id in seen
        seen.add(client_id)
        if not (returned and device is not None and device.device_no % 3 == 0):
            ready(self, client_id, send_quota)

    DeviceConnections.ready = ready_mostly  # type: ignore[method-assign]


def gives_up() -> None:
    lost = Ledger.lost

    def lost_for_good(self: Ledger, push_no: int, device_no: int) -> None:
        lost(self, push_no, device_no)
        self.end([handle_of(push_no, device_no)], DeliveryState.REFUSED, "not_acknowledged")

    Ledger.lost = lost_for_good  # type: ignore[method-assign]


# At acceptance


def collapses_newest() -> None:
    supersede = vars(push_store)["supersede_rows"]

    def supersede_newest(
        connection: Transaction, push_no: int, app_no: int, collapse_key: str, *rest: Any
    ) -> list[tuple[int, BitMap]]:
        connection.execute("SAVEPOINT tried")
        older = supersede(connection, push_no, app_no, collapse_key, *rest)
        connection.execute("ROLLBACK TO tried")
        connection.execute("UPDATE delivery SET collapse_key = ? WHERE push_no = ?", (collapse_key, push_no))
        newer = BitMap.union(BitMap(), *(devices for _, devices in older))
        end_devices(connection, push_no, newer, DeliveryState.SUPERSEDED, "collapse_key", rest[-1])
        return [(push_no, newer)]

    vars(push_store)["supersede_rows"] = supersede_newest


def overflows_newest() -> None:
    in_order = vars(ledger_statements)["_least_valuable_first"]
    vars(ledger_statements)["_least_valuable_first"] = lambda *arguments: reversed(list(in_order(*arguments)))


def twice() -> None:
    PushStore.remembered = lambda self, transaction, pending, key, now_ms: None  # type: ignore[method-assign]


def fewer() -> None:
    select = vars(push_store)["selected_devices"]
    vars(push_store)["selected_devices"] = lambda *arguments: BitMap(no for no in select(*arguments) if no % 7)


def shuffled() -> None:
    accept_many = Acceptance.accept_many

    async def accept_and_shuffle(self: Acceptance, *arguments: Any) -> Any:
        return (await accept_many(self, *arguments))[::-1]

    Acceptance.accept_many = accept_and_shuffle  # type: ignore[method-assign, assignment]


def refuses(also_sends: bool) -> Callable[[], None]:
    def plant() -> None:
        accept = Acceptance.accept_pending
        asked = 0

        async def accept_mostly(self: Acceptance, *arguments: Any, **named: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked % 20:
                return await accept(self, *arguments, **named)
            if also_sends:
                await accept(self, *arguments, **named)
            raise problem("invalid_request", "it is Sunday")

        Acceptance.accept_pending = accept_mostly  # type: ignore[method-assign]

    return plant


# What devices say


def changed_receipts(change: Callable[[Transaction, tuple[Any, ...]], tuple[Any, ...]]) -> Callable[[], None]:
    def plant() -> None:
        store = vars(receipts)["receipt_rows"]

        def store_changed(connection: Transaction, said: Sequence[tuple[Any, ...]], now: int) -> None:
            store(connection, [change(connection, one) for one in said], now)

        vars(receipts)["receipt_rows"] = store_changed

    return plant


def misbook(connection: Transaction, receipt: tuple[Any, ...]) -> tuple[Any, ...]:
    push_no, device_no, *rest = receipt
    if push_no % 20:
        return receipt
    (before,) = connection.execute(
        "SELECT max(push_no) FROM delivery WHERE device_no = ? AND push_no < ?", (device_no, push_no)
    ).fetchone()
    return before or push_no, device_no, *rest


def forget_result(connection: Transaction, receipt: tuple[Any, ...]) -> tuple[Any, ...]:
    return receipt if receipt[0] % 3 else (*receipt[:4], None)


def late_booking() -> None:
    add = Receipts._add

    def answer_and_add(self: Receipts, item: Any) -> None:
        item.done(0)
        item.done = lambda *_: None
        asyncio.get_running_loop().call_later(1.0, add, self, item)

    Receipts._add = answer_and_add  # type: ignore[method-assign]


# What senders are told


def stale_counts() -> None:
    count_states = reports.count_states
    first: dict[int, dict[str, int]] = {}

    def count_once(connection: Transaction, push_no: int, sent: Sequence[int]) -> dict[str, int]:
        return first.setdefault(push_no, count_states(connection, push_no, sent))

    vars(reports)["count_states"] = count_once


def misreached() -> None:
    reached = reports.reached
    vars(reports)["reached"] = lambda counts: reached({**counts, "acted": 0})


def told_otherwise(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[], None]:
    def plant() -> None:
        describe = reports._describe_delivery
        vars(reports)["_describe_delivery"] = lambda row, in_flight: change(describe(row, in_flight))

    return plant


def short_mailbox() -> None:
    mailbox = Reports.mailbox

    async def mailbox_without_first(self: Reports, *arguments: Any, **named: Any) -> dict[str, Any]:
        page = await mailbox(self, *arguments, **named)
        return {**page, "items": page["items"][1:]}

    Reports.mailbox = mailbox_without_first  # type: ignore[method-assign]


def wrong_funnel() -> None:
    of_push = Analytics.of_push

    async def one_too_many(self: Analytics, *arguments: Any) -> dict[str, Any]:
        found = await of_push(self, *arguments)
        return {**found, "delivered": found["delivered"] + 1}

    Analytics.of_push = one_too_many  # type: ignore[method-assign, assignment]


def always_online() -> None:
    connected, presence = DeviceConnections.connected, DeviceConnections.presence
    seen: set[int] = set()

    def connected_for_ever(self: DeviceConnections, client_id: str, identity: Any, session_present: bool) -> None:
        seen.add(identity.device_no)
        connected(self, client_id, identity, session_present)

    DeviceConnections.connected = connected_for_ever  # type: ignore[method-assign]
    patched: Any = DeviceConnections
    patched.presence = lambda self, no: Presence(True, 0, None) if no in seen else presence(self, no)


def changed_events(change: Callable[[list[Any]], list[Any]]) -> Callable[[], None]:
    """`change` is given number, place, type, time, push id, device id, channel, reason, action and result."""

    def plant() -> None:
        of_delivery = event_log._of_delivery
        vars(event_log)["_of_delivery"] = lambda row: of_delivery(change(list(row)))

    return plant


def wrong_push() -> None:
    before = ""

    def renamed(row: list[Any]) -> list[Any]:
        nonlocal before
        before, now = row[4], before
        if now and row[0] % 20 == 0:
            row[4] = now
        return row

    changed_events(renamed)()


def changed_requests(change: Callable[[list[Event]], list[Event]], every: int) -> Callable[[], None]:
    def plant() -> None:
        attempt = WebhookSender._attempt
        attempts = 0

        async def attempt_changed(self: WebhookSender, receiver: Any, events: list[Event]) -> Any:
            nonlocal attempts
            attempts += 1
            return await attempt(self, receiver, events if attempts % every else change(events))

        WebhookSender._attempt = attempt_changed  # type: ignore[method-assign]

    return plant


def name_another(events: list[Event]) -> list[Event]:
    last = events[-1]
    changed = re.sub(rb'"device_id":"(.*?)\d"', rb'"device_id":"\g<1>0"', last.json)
    return [*events[:-1], last._replace(json=changed)]


def no_coming() -> None:
    connected = ConnectionEvents.connected

    def connected_mostly(self: ConnectionEvents, identity: Any, now_ms: int) -> None:
        if identity.device_no % 3:
            connected(self, identity, now_ms)

    ConnectionEvents.connected = connected_mostly  # type: ignore[method-assign]


# After a kill


def no_sessions() -> None:
    start = Broker.start

    def start_anew(self: Broker) -> None:
        start(self)
        self.sessions.clear()

    Broker.start = start_anew  # type: ignore[method-assign]


def no_mailbox() -> None:
    recover = DeviceConnections.recover

    async def recover_mostly(self: DeviceConnections, *, is_alone: bool = True) -> None:
        def lose(connection: Transaction) -> None:
            connection.execute("DELETE FROM delivery WHERE state = 0 AND push_no % 20 = 0")
            connection.execute("DELETE FROM waiting_set WHERE push_no % 20 = 0")

        await self._database.write(lose)
        await recover(self, is_alone=is_alone)

    DeviceConnections.recover = recover_mostly  # type: ignore[method-assign]


def never_minds() -> None:
    PolicyStore.is_guarded = lambda self, app_no: False  # type: ignore[method-assign]
    Rules.suppression_reason = lambda *_: None  # type: ignore[method-assign]
    vars(consent).update(end_unwanted=lambda *_: ([], set()))


def never_stops() -> None:
    def is_true(self: Condition, *_: Any, **__: Any) -> bool:
        return self.metrics == ("acted",)

    Condition.is_true = is_true  # type: ignore[method-assign]


def another_order() -> None:
    sort_keys = assignment.sort_keys

    def sort_by_another(campaign_id: str, devices: Any) -> Any:
        return sort_keys(campaign_id[::-1], devices)

    for module in (assignment, target_freeze):
        if "sort_keys" in vars(module):
            vars(module).update(sort_keys=sort_by_another)


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
    "wrong-device": wrong_device,
    "mixed-up": mixed_up,
    "truncated": changed_messages(truncated, 100),
    "downgraded": downgraded,
    "retained": retained,
    "no-expiry": changed_messages(no_expiry, 100),
    "fresh-expiry": fresh_expiry,
    "backwards": reordered_page(lambda pushes: pushes[::-1]),
    "urgent-last": urgent_last,
    "new-names": new_names,
    "again": again,
    "never-drained": never_read,
    "gives-up": gives_up,
    "collapses-none": lambda: vars(push_store).update(supersede_rows=lambda *_: []),
    "collapses-newest": collapses_newest,
    "overflows-newest": overflows_newest,
    "twice": twice,
    "fewer": fewer,
    "shuffled": shuffled,
    "turned-away": refuses(also_sends=False),
    "refused-and-sent": refuses(also_sends=True),
    "misbooked": changed_receipts(misbook),
    "no-result": changed_receipts(forget_result),
    "late-booking": late_booking,
    "stale-counts": stale_counts,
    "misreached": misreached,
    "no-time": told_otherwise(
        lambda told: {**told, "delivered_at": told["delivered_at"] if not told["action"] else None}
    ),
    "wrong-qos": told_otherwise(lambda told: {**told, "qos": 2}),
    "short-mailbox": short_mailbox,
    "wrong-funnel": wrong_funnel,
    "always-online": always_online,
    "wrong-push": wrong_push,
    "wrong-webhook": changed_requests(name_another, 3),
    "bare-acted": changed_events(lambda row: [*row[:8], None, None]),
    "newest-first": changed_requests(lambda events: events[::-1], 1),
    "no-coming": no_coming,
    "never-minds": never_minds,
    "never-stops": never_stops,
    "another-order": another_order,
    "no-sessions": no_sessions,
    "no-mailbox": no_mailbox,
}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    main()
