"""State that all sessions of one broker share: settings, store, events, counters, clock, identifiers."""

from __future__ import annotations

from collections.abc import Callable

from broker.events import BrokerEvents
from broker.metrics import BrokerMetrics
from broker.packet_ids import PacketIds, range_size
from broker.session_queue import SharedMessage
from broker.settings import BrokerSettings
from broker.store import SessionStore

NUMBERS_PER_SECOND = 16_000


class SharedState:
    """State that all sessions of one broker share. Used on the *loop*."""

    __slots__ = (
        "clock",
        "draining",
        "events",
        "last_message_key",
        "last_number",
        "metrics",
        "now",
        "packet_ids",
        "settings",
        "store",
    )

    def __init__(
        self,
        settings: BrokerSettings,
        store: SessionStore,
        events: BrokerEvents,
        metrics: BrokerMetrics,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.store = store
        self.events = events
        self.metrics = metrics
        self.clock = clock
        self.now = clock()
        """Server time of the last packet or tick: fresh enough for timeouts, and free."""
        self.packet_ids = PacketIds(1, range_size(settings.max_inflight))
        """Packet identifiers of this run; set by `Broker.start`."""
        self.last_message_key = 0
        self.last_number = 0
        """Last number that a session or a will was given."""
        self.draining = False
        """The broker drains: no session sends any further message."""

    def new_number(self) -> int:
        """Return a number greater than all before, those of earlier runs included, or what a shared store gives.

        It is a time in 16 parts of a millisecond, so that a storm of new sessions does not run ahead of it. It has 47
        bits until the year 2248. Times of two brokers may be equal, and a message under a number that another one has
        used would pass for stored.
        """
        shared = self.store.shared
        if shared is not None:
            return shared.draw_number()
        self.last_number = max(self.last_number + 1, int(self.now * NUMBERS_PER_SECOND))
        return self.last_number

    def add_reference(self, shared: SharedMessage) -> None:
        """Count a durable session that needs this message, and store the message once."""
        if not shared.key:
            self.last_message_key += 1
            shared.key = self.last_message_key
            self.store.save_message(shared.key, shared.message)
        shared.references += 1

    def drop_reference(self, shared: SharedMessage) -> None:
        """Count a session less; delete the message from the store with the last one."""
        shared.references -= 1
        if not shared.references:
            self.store.delete_message(shared.key)
            shared.key = 0
