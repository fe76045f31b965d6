"""Webhooks: addresses that apps want their events sent to, and what became of that.

Kept in memory for every app, like its policy: the sender reads them all the time. A secret is stored as it is, because
a signature needs it; it is shown once, when it is made.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, StringConstraints, field_validator

from gateway.delivery.reports import cursor_number
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.events.event_feed import type_filter
from gateway.events.guarded_client import Network, may_be_asked
from gateway.pages import ListPage, fill_page
from gateway.store.audited_writes import about
from gateway.store.database import Database
from gateway.store.deliveries.event_log import Position, last_position
from gateway.store.events import webhooks as rows
from gateway.store.events.webhooks import WebhookKey
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_or_none

MAX_WEBHOOKS = 20
"""Webhooks of an app."""
FOLLOW_MS = 2_000
"""Time by which a node may be behind in what it says of another one's requests."""
LANES_PER_WEBHOOK = 4
"""Parts of a webhook's devices that are told of independently, each in order: what one receiver's program cannot take
holds up a quarter."""
DEAD_LETTERS = 1_000
"""Dead letters of a webhook; the oldest makes room."""
LETTERS_BYTES = 32 * 1024 * 1024
"""Bytes of a webhook's dead letters, the newest excepted: a thousand batches of common events."""
SECRET_BYTES = 32
SECRET_PREFIX = "whsec_"
OLD_SECRET_MS = 86_400_000
"""Time for which requests are signed with a replaced secret, too: a day to deploy the new one."""


EventTypes = Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(min_length=1, max_length=64)]


class WebhookFields(DescribedModel):
    """Address that events are sent to, and their types."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    """Address that events are sent to with POST: `http` or `https`, 1 to 2,048 printable ASCII characters, without user
    name and fragment. Private and loopback addresses need the server's setting `webhook_networks`."""
    types: EventTypes = ["*"]  # noqa: RUF012  # a model's default is copied for each of its instances
    """1 to 64 event types: names, `PREFIX.*` for all that begin so (`delivery.*`), `*` for all. Default: all."""
    description: Annotated[str, StringConstraints(max_length=256)] | None = None
    """What it is for, at most 256 characters."""
    enabled: bool = True
    """Whether events are sent. false: they wait, as long as the event log keeps them (7 days by default)."""

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address such as https://example.org/hooks")
        if parts.username is not None or parts.fragment:
            raise ValueError("no user name and no fragment in it: the signature says who we are")
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError("only printable ASCII characters, please (IDNA and percent-encoding for others)")
        _ = parts.port  # raises ValueError when it is none
        return value


class NewWebhook(WebhookFields):
    """A webhook to be made. An app has 20 at most; one more: 422 `invalid_request`."""

    secret: str | None = None
    """The secret that requests are signed with (Standard Webhooks, HMAC-SHA256): `whsec_` and 24 to 64 bytes in Base64.
    Left out: the server makes one."""

    @field_validator("secret")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            key = key_of(value)
        except ValueError:
            key = b""
        if not value.startswith(SECRET_PREFIX) or not 24 <= len(key) <= 64:
            raise ValueError(f"{SECRET_PREFIX} and 24 to 64 bytes in Base64, or leave it out")
        return value


def key_of(secret: str) -> bytes:
    """Decode the key of a secret. Raises ValueError."""
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


@dataclass(slots=True, eq=False)
class LaneProgress:
    """Progress of one part of a webhook's devices: the position behind what was sent. `attempts` have all failed, of
    what comes next."""

    no: int
    position: Position
    attempts: int = 0
    failing_since: int | None = None
    next_at: int = 0
    stored_at: int = 0
    """Time when the position was last written: what is not wanted moves it in memory only."""


