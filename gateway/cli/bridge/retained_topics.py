"""The retained topics that the bridge keeps on the broker: what they are to say, and what is still to be published.

Topics are published in the order of their first change, with at most MAX_IN_FLIGHT_MESSAGES unacknowledged. Until it is
its turn a newer value takes a topic's place: a slow broker gets the last one, and memory is bounded by the number of
topics. A topic has one message on its way at a time, so that nothing older can arrive after it: paho repeats what was
not acknowledged on the next connection, by itself.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_IN_FLIGHT_MESSAGES = 100


class RetainedTopics:
    """Publishes the values of topics until the broker has them. `publish` sends a retained message and returns its
    identifier, or None when there is no connection."""

    def __init__(self, publish: Callable[[str, bytes], int | None]) -> None:
        self._publish = publish
        self._values: dict[str, bytes] = {}
        self._changed: dict[str, None] = {}
        """Topics that are still to be published, in order."""
        self._in_flight: dict[int, str] = {}

    def set(self, topic: str, value: bytes) -> None:
        """Keep `value` on a topic."""
        if self._values.get(topic) != value:
            self._values[topic] = value
            self._changed.setdefault(topic)
            self.publish_next()

    def clear(self, topic: str) -> None:
        """Remove a topic from the broker, whoever has published it."""
        self._values.pop(topic, None)
        self._changed.setdefault(topic)
        self.publish_next()

    def publish_all(self) -> None:
        """Publish everything again: a new connection may be one to a broker that has lost it."""
        for topic in self._values:
            self._changed.setdefault(topic)
        self.publish_next()

    def acknowledged(self, message_id: int) -> None:
        """Note that the broker has a message, and publish the next."""
        self._in_flight.pop(message_id, None)
        self.publish_next()

    def is_published(self, topic: str) -> bool:
        """Tell whether the broker has acknowledged the last value of a topic."""
        return topic not in self._changed and topic not in self._in_flight.values()

    @property
    def is_complete(self) -> bool:
        """True when the broker has acknowledged everything."""
        return not self._changed and not self._in_flight

    def publish_next(self) -> None:
        """Publish what is to be published, as far as it may be on its way."""
        busy = set(self._in_flight.values())
        while self._changed and len(self._in_flight) < MAX_IN_FLIGHT_MESSAGES:
            topic = next(iter(self._changed))
            if topic in busy:
                return
            message_id = self._publish(topic, self._values.get(topic, b""))
            if message_id is None:
                return
            del self._changed[topic]
            self._in_flight[message_id] = topic
            busy.add(topic)
