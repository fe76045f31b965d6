"""Policy and channels of an app, as its operator sets them: the rules for pushes to people.

Rules are immutable and swapped whole: the loop and the writer thread may look at them at any time. They are kept in
memory for every app (a few hundred bytes each), because every push is checked by them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, StringConstraints, field_validator

from gateway.audience.cap_segments import CapSegments
from gateway.audience.frequency import AdaptiveCap, Caps, ChannelCaps, GroupSelector, QuietHours
from gateway.audience.time_zones import is_time_zone
from gateway.delivery_states import SHOWN
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.misspelling import nearest
from gateway.names import Name
from gateway.pages import entity_tag
from gateway.printable import Printable
from gateway.store.audience.policy import (
    StoredAdaptation,
    StoredChannel,
    apps_with_quiet_hours,
    apps_with_restrictions,
    changes_of_rules,
    note_change_of_rules,
    remove_adapted_cap,
    remove_channel,
    replace_adapted_cap,
    replace_channel,
    replace_policy,
    stored_adapted_caps,
    stored_channel,
    stored_channels,
    stored_policies,
    stored_policy,
)
from gateway.store.audience.preferences import MAX_CHANNELS
from gateway.store.database import Database
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

MAX_JOINABLE_TOPICS = 100
"""Topics, or beginnings of their names, that an app lets devices join: looked through for each that one joins."""

Consent = Literal["unknown", "granted", "denied"]
Verdict = Literal["allow", "suppress"]
TopicPattern = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_.:-]{1,64}|[A-Za-z0-9_.:-]{0,63}\*)$")]
CRITICAL = 0
"""The priority, as the database holds it."""


class _Strict(DescribedModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class WhenDenied(_Strict):
    """Kinds of pushes that still go to a device whose person denied consent. It never gets an `alert`."""

    in_app: Verdict = "allow"
    """Pushes of kind `in_app`: `allow`, or `suppress` (they end `suppressed`, reason `no_consent`)."""
    silent: Verdict = "allow"
    """Pushes of kind `silent`: `allow`, or `suppress` (they end `suppressed`, reason `no_consent`)."""
    command: Verdict = "allow"
    """Pushes of kind `command`: `allow`, or `suppress` (they end `suppressed`, reason `no_consent`)."""


class ConsentPolicy(_Strict):
    """Meaning of a person's consent for pushes."""

    unknown: Verdict = "allow"
    """Alerts to devices whose person has not answered: `allow`, or `suppress` (they end `suppressed`, reason
    `no_consent`)."""
    denied: WhenDenied = Field(default_factory=WhenDenied)
    """Other pushes to devices whose person has denied consent. Default: all are allowed."""


class CriticalPolicy(_Strict):
    """Limit of critical pushes that may pass other rules."""

    per_day: Annotated[int, Field(ge=0, le=1_000)] = 10
    """Critical pushes to a device in any 24 hours that may pass a muted channel, a cap or quiet hours, 0 to 1,000,
    default 10. One more is treated like any other push."""


