"""Invitations: an operator's leave for one device each, in the form of a code that the device trades for its token.

An invitation holds what the operator knows of the device beforehand (its id, its name, its tags), so that whoever has
the code can say no more about it than that: tags above all are the operator's, since pushes go by them.

Laws
1. A code is good for one device. What spends it and what enrols the device are one operation.
2. A device that was cut off before it read its answer asks again. It gets a new token for the same device if it proves
   to be the same: by the nonce, which it made itself and showed the first time. Others, who have the code alone, do
   not; nor does anybody once the device has connected, or `REPEAT_MS` after the first answer.
3. A code is stored as its hash, and shown in the one answer that made it. A stranger's wrong code is looked up, on the
   thread that is kept for such look-ups, and changes nothing on disk. Neither does one that was used or has expired,
   which lies about on old labels: it gets no turn of the writer.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, StringConstraints, model_validator

from gateway.audience.enrolments import EnrolmentQuota, too_many_devices
from gateway.auth import new_token, secret_hash
from gateway.delivery.push import DeviceId
from gateway.delivery.reports import cursor_number
from gateway.devices import (
    SLICE_ROWS,
    DeviceEnrolment,
    DeviceFacts,
    DeviceRegistry,
    NewDevice,
    insert_devices,
    token_end,
)
from gateway.enrolment.codes import LONGEST_INPUT_CHARACTERS, new_code, plain_code
from gateway.enrolment.qr_codes import DRAWN_CODES
from gateway.errors import Problem, problem
from gateway.pages import ListPage, fill_page
from gateway.store.access.credentials import replace_token
from gateway.store.audience.devices import device_rows
from gateway.store.audited_writes import about
from gateway.store.database import Database
from gateway.store.deliveries.event_log import log_of_device
from gateway.store.enrolment.invitations import (
    FoundInvitation,
    ListedInvitation,
    NewInvitationRow,
    Spending,
    add_invitations,
    count_invitations,
    find_invitation,
    has_invitation,
    invitations_behind,
    note_repetition,
    note_use,
    remove_invitations,
    spent_invitation,
)
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_or_none

MAX_INVITATIONS = 10_000
"""Invitations of one request."""
INVITATIONS_OF_APP = 100_000
"""Invitations of an app that are kept: open ones, and those of the last weeks that were used or have expired."""
INVITATIONS_BYTES = 16 * 1024 * 1024
"""Bytes that one request may have stored, in so many copies of what it says of a device."""
CODES_PER_TURN = 250
"""Codes that are made before the loop gets a turn: about 2 ms."""
DEFAULT_SECONDS, LEAST_SECONDS, MOST_SECONDS = 7 * 86_400, 60, 365 * 86_400
"""Lifetimes of a code."""
REPEAT_MS = 3_600_000
"""Time after its first answer in which a device that was cut off may ask again."""
MAX_ANSWERS = 10
"""Answers that a code is good for, repetitions included: each is a token, and a commit."""
STATES = ("open", "used", "expired")


class NewInvitation(NewDevice):
    """An invitation for one device: what is set here is what the device will be."""

    expires_in: Annotated[int, Field(ge=LEAST_SECONDS, le=MOST_SECONDS)] = DEFAULT_SECONDS
    """Lifetime of the code in seconds, 60 to 31,536,000, default 604,800 (7 days)."""


class InvitationRequest(NewInvitation):
    """Invitations that are all alike. An app keeps 100,000 at most, 30 days longer than their codes are good for; more:
    422 `too_many_invitations`."""

    count: Annotated[int, Field(ge=1, le=MAX_INVITATIONS)] = 1
    """How many, 1 to 10,000, each for another device. More than one have no `device_id`."""
    qr: bool = False
    """true: each invitation has its QR code as well, as SVG (`qr`), of 20 at most. Default false."""

    @model_validator(mode="after")
    def _one_device_each(self) -> Self:
        if self.qr and self.count > DRAWN_CODES:
            raise ValueError(f"qr: at most {DRAWN_CODES} codes are drawn with one request")
        if self.device_id is not None and self.count > 1:
            raise ValueError("device_id: one device has one invitation; leave it out, or make a list")
        return self


class EnrolmentRequest(DeviceFacts):
    """A code, and what the device knows of itself. What the invitation says counts more. At most 8 KiB of JSON."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_INPUT_CHARACTERS)]
    """The code, in upper or lower case, with or without hyphens."""
    nonce: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{22,86}$")] | None = None
    """Random text that the device has made itself and stored, 22 to 86 of `A-Z`, `a-z`, `0-9`, `_` and `-` (128 bits).
    If the answer is lost, the same code with the same nonce is answered once more within an hour. Left out: a lost
    answer cannot be repeated."""
    device_id: DeviceId | None = None
    """The id that the device would like to have. Left out: the invitation's, or one that the server chooses."""


