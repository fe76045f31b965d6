"""A push as people send it (`PushRequest`), and as the server holds it while it is being delivered (`ActivePush`).

Every request to push becomes a `PushRequest`; nothing behind it sees a foreign vocabulary. An `ActivePush` exists only
while some delivery of it is in flight or was lately (`ActivePushes` bounds the rest by count and bytes): it renders
the wire body, at most once per second of remaining lifetime, and knows to whom it has been handed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic_core import to_json
from pyroaring import BitMap

from gateway.audience.segment_language.syntax_tree import MAX_EXPRESSION_CHARACTERS
from gateway.content.text_fields import (
    LocalizedText,
    LocalizedTexts,
    OnMissing,
    RenderMode,
    TemplateUse,
    unknown_actions,
)
from gateway.delivery.engine import Body, Properties
from gateway.delivery.notification import Notification
from gateway.delivery.push_texts import PushTexts, load_texts
from gateway.delivery.push_timing import MAX_SPREAD_SECONDS, LocalTime, Repeat, Window
from gateway.delivery_states import PRIORITIES
from gateway.described_model import DescribedModel
from gateway.errors import problem
from gateway.names import Name
from gateway.printable import Printable
from gateway.store.app_locks import EVERY_APP, Apps
from gateway.store.deliveries.push_texts import has_texts
from gateway.store.deliveries.pushes import LoadedPush, pushes_of_numbers
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

MAX_TTL_SECONDS = 31_536_000
"""One year in seconds (docs/contract.md: A request for a push)."""
DEFAULT_TTL_SECONDS = 86_400
MAX_DEVICES = 10_000
ENVELOPE_BYTES = 512
"""Bytes of a push in memory besides its content, rounded up."""
IDLE_PUSHES = 4_096
IDLE_BYTES = 16 * 1024 * 1024
"""Pushes kept in memory although nothing of them is in flight, so that a fleet that returns to the same backlog reads
each once."""

DeviceId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Kind = Literal["alert", "in_app", "silent", "command"]
SignedPush = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}$", max_length=262_144)]
"""A compact JWS (RFC 7515): header, payload, signature. Nobody here reads it."""
EncryptedPush = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){4}$", max_length=262_144)]
"""A compact JWE (RFC 7516) with a wrapped key. Nobody here can read it."""


class _Strict(DescribedModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Target(_Strict):
    """Devices that a push is for: exactly one of these fields. They are fixed when the push is accepted."""

    device: DeviceId | None = None
    """One device by its id. Unknown: 404 `device_not_found`."""
    devices: Annotated[list[DeviceId], Field(min_length=1, max_length=MAX_DEVICES)] | None = None
    """1 to 10,000 devices by id; duplicates count once. Unknown ids are listed in the answer's `unknown`; if none is
    known: 404 `device_not_found`. More than 10,000: 422 `invalid_request`."""
    tag: Name | None = None
    """All devices with this tag, without a limit. None has it: accepted, with 0 deliveries."""
    duty: Name | None = None
    """A duty by its name: its first step now, the next ones while nobody acts. Each of those is a push of its own. No
    duty has the name: 404 `duty_not_found`. Too many are under way: 429 `too_many_escalations`."""
    topic: Name | None = None
    """All devices in this topic, without a limit. None is: accepted, with 0 deliveries."""
    condition: Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)] | None = None
    """All devices for which a condition over at most 5 topics is true: `'news' in topics && !('beta' in topics)`, with
    `&&`, `||`, `!` and parentheses. With a mistake: 422 `invalid_expression`."""
    where: Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)] | None = None
    """All devices for which an expression is true, 1 to 4,096 characters: `'store-7' in tags && attributes.model ==
    'K2'`. With a mistake: 422 `invalid_expression`. It takes too long: 503 `unavailable`."""
    segment: Name | None = None
    """All devices for which the expression of this saved segment is true. There is none: 404 `segment_not_found`."""
    all: Literal[True] | None = None
    """`true`: all devices of the app, without a limit. None is enrolled: accepted, with 0 deliveries."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Target:
        given = self.__pydantic_fields_set__
        if len(given) != 1 or self.__dict__[next(iter(given))] is None:
            raise ValueError(
                'give exactly one of "device", "devices", "tag", "topic", "condition", "where", "segment", "duty" or'
                ' "all": true'
            )
        return self


