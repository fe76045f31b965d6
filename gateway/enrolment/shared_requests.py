"""Requests for new tokens that nodes share: stored before they count, and heard of by every node.

What a node has in memory (`token_requests`) is what it has heard. What must not happen twice is decided by the row: how
many there are, which one of a device is confirmed, how often a token is given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from gateway.store.database import Database
from gateway.store.nodes.token_requests import (
    RequestBounds,
    StoredRequest,
    add_token_request,
    claim_answer,
    confirm_token_request,
    ended_requests,
    note_polled,
    refuse_token_request,
    remove_ended_requests,
    token_request,
    token_requests,
)
from gateway.store.transaction import Transaction


class NotClaimed(Exception):
    """Another node has given an answer meanwhile, or the request is confirmed no more."""


class SharedRequests:
    """The rows of requests. Loop. All methods raise StorageError.

    Nothing here is a change that the audit log has an entry of: the route writes that.
    """

    def __init__(self, database: Database, wait_until_known: Callable[[], Awaitable[None]]) -> None:
        """`wait_until_known` is called when something is stored: it returns when all nodes know of it, and raises
        Problem 503 when one takes too long."""
        self._database = database
        self.wait_until_known = wait_until_known

    async def load(self, now_ms: int) -> list[StoredRequest]:
        """Read the requests that have not ended at a time in milliseconds."""
        return await self._database.read(partial(token_requests, now_ms=now_ms))

    async def find(self, digest: bytes) -> StoredRequest | None:
        """Read a request by the hash of its secret."""
        return await self._database.read_soon(partial(token_request, digest=digest))

    async def add(self, row: StoredRequest, leaving: StoredRequest | None, bounds: RequestBounds, now_ms: int) -> bool:
        """Store a request, in the place of another one if need be; False if other nodes have filled the room."""
        return await self._database.write(
            partial(
                add_token_request,
                row=row,
                leaving=None if leaving is None else leaving.digest,
                bounds=bounds,
                now_ms=now_ms,
            ),
            apps=frozenset((row.app_no, row.app_no if leaving is None else leaving.app_no)),
            is_audited=False,
        )

    async def note_polled(self, row: StoredRequest) -> None:
        """Store when a device has asked last."""
        await self._database.write(
            partial(note_polled, digest=row.digest, polled_at=row.polled_at, ends_at=row.ends_at),
            apps=frozenset((row.app_no,)),
            is_audited=False,
        )

    async def confirm(self, row: StoredRequest, now_ms: int, ends_at: int) -> None:
        """Confirm a request, unless it is answered already."""
        await self._database.write(
            partial(confirm_token_request, digest=row.digest, now_ms=now_ms, ends_at=ends_at),
            apps=frozenset((row.app_no,)),
            is_audited=False,
        )

    async def refuse(self, row: StoredRequest, now_ms: int, ends_at: int) -> None:
        """Refuse a request, unless its device has a token by it."""
        await self._database.write(
            partial(refuse_token_request, digest=row.digest, now_ms=now_ms, ends_at=ends_at),
            apps=frozenset((row.app_no,)),
            is_audited=False,
        )

    @staticmethod
    def claim_answer(transaction: Transaction, row: StoredRequest) -> None:
        """Count an answer, in the transaction that gives the token. Writer thread. Raises NotClaimed."""
        if not claim_answer(transaction, row.digest, row.answers):
            raise NotClaimed

    async def remove_ended(self, now_ms: int) -> None:
        """Remove requests that have ended. For one node at a time."""
        for app_no in await self._database.read_soon(partial(ended_requests, now_ms=now_ms)):
            await self._database.write(
                partial(remove_ended_requests, app_no=app_no, now_ms=now_ms), apps=frozenset((app_no,))
            )
