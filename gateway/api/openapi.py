"""The OpenAPI document: what FastAPI sees of the routes, and what it does not.

Bodies are read by our own code (`bodies`), so a route declares its body with `request_body` or `patch_body`.
Examples come from `examples`, problems from `operation_problems`, descriptions of fields from the models' sources
(`described_model`). All of that is put together when somebody asks for the document: the start of the server pays
nothing for it.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.api import examples
from gateway.api.bodies import NDJSON
from gateway.api.operation_problems import OF_ITEMS, WITHOUT_KEY, codes_of
from gateway.api.problems import MEDIA_TYPE
from gateway.api.responses import ProblemDocument
from gateway.errors import CATALOGUE, Problem

DESCRIPTION: Final = """
Push for a private fleet of devices, told truthfully.

Every call below `/v1` needs `Authorization: Bearer KEY`, but for those below `/v1/enrol`; pages of the console send the
cookie of a session instead, and with a call that changes something the header `Fleetpush-Console: 1`. Lists take
`limit` and `cursor`. Every refusal is a problem document (RFC 9457); [all of them](/docs/problems).
"""
FILE_SCHEMA: Final = {"$ref": "#/components/schemas/FileContent"}
"""The bytes of a file, as they are."""
_FILE: Final = {"type": "string", "format": "binary", "description": "The bytes of a file, as they are."}
_SCHEMA: Final = "#/components/schemas/{model}"
_EXAMPLE: Final = "#/components/examples/{code}"
_SECURITY: Final = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key. `POST /v1/keys` makes one."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "fleetpush_session",
        "description": "A session of the console (over TLS: `__Host-fleetpush_session`). `POST /v1/session` begins"
        " one. Calls that change something need the header `Fleetpush-Console: 1` as well, and come from a page"
        " of the server.",
    },
    "deviceToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of the device that the path names.",
    },
    "device": {
        "type": "http",
        "scheme": "basic",
        "description": "The MQTT user name of a device, and its token as the password.",
    },
}
_OF_DEVICES: Final = {
    "/v1/devices/{device_id}/preferences": "deviceToken",
    "/v1/devices/{device_id}/token/renewal": "deviceToken",
    "/v1/attachments/{attachment_id}": "device",
}
"""Paths that devices use with their own credential, and how they show it. Removing is for keys."""
_RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds to wait before asking again.", "schema": {"type": "integer", "minimum": 1}}
}
_CHALLENGE: Final = {
    "WWW-Authenticate": {"description": "How to show a credential (RFC 9110).", "schema": {"type": "string"}}
}
_HEADERS: Final = {
    status: {name: {"$ref": f"#/components/headers/{name}"}}
    for status, name in (
        ("401", "WWW-Authenticate"),
        ("429", "Retry-After"),
        ("503", "Retry-After"),
        ("507", "Retry-After"),
    )
}
_NO_CONTENT: Final = "Done. The answer has no body."

_models: dict[str, type[BaseModel]] = {ProblemDocument.__name__: ProblemDocument}
"""Models that FastAPI does not see in the routes; filled by `request_body` while they are defined."""
_patched: set[str] = set()
"""Names of models of which a body may leave out everything."""


def request_body(
    model: type[BaseModel], media_type: str = "application/json", *, required: bool = True
) -> dict[str, Any]:
    """Make the `openapi_extra` of a route that reads this body."""
    _models[model.__name__] = model
    schema = {"$ref": _SCHEMA.format(model=model.__name__)}
    return {"requestBody": {"required": required, "content": {media_type: {"schema": schema}}}}


def patch_body(model: type[BaseModel], media_type: str) -> dict[str, Any]:
    """Make the `openapi_extra` of a route that reads a JSON Merge Patch (RFC 7396) of the model."""
    _patched.add(model.__name__)
    return request_body(model, media_type)


def idempotent(extra: dict[str, Any], thing: str = "push", remembered: str = "for 24 hours") -> dict[str, Any]:
    """Add the header `Idempotency-Key` to what `request_body` has made.

    `thing`: what a request makes; `remembered`: how long the key is.
    """
    text = (
        f"1 to 255 printable ASCII characters, remembered {remembered} per app. The same key with the same body is one"
        f" {thing}: the first answer is given again. With another body: 422 `idempotency_key_reused`. Left out: each"
        f" request is a new {thing}."
    )
    return {**extra, "parameters": [header("Idempotency-Key", text, minLength=1, maxLength=255)]}


def header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A request header as a parameter of the document."""
    found = {"name": name, "in": "header", "required": False, "description": description}
    return {**found, "schema": {"type": "string", **schema}}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once; it takes some tenths of a second."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document = _name_response_schemas(document)
    components = document["components"]
    schemas = components["schemas"]
    renamed = _add_request_schemas(schemas)
    schemas["FileContent"] = _FILE
    components["examples"] = {
        code: {"summary": row.title, "value": Problem(code, row.when).document()} for code, row in CATALOGUE.items()
    }
    components["headers"] = {**_RETRY_AFTER, **_CHALLENGE}
    components["securitySchemes"] = _SECURITY
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                operation["requestBody"] = _renamed(operation["requestBody"], renamed)
            _complete(method, path, operation, schemas)
    app.openapi_schema = document
    return document


