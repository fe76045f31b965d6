"""Saved templates: contents of pushes by name, each change a version that is kept for a while.

A version never changes, so a push that names it, or was made with it, says what its devices got. The newest is used
unless a push asks for another. A template that is removed leaves with all its versions, but its number stays: one that
is made anew under its name goes on behind it, so that a campaign which was approved with a version never gets another.

Templates are on disk alone, and read when a push is made with one. What is in a version is not this module's business:
it is JSON that was checked before (`delivery/push_template`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.errors import Problem, problem
from gateway.pages import ListPage, fill_page
from gateway.store.database import Database
from gateway.timestamps import rfc3339

MAX_TEMPLATES = 500
"""Templates of an app: what a person finds their way in, with one for each kind of message of many products."""
MAX_VERSIONS = 20
"""Versions of a template that are kept, the newest: those of a few weeks, for a mistake that is noticed late."""
MAX_REMOVED_TEMPLATES = MAX_TEMPLATES
"""Names of removed templates of an app whose last version is remembered, the latest removed: a row each."""
MAX_TEMPLATE_BYTES = 131_072
"""Bytes of a version as JSON: 100 languages of a kibibyte each, and some."""
MAX_BYTES_OF_APP = 16 * 1024 * 1024
"""Bytes of all versions of an app, together."""


class SavedTemplate(NamedTuple):
    """A version of a template."""

    name: str
    version: int
    content: str
    """As JSON."""
    created_at: int


class TemplateStore:
    """The templates of all apps, in the ledger. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, *, database: Database, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def put(self, app_no: int, name: str, content: str) -> SavedTemplate:
        """Save a content as the newest version; the version that there is, if it has the same content.

        Raises Problem 422 when the app has as many as it may.
        """
        now_ms = self._clock_ms()
        size = len(content.encode())
        if size > MAX_TEMPLATE_BYTES:
            raise problem("invalid_request", f"a template has at most {MAX_TEMPLATE_BYTES} bytes, and this one {size}")

        def operation(connection: sqlite3.Connection) -> SavedTemplate:
            newest = _version(connection, app_no, name, None)
            if newest is not None and newest.content == content:
                return newest
            (others, kept) = connection.execute(
                "SELECT (SELECT count(DISTINCT name) FROM template_version WHERE app_no = ?1 AND name <> ?2),"
                " (SELECT coalesce(sum(size), 0) FROM template_version WHERE app_no = ?1)",
                (app_no, name),
            ).fetchone()
            if others >= MAX_TEMPLATES:
                raise problem("invalid_request", f"an app has at most {MAX_TEMPLATES} templates: remove one first")
            if kept + size > MAX_BYTES_OF_APP:
                raise problem(
                    "invalid_request",
                    f"the templates of an app have at most {MAX_BYTES_OF_APP} bytes with all versions that are kept: "
                    "remove some first",
                )
            (version,) = connection.execute(
                "INSERT INTO template (app_no, name, version, created_at, updated_at) VALUES (?1, ?2, 1, ?3, ?3)"
                " ON CONFLICT DO UPDATE SET version = version + 1, updated_at = excluded.updated_at,"
                "  created_at = iif(?4, created_at, excluded.created_at) RETURNING version",
                (app_no, name, now_ms, newest is not None),
            ).fetchone()
            connection.execute(
                "INSERT INTO template_version (app_no, name, version, content, size, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (app_no, name, version, content, size, now_ms),
            )
            connection.execute(
                "DELETE FROM template_version WHERE app_no = ? AND name = ? AND version <= ?",
                (app_no, name, version - MAX_VERSIONS),
            )
            return SavedTemplate(name, version, content, now_ms)

        return await self._database.write(operation, app_no)

    async def get(self, app_no: int, name: str, version: int | None = None) -> SavedTemplate:
        """A version of a template, the newest unless one is given. Raises Problem 404."""
        found = await self._database.read(lambda connection: _version(connection, app_no, name, version), app_no)
        if found is None:
            raise unknown_template(name, version)
        return found

    async def versions(self, app_no: int, name: str) -> list[dict[str, Any]]:
        """The versions of a template that are kept, the newest first; empty for none."""
        rows = await self._database.read(
            lambda connection: connection.execute(
                "SELECT version, created_at FROM template_version WHERE app_no = ? AND name = ? ORDER BY version DESC",
                (app_no, name),
            ).fetchall(),
            app_no,
        )
        return [{"version": version, "created_at": rfc3339(created_at)} for version, created_at in rows]

    async def page(self, app_no: int, limit: int, cursor: str | None) -> ListPage:
        """A page of the app's templates, by name."""

        def read(connection: sqlite3.Connection) -> ListPage:
            rows = connection.execute(
                "SELECT t.name, t.version, t.created_at, t.updated_at, v.size FROM template AS t"
                " JOIN template_version AS v ON v.app_no = t.app_no AND v.name = t.name AND v.version = t.version"
                " WHERE t.app_no = ? AND t.name > ? ORDER BY t.name LIMIT ?",
                (app_no, cursor or "", limit + 1),
            )
            return fill_page(rows, limit, _described, lambda row: row[0])

        return await self._database.read(read, app_no)

    async def remove(self, app_no: int, name: str) -> None:
        """Remove a template with all its versions. Raises Problem 404."""

        now_ms = self._clock_ms()

        def operation(connection: sqlite3.Connection) -> bool:
            removed = connection.execute(
                "DELETE FROM template_version WHERE app_no = ? AND name = ?", (app_no, name)
            ).rowcount
            connection.execute(
                "UPDATE template SET updated_at = ? WHERE app_no = ? AND name = ?", (now_ms, app_no, name)
            )
            connection.execute(
                "DELETE FROM template WHERE app_no = ?1 AND name IN (SELECT t.name FROM template AS t"
                " WHERE t.app_no = ?1 AND NOT EXISTS (SELECT 1 FROM template_version AS v"
                "  WHERE v.app_no = ?1 AND v.name = t.name) ORDER BY t.updated_at DESC LIMIT -1 OFFSET ?2)",
                (app_no, MAX_REMOVED_TEMPLATES),
            )
            return removed > 0

        if not await self._database.write(operation, app_no):
            raise unknown_template(name)


def unknown_template(name: str, version: int | None = None) -> Problem:
    if version is not None:
        return problem("template_not_found", f"no version {version} of a template {name!r} in this app, or no longer")
    return problem("template_not_found", f"no template {name!r} in this app; make it with PUT /v1/templates/{name}")


def _version(connection: sqlite3.Connection, app_no: int, name: str, version: int | None) -> SavedTemplate | None:
    row = connection.execute(
        "SELECT v.version, v.content, v.created_at FROM template AS t JOIN template_version AS v"
        " ON v.app_no = t.app_no AND v.name = t.name AND v.version = coalesce(?, t.version)"
        " WHERE t.app_no = ? AND t.name = ?",
        (version, app_no, name),
    ).fetchone()
    return None if row is None else SavedTemplate(name, *row)


def _described(row: tuple[str, int, int, int, int]) -> dict[str, Any]:
    name, version, created_at, updated_at, size = row
    return {
        "name": name,
        "version": version,
        "size": size,
        "created_at": rfc3339(created_at),
        "updated_at": rfc3339(updated_at),
    }
