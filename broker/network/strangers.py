"""Sockets that have not proved who they are: which of them is cut off when all places are taken.

A device says CONNECT as soon as it is connected and is judged in milliseconds; whoever holds a place for long without
that is the one to go. So nobody can keep others out by connecting and waiting: the newest always has its place, as long
as there is a stranger.

Laws
1. An address that has `ADDRESS_DIVISOR` of the strangers loses one of its own, for its newcomers; otherwise the one who
   has been there longest goes.
2. Whoever is accepted is no stranger any more, and is never cut off for a newcomer.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

ADDRESS_DIVISOR: Final = 4
"""A fourth."""


class Newcomer(Hashable, Protocol):
    @property
    def is_stranger(self) -> bool: ...


T = TypeVar("T", bound=Newcomer)


class Strangers(Generic[T]):
    __slots__ = ("_by_address", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[T, str] = {}
        """Each with its address, in the order of their coming. Those who were accepted meanwhile are among them until
        `forget_accepted`."""
        self._by_address: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, newcomer: T, address: str) -> None:
        self._waiting[newcomer] = address
        self._by_address[address] = self._by_address.get(address, 0) + 1

    def discard(self, newcomer: T) -> None:
        address = self._waiting.pop(newcomer, None)
        if address is not None:
            left = self._by_address.pop(address) - 1
            if left:
                self._by_address[address] = left

    def forget_accepted(self) -> None:
        """To be called a few times a second: each socket is looked at once, or until it is accepted."""
        while (first := next(iter(self._waiting), None)) is not None and not first.is_stranger:
            self.discard(first)

    def pop_victim(self, address: str) -> T | None:
        """Who leaves for a newcomer from this address; None if nobody is a stranger."""
        if self._by_address.get(address, 0) * ADDRESS_DIVISOR >= len(self._waiting):
            found = next((w for w, a in self._waiting.items() if a == address and w.is_stranger), None)
        else:
            found = None
        if found is None:
            found = next((waiting for waiting in self._waiting if waiting.is_stranger), None)
        if found is not None:
            self.discard(found)
        return found
