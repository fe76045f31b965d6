"""Changes of many devices with one request: tags, and removal, by a list of ids or by a filter.

A request changes at most CHANGED_DEVICES and says for each of them what became of it; with a filter it also says where
to go on (`next_cursor`, by id), so that whoever asks sees how far it has come, and may stop. Nobody else waits for it:
tags are written some hundred devices at a time, removals share their commits.

A filter selects other devices tomorrow than today. So the first request says how many it expects: as many as its sender
was shown before saying yes. If it selects more or fewer by then, nothing is changed (409 `selection_changed`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from typing import Annotated, Any, NamedTuple, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pyroaring import BitMap

from gateway.audience.segments import Expression
from gateway.audience.target_resolution import TargetResolver
from gateway.delivery.push import DeviceId
from gateway.described_model import DescribedModel
from gateway.devices import MAX_TAGS, SLICE_ROWS, DeviceRegistry
from gateway.errors import Problem, problem
from gateway.names import Name
from gateway.store.audience.device_filter import DeviceFilter
from gateway.store.audience.device_register import note_changes, tags_of, write_tags
from gateway.store.audience.devices import device_rows
from gateway.store.audited_writes import note_details, separately
from gateway.store.database import Database
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

CHANGED_DEVICES = 1_000
"""Devices that one request changes at most, about half a second of it."""
SLICE_DEVICES = 250
"""Devices whose tags one operation changes, fewer if that could be more than SLICE_ROWS: 10 ms of the writer."""
REMOVALS_TOGETHER = 50
"""Devices that are removed at a time: their commits are shared."""


class DeviceCriteria(DescribedModel):
    """Conditions on devices, which all must hold. Without any: every device of the app."""

    model_config = ConfigDict(extra="forbid", strict=True)

    where: Expression | None = None
    """Devices for which this expression is true, 1 to 4,096 characters. With a mistake: 422 `invalid_expression`."""
    q: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    """Devices with this text in their id or name, in upper or lower case."""
    tag: Name | None = None
    """Devices with this tag."""
    online: bool | None = None
    """true: devices that are connected now. false: those that are not."""
    has_error: bool | None = None
    """true: devices with a `last_error`. false: devices without."""
    waiting: bool | None = None
    """true: devices for which a push waits or is in flight. false: the others."""

    def filter(self) -> DeviceFilter:
        return DeviceFilter(self.online, self.tag, self.q, None, self.has_error, self.waiting, None, self.where)


class BulkChange(DescribedModel):
    """Devices that are to be changed: `devices`, or `filter` with `expected`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    devices: Annotated[list[DeviceId], Field(min_length=1, max_length=CHANGED_DEVICES)] | None = None
    """1 to 1,000 devices by id; duplicates count once."""
    filter: DeviceCriteria | None = None
    """The devices that these conditions select, in the order of their ids: 1,000 with one request, the others with
    `cursor`."""
    expected: Annotated[int, Field(ge=0)] | None = None
    """How many devices the filter selects, as `GET /v1/devices` with `with_count` has answered. Does it select another
    number by now, nothing is changed: 409 `selection_changed`. Needed with `filter`, but with a `cursor`; there it
    is how many are left behind that, so that none is changed that was not counted at first."""
    cursor: DeviceId | None = None
    """The `next_cursor` of the answer before, to go on behind it. Left out: from the first device."""

    @model_validator(mode="after")
    def _by_one_means(self) -> Self:
        if (self.devices is None) == (self.filter is None):
            raise ValueError("give either devices or filter")
        if self.filter is None and (self.cursor is not None or self.expected is not None):
            raise ValueError("cursor and expected belong to a filter")
        if self.filter is not None and self.cursor is None and self.expected is None:
            raise ValueError(
                "expected: how many devices does the filter select? GET /v1/devices?with_count=true says it"
            )
        return self


