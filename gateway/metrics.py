"""Metrics for Prometheus: `/metrics`.

The components count in plain integers where things happen; here those are given names when somebody looks, so a push
pays nothing. Names follow Prometheus: `fleetpush_` in front, base units, `_total` behind what only grows. No label has
a device, a push or an app in it, but for heartbeats and watches, of which there are 200 each at most: the number of
time series does not grow with the fleet.

What has to be looked up, such as deliveries by state, is measured in the background (`measurements`), for at most a
hundredth of a core; the moment of the count is a metric beside it.

What an alert watches (`deploy/prometheus-alerts.yml`) is there from the start, as 0: Prometheus does not see a counter
come into being with its first step.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from broker.compiled_modules import running_form
from gateway.api.admission import Admission
from gateway.api.body_budget import BodyBudget
from gateway.api.connection_limiter import ConnectionLimiter
from gateway.api.problems import ProblemCount
from gateway.api.request_turns import RequestTurns
from gateway.audience.enrolments import EnrolmentQuota
from gateway.audit.audit_log import AuditLog
from gateway.auth import DeviceAuthenticator, KeyCache
from gateway.backup_record import read_record
from gateway.delivery.acceptance import Acceptance
from gateway.delivery.attachments import Attachments
from gateway.delivery.awaited_pushes import AwaitedPushes
from gateway.delivery.calls import Calls
from gateway.delivery.connection_events import ConnectionEvents
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.escalations import Escalations
from gateway.delivery.event_log_quota import EventLogQuota
from gateway.delivery.forecast import Forecast
from gateway.delivery.hand_over import HandOver
from gateway.delivery.heartbeats import Heartbeats
from gateway.delivery.idempotency_quota import IdempotencyQuota
from gateway.delivery.ledger import Ledger
from gateway.delivery.new_pushes import NewPushes
from gateway.delivery.receipts import Receipts
from gateway.delivery.rule_changes import RuleChanges
from gateway.delivery.text_rendering import TextRenderer
from gateway.delivery.uplink_quota import UplinkQuota
from gateway.delivery.waiting_callers import WaitingCallers
from gateway.delivery.watches import Watches
from gateway.enrolment.components import EnrolmentComponents
from gateway.errors import CATALOGUE
from gateway.events.event_feed import EventFeed
from gateway.events.webhook_sender import WebhookSender
from gateway.events.webhooks import WebhookStore
from gateway.latency import LatencyHistogram
from gateway.measurements import Measurements
from gateway.metrics_key import MetricsKey
from gateway.nodes.components import PeerComponents, SessionComponents
from gateway.nodes.invalidations import Invalidations
from gateway.nodes.membership import Membership
from gateway.people.components import PeopleComponents
from gateway.plans.campaigns import Campaigns
from gateway.plans.components import PlanComponents
from gateway.program import installed_version
from gateway.store.database import Database

TEXTS_PER_SECOND = 20
"""Made for `/metrics`: about 3 ms each, and strangers may ask for it; whoever asks more often gets the last."""
DAY_SECONDS = 86_400.0
BUILD = {"version": installed_version(), "python": platform.python_version(), "modules": running_form()}


@dataclass(slots=True, frozen=True, kw_only=True)
class MetricsSources:
    """The components whose counters are read. `broker` is the broker's own counters (`broker.metrics`)."""

    database: Database
    measurements: Measurements
    keys: KeyCache
    authenticator: DeviceAuthenticator
    admission: Admission
    connections: ConnectionLimiter
    turns: RequestTurns
    bodies: BodyBudget
    problems: ProblemCount
    acceptance: Acceptance
    ledger: Ledger
    device_connections: DeviceConnections
    hand_over: HandOver
    idempotency_quota: IdempotencyQuota
    enrolments: EnrolmentQuota
    enrolment: EnrolmentComponents
    people: PeopleComponents
    rule_changes: RuleChanges
    receipts: Receipts
    activity: DeviceActivity
    connection_events: ConnectionEvents
    attachments: Attachments
    webhook_sender: WebhookSender
    feed: EventFeed
    event_log_quota: EventLogQuota
    uplink_quota: UplinkQuota
    audit: AuditLog
    calls: Calls
    callers: WaitingCallers
    forecast: Forecast
    awaited_pushes: AwaitedPushes
    escalations: Escalations
    texts: TextRenderer
    campaigns: Campaigns
    heartbeats: Heartbeats
    watches: Watches
    plans: PlanComponents
    broker: object
    certificates: Callable[[], Mapping[str, float]]
    """A function that gives, of each certificate in use (`server`, `ca`), the end in Unix time; nothing without TLS."""
    log_lines: Callable[[], Mapping[str, int]]
    """Lines that the log lacks, by reason."""
    metrics_key: MetricsKey | None
    """The key that metrics ask for, if they do."""
    is_ready: Callable[[], bool]
    """Whether pushes are accepted, as far as the databases are concerned."""
    device_descriptors: int
    """File descriptors that connections of devices may have."""
    disk_left: Callable[[], int]
    """Bytes that can be written until new pushes are refused."""
    webhooks: WebhookStore
    membership: Membership | None
    """The lease of this node; None, as those below: the server has its database alone."""
    peers: PeerComponents | None
    moving_sessions: SessionComponents | None
    invalidations: Invalidations | None
    new_pushes: NewPushes | None

    def behind_seconds(self) -> dict[str, float]:
        """Give the seconds by which this node is behind others, by what it reads of them; 0 without nodes."""
        pushes, changes = self.new_pushes, self.invalidations
        return {
            "pushes": 0.0 if pushes is None else pushes.behind_seconds(),
            "changes": 0.0 if changes is None else changes.behind_seconds(),
        }

    def over_share(self) -> dict[str, int]:
        """Count the refusals because of a share, by its name."""
        return {
            "calls": self.callers.refused,
            "campaigns": self.campaigns.refused,
            "devices": self.enrolments.refused,
            "downloads": self.attachments.downloads_sent_away,
            "escalations": self.escalations.refused,
            "event_streams": self.feed.streams_refused,
            "schedules": self.plans.schedules.refused,
            "slow_downloads": self.attachments.downloads_ended,
            "unread_event_streams": self.feed.streams_stalled,
            "wrong_codes": self.enrolment.guesses.sent_away,
            "wrong_keys": self.people.guesses.sent_away,
            "uploads": self.attachments.uploads_sent_away,
        }


