"""Opens the broker's ports, moves its clock, and ends it in order.

Laws
1. Sockets are bounded: `max_connections` clients, which `Broker` counts after CONNECT, and `MAX_STRANGERS` sockets
   beyond them that have not proved who they are; both together fewer where the system gives us fewer descriptors. When
   all places are taken a stranger is cut off for a newcomer (`strangers`); the newcomer, if there is none.
2. The order of an end: no new sockets, and nothing more begins to be sent; what is owed is stored and answered, what is
   inflight acknowledged; goodbye to the clients, spread over the settings' `disconnect_spread`; whoever has not hung up
   is cut off. The caller then closes the store. Each of the steps is bounded, and takes no time where nothing is to do.
3. One timer for everything that is due (`Broker.tick`), four times a second.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from broker.addresses import address_of
from broker.broker import Broker
from broker.network.acceptor import Acceptor, AcceptorOptions
from broker.network.listen_address import WEBSOCKET_PATH, ListenAddress
from broker.network.proxies import TrustedProxies
from broker.network.read_turns import ReadTurns
from broker.network.strangers import Strangers
from broker.network.tls import ServerTls
from broker.network.transport import TcpTransport
from broker.network.websocket_handshake import WebSocketRules
from broker.network.websocket_transport import WebSocketTransport

log = logging.getLogger(__name__)

BACKLOG_CONNECTIONS: Final = 4_096
"""Connections the kernel completes before we accept them. With the usual 100 a reconnect storm overflows it, and each
lost SYN costs its client 1 to 7 s. The kernel lowers it to net.core.somaxconn."""
TICK_SECONDS: Final = 0.25
"""Seconds: the resolution of the timing wheel."""
MAX_STRANGERS: Final = 10_000
"""Sockets beyond `max_connections`. Each takes 3 KiB and lasts `connect_timeout` at most."""
ARRIVAL_DESCRIPTORS: Final = 256
"""Descriptors kept for clients on their way in, when there are few: what 10,000 connects a second need."""
ARRIVALS_DIVISOR: Final = 8
"""No more than an eighth of them."""
DESCRIPTOR_CHECK_TICKS: Final = 4
"""Ticks between two looks whether any descriptor is left: the loop's own servers close whom they cannot take without a
word."""
EVICTED_STRANGERS: Final = 16
"""Strangers that leave when there is none."""
DRAIN_SECONDS: Final = 5.0
"""Seconds for what is owed, and again for what is inflight. For the hanging up a backstop: each transport cuts its
client off after a second."""
QUIET_SECONDS: Final = 0.5
"""Seconds without any acknowledgement, after which those who still owe one are not waited for any longer."""
POLL_SECONDS: Final = 0.02
"""Seconds between two looks at who still owes one, and between two rounds of goodbyes."""
DISCONNECTS_PER_SECOND: Final = 5_000
"""Clients a second that are told to go, if that many are there: what one core does besides storing what was lost."""


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """What all listeners of a server have in common."""

    tls: ServerTls | None = None
    """For those that speak TLS."""
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    """Whose PROXY headers and X-Forwarded-For are believed."""
    origins: frozenset[str] = frozenset()
    """Whose pages may open a WebSocket (`websocket_handshake`)."""

    def websocket_rules(self, path: str = WEBSOCKET_PATH, *, certificate: bool = False) -> WebSocketRules:
        return WebSocketRules(path, self.origins, self.proxies, certificate)


class BrokerServer:
    """Make it on the event loop's thread, with a started broker."""

    def __init__(self, broker: Broker, config: ListenerConfig | None = None, descriptors: int | None = None) -> None:
        """`descriptors`: how many sockets may be open; None: as many as the settings allow."""
        self.broker = broker
        self.config = config or ListenerConfig()
        self._loop = asyncio.get_running_loop()
        self.read_turns = ReadTurns(self._loop)
        self._listeners: list[asyncio.Server] = []
        self._acceptors: list[Acceptor] = []
        self._sharing: list[Acceptor] = []
        """Those whose sockets count for our share."""
        self._socket_files: list[str] = []
        self._transports: set[TcpTransport] = set()
        self._nobody_left: asyncio.Event = asyncio.Event()
        self._stopping = False
        self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)
        self._limit = broker.settings.max_connections + MAX_STRANGERS
        if descriptors is not None and descriptors < self._limit:
            self._limit = descriptors
            # Who is over it is told so, instead of being cut off.
            broker.max_connections = min(
                broker.max_connections, descriptors - min(ARRIVAL_DESCRIPTORS, descriptors // ARRIVALS_DIVISOR)
            )
        self._strangers: Strangers[TcpTransport] = Strangers()
        self._ticks = 0

    async def listen(self, address: ListenAddress) -> ListenAddress:
        """Open it; with the port that it got. Raises OSError if that cannot be."""
        listener = _bound(address)
        port = 0 if address.scheme == "unix" else int(listener.getsockname()[1])
        if address.is_tls or address.proxy:
            options = AcceptorOptions(
                tls=self.config.tls if address.is_tls else None,
                browsers=address.is_websocket and not address.certificates,
                proxies=self.config.proxies if address.proxy else None,
            )
            self.accept(listener, options, self._protocol(address))
        else:
            start = self._loop.create_unix_server if address.scheme == "unix" else self._loop.create_server
            self._listeners.append(await start(self._protocol(address), sock=listener, backlog=BACKLOG_CONNECTIONS))
        if address.scheme == "unix":
            self._socket_files.append(address.path)
            return address
        return address.at(port)

    def accept(
        self,
        listener: socket.socket,
        options: AcceptorOptions,
        protocol: Callable[[str], asyncio.BaseProtocol],
        room: Callable[[Acceptor, str], bool] | None = None,
    ) -> Acceptor:
        """Have a listening socket's connections enter this way, whatever protocol they speak behind it; `protocol` gets
        the client's address. `room` as in `Acceptor`: given, they are not of our share. It ends with the server, if it
        is not closed before."""
        acceptor = Acceptor(
            listener,
            options,
            protocol,
            timeout=self.broker.settings.connect_timeout,
            room=room or self._room_for,
            refused=self.broker.metrics.refuse,
        )
        self._acceptors.append(acceptor)
        if room is None:
            self._sharing.append(acceptor)
        return acceptor

    def websocket(self) -> WebSocketTransport:
        """The protocol of an open connection that an HTTP server hands over. The server's TLS may let in who has no
        client certificate, for other requests."""
        required = self.config.tls is not None and self.config.tls.files.client_certificates == "required"
        return WebSocketTransport(self, self._loop, self.config.websocket_rules(certificate=required))

    def _protocol(self, address: ListenAddress) -> Callable[..., TcpTransport]:
        """Makes a connection's protocol; takes the client's address if that is not the socket's own."""
        if address.is_websocket:
            return partial(WebSocketTransport, self, self._loop, self.config.websocket_rules(address.path))
        return partial(TcpTransport, self, self._loop)

    async def stop(self) -> None:
        """End in order; harmless when called again."""
        if self._stopping:
            return
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        for acceptor in self._acceptors:
            acceptor.close()
        for path in self._socket_files:
            _remove_socket(path)
        self.broker.drain()
        await self._wait_until_answers_left()
        await self._wait_for_acknowledgements()
        await self._disconnect_clients()
        self._ticker.cancel()
        for transport in list(self._transports):
            transport.close()  # strangers; the broker has closed the others
        if self._transports:
            try:
                await asyncio.wait_for(self._nobody_left.wait(), DRAIN_SECONDS)
            except TimeoutError:
                log.warning("%d connections did not hang up and are cut off", len(self._transports))
                for transport in list(self._transports):
                    transport.abort()
        for listener in self._listeners:
            await listener.wait_closed()

    async def _wait_until_answers_left(self) -> None:
        """What the clients are owed is behind one more barrier. A disk that refuses must not keep us."""
        stored: asyncio.Future[None] = self._loop.create_future()
        self.broker.shared_state.store.barrier(lambda: None if stored.done() else stored.set_result(None))
        try:
            await asyncio.wait_for(stored, DRAIN_SECONDS)
        except TimeoutError:
            log.warning("what is owed could not be stored in %g s; clients will repeat what they sent", DRAIN_SECONDS)

    async def _wait_for_acknowledgements(self) -> None:
        """What the clients owe us, and what they said meanwhile. One that is deaf must not keep us for long."""
        metrics = self.broker.metrics
        acknowledged = metrics.acknowledged
        now = self._loop.time()
        deadline, quiet = now + DRAIN_SECONDS, now + QUIET_SECONDS
        while now < min(deadline, quiet) and self.broker.has_pending_acks():
            await asyncio.sleep(POLL_SECONDS)
            now = self._loop.time()
            if metrics.acknowledged != acknowledged:
                acknowledged = metrics.acknowledged
                quiet = now + QUIET_SECONDS

    async def _disconnect_clients(self) -> None:
        """To all at once, or to so many a round that it takes as long as it may."""
        clients = self.broker.metrics.connections
        spread = min(clients / DISCONNECTS_PER_SECOND, self.broker.settings.disconnect_spread)
        rounds = 1 + int(spread / POLL_SECONDS)
        for _ in range(rounds):
            if not self.broker.shutdown(-(-clients // rounds)):
                return
            await asyncio.sleep(POLL_SECONDS)

    # -- what the transports call -------------------------------------------------------------------------------------

    def opened(self, transport: TcpTransport, peer: str) -> bool:
        address = address_of(peer)
        # Who comes through an acceptor is one of those that arrive, until its protocol has begun.
        arriving = max(self._arriving() - 1, 0)
        if self._stopping or not (self._has_room(arriving) or self._make_room(address)):
            self.broker.metrics.refuse("too_many_sockets")
            return False
        self._transports.add(transport)
        self._strangers.add(transport, address)
        return True

    def _has_room(self, arriving: int) -> bool:
        return len(self._transports) + arriving < self._limit

    def _arriving(self) -> int:
        return sum(acceptor.arriving for acceptor in self._sharing)

    def _room_for(self, acceptor: Acceptor, address: str) -> bool:
        return self._has_room(self._arriving()) or self._make_room(address) or acceptor.evict(address)

    def _make_room(self, address: str) -> bool:
        """Cut off a stranger, or a socket that has not said a word before its handshake: of those that are more."""
        most = max(self._sharing, key=lambda acceptor: acceptor.silent, default=None)
        if most is None or not most.silent:
            return self._evict(address)
        if sum(acceptor.silent for acceptor in self._sharing) >= len(self._strangers):
            return most.evict_silent(address)
        return self._evict(address) or most.evict_silent(address)

    def _evict(self, address: str) -> bool:
        """Cut off a stranger for a newcomer from this address."""
        victim = self._strangers.pop_victim(address)
        if victim is None:
            return False
        self.broker.metrics.refuse("evicted_stranger")
        victim.abort()
        return True

    def closed(self, transport: TcpTransport) -> None:
        self._transports.discard(transport)
        self._strangers.discard(transport)
        if not self._transports and self._stopping:
            self._nobody_left.set()

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)
        self._strangers.forget_accepted()
        self._ticks += 1
        if self._ticks % DESCRIPTOR_CHECK_TICKS == 0:
            self._check_descriptors()
        try:
            self.broker.tick(self.broker.shared_state.clock())
        except Exception:
            log.exception("a deadline's work failed")  # one deadline's fault must not stop all the others

    def _check_descriptors(self) -> None:
        """Say so when there is none, and have strangers make room."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            log.error("no connection can be taken: %s; give the server more (ulimit -n)", error.strerror)
            self.broker.metrics.refuse("no_descriptor")
            for _ in range(EVICTED_STRANGERS):
                self._evict("")


def _bound(address: ListenAddress) -> socket.socket:
    """Listening, non-blocking; `::` is every address, IPv4's too. Raises OSError."""
    if address.scheme == "unix":
        return _bound_file(address)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # The protocol by name: by it asyncio knows that TCP_NODELAY is to be set.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG_CONNECTIONS)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _bound_file(address: ListenAddress) -> socket.socket:
    """A file that a killed server has left is replaced; one that somebody listens on is in use."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_over(address.path):
            _remove_socket(address.path)
        listener.bind(address.path)
        os.chmod(address.path, address.mode)  # before `listen`: nobody can connect yet
        listener.listen(BACKLOG_CONNECTIONS)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _is_left_over(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False  # somebody's file: bind refuses it
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _remove_socket(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def raise_open_files_limit() -> int:
    """Take as many file descriptors as the system lets us; how many that is. A socket needs one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def tune_collector() -> None:
    """Once everything that stays is made: what is alive now need not be looked at again and again.

    Nor at every 700 new objects: those of twenty connections that return, and they stay too. It took a third of what
    they cost.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
