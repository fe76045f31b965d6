"""A connection for leases: made again at once when it is lost, and given up when PostgreSQL does not answer.

A lease lasts seconds, so what waits longer than that elsewhere (`address`) is too patient here. A statement that gets
no answer waits for ever where the network takes everything and brings nothing back; `abort` ends it from outside.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, cast

import psycopg

from gateway.store.errors import StorageUnreachable
from gateway.store.postgresql.address import Address
from gateway.store.postgresql.connection import Connection
from gateway.store.transaction import Transaction

T = TypeVar("T")

_CONNECT_SECONDS = 2
"""The least that libpq knows."""


class PostgresqlLeaseConnection:
    """A `LeaseConnection` to a schema of the database at an address."""

    def __init__(self, address: Address, schema: str, explained: Callable[[BaseException], BaseException]) -> None:
        """`explained` makes a StorageError of an error of the driver."""
        parameters = {**address.parameters, "connect_timeout": _CONNECT_SECONDS}
        self._address = Address(parameters, address.place)
        self._schema = schema
        self._explained = explained
        self._connection: Connection | None = None

    def run(self, operation: Callable[[Transaction], T]) -> T:
        """Run statements, each of which commits by itself. Raises StorageError."""
        try:
            connection = self._connection
            if connection is None:
                connection = self._connection = Connection(self._address, self._schema)
            elif connection.is_lost:
                connection.connect_again()
            return operation(cast(Transaction, connection))
        except psycopg.Error as error:
            raise self._explained(error) from error
        except OSError as error:  # its descriptor was shut down by `abort`
            raise StorageUnreachable(str(error)) from error

    def abort(self) -> None:
        """Have the statement that is under way fail at once; any thread."""
        connection = self._connection
        if connection is not None:
            with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.descriptor)) as ours:
                ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
