"""Listening sockets that the service manager keeps for us: sd_listen_fds(3).

It opens them before the server is there, and keeps them while it starts again: who connects meanwhile waits instead of
being refused. They come as descriptors from 3 on, `LISTEN_FDS` of them, for the process `LISTEN_PID`, with names in
`LISTEN_FDNAMES`.

Laws
1. A socket named `http` or `mqtt` is that port's, whatever its address. Any other belongs to the listener with its
   address: the HTTP port, the MQTT port, or one of `listen`.
2. A socket that belongs to nothing keeps the server from starting: connections to it would wait for ever.
3. What nobody has passed, the server opens itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from gateway.host_names import bracketed

FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START."""
NAMES: Final = ("http", "mqtt")
"""Names by which a socket belongs to a port whatever its address."""
MOST_SOCKETS: Final = 1_000


class BadPassedSocket(Exception):
    """One line: what is wrong with a socket that was passed, and the remedy."""


@dataclass(slots=True, frozen=True)
class PassedSocket:
    """A socket as it was passed."""

    listener: socket.socket
    name: str
    """What LISTEN_FDNAMES calls it; of systemd, the name of the socket unit, if that does not say another."""

    @property
    def place(self) -> str:
        """HOST:PORT, or the path of a Unix socket."""
        address = self.listener.getsockname()
        if self.listener.family == socket.AF_UNIX:
            return str(address)
        return f"{bracketed(str(address[0]))}:{address[1]}"

    def is_at(self, place: str) -> bool:
        """Whether this is the address. `[::]` is every address, IPv4's too, unless the socket is for IPv6 alone."""
        if self.place == place:
            return True
        if self.listener.family != socket.AF_INET6 or not place.startswith("0.0.0.0:"):
            return False
        both = not self.listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return both and self.place == place.replace("0.0.0.0", "[::]")


class PassedSockets:
    """The passed sockets that no listener has claimed yet. Leaving the context closes them."""

    def __init__(self, sockets: Sequence[PassedSocket] = ()) -> None:
        self._unclaimed = list(sockets)
        self._listeners: list[str] = []
        """The listeners that were asked for, for a person."""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], first: int = FIRST_DESCRIPTOR) -> Self:
        """Read which descriptors were passed to this process, and remove the variables. Raises BadPassedSocket."""
        pid, count, names = (environment.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
        if pid != str(os.getpid()) or not count:
            return cls()
        if not count.isdigit() or int(count) > MOST_SOCKETS:
            raise BadPassedSocket(f"LISTEN_FDS={count!r}: no number of sockets up to {MOST_SOCKETS:,}")
        named = names.split(":") if names else []
        named += ["unknown"] * (int(count) - len(named))
        return cls([_passed(first + index, named[index]) for index in range(int(count))])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for passed in self._unclaimed:
            passed.listener.close()

    def claim(self, listener: str, place: str, name: str | None = None) -> socket.socket | None:
        """Return the socket of a listener, if one was passed: that with the name, or else with the place.

        `listener` says for a person which it is. Who claims a socket closes it. Raises BadPassedSocket.
        """
        self._listeners.append(f"{listener} {place}")
        found = [passed for passed in self._unclaimed if passed.name == name and name is not None]
        found = found or [p for p in self._unclaimed if p.name not in NAMES and p.is_at(place)]
        if not found:
            return None
        if len(found) > 1:
            places = " and ".join(passed.place for passed in found)
            raise BadPassedSocket(
                f"the service manager passed {len(found)} sockets for {listener}, at {places}, and it has one: take "
                "the others out of the socket unit, or make listeners of them (`listen`)"
            )
        passed = found[0]
        if name is not None and passed.listener.family == socket.AF_UNIX:
            raise BadPassedSocket(
                f"the service manager passed the Unix socket {passed.place} for {listener}, which is a TCP port: give "
                "it another name, and `listen` the address unix:PATH"
            )
        self._unclaimed.remove(passed)
        return passed.listener

    def require_all_claimed(self) -> None:
        """Raise BadPassedSocket if a socket belongs to no listener."""
        for passed in self._unclaimed:
            raise BadPassedSocket(
                f"the service manager passed a socket at {passed.place} (named {passed.name!r}), and no listener has "
                f"that address: there are {', '.join(self._listeners)}. Write one of them into ListenStream= of the "
                "socket unit, name the socket http or mqtt (FileDescriptorName=), or change bind, the ports or listen"
            )


def _passed(descriptor: int, name: str) -> PassedSocket:
    """Return the socket of a descriptor. Raises BadPassedSocket."""
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise BadPassedSocket(
            f"the service manager passed the descriptor {descriptor} ({name!r}), which is no socket: {error.strerror}"
        ) from None
    is_stream = listener.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) and (
        listener.type == socket.SOCK_STREAM
    )
    if not is_stream or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        raise BadPassedSocket(
            f"the service manager passed the descriptor {descriptor} ({name!r}), which does not listen for streams: "
            "write it as ListenStream= into the socket unit, with Accept=no"
        )
    listener.setblocking(False)
    return PassedSocket(listener, name)
