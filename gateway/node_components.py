"""Tasks and invalidations of a node, wired with the components of the server: a part of the composition root.

Two questions are answered here for each component that was written for one server: what it has to give up when another
node has changed something (`Invalidations`), and what only one node may do (`Tasks`), with how that one finds what the
others have stored. A server by itself has none of this.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from gateway.auth import KeyCache
from gateway.delivery.event_log_quota import EventLogQuota
from gateway.delivery.fleet_recovery import FleetRecovery
from gateway.delivery.fleet_sweep import FleetSweep
from gateway.delivery.idempotency_quota import IdempotencyQuota
from gateway.delivery.uplink_quota import UplinkQuota
from gateway.delivery_components import DeliveryComponents
from gateway.device_topics import client_id
from gateway.enrolment.token_requests import TokenRequests
from gateway.events.event_feed import EventFeed
from gateway.events.webhook_sender import WebhookSender
from gateway.events.webhooks import WebhookStore
from gateway.nodes import invalidations
from gateway.nodes.components import PeerComponents
from gateway.nodes.horizon import HorizonReader
from gateway.nodes.invalidations import Invalidations
from gateway.nodes.membership import Membership
from gateway.nodes.tasks import TaskName, Tasks
from gateway.people.components import PeopleComponents
from gateway.plans.campaigns import Campaigns
from gateway.plans.schedule_runner import ScheduleRunner
from gateway.store.app_locks import NO_APP
from gateway.store.database import Database
from gateway.store.nodes.invalidations import Invalidation, InvalidationKind, remove_seen
from gateway.store.nodes.sign_ins import sign_in_key, use_sign_in
from gateway.timestamps import wall_time

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""Time between two looks of each node at what others have stored, for those who follow it here."""
KEY_BYTES = 32
"""Bytes of the key of sign-ins, for A256GCM."""
_NODE_SHIFT, _EPOCH_SHIFT = 40, 20
"""Bits above which the number of a change of rules has its node, and the node's epoch: a million changes of each."""


class SharedParts(NamedTuple):
    """The components that are different where there are several nodes."""

    delivery: DeliveryComponents
    campaigns: Campaigns
    schedules: ScheduleRunner
    webhooks: WebhookStore
    webhook_sender: WebhookSender
    feed: EventFeed
    keys: KeyCache
    people: PeopleComponents
    token_requests: TokenRequests
    event_log_quota: EventLogQuota
    uplink_quota: UplinkQuota
    idempotency_quota: IdempotencyQuota