BROKER_GAUGES = {
    "connections": "MQTT connections past CONNECT.",
    "handshakes": "CONNECTs that have not been answered yet.",
    "sessions": "MQTT sessions, connected or not.",
    "most_connections": "The most MQTT connections there have been at a time.",
    "subscriptions": "Subscriptions of all sessions.",
    "queued_messages": "Ordinary messages in session queues, once for each session.",
    "queued_bytes": "Payload bytes in session queues, once for each message.",
    "retained": "Retained messages, the broker's own included.",
}
BROKER_COUNTERS = {
    "connects": "CONNECTs accepted.",
    "taken_over": "Connections ended by a newer one with the same client identifier.",
    "slow_consumers": "Times a socket stopped taking bytes.",
    "held_publishers": "Times a socket was not read because its client said more than could be stored.",
    "late_refusals": "Wrong credentials from an address that had tried many, answered late.",
    "limited_senders": "Times a device was not read because it said more than its rate.",
    "publishes_in": "PUBLISH packets from clients.",
    "publishes_out": "PUBLISH packets to clients.",
    "acknowledged": "QoS 1 and 2 handshakes completed by clients.",
    "unsolicited_acknowledgements": "Acknowledgements from clients that came twice or for nothing.",
    "worn_out_sessions": "Sessions that ended because of too many unfinished QoS 2 handshakes.",
    "out_of_packet_ids": "Times a client's unfinished QoS 2 handshakes left no packet identifier to send it more.",
    "bytes_in": "Bytes from clients.",
    "bytes_out": "Bytes to clients.",
}
BROKER_DROPPED = {
    "expired": "dropped_expired",
    "queue_full": "dropped_queue_full",
    "offline": "dropped_offline",
    "too_large": "dropped_too_large",
    "not_permitted": "dropped_not_permitted",
    "invalid": "dropped_invalid",
    "not_retained": "dropped_not_retained",
}
"""Label `reason` -> the broker's counter."""
_BROKER_NAMES = {"bytes_in": "received_bytes", "bytes_out": "sent_bytes", "retained": "retained_messages"}


