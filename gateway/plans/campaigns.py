"""Campaigns: a push goes to one group after the other, as long as what comes back is as it should be.

What is true of a campaign is on disk (`store/plans/campaigns`); here are the moments at which something is due, and
what is decided then. In memory is only when to look at each campaign that runs, and what its conditions are.

    starting ──▶ the target is frozen ──▶ sending: a part at a time ──▶ observing ──▶ the next group ─▶ .. ─▶ completed
                                              │ stop                      │ stop, or go_on not in time
                                              └────────────▶ paused or aborted

Fairness: campaigns are looked after by MOST_WORKERS tasks, the longest due first, each for one move: a part, or a look
at the counts. Who has looked rests for REST_FACTOR times as long. One target is frozen at a time, in slices, apps in
turn; the parts wait in acceptance's queue like any push, behind those of their app that mailboxes have no room for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from pyroaring import BitMap

from gateway.audience.policy import PolicyStore
from gateway.audience.target_resolution import TargetResolver
from gateway.delivery.acceptance import Acceptance
from gateway.delivery.push import PushRequest
from gateway.delivery.submission import AppRef, PendingPush, Submission, approval_needed, key_reused
from gateway.errors import Problem, problem
from gateway.plans.campaign_clearing import clear_one
from gateway.plans.campaign_counts import CountedPart, count_parts, sample_of
from gateway.plans.campaign_fields import DAY_MS, CampaignRequest, Plan, make_plan, merged_push
from gateway.plans.campaign_reach import Reach, measure_reach, resolve_cohort
from gateway.plans.campaign_rules import RunningRules
from gateway.plans.target_freeze import FreezeTurns, freeze_target
from gateway.store.audited_writes import about
from gateway.store.database import Database
from gateway.store.errors import StorageError
from gateway.store.plans import campaigns as rows
from gateway.store.plans.campaigns import Campaign, CampaignState, Phase
from gateway.store.transaction import Transaction
from gateway.timestamps import wall_time

log = logging.getLogger(__name__)

RUNNING_CAMPAIGNS = 100
"""Campaigns of an app that have not ended, the paused ones included: more than people keep an eye on."""
ALL_CAMPAIGNS = 1_000
"""Campaigns of all apps that have not ended: each is looked at every second while it runs."""
KEPT_CAMPAIGNS = 1_000
"""Campaigns of an app that are kept; the one that has ended first leaves for a new one."""
MOST_WORKERS = 4
"""Campaigns that are looked after at a time: as many as there are readers."""
TICK_SECONDS = 0.25
"""Seconds between two looks at what is due."""
LOOK_MS = 1_000
"""Time between two looks at the counts of a campaign."""
REST_FACTOR = 10
"""Pause after a look, as a multiple of the time that it took: a tenth of a reader for each campaign at most."""
WALL_CLOCK_MS = 60_000
"""Time between two looks whether a campaign may start: the clock on the wall, which it goes by, may be set."""
RETRY_MS = 2_000
"""Time until something that failed is tried again."""
ID_BYTES = 9
"""Random bytes of a campaign's id, 12 characters."""
MAX_AHEAD_MS = 365 * DAY_MS
CONDITION = "condition"
"""Stands for the id of a key where a condition has paused or aborted a campaign."""


