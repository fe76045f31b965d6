"""The API describes itself: `/openapi.json`, a page to try it at `/docs`, and a page of all problems.

Bodies are read by our own code (`bodies`), so a route declares its body with `takes(Model)`; the rest of the document
is FastAPI's. The page's script and style come from a package on this machine: no other network is needed.
"""

from __future__ import annotations

import html
from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.staticfiles import StaticFiles

from gateway.api import examples
from gateway.api.answers import ProblemDocument
from gateway.errors import CATALOGUE
from gateway.pages import to_json

_REF = "#/components/schemas/{model}"
_models: dict[str, type[BaseModel]] = {ProblemDocument.__name__: ProblemDocument}
"""What FastAPI does not see of the routes' shapes; filled by `takes` while they are defined."""
DESCRIPTION = """
Push for a private fleet of devices, told truthfully.

Every call below `/v1` needs `Authorization: Bearer KEY`. Lists take `limit` and `cursor`. Every refusal is a problem
document (RFC 9457); [all of them](/docs/problems).
"""


def takes(model: type[BaseModel], media_type: str = "application/json") -> dict[str, Any]:
    """`openapi_extra` of a route that reads this body."""
    _models[model.__name__] = model
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def idempotent(extra: dict[str, Any]) -> dict[str, Any]:
    header = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "maxLength": 255},
        "description": "Kept 24 h: the same key and body answers the first result and sends nothing.",
    }
    return {**extra, "parameters": [header]}


def install(app: FastAPI) -> None:
    """Serve the documents. Call it when all routes are there."""
    app.include_router(_pages)
    static = resources.files("fastapi_offline").joinpath("static")
    app.mount("/docs/static", StaticFiles(directory=str(static)), "docs-static")
    document: list[bytes] = []

    async def described() -> Response:
        """Encoded once: that takes as long as a hundred pushes, and strangers may ask for it."""
        if not document:
            document.append(to_json(describe(app)))
        return Response(document[0], media_type="application/json")

    app.add_api_route("/openapi.json", described, include_in_schema=False)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, definitions = models_json_schema([(model, "validation") for model in _models.values()], ref_template=_REF)
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions.get("$defs", {}))
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}}
    for name in ("HTTPValidationError", "ValidationError"):  # the framework's shape, which we never answer
        components["schemas"].pop(name, None)
    refusal = {
        "description": "A problem.",
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model=ProblemDocument.__name__)}}},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] in examples.PARAMETERS:
                    parameter["example"] = examples.PARAMETERS[parameter["name"]]
            if (method, path) in examples.BODIES:
                for content in operation["requestBody"]["content"].values():
                    content["example"] = examples.BODIES[method, path]
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = refusal
            if path.startswith("/v1/"):
                operation["security"] = [{"key": []}]
    app.openapi_schema = document
    return document


_pages = APIRouter(include_in_schema=False)
_STYLE = (
    "<style>body{font:16px/1.5 sans-serif;margin:2em}td,th{text-align:left;padding:.2em 1em .2em 0}"
    ":target{background:#ffd}</style>"
)
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


@_pages.get("/")
async def front() -> Response:
    """What this is, for a person who has only the address."""
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Fleetpush</title>{_STYLE}<h1>Fleetpush</h1>'
        "<p>Push for a private fleet of devices. This is the server's HTTP port.</p><ul>"
        '<li><a href="/docs">Try the API</a>, with a key'
        '<li><a href="/docs/problems">What a refusal means</a>'
        '<li><a href="/openapi.json">The API as an OpenAPI document</a>'
        '<li><a href="/readyz">Whether the server takes pushes</a>'
        '<li><a href="/metrics">Metrics for Prometheus</a>'
        "</ul><p>Devices speak MQTT: on a port of its own, and here as WebSocket at <code>/mqtt</code>.</html>"
    )
    return Response(text, headers=_PAGE_HEADERS, media_type="text/html")


@_pages.get("/docs")
async def page() -> Response:
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Fleetpush API",
        swagger_js_url="/docs/static/swagger-ui-bundle.js",
        swagger_css_url="/docs/static/swagger-ui.css",
        swagger_favicon_url="/docs/static/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # its default asks a server on the internet
    )


@_pages.get("/docs/problems")
async def problems() -> Response:
    """What the `type` of each problem document points to."""
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code><td>{row.status}<td>{html.escape(row.title)}'
        f"<td>{'yes, later' if row.retryable else 'no'}"
        for code, row in CATALOGUE.items()
    )
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Problems</title>'
        f"{_STYLE}<h1>Problems</h1>"
        "<p>Every refusal is <code>application/problem+json</code> (RFC 9457) with a stable <code>code</code>.</p>"
        f"<table><tr><th>code<th>status<th>title<th>try again unchanged?{rows}</table></html>"
    )
    return Response(text, media_type="text/html")
