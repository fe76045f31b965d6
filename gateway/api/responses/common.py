"""The bases of all responses and of pages of lists, and the problem document."""

from __future__ import annotations

from pydantic import ConfigDict

from gateway.described_model import DescribedModel


class Response(DescribedModel):
    """The base of all responses. Unknown fields are forbidden, so that a test finds what is not described."""

    model_config = ConfigDict(extra="forbid")


class PageResponse(Response):
    """The base of pages of lists."""

    next_cursor: str | None
    """Send it as `cursor` to get the next page. null: this is the last page."""


class ProblemDocument(Response):
    """A problem document (RFC 9457): why a request was refused."""

    type: str
    """URL of the explanation of this code, relative to the server: `/docs/problems#CODE`."""
    title: str
    """What the code means, in a few words. The same for every problem with this code."""
    status: int
    """The HTTP status."""
    code: str
    """A stable name of the problem, for programs. `/docs/problems` lists all codes."""
    detail: str
    """What was wrong with this request and what to do about it, for people. The text may change between versions."""
    retryable: bool
    """true: the same request may succeed later, unchanged; wait as long as the header `Retry-After` says, if there is
    one. false: sending it again unchanged will not help."""
    line: int | None = None
    """The line of a mistake in an expression, from 1. Of `invalid_expression` alone."""
    column: int | None = None
    """The column of a mistake in an expression: characters of its line, from 1. Of `invalid_expression` alone."""


class HealthResponse(Response):
    """The state of the server."""

    status: str
    """`ok` (the process answers), or `ready` (pushes are accepted)."""
