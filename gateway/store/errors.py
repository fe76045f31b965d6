"""Errors of the ledger's database, in the words of the API's catalogue."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import ClassVar, Final

from sqlalchemy.exc import SQLAlchemyError

from broker.sqlite_file import Fault, fault_of
from gateway.errors import Problem, problem
from gateway.program import PROGRAM

DRIVER_ERRORS: Final = (sqlite3.Error, SQLAlchemyError)
"""Errors of the database's driver, where a file is opened or looked at and nothing has explained them yet."""


class StorageError(Exception):
    """The file could not be used; `str` of it is for the log, `detail` for whoever asked."""

    fault: ClassVar[Fault] = Fault.FAILED
    code: ClassVar[str] = "storage_failed"
    detail: ClassVar[str] = (
        "the server's disk refused to read or write (its log says what): nothing was stored; have the disk looked at, "
        "and send again"
    )


OF_THE_DATABASE: Final = (StorageError, sqlite3.OperationalError)
"""Errors that say nothing of what was to be stored: it may be tried again."""


class StorageFull(StorageError):
    """The disk has no room: nothing of the operation was stored."""

    fault = Fault.FULL
    code = "storage_full"
    detail = "the disk is full: nothing was stored; free space and send again"


class StorageBusy(StorageError):
    """Another process kept the file locked: nothing of the operation was stored."""

    fault = Fault.LOCKED
    code = "busy"
    detail = "another program keeps the ledger locked: nothing was stored; send again, and end that program"


class StorageContended(StorageBusy):
    """Other nodes kept the app's lock for too long: nothing of the operation was stored."""

    detail = "other nodes keep what this would write to themselves: nothing was stored; send again"


class StorageFailed(StorageError):
    """The disk refused, or the file is given up: nothing of the operation was stored."""


class StorageForbidden(StorageFailed):
    """The file may not be opened or written: nothing of the operation was stored."""

    fault = Fault.FORBIDDEN


class StorageUnreachable(StorageFailed):
    """The database server does not answer: nothing of the operation was stored."""

    detail = "the database does not answer: nothing was stored; send again"


class StorageDamaged(StorageError):
    """The file holds what SQLite never wrote: nothing of the operation was stored."""

    fault = Fault.DAMAGED
    code = "storage_damaged"
    detail = (
        f"the ledger is damaged: nothing was stored; stop the server, check the disk, and restore a backup "
        f"(`{PROGRAM} restore FILE --force`)"
    )


class OutcomeUnknown(StorageError):
    """The disk did not confirm the commit (a failed fsync): it may be stored, or not."""

    fault = Fault.UNSYNCED
    code = "outcome_unknown"
    detail = (
        "the disk, or the database, did not confirm what was written: it may be stored, or not; the server ends because"
        " of it. Send again when it is back, a push with the same Idempotency-Key, so that it is sent once"
    )


STORAGE_ERRORS: dict[Fault, type[StorageError]] = {
    kind.fault: kind
    for kind in (StorageFull, StorageBusy, StorageFailed, StorageForbidden, StorageDamaged, OutcomeUnknown)
}


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, the first failure last: what it became on the way may hide that."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__context__


def explained(error: BaseException) -> BaseException:
    """The StorageError for what SQLite says of its file; any other error as it is."""
    fault = fault_of(error)
    if fault is None or isinstance(error, StorageError):
        return error
    said = getattr(error, "orig", None) or error  # SQLAlchemy adds the statement
    name = getattr(said, "sqlite_errorname", None)
    return STORAGE_ERRORS[fault](f"{said} ({name})" if name else str(said))


def storage_problem(error: StorageError, *, has_key: bool) -> Problem:
    """The API's answer. `has_key`: the request has an idempotency key, so that sending it again does it once."""
    found = problem(error.code, error.detail)
    if isinstance(error, OutcomeUnknown):
        found.retryable = has_key
    return found
