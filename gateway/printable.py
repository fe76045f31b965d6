"""Characters of others' text that may be stored in a name and printed in a terminal.

Everything that a person can write, in any script: joiners and marks of direction, no-break spaces, and characters that
are newer than this Python's tables of Unicode (an emoji of next year). Not what a terminal obeys, and not what changes
the order of the text around it: with an override (U+202E) `gpj.exe` is read as `exe.jpg`.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

_NONCHARACTERS: Final = "\ufdd0-\ufdef" + "".join(
    f"{chr(last - 1)}{chr(last)}" for last in range(0xFFFF, 0x110000, 0x10000)
)
_UNPRINTABLE: Final = (
    "\x00-\x1f\x7f-\x9f"  # C0 and C1: commands to a terminal
    "\u2028\u2029"  # line and paragraph separator
    "\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates of direction
    "\u206a-\u206f\ufff9-\ufffb"  # deprecated format characters, annotations
    "\ud800-\udfff"  # halves of surrogate pairs: no text in UTF-8
    f"{_NONCHARACTERS}"
)
UNPRINTABLE: Final = re.compile(f"[{_UNPRINTABLE}]")
UNPRINTABLE_BUT_LINES: Final = re.compile(f"(?!\n)[{_UNPRINTABLE}]")
"""Characters to replace in text that may have several lines."""


def _check(value: str) -> str:
    if found := UNPRINTABLE.search(value):
        raise ValueError(f"only printable characters, please: U+{ord(found[0]):04X} is a command, or turns text around")
    return value


Printable = Annotated[str, AfterValidator(_check)]
"""A field of the API that others read: a name, a collapse key."""


def printable(text: str) -> str:
    """Make text safe for a terminal: it must not move the cursor, change colours or turn our own text around."""
    return UNPRINTABLE_BUT_LINES.sub("�", text)
