"""Messages about expressions: what is wrong, where it is, and what to write instead.

The reader is an operator, and not a programmer. A message has the line and the column, a sentence, and the line of the
text with the offending part underlined:

    line 1, column 8: there is no 'tgas'; did you mean 'tags'?
      'a' in tgas
             ^^^^
"""

from __future__ import annotations

from gateway.errors import InvalidExpression
from gateway.store.segments.terms import Place

SHOWN_CHARACTERS = 76
"""Characters of a line that a message shows, so that it fits a terminal."""
BEFORE_CHARACTERS = 30
"""Characters of those before the offending part, if the line is longer."""
QUOTED_CHARACTERS = 40
"""Characters of a text that a sentence repeats."""


def invalid(text: str, place: Place, sentence: str) -> InvalidExpression:
    """Make the problem: what is wrong at a place of an expression, shown in its line."""
    start = min(place.start, len(text))
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", start)
    line = text[line_start : len(text) if line_end < 0 else line_end]
    number, column = text.count("\n", 0, start) + 1, start - line_start + 1
    first = max(0, column - 1 - BEFORE_CHARACTERS) if len(line) > SHOWN_CHARACTERS else 0
    shown = "".join(letter if letter.isprintable() else " " for letter in line[first : first + SHOWN_CHARACTERS])
    length = max(1, min(place.end - start, len(shown) - (column - 1 - first)))
    before = "…" if first else ""
    after = "…" if first + SHOWN_CHARACTERS < len(line) else ""
    underline = " " * (len(before) + column - 1 - first) + "^" * length
    detail = f"line {number}, column {column}: {sentence}\n  {before}{shown}{after}\n  {underline}"
    return InvalidExpression(detail, number, column)


def shortened(text: str) -> str:
    """A part of an expression as a sentence repeats it."""
    return text if len(text) <= QUOTED_CHARACTERS else text[: QUOTED_CHARACTERS - 1] + "…"


def quoted(text: str) -> str:
    """A text as an expression has it, in quotes, shortened if it is long."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in shortened(text))
    return f'"{printable}"' if "'" in printable else f"'{printable}'"
