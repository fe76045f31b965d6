"""The bridge's connection to the operator's broker, on paho-mqtt, in a thread of its own.

MQTT 3.1.1, which every broker speaks, and a clean session, so that the broker keeps no message for a bridge that is
away. The will says `offline`. What paho tells goes to the inbox and is handled there: its callbacks run with its locks
held. Messages are counted while they wait there, and beyond MAX_WAITING_MESSAGES the newest are dropped unread.

The bridge reads one kind of its own topics back, `connectivity`, to find what a former run has left. Of these it wants
what is retained, at QoS 0: of a subscription with QoS 1, Mosquitto drops what is beyond its `max_queued_messages`.

Only this thread calls into paho, but for `publish`, which paho allows from any.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.cli.bridge.bridge_options import BrokerAddress
from gateway.cli.bridge.home_assistant import OFFLINE
from gateway.cli.bridge.retained_topics import MAX_IN_FLIGHT_MESSAGES
from gateway.cli.bridge.topics import BridgeTopics

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 30
MAX_WAITING_MESSAGES = 1_000
MAX_FOUND_TOPICS = 10_000
"""Retained topics of the bridge's own that are read after a connection; the rest is not looked for."""
MAX_PAYLOAD_BYTES = 4_096
"""Bytes of a message that are read; a larger one is refused."""
LONGEST_PAUSE_SECONDS = 60.0
"""The most that a reconnection waits."""


@dataclass(frozen=True)
class BrokerConnected:
    """The broker has accepted the bridge and its subscriptions."""


@dataclass(frozen=True)
class BrokerLost:
    """The connection has ended, or has not come about."""

    reason: str


@dataclass(frozen=True)
class BrokerHasIt:
    """The broker has acknowledged a message of the bridge."""

    message_id: int


@dataclass(frozen=True)
class OwnTopicFound:
    """The broker retains a topic that a bridge of this name has published."""

    topic: str


@dataclass(frozen=True)
class BrokerMessage:
    """A message for the bridge. `payload` is None if it was too large; `arrived` is in seconds of the monotonic
    clock."""

    topic: str
    payload: bytes | None
    retained: bool
    arrived: float


BrokerNews = BrokerConnected | BrokerLost | BrokerHasIt | OwnTopicFound | BrokerMessage


class BrokerConnection:
    """Connects to the operator's broker, again and again until it is closed. `post` is called with what happens, on
    the connection's thread."""

    def __init__(
        self, address: BrokerAddress, topics: BridgeTopics, filters: Sequence[str], post: Callable[[BrokerNews], None]
    ) -> None:
        """`filters` are those of messages for the bridge."""
        from client_sim.backoff import Absence, Backoff

        self._address = address
        self._topics = topics
        self._filters = [(topics.of_all_devices("connectivity"), 0), *((name, 1) for name in filters)]
        self._found_topics = 0
        """Retained topics of our own that this connection has shown."""
        self._post = post
        self._absence = Absence(Backoff(cap=LONGEST_PAUSE_SECONDS))
        self._closing = threading.Event()
        self._waiting = threading.Semaphore(MAX_WAITING_MESSAGES)
        self.dropped = 0
        """Messages that found too many waiting."""
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            f"fleetpush-{topics.name}",
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,  # else it falls back to MQTT 3.1 by itself
        )
        client.will_set(topics.status, OFFLINE, qos=1, retain=True)
        client.max_inflight_messages_set(MAX_IN_FLIGHT_MESSAGES)
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.tls is not None:
            client.tls_set_context(address.tls)
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_disconnect = self._disconnected
        client.on_publish = lambda _c, _u, message_id, _r, _p: post(BrokerHasIt(message_id))
        client.on_message = self._arrived
        # With this set paho leaves all writing to its loop, on this connection's thread.
        client.on_socket_register_write = lambda *_: None
        client.connect_async(address.host, address.port, KEEP_ALIVE_SECONDS)
        self._thread = threading.Thread(target=self._run, name="bridge broker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Say goodbye and end, within `timeout` seconds. What was published before has been sent."""
        self._closing.set()
        self._client.disconnect()
        self._thread.join(timeout)

    def publish(self, topic: str, payload: bytes) -> int | None:
        """Publish a retained message with QoS 1; its identifier, or None without a connection."""
        if not self._client.is_connected():
            return None
        sent = self._client.publish(topic, payload, qos=1, retain=True)
        return None if sent.rc == paho.MQTT_ERR_QUEUE_SIZE else sent.mid

    def handled(self) -> None:
        """A BrokerMessage has left the inbox: there is room for another one."""
        self._waiting.release()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._absence.attempt()
            try:
                self._client.reconnect()
                while self._client.loop(1.0) == paho.MQTT_ERR_SUCCESS:
                    pass
            except OSError as error:
                self._post(BrokerLost(error.strerror or str(error)))
            except Exception as error:  # paho's errors on broken bytes are in no contract of its
                log.exception("the connection to %s failed", self._address)
                self._post(BrokerLost(str(error)))
            self._closing.wait(self._absence.delay())

    def _connected(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._post(BrokerLost(f"it refuses the bridge: {reason}"))
        elif self._closing.is_set():
            client.disconnect()
        else:
            self._found_topics = 0
            client.subscribe(self._filters)

    def _subscribed(
        self,
        client: paho.Client,
        userdata: Any,
        message_id: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        refused = [name for (name, _), reason in zip(self._filters, reasons, strict=False) if reason.is_failure]
        if refused:
            self._post(BrokerLost(f"it refuses the subscription to {refused[0]}"))
            client.disconnect()
            return
        self._absence.end()
        self._post(BrokerConnected())

    def _disconnected(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if not self._closing.is_set():
            self._post(BrokerLost("the connection broke"))

    def _arrived(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        if topic.endswith("/connectivity"):
            self._found_topics += message.retain
            if message.retain and message.payload and self._found_topics <= MAX_FOUND_TOPICS:
                self._post(OwnTopicFound(topic))
            return
        if not self._waiting.acquire(blocking=False):
            self.dropped += 1
            return
        payload = bytes(message.payload) if len(message.payload) <= MAX_PAYLOAD_BYTES else None
        self._post(BrokerMessage(topic, payload, message.retain, time.monotonic()))
