"""Storing pushes: what one operation of acceptance does on the writer thread.

Order inside the operation, per batch: idempotency, targets, push rows, deliveries (rows or sets, `delivery_sets`),
collapse keys, mailbox limits. A loser may be of the same batch. Nothing in it fails for one push alone, because every
request is checked before (unknown devices and reused keys are answers, not errors).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyroaring import BitMap

from gateway.audience.policy import PolicyStore
from gateway.delivery.acceptance_queue import FEW_DELIVERIES
from gateway.delivery.attachments import fetch_within
from gateway.delivery.consent import unwanted, unwanted_selected
from gateway.delivery.digest import PushNumbers
from gateway.delivery.ledger import Ledger
from gateway.delivery.mailbox_limits import EnforcedLimits, MailboxLimits
from gateway.delivery.submission import (
    AcceptedPush,
    PendingPush,
    approval_needed,
    key_reused,
    new_push_ids,
    nobody_known,
    remembered_answer,
)
from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK
from gateway.delivery_states import DeliveryState
from gateway.errors import Problem
from gateway.store.audience.device_sets import live_devices, selected_devices
from gateway.store.audience.devices import device_rows
from gateway.store.audience.preferences import preferences_of
from gateway.store.deliveries import delivery_sets
from gateway.store.deliveries.delivery_sets import insert_set
from gateway.store.deliveries.idempotency import remember_answers
from gateway.store.deliveries.ledger_statements import (
    end_devices,
    insert_listed_rows,
    insert_single_rows,
    supersede_rows,
)
from gateway.store.deliveries.not_before import mark_limited_rows, mark_muted_rows
from gateway.store.deliveries.push_texts import insert_template, insert_texts
from gateway.store.deliveries.pushes import insert_pushes, last_push_nos
from gateway.store.transaction import Transaction

_WAITING = int(DeliveryState.WAITING)
NO_TEXT = "no_text"
"""Why a push ends `suppressed` for devices that lack what its texts need."""


@dataclass(slots=True, frozen=True)
class StoredPushes:
    """Result of an operation that stored pushes, for the loop."""

    losers: list[int]
    """Handles of earlier deliveries that left full mailboxes."""
    superseded: list[tuple[int, BitMap]]
    """Earlier pushes, and the devices for which they were superseded."""
    limited: EnforcedLimits
    """Mailboxes that were brought below their limits."""
    before: dict[int, int]
    """With several nodes, the newest push of each app before these."""


class PushStore:
    """Stores pushes with their deliveries. Writer thread.

    `idempotency_ms`: for how long what a key was answered is remembered.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        limits: MailboxLimits,
        policies: PolicyStore,
        numbers: PushNumbers,
        idempotency_ms: int,
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._policies = policies
        self._numbers = numbers
        self._idempotency_ms = idempotency_ms

    def store(self, transaction: Transaction, pending_pushes: list[PendingPush], now_ms: int) -> StoredPushes:
        """Store pushes, what they supersede and what leaves full mailboxes; each has its answer then."""
        self._ledger.accepted_at = now_ms
        for pending in pending_pushes:  # an operation may run twice (see `Database`, law 2)
            pending.answer, pending.push_no, pending.devices, pending.unknown, pending.suppressed = None, 0, (), (), 0
            pending.muted, pending.in_sets, pending.stored_texts = frozenset(), False, []
        known = self._known_devices(transaction, pending_pushes)
        preferences = self._known_preferences(transaction, known)
        withheld: list[tuple[int, str, BitMap]] = []
        answered: dict[tuple[int, str], tuple[bytes, PendingPush]] = {}
        twins: list[tuple[PendingPush, PendingPush]] = []
        single: list[tuple[int, int, int, int, int]] = []
        pushes: list[tuple[Any, ...]] = []
        left = len(pending_pushes)
        push_ids = new_push_ids(left, now_ms)
        numbers: Sequence[int] = ()
        before: dict[int, int] = {}
        stored_count = 0
        for pending in pending_pushes:
            left -= 1
            key = pending.idempotency_key
            if key is not None:
                twin = answered.get((pending.app.no, key))
                if twin is not None:
                    if twin[0] == pending.body_hash:
                        twins.append((pending, twin[1]))
                    else:
                        pending.answer = key_reused(key)
                    continue
                pending.answer = self.remembered(transaction, pending, key, now_ms) or pending.refused
                if pending.answer is not None:
                    continue
            along = pending.along
            if along is not None:
                pending.answer = along.choose(transaction, pending, now_ms)
                if pending.answer is not None:
                    continue
            elif not self._resolve(pending, known):
                continue
            if pending.selection is not None:
                pending.devices = pending.selection & live_devices(transaction, pending.app.no)
            elif pending.listed is None:
                assert pending.target is not None, "it selects"
                pending.devices = selected_devices(transaction, pending.app.no, pending.target)
            without = None if pending.texts is None else pending.choose_texts()
            if pending.kind == "command" and not pending.is_approved:
                policy = self._policies.of(pending.app.no).policy
                pending.answer = approval_needed(policy, pending.kind, len(pending.devices))
                if pending.answer is not None:
                    continue
            if not numbers:
                if self._numbers.has_nodes:  # under the locks of these apps: what others have stored since is seen
                    before = last_push_nos(transaction, {each.app.no for each in pending_pushes})
                # As many as may still be needed: gaps are normal
                numbers = self._numbers.draw(transaction, left + 1)
            push_no = numbers[stored_count]
            stored_count += 1
            left_out = self._unwanted(transaction, pending, preferences)
            if without:
                without -= BitMap.union(BitMap(), *left_out.values())
                left_out = left_out | {NO_TEXT: without} if without else left_out
            if left_out:
                withheld += [(push_no, reason, devices) for reason, devices in left_out.items()]
            self._insert(transaction, pending, push_no, push_ids.pop(), now_ms, left_out, single, pushes)
            if pending.texts is not None:
                _insert_texts(transaction, pending)
            if along is not None:
                along.store(transaction, pending, now_ms)
            if key is not None:
                assert pending.body_hash is not None, "given with the key"
                answered[(pending.app.no, key)] = (pending.body_hash, pending)
        if not stored_count:
            self._answer_twins(twins)
            return StoredPushes([], [], EnforcedLimits(), {})
        self._numbers.used(numbers[stored_count - 1])
        insert_pushes(transaction, pushes)
        insert_single_rows(transaction, single)
        for number, reason, devices in withheld:
            end_devices(transaction, number, devices, DeliveryState.SUPPRESSED, reason, now_ms)
        if self._mark_limited(transaction, pending_pushes):
            self._ledger.limited = True  # here: whatever reads mailboxes on this thread comes later
        stored = self._collapse_and_limit(transaction, pending_pushes, numbers[0], now_ms, before)
        for pending in pending_pushes:
            if pending.push_no:
                pending.answer = AcceptedPush(pending.push_id, pending.targeted, pending.suppressed, pending.unknown)
                if pending.attempt is not None:
                    pending.attempt.store_push(transaction, pending.push_id, pending.targeted, now_ms)
        self._answer_twins(twins)
        if answered:
            remember_answers(
                transaction,
                [
                    (app_no, key, body_hash, f"{{{pending.answer.members()}}}", now_ms)
                    for (app_no, key), (body_hash, pending) in answered.items()
                    if isinstance(pending.answer, AcceptedPush)
                ],
            )
        return stored

    def _mark_limited(self, transaction: Transaction, pending_pushes: list[PendingPush]) -> bool:
        """Mark deliveries of new pushes: to everybody, or to those who have muted the channel. Whether there are any.

        The latter are noted in the pending push.
        """
        stored = [pending for pending in pending_pushes if pending.push_no]
        limited = [pending.push_no for pending in stored if pending.limited]
        if limited:
            mark_limited_rows(transaction, limited)
        for pending in stored:
            app_no, channel = pending.app.no, pending.channel
            if pending.limited or not self._policies.may_pass_mute(app_no, pending.kind, channel, pending.priority):
                continue
            assert channel is not None, "what has none cannot be muted"
            pending.muted = frozenset(mark_muted_rows(transaction, pending.push_no, channel))
        return any(pending.limited or pending.muted for pending in stored)

    def _known_preferences(
        self, transaction: Transaction, known: dict[int, dict[str, int]]
    ) -> dict[int, dict[int, tuple[str, str]]]:
        """Preferences of the listed devices of each app, where they may be less than everything. Writer thread."""
        found: dict[int, dict[int, tuple[str, str]]] = {}
        for app_no, numbers in known.items():
            if self._policies.is_guarded(app_no):
                everybody = self._policies.of(app_no).policy.consent.unknown == "suppress"
                found[app_no] = preferences_of(transaction, numbers.values(), everybody)
        return found

    def _unwanted(
        self,
        transaction: Transaction,
        pending: PendingPush,
        preferences: dict[int, dict[int, tuple[str, str]]],
    ) -> dict[str, BitMap]:
        """The devices of a push that do not want it, by the reason. Writer thread."""
        app_no = pending.app.no
        of_app = preferences.get(app_no)
        is_looked_up = pending.listed is not None and pending.along is None
        if not of_app and (is_looked_up or not self._policies.is_guarded(app_no)):
            return {}
        rules = self._policies.of(app_no)
        if not is_looked_up:
            return unwanted_selected(
                transaction, app_no, rules, pending.kind, pending.channel, pending.priority, BitMap(pending.devices)
            )
        found: dict[str, BitMap] = {}
        for device_no, reason in unwanted(
            rules, pending.kind, pending.channel, pending.priority, of_app or {}, pending.devices
        ).items():
            found.setdefault(reason, BitMap()).add(device_no)
        return found

    @staticmethod
    def _answer_twins(twins: list[tuple[PendingPush, PendingPush]]) -> None:
        for pending, first in twins:
            pending.answer = first.answer

    @staticmethod
    def _known_devices(transaction: Transaction, pending_pushes: list[PendingPush]) -> dict[int, dict[str, int]]:
        wanted: dict[int, dict[str, None]] = {}
        for pending in pending_pushes:
            if pending.listed is not None:
                wanted.setdefault(pending.app.no, {}).update(dict.fromkeys(pending.listed))
        return {app_no: device_rows(transaction, app_no, list(ids)) for app_no, ids in wanted.items()}

    def remembered(
        self, transaction: Transaction, pending: PendingPush, key: str, now_ms: int
    ) -> AcceptedPush | Problem | None:
        after_ms = now_ms - self._idempotency_ms
        answer = remembered_answer(transaction, pending.app.no, key, pending.body_hash, after_ms)
        if answer is None or isinstance(answer, Problem):
            return answer
        return AcceptedPush(**{**answer, "unknown": tuple(answer["unknown"])})

    @staticmethod
    def _resolve(pending: PendingPush, known: dict[int, dict[str, int]]) -> bool:
        """Turn listed devices into numbers; False (and an answer) when the push has nobody to go to."""
        ids = pending.listed
        if ids is None:
            return True
        numbers = known[pending.app.no]
        pending.devices = [numbers[device_id] for device_id in ids if device_id in numbers]
        if len(pending.devices) < len(ids):
            pending.unknown = tuple(device_id for device_id in ids if device_id not in numbers)
            if not pending.devices:
                pending.answer = nobody_known(pending.unknown)
                return False
        return True

    def _insert(
        self,
        transaction: Transaction,
        pending: PendingPush,
        push_no: int,
        push_id: str,
        now_ms: int,
        left_out: dict[str, BitMap],
        single: list[tuple[int, int, int, int, int]],
        pushes: list[tuple[Any, ...]],
    ) -> None:
        """Note the rows of a push and of its delivery to a single device; insert other deliveries."""
        kind, channel, priority, ttl = pending.kind, pending.channel, pending.priority, pending.ttl
        app_no = pending.app.no
        pending.targeted = len(pending.devices)
        pending.limited = self._policies.is_limited(app_no, kind, channel)
        # What is checked for one device alone is a row. Pushes to few devices do not wait until there are fewer sets.
        pending.in_sets = (
            pending.targeted >= delivery_sets.SET_DEVICES
            and app_no > 0  # a beat: devices have no sets but those of their app
            and self._limits.keeps_sets
            and not pending.limited
            and not self._policies.may_pass_mute(app_no, kind, channel, priority)
            and (pending.targeted > FEW_DELIVERIES or self._limits.has_room_for_sets(app_no))
            and delivery_sets.are_worth_sets(devices := BitMap(pending.devices))
        )
        # Everything behind this tells sets and rows apart by the type.
        if pending.in_sets:
            pending.devices = devices
            insert_set(transaction, push_no, app_no, priority, devices)
        else:
            pending.devices = numbers = list(pending.devices)
            if len(numbers) == 1:
                single.append((push_no, numbers[0], priority, pending.frame_size, _WAITING))
            elif numbers:
                insert_listed_rows(transaction, push_no, priority, pending.frame_size, numbers)
        if left_out:
            gone = BitMap.union(*left_out.values())
            pending.suppressed = len(gone)
            pending.devices = _without(pending.devices, gone)
        pending.push_no = push_no
        pending.push_id = push_id
        if pending.is_fetched:
            pending.fetch_within = fetch_within(pending.targeted, ttl)
        pushes.append(
            (
                push_no,
                push_id,
                app_no,
                kind,
                priority,
                pending.qos,
                ttl,
                pending.collapse_key,
                channel,
                pending.stored_target(),
                pending.whole_content if pending.fetch_within else pending.content,
                pending.frame_size,
                now_ms,
                now_ms + ttl * 1000,
                pending.targeted,
                pending.suppressed,
                int(pending.in_sets),
                pending.key_id,
            ),
        )

    def _collapse_and_limit(
        self,
        transaction: Transaction,
        pending_pushes: list[PendingPush],
        first_no: int,
        now_ms: int,
        before: dict[int, int],
    ) -> StoredPushes:
        superseded: list[tuple[int, BitMap]] = []
        for pending in pending_pushes:
            collapse_key = pending.collapse_key
            if pending.push_no and collapse_key is not None:
                superseded += supersede_rows(
                    transaction,
                    pending.push_no,
                    pending.app.no,
                    collapse_key,
                    pending.devices,
                    self._ledger.sent_of,
                    now_ms,
                )
        limited = self._limits.accept_rows(transaction, pending_pushes, now_ms)
        lost_at_once: dict[int, BitMap] = {}
        for push_no, devices in superseded:
            if push_no >= first_no:
                lost_at_once.setdefault(push_no, BitMap()).update(devices)
        for handle in limited.losers:
            if handle >> DEVICE_BITS >= first_no:
                lost_at_once.setdefault(handle >> DEVICE_BITS, BitMap()).add(handle & DEVICE_MASK)
        for pending in pending_pushes:
            gone = lost_at_once.get(pending.push_no)
            if gone is not None:
                pending.devices = _without(pending.devices, gone)
        return StoredPushes(
            [handle for handle in limited.losers if handle >> DEVICE_BITS < first_no],
            [(push_no, devices) for push_no, devices in superseded if push_no < first_no],
            limited,
            before,
        )


def _insert_texts(transaction: Transaction, pending: PendingPush) -> None:
    """Store the texts of a push that was composed, and the template that it was composed with."""
    if pending.stored_texts:
        texts = [(text.content, text.size, text.devices) for text in pending.whole_texts()]
        insert_texts(transaction, pending.push_no, texts)
    if pending.template is not None:
        insert_template(transaction, pending.push_no, *pending.template)


def _without(devices: Sequence[int] | BitMap, gone: BitMap) -> Sequence[int] | BitMap:
    """What is left of the devices of a push, in the form that they have."""
    if isinstance(devices, BitMap):
        return devices - gone
    return [device_no for device_no in devices if device_no not in gone]
