"""Topic aliases of one connection (MQTT 5.0, 3.3.2.3.4): a number in place of a topic that was said before.

Both directions are separate, each bounded by what its receiver allows, and both end with the connection
[MQTT-3.3.2-7].
"""

from __future__ import annotations

from broker.protocol.errors import TopicAliasInvalid

ALIAS_PROPERTY = b"\x23"
"""Identifier of the topic alias (MQTT 5.0, table 2-4); two bytes follow."""


class InboundAliases:
    """What the client has defined."""

    __slots__ = ("_topics",)

    def __init__(self) -> None:
        self._topics: dict[int, str] = {}

    def resolve(self, topic: str, alias: int, maximum: int) -> str:
        """The topic that is meant; with a topic the alias is defined, or defined anew."""
        # [MQTT-3.3.2-12]
        if not 0 < alias <= maximum:
            raise TopicAliasInvalid("topic alias above the maximum")  # [MQTT-3.3.2-9]
        if topic:
            self._topics[alias] = topic
            return topic
        known = self._topics.get(alias)
        if known is None:
            raise TopicAliasInvalid("topic alias that was not defined")
        return known


class OutboundAliases:
    """What we define. First come, first served, and for good: a device has one topic, and a reader of many is not
    worth a table of its habits."""

    __slots__ = ("_aliases", "_maximum")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        """Never more than the client has said it takes [MQTT-3.1.2-26] [MQTT-3.1.2-27]."""
        self._aliases: dict[str, int] = {}

    def shorten(
        self, topic: str, encoded_topic: bytes, properties: bytes, *, may_define: bool = True
    ) -> tuple[bytes, bytes]:
        """Topic and properties as they go on the wire. If the packet may define an alias, it has to be the next that is
        written, or `forget`; one that waits for the store may only use what is defined."""
        alias = self._aliases.get(topic)
        if alias is not None:
            return b"", properties + ALIAS_PROPERTY + alias.to_bytes(2, "big")
        alias = len(self._aliases) + 1
        # [MQTT-3.3.2-11]
        if alias > self._maximum or not may_define:
            return encoded_topic, properties
        self._aliases[topic] = alias
        return encoded_topic, properties + ALIAS_PROPERTY + alias.to_bytes(2, "big")

    def forget(self, topic: str) -> None:
        """A packet was not written after all. If it was the first of its topic, the client knows no alias for it."""
        if self._aliases.get(topic) == len(self._aliases):
            del self._aliases[topic]
