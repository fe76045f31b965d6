"""Asking other nodes: `POST URL/nodes/VERB` with the secret of the node that is asked.

Laws
1. A peer that is dead, slow or out of order costs nothing but its own: its connections, its questions and its lookups
   are its own, and bounded. Nothing here waits for one peer on behalf of another.
2. Every question ends within its own time. A peer that did not answer one is asked nothing of that verb for
   REST_SECONDS: those who ask meanwhile are told so at once, so that a dead peer costs a time-out now and then, and not
   one for each recall.
3. An answer is 200 with its length, or none. What a peer sends beyond that (headers without end, chunks, a body that
   is longer than an answer may be) is not read, and ends the connection.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import httpcore2
import httpx2

from gateway.events.dns import DnsResolver, Resolve
from gateway.nodes.membership import Node
from gateway.nodes.peer_routes import BODY_BYTES, PATH

log = logging.getLogger(__name__)

QUESTIONS_AT_ONCE: Final = 2
"""Questions of one verb to one peer that are under way."""
QUESTIONS_WAITING: Final = 64
"""Questions of one verb to one peer that wait for those; further ones are told at once that it is busy."""
MAX_CONNECTIONS: Final = 16
"""Connections to one peer: two of each of the eight verbs."""
KEEP_ALIVE_SECONDS: Final = 60.0
"""Time that an idle connection is kept: less than the 75 s after which the other side ends it."""
REST_SECONDS: float = 0.5
"""Time for which a peer is asked nothing more of a verb after it did not answer."""
HEAD_BYTES: Final = 4 * 1024
"""Bytes of the head of an answer. Ours have 150."""
HEAD_READ_BYTES: Final = 1_024
"""Bytes of it that are parsed in a turn of the loop: 4 ms, if all of it is made to cost most."""
LOG_SECONDS: Final = 10.0
"""Time between two log lines about one peer."""


Ask = Callable[[Node, str, bytes, float], Awaitable[bytes]]
"""(node, verb, body, seconds to answer): `PeerClient.ask`. Raises PeerUnavailable."""


class PeerUnavailable(Exception):
    """A peer did not answer, or not as a node does; the text says why, for the log."""


class _AnswerTooLong(Exception):
    """More bytes have come than the answer may have."""


@dataclass(slots=True)
class _Lane:
    """The questions of one verb to one peer."""

    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(QUESTIONS_AT_ONCE))
    questions: int = 0
    """Questions under way and waiting."""
    rests_until: float = float("-inf")
    """Seconds of the client's clock."""


class _Peer:
    """A node that is asked: its connections and lanes."""

    def __init__(self, node: Node, pool: httpcore2.AsyncConnectionPool) -> None:
        self.node = node
        self.pool = pool
        url = httpx2.URL(node.url)
        self.scheme, self.host, self.port = url.raw_scheme, url.raw_host, url.port
        self.headers = [
            (b"Host", url.netloc),
            (b"Authorization", b"Bearer " + node.secret.encode()),
            (b"Content-Type", b"application/octet-stream"),
        ]
        self.lanes: dict[str, _Lane] = {}
        self.logged_at = float("-inf")