@dataclass(slots=True, eq=False)
class WebhookState:
    """A webhook in memory: what was asked for, its secrets, and what became of the last attempts. Times are server time
    in milliseconds."""

    no: int
    id: str
    app_no: int
    fields: WebhookFields
    secret: str
    created_at: int
    updated_at: int
    old_secret: str | None = None
    old_secret_until: int = 0
    disabled_at: int | None = None
    disabled_reason: str | None = None
    succeeded_at: int | None = None
    failed_at: int | None = None
    last_error: str | None = None
    dropped: int = 0
    lanes: list[LaneProgress] = field(default_factory=list)
    wanted: Callable[[str], bool] = lambda event: True

    @property
    def key(self) -> WebhookKey:
        """Name of the webhook in the ledger."""
        return self.no, self.id

    @property
    def as_asked(self) -> tuple[object, ...]:
        """The webhook as it was asked for, and whether it is disabled.

        Two states that are equal in it are the same to who sends. Times alone do not tell: two nodes may change a
        webhook in one millisecond."""
        secrets = self.secret, self.old_secret, self.old_secret_until
        return self.fields, *secrets, self.updated_at, self.disabled_at, self.disabled_reason

    @property
    def failing_since(self) -> int | None:
        """Time since which its receiver does not take some of what is sent; None: it does."""
        return min((lane.failing_since for lane in self.lanes if lane.failing_since is not None), default=None)

    def restart_lanes(self) -> None:
        """Have all lanes go on at once, as if nothing had failed."""
        for lane in self.lanes:
            lane.attempts, lane.failing_since, lane.next_at = 0, None, 0

    def secrets(self, now_ms: int) -> list[str]:
        """Return the secrets to sign with: the present one, and for a day the one before."""
        old = [self.old_secret] if self.old_secret is not None and now_ms < self.old_secret_until else []
        return [self.secret, *old]

    def described(self) -> dict[str, Any]:
        return {
            "id": self.id,
            **self.fields.model_dump(mode="json"),
            "disabled_at": rfc3339_or_none(self.disabled_at),
            "disabled_reason": self.disabled_reason,
            "succeeded_at": rfc3339_or_none(self.succeeded_at),
            "failed_at": rfc3339_or_none(self.failed_at),
            "last_error": self.last_error,
            "dead_letters_dropped": self.dropped,
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.updated_at),
        }