class Policy(_Strict):
    """The rules of an app. Whatever is left out gets its default, not its present value."""

    consent: ConsentPolicy = Field(default_factory=ConsentPolicy)
    """Meaning of a person's consent for pushes. Default: everything is allowed, but for alerts to people who have
    denied it."""
    caps: Caps | None = None
    """Limits of alerts to a device, of all channels together. null or left out: none."""
    quiet_hours: QuietHours | None = None
    """Hours in which no alert disturbs. null or left out: none."""
    timezone: str = "UTC"
    """IANA time zone of devices that have not reported theirs, such as `Europe/Berlin`. Default `UTC`."""
    critical: CriticalPolicy = Field(default_factory=CriticalPolicy)
    """Limit of critical pushes that may pass other rules."""
    joinable_topics: Annotated[list[TopicPattern], Field(max_length=MAX_JOINABLE_TOPICS)] = Field(default_factory=list)
    """Topics that a device may join and leave by itself, at most 100. `news.*` stands for all that begin with `news.`,
    `*` for every topic. Default: none."""
    approve_above: Annotated[int, Field(ge=0)] | None = None
    """Number of devices above which a `command` has to be a campaign that another key approves, 0 or more. A push of
    this kind to more devices is refused: 403 `approval_needed`. null or left out: no approval is needed."""

    @field_validator("caps")
    @classmethod
    def _fixed(cls, value: Caps | None) -> Caps | None:
        if value is not None and value.adaptive is not None:
            raise ValueError("adaptive is for the caps of a channel: PATCH /v1/channels/ID")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if not is_time_zone(value):
            raise ValueError("unknown time zone: use an IANA name such as Europe/Berlin")
        return value

    def may_join(self, topic: str) -> bool:
        """Whether a device may join and leave a topic by itself."""
        return any(
            topic.startswith(pattern[:-1]) if pattern.endswith("*") else topic == pattern
            for pattern in self.joinable_topics
        )

    def blocked(self, kind: str) -> tuple[Consent, ...]:
        """The consents with which a push of this kind is not sent."""
        if kind == "alert":
            return ("denied",) if self.consent.unknown == "allow" else ("denied", "unknown")
        kind = "silent" if kind == "heartbeat" else kind  # a beat is data, too
        return ("denied",) if getattr(self.consent.denied, kind) == "suppress" else ()


class ChannelFields(_Strict):
    """A category of pushes, as people see it in their settings."""

    name: Annotated[Printable, StringConstraints(min_length=1, max_length=64)]
    """Name for people, 1 to 64 characters."""
    description: Annotated[Printable, StringConstraints(max_length=512)] | None = None
    """Text about the channel for people, at most 512 characters."""
    importance: Literal["high", "default", "low"] = "default"
    """A hint to the device how prominently to show its pushes."""
    sound: Annotated[str, StringConstraints(max_length=256)] | None = None
    """A hint to the device which sound to play, at most 256 characters. null or left out: none."""
    may_mute: bool = True
    """Whether a person can mute it. false: choices against it have no effect."""
    caps: ChannelCaps = None
    """Limits of alerts of this channel to a device, besides the policy's. `"adaptive"` for one that the channel sets
    itself. null or left out: none."""
    quiet_hours: QuietHours | None = None
    """Quiet hours of this channel, instead of the policy's. null or left out: the policy's."""


class NewChannel(ChannelFields):
    """A channel to be made. An app has 200 at most; one more: 422 `invalid_request`."""

    id: Name
    """The channel's id, which pushes name in `channel`: 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_`, `.`, `:` and
    `-`. It cannot be changed."""


class AdaptedCap(NamedTuple):
    """The present step of an adaptive cap."""

    per_day: int
    """Alerts a day."""
    decision: Mapping[str, Any]
    """The last look at the figures, as the API shows it; empty before the first."""
    reviewed_day: int
    """The last day (since the epoch) of which figures have been looked at."""
    changed_at: int
    """Milliseconds."""


class Channel(NamedTuple):
    """A channel of an app, with the times at which it was made and changed (milliseconds)."""

    fields: ChannelFields
    created_at: int
    updated_at: int
    adapted: AdaptedCap | None = None
    """Of a channel with an adaptive cap."""
    caps: Caps | None = None
    """The caps that hold now."""


def _with_caps(channel: Channel, adapted: AdaptedCap | None) -> Channel:
    """The channel with the caps that hold, at this step of its adaptive cap or at its beginning."""
    caps = channel.fields.caps
    if caps is None or caps.adaptive is None:
        return channel._replace(adapted=None, caps=caps)
    if adapted is None:
        adapted = AdaptedCap(caps.adaptive.start, {}, 0, channel.updated_at)
    adapted = adapted._replace(per_day=caps.adaptive.within(adapted.per_day))
    return channel._replace(adapted=adapted, caps=caps.adapted_to(adapted.per_day))


