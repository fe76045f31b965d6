"""The options of a bridge: the operator's broker, and the part of the fleet that is bridged to it."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gateway.cli.bridge.topics import COMMAND, DEVICE_ID, NAME, BridgeTopics
from gateway.cli.terminal import Failure

PASSWORD_VARIABLE = "FLEETPUSH_BRIDGE_PASSWORD"
PREFIX = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
PORTS = {"mqtt": 1883, "mqtts": 8883}
MAX_NAMED_DEVICES = 100
"""Devices that are named one by one: each is asked for by itself."""
EVERY_COMMAND = "*"


@dataclass(frozen=True)
class BrokerAddress:
    """The operator's broker, and who the bridge is there."""

    host: str
    port: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None

    @property
    def shows_password(self) -> bool:
        """True where the password crosses a network without TLS."""
        if self.password is None or self.tls is not None or self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    def __str__(self) -> str:
        return f"{'mqtt' if self.tls is None else 'mqtts'}://{self.host}:{self.port}"


@dataclass(frozen=True)
class BridgeOptions:
    """The devices, commands and messages that are bridged; nothing else is."""

    topics: BridgeTopics
    devices: tuple[str, ...]
    tags: tuple[str, ...]
    every_device: bool
    commands: tuple[str, ...]
    """Commands that messages may order; `*`: all that the device declares."""
    notify: bool
    discovery: str | None
    """The prefix of Home Assistant's discovery topics; None: nothing is announced."""
    refresh_seconds: float

    def allows(self, command: str) -> bool:
        return command in self.commands or EVERY_COMMAND in self.commands

    def check(self) -> None:
        """Raises Failure for what cannot be meant."""
        if not (self.devices or self.tags or self.every_device):
            raise Failure("nothing is bridged unless you name it: --device ID, --tag TAG or --all-devices", 2)
        if self.every_device and (self.devices or self.tags):
            raise Failure("--all-devices is all of them: leave out --device and --tag", 2)
        if len(self.devices) > MAX_NAMED_DEVICES:
            raise Failure(f"--device: at most {MAX_NAMED_DEVICES}; give the devices a tag, and name that", 2)
        for device_id in self.devices:
            if DEVICE_ID.fullmatch(device_id) is None:
                raise Failure(f"--device {device_id!r}: a device id has 1 to 64 of A-Z a-z 0-9 _ -", 2)
        for command in self.commands:
            if command != EVERY_COMMAND and COMMAND.fullmatch(command) is None:
                raise Failure(f"--command {command!r}: 1 to 64 of A-Z a-z 0-9 _ . : -; or '*' for all declared", 2)
        if NAME.fullmatch(self.topics.name) is None:
            raise Failure(f"--name {self.topics.name!r}: 1 to 32 of a-z 0-9 -", 2)
        if self.discovery is not None and PREFIX.fullmatch(self.discovery) is None:
            raise Failure(f"--discovery {self.discovery!r}: a topic without wildcards, as homeassistant", 2)


def broker_address(to: str, password_file: Path | None, ca: Path | None) -> BrokerAddress:
    """Read `mqtt://USER@HOST:PORT`; the password comes from a file or a variable. Raises Failure."""
    try:
        parts = urlsplit(to)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise Failure(f"--to {to.rpartition('@')[2]!r}: write it as mqtt://USER@HOST:PORT, with TLS mqtts://..", 2)
    if parts.password is not None:
        raise Failure(
            "--to: a password in the address is seen by everybody who may list processes: "
            f"set {PASSWORD_VARIABLE}, or name its file with --password-file",
            2,
        )
    if ca is not None and parts.scheme != "mqtts":
        raise Failure("--ca: without TLS there is nothing to trust; write mqtts://..", 2)
    password = _password(password_file)
    if password is not None and not parts.username:
        raise Failure("--to: a password needs a user name: mqtt://USER@HOST", 2)
    return BrokerAddress(
        parts.hostname,
        port or PORTS[parts.scheme],
        unquote(parts.username) if parts.username else None,
        password,
        _tls(ca) if parts.scheme == "mqtts" else None,
    )


def _password(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE) or None
    try:
        return file.read_text().removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"--password-file {str(file)!r} cannot be read: {error}", 2) from None


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise Failure(f"--ca {str(ca)!r} cannot be used: {error}", 2) from None