class MadeInvitation(NamedTuple):
    """An invitation with its code, which is shown this once."""

    invitation_id: str
    batch: str
    code: str
    wanted: NewInvitation
    device: str
    """What is known of the device, as it is stored."""
    expires_at: int


class InvitationStore:
    """Invitations of all apps in the ledger. `clock_ms` gives server time in milliseconds. Runs on the *loop*."""

    def __init__(
        self, *, database: Database, devices: DeviceRegistry, quota: EnrolmentQuota, clock_ms: Callable[[], int]
    ) -> None:
        self._database = database
        self._devices = devices
        self._quota = quota
        self._clock_ms = clock_ms
        self.codes: Counter[str] = Counter()
        """Codes that were shown, by what became of it, for metrics."""

    async def add(
        self, app_no: int, by: str, wanted: Sequence[NewInvitation], next_slice: Callable[[], Awaitable[None]]
    ) -> list[MadeInvitation]:
        """Make invitations, slice by slice, all of one batch. `by` is the key that asks. Raises Problem 413, 422.

        If a later slice cannot be stored, the codes of those before are known to nobody and expire.
        """
        now_ms = self._clock_ms()
        batch = f"b_{secrets.token_hex(6)}"
        about("batch", batch, count=len(wanted))
        made: list[MadeInvitation] = []
        room = INVITATIONS_BYTES
        for item in wanted:
            # Of those that are all alike there is one.
            device = made[-1].device if made and made[-1].wanted is item else _stored_device(item)
            room -= len(device)
            if room < 0:
                raise problem(
                    "payload_too_large", f"so many copies have more than {INVITATIONS_BYTES} bytes: ask twice"
                )
            expires_at = now_ms + item.expires_in * 1000
            made.append(MadeInvitation(f"i_{secrets.token_hex(8)}", batch, new_code(), item, device, expires_at))
            if len(made) % CODES_PER_TURN == 0:
                await next_slice()
        for start in range(0, len(made), SLICE_ROWS):
            slice_ = made[start : start + SLICE_ROWS]
            await self._database.write(
                partial(_insert, app_no=app_no, invitations=slice_, by=by, now_ms=now_ms), app_no
            )
        return made

    async def page(self, app_no: int, limit: int, cursor: str | None, state: str | None, batch: str | None) -> ListPage:
        """List invitations in the order in which they were made, without their codes. Raises Problem 422."""
        after = cursor_number(cursor) or 0
        now_ms = self._clock_ms()

        def read(transaction: Transaction) -> ListPage:
            rows = invitations_behind(transaction, app_no, after, batch, state, now_ms, limit + 1)
            return fill_page(rows, limit, _described, attrgetter("no"), lambda row: len(row.device))

        return await self._database.read(read, app_no)

    async def revoke(self, app_no: int, invitation_id: str) -> int:
        """Remove an invitation, or the open ones of a batch; how many. Their codes are void at once. Raises Problem
        404."""

        def write(transaction: Transaction) -> int:
            removed = remove_invitations(transaction, app_no, invitation_id, SLICE_ROWS)
            if not removed and not has_invitation(transaction, app_no, invitation_id):
                raise problem("invitation_not_found", f"no invitation or batch {invitation_id!r} in this app")
            return removed

        removed = more = await self._database.write(write, app_no)
        while more == SLICE_ROWS:
            more = await self._database.write(write, app_no)
            removed += more
        return removed

    async def exchange(self, asked: EnrolmentRequest, address: str) -> dict[str, Any] | None:
        """Trade a code for the credential of a device; None if nobody has this code. `address` is where it came from.

        Raises Problem 409, 410, 422, or ValidationError for what the device would be.
        """
        plain = plain_code(asked.code)
        if plain is None:
            self.codes["mistyped"] += 1
            raise problem("invalid_request", "code: it is mistyped; it has 16 characters, the last of which is a check")
        digest = secret_hash(plain)
        row = await self._database.read_soon(lambda transaction: find_invitation(transaction, digest))
        if row is None or not hmac.compare_digest(row.code_hash, digest):
            self.codes["wrong"] += 1
            return None
        try:
            answer, outcome = await self._enrol(row, asked, address)
        except Problem as refusal:
            self.codes[refusal.code] += 1
            raise
        self.codes[outcome] += 1
        return answer

    async def _enrol(
        self, found: FoundInvitation, asked: EnrolmentRequest, address: str
    ) -> tuple[dict[str, Any], Literal["enrolled", "repeated"]]:
        device = _merged(found.device, asked)
        token = new_token()
        nonce_hash = None if asked.nonce is None else secret_hash(asked.nonce)
        now_ms = self._clock_ms()
        _refuse_spent(found.spending, nonce_hash, now_ms)
        enrolment = DeviceEnrolment(device, device.device_id or f"d-{secrets.token_hex(8)}", token)
        first = found.spending.used_at is None
        if first and not self._quota.reserve(found.app_no, 1):
            raise too_many_devices()
        enrolled = None
        try:
            enrolled = await self._database.write(
                partial(
                    _spend,
                    quota=self._quota,
                    no=found.no,
                    enrolment=enrolment,
                    nonce_hash=nonce_hash,
                    now_ms=now_ms,
                    address=address,
                ),
                found.app_no,
            )
        except Problem as refusal:
            if refusal.code == "too_many_devices":
                self._quota.note_refusals(found.app_no, 1)
            raise
        finally:
            if first and (enrolled is None or enrolled.repeated):
                self._quota.release(found.app_no, 1)
        if enrolled.repeated:
            self._devices.void_connections(found.app_id, enrolled.device_id)
        credential = self._devices.credential(found.app_id, enrolled.device_id, token, enrolled.token_expires_at)
        return credential, "repeated" if enrolled.repeated else "enrolled"


