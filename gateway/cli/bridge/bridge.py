"""The bridge itself: one thread that owns everything, and an inbox of what the others have seen.

    events  ──▶┐           ┌──▶ devices are read, their topics set
    broker  ──▶│ the inbox │──▶ messages are checked, and handed to the sender
    sender  ──▶┘           └──▶ outcomes are published, the state is written

The status topic says `online` while both sides can be reached: the bridge answers for the server as well, since a
button that leads nowhere should look like one.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from gateway.cli.bridge.bridge_options import BridgeOptions
from gateway.cli.bridge.bridge_state import BridgeState, OwedOutcome, StateFile
from gateway.cli.bridge.bridged_devices import FEW_CHANGES, MAX_DEVICES
from gateway.cli.bridge.broker_connection import (
    BrokerConnected,
    BrokerHasIt,
    BrokerLost,
    BrokerMessage,
    BrokerNews,
    OwnTopicFound,
)
from gateway.cli.bridge.home_assistant import (
    OFFLINE,
    ONLINE,
    BridgedDevice,
    discovery_message,
    discovery_topic,
    platforms,
)
from gateway.cli.bridge.message_pushes import MessageRates, MessageRefused, PushAnswered, UnsentPush, push_of
from gateway.cli.bridge.retained_topics import RetainedTopics
from gateway.cli.bridge.topics import COMMAND, STATE_LEAVES
from gateway.cli.event_stream import Event
from gateway.cli.server_client import RequestRefused
from gateway.cli.terminal import Failure, note

CHANGE_SECONDS = 0.25
"""Time that changes of devices gather before they are read."""
EARLY_REFRESH_SECONDS = 5.0
"""Seconds between two lists, whatever happens."""
SAVE_SECONDS = 1.0
"""Seconds between two writes of the state."""
NOTE_SECONDS = 60.0
"""Seconds in which one kind of refusal has one line."""
REFUSAL_SECONDS = 1.0
"""Seconds between two refusals that are published of one device."""
CLEAR_SECONDS = 2.0
"""Seconds without another topic after which everything has been found that the bridge has left on a broker."""
CLEAR_POLL_SECONDS = 0.1
MAX_EARLY_OUTCOMES = 1_000
"""Events of pushes that are kept because an answer to the bridge may name them soon."""
RESULT_BYTES = 2_048
"""Bytes of a device's result that are published; of a larger one it is said that it is larger."""
FINAL_STATES = ("acted", "expired", "superseded", "cancelled", "suppressed", "overflowed", "refused", "revoked")
UNDECIDED_STATES = ("waiting", "sent")
CONNECTION_EVENTS = "device.connected,device.disconnected"
COMMAND_EVENTS = ",".join(f"delivery.{state}" for state in FINAL_STATES)
DELIVERY_EVENTS = "delivery.*"


class EventHappened:
    """An event of the server's."""

    __slots__ = ("event",)

    def __init__(self, event: Event) -> None:
        self.event = event


class EventsLost:
    """The stream of events has ended, for good if it is `final`."""

    __slots__ = ("failure", "final")

    def __init__(self, failure: Failure, *, final: bool) -> None:
        self.failure = failure
        self.final = final


InboxItem = EventHappened | EventsLost | BrokerNews | PushAnswered
Inbox = queue.SimpleQueue[InboxItem]


class BrokerSide(Protocol):
    """The connection to the broker, as the bridge uses it."""

    dropped: int

    def publish(self, topic: str, payload: bytes) -> int | None: ...

    def handled(self) -> None: ...


class ServerSide(Protocol):
    """The server, as the bridge uses it by way of `BridgedDevices`."""

    left_out: bool

    def read(self) -> dict[str, BridgedDevice]: ...

    def read_one(self, device_id: str) -> BridgedDevice | None: ...

    def read_delivery(self, push_id: str) -> dict[str, Any] | None: ...

    def may_be_wanted(self, device_id: str) -> bool: ...


