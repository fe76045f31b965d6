"""Responses about topics and tags, and the devices in them."""

from __future__ import annotations

from gateway.api.responses.common import PageResponse, ProblemDocument, Response


class TopicResponse(Response):
    """A topic that devices are in."""

    topic: str
    """Its name. A push with the target `{"topic": ..}` goes to all devices in it."""
    devices: int
    """How many devices are in it."""


class TopicsResponse(PageResponse):
    """A page of topics."""

    items: list[TopicResponse]
    """Topics in the order of their names."""


class TagResponse(Response):
    """A tag that devices have."""

    tag: str
    """Its name. A push with the target `{"tag": ..}` goes to all devices that have it."""
    devices: int
    """How many devices have it."""


class TagsResponse(PageResponse):
    """A page of tags."""

    items: list[TagResponse]
    """Tags in the order of their names."""


class TopicMemberResponse(Response):
    """A device that is in a topic."""

    device_id: str
    """The device's id."""
    joined_at: str
    """When it joined. RFC 3339, UTC, milliseconds."""


class TopicMembersResponse(PageResponse):
    """A page of the devices in a topic."""

    items: list[TopicMemberResponse]
    """Devices in the order of their enrolment."""


class MembershipResponse(Response):
    """The result for one device of a request: it has either `result` or `error`."""

    device_id: str
    """The device's id, as it was sent."""
    result: str | None = None
    """`joined`, `left`, or `unchanged` if that was true before. Left out: see `error`."""
    error: ProblemDocument | None = None
    """Why nothing was changed. Left out: see `result`."""


class MembershipsResponse(Response):
    """The results for the devices that were to join a topic, or to leave it."""

    topic: str
    """The topic's name."""
    devices: list[MembershipResponse]
    """One result for each device of the request, in its order."""


class RemovedTopicResponse(Response):
    """The result of removing a topic."""

    left: int
    """Devices that were in it."""
