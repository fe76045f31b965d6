"""The page of all problems, which the `type` of problem documents points to."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any, Final

from gateway.api.operation_problems import OF_NO_OPERATION, WITHOUT_KEY, operations_by_code
from gateway.errors import CATALOGUE

STYLE: Final = (
    "<style>body{font:16px/1.5 sans-serif;margin:2em}td,th{text-align:left;vertical-align:top;padding:.2em 1em .2em 0}"
    ":target{background:#ffd}</style>"
)
"""Of all pages that are for reading alone."""


def problems_page(document: dict[str, Any]) -> str:
    """Every problem code with what it means and who answers it, as HTML. `document`: the OpenAPI document."""
    everywhere = sum(len(operations) for operations in document["paths"].values())
    with_key = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
        if path.startswith("/v1/") and (method, path) not in WITHOUT_KEY
    }
    answering = operations_by_code(document)

    def whose(code: str) -> str:
        found = answering[code]
        if len(found) == everywhere:
            return "every operation"
        also = ["what is no operation"] if code in OF_NO_OPERATION else []
        if with_key.issubset(found):
            also, found = ["every operation that needs a key"], [name for name in found if name not in with_key]
        return ", ".join([*also, *(f"<code>{html.escape(operation)}</code>" for operation in found)])

    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code><td>{row.status}<td>{html.escape(row.title)}'
        f"<td>{'yes, later' if row.retryable else 'no'}<td>{_marked_up(row.when)}<td>{whose(code)}"
        for code, row in CATALOGUE.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Problems</title>'
        f"{STYLE}<h1>Problems</h1>"
        "<p>Every refusal is <code>application/problem+json</code> (RFC 9457) with a stable <code>code</code>.</p>"
        "<table><tr><th>code<th>status<th>title<th>try again unchanged?<th>when<th>answered by"
        f"{rows}</table></html>"
    )


def _marked_up(text: str) -> str:
    """Text with code between backticks, as HTML."""
    parts: Iterable[str] = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
