"""What a session sees of the world around it: its connection, and what all sessions of one broker share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from broker.events import BrokerEvents
from broker.metrics import BrokerMetrics
from broker.packet_ids import PacketIds, range_size
from broker.session_queue import SharedMessage
from broker.settings import BrokerSettings
from broker.store import SessionStore


class SessionConnection(Protocol):
    """What a session knows of its connection."""

    version: int
    paused: bool
    """The socket takes no bytes for now."""
    send: Callable[[bytes], None]
    """The socket's own: for messages, which are not sent while it is paused, and whose sender counts `bytes_out`."""
    send_together: Callable[[list[bytes]], None]
    """The same for several packets, with one system call."""

    def answer(self, data: bytes) -> None:
        """For what the protocol obliges us to say, paused or not."""

    def end(self, reason_code: int, reason: str) -> None:
        """Tell the client why, if its version can be told, and close."""


class Transport(Protocol):
    """What a connection writes to. No call blocks or calls back, except `pause_writing` from within `write`."""

    @property
    def send(self) -> Callable[[bytes], None]:
        """The socket's own `write`, without a frame in between: for messages, whose sender counts `bytes_out`."""

    def send_together(self, packets: list[bytes]) -> None:
        """The same for several packets, with one system call."""

    def write(self, data: bytes) -> None:
        """For everything else."""

    def close(self) -> None:
        """Send what is written, for a bounded time, then close."""

    def pause_reading(self) -> None:
        """No more bytes until `resume_reading`; what was read already still comes."""

    def resume_reading(self) -> None: ...


NUMBERS_PER_SECOND = 16_000


class Environment:
    """What the sessions of one broker share."""

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
        """Of this run; set by `Broker.start`."""
        self.last_message_key = 0
        self.last_number = 0
        """Of the sessions and wills that were ever numbered."""
        self.draining = False
        """The broker is on its way out: no session begins to send anything more."""

    def new_number(self) -> int:
        """Greater than all before, also than those of earlier runs that nobody remembers: a time, in 16 parts of a
        millisecond, so that a storm of new sessions does not run ahead of it. It has 47 bits until the year 2248."""
        self.last_number = max(self.last_number + 1, int(self.now * NUMBERS_PER_SECOND))
        return self.last_number

    def keep(self, shared: SharedMessage) -> None:
        """A durable session holds this message: see that it is stored, once."""
        if not shared.key:
            self.last_message_key += 1
            shared.key = self.last_message_key
            self.store.save_message(shared.key, shared.message)
        shared.references += 1

    def let_go(self, shared: SharedMessage) -> None:
        shared.references -= 1
        if not shared.references:
            self.store.delete_message(shared.key)
            shared.key = 0
