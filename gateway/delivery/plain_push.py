"""Pushes as most of them are: to one device, with data or a text, and nothing that is looked up elsewhere.

A `PushRequest` is a model with validators in Python, for which a batch of ten thousand has no time. The fields of a
plain push have the same constraints, taken from that model; they are checked by one call into pydantic-core, which
answers a dictionary, and the rest of what makes a push is done here. Whatever is not plain, or wrong in any way, is
left to `PushRequest`, which alone has words for mistakes: there is one set of rules, and a short way to pass them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic_core import CoreSchema, SchemaValidator, core_schema, to_json

from gateway.delivery.notification import Notification
from gateway.delivery.push import DEFAULT_TTL_SECONDS, PushRequest, Target, data_text, payload_size
from gateway.delivery.submission import AppRef, IdempotencyKey, PendingPush
from gateway.delivery_states import PRIORITIES

PLAIN_BYTES = 8 * 1024
"""Bytes of a plain push; of a larger one the values are counted before any is made."""


def _fields(model: type[BaseModel], *names: str) -> dict[str, CoreSchema]:
    """Schemas of fields of a model, with their constraints."""
    found = {}
    for name in names:
        field = model.model_fields[name]
        constrained: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        found[name] = TypeAdapter(constrained).core_schema
    return found


def _dictionary(fields: dict[str, CoreSchema], required: Iterable[str] = ()) -> CoreSchema:
    """A schema of dictionaries with some of these fields and no others."""
    return core_schema.typed_dict_schema(
        {name: core_schema.typed_dict_field(schema, required=name in required) for name, schema in fields.items()},
        extra_behavior="forbid",
        config=core_schema.CoreConfig(strict=True),
    )


_PUSH = {
    "target": _dictionary(_fields(Target, "device"), ["device"]),
    **_fields(PushRequest, "kind", "data", "channel", "priority", "qos", "ttl", "collapse_key"),
    "notification": core_schema.nullable_schema(_dictionary(_fields(Notification, "title", "body"))),
}
_KEY = {"idempotency_key": TypeAdapter(IdempotencyKey | None).core_schema}
_check_push = SchemaValidator(_dictionary(_PUSH, ["target"])).validate_json
_check_line = SchemaValidator(_dictionary(_PUSH | _KEY, ["target"])).validate_json
_PRIORITY = {name: number for number, name in enumerate(PRIORITIES)}


def plain_push(app: AppRef, body: bytes, max_payload: int, *, is_line: bool = False) -> PendingPush | None:  # Hot path.
    """A pending push from its JSON; None if it is not plain, or not right. `is_line`: of a batch, with its key."""
    if len(body) > PLAIN_BYTES:
        return None
    try:
        fields = (_check_line if is_line else _check_push)(body)
        kind, notification = fields.get("kind"), fields.get("notification")
        content = ""
        if notification is not None:
            texts = {name: text for name, text in notification.items() if text is not None}
            if not any(texts.values()):
                return None
            content = f'"notification":{to_json(texts).decode()}'
        elif kind == "alert" or kind == "in_app":
            return None
        if "data" in fields:
            data = data_text(fields["data"])
            content = f'{content},"data":{data}' if content else f'"data":{data}'
    except (ValueError, RecursionError):  # what it says is of no use
        return None
    device_id = fields["target"]["device"]
    if device_id is None:
        return None
    if kind is None:
        kind = "alert" if notification is not None else "silent"
    content = f"{{{content}}}"
    priority, ttl = fields.get("priority", "normal"), fields.get("ttl", DEFAULT_TTL_SECONDS)
    channel, collapse_key = fields.get("channel"), fields.get("collapse_key")
    size = payload_size(kind, priority, ttl, channel, collapse_key, content)
    if size > max_payload:
        return None
    pending = PendingPush(
        app, kind, _PRIORITY[priority], fields.get("qos", 1), ttl, channel, collapse_key, content, size, [device_id]
    )
    pending.idempotency_key = fields.get("idempotency_key")
    return pending
