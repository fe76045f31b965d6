"""A finding of `fleetpush doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A finding of the doctor: `ok`, `warn` or `fail`, about what, and the remedy."""

    level: str
    subject: str
    text: str
    remedy: str = ""
