"""Devices grouped by what the templates of a push read of them: each group gets one text.

A push to a fleet is rendered once for each *combination* of the values that its templates use, and not for each device:
a hundred thousand devices in five languages are five. The groups are formed by SQLite, on a reader, in segments of a
set of devices (`store/audience/device_sets`); each row that comes back is a combination and its devices.

The number of combinations is bounded: each is rendered, checked, stored with the push and kept in memory while it is
being handed over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyroaring import BitMap

from gateway.content.documents import Document, without_null
from gateway.content.locales import LocaleChoice
from gateway.errors import problem
from gateway.store.audience.device_sets import segments_of
from gateway.store.content.device_values import group_devices
from gateway.store.database import Database
from gateway.store.transaction import Transaction

MAX_COMBINATIONS = 1_000
"""Combinations of a push, and so its texts: of 4 KiB each, the default limit, they are 4 MiB, and rendering them takes
about a tenth of a second."""


@dataclass(slots=True)
class Combination:
    """Devices for which templates render the same."""

    texts: tuple[str, ...]
    """The locales of the texts that they get, those that go first first."""
    device: dict[str, Any]
    """The variable `device`, as far as templates read it."""
    devices: BitMap


class Combinations:
    """Groups devices by the values of variables (paths below `device`), and by locale if there are texts by it."""

    def __init__(
        self,
        variables: Sequence[tuple[Any, ...]],
        locales: LocaleChoice,
        *,
        is_localized: bool,
        asked_tags: frozenset[str] | None = None,
    ) -> None:
        """`asked_tags`: those that make a difference; None: all do."""
        self._variables = variables
        self._asked_tags = asked_tags
        self._locales = locales
        self._is_localized = is_localized
        self._found: dict[tuple[Any, ...], Combination] = {}

    @property
    def found(self) -> list[Combination]:
        """The groups of the devices that were added."""
        return list(self._found.values())

    def add(self, transaction: Transaction, segment: BitMap) -> None:
        """Add the devices of a segment. Reader thread. Raises Problem 422 when there are too many combinations."""
        if ("id",) in self._variables and len(self._found) + len(segment) > MAX_COMBINATIONS:
            raise self._too_many()
        for values, locale, devices in group_devices(
            transaction, segment, self._variables, self._asked_tags, is_localized=self._is_localized
        ):
            self._add(values, self._locales.of(locale), devices)

    def add_alike(self, devices: BitMap) -> None:
        """Add devices of which nothing is read: they are all alike."""
        if devices:
            self._add((), (), devices)

    def _add(self, values: Sequence[Any], texts: tuple[str, ...], devices: BitMap) -> None:
        key = (texts, *values)
        known = self._found.get(key)
        if known is not None:
            known.devices |= devices
        elif len(self._found) == MAX_COMBINATIONS:
            raise self._too_many()
        else:
            self._found[key] = Combination(texts, _device(self._variables, values), devices)

    def _too_many(self) -> Exception:
        names = [".".join(["device", *map(str, path)]) for path in self._variables]
        if self._is_localized:
            names.append("the locale")
        return problem(
            "too_many_texts",
            f"the devices differ in more than {MAX_COMBINATIONS} combinations of {', '.join(names)}: use less of a "
            "device in the texts, or send to fewer devices at a time",
        )


async def read_combinations(database: Database, app_no: int, devices: BitMap, document: Document) -> list[Combination]:
    """Group devices by what a document reads of them. Loop. Raises Problem 422, 503."""
    variables = document.device_variables()
    asked_tags = document.asked_tags() if ("tags",) in variables else None
    combinations = Combinations(variables, document.locales(), is_localized=bool(document.texts), asked_tags=asked_tags)
    if not variables and not document.texts:
        combinations.add_alike(devices)
        return combinations.found
    for _, segment in segments_of(devices):  # a read for each: 65,536 devices take up to half a second
        await database.read(lambda transaction: combinations.add(transaction, segment), app_no)  # noqa: B023  awaited here
    return combinations.found


def _device(variables: Sequence[tuple[Any, ...]], values: Sequence[Any]) -> dict[str, Any]:
    """The variable `device` with these values; what is null is left out, so that it is missing."""
    device: dict[str, Any] = {}
    for path, value in zip(variables, values, strict=True):
        if value is None:
            continue
        parsed = without_null(json.loads(value) if path[0] in ("tags", "attributes") else value)
        if parsed is not None:
            _put(device, path, parsed)
    return device


def _put(container: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    """Put a value at a path, in objects and lists that are made for it."""
    here: Any = container
    for segment, following in zip(path, (*path[1:], None), strict=True):
        if isinstance(here, list):
            here.extend([None] * (segment + 1 - len(here)))
        if following is None:
            here[segment] = value
            return
        inner = here[segment] if isinstance(here, list) else here.get(segment)
        if inner is None:
            inner = here[segment] = [] if isinstance(following, int) else {}
        here = inner
