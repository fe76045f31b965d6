"""Values of stored rows: messages as columns, properties as text, times as whole microseconds.

Server times are seconds in memory, and whole microseconds in a row.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from broker.message import Body, Message
from broker.protocol.packets import Properties


def message_of(
    topic: str, payload: bytes, qos: int, retain: int, properties: str | None, expires_at: int | None
) -> Message:
    """Return the message that was stored in these columns."""
    body = Body(payload, _decode_properties(properties), optional_seconds(expires_at))
    return Message(topic, body, qos, bool(retain))


def message_columns(message: Message) -> tuple[Any, ...]:
    """Return topic, QoS, RETAIN, properties and expiry; the payload goes its own way."""
    return message.topic, message.qos, int(message.retain), *body_columns(message.body)


def body_columns(body: Body) -> tuple[str | None, int | None]:
    """Return properties and expiry of a body."""
    return _encode_properties(body.properties), optional_microseconds(body.expires_at)


def _encode_properties(properties: Properties | None) -> str | None:
    """Encode the properties that are present as a JSON object; binary ones in hexadecimal."""
    if properties is None:
        return None
    present = {field.name: getattr(properties, field.name) for field in fields(Properties)}
    return json.dumps(
        {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in present.items()
            if value is not None and value != []
        }
    )


_BINARY_PROPERTIES = ("correlation_data", "authentication_data")


def _decode_properties(text: str | None) -> Properties | None:
    if text is None:
        return None
    values: dict[str, Any] = json.loads(text)
    for name in _BINARY_PROPERTIES:
        if name in values:
            values[name] = bytes.fromhex(values[name])
    if "user_properties" in values:
        values["user_properties"] = [(name, value) for name, value in values["user_properties"]]
    return Properties(**values)


def microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def seconds(microseconds: int) -> float:
    return microseconds / 1_000_000


def optional_microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else microseconds(seconds)


def optional_seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else seconds(microseconds)
