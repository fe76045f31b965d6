"""Resolve the names of receivers and of other nodes, and limit what each may take of what all share.

A lookup of a name whose name server is dead takes half a minute, and nothing ends it sooner, also not that nobody
waits for it any more. So lookups have threads of their own, and the dead names of one share (an app, a node) take a few
of them: everybody else's requests go on. One name of a share is looked up once at a time, whoever waits for it: a dead
one takes a thread, and not one for each attempt.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

MAX_LOOKUPS = 32
"""Lookups at a time, each a thread that waits; most of the time there is none."""
MAX_LOOKUPS_PER_SHARE = 4

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> its addresses. Raises RequestFailed."""


class RequestFailed(Exception):
    """A request to a receiver without an answer; the text says why, for the operator of the webhook."""


class ConcurrencyLimit:
    """A limit of what goes on at a time, in all and for each share: one over its own waits for itself. Runs on the
    *loop*."""

    def __init__(self, together: int, of_share: int) -> None:
        self._together = asyncio.Semaphore(together)
        self._of_share = of_share
        self._shares: dict[int, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def slot(self, share: int) -> AsyncIterator[None]:
        async with self._shares.setdefault(share, asyncio.Semaphore(self._of_share)), self._together:
            yield


class DnsResolver:
    """Resolves names on threads of their own, a few of them for each share. Its methods run on the *loop*."""

    def __init__(self) -> None:
        self._limit = ConcurrencyLimit(MAX_LOOKUPS, MAX_LOOKUPS_PER_SHARE)
        self._under_way: dict[tuple[int, str, int], asyncio.Task[Sequence[str]]] = {}

    def of_share(self, share: int) -> Resolve:
        """Return what resolves the names of one share: of an app, or of a node."""
        return functools.partial(self._addresses, share)

    async def _addresses(self, share: int, host: str, port: int) -> Sequence[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass  # a name, or one of the other ways to write an address that the resolver knows
        key = share, host, port
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.get_running_loop().create_task(self._look_up(*key))
            task.add_done_callback(functools.partial(self._ended, key))
        return await asyncio.shield(task)  # it has its share until it ends, not until somebody has waited enough

    def _ended(self, key: tuple[int, str, int], task: asyncio.Task[Sequence[str]]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # is known to those who have waited for it, if there still are any

    async def _look_up(self, share: int, host: str, port: int) -> Sequence[str]:
        async with self._limit.slot(share):
            return await _on_a_thread(lambda: addresses(host, port))

    async def close(self) -> None:
        """Cancel those that wait; the threads go with the process."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def addresses(host: str, port: int) -> Sequence[str]:
    """The addresses of a name; takes its time. Raises RequestFailed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of the DNS
        raise RequestFailed(f"{host} cannot be resolved: {getattr(error, 'strerror', None) or error}") from None
    return list(dict.fromkeys(str(info[4][0]) for info in found))


async def _on_a_thread(work: Callable[[], Sequence[str]]) -> Sequence[str]:
    """Run work on a daemon thread of its own: threads of an executor are waited for when the server ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Sequence[str]] = loop.create_future()

    def finish(result: Sequence[str], error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result: Sequence[str] = ()
        error: BaseException | None = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(finish, result, error)
        except RuntimeError:
            pass  # the loop has been closed meanwhile

    threading.Thread(target=run, name="lookup", daemon=True).start()
    return await future
