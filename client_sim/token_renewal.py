"""Renewal of a token that ends, on a thread of its own, for as long as a device runs.

    renewal = TokenRenewal(credential, Path("kiosk.json"), use_token, stopping)

A token is renewed after two thirds of its life, at a moment that each device draws, so that a fleet does not come at
once. The new credential is on disk before it is used. A device that dies in between has the old one, which is good for
a week longer, or until its own end, and renews again.

The time of the next renewal is measured by this machine's wall clock, in the credential, because a machine is switched
off in between. It is looked at every hour: a clock that was set does no harm.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from client_sim.credential import Credential, trusting
from client_sim.enrolment import post
from client_sim.errors import EnrolmentFailed

log = logging.getLogger(__name__)

CHECK_SECONDS = 3_600.0
"""Time between two looks at the clock, at most."""
RETRY_SECONDS = (60.0, 3_600.0)
"""Time after a renewal that failed: the first pause, and the longest."""


def renew(credential: Credential, stopping: threading.Event | None = None) -> Credential:
    """Return the credential with a new token. Blocks. Raises EnrolmentFailed."""
    answer = post(
        f"{credential.server}/v1/devices/{credential.device_id}/token/renewal",
        {},
        trusting(credential.ca) if credential.server.startswith("https:") else None,
        headers={"Authorization": f"Bearer {credential.token}"},
        stopping=stopping,
    )
    try:
        return Credential.of(answer, credential.server, credential.ca)
    except (KeyError, TypeError, ValueError) as error:
        raise EnrolmentFailed(f"{credential.server} answers, but not with a credential ({error!r})") from error


class TokenRenewal:
    """Keeps the token of a device good. `use_token` is called with each new one, on the renewal's thread, after it was
    stored in `path`; `stopping` is set when the device ends."""

    def __init__(
        self, credential: Credential, path: Path, use_token: Callable[[str], None], stopping: threading.Event
    ) -> None:
        self.credential = credential
        self._path = path
        self._use_token = use_token
        self._stopping = stopping
        self._failures = 0

    def start(self) -> None:
        """Start the thread, if the token ends."""
        if self.credential.renew_at is not None:
            threading.Thread(target=self._run, name=f"{self.credential.device_id} renewal", daemon=True).start()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds_left()):
            if self._seconds_left() <= 0:
                self._renew()

    def _seconds_left(self) -> float:
        """Seconds until there is something to do, or the clock is looked at again."""
        left = (self.credential.renew_at or 0.0) - time.time()
        return min(max(left, 0.0), CHECK_SECONDS)

    def _renew(self) -> None:
        try:
            found = renew(self.credential, self._stopping)
            found.save(self._path)
        except (EnrolmentFailed, OSError) as error:
            first, longest = RETRY_SECONDS
            pause = min(first * 2.0**self._failures, longest) * random.uniform(0.5, 1.0)
            self._failures += 1
            log.warning("%s: its token was not renewed: %s", self.credential.device_id, error)
            self._stopping.wait(pause)
            return
        self._failures = 0
        self.credential = found
        self._use_token(found.token)
        log.info("%s: it has a new token", found.device_id)
