"""A connection to PostgreSQL that takes the store's statements as they are, and answers as SQLite would."""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import TransactionStatus
from psycopg.types.string import StrDumperUnknown, TextLoader

from gateway.store.postgresql.address import Address
from gateway.store.postgresql.dialect import translated
from gateway.store.segments.value_forms import KEYED

_LAST_WORDS = 3
"""Reads until the end shows of what a server says before it ends a connection: its reason, and the end itself."""
_CHANGES = ("INSERT", "UPDATE", "DELETE")


class _TextDumper(StrDumperUnknown):
    """No text of PostgreSQL has a NUL, so nothing is found by one. Names are free of them before they are stored."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)


class _NumberLoader(Loader):
    """For `numeric`, which sums of whole numbers are."""

    def load(self, data: Any) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text else int(text)


class _TruthLoader(Loader):
    def load(self, data: Any) -> int:
        return int(bytes(data) == b"t")


class _ValueLoader(Loader):
    """For `jv`, a value out of JSON: `(number,text)`, of which a text has no number."""

    def load(self, data: Any) -> int | float | str:
        number, _, text = bytes(data).decode()[1:-1].partition(",")
        if number:
            return float(number) if "." in number else int(number)
        if text.startswith('"'):
            return text[1:-1].replace('""', '"').replace("\\\\", "\\")
        return text


class PostgresqlRows:
    """The answer to a statement, as a cursor of SQLite."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor
        self.rowcount = cursor.rowcount if _is_change(cursor) else -1

    @property
    def lastrowid(self) -> int:
        """The number that the row has got which was inserted last into a table that numbers its rows."""
        row = self._cursor.connection.execute("SELECT lastval()").fetchone()
        assert row is not None, "a function's value"
        return int(row[0])

    def fetchone(self) -> Any:
        return self._cursor.fetchone() if self._cursor.description else None

    def fetchall(self) -> list[Any]:
        return self._cursor.fetchall() if self._cursor.description else []

    def close(self) -> None:
        self._cursor.close()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row


class Connection:
    """A connection in a schema of the database at an address, whose transactions are begun and ended in SQL."""

    attribute_form = KEYED
    has_sequences = True

    def __init__(self, address: Address, schema: str, *settings: str) -> None:
        """`settings`: further ones of the session (`name=value`). Raises psycopg.Error."""
        self._address = address
        self._settings = (f"search_path={schema}", *settings)
        self.total_changes = 0
        """Rows that were inserted, changed or removed so far."""
        self._limit_ms = 0
        """The limit of a statement's time, 0 for PostgreSQL's own."""
        self._raw = self._connected()

    def _connected(self) -> psycopg.Connection[Any]:
        raw = self._address.connect(*self._settings, autocommit=True)
        adapters = raw.adapters
        adapters.register_dumper(str, _TextDumper)
        for name in ("json", "jsonb"):
            adapters.register_loader(name, TextLoader)
        adapters.register_loader("numeric", _NumberLoader)
        adapters.register_loader("bool", _TruthLoader)
        found = raw.execute("SELECT to_regtype('jv')::oid").fetchone()
        if found is not None and found[0] is not None:  # not before the schema is made
            adapters.register_loader(found[0], _ValueLoader)
        return raw

    @property
    def in_transaction(self) -> bool:
        return self._raw.info.transaction_status != TransactionStatus.IDLE

    @property
    def is_lost(self) -> bool:
        """Whether the server has gone, or ended the connection."""
        return self._raw.closed or self._raw.broken

    @property
    def descriptor(self) -> int:
        """The descriptor of its socket. Raises psycopg.Error."""
        return self._raw.fileno()

    def notice_end(self) -> None:
        """See whether the server has ended the connection between two transactions: a system call."""
        if self._raw.closed:
            return
        poll = select.poll()
        poll.register(self._raw.fileno(), select.POLLIN)
        for _ in range(_LAST_WORDS):
            if not self._raw.broken and poll.poll(0):
                try:
                    self._raw.pgconn.consume_input()
                except psycopg.OperationalError:
                    return  # it is marked as broken

    def connect_again(self) -> None:
        """Replace a lost connection. Raises psycopg.OperationalError."""
        self._raw.close()
        self._raw = self._connected()
        self._limit_ms = 0

    def limit_statements(self, limit_ms: int) -> None:
        """End statements that go on longer than this, from now on. It is no round trip where that holds already."""
        if limit_ms != self._limit_ms:
            self._raw.execute(f"SET statement_timeout = {limit_ms}".encode())
            self._limit_ms = limit_ms

    def begin(self, statements: str) -> None:
        """Begin a transaction with statements in PostgreSQL's words and without values, in one round trip. Each is a
        statement of its own all the same: of READ COMMITTED, it has its own snapshot."""
        self._raw.execute(statements.encode(), prepare=False)

    def execute(self, statement: str, values: Any = ()) -> PostgresqlRows:
        """Run a statement in the store's words, with values by place or by name."""
        text, has_names = translated(statement)
        cursor = self._raw.execute(text, _named(values) if has_names else tuple(values))
        if _is_change(cursor):
            self.total_changes += cursor.rowcount
        return PostgresqlRows(cursor)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> PostgresqlRows:
        """Run a statement for each row of values, in one round trip."""
        text, has_names = translated(statement)
        cursor = self._raw.cursor()
        cursor.executemany(text, [_named(row) if has_names else tuple(row) for row in rows])
        self.total_changes += max(cursor.rowcount, 0)
        return PostgresqlRows(cursor)

    def close(self) -> None:
        self._raw.close()


def _named(values: Any) -> dict[str, Any]:
    """Values of `?1` and its like are named by their number."""
    return values if isinstance(values, dict) else {f"p{number}": value for number, value in enumerate(values, 1)}


def _is_change(cursor: psycopg.Cursor[Any]) -> bool:
    return (cursor.statusmessage or "").startswith(_CHANGES)
