"""Which apps' rows an operation has written, told by triggers: is what was declared of it true?

`WrittenApps` puts triggers beside the tables of a ledger of SQLite, for its connection alone, which note the app of
each row that is inserted, changed or removed. What an operation has written besides what it has declared is a
complaint, which the fixture `declared_apps` of these tests fails with.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Final, TypeVar

import pytest
from sqlmodel import SQLModel

from gateway.store import models
from gateway.store.app_locks import EVERY_APP, DeclaredApps, apps_of
from gateway.store.ledger_file import LedgerFile
from gateway.store.transaction import Transaction
from gateway.store.write_queue import WriteOperation, WriteQueue

assert models.Delivery.__tablename__ == "delivery", "the import defines the tables"
T = TypeVar("T")
NOT_OF_AN_APP: Final = frozenset(
    {
        "clock",  # the server's, and becomes the node's
        "clock_offset",
        "analytics_position",  # of who counts for all apps, one at a time
        "fatigue_position",
        "presence_hour",  # OR-ed
        "received_message",  # of a session, which is one node's
    }
)
_OF_DEVICE: Final = "(SELECT app_no FROM device WHERE no = {row}.device_no)"
_OF_PUSH: Final = (
    "(SELECT CASE p.app_no WHEN 0 THEN (SELECT v.app_no FROM delivery AS d JOIN device AS v ON v.no = d.device_no"
    " WHERE d.push_no = p.no LIMIT 1) ELSE p.app_no END FROM push AS p WHERE p.no = {row}.push_no)"
)
"""The app of a push's devices, whose lock it is that keeps a beat's rows, too."""
_APP_OF: Final = {
    "application": "{row}.no",
    "push": "nullif({row}.app_no, 0)",  # nobody else knows a beat that is being stored, or has been over for long
    "event": "nullif({row}.app_no, 0)",
    "campaign_part": "(SELECT app_no FROM campaign WHERE no = {row}.campaign_no)",
    "campaign_set": "(SELECT app_no FROM campaign WHERE no = {row}.campaign_no)",
    "dead_letter": "(SELECT app_no FROM webhook WHERE no = {row}.webhook_no)",
    "escalation_step": "(SELECT app_no FROM escalation WHERE push_no = {row}.escalation_no)",
    "plan_waiting": "(SELECT s.app_no FROM schedule_run AS r JOIN schedule AS s ON s.no = r.schedule_no"
    " WHERE r.no = {row}.run_no)",
    "schedule_run": "(SELECT app_no FROM schedule WHERE no = {row}.schedule_no)",
    "webhook_lane": "(SELECT app_no FROM webhook WHERE no = {row}.webhook_no)",
}
"""Where the app of a row is, of tables that do not have it as a column of their own."""
complaints: list[str] = []
"""Of this process: what was written and not declared."""


class WrittenApps:
    """Notes what is written over a connection; nothing of one to PostgreSQL, whose statements are the same."""

    def __init__(self, connection: Transaction) -> None:
        self._written: set[tuple[str, int | None]] = set()
        self._is_noting = isinstance(connection, sqlite3.Connection)
        if isinstance(connection, sqlite3.Connection):
            connection.create_function("note_app", 2, self._note)
            connection.executescript(_triggers())

    def _note(self, table: str, app_no: int | None) -> None:
        self._written.add((table, app_no))

    def noted(
        self, operation: Callable[[Transaction], T], declared: DeclaredApps, app_no: int | None, *, is_shared: bool
    ) -> Callable[[Transaction], T]:
        """The operation, which complains if it has written what was not declared of it."""
        if not self._is_noting or (declared is None and app_no is None) or declared is EVERY_APP:
            return operation

        def run(transaction: Transaction) -> T:
            self._written.clear()
            result = operation(transaction)
            apps = apps_of(declared, app_no)
            if apps is not EVERY_APP:
                allowed = frozenset[int]() if is_shared else apps
                for table, written in sorted(self._written, key=str):
                    if written is not None and written not in allowed:
                        complaints.append(
                            f"{_name(operation)} writes {table} of app {written}, and declares {sorted(allowed)}"
                        )
            return result

        return run


def note_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note what the writers of all databases write that are opened from now on."""
    connect, put = LedgerFile.connect_writer, WriteQueue.put
    noted: dict[int, WrittenApps] = {}

    def connect_and_note(self: LedgerFile) -> Transaction:
        connection = connect(self)
        noted[id(connection)] = WrittenApps(connection)
        return connection

    def put_and_note(self: WriteQueue, operation: WriteOperation) -> None:
        run = operation.run

        def note(transaction: Transaction) -> object:
            written = noted.get(id(transaction))
            if written is None:  # PostgreSQL
                return run(transaction)
            is_shared = operation.is_shared
            return written.noted(run, operation.apps, operation.app_no, is_shared=is_shared)(transaction)

        operation.run = note
        put(self, operation)

    monkeypatch.setattr(LedgerFile, "connect_writer", connect_and_note)
    monkeypatch.setattr(WriteQueue, "put", put_and_note)


def _name(operation: Callable[..., object]) -> str:
    inner = getattr(operation, "func", operation)
    return f"{inner.__module__}.{inner.__qualname__}"


@cache
def _triggers() -> str:
    made: list[str] = []
    for table in SQLModel.metadata.sorted_tables:
        if table.name in NOT_OF_AN_APP:
            continue
        app = _APP_OF.get(table.name)
        if app is None and "app_no" in table.columns:
            app = "{row}.app_no"
        if app is None:
            app = _OF_DEVICE if "device_no" in table.columns else _OF_PUSH
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            made.append(
                f"CREATE TEMP TRIGGER IF NOT EXISTS noted_{table.name}_{event} AFTER {event} ON main.{table.name}"
                f" BEGIN SELECT note_app('{table.name}', {app.format(row=row)}); END;"
            )
    return "".join(made)
