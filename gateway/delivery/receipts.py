"""Messages of devices: receipts, settings, reports, uplink. Stored in batches, acknowledged when on disk.

The PUBACK (PUBREC) of a device's message is the promise that it is stored, so `done` is called after the commit. A
message that says nothing usable is dropped with reason code 0x99 (in 3.1.1 there is none: acknowledged and dropped),
counted, and kept as the device's `last_error`. When the disk refuses, nothing is acknowledged and the operation is
tried again: the device has its copy until then, and its receive window bounds what waits here. Of QoS 0 it has neither:
what passes a limit is dropped, counted, and shown as `last_error`.

Messages that arrive while one operation is on its way are stored together by the next: one of each device in turn, and
as many as there is time for in SLICE_SECONDS. So whoever says much waits for itself.

Of QoS 2 the broker's identifier is stored in the commit that stores the content: after a kill the device says the same
again, and it is neither lost nor stored twice. It is removed when the device has released it, before PUBCOMP.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pyroaring import BitMap

from gateway.auth import DeviceIdentity
from gateway.delivery.consent import CONSENT_ACTIONS, DeviceSettings, PreferenceStore, TooManyChoices
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.device_messages import Receipt, Unusable, parse
from gateway.delivery.engine import PACKET_ID_BITS, Message, ReasonCode
from gateway.delivery.ledger import RETRY_SECONDS, Ledger
from gateway.delivery.uplink import UplinkLimits, store_uplink
from gateway.delivery_handles import handle_of
from gateway.device_topics import split_client_id, split_topic
from gateway.merge_patch import merge_patch
from gateway.store.app_locks import EVERY_APP, NO_APP, Apps
from gateway.store.audience.devices import device_of_app
from gateway.store.deliveries.delivery_sets import to_rows
from gateway.store.deliveries.device_messages import (
    attributes_of,
    deliveries_in_sets,
    delivery_rows,
    forget_messages,
    forget_other_sessions,
    is_known,
    note_message,
    store_attributes,
)
from gateway.store.deliveries.ledger_statements import ReceiptRow, RecordActs, receipt_rows
from gateway.store.errors import OF_THE_DATABASE, StorageError
from gateway.store.protocols import Timers, Writer
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

MAX_RESULT_BYTES = 4_096
"""Bytes of an action's result as JSON text."""
MAX_ATTRIBUTES_BYTES = 16_384
"""Bytes of a device's attributes as JSON text."""

MAX_UNPROMISED_BYTES = 16 * 1024 * 1024
"""Bytes of QoS 0 messages that wait for the disk, all devices together: no window of theirs bounds them."""
SLICE_SECONDS = 0.01
"""Time of the writer that one operation takes; pushes and other operations come in between."""
SLICE_MESSAGES = 1_000
"""Messages that it stores at most: the loop answers them in one turn, about 5 ms."""
RECEIPTS_TOGETHER = 500
"""Receipts of one statement, about 5 ms."""
MESSAGE_BYTES = 512
"""Size of a message in memory besides its payload."""


@dataclass(slots=True, eq=False)
class DeviceMessage:
    """One message of a device on its way to the disk. `done` releases its acknowledgement."""

    app_id: str
    device_id: str
    device_no: int | None
    """Number of the device; None: said after its connection ended (a will), and looked up when stored."""
    app_no: int | None
    """Its app, where the number is known."""
    leaf: str
    content: Any
    done: Callable[[int], None]
    unpromised: int = 0
    """Bytes that it counts for as a message of QoS 0."""
    identifier: int | None = None
    """Identifier of a QoS 2 message: stored with the content, so that the message is known when it comes again."""
    answer: int = ReasonCode.SUCCESS
    complaint: str | None = None


@dataclass(slots=True, eq=False)
class Release:
    """Identifiers of a device's messages that cannot come again, in their turn among its messages."""

    app_id: str
    device_id: str
    identifiers: Sequence[int]
    done: Callable[[], None]


