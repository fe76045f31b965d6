"""Answers that pages of any origin may read (CORS): what a browser asks that is a device, or is about to be one.

A page has no credential of itself, and shows the code or the token that it was given: nothing is there to be read in
somebody else's name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from fastapi import Request, Response

from gateway.api import problems

HEADERS: Final[Mapping[str, str]] = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Retry-After",
    "Cache-Control": "no-store",
}


async def readable(request: Request, answer_to: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer so that a page of any origin can read it, refusals too."""
    try:
        answer = await answer_to(request)
    except Exception as error:
        answer, expected = await problems.answer(request, error)
        if not expected:
            raise
    answer.headers.update(HEADERS)
    return answer


def permission(methods: str, headers: str) -> Response:
    """Answer what browsers ask before a page of another origin may send these headers."""
    permitted = {
        **HEADERS,
        "Access-Control-Allow-Headers": headers,
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Max-Age": "86400",
    }
    return Response(status_code=204, headers=permitted)
