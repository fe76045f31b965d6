"""Opens the broker's ports, moves its clock, and ends it in order.

Laws
1. Sockets are bounded: `max_connections` clients, which `Broker` counts after CONNECT, and `MAX_STRANGERS` sockets
   beyond them that have not proved who they are. The newest loses; it is cut off without an answer.
2. The order of an end: no new sockets; what is owed is stored and answered; goodbye to the clients; whoever has not
   hung up after `DRAIN` is cut off. The caller then closes the store.
3. One timer for everything that is due (`Broker.tick`), four times a second.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
from typing import Final

from broker.broker import Broker
from broker.network.transport import TcpTransport

log = logging.getLogger(__name__)

BACKLOG: Final = 4_096
"""Connections the kernel completes before we accept them. With the usual 100 a reconnect storm overflows it, and each
lost SYN costs its client 1 to 7 s. The kernel lowers it to net.core.somaxconn."""
TICK: Final = 0.25
"""Seconds: the resolution of the timing wheel."""
MAX_STRANGERS: Final = 10_000
"""Sockets beyond `max_connections`. Each takes 3 KiB and lasts `connect_timeout` at most."""
DRAIN: Final = 5.0
"""Seconds for what is owed, and again for the goodbyes."""


class BrokerServer:
    """Make it on the event loop's thread, with a started broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._loop = asyncio.get_running_loop()
        self._listeners: list[asyncio.Server] = []
        self._transports: set[TcpTransport] = set()
        self._nobody_left: asyncio.Event = asyncio.Event()
        self._stopping = False
        self._ticker = self._loop.call_later(TICK, self._tick)
        self._limit = broker.settings.max_connections + MAX_STRANGERS

    async def start_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen; the address it got (port 0 picks a free one). Raises OSError if it cannot."""
        listener = await self._loop.create_server(self._accept, host, port, backlog=BACKLOG, reuse_address=True)
        self._listeners.append(listener)
        address = listener.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def stop(self) -> None:
        """End in order; harmless when called again."""
        if self._stopping:
            return
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        await self._answers_left()
        self._ticker.cancel()
        self.broker.shutdown()
        for transport in list(self._transports):
            transport.close()  # strangers; the broker has closed the others
        if self._transports:
            try:
                await asyncio.wait_for(self._nobody_left.wait(), DRAIN)
            except TimeoutError:
                log.warning("%d connections did not hang up and are cut off", len(self._transports))
                for transport in list(self._transports):
                    transport.abort()
        for listener in self._listeners:
            await listener.wait_closed()

    async def _answers_left(self) -> None:
        """What the clients are owed is behind one more barrier. A disk that refuses must not keep us."""
        stored: asyncio.Future[None] = self._loop.create_future()
        self.broker.environment.store.barrier(lambda: None if stored.done() else stored.set_result(None))
        try:
            await asyncio.wait_for(stored, DRAIN)
        except TimeoutError:
            log.warning("what is owed could not be stored in %g s; clients will repeat what they sent", DRAIN)

    # -- what the transports call -------------------------------------------------------------------------------------

    def opened(self, transport: TcpTransport) -> bool:
        if self._stopping or len(self._transports) >= self._limit:
            self.broker.metrics.refuse("too_many_sockets")
            return False
        self._transports.add(transport)
        return True

    def closed(self, transport: TcpTransport) -> None:
        self._transports.discard(transport)
        if not self._transports and self._stopping:
            self._nobody_left.set()

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def _accept(self) -> TcpTransport:
        return TcpTransport(self, self._loop)

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(TICK, self._tick)
        try:
            self.broker.tick(self.broker.environment.clock())
        except Exception:
            log.exception("a deadline's work failed")  # one deadline's fault must not stop all the others


def raise_open_files_limit() -> int:
    """Take as many file descriptors as the system lets us; how many that is. A socket needs one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def settle_collector() -> None:
    """Once everything that stays is made: what is alive now need not be looked at again and again.

    Nor at every 700 new objects: those of twenty connections that return, and they stay too. It took a third of what
    they cost.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
