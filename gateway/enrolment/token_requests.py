"""Token requests: a device that has lost its token asks for another, and an operator confirms that it is the one.

Anybody may ask, so a request proves nothing and costs nothing: it is in memory alone, it is forgotten when nobody asks
for it any more, and what it gets is given to whoever holds the secret that came with it, once an operator has said so.
After a restart devices go on asking, with the same secret, and are listed again. Where there are several nodes requests
are rows as well (`shared_requests`), which every node has in memory.

Laws
1. What a stranger is told does not depend on what is here. An id that no device has is answered as one that waits, and
   so is a request for which there is no room. Confirmed and refused are told to the holder of the secret only.
2. An operator confirms a device and not a name: both see the same short text, which is made of the secret. Of a device
   for which several ask, confirming one refuses the others.
3. The old token is good until the new one is given: a request, or its confirmation, takes nothing from the device.
4. Bounded for all, an app, a device and an address; where one of the first three is full, the newest request there of
   the address that has most makes room for one that has less: a stranger keeps nobody's device off the list. Whoever
   has no room goes on asking, and is let in when there is some.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, StringConstraints

from gateway.auth import APP_ID, secret_hash
from gateway.delivery.push import DeviceId
from gateway.described_model import DescribedModel
from gateway.device_topics import DEFAULT_APP
from gateway.devices import DeviceRegistry
from gateway.enrolment.codes import ALPHABET
from gateway.enrolment.shared_requests import NotClaimed, SharedRequests
from gateway.errors import Problem, problem
from gateway.printable import Printable
from gateway.store.audience.devices import device_of_app
from gateway.store.database import Database
from gateway.store.deliveries.event_log import log_of_device
from gateway.store.nodes.token_requests import RequestBounds, StoredRequest
from gateway.timestamps import rfc3339, rfc3339_or_none

log = logging.getLogger(__name__)

REQUESTS_OF_APP = 200
REQUESTS_OF_ADDRESS = 50
"""Requests of one address to an app: a shop whose devices have all been restored from one image."""
REQUESTS_OF_DEVICE = 4
"""Requests for one device that wait: what an operator has refused makes room."""
REQUESTS_OF_ALL = 2_000
"""Requests of all apps, some hundred bytes each."""
PENDING_MS = 86_400_000
"""Time after which a request that nobody has confirmed must be made anew."""
ANSWERED_MS = 3_600_000
"""Time in which a confirmed device fetches its token, and in which a refused one is told so."""
FORGOTTEN_MS = 300_000
"""Time after which a request is forgotten whose device does not ask for it any more."""
NOTED_MS = 120_000
"""Time between two notes for other nodes that a device goes on asking: well below the one before, and 17 writes a
second for as many requests as there may be."""
POLL_SECONDS = 15
"""Time between two calls of a device that waits."""
MAX_ANSWERS = 10
"""Tokens that a confirmed device may fetch: it may lose an answer, and each is a commit."""
CONFIRMATION_CHARACTERS = 6
EVENT_MS = 600_000
"""Time between two events about a device's requests."""
EVENTS_OF_APP_PER_HOUR = 60
REMEMBERED_DEVICES = 2_000
"""Devices whose last event is remembered."""
HOUR_MS = 3_600_000


class TokenRequest(DescribedModel):
    """A device's request for a new token. Repeated unchanged, it asks what has become of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    device_id: DeviceId
    """The id of the device, as it was enrolled."""
    app: Annotated[str, StringConstraints(pattern=f"^{APP_ID.pattern}$")] = DEFAULT_APP
    """The id of the device's app. Left out: `default`."""
    secret: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43,86}$")]
    """Random text that the device has made itself and stored, 43 to 86 of `A-Z`, `a-z`, `0-9`, `_` and `-` (256 bits).
    The new token is for who shows it."""
    note: Annotated[Printable, StringConstraints(min_length=1, max_length=128)] | None = None
    """Text for the operator, 1 to 128 characters."""


