"""`/v1/audit`: who changed what."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from gateway.api import responses
from gateway.api.bodies import json_response, page_response
from gateway.api.services import Administrator, Cursor, Limit, services, time_parameter
from gateway.store.audit_entries import AuditFilter
from gateway.timestamps import wall_time

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get("", response_model=responses.AuditEntriesResponse)
async def list_entries(
    request: Request,
    principal: Administrator,
    actor: Annotated[
        str | None, Query(max_length=200, description="Who: `key:ID`, for example. Left out: anybody.")
    ] = None,
    action: Annotated[
        str | None,
        Query(max_length=200, description="What was done: `device.remove`, or `device.*` for all. Left out: anything."),
    ] = None,
    object: Annotated[
        str | None, Query(max_length=200, description="To what: `device:kiosk-1`, for example. Left out: anything.")
    ] = None,
    since: Annotated[
        str | None, Query(alias="from", description="Entries from this time on, RFC 3339. Left out: from the oldest.")
    ] = None,
    until: Annotated[
        str | None, Query(alias="to", description="Entries of before this time, RFC 3339. Left out: to the newest.")
    ] = None,
    order: Annotated[
        Literal["newest", "oldest"], Query(description="Which entries come first. Default newest.")
    ] = "newest",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """List the audit log of the app, the newest entry first: who changed what, when, and from where.

    Each entry has the hash of its content and of the hash before it; `docs/operate/audit.md` says how to verify them.
    Needs a key with the scope `admin`.
    """
    wanted = AuditFilter(
        actor=actor,
        action=action,
        object=object,
        since=_wall(since, "from"),
        until=_wall(until, "to"),
        oldest_first=order == "oldest",
    )
    return page_response(await services(request).audit.page(principal.app_no, wanted, limit, cursor))


@router.get("/chain", response_model=responses.AuditChainResponse)
async def show_chain(request: Request, principal: Administrator) -> Response:
    """Show the two ends of the chain of the app's audit log. Who notes its head elsewhere finds later whether anything
    of before was changed. Needs a key with the scope `admin`."""
    return json_response(await services(request).audit.chain(principal.app_no))


def _wall(text: str | None, name: str) -> int | None:
    """Return the wall time that a query gives, in milliseconds. Raises Problem 422."""
    found = time_parameter(name, text)
    return None if found is None else wall_time.of(found)
