"""Protocols of the database and the loop, as the components use them. Tests put hand-driven ones in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from gateway.store.app_locks import DeclaredApps
from gateway.store.transaction import Transaction

T = TypeVar("T")


class Writer(Protocol):
    """The part of `Database` that the life of a delivery needs."""

    def submit(
        self,
        operation: Callable[[Transaction], T],
        on_commit: Callable[[T], None],
        on_error: Callable[[BaseException], None],
        *,
        apps: DeclaredApps = None,
        is_shared: bool = False,
        uses_reserve: bool = True,
    ) -> None: ...

    async def write(
        self,
        operation: Callable[[Transaction], T],
        app_no: int | None = None,
        *,
        apps: DeclaredApps = None,
        is_shared: bool = False,
    ) -> T: ...


class Timers(Protocol):
    """The part of an event loop that the components need."""

    def call_soon(self, callback: Callable[[], None]) -> object: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> object: ...