@dataclass(slots=True)
class _Pending:
    """A request that is remembered. Times are milliseconds, and `digest` is the hash of its secret."""

    digest: bytes
    request_id: str
    app_no: int
    app_id: str
    device_no: int
    device_id: str
    address: str
    host: str
    note: str | None
    confirmation: str
    asked_at: int
    polled_at: int
    state: Literal["pending", "confirmed", "refused"] = "pending"
    answered_at: int | None = None
    answers: int = 0
    answering: bool = False
    """A token is on its way to it."""
    noted_at: int = 0
    """As of when other nodes know that its device asks."""

    @property
    def ends_at(self) -> int:
        if self.answered_at is not None:
            return self.answered_at + ANSWERED_MS
        return min(self.asked_at + PENDING_MS, self.polled_at + FORGOTTEN_MS)

    def stored(self) -> StoredRequest:
        return StoredRequest(
            self.digest, self.request_id, self.app_no, self.app_id, self.device_no, self.device_id, self.address,
            self.host, self.note, self.confirmation, self.asked_at, self.polled_at, self.state, self.answered_at,
            self.answers, self.ends_at,
        )  # fmt: skip

    def described(self) -> dict[str, Any]:
        return {
            "id": self.request_id,
            "device_id": self.device_id,
            "state": self.state,
            "confirmation": self.confirmation,
            "address": self.host,
            "note": self.note,
            "asked_at": rfc3339(self.asked_at),
            "polled_at": rfc3339(self.polled_at),
            "answered_at": rfc3339_or_none(self.answered_at),
            "expires_at": rfc3339(self.ends_at),
        }


