"""Responses about the audit log."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, Response


class AuditEntryResponse(Response):
    """An entry of the audit log: who did what, when, from where, to what, and with what result."""

    seq: int
    """The number of the entry in the app's log: 1 for the first, and no gaps."""
    at: str
    """When it was written, by the clock on the wall. RFC 3339, UTC, milliseconds."""
    actor: str
    """Who: `key:ID`, for example; empty for somebody without a valid key."""
    action: str
    """What was done: `device.remove`, for example."""
    object: str
    """To what: `device:kiosk-1`, for example; empty if there is no single object. Of a refused request that is no
    change, the operation."""
    address: str
    """The address that the request came from; as the proxy before the server says, if that is trusted."""
    result: str
    """`done`: it was changed, in the transaction that wrote this entry. `refused`: nothing was. `failed`: a change of
    which the log has an entry was answered with a problem, and a part of it may be missing."""
    details: dict[str, Any]
    """Further facts, such as the names of the fields that were given. No secrets, and no values of fields."""
    hash: str
    """SHA-256 in hexadecimal of the hash of the entry before and of this one's content."""


class AuditEntriesResponse(PageResponse):
    """A page of the audit log."""

    items: list[AuditEntryResponse]
    """Entries, the newest first."""


class ChainEndResponse(Response):
    """A place in the chain of an audit log."""

    seq: int
    """The number of an entry; 0: before the first one."""
    hash: str
    """Its hash, SHA-256 in hexadecimal."""


class AuditChainResponse(Response):
    """The two ends of the chain of an app's audit log."""

    app: str
    """The app's id, from which the chain begins."""
    head: ChainEndResponse
    """The last entry. Note it elsewhere: whatever is changed in the log up to there gives another hash."""
    base: ChainEndResponse
    """The last entry that has left, because it was old or there was no more room; the first one that is kept follows
    from it."""
    oldest_at: str | None
    """When the oldest entry that is kept was written. RFC 3339, UTC, milliseconds. null: there is none."""
    bytes: int
    """Size of the entries that are kept, in bytes. 64 MiB are kept at most."""
