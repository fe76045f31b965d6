"""A Fleetpush in memory, for the tests of a device program: `FakeServer`.

    with FakeServer() as server, Device("kiosk-1", "token", port=server.port, on_push=show) as device:
        push_id = server.push("kiosk-1", notification={"title": "Hi", "actions": [{"id": "play", "title": "Play"}]})
        assert server.wait(push_id, "acted")["result"] == {"state": "playing"}
    assert server.complaints == []

A real MQTT server on a port of 127.0.0.1, 3.1.1 and 5.0, so that a device in any language can be tested. It keeps the
device contract: sessions, mailboxes in order of priority, ttl and collapse keys, unacknowledged pushes again with DUP,
receipts of which the furthest counts. What the contract does not allow is refused as the server would, and is a
complaint. What only a fleet needs (quotas, policies, retention, any promise about a disk) is not here.

The loop runs in a thread of its own; one lock guards what both threads see.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

from broker.protocol.codec import Decoder, encode
from broker.protocol.errors import MqttError, return_code_of
from broker.protocol.packets import (
    V3_1_1,
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    ReasonCode,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

PRIORITIES = ("critical", "high", "normal", "low")
RECEIPTS = ("delivered", "displayed", "dismissed", "opened", "acted")
"""Events in their order: a later one goes further."""
WAIT_SECONDS = 5.0


@dataclass
class Delivery:
    """One push to one device."""

    push_id: str
    device_id: str
    message: dict[str, Any]
    ends_at: float
    state: str = "waiting"
    action: str | None = None
    result: Any = None
    receipts: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Session:
    """The state that a device's connections share."""

    subscribed: bool = False
    in_flight: dict[int, Delivery] = field(default_factory=dict)
    last_id: int = 0
    listening: bool = False
    """True: the device has subscribed to its notices."""
    notices: set[int] = field(default_factory=set)
    """Packet identifiers of those in flight."""