class TokenRequests:
    """Requests of devices for a new token, in memory. Runs on the *loop*.

    `clock_ms` gives server time in milliseconds; `share_of` gives the address that a host counts for; `shared` has the
    rows of all nodes (None: there is one server).
    """

    def __init__(
        self,
        *,
        database: Database,
        devices: DeviceRegistry,
        clock_ms: Callable[[], int],
        share_of: Callable[[str], str],
        shared: SharedRequests | None,
    ) -> None:
        self._shared = shared
        self._database = database
        self._devices = devices
        self._clock_ms = clock_ms
        self._share_of = share_of
        self._requests: dict[bytes, _Pending] = {}
        """By the hash of the secret; the oldest first."""
        self._told: OrderedDict[int, int] = OrderedDict()
        """Device number -> time of the last event about it."""
        self._events: dict[int, tuple[float, int]] = {}
        """App number -> (events that are left of its share, when that was so)."""
        self.outcomes: Counter[str] = Counter()
        """Requests by what became of them, for metrics."""

    @property
    def pending(self) -> int:
        """Count the requests that wait for an operator, for metrics."""
        return sum(found.state == "pending" for found in self._requests.values())

    async def load(self) -> None:
        """Read what other nodes have stored, before the first request. Raises StorageError."""
        if self._shared is not None:
            for row in await self._shared.load(self._clock_ms()):
                self._keep(row)

    async def reload(self, digest: bytes) -> None:
        """Read again a request that a node has stored, changed or removed. Raises StorageError."""
        assert self._shared is not None, "nobody else has"
        row = await self._shared.find(digest)
        if row is None:
            self._requests.pop(digest, None)
        else:
            self._keep(row)

    def _keep(self, row: StoredRequest) -> _Pending:
        """Have a request in memory as its row is; its device may have asked here since."""
        found = self._requests.get(row.digest)
        if found is None or found.request_id != row.request_id:  # it may have been made anew, with the same secret
            self._requests.pop(row.digest, None)
            found = self._requests[row.digest] = _Pending(
                row.digest, row.request_id, row.app_no, row.app_id, row.device_no, row.device_id, row.address, row.host,
                row.note, row.confirmation, row.asked_at, row.polled_at,
            )  # fmt: skip
        found.polled_at = max(found.polled_at, row.polled_at)
        found.noted_at = max(found.noted_at, row.polled_at)
        found.state = cast(Literal["pending", "confirmed", "refused"], row.state)
        found.answered_at, found.answers = row.answered_at, row.answers
        return found

    async def remove_ended(self) -> None:
        """Remove what has ended, for all nodes; one of them does. Raises StorageError."""
        if self._shared is not None:
            await self._shared.remove_ended(self._clock_ms())

    # -- devices

    async def ask(self, asked: TokenRequest, host: str) -> dict[str, Any] | None:
        """Return the device's credential if an operator has confirmed the request; None as long as it waits.

        Raises Problem 403 when it was refused.
        """
        digest = secret_hash(asked.secret)
        now_ms = self._clock_ms()
        found = self._requests.get(digest)
        if found is not None and found.ends_at <= now_ms:
            del self._requests[digest]
            found = None
        if found is None:
            found = await self._remember(asked, digest, host)
        if found is None or (found.app_id, found.device_id) != (asked.app, asked.device_id):
            return None
        found.polled_at = now_ms
        if self._shared is not None and now_ms - found.noted_at >= NOTED_MS:
            found.noted_at = now_ms
            await self._shared.note_polled(found.stored())
        if found.state == "refused":
            raise problem("request_refused", "an operator has refused this request, or confirmed another one")
        if found.state == "pending" or found.answering:
            return None
        return await self._answer(found)

    async def _remember(self, asked: TokenRequest, digest: bytes, host: str) -> _Pending | None:
        row = await self._database.read_soon(lambda transaction: device_of_app(transaction, asked.app, asked.device_id))
        if row is None:
            self.outcomes["unknown_device"] += 1
            return None
        present = self._requests.get(digest)
        if present is not None:  # it has asked twice at once
            return present
        now_ms = self._clock_ms()
        address = self._share_of(host)
        before = self._requests
        if not self._make_room(row.app_no, row.device_no, address, now_ms):
            self.outcomes["no_room"] += 1
            return None
        found = _Pending(
            digest=digest,
            request_id=f"q_{secrets.token_hex(8)}",
            app_no=row.app_no,
            app_id=asked.app,
            device_no=row.device_no,
            device_id=asked.device_id,
            address=address,
            host=host,
            note=asked.note,
            confirmation=confirmation_of(asked.secret),
            asked_at=now_ms,
            polled_at=now_ms,
        )
        if self._shared is not None:
            gone = [leaving for other, leaving in before.items() if other not in self._requests]
            return await self._share(self._shared, found, gone)
        self._requests[digest] = found
        self.outcomes["listed"] += 1
        self._tell(found, now_ms)
        return found

    async def _share(self, shared: SharedRequests, found: _Pending, gone: list[_Pending]) -> _Pending | None:
        """Store a new request, in whose favour others have `gone`, for all nodes."""
        now_ms = found.asked_at
        leaving = next((one.stored() for one in gone if one.ends_at > now_ms), None)
        bounds = RequestBounds(REQUESTS_OF_ALL, REQUESTS_OF_APP, REQUESTS_OF_DEVICE)
        try:
            is_there = await shared.add(found.stored(), leaving, bounds, now_ms)
        finally:
            if leaving is not None:
                await self.reload(leaving.digest)
        if not is_there:
            self.outcomes["no_room"] += 1  # other nodes were quicker
            return None
        await self.reload(found.digest)
        self.outcomes["listed"] += 1
        self._tell(found, now_ms)
        return self._requests.get(found.digest)

    def _make_room(self, app_no: int, device_no: int, address: str, now_ms: int) -> bool:
        """Whether a further request has room, after what has ended is gone and, if need be, somebody's newest is."""
        self._requests = {digest: found for digest, found in self._requests.items() if found.ends_at > now_ms}
        of_app = {digest: found for digest, found in self._requests.items() if found.app_no == app_no}
        if sum(found.address == address for found in of_app.values()) >= REQUESTS_OF_ADDRESS:
            return False
        of_device = {
            digest: found
            for digest, found in of_app.items()
            if found.device_no == device_no and found.state == "pending"
        }
        if len(of_device) >= REQUESTS_OF_DEVICE:
            return self._make_room_in(of_device, address)
        if len(of_app) >= REQUESTS_OF_APP:
            return self._make_room_in(of_app, address)
        return len(self._requests) < REQUESTS_OF_ALL or self._make_room_in(self._requests, address)

    def _make_room_in(self, crowd: dict[bytes, _Pending], address: str) -> bool:
        """Forget the newest request of the address that has most of these; whether that has more than this one."""
        by_address = Counter(found.address for found in crowd.values())
        most, count = by_address.most_common(1)[0]
        if count <= by_address[address] + 1:
            return False
        newest = [digest for digest, found in crowd.items() if found.address == most and found.state == "pending"]
        if newest:
            del self._requests[newest[-1]]
            self.outcomes["made_room"] += 1
        return bool(newest)

    async def _answer(self, found: _Pending) -> dict[str, Any] | None:
        """Give a confirmed device its new token; the one before is void, at every node. None: another node has just
        given it one, which this one would void on its way. Raises Problem 403, 503 if a node does not answer."""
        if found.answers >= MAX_ANSWERS:
            raise problem("request_refused", "this request was answered often enough: make another, with a new secret")
        found.answering = True
        try:
            claim = None if self._shared is None else partial(self._shared.claim_answer, row=found.stored())
            credential = await self._devices.rotate(found.app_no, found.app_id, found.device_id, found.device_no, claim)
            if self._shared is None:
                found.answers += 1
            else:  # the device may ask another node next, if it loses this answer
                await self._shared.wait_until_known()
        except NotClaimed:
            await self.reload(found.digest)
            if found.state == "refused":
                raise problem("request_refused", "an operator has refused this request meanwhile") from None
            return None
        except Problem as refusal:
            if refusal.code != "device_not_found":
                raise
            raise problem("request_refused", "the device was removed since it asked") from None
        finally:
            found.answering = False
        self.outcomes["answered"] += 1
        return credential

    def _tell(self, found: _Pending, now_ms: int) -> None:
        """Log an event, unless the device or its app has had its share of them."""
        told_at = self._told.get(found.device_no)
        left, since = self._events.get(found.app_no, (float(EVENTS_OF_APP_PER_HOUR), now_ms))
        left = min(left + (now_ms - since) * EVENTS_OF_APP_PER_HOUR / HOUR_MS, EVENTS_OF_APP_PER_HOUR)
        if left < 1 or (told_at is not None and now_ms - told_at < EVENT_MS):
            return
        self._events[found.app_no] = left - 1, now_ms
        self._told.pop(found.device_no, None)
        self._told[found.device_no] = now_ms
        if len(self._told) > REMEMBERED_DEVICES:
            self._told.popitem(last=False)
        log.info(
            "device %s/%s asks for a new token from %s: %s", found.app_id, found.device_id, found.host,
            found.confirmation, extra={"peer": found.host},
        )  # fmt: skip
        content = {"request": found.request_id, "address": found.host, "confirmation": found.confirmation}
        self._database.submit(
            lambda transaction: log_of_device(transaction, "device.token_requested", now_ms, found.device_no, content),
            lambda _: None,
            lambda error: log.warning("a token request is not in the event log: %s", error),
            apps=frozenset((found.app_no,)),
        )

    # -- operators

    def page(self, app_no: int, limit: int, cursor: str | None) -> dict[str, Any]:
        """List the requests of an app, by id."""
        now_ms = self._clock_ms()
        items = sorted(
            (
                found.described()
                for found in self._requests.values()
                if found.app_no == app_no and found.ends_at > now_ms and found.request_id > (cursor or "")
            ),
            key=lambda item: str(item["id"]),
        )
        return {"items": items[:limit], "next_cursor": items[limit - 1]["id"] if len(items) > limit else None}

    async def confirm(self, app_no: int, request_id: str) -> dict[str, Any]:
        """Let a device have a new token, and refuse what others have asked for it. Raises Problem 404, 409."""
        found = self._found(app_no, request_id)
        now_ms = self._clock_ms()
        if self._shared is not None and found.state == "pending":
            await self._shared.confirm(found.stored(), now_ms, now_ms + ANSWERED_MS)
            await self.reload(found.digest)
            self.outcomes["confirmed"] += 1
            return self._answered(app_no, request_id, "refused").described()
        if found.state == "refused":
            raise problem("request_answered", "this request was refused: the device has to ask anew")
        if found.state == "pending":
            found.state, found.answered_at = "confirmed", now_ms
            self.outcomes["confirmed"] += 1
            for other in self._requests.values():
                if other.device_no == found.device_no and other is not found and other.state == "pending":
                    other.state, other.answered_at = "refused", now_ms
        return found.described()

    async def refuse(self, app_no: int, request_id: str) -> None:
        """Refuse a request; also one that was confirmed and not fetched. Raises Problem 404, 409."""
        found = self._found(app_no, request_id)
        if self._shared is not None and found.state != "refused" and not found.answering:
            now_ms = self._clock_ms()
            await self._shared.refuse(found.stored(), now_ms, now_ms + ANSWERED_MS)
            await self.reload(found.digest)
            self.outcomes["refused"] += 1
            self._answered(app_no, request_id, "confirmed")
            return
        if found.answers or found.answering:
            raise problem("request_answered", "the device has its new token: rotate it, or remove the device")
        if found.state != "refused":
            found.state, found.answered_at = "refused", self._clock_ms()
            self.outcomes["refused"] += 1

    def _answered(self, app_no: int, request_id: str, but_not: str) -> _Pending:
        """Find a request that an operator of this node has just answered. Raises Problem 404, 409 if one of another
        node was quicker."""
        found = self._found(app_no, request_id)
        if found.state == but_not:
            raise problem("request_answered", f"this request was {but_not} at the same moment")
        return found

    def _found(self, app_no: int, request_id: str) -> _Pending:
        now_ms = self._clock_ms()
        for found in self._requests.values():
            if found.request_id == request_id and found.app_no == app_no and found.ends_at > now_ms:
                return found
        raise problem("request_not_found", f"no request {request_id!r} in this app, or its device asks no more")


def confirmation_of(secret: str) -> str:
    """Return the text by which an operator recognizes the device: it is on its screen, and in the list."""
    digest = hashlib.sha256(b"fleetpush confirmation " + secret.encode()).digest()
    number = int.from_bytes(digest[:8], "big")
    plain = "".join(ALPHABET[number >> 5 * place & 31] for place in range(CONFIRMATION_CHARACTERS))
    return f"{plain[:3]}-{plain[3:]}"