class Receipts:
    """Takes every permitted message of a device and stores it. Loop.

    `clock_ms` gives server time in milliseconds. `on_settings` is called with app id and device id when a device's
    settings are stored, `on_acted` with the handles of deliveries of which somebody has acted, `on_zone` with the
    number of a device that may have moved to another time zone. `record_acts`, on the writer thread, ends the
    escalations that receipts act upon, and answers what `on_escalations_ended` is called with.
    """

    def __init__(
        self,
        *,
        database: Writer,
        activity: DeviceActivity,
        uplink: UplinkLimits,
        clock_ms: Callable[[], int],
        timers: Timers,
        ledger: Ledger,
        preferences: PreferenceStore,
        on_settings: Callable[[str, str], None],
        on_acted: Callable[[list[int]], None],
        on_zone: Callable[[int], None],
        record_acts: RecordActs,
        on_escalations_ended: Callable[[Sequence[bool]], None],
    ) -> None:
        self._database = database
        self._activity = activity
        self._uplink = uplink
        self._clock_ms = clock_ms
        self._timers = timers
        self._ledger = ledger
        self._preferences = preferences
        self._on_settings, self._on_acted, self._on_zone = on_settings, on_acted, on_zone
        self._record_acts, self._on_escalations_ended = record_acts, on_escalations_ended
        self._pending: dict[tuple[str, str], deque[DeviceMessage | Release]] = {}
        """Messages by app and device id; the first device is the next to have its turn."""
        self._scheduled = self._under_way = self._ended = False
        self._unpromised = 0
        self.received = 0
        """Messages taken from devices, for metrics."""

    async def recover(self, numbers: Collection[int]) -> None:
        """Forget messages of sessions and wills that are no more, after a restart and before the first connection.

        Those of `numbers` are there (`Engine.numbers`).
        """
        try:
            forget = partial(forget_other_sessions, numbers=numbers, packet_id_bits=PACKET_ID_BITS)
            await self._database.write(forget, apps=NO_APP)
        except StorageError as error:  # nobody asks for them: the next start may remove them
            log.warning("messages of sessions that are gone could not be forgotten: %s", error)

    def end(self) -> None:
        """Store nothing any more, and acknowledge nothing: the ledger is about to be closed."""
        self._ended = True

    def published(
        self,
        client_id: str,
        identity: DeviceIdentity | None,
        message: Message,
        done: Callable[[int], None],
        identifier: int | None = None,
    ) -> None:
        """Take a message of a device on one of its topics (`broker.events.BrokerEvents.published`)."""
        where = split_topic(message.topic)
        if where is None:  # not a device topic: ordinary MQTT, which the broker has routed
            done(ReasonCode.SUCCESS)
            return
        app_id, device_id, leaf = where
        device_no, app_no = (identity.device_no, identity.app_no) if identity is not None else (None, None)
        unpromised = len(message.body.payload) + MESSAGE_BYTES if message.qos == 0 else 0
        if unpromised and self._unpromised + unpromised > MAX_UNPROMISED_BYTES:
            if device_no is not None:
                self._activity.on_dropped(
                    device_no, f"{leaf}: too much waits to be stored; QoS 1 would wait its turn", app_no
                )
            done(ReasonCode.QUOTA_EXCEEDED)
            return
        try:
            content = parse(leaf, message.body.payload)
        except Unusable as complaint:
            if device_no is not None:
                self._activity.on_dropped(device_no, f"{leaf}: {complaint}", app_no)
            done(ReasonCode.PAYLOAD_FORMAT_INVALID)
            return
        if content is None:
            done(ReasonCode.SUCCESS)
            return
        self.received += 1
        self._unpromised += unpromised
        self._add(DeviceMessage(app_id, device_id, device_no, app_no, leaf, content, done, unpromised, identifier))

    def released(self, client_id: str, identifiers: Sequence[int], done: Callable[[], None]) -> None:
        """Take identifiers that a device has released (`broker.events.BrokerEvents.released`)."""
        self._add(Release(*split_client_id(client_id), identifiers, done))

    def _add(self, item: DeviceMessage | Release) -> None:
        self._pending.setdefault((item.app_id, item.device_id), deque()).append(item)
        if not self._scheduled and not self._under_way:
            self._scheduled = True
            self._timers.call_soon(self._submit)

    def _submit(self) -> None:
        self._scheduled = False
        messages = [] if self._ended else self._next_slice()
        if not messages:
            return
        self._under_way = True
        # The broker's own acknowledgements first: `delivered` then keeps the earlier time stamp.
        self._ledger.flush()
        self._store([messages])

    def _next_slice(self) -> list[DeviceMessage | Release]:
        """Take the messages that the next operation stores, of each device in turn."""
        taken: list[DeviceMessage | Release] = []
        while self._pending and len(taken) < SLICE_MESSAGES:
            key = next(iter(self._pending))
            queue = self._pending.pop(key)
            taken.append(queue.popleft())
            if queue:
                self._pending[key] = queue  # behind the others
        return taken

    def _put_back(self, messages: list[DeviceMessage | Release]) -> None:
        """Return messages that were taken last and not stored for want of time: they come first."""
        pending: dict[tuple[str, str], deque[DeviceMessage | Release]] = {}
        for message in messages:
            pending.setdefault((message.app_id, message.device_id), deque()).append(message)
        for key, queue in self._pending.items():
            pending.setdefault(key, deque()).extend(queue)
        self._pending = pending

    def _store(self, groups: list[list[DeviceMessage | Release]]) -> None:
        """Store the first group, then the others; then what has come meanwhile."""
        messages, rest = groups[0], groups[1:]
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> StoredMessages:
            stored_at = self._ledger.accepted_at
            at = now_ms if now_ms > stored_at else stored_at  # max() would be a call more
            return store_messages(transaction, messages, self._uplink, self._preferences, self._record_acts, at)

        def on_commit(changed: StoredMessages) -> None:
            try:
                report(changed)
            finally:  # whatever one device said, what others say is stored
                store_next()

        def report(changed: StoredMessages) -> None:
            self._preferences.after_commit(changed.recorded, changed.in_flight)
            self._on_acted(changed.acted)
            self._on_escalations_ended(changed.escalations_ended)
            for message in changed.settings:
                assert message.device_no is not None, "looked up before"
                self._preferences.on_stored(message.device_no)
                self._on_settings(message.app_id, message.device_id)
            whole, receipts = changed.done
            if whole < len(messages):
                partly = messages[whole]
                if receipts and isinstance(partly, DeviceMessage):
                    del partly.content[:receipts]
                self._put_back(messages[whole:])
            for item in messages[:whole]:
                if isinstance(item, Release):
                    item.done()
                    continue
                self._answer(item)
                if item.leaf == "report" and item.device_no is not None and "timezone" in item.content:
                    self._on_zone(item.device_no)

        def store_next() -> None:
            if rest and not self._ended:
                self._store(rest)
                return
            self._under_way = False
            if self._pending:
                self._submit()

        def on_error(error: BaseException) -> None:
            if isinstance(error, OF_THE_DATABASE):  # and not of what was said
                log.error("what devices say cannot be stored, trying again: %s", error)
                self._timers.call_later(RETRY_SECONDS, lambda: self._store(groups))
            elif len(messages) > 1:  # one of them is at fault, and must not keep the others' from being stored
                self._store([[message] for message in messages] + rest)
            else:
                self._refuse(messages[0], error)
                store_next()

        self._database.submit(operation, on_commit, on_error, apps=lambda: _apps_of(messages))

    def _refuse(self, item: DeviceMessage | Release, error: BaseException) -> None:
        if isinstance(item, Release):
            log.error("messages of %s cannot be released, nor acknowledged", item.device_id, exc_info=error)
            return
        log.error("what %s said on %s cannot be stored", item.device_id, item.leaf, exc_info=error)
        item.answer = ReasonCode.UNSPECIFIED_ERROR
        item.complaint = f"{item.leaf}: cannot be stored ({type(error).__name__})"
        self._answer(item)

    def _answer(self, message: DeviceMessage) -> None:
        self._unpromised -= message.unpromised
        if message.complaint is not None and message.device_no is not None:
            self._activity.on_dropped(message.device_no, message.complaint, message.app_no)
        message.done(message.answer)


