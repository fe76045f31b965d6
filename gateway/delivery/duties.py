"""Duties: who is told of what is urgent, one step after the other, until somebody acts.

A duty is a named object of an app, as a list of steps. A push to it goes to the devices of its first step; what happens
from there on is an escalation (`escalations`). Duties are few and seldom asked for, so they are on disk alone: a push
reads its duty in the operation that stores it, and goes on with that when the duty is changed or removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from gateway.delivery.push import DeviceId, Target
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.names import Name
from gateway.printable import Printable
from gateway.store.audience.device_sets import selected_devices
from gateway.store.audience.devices import device_rows
from gateway.store.database import Database
from gateway.store.deliveries.duties import (
    StoredDuty,
    count_other_duties,
    duties_behind,
    duty_content,
    find_duty,
    remove_duty,
    replace_duty,
)
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

MAX_DUTIES = 100
"""Duties of an app."""
MAX_STEPS = 10
MAX_REPEATS = 9
"""Times that the steps of a duty are gone through again: with the first, a hundred pushes at most."""
STEP_DEVICES = 100
"""Devices of a step: people who are told at once. It is also what is stored with pushes to one device each."""
NAMED_DEVICES = 200
"""Devices that the steps of a duty name, together: each push to it keeps a copy of them."""
MIN_WAIT_SECONDS, MAX_WAIT_SECONDS = 1, 86_400
MAX_ACTS = 8
"""Actions of a notification."""


RANDOM_BYTES = 9
"""Random bytes of a collapse key that nobody chose."""


class _Strict(DescribedModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class DutyStep(_Strict):
    """A step of a duty: exactly one of `device`, `devices` and `tag`, and how long it has before the next."""

    device: DeviceId | None = None
    """One device by its id."""
    devices: Annotated[list[DeviceId], Field(min_length=1, max_length=STEP_DEVICES)] | None = None
    """1 to 100 devices by id. Those that there are not when the step comes are left out."""
    tag: Name | None = None
    """The devices that have this tag when the step comes, the first 100 in the order of their enrolment."""
    wait_s: Annotated[int, Field(ge=MIN_WAIT_SECONDS, le=MAX_WAIT_SECONDS)] = 120
    """Seconds until the next step, 1 to 86,400, default 120. A step that is for nobody is over at once."""

    @model_validator(mode="after")
    def _exactly_one(self) -> DutyStep:
        given = [name for name in ("device", "devices", "tag") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError('give exactly one of "device", "devices" or "tag"')
        return self

    def target(self) -> Target:
        """The devices of the step, as the target of its push."""
        return Target.model_validate(self.model_dump(exclude={"wait_s"}, exclude_none=True))


class DutyFields(_Strict):
    """A duty: who is told, in which order, and what ends it."""

    description: Annotated[Printable, StringConstraints(max_length=512)] | None = None
    """Text about the duty for people, at most 512 characters."""
    steps: Annotated[list[DutyStep], Field(min_length=1, max_length=MAX_STEPS)]
    """1 to 10 steps, gone through in order while nobody acts. They name 200 devices at most, together; tags do not
    count."""
    repeat: Annotated[int, Field(ge=0, le=MAX_REPEATS)] = 0
    """Times that all steps are gone through again, 0 to 9, default 0."""
    acts: Annotated[list[Name], Field(min_length=1, max_length=MAX_ACTS)] | None = None
    """Ids of the actions that count as acting, 1 to 8. null or left out: every action."""
    opened: bool = False
    """Whether opening the push counts as acting as well. Default false."""

    @model_validator(mode="after")
    def _names_few(self) -> DutyFields:
        named = sum(len(step.devices or ()) + (step.device is not None) for step in self.steps)
        if named > NAMED_DEVICES:
            raise ValueError(f"the steps name {named} devices; {NAMED_DEVICES} at most: give them a tag")
        return self

    def step(self, number: int) -> DutyStep | None:
        """The step of this number, from 0 on, over all rounds; None behind the last."""
        return self.steps[number % len(self.steps)] if number < len(self.steps) * (1 + self.repeat) else None

    def counts(self, event: str, action: str | None) -> bool:
        """Whether a receipt, `opened` or `acted`, is an act."""
        if event == "opened":
            return self.opened
        return self.acts is None or action in self.acts


class ChosenDevices(NamedTuple):
    """The devices of a step at the moment at which it is sent."""

    numbers: list[int]
    unknown: tuple[str, ...] = ()
    """Ids that are none of a device."""
    left_out: int = 0
    """Devices of the tag that were too many."""


def chosen_devices(
    transaction: Transaction, app_no: int, ids: Sequence[str] | None, tag: str | None, most: int
) -> ChosenDevices:
    """Find the devices of these ids, or the first ones with a tag, `most` at most. Writer or reader thread."""
    if tag is not None:
        found = selected_devices(transaction, app_no, Target(tag=tag))
        return ChosenDevices(list(found[:most]), left_out=max(0, len(found) - most))
    wanted = list(dict.fromkeys(ids or ()))
    known = device_rows(transaction, app_no, wanted)
    return ChosenDevices(
        [known[device_id] for device_id in wanted if device_id in known],
        tuple(device_id for device_id in wanted if device_id not in known),
    )


def devices_of_step(transaction: Transaction, app_no: int, step: DutyStep) -> ChosenDevices:
    """Find the devices of a step. Writer or reader thread."""
    ids = step.devices if step.device is None else [step.device]
    return chosen_devices(transaction, app_no, ids, step.tag, STEP_DEVICES)


def read_duty(transaction: Transaction, app_no: int, name: str) -> DutyFields | None:
    """A duty of an app by its name; None if there is none. Writer or reader thread."""
    content = duty_content(transaction, app_no, name)
    return None if content is None else DutyFields.model_validate_json(content)


def own_collapse_key() -> str:
    """Make a collapse key for a push to a duty that has none: it is that of all its steps."""
    return f"duty-{secrets.token_urlsafe(RANDOM_BYTES)}"


def unknown_duty(name: str) -> Problem:
    return problem("duty_not_found", f"no duty {name!r} in this app; make it with PUT /v1/duties/{name}")


class DutyStore:
    """The duties of all apps, in the ledger. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, *, database: Database, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def put(self, app_no: int, name: str, duty: DutyFields) -> dict[str, Any]:
        """Make a duty, or replace it. Pushes under way go on with what it was. Raises Problem 422."""
        now_ms = self._clock_ms()
        content = duty.model_dump_json(exclude_none=True)

        def operation(transaction: Transaction) -> dict[str, Any]:
            others = count_other_duties(transaction, app_no, name)
            if others >= MAX_DUTIES:
                raise problem("invalid_request", f"an app has at most {MAX_DUTIES} duties: remove one first")
            replace_duty(transaction, app_no, name, content, now_ms)
            stored = find_duty(transaction, app_no, name)
            assert stored is not None, "it was stored"
            return _described(stored)

        return await self._database.write(operation, app_no)

    async def get(self, app_no: int, name: str) -> dict[str, Any]:
        """A duty as the API shows it. Raises Problem 404."""
        row = await self._database.read(partial(find_duty, app_no=app_no, name=name), app_no)
        if row is None:
            raise unknown_duty(name)
        return _described(row)

    async def page(self, app_no: int, limit: int, cursor: str | None) -> dict[str, Any]:
        """A page of the app's duties, by name."""
        rows = await self._database.read(partial(duties_behind, app_no=app_no, name=cursor or "", limit=limit), app_no)
        return {
            "items": [_described(row) for row in rows[:limit]],
            "next_cursor": rows[limit - 1].name if len(rows) > limit else None,
        }

    async def remove(self, app_no: int, name: str) -> None:
        """Remove a duty. Pushes under way go on with what it was. Raises Problem 404."""
        if not await self._database.write(partial(remove_duty, app_no=app_no, name=name), app_no):
            raise unknown_duty(name)


def _described(stored: StoredDuty) -> dict[str, Any]:
    duty = DutyFields.model_validate_json(stored.content)
    described = duty.model_dump(mode="json", exclude={"steps"})
    described["steps"] = [step.model_dump(mode="json", exclude_none=True) for step in duty.steps]
    times = {"created_at": rfc3339(stored.created_at), "updated_at": rfc3339(stored.updated_at)}
    return {"name": stored.name, **described, "running": stored.running, **times}
