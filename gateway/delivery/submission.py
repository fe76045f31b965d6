"""Submissions: a request, the pending push while it is being stored, and the answer to an accepted one."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import StringConstraints
from pyroaring import BitMap

from gateway.audience.policy import Policy
from gateway.delivery.push import PUSH_ID_CHARACTERS, ActivePush, PushRequest, Target, wire_size
from gateway.delivery.push_texts import PreparedText, PushTexts
from gateway.delivery_states import PRIORITIES
from gateway.errors import Problem, problem
from gateway.store.audited_writes import Attempt
from gateway.store.deliveries.idempotency import answer_of_key
from gateway.store.deliveries.push_texts import mark
from gateway.store.errors import OutcomeUnknown, storage_problem
from gateway.store.transaction import Transaction

MAX_KEY_CHARACTERS = 255
"""Characters of an idempotency key."""
IdempotencyKey = Annotated[str, StringConstraints(pattern=rf"^[\x20-\x7e]{{1,{MAX_KEY_CHARACTERS}}}$")]
FETCH_WITHIN_BYTES = len(',"fetch_within":3600')
RANDOM_BYTES = 9
"""Random bytes of a push id, its last 12 characters: 72 bits are not to be guessed."""
SORTED_LETTERS = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
"""Letters of Base64's alphabet for URLs in the order in which SQLite sorts them."""


@dataclass(slots=True, frozen=True)
class AppRef:
    """The app on whose behalf something is done."""

    no: int
    id: str


class AcceptedPush(NamedTuple):
    """The answer to an accepted push."""

    push_id: str
    targeted: int
    suppressed: int
    unknown: tuple[str, ...]

    def members(self) -> str:
        """Encode the answer as the members of a JSON object."""
        unknown = json.dumps(self.unknown) if self.unknown else "[]"
        return (
            f'"push_id":"{self.push_id}","targeted":{self.targeted},"suppressed":{self.suppressed},"unknown":{unknown}'
        )


class Submission(NamedTuple):
    """One request with its idempotency key and the hash of its body (both or neither)."""

    request: PushRequest
    idempotency_key: str | None = None
    body_hash: bytes | None = None