class Metrics:
    """The registry of all metrics, and its text."""

    def __init__(self, sources: MetricsSources) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(sources))
        ProcessCollector(registry=self._registry)
        self._text = b""
        self._second = 0.0
        self._made = 0
        """Texts made in the second that began then."""

    def text(self) -> bytes:
        """Prometheus text; within a second the last of `TEXTS_PER_SECOND` is repeated."""
        now = time.monotonic()
        if now >= self._second + 1.0:
            self._second, self._made = now, 0
        if self._made < TEXTS_PER_SECOND:
            self._made += 1
            self._text = generate_latest(self._registry)
        return self._text


class _Collector(Collector):
    def __init__(self, sources: MetricsSources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        yield from self._gateway()
        yield from self._service_levels()
        yield from self._nodes()
        yield from self._broker()

    def _gateway(self) -> Iterable[Metric]:
        sources = self._sources
        census = sources.measurements.census
        yield InfoMetricFamily(
            "fleetpush_build",
            "Version of Fleetpush and of Python; whether the hot modules are `compiled` or `pure` Python.",
            value=BUILD,
        )
        yield _counter(
            "pushes_accepted",
            "Pushes answered 202, and further steps of pushes to duties.",
            sources.acceptance.accepted,
        )
        text = "Operations that left accepted pushes to many devices to a later one."
        yield _counter("acceptance_divided", text, sources.acceptance.queue.divided)
        text = "Mailboxes that were counted only after the push that may have filled them."
        yield _counter("mailboxes_counted_later", text, sources.acceptance.limits.counted_later)
        text = "Operations that put some of what waits under new rules of its app."
        yield _counter("rule_change_slices", text, sources.rule_changes.slices)
        text = "Apps of which something is still to be put under new rules."
        yield _gauge("rule_changes_waiting", text, sources.rule_changes.waiting)
        yield _counter(
            "deliveries_targeted", "Deliveries of the pushes that were accepted.", sources.acceptance.targeted
        )
        yield _by_label(
            GaugeMetricFamily, "deliveries", "Deliveries kept, as of the last count.", "state", census.by_state
        )
        yield _gauge(
            "deliveries_counted_timestamp_seconds",
            "Unix time when deliveries were last counted.",
            census.counted_at,
        )
        yield _gauge(
            "deliveries_in_flight",
            "Deliveries handed over, not yet recorded as delivered.",
            sources.ledger.pushes.in_flight(),
        )
        yield _gauge("pushes_in_memory", "Pushes with something on its way, or lately.", len(sources.ledger.pushes))
        yield _gauge("devices_enrolled", "Devices, as of the last count.", census.devices)
        text = "File descriptors that devices may have, one for each MQTT connection."
        yield _gauge("device_descriptors", text, sources.device_descriptors)
        yield _gauge("devices_online", "Devices connected.", sources.device_connections.online)
        yield _counter("device_messages", "Messages taken from devices.", sources.receipts.received)
        yield _counter(
            "device_messages_dropped", "Messages of devices that said nothing usable.", sources.activity.dropped
        )
        yield _by_label(
            CounterMetricFamily, "device_disconnections", "Connections of devices that have ended.", "reason",
            sources.connection_events.ended,
        )  # fmt: skip
        failed = sources.ledger.failed_attempts
        yield _counter("delivery_attempts_failed", "Times that a device did not take what it was sent.", failed)
        yield _counter("device_topics_denied", "Topics refused to devices.", sources.activity.denied)
        failures = {
            "key": sources.keys.failures,
            "device": sources.authenticator.failures,
            "session": sources.people.sessions.refused,
        }
        if sources.metrics_key is not None:
            failures["metrics"] = sources.metrics_key.failures
        yield _by_label(
            CounterMetricFamily, "authentication_failures", "Wrong or revoked credentials.", "kind", failures
        )
        yield _gauge("console_sessions", "Sessions of people who are signed in.", len(sources.people.sessions))
        yield _counter("http_requests_admitted", "Requests with a valid key or session.", sources.admission.admitted)
        text = "Enrolment codes that were shown, by outcome: a device enrolled, a lost answer repeated, or why not."
        yield _by_label(CounterMetricFamily, "enrolment_codes", text, "outcome", sources.enrolment.invitations.codes)
        text = "Requests of devices for a new token, by what became of them."
        yield _by_label(
            CounterMetricFamily, "token_requests", text, "outcome", sources.enrolment.token_requests.outcomes
        )
        text = "Connections that were closed because the device's token had expired."
        yield _counter("tokens_expired", text, sources.enrolment.token_expiry.closed)
        text = "Requests of devices for a new token that wait for an operator."
        yield _gauge("token_requests_pending", text, sources.enrolment.token_requests.pending)
        yield _by_label(
            CounterMetricFamily,
            "http_problems",
            "Requests refused, by problem.",
            "code",
            {**dict.fromkeys(CATALOGUE, 0), **sources.problems.by_code},
        )
        yield _gauge("http_connections", "Open HTTP connections.", sources.connections.open)
        yield _gauge("http_requests_waiting", "HTTP requests that wait for their turn.", sources.turns.waiting)
        text = "HTTP requests that had to wait for another turn of the loop."
        yield _counter("http_requests_waited", text, sources.turns.waited)
        text = "Bytes of large request bodies in memory, and of what is parsed of them."
        yield _gauge("http_body_bytes", text, sources.bodies.bytes)
        yield _counter(
            "http_bodies_refused", "Requests refused because of too many bytes of large bodies.", sources.bodies.refused
        )
        limits = sources.connections.counts
        yield _by_label(
            CounterMetricFamily, "http_limits", "Times that a limit of HTTP connections has acted.", "limit", limits
        )
        attempts = {"succeeded": sources.webhook_sender.succeeded, "failed": sources.webhook_sender.failed}
        yield _by_label(
            CounterMetricFamily, "webhook_requests", "Requests to webhooks' receivers.", "outcome", attempts
        )
        yield _counter(
            "webhook_dead_letters", "Batches that no receiver took within a day.", sources.webhook_sender.dead_letters
        )
        yield _counter("webhooks_disabled", "Webhooks disabled because they failed.", sources.webhook_sender.disabled)
        yield _gauge(
            "webhook_lanes_at_work", "Parts of webhooks that are being sent.", sources.webhook_sender.lanes_busy
        )
        yield _gauge("attachment_bytes", "Bytes of files that pushes refer to.", sources.attachments.stored)
        yield _counter(
            "attachment_uploads_refused",
            "Uploads of attachments refused for want of room.",
            sources.attachments.refused,
        )
        yield _gauge("attachment_uploads", "Uploads of attachments under way.", sources.attachments.uploads)
        yield _gauge("attachment_downloads", "Downloads of attachments under way.", sources.attachments.downloads)
        yield _counter("forecasts", "Forecasts of pushes that were made.", sources.forecast.made)
        yield _gauge("calls_waiting", "Calls that wait for their devices.", sources.calls.waiting)
        yield _gauge(
            "pushes_awaited", "Senders that wait until their push is delivered.", sources.awaited_pushes.waiting
        )
        yield _gauge(
            "escalations_running", "Pushes to duties on which nobody has acted yet.", sources.escalations.running
        )
        yield _counter("texts_rendered", "Texts that templates were rendered to for pushes.", sources.texts.rendered)
        text = "Seconds of the event loop spent on rendering texts."
        yield _counter("text_rendering_seconds", text, sources.texts.seconds)
        yield _gauge("campaigns_under_way", "Campaigns that have not ended.", sources.campaigns.under_way)
        yield _counter("campaign_parts", "Parts of campaigns that were sent.", sources.campaigns.parts)
        text = "Campaigns that a condition has stopped: of `stop`, which paused or aborted it, or of `go_on`."
        yield _by_label(CounterMetricFamily, "campaigns_stopped", text, "by", sources.campaigns.stopped)
        text = "Campaigns that have ended, by how."
        yield _by_label(CounterMetricFamily, "campaigns_ended", text, "state", sources.campaigns.ended)
        yield _counter("heartbeats", "Beats of heartbeats that were due.", sources.heartbeats.beats)
        text = "Devices of a heartbeat (`APP/NAME`) in each state, as of its last beat; 200 heartbeats at most."
        devices = GaugeMetricFamily("fleetpush_heartbeat_devices", text, labels=["heartbeat", "state"])
        text = "The longest that a device of a heartbeat took to answer the beat before the last one."
        slowest = GaugeMetricFamily("fleetpush_heartbeat_seconds", text, labels=["heartbeat"])
        for name, beaten in sorted(sources.heartbeats.beaten.items()):
            for state, count in beaten.devices.items():
                devices.add_metric([name, state], count)
            if beaten.slowest_ms is not None:
                slowest.add_metric([name], beaten.slowest_ms / 1000)
        yield devices
        yield slowest
        silent = {watch.label: float(watch.silent_at is not None) for watch in sources.watches.all()}
        text = "1: a sender that is watched (`APP/NAME`) has sent nothing for as long as it says; 200 watches at most."
        yield _by_label(GaugeMetricFamily, "sender_silent", text, "watch", silent)
        runner = sources.plans.schedule_runner
        text = "Runs of schedules that have ended, by how: `done`, `skipped` or `failed`."
        yield _by_label(CounterMetricFamily, "schedule_runs", text, "state", runner.runs)
        yield _counter("schedule_pushes", "Pushes that schedules were sent in.", runner.parts)
        text = "Time from when a push of a schedule was due until it was on disk, but for what was missed."
        yield _histogram("schedule_delay_seconds", text, runner.lateness)
        text = "Further steps of pushes to duties that were sent."
        yield _counter("escalation_steps", text, sources.escalations.steps)
        text = "Pushes to duties that have ended, by how. One that was acted on after its end counts twice."
        yield _by_label(CounterMetricFamily, "escalations_ended", text, "state", sources.escalations.ended)
        yield _by_label(
            CounterMetricFamily, "requests_over_share", "Requests refused, or ended, because their app, key or device"
            " had its share or all had what there is.", "limit", sources.over_share(),
        )  # fmt: skip
        yield _counter("audit_refusals", "Requests refused for want of a key or a scope.", sources.audit.refused)
        text = "Entries of audit logs removed because an app had too many, before their time."
        yield _counter("audit_entries_removed", text, sources.audit.crowded_out)
        yield _gauge("uplink_bytes", "Bytes of what devices have said on `uplink`, at most.", sources.uplink_quota.size)
        yield _counter(
            "uplink_messages_removed",
            "Messages of devices removed because there were too many bytes.",
            sources.uplink_quota.removed,
        )
        text = "Answers to idempotency keys that were forgotten before their time, because there were too many bytes."
        yield _counter("idempotency_answers_removed", text, sources.idempotency_quota.removed)
        yield _gauge("event_log_bytes", "Bytes of events that are kept, about.", sources.event_log_quota.size)
        yield _counter(
            "event_entries_removed",
            "Entries of the event log that left for want of room.",
            sources.event_log_quota.removed,
        )
        yield _gauge("event_streams", "Open streams of events.", sources.feed.streams)
        yield _gauge("reads_waiting", "Reads for apps that wait for a thread.", sources.database.reads.waiting)
        yield _by_label(
            CounterMetricFamily,
            "database_refused",
            "Reads and changes for apps that were answered 503.",
            "reason",
            sources.database.reads.refused,
        )
        yield _counter("database_groups", "Transactions committed (one fsync each).", sources.database.groups)
        yield _counter("database_operations", "Operations in those transactions.", sources.database.operations)
        yield _by_label(
            CounterMetricFamily, "log_lines_dropped", "Lines that the log lacks.", "reason", sources.log_lines()
        )
        path = sources.database.path
        text = "0 if PostgreSQL's settings let a power cut take what was accepted (fsync and its like are off)."
        yield _gauge("database_durable", text, sources.database.is_durable)
        yield _gauge("database_size_bytes", "Bytes of the database and its log.", sources.database.size_bytes())
        yield _gauge("disk_free_bytes", "Bytes free on the disk of the data directory.", disk_free(path))
        yield from _backups(path.parent)
        if ends := sources.certificates():
            now = time.time()
            left = {name: (end - now) / DAY_SECONDS for name, end in ends.items()}
            text = "Days until a certificate ends; negative afterwards."
            yield _by_label(GaugeMetricFamily, "tls_certificate_days_left", text, "certificate", left)

    def _service_levels(self) -> Iterable[Metric]:
        """How well the service does what it is for, and what that depends on."""
        sources = self._sources
        measured = sources.measurements
        hand_over = sources.hand_over
        yield _gauge("ready", "1 while pushes are accepted, 0 if a database is not to be trusted.", sources.is_ready())
        text = "From the acceptance of a push to its hand-over to the connection of a device that waited for it."
        yield _histogram("hand_over_seconds", text, hand_over.latency)
        text = "From the acceptance of a push to its acknowledgement by a device that was connected all the while."
        yield _histogram("delivery_seconds", text, hand_over.acknowledgements)
        late = {**hand_over.late, "server": hand_over.latency.beyond}
        text = (
            "Deliveries handed over more than 10 s after their acceptance: their device was `away`; caps or quiet hours"
            " `limited` them; they were `queued` behind what their device had not acknowledged; or the `server` was"
            " slow."
        )
        yield _by_label(CounterMetricFamily, "deliveries_late", text, "reason", late)
        ended = CounterMetricFamily(
            "fleetpush_deliveries_ended", "Deliveries that ended undelivered.", labels=["state", "reason"]
        )
        for end, count in sorted(measured.ended.by_end.items()):
            ended.add_metric(end, count)
        yield ended
        text = "Age of the oldest critical push that waits for a device, by where that is; 0: none waits."
        yield _by_label(GaugeMetricFamily, "oldest_critical_seconds", text, "presence", measured.critical.seconds())
        text = "Time by which the event loop was late, measured ten times a second."
        yield _histogram("event_loop_lag_seconds", text, measured.lag)
        text = "Time that commits to the ledger took, above all the disk's sync."
        yield _histogram("commit_seconds", text, sources.database.commits)
        text = "Time that groups of writes waited for locks of their apps, which other nodes have; empty without nodes."
        yield _histogram("lock_wait_seconds", text, sources.database.lock_waits)
        operations, age = sources.database.backlog()
        yield _gauge("writer_queue_operations", "Operations that the ledger's writer has not finished.", operations)
        yield _gauge("writer_queue_oldest_seconds", "Age of the oldest of them; 0: there is none.", age)
        text = "Bytes that can be written until new pushes are refused."
        yield _gauge("disk_left_bytes", text, sources.disk_left())
        failing = sources.webhook_sender.failing()
        yield _gauge("webhooks_failing", "Enabled webhooks whose receivers do not take what is sent.", len(failing))
        text = "Time for which one of them has been failing, the longest; 0: none does."
        yield _gauge("webhook_failing_seconds", text, max(failing, default=0.0))

    def _nodes(self) -> Iterable[Metric]:
        """Give 0 of everything where there are no nodes."""
        membership, peers, sessions = self._sources.membership, self._sources.peers, self._sources.moving_sessions
        text = "Nodes over this database, this one included; 0: the server has it alone."
        yield _gauge("nodes_live", text, 0 if membership is None else 1 + len(membership.peers()))
        text = "Seconds that this node may serve if it renews its lease no more; 3 where all is well."
        yield _gauge("node_lease_seconds", text, 0.0 if membership is None else membership.seconds_left())
        text = "Nodes that this one has declared ended, because they did not renew their lease."
        yield _counter("node_ends_declared", text, 0 if membership is None else membership.declared)
        text = (
            "Time since this node has last read what others have stored: new `pushes`, or `changes` of what it keeps."
        )
        yield _by_label(GaugeMetricFamily, "node_behind_seconds", text, "of", self._sources.behind_seconds())
        invalidations = self._sources.invalidations
        text = "Requests with a change that is stored, and not known to every node yet."
        yield _gauge("node_changes_waiting", text, 0 if invalidations is None else invalidations.waiting)
        text = "Time that changes waited until every node knew them; empty without nodes."
        waits = LatencyHistogram() if invalidations is None else invalidations.waits
        yield _histogram("node_confirmation_seconds", text, waits)
        names = ("sent", "lost", "received")
        text = "Nudges: other nodes told of new pushes for their devices, by outcome. One that is lost costs 0.25 s."
        nudges = {name: 0 if peers is None else int(getattr(peers.nudges, name)) for name in names}
        yield _by_label(CounterMetricFamily, "node_nudges", text, "outcome", nudges)
        names = ("answered", "failed", "unasked")
        text = "Questions to other nodes, nudges included; `unasked`: the other had left one unanswered just before."
        questions = {name: 0 if peers is None else int(getattr(peers.client, name)) for name in names}
        yield _by_label(CounterMetricFamily, "node_questions", text, "outcome", questions)
        names = ("claimed", "yielded", "given_up")
        text = "Devices that this node has claimed at their CONNECT, given to others, or could not get in time."
        moves = {name: 0 if sessions is None else int(getattr(sessions.takeover, name)) for name in names}
        yield _by_label(CounterMetricFamily, "node_takeovers", text, "outcome", moves)

    def _broker(self) -> Iterable[Metric]:
        read: Callable[[str], float] = lambda name: float(attrgetter(name)(self._sources.broker))  # noqa: E731
        for name, text in BROKER_GAUGES.items():
            yield _gauge(f"broker_{_BROKER_NAMES.get(name, name)}", text, read(name))
        for name, text in BROKER_COUNTERS.items():
            yield _counter(f"broker_{_BROKER_NAMES.get(name, name)}", text, read(name))
        dropped = {reason: read(name) for reason, name in BROKER_DROPPED.items()}
        yield _by_label(CounterMetricFamily, "broker_dropped_messages", "Messages dropped.", "reason", dropped)
        refused: Mapping[str, float] = attrgetter("refused")(self._sources.broker)
        yield _by_label(
            CounterMetricFamily, "broker_refused_connections", "Connections refused or closed.", "reason", refused
        )


def _backups(data_dir: Path) -> Iterable[Metric]:
    """Describe backups as their maker, another process, has recorded them; 0 for what has never been."""
    record = read_record(data_dir)
    yield _gauge("backup_made_timestamp_seconds", "Unix time of what the newest backup holds.", record.made_at)
    yield _gauge("backup_size_bytes", "Bytes of the newest backup.", record.made_bytes)
    text = "Unix time of what the newest backup holds that is proven to restore."
    yield _gauge("backup_proven_timestamp_seconds", text, record.proven_of)
    text = "Attempts of the backup schedule that have failed since the last that did not."
    yield _gauge("backup_failed_attempts", text, record.failed_attempts)
    text = "Seconds between two backups of the schedule; 0 without one."
    yield _gauge("backup_interval_seconds", text, record.interval_seconds)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"fleetpush_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"fleetpush_{name}", text, value=value)


def _histogram(name: str, text: str, latency: LatencyHistogram) -> Metric:
    return HistogramMetricFamily(f"fleetpush_{name}", text, buckets=latency.buckets(), sum_value=latency.sum_ms / 1000)


def _by_label(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    metric = family(f"fleetpush_{name}", text, labels=[label])
    for key, value in sorted(values.items()):
        metric.add_metric([key], value)
    return metric


def disk_free(path: Path) -> int:
    """Bytes free on the disk of a database's folder."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize
