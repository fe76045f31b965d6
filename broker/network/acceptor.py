"""Listening sockets whose connections start with a PROXY header, TLS, or both in this order.

The loop's own servers know only TLS, and report no handshakes that fail. Here each new socket is *silent*
until its first byte; then it has a short task: PROXY header, handshake, then the protocol takes over and the task is
gone.

Laws
1. Nothing of a PROXY header is believed unless its sender is a trusted proxy; anybody else is cut off. Exactly the
   header is read, so that the TLS after it is whole.
2. A socket that fails is logged with address and reason, and counted. One that hangs up without a byte is logged for
   debugging only: health checks of load balancers do it all the time.
3. Bounded: a socket on its way in counts as one of the owner's (`has_room`), and has `timeout` seconds. A silent one
   is closed for a newcomer (`strangers`: of the same address, if that has many); if there is none, one in its
   handshake.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from broker.addresses import address_of
from broker.network import tls
from broker.network.proxies import (
    PREFIX_BYTES,
    UNIX,
    ProxyHeaderError,
    TrustedProxies,
    header_length,
    host_and_port,
    parse_header,
)
from broker.network.strangers import Strangers, has_unread
from broker.network.tls import Failure, ServerTls

log = logging.getLogger(__name__)

ACCEPTED_SOCKETS_PER_TURN: Final = 64
"""A TLS handshake costs the loop up to a millisecond."""
ACCEPT_PAUSE_SECONDS: Final = 1.0
"""Pause in accepting when the process has no descriptor left, as asyncio has it."""
LATE_HEADER: Final = Failure(ProxyHeaderError.label, "its PROXY header did not come in time")
_NO_DESCRIPTOR: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@dataclass(frozen=True, slots=True)
class AcceptorOptions:
    """The layers before the protocol: PROXY header and TLS."""

    tls: ServerTls | None = None
    browsers: bool = False
    """The listener is for browsers, which are not asked for an optional certificate."""
    proxies: TrustedProxies | None = None
    """Proxies of which each connection has a PROXY header; None: no connection has one."""

    @property
    def context(self) -> ssl.SSLContext | None:
        if self.tls is None:
            return None
        return self.tls.browser_context if self.browsers else self.tls.context


class _Silent:
    """A socket that has sent no byte yet."""

    __slots__ = ("address", "late", "socket")
    is_stranger = True

    def __init__(self, arrived: socket.socket, address: Any) -> None:
        self.socket = arrived
        self.address = address
        self.late: asyncio.TimerHandle
        """Timer that ends the waiting."""

    def spare(self) -> bool:
        """It is looked at by itself whether a byte has come: that ends its silence (`evict_silent`)."""
        return False


class Acceptor:
    """Accepting side of one listening socket with PROXY header or TLS. Runs on the *loop*.

    `listener` is bound, listening and non-blocking; the acceptor closes it. `protocol(peer)` makes the protocol of a
    connection; `peer` is the client's address as text, whoever passed it on.
    """

    def __init__(
        self,
        listener: socket.socket,
        options: AcceptorOptions,
        protocol: Callable[[str], asyncio.BaseProtocol],
        *,
        timeout: float,
        has_room: Callable[[Acceptor, str], bool],
        refused: Callable[[str], None],
    ) -> None:
        """Start accepting. `timeout` is in seconds, for header and handshake together.

        `has_room(acceptor, address)` says whether one more socket from there is within the limits; it may close others
        with `evict`. `refused(label)` counts a refusal.
        """
        self._listener = listener
        self._options = options
        self._protocol = protocol
        self._timeout = timeout
        self._has_room = has_room
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._silent: Strangers[_Silent] = Strangers()
        self._arriving: dict[asyncio.Task[None], None] = {}
        """Tasks of header and handshake, in the order of their start."""
        self._paused: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more, and cut off the sockets on their way in. Harmless when called again."""
        if self._listener.fileno() < 0:
            return
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        while (silent := self._silent.pop_victim("")) is not None:
            self._no_longer_silent(silent)
            silent.socket.close()
        for task in self._arriving:
            task.cancel()

    @property
    def silent(self) -> int:
        """Number of silent sockets."""
        return len(self._silent)

    @property
    def arriving(self) -> int:
        """Number of sockets on their way in, silent ones included."""
        return len(self._silent) + len(self._arriving)

    def evict_silent(self, address: str) -> bool:
        """Cut off a silent socket for a newcomer from this address; return False if there is none."""
        while (victim := self._silent.pop_victim(address)) is not None:
            if has_unread(victim.socket.fileno()):
                self._first_byte_came(victim)
                continue
            self._refused("evicted_stranger")
            self._no_longer_silent(victim)
            victim.socket.close()
            return True
        return False

    def evict(self, address: str) -> bool:
        """Cut off a silent socket for a newcomer from this address, or else the oldest handshake.

        Returns False if there is neither.
        """
        if self.evict_silent(address):
            return True
        first = next(iter(self._arriving), None)
        if first is None:
            return False
        self._refused("evicted_stranger")
        del self._arriving[first]
        first.cancel()
        return True

    def _accept(self) -> None:
        for _ in range(ACCEPTED_SOCKETS_PER_TURN):
            try:
                arrived, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTOR:
                    raise
                log.error("no connection can be taken: %s", error.strerror)
                self._refused("no_descriptor")
                self._loop.remove_reader(self._listener.fileno())
                self._paused = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._resume_accepting)
                return
            share = address_of(_host(address))
            if not self._has_room(self, share):
                self._refused("too_many_sockets")
                arrived.close()
                continue
            arrived.setblocking(False)
            silent = _Silent(arrived, address)
            silent.late = self._loop.call_later(self._timeout, self._silent_too_long, silent)
            self._silent.add(silent, share)
            self._loop.add_reader(arrived.fileno(), self._first_byte_came, silent)

    def _no_longer_silent(self, silent: _Silent) -> None:
        self._silent.discard(silent)
        silent.late.cancel()
        self._loop.remove_reader(silent.socket.fileno())

    def _first_byte_came(self, silent: _Silent) -> None:
        """Start header and handshake of a socket that has sent its first byte, or hung up."""
        self._no_longer_silent(silent)
        left = max(silent.late.when() - self._loop.time(), 0.1)
        task = self._loop.create_task(self._enter(silent.socket, silent.address, left))
        self._arriving[task] = None
        task.add_done_callback(partial(self._arrived, silent.socket))

    def _silent_too_long(self, silent: _Silent) -> None:
        self._no_longer_silent(silent)
        late = LATE_HEADER if self._options.proxies is not None else tls.LATE
        self._refuse(silent.socket, peer_text(silent.address), late)

    def _arrived(self, arrived: socket.socket, task: asyncio.Task[None]) -> None:
        self._arriving.pop(task, None)
        if task.cancelled():
            arrived.close()  # perhaps it had not even started

    def _resume_accepting(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)

    async def _enter(self, arrived: socket.socket, address: Any, timeout: float) -> None:
        peer = peer_text(address)
        context = self._options.context
        handshake = tls.Handshake(arrived)
        try:
            if self._options.proxies is not None:
                async with asyncio.timeout(timeout):
                    peer = await self._read_proxy_header(arrived, address, self._options.proxies) or peer
        except ProxyHeaderError as error:
            self._refuse(arrived, peer, Failure(error.label, str(error)))
            return
        except TimeoutError:
            self._refuse(arrived, peer, LATE_HEADER)
            return
        except OSError:  # it hung up without a word, or in the middle of one
            arrived.close()
            return
        if context is not None:
            tls.arriving.set(handshake)
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._protocol(peer),
                arrived,
                ssl=context,
                ssl_handshake_timeout=timeout if context is not None else None,
            )
        except (OSError, UnicodeError) as error:
            self._refuse(arrived, peer, tls.failure(error, handshake))

    async def _read_proxy_header(self, arrived: socket.socket, address: Any, proxies: TrustedProxies) -> str | None:
        """Read the client's address from the PROXY header; None if the proxy speaks for itself (its health check)."""
        if not proxies.trusts(_host(address)):
            raise ProxyHeaderError("it is no trusted proxy, and only those may connect here")
        header = b""
        wanted = PREFIX_BYTES
        while len(header) < wanted:
            part = await self._loop.sock_recv(arrived, wanted - len(header))
            if not part:
                raise ConnectionResetError
            header += part
            wanted = max(wanted, header_length(header))
        return parse_header(header)

    def _refuse(self, arrived: socket.socket, peer: str, failure: Failure) -> None:
        arrived.close()
        self._refused(failure.label)
        level = logging.DEBUG if failure is tls.HUNG_UP else logging.WARNING
        # The label is part of the line's form: lines are limited by form and address, and one reason hides no other.
        form = f"%s: %s ({failure.label})"
        log.log(level, form, peer, failure.text, extra={"peer": peer})


def peer_text(address: Any) -> str:
    """Return a socket's remote address as HOST:PORT."""
    host = _host(address)
    return host if host == UNIX else host_and_port(host, int(address[1]))


def _host(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else UNIX
