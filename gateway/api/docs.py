"""The API describes itself: `/openapi.json`, a page to try it at `/docs`, and a page of all problems.

The page's script and style come from a package on this machine: no other network is needed.
"""

from __future__ import annotations

import asyncio
import logging
from importlib import resources

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.staticfiles import StaticFiles

from gateway.api.problems_page import STYLE
from gateway.api.self_description import SelfDescription, describe_elsewhere, describe_here
from gateway.enrolment.addresses import PATH

log = logging.getLogger(__name__)


class _Documents:
    """Caches the OpenAPI document and the page of problems. Strangers may ask for them, and making them takes as long
    as some thousand pushes."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._making = asyncio.Lock()
        self._made: SelfDescription | None = None

    async def openapi(self) -> bytes:
        return (await self._both()).openapi

    async def problems(self) -> bytes:
        return (await self._both()).problems

    async def _both(self) -> SelfDescription:
        async with self._making:
            if self._made is None:
                try:
                    self._made = await describe_elsewhere()
                except OSError as error:  # no memory for a process, or no more of them: once is better than never
                    log.warning("The API's document is made in this process, which others wait for: %s", error)
                    self._made = await asyncio.to_thread(describe_here, self._app)
            return self._made


def install(app: FastAPI) -> None:
    """Serve the documents. Call it when all routes are there."""
    app.include_router(_pages)
    static = resources.files("fastapi_offline").joinpath("static")
    app.mount("/docs/static", StaticFiles(directory=str(static)), "docs-static")
    app.state.documents = _Documents(app)


_pages = APIRouter(include_in_schema=False)
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
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Fleetpush</title>{STYLE}<h1>Fleetpush</h1>'
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
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Enrolment code</title>{STYLE}'
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