class NodeComponents:
    """A node's tasks and invalidations. Loop."""

    def __init__(
        self, *, database: Database, membership: Membership, peers: PeerComponents, clock_ms: Callable[[], int]
    ) -> None:
        """`connect` comes before anything is loaded. `clock_ms` gives server time in milliseconds."""
        self._database = database
        self._clock_ms = clock_ms
        self._membership = membership
        self._own = membership.own
        self._horizon = HorizonReader(database)
        self.tasks = Tasks(database, membership.own)
        self.invalidations = Invalidations(database, membership.own, membership.lose, membership.may_serve)
        self.invalidations.nudge_by(membership.peers, peers.client.ask)
        peers.verbs.add(invalidations.VERB, self.invalidations.answer)

    def connect(self, parts: SharedParts, stopped_at: int) -> None:
        """Share these components with other nodes. `stopped_at`: the last server time that was stored before this
        start, in milliseconds."""
        delivery = self._delivery = parts.delivery
        self._parts = parts
        delivery.policies.number_changes_from((self._own.no << _NODE_SHIFT) + (self._own.epoch << _EPOCH_SHIFT))
        delivery.escalations.is_shared = True
        delivery.watches.is_shared = True
        delivery.analytics.horizon = self._counted_horizon
        delivery.analytics.is_counting = False
        delivery.fatigue.horizon = parts.event_log_quota.horizon = self._event_horizon
        parts.uplink_quota.horizon = self._uplink_horizon
        parts.idempotency_quota.is_shared = True
        parts.webhook_sender.sends = False
        parts.webhook_sender.may_send = self._membership.may_serve
        self._add_tasks(stopped_at)
        self._handle_invalidations()

    async def begin(self) -> None:
        """Hear of every change from now on; before anything is loaded."""
        await self.invalidations.begin()
        if self._parts.people.oidc is not None:
            made = secrets.token_bytes(KEY_BYTES)
            key = await self._database.write(partial(sign_in_key, made=made), apps=NO_APP)
            self._parts.people.oidc.share(key, self._use_sign_in)

    async def _use_sign_in(self, state: str, ends: int) -> bool:
        unix_s = wall_time.of(self._clock_ms()) // 1000
        return await self._database.write(partial(use_sign_in, state=state, ends=ends, unix_s=unix_s), apps=NO_APP)

    async def run(self) -> None:
        """Claim tasks, follow the other nodes and hear of their changes, until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self.tasks.run())
            loops.create_task(self.invalidations.run())
            loops.create_task(self._follow_repeatedly())

    def ticks(self) -> list[Callable[[], object]]:
        """List what is called a few times a second, and does nothing while another node does it."""
        delivery, by_owner = self._delivery, self.tasks.by_owner
        return [
            by_owner(TaskName.ESCALATIONS, delivery.escalations.tick),
            by_owner(TaskName.HEARTBEATS, delivery.heartbeats.tick),
            by_owner(TaskName.ANALYTICS, delivery.analytics.tick),
        ]

    async def remove_seen(self) -> None:
        """Remove the invalidations that all nodes have read."""
        while await self._database.write(remove_seen, apps=NO_APP):
            pass

    async def follow_others(self) -> None:
        """Find what other nodes have stored, for those who follow it here and of tasks that are done elsewhere."""
        self._parts.feed.find_new()
        if not self.tasks.is_owned(TaskName.ANALYTICS):
            self._delivery.analytics.forget_changes()
        if not self.tasks.is_owned(TaskName.WATCHES):
            await self._delivery.watches.follow_others()
        if not self.tasks.is_owned(TaskName.WEBHOOKS):
            await self._parts.webhooks.follow_others()
        if not self.tasks.is_owned(TaskName.CAMPAIGNS):
            self._parts.campaigns.forget()

    async def _follow_repeatedly(self) -> None:
        while True:
            try:
                await self.follow_others()
            except Exception as error:  # above all a database that is away: it is tried again
                log.warning("what other nodes have stored cannot be seen, trying again: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    # -- tasks -----------------------------------------------------------------------------------------------------

    def _add_tasks(self, stopped_at: int) -> None:
        delivery, parts, add = self._delivery, self._parts, self.tasks.add
        ask = delivery.ledger.recalls.sent_elsewhere
        assert ask is not None, "there are others"
        sweep = FleetSweep(database=self._database, ledger=delivery.ledger, sent_elsewhere=ask)
        recovery = FleetRecovery(
            database=self._database, ledger=delivery.ledger, sent_elsewhere=ask, clock_ms=self._clock_ms
        )
        self._membership.follow(lambda joined: None, lambda ended: recovery.node_ended())
        add(TaskName.RECOVERY, recovery.load, recovery.follow_others)
        add(TaskName.SWEEP, follow=sweep.follow_others)
        add(TaskName.RETENTION)
        add(TaskName.QUOTAS)
        analytics = delivery.analytics
        add(TaskName.ANALYTICS, self._load_analytics, analytics.follow_others, analytics.count_large)
        add(TaskName.FATIGUE, delivery.fatigue.load, work=delivery.fatigue.run)
        add(TaskName.SCHEDULES, parts.schedules.load, parts.schedules.follow_others)
        add(TaskName.CAMPAIGNS, parts.campaigns.load, parts.campaigns.follow_others, parts.campaigns.run)
        add(TaskName.ESCALATIONS, delivery.escalations.load, delivery.escalations.follow_others)
        add(TaskName.HEARTBEATS, delivery.heartbeats.load, delivery.heartbeats.follow_others)
        add(TaskName.WATCHES, lambda: delivery.watches.load(stopped_at), delivery.watches.declare)
        add(TaskName.WEBHOOKS, self._begin_sending)

    async def _load_analytics(self) -> None:
        await self._delivery.analytics.load()
        self._delivery.analytics.is_counting = True

    async def _begin_sending(self) -> None:
        await self.invalidations.between_reads(self._parts.webhooks.load)
        self._parts.webhook_sender.sends = True
        self._parts.webhook_sender.start()

    async def _counted_horizon(self) -> tuple[int, int]:
        found = await self._horizon.read()
        return found.event_no, found.push_no

    async def _event_horizon(self) -> int:
        return (await self._horizon.read()).event_no

    async def _uplink_horizon(self) -> int:
        return (await self._horizon.read()).uplink_no

    # -- invalidations ---------------------------------------------------------------------------------------------

    def _handle_invalidations(self) -> None:
        handlers: dict[InvalidationKind, Callable[[Invalidation], Awaitable[None]]] = {
            InvalidationKind.KEY: self._key_revoked,
            InvalidationKind.CREDENTIAL: self._credential_void,
            InvalidationKind.DEVICE: self._device_removed,
            InvalidationKind.SESSION: lambda found: self._parts.people.sessions.reload(found.key),
            InvalidationKind.RULES: lambda found: self._delivery.policies.reload(found.app_no),
            InvalidationKind.RECALL: self._push_recalled,
            InvalidationKind.WEBHOOK: lambda found: self._parts.webhooks.reload(found.key),
            InvalidationKind.ATTACHMENT: lambda found: self._delivery.attachments.reload(found.app_no, found.key),
            InvalidationKind.TOKEN_REQUEST: lambda found: self._parts.token_requests.reload(bytes.fromhex(found.key)),
            InvalidationKind.WATCH: lambda found: self._delivery.watches.reload(found.app_no, found.key),
        }
        for kind, handler in handlers.items():
            self.invalidations.on(kind, handler)

    async def _key_revoked(self, found: Invalidation) -> None:
        self._parts.keys.forget(found.key)
        self._parts.people.sessions.end_of_key(found.key)

    async def _credential_void(self, found: Invalidation) -> None:
        self._delivery.connections.disconnect_device(client_id(*found.key.split("/", 1)))

    async def _device_removed(self, found: Invalidation) -> None:
        self._delivery.connections.forget_device(client_id(*found.key.split("/", 1)))

    async def _push_recalled(self, found: Invalidation) -> None:
        self._delivery.ledger.recalls.note([int(found.key)])