# -- on the writer thread ----------------------------------------------------------------------------------------


def _apps_of(messages: Iterable[DeviceMessage | Release]) -> Apps:
    """The apps whose rows are written to store messages; a release writes rows of no app."""
    apps: set[int] = set()
    for message in messages:
        if isinstance(message, DeviceMessage):
            if message.app_no is None:
                return EVERY_APP
            apps.add(message.app_no)
    return frozenset(apps)


@dataclass(slots=True)
class StoredMessages:
    """Result of an operation, for the loop."""

    recorded: list[int] = field(default_factory=list)
    """Handles of the deliveries that have a receipt now, or have ended."""
    acted: list[int] = field(default_factory=list)
    """Handles of those with an action or a result."""
    escalations_ended: list[bool] = field(default_factory=list)
    """Escalations that were acted upon: whether each was running."""
    in_flight: set[int] = field(default_factory=set)
    """Handles that are not wanted any more, and are on their way."""
    done: tuple[int, int] = (0, 0)
    """Messages that were stored, and receipts of the next one."""
    settings: list[DeviceMessage] = field(default_factory=list)
    """Messages that brought settings: on their topic, or as the answer to a push that asked for consent."""


def store_messages(
    transaction: Transaction,
    messages: Sequence[DeviceMessage | Release],
    uplink: UplinkLimits,
    preferences: PreferenceStore,
    record_acts: RecordActs,
    now_ms: int,
) -> StoredMessages:
    """Store messages of devices, in their order, until that has taken SLICE_SECONDS. Writer thread.

    Complaints are left on the messages.
    """
    changed = StoredMessages()
    deadline = time.monotonic() + SLICE_SECONDS
    receipts: list[tuple[DeviceMessage, Receipt]] = []

    def store_receipts() -> None:
        if receipts:
            _store_receipts(transaction, receipts, preferences, record_acts, changed, now_ms)
            receipts.clear()

    for count, message in enumerate(messages):
        changed.done = count, 0
        if count and time.monotonic() > deadline:
            break
        if isinstance(message, Release):
            forget_messages(transaction, message.identifiers)
            continue
        message.answer = ReasonCode.SUCCESS
        if message.device_no is None:
            found = device_of_app(transaction, message.app_id, message.device_id)
            message.device_no = None if found is None else found.device_no
        if message.device_no is None:
            continue  # removed meanwhile: there is nobody to say it of
        if message.identifier is not None and is_known(transaction, message.identifier):
            continue  # said again after a kill: an earlier run has stored it
        if message.leaf == "receipts":
            for number, receipt in enumerate(message.content, 1):
                receipts.append((message, receipt))
                # The answer to a push that asked for consent may make what waits unwanted.
                if len(receipts) == RECEIPTS_TOGETHER or receipt.action in CONSENT_ACTIONS:
                    store_receipts()
                    if number < len(message.content) and time.monotonic() > deadline:
                        changed.done = count, number
                        return changed
        elif message.leaf == "settings":
            store_receipts()  # one of them may be such an answer, and what was said last is to hold
            _store_settings(transaction, message, message.content, "mqtt", preferences, changed, now_ms)
        elif message.leaf == "report":
            _merge_report(transaction, message, now_ms)
        else:
            assert message.device_no is not None, "looked up before"
            topic = message.leaf.removeprefix("uplink").removeprefix("/")
            store_uplink(transaction, message.device_no, topic, message.content, uplink, now_ms)
        if message.identifier is not None and message.answer < 0x80:  # with the last part of it
            note_message(transaction, message.identifier)
    else:
        changed.done = len(messages), 0
    store_receipts()
    return changed