@dataclass(slots=True, frozen=True)
class Rules:
    """The rules of one app: its policy and its channels."""

    policy: Policy = field(default_factory=Policy)
    channels: Mapping[str, Channel] = field(default_factory=dict)

    def may_mute(self, channel: str) -> bool:
        found = self.channels.get(channel)
        return found is None or found.fields.may_mute

    def mutable(self, kind: str, channel: str | None) -> bool:
        """Whether a person's choice about its channel decides on such a push."""
        return channel is not None and kind in SHOWN and self.may_mute(channel)

    def quiet_hours(self, channel: str | None) -> QuietHours | None:
        found = self.channels.get(channel) if channel is not None else None
        return found.fields.quiet_hours if found is not None and found.fields.quiet_hours else self.policy.quiet_hours

    def caps(self, channel: str | None) -> Caps | None:
        """Caps of the channel alone that hold now; None if it has none."""
        found = self.channels.get(channel) if channel is not None else None
        return found.caps if found is not None else None

    @property
    def counts(self) -> bool:
        """Whether alerts are counted at all."""
        return self.policy.caps is not None or any(channel.caps for channel in self.channels.values())

    @property
    def cap_groups(self) -> frozenset[GroupSelector]:
        """The groups of devices that some caps have limits for."""
        every = (self.policy.caps, *(channel.caps for channel in self.channels.values()))
        return frozenset(group.selector for caps in every if caps is not None for group in caps.groups)

    @property
    def cap_segments(self) -> set[str]:
        """The segments that some caps have limits for."""
        return {selector.name for selector in self.cap_groups if selector.kind == "segment"}

    def has_frequency_limits(self, channel: str | None) -> bool:
        """Whether an alert of this channel may have to wait, as far as the app is concerned."""
        return self.policy.caps is not None or self.caps(channel) is not None or self.quiet_hours(channel) is not None

    def suppression_reason(
        self, kind: str, channel: str | None, priority: int, consent: str, choices: Mapping[str, bool]
    ) -> Literal["no_consent", "channel_muted"] | None:
        """The reason to keep a push from this device; None to let it through.

        None as well for a critical push that passes what is muted, which is checked at hand-over. `choices`: the
        person's, by channel.
        """
        if consent in self.policy.blocked(kind):
            return "no_consent"
        return "channel_muted" if priority != CRITICAL and self.is_muted(kind, channel, choices) else None

    def is_muted(self, kind: str, channel: str | None, choices: Mapping[str, bool]) -> bool:
        return channel is not None and choices.get(channel) is False and self.mutable(kind, channel)


DEFAULT = Rules()


