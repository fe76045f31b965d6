"""The register of devices: enrolled, changed, given new tokens, removed.

A removed device keeps its row with the id alone while deliveries refer to it; the same id enrolled later is a new
device with a number, a token and a mailbox of its own.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, StringConstraints, field_validator
from pyroaring import BitMap

from gateway.audience.enrolments import EnrolmentQuota, too_many_devices
from gateway.audience.time_zones import is_time_zone
from gateway.auth import new_token, secret_hash
from gateway.delivery.connections_elsewhere import Presence
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.push import DeviceId
from gateway.delivery.receipts import MAX_ATTRIBUTES_BYTES
from gateway.delivery.reports import cursor_number
from gateway.delivery.uplink import uplink_content
from gateway.described_model import DescribedModel
from gateway.device_topics import client_id, device_topics
from gateway.errors import Problem, RateLimited, problem
from gateway.merge_patch import merge_patch
from gateway.names import Name
from gateway.pages import PAGE_BYTES, ListPage, fill_page
from gateway.printable import Printable
from gateway.store.access.credentials import NewToken, renew_token, renewable_token, rotate_token
from gateway.store.attribute_index import INDEXED_ATTRIBUTES
from gateway.store.audience.device_filter import DeviceFilter, DeviceSelection
from gateway.store.audience.device_register import (
    NewDeviceRow,
    StoredDevice,
    add_devices,
    change_facts,
    device_of_id,
    devices_of_numbers,
    mark_removed,
    remove_from_tags,
    write_tags,
)
from gateway.store.audience.devices import device_rows
from gateway.store.audience.topics import remove_from_topics
from gateway.store.audited_writes import about
from gateway.store.database import Database
from gateway.store.deliveries.delivery_sets import devices_with_waiting
from gateway.store.deliveries.uplink_messages import remove_uplinks_of_device, uplinks_before
from gateway.store.deliveries.whole_deliveries import waiting_counts
from gateway.store.numbers import draw_numbers
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_or_none
from gateway.token_lifetimes import (
    DAY_MS,
    MAX_TOKEN_DAYS,
    OVERLAP_MS,
    RENEWAL_PAUSE_MS,
    lifetime,
)

log = logging.getLogger(__name__)

MAX_TAGS = 64
SLICE_ROWS = 2_000
"""Rows of devices, tags and indexed attributes that one operation of a bulk enrolment inserts, 10 ms of the writer."""
DEVICES_PER_STATEMENT = 50
"""Devices that one statement reads for a list: two mebibytes if they are as large as can be."""
DEVICE_BYTES = 512
"""Bytes of a device in a list besides its tags, attributes and choices, about."""


class DeviceFacts(DescribedModel):
    """Facts about a device that it may know itself. Everything may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[Printable, StringConstraints(min_length=1, max_length=128)] | None = None
    """Its name for people, 1 to 128 characters."""
    attributes: dict[str, Any] | None = None
    """Free facts about the device, at most 16 KiB as JSON. What the device publishes to its `report` topic is merged
    into them."""
    locale: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{1,8}([-_][A-Za-z0-9]{1,8})*$")] | None = None
    """Its language tag, such as `de-CH`."""
    timezone: str | None = None
    """Its IANA time zone, such as `Europe/Berlin`, in which quiet hours are counted. null or left out: the policy's."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None and not is_time_zone(value):
            raise ValueError("unknown time zone: use an IANA name such as Europe/Berlin")
        return value

    @field_validator("attributes")
    @classmethod
    def _bounded(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            attributes_text(value)
        return value


class DeviceFields(DeviceFacts):
    """Facts that an operator knows about a device. Everything may be left out."""

    tags: Annotated[list[Name], Field(max_length=MAX_TAGS)] | None = None
    """At most 64 tags, by which pushes are targeted: 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_`, `.`, `:` and `-`
    each. Duplicates count once."""


class NewDevice(DeviceFields):
    """A device to be enrolled. An app has 1,000,000 at most; one more: 422 `too_many_devices`."""

    device_id: DeviceId | None = None
    """Its id, unique within the app: 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_` and `-`. Enrolled already: 409
    `device_exists`. Left out: the server chooses one."""
    token_days: Annotated[int, Field(ge=1, le=MAX_TOKEN_DAYS)] | None = None
    """Lifetime of its tokens in days, 1 to 3,650: it renews its token before the end, with
    `POST /v1/devices/{device_id}/token/renewal`. Left out: they never end."""


def attributes_text(value: dict[str, Any]) -> str:
    """Attributes as stored. Raises ValueError when they are too large, or no JSON in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(text.encode()) > MAX_ATTRIBUTES_BYTES:
        raise ValueError(f"at most {MAX_ATTRIBUTES_BYTES} bytes as JSON")
    return text