@dataclass(slots=True, eq=False)
class SentPart:
    """Stores along with a part that it was sent, if it is the next one."""

    owner: Campaigns
    campaign: Campaign
    variant_no: int
    group_name: str

    def choose(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> Problem | None:
        if self.owner.is_unapproved(self.campaign, pending.kind):  # a template may have said what kind it is
            return problem("approval_needed", "another key has to approve the campaign")
        pending.is_approved = True  # the campaign as a whole is, or is small
        if rows.is_next_part(transaction, self.campaign.no, self.campaign.group_no, self.variant_no):
            return None
        return problem("campaign_state", "the campaign does not send this part now")

    def store(self, transaction: Transaction, pending: PendingPush, now_ms: int) -> None:
        rows.note_part_sent(transaction, self.campaign, self.variant_no, pending.push_no, self.group_name, now_ms)

    def stored(self, pending: PendingPush) -> None:
        self.owner.parts += 1


class Campaigns:
    """Carries out campaigns and people's commands about them. Loop.

    `clock_ms` gives server time in milliseconds. `storage_left` says whether the disk has room for another push: until
    then, nothing is sent. `recall` takes back a push and clears it from screens.
    """

    def __init__(
        self,
        *,
        database: Database,
        acceptance: Acceptance,
        targets: TargetResolver,
        policies: PolicyStore,
        clock_ms: Callable[[], int],
        storage_left: Callable[[], bool],
        recall: Callable[[AppRef, str], Awaitable[object]],
    ) -> None:
        self._database = database
        self._acceptance = acceptance
        self._targets = targets
        self._policies = policies
        self._clock_ms = clock_ms
        self._storage_left = storage_left
        self._recall = recall
        self._due: dict[int, int] = {}
        """Campaign number -> server time at which to look after it."""
        self._busy: set[int] = set()
        self._rules: dict[int, RunningRules] = {}
        self._freezing = FreezeTurns(clock_ms, LOOK_MS)
        """One target is frozen at a time: that takes memory for each device."""
        self.under_way = 0
        """Campaigns that have not ended, for metrics."""
        self.parts = 0
        """Parts that were sent, for metrics."""
        self.refused = 0
        """Campaigns that were refused because too many are under way, for metrics."""
        self.stopped = {"pause": 0, "abort": 0, "go_on": 0}
        """Campaigns that conditions have stopped, by what that did, for metrics."""
        self.ended = {CampaignState.COMPLETED.value: 0, CampaignState.ABORTED.value: 0}
        """Campaigns that have ended, by how, for metrics."""

    async def load(self) -> None:
        """Find what is under way; before the first connection."""
        numbers, self.under_way = await self._database.read(rows.campaigns_with_work)
        self._due = dict.fromkeys(numbers, 0)

    async def follow_others(self) -> None:
        """Learn of campaigns that other nodes have stored, or have been told to go on with."""
        numbers, self.under_way = await self._database.read(rows.campaigns_with_work)
        now_ms = self._clock_ms()
        for number in numbers:
            if number not in self._busy:
                self._due.setdefault(number, now_ms)

    def forget(self) -> None:
        """Forget what commands to this node have made due: another node carries campaigns out."""
        self._due.clear()
        self._rules.clear()

    # -- commands --------------------------------------------------------------------------------------------------

    async def create(
        self, app: AppRef, key_id: str, fields: CampaignRequest, remembered: rows.Remembered | None = None
    ) -> str:
        """Store a new campaign; its id. Raises Problem 404, 413, 422, 429.

        `remembered`: an idempotency key, and the hash of the body.
        """
        if remembered is not None:
            before = await self._database.read(partial(rows.made_before, app_no=app.no, remembered=remembered), app.no)
            if before is not None:
                return _same(before, remembered[0])
        kinds = await self.check(app, fields)
        reach = await self.measure(app, fields)
        now_ms = self._clock_ms()
        start_at = wall_time.of(now_ms)
        if fields.send_at is not None:
            start_at = max(start_at, int(fields.send_at.timestamp() * 1000))
            if start_at > wall_time.of(now_ms) + MAX_AHEAD_MS:
                raise problem("invalid_request", "send_at: at most a year ahead")
        campaign_id = f"c{secrets.token_urlsafe(ID_BYTES)}"
        state = CampaignState.RUNNING
        if fields.ask_approval or self.needs_approval(app.no, kinds, reach.targeted):
            state = CampaignState.AWAITING_APPROVAL
        content = fields.model_dump_json(exclude_unset=True)

        def operation(transaction: Transaction) -> int | tuple[str, bool] | None:
            before = None if remembered is None else rows.made_before(transaction, app.no, remembered)
            if before is not None:
                return before
            of_app, of_all = rows.count_under_way(transaction, app.no)
            if of_app >= RUNNING_CAMPAIGNS or of_all >= ALL_CAMPAIGNS:
                return None
            rows.remove_ended(transaction, app.no, KEPT_CAMPAIGNS - 1)
            about("campaign", campaign_id, targeted=reach.targeted)
            return rows.insert_campaign(
                transaction, app.no, campaign_id, fields.name, content, state, key_id, start_at, reach.targeted,
                remembered, now_ms,
            )  # fmt: skip

        number = await self._database.write(operation, app.no)
        if number is None:
            self.refused += 1
            raise problem(
                "too_many_campaigns",
                f"{RUNNING_CAMPAIGNS} campaigns of this app, or {ALL_CAMPAIGNS} of all, have not ended: abort some, or"
                " wait",
            )
        if not isinstance(number, int):
            assert remembered is not None, "it was made before with a key"
            return _same(number, remembered[0])
        self.under_way += 1
        if state is CampaignState.RUNNING:
            self._due[number] = now_ms
        return campaign_id

    async def check(self, app: AppRef, fields: CampaignRequest) -> set[str]:
        """Check the push of each variant as if it were sent; their kinds. Raises Problem 404, 413, 422, 503.

        Saved templates are pinned to the version that is checked: all groups get the same, and what is approved.
        """
        kinds: set[str] = set()
        for variant_no in range(len(fields.weights)):
            pending = self._acceptance.pending(app, Submission(fields.push_of(variant_no)))
            composed = await self._acceptance.compose(pending)
            if composed is not None and composed.template is not None:
                fields.pin_template(variant_no, composed.template[1])
            kinds.add(pending.kind if composed is None else composed.fields["kind"])
        return kinds

    def needs_approval(self, app_no: int, kinds: set[str], targeted: int) -> bool:
        """Whether another key has to approve a campaign with pushes of these kinds to so many devices."""
        return any(self._is_above(app_no, kind, targeted) for kind in kinds)

    def is_unapproved(self, campaign: Campaign, kind: str) -> bool:
        """Whether nothing of this kind may be sent of a campaign until another key approves it. Any thread."""
        return campaign.approved_by is None and self._is_above(campaign.app_no, kind, campaign.targeted)

    def _is_above(self, app_no: int, kind: str, targeted: int) -> bool:
        return approval_needed(self._policies.of(app_no).policy, kind, targeted) is not None

    async def _ask_approval(self, campaign: Campaign, targeted: int) -> None:
        now_ms = self._clock_ms()
        await self._database.write(
            lambda transaction: rows.ask_approval(transaction, campaign, targeted, now_ms), campaign.app_no
        )

    async def measure(self, app: AppRef, fields: CampaignRequest) -> Reach:
        """The size of a campaign if it were started now. Raises Problem 404, 422, 503."""
        return await measure_reach(self._database, self._targets, app, fields)

    async def _find(self, app_no: int, campaign_id: str) -> Campaign:
        """A campaign as it stands. Raises Problem 404."""
        found = await self._database.read(partial(rows.find_campaign, app_no=app_no, campaign_id=campaign_id), app_no)
        if found is None:
            raise unknown_campaign(campaign_id)
        return found

    async def pause(self, app_no: int, campaign_id: str, key_id: str, reason: str | None) -> None:
        """Have nothing more of a campaign sent. Raises Problem 404, 409."""
        campaign = await self._find(app_no, campaign_id)
        why = reason or "somebody paused it"
        await self._move(campaign, "pause", lambda c, now_ms: rows.pause(c, campaign, why, key_id, now_ms))
        self._due[campaign.no] = self._clock_ms()  # to be forgotten then, unless somebody has resumed it since

    async def resume(self, app_no: int, campaign_id: str, key_id: str, *, next_group: bool) -> None:
        """Have a paused campaign go on. Raises Problem 404, 409.

        `next_group`: the present group needs to be observed no longer.
        """
        campaign = await self._find(app_no, campaign_id)
        if campaign.state != CampaignState.PAUSED:
            raise _wrong_state(campaign, "resume")
        rules = await self._rules_of(campaign)
        parts = await count_parts(self._database, app_no, campaign.no, failures=rules.counts_failures)
        overruled = rules.overruled_now(campaign, parts)
        await self._move(
            campaign,
            "resume",
            lambda c, now_ms: rows.resume(
                c,
                campaign,
                overruled,
                key_id,
                now_ms,
                is_observed=next_group and rules.plan is not None and campaign.group_no + 1 < len(rules.plan.groups),
            ),
        )
        self._due[campaign.no] = self._clock_ms()

    async def approve(self, app_no: int, campaign_id: str, key_id: str) -> None:
        """Have a campaign start that waits for another key. Raises Problem 403, 404, 409."""
        campaign = await self._find(app_no, campaign_id)
        if campaign.key_id == key_id:
            raise problem("other_key_needed", "the key that made the campaign cannot approve it: use another one")
        await self._move(campaign, "approve", lambda c, now_ms: rows.approve(c, campaign, key_id, now_ms))
        self._due[campaign.no] = self._clock_ms()

    async def abort(self, app_no: int, campaign_id: str, key_id: str, reason: str | None) -> None:
        """End a campaign, and recall what waits of it. Raises Problem 404, 409."""
        campaign = await self._find(app_no, campaign_id)
        why = reason or "somebody aborted it"
        await self._move(campaign, "abort", lambda c, now_ms: rows.abort(c, campaign, why, key_id, now_ms))
        self._note_ended(campaign, CampaignState.ABORTED)

    async def _move(self, campaign: Campaign, what: str, operation: Callable[[Transaction, int], bool]) -> None:
        """Carry out a command. Raises Problem 409 if the campaign is in no state for it."""
        now_ms = self._clock_ms()
        if not await self._database.write(lambda transaction: operation(transaction, now_ms), campaign.app_no):
            raise _wrong_state(await self._find_again(campaign), what)

    async def _find_again(self, campaign: Campaign) -> Campaign:
        found = await self._database.read(partial(rows.read_campaign, campaign_no=campaign.no), campaign.app_no)
        if found is None:
            raise unknown_campaign(campaign.id)
        return found

    def _note_ended(self, campaign: Campaign, state: CampaignState) -> None:
        self.under_way -= 1
        self.ended[state] += 1
        self._rules.pop(campaign.no, None)
        self._due[campaign.no] = 0  # to be cleared

    # -- what is due -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look after campaigns, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for campaign_no in self.next_due():
                    if len(self._busy) >= MOST_WORKERS:
                        break
                    self._busy.add(campaign_no)
                    tasks.create_task(self._serve(campaign_no))
                await asyncio.sleep(TICK_SECONDS)

    async def step(self) -> None:
        """Make one move of each campaign for which something is due."""
        for campaign_no in self.next_due():
            self._busy.add(campaign_no)
            await self._serve(campaign_no)

    def next_due(self) -> list[int]:
        """Campaigns for which something is due, the longest due first."""
        now_ms = self._clock_ms()
        due = [no for no, due_at in self._due.items() if due_at <= now_ms and no not in self._busy]
        return sorted(due, key=self._due.__getitem__)

    async def _serve(self, campaign_no: int) -> None:
        """Make one move of a campaign, and find out when the next one is due."""
        before = self._due.pop(campaign_no, self._clock_ms())
        try:
            pause_ms = await self._advance(campaign_no)
        except Problem as error:  # the disk is full, or a reader has no time
            log.warning("a campaign cannot go on, trying again: %s", error.detail)
            pause_ms = RETRY_MS
        except StorageError as error:
            log.error("a campaign cannot go on, trying again: %s", error)
            pause_ms = RETRY_MS
        except asyncio.CancelledError:
            self._due.setdefault(campaign_no, before)
            raise
        except Exception:
            log.exception("a campaign cannot go on, trying again")
            pause_ms = RETRY_MS
        finally:
            self._busy.discard(campaign_no)
        if pause_ms is not None:
            # A command may have set an earlier time meanwhile.
            due_at = self._clock_ms() + pause_ms
            self._due[campaign_no] = min(due_at, self._due.get(campaign_no, due_at))

    async def _advance(self, campaign_no: int) -> int | None:
        """Make one move; milliseconds until the next, None if there is none."""
        campaign = await self._database.read(partial(rows.read_campaign, campaign_no=campaign_no))
        if campaign is None:
            return None
        if campaign.ended_at is not None:
            return None if campaign.cleared or await clear_one(self._database, self._recall, campaign) else 0
        if campaign.state != CampaignState.RUNNING:
            self._rules.pop(campaign_no, None)
            return None
        if campaign.phase == Phase.STARTING:
            return await self._start(campaign)
        rules = await self._rules_of(campaign)
        assert rules.plan is not None, "its target is frozen"
        if not rules.stop and campaign.phase == Phase.SENDING:
            return await self._send(campaign, rules.plan)
        began = time.monotonic()
        parts = await count_parts(
            self._database,
            campaign.app_no,
            campaign.no,
            failures=rules.counts_failures,
            group_no=None if rules.stop else campaign.group_no,
        )
        took_ms = int(1000 * (time.monotonic() - began))
        stopped = rules.stopped_by(campaign, parts)
        if stopped is not None:
            return await self._stop(campaign, rules, stopped)
        if campaign.phase == Phase.SENDING:
            return await self._send(campaign, rules.plan)
        pause_ms = await self._observe(campaign, rules, rules.plan, parts)
        return pause_ms if not pause_ms else max(pause_ms, REST_FACTOR * took_ms)

    async def _fields_of(self, campaign: Campaign) -> CampaignRequest:
        content = await self._database.read(partial(rows.read_content, campaign_no=campaign.no), campaign.app_no)
        if content is None:
            raise unknown_campaign(campaign.id)
        return CampaignRequest.model_validate_json(content)

    async def _rules_of(self, campaign: Campaign) -> RunningRules:
        found = self._rules.get(campaign.no)
        if found is None:
            found = self._rules[campaign.no] = RunningRules.of(await self._fields_of(campaign))
        if found.plan is None and campaign.plan is not None:
            found.plan = Plan.model_validate_json(campaign.plan)
        return found

    # -- starting --------------------------------------------------------------------------------------------------

    async def _start(self, campaign: Campaign) -> int | None:
        early_ms = campaign.start_at - wall_time.of(self._clock_ms())
        if early_ms > 0:
            return min(early_ms, WALL_CLOCK_MS)
        if not self._freezing.is_turn_of(campaign.app_no):
            return LOOK_MS
        async with self._freezing.lock:
            fields = await self._fields_of(campaign)
            app = AppRef(campaign.app_no, campaign.app_id)
            try:
                target = await self._targets.resolve(app.no, fields.push.target)
                cohort = await resolve_cohort(self._targets, app, fields, target)
            except Problem as refusal:
                if refusal.retryable:
                    raise
                await self._pause(campaign, f"its target cannot be resolved: {refusal.detail}")
                return None
            assert fields.push.kind is not None, "filled in by validation"
            if campaign.approved_by is None and self.needs_approval(app.no, {fields.push.kind}, len(target)):
                await self._ask_approval(campaign, len(target))
                return None
            if cohort is not None and not cohort:
                await self._pause(campaign, "canary: the push is for none of these devices")
                return None
            plan = make_plan(fields, len(target), None if cohort is None else len(cohort))
            if not await freeze_target(self._database, campaign, fields, plan, target, cohort):
                return None
            text, groups = plan.model_dump_json(), len(plan.groups)
            moved = await self._database.write(
                lambda transaction: rows.start_campaign(
                    transaction, campaign, text, plan.total, plan.holdout, groups, self._clock_ms()
                ),
                app.no,
            )
            return 0 if moved else None

    # -- sending ---------------------------------------------------------------------------------------------------

    async def _send(self, campaign: Campaign, plan: Plan) -> int | None:
        """Send the next part of the present group."""
        if not self._storage_left() or campaign.app_no in self._acceptance.limits.apps_behind():
            return LOOK_MS
        # A rate has no groups if it is for nobody at all.
        name = plan.groups[campaign.group_no].name if campaign.group_no < len(plan.groups) else ""

        def find(transaction: Transaction) -> tuple[int, BitMap, PushRequest] | None:
            variant_no = rows.next_variant(transaction, campaign.no, campaign.group_no)
            found = None if variant_no is None else rows.push_of_variant(transaction, campaign.no, variant_no)
            if variant_no is None or found is None:
                return None
            fields, variant = found
            push = merged_push(json.loads(fields), None if variant is None else json.loads(variant))
            return variant_no, rows.set_of_part(transaction, campaign.no, campaign.group_no, variant_no), push

        found = await self._database.read(find, campaign.app_no)
        if found is None:  # an empty group
            now_ms = self._clock_ms()
            await self._database.write(
                lambda transaction: rows.observe_group(transaction, campaign, name, now_ms), campaign.app_no
            )
            return 0
        variant_no, devices, push = found
        app = AppRef(campaign.app_no, campaign.app_id)
        try:
            pending = self._acceptance.pending(app, Submission(push))
            pending.selection, pending.is_prepared = devices, pending.composed is None
            pending.target_text = f'{{"campaign":"{campaign.id}"}}'
            pending.along = SentPart(self, campaign, variant_no, name)
            await self._acceptance.accept_pending(pending)
        except Problem as refusal:
            if refusal.code == "campaign_state":  # somebody was quicker
                return None
            if refusal.code == "approval_needed":
                await self._ask_approval(campaign, campaign.targeted)
                return None
            if refusal.retryable or refusal.code == "storage_full":
                raise
            await self._pause(campaign, f"group {name} cannot be sent: {refusal.detail}")
            return None
        return 0

    # -- observing -------------------------------------------------------------------------------------------------

    async def _stop(self, campaign: Campaign, rules: RunningRules, reason: str) -> int | None:
        now_ms = self._clock_ms()
        if not rules.aborts:
            self.stopped["pause"] += 1
            await self._pause(campaign, f"stop: {reason}")
            return None
        moved = await self._database.write(
            lambda transaction: rows.abort(transaction, campaign, f"stop: {reason}", CONDITION, now_ms), campaign.app_no
        )
        if not moved:
            return None
        self.stopped["abort"] += 1
        self._note_ended(campaign, CampaignState.ABORTED)
        return 0

    async def _pause(self, campaign: Campaign, reason: str) -> None:
        """Pause a campaign by itself: nothing is due then."""
        now_ms = self._clock_ms()
        await self._database.write(
            lambda transaction: rows.pause(transaction, campaign, reason, CONDITION, now_ms), campaign.app_no
        )
        if campaign.no not in self._due:  # somebody may have resumed it since
            self._rules.pop(campaign.no, None)

    async def _observe(
        self, campaign: Campaign, rules: RunningRules, plan: Plan, parts: list[CountedPart]
    ) -> int | None:
        """Go on to the next group if it is time and everything is as it should be."""
        assert campaign.observed_from is not None, "set with the phase"
        assert campaign.group_at is not None, "set with the group"
        now_ms = self._clock_ms()
        group = plan.groups[campaign.group_no] if campaign.group_no < len(plan.groups) else None
        is_last = campaign.group_no + 1 >= len(plan.groups)
        sample = sample_of(part for part in parts if part.part.group_no == campaign.group_no)
        is_canary = group is not None and group.name == "canary" and campaign.group_no == 0
        if is_canary and not sample.base and not is_last:
            await self._pause(campaign, "canary: it reached nobody")
            return None
        failure: str | None = None
        if group is None or not sample.base:
            wait_ms = 0
        elif group.pace_ms is not None and not (is_canary and rules.go_on):
            wait_ms = campaign.group_at + group.pace_ms - now_ms
        else:
            wait_ms = campaign.observed_from + rules.observe_ms - now_ms
            if not rules.is_paced or is_canary:
                failure, missing_ms = rules.missing(sample, now_ms - campaign.observed_from)
                wait_ms = max(wait_ms, missing_ms)
        if failure is not None and not is_last:
            self.stopped["go_on"] += 1
            await self._pause(campaign, f"go_on: {group.name if group else ''} did not reach {failure}")
            return None
        if wait_ms > 0 and failure is None:
            return min(wait_ms, LOOK_MS)
        if not is_last:
            group_at = now_ms
            if group is not None and group.pace_ms is not None and -wait_ms < group.pace_ms:
                group_at = now_ms + wait_ms  # its time, though we come late: not slower with each part
            await self._database.write(
                lambda transaction: rows.next_group(transaction, campaign, group_at), campaign.app_no
            )
            return 0
        reason = None if failure is None else f"go_on: the last group did not reach {failure}"
        if await self._database.write(
            lambda transaction: rows.complete(transaction, campaign, reason, now_ms), campaign.app_no
        ):
            self._note_ended(campaign, CampaignState.COMPLETED)
            return 0
        return None

    # -- what has ended --------------------------------------------------------------------------------------------

    async def remove_old(self, before: int) -> None:
        """Remove the campaigns that had ended by this time."""
        while await self._database.write(lambda transaction: rows.remove_ended_before(transaction, before)):
            pass


def _wrong_state(campaign: Campaign, what: str) -> Problem:
    return problem("campaign_state", f"cannot {what} this campaign: it is {campaign.state}")


def unknown_campaign(campaign_id: str) -> Problem:
    return problem("campaign_not_found", f"no campaign {campaign_id!r} in this app")


def _same(before: tuple[str, bool], key: str) -> str:
    """The id of the campaign that was made with an idempotency key. Raises Problem 422 if that was of another body."""
    campaign_id, is_same = before
    if not is_same:
        raise key_reused(key)
    return campaign_id