def _complete(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Add to an operation what FastAPI does not know of it: examples, the problems it can answer, whose it is."""
    for parameter in operation.get("parameters", ()):
        if parameter["required"] and parameter["name"] in examples.PARAMETERS:
            parameter["example"] = examples.PARAMETERS[parameter["name"]]
    body = operation.get("requestBody")
    if body is not None:
        for kind, content in body["content"].items():
            text = schemas[_model_of(content)]["description"]
            body.setdefault("description", f"On each line: {text}" if kind in NDJSON else text)
            example = examples.body_of(method, path, kind)
            if example is not None:
                content["example"] = example
    operation["responses"].pop("422", None)  # the framework's
    for status, response in operation["responses"].items():
        _complete_success(method, path, status, response, schemas)
    operation["responses"] |= _refusals(codes_of(method, path, operation))
    if path == "/v1/session" and method != "post":
        operation["security"] = [{"session": []}]
    elif path.startswith("/v1/") and (method, path) not in WITHOUT_KEY:
        operation["security"] = [{"key": []}, {"session": []}]
        if path in _OF_DEVICES and method != "delete":
            operation["security"].append({_OF_DEVICES[path]: []})


def _complete_success(method: str, path: str, status: str, response: dict[str, Any], schemas: dict[str, Any]) -> None:
    if status == "204":
        response["description"] = _NO_CONTENT
    for kind, content in response.get("content", {}).items():
        model = _model_of(content)
        example = examples.answer_of(method, path, status, kind, model)
        if example is not None:
            content["example"] = example
        if response["description"] == "Successful Response" and model in schemas:
            response["description"] = schemas[model]["description"]
    items = OF_ITEMS.get((method, path))
    if items:
        codes = ", ".join(f"`{code}`" for code in CATALOGUE if code in items)
        response["description"] += f" The problem of a single item is one of: {codes}."


def _model_of(content: dict[str, Any]) -> str:
    """The name of the schema that a content refers to; empty if it refers to none."""
    return str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]


def _refusals(codes: list[str]) -> dict[str, Any]:
    """The responses with these problem codes, by status. Not shared by reference, which not every generator follows."""
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(CATALOGUE[code].status), []).append(code)
    return {status: _refusal(status, group) for status, group in sorted(by_status.items())}


def _refusal(status: str, codes: list[str]) -> dict[str, Any]:
    content = {
        "schema": {"$ref": _SCHEMA.format(model=ProblemDocument.__name__)},
        "examples": {code: {"$ref": _EXAMPLE.format(code=code)} for code in codes},
    }
    described = {
        "description": " ".join(f"`{code}`: {CATALOGUE[code].title}." for code in codes),
        "content": {MEDIA_TYPE: content},
    }
    return {**described, "headers": _HEADERS[status]} if status in _HEADERS else described


def _name_response_schemas(document: dict[str, Any]) -> dict[str, Any]:
    """Rename the schemas of responses: `Push` for `PushResponse`. Clients are generated from these names, and there is
    no other thing that they could be taken for."""
    schemas: dict[str, Any] = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # the framework's shape, which we never answer
        schemas.pop(name, None)
    names = {name: name.removesuffix("Response") for name in schemas}
    for name, schema in schemas.items():
        schema["title"] = names[name]
    document = _renamed(document, names)
    renamed = {names[name]: schema for name, schema in document["components"]["schemas"].items()}
    document["components"]["schemas"] = dict(sorted(renamed.items()))
    return document


def _add_request_schemas(schemas: dict[str, Any]) -> dict[str, str]:
    """Add the schemas of request bodies. Some have the name of an answer's and another shape: their new names."""
    _, definitions = models_json_schema([(model, "validation") for model in _models.values()], ref_template=_SCHEMA)
    found: dict[str, Any] = definitions["$defs"]
    for name in _patched:
        _make_patch(found[name])
    renamed: dict[str, str] = {}
    # What refers to something that is renamed differs from the answer's as well.
    while more := {
        name: f"{name}Request"
        for name, schema in found.items()
        if name not in renamed and name in schemas and _renamed(schema, renamed) != schemas[name]
    }:
        renamed |= more
    schemas.update({renamed.get(name, name): _renamed(schema, renamed) for name, schema in found.items()})
    return renamed


def _make_patch(schema: dict[str, Any]) -> None:
    schema.pop("required", None)
    schema["description"] += " Of a merge patch: a field that is left out stays as it is, null removes it."
    for field in schema["properties"].values():
        field.pop("default", None)


def _renamed(part: Any, names: dict[str, str]) -> Any:
    """A part of the document in which references go to the new names."""
    if isinstance(part, dict):
        return {
            key: _new_reference(value, names) if key == "$ref" else _renamed(value, names)
            for key, value in part.items()
        }
    return [_renamed(item, names) for item in part] if isinstance(part, list) else part


def _new_reference(reference: str, names: dict[str, str]) -> str:
    name = reference.rpartition("/")[2]
    return _SCHEMA.format(model=names.get(name, name))
