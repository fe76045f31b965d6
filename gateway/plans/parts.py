"""Parts of a run: pushes to some of its devices, and the devices that still wait for theirs.

A run begins with a set of devices. Each part takes some of them out of it, in the operation that stores the push: so no
device is in two parts, and what is left in the set has had none, wherever the server was killed, whatever its clock
shows, and whatever has become of a device's time zone or tags meanwhile (`store/plans/waiting_devices`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError
from pyroaring import BitMap

from gateway.delivery.acceptance import Acceptance
from gateway.delivery.push import PushRequest
from gateway.delivery.push_timing import SCHEDULE_FIELDS
from gateway.delivery.submission import AppRef, PendingPush, StoredAlong, Submission
from gateway.errors import Problem, problem
from gateway.store.audience.device_sets import live_devices
from gateway.store.deliveries.plan_parts import PlanKind, insert_part
from gateway.store.plans.waiting_devices import remove_from_waiting, waiting_devices
from gateway.store.transaction import Transaction

_WITHOUT_TIMES = dict.fromkeys(SCHEDULE_FIELDS)


@dataclass(slots=True, eq=False)
class RunPart:
    """Stores along with a push that it is a part of a run, and takes its devices out of those that wait.

    `devices`: those to take; whoever has had a part or was removed is left out. `check` says why the part is not to be
    stored any more, `store_more` stores what else has changed by it; both run on the writer thread. `first_step` is
    what is stored along with a push to a duty, which has no devices before.
    """

    kind: PlanKind
    plan_id: str
    run_no: int
    devices: BitMap
    check: Callable[[Transaction], Problem | None]
    store_more: Callable[[Transaction, PendingPush, int], None]
    on_stored: Callable[[PendingPush], None]
    first_step: StoredAlong | None = None

    def choose(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> Problem | None:
        refusal = self.check(transaction)
        if refusal is not None:
            return refusal
        if self.first_step is not None:
            return self.first_step.choose(transaction, pending, now_ms)
        pending.selection = self.devices & waiting_devices(transaction, self.kind, self.run_no)
        if not pending.selection.intersect(live_devices(transaction, pending.app.no)):
            return nobody_left()
        return None

    def store(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> None:
        if self.first_step is not None:
            self.first_step.store(transaction, pending, now_ms)
        remove_from_waiting(transaction, self.kind, self.run_no, self.devices)
        insert_part(transaction, pending.push_no, self.kind, self.plan_id, self.run_no)
        self.store_more(transaction, pending, now_ms)

    def stored(self, pending: PendingPush) -> None:
        if self.first_step is not None:
            self.first_step.stored(pending)
        self.on_stored(pending)


def nobody_left() -> Problem:
    """The answer to a part whose devices were removed, or have had theirs."""
    return problem("device_not_found", "the devices that it is for were removed")


def is_of_nobody(refusal: Problem) -> bool:
    return refusal.code == "device_not_found"


def part_push(acceptance: Acceptance, app: AppRef, request: PushRequest, ttl: int, part: RunPart) -> PendingPush:
    """Make the push of a part, of a request as it was stored. Raises Problem, as for any push.

    What comes next is `Acceptance.accept_pending`. `ttl`: seconds that are left of the lifetime.
    """
    # Nobody is there to be told what devices lack: those are left out.
    fields = _WITHOUT_TIMES | {"ttl": ttl, "on_missing": "leave_out"}
    pending = acceptance.pending(app, Submission(request.model_copy(update=fields)))
    if request.target.duty is not None:
        part.first_step = pending.along
    else:
        pending.listed, pending.target = [], request.target
        pending.selection, pending.is_prepared = part.devices, pending.composed is None
    pending.along = part
    return pending


def stored_request(text: str) -> PushRequest:
    """A push request as `request_text` has written it."""
    return PushRequest.model_validate_json(text)


def readable_request(text: str) -> PushRequest | None:
    """A stored push request; None if it is no longer one, since its time zone was taken out of tzdata, for example."""
    try:
        return stored_request(text)
    except ValidationError:
        return None


def request_text(request: PushRequest) -> str:
    """Encode a push request for its row."""
    given = request.model_dump(mode="json", exclude_none=True, exclude_unset=True, exclude={"data"})
    if "data" in request.model_fields_set:
        given["data"] = request.data  # null is a value, too
    return json.dumps(given, ensure_ascii=False, separators=(",", ":"))
