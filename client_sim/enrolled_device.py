"""The part of `Device` that enrols: made of a credential file, or of a code that is traded for one.

A token that ends is renewed as long as the device runs.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self, Unpack

import paho.mqtt.client as paho

from client_sim.attachments import Fetcher
from client_sim.credential import Credential
from client_sim.enrolment import enrol
from client_sim.options import EnrolOptions
from client_sim.token_renewal import TokenRenewal


class EnrolledDevice:
    """Base of `Device`, which has the constructor."""

    _client: paho.Client
    _fetcher: Fetcher
    _stopping: threading.Event
    _username: str
    _renewal: TokenRenewal | None = None

    def __init__(self, device_id: str, token: str, **options: Any) -> None:
        raise NotImplementedError("Device has its own")

    @classmethod
    def enrol(cls, code: str | None, credential: Path, **options: Unpack[EnrolOptions]) -> Self:
        """Make the device whose credential is in a file; trade a code for that if it is not there yet. Blocks.

        `code` is what the QR code says, or the code alone with `server`; None if there must be a credential. `about` is
        what the device knows of itself: `device_id`, `name`, `attributes`. All else is as for `Device`.

        Raises EnrolmentFailed, ValueError, or OSError if the credential cannot be stored.
        """
        arguments: dict[str, Any] = {**options}
        label = {name: arguments.pop(name, None) for name in ("server", "ca", "about")}
        found = enrol(code, credential, **label)
        device = cls(found.device_id, found.token, **{**found.device_options(), **arguments})
        device.keep_renewed(found, credential)
        return device

    def keep_renewed(self, credential: Credential, path: Path) -> None:
        """Renew the token of this credential, if it ends, from `start` to `close`, and keep it in the file."""
        self._renewal = TokenRenewal(credential, path, self._use_token, self._stopping)

    def _start_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.start()

    def _use_token(self, token: str) -> None:
        """Connect with another token from the next time on; the connection that there is stays."""
        self._fetcher.use_token(self._username, token)
        # Not posted to the network thread, which listens to nobody while it waits to connect. It is one assignment: the
        # name stays as it was.
        self._client.username_pw_set(self._username, token)
