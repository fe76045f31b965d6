"""Every refusal leaves as a problem document (RFC 9457), whoever refused: our code, a validator, the framework.

A `Problem` of the catalogue is answered as it is. Everything else is translated here, once: validation errors name the
field and what it may be, unknown paths and methods say where to look, an exception nobody expected is 500 and logged,
with nothing of it in the answer.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, get_args

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from gateway.errors import CATALOGUE, BasicUnauthorized, Problem, RetryableProblem, problem
from gateway.misspelling import nearest
from gateway.store.errors import StorageBusy, StorageError, StorageFull, storage_problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
SHOWN_ERRORS = 3
"""Mistakes that one detail names; more are rarely read."""
MANY_ERRORS = 100
"""More mistakes are counted and not named: each takes 10 us to be put into words."""
SHOWN_NAME_CHARACTERS = 64
"""Characters of a field's name that are repeated to whoever sent it."""
CACHED_PLACES = 256
"""Places of models whose fields are kept for suggestions: more than all models have."""
BASIC_CHALLENGE = 'Basic realm="Fleetpush device", charset="UTF-8"'
"""Clients that wait to be asked (wget, Java, .NET, urllib) send user name and token when they see it."""
_HEADERS: dict[str, dict[str, str]] = {
    "unauthorized": {"WWW-Authenticate": "Bearer"},
    "busy": {"Retry-After": "1"},
    "outcome_unknown": {"Retry-After": "5"},
    "storage_damaged": {"Retry-After": "60"},
    "storage_failed": {"Retry-After": "5"},
    "unavailable": {"Retry-After": "1"},
    "storage_full": {"Retry-After": "60"},
}


class ProblemCount:
    """Counts of the problems answered, by code, for metrics."""

    def __init__(self) -> None:
        self.by_code: dict[str, int] = {}

    def add(self, code: str) -> None:
        self.by_code[code] = self.by_code.get(code, 0) + 1


