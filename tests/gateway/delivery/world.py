"""The components of delivery wired together around hand-driven parts (`machinery.py`), for the tests of each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pyroaring import BitMap

from gateway.audience.policy import Policy
from gateway.auth import DeviceIdentity
from gateway.delivery.acceptance import AcceptanceLimits
from gateway.delivery.attachments import AttachmentLimits
from gateway.delivery.connections_elsewhere import ConnectionHistory, Presence
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.engine import Body, Message
from gateway.delivery.history_pages import HistoryPage
from gateway.delivery.push import PushRequest
from gateway.delivery.recalls import SentElsewhere
from gateway.delivery.submission import AcceptedPush, AppRef, PendingPush, Submission
from gateway.delivery.uplink import UplinkLimits
from gateway.delivery_components import DeliveryComponents, DeliveryLimits, DeliveryObservers
from gateway.delivery_states import RECEIPT_STATES, DeliveryState
from gateway.errors import Problem
from gateway.pages import ListPage
from gateway.store.audience.device_sets import ALL_TAG, remove_from_sets
from gateway.store.deliveries.escalations import StepPush
from gateway.store.deliveries.event_log import EventPage, Position, read_events
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import FakeEngine, ManualTimers, ManualWriter, add_device, fresh_database

T = TypeVar("T")
APP = AppRef(1, "default")
START = 1_800_000_000_000
ALERT = {"title": "Hi"}


def items(page: ListPage | HistoryPage) -> list[dict[str, Any]]:
    """Of a page as it is sent."""
    return [json.loads(item) for item in page.items]


class _OtherNode:
    """The connections at another node: it says which devices have one, and nothing more of them."""

    def __init__(self, world: World) -> None:
        self._world = world

    def devices(self) -> BitMap:
        return self._world.elsewhere

    async def presences(self, device_nos: Sequence[int]) -> Mapping[int, Presence]:
        return {device_no: Presence(True, None, None) for device_no in self._world.elsewhere & BitMap(device_nos)}

    async def histories(self, device_no: int) -> Sequence[ConnectionHistory]:
        return []

    async def online_of(self, app_no: int) -> int:
        return len(self._world.elsewhere)

    async def online_by_app(self) -> Mapping[int, int]:
        return {APP.no: len(self._world.elsewhere)}


class World:
    """One server's components of delivery; `crash()` starts them anew over the same database."""

    def __init__(
        self,
        *,
        devices: int = 3,
        window: int = 3,
        mailbox_limit: int = 5,
        mailbox_bytes: int = 1 << 20,
        has_nodes: bool = False,
        beside: World | None = None,
    ) -> None:
        """`beside`: another node, over whose database this is one more."""
        self.has_nodes = has_nodes or beside is not None
        self.elsewhere = BitMap()
        """Devices that are connected to another node, as far as that has said so."""
        self.now = START
        self.window = window
        self.limits = DeliveryLimits(
            pushes=AcceptanceLimits(
                max_payload=4096,
                mailbox_deliveries=mailbox_limit,
                mailbox_bytes=mailbox_bytes,
                idempotency_ms=86_400_000,
            ),
            attachments=AttachmentLimits(1_000, 10_000),
            uplink=UplinkLimits(100),
        )
        self.on_connected: Callable[[DeviceIdentity, int], None] = lambda identity, now: None
        self.on_disconnected: Callable[[DeviceIdentity, int, str, str], None] = lambda *end: None
        self.on_returned: Callable[[int, str, str], None] = lambda *device: None
        self.on_settings: Callable[[str, str], None] = lambda app_id, device_id: None
        self.may_serve: Callable[[], bool] | None = None
        self.sent_elsewhere: SentElsewhere | None = None
        """What other nodes have in flight, if there are any; `boot` gives it to the components."""
        self.stopped_at = 0
        self.cleared: list[tuple[str, str | None]] = []
        """Pushes that devices were told to clear, and the device that was not told."""
        self.loop = asyncio.new_event_loop()
        self.connection: Transaction = fresh_database() if beside is None else beside.connection
        self.identities: dict[int, DeviceIdentity] = {} if beside is None else beside.identities
        self._next_device = 1
        self.storage_left = True
        for _ in range(devices if beside is None else 0):
            self.enrol()
        self.boot()

    def close(self) -> None:
        self.loop.close()
        self.connection.close()

    def enrol(self, device_no: int | None = None) -> DeviceIdentity:
        """Enrol a device: with the next number, or with this one."""
        device_no = self._next_device if device_no is None else device_no
        self._next_device = device_no + 1
        device_id = f"d{device_no}"
        add_device(self.connection, device_no, device_id)
        identity = DeviceIdentity(device_no, APP.no, APP.id, device_id, device_id)
        self.identities[device_no] = identity
        return identity

    def boot(self) -> None:
        self.writer = ManualWriter(self.connection)
        self.timers = ManualTimers()
        database: Any = self.writer
        self.activity = DeviceActivity(database=database, clock_ms=self.clock, timers=self.timers)
        wired = DeliveryComponents(
            database=database,
            clock_ms=self.clock,
            timers=self.timers,
            activity=self.activity,
            limits=self.limits,
            attachments_dir=Path("/nonexistent"),
            http_url=lambda: "http://push.example",
            storage_left=lambda: self.storage_left,
            observers=DeliveryObservers(
                connected=lambda identity, now: self.on_connected(identity, now),
                disconnected=lambda *end: self.on_disconnected(*end),
                returned=lambda *device: self.on_returned(*device),
                revoked=lambda: None,
                settings_stored=lambda app_id, device_id: self.on_settings(app_id, device_id),
                clear_screens=lambda step, told: self.on_clear(step, told),
                answer_remembered=lambda app_no, size: None,
                push_stored=None,
            ),
            make_engine=self._make_engine,
            sent_elsewhere=self.sent_elsewhere,
            elsewhere=_OtherNode(self) if self.has_nodes else None,
            may_serve=self.may_serve,
            confirm=None,
        )
        self.wired = wired
        self.ledger, self.connections, self.hand_over = wired.ledger, wired.connections, wired.hand_over
        if self.writer.is_of_a_node and not self.has_nodes:  # whose peers read the same mailboxes
            self.hand_over.reader.follow(lambda: lambda newest: ())
        self.policies, self.preferences = wired.policies, wired.preferences
        self.alert_limiter, self.rule_changes = wired.alert_limiter, wired.rule_changes
        self.receipts, self.acceptance = wired.receipts, wired.acceptance
        self.new_pushes = wired.new_pushes
        self.analytics, self.reports, self.forecast = wired.analytics, wired.reports, wired.forecast
        self.fatigue, self.adaptive_caps = wired.fatigue, wired.adaptive_caps
        self.attachments = wired.attachments
        self.targets, self.templates, self.texts = wired.targets, wired.templates, wired.texts
        self.duties, self.escalations = wired.duties, wired.escalations
        self.heartbeats, self.watches = wired.heartbeats, wired.watches
        self.presence_hours = wired.presence_hours
        self.run(self.policies.load())
        self.run(self.alert_limiter.load())
        self.run(self.rule_changes.recover())
        self.run(self.escalations.load())
        self.run(self.heartbeats.load())
        self.run(self.watches.load(self.stopped_at))
        self.run(self.analytics.load())
        self.run(self.fatigue.load())
        self.run(self.presence_hours.load())

    crash = boot

    def _make_engine(self, connections: DeviceConnections) -> FakeEngine:
        self.engine = FakeEngine(self.window, connections)
        return self.engine

    def clock(self) -> int:
        return self.now

    def on_clear(self, step: StepPush, told: Callable[[], None]) -> None:
        self.cleared.append((step.push_id, step.kept_for))
        told()

    # -- moves

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Drive a coroutine of the API to its end, turning the world meanwhile."""
        task = self.loop.create_task(coroutine)
        while not task.done():
            self.loop.run_until_complete(asyncio.sleep(0))
            self.turn()
        return task.result()

    def turn(self) -> None:
        """One round of everything that waits: timers due now, operations, callbacks."""
        self.timers.turn()
        self.writer.drain()

    def settle(self) -> None:
        """Turn until nothing moves by itself any more."""
        while self.timers.soon or self.writer.queue or self.writer.callbacks or self.writer.new_reads:
            self.turn()

    async def accept(
        self,
        target: dict[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        body_hash: bytes | None = None,
        **fields: Any,
    ) -> AcceptedPush:
        """Have a push accepted, with an idempotency key."""
        submission = Submission(self.request(target, **fields), idempotency_key, body_hash)
        return await self.acceptance.accept_pending(self.acceptance.pending(APP, submission))

    def checked(self, target: dict[str, Any] | None = None, **fields: Any) -> PendingPush | Problem:
        """A push of a batch: checked, or refused."""
        try:
            return self.acceptance.pending(APP, Submission(self.request(target, **fields)))
        except Problem as refusal:
            return refusal

    def push(self, target: dict[str, Any] | None = None, **fields: Any) -> AcceptedPush:
        accepted = self.run(self.acceptance.accept(APP, self.request(target, **fields)))
        self.settle()
        return accepted

    def alert(self, target: dict[str, Any] | None = None, **fields: Any) -> str:
        """Push a notification; its id."""
        return self.push(target, **{"notification": ALERT} | fields).push_id

    def set_policy(self, **fields: Any) -> None:
        self.run(self.policies.set_policy(APP.no, Policy.model_validate(fields)))
        self.settle()

    @staticmethod
    def request(target: dict[str, Any] | None = None, **fields: Any) -> PushRequest:
        return PushRequest.model_validate({"target": target or {"device": "d1"}, "data": 1, **fields})

    def connect(self, device_no: int = 1, granted: int = 1) -> None:
        self.engine.connect(self.identities[device_no], granted)
        self.settle()

    def disconnect(self, device_no: int = 1) -> None:
        self.engine.disconnect_device(self.identities[device_no].client_id)
        self.settle()

    def acknowledge(self, device_no: int = 1, index: int = 0, outcome: int = 0) -> None:
        self.engine.settle(self.identities[device_no].client_id, index, outcome)
        self.settle()

    def acknowledge_all(self, device_no: int = 1) -> None:
        while self.engine.session(self.identities[device_no].client_id).inflight:
            self.acknowledge(device_no)

    def passes(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        self.ledger.sweep()
        self.alert_limiter.tick()
        self.acceptance.limits.tick()
        self.escalations.tick()
        self.heartbeats.tick()
        self.watches.tick()
        self.settle()

    def says(self, leaf: str, payload: Any, device_no: int = 1) -> int | None:
        """A device publishes on one of its topics; the reason code of its acknowledgement, None while it waits."""
        answers = self.says_at_once((leaf, payload), device_no=device_no)
        return answers[0] if answers else None

    def says_at_once(self, *statements: tuple[str, Any], device_no: int = 1) -> list[int]:
        """As `says`, several before anything of them is stored."""
        identity = self.identities[device_no]
        answers: list[int] = []
        for leaf, payload in statements:
            raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            topic = f"default/devices/{identity.device_id}/{leaf}"
            self.connections.published(identity.client_id, Message(topic, Body(raw)), answers.append)
        self.settle()
        return answers

    # -- looks

    def received(self, device_no: int = 1) -> list[str]:
        """The push ids handed over to a device, in order, repeats included."""
        session = self.engine.session(self.identities[device_no].client_id)
        return [json.loads(hand_over.payload)["push_id"] for hand_over in session.handed_over]

    def state(self, push_id: str, device_no: int = 1) -> tuple[str, str | None]:
        """(state, reason) of a delivery as the API tells it."""
        page = self.run(self.reports.deliveries(APP.no, push_id, 1000, None))
        device_id = self.identities[device_no].device_id
        return next((item["state"], item["reason"]) for item in items(page) if item["device_id"] == device_id)

    def counts(self, push_id: str) -> dict[str, int]:
        """Counts of a push that are not zero."""
        report = self.run(self.reports.push(APP.no, push_id))
        counts = dict(report["counts"])
        assert sum(counts.values()) == 2 * counts["targeted"], "the states sum to what was targeted"
        return {name: count for name, count in counts.items() if count}

    def row(self, sql: str, *parameters: Any) -> Any:
        return self.connection.execute(sql, parameters).fetchone()

    def events(self, limit: int = 1_000, lanes: int = 1) -> list[dict[str, Any]]:
        """The whole event log, read page by page and lane by lane; of each lane in its order."""
        events: list[dict[str, Any]] = []
        for lane in range(lanes):
            page = EventPage([], Position(0), True)
            while page.more:
                page = read_events(self.connection, APP.no, page.position, limit, lambda _: True, lane, lanes)
                events += [json.loads(event.json) for _, event in page.events]
        return events

    def check_events(self) -> None:
        """The log tells each first time of each delivery once, in the order of its life, and nothing else."""
        told: dict[tuple[str, str], list[str]] = {}
        for event in self.events():
            kind, _, what = event["type"].partition(".")
            if kind == "delivery" and what != "sent":
                told.setdefault((event["data"]["push_id"], event["data"]["device_id"]), []).append(what)
        stamps = (*RECEIPT_STATES, "ended")
        for push_id, device_id, state, reason, *times in self.connection.execute(
            f"SELECT p.id, v.id, d.state, d.reason, {', '.join(f'd.{name}_at' for name in stamps)}"
            " FROM whole_delivery AS d JOIN push AS p ON p.no = d.push_no JOIN device AS v ON v.no = d.device_no"
        ).fetchall():
            end = DeliveryState(state).label if state >= 20 else str(reason).removeprefix("after_")
            expected = {end if name == "ended" else name: at for name, at in zip(stamps, times, strict=True) if at}
            found = told.pop((push_id, device_id), [])
            assert sorted(found) == sorted(expected), (push_id, device_id, found, expected)
            assert [expected[what] for what in found] == sorted(expected.values())
        assert not told
        ids = [event["id"] for event in self.events()]
        assert len(set(ids)) == len(ids)
        assert sorted(ids) == sorted(event["id"] for event in self.events(limit=2, lanes=3))

    def remove(self, device_no: int = 1) -> int:
        identity = self.identities[device_no]

        def forget(connection: Transaction, now: int) -> None:
            connection.execute("UPDATE device SET removed_at = ? WHERE no = ?", (now, device_no))
            remove_from_sets(connection, APP.no, {ALL_TAG: [device_no]})

        return self.run(self.connections.remove_device(device_no, identity.client_id, forget))