class PeerClient:
    """Asks other nodes. `clock` gives seconds that only grow; without `trust` whoever the system trusts vouches for
    them (or `SSL_CERT_FILE`). Runs on the *loop*."""

    def __init__(self, clock: Callable[[], float], trust: ssl.SSLContext | None = None) -> None:
        self._clock = clock
        self._trust = trust
        self._resolver = DnsResolver()
        self._peers: dict[int, _Peer] = {}
        """Peers that have been asked something, by number."""
        self._closing: set[asyncio.Task[None]] = set()
        self.answered = 0
        """Questions that were answered, for metrics."""
        self.failed = 0
        """Questions that were asked and not answered."""
        self.unasked = 0
        """Questions that were not asked, because the peer was resting or had too many."""

    async def ask(self, node: Node, verb: str, body: bytes, timeout_s: float) -> bytes:
        """Ask a node, and return its answer within `timeout_s` seconds. Raises PeerUnavailable."""
        assert len(body) <= BODY_BYTES, "who asks knows the limit"
        peer = self._peer(node)
        lane = peer.lanes.setdefault(verb, _Lane())
        if self._clock() < lane.rests_until or lane.questions >= QUESTIONS_AT_ONCE + QUESTIONS_WAITING:
            self.unasked += 1
            raise PeerUnavailable(f"node {node.no} did not answer {verb} a moment ago, or is asked too much")
        lane.questions += 1
        try:
            async with asyncio.timeout(timeout_s), lane.turns:
                answer = await self._send(peer, verb, body, timeout_s)
        except TimeoutError:
            raise self._note_failure(peer, lane, verb, f"no answer within {timeout_s:g} s") from None
        except PeerUnavailable as error:
            raise self._note_failure(peer, lane, verb, str(error)) from None
        except Exception as error:  # whatever it is, the peer was asked and has not answered
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise self._note_failure(peer, lane, verb, reason) from None
        finally:
            lane.questions -= 1
        self.answered += 1
        return answer

    def end(self, node: Node) -> None:
        """Forget a node that has ended, and close the connections to it."""
        peer = self._peers.get(node.no)
        if peer is not None and peer.node.epoch <= node.epoch:
            self._close(self._peers.pop(node.no))

    async def close(self) -> None:
        """Close all connections, when the server ends."""
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            self._close(peer)
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._resolver.close()

    def _peer(self, node: Node) -> _Peer:
        peer = self._peers.get(node.no)
        if peer is None or peer.node != node:
            if peer is not None:  # it has started again
                self._close(peer)
            network = _PeerNetwork(self._resolver.of_share(node.no))
            pool = httpcore2.AsyncConnectionPool(
                (self._trust or _system_trust()) if node.url.startswith("https:") else None,
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
                network_backend=network,
            )
            peer = self._peers[node.no] = _Peer(node, pool)
        return peer

    def _close(self, peer: _Peer) -> None:
        closing = asyncio.get_running_loop().create_task(peer.pool.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _send(self, peer: _Peer, verb: str, body: bytes, timeout_s: float) -> bytes:
        request = httpcore2.Request(
            b"POST",
            httpcore2.URL(scheme=peer.scheme, host=peer.host, port=peer.port, target=f"{PATH}{verb}".encode()),
            headers=[*peer.headers, (b"Content-Length", b"%d" % len(body))],
            content=body,
            extensions={"timeout": {"connect": timeout_s}},
        )
        response = await peer.pool.handle_async_request(request)
        try:
            if response.status != 200:
                raise PeerUnavailable(f"it answered {response.status}")
            length = next((value for name, value in response.headers if name.lower() == b"content-length"), b"")
            if not length.isdigit() or len(length) > len(str(BODY_BYTES)) or int(length) > BODY_BYTES:
                raise PeerUnavailable("its answer has no length, or one that no answer may have")
            stream = response.extensions["network_stream"]
            assert isinstance(stream, _PeerStream), "of our network"
            stream.expect_body(int(length))
            return await response.aread()
        finally:
            await response.aclose()

    def _note_failure(self, peer: _Peer, lane: _Lane, verb: str, reason: str) -> PeerUnavailable:
        self.failed += 1
        now = self._clock()
        lane.rests_until = now + REST_SECONDS
        text = f"node {peer.node.no} has not answered {verb}: {reason}"
        if now - peer.logged_at >= LOG_SECONDS:
            peer.logged_at = now
            log.warning("%s", text)
        return PeerUnavailable(text)


class _PeerStream(httpcore2.AsyncNetworkStream):
    """Counts from the last write on: each question has its answer."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self._bytes_left = 0
        self._is_head = True

    def expect_body(self, size: int) -> None:
        """Let a body of so many bytes come, part of which may have come with the head."""
        self._bytes_left += size
        self._is_head = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._bytes_left <= 0:
            raise _AnswerTooLong("its answer is longer than an answer may be")
        if self._is_head:
            max_bytes = min(max_bytes, HEAD_READ_BYTES)
        data = await self._stream.read(min(max_bytes, self._bytes_left), timeout)
        self._bytes_left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._bytes_left = HEAD_BYTES
        self._is_head = True
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return _PeerStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _PeerNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to one peer, at the first of its addresses that answers."""

    def __init__(self, resolve: Resolve) -> None:
        self._backend = httpcore2.AnyIOBackend()
        self._resolve = resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses: Sequence[str] = await self._resolve(host, port)
        each = None if timeout is None else timeout / len(addresses)
        for address in addresses:
            try:
                return _PeerStream(await self._backend.connect_tcp(address, port, each, local_address, socket_options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        raise httpcore2.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@cache
def _system_trust() -> ssl.SSLContext:
    """One for all: it is a megabyte."""
    return httpx2.create_ssl_context()
