"""The type of what an operation on the store is given: a transaction of the writer, or a snapshot of a reader.

Code outside `gateway.store` hands it on to the named operations in `gateway.store`, and says no SQL itself
(`tests/test_architecture.py`): what an operation means is decided there, and how a database is asked for it here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class Rows(Protocol):
    """The answer to a statement."""

    @property
    def rowcount(self) -> int:
        """Rows that the statement has inserted, changed or removed; -1 if it does none of these."""

    @property
    def lastrowid(self) -> int | None:
        """The number of the row that the statement has inserted, in a table that numbers its rows."""

    def fetchone(self) -> Any:
        """The next row; None after the last."""

    def fetchall(self) -> list[Any]:
        """The rows that are left."""

    def close(self) -> None:
        """Need no further rows."""

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...


class Transaction(Protocol):
    """An open transaction. It may not be kept, and is ended by who has begun it."""

    @property
    def total_changes(self) -> int:
        """Rows that were inserted, changed or removed over the connection so far."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, which a failed statement may have ended."""

    def execute(self, statement: str, values: Any = ..., /) -> Rows:
        """Run a statement, with values by place or by name."""

    def executemany(self, statement: str, rows: Iterable[Any], /) -> Rows:
        """Run a statement for each row of values."""

    def close(self) -> None:
        """End the connection, and what is open on it."""