class PolicyStore:
    """Policies and channels of all apps, in memory and in the ledger. Loop.

    `segments` has the devices of the segments that caps name. `clock_ms` gives server time in milliseconds.
    `on_changed` is called with the app number when the rules of an app have changed: what waits is checked anew.
    """

    def __init__(
        self,
        *,
        database: Database,
        segments: CapSegments,
        clock_ms: Callable[[], int],
        on_changed: Callable[[int], None],
    ) -> None:
        self._database = database
        self.segments = segments
        self._clock_ms = clock_ms
        self._rules: dict[int, Rules] = {}
        self.restricted: set[int] = set()
        """Apps of which some device has denied consent or muted a channel: the others' pushes need no look at it."""
        self.timed: set[int] = set()
        """Apps of which some device has quiet hours of its own."""
        self._on_changed = on_changed
        self._changes = 0
        self._reloading = asyncio.Lock()
        """Held while an app is read again: what was read first is not put in the place of what was read later."""
        self.last_changes: dict[int, int] = {}
        """App number -> number of the last change of its rules that holds. The table `rule_change` has it as well until
        everything that waits has been put under them (`delivery/rule_changes`)."""

    async def load(self) -> None:
        """Read all policies and channels; before the first push."""
        await self._database.read(self._read)
        if not self._changes:
            self._changes = max(self.last_changes.values(), default=0)

    def number_changes_from(self, first: int) -> None:
        """Have changes numbered from here on, as no other node ever does; before `load`."""
        self._changes = first

    async def reload(self, app_no: int) -> None:
        """Read the rules of an app again, which another node has changed, and have what waits checked by them."""
        async with self._reloading:
            fresh = PolicyStore(
                database=self._database, segments=self.segments, clock_ms=self._clock_ms, on_changed=self._on_changed
            )
            await self._database.read(partial(fresh._read, app_no=app_no))
            self._rules[app_no] = fresh.of(app_no)
            self.restricted |= fresh.restricted
            self.timed |= fresh.timed
            if app_no in fresh.last_changes:
                self.last_changes[app_no] = fresh.last_changes[app_no]
        self._on_changed(app_no)

    def _read(self, transaction: Transaction, app_no: int | None = None) -> None:
        """Add what is stored of all apps, or of one. Reader thread."""
        for of_app, content in stored_policies(transaction, app_no):
            self._rules[of_app] = replace(self.of(of_app), policy=Policy.model_validate_json(content))
        for found in stored_channels(transaction, app_no):
            fields = ChannelFields.model_validate_json(found.content)
            channel = _with_caps(Channel(fields, found.created_at, found.updated_at), None)
            self._put(found.app_no, found.channel_id, channel)
        for step in stored_adapted_caps(transaction, app_no):
            adapting = self.of(step.app_no).channels.get(step.channel_id)
            if adapting is not None:
                adapted = AdaptedCap(step.per_day, json.loads(step.content), step.reviewed_day, step.changed_at)
                self._put(step.app_no, step.channel_id, _with_caps(adapting, adapted))
        self.restricted.update(apps_with_restrictions(transaction, app_no))
        self.timed.update(apps_with_quiet_hours(transaction, app_no))
        self.last_changes.update(changes_of_rules(transaction, app_no))

    def of(self, app_no: int) -> Rules:
        return self._rules.get(app_no, DEFAULT)

    def is_guarded(self, app_no: int) -> bool:
        """Whether any push of the app may have to be kept from somebody."""
        return app_no in self.restricted or self.of(app_no).policy.consent.unknown == "suppress"

    def guarded(self) -> list[int]:
        """The apps of which some push may have to be kept from somebody."""
        return [app_no for app_no in self.restricted.union(self._rules) if self.is_guarded(app_no)]

    def has_frequency_limits(self, app_no: int) -> bool:
        """Whether alerts of the app may have to wait."""
        rules = self.of(app_no)
        return app_no in self.timed or any(map(rules.has_frequency_limits, (None, *rules.channels)))

    def apps_with_frequency_limits(self) -> list[int]:
        """The apps whose alerts may have to wait."""
        return [app_no for app_no in self.timed.union(self._rules) if self.has_frequency_limits(app_no)]

    def apps_limited_at_hand_over(self) -> set[int]:
        """The apps of which some push may be checked at hand-over.

        That is an alert that may have to wait, or a critical push that somebody has muted.
        """
        return self.restricted.union(self.apps_with_frequency_limits())

    def is_limited(self, app_no: int, kind: str, channel: str | None) -> bool:
        """Whether such a push is checked when it is handed over, to everybody: an alert that may have to wait."""
        return kind == "alert" and (app_no in self.timed or self.of(app_no).has_frequency_limits(channel))

    def may_pass_mute(self, app_no: int, kind: str, channel: str | None, priority: int) -> bool:
        """Whether such a push is checked when it is handed over to those who have muted its channel: a critical one."""
        return priority == CRITICAL and app_no in self.restricted and self.of(app_no).mutable(kind, channel)

    def _put(self, app_no: int, channel_id: str, channel: Channel) -> None:
        rules = self.of(app_no)
        channels = dict(sorted({**rules.channels, channel_id: channel}.items()))
        self._rules[app_no] = replace(rules, channels=channels)

    # -- the API's commands

    def policy(self, app_no: int) -> dict[str, Any]:
        return self.of(app_no).policy.model_dump(mode="json")

    async def set_policy(self, app_no: int, policy: Policy, expected: str | None = None) -> dict[str, Any]:
        """Replace the policy; `expected`: if it has this tag. Raises Problem 404, 412, 422, 503."""
        await self._prepare_segments(app_no, policy.caps)

        now_ms = self._clock_ms()

        def change(transaction: Transaction) -> None:
            if expected is not None:
                # What is stored, since a change that is being stored is not in memory yet.
                stored = stored_policy(transaction, app_no)
                present = Policy() if stored is None else Policy.model_validate_json(stored)
                if entity_tag(present.model_dump(mode="json")) != expected:
                    raise problem("precondition_failed", "the policy was changed meanwhile: nothing was replaced")
            replace_policy(transaction, app_no, policy.model_dump_json(), now_ms)

        number = await self._write(app_no, change)
        self._rules[app_no] = replace(self.of(app_no), policy=policy)
        self._changed(app_no, number)
        return self.policy(app_no)

    def channels(self, app_no: int, limit: int, cursor: str | None) -> dict[str, Any]:
        """A page of the app's channels, by id."""
        found = self.of(app_no).channels
        later = [channel_id for channel_id in found if channel_id > (cursor or "")]
        items = [_described(channel_id, found[channel_id]) for channel_id in later[:limit]]
        return {"items": items, "next_cursor": later[limit - 1] if len(later) > limit else None}

    def channel(self, app_no: int, channel_id: str) -> dict[str, Any]:
        """One channel, as the API shows it. Raises Problem 404."""
        found = self.of(app_no).channels.get(channel_id)
        if found is None:
            raise _unknown(channel_id)
        return _described(channel_id, found)

    async def add_channel(self, app_no: int, new: NewChannel) -> dict[str, Any]:
        """Store a new channel. Raises Problem 409, 422, and as `set_policy`."""
        if new.id in self.of(app_no).channels:
            raise problem("channel_exists", f"there is a channel {new.id!r}; change it with PATCH")
        if len(self.of(app_no).channels) >= MAX_CHANNELS:
            raise problem("invalid_request", f"an app has at most {MAX_CHANNELS} channels: remove one first")
        now_ms = self._clock_ms()
        fields = ChannelFields.model_validate(new.model_dump(exclude={"id"}))
        return await self._store(app_no, new.id, Channel(fields, now_ms, now_ms))

    async def change_channel(self, app_no: int, channel_id: str, merged: ChannelFields) -> dict[str, Any]:
        """Store the changed fields of a channel. Raises Problem 404, and as `set_policy`."""
        before = self.of(app_no).channels.get(channel_id)
        if before is None:
            raise _unknown(channel_id)
        channel = Channel(merged, before.created_at, self._clock_ms())
        kept = _bounds(merged) == _bounds(before.fields)
        return await self._store(app_no, channel_id, channel, before.adapted if kept else None)

    async def _prepare_segments(self, app_no: int, caps: Caps | None, channel_id: str | None = None) -> None:
        """Search the segments of caps that are about to be stored: of a channel, or of the policy."""
        if caps is None or not caps.segments:
            return
        rules = self.of(app_no)
        others = [channel.fields.caps for name, channel in rules.channels.items() if name != channel_id]
        if channel_id is not None:
            others.append(rules.policy.caps)
        named = {name for other in others if other is not None for name in other.segments}
        await self.segments.prepare(app_no, caps.segments, named)

    def cap_segments(self) -> dict[int, set[str]]:
        """The segments that caps name, by app."""
        return {app_no: names for app_no, rules in self._rules.items() if (names := rules.cap_segments)}

    def channel_hint(self, app_no: int, name: str) -> str | None:
        """A hint for who has probably mistyped the name of a channel, which need not exist; 2 ms of the loop."""
        channels = self.of(app_no).channels
        like = None if name in channels else nearest(name, channels)
        return None if like is None else f"this app has no channel {name!r}; did you mean {like!r}?"

    def adaptive_channels(self) -> list[tuple[int, str, Channel]]:
        """The channels with an adaptive cap: (app, id, channel) each."""
        return [
            (app_no, channel_id, channel)
            for app_no, rules in self._rules.items()
            for channel_id, channel in rules.channels.items()
            if channel.adapted is not None
        ]

    async def adapt(
        self,
        app_no: int,
        channel_id: str,
        adapted: AdaptedCap,
        log_change: Callable[[Transaction], None] | None,
    ) -> None:
        """Store the present step of a channel's adaptive cap. `log_change` stores the event of another step with it.

        Nothing happens if the channel has other bounds by now.
        """
        before = self.of(app_no).channels.get(channel_id)
        if before is None or before.adapted is None:
            return
        bounds = _bounds(before.fields)
        self._changes += 1
        number = self._changes

        decision = json.dumps(adapted.decision)
        step = StoredAdaptation(app_no, channel_id, adapted.per_day, decision, adapted.reviewed_day, adapted.changed_at)

        def operation(transaction: Transaction) -> bool:
            stored = stored_channel(transaction, app_no, channel_id)
            # A change that is being stored is not in memory yet.
            if stored is None or _bounds(ChannelFields.model_validate_json(stored)) != bounds:
                return False
            replace_adapted_cap(transaction, step)
            if log_change is not None:
                log_change(transaction)
                note_change_of_rules(transaction, app_no, number)
            return True

        if not await self._database.write(operation, app_no):
            return
        channel = self.of(app_no).channels.get(channel_id)
        if channel is not None and _bounds(channel.fields) == bounds:
            self._put(app_no, channel_id, _with_caps(channel, adapted))
        if log_change is not None:
            self._changed(app_no, number)

    async def _store(
        self, app_no: int, channel_id: str, channel: Channel, adapted: AdaptedCap | None = None
    ) -> dict[str, Any]:
        await self._prepare_segments(app_no, channel.fields.caps, channel_id)
        channel = _with_caps(channel, adapted)

        content = channel.fields.model_dump_json()
        stored = StoredChannel(app_no, channel_id, content, channel.created_at, channel.updated_at)
        begins_anew = adapted is None or channel.adapted is None

        def change(transaction: Transaction) -> None:
            if begins_anew:
                remove_adapted_cap(transaction, app_no, channel_id)
            replace_channel(transaction, stored)

        number = await self._write(app_no, change)
        present = self.of(app_no).channels.get(channel_id)
        if channel.adapted is not None and present is not None and _bounds(present.fields) == _bounds(channel.fields):
            channel = _with_caps(channel, present.adapted)  # it may have been adapted meanwhile
        self._put(app_no, channel_id, channel)
        self._changed(app_no, number)
        return _described(channel_id, channel)

    async def remove_channel(self, app_no: int, channel_id: str) -> None:
        """Remove a channel. Pushes may go on naming it, and people's choices about it stay. Raises Problem 404."""
        if channel_id not in self.of(app_no).channels:
            raise _unknown(channel_id)

        def change(transaction: Transaction) -> None:
            remove_adapted_cap(transaction, app_no, channel_id)
            remove_channel(transaction, app_no, channel_id)

        number = await self._write(app_no, change)
        rules = self.of(app_no)
        left = {name: channel for name, channel in rules.channels.items() if name != channel_id}
        self._rules[app_no] = replace(rules, channels=left)
        self._changed(app_no, number)

    async def _write(self, app_no: int, change: Callable[[Transaction], None]) -> int:
        """Store a change of an app's rules, which may refuse, together with its number, which is answered."""
        self._changes += 1
        number = self._changes

        def operation(transaction: Transaction) -> None:
            change(transaction)
            note_change_of_rules(transaction, app_no, number)

        await self._database.write(operation, app_no)
        return number

    def _changed(self, app_no: int, number: int) -> None:
        self.last_changes[app_no] = number
        self._on_changed(app_no)


def _bounds(fields: ChannelFields) -> AdaptiveCap | None:
    """The bounds of a channel's cap that adapts; None: it has none."""
    return None if fields.caps is None else fields.caps.adaptive


def _described(channel_id: str, channel: Channel) -> dict[str, Any]:
    return {
        "id": channel_id,
        **channel.fields.model_dump(mode="json"),
        "effective_caps": None if channel.caps is None else channel.caps.model_dump(mode="json", exclude={"adaptive"}),
        "adapted": None if channel.adapted is None else _described_step(channel.adapted),
        "created_at": rfc3339(channel.created_at),
        "updated_at": rfc3339(channel.updated_at),
    }


def _described_step(adapted: AdaptedCap) -> dict[str, Any]:
    return {
        "per_day": adapted.per_day,
        "since": rfc3339(adapted.changed_at),
        "decision": dict(adapted.decision) or None,
    }


def _unknown(channel_id: str) -> Problem:
    return problem("channel_not_found", f"no channel {channel_id!r} in this app; make it with POST /v1/channels")
