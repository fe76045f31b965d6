"""Consent and muted channels of people, from what a device says to the pushes that are kept from it.

It is checked when a push is accepted, and again when a person changes their mind or the app its rules: what waits and
is not wanted any more ends at once, so that nothing that waits need be checked when it is handed over. What was in
flight at that moment ends so too if it comes back.

`Rules.suppression_reason` looks at one device; `refusals` says the same of all people of an app, for pushes to many.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, StringConstraints
from pyroaring import BitMap

from gateway.audience.frequency import GroupSelector, Hours
from gateway.audience.policy import CRITICAL, Channel, Consent, PolicyStore, Rules
from gateway.audience.topics import TOPICS_OF_DEVICE, change_own_topics
from gateway.delivery.alert_rules import members_of
from gateway.delivery.ledger import Ledger
from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK, handle_of
from gateway.delivery_states import DeliveryState
from gateway.described_model import DescribedModel
from gateway.errors import problem
from gateway.names import Name
from gateway.store.analytics.alert_days import note_opt_out
from gateway.store.analytics.funnels import opted_out
from gateway.store.audience.preferences import (
    ConsentAnswer,
    PreferenceChange,
    Refusal,
    SettingsDocument,
    choices_of,
    consent_and_choices,
    consent_records,
    record_consent,
    refusing_devices,
    settings_document,
    store_preferences,
    store_quiet_hours,
    stored_preferences,
)
from gateway.store.audience.topics import topics_of
from gateway.store.database import Database
from gateway.store.deliveries.app_slices import BEGIN, PushPart, SlicePosition
from gateway.store.deliveries.delivery_sets import handles_to_rows, note_rows_made
from gateway.store.deliveries.event_log import log_of_device
from gateway.store.deliveries.ledger_statements import end_rows
from gateway.store.deliveries.not_before import mark_channels_rows, mark_device_rows
from gateway.store.deliveries.rule_changes import (
    preferences_of_handles,
    preferences_of_waiting,
    pushes_waiting_in_mailbox,
)
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339_or_none

log = logging.getLogger(__name__)

MAX_CHOICES_BYTES = 16_384
"""Bytes of a device's channel choices as JSON text."""
CONSENT_RECORDS = 100
"""Answers kept of each device, the oldest forgotten first."""
SLICE_DELIVERIES = 500
"""Deliveries that one operation ends when an app's rules change, about 20 ms."""
SLICE_BYTES = 1024 * 1024
"""Bytes of choices that one operation reads when an app's rules change, about 10 ms."""

TOPICS_ONLY = frozenset(("topics", "seq", "client"))
"""Settings with these fields alone make nothing unwanted."""
CONSENT_ACTIONS: dict[str, Consent] = {"consent.granted": "granted", "consent.denied": "denied"}
"""Actions of a push that asks: choosing one is the answer."""


class DeviceSettings(DescribedModel):
    """Consent and choices of a device's person, as the device says them. Unknown fields are ignored: a device may be
    newer than the server."""

    model_config = ConfigDict(strict=True)

    consent: Consent | None = None
    """Whether the person wants to be notified: `unknown`, `granted` or `denied`. null or left out: as before."""
    channels: dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], bool] | None = None
    """Choices by channel id (1 to 64 characters): false mutes, true does not. Channels that are left out stay as they
    were. A device has 16 KiB of choices at most; more: 422 `invalid_request`."""
    topics: Annotated[dict[Name, bool], Field(max_length=TOPICS_OF_DEVICE)] | None = None
    """Topics that the device joins (true) or leaves (false), those among the policy's `joinable_topics`; an operator's
    key may change any. Others, and those that are too many, are left out, and the device's `last_error` says so. Topics
    that are not named stay as they were."""
    seq: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """Sequence number, 0 to 2^53. A change whose number is not larger than the last one is ignored. Left out: the
    change is made, in order of arrival."""
    text_version: Annotated[str, StringConstraints(max_length=64)] | None = None
    """Version of the text that asked for consent, at most 64 characters. Kept with the answer as proof."""
    client: Annotated[str, StringConstraints(max_length=128)] | None = None
    """Program that asked for consent, at most 128 characters. Kept with the answer as proof."""
    quiet_hours: Hours | None = None
    """The person's own quiet hours, in the device's time zone. null: none. Left out: as before."""


class TooManyChoices(Exception):
    """Refusal of choices that are too large; nothing was stored."""


class StoredSettings(NamedTuple):
    """Result of storing the settings of a device."""

    ended: list[int]
    """Handles of deliveries that are not wanted any more."""
    in_flight: set[int]
    """Handles of deliveries that are not wanted any more, and are on their way."""
    complaint: str | None = None
    """The part of them that was not stored, in words; None: all were."""