class MqttAddress(NamedTuple):
    """Address that an enrolled device is told to connect to."""

    host: str
    port: int
    tls: bool
    websocket: str
    """The whole URL, for browsers."""

    def reached_at(self, public: str | None) -> MqttAddress:
        """Return the address with MQTT at `mqtts://HOST:PORT` or `mqtt://HOST:PORT`; None: at its own."""
        if public is None:
            return self
        parts = urlsplit(public)
        assert parts.port is not None, "the setting was looked at"
        return self._replace(host=parts.hostname or "", port=parts.port, tls=parts.scheme == "mqtts")

    @property
    def http(self) -> str:
        """Address at which the same port speaks HTTP: `https://HOST:PORT` or `https://HOST`."""
        parts = urlsplit(self.websocket)
        return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"


ALL_DEVICES = DeviceFilter()


class DeviceRegistry:
    """The register of devices: enrol, show, change, rotate tokens, remove. `mqtt_address` answers where enrolled
    devices connect (`MqttAddress`), once the broker listens. Runs on the *loop*."""

    def __init__(
        self,
        *,
        database: Database,
        connections: DeviceConnections,
        activity: DeviceActivity,
        clock_ms: Callable[[], int],
        mqtt_address: Callable[[], MqttAddress],
        quota: EnrolmentQuota,
    ) -> None:
        self._database = database
        self._quota = quota
        self._connections = connections
        self._activity = activity
        self._clock_ms = clock_ms
        self._mqtt_address = mqtt_address

    async def enrol(self, app_no: int, app_id: str, devices: Sequence[NewDevice]) -> list[dict[str, Any] | Problem]:
        """Enrol many, slice by slice; per device its credential (shown this once), or Problem 409. Those of a slice are
        in one commit; when a later one fails, its devices and those behind it have the problem."""
        now_ms = self._clock_ms()
        enrolments = [
            DeviceEnrolment(device, device.device_id or f"d-{secrets.token_hex(8)}", new_token()) for device in devices
        ]
        about("device", enrolments[0].device_id if len(enrolments) == 1 else "", count=len(enrolments))
        answers: list[dict[str, Any] | Problem] = []
        for slice_ in _slices(enrolments):
            granted = self._quota.reserve(app_no, len(slice_))
            reserved = slice_[:granted]
            try:
                enrolled = await self._database.write(
                    partial(self._insert, app_no=app_no, enrolments=reserved, now_ms=now_ms), app_no
                )
            except BaseException as error:
                self._quota.release(app_no, granted)
                if not isinstance(error, Exception) or not answers:
                    raise
                log.error("a bulk enrolment ended after %d of %d devices: %s", len(answers), len(enrolments), error)
                refusal = problem("unavailable", "this one could not be stored; send it again")
                rest = len(enrolments) - len(answers)
                return answers + [error if isinstance(error, Problem) else refusal] * rest
            answers += [
                self.credential(
                    app_id, enrolment.device_id, enrolment.token, token_end(enrolment.device.token_days, now_ms)
                )
                if new
                else problem(
                    "device_exists",
                    f"{enrolment.device_id!r} is enrolled; rotate its token with POST /v1/devices/ID/token, "
                    "or remove it first",
                )
                for enrolment, new in zip(reserved[: len(enrolled)], enrolled, strict=True)
            ]
            answers += [too_many_devices()] * (len(slice_) - len(enrolled))
            if len(enrolled) < granted:
                self._quota.note_refusals(app_no, granted - len(enrolled))
            self._quota.release(app_no, granted - enrolled.count(True))
        return answers

    def _insert(
        self, transaction: Transaction, app_no: int, enrolments: list[DeviceEnrolment], now_ms: int
    ) -> list[bool]:
        """Enrol the first devices, as many as there is room for. Writer thread."""
        room = self._quota.room(transaction, app_no, len(enrolments))
        return insert_devices(transaction, app_no, enrolments[:room], now_ms)

    def credential(self, app_id: str, device_id: str, token: str, expires_at: int | None) -> dict[str, Any]:
        """The credential of a device, as the API answers it; `expires_at` (ms) is the end of the token."""
        where = self._mqtt_address()
        name = client_id(app_id, device_id)
        return {
            "device_id": device_id,
            "token": token,
            "token_expires_at": rfc3339_or_none(expires_at),
            "token_expires_in": lifetime(expires_at, self._clock_ms()),
            "mqtt": {
                "host": where.host,
                "port": where.port,
                "tls": where.tls,
                "websocket": where.websocket,
                "client_id": name,
                "username": name,
                "password": token,
                "topics": device_topics(app_id, device_id),
            },
        }

    async def number(self, app_no: int, device_id: str) -> int:
        """Return the number of a device. Raises Problem 404."""
        found = await self._database.read_soon(lambda transaction: device_rows(transaction, app_no, [device_id]))
        if device_id not in found:
            raise _unknown(device_id)
        return found[device_id]

    async def show(self, app_no: int, device_id: str) -> dict[str, Any]:
        """Describe a device, as the API answers it. Raises Problem 404."""

        found = await self._database.read(lambda transaction: device_of_id(transaction, app_no, device_id), app_no)
        if found is None:
            raise _unknown(device_id)
        presences = await self._connections.presences([found.no])
        return self._present(found.no, _described(found), presences[found.no])

    async def page(
        self,
        app_no: int,
        limit: int,
        cursor: str | None,
        wanted: DeviceFilter = ALL_DEVICES,
        matching: BitMap | None = None,
        *,
        with_count: bool = False,
        with_waiting: bool = False,
    ) -> dict[str, Any]:
        """List a page of devices, by id. `matching`: whom the filter's expression selects, if it has one.

        With how many devices the filter selects, and with how much waits for each device of the page, if asked for.
        """
        online = self._connections.online_set()

        def read(transaction: Transaction) -> tuple[list[tuple[int, dict[str, Any]]], bool, int | None]:
            selection = self.selection(transaction, app_no, wanted, online, matching)
            count = selection.count(transaction) if with_count else None
            found: list[tuple[int, dict[str, Any]]] = []
            room = PAGE_BYTES
            rows = selection.rows(transaction, cursor or "")
            while some := [no for no, _ in islice(rows, DEVICES_PER_STATEMENT)]:
                waiting = waiting_counts(transaction, app_no, some) if with_waiting else None
                for device in devices_of_numbers(transaction, some):
                    room -= _size_of(device)
                    if len(found) == limit or (found and room < 0):
                        return found, True, count
                    described = _described(device)
                    if waiting is not None:
                        described["waiting"] = waiting[device.no]
                    found.append((device.no, described))
            return found, False, count

        devices, more, count = await self._database.read(read, app_no)
        presences = await self._connections.presences([no for no, _ in devices])
        found = [self._present(no, described, presences[no]) for no, described in devices]
        page = {"items": found, "next_cursor": found[-1]["device_id"] if more else None}
        return page if count is None else {**page, "count": count}

    @staticmethod
    def selection(
        transaction: Transaction, app_no: int, wanted: DeviceFilter, online: BitMap, matching: BitMap | None
    ) -> DeviceSelection:
        """Select devices by a filter, as of this moment. Reader thread."""
        in_sets = devices_with_waiting(transaction, app_no) if wanted.waiting is not None else BitMap()
        return DeviceSelection(app_no, *wanted.conditions(online, in_sets), matching)

    def _present(self, device_no: int, device: dict[str, Any], presence: Presence) -> dict[str, Any]:
        """Add what is known in memory only: presence, and an error that is not written yet."""
        device["online"] = presence.online
        device["address"] = presence.address
        device["connected_at"] = rfc3339_or_none(presence.connected_at if presence.online else device["connected_at"])
        device["last_seen"] = rfc3339_or_none(self._clock_ms() if presence.online else device["last_seen"])
        error = self._activity.last_error(device_no)
        if error is not None:
            device["last_error"], device["last_error_at"] = error[0], rfc3339(error[1])
        return device

    async def change(self, app_no: int, device_id: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Apply an RFC 7396 merge patch. Raises Problem 404, or ValidationError for what it would become."""
        now_ms = self._clock_ms()

        def write(transaction: Transaction) -> None:
            found = device_of_id(transaction, app_no, device_id)
            if found is None:
                raise _unknown(device_id)
            described = _described(found)
            current = {name: described[name] for name in DeviceFields.model_fields}
            changed = DeviceFields.model_validate(merge_patch(current, patch))
            attributes = attributes_text(changed.attributes or {})
            change_facts(transaction, found.no, changed.name, attributes, changed.locale, changed.timezone, now_ms)
            stored, wanted = set(found.tags), set(changed.tags or ())
            given = {tag: [found.no] for tag in wanted - stored}
            write_tags(transaction, app_no, given, {tag: [found.no] for tag in stored - wanted})

        await self._database.write(write, app_no)
        return await self.show(app_no, device_id)

    async def rotate(
        self,
        app_no: int,
        app_id: str,
        device_id: str,
        device_no: int | None = None,
        claim: Callable[[Transaction], None] | None = None,
    ) -> dict[str, Any]:
        """A new token; the old one is void at once and its connections close. With a number the id must still be that
        device's. `claim` comes before, in the same transaction: what it raises leaves the old token. Raises Problem
        404."""
        token = new_token()
        now_ms = self._clock_ms()

        def write(transaction: Transaction) -> NewToken | None:
            if claim is not None:
                claim(transaction)
            return rotate_token(transaction, app_no, device_id, device_no, secret_hash(token), now_ms)

        given = await self._database.write(write, app_no)
        if given is None:
            raise _unknown(device_id)
        self.void_connections(app_id, device_id)
        return self.credential(app_id, device_id, token, given.expires_at)

    async def renew(self, app_no: int, app_id: str, device_id: str, shown: str | None) -> dict[str, Any]:
        """A new token in the place of one that ends; that is good for OVERLAP_MS longer. `shown` is the token that the
        device has shown, None if an operator asks. Raises Problem 404, 409, 429."""
        token = new_token()
        now_ms = self._clock_ms()
        shown_hash = None if shown is None else secret_hash(shown)

        def write(transaction: Transaction) -> int:
            stored = renewable_token(transaction, app_no, device_id)
            if stored is None:
                raise _unknown(device_id)
            device_no, token_hash, token_days, expires_at, previous, previous_until = stored
            if token_days is None or expires_at is None:
                raise problem("token_does_not_expire", "this device's token never ends; rotate it to have another")
            waits_ms = expires_at - token_days * DAY_MS + RENEWAL_PAUSE_MS - now_ms
            if waits_ms > 0:
                raise RateLimited(waits_ms / 1000)
            if previous is None or shown_hash != previous:  # who showed that has never had the present one
                previous, previous_until = token_hash, min(expires_at, now_ms + OVERLAP_MS)
            end = now_ms + token_days * DAY_MS
            renew_token(transaction, device_no, secret_hash(token), end, previous, previous_until)
            return end

        return self.credential(app_id, device_id, token, await self._database.write(write, app_no))

    def void_connections(self, app_id: str, device_id: str) -> None:
        """Close the connections of a device whose token is void: call this when that has committed."""
        self._connections.disconnect_device(client_id(app_id, device_id))

    async def remove(self, app_no: int, app_id: str, device_id: str) -> None:
        """Remove a device: its deliveries end `revoked`, its session is deleted, its connections close. Raises Problem
        404."""
        device_no = await self.number(app_no, device_id)

        removed = 0

        def forget(transaction: Transaction, now_ms: int) -> None:
            nonlocal removed
            remove_from_tags(transaction, app_no, device_no)
            remove_from_topics(transaction, app_no, device_no)
            remove_uplinks_of_device(transaction, device_no)
            removed = mark_removed(transaction, device_no, now_ms)

        await self._connections.remove_device(device_no, client_id(app_id, device_id), forget, app_no)
        self._quota.release(app_no, removed)

    async def uplink(self, app_no: int, device_id: str, limit: int, cursor: str | None) -> ListPage:
        """List what a device said, the newest first. Raises Problem 404, 422."""
        device_no = await self.number(app_no, device_id)
        before = cursor_number(cursor)

        def read(transaction: Transaction) -> ListPage:
            return fill_page(
                uplinks_before(transaction, device_no, before, limit + 1),
                limit,
                lambda said: {**uplink_content(said.topic, said.payload), "received_at": rfc3339(said.received_at)},
                attrgetter("no"),
                lambda said: len(said.payload),
            )

        return await self._database.read(read, app_no)


class DeviceEnrolment(NamedTuple):
    """A device that is to be enrolled, with the id and the token that it gets."""

    device: NewDevice
    device_id: str
    token: str


def _slices(enrolments: list[DeviceEnrolment]) -> Iterator[list[DeviceEnrolment]]:
    """Divide enrolments into slices of at most SLICE_ROWS rows, devices with what is indexed of them, and at least one
    device."""
    slice_: list[DeviceEnrolment] = []
    rows = 0
    for enrolment in enrolments:
        more = 1 + len(enrolment.device.tags or ()) + min(len(enrolment.device.attributes or ()), INDEXED_ATTRIBUTES)
        if slice_ and rows + more > SLICE_ROWS:
            yield slice_
            slice_, rows = [], 0
        slice_.append(enrolment)
        rows += more
    if slice_:
        yield slice_


def insert_devices(transaction: Transaction, app_no: int, enrolments: list[DeviceEnrolment], now_ms: int) -> list[bool]:
    """Enrol devices; whether each was enrolled now, and not those whose ids are taken. Writer thread."""
    taken = set(device_rows(transaction, app_no, [enrolment.device_id for enrolment in enrolments]))
    new = {enrolment.device_id for enrolment in enrolments} - taken
    numbers = iter(draw_numbers(transaction, "device", len(new)))
    enrolled: list[bool] = []
    rows: list[NewDeviceRow] = []
    tagged: dict[str, list[int]] = {}
    for device, device_id, token in enrolments:
        enrolled.append(device_id not in taken)
        if device_id in taken:
            continue
        taken.add(device_id)
        device_no = next(numbers)
        rows.append(
            NewDeviceRow(
                device_no,
                app_no,
                device_id,
                device.name,
                attributes_text(device.attributes or {}),
                device.locale,
                device.timezone,
                secret_hash(token),
                device.token_days,
                token_end(device.token_days, now_ms),
                now_ms,
                now_ms,
            )
        )
        for tag in dict.fromkeys(device.tags or ()):
            tagged.setdefault(tag, []).append(device_no)
    add_devices(transaction, app_no, rows, tagged)
    return enrolled


def token_end(token_days: int | None, now_ms: int) -> int | None:
    """Return when a token that is given now ends (ms); None: never."""
    return None if token_days is None else now_ms + token_days * DAY_MS


def _described(device: StoredDevice) -> dict[str, Any]:
    """Describe a device as far as it is stored; `_present` makes the API's answer of it."""
    return {
        "device_id": device.device_id,
        "name": device.name,
        "tags": device.tags,
        "topics": device.topics,
        "attributes": json.loads(device.attributes),
        "locale": device.locale,
        "timezone": device.timezone,
        "created_at": rfc3339(device.created_at),
        "updated_at": rfc3339(device.updated_at),
        "connected_at": device.connected_at,
        "last_seen": device.last_seen,
        "last_error": device.last_error,
        "last_error_at": rfc3339_or_none(device.last_error_at),
        "consent": device.consent,
        "channels": json.loads(device.channels),
        "token_expires_at": rfc3339_or_none(device.token_expires_at),
    }


def _size_of(device: StoredDevice) -> int:
    """Bytes of a device in a list, about."""
    texts = (device.attributes, device.channels, *device.tags, *device.topics)
    return DEVICE_BYTES + sum(map(len, texts))


def _unknown(device_id: str) -> Problem:
    return problem("device_not_found", f"no device {device_id!r} in this app; enrol it with POST /v1/devices")
