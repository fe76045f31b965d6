"""The API describes itself: `/openapi.json`, a page to try it at `/docs`, and a page of all problems.

The page's script and style come from a package on this machine: no other network is needed.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Iterable
from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.staticfiles import StaticFiles

from gateway.api.openapi import describe
from gateway.api.operation_problems import OF_NO_OPERATION, WITHOUT_KEY, operations_by_code
from gateway.enrolment.addresses import PATH
from gateway.errors import CATALOGUE
from gateway.pages import to_json


class _Documents:
    """Caches the OpenAPI document and the page of problems, each encoded once. Making them takes as long as some
    hundred pushes, and strangers may ask for them."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._making = asyncio.Lock()
        self._openapi: bytes | None = None
        self._problems = b""

    async def openapi(self) -> bytes:
        await self._make()
        assert self._openapi is not None, "made"
        return self._openapi

    async def problems(self) -> bytes:
        await self._make()
        return self._problems

    async def _make(self) -> None:
        """Make both, on a thread, so that the loop gets its turns meanwhile."""
        async with self._making:
            if self._openapi is None:
                document = await asyncio.to_thread(describe, self._app)
                self._problems = _problems_page(document).encode()
                self._openapi = await asyncio.to_thread(to_json, document)


def install(app: FastAPI) -> None:
    """Serve the documents. Call it when all routes are there."""
    app.include_router(_pages)
    static = resources.files("fastapi_offline").joinpath("static")
    app.mount("/docs/static", StaticFiles(directory=str(static)), "docs-static")
    app.state.documents = _Documents(app)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it


_pages = APIRouter(include_in_schema=False)
_STYLE = (
    "<style>body{font:16px/1.5 sans-serif;margin:2em}td,th{text-align:left;vertical-align:top;padding:.2em 1em .2em 0}"
    ":target{background:#ffd}</style>"
)
# These pages share their origin with the console, whose session's cookie the page to try the API uses: no other page
# frames one, to have a person click in it.
_UNFRAMED = {"Content-Security-Policy": "frame-ancestors 'none'; base-uri 'none'", "X-Frame-Options": "DENY"}
_PAGE_HEADERS = {
    **_UNFRAMED,
    "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'; {_UNFRAMED['Content-Security-Policy']}",
}


@_pages.get("/")
async def front() -> Response:
    """Show what this server is, to a person with nothing but its address."""
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Fleetpush</title>{_STYLE}<h1>Fleetpush</h1>'
        "<p>Push for a private fleet of devices. This is the server's HTTP port.</p><ul>"
        '<li><a href="/console/">The console</a>: send, watch and take back'
        '<li><a href="/docs">Try the API</a>, with a key'
        '<li><a href="/docs/problems">What a refusal means</a>'
        '<li><a href="/openapi.json">The API as an OpenAPI document</a>'
        '<li><a href="/readyz">Whether the server takes pushes</a>'
        '<li><a href="/metrics">Metrics for Prometheus</a>'
        "</ul><p>Devices speak MQTT: on a port of its own, and here as WebSocket at <code>/mqtt</code>.</html>"
    )
    return Response(text, headers=_PAGE_HEADERS, media_type="text/html")


@_pages.get(PATH)
async def code_page() -> Response:
    """Explain an enrolment code to a person who has scanned it with something else than the device that it is for."""
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Enrolment code</title>{_STYLE}'
        "<h1>A code for a device</h1><p>The label that you have scanned enrols one device of a fleet. This browser has"
        " not used it: scan it with the device, or type its sixteen characters there.</html>"
    )
    return Response(text, headers=_PAGE_HEADERS, media_type="text/html")


@_pages.get("/docs")
async def page() -> Response:
    answer = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Fleetpush API",
        swagger_js_url="/docs/static/swagger-ui-bundle.js",
        swagger_css_url="/docs/static/swagger-ui.css",
        swagger_favicon_url="/docs/static/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # its default asks a server on the internet
    )
    answer.headers.update(_UNFRAMED)
    return answer


@_pages.get("/openapi.json")
async def document(request: Request) -> Response:
    return Response(await request.app.state.documents.openapi(), media_type="application/json")


@_pages.get("/docs/problems")
async def problems(request: Request) -> Response:
    """Explain every problem code, at the address that the `type` of problem documents points to."""
    return Response(await request.app.state.documents.problems(), headers=_PAGE_HEADERS, media_type="text/html")


def _problems_page(document: dict[str, Any]) -> str:
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
        f"{_STYLE}<h1>Problems</h1>"
        "<p>Every refusal is <code>application/problem+json</code> (RFC 9457) with a stable <code>code</code>.</p>"
        "<table><tr><th>code<th>status<th>title<th>try again unchanged?<th>when<th>answered by"
        f"{rows}</table></html>"
    )


def _marked_up(text: str) -> str:
    """Text with code between backticks, as HTML."""
    parts: Iterable[str] = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