# -- on the writer thread ----------------------------------------------------------------------------------------------


def store_settings(
    transaction: Transaction,
    device_no: int,
    settings: DeviceSettings,
    source: str,
    policies: PolicyStore,
    now_ms: int,
) -> int | None:
    """Store a device's settings; the number of its app, None if nothing changed. Writer thread.

    The highest sequence wins; without one the order of arrival. Raises TooManyChoices.
    """
    stored = stored_preferences(transaction, device_no)
    if stored is None or (settings.seq is not None and stored.seq is not None and settings.seq <= stored.seq):
        return None
    choices = json.dumps({**choices_of(stored.choices), **(settings.channels or {})}, ensure_ascii=False)
    if len(choices.encode(errors="replace")) > MAX_CHOICES_BYTES:
        raise TooManyChoices(f"channels would be larger than {MAX_CHOICES_BYTES} bytes")
    before = choices_of(stored.choices)
    muted = [
        name
        for name, wanted in (settings.channels or {}).items()
        if not wanted and before.get(name, True) and policies.of(stored.app_no).may_mute(name)
    ]
    denied = settings.consent == "denied" and stored.consent != "denied"
    if muted or denied:
        opted_out(transaction, stored.app_no, device_no, denied, muted, now_ms)
        note_opt_out(transaction, stored.app_no, device_no, denied, muted, now_ms)
    if "quiet_hours" in settings.model_fields_set:
        hours = None if settings.quiet_hours is None else settings.quiet_hours.model_dump_json()
        store_quiet_hours(transaction, device_no, hours)
    change = PreferenceChange(settings.consent, choices, settings.seq, settings.text_version, settings.client)
    store_preferences(transaction, device_no, change, now_ms)
    if settings.consent is not None:
        answer = ConsentAnswer(
            settings.consent, settings.text_version, settings.client, source, settings.seq, recorded_at=now_ms
        )
        record_consent(transaction, device_no, answer, CONSENT_RECORDS)
    said = settings.model_dump(mode="json", exclude_unset=True)
    log_of_device(transaction, "device.settings", now_ms, device_no, {**said, "source": source})
    return stored.app_no


def end_unwanted(
    transaction: Transaction,
    device_no: int,
    rules: Rules,
    is_sent: Callable[[int, int], bool],
    now_ms: int,
) -> tuple[list[int], set[int]]:
    """End what waits for a device and is not wanted any more. Writer thread.

    Answers the handles of those that ended, and of what is in flight and not wanted.
    """
    consent, choices = consent_and_choices(transaction, device_no)
    waiting = pushes_waiting_in_mailbox(transaction, device_no)
    wanted = choices_of(choices)
    ended: dict[str, list[int]] = {}
    in_flight: set[int] = set()
    for push_no, kind, channel, priority in waiting:
        verdict = rules.suppression_reason(kind, channel, priority, consent, wanted)
        if verdict is None:
            continue
        handle = handle_of(push_no, device_no)
        if is_sent(push_no, device_no):
            in_flight.add(handle)
        else:
            ended.setdefault(verdict, []).append(handle)
    for reason, handles in ended.items():
        end_rows(transaction, handles, DeliveryState.SUPPRESSED, reason, now_ms)
    return [handle for handles in ended.values() for handle in handles], in_flight


def unwanted(
    rules: Rules,
    kind: str,
    channel: str | None,
    priority: int,
    preferences: dict[int, tuple[str, str]],
    devices: Iterable[int],
) -> dict[int, str]:
    """Device numbers that do not want this push, each with the reason."""
    found: dict[int, str] = {}
    for device_no in devices:
        preference = preferences.get(device_no)
        if preference is not None:
            reason = rules.suppression_reason(kind, channel, priority, preference[0], choices_of(preference[1]))
            if reason is not None:
                found[device_no] = reason
    return found


def refusals(rules: Rules, kind: str, channel: str | None, priority: int) -> list[Refusal]:
    """The ways in which people refuse such a push. The first that a person refuses in counts."""
    found: list[Refusal] = []
    blocked = rules.policy.blocked(kind)
    if "unknown" in blocked:
        found.append(Refusal("no_consent", consent="unknown"))
    elif blocked:
        found.append(Refusal("no_consent", consent="denied"))
    if priority != CRITICAL and rules.mutable(kind, channel):
        found.append(Refusal("channel_muted", channel=channel))
    return found


