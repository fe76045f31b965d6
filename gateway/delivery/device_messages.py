"""Parsing of what devices publish: receipts, settings, reports, uplink. Nothing is stored here.

What is not usable is refused with a text for the device's `last_error`. Unknown fields are ignored: a device may be
newer than the server.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from gateway.audience.time_zones import is_time_zone
from gateway.delivery.consent import DeviceSettings

V = TypeVar("V")

MAX_RECEIPTS = 1_000
"""Receipts in one message; a device that was away sends several."""
MAX_MESSAGE_BYTES = 65_536
"""Bytes of a message that is parsed; uplink payloads are bounded by the broker's packet size alone."""
MANY_ERRORS = 100
"""Mistakes in a message; more are not put into words, which takes 10 us each."""


def _finite(value: Any) -> Any:
    """Refuse NaN and Infinity, which the parser lets pass: every answer that repeats them would be no JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise ValueError("NaN and Infinity are not JSON") from error
    return value


PushId = Annotated[str, StringConstraints(min_length=1, max_length=64)]


@dataclass(slots=True)
class Receipt:
    """A receipt as a device sends it. Unknown fields are ignored: a device may be newer than the server.

    No model, which takes a kilobyte: thousands of a device may wait for the writer.
    """

    __pydantic_config__ = ConfigDict(strict=True)

    push_id: PushId
    event: Literal["delivered", "displayed", "opened", "dismissed", "acted"]
    action: Annotated[str, StringConstraints(max_length=64)] | None = None
    result: Annotated[Any, AfterValidator(_finite)] = None
    reason: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,32}$")] | None = None
    """Reason why the device dismissed it by itself; without one a person did. Ignored for other events."""
    at: Annotated[AwareDatetime, Field(strict=False)] | None = None
    """The device's own clock; checked for form, not believed: the server's time stamps are its own."""


_RECEIPTS: TypeAdapter[list[Receipt]] = TypeAdapter(Annotated[list[Receipt], Field(max_length=MAX_RECEIPTS)])
_RECEIPT = TypeAdapter(Receipt)
_SETTINGS = TypeAdapter(DeviceSettings)
_PUSH_ID: TypeAdapter[str] = TypeAdapter(PushId)
_REPORT: TypeAdapter[dict[str, Any]] = TypeAdapter(Annotated[dict[str, Any], AfterValidator(_finite)])


class Unusable(Exception):
    """Refusal of a message, which is dropped; the text is the device's `last_error`."""


def parse(leaf: str, payload: bytes) -> Any:
    """Parse a device's message by its topic; None when there is nothing to store. Raises Unusable."""
    if leaf == "receipts":
        return parse_receipts(payload)
    if leaf == "settings":
        return _validated(_SETTINGS, payload)
    if leaf == "report":
        report = _validated(_REPORT, payload)
        zone = report.get("timezone")
        if zone is not None and not is_time_zone(zone):
            raise Unusable(f"unknown time zone {str(zone)[:64]!r}: use an IANA name such as Europe/Berlin")
        return report
    if leaf.startswith("uplink/") or leaf == "uplink":
        return payload
    return None  # presence: the embedded broker knows by itself


def parse_receipts(payload: bytes) -> list[Receipt]:
    """Parse one receipt, a list of them, or a bare push id."""
    text = payload.strip()
    if text[:1] == b"[":
        return _validated(_RECEIPTS, text)
    if text[:1] == b"{":
        return [_validated(_RECEIPT, text)]
    if text[:1] == b'"':
        return [Receipt(push_id=_validated(_PUSH_ID, text), event="delivered")]
    try:
        bare = text.decode("ascii")
    except UnicodeDecodeError:
        bare = ""
    if not 1 <= len(bare) <= 64 or not all(c.isalnum() or c in "_-" for c in bare):
        raise Unusable("neither a receipt, a list of receipts nor a push id")
    return [Receipt(push_id=bare, event="delivered")]


def _validated(adapter: TypeAdapter[V], payload: bytes) -> V:
    if len(payload) > MAX_MESSAGE_BYTES:
        raise Unusable(f"{len(payload)} bytes; at most {MAX_MESSAGE_BYTES} are read")
    try:
        return adapter.validate_json(payload)
    except ValidationError as error:
        if error.error_count() > MANY_ERRORS:
            raise Unusable(f"{error.error_count()} of its fields are not what they should be") from None
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unusable(f"{where}: {first['msg']}" if where else str(first["msg"])) from error
