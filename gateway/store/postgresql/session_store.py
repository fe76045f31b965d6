"""MQTT sessions in PostgreSQL, over which several nodes have theirs: a `SessionStore` that is shared.

Laws
1. Groups are committed by the rules of `broker.group_commit`, over a connection of their own, and in one order with the
   operations that a node gives (`run`): what is loaded has all that was changed before.
2. Each group is stored under the node's epoch, or not at all. When that has ended, nothing is written any more.
3. A commit that is not answered is written again: a group has last states (`store.nodes.broker_sessions`).
4. Retained messages are the node's own, and gone with it: no device may subscribe to them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from broker.group_commit import Group, GroupCommit
from broker.message import Message
from broker.store import StoredOutbound, StoredState
from gateway.store.nodes import broker_sessions
from gateway.store.nodes.broker_sessions import SESSION_NUMBERS, LoadedSessions
from gateway.store.nodes.leases import NodeEpoch
from gateway.store.postgresql.server import PostgresqlServer, one_line
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)
T = TypeVar("T")


class EpochEnded(Exception):
    """The node's epoch has ended, so its group was not stored."""


class PostgresqlSessions(GroupCommit):
    """The sessions of a node. Open it on the *loop*; end it with `await close()`."""

    def __init__(
        self, backend: PostgresqlServer, node: NodeEpoch, connection: Transaction, first_number: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        super().__init__(loop)
        self.shared = self
        self._backend = backend
        self._node = node
        self._connection = connection
        self._messages: dict[int, Message] = {}
        """Messages by the keys of this node's broker, for the rows of the sessions that queue them."""
        self._numbers = iter(range(first_number, first_number + SESSION_NUMBERS))
        self._numbers_left = SESSION_NUMBERS
        self._next_numbers: int | None = None
        """The first of the numbers that were drawn for when these are used up."""
        self._is_drawing = False
        self._claimed_ids = 0
        self._writer.start()

    @classmethod
    async def open(
        cls, backend: PostgresqlServer, node: NodeEpoch, loop: asyncio.AbstractEventLoop
    ) -> PostgresqlSessions:
        """Connect, and draw the first numbers. Raises StorageError."""

        def connect() -> tuple[Transaction, int]:
            connection = backend.connect_sessions()
            try:
                return connection, broker_sessions.draw_numbers(connection)
            except Exception as error:
                connection.close()
                raise backend.explained(error) from error

        connection, first_number = await loop.run_in_executor(None, connect)
        return cls(backend, node, connection, first_number, loop)

    def run(self, operation: Callable[[Transaction], T], on_done: Callable[[T], None]) -> None:
        """Run an operation behind all changes so far, in their group, and call back on the *loop* when it is committed.

        It may run several times, on the *writer thread*, and is awaited by all that comes after it.
        """
        results: list[T] = []

        def run(transaction: Transaction) -> None:
            results[:] = [operation(transaction)]

        self._changed()
        self._collecting.operations.append(run)
        self.barrier(lambda: on_done(results[0]))

    def load(self, client_ids: Iterable[str], on_loaded: Callable[[LoadedSessions], None]) -> None:
        """Load sessions for `Broker.adopt`: see `load_sessions`."""
        wanted = list(client_ids)
        node = self._node
        self.run(lambda transaction: broker_sessions.load_sessions(transaction, wanted, node.no, node.epoch), on_loaded)

    # -- `SessionStore` ------------------------------------------------------------------------------------------------

    def restore(self) -> StoredState:
        return StoredState()

    def claim_packet_ids(self, size: int) -> int:
        try:
            first = broker_sessions.claim_packet_ids(self._connection, size)
        except Exception as error:
            raise self._backend.explained(error) from error
        self._unused_from, self._claimed_ids = first, size
        return first

    def draw_number(self) -> int:
        self._numbers_left -= 1
        if self._numbers_left < SESSION_NUMBERS // 2 and self._next_numbers is None and not self._is_drawing:
            self._is_drawing = True
            self.run(broker_sessions.draw_numbers, self._note_numbers)
        if self._numbers_left < 0:
            assert self._next_numbers is not None, "a node that stores nothing for so long has lost its lease"
            self._numbers = iter(range(self._next_numbers, self._next_numbers + SESSION_NUMBERS))
            self._numbers_left, self._next_numbers = SESSION_NUMBERS - 1, None
        return next(self._numbers)

    def _note_numbers(self, first: int) -> None:
        self._next_numbers, self._is_drawing = first, False

    def withdraw_release(self, client_id: str) -> None:
        self._collecting.released.discard(client_id)

    def release_session(self, client_id: str) -> None:
        self._changed()
        self._collecting.released.add(client_id)

    def save_message(self, message_key: int, message: Message) -> None:
        self._messages[message_key] = message

    def delete_message(self, message_key: int) -> None:
        del self._messages[message_key]

    def save_outbound(self, client_id: str, outbound: StoredOutbound) -> None:
        super().save_outbound(client_id, outbound)
        if outbound.message_key is not None:
            self._collecting.messages[outbound.message_key] = self._messages[outbound.message_key]

    def save_retained(self, message: Message) -> None: ...

    def delete_retained(self, topic: str) -> None: ...

    # -- the writer thread ---------------------------------------------------------------------------------------------

    def _commit(self, group: Group) -> str | None:
        connection, node = self._connection, self._node
        try:
            self._backend.reconnect(connection)
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            broker_sessions.apply_group(connection, group, node.no, node.epoch)
            for operation in group.operations:
                operation(connection)
            if not broker_sessions.require_epoch(connection, node.no, node.epoch):
                raise EpochEnded("another node has declared it ended")
            self._backend.commit(connection)
        except Exception as error:
            # Not only PostgreSQL's: a group that our own fault spoils must be as loud, and this thread must live on.
            self._backend.roll_back(connection)
            if isinstance(error, EpochEnded):
                self._given_up = True
                connection.close()
                node.on_ended(str(error))
            return f"{type(error).__name__}: {one_line(error)}"
        return None

    def _close_connection(self) -> None:
        if self._unused_from is not None:  # a start that fails, again and again, must not come round to ranges in use
            returned = partial(broker_sessions.return_packet_ids, first=self._unused_from, size=self._claimed_ids)
            try:
                returned(self._connection)
            except Exception as error:
                log.warning("the packet identifiers of this run could not be returned: %s", error)
        self._connection.close()