class _Enrolled(NamedTuple):
    device_id: str
    token_expires_at: int | None
    repeated: bool


def _stored_device(invitation: NewInvitation) -> str:
    return invitation.model_dump_json(include=set(NewDevice.model_fields), exclude_none=True)


def _insert(transaction: Transaction, app_no: int, invitations: Sequence[MadeInvitation], by: str, now_ms: int) -> None:
    kept = count_invitations(transaction, app_no)
    if kept + len(invitations) > INVITATIONS_OF_APP:
        raise problem(
            "too_many_invitations",
            f"an app keeps {INVITATIONS_OF_APP} invitations, and has {kept}: revoke those that nobody needs, or wait"
            " until old ones are removed",
        )
    rows = [
        NewInvitationRow(
            made.invitation_id, made.batch, secret_hash(made.code.replace("-", "")), made.device, made.expires_at
        )
        for made in invitations
    ]
    add_invitations(transaction, app_no, rows, by, now_ms)


def _merged(invited: str, asked: EnrolmentRequest) -> NewDevice:
    """The device as it will be: what the invitation leaves open is the device's to say. Raises Problem 422, or
    ValidationError."""
    given: dict[str, Any] = json.loads(invited)
    said = asked.model_dump(exclude={"code", "nonce"}, exclude_none=True)
    fixed = given.get("device_id")
    if fixed is not None and said.get("device_id", fixed) != fixed:
        raise problem("invalid_request", f"device_id: this code is for the device {fixed!r}; leave it out")
    attributes = {**said.get("attributes", {}), **given.get("attributes", {})}
    return NewDevice.model_validate({**said, **given, "attributes": attributes})


