"""Clients that share nothing with the broker: mosquitto's, as processes, and paho-mqtt, in its thread."""

from __future__ import annotations

import queue
import subprocess
import threading
from types import TracebackType
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.third_party import Listener, require

SECONDS = 15.0
Received = tuple[str, int, bool, bytes]
"""Topic, QoS, RETAIN, payload."""


class MosquittoSub(Listener):
    """mosquitto_sub, with its debug output: that is where it says that it has subscribed."""

    def __init__(self, port: int, protocol: str, topic: str, *options: str) -> None:
        command = [require("mosquitto_sub"), "-d", "-p", str(port), "-V", protocol]
        command += ["-t", topic, "-F", "GOT %t %q %r %p", *options]
        if protocol == "mqttv5" and "-c" in options:
            command += ["-x", "4294967295"]
        self._received: queue.Queue[Received] = queue.Queue()
        self._subscribed = threading.Event()
        super().__init__(command, self._heard)
        assert self._subscribed.wait(SECONDS), "mosquitto_sub did not subscribe"

    def next(self) -> Received:
        return self._received.get(timeout=SECONDS)

    def _heard(self, line: str) -> None:
        if line.startswith("Subscribed (mid:"):
            self._subscribed.set()
        elif line.startswith("GOT "):
            _, topic, qos, retain, payload = line.split(" ", 4)
            self._received.put((topic, int(qos), retain == "1", payload.encode()))


def mosquitto_pub(port: int, protocol: str, topic: str, payload: str, *options: str) -> None:
    """Ends when the message is acknowledged."""
    command = [require("mosquitto_pub"), "-p", str(port), "-V", protocol, "-t", topic, "-m", payload, *options]
    subprocess.run(command, check=True, timeout=SECONDS)


def properties_of(kind: int, **values: Any) -> Properties:
    """paho's properties of a packet, by its names: `SessionExpiryInterval=60`."""
    properties = Properties(kind)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


class PahoClient:
    """paho-mqtt with its thread; what it hears goes into queues."""

    def __init__(
        self,
        port: int,
        client_id: str,
        version: int = paho.MQTTv5,
        *,
        stays: bool = False,
        keep_alive: int = 60,
        will: tuple[str, str] | None = None,
        will_delay: int = 0,
        manual_ack: bool = False,
        username: str | None = None,
        accepted: bool = True,
        websocket: bool = False,
        **properties: Any,
    ) -> None:
        """Connect with paho.

        `properties` of CONNECT have paho's names; `accepted`: whether the broker is expected to accept; `websocket`:
        with paho's own frames, neither ours nor the library's.
        """
        is_5 = version == paho.MQTTv5
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion(version),
            transport="websockets" if websocket else "tcp",
            clean_session=None if is_5 else not stays,
            manual_ack=manual_ack,
            reconnect_on_failure=False,
        )
        self._connected: queue.Queue[tuple[ReasonCode, bool, Properties | None]] = queue.Queue()
        self._subscribed: queue.Queue[list[ReasonCode]] = queue.Queue()
        self._unsubscribed: queue.Queue[list[ReasonCode]] = queue.Queue()
        self._acknowledged: queue.Queue[ReasonCode] = queue.Queue()
        self._disconnected: queue.Queue[ReasonCode] = queue.Queue()
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.client.on_connect = lambda _c, _u, flags, reason, told: self._connected.put(
            (reason, flags.session_present, told)
        )
        self.client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self._subscribed.put(reasons)
        self.client.on_unsubscribe = lambda _c, _u, _mid, reasons, _p: self._unsubscribed.put(reasons)
        self.client.on_publish = lambda _c, _u, _mid, reason, _p: self._acknowledged.put(reason)
        self.client.on_disconnect = lambda _c, _u, _flags, reason, _p: self._disconnected.put(reason)
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        if username is not None:
            self.client.username_pw_set(username, "secret")
        if will is not None:
            delay = properties_of(PacketTypes.WILLMESSAGE, WillDelayInterval=will_delay) if is_5 else None
            self.client.will_set(*will, qos=1, properties=delay)
        options: dict[str, Any] = {}
        if is_5:
            if stays:
                properties.setdefault("SessionExpiryInterval", 0xFFFFFFFF)
            options = {"clean_start": not stays, "properties": properties_of(PacketTypes.CONNECT, **properties)}
        self.client.connect("127.0.0.1", port, keep_alive, **options)
        self.client.loop_start()
        self.reason, self.session_present, self.told = self._connected.get(timeout=SECONDS)
        assert accepted is not self.reason.is_failure, str(self.reason)

    def __enter__(self) -> PahoClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, topic_filter: str, qos: int = 1, identifier: int = 0, **options: Any) -> None:
        """`options` of the subscription by paho's names: `noLocal=True`. Granted as asked."""
        assert self.try_to_subscribe(topic_filter, qos, identifier, **options) == qos

    def try_to_subscribe(self, topic_filter: str, qos: int = 1, identifier: int = 0, **options: Any) -> int:
        """The code in SUBACK."""
        if options or identifier:
            properties = properties_of(
                PacketTypes.SUBSCRIBE, **({"SubscriptionIdentifier": identifier} if identifier else {})
            )
            self.client.subscribe(topic_filter, options=SubscribeOptions(qos, **options), properties=properties)
        else:
            self.client.subscribe(topic_filter, qos)
        (granted,) = self._subscribed.get(timeout=SECONDS)
        return int(granted.value)

    def unsubscribe(self, topic_filter: str) -> list[int]:
        self.client.unsubscribe(topic_filter)
        return [reason.value for reason in self._unsubscribed.get(timeout=SECONDS)]

    def publish(self, topic: str, payload: str, qos: int = 1, *, retain: bool = False, **properties: Any) -> int:
        """Returns when it is acknowledged: the code."""
        given = properties_of(PacketTypes.PUBLISH, **properties) if properties else None
        self.client.publish(topic, payload, qos, retain, given)
        return int(self._acknowledged.get(timeout=SECONDS).value)

    def next(self) -> Received:
        message = self.next_message()
        return message.topic, message.qos, message.retain, bytes(message.payload)

    def next_message(self) -> paho.MQTTMessage:
        return self.messages.get(timeout=SECONDS)

    def heard(self) -> list[bytes]:
        """Return the messages that come before one of its own comes back."""
        self.subscribe("heard/" + self.client._client_id.decode(), 0)
        self.client.publish("heard/" + self.client._client_id.decode(), b"", 0)
        payloads = []
        while (message := self.next_message()).payload:
            payloads.append(bytes(message.payload))
        return payloads

    def expect_goodbye(self) -> int:
        """The reason code with which the server has ended it."""
        return int(self._disconnected.get(timeout=SECONDS).value)

    def vanish(self) -> None:
        """Close the socket, if there still is one, without DISCONNECT."""
        self.client.loop_stop()
        stream = self.client.socket()
        if stream is not None:
            stream.close()