class FakeServer:
    """A Fleetpush server in memory, on a port of 127.0.0.1. All methods may be called from any thread."""

    def __init__(self, tokens: Mapping[str, str] | None = None) -> None:
        """`tokens`: device id -> token; without them every device is let in."""
        self.host = "127.0.0.1"
        self.port = 0
        """Set by `start`."""
        self.complaints: list[str] = []
        """Faults of devices against the contract, in words."""
        self.settings: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        """Device id -> `{"consent"?, "channels"?, "seq"?, ..}`, merged as the server does."""
        self.attributes: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        """Device id -> what it has reported."""
        self.uplink: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
        """Device id -> (topic below `uplink/`, payload), in order."""
        self._tokens = tokens
        self._deliveries: dict[str, Delivery] = {}
        self._sessions: dict[str, Session] = {}
        self._connections: dict[str, _Connection] = {}
        self._open: set[_Connection] = set()
        self._refusal: Connack | None = None
        self._unreachable = False
        self._ahead = 0.0
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake server", daemon=True)

    # Life

    def start(self) -> Self:
        """Start listening; `port` is set when this returns."""
        self._thread.start()
        listening = self._loop.create_server(lambda: _Connection(self), self.host, 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(WAIT_SECONDS)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def close(self) -> None:
        """Every connection ends without a word."""
        if not self._thread.is_alive():
            return
        self._in_loop(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    def _end(self) -> None:
        self._server.close()
        for connection in list(self._open):
            connection.abort()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _in_loop(self, call: Callable[[], None]) -> None:
        """Returns when it was called there."""

        async def called() -> None:
            with self._changed:
                call()
                self._changed.notify_all()

        asyncio.run_coroutine_threadsafe(called(), self._loop).result(WAIT_SECONDS)

    # What a test does

    def push(
        self,
        device_id: str,
        *,
        kind: str | None = None,
        notification: dict[str, Any] | None = None,
        data: Any = None,
        priority: str = "normal",
        ttl: int = 86_400,
        collapse_key: str | None = None,
        push_id: str | None = None,
        **further: Any,
    ) -> str:
        """Send one, as `POST /v1/pushes` does; its id. A device need not be connected, nor ever have been.
        `further` fields go into the message as they are. Raises ValueError."""
        if priority not in PRIORITIES:
            raise ValueError(f"priority is one of {', '.join(PRIORITIES)}, not {priority!r}")
        push_id = push_id or f"push-{len(self._deliveries) + 1}"
        optional = {"notification": notification, "data": data, "collapse_key": collapse_key}
        message = {"v": 1, "push_id": push_id, "kind": kind or ("silent" if notification is None else "alert")}
        message |= {"sent_at": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()), "priority": priority}
        message |= {name: value for name, value in optional.items() if value is not None} | further
        delivery = Delivery(push_id, device_id, message, self._now() + ttl)

        def accept() -> None:
            if push_id in self._deliveries:
                raise ValueError(f"there is a push {push_id!r} already")
            for other in self._deliveries.values():
                same = (other.device_id, other.message.get("collapse_key")) == (device_id, collapse_key)
                if collapse_key is not None and same and other.state == "waiting":
                    other.state = "superseded"
            self._expire()
            self._deliveries[push_id] = delivery
            self._hand_over(device_id)
            if ttl == 0 and delivery.state == "waiting":
                delivery.state = "expired"

        self._in_loop(accept)
        return push_id

    def notice(self, device_id: str, content: dict[str, Any]) -> None:
        """Tell a device something about pushes, such as `{"v": 1, "type": "gap", "count": 2, ..}`. Raises ValueError if
        it is not connected and subscribed to its `notices`."""

        def send() -> None:
            connection, session = self._connections.get(device_id), self._sessions.get(device_id)
            if connection is None or session is None or not session.listening:
                raise ValueError(f"{device_id} does not listen to its notices")
            session.last_id = session.last_id % 0xFFFF + 1
            session.notices.add(session.last_id)
            connection.notice(session.last_id, content)

        self._in_loop(send)

    def delivery(self, push_id: str) -> dict[str, Any]:
        """`{"state", "action", "result", "receipts"}` as they are now. Raises KeyError."""
        with self._lock:
            found = self._deliveries[push_id]
            return {
                "state": found.state,
                "action": found.action,
                "result": found.result,
                "receipts": list(found.receipts),
            }

    def wait(self, push_id: str, state: str, timeout: float = WAIT_SECONDS) -> dict[str, Any]:
        """The delivery, once it is in this state or further. Raises AssertionError if it is not in time (seconds)."""

        def there() -> bool:
            now = self._deliveries[push_id].state
            return now == state or (state in RECEIPTS and now in RECEIPTS[RECEIPTS.index(state) :])

        self.wait_until(there, timeout, lambda: f"{push_id} to be {state}; it is {self._deliveries[push_id].state}")
        return self.delivery(push_id)

    def wait_connected(self, device_id: str, timeout: float = WAIT_SECONDS) -> None:
        """Wait until a device has connected and subscribed. Raises AssertionError."""
        self.wait_until(lambda: self.connected(device_id), timeout, lambda: f"{device_id} to connect and subscribe")

    def connected(self, device_id: str) -> bool:
        """True while a device is connected and subscribed."""
        with self._lock:
            return device_id in self._connections and self._sessions[device_id].subscribed

    def wait_until(
        self, condition: Callable[[], bool], timeout: float = WAIT_SECONDS, what: Callable[[], str] | None = None
    ) -> None:
        """Wait until something that devices do makes `true` true. Raises AssertionError, which names the complaints."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                complaints = f"; complaints: {self.complaints}" if self.complaints else ""
                raise AssertionError(f"waited {timeout:g} s for {what() if what else 'a condition'}{complaints}")

    def pass_time(self, seconds: float) -> None:
        """Waiting pushes become older by so much; those at their end expire."""
        self._ahead += seconds
        self._in_loop(self._expire)

    # What goes wrong

    def disconnect(self, device_id: str, reason_code: int | None = None, retry_after: int | None = None) -> None:
        """End its connection: without a word, or with a DISCONNECT where the device speaks 5.0."""

        def cut() -> None:
            connection = self._connections.get(device_id)
            if connection is not None:
                if reason_code is not None and connection.version == V5:
                    connection.send(Disconnect(reason_code, _hint(retry_after)))
                connection.close()
                self._left(connection)

        self._in_loop(cut)

    def refuse_next(self, reason_code: int = ReasonCode.SERVER_BUSY, retry_after: int | None = None) -> None:
        """The next CONNECT is answered with this code of 5.0, or what comes nearest in 3.1.1."""
        self._refusal = Connack(reason_code=reason_code, properties=_hint(retry_after))

    def go_offline(self) -> None:
        """Every connection ends and none is taken, until `go_online`."""

        def cut() -> None:
            self._unreachable = True
            for connection in list(self._open):
                connection.abort()
                self._left(connection)

        self._in_loop(cut)

    def go_online(self) -> None:
        self._unreachable = False

    # In the loop, with the lock

    def _now(self) -> float:
        return time.monotonic() + self._ahead

    def _complain(self, who: str, what: str) -> None:
        self.complaints.append(f"{who}: {what}")

    def _expire(self) -> None:
        now = self._now()
        for delivery in self._deliveries.values():
            if delivery.state == "waiting" and delivery.ends_at < now:
                delivery.state = "expired"

    def _hand_over(self, device_id: str) -> None:
        connection, session = self._connections.get(device_id), self._sessions.get(device_id)
        if connection is None or session is None or not session.subscribed:
            return
        waiting = [d for d in self._deliveries.values() if d.device_id == device_id and d.state == "waiting"]
        for delivery in sorted(waiting, key=lambda d: PRIORITIES.index(d.message["priority"])):
            session.last_id = session.last_id % 0xFFFF + 1
            session.in_flight[session.last_id] = delivery
            delivery.state = "sent"
            connection.push(session.last_id, delivery, self._now())

    def _entered(self, connection: _Connection, clean: bool) -> bool:
        """A device is let in; whether its session was kept."""
        device_id = connection.device_id
        if (before := self._connections.get(device_id)) is not None:
            before.close()
        self._connections[device_id] = connection
        kept = self._sessions.get(device_id)
        if clean or kept is None:
            for delivery in kept.in_flight.values() if kept is not None else ():
                delivery.state = "waiting"
            self._sessions[device_id] = Session()
        return kept is not None and not clean

    def _resume(self, connection: _Connection) -> None:
        """[MQTT-4.4.0-1]: what was not acknowledged again, as it was, unless its time is over."""
        session = self._sessions[connection.device_id]
        for packet_id, delivery in list(session.in_flight.items()):
            if delivery.ends_at < self._now():
                del session.in_flight[packet_id]
                delivery.state = "expired"
            else:
                connection.push(packet_id, delivery, self._now(), dup=True)
        self._subscribed(connection.device_id)

    def _subscribed(self, device_id: str) -> None:
        self._expire()
        self._hand_over(device_id)

    def _left(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if self._connections.get(connection.device_id) is connection:
            del self._connections[connection.device_id]

    def _acknowledged(self, device_id: str, packet_id: int, reason_code: int) -> None:
        session = self._sessions[device_id]
        if packet_id in session.notices:
            session.notices.discard(packet_id)
            return
        delivery = session.in_flight.pop(packet_id, None)
        if delivery is None:
            self._complain(device_id, f"PUBACK for packet identifier {packet_id}, which is not in flight")
        elif reason_code >= ReasonCode.UNSPECIFIED_ERROR:
            delivery.state = "refused"
        else:
            self._reach(delivery, "delivered")

    def _reach(self, delivery: Delivery, event: str) -> None:
        before = RECEIPTS.index(delivery.state) if delivery.state in RECEIPTS else -1
        delivery.state = RECEIPTS[max(before, RECEIPTS.index(event))]

    def _received(self, device_id: str, leaf: str, payload: bytes) -> int:
        """A message of a device; the reason code that answers it."""
        if leaf.startswith("uplink/"):
            self.uplink[device_id].append((leaf.removeprefix("uplink/"), payload))
            return ReasonCode.SUCCESS
        try:
            if leaf == "receipts":
                self._receipts(device_id, payload)
            elif leaf == "presence":
                pass
            else:
                content = json.loads(payload)
                if not isinstance(content, dict):
                    raise ValueError("not a JSON object")
                if leaf == "report":
                    self.attributes[device_id] |= content
                    for name in [name for name, value in content.items() if value is None]:
                        del self.attributes[device_id][name]
                else:
                    self._settings(device_id, content)
        except (ValueError, RecursionError) as error:
            self._complain(device_id, f"{leaf}: {error}")
            return ReasonCode.PAYLOAD_FORMAT_INVALID
        return ReasonCode.SUCCESS

    def _receipts(self, device_id: str, payload: bytes) -> None:
        text = payload.decode().strip()
        found = json.loads(text) if text[:1] in ("[", "{", '"') else text
        for receipt in found if isinstance(found, list) else [found]:
            said = {"push_id": receipt, "event": "delivered"} if isinstance(receipt, str) else receipt
            if not isinstance(said, dict) or said.get("event") not in RECEIPTS:
                raise ValueError(f"{said!r} is no receipt; events are {', '.join(RECEIPTS)}")
            delivery = self._deliveries.get(str(said.get("push_id")))
            if delivery is None or delivery.device_id != device_id:
                raise ValueError(f"a receipt for {said.get('push_id')!r}, which was not pushed to this device")
            delivery.receipts.append(said)
            if said["event"] == "acted":
                delivery.action, delivery.result = said.get("action"), said.get("result")
            self._reach(delivery, said["event"])

    def _settings(self, device_id: str, content: dict[str, Any]) -> None:
        """The highest sequence wins; without one the order of arrival."""
        consent = content.get("consent")
        if consent not in (None, "unknown", "granted", "denied"):
            raise ValueError(f"consent is unknown, granted or denied, not {consent!r}")
        choices = {name: content.get(name, {}) for name in ("channels", "topics")}
        for name, given in choices.items():
            if not isinstance(given, dict) or not all(isinstance(wanted, bool) for wanted in given.values()):
                raise ValueError(f"{name} is an object of true and false")
        settings = self.settings[device_id]
        if content.get("seq", 0) < settings.get("seq", 0):
            return
        merged = {name: settings.get(name, {}) | given for name, given in choices.items()}
        settings |= content | {name: chosen for name, chosen in merged.items() if chosen}
        if settings.get("quiet_hours", ...) is None:
            del settings["quiet_hours"]


class _Connection(asyncio.Protocol):
    """One connection; a side connection (`ID:suffix`) may publish only."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._decoder = Decoder(self)
        self._transport: asyncio.Transport | None = None
        self._topics = ""
        self._side = False
        self._half_received: set[int] = set()
        """Packet identifiers of QoS 2 messages between PUBREC and PUBREL."""
        self.device_id = ""

    @property
    def version(self) -> int:
        return self._decoder.version

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        with self._server._changed:
            self._server._open.add(self)
            if self._server._unreachable:
                self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._decoder.stop()
        with self._server._changed:
            self._server._left(self)
            self._server._changed.notify_all()

    def data_received(self, data: bytes) -> None:
        with self._server._changed:
            try:
                self._decoder.feed(data)
            except MqttError as error:
                self._server._complain(self.device_id or "a client", f"{error.label}: {error}")
                self.close()
            self._server._changed.notify_all()

    def send(self, packet: Packet) -> None:
        if self._transport is not None:
            self._transport.write(encode(packet, self.version))

    def close(self) -> None:
        self._decoder.stop()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self._decoder.stop()
        if self._transport is not None:
            self._transport.abort()

    def push(self, packet_id: int, delivery: Delivery, now: float, *, dup: bool = False) -> None:
        left = max(0, -int(-(delivery.ends_at - now) // 1))
        payload = json.dumps(delivery.message | {"expires_in": left}).encode()
        self.send(Publish(f"{self._topics}push", payload, qos=1, dup=dup, packet_id=packet_id))

    def notice(self, packet_id: int, content: dict[str, Any]) -> None:
        self.send(Publish(f"{self._topics}notices", json.dumps(content).encode(), qos=1, packet_id=packet_id))

    # What the device sends

    def puback(self, packet_id: int, reason_code: int) -> None:
        self._server._acknowledged(self.device_id, packet_id, reason_code)

    def packet(self, packet: Packet) -> None:
        if isinstance(packet, Connect):
            self._connect(packet)
        elif not self.device_id:
            self._server._complain("a client", f"{type(packet).__name__.upper()} before CONNECT")
            self.close()
        elif isinstance(packet, Subscribe):
            self._subscribe(packet)
        elif isinstance(packet, Publish):
            self._published(packet)
        elif isinstance(packet, Pubrel):
            self._half_received.discard(packet.packet_id)
            self.send(Pubcomp(packet.packet_id))
        elif isinstance(packet, Unsubscribe):
            self._server._sessions[self.device_id].subscribed = False
            self.send(Unsuback(packet.packet_id, [0] * len(packet.topic_filters) if self.version == V5 else []))
        elif isinstance(packet, Pingreq):
            self.send(Pingresp())
        elif isinstance(packet, Disconnect):
            self.close()

    def _connect(self, packet: Connect) -> None:
        server = self._server
        username, _, suffix = (packet.username or "").partition(":")
        app, _, device_id = username.rpartition("/")
        if server._refusal is not None:
            refusal, server._refusal = server._refusal, None
            self._refuse(refusal)
            return
        token = None if server._tokens is None else server._tokens.get(device_id, "")
        if token is not None and (packet.password or b"") != token.encode():
            server._complain(device_id or packet.client_id, "a wrong token")
            self._refuse(Connack(reason_code=ReasonCode.BAD_USER_NAME_OR_PASSWORD))
            return
        if not device_id or packet.client_id != packet.username:
            server._complain(packet.client_id, f"client id {packet.client_id!r} and user name {packet.username!r}: the"
                             " device id (APP/ID for an app other than default) is both")  # fmt: skip
            self._refuse(Connack(reason_code=ReasonCode.CLIENT_IDENTIFIER_NOT_VALID))
            return
        self.device_id = device_id
        self._topics = f"{app or 'default'}/devices/{device_id}/"
        self._side = bool(suffix)
        kept = False
        if not self._side:
            expiry = packet.properties.session_expiry_interval if packet.properties is not None else None
            if packet.clean_start if self.version == V3_1_1 else not expiry:
                server._complain(device_id, "a session that ends with the connection: what comes meanwhile is lost")
            kept = server._entered(self, packet.clean_start)
        self.send(Connack(session_present=kept))
        if kept:
            server._resume(self)

    def _refuse(self, refusal: Connack) -> None:
        code = refusal.reason_code if self.version == V5 else return_code_of(refusal.reason_code)
        self.send(Connack(reason_code=code, properties=refusal.properties))
        self.close()

    def _subscribe(self, packet: Subscribe) -> None:
        answers, wanted = [], False
        for subscription in packet.subscriptions:
            leaf = subscription.topic_filter.removeprefix(self._topics)
            if self._side or subscription.topic_filter not in (f"{self._topics}push", f"{self._topics}notices"):
                denied = "a side connection subscribes to nothing" if self._side else "not its push or notices topic"
                self._server._complain(self.device_id, f"subscription to {subscription.topic_filter}: {denied}")
                answers.append(int(ReasonCode.NOT_AUTHORIZED if self.version == V5 else ReasonCode.UNSPECIFIED_ERROR))
                continue
            if leaf == "notices":
                self._server._sessions[self.device_id].listening = True
            if leaf == "push":
                wanted = True
                if subscription.qos == 0:
                    self._server._complain(self.device_id, "subscription with QoS 0: nobody will know what arrived")
            answers.append(min(subscription.qos, 1))
        self.send(Suback(packet.packet_id, answers))
        if wanted:
            self._server._sessions[self.device_id].subscribed = True
            self._server._subscribed(self.device_id)

    def _published(self, packet: Publish) -> None:
        server = self._server
        leaf = packet.topic.removeprefix(self._topics)
        own = packet.topic.startswith(self._topics) and (
            leaf in ("receipts", "settings", "report", "presence") or leaf.startswith("uplink/")
        )
        if not own:
            server._complain(self.device_id, f"a message on {packet.topic}, which is not for it to publish on")
            answer: int = ReasonCode.NOT_AUTHORIZED
        elif packet.qos == 2 and packet.packet_id in self._half_received:
            answer = ReasonCode.SUCCESS  # the same again
        else:
            answer = server._received(self.device_id, leaf, packet.payload)
        if packet.qos == 1:
            self.send(Puback(packet.packet_id, answer))
        elif packet.qos == 2:
            if answer < ReasonCode.UNSPECIFIED_ERROR:
                self._half_received.add(packet.packet_id)
            self.send(Pubrec(packet.packet_id, answer))


def _hint(retry_after: int | None) -> Properties | None:
    return None if retry_after is None else Properties(user_properties=[("retry-after", str(retry_after))])
