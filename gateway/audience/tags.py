"""Tags that the devices of an app have: read from the sets that pushes to them are sent by."""

from __future__ import annotations

from typing import Any

from gateway.store.audience.device_sets import BEFORE_LETTERS, BEHIND_TOPICS, TOPIC_PREFIX, count_sets
from gateway.store.database import Database
from gateway.store.transaction import Transaction

_LAST = chr(0x10FFFF)
"""Behind every letter of a tag."""


class TagStore:
    """Lists tags. Loop."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def page(self, app_no: int, limit: int, cursor: str | None, prefix: str | None) -> dict[str, Any]:
        """List the tags of an app by name, those that begin with `prefix`: `{"tag", "devices"}` each."""
        begin = max((cursor or "") + BEFORE_LETTERS, prefix or "")
        end = (prefix or "") + _LAST

        def read(transaction: Transaction) -> list[tuple[str, int]]:
            # The sets of topics lie among those of tags: their names begin with a letter that no tag has.
            found = count_sets(transaction, app_no, begin, min(end, TOPIC_PREFIX), limit + 1)
            if len(found) <= limit:
                found += count_sets(transaction, app_no, max(begin, BEHIND_TOPICS), end, limit + 1 - len(found))
            return found

        found = await self._database.read(read, app_no)
        items = [{"tag": name, "devices": count} for name, count in found[:limit]]
        return {"items": items, "next_cursor": items[-1]["tag"] if len(found) > limit else None}
