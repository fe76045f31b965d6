"""All doors as one ASGI application."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from gateway.api import (
    analytics,
    apps,
    attachments,
    channels,
    devices,
    docs,
    events,
    health,
    keys,
    problems,
    pushes,
    webhooks,
)
from gateway.api.services import Services, provide


class Api(FastAPI):
    """The framework, and a way around its layers for the one call that fleets are pushed by.

    They take two thirds of what `POST /v1/pushes` costs (middleware, matching every route, dependencies) and do nothing
    for it: the function reads its own body and admits its own caller. It stays among the routes, for the documents.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # Hot path.
        if scope["type"] != "http" or scope["path"] != pushes.PATH or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        request = Request(scope, receive)
        try:
            response = await pushes.send(request)
        except Exception as error:
            response, expected = await problems.answer(request, error)
            await response(scope, receive, send)
            if not expected:
                raise  # the server logs the traceback
        else:
            await response(scope, receive, send)


def create_api(found: Services) -> FastAPI:
    # Our own pages instead of the framework's; no redirects, because a redirected POST loses its body.
    api = Api(
        title="Fleetpush",
        version=_version(),
        description=docs.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    provide(api, found)
    problems.install(api, found.problems)
    for door in (
        pushes,
        devices,
        channels,
        analytics,
        attachments,
        events,
        webhooks,
        apps,
        keys,
        health,
    ):  # routes are tried in this order: the busiest first
        api.include_router(door.router)
    docs.install(api)
    return api


def _version() -> str:
    try:
        return version("fleetpush")
    except PackageNotFoundError:
        return "unknown"
