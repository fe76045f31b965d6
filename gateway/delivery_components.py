"""The components that decide about deliveries, made and wired: the inner part of the composition root.

It is the part that the delivery tests have in their world, with a database, timers and an engine that are moved by
hand; `composition` has its laws.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.audience.cap_segments import CapSegments
from gateway.audience.policy import PolicyStore
from gateway.audience.target_resolution import TargetResolver
from gateway.auth import DeviceIdentity
from gateway.content.templates import TemplateStore
from gateway.delivery.acceptance import Acceptance, AcceptanceLimits, PushStored
from gateway.delivery.adaptive_caps import AdaptiveCaps
from gateway.delivery.alert_limiter import AlertLimiter
from gateway.delivery.analytics import Analytics
from gateway.delivery.attachments import AttachmentLimits, Attachments
from gateway.delivery.awaited_pushes import AwaitedPushes
from gateway.delivery.calls import Calls
from gateway.delivery.connections_elsewhere import ConnectionsElsewhere
from gateway.delivery.consent import PreferenceStore
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.digest import Digests, PushNumbers
from gateway.delivery.duties import DutyStore
from gateway.delivery.engine import Engine
from gateway.delivery.escalations import ClearScreens, Escalations
from gateway.delivery.fatigue import Fatigue
from gateway.delivery.forecast import Forecast
from gateway.delivery.hand_over import HandOver
from gateway.delivery.heartbeats import Heartbeats
from gateway.delivery.in_flight import InFlight
from gateway.delivery.ledger import MAX_ATTEMPTS, Ledger
from gateway.delivery.new_pushes import NewPushes
from gateway.delivery.presence_hours import PresenceHours
from gateway.delivery.recalls import SentElsewhere
from gateway.delivery.receipts import Receipts
from gateway.delivery.reports import Reports
from gateway.delivery.retention import RetentionPeriods
from gateway.delivery.rule_changes import RuleChanges
from gateway.delivery.shared_files import SharedFiles
from gateway.delivery.text_rendering import TextRenderer
from gateway.delivery.uplink import UplinkLimits
from gateway.delivery.waiting_callers import WaitingCallers
from gateway.delivery.watches import Watches
from gateway.settings import Settings
from gateway.store.database import Database
from gateway.store.protocols import Timers

HOUR_MS = 3_600_000
DAY_MS = 86_400_000


@dataclass(slots=True, frozen=True, kw_only=True)
class DeliveryLimits:
    """Limits of what is accepted and kept, as the settings say."""

    pushes: AcceptanceLimits
    attachments: AttachmentLimits
    uplink: UplinkLimits
    max_attempts: int = MAX_ATTEMPTS

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that the settings of a server ask for."""
        return cls(
            pushes=AcceptanceLimits(
                max_payload=settings.max_payload,
                mailbox_deliveries=settings.mailbox_deliveries,
                mailbox_bytes=settings.mailbox_bytes,
                idempotency_ms=int(settings.idempotency_hours * HOUR_MS),
            ),
            attachments=AttachmentLimits(settings.max_attachment, settings.attachment_storage),
            uplink=UplinkLimits(settings.uplink_keep),
            max_attempts=settings.max_attempts,
        )


def kept_periods(settings: Settings) -> RetentionPeriods:
    """The periods for which the settings of a server ask."""
    return RetentionPeriods(
        deliveries=int(settings.retention_days * DAY_MS),
        counts=int(settings.counts_days * DAY_MS),
        idempotency=int(settings.idempotency_hours * HOUR_MS),
        uplink=int(settings.uplink_days * DAY_MS),
        # An event says what is in the row of its delivery: it must not outlive it.
        events=int(min(settings.event_days, settings.retention_days) * DAY_MS),
    )


