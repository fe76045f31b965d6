"""The reference device client, on paho-mqtt: `Device`. `fleetpush listen` runs it, and a kiosk program imports it.

    device = Device("kiosk-1", token, host="push.example", journal=Path("kiosk-1.db"), on_push=show)

    @device.action("play")                  # a person chose it: `device.act(push, "play")`
    def play(push): ...                     # what it returns is sent as the action's result

    @device.command("reboot")               # a push of kind `command` with the data {"command": "reboot"}
    def reboot(push): ...

    device.start()

`client_sim.async_device.AsyncDevice` is the same for asyncio; `client_sim.testing.FakeServer` is for a program's tests.

Laws
1. One effect per push, also when the process dies between the effect and the acknowledgement: the journal commits
   before the effect and after it, and the PUBACK leaves last (`journal.py` says what is known in between).
2. What the device says is on disk before it is sent, and stays there until the server has acknowledged it. One message
   is on its way at a time: what a person did in order arrives in order.
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
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from client_sim.attachments import Fetcher
from client_sim.backoff import Absence, Backoff, ending_of, failure_of, retry_after_of
from client_sim.enrolled_device import EnrolledDevice
from client_sim.journal import Journal, Known
from client_sim.outgoing import (
    RECEIPTS_PER_MESSAGE,
    batch,
    receipt,
)
from client_sim.preferences import Preferences
from client_sim.push import CONSENT_ACTIONS, Handler, Push, handler_of, is_command, outcome, unsigned_command

if TYPE_CHECKING:
    from client_sim.trust import TrustedKeys

log = logging.getLogger(__name__)

H = TypeVar("H", bound=Handler)

MAX_UPLINK_BYTES = 262_144
"""Bytes of an uplink message. A server whose packets are smaller would close the connection again and again."""
SESSION_EXPIRY_SECONDS = 0xFFFF_FFFF
"""MQTT 5 session expiry interval: the session does not expire [MQTT 3.1.2.11.2]."""
Notice = dict[str, Any]


class Device(EnrolledDevice, Preferences):
    """One device on a Fleetpush server. `start` it once; `close` it from any thread, also from a callback. All methods
    are thread-safe."""

    def __init__(
        self,
        device_id: str,
        token: str,
        *,
        host: str = "127.0.0.1",
        port: int = 1883,
        app: str = "default",
        journal: Path | None = None,
        on_push: Handler | None = None,
        on_interrupted: Handler | None = None,
        on_state: Callable[[str, str], None] | None = None,
        on_notice: Callable[[dict[str, Any]], Any] | None = None,
        mqtt5: bool = False,
        keep_alive: int = 60,
        tls: ssl.SSLContext | None = None,
        backoff: Backoff | None = None,
        trusted_keys: TrustedKeys | None = None,
    ) -> None:
        """Open the journal; nothing is connected before `start`. Callbacks run on a thread of its own, one at a time.

        journal        a file of its own per device; None keeps it in memory, once-only per process.
        on_push        called to show it, or to use its data. Commands go to it as well as long as none is registered by
                       name; what it returns for one is the result that is sent back.
        on_interrupted called instead for a push whose effect an earlier process began and did not survive. For a
                       command what it returns is the result; without it, that is {"error": "interrupted"}.
        on_state       called with (`connecting` | `connected` | `disconnected` | `refused`, detail in words), on the
                       network thread.
        on_notice      called with news about pushes, `{"type": "gap" | "preferences", ..}`; with it the device
                       subscribes to its `notices`. May come twice.
        mqtt5          speak MQTT 5.0 instead of 3.1.1: only then a server can say when to come back.
        tls            a context that trusts the server, with the device's certificate if it has one.
        trusted_keys   obey commands that one of these keys has signed, and no others. It needs a journal in a file.

        Raises sqlite3.Error or JournalTooNew when the journal cannot be used, and ValueError.
        """
        self.device_id = device_id
        self.actions: dict[str, Handler] = {}
        """Action id -> what is done when a person chooses it; its return value is the result."""
        self.commands: dict[str, Handler] = {}
        """Command -> what is done on that order; its return value is the result."""
        self._topic = f"{app}/devices/{device_id}/"
        self._on_push = on_push
        self._on_interrupted = on_interrupted
        self._on_state = on_state
        self._on_notice = on_notice
        if trusted_keys is not None and journal is None:
            raise ValueError("trusted_keys need a journal in a file: in memory it forgets what was used")
        self._journal = Journal(journal)
        self._verifier = None if trusted_keys is None else trusted_keys.verifier(app, device_id, self._journal)
        self._connection = 0
        """Counts connections: the one that law 3 compares."""
        self._absence = Absence(backoff or Backoff())
        self._retry_after: int | None = None
        """The seconds that the server asked for at the end of the last connection."""
        self._subscribed = threading.Event()
        self._stopping = threading.Event()
        """Set: no further push is begun."""
        self._closing = threading.Event()
        """The connection is to end."""
        self._running = 2
        self._running_lock = threading.Lock()
        self._drained = threading.Condition()
        self._in_flight: tuple[int, int] | None = None
        """(message id, last number in the outbox) of the one message on its way."""
        self._inbox: queue.SimpleQueue[tuple[Push | Notice, int, int] | None] = queue.SimpleQueue()
        """Arrived pushes and notices, each with its packet identifier and its connection."""
        self._posted: deque[Callable[[], None]] = deque()
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._network = threading.Thread(target=self._run_network, name=f"{device_id} network", daemon=True)
        self._worker = threading.Thread(target=self._run_worker, name=f"{device_id} pushes", daemon=True)
        self._username = device_id if app == "default" else f"{app}/{device_id}"
        self._host = host
        self._fetcher = Fetcher(self._username, token, tls)
        self._client = self._paho(self._username, token, mqtt5)
        if tls is not None:
            self._client.tls_set_context(tls)
        properties = None
        if mqtt5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
            properties.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
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
        """Start both threads; the connection is made in the background, and again whenever it is lost."""
        self._worker.start()
        self._network.start()
        self._start_renewal()
        return self

    def close(self, timeout: float = 10.0) -> None:
        """Finish the current push, send the receipts if connected, and disconnect. The session stays on the server."""
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
        """Wait up to `timeout` seconds until connected and subscribed; False if it is not by then."""
        return self._subscribed.wait(timeout)

    # What the program does

    def action(self, name: str) -> Callable[[H], H]:
        """Decorates the handler of an action."""
        return partial(_register, self.actions, name)

    def command(self, name: str) -> Callable[[H], H]:
        """Decorates the handler of a command."""
        return partial(_register, self.commands, name)

    # What a device says. All of it is kept before the call returns, and sent when there is a connection.

    def displayed(self, push: Push) -> None:
        """Send the receipt `displayed`."""
        self._enqueue(*receipt(push, "displayed"))

    def opened(self, push: Push) -> None:
        """Send the receipt `opened`."""
        self._enqueue(*receipt(push, "opened"))

    def dismissed(self, push: Push, reason: str | None = None) -> None:
        """The person put it away; or the program did and says why (`ttl`, `screen_full`; `[a-z0-9_]{1,32}`)."""
        self._enqueue(*receipt(push, "dismissed", reason=reason))

    def act(self, push: Push, action: str, text: str | None = None) -> Any:
        """Run the handler of an action on the calling thread, and book the push as acted with what it returned.
        A command that the action names has a handler too. `text` is what the person typed, where the action has an
        `input`: the handler finds it as `push.input`, without one it is the result. The actions `consent.granted` and
        `consent.denied` need no handler: they are the person's answer, as `set_consent` keeps it."""
        handler = self.handler_of(push, action)
        told = push if text is None else replace(push, input=text)
        result = self._run(handler, told) if handler else self.answer(told, action)
        self.acted(push, action, result)
        return result

    def handler_of(self, push: Push, action: str) -> Handler | None:
        """The handler that `act` runs for an action of a push; None: there is none."""
        handler = handler_of(push, action, self.actions, self.commands)
        if self._verifier is not None and self._verifier.signed_only("command"):
            return unsigned_command if is_command(push, action, handler, self.commands) else handler
        return handler

    def answer(self, push: Push, action: str) -> Any:
        """Return the result of an action without a handler: its consent, which is stored, or the person's input."""
        consent = CONSENT_ACTIONS.get(action)
        if consent is None:
            return push.input
        asked = push.data.get("text_version") if isinstance(push.data, dict) else None
        version = asked if isinstance(asked, str) and len(asked) <= 64 else None
        self.set_consent(consent, version)
        return {"consent": consent} | ({} if version is None else {"text_version": version})

    def acted(self, push: Push, action: str | None = None, result: Any = None) -> None:
        """Book an action that the program has executed by itself."""
        self._enqueue(*receipt(push, "acted", action, result))

    def _change_settings(self, change: dict[str, Any], about: dict[str, Any]) -> None:
        self._journal.change_settings(change, about)
        self._post(self._send_next)

    def report(self, attributes: dict[str, Any]) -> None:
        """Facts about the device, merged into its attributes on the server (RFC 7396). Raises ValueError, TypeError."""
        if not isinstance(attributes, dict):
            raise TypeError("a report is an object of attributes")
        self._enqueue("report", json.dumps(attributes, allow_nan=False))

    def uplink(self, below: str, payload: str | bytes) -> None:
        """Send a message of the program under the device's own `uplink/` topic. Raises ValueError."""
        if not below or "+" in below or "#" in below or "\0" in below or len(below.encode()) > 1_024:
            raise ValueError(f"uplink to {below!r}: a topic of 1 to 1,024 bytes without +, # and NUL")
        size = len(payload.encode() if isinstance(payload, str) else payload)
        if size > MAX_UPLINK_BYTES:
            raise ValueError(f"uplink of {size} bytes: at most {MAX_UPLINK_BYTES}")
        self._enqueue(f"uplink/{below}", payload)

    def _enqueue(self, leaf: str, payload: str | bytes) -> None:
        self._journal.enqueue(leaf, payload)
        self._post(self._send_next)

    def fetch(self, push: Push, url: str) -> bytes:
        """Fetch a picture or file of a push by its address (`push.notification["image"]`). Blocks: a fleet does not
        come all at once, so up to `push.fetch_within` seconds, and longer while the server is busy. Raises
        FetchFailed."""
        return self._fetcher.fetch(push, url, self._stopping)

    def flush(self, timeout: float) -> bool:
        """Wait (seconds) until the server has acknowledged everything said; False if it did not in time."""
        with self._drained:
            return self._drained.wait_for(lambda: not self._journal.queued(1), timeout)

    # The worker: one push at a time

    def _run_worker(self) -> None:
        while (job := self._inbox.get()) is not None and not self._stopping.is_set():
            arrived, packet_id, connection = job
            try:
                if isinstance(arrived, Push):
                    self._handle(arrived)
                elif self._on_notice is not None:
                    self._run_notice(self._on_notice, arrived)
            except Exception:
                # The journal failed (disk full, file gone): unacknowledged, so that the server sends it again.
                log.exception("%s could not be handled", arrived.push_id if isinstance(arrived, Push) else "a notice")
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
        if push.kind == "heartbeat":  # to acknowledge it is all there is to do
            return
        known = self._journal.begin(push.push_id)
        if known is Known.FINISHED:
            return
        said = None
        admitted = push if self._verifier is None else self._verifier.admit(push, known)
        if not isinstance(admitted, Push):
            said = admitted
        elif known is Known.INTERRUPTED:
            log.warning("push %s was begun before and its process died: not begun again", push.push_id)
            result = self._run(self._on_interrupted, admitted) if self._on_interrupted is not None else None
            if push.kind == "command":
                said = receipt(push, "acted", result={"error": "interrupted"} if result is None else result)
        elif admitted.expired:
            log.info("push %s expired before its turn", push.push_id)
        elif push.kind == "command":
            said = receipt(push, "acted", result=self._obey(admitted))
        elif self._on_push is not None:
            self._run(self._on_push, admitted)
        self._journal.finish(push.push_id, said)
        if said is not None:
            self._post(self._send_next)

    def _obey(self, push: Push) -> Any:
        """Carry out a command; its result."""
        if not self.commands and self._on_push is not None:
            return self._run(self._on_push, push)
        handler = self.commands.get(push.command or "")
        if handler is None:
            return {"error": "unknown command" if push.command is None else f"unknown command {push.command!r}"}
        return self._run(handler, push)

    def _run(self, handler: Handler, push: Push) -> Any:
        return outcome(handler, push)

    def _run_notice(self, handler: Callable[[Notice], Any], notice: Notice) -> None:
        handler(notice)

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
            self._report_state("connecting", "")
            self._absence.attempt()
            try:
                self._client.reconnect()
                self._serve()
            except OSError as error:
                self._report_state("disconnected", failure_of(error, self._host))
            except Exception as error:  # paho's errors on broken bytes are in no contract of its
                log.exception("%s: the connection failed", self.device_id)
                self._report_state("disconnected", str(error))
            self._subscribed.clear()
            retry_after, self._retry_after = self._retry_after, None
            self._closing.wait(self._absence.delay(retry_after))
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

    def _report_state(self, state: str, detail: str) -> None:
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
            self._report_state("refused", str(reason))
            return
        # Also into a session that is present: it may have died between CONNECT and SUBSCRIBE.
        wanted = ["push"] if self._on_notice is None else ["push", "notices"]
        client.subscribe([(self._topic + leaf, 1) for leaf in wanted])

    def _subscribe_answered(
        self,
        client: paho.Client,
        userdata: Any,
        message_id: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._report_state("refused", f"subscription to {self._topic}push: {reasons[0]}")
            client.disconnect()
            return
        self._absence.end()
        self._subscribed.set()
        self._report_state("connected", "")
        self._send_next()

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
            self._report_state("disconnected", ending_of(reason, flags, self._username))

    def _arrived(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        arrived: Push | Notice
        try:
            if message.topic.endswith("/notices"):
                arrived = json.loads(message.payload)
                if not isinstance(arrived, dict):
                    raise ValueError("a notice is a JSON object")
            else:
                arrived = Push.parse(message.payload)
        except (ValueError, RecursionError) as error:
            log.warning("%s: dropped a message that is no push: %s", self.device_id, error)
            self._acknowledge(message.mid, self._connection, message.qos)
            return
        # QoS 0 has no packet identifier; 0 is none [MQTT-2.2.1-2].
        self._inbox.put((arrived, message.mid if message.qos else 0, self._connection))

    def _acknowledge(self, packet_id: int, connection: int, qos: int = 1) -> None:
        if packet_id and qos and connection == self._connection and self._client.is_connected():
            self._client.ack(packet_id, 1)

    def _publish(self, leaf: str, payload: str | bytes) -> int:
        """paho keeps it until it is acknowledged, and sends it again after a reconnect."""
        return self._client.publish(self._topic + leaf, payload, qos=1).mid

    def _send_next(self) -> None:
        if self._in_flight is not None or not self._subscribed.is_set():
            return
        rows = batch(self._journal.queued(RECEIPTS_PER_MESSAGE))
        if rows:
            payload = rows[0][2] if len(rows) == 1 else "[" + ",".join(str(said) for _, _, said in rows) + "]"
            self._in_flight = self._publish(rows[0][1], payload), rows[-1][0]

    def _published(
        self, client: paho.Client, userdata: Any, message_id: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            log.warning("%s: the server refused a message of ours: %s", self.device_id, reason)
        if self._in_flight is not None and message_id == self._in_flight[0]:
            # Refused or not: the same bytes would be refused again.
            self._journal.remove_acknowledged(self._in_flight[1])
            self._in_flight = None
            self._send_next()
            with self._drained:
                self._drained.notify_all()


def _register(handlers: dict[str, Handler], name: str, handler: H) -> H:
    handlers[name] = handler
    return handler
