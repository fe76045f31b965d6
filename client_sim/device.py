"""`Device`: the reference device client, on paho-mqtt. What `fleetpush listen` runs and a kiosk program imports.

    device = Device("kiosk-1", token, host="push.example", journal=Path("kiosk-1.db"), on_push=show)
    device.actions["play"] = play          # its return value is sent as the action's result
    device.start()

Laws
1. One effect per push, also when the process dies between the effect and the acknowledgement: the journal commits
   before the effect and after it, and the PUBACK leaves last (`journal.py` says what is known in between).
2. A receipt is on disk before it is sent, and stays there until the server has acknowledged it.
3. An acknowledgement belongs to the connection its push came by. Packet identifiers are reused, so a late one on a new
   connection would acknowledge another push.
4. Reconnecting has full jitter: a fleet cut off at once does not return at once. Where the server says when to come
   back (MQTT 5.0, user property `retry-after`), that counts instead, once.

Two threads: the network thread owns the paho client (every call into it is made there; others post closures and ring a
socket), the worker runs the program's callbacks one push at a time, so that a slow one does not stop keep alive.
paho's own `loop_start` is not used: it waits in select(2), which ends at descriptor 1,024, its back-off has no jitter,
and its threads may reconnect between our check of law 3 and the acknowledgement.

Subscribes with QoS 1. The journal already gives one effect, and paho keeps half a QoS 2 exchange in memory only, so
that a crash after PUBREC would lose the push.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import re
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from client_sim.journal import Journal, Known

log = logging.getLogger(__name__)

RECEIPTS_PER_MESSAGE = 20
"""Receipts travel in lists, well below the 4 KiB of a small device's packet."""
FOREVER = 0xFFFF_FFFF
"""MQTT 5 session expiry interval: the session does not expire [MQTT 3.1.2.11.2]."""


RETRY_AFTER = "retry-after"
"""User property of a server that sends us away: whole seconds until we are welcome again."""
SECONDS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Push:
    """A push as it arrived. `message` is the whole JSON object, with fields that this version does not know."""

    push_id: str
    kind: str
    message: dict[str, Any]
    expires_in: int
    received_at: float = field(default_factory=time.monotonic)

    @classmethod
    def parse(cls, payload: bytes | bytearray) -> Push:
        """Raises ValueError for what cannot be a push."""
        message = json.loads(payload)
        if not isinstance(message, dict) or not isinstance(message.get("push_id"), str):
            raise ValueError("not a JSON object with a push_id")
        expires_in = message.get("expires_in")
        return cls(
            push_id=message["push_id"],
            kind=str(message.get("kind", "alert")),
            message=message,
            expires_in=expires_in if isinstance(expires_in, int) else 0,
        )

    @property
    def notification(self) -> dict[str, Any]:
        found = self.message.get("notification")
        return found if isinstance(found, dict) else {}

    @property
    def data(self) -> Any:
        return self.message.get("data")

    @property
    def priority(self) -> str:
        return str(self.message.get("priority", "normal"))

    @property
    def actions(self) -> list[dict[str, Any]]:
        found = self.notification.get("actions")
        return [action for action in found if isinstance(action, dict)] if isinstance(found, list) else []

    @property
    def expired(self) -> bool:
        """Its lifetime ended while it waited here. `expires_in` 0 means at once or not at all: it is at once now."""
        return self.expires_in > 0 and time.monotonic() - self.received_at > self.expires_in


@dataclass
class Backoff:
    """Full jitter: anywhere between nothing and an exponentially growing ceiling, in seconds. The server's word
    replaces the growth, as far as the cap allows; the jitter stays."""

    base: float = 1.0
    cap: float = 120.0
    random: Callable[[float, float], float] = random.uniform

    def delay(self, failures: int, retry_after: int | None = None) -> float:
        if retry_after is not None:
            return min(self.cap, retry_after) + self.random(0.0, min(self.cap, self.base))
        return self.random(0.0, min(self.cap, self.base * 2.0 ** min(failures, 30)))


