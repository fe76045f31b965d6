"""The components that routes need, put together by the composition root, and parameters that many routes share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Protocol, cast, get_type_hints

from fastapi import Depends, FastAPI, Path, Query, Request, params
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from gateway.api.admission import Admission
from gateway.api.body_budget import BodyBudget
from gateway.api.problems import ProblemCount
from gateway.api.request_turns import RequestTurns
from gateway.api.shared_answers import SharedAnswers
from gateway.audience.policy import PolicyStore
from gateway.audience.segments import SegmentStore
from gateway.audience.tags import TagStore
from gateway.audience.topics import TopicStore
from gateway.audit.audit_log import AuditLog
from gateway.audit.evidence import EvidenceExports
from gateway.auth import Principal
from gateway.bulk_changes import BulkChanges
from gateway.content.templates import TemplateStore
from gateway.delivery.acceptance import Acceptance
from gateway.delivery.alert_limiter import AlertLimiter
from gateway.delivery.analytics import Analytics
from gateway.delivery.attachments import Attachments
from gateway.delivery.awaited_pushes import AwaitedPushes
from gateway.delivery.calls import Calls
from gateway.delivery.connection_report import ConnectionReport
from gateway.delivery.consent import PreferenceStore
from gateway.delivery.device_deliveries import DeviceDeliveries
from gateway.delivery.device_timeline import DeviceTimeline
from gateway.delivery.duties import DutyStore
from gateway.delivery.escalations import Escalations
from gateway.delivery.fatigue import Fatigue
from gateway.delivery.forecast import Forecast
from gateway.delivery.heartbeats import Heartbeats
from gateway.delivery.ledger import Ledger
from gateway.delivery.notices import Notices
from gateway.delivery.reports import Reports
from gateway.delivery.submission import AppRef
from gateway.delivery.text_rendering import TextRenderer
from gateway.delivery.watches import Watches
from gateway.devices import DeviceRegistry
from gateway.enrolment.components import EnrolmentComponents
from gateway.errors import problem
from gateway.events.event_feed import EventFeed
from gateway.events.webhook_sender import WebhookSender
from gateway.events.webhooks import WebhookStore
from gateway.keys import Keys
from gateway.metrics_key import MetricsKey
from gateway.names import NAME_PATTERN
from gateway.nodes.peer_routes import PeerVerbs
from gateway.people.components import PeopleComponents
from gateway.plans.campaign_reports import CampaignReports
from gateway.plans.campaigns import Campaigns
from gateway.plans.schedules import ScheduleStore
from gateway.store.database import Database
from gateway.timestamps import wall_time

_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)


class MetricsText(Protocol):
    """The part of the metrics that the API needs."""

    def text(self) -> bytes: ...


class OverviewOfApp(Protocol):
    """The part of the overview that the API needs."""

    async def of_app(self, app: AppRef, minutes: int, *, with_server: bool) -> dict[str, Any]: ...


@dataclass(slots=True, frozen=True, kw_only=True)
class Services:
    """The components behind the routes, one instance for each application."""

    database: Database
    audit: AuditLog
    evidence: EvidenceExports
    admission: Admission
    turns: RequestTurns
    bodies: BodyBudget
    keys: Keys
    people: PeopleComponents
    devices: DeviceRegistry
    bulk_changes: BulkChanges
    enrolment: EnrolmentComponents
    policies: PolicyStore
    topics: TopicStore
    tags: TagStore
    segments: SegmentStore
    preferences: PreferenceStore
    alert_limiter: AlertLimiter
    notices: Notices
    acceptance: Acceptance
    forecast: Forecast
    calls: Calls
    awaited_pushes: AwaitedPushes
    duties: DutyStore
    escalations: Escalations
    campaigns: Campaigns
    campaign_reports: CampaignReports
    heartbeats: Heartbeats
    watches: Watches
    schedules: ScheduleStore
    ledger: Ledger
    reports: Reports
    shared_answers: SharedAnswers
    device_deliveries: DeviceDeliveries
    device_timeline: DeviceTimeline
    connection_report: ConnectionReport
    analytics: Analytics
    fatigue: Fatigue
    attachments: Attachments
    templates: TemplateStore
    texts: TextRenderer
    feed: EventFeed
    webhooks: WebhookStore
    webhook_sender: WebhookSender
    clock_ms: Callable[[], int]
    """Server time in milliseconds."""
    push_values: int
    """JSON values that the largest push may have, with those it is for."""
    problems: ProblemCount
    metrics: MetricsText
    overview: OverviewOfApp
    metrics_key: MetricsKey | None
    """The key that metrics ask for, if they do."""
    peer_verbs: PeerVerbs | None
    """The questions of other nodes that are answered; None: there are no nodes."""
    confirm: Callable[[], Awaitable[None]] | None
    """Waits until every node knows what is stored; None: there is one server."""
    unready: Callable[[], str | None]
    """A function that says why requests should go elsewhere for now; None when they should not."""
    is_moving_devices: Callable[[], bool]
    """Whether this is a node that ends, and whose devices go to others."""


def provide(app: FastAPI, found: Services) -> None:
    app.state.services = found


def services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


def app_of(principal: Principal) -> AppRef:
    return AppRef(principal.app_no, principal.app_id)


def require(scope: str, or_scope: str | None = None) -> Callable[[Request], Coroutine[Any, Any, Principal]]:
    """A dependency: the holder of a key with one of the scopes. Raises Problem 401, 403, 429; the body is not read."""

    async def admitted(request: Request) -> Principal:
        return await services(request).admission.admit(request, scope, or_scope)

    return admitted


def owner_or(scope: str, or_scope: str | None = None) -> Callable[[Request], Coroutine[Any, Any, Principal]]:
    """Make a dependency that admits keys of these scopes, and the device that the path names with its own token."""

    async def admitted(request: Request) -> Principal:
        return await services(request).admission.admit(request, scope, or_scope, request.path_params["device_id"])

    return admitted


def device_or(scope: str, or_scope: str) -> Callable[[Request], Coroutine[Any, Any, Principal]]:
    """Make a dependency that admits keys of these scopes, and any device. That says with HTTP Basic which one it is."""

    async def admitted(request: Request) -> Principal:
        return await services(request).admission.admit_device_or(request, scope, or_scope)

    return admitted


def time_parameter(name: str, text: str | None) -> int | None:
    """A time that a query gives, as server time in milliseconds. Raises Problem 422."""
    if text is None:
        return None
    try:
        return wall_time.to_server(int(_TIME.validate_python(text).timestamp() * 1000))
    except (ValidationError, OverflowError):
        raise problem("invalid_request", f"{name}: a time with its offset, such as 2026-12-01T00:00:00Z") from None


async def known_parameters(request: Request) -> None:
    """Refuse a query parameter that the route does not know, instead of ignoring it. Raises Problem 422."""
    if not request.url.query:
        return
    known = _query_parameters(request.scope["endpoint"])
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        there = f"there are {', '.join(sorted(known))}" if known else "it takes none"
        raise problem("invalid_request", f"query: no parameter is called {unknown[0]!r}; {there}")


@cache
def _query_parameters(endpoint: Callable[..., Any]) -> frozenset[str]:
    """The names that an endpoint's signature declares with `Query`."""
    hints = get_type_hints(endpoint, include_extras=True)
    return frozenset(
        found.alias or name
        for name, hint in hints.items()
        for found in getattr(hint, "__metadata__", ())
        if isinstance(found, params.Query)
    )


