"""The interface of what keeps the rows, as `Database` uses it: its connections, transactions and faults.

`Database` has the laws: one writer with group commit, readers with snapshots, turns. A backend is asked for nothing
else, and decides nothing about them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from broker.sqlite_file import Fault
from gateway.store.app_locks import Apps
from gateway.store.transaction import Transaction


class Backend(Protocol):
    """A place of rows. Each connection is used by one thread at a time; `explained` and `fault_of` by any."""

    @property
    def name(self) -> str:
        """The place, as messages for the operator name it."""

    @property
    def unconfirmed(self) -> str:
        """The event of a commit that was not confirmed, as a clause of a message."""

    @property
    def counts_groups(self) -> bool:
        """Whether the groups of writes are counted where they are stored, by `record_group`."""

    @property
    def has_nodes(self) -> bool:
        """Whether other nodes write the same rows, so that a group has to take the locks of its apps."""

    @property
    def trouble(self) -> str | None:
        """The reason why nothing can be stored at the moment, as the last try has shown; it may pass by itself."""

    @property
    def is_durable(self) -> bool:
        """Whether its settings let what is committed survive a power cut, as of a minute ago."""

    def connect_writer(self) -> Transaction:
        """The writer's connection. Raises StorageError."""

    def connect_reader(self, *, for_apps: bool) -> Transaction:
        """A connection that reads: for apps, whose statements differ, or for the server itself."""

    def reconnect(self, connection: Transaction) -> None:
        """Connect again if a reader's connection was lost; called before its statements."""

    def begin(self, connection: Transaction, apps: Apps, shared: frozenset[int]) -> None:
        """Begin a transaction that writes, with the locks of `AppLocks` where there are other nodes (`has_nodes`)."""

    def begin_snapshot(self, connection: Transaction) -> None:
        """Begin a transaction that sees the rows of one moment."""

    def record_group(self, connection: Transaction, now_ms: int) -> None:
        """End a group that has changed something, where `counts_groups`: its last statement, which stores server time.

        Raises StorageError if nothing of the group may be stored.
        """

    def commit(self, connection: Transaction) -> None:
        """End a transaction that writes: what it wrote survives a power cut from now on."""

    def roll_back(self, connection: Transaction) -> None:
        """End whatever transaction is open; none is fine."""

    def limited(self, connection: Transaction, seconds: float) -> AbstractContextManager[None]:
        """End statements of the connection that go on longer than this; `was_interrupted` knows their error."""

    def was_interrupted(self, error: BaseException) -> bool:
        """Has `limited` ended the statement that failed with this error?"""

    def fault_of(self, error: BaseException) -> Fault | None:
        """The fault of the place behind an error; None if the statement or the operation was wrong."""

    def explained(self, error: BaseException) -> BaseException:
        """The StorageError for a fault; any other error as it is."""

    def free_bytes_after_upkeep(self, connection: Transaction) -> int:
        """Do what has to be done once a second, on the writer between groups; the free bytes inside."""

    def size_bytes(self) -> int:
        """Bytes that the database takes, its log included if that is part of it; any thread."""

    def give_back(self, connection: Transaction, *, all_bytes: bool) -> int:
        """Give some of the free bytes back to the disk, in the writer's transaction; how many pages."""