def _refuse_spent(spending: Spending, nonce_hash: bytes | None, now_ms: int) -> None:
    """Refuse a code that is used, unless who used it asks again in time, or that has expired. Raises Problem 409,
    410."""
    if spending.used_at is None:
        if spending.expires_at <= now_ms:
            raise problem("code_expired", "this code has expired: ask for a new one")
        return
    known = spending.nonce_hash
    same = known is not None and nonce_hash is not None and hmac.compare_digest(known, nonce_hash)
    if not same or now_ms >= spending.used_at + REPEAT_MS or spending.answers >= MAX_ANSWERS:
        raise _code_used()


def _code_used() -> Problem:
    return problem("code_used", "this code was used, and each is good for one device: ask for a new one")


def _spend(
    transaction: Transaction,
    quota: EnrolmentQuota,
    no: int,
    enrolment: DeviceEnrolment,
    nonce_hash: bytes | None,
    now_ms: int,
    address: str,
) -> _Enrolled:
    """Spend a code: enrol its device, or give that a new token if it was cut off. Raises Problem 409, 410, 422. Writer
    thread."""
    found = spent_invitation(transaction, no)
    if found is None:
        raise problem("code_expired", "this code was revoked: ask for a new one")
    _refuse_spent(found.spending, nonce_hash, now_ms)
    if found.spending.used_at is not None:
        if found.device_no is None or found.device_id is None or found.connected_at is not None:
            raise _code_used()
        given = replace_token(transaction, found.device_no, secret_hash(enrolment.token), now_ms)
        note_repetition(transaction, no)
        about("device", found.device_id, invitation=found.invitation_id)
        return _Enrolled(found.device_id, given.expires_at, True)
    if not quota.room(transaction, found.app_no, 1):
        raise too_many_devices()
    if not insert_devices(transaction, found.app_no, [enrolment], now_ms)[0]:
        raise problem(
            "device_exists",
            f"{enrolment.device_id!r} is enrolled; the code is still good. An operator gives that device a new token"
            " with POST /v1/devices/ID/token, or removes it first",
        )
    device_no = device_rows(transaction, found.app_no, [enrolment.device_id])[enrolment.device_id]
    about("device", enrolment.device_id, invitation=found.invitation_id)
    note_use(transaction, no, device_no, nonce_hash, now_ms)
    content = {"invitation": found.invitation_id, "address": address}
    log_of_device(transaction, "device.enrolled", now_ms, device_no, content)
    return _Enrolled(enrolment.device_id, token_end(enrolment.device.token_days, now_ms), False)


def _described(row: ListedInvitation) -> dict[str, Any]:
    given: dict[str, Any] = json.loads(row.device)
    return {
        "id": row.invitation_id,
        "batch": row.batch,
        "state": row.state,
        "device_id": row.device_id if row.device_id is not None else given.get("device_id"),
        "name": given.get("name"),
        "tags": sorted(set(given.get("tags", ()))),
        "attributes": given.get("attributes", {}),
        "locale": given.get("locale"),
        "timezone": given.get("timezone"),
        "token_days": given.get("token_days"),
        "created_at": rfc3339(row.created_at),
        "created_by": row.created_by,
        "expires_at": rfc3339(row.expires_at),
        "used_at": rfc3339_or_none(row.used_at),
    }
