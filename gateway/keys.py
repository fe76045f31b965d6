"""Tenants and their keys: made, listed, revoked. What a key opens is `auth.py`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from gateway.auth import KeyCache, new_key, secret_hash
from gateway.device_topics import DEFAULT_APP
from gateway.errors import Problem, problem
from gateway.store.access.apps import add_app, app_number, apps_behind, count_apps, is_app
from gateway.store.access.keys import (
    ListedKey,
    StoredKey,
    add_key,
    count_valid_keys,
    key_of_app,
    keys_behind,
    revoke_key,
    scopes_of_others,
)
from gateway.store.app_locks import EVERY_APP
from gateway.store.audited_writes import about
from gateway.store.database import Database
from gateway.store.transaction import Transaction
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

        def write(transaction: Transaction) -> None:
            if app_number(transaction, app_id) is not None:
                raise problem("app_exists", f"there is an app {app_id!r} already")
            if count_apps(transaction, MAX_APPS) >= MAX_APPS:
                raise problem("invalid_request", f"there are {MAX_APPS} apps, and no more can be made")
            add_app(transaction, app_id, now_ms)
            about("app", app_id)

        await self._database.write(write, by_app, apps=EVERY_APP)
        return {"id": app_id, "created_at": rfc3339(now_ms)}

    async def apps(self, app_no: int, limit: int, cursor: str | None, only: str | None = None) -> dict[str, Any]:
        """List a page of apps, by id; `only` that one. It is read in the turn of the app that asks."""
        found = await self._database.read(
            lambda transaction: apps_behind(transaction, cursor or "", only, limit + 1), app_no
        )
        items = [{"id": app_id, "created_at": rfc3339(created_at)} for app_id, created_at in found[:limit]]
        return {"items": items, "next_cursor": items[-1]["id"] if len(found) > limit else None}

    async def add_key(self, by_app: int, app_id: str, name: str, scopes: list[str], now_ms: int) -> dict[str, Any]:
        """The answer holds the key itself, this once. Raises Problem 404 for an unknown app, 422."""
        key = new_key()
        ordered = sorted(set(scopes))

        def write(transaction: Transaction) -> str:
            if count_valid_keys(transaction, app_id) >= MAX_KEYS:
                raise problem("invalid_request", f"an app has at most {MAX_KEYS} valid keys: revoke one first")
            key_id = insert_key(transaction, app_id, name, ordered, secret_hash(key), now_ms)
            about("key", key_id, name=name, scopes=ordered, app=app_id)
            return key_id

        key_id = await self._database.write(write, by_app, apps=EVERY_APP)
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

        def read(transaction: Transaction) -> list[ListedKey]:
            app_no = app_number(transaction, app_id)
            if app_no is None:
                raise unknown_app(app_id)
            return keys_behind(transaction, app_no, cursor or "", limit + 1)

        found = await self._database.read(read, by_app)
        items = [
            {
                "id": key.key_id,
                "app": app_id,
                "name": key.name,
                "scopes": key.scopes.split(),
                "created_at": rfc3339(key.created_at),
                "revoked_at": rfc3339_or_none(key.revoked_at),
            }
            for key in found[:limit]
        ]
        return {"items": items, "next_cursor": items[-1]["id"] if len(found) > limit else None}

    async def revoke(self, by_app: int, app_no: int | None, key_id: str, now_ms: int) -> None:
        """Revoke a key: it and its sessions are void at once. `app_no` None: of whatever app. Raises Problem 404,
        409."""

        def write(transaction: Transaction) -> None:
            key = key_of_app(transaction, key_id, app_no)
            if key is None:
                raise problem("key_not_found", f"no key {key_id!r} in this app")
            if key.revoked_at is not None:
                return
            if "admin" in key.scopes.split() and _is_last_admin(transaction, key):
                raise problem("last_admin_key", "nobody could make another afterwards: make a new admin key first")
            revoke_key(transaction, key.no, now_ms)

        await self._database.write(write, by_app, apps=EVERY_APP)
        self._cache.forget(key_id)
        self._on_revoked(key_id)


def insert_key(
    transaction: Transaction, app_id: str, name: str, scopes: Sequence[str], key_hash: bytes, now_ms: int
) -> str:
    """Store a key; its id. Raises Problem 404 for an unknown app. Runs on the *writer thread*."""
    key_id = f"k_{secrets.token_hex(6)}"
    if not add_key(transaction, key_id, app_id, name, scopes, key_hash, now_ms):
        raise unknown_app(app_id)
    return key_id


def unknown_app(app_id: str) -> Problem:
    return problem("not_found", f"no app {app_id!r}; make it with POST /v1/apps")


def _is_last_admin(transaction: Transaction, key: StoredKey) -> bool:
    """Whether it is the only live admin key of the app `default`, whose admins can help all others."""
    others = scopes_of_others(transaction, key.no, key.app_no, DEFAULT_APP)
    is_default = is_app(transaction, key.app_no, DEFAULT_APP)
    return is_default and not any("admin" in scopes.split() for scopes in others)