class WebhookStore:
    """Webhooks of all apps, in memory and in the ledger. `clock_ms` gives server time in milliseconds; `allowed` are
    private networks that may be asked. Runs on the *loop*."""

    def __init__(
        self,
        *,
        database: Database,
        clock_ms: Callable[[], int],
        allowed: Sequence[Network],
        on_changed: Callable[[str], None],
        on_replay: Callable[[str], None],
    ) -> None:
        """`on_changed` is called with the id of a webhook that was made, changed or removed, `on_replay` when some of
        its dead letters are to be sent again."""
        self._database = database
        self._clock_ms = clock_ms
        self._allowed = allowed
        self.webhooks: dict[str, WebhookState] = {}
        self._on_changed, self._on_replay = on_changed, on_replay
        self._followed_at = 0

    async def load(self) -> None:
        """Load all webhooks, after a start, or before this node sends what is for them.

        Not while `reload` is called, which may know later ones."""
        self.webhooks = await self._read_all()

    async def _read_all(self) -> dict[str, WebhookState]:
        """Read all webhooks as they are stored, by id."""

        def read(transaction: Transaction) -> tuple[list[rows.WebhookRow], list[rows.LaneRow]]:
            return rows.stored_webhooks(transaction), rows.stored_lanes(transaction)

        webhooks, lanes = await self._database.read(read)
        by_no = {row.no: _state_of(row) for row in webhooks}
        for lane in lanes:
            by_no[lane.webhook_no].lanes.append(_progress_of(lane))
        return {webhook.id: webhook for webhook in by_no.values()}

    async def reload(self, webhook_id: str) -> None:
        """Know of a webhook what is stored: another node has made, changed or removed it. How far its lanes have come
        is known best by who sends."""

        def read(transaction: Transaction) -> WebhookState | None:
            found = rows.stored_webhooks(transaction, webhook_id)
            if not found:
                return None
            stored = _state_of(found[0])
            stored.lanes = [_progress_of(lane) for lane in rows.stored_lanes(transaction, stored.no)]
            return stored

        stored = await self._database.read(read)
        known = self.webhooks.get(webhook_id)
        if stored is None:
            if self.webhooks.pop(webhook_id, None) is not None:
                self._on_changed(webhook_id)
        elif known is None:
            self.webhooks[webhook_id] = stored
            self._on_changed(webhook_id)
        elif known.as_asked != stored.as_asked:
            known.secret, known.old_secret, known.old_secret_until = (
                stored.secret, stored.old_secret, stored.old_secret_until,
            )  # fmt: skip
            known.fields, known.wanted, known.updated_at = stored.fields, stored.wanted, stored.updated_at
            known.disabled_at, known.disabled_reason = stored.disabled_at, stored.disabled_reason
            if stored.fields.enabled:
                known.restart_lanes()
            self._on_changed(webhook_id)
        else:
            self._on_replay(webhook_id)  # if it was not that, there are none to send

    async def follow_others(self) -> None:
        """Know what became of what another node has sent. Called again and again, costs two statements each
        FOLLOW_MS."""
        now_ms = self._clock_ms()
        webhooks = self.webhooks  # when this node is about to send, `load` makes others, which are not to be set back
        if not webhooks or now_ms - self._followed_at < FOLLOW_MS:
            return
        self._followed_at = now_ms
        for webhook_id, stored in (await self._read_all()).items():
            known = webhooks.get(webhook_id)
            if known is not None:
                known.succeeded_at, known.failed_at = stored.succeeded_at, stored.failed_at
                known.last_error, known.dropped, known.lanes = stored.last_error, stored.dropped, stored.lanes

    def of_app(self, app_no: int) -> list[WebhookState]:
        return [webhook for webhook in self.webhooks.values() if webhook.app_no == app_no]

    def get(self, app_no: int, webhook_id: str) -> WebhookState:
        """Return a webhook of an app. Raises Problem 404."""
        webhook = self.webhooks.get(webhook_id)
        if webhook is None or webhook.app_no != app_no:
            raise _unknown(webhook_id)
        return webhook

    def page(self, app_no: int, limit: int, cursor: str | None) -> dict[str, Any]:
        """List a page of webhooks, in the order in which they were made."""
        after = cursor_number(cursor) or 0
        later = [webhook for webhook in self.of_app(app_no) if webhook.no > after]
        items = [webhook.described() for webhook in later[:limit]]
        return {"items": items, "next_cursor": str(later[limit - 1].no) if len(later) > limit else None}

    async def add(self, app_no: int, new: NewWebhook) -> dict[str, Any]:
        """Make a webhook, which is told of what happens from now on. Raises Problem 422."""
        wanted = self._checked_filter(new)
        fields = WebhookFields.model_construct(**new.model_dump(exclude={"secret"}))
        now_ms = self._clock_ms()
        webhook = WebhookState(
            no=0,
            id=f"wh_{secrets.token_urlsafe(12)}",
            app_no=app_no,
            fields=fields,
            secret=new.secret or new_secret(),
            created_at=now_ms,
            updated_at=now_ms,
            wanted=wanted,
        )
        if not fields.enabled:
            webhook.disabled_at, webhook.disabled_reason = now_ms, "by its operator"

        def write(transaction: Transaction) -> Position:
            if rows.count_webhooks(transaction, app_no) >= MAX_WEBHOOKS:
                raise problem("invalid_request", f"an app has at most {MAX_WEBHOOKS} webhooks: remove one first")
            webhook.no = rows.insert_webhook(
                transaction,
                webhook.id,
                app_no,
                fields.url,
                fields.types,
                fields.description,
                webhook.secret,
                webhook.disabled_at,
                webhook.disabled_reason,
                now_ms,
            )
            about("webhook", webhook.id)
            position = last_position(transaction, app_no)
            rows.insert_lanes(transaction, webhook.no, LANES_PER_WEBHOOK, position)
            return position

        position = await self._database.write(write, app_no)
        webhook.lanes = [LaneProgress(lane, position) for lane in range(LANES_PER_WEBHOOK)]
        self.webhooks.setdefault(webhook.id, webhook)  # with nodes it may have been loaded, and be sent to by now
        self._on_changed(webhook.id)
        return {**webhook.described(), "secret": webhook.secret}

    async def change(self, webhook: WebhookState, fields: WebhookFields) -> dict[str, Any]:
        """Enabled again, it is told at once of what has happened meanwhile. Raises Problem 404, 422."""
        wanted = self._checked_filter(fields)
        now_ms = self._clock_ms()
        disabled: tuple[int | None, str | None] = webhook.disabled_at, webhook.disabled_reason
        if fields.enabled:
            disabled = None, None
        elif webhook.disabled_at is None:
            disabled = now_ms, "by its operator"

        def write(transaction: Transaction) -> bool:
            there = rows.change_webhook(
                transaction, webhook.key, fields.url, fields.types, fields.description, *disabled, now_ms
            )
            if there and fields.enabled:
                rows.restart_lanes(transaction, webhook.no)
            return there

        if not await self._database.write(write, webhook.app_no):
            raise _unknown(webhook.id)
        webhook.fields, webhook.wanted, webhook.updated_at = fields, wanted, now_ms
        webhook.disabled_at, webhook.disabled_reason = disabled
        if fields.enabled:
            webhook.restart_lanes()
        self._on_changed(webhook.id)
        return webhook.described()

    async def rotate(self, webhook: WebhookState) -> dict[str, Any]:
        """A new secret. For a day requests are signed with the old one as well. Raises Problem 404."""
        now_ms = self._clock_ms()
        secret, old, until = new_secret(), webhook.secret, now_ms + OLD_SECRET_MS
        changed = await self._database.write(
            lambda transaction: rows.replace_secret(transaction, webhook.key, secret, old, until, now_ms),
            webhook.app_no,
        )
        if not changed:
            raise _unknown(webhook.id)
        webhook.secret, webhook.old_secret, webhook.old_secret_until, webhook.updated_at = secret, old, until, now_ms
        return {**webhook.described(), "secret": secret}

    async def remove(self, webhook: WebhookState) -> None:
        """Remove a webhook with its dead letters."""
        await self._database.write(partial(rows.remove_webhook, key=webhook.key), webhook.app_no)
        if self.webhooks.pop(webhook.id, None) is not None:
            self._on_changed(webhook.id)

    async def count_dead_letters(self, webhook: WebhookState) -> int:
        """Count the dead letters of a webhook."""
        return await self._database.read(partial(rows.count_dead_letters, key=webhook.key), webhook.app_no)

    async def dead_letters(self, webhook: WebhookState, limit: int, cursor: str | None) -> ListPage:
        """The newest first."""
        before = cursor_number(cursor)

        def read(transaction: Transaction) -> ListPage:
            found = rows.dead_letters_before(transaction, webhook.key, 2**62 if before is None else before, limit)
            return fill_page(found, limit, _letter, attrgetter("no"))

        return await self._database.read(read, webhook.app_no)

    async def replay(self, webhook: WebhookState, ids: list[int] | None) -> int:
        """Send these dead letters again, or all; how many. What arrives leaves the list. Raises Problem 422."""
        if webhook.disabled_at is not None:
            raise problem(
                "invalid_request", f'webhook {webhook.id!r} is disabled: PATCH it with {{"enabled": true}} first'
            )
        now_ms = self._clock_ms()
        count = await self._database.write(
            lambda transaction: rows.request_replays(transaction, webhook.key, ids, now_ms), webhook.app_no
        )
        if count:
            self._on_replay(webhook.id)
        return count

    def _checked_filter(self, fields: WebhookFields) -> Callable[[str], bool]:
        """Make the filter of a webhook's event types, and check its address. Raises Problem 422 for a type that there
        is not, or an address where it may not go."""
        host = urlsplit(fields.url).hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass  # a name: checked each time it is resolved
        else:
            if not may_be_asked(host, self._allowed):
                raise _private(host)
        return type_filter(fields.types)


