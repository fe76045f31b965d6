"""Fetching what belongs to a push: a picture, a file, by its address.

What the device's own server keeps is asked for with the device's credential, and proven by its name: that is the
SHA-256 of its bytes. The credential is sent to nobody else: only to `/v1/attachments/ID` below the address that the
server put into the push (`fetch_from`; a sender cannot), and by a device that connects with TLS never in the clear. A
fleet does not come all at once: each device draws a moment within the push's `fetch_within`, and comes again when a
busy server says.
"""

from __future__ import annotations

import hashlib
import random
import re
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx2

from client_sim.errors import FetchFailed
from client_sim.push import Push

KEPT = re.compile(r"/v1/attachments/([0-9a-f]{64})")
MAX_BYTES = 64 * 1024 * 1024
MAX_ATTEMPTS = 6
TIMEOUT_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 1.0
"""Seconds before the second attempt, about; twice as long each time, or as long as the server says."""


LONGEST_WAIT_SECONDS = 3_600.0
"""Seconds that a server may ask for; who says more has a wrong clock, or none of our business."""


def seconds_asked(retry_after: str | None, now: datetime) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date (RFC 9110, 10.2.3); 0 when it is neither."""
    if retry_after is None:
        return 0.0
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), LONGEST_WAIT_SECONDS))
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return min(max((date - now).total_seconds(), 0.0), LONGEST_WAIT_SECONDS)


class Fetcher:
    """`username` and `token` are the device's MQTT credential, `tls` is what it connects with."""

    def __init__(
        self,
        username: str,
        token: str,
        tls: ssl.SSLContext | None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._credential = httpx2.BasicAuth(username, token)
        self._tls = tls
        self._jitter = jitter

    def use_token(self, username: str, token: str) -> None:
        """Show another token from now on."""
        self._credential = httpx2.BasicAuth(username, token)

    def fetch(self, push: Push, url: str, stopping: threading.Event) -> bytes:
        """The bytes at `url`. Blocks, for `fetch_within` seconds at first. Raises FetchFailed, also when `stopping` is
        set meanwhile."""
        moment = push.received_at + self._jitter() * push.fetch_within
        self._wait(moment - time.monotonic(), stopping)
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise FetchFailed(f"{url!r} is no address: {error}") from None
        if parts.scheme not in ("http", "https"):
            raise FetchFailed(f"{url!r} is no http(s) address")
        named = None
        if push.fetch_from is not None and url.startswith(push.fetch_from):
            named = KEPT.fullmatch(url, len(push.fetch_from))
        if named and self._tls is not None and parts.scheme != "https":
            raise FetchFailed(
                f"{url}: a device with TLS sends its token nowhere unencrypted; set the server's public_url"
            )
        with httpx2.Client(
            auth=self._credential if named else None,
            timeout=TIMEOUT_SECONDS,
            verify=self._tls if self._tls is not None else True,
            follow_redirects=named is None,
        ) as client:
            pause = FIRST_PAUSE_SECONDS
            for attempt in range(1, MAX_ATTEMPTS + 1):
                why, asked = "", None
                try:
                    with client.stream("GET", url) as answer:
                        if answer.is_success:
                            return self._checked(self._read(answer), named)
                        why, asked = f"answered {answer.status_code}", answer.headers.get("retry-after")
                        if answer.status_code not in (429, 502, 503, 504):
                            raise FetchFailed(f"{url}: {why}")
                except httpx2.HTTPError as error:
                    why = str(error) or type(error).__name__
                except httpx2.InvalidURL as error:
                    raise FetchFailed(f"{url!r}: {error}") from None
                if attempt == MAX_ATTEMPTS:
                    break
                self._wait(seconds_asked(asked, datetime.now(UTC)) + pause * self._jitter(), stopping)
                pause *= 2
        raise FetchFailed(f"{url}: {why}, {MAX_ATTEMPTS} times")

    @staticmethod
    def _read(answer: httpx2.Response) -> bytes:
        content = bytearray()
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) > MAX_BYTES:
                raise FetchFailed(f"{answer.url} has more than {MAX_BYTES} bytes")
        return bytes(content)

    @staticmethod
    def _checked(content: bytes, named: re.Match[str] | None) -> bytes:
        if named is not None and hashlib.sha256(content).hexdigest() != named[1]:
            raise FetchFailed(f"{named[1]} is not what its name says: it was changed on its way")
        return content

    @staticmethod
    def _wait(seconds: float, stopping: threading.Event) -> None:
        if stopping.wait(max(seconds, 0.0)):
            raise FetchFailed("the device is closing")
