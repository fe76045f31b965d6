"""The stand-alone broker, driven by clients that share nothing with it: mosquitto's, paho-mqtt and amqtt's.

Our own raw-byte clients read the specification as we do; these do not. Each goes through the same stations: QoS 0, 1
and 2, a retained message, a will, and a session that outlives a kill -9 of the broker after its SUBACK, and again after
the PUBACK of the message that waits for it.
"""

from __future__ import annotations

import asyncio
import queue
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.conformance.standalone import BrokerProcess
from tests.third_party import require

SECONDS = 15.0
Name = Callable[[], str]
Received = tuple[str, int, bool, bytes]
"""Topic, QoS, RETAIN, payload."""


# -- mosquitto ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["mqttv311", "mqttv5"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class MosquittoSub:
    """mosquitto_sub, with its debug output: that is where it says that it has subscribed."""

    def __init__(self, port: int, protocol: str, topic: str, *options: str) -> None:
        command = [require("stdbuf"), "-oL", require("mosquitto_sub"), "-d", "-p", str(port), "-V", protocol]
        command += ["-t", topic, "-F", "GOT %t %q %r %p", *options]
        if protocol == "mqttv5" and "-c" in options:
            command += ["-x", "4294967295"]
        self._received: queue.Queue[Received] = queue.Queue()
        self._subscribed = threading.Event()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._subscribed.wait(SECONDS), "mosquitto_sub did not subscribe"

    def __enter__(self) -> MosquittoSub:
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()

    def next(self) -> Received:
        return self._received.get(timeout=SECONDS)

    def vanish(self) -> None:
        """SIGKILL: no DISCONNECT."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None, "opened as a pipe"
        for line in self._process.stdout:
            if line.startswith("Subscribed (mid:"):
                self._subscribed.set()
            elif line.startswith("GOT "):
                _, topic, qos, retain, payload = line.rstrip("\n").split(" ", 4)
                self._received.put((topic, int(qos), retain == "1", payload.encode()))


def mosquitto_pub(port: int, protocol: str, topic: str, payload: str, *options: str) -> None:
    """Ends when the message is acknowledged."""
    command = [require("mosquitto_pub"), "-p", str(port), "-V", protocol, "-t", topic, "-m", payload, *options]
    subprocess.run(command, check=True, timeout=SECONDS)


def test_mosquitto_gets_each_qos(broker: BrokerProcess, protocol: str, name: Name) -> None:
    topic = name()
    with MosquittoSub(broker.port, protocol, f"{topic}/+", "-q", "2") as subscriber:
        for qos in (0, 1, 2):
            mosquitto_pub(broker.port, protocol, f"{topic}/{qos}", f"hello {qos}", "-q", str(qos))
            assert subscriber.next() == (f"{topic}/{qos}", qos, False, f"hello {qos}".encode())


def test_mosquitto_gets_what_is_retained(broker: BrokerProcess, protocol: str, name: Name) -> None:
    topic = name()
    mosquitto_pub(broker.port, protocol, topic, "21 °C", "-r", "-q", "1")
    with MosquittoSub(broker.port, protocol, topic, "-q", "1") as subscriber:
        assert subscriber.next() == (topic, 1, True, "21 °C".encode())
    mosquitto_pub(broker.port, protocol, topic, "", "-r", "-q", "1")
    with MosquittoSub(broker.port, protocol, topic, "-q", "1") as subscriber:
        mosquitto_pub(broker.port, protocol, topic, "live", "-q", "1")
        assert subscriber.next() == (topic, 1, False, b"live")


def test_mosquittos_will_is_heard(broker: BrokerProcess, protocol: str, name: Name) -> None:
    topic = name()
    will = ["--will-topic", f"{topic}/gone", "--will-payload", "bye", "--will-qos", "1"]
    with MosquittoSub(broker.port, protocol, f"{topic}/gone", "-q", "1") as subscriber:
        with MosquittoSub(broker.port, protocol, f"{topic}/else", *will):
            pass
        assert subscriber.next() == (f"{topic}/gone", 1, False, b"bye")


@pytest.mark.parametrize("qos", [1, 2])
def test_mosquittos_session_outlives_kill_9(own_broker: BrokerProcess, protocol: str, qos: int) -> None:
    session = ("-c", "-i", "kiosk-1", "-q", str(qos))
    with MosquittoSub(own_broker.port, protocol, "news", *session):
        own_broker.kill9()  # the SUBACK has just come
    own_broker.start()
    mosquitto_pub(own_broker.port, protocol, "news", "while away", "-q", str(qos))
    own_broker.restart()  # the PUBACK or PUBCOMP has just come
    with MosquittoSub(own_broker.port, protocol, "news", *session) as subscriber:
        assert subscriber.next() == ("news", qos, False, b"while away")
        mosquitto_pub(own_broker.port, protocol, "news", "live", "-q", str(qos))
        assert subscriber.next() == ("news", qos, False, b"live")


# -- paho-mqtt ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[paho.MQTTv311, paho.MQTTv5], ids=["3.1.1", "5.0"])
def paho_version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class PahoClient:
    """paho-mqtt with its thread; what it hears goes into queues."""

    def __init__(
        self, port: int, client_id: str, version: int, *, stays: bool = False, will: tuple[str, str] | None = None
    ) -> None:
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion(version),
            clean_session=None if version == paho.MQTTv5 else not stays,
        )
        self._connected: queue.Queue[tuple[bool, bool]] = queue.Queue()
        self._subscribed: queue.Queue[list[ReasonCode]] = queue.Queue()
        self._received: queue.Queue[Received] = queue.Queue()
        self.client.on_connect = lambda _c, _u, flags, reason, _p: self._connected.put(
            (not reason.is_failure, flags.session_present)
        )
        self.client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self._subscribed.put(reasons)
        self.client.on_message = lambda _c, _u, message: self._received.put(
            (message.topic, message.qos, message.retain, bytes(message.payload))
        )
        if will is not None:
            self.client.will_set(*will, qos=1)
        options: dict[str, Any] = {}
        if version == paho.MQTTv5:
            options["clean_start"] = not stays
            if stays:
                options["properties"] = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                options["properties"].SessionExpiryInterval = 0xFFFFFFFF
        self.client.connect("127.0.0.1", port, **options)
        self.client.loop_start()
        accepted, self.session_present = self._connected.get(timeout=SECONDS)
        assert accepted

    def __enter__(self) -> PahoClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, topic_filter: str, qos: int) -> None:
        self.client.subscribe(topic_filter, qos)
        (granted,) = self._subscribed.get(timeout=SECONDS)
        assert granted.value == qos

    def publish(self, topic: str, payload: str, qos: int, *, retain: bool = False) -> None:
        """Returns when it is acknowledged."""
        message = self.client.publish(topic, payload, qos, retain)
        message.wait_for_publish(SECONDS)
        assert message.is_published()

    def next(self) -> Received:
        return self._received.get(timeout=SECONDS)

    def vanish(self) -> None:
        """Close the socket, if there still is one, without DISCONNECT."""
        self.client.loop_stop()
        stream = self.client.socket()
        if stream is not None:
            stream.close()


def test_paho_gets_each_qos(broker: BrokerProcess, paho_version: int, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name(), paho_version) as client:
        client.subscribe(f"{topic}/#", 2)
        for qos in (0, 1, 2):
            client.publish(f"{topic}/{qos}", f"hello {qos}", qos)
            assert client.next() == (f"{topic}/{qos}", qos, False, f"hello {qos}".encode())


def test_paho_gets_what_is_retained(broker: BrokerProcess, paho_version: int, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name(), paho_version) as client:
        client.publish(topic, "21 °C", 1, retain=True)
        client.subscribe(topic, 1)
        assert client.next() == (topic, 1, True, "21 °C".encode())


def test_pahos_will_is_heard(broker: BrokerProcess, paho_version: int, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name(), paho_version) as witness:
        witness.subscribe(topic, 1)
        PahoClient(broker.port, name(), paho_version, will=(topic, "bye")).vanish()
        assert witness.next() == (topic, 1, False, b"bye")
        with PahoClient(broker.port, name(), paho_version, will=(topic, "never heard")):
            pass  # leaves in order: no will
        witness.publish(topic, "after", 1)
        assert witness.next() == (topic, 1, False, b"after")


@pytest.mark.parametrize("qos", [1, 2])
def test_pahos_session_outlives_kill_9(own_broker: BrokerProcess, paho_version: int, qos: int) -> None:
    client = PahoClient(own_broker.port, "kiosk-1", paho_version, stays=True)
    assert not client.session_present
    client.subscribe("news", qos)
    own_broker.kill9()  # the SUBACK has just come
    client.vanish()
    own_broker.start()
    with PahoClient(own_broker.port, "sender", paho_version) as sender:
        for number in range(20):
            sender.publish("news", str(number), qos)
        own_broker.kill9()  # the last PUBACK or PUBCOMP has just come
        sender.client.loop_stop()
    own_broker.start()
    with PahoClient(own_broker.port, "kiosk-1", paho_version, stays=True) as client:
        assert client.session_present
        assert [client.next() for _ in range(20)] == [("news", qos, False, b"%d" % number) for number in range(20)]


def test_pahos_properties_arrive(broker: BrokerProcess, name: Name) -> None:
    topic = name()
    with PahoClient(broker.port, name(), paho.MQTTv5) as client:
        heard: queue.Queue[Any] = queue.Queue()
        client.client.on_message = lambda _c, _u, message: heard.put(message.properties)
        client.subscribe(topic, 1)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "application/json"
        properties.CorrelationData = b"\x00\xff"
        properties.UserProperty = [("a", "1"), ("a", "2")]
        properties.MessageExpiryInterval = 60
        client.client.publish(topic, "{}", 1, properties=properties)
        got = heard.get(timeout=SECONDS)
        assert (got.ContentType, got.CorrelationData) == ("application/json", b"\x00\xff")
        assert got.UserProperty == [("a", "1"), ("a", "2")]
        assert 59 <= got.MessageExpiryInterval <= 60


# -- amqtt's client ----------------------------------------------------------------------------------------------------


@pytest.fixture
def amqtt_client() -> Iterator[Callable[[str], Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations are not ours to fix
        from amqtt.client import MQTTClient  # type: ignore[import-untyped]  # it has no type information

        def make(client_id: str, **config: Any) -> Any:
            return MQTTClient(client_id, {"auto_reconnect": False, "keep_alive": 30, **config})

        yield make


def test_amqtts_client_gets_each_qos(broker: BrokerProcess, amqtt_client: Any, name: Name) -> None:
    topic = name()

    async def scenario() -> None:
        client = amqtt_client(name())
        await client.connect(f"mqtt://127.0.0.1:{broker.port}/")
        assert await client.subscribe([(f"{topic}/#", 2)]) == [2]
        for qos in (0, 1, 2):
            await client.publish(f"{topic}/{qos}", b"hello %d" % qos, qos)
            message = await client.deliver_message(timeout_duration=SECONDS)
            assert (message.topic, message.qos, bytes(message.data)) == (f"{topic}/{qos}", qos, b"hello %d" % qos)
        await client.publish(f"{topic}/kept", b"21", 1, retain=True)
        await client.deliver_message(timeout_duration=SECONDS)
        await client.subscribe([(f"{topic}/kept", 1)])
        message = await client.deliver_message(timeout_duration=SECONDS)
        assert (message.topic, message.retain, bytes(message.data)) == (f"{topic}/kept", True, b"21")
        await client.disconnect()

    asyncio.run(scenario())


def test_amqtts_session_outlives_kill_9(own_broker: BrokerProcess, amqtt_client: Any) -> None:
    async def scenario() -> None:
        address = f"mqtt://127.0.0.1:{own_broker.port}/"
        client = amqtt_client("kiosk-1")
        await client.connect(address, cleansession=False)
        await client.subscribe([("news", 1)])
        await asyncio.to_thread(own_broker.restart)
        sender = amqtt_client("sender")
        await sender.connect(address)
        await sender.publish("news", b"while away", 1)
        await asyncio.to_thread(own_broker.restart)
        client = amqtt_client("kiosk-1")
        await client.connect(address, cleansession=False)
        message = await client.deliver_message(timeout_duration=SECONDS)
        assert (message.topic, message.qos, bytes(message.data)) == ("news", 1, b"while away")
        await client.disconnect()

    asyncio.run(scenario())
