"""Enrolment codes: sixteen characters that a person can type, and that nobody guesses.

    K7QF-2M9T-4XWA-0HZP

Fifteen characters of Crockford's base32 (no I, L, O, U) are 75 random bits, the sixteenth is their check. A code is
stored as its SHA-256 and needs nothing slower: with the hash in hand, ten thousand million tries a second take sixty
thousand years for an even chance at one code. At the HTTP port, where a guess is a request, ten thousand guesses a
second at a million open codes take as long. So what limits guesses (`guesses`) is there for the load and not for the
odds, and it needs to lock out nobody.

The check is a weighted sum over GF(32), the field of 32 elements, with a different weight for each place: every wrong
character and every two that changed places are found before anything is looked up.
"""

from __future__ import annotations

import secrets
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base32."""
RANDOM_CHARACTERS: Final = 15
"""Characters of five random bits each."""
GROUP_CHARACTERS: Final = 4
CODE_CHARACTERS: Final = RANDOM_CHARACTERS + 1
LONGEST_INPUT_CHARACTERS: Final = 64
"""Characters of a code as people type it, with all the blanks and hyphens they like."""
_MEANT: Final = str.maketrans("ILO", "110", " -\t\u00a0\u2010\u2011\u2013")
"""Letters that are no part of the alphabet, by what they are taken for; separators, which count for nothing."""
_POLYNOMIAL: Final = 0b100101
"""x^5 + x^2 + 1, which is primitive: powers of x are different from each other up to the 31st."""


def new_code() -> str:
    """Make a code as people see it, in groups of four."""
    drawn = secrets.randbits(5 * RANDOM_CHARACTERS)
    plain = "".join(ALPHABET[drawn >> shift & 31] for shift in range(0, 5 * RANDOM_CHARACTERS, 5))
    return grouped(plain + _check_character(plain))


def grouped(plain: str) -> str:
    """Write a code in groups of four with hyphens between them."""
    return "-".join(plain[at : at + GROUP_CHARACTERS] for at in range(0, len(plain), GROUP_CHARACTERS))


def plain_code(text: str) -> str | None:
    """Return a code as it is hashed, of what a person has typed; None if that cannot be one.

    The case does not count, nor do hyphens, and O is taken for 0.
    """
    if len(text) > LONGEST_INPUT_CHARACTERS:
        return None
    plain = text.upper().translate(_MEANT)
    if len(plain) != CODE_CHARACTERS or any(character not in ALPHABET for character in plain):
        return None
    return plain if _check_character(plain[:-1]) == plain[-1] else None


def _check_character(plain: str) -> str:
    """Return the character that makes the sum zero: Horner's rule, multiplying by x for each place."""
    total = 0
    for character in plain:
        total = _times_x(total ^ ALPHABET.index(character))
    return ALPHABET[total]


def _times_x(element: int) -> int:
    element <<= 1
    return element ^ _POLYNOMIAL if element & 32 else element
