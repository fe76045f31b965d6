"""Saved segments: expressions over devices with a name, and what they select now.

A segment keeps its expression, not its devices: whoever sends to it addresses those that match when the push is
accepted. It is compiled when it is saved, so that one with a mistake is refused while its writer is there.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any

from pydantic import ConfigDict, StringConstraints

from gateway.audience.policy import PolicyStore
from gateway.audience.segment_language.syntax_tree import MAX_EXPRESSION_CHARACTERS
from gateway.audience.target_resolution import TargetResolver, unknown_segment
from gateway.described_model import DescribedModel
from gateway.errors import problem
from gateway.pages import ListPage, fill_page
from gateway.store.audience.devices import device_ids
from gateway.store.audience.segments import (
    NamedSegment,
    count_other_segments,
    remove_segment,
    save_segment,
    saved_segment,
    segments_behind,
)
from gateway.store.database import Database
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

MAX_SEGMENTS = 1_000
"""Segments of an app, of 4,096 characters each: 16 MB of the disk at most."""

HINTED_CHANNELS = 5
"""Channels of an expression that are looked at for mistyped ones."""

Expression = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)]


class SegmentFields(DescribedModel):
    """A segment: the devices for which an expression is true."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expression: Expression
    """The expression, 1 to 4,096 characters, such as `'store-7' in tags && attributes.model == 'K2'`. With a mistake:
    422 `invalid_expression`."""


class SegmentStore:
    """Keeps segments, and counts whom they select. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(
        self, *, database: Database, targets: TargetResolver, policies: PolicyStore, clock_ms: Callable[[], int]
    ) -> None:
        self._policies = policies
        self._database = database
        self._targets = targets
        self._clock_ms = clock_ms

    async def put(self, app_no: int, name: str, fields: SegmentFields) -> dict[str, Any]:
        """Make a segment, or replace it; described as by `get`. Raises Problem 422."""
        now_ms = self._clock_ms()
        found = await self.preview(app_no, fields.expression)

        def operation(transaction: Transaction) -> NamedSegment:
            if count_other_segments(transaction, app_no, name) >= MAX_SEGMENTS:
                raise problem("invalid_request", f"an app has at most {MAX_SEGMENTS} segments: remove one first")
            return save_segment(transaction, app_no, name, fields.expression, now_ms)

        return {**_described(await self._database.write(operation, app_no)), **found}

    async def get(self, app_no: int, name: str) -> dict[str, Any]:
        """Describe a segment, with how many devices it selects now and five of them. Raises Problem 404, 422, 503."""
        found = await self._database.read(lambda transaction: saved_segment(transaction, app_no, name), app_no)
        if found is None:
            raise unknown_segment(name)
        return {**_described(found), **await self.preview(app_no, found.expression)}

    async def page(self, app_no: int, limit: int, cursor: str | None) -> ListPage:
        """List the segments of an app, by name."""

        def read(transaction: Transaction) -> ListPage:
            found = segments_behind(transaction, app_no, cursor or "", limit + 1)
            return fill_page(found, limit, _described, attrgetter("name"))

        return await self._database.read(read, app_no)

    async def remove(self, app_no: int, name: str) -> None:
        """Remove a segment. What was sent to it goes on. Raises Problem 404."""
        if not await self._database.write(lambda transaction: remove_segment(transaction, app_no, name), app_no):
            raise unknown_segment(name)

    async def preview(self, app_no: int, expression: str) -> dict[str, Any]:
        """Count the devices that an expression selects now: `{"devices", "examples": [id], "hints"?: [..]}`.

        Raises Problem 422, 503.
        """
        segment = await self._targets.compiled(app_no, expression)
        found = await self._targets.matching(app_no, expression)
        examples = await self._database.read(lambda transaction: device_ids(transaction, found), app_no)
        hints = [
            hint
            for channel in segment.channel_ids[:HINTED_CHANNELS]
            if (hint := self._policies.channel_hint(app_no, channel)) is not None
        ]
        return {"devices": len(found), "examples": examples, **({"hints": hints} if hints else {})}


def _described(segment: NamedSegment) -> dict[str, Any]:
    return {
        "name": segment.name,
        "expression": segment.expression,
        "created_at": rfc3339(segment.created_at),
        "updated_at": rfc3339(segment.updated_at),
    }
