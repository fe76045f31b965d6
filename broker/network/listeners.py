"""The broker's listening sockets, its ticks, and its end in order.

Laws
1. Sockets are bounded: `max_connections` clients, which `Broker` counts after CONNECT, and `MAX_STRANGERS` sockets
   beyond them that are not authenticated; both together fewer where the system gives us fewer descriptors. When
   all places are taken a stranger is cut off for a newcomer (`strangers`); the newcomer, if there is none.
2. The order of an end: no new sockets and no new messages; pending acknowledgements are stored and sent, inflight
   messages acknowledged; DISCONNECT to the clients, spread over the settings' `disconnect_spread`; those that do not
   hang up are cut off. The caller then closes the store. Each of the steps is bounded, and takes no time if there is
   nothing to do.
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
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

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
"""The resolution of the timing wheel."""
MAX_STRANGERS: Final = 10_000
"""Sockets beyond `max_connections`. Each takes 3 KiB and lasts `connect_timeout` at most."""
ARRIVAL_DESCRIPTORS: Final = 256
"""Descriptors kept for clients on their way in, when there are few: what 10,000 connects a second need."""
ARRIVALS_DIVISOR: Final = 8
"""Arrivals have at most an eighth of the descriptors."""
DESCRIPTOR_CHECK_TICKS: Final = 4
"""Ticks between two checks whether any descriptor is left: the loop's own servers close sockets without a word when
there is none."""
EVICTED_STRANGERS: Final = 16
"""Strangers that are cut off when no descriptor is left."""
DRAIN_SECONDS: Final = 5.0
"""Limit for the pending acknowledgements, and again for the inflight messages; for the hanging up a backstop, because
each transport cuts its client off after a second."""
QUIET_SECONDS: Final = 0.5
"""Time without any acknowledgement after which the others are not waited for any longer."""
POLL_SECONDS: Final = 0.02
"""Interval between two checks of the acknowledgements, and between two rounds of disconnects."""
DISCONNECTS_PER_SECOND: Final = 5_000
"""Pace for many clients: one core can do that besides storing the deliveries that are lost."""

_FILE_STAYS: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""From Python 3.13 on the loop would remove the file of any Unix socket that it closes. Ours we remove ourselves."""


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """Configuration that all listeners of a server share."""

    tls: ServerTls | None = None
    """TLS of the listeners that speak it."""
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    """Proxies whose PROXY headers and X-Forwarded-For are believed."""
    origins: frozenset[str] = frozenset()
    """Origins of pages that may open a WebSocket (`websocket_handshake`)."""

    def websocket_rules(self, path: str = WEBSOCKET_PATH, *, certificate: bool = False) -> WebSocketRules:
        return WebSocketRules(path, self.origins, self.proxies, certificate)