class PushRequest(_Strict):
    """A push to one or many devices. On the wire it has at most `max_payload` bytes (default 4,096): larger ones are
    refused with 413 `payload_too_large`."""

    # After validation `kind` is never None.
    target: Target
    """Devices that the push is for."""
    kind: Kind | None = None
    """`alert` (shown to the person), `in_app` (shown inside the app), `silent` (data only) or `command` (an order to
    the device, which answers with a result). `alert` and `in_app` need a `notification`. Left out: `alert` if there is
    a `notification`, else `silent`."""
    notification: Notification | None = None
    """Content that the person sees."""
    data: Any = None
    """Any JSON for the device's program. Left out: none."""
    channel: Name | None = None
    """Channel by which the person can mute it: 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_`, `.`, `:` and `-`. It
    need not have been made. Left out: it cannot be muted."""
    priority: Literal["critical", "high", "normal", "low"] = "normal"
    """A mailbox is sent in this order, the oldest first within one priority; when it is full, the oldest of the lowest
    priority ends `overflowed`. `critical` also passes muted channels, caps and quiet hours, as often as the policy
    allows."""
    qos: Literal[0, 1, 2] = 1
    """MQTT QoS. The effective one is the smaller of this and what the device has subscribed with. With 0 nothing is
    acknowledged, and the push may be lost after it was sent."""
    ttl: Annotated[int, Field(ge=0, le=MAX_TTL_SECONDS)] = DEFAULT_TTL_SECONDS
    """Time to live in seconds, 0 to 31,536,000 (one year), default 86,400 (one day). When it is over, what was not
    delivered ends `expired`. 0: deliver at once or not at all."""
    collapse_key: Annotated[Printable, StringConstraints(min_length=1, max_length=64)] | None = None
    """1 to 64 characters. A newer push to the same device with the same key supersedes this one while it waits, and
    replaces it on the screen. Left out: it is never superseded; a push to a duty gets a key of its own, so that its
    steps do not pile up on a screen."""
    send_at: Annotated[AwareDatetime, Field(strict=False)] | None = None
    """Time at which it is sent, RFC 3339 with its offset, at most a year ahead. Like each of the next four fields it
    makes the push a schedule."""
    send_at_local: LocalTime | None = None
    """Time on each device's own clock: `09:00` (when that comes next) or `2026-12-01T09:00`. Devices without a time
    zone go by the app's (`timezone` of its policy)."""
    repeat: Repeat | None = None
    """Dates at which it is sent again and again. Not with `send_at` or `send_at_local`: 422 `invalid_request`."""
    window: Window | None = None
    """Hours in which it may be sent. A date outside waits until they begin, if the ttl allows. Left out: always."""
    spread: Annotated[int, Field(ge=1, le=MAX_SPREAD_SECONDS)] | None = None
    """Seconds over which devices are given it, 1 to 86,400 (one day): evenly, neighbours at different times. Left out:
    all at once."""
    deadline: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """Seconds that the device has for the result of a `command`, 1 to 86,400. Left out: no limit. Other kinds with a
    deadline: 422 `invalid_request`."""
    signed: SignedPush | None = None
    """What the publisher has signed, a compact JWS: passed on unread, and verified by devices that have its key. For
    `command` and `silent` only; else 422 `invalid_request`."""
    encrypted: EncryptedPush | None = None
    """What the publisher has signed and then encrypted for one device, a compact JWE: passed on unread. For `command`
    and `silent` only, and without `signed`; else 422 `invalid_request`."""

    render: RenderMode | None = None
    """`liquid`: the texts of `notification` and `texts` and the strings in `data` are templates in Liquid, which read
    `device` and `data`. Left out: they are sent as they are."""
    texts: LocalizedTexts | None = None
    """Texts of the notification in other languages, by locale (1 to 100): a device gets those of its own locale, such
    as `de-AT`, else of `de`, else of `default`, else those of `notification`. Left out: everybody gets the same."""
    template: TemplateUse | None = None
    """A saved template, whose content this push has unless it says otherwise; or its name alone, as a string. Left out:
    none."""
    on_missing: OnMissing = "refuse"
    """What happens when a template needs a variable that a device does not have: `refuse` (nobody is sent the push: 422
    `template_error`), or `leave_out` (to those devices it ends `suppressed`, reason `no_text`)."""

    @field_validator("template", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return TemplateUse.from_name(value)

    @model_validator(mode="after")
    def _kind_fits(self) -> PushRequest:
        shows = self.notification is not None or self.texts is not None
        if self.kind is None:
            # Past the model's own setter, which takes longer than all the rest of this.
            self.__dict__["kind"] = "alert" if shows else "silent"
        if self.template is None:  # else it is not known yet what there is
            if not shows or self.deadline is not None:
                check_kind(self.kind, shows, self.deadline)
            if self.texts is not None:
                check_actions(self.texts, self.notification)
        is_sealed = self.signed is not None or self.encrypted is not None
        if is_sealed and self.is_composed:
            raise ValueError('"signed" and "encrypted" are sent as they are: without "render", "texts", "template"')
        if self.target.duty is not None and self.is_composed:
            raise ValueError('whom a "duty" is for, nobody knows yet: no "render", "texts" or "template"')
        if is_sealed:
            if self.kind not in ("command", "silent"):
                raise ValueError('"signed" and "encrypted" are for the kinds "command" and "silent"')
            if self.signed is not None and self.encrypted is not None:
                raise ValueError('give "signed" or "encrypted": what is encrypted has the signature inside')
        if self.target.duty is not None:
            if self.kind == "command":
                raise ValueError('a "command" is for devices; somebody on "duty" acts on an "alert" or "in_app"')
            if is_sealed:
                raise ValueError('"signed" and "encrypted" name a device; whom a "duty" is for, nobody knows yet')
            if not self.ttl:
                raise ValueError('a push to a "duty" has a "ttl": it ends when that is over')
        return self

    @property
    def is_composed(self) -> bool:
        """Whether its content has to be put together, for some of its devices or for all, before it is known."""
        return self.render is not None or self.texts is not None or self.template is not None

    def content(self) -> str:
        """Encode `notification`, `data`, `deadline`, `signed` and `encrypted` as compact JSON text.

        The database keeps it and the wire repeats it. Raises Problem 422 for what is no JSON.
        """
        text = ""
        try:
            if self.notification is not None:
                text = '"notification":' + self.notification.model_dump_json(exclude_none=True)
            if "data" in self.__pydantic_fields_set__:
                data = data_text(self.data)
                text = f'{text},"data":{data}' if text else f'"data":{data}'
            if self.deadline is not None:
                text = f'{text},"deadline":{self.deadline}' if text else f'"deadline":{self.deadline}'
            if self.signed is not None or self.encrypted is not None:  # never both
                token = f'"signed":"{self.signed}"' if self.encrypted is None else f'"encrypted":"{self.encrypted}"'
                text = f"{text},{token}" if text else token
        except (ValueError, RecursionError) as error:
            raise problem(
                "invalid_request",
                "data or notification cannot be written as JSON in UTF-8 (NaN, Infinity, an unpaired surrogate, "
                "or nested too deeply): send it without",
            ) from error
        return f"{{{text}}}"


def check_kind(kind: str | None, shows: bool, deadline: int | None) -> None:
    """Raise ValueError for a kind that does not fit what a push has."""
    if kind in ("alert", "in_app") and not shows:
        raise ValueError(f'kind "{kind}" needs a "notification"; use "silent" to send data only')
    if deadline is not None and kind != "command":
        raise ValueError('only a "command" has a "deadline"; how late a push may come is its "ttl"')


def check_actions(texts: Mapping[str, LocalizedText], notification: Notification | None) -> None:
    """Raise ValueError for a text that gives a title to an action which the notification does not have."""
    actions = (notification.actions if notification is not None else None) or ()
    unknown = unknown_actions(texts, {action.id for action in actions})
    if unknown is not None:
        raise ValueError(f"texts: the notification has no action {unknown!r}")


def data_text(data: Any) -> str:
    """Encode `data` as compact JSON. Raises ValueError, RecursionError for what is no JSON."""
    encoded = to_json(data)
    if b"NaN" in encoded or b"Infinity" in encoded:  # a word of a text, or a number that JSON does not know
        json.dumps(data, allow_nan=False)
    return encoded.decode()


def most_values(max_payload: int) -> int:
    """Bound of the JSON values, and commas in texts, that a push of so many bytes on the wire can have.

    Each takes a byte there, but for those of its target.
    """
    return max_payload + MAX_DEVICES + MAX_EXPRESSION_CHARACTERS


class ActivePush:
    """A push of which something is, or lately was, on its way. Loop.

    `sent` is the in-memory half of the ledger.
    """

    __slots__ = (
        "_body",
        "_content",
        "_expires_in",
        "_head",
        "_properties",
        "_tail",
        "accepted_at",
        "app_no",
        "channel",
        "collapse_key",
        "expires_at",
        "in_sets",
        "kind",
        "no",
        "priority",
        "push_id",
        "qos",
        "recalled",
        "sent",
        "texts",
        "ttl",
    )

    def __init__(
        self,
        *,
        no: int,
        app_no: int,
        push_id: str,
        kind: str,
        priority: int,
        qos: int,
        ttl: int,
        collapse_key: str | None,
        channel: str | None,
        content: str,
        accepted_at: int,
        expires_at: int,
        recalled: bool = False,
        in_sets: bool = False,
        texts: PushTexts | None = None,
    ) -> None:
        self.no = no
        self.app_no = app_no
        """The app of its devices."""
        self.push_id = push_id
        self.priority = priority
        self.qos = qos
        self.ttl = ttl
        self.collapse_key = collapse_key
        self.expires_at = expires_at
        self.recalled = recalled
        self.in_sets = in_sets
        """Whether its deliveries were stored as sets."""
        self.sent: set[int] = set()
        """Device numbers to which it was handed over and whose outcome is not on disk yet."""
        self.texts = texts
        """Its texts, where devices get different ones."""
        self.kind = kind
        self.channel = channel
        self.accepted_at = accepted_at
        self._content = content
        # The parts of the body are made when the first device is handed it: most pushes of a batch wait on disk.
        self._head = self._tail = b""
        self._properties: Properties | None = None
        self._body: Body | None = None
        self._expires_in = -1

    @property
    def size(self) -> int:
        """Bytes that the push takes in memory, about."""
        return len(self._content) + ENVELOPE_BYTES + (0 if self.texts is None else self.texts.size)

    def body(self, now_ms: int, device_no: int = 0) -> Body:
        """The wire body at server time `now_ms`, shared by all deliveries with the same whole seconds left.

        `device_no`: the device that it is for, of a push with several texts; the same body is for all that have its.

        Seconds are rounded up and at least 1; 0 only for ttl 0, whose body carries no message expiry (an interval that
        is over at once would let a client drop what it has just been given). Never more than the ttl, with which its
        size was counted: the node that accepted it may be some milliseconds ahead of this one.
        """
        if self.texts is not None:
            number = self.texts.number_of(device_no)
            form = self.texts.forms.get(number)
            if form is None:
                form = self.texts.forms[number] = self._with_content(self.texts.contents[number])
            return form.body(now_ms)
        expires_in = max(1, -(-(self.expires_at - now_ms) // 1000)) if self.ttl else 0
        if expires_in > self.ttl:
            expires_in = self.ttl
        if expires_in == self._expires_in:
            assert self._body is not None, "rendered together"
            return self._body
        if self._properties is None:
            self._make_parts()
        self._expires_in = expires_in
        self._body = Body(
            payload=b"%b%d%b" % (self._head, expires_in, self._tail),
            properties=self._properties,
            expires_at=self.expires_at / 1000 if self.ttl else None,
        )
        return self._body

    def _with_content(self, content: str) -> ActivePush:
        """This push with one of its texts; it renders bodies, and nothing else is asked of it."""
        return ActivePush(
            no=self.no,
            app_no=self.app_no,
            push_id=self.push_id,
            kind=self.kind,
            priority=self.priority,
            qos=self.qos,
            ttl=self.ttl,
            collapse_key=self.collapse_key,
            channel=self.channel,
            content=content,
            accepted_at=self.accepted_at,
            expires_at=self.expires_at,
        )

    def _make_parts(self) -> None:
        self._head, self._tail = wire_frame(
            self.push_id,
            self.kind,
            self.priority,
            self.channel,
            self.collapse_key,
            self._content,
            self.accepted_at,
        )
        properties = [("push_id", self.push_id), ("kind", self.kind), ("priority", PRIORITIES[self.priority])]
        if self.channel is not None:
            properties.append(("channel", self.channel))
        if self.collapse_key is not None:
            properties.append(("collapse_key", self.collapse_key))
        self._properties = Properties(
            payload_format_indicator=1,
            content_type="application/json",
            user_properties=properties,
        )


def wire_frame(
    push_id: str,
    kind: str,
    priority: int,
    channel: str | None,
    collapse_key: str | None,
    content: str,
    accepted_at: int,
) -> tuple[bytes, bytes]:
    """The wire payload before and after the number of `expires_in` (docs/contract.md: A push on the wire)."""
    head = f'{{"v":1,"push_id":{json.dumps(push_id)},"kind":"{kind}","sent_at":"{rfc3339(accepted_at)}","expires_in":'
    tail = f',"priority":"{PRIORITIES[priority]}"'
    if content != "{}":
        tail += "," + content[1:-1]
    if channel is not None:
        tail += f',"channel":{json.dumps(channel)}'
    if collapse_key is not None:
        tail += f',"collapse_key":{json.dumps(collapse_key, ensure_ascii=False)}'
    return head.encode(), (tail + "}").encode()


PUSH_ID_CHARACTERS = 20
"""Characters of every push id (`acceptance` makes them)."""
_FRAME_BYTES = {
    (kind, priority): sum(map(len, wire_frame("x" * PUSH_ID_CHARACTERS, kind, number, None, None, "{}", 0)))
    for kind in get_args(Kind)
    for number, priority in enumerate(PRIORITIES)
}


def wire_size(request: PushRequest, content: str) -> int:
    """Count the bytes of the largest payload that this push will ever have on the wire."""
    assert request.kind is not None, "filled in by validation"
    return payload_size(request.kind, request.priority, request.ttl, request.channel, request.collapse_key, content)


def payload_size(
    kind: str, priority: str, ttl: int, channel: str | None, collapse_key: str | None, content: str
) -> int:  # Hot path.
    """Count the bytes of the largest payload that such a push will ever have on the wire.

    `wire_frame` is counted and not made: this is done for every push before it is stored.
    """
    size = _FRAME_BYTES[kind, priority] + len(str(ttl))
    if content != "{}":
        size += 1 + (len(content) if content.isascii() else len(content.encode())) - 2
    if channel is not None:
        size += len(',"channel":""') + len(channel)
    if collapse_key is not None:
        size += len(',"collapse_key":') + len(json.dumps(collapse_key, ensure_ascii=False).encode())
    return size


LOADED_TEXT_SETS = 20_000
"""Sets of devices that one operation looks through for the texts of pushes, about 20 ms of the writer: twenty pushes
with a thousand texts each."""


def load_pushes(transaction: Transaction, push_nos: Iterable[int], devices: Iterable[int]) -> list[ActivePush]:
    """Load the pushes of these numbers from the database, with the texts of these devices. Writer thread.

    When more than LOADED_TEXT_SETS were looked through, the other pushes with texts are left out, those that were
    accepted last, and are for the next operation. One is always loaded, if there is any.
    """
    found: list[ActivePush] = []
    looked = 0
    for row in pushes_of_numbers(transaction, push_nos):
        texts: PushTexts | None = None
        if has_texts(row[8]):
            if looked > LOADED_TEXT_SETS:
                continue
            texts, sets = load_texts(transaction, row[0], BitMap(devices))
            looked += sets
        found.append(_active_push(row, texts))
    return found


def _active_push(row: LoadedPush, texts: PushTexts | None) -> ActivePush:
    """Make a push from its row."""
    return ActivePush(
        no=row[0],
        app_no=row[13],
        push_id=row[1],
        kind=row[2],
        priority=row[3],
        qos=row[4],
        ttl=row[5],
        collapse_key=row[6],
        channel=row[7],
        content=row[8],
        accepted_at=row[9],
        expires_at=row[10],
        recalled=row[11] is not None,
        in_sets=bool(row[12]),
        texts=texts,
    )


class ActivePushes:
    """The pushes in memory, by number. Loop, but for `get`.

    Those with nothing in flight are bounded, oldest out first.
    """

    def __init__(self) -> None:
        self._by_no: dict[int, ActivePush] = {}
        self._idle: dict[int, ActivePush] = {}
        self._idle_bytes = 0

    def get(self, no: int) -> ActivePush | None:
        """The push of that number, if it is in memory. Any thread."""

        return self._by_no.get(no)

    def apps_of(self, numbers: Iterable[int]) -> Apps:
        """The apps of the pushes of these numbers; every app, if one is not in memory. Any thread."""
        found: set[int] = set()
        for no in numbers:
            push = self._by_no.get(no)
            if push is None:
                return EVERY_APP
            found.add(push.app_no)
        return frozenset(found)

    def get_for(self, no: int, device_no: int) -> ActivePush | None:
        """The push of that number, if it is in memory with the text that this device gets. Any thread."""
        push = self._by_no.get(no)
        if push is not None and push.texts is not None and device_no not in push.texts.covered:
            return None
        return push

    def __len__(self) -> int:
        return len(self._by_no)

    def in_flight(self) -> int:
        """Count the deliveries in `sent`, for metrics; walks the pushes in memory."""
        return sum(len(push.sent) for push in self._by_no.values())

    def add(self, push: ActivePush) -> ActivePush:
        """The push of that number in memory: the given one, or the one that was there, with the texts of both."""
        present = self._by_no.setdefault(push.no, push)
        if present is push:
            self._rest(push)
        elif push.texts is not None and present.texts is not None:
            self._add_texts(present, push.texts)
        return present

    def _add_texts(self, push: ActivePush, texts: PushTexts) -> None:
        assert push.texts is not None, "it has texts"
        if texts.covered.issubset(push.texts.covered):
            return
        before = push.size
        push.texts.add(texts)
        if push.no in self._idle:
            self._idle_bytes += push.size - before

    def clear_sent(self, push: ActivePush, device_nos: Iterable[int]) -> None:
        """Clear hand-overs to these devices: their outcomes are on disk (or void)."""
        push.sent.difference_update(device_nos)
        if not push.sent and push.no in self._by_no:
            self._rest(push)

    def _rest(self, push: ActivePush) -> None:
        if self._idle.pop(push.no, None) is None:
            self._idle_bytes += push.size
        self._idle[push.no] = push
        while len(self._idle) > IDLE_PUSHES or self._idle_bytes > IDLE_BYTES:
            no, oldest = next(iter(self._idle.items()))
            del self._idle[no]
            self._idle_bytes -= oldest.size
            if not oldest.sent:
                del self._by_no[no]
