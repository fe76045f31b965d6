"""Saved templates: contents of pushes by name, each change a version that is kept for a while.

A version never changes, so a push that names it, or was made with it, says what its devices got. The newest is used
unless a push asks for another. A template that is removed leaves with all its versions, but its number stays: one that
is made anew under its name goes on behind it, so that a campaign which was approved with a version never gets another.

Templates are on disk alone, and read when a push is made with one. What is in a version is not this module's business:
it is JSON that was checked before (`delivery/push_template`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.errors import Problem, problem
from gateway.pages import ListPage, fill_page
from gateway.store.content.templates import (
    SavedTemplate,
    TemplateSummary,
    add_version,
    kept_versions,
    read_version,
    remove_template,
    templates_behind,
    usage_of_app,
)
from gateway.store.database import Database
from gateway.store.transaction import Transaction
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

        def operation(transaction: Transaction) -> SavedTemplate:
            newest = read_version(transaction, app_no, name, None)
            if newest is not None and newest.content == content:
                return newest
            others, kept = usage_of_app(transaction, app_no, name)
            if others >= MAX_TEMPLATES:
                raise problem("invalid_request", f"an app has at most {MAX_TEMPLATES} templates: remove one first")
            if kept + size > MAX_BYTES_OF_APP:
                raise problem(
                    "invalid_request",
                    f"the templates of an app have at most {MAX_BYTES_OF_APP} bytes with all versions that are kept: "
                    "remove some first",
                )
            version = add_version(transaction, app_no, name, content, size, MAX_VERSIONS, now_ms, is_new=newest is None)
            return SavedTemplate(name, version, content, now_ms)

        return await self._database.write(operation, app_no)

    async def get(self, app_no: int, name: str, version: int | None = None) -> SavedTemplate:
        """A version of a template, the newest unless one is given. Raises Problem 404."""
        found = await self._database.read(partial(read_version, app_no=app_no, name=name, version=version), app_no)
        if found is None:
            raise unknown_template(name, version)
        return found

    async def versions(self, app_no: int, name: str) -> list[dict[str, Any]]:
        """The versions of a template that are kept, the newest first; empty for none."""
        rows = await self._database.read(partial(kept_versions, app_no=app_no, name=name), app_no)
        return [{"version": version, "created_at": rfc3339(created_at)} for version, created_at in rows]

    async def page(self, app_no: int, limit: int, cursor: str | None) -> ListPage:
        """A page of the app's templates, by name."""

        def read(transaction: Transaction) -> ListPage:
            found = templates_behind(transaction, app_no, cursor or "", limit)
            return fill_page(found, limit, _described, lambda template: template.name)

        return await self._database.read(read, app_no)

    async def remove(self, app_no: int, name: str) -> None:
        """Remove a template with all its versions. Raises Problem 404."""
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> bool:
            return remove_template(transaction, app_no, name, MAX_REMOVED_TEMPLATES, now_ms)

        if not await self._database.write(operation, app_no):
            raise unknown_template(name)


def unknown_template(name: str, version: int | None = None) -> Problem:
    if version is not None:
        return problem("template_not_found", f"no version {version} of a template {name!r} in this app, or no longer")
    return problem("template_not_found", f"no template {name!r} in this app; make it with PUT /v1/templates/{name}")


def _described(template: TemplateSummary) -> dict[str, Any]:
    return {
        "name": template.name,
        "version": template.version,
        "size": template.size,
        "created_at": rfc3339(template.created_at),
        "updated_at": rfc3339(template.updated_at),
    }