class TagsChange(BulkChange):
    """Tags that many devices are to have, or to lose."""

    add: Annotated[list[Name], Field(max_length=MAX_TAGS)] = Field(default_factory=list)
    """Tags to give them, at most 64. A device that would have more than 64 keeps those that it has."""
    remove: Annotated[list[Name], Field(max_length=MAX_TAGS)] = Field(default_factory=list)
    """Tags to take from them, at most 64. In both lists: it is given."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.add and not self.remove:
            raise ValueError("give tags to add, or to remove")
        return self


class _Chosen(NamedTuple):
    ids: list[str]
    selected: int | None
    next_cursor: str | None


class BulkChanges:
    """Changes tags of many devices, and removes many. Loop.

    `online` gives the numbers of all connected devices, `clock_ms` server time in milliseconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        devices: DeviceRegistry,
        targets: TargetResolver,
        online: Callable[[], BitMap],
        clock_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._devices = devices
        self._targets = targets
        self._online = online
        self._clock_ms = clock_ms

    async def matching(self, app_no: int, expression: str | None) -> BitMap | None:
        """The devices that a filter's expression selects, None if it has none. Raises Problem 422, 503."""
        return None if expression is None else await self._targets.matching(app_no, expression)

    async def change_tags(
        self, app_no: int, change: TagsChange, next_slice: Callable[[], Awaitable[None]]
    ) -> tuple[dict[str, Any], list[int]]:
        """Give and take tags: the answer, and the numbers of the devices that have other tags now.

        When a slice fails, its devices and those behind it have the problem. Raises Problem 409, 422, and what the
        first slice raises.
        """
        chosen = await self._choose(app_no, change)
        note_details(count=len(chosen.ids), add=change.add, remove=change.remove)
        added = set(change.add)
        removed = set(change.remove) - added
        step = max(1, min(SLICE_DEVICES, SLICE_ROWS // len(added | removed)))
        results: list[str | Problem] = []
        changed: list[int] = []
        for start in range(0, len(chosen.ids), step):
            if start:
                await next_slice()
            ids = chosen.ids[start : start + step]
            operation = partial(
                change_tags_of, app_no=app_no, device_ids=ids, add=added, remove=removed, now_ms=self._clock_ms()
            )
            try:
                some, numbers = await self._database.write(operation, app_no)
            except Exception as error:
                if not results:
                    raise
                log.error("a change of tags ended after %d of %d devices: %s", len(results), len(chosen.ids), error)
                results += [_not_done(error)] * (len(chosen.ids) - len(results))
                break
            results += some
            changed += numbers
        return _answer(chosen, results), changed

    async def remove(
        self, app_no: int, app_id: str, change: BulkChange, next_slice: Callable[[], Awaitable[None]]
    ) -> dict[str, Any]:
        """Remove devices, as `DeviceRegistry.remove` does each. Raises Problem 409, 422."""
        chosen = await self._choose(app_no, change)
        results: list[str | Problem] = []
        for start in range(0, len(chosen.ids), REMOVALS_TOGETHER):
            if start:
                await next_slice()
            removals = [
                self._remove(app_no, app_id, device_id) for device_id in chosen.ids[start : start + REMOVALS_TOGETHER]
            ]
            for outcome in await asyncio.gather(*removals, return_exceptions=True):
                if outcome is None:
                    results.append("removed")
                elif isinstance(outcome, Exception):
                    results.append(_not_done(outcome))
                else:
                    raise outcome
        return _answer(chosen, results)

    async def _remove(self, app_no: int, app_id: str, device_id: str) -> None:
        """Remove a device, in a task of its own. Who removed it is asked of each, later than events are kept."""
        separately("device", device_id)
        await self._devices.remove(app_no, app_id, device_id)

    async def _choose(self, app_no: int, change: BulkChange) -> _Chosen:
        """The devices of a request. Raises Problem 409 if the filter selects another number than expected, 422."""
        if change.filter is None:
            assert change.devices is not None, "validated"
            return _Chosen(list(dict.fromkeys(change.devices)), None, None)
        wanted = change.filter.filter()
        matching = await self.matching(app_no, wanted.where)
        online = self._online()

        def read(transaction: Transaction) -> tuple[int | None, list[str]]:
            selection = self._devices.selection(transaction, app_no, wanted, online, matching)
            count = None if change.expected is None else selection.count(transaction, change.cursor or "")
            if count is not None and count != change.expected:
                return count, []
            rows = selection.rows(transaction, change.cursor or "")
            return count, [device_id for _, device_id in islice(rows, CHANGED_DEVICES + 1)]

        count, ids = await self._database.read(read, app_no)
        if count is not None and count != change.expected:
            raise problem(
                "selection_changed",
                f"the filter selects {count} devices now, not {change.expected}: look at them again",
            )
        more = len(ids) > CHANGED_DEVICES
        ids = ids[:CHANGED_DEVICES]
        return _Chosen(ids, count, ids[-1] if more else None)


def change_tags_of(
    transaction: Transaction,
    app_no: int,
    device_ids: Sequence[str],
    add: set[str],
    remove: set[str],
    now_ms: int,
) -> tuple[list[str | Problem], list[int]]:
    """Change tags of devices: for each `changed`, `unchanged` or a problem, and the numbers of the changed ones. Writer
    thread."""
    numbers = device_rows(transaction, app_no, device_ids)
    present = tags_of(transaction, list(numbers.values()))
    given: dict[str, list[int]] = {}
    taken: dict[str, list[int]] = {}
    results: list[str | Problem] = []
    changed: list[int] = []
    for device_id in device_ids:
        device_no = numbers.get(device_id)
        if device_no is None:
            results.append(problem("device_not_found", f"no device {device_id!r} in this app"))
            continue
        more, fewer = add - present[device_no], remove & present[device_no]
        if more and len(present[device_no]) + len(more) - len(fewer) > MAX_TAGS:
            results.append(
                problem("invalid_request", f"tags: a device has at most {MAX_TAGS}; take some from it first")
            )
            continue
        for tag in more:
            given.setdefault(tag, []).append(device_no)
        for tag in fewer:
            taken.setdefault(tag, []).append(device_no)
        if more or fewer:
            changed.append(device_no)
        results.append("changed" if more or fewer else "unchanged")
    write_tags(transaction, app_no, given, taken)
    note_changes(transaction, changed, now_ms)
    return results, changed


def _not_done(error: Exception) -> Problem:
    """The problem of a device that was not changed."""
    return error if isinstance(error, Problem) else problem("unavailable", "this one was not changed; send it again")


def _answer(chosen: _Chosen, results: Sequence[str | Problem]) -> dict[str, Any]:
    return {
        "selected": chosen.selected,
        "devices": [
            {"device_id": device_id, "error": result.document()}
            if isinstance(result, Problem)
            else {"device_id": device_id, "result": result}
            for device_id, result in zip(chosen.ids, results, strict=True)
        ],
        "next_cursor": chosen.next_cursor,
    }
