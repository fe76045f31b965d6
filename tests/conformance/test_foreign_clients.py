"""The stand-alone broker, driven by clients that share nothing with it: mosquitto's, paho-mqtt and amqtt's.

Our own raw-byte clients read the specification as we do; these do not. Each goes through the same stations: QoS 0, 1
and 2, a retained message, a will, and a session that outlives a kill -9 of the broker after its SUBACK, and again after
the PUBACK of the message that waits for it.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest

from tests.conformance.foreign import SECONDS, MosquittoSub, PahoClient, mosquitto_pub
from tests.conformance.standalone import BrokerProcess

Name = Callable[[], str]


# -- mosquitto ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["mqttv311", "mqttv5"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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