class Device:
    """One device. `start` it once; `close` from any thread, also from a callback. All methods are thread-safe."""

    def __init__(
        self,
        device_id: str,
        token: str,
        *,
        host: str = "127.0.0.1",
        port: int = 1883,
        app: str = "default",
        journal: Path | None = None,
        on_push: Callable[[Push], Any],
        on_interrupted: Callable[[Push], None] | None = None,
        on_state: Callable[[str, str], None] | None = None,
        mqtt5: bool = False,
        keep_alive: int = 60,
        tls: ssl.SSLContext | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """
        on_push        shows it, or does it. For a `command` its return value is the result that is sent back.
        on_interrupted called instead for a push whose effect an earlier process began and did not survive.
        on_state       (`connecting` | `connected` | `disconnected` | `refused`, detail in words); network thread.
        mqtt5          speak MQTT 5.0 instead of 3.1.1: only then a server can say when to come back.
        """
        self.device_id = device_id
        self.actions: dict[str, Callable[[Push], Any]] = {}
        self._topic = f"{app}/devices/{device_id}/"
        self._on_push = on_push
        self._on_interrupted = on_interrupted
        self._on_state = on_state
        self._backoff = backoff or Backoff()
        self._journal = Journal(journal)
        self._connection = 0
        """Counts connections: the one that law 3 compares."""
        self._failures = 0
        """Attempts since the last subscribed connection."""
        self._retry_after: int | None = None
        """What the server has said at the end of the last connection."""
        self._subscribed = threading.Event()
        self._stopping = threading.Event()
        """No further push is begun."""
        self._closing = threading.Event()
        """The connection is to end."""
        self._running = 2
        self._running_lock = threading.Lock()
        self._drained = threading.Condition()
        self._receipts_sent: tuple[int, int] | None = None
        """(message id, last receipt number) of the one receipt message on its way; one at a time keeps their order."""
        self._inbox: queue.SimpleQueue[tuple[Push, int, int] | None] = queue.SimpleQueue()
        self._posted: deque[Callable[[], None]] = deque()
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._network = threading.Thread(target=self._run_network, name=f"{device_id} network", daemon=True)
        self._worker = threading.Thread(target=self._run_worker, name=f"{device_id} pushes", daemon=True)
        self._client = self._paho(device_id if app == "default" else f"{app}/{device_id}", token, mqtt5)
        if tls is not None:
            self._client.tls_set_context(tls)
        properties = None
        if mqtt5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
            properties.SessionExpiryInterval = FOREVER
        # MQTT 5 asks for its session with clean start 0; 3.1.1 did so in the constructor.
        clean_start = False if mqtt5 else paho.MQTT_CLEAN_START_FIRST_ONLY
        self._client.connect_async(host, port, keep_alive, clean_start=clean_start, properties=properties)

    def _paho(self, client_id: str, token: str, mqtt5: bool) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if mqtt5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,  # else it falls back to MQTT 3.1 by itself
            manual_ack=True,
        )
        client.username_pw_set(client_id, token)
        client.on_connect = self._connected
        client.on_subscribe = self._subscribe_answered
        client.on_message = self._arrived
        client.on_publish = self._published
        client.on_disconnect = self._disconnected
        # With this set paho leaves all writing to our loop.
        client.on_socket_register_write = lambda *_: None
        return client

    # Life

    def start(self) -> Self:
        self._worker.start()
        self._network.start()
        return self

    def close(self, timeout: float = 10.0) -> None:
        """Finish the push in hand, send the receipts if connected, say goodbye. The session stays on the server."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._network.ident is None:
            self._running = 0
            self._release()
            return
        current = threading.current_thread()
        self._inbox.put(None)
        if current is not self._worker:
            self._worker.join(timeout)
        if current is not self._network:
            if self._subscribed.is_set():
                self.flush(min(timeout, 2.0))
            self._closing.set()
            self._post(self._client.disconnect)
            self._network.join(timeout)
        else:
            self._closing.set()
            self._client.disconnect()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Connected and subscribed."""
        return self._subscribed.is_set()

    def wait_connected(self, timeout: float) -> bool:
        return self._subscribed.wait(timeout)

    # What a device says

    def displayed(self, push: Push) -> None:
        self._receipt(push, "displayed")

    def opened(self, push: Push) -> None:
        self._receipt(push, "opened")

    def dismissed(self, push: Push) -> None:
        self._receipt(push, "dismissed")

    def act(self, push: Push, action: str) -> Any:
        """Run the handler of an action, here and now, and book it as acted with what the handler returned."""
        handler = self.actions.get(action)
        result = outcome(handler, push) if handler else None
        self._receipt(push, "acted", action=action, result=result)
        return result

    def _receipt(self, push: Push, event: str, **more: Any) -> None:
        receipt = {
            "push_id": push.push_id,
            "event": event,
            "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
        }
        receipt |= {name: value for name, value in more.items() if value is not None}
        self._journal.add_receipt(json.dumps(receipt))
        self._post(self._send_receipts)

    def report(self, attributes: dict[str, Any]) -> None:
        """Facts about the device, merged into its attributes on the server. In memory until acknowledged."""
        self._say("report", json.dumps(attributes))

    def uplink(self, below: str, payload: str | bytes) -> None:
        """Whatever the program wants to say, under its own `uplink/` topic."""
        self._say(f"uplink/{below}", payload)

    def _say(self, leaf: str, payload: str | bytes) -> None:
        self._post(lambda: self._publish(leaf, payload))

    def flush(self, timeout: float) -> bool:
        """Wait until the server has acknowledged every receipt; False if it did not in time."""
        with self._drained:
            return self._drained.wait_for(lambda: not self._journal.receipts(1), timeout)

    # The worker: one push at a time

    def _run_worker(self) -> None:
        while (job := self._inbox.get()) is not None and not self._stopping.is_set():
            push, packet_id, connection = job
            try:
                self._handle(push)
            except Exception:
                # The journal failed (disk full, file gone): unacknowledged, so that the server sends it again.
                log.exception("push %s could not be handled", push.push_id)
                continue
            self._post(partial(self._acknowledge, packet_id, connection))
        self._thread_ended()

    def _thread_ended(self) -> None:
        """The last of the two closes what both use."""
        with self._running_lock:
            self._running -= 1
            last = self._running == 0
        if last:
            self._release()

    def _release(self) -> None:
        self._bell.close()
        self._ring.close()
        self._journal.close()

    def _handle(self, push: Push) -> None:
        known = self._journal.begin(push.push_id)
        if known is Known.FINISHED:
            return
        if known is Known.INTERRUPTED:
            log.warning("push %s was begun before and its process died: not begun again", push.push_id)
            if self._on_interrupted is not None:
                outcome(self._on_interrupted, push)
        elif push.expired:
            log.info("push %s expired before its turn", push.push_id)
        else:
            result = outcome(self._on_push, push)
            if push.kind == "command":
                self._receipt(push, "acted", result=result)
        self._journal.finish(push.push_id)

    # The network thread

    def _post(self, call: Callable[[], Any]) -> None:
        """Have the network thread make this call."""
        self._posted.append(call)
        try:
            self._ring.send(b"!")
        except OSError:
            pass  # full: it is ringing already; closed: nobody is left to hear

    def _run_posted(self) -> None:
        try:
            self._bell.recv(4096)
        except BlockingIOError:
            pass
        while self._posted:
            self._posted.popleft()()

    def _run_network(self) -> None:
        while not self._closing.is_set():
            self._tell("connecting", "")
            self._failures += 1
            try:
                self._client.reconnect()
                self._serve()
            except OSError as error:
                self._tell("disconnected", error.strerror or str(error))
            except Exception as error:  # paho's errors on broken bytes are in no contract of its
                log.exception("%s: the connection failed", self.device_id)
                self._tell("disconnected", str(error))
            self._subscribed.clear()
            retry_after, self._retry_after = self._retry_after, None
            self._closing.wait(self._backoff.delay(self._failures, retry_after))
        self._thread_ended()

    def _serve(self) -> None:
        """Run one connection until it ends."""
        client = self._client
        connection = client.socket()
        assert connection is not None, "reconnect() succeeded"
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            selector.register(connection, selectors.EVENT_READ)
            interest = selectors.EVENT_READ
            while client.socket() is connection:
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.want_write() else 0)
                if wanted != interest:
                    selector.modify(connection, wanted)
                    interest = wanted
                # Bytes that TLS has decrypted already do not make the socket readable.
                pending = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
                events = {key.fileobj: mask for key, mask in selector.select(0 if pending else 1.0)}
                if self._bell in events:
                    self._run_posted()
                mask = events.get(connection, 0)
                if mask & selectors.EVENT_READ or pending:
                    client.loop_read()
                if mask & selectors.EVENT_WRITE and client.socket() is connection:
                    client.loop_write()
                client.loop_misc()

    def _tell(self, state: str, detail: str) -> None:
        log.debug("%s: %s %s", self.device_id, state, detail)
        if self._on_state is not None:
            try:
                self._on_state(state, detail)
            except Exception:
                log.exception("on_state failed")

    def _connected(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._connection += 1
        if reason.is_failure:
            self._retry_after = retry_after_of(properties)
            self._tell("refused", str(reason))
            return
        # Also into a session that is present: it may have died between CONNECT and SUBSCRIBE.
        client.subscribe(self._topic + "push", qos=1)

    def _subscribe_answered(
        self,
        client: paho.Client,
        userdata: Any,
        message_id: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._tell("refused", f"subscription to {self._topic}push: {reasons[0]}")
            client.disconnect()
            return
        self._failures = 0
        self._subscribed.set()
        self._tell("connected", "")
        self._send_receipts()

    def _disconnected(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._subscribed.clear()
        if flags.is_disconnect_packet_from_server:
            self._retry_after = retry_after_of(properties)
        if not self._closing.is_set():
            lost = reason.value == 0x80 and not flags.is_disconnect_packet_from_server  # paho: "Unspecified error"
            self._tell("disconnected", "connection lost" if lost else str(reason))

    def _arrived(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            push = Push.parse(message.payload)
        except (ValueError, RecursionError) as error:
            log.warning("%s: dropped a message that is no push: %s", self.device_id, error)
            self._acknowledge(message.mid, self._connection, message.qos)
            return
        # QoS 0 has no packet identifier; 0 is none [MQTT-2.2.1-2].
        self._inbox.put((push, message.mid if message.qos else 0, self._connection))

    def _acknowledge(self, packet_id: int, connection: int, qos: int = 1) -> None:
        if packet_id and qos and connection == self._connection and self._client.is_connected():
            self._client.ack(packet_id, 1)

    def _publish(self, leaf: str, payload: str | bytes) -> int:
        """paho keeps it until it is acknowledged, and sends it again after a reconnect."""
        return self._client.publish(self._topic + leaf, payload, qos=1).mid

    def _send_receipts(self) -> None:
        if self._receipts_sent is not None or not self._subscribed.is_set():
            return
        rows = self._journal.receipts(RECEIPTS_PER_MESSAGE)
        if rows:
            payload = rows[0][1] if len(rows) == 1 else "[" + ",".join(receipt for _, receipt in rows) + "]"
            self._receipts_sent = self._publish("receipts", payload), rows[-1][0]

    def _published(
        self, client: paho.Client, userdata: Any, message_id: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            log.warning("%s: the server refused a message of ours: %s", self.device_id, reason)
        if self._receipts_sent is not None and message_id == self._receipts_sent[0]:
            # Refused or not: the same bytes would be refused again.
            self._journal.remove_receipts(self._receipts_sent[1])
            self._receipts_sent = None
            self._send_receipts()
            with self._drained:
                self._drained.notify_all()


def retry_after_of(properties: Properties | None) -> int | None:
    """The seconds in the hint of a CONNACK or DISCONNECT; None without one that can be read."""
    for name, value in getattr(properties, "UserProperty", ()):
        if name == RETRY_AFTER and SECONDS.fullmatch(value):
            return int(value)
    return None


def outcome(handler: Callable[[Push], Any], push: Push) -> Any:
    """What a handler of the program returned; if it failed, its error in the form of a result."""
    try:
        return handler(push)
    except Exception as error:
        log.exception("a handler failed on push %s", push.push_id)
        return {"error": f"{type(error).__name__}: {error}"}
