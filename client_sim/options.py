"""Keyword arguments that `Device` and `AsyncDevice` share, and those of their `enrol`."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from client_sim.backoff import Backoff
from client_sim.push import Handler

if TYPE_CHECKING:
    from client_sim.trust import TrustedKeys


class DeviceOptions(TypedDict, total=False):
    """The keyword arguments that `Device` and `AsyncDevice` share."""

    host: str
    port: int
    app: str
    journal: Path | None
    mqtt5: bool
    keep_alive: int
    tls: ssl.SSLContext | None
    backoff: Backoff | None
    trusted_keys: TrustedKeys | None


class EnrolOptions(DeviceOptions, total=False):
    """The keyword arguments of `enrol`, of either device."""

    server: str | None
    """Address of the HTTP port, `https://HOST:PORT`, for a code alone."""
    ca: str | None
    """The CA to trust, in PEM; instead of the one whose fingerprint is on the label."""
    about: dict[str, Any] | None
    """What the device knows of itself: `device_id`, `name`, `attributes`, `locale`, `timezone`."""
    on_push: Handler | None
    on_interrupted: Handler | None
    on_state: Callable[[str, str], Any] | None
    on_notice: Callable[[dict[str, Any]], Any] | None
