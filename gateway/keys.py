"""Tenants and their keys: made, listed, revoked. What a key opens is `auth.py`."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from sqlmodel import Session, col, select

from gateway.auth import KeyCache, new_key, secret_hash
from gateway.device_topics import DEFAULT_APP
from gateway.errors import Problem, problem
from gateway.store.audited_writes import about
from gateway.store.database import Database
from gateway.store.models import ApiKey, Application
from gateway.timestamps import rfc3339, rfc3339_or_none

MAX_APPS = 1_000
MAX_KEYS = 1_000
"""Valid keys of an app."""


class Keys:
    """Apps and API keys in the ledger. Runs on the *loop*."""

    def __init__(self, database: Database, cache: KeyCache, on_revoked: Callable[[str], None]) -> None:
        """`on_revoked` is called with the id of a key that was revoked, before that is answered."""
        self._database = database
        self._cache = cache
        self._on_revoked = on_revoked

    async def add_app(self, by_app: int, app_id: str, now_ms: int) -> dict[str, Any]:
        """Make an app, in the turn of the app that asks, `by_app`. Raises Problem 409, 422."""

        def write(session: Session) -> dict[str, Any]:
            if session.exec(select(Application).where(Application.id == app_id)).first() is not None:
                raise problem("app_exists", f"there is an app {app_id!r} already")
            if len(session.exec(select(Application.no).limit(MAX_APPS)).all()) >= MAX_APPS:
                raise problem("invalid_request", f"there are {MAX_APPS} apps, and no more can be made")
            session.add(Application(id=app_id, created_at=now_ms))
            about("app", app_id)
            return {"id": app_id, "created_at": rfc3339(now_ms)}

        return await self._database.write_models(write, by_app)

    async def apps(self, app_no: int, limit: int, cursor: str | None, only: str | None = None) -> dict[str, Any]:
        """List a page of apps, by id; `only` that one. It is read in the turn of the app that asks."""

        def read(session: Session) -> dict[str, Any]:
            wanted = select(Application).where(col(Application.id) > (cursor or ""))
            if only is not None:
                wanted = wanted.where(Application.id == only)
            found = session.exec(wanted.order_by(Application.id).limit(limit + 1)).all()
            items = [{"id": app.id, "created_at": rfc3339(app.created_at)} for app in found[:limit]]
            return {"items": items, "next_cursor": items[-1]["id"] if len(found) > limit else None}

        return await self._database.read_models(read, app_no)

    async def add_key(self, by_app: int, app_id: str, name: str, scopes: list[str], now_ms: int) -> dict[str, Any]:
        """The answer holds the key itself, this once. Raises Problem 404 for an unknown app, 422."""
        key = new_key()
        ordered = sorted(set(scopes))

        def write(connection: sqlite3.Connection) -> str:
            (valid,) = connection.execute(
                "SELECT count(*) FROM api_key AS k JOIN application AS a ON a.no = k.app_no"
                " WHERE a.id = ? AND k.revoked_at IS NULL",
                (app_id,),
            ).fetchone()
            if valid >= MAX_KEYS:
                raise problem("invalid_request", f"an app has at most {MAX_KEYS} valid keys: revoke one first")
            key_id = insert_key(connection, app_id, name, ordered, secret_hash(key), now_ms)
            about("key", key_id, name=name, scopes=ordered, app=app_id)
            return key_id

        key_id = await self._database.write(write, by_app)
        return {
            "id": key_id,
            "key": key,
            "app": app_id,
            "name": name,
            "scopes": ordered,
            "created_at": rfc3339(now_ms),
        }

    async def keys(self, by_app: int, app_id: str, limit: int, cursor: str | None) -> dict[str, Any]:
        """List a page of an app's keys, without their secrets; revoked ones stay listed. It is read in the turn of the
        app that asks, `by_app`. Raises Problem 404 for an unknown app."""

        def read(session: Session) -> dict[str, Any]:
            app_no = session.exec(select(Application.no).where(Application.id == app_id)).first()
            if app_no is None:
                raise unknown_app(app_id)
            found = session.exec(
                select(ApiKey, Application)
                .where(ApiKey.app_no == app_no, Application.no == ApiKey.app_no, col(ApiKey.id) > (cursor or ""))
                .order_by(ApiKey.id)
                .limit(limit + 1)
            ).all()
            items = [
                {
                    "id": key.id,
                    "app": app.id,
                    "name": key.name,
                    "scopes": key.scopes.split(),
                    "created_at": rfc3339(key.created_at),
                    "revoked_at": rfc3339_or_none(key.revoked_at),
                }
                for key, app in found[:limit]
            ]
            return {"items": items, "next_cursor": items[-1]["id"] if len(found) > limit else None}

        return await self._database.read_models(read, by_app)

    async def revoke(self, by_app: int, app_no: int | None, key_id: str, now_ms: int) -> None:
        """Revoke a key: it and its sessions are void at once. `app_no` None: of whatever app. Raises Problem 404,
        409."""

        def write(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT no, app_no, scopes, revoked_at FROM api_key WHERE id = ?1 AND (?2 IS NULL OR app_no = ?2)",
                (key_id, app_no),
            ).fetchone()
            if row is None:
                raise problem("key_not_found", f"no key {key_id!r} in this app")
            if row[3] is not None:
                return
            if "admin" in row[2].split() and _is_last_admin(connection, row[0], row[1]):
                raise problem("last_admin_key", "nobody could make another afterwards: make a new admin key first")
            connection.execute("UPDATE api_key SET revoked_at = ? WHERE no = ?", (now_ms, row[0]))
            connection.execute("DELETE FROM console_session WHERE key_no = ?", (row[0],))

        await self._database.write(write, by_app)
        self._cache.forget(key_id)
        self._on_revoked(key_id)


def insert_key(
    connection: sqlite3.Connection, app_id: str, name: str, scopes: Sequence[str], key_hash: bytes, now_ms: int
) -> str:
    """Store a key; its id. Raises Problem 404 for an unknown app. Runs on the *writer thread*."""
    key_id = f"k_{secrets.token_hex(6)}"
    stored = connection.execute(
        "INSERT INTO api_key (id, app_no, name, scopes, secret_hash, created_at)"
        " SELECT ?, no, ?, ?, ?, ? FROM application WHERE id = ?",
        (key_id, name, " ".join(scopes), key_hash, now_ms, app_id),
    )
    if not stored.rowcount:
        raise unknown_app(app_id)
    return key_id


def unknown_app(app_id: str) -> Problem:
    return problem("not_found", f"no app {app_id!r}; make it with POST /v1/apps")


def _is_last_admin(connection: sqlite3.Connection, key_no: int, app_no: int) -> bool:
    """Whether it is the only live admin key of the app `default`, whose admins can help all others."""
    rows = connection.execute(
        "SELECT k.scopes FROM api_key AS k JOIN application AS a ON a.no = k.app_no"
        " WHERE k.app_no = ? AND k.no <> ? AND k.revoked_at IS NULL AND a.id = ?",
        (app_no, key_no, DEFAULT_APP),
    ).fetchall()
    (is_default,) = connection.execute("SELECT id = ? FROM application WHERE no = ?", (DEFAULT_APP, app_no)).fetchone()
    return bool(is_default) and not any("admin" in scopes.split() for (scopes,) in rows)
