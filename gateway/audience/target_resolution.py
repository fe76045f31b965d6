"""Resolution of targets to sets of devices, on a reader thread, before a push is stored.

A target that lists devices, or names a tag, a topic or all, is resolved by the operation that stores the push: from a
few rows, whatever it addresses. What has to be searched for takes longer than others may wait for the writer: it is
resolved before, and the operation that stores leaves out who was removed meanwhile. What a device has become in
between, some milliseconds, is not looked at again.

A resolution is a read of its app (`store/read_queue`): it has its turn, and is interrupted when it takes too long. An
expression is compiled there, too, which takes up to 5 ms; those that were compiled lately are kept, since an app sends
to the same few again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pyroaring import BitMap

from gateway.audience.segment_language.segment import Segment, compile_expression, resolve
from gateway.audience.segment_language.topic_conditions import compile_condition
from gateway.errors import Problem, problem
from gateway.store.audience.device_sets import Selection, selected_devices
from gateway.store.audience.devices import device_rows
from gateway.store.audience.segments import segment_expression
from gateway.store.database import Database
from gateway.store.segments.evaluation import matching_members
from gateway.store.transaction import Transaction
from gateway.timestamps import wall_time

KEPT_SEGMENTS = 64
"""Compiled expressions that are kept, of all apps: 25 KiB each at most."""


class ResolvableTarget(Selection, Protocol):
    """A target as a whole: it lists devices, or selects them."""

    @property
    def device(self) -> str | None: ...

    @property
    def devices(self) -> Sequence[str] | None: ...

    @property
    def condition(self) -> str | None: ...

    @property
    def where(self) -> str | None: ...

    @property
    def segment(self) -> str | None: ...


class TargetResolver:
    """Resolves targets to sets of devices. Loop.

    `online` gives the numbers of all connected devices. `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, *, database: Database, online: Callable[[], BitMap], clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._online = online
        self._clock_ms = clock_ms
        self._kept = KeptSegments()

    @staticmethod
    def is_searched_for(target: ResolvableTarget) -> bool:
        """Whether a target has to be resolved before the push is stored."""
        return target.condition is not None or target.where is not None or target.segment is not None

    async def resolve(self, app_no: int, target: ResolvableTarget) -> BitMap:
        """The devices that a target addresses now; unknown ids are left out. Raises Problem 404, 422, 503."""
        if target.segment is not None:
            return await self.of_segment(app_no, target.segment)
        if target.where is not None:
            return await self.matching(app_no, target.where)
        return await self._database.read(lambda transaction: _devices_of(transaction, app_no, target), app_no)

    async def of_segment(self, app_no: int, name: str) -> BitMap:
        """The devices that are in a saved segment now. Raises Problem 404, 422, 503."""
        expression = await self._database.read(lambda transaction: saved_expression(transaction, app_no, name), app_no)
        return await self.matching(app_no, expression)

    async def compiled(self, app_no: int, expression: str) -> Segment:
        """An expression, compiled now or lately. Raises Problem 422, 503."""
        segment = self._kept.get(app_no, expression)
        if segment is None:
            segment = await self._database.read(lambda _: compile_expression(expression), app_no)
            self._kept.put(app_no, segment)
        return segment

    async def matching(self, app_no: int, expression: str) -> BitMap:
        """The devices that an expression selects now. Raises Problem 422, 503."""
        segment = await self.compiled(app_no, expression)
        online = self._online() if segment.needs_online else ()
        now_ms = wall_time.of(self._clock_ms())
        return await self._database.read(
            lambda transaction: resolve(transaction, app_no, segment, now_ms, online), app_no
        )


class KeptSegments:
    """Keeps the expressions that were compiled lately, of all apps. Loop.

    When there are too many, the app that has most loses the one that it has not used for longest: no app costs another
    its own.
    """

    def __init__(self) -> None:
        self._by_app: dict[int, dict[str, Segment]] = {}
        """By text, those used last at the end."""

    def get(self, app_no: int, text: str) -> Segment | None:
        segments = self._by_app.get(app_no, {})
        found = segments.pop(text, None)
        if found is not None:
            segments[text] = found
        return found

    def put(self, app_no: int, segment: Segment) -> None:
        self._by_app.setdefault(app_no, {})[segment.text] = segment
        if sum(map(len, self._by_app.values())) > KEPT_SEGMENTS:
            largest = max(self._by_app, key=lambda each: len(self._by_app[each]))
            segments = self._by_app[largest]
            del segments[next(iter(segments))]
            if not segments:
                del self._by_app[largest]


def _devices_of(transaction: Transaction, app_no: int, target: ResolvableTarget) -> BitMap:
    """The devices of a target that is no expression over more than topics. Reader thread."""
    listed = target.devices if target.device is None else [target.device]
    if listed is not None:
        return BitMap(device_rows(transaction, app_no, listed).values())
    if target.condition is not None:
        return matching_members(transaction, app_no, compile_condition(target.condition).term)
    return selected_devices(transaction, app_no, target)


def saved_expression(transaction: Transaction, app_no: int, name: str) -> str:
    """The expression of a saved segment. Raises Problem 404."""
    expression = segment_expression(transaction, app_no, name)
    if expression is None:
        raise unknown_segment(name)
    return expression


def unknown_segment(name: str) -> Problem:
    return problem("segment_not_found", f"no segment {name!r} in this app; make it with PUT /v1/segments/{name}")
