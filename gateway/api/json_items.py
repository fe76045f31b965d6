"""A large JSON document that is a list of small ones: cut into its items, a few at a time, before any is parsed.

A parser would take it as a whole, and the loop with it: 16 MiB of `[]` are two seconds. Here strings and brackets are
skipped over by one regular expression, and each item is parsed, and refused, by itself.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.errors import problem

TOKENS_PER_TURN: Final = 2_000
"""Strings, brackets and commas that are parsed before others have their turn: about 1 ms."""
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\(?:.|\Z)[^"\\]*)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)
"""A string, a bracket, a comma. A string may lack its end: as long as each quote matches, none is parsed twice."""
_SPACE: Final = b" \t\r\n"


async def items_of(body: bytes, member: str, most: int, next_slice: Callable[[], Awaitable[None]]) -> list[bytes]:
    """The items of `{"<member>": [item, ..]}`, as they stand there; whether each is JSON is not checked.

    Raises Problem 400, 422.
    """
    start = re.match(rb'\s*\{\s*"%b"\s*:\s*\[' % member.encode(), body)
    if start is None:
        raise problem("invalid_request", f'send {{"{member}": [..]}} and nothing else')
    items: list[bytes] = []
    depth = 0
    at = start.end()
    for seen, token in enumerate(_TOKEN.finditer(body, at), 1):
        if seen % TOKENS_PER_TURN == 0:
            await next_slice()
        sign = token[0]
        if sign in (b"[", b"{"):
            depth += 1
        elif depth and sign in (b"]", b"}"):
            depth -= 1
        elif not depth and sign in (b",", b"]"):
            item = body[at : token.start()].strip(_SPACE)
            if item or items or sign == b",":
                items.append(item)
            if len(items) > most:
                raise problem("invalid_request", f"{member}: may have {most} at most, and has more")
            at = token.end()
            if sign == b"]":
                if body[at:].strip(_SPACE) != b"}":
                    raise problem(
                        "malformed_json", f'after the list "{member}" comes its closing brace, and nothing else'
                    )
                return items
    raise problem("malformed_json", f'the list "{member}" does not end')
