"""The lines of a file of pushes: each a push in JSON, with its number in the file.

They are read one by one, however long the file is, and divided into parts that are a request each.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO, NamedTuple

from gateway.cli.terminal import Failure

PART_LINES = 1_000
PART_BYTES = 4 * 1024 * 1024
"""Bytes of a request, about; the API takes 10,000 lines and 16 MiB."""
LINE_BYTES = 4 * 1024 * 1024
"""Bytes of a push, as the API has it."""


class PushLine(NamedTuple):
    """A line of the file, and its number."""

    number: int
    content: bytes


def with_key(line: bytes, key: str) -> bytes:
    """A push's JSON with an idempotency key, if it has none; nothing else of its text is touched, right or wrong."""
    try:
        push = json.loads(line.decode())
    except (ValueError, RecursionError):
        return line
    if not isinstance(push, dict) or "idempotency_key" in push:
        return line
    start = line.index(b"{") + 1
    return b'%b"idempotency_key":%b%b%b' % (line[:start], json.dumps(key).encode(), b"," if push else b"", line[start:])


def lines_of(lines: IO[bytes]) -> Iterator[PushLine]:
    """The lines of a file without the blanks around them, empty ones too. Raises Failure for one that cannot be a
    push."""
    for number, content in enumerate(iter(lambda: lines.readline(LINE_BYTES + 1), b""), 1):
        if len(content) > LINE_BYTES and content.strip():
            raise Failure(f"line {number} has more than {LINE_BYTES} bytes: write one push in each line", 2)
        yield PushLine(number, (content.removeprefix(codecs.BOM_UTF8) if number == 1 else content).strip())


def parts_of(lines: IO[bytes]) -> Iterator[list[PushLine]]:
    """Divide the lines into parts that fit into one request each; empty ones are skipped. Raises Failure for a line
    that cannot be a push."""
    part: list[PushLine] = []
    size = 0
    for line in lines_of(lines):
        if not line.content:
            continue
        part.append(line)
        size += len(line.content)
        if len(part) == PART_LINES or size > PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
