"""All doors as one ASGI application."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from gateway.api import apps, devices, docs, health, keys, problems, pushes
from gateway.api.services import Services, provide


def create_api(found: Services) -> FastAPI:
    # Our own pages instead of the framework's; no redirects, because a redirected POST loses its body.
    api = FastAPI(
        title="Fleetpush",
        version=_version(),
        description=docs.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    provide(api, found)
    problems.install(api, found.problems)
    for door in (pushes, devices, apps, keys, health):  # routes are tried in this order: the busiest first
        api.include_router(door.router)
    docs.install(api)
    return api


def _version() -> str:
    try:
        return version("fleetpush")
    except PackageNotFoundError:
        return "unknown"
