"""The routes of the API as one ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send

from gateway.api import (
    analytics,
    apps,
    attachments,
    audit,
    bulk_changes,
    campaigns,
    channels,
    console,
    device_history,
    devices,
    docs,
    duties,
    enrolment,
    events,
    evidence,
    health,
    heartbeats,
    invitations,
    keys,
    oidc,
    problems,
    pushes,
    schedules,
    segments,
    session,
    stats,
    tags,
    templates,
    token_requests,
    topics,
    webhooks,
)
from gateway.api.admission import ATTEMPT
from gateway.api.bodies import BODY_CHARGE
from gateway.api.body_budget import BodyCharge
from gateway.api.openapi import DESCRIPTION
from gateway.api.request_cycle import WHOLE_ANSWER
from gateway.api.services import Services, known_parameters, provide
from gateway.api.session_cookies import SAFE_METHODS
from gateway.errors import Problem
from gateway.nodes.peer_routes import PATH as NODES_PATH
from gateway.nodes.peer_routes import PeerVerbs
from gateway.program import installed_version
from gateway.store.audited_writes import CURRENT, Attempt
from gateway.store.errors import StorageError


class Api(FastAPI):
    """The framework, and a way around its layers for the one call that fleets are pushed by.

    They take two thirds of what `POST /v1/pushes` costs (middleware, matching every route, dependencies) and do nothing
    for it: the function reads its own body and admits its own caller. It stays among the routes, for the documents.
    """

    found: Services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # Hot path.
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _head_of(send)
        try:
            await self._answer(scope, receive, send)
        finally:
            charge: BodyCharge | None = scope.pop(BODY_CHARGE, None)
            if charge is not None:
                charge.release()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:  # Hot path.
        ours = scope["type"] == "http" and scope["path"] == pushes.PATH and scope["method"] == "POST"
        if not ours or scope["query_string"]:
            await self._answer_by_route(scope, receive, send)
            return
        scope["app"] = self
        request = Request(scope, receive)
        try:
            content = await pushes.accept(request, self.found)
        except Exception as error:
            response, expected = await problems.answer(request, error)
            self._refused(scope.get(ATTEMPT), response.status_code)
            await response(scope, receive, send)
            if not expected:
                raise  # the server logs the traceback
            return
        finally:
            if ATTEMPT in scope:  # of somebody at the console, or a schedule: a key's push has none
                scope[ATTEMPT].is_open = False
                self.found.shared_answers.forget(scope[ATTEMPT].app_no)
        if WHOLE_ANSWER in scope.get("extensions", ()):
            await send({"type": WHOLE_ANSWER, "status": 202, "media_type": b"application/json", "content": content})
        else:
            await Response(content, 202, media_type="application/json")(scope, receive, send)

    async def _answer_by_route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the framework; what may change something ends its attempt (`store/audited_writes`)."""
        CURRENT.set(None)  # this may have been started in the context of a request before
        verbs = self.found.peer_verbs
        if verbs is not None and scope["type"] == "http" and scope["path"].startswith(NODES_PATH):
            await self._answer_peer(verbs, scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await super().__call__(scope, receive, send)
            return

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and ATTEMPT in scope:
                self.found.shared_answers.forget(scope[ATTEMPT].app_no)
                if message["status"] >= 400:
                    self._refused(scope[ATTEMPT], message["status"])
            await send(message)

        try:
            if self.found.confirm is None:
                await super().__call__(scope, receive, watch)
            else:
                await self._answer_when_confirmed(self.found.confirm, scope, receive, watch)
        finally:
            attempt: Attempt | None = scope.get(ATTEMPT)
            if attempt is not None:
                attempt.is_open = False

    async def _answer_peer(self, verbs: PeerVerbs, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer another node, around the framework: it asks many times a second."""
        scope["app"] = self
        try:
            content = await verbs.answer(scope, receive)
        except Exception as error:
            response, expected = await problems.answer(Request(scope, receive), error)
            await response(scope, receive, send)
            if not expected:
                raise  # the server logs the traceback
            return
        await Response(content, 200, media_type="application/octet-stream")(scope, receive, send)

    async def _answer_when_confirmed(
        self, confirm: Callable[[], Awaitable[None]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request that has changed something when every node knows of it."""
        is_refused = False

        async def wait(message: Message) -> None:
            nonlocal is_refused
            if is_refused:
                return  # the rest of an answer that is not given
            attempt: Attempt | None = scope.get(ATTEMPT)
            if message["type"] == "http.response.start" and message["status"] < 400 and _has_changed(attempt):
                try:
                    await confirm()
                except (Problem, StorageError) as error:
                    is_refused = True
                    response, _ = await problems.answer(Request(scope, receive), error)
                    await response(scope, receive, send)
                    return
            await send(message)

        await super().__call__(scope, receive, wait)

    def _refused(self, attempt: Attempt | None, status: int) -> None:
        """Note in the audit log that a request was answered with a problem after it was admitted."""
        if attempt is None or attempt.is_refused:
            return
        if attempt.stored_as is not None:
            self.found.audit.fail(attempt, status)
        elif status == 403:
            self.found.audit.refuse(attempt, "forbidden")


def _has_changed(attempt: Attempt | None) -> bool:
    """Whether a request has changed anything that nodes keep in memory; pushes are none of that."""
    return attempt is not None and attempt.stored_as is not None and not attempt.action.startswith("push.send")


def _head_of(send: Send) -> Send:
    """Sends the head of an answer and none of its body: to HEAD everything answers as to GET (RFC 9110, 9.3.2)."""

    async def only_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            # At once, and not when the body ends: a stream of events does not.
            await send({"type": "http.response.body", "body": b""})

    return only_head


@cache
def api_routes() -> list[BaseRoute]:
    """The routes of all modules, in the order in which they are tried: the busiest first.

    The framework reads the signature of each function once more for what it is included with, at the first request that
    comes by. That takes longer than most requests, and is the same for every application of a process: they share it.
    """
    together = APIRouter()
    for module in (
        pushes,
        devices,
        device_history,
        bulk_changes,
        channels,
        topics,
        tags,
        segments,
        duties,
        templates,
        campaigns,
        schedules,
        heartbeats,
        analytics,
        stats,
        attachments,
        events,
        webhooks,
        enrolment,
        invitations,
        token_requests,
        apps,
        keys,
        audit,
        evidence,
        session,
        health,
    ):
        together.include_router(module.router, dependencies=[Depends(known_parameters)])
    together.include_router(oidc.router)  # a provider adds parameters of its own
    return together.routes


def create_api(found: Services) -> FastAPI:
    """Make the application over what a server is built of. Those of one process share their routes."""
    # Our own pages instead of the framework's; no redirects, because a redirected POST loses its body.
    api = Api(
        title="Fleetpush",
        version=installed_version(),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        routes=[*api_routes()],
    )
    api.found = found
    provide(api, found)
    problems.install(api, found.problems)
    docs.install(api)
    console.install(api)
    return api