class NoDevices:
    """A server of which nothing is bridged any more."""

    left_out = False

    def read(self) -> dict[str, BridgedDevice]:
        return {}

    def read_one(self, device_id: str) -> BridgedDevice | None:
        return None

    def read_delivery(self, push_id: str) -> dict[str, Any] | None:
        return None

    def may_be_wanted(self, device_id: str) -> bool:
        return False


class SenderSide(Protocol):
    """The thread that sends pushes, as the bridge uses it."""

    def send(self, push: UnsentPush) -> None: ...


def event_types(options: BridgeOptions) -> str:
    """Return the types of events that a bridge needs: those of commands are few, those of all deliveries many."""
    if options.notify:
        return f"{CONNECTION_EVENTS},{DELIVERY_EVENTS}"
    return f"{CONNECTION_EVENTS},{COMMAND_EVENTS}" if options.commands else CONNECTION_EVENTS


class Bridge:
    """Keeps the broker's topics as the server's devices are, and sends what is asked for. `run` is its thread."""

    def __init__(
        self,
        options: BridgeOptions,
        devices: ServerSide,
        broker: BrokerSide,
        sender: SenderSide,
        state_file: StateFile,
        inbox: Inbox,
        room: threading.Semaphore,
    ) -> None:
        """`room` is released for each event that has left the inbox."""
        self._options = options
        self._topics = options.topics
        self._source = devices
        self._broker = broker
        self._sender = sender
        self._state_file = state_file
        self.state: BridgeState = state_file.read()
        self._inbox = inbox
        self._room = room
        self._retained = RetainedTopics(broker.publish)
        self._rates = MessageRates()
        self._devices: dict[str, BridgedDevice] = {}
        self._listed = False
        """Whether the devices have been read since the start."""
        self._changed: set[str] = set()
        """Devices that are to be read again."""
        self._lost: set[str] = set()
        """Devices of which the broker has topics; they may be gone."""
        self._early: OrderedDict[str, list[Event]] = OrderedDict()
        """Push id -> events of bridged devices' pushes that nobody has named yet."""
        self._missed: set[str] = set()
        """Pushes of ours of which events may have been missed: their deliveries are read."""
        self._announcing: dict[str, dict[str, str]] = {}
        """Device id -> entities of a discovery message that is on its way."""
        self._connected = False
        self._found_at = 0.0
        """When the broker was connected, or has last shown a topic of a former run."""
        self._broker_told = self._server_told = False
        """Whether the present failure has had its line."""
        self._noted: dict[str, float] = {}
        self._unnoted: dict[str, int] = {}
        self._listed_at = -EARLY_REFRESH_SECONDS
        self._refresh_at = self._changes_at = 0.0
        self._save_at: float | None = None
        """When the state is written; None: it has not changed."""
        self._refused_at: dict[str, float] = {}
        """Device id -> when a refusal was last published."""
        self.ready_line: str | None = f"bridge ready name={self._topics.name}"

    def run(self) -> None:
        """Run until an exception ends it: KeyboardInterrupt, or Failure if the server refuses the key."""
        while True:
            self.wait(self._next_time() - time.monotonic())

    def wait(self, seconds: float) -> None:
        """Handle the next item of the inbox, or what is due after `seconds` without one."""
        try:
            item = self._inbox.get(timeout=max(0.0, seconds))
        except queue.Empty:
            self._do_due(time.monotonic())
        else:
            self.handle(item)

    def clear_all(self, seconds: float) -> bool:
        """Remove from the broker what this bridge has ever published there, within `seconds`; False if it could not.
        To be called of a bridge with NoDevices."""
        deadline = time.monotonic() + seconds
        for device_id in list(self.state.announced):
            self._clear(device_id)
        quiet = False
        while not (quiet and self._retained.is_complete):
            if time.monotonic() > deadline:
                return False
            self.wait(CLEAR_POLL_SECONDS)
            if not quiet and self._connected and time.monotonic() >= self._found_at + CLEAR_SECONDS:
                quiet = True
                self._retained.clear(self._topics.status)
        self._state_file.write(self.state)
        return True

    def shut_down(self, seconds: float) -> None:
        """Say `offline`, wait for the broker to have it, and write the state."""
        self._retained.set(self._topics.status, OFFLINE)
        deadline = time.monotonic() + seconds
        while self._connected and not self._retained.is_complete and (left := deadline - time.monotonic()) > 0:
            try:
                item = self._inbox.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(item, BrokerHasIt):
                self._retained.acknowledged(item.message_id)
        self._note_announced()
        self._state_file.write(self.state)

    def handle(self, item: InboxItem) -> None:
        """Handle what another thread has seen."""
        match item:
            case EventHappened():
                self._room.release()
                self._event(item.event)
            case BrokerMessage():
                self._broker.handled()
                self._message(item)
            case OwnTopicFound():
                self._found(item.topic)
            case BrokerHasIt():
                self._retained.acknowledged(item.message_id)
                self._print_ready()
            case BrokerConnected():
                self._connected, self._broker_told = True, False
                self._found_at = time.monotonic()
                note("Connected to the broker.")
                self._retained.publish_all()
            case BrokerLost():
                self._connected = False
                if not self._broker_told:
                    note(f"No connection to the broker: {item.reason.rstrip('.')}. It is tried again.")
                self._broker_told = True
            case PushAnswered():
                self._answered(item)
            case EventsLost():
                if item.final:
                    raise item.failure
                self._refresh_soon()
        if time.monotonic() >= self._next_time():
            self._do_due(time.monotonic())

    def _next_time(self) -> float:
        times = [self._refresh_at]
        if self._changed or (self._missed and self._listed):
            times.append(self._changes_at)
        if self._save_at is not None:
            times.append(self._save_at)
        return min(times)

    def _do_due(self, now: float) -> None:
        if now >= self._refresh_at:
            self._refresh(now)
        elif self._changed and now >= self._changes_at:
            self._read_changed()
        elif self._missed and self._listed and now >= self._changes_at:
            self._read_missed()
        if self._save_at is not None and now >= self._save_at:
            self._save_at = None
            self._note_announced()
            self._state_file.write(self.state)
            if self._announcing:
                self._save_soon()

    def _save_soon(self) -> None:
        if self._save_at is None:
            self._save_at = time.monotonic() + SAVE_SECONDS

    # The server

    def _event(self, event: Event) -> None:
        self.state.cursor = str(event["id"])
        self._save_soon()
        event_type, data = str(event["type"]), event["data"]
        if event_type == "events.lost":
            self._refresh_soon()
            self._missed.update(self.state.owed)
            return
        device_id = str(data.get("device_id"))
        if event_type.startswith("device."):
            if device_id in self._devices:
                self._change(device_id)
            elif self._source.may_be_wanted(device_id):
                self._refresh_soon()
            return
        push_id = str(data.get("push_id"))
        if push_id in self.state.owed:
            self._outcome(push_id, event_type.removeprefix("delivery."), data, str(event["timestamp"]))
        elif device_id in self._devices:
            self._early.setdefault(push_id, []).append(event)
            while len(self._early) > MAX_EARLY_OUTCOMES:
                self._early.popitem(last=False)

    def _change(self, device_id: str) -> None:
        if not self._changed:
            self._changes_at = time.monotonic() + CHANGE_SECONDS
        self._changed.add(device_id)
        if len(self._changed) > FEW_CHANGES:
            self._refresh_soon()

    def _refresh_soon(self) -> None:
        self._refresh_at = min(self._refresh_at, self._listed_at + EARLY_REFRESH_SECONDS)

    def _refresh(self, now: float) -> None:
        """Read all devices, and let go of those that are not there any more."""
        self._listed_at = now
        self._refresh_at = now + self._options.refresh_seconds
        try:
            found = self._source.read()
        except Failure as failure:
            self._server_failed(failure)
            return
        self._changed.clear()
        if self._source.left_out:
            self._note("devices", f"more than {MAX_DEVICES} devices: the others are left out. Name tags instead.")
        for device_id in [device_id for device_id in self._devices if device_id not in found]:
            self._remove(device_id)
        self._note_announced()
        for device in found.values():
            self._set(device)
        self._listed = True
        for device_id in self._lost - found.keys():
            self._clear(device_id)
        self._lost.clear()
        self._server_answers()

    def _read_changed(self) -> None:
        """Read the devices of which events have come, one by one."""
        try:
            while self._changed:
                device_id = next(iter(self._changed))
                device = self._source.read_one(device_id)
                self._changed.discard(device_id)
                if device is None:
                    self._remove(device_id)
                else:
                    self._set(device)
        except Failure as failure:
            self._changed.clear()
            self._refresh_soon()
            self._server_failed(failure)

    def _server_failed(self, failure: Failure) -> None:
        if isinstance(failure, RequestRefused) and failure.code in ("unauthorized", "forbidden"):
            raise failure
        self._retained.set(self._topics.status, OFFLINE)
        self._refresh_at = self._listed_at + EARLY_REFRESH_SECONDS
        if not self._server_told:
            note(f"No answer of the server: {str(failure).rstrip('.')}. It is asked again.")
        self._server_told = True

    def _server_answers(self) -> None:
        if self._server_told:
            note("The server answers again.")
        self._server_told = False
        self._retained.set(self._topics.status, ONLINE)

    def _print_ready(self) -> None:
        """Tell once that the broker has everything."""
        if self.ready_line is not None and self._listed and self._retained.is_complete:
            print(f"{self.ready_line} devices={len(self._devices)}", flush=True)
            self.ready_line = None

    # Devices on the broker

    def _set(self, device: BridgedDevice) -> None:
        """Publish a device: its state first, so that nobody is told of topics that are not there."""
        device_id = device.device_id
        self._devices[device_id] = device
        self._retained.set(self._topics.of_device(device_id, "connectivity"), ONLINE if device.online else OFFLINE)
        self._retained.set(self._topics.of_device(device_id, "attributes"), _json(device.attributes))
        if self._options.discovery is None:
            return
        announced = self.state.announced.get(device_id, {}) | self._announcing.get(device_id, {})
        topic = discovery_topic(self._options.discovery, self._topics, device_id)
        self._retained.set(topic, discovery_message(self._topics, device, announced))
        if announced != (now_announced := platforms(device)):
            self._announcing[device_id] = now_announced
            self._save_soon()

    def _note_announced(self) -> None:
        """Remember the entities of discovery messages that the broker has by now."""
        prefix = self._options.discovery
        if prefix is None or not self._connected:
            return
        for device_id in list(self._announcing):
            if self._retained.is_published(discovery_topic(prefix, self._topics, device_id)):
                self.state.announced[device_id] = self._announcing.pop(device_id)

    def _remove(self, device_id: str) -> None:
        self._devices.pop(device_id, None)
        self._rates.forget(device_id)
        self._refused_at.pop(device_id, None)
        self._clear(device_id)

    def _clear(self, device_id: str) -> None:
        """Remove a device's topics from the broker, its announcement first."""
        self._announcing.pop(device_id, None)
        if self.state.announced.pop(device_id, None) is not None:
            self._save_soon()
        if self._options.discovery is not None:
            self._retained.clear(discovery_topic(self._options.discovery, self._topics, device_id))
        for leaf in STATE_LEAVES:
            self._retained.clear(self._topics.of_device(device_id, leaf))

    # Messages of the broker

    def _message(self, message: BrokerMessage) -> None:
        found = self._topics.split(message.topic)
        if found is None:
            return
        device_id, leaf = found
        device = self._devices.get(device_id)
        if device is None:
            self._note("unknown_device", f"a message to {device_id}, which is not bridged: it is dropped.")
            return
        try:
            self._rates.admit(device_id, time.monotonic())
            self._sender.send(push_of(message, leaf, device))
        except MessageRefused as refused:
            self._refused(device_id, leaf.partition("/")[2] or None, str(refused))
        if self._broker.dropped:
            self._note("dropped", f"{self._broker.dropped} messages have been dropped unread: too many waited.")

    def _refused(self, device_id: str, command: str | None, reason: str) -> None:
        """Say why a message is refused; of many refusals the first of each second is published."""
        what = "notify" if command is None else f"command {command}"
        self._note(reason, f"a message to {device_id} ({what}) is refused: {reason}.")
        now = time.monotonic()
        if now - self._refused_at.get(device_id, -REFUSAL_SECONDS) >= REFUSAL_SECONDS:
            self._refused_at[device_id] = now
            named = command if command is None or COMMAND.fullmatch(command) else None
            self._publish_result(OwedOutcome(device_id, named), {"state": "refused", "reason": reason})

    def _found(self, topic: str) -> None:
        """Clear a device that a former run has published, and that is not bridged any more."""
        found = self._topics.split(topic)
        if found is None or found[0] in self._devices:
            return
        device_id = found[0]
        self._found_at = time.monotonic()
        if self._listed:
            self._clear(device_id)
        else:
            self._lost.add(device_id)

    # Outcomes

    def _answered(self, answered: PushAnswered) -> None:
        push = answered.push
        owed = OwedOutcome(push.device_id, push.command)
        if answered.push_id is None:
            state = "refused" if answered.reason == "stale" else "failed"
            self._note(state, f"a push to {push.device_id}: {state}: {answered.reason}")
            self._publish_result(owed, {"state": state, "reason": answered.reason})
            return
        self.state.owe(answered.push_id, owed)
        self._save_soon()
        self._publish_result(owed, {"state": "accepted", "push_id": answered.push_id})
        for event in self._early.pop(answered.push_id, []):
            state = str(event["type"]).removeprefix("delivery.")
            self._outcome(answered.push_id, state, event["data"], str(event["timestamp"]))

    def _outcome(self, push_id: str, state: str, data: Mapping[str, Any], at: str | None) -> None:
        """Publish what has become of a push of ours; after a final state nothing is owed."""
        owed = self.state.owed.get(push_id)
        if owed is None:
            return
        if not self._listed:  # whether its device is still one of ours is not known yet
            self._missed.add(push_id)
            return
        if state in FINAL_STATES:
            del self.state.owed[push_id]
        said: dict[str, Any] = {"state": state, "push_id": push_id}
        for name in ("reason", "action", "result"):
            if data.get(name) is not None:
                said[name] = data[name]
        if len(_json(said)) > RESULT_BYTES:
            said["result"] = {"error": f"more than {RESULT_BYTES} bytes: ask the server for push {push_id}"}
        self._publish_result(owed, said, at)

    def _read_missed(self) -> None:
        """Read the delivery of one push of which events may have been missed."""
        push_id = self._missed.pop()
        try:
            delivery = self._source.read_delivery(push_id)
        except Failure as failure:
            self._missed.add(push_id)
            self._server_failed(failure)
            self._changes_at = time.monotonic() + EARLY_REFRESH_SECONDS
            return
        if delivery is None:
            self.state.owed.pop(push_id, None)
        elif delivery["state"] not in UNDECIDED_STATES:
            self._outcome(push_id, delivery["state"], delivery, delivery["ended_at"])

    def _publish_result(self, owed: OwedOutcome, said: dict[str, Any], at: str | None = None) -> None:
        if owed.device_id not in self._devices:
            return
        about = {"kind": "notify"} if owed.command is None else {"kind": "command", "command": owed.command}
        if at is None:
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._retained.set(self._topics.of_device(owed.device_id, "result"), _json({**about, **said, "at": at}))

    def _note(self, kind: str, text: str) -> None:
        """Say something that others can cause: one line of a kind in NOTE_SECONDS, and how many there were."""
        now = time.monotonic()
        if now < self._noted.get(kind, now):
            self._unnoted[kind] = self._unnoted.get(kind, 0) + 1
            return
        more = self._unnoted.pop(kind, 0)
        note(text + (f" And {more} more of this kind since the last line." if more else ""))
        self._noted[kind] = now + NOTE_SECONDS


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
