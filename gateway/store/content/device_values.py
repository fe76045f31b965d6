"""Values of devices that templates read: devices are grouped by them, a row for each combination."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pyroaring import BitMap

from gateway.store.transaction import Transaction

_OWN_COLUMNS = {"id": "d.id", "name": "d.name", "locale": "d.locale", "timezone": "d.timezone"}
_ASKED_TAGS = (
    "(SELECT json_group_array(t.tag) FROM (SELECT tag FROM device_tag WHERE device_no = d.no"
    " AND tag IN (SELECT value FROM json_each(?)) ORDER BY tag) AS t)"
)
_TAGS = "(SELECT json_group_array(t.tag) FROM (SELECT tag FROM device_tag WHERE device_no = d.no ORDER BY tag) AS t)"


class DeviceGroup(NamedTuple):
    """Live devices of which the same is read."""

    values: list[Any]
    """A value for each variable; tags and attributes as JSON, and None for what is not there."""
    locale: str | None
    """None as well if it makes no difference."""
    devices: BitMap


def group_devices(
    transaction: Transaction,
    segment: BitMap,
    variables: Sequence[tuple[Any, ...]],
    asked_tags: frozenset[str] | None,
    *,
    is_localized: bool,
) -> Iterator[DeviceGroup]:
    """Group the live devices of a segment by the values of variables, and by locale if that counts. Reader thread.

    `variables` are paths below `device`; `asked_tags` those tags that make a difference, None: all do.
    """
    columns, parameters = _columns(variables, asked_tags)
    columns.append("d.locale" if is_localized else "NULL")
    order = ", ".join(str(number + 1) for number in range(len(columns)))
    for *values, locale, numbers in transaction.execute(
        f"SELECT {', '.join(columns)}, json_group_array(d.no) FROM json_each(?) AS w"
        " CROSS JOIN device AS d ON d.no = w.value WHERE d.removed_at IS NULL"
        f" GROUP BY {order}",
        (*parameters, str(segment.to_array().tolist())),
    ):
        yield DeviceGroup(values, locale, BitMap(json.loads(numbers)))


def _columns(variables: Sequence[tuple[Any, ...]], asked_tags: frozenset[str] | None) -> tuple[list[str], list[str]]:
    """The columns that have the values, and their parameters."""
    columns: list[str] = []
    parameters: list[str] = []
    for path in variables:
        if path == ("tags",):
            columns.append(_TAGS if asked_tags is None else _ASKED_TAGS)
            parameters += [] if asked_tags is None else [json.dumps(sorted(asked_tags))]
        elif path[0] != "attributes":
            columns.append(_OWN_COLUMNS[path[0]])
        elif len(path) == 1:
            columns.append("d.attributes")
        else:
            # `->` keeps what JSON tells apart, such as "1", 1 and true; what is not there is NULL.
            columns.append("d.attributes -> ?")
            parameters.append("$" + "".join(_step(segment) for segment in path[1:]))
    return columns, parameters


def _step(segment: str | int) -> str:
    return f"[{segment}]" if isinstance(segment, int) else f'."{segment}"'