def _state_of(row: rows.WebhookRow) -> WebhookState:
    """A webhook as it is stored, without its lanes."""
    fields = WebhookFields.model_construct(
        url=row.url, types=row.types, description=row.description, enabled=row.disabled_at is None
    )
    return WebhookState(
        no=row.no,
        id=row.id,
        app_no=row.app_no,
        fields=fields,
        secret=row.secret,
        old_secret=row.old_secret,
        old_secret_until=row.old_secret_until or 0,
        disabled_at=row.disabled_at,
        disabled_reason=row.disabled_reason,
        succeeded_at=row.succeeded_at,
        failed_at=row.failed_at,
        last_error=row.last_error,
        dropped=row.dropped,
        created_at=row.created_at,
        updated_at=row.updated_at,
        wanted=type_filter(row.types),
    )


def _progress_of(lane: rows.LaneRow) -> LaneProgress:
    return LaneProgress(lane.lane, Position(lane.entry, lane.place), lane.attempts, lane.failing_since, lane.next_at)


def _letter(letter: rows.DeadLetterRow) -> dict[str, Any]:
    return {
        "id": str(letter.no),
        "events": json.loads(letter.events),
        "attempts": letter.attempts,
        "error": letter.error,
        "at": rfc3339(letter.at),
        "replaying": letter.replay_at is not None,
    }


def _unknown(webhook_id: str) -> Problem:
    return problem("webhook_not_found", f"no webhook {webhook_id!r} in this app; GET /v1/webhooks lists them")


def _private(host: str) -> Problem:
    return problem(
        "invalid_request",
        f"url: {host} is a private address; the server's setting webhook_networks can allow its network "
        "(FLEETPUSH_WEBHOOK_NETWORKS)",
    )
