"""Lifetimes of device tokens: when one ends, and how long the one before a renewed one is still good.

A token ends if its device was enrolled with `token_days`; others never do. A device renews its token before the end.
The one that it showed for that is good for `OVERLAP_MS` longer, or until its own end: whoever dies between the server's
commit and its own comes back with what it has, and renews again.

Arithmetic only. Times are server time in milliseconds.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final, NamedTuple

DAY_MS: Final = 86_400_000
MAX_TOKEN_DAYS: Final = 3_650
OVERLAP_MS: Final = 7 * DAY_MS
"""Time for which the token before is good after a renewal: a machine that is switched off in the middle of one, before
a holiday, comes back in time."""
RENEWAL_PAUSE_MS: Final = 60_000
"""Time after a new token in which there is no other: each is a commit."""


class TokenTerms(NamedTuple):
    """Terms of a device's token that ends."""

    expires_at: int
    previous: str
    """Hash of the token before, hexadecimal; empty if there is none."""
    previous_until: int | None

    @classmethod
    def of(cls, row: Sequence[object]) -> TokenTerms:
        """Read terms as they are stored (`store/access/credentials`)."""
        expires_at, previous, until = row
        assert isinstance(expires_at, int), "of a token that ends"
        assert isinstance(until, int | None), "a column of integers"
        return cls(expires_at, str(previous or ""), until)

    def accepts_previous(self, digest: str, now_ms: int) -> bool:
        """Whether this is the token before, and still good; compared in constant time."""
        same = hmac.compare_digest(self.previous, digest)
        return same and self.previous_until is not None and now_ms < self.previous_until


def lifetime(expires_at: int | None, now_ms: int) -> int | None:
    """Return the whole seconds that a token has left, at least 0; None for one that never ends."""
    return None if expires_at is None else max((expires_at - now_ms) // 1000, 0)