class BrokerServer:
    """The listeners of one started broker, its clock and its end. Runs on the *loop*, where it has to be made."""

    def __init__(self, broker: Broker, config: ListenerConfig | None = None, descriptors: int | None = None) -> None:
        """Start the clock. `descriptors` limits the open sockets; None: as many as the settings allow."""
        self.broker = broker
        self.config = config or ListenerConfig()
        self._loop = asyncio.get_running_loop()
        self.read_turns = ReadTurns(self._loop)
        self._listeners: list[asyncio.Server] = []
        self._acceptors: list[Acceptor] = []
        self._sharing: list[Acceptor] = []
        """Acceptors whose sockets count for our share."""
        self._socket_files: list[str] = []
        self._transports: set[TcpTransport] = set()
        self._nobody_left: asyncio.Event = asyncio.Event()
        self._stopping = False
        self._ticker = self._loop.call_later(TICK_SECONDS, self._tick)
        self._limit = broker.settings.max_connections + MAX_STRANGERS
        if descriptors is not None and descriptors < self._limit:
            self._limit = descriptors
            # A client over the limit is told so, instead of being cut off.
            broker.max_connections = min(
                broker.max_connections, descriptors - min(ARRIVAL_DESCRIPTORS, descriptors // ARRIVALS_DIVISOR)
            )
        self._strangers: Strangers[TcpTransport] = Strangers()
        self._ticks = 0

    async def listen(self, address: ListenAddress, passed: socket.socket | None = None) -> ListenAddress:
        """Open a listener; return its address with the port that the system has chosen. Raises OSError.

        `passed` is a listening socket that somebody else has opened and keeps for our successor: its own address
        counts, and the file of a Unix socket stays when we end.
        """
        listener = _bound(address) if passed is None else passed
        if address.is_tls or address.proxy:
            options = AcceptorOptions(
                tls=self.config.tls if address.is_tls else None,
                browsers=address.is_websocket and not address.certificates,
                proxies=self.config.proxies if address.proxy else None,
            )
            self.accept(listener, options, self._protocol(address))
        else:
            start: Callable[..., Awaitable[asyncio.Server]] = self._loop.create_server
            if address.scheme == "unix":
                start = partial(self._loop.create_unix_server, **_FILE_STAYS)
            self._listeners.append(await start(self._protocol(address), sock=listener, backlog=BACKLOG_CONNECTIONS))
        if address.scheme == "unix":
            if passed is None:
                self._socket_files.append(address.path)
            return address
        host, port = listener.getsockname()[:2]
        return address.at(str(host), int(port))

    def accept(
        self,
        listener: socket.socket,
        options: AcceptorOptions,
        protocol: Callable[[str], asyncio.BaseProtocol],
        has_room: Callable[[Acceptor, str], bool] | None = None,
    ) -> Acceptor:
        """Accept connections with TLS or PROXY headers for any protocol, until the acceptor is closed.

        `protocol` is called with the client's address. If `has_room` (as in `Acceptor`) is given, the sockets do not
        count for our share.
        """
        acceptor = Acceptor(
            listener,
            options,
            protocol,
            timeout=self.broker.settings.connect_timeout,
            has_room=has_room or self._room_for,
            refused=self.broker.metrics.refuse,
        )
        self._acceptors.append(acceptor)
        if has_room is None:
            self._sharing.append(acceptor)
        return acceptor

    def websocket(self) -> WebSocketTransport:
        """Return the protocol of an open connection that an HTTP server hands over.

        The server's TLS may let in clients without a certificate, for other requests.
        """
        required = self.config.tls is not None and self.config.tls.files.client_certificates == "required"
        return WebSocketTransport(self, self._loop, self.config.websocket_rules(certificate=required))

    def _protocol(self, address: ListenAddress) -> Callable[..., TcpTransport]:
        """Return the factory of connections; it takes the client's address if that is not the socket's own."""
        if address.is_websocket:
            return partial(WebSocketTransport, self, self._loop, self.config.websocket_rules(address.path))
        return partial(TcpTransport, self, self._loop)

    async def stop(self) -> None:
        """End in the order of law 2; harmless when called again."""
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
        """Wait for one more barrier, behind all pending acknowledgements, unless the disk refuses."""
        stored: asyncio.Future[None] = self._loop.create_future()
        self.broker.shared_state.store.barrier(lambda: None if stored.done() else stored.set_result(None))
        try:
            await asyncio.wait_for(stored, DRAIN_SECONDS)
        except TimeoutError:
            log.warning("what is owed could not be stored in %g s; clients will repeat what they sent", DRAIN_SECONDS)

    async def _wait_for_acknowledgements(self) -> None:
        """Wait for acknowledgements in both directions, as long as any come."""
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
        """Disconnect all clients, in rounds if there are many."""
        clients = self.broker.metrics.connections
        spread = min(clients / DISCONNECTS_PER_SECOND, self.broker.settings.disconnect_spread)
        rounds = 1 + int(spread / POLL_SECONDS)
        for _ in range(rounds):
            if not self.broker.shutdown(-(-clients // rounds)):
                return
            await asyncio.sleep(POLL_SECONDS)

    # -- called by the transports --------------------------------------------------------------------------------------

    def opened(self, transport: TcpTransport, peer: str) -> bool:
        address = address_of(peer)
        # A socket of an acceptor counts as arriving until its protocol has started.
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
        """Cut off a stranger or a silent socket, whichever are more; return False if there is none."""
        most = max(self._sharing, key=lambda acceptor: acceptor.silent, default=None)
        if most is None or not most.silent:
            return self._evict(address)
        if sum(acceptor.silent for acceptor in self._sharing) >= len(self._strangers):
            return most.evict_silent(address)
        return self._evict(address) or most.evict_silent(address)

    def _evict(self, address: str) -> bool:
        """Cut off a stranger for a newcomer from this address; return False if there is none."""
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

    # -- called by the event loop --------------------------------------------------------------------------------------

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
        """Log that no descriptor is left, and cut off strangers."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            log.error("no connection can be taken: %s; give the server more (ulimit -n)", error.strerror)
            self.broker.metrics.refuse("no_descriptor")
            for _ in range(EVICTED_STRANGERS):
                self._evict("")


def _bound(address: ListenAddress) -> socket.socket:
    """Return a listening, non-blocking socket; `::` is every address, IPv4's too. Raises OSError."""
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
    """Return a listening Unix socket; replace a file that a killed server has left. Raises OSError."""
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
    """Raise the limit of file descriptors as far as the system allows, and return it. A socket needs one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def tune_collector() -> None:
    """Exempt everything that is alive now from garbage collection, and collect less often.

    Call it when everything that stays is made. By default the collector runs at every 700 new objects: those of twenty
    connections that return, and they stay too. It took a third of their cost.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
