"""The gateway's components, made and wired: everything between the databases and the ports."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from broker.broker import Broker
from broker.log_writer import LogWriter
from broker.network.descriptor_shares import share_of, share_out
from broker.network.listeners import raise_open_files_limit
from broker.network.proxies import TrustedProxies
from broker.settings import BrokerSettings
from gateway import data_directory, disk_space
from gateway.api.admission import Admission
from gateway.api.body_budget import BodyBudget
from gateway.api.connection_limiter import CONNECTIONS, ConnectionLimiter
from gateway.api.problems import ProblemCount
from gateway.api.request_turns import RequestTurns
from gateway.api.services import Services
from gateway.audience.enrolments import EnrolmentQuota
from gateway.audience.policy import PolicyStore
from gateway.auth import DeviceAuthenticator, KeyCache
from gateway.delivery.acceptance import Acceptance, Limits
from gateway.delivery.alert_limiter import AlertLimiter
from gateway.delivery.analytics import Analytics
from gateway.delivery.attachments import AttachmentLimits, Attachments
from gateway.delivery.calls import Calls
from gateway.delivery.connection_events import ConnectionEvents
from gateway.delivery.consent import PreferenceStore
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.digest import Digests, PushNumbers
from gateway.delivery.engine import EmbeddedEngine
from gateway.delivery.event_log_quota import EventLogQuota
from gateway.delivery.forecast import Forecast
from gateway.delivery.idempotency_quota import IdempotencyQuota
from gateway.delivery.ledger import Ledger
from gateway.delivery.mailbox import Mailbox
from gateway.delivery.missed_pushes import MissedPushes
from gateway.delivery.notices import Notices
from gateway.delivery.push import most_values
from gateway.delivery.receipts import Receipts
from gateway.delivery.reports import Reports
from gateway.delivery.retention import Keep, Retention
from gateway.delivery.rule_changes import RuleChanges
from gateway.delivery.uplink import UplinkLimits
from gateway.delivery.uplink_quota import UplinkQuota
from gateway.devices import DeviceRegistry, MqttAddress
from gateway.disk_space import DiskSpace
from gateway.events.event_feed import EventFeed
from gateway.events.webhook_sender import WebhookSender
from gateway.events.webhooks import WebhookStore
from gateway.keys import Keys
from gateway.metrics import Metrics, Sources
from gateway.periodic import ServerTimers, repeat
from gateway.settings import Settings
from gateway.stores import Stored

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25
"""How late `expired` may be booked; nothing is handed over late, whatever this is."""
DISK_SECONDS = 2.0
"""Between two looks after the disk: how long pushes are refused that there is room for again."""
DAY = 86_400_000
HOUR = 3_600_000
SIDE_CONNECTIONS = 8
"""Of one device, besides its own: a helper or two, and what the network has not yet told us is gone."""
MAX_UNSTORED_BYTES = 512 * 1024
"""Of one connection of a device. Each byte of it is there several times on its way to the disk."""


class Components:
    """Every component of the gateway, wired."""

    def __init__(self, settings: Settings, stored: Stored, log_writer: LogWriter) -> None:
        database, clock = stored.database, stored.milliseconds
        loop = asyncio.get_running_loop()
        self.mqtt_address: MqttAddress
        """Once it is known."""
        self.certificate_ends: Mapping[str, float] = {}
        """See `metrics.Sources.certificates`."""
        self._settings = settings
        self._database = database
        self._clock = clock
        self._wall_clock = stored.wall_clock
        self._timers = timers = ServerTimers(loop)
        self.activity = activity = DeviceActivity(database, clock, timers)
        self._ledger = ledger = Ledger(database, clock, timers, settings.max_attempts)
        self.mailbox = mailbox = Mailbox(database, ledger, activity, clock, timers)
        self._policies = policies = PolicyStore(database, clock)
        self._preferences = preferences = PreferenceStore(database, ledger, policies, clock)
        numbers = PushNumbers()
        self._alert_limiter = alert_limiter = AlertLimiter(
            database, ledger, mailbox, policies, clock, timers, Digests(numbers)
        )
        preferences.on_stored = lambda device_no: alert_limiter.check((device_no,))
        self._rule_changes = rule_changes = RuleChanges(database, ledger, preferences, alert_limiter, policies, clock)
        policies.on_changed = rule_changes.begin
        self._receipts = Receipts(
            database, activity, UplinkLimits(settings.uplink_keep), clock, timers, ledger, preferences
        )
        self._sessions = stored.sessions
        self._gauge = DiskSpace(settings.data_dir, settings.disk_reserve, loop.time, lambda: database.free_bytes)
        database.on_full = lambda: disk_space.release(settings.data_dir)
        self.attachments = Attachments(
            database,
            settings.data_dir / data_directory.ATTACHMENTS_DIR,
            AttachmentLimits(settings.max_attachment, settings.attachment_storage),
            clock,
            lambda: self.mqtt_address.http,
            self._storage_left,
        )
        self._acceptance = Acceptance(
            database,
            ledger,
            mailbox,
            Limits(
                max_payload=settings.max_payload,
                mailbox_deliveries=settings.mailbox_deliveries,
                mailbox_bytes=settings.mailbox_bytes,
                idempotency_ms=int(settings.idempotency_hours * HOUR),
            ),
            clock,
            timers,
            self._storage_left,
            policies,
            alert_limiter,
            numbers,
            self.attachments,
        )
        self._idempotency_quota = IdempotencyQuota(database)
        self._acceptance.on_remembered = self._idempotency_quota.added
        self.enrolments = EnrolmentQuota(clock)
        self.analytics = Analytics(database, ledger, policies, clock, timers)
        self.event_log_quota = EventLogQuota(database)
        self.uplink_quota = UplinkQuota(database)
        self.feed = feed = EventFeed(database, clock, timers)
        networks = [ipaddress.ip_network(text) for text in settings.webhook_networks]
        self._webhooks = WebhookStore(database, clock, networks)
        self.webhook_sender = WebhookSender(database, feed, self._webhooks, clock, networks)
        self._calls = Calls(database, self._acceptance)
        self._receipts.on_acted = self._calls.answered
        self._retention = Retention(
            database,
            Keep(
                deliveries=int(settings.retention_days * DAY),
                counts=int(settings.counts_days * DAY),
                idempotency=int(settings.idempotency_hours * HOUR),
                uplink=int(settings.uplink_days * DAY),
                # An event says what is in the row of its delivery: it must not outlive it.
                events=int(min(settings.event_days, settings.retention_days) * DAY),
            ),
        )
        self._key_cache = KeyCache(database)
        self._authenticator = DeviceAuthenticator(database, activity.on_denied, timers)
        self.share_of_key = self._key_cache.share_of
        self.turns = RequestTurns(loop)
        self._bodies = BodyBudget(loop.time)
        self._admission = Admission(self._key_cache, settings.request_limit, loop.time)
        self._problems = ProblemCount()
        shares = share_out(raise_open_files_limit(), CONNECTIONS)
        self.device_descriptors = shares.devices
        proxies = TrustedProxies(settings.trusted_proxies)
        self.connections = ConnectionLimiter(shares.http, loop.time, share_of, proxies.trusts)
        self.broker = Broker(
            _broker_settings(settings),
            stored.sessions,
            self._authenticator,
            mailbox,
            stored.clock,
        )
        self.connection_events = connections = ConnectionEvents(
            database, activity, clock, timers, logged=settings.log_connections
        )
        mailbox.on_connected = connections.connected
        mailbox.on_disconnected = connections.disconnected
        mailbox.on_published = self._receipts.published
        mailbox.on_released = self._receipts.released
        mailbox.on_revoked = self._authenticator.forget
        engine = EmbeddedEngine(self.broker)
        mailbox.attach(engine)
        self._notices = Notices(database, preferences, engine.publish)
        self._missed_pushes = MissedPushes(
            database,
            clock,
            timers,
            lambda app_id, device_id: mailbox.is_subscribed(app_id, device_id, "notices"),
            lambda app_id, device_id, gap: self._notices.tell(app_id, device_id, "gap", gap),
        )
        mailbox.on_returned = self._missed_pushes.returned
        self._receipts.on_zone = alert_limiter.zone_changed
        self._receipts.on_settings = self._notices.preferences_changed
        self.broker.start()
        self.metrics = Metrics(
            Sources(
                database=database,
                keys=self._key_cache,
                authenticator=self._authenticator,
                admission=self._admission,
                connections=self.connections,
                turns=self.turns,
                bodies=self._bodies,
                problems=self._problems,
                acceptance=self._acceptance,
                ledger=ledger,
                mailbox=mailbox,
                rule_changes=rule_changes,
                receipts=self._receipts,
                activity=activity,
                connection_events=self.connection_events,
                broker=self.broker.metrics,
                attachments=self.attachments,
                webhook_sender=self.webhook_sender,
                feed=self.feed,
                event_log_quota=self.event_log_quota,
                uplink_quota=self.uplink_quota,
                idempotency_quota=self._idempotency_quota,
                enrolments=self.enrolments,
                calls=self._calls,
                certificates=lambda: self.certificate_ends,
                log_lines=lambda: {"queue_full": log_writer.dropped, "many_alike": log_writer.left_out},
            )
        )

    async def recover(self) -> None:
        """After a restart, before the first connection."""
        await self._policies.load()
        await self.enrolments.load(self._database)
        await self._alert_limiter.load()
        await self.mailbox.recover()
        await self._receipts.recover(self.broker.numbers())
        await self._rule_changes.recover()
        await self.analytics.load()
        await self._webhooks.load()
        await self.attachments.load()

    def services(self, ending: Callable[[], bool]) -> Services:
        """What the API needs. `ending` says whether the server is on its way out."""
        return Services(
            database=self._database,
            admission=self._admission,
            turns=self.turns,
            bodies=self._bodies,
            keys=Keys(self._database, self._key_cache),
            devices=DeviceRegistry(
                self._database, self.mailbox, self.activity, self._clock, lambda: self.mqtt_address, self.enrolments
            ),
            policies=self._policies,
            preferences=self._preferences,
            alert_limiter=self._alert_limiter,
            notices=self._notices,
            acceptance=self._acceptance,
            forecast=Forecast(
                self._database, self.mailbox, self._policies, self.attachments, self._settings.max_payload
            ),
            calls=self._calls,
            ledger=self._ledger,
            reports=Reports(self._database, self._ledger),
            analytics=self.analytics,
            attachments=self.attachments,
            feed=self.feed,
            webhooks=self._webhooks,
            clock=self._clock,
            push_values=most_values(self._settings.max_payload),
            problems=self._problems,
            metrics=self.metrics,
            unready=lambda: "the server is ending; try again when it is back" if ending() else self._trouble(),
        )

    def _trouble(self) -> str | None:
        """Why no pushes are taken, if it is a database."""
        if self._database.trouble is not None:
            return self._database.trouble.detail
        if self._sessions.error is not None:
            return f"sessions cannot be stored: {self._sessions.error}"
        return None

    def _storage_left(self) -> bool:
        """Is there room for more? Raises StorageError when the ledger is not to be trusted with it."""
        trouble = self._database.trouble
        if trouble is not None:
            raise type(trouble)(*trouble.args)
        return self._gauge.left()

    async def sweep(self) -> None:
        """End what has outlived its ttl, and do what else is due, until cancelled."""
        works = (
            self._ledger.sweep,
            self._alert_limiter.tick,
            self.analytics.tick,
            self.webhook_sender.tick,
            self._follow_wall_clock,
        )
        await repeat(SWEEP_SECONDS, *works)

    def _follow_wall_clock(self) -> None:
        if self._wall_clock is not None and self._wall_clock.follow():
            self._rule_changes.wall_clock_set()

    async def retire(self) -> None:
        """Remove what has been kept long enough, until cancelled."""
        while True:
            try:
                await self._retention.run(self._clock())
                await self.attachments.remove_expired()
                while await self._database.give_back():
                    pass
            except Exception as error:  # above all a full disk: it is tried again
                log.warning("nothing could be removed: %s", error)
            await asyncio.sleep(self._retention.pause)

    async def watch_disk(self) -> None:
        """Look after the ledger's file while the disk is full, and put something by while it is not."""
        while True:
            try:
                if not self._gauge.left():
                    await self._database.look_after_file()
                    while not self._gauge.left() and await self._database.give_back(all_pages=True):
                        pass
                await asyncio.to_thread(disk_space.put_by, self._settings.data_dir)
            except Exception as error:  # above all a full disk: it is tried again
                log.warning("the disk cannot be looked after: %s", error)
            await asyncio.sleep(DISK_SECONDS)

    async def make_room(self) -> None:
        """Keep the event log, and what devices say, within their bounds, until cancelled."""
        while True:
            try:
                await self.event_log_quota.run()
                await self.uplink_quota.run()
                await self._idempotency_quota.run()
            except Exception as error:  # above all a full disk: it is tried again
                log.warning("the oldest events, messages or answers cannot be removed: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    async def settle(self) -> None:
        """See that everything said and acknowledged so far is on disk and called back."""
        for _ in range(2):  # what the first round calls back may have left something for the second
            self.connection_events.flush()
            self.activity.flush()
            self._ledger.flush()
            try:
                await self._database.write(lambda connection: None)
            except Exception as error:
                log.error("the last outcomes could not be stored; their pushes will be sent again: %s", error)
        self._receipts.end()
        self._timers.end()


def _broker_settings(settings: Settings) -> BrokerSettings:
    """Devices and networks do not become faster with the clock: what is waited for from them takes as long as ever."""
    speed = settings.clock_speed
    usual = BrokerSettings(
        max_inflight=settings.max_inflight,
        ack_timeout=settings.ack_timeout * speed,
        max_message_rate=settings.device_message_rate / speed,
        max_byte_rate=settings.device_byte_rate / speed,
        max_unstored_bytes=MAX_UNSTORED_BYTES,
        max_connections_per_user=SIDE_CONNECTIONS,
        max_connections_per_address=settings.connections_per_address,
    )
    return replace(
        usual, connect_timeout=usual.connect_timeout * speed, keep_alive_grace=usual.keep_alive_grace * speed
    )
