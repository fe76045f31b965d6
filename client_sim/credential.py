"""A device's credential in a file: who it is, its token, where it connects, whom it trusts there.

The file is written whole or not at all, and only its owner can read it from the first byte on. What is in it is the
device: a copy on another machine is the same device, and the two disconnect each other.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from client_sim.errors import EnrolmentFailed
from client_sim.options import DeviceOptions

RENEWED_SHARE = (0.6, 0.7)
"""Share of a token's life after which it is renewed: each device draws its own moment."""
EVERY_ADDRESS = ("0.0.0.0", "::")
"""What a server says that does not know how it is dialled: it is dialled as it was for the enrolment."""


@dataclass(frozen=True)
class Credential:
    """The credential of an enrolled device."""

    device_id: str
    app: str
    token: str
    host: str
    port: int
    tls: bool
    """Whether this port speaks TLS."""
    websocket: str
    """URL of MQTT over WebSocket."""
    server: str
    """Address of the server's HTTP port, `https://HOST:PORT`."""
    ca: str | None = None
    """The CA to trust and no other, in PEM; None: those that the system trusts."""
    renew_at: float | None = None
    """Time by this machine's clock (Unix, seconds) at which the token is to be renewed; None: it never ends."""

    @classmethod
    def of(cls, answer: dict[str, Any], server: str, ca: str | None) -> Self:
        """Make it of what the server has answered. Raises KeyError, TypeError, ValueError if that is none."""
        mqtt = answer["mqtt"]
        seconds = answer.get("token_expires_in")
        host = str(mqtt["host"])
        return cls(
            device_id=str(answer["device_id"]),
            app=str(mqtt["topics"]["push"]).split("/", 1)[0],
            token=str(answer["token"]),
            host=urlsplit(server).hostname or host if host in EVERY_ADDRESS else host,
            port=int(mqtt["port"]),
            tls=bool(mqtt["tls"]),
            websocket=str(mqtt["websocket"]),
            server=server,
            ca=ca,
            renew_at=None if seconds is None else time.time() + float(seconds) * random.uniform(*RENEWED_SHARE),
        )

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read it; None if there is none yet. Raises EnrolmentFailed if the file cannot be used."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise EnrolmentFailed(f"{path} cannot be used as a credential: {error}") from error

    def save(self, path: Path) -> None:
        """Replace the file at once and durably. Raises OSError."""
        write_private(path, json.dumps(asdict(self)) + "\n")

    def device_options(self) -> DeviceOptions:
        """Return where and how a `Device` connects with it."""
        return {"host": self.host, "port": self.port, "app": self.app, "tls": self.tls_context()}

    def tls_context(self) -> ssl.SSLContext | None:
        """Make the TLS context for MQTT; None if the port speaks none."""
        return trusting(self.ca) if self.tls else None


def trusting(ca: str | None) -> ssl.SSLContext:
    """Make a TLS context that trusts a CA and no other, or those of the system. Raises EnrolmentFailed."""
    try:
        return ssl.create_default_context(cadata=ca)
    except ssl.SSLError as error:
        raise EnrolmentFailed(f"that is no certificate of a CA: {error}") from error


def write_private(path: Path, text: str) -> None:
    """Replace a file at once and durably; its owner alone may read it. Raises OSError."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
