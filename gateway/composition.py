"""The composition root: every component between the databases and the ports, made and wired in one place.

Laws
1. There is one wiring. The server has all of it (`Components`); the world of the delivery tests has its inner part
   (`delivery_components`), with a database, timers and an engine that are moved by hand.
2. Constructors take their parts by name, and a callback is an argument without a default. Where two parts need each
   other, the first to be made gets a function that finds the second when it is called; where that call would cost each
   push something, `connect` gives it the bound methods once.
3. Nothing is decided here: what a part does is in its own module.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from broker.broker import Broker
from broker.log_writer import LogWriter
from broker.network.descriptor_shares import share_of, share_out
from broker.network.listeners import raise_open_files_limit
from broker.network.proxies import TrustedProxies
from gateway import data_directory, disk_space, kept_ledger
from gateway.api.admission import Admission
from gateway.api.body_budget import BodyBudget
from gateway.api.connection_limiter import MAX_CONNECTIONS, ConnectionLimiter
from gateway.api.problems import ProblemCount
from gateway.api.request_turns import RequestTurns
from gateway.api.services import Services
from gateway.api.shared_answers import SharedAnswers
from gateway.audience.enrolments import EnrolmentQuota
from gateway.audience.segments import SegmentStore
from gateway.audience.tags import TagStore
from gateway.audience.topics import TopicStore
from gateway.audit.audit_log import AuditLog
from gateway.audit.evidence import EvidenceExports
from gateway.auth import DeviceAuthenticator, KeyCache
from gateway.bulk_changes import BulkChanges
from gateway.delivery.connection_events import ConnectionEvents
from gateway.delivery.connection_report import ConnectionReport
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.device_deliveries import DeviceDeliveries
from gateway.delivery.device_timeline import DeviceTimeline
from gateway.delivery.engine import EmbeddedEngine, broker_settings
from gateway.delivery.event_log_quota import EventLogQuota
from gateway.delivery.idempotency_quota import IdempotencyQuota
from gateway.delivery.missed_pushes import MissedPushes
from gateway.delivery.notices import Notices
from gateway.delivery.push import most_values
from gateway.delivery.retention import Retention
from gateway.delivery.uplink_quota import UplinkQuota
from gateway.delivery_components import DeliveryComponents, DeliveryLimits, DeliveryObservers, kept_periods
from gateway.devices import MqttAddress
from gateway.disk_space import DiskSpace
from gateway.enrolment.components import EnrolmentComponents
from gateway.events.event_feed import EventFeed
from gateway.events.webhook_sender import WebhookSender
from gateway.events.webhooks import WebhookStore
from gateway.keys import Keys
from gateway.measurements import Measurements
from gateway.metrics import Metrics, MetricsSources
from gateway.metrics_key import MetricsKey
from gateway.node_components import NodeComponents, SharedParts
from gateway.nodes.components import OwnParts, PeerComponents, SessionComponents
from gateway.nodes.takeover import DeliveryCalls
from gateway.nodes.tasks import TaskName
from gateway.overview import Overview
from gateway.people.components import PeopleComponents
from gateway.periodic import ServerTimers, repeat
from gateway.plans.campaign_reports import CampaignReports
from gateway.plans.campaigns import Campaigns
from gateway.plans.components import PlanComponents
from gateway.settings import Settings
from gateway.startup import OpenStores
from gateway.store.app_locks import NO_APP
from gateway.timestamps import wall_time
from gateway.watchdog import WriterProbe

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25
"""Time by which `expired` may be recorded late; nothing is handed over late, whatever this is."""
DISK_SECONDS = 2.0
"""Time between two checks of the disk, and so for which pushes are refused that there is room for again."""
DATABASE_SECONDS = 1.0
"""Time by which a database that is back may be noticed late, if nobody writes."""
PRESENCE_SECONDS = 10.0
"""Time by which an hour of presence may begin late: short beside an hour, and seldom beside what else is looked at."""
DAY_MS = 86_400_000
HOUR_MS = 3_600_000


class Components:
    """Every component of the gateway, wired."""

    def __init__(self, settings: Settings, stored: OpenStores, log_writer: LogWriter) -> None:
        """Make and wire them on the *loop*; `recover` comes next, before the first connection. Raises BadMetricsKey,
        BadClientSecret."""
        database, clock_ms = stored.database, stored.clock_ms
        loop = asyncio.get_running_loop()
        self.mqtt_address: MqttAddress
        """Set when the ports are open, before the first request."""
        self.certificate_ends: Mapping[str, float] = {}
        """See `metrics.MetricsSources.certificates`."""
        self.moving_sessions: SessionComponents | None = None
        """Sessions that come from other nodes, and go there; None: there are no nodes."""
        if stored.membership is not None and stored.shared_sessions is not None:
            self.moving_sessions = SessionComponents(
                sessions=stored.shared_sessions, database=database, membership=stored.membership, clock_ms=clock_ms
            )
        self.peers: PeerComponents | None = None
        """What this node and its peers ask each other; None: there are no nodes."""
        if stored.membership is not None:
            self.peers = PeerComponents(membership=stored.membership, clock=loop.time)
        self.membership = stored.membership
        """This node among others; None: the server has its database alone."""
        self.nodes: NodeComponents | None = None
        """What a node has besides; None: there is one server."""
        if stored.membership is not None and self.peers is not None:
            self.nodes = NodeComponents(
                database=database, membership=stored.membership, peers=self.peers, clock_ms=clock_ms
            )
        self._confirm = None if self.nodes is None else self.nodes.invalidations.confirm
        self._settings = settings
        self._metrics_key = MetricsKey.read(settings.metrics_key) if settings.metrics_key is not None else None
        self._database = database
        self._clock_ms = clock_ms
        self._wall_clock = stored.wall_clock
        self._stopped_at = stored.stopped_at
        self._sessions, self._broker_clock = stored.sessions, stored.clock
        self._timers = timers = ServerTimers(loop)
        self._disk_space = DiskSpace(
            path=settings.data_dir,
            reserve=settings.disk_reserve,
            clock=loop.time,
            free_inside=lambda: database.free_bytes,
        )
        self._idempotency_quota = IdempotencyQuota(database)
        self.enrolments = EnrolmentQuota(clock_ms, has_nodes=self.nodes is not None)
        self.event_log_quota = EventLogQuota(database)
        self.uplink_quota = UplinkQuota(database)
        self._kept = kept_periods(settings)
        self._retention = Retention(database, self._kept)
        self.audit = AuditLog(database, clock_ms, int(settings.audit_days * DAY_MS))
        self._wire_http()
        self.activity = activity = DeviceActivity(database=database, clock_ms=clock_ms, timers=timers)
        self._authenticator = DeviceAuthenticator(
            database=database, on_denied=activity.on_denied, on_expired=activity.error, timers=timers, clock_ms=clock_ms
        )
        self.connection_events = ConnectionEvents(
            database=database, activity=activity, clock_ms=clock_ms, timers=timers, logged=settings.log_connections
        )
        self.delivery = delivery = DeliveryComponents(
            database=database,
            clock_ms=clock_ms,
            timers=timers,
            activity=activity,
            limits=DeliveryLimits.of(settings),
            attachments_dir=settings.data_dir / data_directory.ATTACHMENTS_DIR,
            http_url=lambda: self.mqtt_address.http,
            storage_left=self._storage_left,
            observers=DeliveryObservers(
                connected=self.connection_events.connected,
                disconnected=self.connection_events.disconnected,
                returned=lambda *device: self._missed_pushes.returned(*device),
                revoked=self._authenticator.forget,
                settings_stored=lambda app_id, device_id: self._notices.preferences_changed(app_id, device_id),
                clear_screens=lambda step, told: self._notices.clear_push(
                    step.app_id, step.push_id, step.kept_for, told
                ),
                answer_remembered=self._idempotency_quota.added,
                push_stored=None if self.peers is None else self.peers.nudges.push_stored,
            ),
            make_engine=self._make_engine,
            sent_elsewhere=None if self.peers is None else self.peers.sent_deliveries.elsewhere,
            elsewhere=None if self.peers is None else self.peers.connections,
            may_serve=None if stored.membership is None else stored.membership.may_serve,
            confirm=self._confirm,
        )
        self.connection_report = ConnectionReport(delivery.connections, self.connection_events.recent)
        if self.peers is not None:
            connected, sent_of = delivery.hand_over.connected, delivery.ledger.sent_of
            self.peers.connect(OwnParts(connected, sent_of, self.connection_report, delivery.engine.publish))
            assert delivery.new_pushes is not None, "there are nodes"
            self.peers.nudges.follow(delivery.new_pushes.told)
            assert self.moving_sessions is not None, "there are nodes"
            calls = DeliveryCalls(
                delivery.ledger.flush, delivery.ledger.confirm_reported, delivery.connections.note_held
            )
            self.moving_sessions.connect(self.broker, calls, self._authenticator, self.peers)
        self.plans = PlanComponents(
            database=database, delivery=delivery, clock_ms=clock_ms, storage_left=self._storage_left,
            idempotency_ms=DeliveryLimits.of(settings).pushes.idempotency_ms,
            answer_remembered=self._idempotency_quota.added,
        )  # fmt: skip
        publish = delivery.engine.publish if self.peers is None else self.peers.messages.publish
        self._notices = Notices(database=database, preferences=delivery.preferences, publish=publish)
        self._missed_pushes = MissedPushes(
            database=database,
            clock_ms=clock_ms,
            timers=timers,
            is_listening=lambda app_id, device_id: delivery.connections.is_subscribed(app_id, device_id, "notices"),
            notify=lambda app_id, device_id, gap: self._notices.send(app_id, device_id, "gap", gap),
            apps_of=delivery.connections.apps_of,
        )
        self.feed = EventFeed(database=database, clock_ms=clock_ms, timers=timers)
        networks = [ipaddress.ip_network(text) for text in settings.webhook_networks]
        self._webhooks = WebhookStore(
            database=database, clock_ms=clock_ms, allowed=networks,
            on_changed=lambda webhook_id: self.webhook_sender.webhook_changed(webhook_id),
            on_replay=lambda webhook_id: self.webhook_sender.replay_asked(webhook_id),
        )  # fmt: skip
        self.webhook_sender = WebhookSender(
            database=database, feed=self.feed, store=self._webhooks, clock_ms=clock_ms, allowed=networks
        )
        self.enrolment = EnrolmentComponents(
            database=database, connections=delivery.connections, activity=activity, quota=self.enrolments,
            clock_ms=clock_ms, clock=loop.time, share_of=share_of, mqtt_address=lambda: self.mqtt_address,
            confirm=self._confirm,
        )  # fmt: skip
        self.campaigns = Campaigns(
            database=database, acceptance=delivery.acceptance, targets=delivery.targets, policies=delivery.policies,
            clock_ms=clock_ms, storage_left=self._storage_left, recall=delivery.escalations.recall,
        )  # fmt: skip
        if self.nodes is not None:
            shared = SharedParts(
                delivery, self.campaigns, self.plans.schedule_runner, self._webhooks, self.webhook_sender, self.feed,
                self._key_cache, self.people, self.enrolment.token_requests,
                self.event_log_quota, self.uplink_quota, self._idempotency_quota,
            )  # fmt: skip
            self.nodes.connect(shared, self._stopped_at)
            assert self.moving_sessions is not None, "there are nodes"
            self.nodes.tasks.add(TaskName.SESSIONS, self.moving_sessions.duty.load, self.moving_sessions.duty.follow)
        self.broker.start()
        self.measurements = Measurements(
            database=database, ledger=delivery.ledger, hand_over=delivery.hand_over, acceptance=delivery.acceptance,
            connections=delivery.connections, enrolments=self.enrolments, clock_ms=clock_ms,
        )  # fmt: skip
        sources = self._sources(log_writer)
        self.metrics = Metrics(sources)
        self.overview = Overview(sources, clock_ms, self.enrolments.count)

    def _owns(self, name: TaskName) -> bool:
        """Whether this server does what one of several nodes does."""
        return self.nodes is None or self.nodes.tasks.is_owned(name)

    def _make_engine(self, connections: DeviceConnections) -> EmbeddedEngine:
        self.broker = Broker(
            broker_settings(self._settings),
            self._sessions,
            self._authenticator if self.moving_sessions is None else self.moving_sessions.takeover,
            connections,
            self._broker_clock,
        )
        return EmbeddedEngine(self.broker)

    def _wire_http(self) -> None:
        """Limits and counters of the HTTP port."""
        loop = asyncio.get_running_loop()
        self._key_cache = KeyCache(self._database, self._clock_ms)
        self.people = PeopleComponents(
            settings=self._settings, database=self._database, keys=self._key_cache, clock_ms=self._clock_ms,
            clock=loop.time, share_of=share_of, has_nodes=self.nodes is not None,
        )  # fmt: skip
        self.turns = RequestTurns(loop)
        self._bodies = BodyBudget(loop.time)
        self._admission = Admission(
            keys=self._key_cache,
            sessions=self.people.sessions,
            audit=self.audit,
            rate=self._settings.request_limit,
            clock=loop.time,
        )
        self.share_of_holder = self._admission.share_of
        self._problems = ProblemCount()
        shares = share_out(raise_open_files_limit(), MAX_CONNECTIONS)
        self.device_descriptors = shares.devices
        proxies = TrustedProxies(self._settings.trusted_proxies)
        self.connections = ConnectionLimiter(
            connections=shares.http, clock=loop.time, share_of=share_of, is_proxy=proxies.trusts
        )

    def _sources(self, log_writer: LogWriter) -> MetricsSources:
        delivery = self.delivery
        return MetricsSources(
            database=self._database,
            keys=self._key_cache,
            authenticator=self._authenticator,
            admission=self._admission,
            connections=self.connections,
            turns=self.turns,
            bodies=self._bodies,
            problems=self._problems,
            acceptance=delivery.acceptance,
            ledger=delivery.ledger,
            device_connections=delivery.connections,
            hand_over=delivery.hand_over,
            measurements=self.measurements,
            metrics_key=self._metrics_key,
            is_ready=lambda: self._trouble() is None,
            disk_left=self._disk_space.left,
            device_descriptors=self.device_descriptors,
            rule_changes=delivery.rule_changes,
            receipts=delivery.receipts,
            activity=self.activity,
            connection_events=self.connection_events,
            broker=self.broker.metrics,
            attachments=delivery.attachments,
            webhook_sender=self.webhook_sender,
            webhooks=self._webhooks,
            feed=self.feed,
            event_log_quota=self.event_log_quota,
            uplink_quota=self.uplink_quota,
            audit=self.audit,
            idempotency_quota=self._idempotency_quota,
            enrolments=self.enrolments,
            enrolment=self.enrolment,
            people=self.people,
            calls=delivery.calls,
            callers=delivery.callers,
            forecast=delivery.forecast,
            awaited_pushes=delivery.awaited_pushes,
            escalations=delivery.escalations,
            texts=delivery.texts,
            campaigns=self.campaigns,
            heartbeats=delivery.heartbeats,
            watches=delivery.watches,
            plans=self.plans,
            membership=self.membership,
            peers=self.peers,
            moving_sessions=self.moving_sessions,
            invalidations=None if self.nodes is None else self.nodes.invalidations,
            new_pushes=delivery.new_pushes,
            certificates=lambda: self.certificate_ends,
            log_lines=lambda: {
                "queue_full": log_writer.dropped,
                "many_alike": log_writer.limits.left_out,
                "many_bytes": log_writer.limits.over_bytes,
            },
        )

    async def recover(self) -> None:
        """Load what is on disk into the components, after a start and before the first connection. Runs on the
        *loop*."""
        if self.nodes is not None:
            await self.nodes.begin()
        await self.people.sessions.load()
        await self.delivery.policies.load()
        await self.delivery.policies.segments.load(self.delivery.policies.cap_segments())
        await self.enrolments.load(self._database)
        await self.delivery.alert_limiter.load()
        is_alone = self.nodes is None
        await self.delivery.connections.recover(is_alone=is_alone)
        if is_alone:  # or the messages of the other nodes' sessions would be forgotten
            await self.delivery.receipts.recover(self.broker.numbers())
        await self.delivery.rule_changes.recover()
        await self.delivery.escalations.load()
        await self.delivery.watches.load(self._stopped_at)
        if is_alone:  # or the owner of each task loads it
            await self.campaigns.load()
            await self.delivery.heartbeats.load()
            await self.plans.schedule_runner.load()
            await self.delivery.analytics.load()
            await self.delivery.fatigue.load()
        await self.delivery.presence_hours.load()
        await self._webhooks.load()
        await self.delivery.attachments.load()
        await self.enrolment.token_requests.load()
        await self.measurements.load()

    def services(self, ending: Callable[[], bool]) -> Services:
        """Collect the components that the API needs. `ending` says whether the server is on its way out."""
        device_deliveries = DeviceDeliveries(self._database, self.delivery.in_flight)
        device_timeline = DeviceTimeline(self._database)
        return Services(
            database=self._database,
            audit=self.audit,
            evidence=EvidenceExports(
                database=self._database,
                audit=self.audit,
                deliveries=device_deliveries,
                timeline=device_timeline,
                clock_ms=self._clock_ms,
            ),
            admission=self._admission,
            turns=self.turns,
            bodies=self._bodies,
            keys=Keys(self._database, self._key_cache, self.people.sessions.end_of_key),
            people=self.people,
            devices=self.enrolment.devices,
            bulk_changes=BulkChanges(
                database=self._database,
                devices=self.enrolment.devices,
                targets=self.delivery.targets,
                online=self.delivery.connections.online_set,
                clock_ms=self._clock_ms,
            ),
            enrolment=self.enrolment,
            policies=self.delivery.policies,
            segments=SegmentStore(
                database=self._database,
                targets=self.delivery.targets,
                policies=self.delivery.policies,
                clock_ms=self._clock_ms,
            ),
            tags=TagStore(database=self._database),
            topics=TopicStore(database=self._database, clock_ms=self._clock_ms),
            preferences=self.delivery.preferences,
            alert_limiter=self.delivery.alert_limiter,
            notices=self._notices,
            acceptance=self.delivery.acceptance,
            forecast=self.delivery.forecast,
            calls=self.delivery.calls,
            awaited_pushes=self.delivery.awaited_pushes,
            duties=self.delivery.duties,
            escalations=self.delivery.escalations,
            campaigns=self.campaigns,
            campaign_reports=CampaignReports(database=self._database, campaigns=self.campaigns),
            heartbeats=self.delivery.heartbeats,
            watches=self.delivery.watches,
            schedules=self.plans.schedules,
            ledger=self.delivery.ledger,
            reports=self.delivery.reports,
            shared_answers=SharedAnswers(asyncio.get_running_loop().time),
            device_deliveries=device_deliveries,
            device_timeline=device_timeline,
            connection_report=self.connection_report,
            analytics=self.delivery.analytics,
            fatigue=self.delivery.fatigue,
            attachments=self.delivery.attachments,
            templates=self.delivery.templates,
            texts=self.delivery.texts,
            feed=self.feed,
            webhooks=self._webhooks,
            webhook_sender=self.webhook_sender,
            clock_ms=self._clock_ms,
            push_values=most_values(self._settings.max_payload),
            problems=self._problems,
            metrics=self.metrics,
            overview=self.overview,
            metrics_key=self._metrics_key,
            peer_verbs=None if self.peers is None else self.peers.verbs,
            confirm=self._confirm,
            unready=lambda: "the server is ending; try again when it is back" if ending() else self._trouble(),
            is_moving_devices=lambda: self.membership is not None and ending(),
        )

    def _trouble(self) -> str | None:
        """Explain why no pushes are taken, if that is because of a database."""
        reason = self._database.unready()
        if reason is not None:
            return reason
        if self._sessions.error is not None:
            return f"sessions cannot be stored: {self._sessions.error}"
        return None

    def _storage_left(self) -> bool:
        """Is there room for more? Raises StorageError when the ledger is not to be trusted with it."""
        trouble = self._database.trouble
        if trouble is not None:
            raise type(trouble)(*trouble.args)
        return self._disk_space.has_room()

    def writer_probes(self) -> list[WriterProbe]:
        """List what the watchdog asks whether it is alive."""

        def ask_ledger(done: Callable[[], None]) -> None:
            self._database.submit(lambda transaction: None, lambda _: done(), lambda _: done(), apps=NO_APP)

        return [
            WriterProbe("the writer of the ledger", ask_ledger, is_waiting=lambda: False),
            # While the disk refuses, it tries again every second.
            WriterProbe(
                "the writer of the sessions",
                self._sessions.barrier,
                is_waiting=lambda: self._sessions.error is not None,
            ),
        ]

    def works_of_one(self) -> list[Coroutine[Any, Any, None]]:
        """Make the loops of which a database needs one; with several nodes, this node's part in them."""
        if self.nodes is not None:
            return [self.nodes.run()]
        return [self.delivery.analytics.count_large(), self.campaigns.run(), self.delivery.fatigue.run()]

    def status(self) -> str:
        """Describe the server in one line, for its service manager."""
        trouble = self._trouble()
        return f"serving {self.broker.metrics.connections:,} connections" + (f"; {trouble}" if trouble else "")

    async def sweep(self) -> None:
        """End what has outlived its ttl, and do what else is due, until cancelled."""
        delivery = self.delivery
        alone = [delivery.ledger.sweep, delivery.escalations.tick, delivery.heartbeats.tick, delivery.analytics.tick]
        works = [
            *(alone if self.nodes is None else self.nodes.ticks()),
            delivery.alert_limiter.tick,
            delivery.acceptance.limits.tick,
            delivery.watches.tick,
            self.webhook_sender.tick,
            self._follow_wall_clock,
        ]
        if self.delivery.new_pushes is not None:
            works.append(self.delivery.new_pushes.tick)
        await repeat(SWEEP_SECONDS, *works)

    async def run_schedules(self) -> None:
        """Send what is due of schedules, until cancelled."""
        while True:
            try:
                if self._owns(TaskName.SCHEDULES):
                    await self.plans.schedule_runner.run_due()
            except Exception as error:  # above all a full disk: it is tried again
                log.warning("what is due of schedules cannot be sent: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    def _follow_wall_clock(self) -> None:
        if self._wall_clock is not None and self._wall_clock.follow():
            self.delivery.rule_changes.wall_clock_set()

    async def remove_old(self) -> None:
        """Remove what has been kept long enough, until cancelled."""
        while True:
            try:
                await self.enrolment.token_expiry.run()
                if self._owns(TaskName.RETENTION):
                    await self._remove_kept_long_enough()
                await self.audit.remove_old()
                wall_seconds = wall_time.of(self._clock_ms()) / 1000
                await asyncio.to_thread(kept_ledger.remove_expired, self._settings.data_dir, wall_seconds)
                if self._owns(TaskName.RETENTION):
                    await self.delivery.attachments.remove_expired()
                    await self.enrolment.token_requests.remove_ended()
                while await self._database.give_back():
                    pass
            except Exception as error:  # above all a full disk: it is tried again
                log.warning("nothing could be removed: %s", error)
            await asyncio.sleep(self._retention.pause)

    async def _remove_kept_long_enough(self) -> None:
        """Remove what was kept long enough from tables that all nodes share."""
        await self._retention.run(self._clock_ms())
        await self.plans.schedule_runner.remove_ended(self._kept.deliveries)
        await self.campaigns.remove_old(self._clock_ms() - self._kept.counts)
        if self.nodes is not None:
            await self.nodes.remove_seen()

    async def watch_disk(self) -> None:
        """Look after the ledger's file while the disk is full, and put something by while it is not."""
        while True:
            try:
                if not self._disk_space.has_room():
                    await asyncio.to_thread(kept_ledger.give_up, self._settings.data_dir)
                    await self._database.maintain_file()
                    while not self._disk_space.has_room() and await self._database.give_back(all_pages=True):
                        pass
                await asyncio.to_thread(disk_space.make_reserve, self._settings.data_dir)
            except Exception as error:  # above all a full disk: it is tried again
                log.warning("the disk cannot be looked after: %s", error)
            await asyncio.sleep(DISK_SECONDS)

    async def ask_database_again(self) -> None:
        """Ask a PostgreSQL that was away whether it is back, until cancelled."""
        await repeat(DATABASE_SECONDS, self._database.ask_again)

    async def record_presence(self) -> None:
        """Record in which hours devices are connected, and how far sessions of people were used, until cancelled."""
        seconds = PRESENCE_SECONDS / self._settings.clock_speed
        await repeat(max(seconds, SWEEP_SECONDS), self.delivery.presence_hours.tick, self.people.sessions.tick)

    async def enforce_quotas(self) -> None:
        """Keep the event log, and what devices say, within their bounds, until cancelled."""
        while True:
            try:
                if self._owns(TaskName.QUOTAS):
                    await self.event_log_quota.run()
                    await self.uplink_quota.run()
                    await self._idempotency_quota.run()
            except Exception as error:  # above all a full disk: it is tried again
                log.warning("the oldest events, messages or answers cannot be removed: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    async def flush(self) -> None:
        """See that everything said and acknowledged so far is on disk and called back."""
        for _ in range(2):  # what the first round calls back may have left something for the second
            self.connection_events.flush()
            self.activity.flush()
            self.delivery.presence_hours.flush()
            self.delivery.ledger.flush()
            self.people.sessions.flush()
            try:
                await self._database.write(lambda transaction: None, apps=NO_APP)
            except Exception as error:
                log.error("the last outcomes could not be stored; their pushes will be sent again: %s", error)
        self.delivery.receipts.end()
        self._timers.end()