Sender = Annotated[Principal, Depends(require("send"))]
ReaderOf = Annotated[Principal, Depends(require("read"))]
DeviceReader = Annotated[Principal, Depends(require("devices", "read"))]
DeviceManager = Annotated[Principal, Depends(require("devices"))]
DeviceReaderOrOwner = Annotated[Principal, Depends(owner_or("devices", "read"))]
DeviceManagerOrOwner = Annotated[Principal, Depends(owner_or("devices"))]
Fetcher = Annotated[Principal, Depends(device_or("send", "read"))]
Administrator = Annotated[Principal, Depends(require("admin"))]

NAME_LETTERS = "1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_`, `.`, `:` and `-`"
Limit = Annotated[
    int, Query(ge=1, le=1000, description="Items of a page, 1 to 1,000; it has fewer when they are large. Default 100.")
]
Cursor = Annotated[
    str | None,
    Query(max_length=128, description="The `next_cursor` of the page before, unchanged. Left out: the first page."),
]
DeviceId = Annotated[
    str,
    Path(description="The device's id. No device of the key's app has it: 404 `device_not_found`."),
]
PushId = Annotated[
    str,
    Path(description="The push's id, as answered when it was sent. No push of the key's app: 404 `push_not_found`."),
]
TopicName = Annotated[str, Path(pattern=NAME_PATTERN, description=f"The topic's name: {NAME_LETTERS}.")]
SegmentName = Annotated[
    str, Path(description="The segment's name. No segment of the key's app has it: 404 `segment_not_found`.")
]
NewSegmentName = Annotated[str, Path(pattern=NAME_PATTERN, description=f"The segment's name: {NAME_LETTERS}.")]
ChannelId = Annotated[
    str,
    Path(description="The channel's id. It was not made in the key's app: 404 `channel_not_found`."),
]
DutyName = Annotated[str, Path(description="The duty's name. No duty of the key's app has it: 404 `duty_not_found`.")]
NewDutyName = Annotated[str, Path(pattern=NAME_PATTERN, description=f"The duty's name: {NAME_LETTERS}.")]
ScheduleId = Annotated[
    str,
    Path(description="The schedule's id, as answered when it was made. None has it: 404 `schedule_not_found`."),
]
HeartbeatName = Annotated[
    str, Path(description="The heartbeat's name. No heartbeat of the key's app has it: 404 `heartbeat_not_found`.")
]
NewHeartbeatName = Annotated[str, Path(pattern=NAME_PATTERN, description=f"The heartbeat's name: {NAME_LETTERS}.")]
WatchName = Annotated[
    str, Path(description="The watch's name. No watch of the key's app has it: 404 `watch_not_found`.")
]
NewWatchName = Annotated[str, Path(pattern=NAME_PATTERN, description=f"The watch's name: {NAME_LETTERS}.")]
TemplateName = Annotated[
    str, Path(description="The template's name. No template of the key's app has it: 404 `template_not_found`.")
]
WebhookId = Annotated[
    str, Path(description="The webhook's id. No webhook of the key's app has it: 404 `webhook_not_found`.")
]
KeyId = Annotated[
    str, Path(description="The key's id (`k_..`), which is not its secret. There is none: 404 `key_not_found`.")
]
