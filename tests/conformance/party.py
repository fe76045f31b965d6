"""Clients of one version that have been accepted, as most clause tests need them."""

from __future__ import annotations

from collections.abc import Callable

from tests import wire
from tests.wire import V5, RawClient


class Party:
    def __init__(self, raw: Callable[[], RawClient], name: Callable[[], str], version: int) -> None:
        self.raw = raw
        self.name = name
        self.version = version
        self.is_5 = version == V5

    def client(self, properties: bytes = b"") -> RawClient:
        """A client with a session that ends with its connection."""
        client = self.raw()
        client.enter(wire.connect(self.name(), self.version, properties=properties))
        return client

    def durable(self, client_id: str, *, present: bool = False, properties: bytes = b"") -> RawClient:
        """A client with a session that stays."""
        client = self.raw()
        client.join(client_id, self.version, present=present, properties=wire.FOR_EVER + properties)
        return client

    def subscribe(self, client: RawClient, *filters: tuple[str, int], properties: bytes = b"") -> None:
        """Granted as asked."""
        client.send(wire.subscribe(1, *filters, version=self.version, properties=properties))
        client.expect(wire.suback(1, *(options & 3 for _, options in filters), version=self.version))

    def reader(self, topic_filter: str, options: int = 0, properties: bytes = b"") -> RawClient:
        client = self.client(properties)
        self.subscribe(client, (topic_filter, options))
        return client

    def publish(
        self, topic: str, payload: bytes, qos: int = 0, packet_id: int = 1, *, retain: bool = False,
        dup: bool = False, properties: bytes = b"",
    ) -> bytes:  # fmt: skip
        return wire.publish(topic, payload, qos, packet_id, self.version, retain=retain, dup=dup, properties=properties)

    def say(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, properties: bytes = b"") -> None:
        """Publish by somebody else, and see it acknowledged."""
        writer = self.client()
        writer.send(self.publish(topic, payload, qos, 1, retain=retain, properties=properties))
        if qos == 1:
            assert writer.read()[:4] in (wire.puback(1), b"\x40\x03\x00\x01")
        elif qos == 2:
            assert writer.read()[:4] in (wire.pubrec(1), b"\x50\x03\x00\x01")
            writer.send(wire.pubrel(1))
            writer.expect(wire.pubcomp(1))
        writer.expect_silence()
        writer.close()

    def refused(self, data: bytes, code: int) -> None:
        """Accepted before, it says this, and is closed; a bystander is not."""
        bystander, client = self.client(), self.client()
        client.send(data)
        client.expect_goodbye(code, self.version)
        bystander.expect_silence()

    def connect_refused(self, data: bytes, code: int) -> None:
        """A CONNECT that is malformed: CONNACK with the code in 5.0, no answer in 3.1.1."""
        client = self.raw()
        client.send(data)
        if self.is_5:
            connack = client.read()
            assert connack[:1] == b"\x20", connack.hex(" ")
            assert connack[2:4] == bytes((0, code)), connack.hex(" ")
        client.expect_end()