class StoredAlong(Protocol):
    """Stores more along with a push, in the same operation, and chooses its devices: for a step of a duty."""

    def choose(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> Problem | None:
        """Note in the push for which devices it is; the problem that it is refused with, if it is.

        Writer thread; may be called again, after everything was rolled back.
        """

    def store(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> None:
        """Store what belongs to the push, whose number and devices are known. Writer thread."""

    def stored(self, pending: PendingPush) -> None:
        """Learn that all of it is on disk. Loop."""


@dataclass(slots=True, eq=False)
class PendingPush:
    """A submission that passed every check that needs no database; one with a key may have passed them before."""

    app: AppRef
    kind: str
    priority: int
    qos: int
    ttl: int
    channel: str | None
    collapse_key: str | None
    content: str
    frame_size: int
    listed: list[str] | None
    """The device ids of the target, each once; None when it selects instead, and none if `along` chooses."""
    target: Target | None = None
    """The target, unless it is a single device."""
    idempotency_key: str | None = None
    body_hash: bytes | None = None
    """Given with the key."""
    refused: Problem | None = None
    """The check that it did not pass: its answer, unless its idempotency key has one."""
    answer: AcceptedPush | Problem | None = None
    push_no: int = 0
    """0: nothing of it was stored, `answer` says why."""
    push_id: str = ""
    devices: Sequence[int] | BitMap = ()
    """Numbers of those that are to get it; a set if it was stored as one."""
    in_sets: bool = False
    unknown: tuple[str, ...] = ()
    targeted: int = 0
    limited: bool = False
    """Whether every delivery of it is checked when it is handed over."""
    muted: frozenset[int] = frozenset()
    """Devices to which alone it is, because it is critical and they have muted its channel."""
    suppressed: int = 0
    """Deliveries that nobody wants, counted in `targeted`; not among `devices`."""
    is_prepared: bool = True
    """False: `Acceptance.prepare` has to be awaited before it is stored."""
    selection: BitMap | None = None
    """The devices that its target was resolved to while it was prepared; those that are removed until it is stored are
    left out. None: it is resolved when it is stored."""
    composed: PushRequest | None = None
    """The request whose texts have to be composed while it is prepared."""
    texts: list[PreparedText] | None = None
    """What has been composed; None: it has one content, which was known from the beginning."""
    stored_texts: list[PreparedText] = field(default_factory=list)
    """Texts that were stored with it, where its devices get different ones."""
    template: tuple[str, int] | None = None
    """Name and version of the saved template that it was made with."""
    is_fetched: bool = False
    """Devices will come for what belongs to it."""
    fetch_within: int = 0
    """Seconds that they are given; 0: nothing is said."""
    along: StoredAlong | None = None
    target_text: str | None = None
    """The target as it is stored, if that is not what was asked for: of a part of a campaign."""
    is_approved: bool = False
    """Whether a command may be for more devices than the policy's `approve_above`."""
    key_id: str | None = None
    """Id of the key that it was sent with; None: by no request to push."""
    app_of_devices: int | None = None
    """The app of its devices, where that is not its own: of a push of the server's."""
    attempt: Attempt | None = None
    """The request of a person at the console, whose entry in the audit log is written with it."""

    @property
    def whole_content(self) -> str:
        """The content with the period over which devices spread their fetches."""
        return self.content if self.stored_texts else self._whole(self.content)

    def _whole(self, content: str) -> str:
        return f'{content[:-1]},"fetch_within":{self.fetch_within}}}'

    def choose_texts(self) -> BitMap:
        """Have it stored with the texts that its devices get; those that get none. Writer thread."""
        assert self.texts is not None, "it was composed"
        devices = BitMap(self.devices)
        found = [text._replace(devices=here) for text in self.texts if (here := text.devices & devices)]
        self.stored_texts = found if len(found) != 1 else []
        self.content = found[0].content if len(found) == 1 else mark(len(found))
        self.frame_size = max((text.size for text in found), default=0)
        self.is_fetched = any(text.is_fetched for text in found)
        return BitMap(devices - BitMap.union(BitMap(), *(text.devices for text in found)))

    def whole_texts(self) -> list[PreparedText]:
        """The texts that were stored, whole: once it is known for how many devices the push is."""
        return [
            text._replace(content=self._whole(text.content)) if text.is_fetched and self.fetch_within else text
            for text in self.stored_texts
        ]

    def active_push(self, accepted_at: int, devices: Iterable[int]) -> ActivePush:
        """The push in memory, with the texts of these devices."""
        texts: PushTexts | None = None
        if self.stored_texts:
            wanted = devices if isinstance(devices, BitMap) else BitMap(devices)
            parts = ((text.content, text.devices & wanted) for text in self.whole_texts())
            texts = PushTexts((content, here) for content, here in parts if here)
        return ActivePush(
            no=self.push_no,
            app_no=self.app.no if self.app_of_devices is None else self.app_of_devices,
            push_id=self.push_id,
            kind=self.kind,
            priority=self.priority,
            qos=self.qos,
            ttl=self.ttl,
            collapse_key=self.collapse_key,
            channel=self.channel,
            content=self.whole_content if self.fetch_within else self.content,
            accepted_at=accepted_at,
            expires_at=accepted_at + self.ttl * 1000,
            in_sets=self.in_sets,
            texts=texts,
        )

    def stored_target(self) -> str:
        """Encode the target as it is stored."""
        if self.target_text is not None:
            return self.target_text
        if self.target is not None:
            return self.target.model_dump_json(exclude_none=True)
        assert self.listed is not None, "a single device"
        return f'{{"device":"{self.listed[0]}"}}'  # its letters need no escape


def listed_ids(target: Target) -> list[str] | None:
    """The device ids a target names, without duplicates and in order; None when it selects instead.

    None of a duty, whose first step is known when it is stored.
    """
    if target.device is not None:
        return [target.device]
    if target.duty is not None:
        return []
    return list(dict.fromkeys(target.devices)) if target.devices is not None else None


def pending_push(app: AppRef, submission: Submission, max_payload: int, fetch_from: str | None) -> PendingPush:
    """Check a submission by itself. Raises Problem 413, 422.

    `fetch_from`: where devices fetch what belongs to it, None if nothing does.
    """
    request = submission.request
    pending = unchecked_push(app, submission)
    if request.is_composed:
        pending.composed, pending.is_prepared = request, False
        return pending
    pending.content, pending.frame_size = checked_content(request, max_payload, fetch_from)
    pending.is_fetched = fetch_from is not None
    return pending


def checked_content(request: PushRequest, max_payload: int, fetch_from: str | None) -> tuple[str, int]:
    """The content of a push, and its bytes on the wire. Raises Problem 413, 422."""
    content = request.content()
    if fetch_from is not None:
        content = f'{content[:-1]},"fetch_from":{json.dumps(fetch_from)}}}'
    size = wire_size(request, content)
    if fetch_from is not None:
        size += FETCH_WITHIN_BYTES
    if size > max_payload:
        raise problem(
            "payload_too_large",
            f"the push is {size} bytes on the wire and the limit is {max_payload}: "
            "send less, or an URL to fetch, or raise max_payload (up to 262144)",
        )
    return content, size


def unchecked_push(app: AppRef, submission: Submission) -> PendingPush:
    """The pending push of a submission whose content was not checked, or that was refused."""
    request, idempotency_key, body_hash = submission
    assert request.kind is not None, "filled in by validation"
    return PendingPush(
        app=app,
        kind=request.kind,
        priority=PRIORITIES.index(request.priority),
        qos=request.qos,
        ttl=request.ttl,
        channel=request.channel,
        collapse_key=request.collapse_key,
        content="",
        frame_size=0,
        listed=listed_ids(request.target),
        target=request.target if request.target.device is None else None,
        idempotency_key=idempotency_key,
        body_hash=body_hash,
    )


def nobody_known(unknown: Sequence[str]) -> Problem:
    names = ", ".join(unknown[:5]) + (", .." if len(unknown) > 5 else "")
    return problem("device_not_found", f"no such device: {names}; enrol it with POST /v1/devices")


def approval_needed(policy: Policy, kind: str | None, targeted: int) -> Problem | None:
    """The refusal of a push to so many devices that nobody has approved; None if it needs no approval."""
    above = policy.approve_above
    if above is None or kind != "command" or targeted <= above:
        return None
    return problem(
        "approval_needed",
        f"a command to {targeted} devices, and above {above} another key has to approve it: make it a campaign, POST"
        " /v1/campaigns",
    )


def key_reused(key: str) -> Problem:
    return problem(
        "idempotency_key_reused",
        "this Idempotency-Key was used with another body; send each new push under a key of its own",
    )


def remembered_answer(
    transaction: Transaction, app_no: int, key: str, body_hash: bytes | None, after_ms: int
) -> dict[str, Any] | Problem | None:
    """The answer that an app's key was given behind a time; Problem 422 if that was to another body. Any thread."""
    found = answer_of_key(transaction, app_no, key, after_ms)
    if found is None:
        return None
    return found.answer if found.body_hash == body_hash else key_reused(key)


def new_push_ids(count: int, now_ms: int) -> list[str]:
    """Make push ids, the last of their order first: `pop` gives them in order.

    An id is a `p`, which no command line takes for an option; server time in milliseconds, modulo 139 years; and random
    letters. New ids are the last of the index over all ids, so that the pushes of a group are written to a few pages of
    it and not to one each.
    """
    letters = SORTED_LETTERS
    time = (
        f"{letters[now_ms >> 36 & 63]}{letters[now_ms >> 30 & 63]}{letters[now_ms >> 24 & 63]}"
        f"{letters[now_ms >> 18 & 63]}{letters[now_ms >> 12 & 63]}{letters[now_ms >> 6 & 63]}{letters[now_ms & 63]}"
    )
    text = secrets.token_urlsafe(RANDOM_BYTES * count)  # whole groups of Base64: it can be cut
    length = PUSH_ID_CHARACTERS - len(time) - 1
    return sorted([f"p{time}{text[start : start + length]}" for start in range(0, len(text), length)], reverse=True)


def pending_among(checked: list[PendingPush | Problem]) -> list[PendingPush]:
    """The pending pushes among the checked ones."""

    return [pending for pending in checked if isinstance(pending, PendingPush)]


def answer_of(checked: PendingPush | Problem) -> AcceptedPush | Problem:
    """The answer to a submission that was checked and stored."""

    if isinstance(checked, Problem):
        return checked
    assert checked.answer is not None, "every stored push is answered"
    return checked.answer


def answer_unstored(checked: PendingPush | Problem, error: Exception, refusal: Problem) -> Problem:
    """The answer to a line of a batch that was to be stored when `error` came; `refusal` if it was not."""
    if isinstance(checked, Problem):
        return checked
    if isinstance(error, OutcomeUnknown):
        return storage_problem(error, has_key=checked.idempotency_key is not None)
    return refusal