def unwanted_selected(
    transaction: Transaction,
    app_no: int,
    rules: Rules,
    kind: str,
    channel: str | None,
    priority: int,
    devices: BitMap,
    known: dict[Refusal, BitMap] | None = None,
) -> dict[str, BitMap]:
    """Find those of the devices that do not want such a push, by the first reason.

    `known` keeps what was read of the app in the same operation.
    """
    found: dict[str, BitMap] = {}
    for refusal in refusals(rules, kind, channel, priority):
        if not devices:
            break
        unwilling = None if known is None else known.get(refusal)
        if unwilling is None:
            unwilling = refusing_devices(transaction, app_no, refusal)
            if known is not None:
                known[refusal] = unwilling
        here = unwilling & devices
        if here:
            found[refusal.reason] = here
            devices = devices - here
    return found


def end_unwanted_parts(
    transaction: Transaction,
    rules: Rules,
    parts: Sequence[PushPart],
    is_sent: Callable[[int, int], bool],
    now_ms: int,
) -> tuple[list[int], set[int], SlicePosition | None]:
    """End what waits of some pushes and is not wanted under their app's rules. Writer thread.

    Answers as `end_unwanted`, and where to go on if that was too much at once.
    """
    pushes = {part.push_no: (part.kind, part.channel, part.priority) for part in parts}
    blocked = {consent for kind, _, _ in pushes.values() for consent in rules.policy.blocked(kind)}
    ended: dict[str, list[int]] = {}
    in_flight: set[int] = set()
    goes_on: SlicePosition | None = None
    rows = preferences_of_waiting(transaction, parts, blocked)
    read, left = 0, SLICE_DELIVERIES
    last = BEGIN
    for push_no, device_no, consent, choices in rows:
        if read > SLICE_BYTES:
            goes_on = last
            break
        read += len(choices)
        last = SlicePosition(push_no, device_no)
        reason = rules.suppression_reason(*pushes[push_no], consent, choices_of(choices))
        if reason is None:
            continue
        if is_sent(push_no, device_no):
            in_flight.add(handle_of(push_no, device_no))
        else:
            ended.setdefault(reason, []).append(handle_of(push_no, device_no))
            left -= 1
            if not left:
                goes_on = last
                break
    rows.close()
    for why, handles in ended.items():
        end_rows(transaction, handles, DeliveryState.SUPPRESSED, why, now_ms)
    return [handle for handles in ended.values() for handle in handles], in_flight, goes_on


def end_unwanted_handles(
    transaction: Transaction,
    handles: list[int],
    policies: PolicyStore,
    is_sent: Callable[[int, int], bool],
    now_ms: int,
) -> list[int]:
    """End those of the handles that wait and are not wanted; which. Writer thread."""
    handles_to_rows(transaction, handles)
    ended: dict[str, list[int]] = {}
    for handle, app_no, kind, channel, priority, consent, choices in preferences_of_handles(transaction, handles):
        reason = policies.of(app_no).suppression_reason(kind, channel, priority, consent, choices_of(choices))
        if reason is not None and not is_sent(handle >> DEVICE_BITS, handle & DEVICE_MASK):
            ended.setdefault(reason, []).append(handle)
    for why, of_reason in ended.items():
        end_rows(transaction, of_reason, DeliveryState.SUPPRESSED, why, now_ms)
    note_rows_made(transaction, BitMap([handle & DEVICE_MASK for handle in handles]))  # what is wanted again waits
    return [handle for of_reason in ended.values() for handle in of_reason]


# -- on the loop -------------------------------------------------------------------------------------------------------


