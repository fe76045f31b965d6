"""Responses about segments and the devices that they select."""

from __future__ import annotations

from gateway.api.responses.common import PageResponse, Response


class SelectedResponse(Response):
    """The devices that an expression selects now."""

    devices: int
    """How many there are."""
    examples: list[str]
    """Ids of the first five, in the order of enrolment."""
    hints: list[str] | None = None
    """What is probably a mistake, of five channels at most: one that nobody has made, whose name is like that of one.
    Left out: nothing."""


class SavedSegmentResponse(Response):
    """A segment as it is saved."""

    name: str
    """Its name. A push with the target `{"segment": ..}` goes to the devices that match when it is accepted."""
    expression: str
    """The expression, as it was written."""
    created_at: str
    """When it was made. RFC 3339, UTC, milliseconds."""
    updated_at: str
    """When its expression was last replaced. RFC 3339, UTC, milliseconds."""


class SegmentResponse(SelectedResponse, SavedSegmentResponse):
    """A segment, and the devices that it selects now."""


class SegmentsResponse(PageResponse):
    """A page of segments."""

    items: list[SavedSegmentResponse]
    """Segments in the order of their names."""
