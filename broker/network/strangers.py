"""Strangers, sockets that are not authenticated: the choice of the one that is cut off at the limit of sockets.

A device sends CONNECT as soon as it is connected and is authenticated in milliseconds; a socket that waits for longer
is the one to be cut off. So nobody can keep others out by connecting and waiting: a newcomer always has its place, as
long as there is a stranger.

Laws
1. An address that has a fourth of the strangers (`ADDRESS_DIVISOR`) loses one of its own, for its newcomers; otherwise
   the oldest stranger is cut off.
2. A socket that is authenticated is no stranger any more, and is never cut off for a newcomer.
3. Who has said something is spared once, and is the last to come then: a device whose CONNECT is being looked up, or
   has come and waits to be read, is not taken for one that waits and says nothing.
"""

from __future__ import annotations

import fcntl
import termios
from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

ADDRESS_DIVISOR: Final = 4
MAX_SPARED_SOCKETS: Final = 16
"""Strangers that one newcomer may have spared: each costs a call of the kernel."""


def has_unread(descriptor: int) -> bool:
    """Whether the kernel has bytes from a socket's client that the loop has not reported yet."""
    try:
        waiting = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    except OSError:  # it has hung up
        return False
    return any(waiting)


class Newcomer(Hashable, Protocol):
    """A socket that may be a stranger."""

    @property
    def is_stranger(self) -> bool: ...

    def spare(self) -> bool:
        """Whether it has said something and is to be spared for it; never twice."""


T = TypeVar("T", bound=Newcomer)


class Strangers(Generic[T]):
    """The strangers of one server, in the order of their coming. Runs on the *loop*."""

    __slots__ = ("_by_address", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[T, str] = {}
        """Sockets and their addresses, in the order of their coming; those accepted meanwhile too, until
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
        """Forget the oldest sockets that are accepted. Call a few times a second."""
        while (first := next(iter(self._waiting), None)) is not None and not first.is_stranger:
            self.discard(first)

    def pop_victim(self, address: str) -> T | None:
        """Remove and return the stranger to cut off for a newcomer from this address; None if there is none."""
        for _ in range(MAX_SPARED_SOCKETS):
            found = self._pop_oldest(address)
            if found is None or not found[0].spare():
                break
            self.add(*found)
        else:
            found = self._pop_oldest(address)
        return None if found is None else found[0]

    def _pop_oldest(self, address: str) -> tuple[T, str] | None:
        """Remove and return the stranger that is next by law 1, with its address."""
        if self._by_address.get(address, 0) * ADDRESS_DIVISOR >= len(self._waiting):
            found = next((w for w, a in self._waiting.items() if a == address and w.is_stranger), None)
        else:
            found = None
        if found is None:
            found = next((waiting for waiting in self._waiting if waiting.is_stranger), None)
        if found is None:
            return None
        where = self._waiting[found]
        self.discard(found)
        return found, where
