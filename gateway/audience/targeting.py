"""A target becomes device numbers, in SQL, so that its cost follows the devices addressed and not those registered.

Two forms, because they are stored differently: listed devices are looked up by id (`device_rows`), so that unknown ones
can be named; a selection (`select_sql`) stays a statement, which the ledger inserts from without a row passing through
Python. What it selects is also stored as a set, which `device_sets` keeps equal to it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Protocol


class Selection(Protocol):
    """The part of a target that selects instead of naming devices."""

    @property
    def tag(self) -> str | None: ...

    @property
    def all(self) -> bool | None: ...


def device_rows(connection: sqlite3.Connection, app_no: int, device_ids: Sequence[str]) -> dict[str, int]:
    """Numbers of the live devices among the ids, in no particular order."""
    (text,) = connection.execute(
        # One row, because each is a pass of the interpreter lock.
        # CROSS: in this order. Left alone, SQLite walks all devices of the app and the list for each of them.
        "SELECT json_group_object(d.id, d.no) FROM json_each(?) AS wanted CROSS JOIN device AS d"
        " ON d.app_no = ? AND d.id = wanted.value AND d.removed_at IS NULL",
        (json.dumps(device_ids), app_no),
    ).fetchone()
    found: dict[str, int] = json.loads(text)
    return found


def select_sql(app_no: int, target: Selection) -> tuple[str, tuple[Any, ...]]:
    """A SELECT of one column `no`, the live devices that a tag or `all` addresses, in order of enrolment."""
    if target.tag is not None:
        return (
            "SELECT d.no AS no FROM device_tag AS t CROSS JOIN device AS d ON d.no = t.device_no"
            " WHERE t.app_no = ? AND t.tag = ? AND d.removed_at IS NULL ORDER BY t.device_no",
            (app_no, target.tag),
        )
    assert target.all, "listed targets are resolved by device_rows"
    return "SELECT no FROM device WHERE app_no = ? AND removed_at IS NULL ORDER BY no", (app_no,)