class PreferenceStore:
    """Stores the preferences of people, and ends what they do not want. Loop, but for `store`.

    `clock_ms` gives server time in milliseconds. `on_stored` is called with the device number when what a device wants
    is on disk.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        policies: PolicyStore,
        clock_ms: Callable[[], int],
        on_stored: Callable[[int], None],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._policies = policies
        self._clock_ms = clock_ms
        self.on_stored = on_stored

    def store(
        self, transaction: Transaction, device_no: int, settings: DeviceSettings, source: str, now_ms: int
    ) -> StoredSettings:
        """Store settings and end what they make unwanted. Writer thread.

        Raises TooManyChoices.
        """
        app_no = store_settings(transaction, device_no, settings, source, self._policies, now_ms)
        if app_no is None:
            return StoredSettings([], set())
        complaint = None
        if settings.topics:
            complaint = self._change_topics(transaction, app_no, device_no, settings.topics, source, now_ms)
            if settings.model_fields_set <= TOPICS_ONLY:
                return StoredSettings([], set(), complaint)
        # Before the commit, so that a push that is checked after it is checked by it.
        self._policies.restricted.add(app_no)
        if settings.quiet_hours is not None:
            self._policies.timed.add(app_no)
        rules = self._policies.of(app_no)
        ended = end_unwanted(transaction, device_no, rules, self._ledger.is_sent, now_ms)
        # What the change does not touch stays where it is in its mailbox.
        limited = 0
        if "quiet_hours" in settings.model_fields_set:
            limited += mark_device_rows(transaction, device_no, now_ms, limited_only=settings.quiet_hours is None)
        muted = [name for name, wanted in (settings.channels or {}).items() if not wanted and rules.may_mute(name)]
        if muted:
            limited += mark_channels_rows(transaction, device_no, muted)
        if limited:
            self._ledger.limited = True  # here: whatever reads mailboxes on this thread comes later
        return StoredSettings(*ended, complaint)

    def _change_topics(
        self,
        transaction: Transaction,
        app_no: int,
        device_no: int,
        topics: dict[str, bool],
        source: str,
        now_ms: int,
    ) -> str | None:
        """Have a device join and leave topics; the part that could not be done, in words. Writer thread."""
        policy = self._policies.of(app_no).policy
        allowed = topics
        if source != "operator":
            allowed = {topic: wanted for topic, wanted in topics.items() if policy.may_join(topic)}
        complaint = change_own_topics(transaction, app_no, device_no, allowed, now_ms)
        refused = next((topic for topic in topics if topic not in allowed), None)
        return complaint if refused is None else f"a device may not join or leave the topic {refused!r} by itself"

    def after_commit(self, ended: list[int], in_flight: set[int]) -> None:
        """Note the deliveries that `store` has ended, when that is on disk."""
        self._ledger.note_ended(ended)
        if in_flight:
            self._ledger.suppress_when_lost(in_flight)

    def suppress_unwanted(self, handles: list[int]) -> None:
        """End those of these deliveries that are not wanted: they were in flight when that was said, and came back.

        By now their person may have changed their mind again.
        """
        now_ms = self._clock_ms()
        self._ledger.submit_until_done(
            lambda transaction: end_unwanted_handles(
                transaction, handles, self._policies, self._ledger.is_sent, now_ms
            ),
            lambda ended: self.after_commit(ended, set()),
            lambda: self._ledger.apps_of_handles(handles),
        )

    async def change(self, app_no: int, device_no: int, settings: DeviceSettings, source: str) -> None:
        """Store settings that were sent over HTTP. Raises TooManyChoices; Problem 422 for topics."""
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> StoredSettings:
            stored = self.store(transaction, device_no, settings, source, now_ms)
            if stored.complaint is not None:  # who waits for the answer can ask again: all of it, or nothing
                raise problem("invalid_request", f"topics: {stored.complaint}")
            return stored

        found = await self._database.write(operation, app_no)
        self.after_commit(found.ended, found.in_flight)
        self.on_stored(device_no)

    async def document(self, app_no: int, device_no: int) -> dict[str, Any]:
        """The document that a device shows its person: consent and every channel with their choice."""

        def read(transaction: Transaction) -> tuple[SettingsDocument, list[str], set[GroupSelector]]:
            stored = settings_document(transaction, device_no)
            in_segment = partial(self._policies.segments.members, app_no)
            groups = {selector for _, selector in members_of(transaction, [device_no], rules.cap_groups, in_segment)}
            return stored, topics_of(transaction, [device_no]).get(device_no, []), groups

        rules = self._policies.of(app_no)
        stored, topics, groups = await self._database.read_soon(read)
        choices = choices_of(stored.choices)
        channels = [
            {
                "id": name,
                **channel.fields.model_dump(mode="json", exclude={"caps"}),
                "caps": _caps_of(channel, groups),
                "muted": channel.fields.may_mute and choices.get(name) is False,
            }
            for name, channel in rules.channels.items()
        ]
        channels += [
            {"id": name, "muted": not wanted} for name, wanted in sorted(choices.items()) if name not in rules.channels
        ]
        return {
            "consent": stored.consent,
            "channels": channels,
            "topics": topics,
            "joinable_topics": rules.policy.joinable_topics,
            "quiet_hours": None if stored.quiet_hours is None else json.loads(stored.quiet_hours),
            "timezone": stored.zone or rules.policy.timezone,
            "seq": stored.seq,
            "changed_at": rfc3339_or_none(stored.changed_at),
        }

    async def consents(self, app_no: int, device_no: int) -> list[dict[str, Any]]:
        """Every answer about consent, the newest first: the proof."""
        return [
            {**answer._asdict(), "recorded_at": rfc3339_or_none(answer.recorded_at)}
            for answer in await self._database.read(partial(consent_records, device_no=device_no), app_no)
        ]


def _caps_of(channel: Channel, groups: Collection[GroupSelector]) -> dict[str, Any] | None:
    """The limits of a channel that hold for a device in these groups; None if there are none."""
    limits = channel.caps.limits_of(groups) if channel.caps is not None else []
    if channel.caps is None or not limits:
        return None
    return {"limits": [cap.model_dump(mode="json") for cap in limits], "excess": channel.caps.excess}