def install(app: FastAPI, count: ProblemCount) -> None:
    """Make every error of the app a problem document."""

    def answer(refusal: Problem, headers: Mapping[str, str] | None = None) -> Response:
        count.add(refusal.code)
        return problem_response(refusal, headers)

    async def on_problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem), "registered for it"
        return answer(error)

    async def on_storage(request: Request, error: Exception) -> Response:
        assert isinstance(error, StorageError), "registered for it"
        if not isinstance(error, StorageFull | StorageBusy):  # which the answer explains
            log.error("%s: %s", error.code, error)
        return answer(storage_problem(error, has_key="idempotency-key" in request.headers))

    async def on_parameters(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "registered for it"
        return answer(problem("invalid_request", explain(error.errors())))

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for it"
        if error.status_code == 405:
            allowed = ", ".join(allowed_methods(request))
            text = f"{request.method} is not for this path; it takes {allowed}"
            return answer(problem("method_not_allowed", text), {"Allow": allowed})
        return answer(translated(error), error.headers)

    async def on_disconnect(_: Request, error: Exception) -> Response:
        return answer(problem("malformed_request", "the connection ended before the body did"))

    async def on_anything(request: Request, error: Exception) -> Response:
        # The framework logs the traceback after this; the path without its query is enough to find the call.
        route = request.scope.get("route")  # none where `http.Api` has gone around the routes, for its one path
        path = request.url.path if route is None else route.path
        log.error("%s %s failed: %s", request.method, path, type(error).__name__)
        return answer(problem("internal_error", "the server failed on this request; its log says why"))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(StorageError, on_storage)
    app.add_exception_handler(RequestValidationError, on_parameters)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(Exception, on_anything)


async def answer(request: Request, error: Exception) -> tuple[Response, bool]:
    """Answer an error as the app's handlers do; False with it if nobody has thought of such an error."""
    handlers = request.app.exception_handlers
    kind = next(kind for kind in type(error).__mro__ if kind in handlers)
    return await handlers[kind](request, error), kind is not Exception


def problem_response(refusal: Problem, headers: Mapping[str, str] | None = None) -> Response:
    all_headers = {**_HEADERS.get(refusal.code, {}), **(headers or {})}
    if isinstance(refusal, BasicUnauthorized):
        all_headers["WWW-Authenticate"] = BASIC_CHALLENGE
    if isinstance(refusal, RetryableProblem):
        all_headers["Retry-After"] = str(math.ceil(refusal.retry_after))
    content = json.dumps(refusal.document(), ensure_ascii=False).encode(errors="replace")
    return Response(content, refusal.status, all_headers, MEDIA_TYPE)


def translated(error: HTTPException) -> Problem:
    """Translate a refusal of the framework into a problem."""
    if error.status_code == 404:
        return problem("not_found", "there is no such path; /docs lists them all")
    for code, row in CATALOGUE.items():
        if row.status == error.status_code:
            return problem(code, str(error.detail))
    return problem("malformed_request", str(error.detail))


def allowed_methods(request: Request) -> list[str]:
    """Return the methods that the path takes. The framework names those of the first route it finds; a path here has
    several."""
    found = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return ["GET", "HEAD", *found[1:]] if found[:1] == ["GET"] else found


def validation_problem(error: ValidationError, body: bytes = b"", model: type[BaseModel] | None = None) -> Problem:
    """400 when the body is not JSON, 422 when it is JSON but not what is wanted.

    With the model, an unknown field that is like one of its fields is answered with that.
    """
    mistakes = error.error_count()
    if mistakes > MANY_ERRORS:
        text = f"{mistakes} fields are unknown or not what they should be; /docs shows what this call takes"
        return problem("invalid_request", text)
    errors = error.errors(include_url=False, include_input=False, include_context=True)
    if errors[0]["type"] != "json_invalid":
        return problem("invalid_request", explain(errors, model))
    return json_problem(str(errors[0]["msg"]).removeprefix("Invalid JSON: "), body)


def json_problem(reason: str, body: bytes) -> Problem:
    """Explain why the body is no JSON that can be used, in place of its parser's words."""
    if "hex escape" in reason and _is_json(body):
        return problem("invalid_request", f"an unpaired surrogate cannot be written in UTF-8: {reason}")
    if "recursion limit" in reason:
        return problem("invalid_request", f"nested too deeply: {reason}")
    return problem("malformed_json", reason)


def _is_json(body: bytes) -> bool:
    """Check a body by the grammar alone, which allows unpaired surrogates (RFC 8259, section 8.2)."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def explain(errors: Iterable[Any], model: type[BaseModel] | None = None) -> str:
    """Validation errors (pydantic's) in one line: each field, and what to do about it."""
    found = list(errors)
    lines = [_explain_one(error, model) for error in found[:SHOWN_ERRORS]]
    if len(found) > SHOWN_ERRORS:
        lines.append(f"and {len(found) - SHOWN_ERRORS} more")
    return "; ".join(lines)


def _explain_one(error: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    location = [str(part) for part in error["loc"] if part not in ("query", "path", "header")]
    field = ".".join(location)[:SHOWN_NAME_CHARACTERS]
    message = _message(error, model)
    return f"{field}: {message}" if field else message


def _message(error: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            near = _meant(model, error["loc"]) if model is not None else None
            return f"unknown field; did you mean {near!r}?" if near else "unknown field; leave it out"
        case "missing":
            return "is required"
        case "too_short" if context.get("field_type") == "List":
            return f"needs at least {context['min_length']}, and has {context['actual_length']}"
        case "too_long" if context.get("field_type") == "List":
            return f"may have {context['max_length']} at most, and has {context['actual_length']}"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
        case "timezone_aware":
            return "a time needs its offset, as in 2026-12-01T09:00:00+01:00 or 2026-12-01T08:00:00Z"
        case "value_error":
            return str(error["msg"]).removeprefix("Value error, ")
    text = str(error["msg"])
    return "must" + text.removeprefix("Input should") if text.startswith("Input should") else text


def _meant(model: type[BaseModel], location: tuple[str | int, ...]) -> str | None:
    """Return the field that an unknown one was probably meant to be."""
    *path, name = location
    if not isinstance(name, str):
        return None
    return nearest(name[:SHOWN_NAME_CHARACTERS], _fields(model, tuple(part for part in path if isinstance(part, str))))


@lru_cache(maxsize=CACHED_PLACES)
def _fields(model: type[BaseModel], path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fields that may be at this place of a model; none if it holds no model there."""
    models = {model}
    for part in path:
        models = {
            inner for outer in models if (field := outer.model_fields.get(part)) for inner in _models(field.annotation)
        }
    return tuple(name for found in models for name in found.model_fields)


def _models(annotation: Any) -> set[type[BaseModel]]:
    """Return the models in an annotation: `list[Action] | None` has one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in get_args(annotation) for model in _models(argument)}
