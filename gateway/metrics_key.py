"""The key of `/metrics`: what Prometheus shows, where the operator has asked for one (setting `metrics_key`).

It is no API key: it opens nothing but the metrics, belongs to no app, and is in a file of the operator's own, so that
the machine that watches over the server holds no key of its senders. It is compared by its hash, in constant time.
"""

from __future__ import annotations

import hmac
import logging
from pathlib import Path
from typing import Self

from gateway.auth import secret_hash
from gateway.errors import problem

log = logging.getLogger(__name__)

SHORTEST_KEY_CHARACTERS = 16
MAX_FILE_BYTES = 4_096
"""Bytes of the file, far more than a key has: whoever names another file is told so."""


class BadMetricsKey(Exception):
    """One line: what is wrong with the file of the key, and the remedy."""


class MetricsKey:
    """A key that requests for the metrics have to show. Loop."""

    def __init__(self, key: str) -> None:
        self._hash = secret_hash(key)
        self.failures = 0
        """Requests without it, for metrics."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the key from its file; blanks and line breaks around it do not count. Raises BadMetricsKey."""
        remedy = f"make one with `openssl rand -hex 32 > {path}`, readable by the server"
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise BadMetricsKey(f"metrics_key: {path}: {error.strerror}; {remedy}") from None
        key = content.decode("ascii", "replace").strip()
        if len(content) > MAX_FILE_BYTES or not key.isascii() or not key.isprintable() or " " in key:
            raise BadMetricsKey(f"metrics_key: {path} holds something else than one key; {remedy}")
        if len(key) < SHORTEST_KEY_CHARACTERS:
            raise BadMetricsKey(
                f"metrics_key: the key in {path} has {len(key)} characters, and needs {SHORTEST_KEY_CHARACTERS} at"
                f" least; {remedy}"
            )
        return cls(key)

    def check(self, authorization: str | None, peer: str) -> None:
        """Compare the `Authorization` header of a request from this address. Raises Problem 401."""
        kind, _, shown = (authorization or "").partition(" ")
        is_bearer = kind.lower() == "bearer"
        if hmac.compare_digest(secret_hash(shown.strip() if is_bearer else ""), self._hash):
            return
        self.failures += 1
        what = "the key is wrong" if is_bearer and shown.strip() else "there is no key"
        refusal = problem(
            "unauthorized",
            f"{what}: /metrics wants `Authorization: Bearer KEY` with the key in the file that the server's setting"
            " metrics_key names; Prometheus sends it with `authorization: {credentials_file: FILE}`",
        )
        log.info("%s: /metrics: %s", peer, what, extra={"peer": peer})
        raise refusal
