"""The service manager (systemd) is told how the server is: sd_notify(3), datagrams to the socket of NOTIFY_SOCKET.

Laws
1. Telling it takes nobody's time: the socket does not block. What it could not take goes along with the next datagram.
2. A ping of the watchdog has been earned: the loop runs, since it sends the ping, and nothing is wrong that `fault`
   knows of (`watchdog`). Otherwise there is no ping, the status says why, and the service manager starts us again.
3. A start may take as long as it works: while processor time or disk blocks are used, its time limit is put off. One
   that hangs is ended as usual.
4. Without a service manager nothing happens, and nothing is asked.

Own code, for it is these few lines: of the packages that do it, one links libsystemd, the others block, or know neither
`EXTEND_TIMEOUT_USEC` nor the time that `RELOADING` needs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final, Self

log = logging.getLogger(__name__)

PULSE_SECONDS: Final = 10.0
"""Time between two status lines, and at most between two pings."""
PINGS_PER_TIMEOUT_RATIO: Final = 3
"""Pings in the time after which we count as dead: a late one does no harm."""
START_CHECK_SECONDS: Final = 5.0
"""Time between two checks whether the start still works."""
EXTENSION_SECONDS: Final = 60.0
"""Time by which a start that works is put off."""
WORK_SHARE: Final = 0.02
"""Share of a core above which a process works; waiting takes a fiftieth of that."""
STATUS_CHARACTERS: Final = 200


class ServiceManager:
    """The sending end of the notification socket. Runs on the *loop*."""

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        """Make it for an address, None where nobody listens. `watchdog_seconds`: without a ping for so long, we count
        as dead; None: nobody waits for pings."""
        self.watchdog_seconds = None if address is None else watchdog_seconds
        self._address = address
        self._unsent: dict[str, str] = {}
        self._is_ready = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """Read what the service manager has set, and remove it: it is not for processes of ours."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        is_ours = microseconds.isdigit() and int(microseconds) > 0 and pid == str(os.getpid())
        # Others than Unix sockets are for virtual machines (vsock:).
        return cls(
            address if address.startswith(("/", "@")) else None, int(microseconds) / 1_000_000 if is_ours else None
        )

    # -- the life of the server ----------------------------------------------------------------------------------------

    async def extend_start(self) -> None:
        """Put the end of the start's time limit off as long as the start works, until cancelled."""
        before = _work_done()
        while self._address is not None:
            await asyncio.sleep(START_CHECK_SECONDS)
            done = _work_done()
            if done[0] - before[0] > WORK_SHARE * START_CHECK_SECONDS or done[1] != before[1]:
                self._send(EXTEND_TIMEOUT_USEC=_microseconds(EXTENSION_SECONDS), STATUS="starting: preparing the data")
            before = done

    def ready(self, status: str) -> None:
        self._is_ready = True
        self._send(READY="1", STATUS=status)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell of a reload and its end; of one during the start nothing, since its end would count as the start's."""
        if self._is_ready:
            self._send(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            yield
        finally:
            if self._is_ready:
                self._send(READY="1")

    def stopping(self, status: str, further_seconds: float = 0.0) -> None:
        """Tell that the end has begun. `further_seconds`: what it takes beside what any end may take."""
        self._send(STOPPING="1", STATUS=status)
        if further_seconds:
            self._send(EXTEND_TIMEOUT_USEC=_microseconds(further_seconds + EXTENSION_SECONDS))

    async def pulse(self, fault: Callable[[], str | None], status: Callable[[], str]) -> None:
        """Ping the watchdog, and renew the status, until cancelled. `fault` explains why no ping is due."""
        pause = PULSE_SECONDS
        if self.watchdog_seconds is not None:
            pause = min(pause, self.watchdog_seconds / PINGS_PER_TIMEOUT_RATIO)
        reported = None
        while self._address is not None:
            found = fault()
            if found is None and self.watchdog_seconds is not None:
                self._send(WATCHDOG="1", STATUS=status())
            else:
                self._send(STATUS=found or status())
            if found is not None and reported is None:
                log.critical("the service manager gets no sign of life: %s", found)
            reported = found
            await asyncio.sleep(pause)

    # -- datagrams -----------------------------------------------------------------------------------------------------

    def _send(self, **variables: str) -> None:
        if self._address is None:
            return
        if "STATUS" in variables:
            variables["STATUS"] = variables["STATUS"].replace("\n", " ")[:STATUS_CHARACTERS]
        self._unsent.pop("WATCHDOG", None)  # late, it would not be true any more
        self._unsent.update(variables)
        text = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        place = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(text.encode(), place)
        except OSError:  # it does not read, or has gone
            return
        self._unsent.clear()


def _microseconds(seconds: float) -> str:
    return str(round(seconds * 1_000_000))


def _work_done() -> tuple[float, int]:
    """Return the seconds of processor time, and the disk blocks, that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_inblock + used.ru_oublock
