"""A command and its answer on one HTTP request: who calls waits for the device, not longer than they said.

A call is a push of kind `command` like any other, accepted, stored and in the ledger; only its `acted` receipt is
watched for. Who stops waiting is told its id and can look later; nothing is taken back.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from gateway.delivery.acceptance import Acceptance
from gateway.delivery.push import MAX_TTL_SECONDS, EncryptedPush, PushRequest, SignedPush
from gateway.delivery.submission import AppRef
from gateway.delivery.waiting_callers import WaitingCallers
from gateway.delivery_handles import DEVICE_BITS, handle_of
from gateway.delivery_states import DeliveryState
from gateway.described_model import DescribedModel
from gateway.errors import problem
from gateway.names import Name
from gateway.store.audited_writes import open_attempt
from gateway.store.database import Database
from gateway.store.deliveries.pushes import push_number
from gateway.store.deliveries.whole_deliveries import acted_on, whole_delivery
from gateway.store.protocols import Timers

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""Time between two looks for answers that other nodes have stored, the same as of `awaited_pushes`."""
MAX_WAIT_SECONDS = 120
"""Seconds: common proxies give up on a silent request soon after."""


class CallRequest(DescribedModel):
    """A command for one device, whose answer is waited for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    command: Name
    """The command's name, 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_`, `.`, `:` and `-`."""
    data: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the command, default `{}`. They reach the device as the push's `data`, with the name as
    `command`."""
    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS, strict=False)] = 10.0
    """Seconds to wait for the answer, 0 to 120, default 10. When they are over, the answer is 202 with the status
    `queued`."""
    ttl: Annotated[int, Field(ge=0, le=MAX_TTL_SECONDS)] | None = None
    """Time to live in seconds, 0 to 31,536,000. When it is over, the command is not carried out any more. Left out:
    `wait` rounded up, at least 1."""
    priority: str = "high"
    """`critical`, `high`, `normal` or `low`, as for a push."""
    deadline: int | None = None
    """Seconds that the device has for its result, 1 to 86,400. Left out: no limit."""
    signed: SignedPush | None = None
    """What the publisher has signed, as for a push: a device that verifies it carries that out, and nothing else."""
    encrypted: EncryptedPush | None = None
    """What the publisher has signed and encrypted for the device, as for a push. Give an empty `data` then, and any
    word as the `command`: the device reads neither."""

    def push(self, device_id: str) -> dict[str, Any]:
        ttl = self.ttl if self.ttl is not None else max(1, -int(-self.wait // 1))
        body: dict[str, Any] = {
            "target": {"device": device_id},
            "kind": "command",
            "data": {**self.data, "command": self.command},
            "priority": self.priority,
            "ttl": ttl,
        }
        further = {"deadline": self.deadline, "signed": self.signed, "encrypted": self.encrypted}
        return body | {name: value for name, value in further.items() if value is not None}


class Calls:
    """Sends commands whose callers wait for the device's answer. Loop.

    With `timers` answers are looked for as well, every LOOK_SECONDS while anybody waits: another node may have stored
    them. None: there is none.
    """

    def __init__(
        self, *, database: Database, acceptance: Acceptance, callers: WaitingCallers, timers: Timers | None
    ) -> None:
        self._timers = timers
        self._is_scheduled = False
        """A look is due or under way."""
        self._database = database
        self._acceptance = acceptance
        self._callers = callers
        self._waiting: dict[int, asyncio.Event] = {}
        """Events by handle."""

    @property
    def waiting(self) -> int:
        """Callers that wait, for metrics."""
        return len(self._waiting)

    def answered(self, handles: Iterable[int]) -> None:
        """Wake the callers of deliveries that have an `acted` on disk."""
        if self._waiting:
            for handle in handles:
                event = self._waiting.get(handle)
                if event is not None:
                    event.set()

    async def call(self, app: AppRef, device_no: int, device_id: str, call: CallRequest, key_id: str) -> dict[str, Any]:
        """Send a command, with the key of its caller, and wait for its answer.

        `{"status": "answered" | "queued" | "ended", "push_id", "state", "reason", "result"}`. Raises Problem like a
        push, and 429 when too many calls wait.
        """
        with self._callers.place(app.no, "send pushes of kind command"):
            request = PushRequest.model_validate(call.push(device_id))
            accepted = await self._acceptance.accept(app, request, key_id, open_attempt())
            return await self._answer(app.no, accepted.push_id, device_no, call.wait)

    async def _answer(self, app_no: int, push_id: str, device_no: int, wait: float) -> dict[str, Any]:
        push_no = await self._database.read_soon(lambda transaction: push_number(transaction, app_no, push_id))
        assert push_no is not None, "accepted"
        handle = handle_of(push_no, device_no)
        event = self._waiting[handle] = asyncio.Event()
        self._schedule()
        try:
            found = await self._read_state(push_id, push_no, device_no)  # it may have been faster than we
            if found["status"] == "queued" and wait:
                try:
                    await asyncio.wait_for(event.wait(), wait)
                except TimeoutError:
                    pass
                found = await self._read_state(push_id, push_no, device_no)
            return found
        finally:
            del self._waiting[handle]

    def _schedule(self) -> None:
        if self._timers is not None and self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            self._timers.call_later(LOOK_SECONDS, self._find_answered)

    def _find_answered(self) -> None:
        """Look which of the deliveries that are waited for have an `acted` on disk."""
        push_nos = [handle >> DEVICE_BITS for handle in self._waiting]

        def on_done(found: list[tuple[int, int]]) -> None:
            self._is_scheduled = False
            self.answered(handle_of(*delivery) for delivery in found)
            self._schedule()

        def on_error(error: BaseException) -> None:
            log.warning("the answers to calls cannot be looked for, trying again: %s", error)
            on_done([])

        self._database.look_up(lambda transaction: acted_on(transaction, push_nos), on_done, on_error)

    async def _read_state(self, push_id: str, push_no: int, device_no: int) -> dict[str, Any]:
        found = await self._database.read_soon(lambda transaction: whole_delivery(transaction, push_no, device_no))
        if found is None:
            raise problem("gone", "this push ended long ago and its counts are no longer kept")
        state = DeliveryState(found.state)
        status = "answered" if state is DeliveryState.ACTED else "queued"
        if state >= DeliveryState.EXPIRED:
            status = "ended"
        return {
            "status": status,
            "push_id": push_id,
            "state": state.label,
            "reason": found.reason,
            "result": None if found.result is None else json.loads(found.result),
        }
