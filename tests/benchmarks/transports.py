"""How devices reach a server, ours or Mosquitto: TCP, TLS, WebSocket, or WebSocket in TLS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from tests.certificates import Authority, Pair
from tests.end_to_end.harness import Server

Transport = Literal["tcp", "tls", "ws", "wss"]
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
NAMES: dict[Transport, str] = {"tcp": "TCP", "tls": "TLS", "ws": "WebSocket", "wss": "WebSocket in TLS"}


@dataclass(frozen=True)
class Endpoint:
    """One listener, the same for all contestants of a run: with TLS they have one certificate (ECDSA, P-256)."""

    transport: Transport = "tcp"
    authority: Path | None = None
    """Who signed the certificate."""
    certificate: Pair | None = None

    @classmethod
    def of(cls, transport: Transport, directory: Path) -> Self:
        """With a new certificate if it needs one."""
        if not uses_tls(transport):
            return cls(transport)
        authority = Authority.in_folder(directory / "tls")
        return cls(transport, authority.certificate, authority.issue("server", "127.0.0.1"))

    @property
    def name(self) -> str:
        return NAMES[self.transport]

    @property
    def over(self) -> str:
        """For a figure's title; without a word TCP is meant."""
        return "" if self.transport == "tcp" else f" over {self.name}"

    @property
    def http(self) -> Transport:
        """What our HTTP interface speaks meanwhile: with a certificate all ports of ours speak TLS."""
        return "tcp" if self.certificate is None else "tls"

    def server(self, data: Path, *options: str) -> Server:
        """Ours, to be started."""
        if self.certificate is None:
            return Server(data, *options)
        tls = ["--tls-cert", str(self.certificate.certificate), "--tls-key", str(self.certificate.key)]
        return Server(data, *tls, *options, ca=self.authority)

    def port(self, server: Server) -> int:
        """Where devices connect to ours, as it tells them when they are enrolled."""
        return server.http_port if self.transport in ("ws", "wss") else server.mqtt_port

    def mosquitto_lines(self) -> list[str]:
        """Of Mosquitto's configuration, after `listener`."""
        lines = ["protocol websockets"] if self.transport in ("ws", "wss") else []
        if self.certificate is not None:
            lines += [f"certfile {self.certificate.certificate}", f"keyfile {self.certificate.key}"]
        return lines


TCP_ENDPOINT = Endpoint()


def uses_tls(transport: Transport) -> bool:
    return transport in ("tls", "wss")
