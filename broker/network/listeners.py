"""Opens the broker's ports, moves its clock, and ends it in order.

Laws
1. Sockets are bounded: `max_connections` clients, which `Broker` counts after CONNECT, and `MAX_STRANGERS` sockets
   beyond them that have not proved who they are. The newest loses; it is cut off without an answer.
2. The order of an end: no new sockets, and nothing more begins to be sent; what is owed is stored and answered, what is
   inflight acknowledged; goodbye to the clients, spread over the settings' `disconnect_spread`; whoever has not hung up
   is cut off. The caller then closes the store. Each of the steps is bounded, and takes no time where nothing is to do.
3. One timer for everything that is due (`Broker.tick`), four times a second.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
from collections.abc import Callable
from functools import partial
from typing import Final

from broker.broker import Broker
from broker.network.transport import TcpTransport
from broker.network.websocket_handshake import WebSocketRules
from broker.network.websocket_transport import WebSocketTransport

log = logging.getLogger(__name__)

BACKLOG: Final = 4_096
"""Connections the kernel completes before we accept them. With the usual 100 a reconnect storm overflows it, and each
lost SYN costs its client 1 to 7 s. The kernel lowers it to net.core.somaxconn."""
TICK: Final = 0.25
"""Seconds: the resolution of the timing wheel."""
MAX_STRANGERS: Final = 10_000
"""Sockets beyond `max_connections`. Each takes 3 KiB and lasts `connect_timeout` at most."""
DRAIN: Final = 5.0
"""Seconds for what is owed, and again for what is inflight. For the hanging up a backstop: each transport cuts its
client off after a second."""
QUIET: Final = 0.5
"""Seconds without any acknowledgement, after which those who still owe one are not waited for any longer."""
LOOK_AGAIN: Final = 0.02
"""Seconds between two looks at who still owes one, and between two rounds of goodbyes."""
GOODBYES: Final = 5_000
"""Clients a second that are told to go, if that many are there: what one core does besides storing what was lost."""


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
        return await self._listen(partial(TcpTransport, self, self._loop), host, port)

    async def start_websocket(self, host: str, port: int, rules: WebSocketRules) -> tuple[str, int]:
        """The same for clients that speak MQTT over WebSocket."""
        return await self._listen(partial(WebSocketTransport, self, self._loop, rules), host, port)

    async def _listen(self, accept: Callable[[], TcpTransport], host: str, port: int) -> tuple[str, int]:
        listener = await self._loop.create_server(accept, host, port, backlog=BACKLOG, reuse_address=True)
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
        self.broker.drain()
        await self._answers_left()
        await self._acknowledgements_came()
        await self._say_goodbye()
        self._ticker.cancel()
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

    async def _acknowledgements_came(self) -> None:
        """What the clients owe us, and what they said meanwhile. One that is deaf must not keep us for long."""
        metrics = self.broker.metrics
        acknowledged = metrics.acknowledged
        now = self._loop.time()
        deadline, quiet = now + DRAIN, now + QUIET
        while now < min(deadline, quiet) and self.broker.has_something_under_way():
            await asyncio.sleep(LOOK_AGAIN)
            now = self._loop.time()
            if metrics.acknowledged != acknowledged:
                acknowledged = metrics.acknowledged
                quiet = now + QUIET

    async def _say_goodbye(self) -> None:
        """To all at once, or to so many a round that it takes as long as it may."""
        clients = self.broker.metrics.connections
        spread = min(clients / GOODBYES, self.broker.settings.disconnect_spread)
        rounds = 1 + int(spread / LOOK_AGAIN)
        for _ in range(rounds):
            if not self.broker.shutdown(-(-clients // rounds)):
                return
            await asyncio.sleep(LOOK_AGAIN)

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