def _store_settings(
    transaction: Transaction,
    message: DeviceMessage,
    settings: DeviceSettings,
    source: str,
    preferences: PreferenceStore,
    changed: StoredMessages,
    now_ms: int,
) -> None:
    assert message.device_no is not None, "looked up before"
    try:
        stored = preferences.store(transaction, message.device_no, settings, source, now_ms)
    except TooManyChoices as complaint:
        message.answer = ReasonCode.QUOTA_EXCEEDED
        message.complaint = f"settings: {complaint}"
        return
    if stored.complaint is not None:
        message.complaint = f"settings: {stored.complaint}"
    changed.recorded += stored.ended
    changed.in_flight |= stored.in_flight
    changed.settings.append(message)


def _store_receipts(
    transaction: Transaction,
    receipts: list[tuple[DeviceMessage, Receipt]],
    preferences: PreferenceStore,
    record_acts: RecordActs,
    changed: StoredMessages,
    now_ms: int,
) -> None:
    wanted = [[receipt.push_id, message.device_no] for message, receipt in receipts]
    in_sets: dict[int, list[int]] = {}
    for push_no, device_no in deliveries_in_sets(transaction, wanted):
        in_sets.setdefault(push_no, []).append(device_no)
    for push_no, devices in in_sets.items():
        to_rows(transaction, push_no, BitMap(devices))
    found = delivery_rows(transaction, wanted)
    rows: list[ReceiptRow] = []
    answered: set[tuple[int, int]] = set()
    for index, (message, receipt) in enumerate(receipts):
        assert message.device_no is not None, "looked up before"
        known = found.get(index)
        if known is None:
            message.complaint = f"receipts: no delivery of push {receipt.push_id!r} to this device is known"
            continue
        push_no, acted = known
        result = None if receipt.result is None else json.dumps(receipt.result, ensure_ascii=False)
        if result is not None and len(result.encode(errors="replace")) > MAX_RESULT_BYTES:
            message.complaint = f"receipts: result of {receipt.push_id!r} is larger than {MAX_RESULT_BYTES} bytes"
            result = None
        detail = receipt.reason if receipt.event == "dismissed" else receipt.action
        rows.append((push_no, message.device_no, receipt.event, detail, result))
        if receipt.event != "acted" or acted or (push_no, message.device_no) in answered:
            continue  # only the first time: a receipt may come twice, and late
        answered.add((push_no, message.device_no))
        answer = CONSENT_ACTIONS.get(receipt.action or "")
        if answer is not None:
            settings = DeviceSettings(
                consent=answer, client=f"push {receipt.push_id}", text_version=_asked(receipt.result)
            )
            _store_settings(transaction, message, settings, "push", preferences, changed, now_ms)
    receipt_rows(transaction, rows, now_ms)
    changed.escalations_ended += record_acts(transaction, rows, now_ms)
    changed.recorded += [handle_of(push_no, device_no) for push_no, device_no, *_ in rows]
    changed.acted += [handle_of(push_no, device_no) for push_no, device_no, event, *_ in rows if event == "acted"]


def _asked(result: Any) -> str | None:
    """The version of the text that asked, if the answer names it."""
    found = result.get("text_version") if isinstance(result, dict) else None
    return found if isinstance(found, str) and len(found) <= 64 else None


def _merge_report(transaction: Transaction, message: DeviceMessage, now_ms: int) -> None:
    assert message.device_no is not None, "looked up before"
    attributes = attributes_of(transaction, message.device_no)
    if attributes is None:
        return
    merged = json.dumps(merge_patch(json.loads(attributes), message.content), ensure_ascii=False)
    if len(merged.encode(errors="replace")) > MAX_ATTRIBUTES_BYTES:
        message.answer = ReasonCode.QUOTA_EXCEEDED
        message.complaint = f"report: attributes would be larger than {MAX_ATTRIBUTES_BYTES} bytes"
        return
    store_attributes(transaction, message.device_no, merged, message.content.get("timezone"), now_ms)
