"""The reference page of the HTTP API, from its OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.api.problems import MEDIA_TYPE
from tests.documents.markdown import table

Document = Mapping[str, Any]

GROUPS: Final = {
    "pushes": "Pushes and attachments",
    "devices": "Devices",
    "enrolment": "Enrolment",
    "topics": "Topics",
    "segments": "Segments",
    "channels and policy": "Channels and policy",
    "events": "Events and webhooks",
    "analytics": "Analytics",
    "apps": "Apps",
    "keys": "Keys",
    "session": "Sessions of the console",
    "health": "Health",
}
"""Title of each tag of the document, in the order of the page."""


def page(document: Document) -> str:
    operations = "\n\n".join(
        part for tag, title in GROUPS.items() for part in (f"## {title}", *_operations(document, tag))
    )
    schemas = "\n\n".join(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items()))
    return f"""# HTTP API

The interface of version {document["info"]["version"]}, made from its OpenAPI document. A server shows the same at
`/docs`, with forms to try it, and answers the document itself at `/openapi.json` for generators of clients.

- Everything below `/v1` but `/v1/enrol` needs `Authorization: Bearer KEY`. A key belongs to one app and has some of
  the scopes `send`, `read`, `devices` and `admin`; what belongs to another app is 404.
- Bodies and answers are JSON in UTF-8. Unknown fields are refused with 422.
- Times are RFC 3339 in UTC with milliseconds; a time that you send needs its offset.
- Lists take `limit` (1 to 1,000, default 100) and `cursor`, and answer `items` and `next_cursor`.
- HEAD is answered wherever GET is. Every refusal is a [problem document](errors.md).

{table(("operation", "does", "key"), list(_overview(document)))}

{operations}

## Objects

{schemas}
"""


def _overview(document: Document) -> Iterator[tuple[str, str, str]]:
    """Each operation with its first sentence and the scopes, any of which its key needs."""
    for tag in GROUPS:
        for path, found in document["paths"].items():
            for method, operation in found.items():
                if operation["tags"] == [tag]:
                    text = " ".join(operation["description"].split())
                    scopes = re.findall(r"`(send|read|devices|admin)`", text.partition(" scope ")[2][:30])
                    anchor = re.sub(r"[^\w\- ]", "", f"{method} {path}").replace(" ", "-").lower()
                    yield (
                        f"[`{method.upper()} {path}`](#{anchor})",
                        re.split(r"(?<=[a-z`)]): |[.;] ", text)[0].rstrip("."),
                        " or ".join(f"`{scope}`" for scope in scopes) or "none",
                    )


def _operations(document: Document, tag: str) -> Iterator[str]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            if operation["tags"] == [tag]:
                yield _operation(method, path, operation)


def _operation(method: str, path: str, operation: Document) -> str:
    parts = [f"### `{method.upper()} {path}`", operation["description"]]
    parameters = [
        (
            f"`{parameter['name']}`",
            parameter["in"],
            _type(parameter["schema"]),
            _required(parameter["description"], parameter["required"] and parameter["in"] != "path"),
        )
        for parameter in operation.get("parameters", ())
    ]
    if parameters:
        parts.append(table(("parameter", "in", "type", "meaning"), parameters))
    if "requestBody" in operation:
        body = operation["requestBody"]
        parts += _content("Body", body["description"], body["content"])
    codes: list[str] = []
    for status, response in operation["responses"].items():
        contents = response.get("content", {})
        if MEDIA_TYPE in contents:
            codes += contents[MEDIA_TYPE]["examples"]
        else:
            parts += _content(status, response["description"], contents)
    parts.append(f"Refused with: {', '.join(f'`{code}`' for code in codes)}.")
    return "\n\n".join(parts)


def _content(what: str, text: str, contents: Document) -> Iterator[str]:
    """Each media type with its object; the first example that can be shown."""
    kinds = ", ".join(f"`{kind}`{_of(content.get('schema', {}))}" for kind, content in contents.items())
    yield f"**{what}**{f' ({kinds})' if kinds else ''}: {text}"
    for kind, content in contents.items():
        example = content.get("example")
        if isinstance(example, str) and example:
            language = "csv" if "csv" in kind else "text"
            yield f"```{language}\n{example.strip()}\n```"
            return
        if example is not None:
            yield f"```json\n{_json(example)}\n```"
            return


def _json(value: Any, indent: str = "") -> str:
    """JSON with one member on a line, or what fits on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(flat) <= 110 or not value or not isinstance(value, dict | list):
        return flat
    deeper = f"{indent}  "
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"{deeper}{_json(item, deeper)}" for item in value) + f"\n{indent}]"
    members = (f"{deeper}{json.dumps(name)}: {_json(item, deeper)}" for name, item in value.items())
    return "{\n" + ",\n".join(members) + f"\n{indent}}}"


def _of(schema: Document) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f" [{name}](#{name.lower()})" if name else ""


def _schema(name: str, schema: Document) -> str:
    parts = [f"### {name}", schema["description"]]
    needed = schema.get("required", ())
    rows = [
        (f"`{field}`", _type(described), _required(described["description"], field in needed))
        for field, described in schema.get("properties", {}).items()
    ]
    return "\n\n".join([*parts, table(("field", "type", "meaning"), rows)] if rows else parts)


def _required(text: str, required: bool) -> str:
    return f"**Required.** {text}" if required else text


def _type(schema: Document) -> str:
    """The type of a field, in few words; its limits are in its description."""
    if "$ref" in schema:
        return _of(schema).strip()
    if "anyOf" in schema:
        kinds = [_type(part) for part in schema["anyOf"] if part.get("type") != "null"]
        null = any(part.get("type") == "null" for part in schema["anyOf"])
        return " or ".join([*dict.fromkeys(kinds), *(["null"] if null else [])])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        inner = schema["additionalProperties"]
        return f"object of {_type(inner)}" if inner else "object"
    if schema.get("format") == "date-time":
        return "time"
    return str(schema.get("type", "any JSON"))
