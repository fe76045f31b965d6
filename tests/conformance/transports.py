"""The ways to the broker that the clause tests take: the statements hold whatever carries the bytes.

Every test runs over TCP. Of the other ways a default run takes one for each test, always the same one, so that all ways
are walked in every run; `--full` takes all of them.
"""

from __future__ import annotations

import socket
import zlib
from pathlib import Path

from tests.certificates import Authority
from tests.conformance.shared_sessions import SharedSessionsBroker
from tests.conformance.standalone import BrokerProcess
from tests.websocket_stream import WebSocketStream
from tests.wire import RawClient, Stream

TCP = "tcp"
SHARED = "shared-sessions"
"""TCP to a broker whose sessions are not its own (`shared_sessions`)."""
OTHERS = ("tls", "tls-certificate", "ws", "wss", "wss-certificate")


ALONE = {
    "test_messages_wait_for_a_session_that_stays",
    "test_mqtt_3_1_is_spoken_as_3_1_1",
    "test_properties_are_sent_on_as_they_came",
    "test_the_client_identifier_tells_sessions_apart",
    "test_what_has_expired_is_not_delivered",
    "test_the_flow_of_a_message_that_expired_is_completed",
}
"""Tests in which ordinary messages wait for who is away: over shared sessions the router knows who is connected. In the
last, a row does not say that nothing of its message has left, so it is repeated."""


def transports_of(test: str, full: bool) -> list[str]:
    """`test` is its node id; the choice must not change from process to process, as `hash` does."""
    ways = [TCP, *OTHERS] if full else [TCP, OTHERS[zlib.crc32(test.encode()) % len(OTHERS)]]
    return ways if test.rpartition(".")[2] in ALONE else [*ways, SHARED]


class Ways:
    """A broker that listens on all of them, and what a client needs for each."""

    def __init__(self, folder: Path) -> None:
        self._authority = Authority.in_folder(folder / "tls")
        server = self._authority.issue("broker", "localhost", "127.0.0.1")
        self._trust = {
            False: self._authority.client(),
            True: self._authority.client(self._authority.issue("a-client")),
        }
        self.broker = BrokerProcess(
            folder / "data",
            "--allow-anonymous",
            f"--tls-cert={server.certificate}",
            f"--tls-key={server.key}",
            f"--tls-ca={self._authority.certificate}",
            "--client-certificates=optional",
            listen=["mqtt://127.0.0.1:0", "ws://127.0.0.1:0/mqtt", "wss://127.0.0.1:0/mqtt"],
        )
        self._ports: dict[str, int] = {}
        self._shared: SharedSessionsBroker | None = None

    def __enter__(self) -> Ways:
        broker = self.broker.start()
        plain, websocket, secure_websocket = broker.listening
        self._ports = {TCP: plain, "tls": broker.port, "ws": websocket, "wss": secure_websocket}
        # Most tests dial in the clear.
        broker.port, broker.ws_port = plain, websocket
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.kill9()
        if self._shared is not None:
            self._shared.stop()

    def open(self, transport: str) -> RawClient:
        if transport == SHARED:
            return RawClient(self._port_of_shared())
        kind, _, certificate = transport.partition("-")
        trust = self._trust[bool(certificate)]

        def wrap(connected: socket.socket) -> Stream:
            if kind in ("tls", "wss"):
                connected = trust.wrap_socket(connected, server_hostname="localhost")
            return WebSocketStream(connected) if kind in ("ws", "wss") else connected

        return RawClient(self._ports[kind], wrap=wrap)

    def _port_of_shared(self) -> int:
        """Started with the first test that wants it."""
        if self._shared is None:
            self._shared = SharedSessionsBroker()
            self._shared.start()
        return self._shared.port