@dataclass(slots=True, frozen=True, kw_only=True)
class DeliveryObservers:
    """Callbacks for what happens to devices and their pushes; all are called on the *loop*."""

    connected: Callable[[DeviceIdentity, int], None]
    """A device has connected, at this time. Side connections are not counted."""
    disconnected: Callable[[DeviceIdentity, int, str, str], None]
    """A device's connection has ended: since when it was there, the reason, the detail."""
    returned: Callable[[int, str, str], None]
    """A device (number, app id, id) can take pushes, for the first time on this connection."""
    revoked: Callable[[], None]
    """A credential is void."""
    settings_stored: Callable[[str, str], None]
    """The settings of a device (app id, id) are on disk."""
    clear_screens: ClearScreens
    """A push is to leave the screens of devices, because somebody else has acted, or it was recalled."""
    answer_remembered: Callable[[int, int], None]
    """An answer is kept with its idempotency key: of this app (number), about so many bytes."""
    push_stored: PushStored | None
    """A push is stored, before it is handed over here; None: there are no other nodes."""


class DeliveryComponents:
    """Components that decide about deliveries, wired with each other: all but broker, HTTP and what serves the outside.

    The server and the tests' world have the same wiring: they differ in what is given here.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock_ms: Callable[[], int],
        timers: Timers,
        activity: DeviceActivity,
        limits: DeliveryLimits,
        attachments_dir: Path,
        http_url: Callable[[], str],
        storage_left: Callable[[], bool],
        observers: DeliveryObservers,
        make_engine: Callable[[DeviceConnections], Engine],
        sent_elsewhere: SentElsewhere | None,
        elsewhere: ConnectionsElsewhere | None,
        may_serve: Callable[[], bool] | None,
        confirm: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """`make_engine` makes the engine that tells the connections what happens; `http_url` is what devices fetch
        attachments by; `storage_left` says whether the disk has room to accept more; `may_serve` whether this node's
        lease holds (None: there is no lease to lose); `sent_elsewhere` asks other nodes what is in flight there,
        `elsewhere` for their connections, and `confirm` waits until all of them know what is stored (None: there are
        no others)."""
        numbers = PushNumbers(has_nodes=elsewhere is not None)
        self.ledger = ledger = Ledger(
            database=database,
            clock_ms=clock_ms,
            timers=timers,
            max_attempts=limits.max_attempts,
            confirm=confirm,
        )
        ledger.recalls.sent_elsewhere = sent_elsewhere
        self.in_flight = in_flight = InFlight(ledger, sent_elsewhere)
        self.policies = policies = PolicyStore(
            database=database,
            segments=CapSegments(lambda app_no, name: self.targets.of_segment(app_no, name)),
            clock_ms=clock_ms,
            on_changed=lambda app_no: self.rule_changes.start(app_no),
        )
        self.preferences = preferences = PreferenceStore(
            database=database,
            ledger=ledger,
            policies=policies,
            clock_ms=clock_ms,
            on_stored=lambda device_no: self.alert_limiter.check((device_no,)),
        )
        self.receipts = receipts = Receipts(
            database=database,
            activity=activity,
            uplink=limits.uplink,
            clock_ms=clock_ms,
            timers=timers,
            ledger=ledger,
            preferences=preferences,
            on_settings=observers.settings_stored,
            on_acted=lambda handles: self.calls.answered(handles),
            on_zone=lambda device_no: self.alert_limiter.device_changed(device_no),
            record_acts=lambda *receipts: self.escalations.record_acts(*receipts),
            on_escalations_ended=lambda ended: self.escalations.acted(ended),
        )
        self.hand_over = hand_over = HandOver(
            database=database, ledger=ledger, clock_ms=clock_ms, timers=timers, may_serve=may_serve
        )
        self.connections = connections = DeviceConnections(
            database=database,
            ledger=ledger,
            activity=activity,
            clock_ms=clock_ms,
            hand_over=hand_over,
            on_published=receipts.published,
            on_released=receipts.released,
            on_connected=observers.connected,
            on_disconnected=observers.disconnected,
            on_revoked=observers.revoked,
            elsewhere=elsewhere,
        )
        self.alert_limiter = alert_limiter = AlertLimiter(
            database=database,
            ledger=ledger,
            connections=connections,
            hand_over=hand_over,
            policies=policies,
            clock_ms=clock_ms,
            timers=timers,
            digests=Digests(numbers),
        )
        self.rule_changes = RuleChanges(
            database=database,
            ledger=ledger,
            preferences=preferences,
            alert_limiter=alert_limiter,
            policies=policies,
            clock_ms=clock_ms,
        )
        self.new_pushes = new_pushes = (
            NewPushes(
                database=database,
                ledger=ledger,
                hand_over=hand_over,
                alert_limiter=alert_limiter,
                policies=policies,
                online_of=connections.online_of,
                clock_ms=clock_ms,
                elsewhere=elsewhere.devices,
            )
            if elsewhere is not None
            else None
        )
        ledger.connect(
            on_recorded=connections.recorded,
            on_ended=hand_over.withdraw if new_pushes is None else new_pushes.withdraw,
            on_devices_ended=hand_over.withdraw_devices if new_pushes is None else new_pushes.withdraw_devices,
            act_now=lambda: [*hand_over.act_now(), *alert_limiter.act_now()],
            check_in_place=alert_limiter.check_in_place,
            suppress_unwanted=preferences.suppress_unwanted,
            on_acknowledged=hand_over.count_acknowledged,
            read_again=hand_over.read_again,
        )
        self.engine = make_engine(connections)
        connections.connect(engine=self.engine, on_ready=alert_limiter.ready, on_returned=observers.returned)
        self.attachments = Attachments(
            database=database,
            folder=attachments_dir,
            limits=limits.attachments,
            clock_ms=clock_ms,
            address=http_url,
            storage_left=storage_left,
            shared=None
            if elsewhere is None
            else SharedFiles(database=database, folder=attachments_dir, clock_ms=clock_ms),
        )
        self.targets = TargetResolver(database=database, online=connections.online_set, clock_ms=clock_ms)
        self.templates = TemplateStore(database=database, clock_ms=clock_ms)
        self.texts = TextRenderer(
            database=database,
            templates=self.templates,
            attachments=self.attachments,
            max_payload=limits.pushes.max_payload,
        )
        self.watches = Watches(database=database, ledger=ledger, clock_ms=clock_ms)
        self.acceptance = Acceptance(
            database=database,
            ledger=ledger,
            hand_over=hand_over,
            limits=limits.pushes,
            clock_ms=clock_ms,
            storage_left=storage_left,
            policies=policies,
            alert_limiter=alert_limiter,
            new_pushes=new_pushes,
            numbers=numbers,
            attachments=self.attachments,
            first_step=lambda name: self.escalations.first_step(name),
            watches=self.watches,
            targets=self.targets,
            texts=self.texts,
            on_remembered=observers.answer_remembered,
            on_stored=observers.push_stored,
        )
        self.duties = DutyStore(database=database, clock_ms=clock_ms)
        self.escalations = Escalations(
            database=database,
            ledger=ledger,
            clock_ms=clock_ms,
            timers=timers,
            storage_left=storage_left,
            store_made=self.acceptance.store_made,
            clear_screens=observers.clear_screens,
        )
        self.heartbeats = Heartbeats(
            database=database,
            policies=policies,
            clock_ms=clock_ms,
            timers=timers,
            storage_left=storage_left,
            store_made=self.acceptance.store_made,
            connected=connections.online_set,
        )
        self.callers = WaitingCallers(clock_ms)
        self.calls = Calls(
            database=database,
            acceptance=self.acceptance,
            callers=self.callers,
            timers=None if elsewhere is None else timers,
        )
        self.analytics = Analytics(
            database=database,
            ledger=ledger,
            policies=policies,
            clock_ms=clock_ms,
            timers=timers,
            storage_left=storage_left,
        )
        self.adaptive_caps = AdaptiveCaps(policies=policies, fatigue=lambda: self.fatigue, clock_ms=clock_ms)
        self.fatigue = Fatigue(
            database=database,
            clock_ms=clock_ms,
            storage_left=storage_left,
            on_day_closed=self.adaptive_caps.review,
        )
        self.reports = Reports(database, ledger, in_flight)
        self.awaited_pushes = AwaitedPushes(
            database=database,
            ledger=ledger,
            reports=self.reports,
            callers=self.callers,
            timers=timers,
        )
        self.presence_hours = PresenceHours(
            database=database,
            activity=activity,
            connected=connections.connected_here,
            clock_ms=clock_ms,
            storage_left=storage_left,
        )
        self.forecast = Forecast(
            database=database,
            texts=self.texts,
            connections=connections,
            policies=policies,
            attachments=self.attachments,
            targets=self.targets,
            max_payload=limits.pushes.max_payload,
            clock_ms=clock_ms,
        )
