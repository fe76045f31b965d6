"""Topic aliases of one connection (MQTT 5.0, 3.3.2.3.4): a number in place of a topic that was sent before.

Both directions are separate, each bounded by what its receiver allows, and both end with the connection
[MQTT-3.3.2-7].
"""

from __future__ import annotations

from broker.protocol.errors import TopicAliasInvalid

ALIAS_PROPERTY = b"\x23"
"""Identifier of the topic alias (MQTT 5.0, table 2-4); two bytes follow."""


class InboundAliases:
    """Aliases that the client has defined."""

    __slots__ = ("_topics",)

    def __init__(self) -> None:
        self._topics: dict[int, str] = {}

    def resolve(self, topic: str, alias: int, maximum: int) -> str:
        """Return the topic of a PUBLISH; if it has one, define the alias. Raises TopicAliasInvalid."""
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
    """Aliases that we define: first come, first served, and until the connection ends.

    A device has one topic, and a subscriber of many is not worth a table of its habits.
    """

    __slots__ = ("_aliases", "_maximum")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        """The client's topic alias maximum [MQTT-3.1.2-26] [MQTT-3.1.2-27]."""
        self._aliases: dict[str, int] = {}

    def shorten(
        self, topic: str, encoded_topic: bytes, properties: bytes, *, may_define: bool = True
    ) -> tuple[bytes, bytes]:
        """Return topic and properties as they go on the wire.

        A packet that may define an alias has to be the next that is written, or `forget` is called; one that waits for
        the store may only use an alias that is defined.
        """
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
        """Take back the alias of a packet that was not written; the client does not know it."""
        if self._aliases.get(topic) == len(self._aliases):
            del self._aliases[topic]
