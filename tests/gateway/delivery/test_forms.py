"""Deliveries stored as rows and as sets answer every question alike.

One history is played in two worlds with the same clock: one stores every push as rows, the other as sets, or as both.
Whatever anybody can ask is compared then, when all has ended, and when retention has removed it. Push ids are random,
so they are compared by their order; ids of events and their grouping into entries are a form's own.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.audience.enrolments import EnrolmentQuota
from gateway.delivery import device_deliveries, device_timeline, history_pages
from gateway.delivery.analytics import By
from gateway.delivery.device_deliveries import DeviceDeliveries
from gateway.delivery.device_timeline import DeviceTimeline
from gateway.delivery.history_pages import HistoryPage
from gateway.delivery.missed_pushes import MissedPushes
from gateway.delivery.retention import Retention
from gateway.delivery.submission import AcceptedPush
from gateway.delivery_states import RECEIPT_STATES, DeliveryState
from gateway.devices import DeviceRegistry, MqttAddress
from gateway.errors import Problem
from gateway.measurements import DeliveryCensus
from gateway.pages import ListPage
from gateway.store.audience import device_sets
from gateway.store.audience.device_filter import DeviceFilter
from gateway.store.audience.device_sets import add_to_sets
from gateway.store.deliveries import delivery_sets, device_history
from gateway.store.deliveries.device_history import Wanted
from tests.gateway.delivery.conftest import store_everything_as_sets
from tests.gateway.delivery.machinery import HandOver, ManualWriter
from tests.gateway.delivery.test_retention import DAY, KEEP
from tests.gateway.delivery.world import ALERT, APP, World, items

DEVICES = 6
NARROW, ROOMY = 5, 100
"""Limits of mailboxes: one that is reached, and one that is not."""
TAGS = {"hall": (1, 2, 3), "yard": (3, 4)}
NIGHT = {"start": "07:00", "end": "12:00"}
"""The worlds begin at 08:00."""
POLICIES: list[dict[str, Any]] = [
    {},
    {"consent": {"unknown": "suppress"}},
    {"consent": {"denied": {"silent": "suppress"}}},
    {"caps": {"limits": [{"count": 1, "per": "hour"}], "excess": "defer"}},
    {"caps": {"limits": [{"count": 1, "per": "hour"}], "excess": "digest"}},
    {"caps": {"limits": [{"count": 2, "per": "day"}], "excess": "drop"}},
    {"quiet_hours": NIGHT},
    {"quiet_hours": {**NIGHT, "excess": "drop"}},
]
Move = tuple[Any, ...]
"""Name of a method of `Play`, and its arguments."""


@contextmanager
def stored_as(form: str) -> Iterator[None]:
    """`mixed`: a push to one device is a row, and what one device does makes a row of a set."""
    with pytest.MonkeyPatch.context() as patched:
        if form != "rows":
            store_everything_as_sets(patched)
        if form == "mixed":
            patched.setattr(delivery_sets, "SET_DEVICES", 2)
            patched.setattr(delivery_sets, "GROUP_DEVICES", 2)
        submit = ManualWriter.submit
        # Nothing is wrong with the disk: an operation that fails would be tried again for ever.
        patched.setattr(
            ManualWriter,
            "submit",
            lambda self, operation, done, _, **options: submit(self, operation, done, _raise, **options),
        )
        yield


def _raise(error: BaseException) -> None:
    raise error


class Play:
    """A history, move by move; after each everything has come to rest. What a move is answered is part of it."""

    def __init__(self, mailbox_limit: int) -> None:
        self.world = World(devices=0, window=2, mailbox_limit=mailbox_limit)
        self.is_roomy = mailbox_limit > NARROW
        self.answers: list[Any] = []
        self.handed_over: dict[str, list[Any]] = defaultdict(list)
        self.gaps: list[Any] = []
        self.pushes: list[str] = []
        for _ in range(DEVICES):
            self._enrol()
        self._wire()

    def _enrol(self) -> None:
        device_no = self.world.enrol().device_no
        tags = [tag for tag, numbers in TAGS.items() if (device_no - 1) % DEVICES + 1 in numbers]
        self.world.connection.executemany(
            "INSERT INTO device_tag (app_no, tag, device_no) VALUES (?, ?, ?)",
            [(APP.no, tag, device_no) for tag in tags],
        )
        add_to_sets(self.world.connection, APP.no, {tag: [device_no] for tag in tags})

    def _wire(self) -> None:
        world = self.world
        missed_pushes = MissedPushes(
            database=world.writer,
            clock_ms=world.clock,
            timers=world.timers,
            is_listening=lambda app_id, device_id: True,
            notify=lambda app_id, device_id, gap: self.gaps.append((device_id, gap)),
            apps_of=world.connections.apps_of,
        )
        world.on_returned = missed_pushes.returned
        world.engine.on_hand_over = self._on_hand_over
        database: Any = world.writer
        self.registry = DeviceRegistry(
            database=database,
            connections=world.connections,
            activity=world.activity,
            clock_ms=world.clock,
            mqtt_address=lambda: MqttAddress("push.example", 1883, False, ""),
            quota=EnrolmentQuota(world.clock),
        )

    def _on_hand_over(self, client_id: str, hand_over: HandOver) -> None:
        self.handed_over[client_id].append((json.loads(hand_over.payload), hand_over.qos))

    def _device(self, index: int) -> int:
        """The number of a device that is enrolled."""
        numbers = list(self.world.identities)
        return numbers[index % len(numbers)]

    def _push_id(self, index: int) -> str:
        """The id of an accepted push, counted from the last."""
        return self.pushes[-1 - index % len(self.pushes)]

    def _rest(self) -> None:
        """Let everything happen that is due, and what is due in a moment."""
        self.world.settle()
        for _ in range(3):
            self.world.timers.later_turn()
            self.world.settle()

    # -- moves

    def play(self, moves: list[Move]) -> None:
        for name, *arguments in moves:
            self.world.now += 1
            self.answers.append(getattr(self, name)(*arguments))
            self._rest()

    def push(self, whom: str, count: int, fields: dict[str, Any]) -> Any:
        """Push once, or several times at once."""
        ids = [identity.device_id for identity in self.world.identities.values()]
        targets: dict[str, dict[str, Any]] = {
            "one": {"device": ids[1]},
            "few": {"devices": [*ids[:2], "nobody"]},
            "some": {"devices": [*ids[1:5], ids[2]]},
            "all": {"all": True},
            "tag": {"tag": "hall"},
            "nobody": {"tag": "none"},
        }
        if not self.is_roomy:  # what is over a limit may be handed over, or end, before a set is brought below it
            count, fields = min(count, 2), {**fields, "ttl": fields["ttl"] or 60}
        checked = [self.world.checked(targets[whom], **fields) for _ in range(count)]
        accepted = self.world.run(self.world.acceptance.accept_many(checked))
        found = []
        for answer in accepted:
            assert isinstance(answer, AcceptedPush)
            self.pushes.append(answer.push_id)
            found.append((answer.targeted, answer.suppressed, answer.unknown))
        return found

    def connect(self, index: int, granted: int) -> None:
        self.world.connect(self._device(index), granted)

    def connect_all(self, granted: int) -> None:
        for device_no in self.world.identities:
            self.world.engine.connect(self.world.identities[device_no], granted)

    def disconnect(self, index: int) -> None:
        self.world.disconnect(self._device(index))

    def _take(self, device_no: int, outcome: int) -> bool:
        client_id = self.world.identities[device_no].client_id
        session = self.world.engine.session(client_id)
        if not session.connected or not session.inflight:
            return False
        self.world.engine.settle(client_id, 0, outcome)
        return True

    def take(self, index: int, outcome: int) -> bool:
        return self._take(self._device(index), outcome)

    def take_all(self) -> int:
        """Every device acknowledges the first that it has, at the same time."""
        return sum(self._take(device_no, 0) for device_no in self.world.identities)

    def receipt(self, indexes: list[int], push: int, event: str) -> Any:
        if not self.pushes:
            return None
        details: dict[str, Any] = {}
        if event == "acted":
            details = {"action": "play", "result": {"n": 1}}
        elif event == "dismissed":
            details = {"reason": "user"}
        receipt = {"push_id": self._push_id(push), "event": event, **details}
        return [self.world.says("receipts", receipt, self._device(index)) for index in indexes]

    def says(self, index: int, settings: dict[str, Any]) -> Any:
        return self.world.says("settings", settings, self._device(index))

    def policy(self, fields: dict[str, Any]) -> None:
        self.world.set_policy(**fields)

    def recall(self, push: int) -> Any:
        return self.world.run(self.world.ledger.recalls.recall(APP.no, self._push_id(push))) if self.pushes else None

    def empty(self, index: int) -> int:
        return self.world.run(self.world.ledger.empty_mailbox(self._device(index)))

    def remove(self, index: int) -> None:
        """Remove a device and enrol another one."""
        device_no = self._device(index)
        self.world.run(self.registry.remove(APP.no, APP.id, self.world.identities[device_no].device_id))
        del self.world.identities[device_no]
        self._enrol()

    def wait(self, seconds: int) -> None:
        self.world.passes(seconds)
        self.world.analytics.tick()

    def end(self) -> None:
        """Let everything end: devices take what they have in flight, and miss what waits."""
        while self.take_all():
            self._rest()
        for index in range(DEVICES):
            self.disconnect(index)
        self.wait(2 * DAY)
        self._rest()
        self.connect_all(1)
        self._rest()

    def crash(self) -> None:
        self.world.crash()
        self._wire()
        self.world.run(self.world.connections.recover())
        self.wait(0)  # what is over may end at the start or by the first sweep

    def look(self) -> Any:
        """Ask everything in between: questions must not change anything, nor depend on when they are asked."""
        return self.world.run(self._ask_everything())

    # -- questions

    def everything(self) -> dict[str, Any]:
        """All that there is to know, with pushes named by their order."""
        found = json.dumps(
            {
                "answers": self.answers,
                "handed over": self.handed_over,
                "gaps": sorted(self.gaps, key=lambda gap: str(gap[0])),
                "notices": [(topic, json.loads(payload)) for topic, payload in self.world.engine.published],
                **self.world.run(self._ask_everything()),
            }
        )
        for number, push_id in self.world.connection.execute("SELECT no, id FROM push ORDER BY no").fetchall():
            found = found.replace(push_id, f"push-{number}")
        return dict(json.loads(found))

    async def _ask_everything(self) -> dict[str, Any]:
        world, reports, analytics = self.world, self.world.reports, self.world.analytics
        found: dict[str, Any] = {"pushes": await _whole(lambda cursor: reports.pushes(APP.no, 2, cursor))}
        for push_id in [push["push_id"] for push in found["pushes"]]:
            found[f"push {push_id}"] = await reports.push(APP.no, push_id)
            found[f"analytics {push_id}"] = await analytics.of_push(APP.no, push_id)
            found[f"deliveries {push_id}"] = await self._ask_deliveries(push_id)
            found[f"reasons {push_id}"] = await self._ask_reasons(push_id, found[f"deliveries {push_id}"])
        for device_no, device_id in world.connection.execute("SELECT no, id FROM device").fetchall():
            found[f"mailbox {device_id}"] = await self._ask_mailbox(device_no)
            found[f"deliveries of {device_id}"] = await self._ask_device_deliveries(device_no, device_id, found)
            await self._ask_timeline(device_no, device_id)
            found[f"consents {device_id}"] = await world.preferences.consents(APP.no, device_no)
        dimensions: list[By] = ["channel", "tag", "hour"]
        for by in dimensions:
            found[f"analytics by {by}"] = await analytics.by(APP.no, by, None, None)
        for name, fields in (("data", {}), ("alert", {"notification": ALERT, "channel": "offers"})):
            found[f"forecast of {name}"] = await world.forecast.of(APP, world.request({"all": True}, **fields))
        for waiting in (True, False):
            page = await self.registry.page(APP.no, 100, None, DeviceFilter(waiting=waiting))
            found[f"devices with waiting {waiting}"] = page["items"]
        database: Any = world.writer
        census = DeliveryCensus(database, world.ledger)
        await census.count_if_due(0.0)
        return found | {"census": census.by_state, "events": self._events()}

    async def _ask_deliveries(self, push_id: str) -> list[Any] | str:
        """All deliveries of a push; pages, states and single devices are parts of them."""

        def ask(limit: int, state: DeliveryState | None = None, device_no: int | None = None) -> Awaitable[list[Any]]:
            return _whole(
                lambda cursor: self.world.reports.deliveries(APP.no, push_id, limit, cursor, state, device_no=device_no)
            )

        try:
            whole = await ask(1_000)
        except Problem as refusal:
            return refusal.code
        assert whole == await ask(2)
        for state in DeliveryState:
            assert await ask(2, state) == [item for item in whole if item["state"] == state.label], state.label
        for device_no, device_id in self.world.connection.execute("SELECT no, id FROM device").fetchall():
            one = await ask(2, None, device_no)
            assert one == [item for item in whole if item["device_id"] == device_id], device_id
        return whole

    async def _ask_reasons(self, push_id: str, deliveries: list[Any] | str) -> Any:
        """The reasons of a push: its deliveries are counted, and each count leads to those that it is of."""
        reports = self.world.reports
        if isinstance(deliveries, str):
            with pytest.raises(Problem):
                await reports.reasons(APP.no, push_id)
            return deliveries
        found = await reports.reasons(APP.no, push_id)
        counts = {(item["state"], item["reason"]): item["count"] for item in found["items"]}
        assert counts == Counter((item["state"], item["reason"]) for item in deliveries)
        assert sum(counts.values()) == found["targeted"]
        order = [(DeliveryState[item["state"].upper()], -item["count"]) for item in found["items"]]
        assert order == sorted(order)
        for state, reason in counts:
            chosen: dict[str, Any] = {"state": DeliveryState[state.upper()], "reason": reason or ""}
            one = await _whole(partial(reports.deliveries, APP.no, push_id, 2, **chosen))
            assert one == [item for item in deliveries if (item["state"], item["reason"]) == (state, reason)]
        return found["items"]

    async def _ask_device_deliveries(self, device_no: int, device_id: str, found: dict[str, Any]) -> list[Any]:
        """The deliveries to a device: those of all pushes, the newest first, a few pushes at a time."""
        database: Any = self.world.writer
        history = DeviceDeliveries(database, self.world.wired.in_flight)

        def ask(limit: int, wanted: Wanted) -> Awaitable[list[Any]]:
            return _whole(lambda cursor: history.page(APP.no, device_no, limit, cursor, wanted))

        is_enrolled = device_no in self.world.identities
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(device_deliveries, "FIRST_PUSHES", 2)
            patched.setattr(device_deliveries, "MOST_PUSHES", 3)
            patched.setattr(device_history, "SLICE_OUTCOMES", 2)
            patched.setattr(history_pages, "MAX_SLICES", 2)
            patched.setattr(history_pages, "LEAST_ROWS", 1)
            whole = await ask(2, Wanted())
        assert whole == await ask(1_000, Wanted())
        told = {"kind", "title", "body", "channel", "priority", "collapse_key", "sent_at", "expires_at"}
        expected = [
            {"push_id": push["push_id"], **{name: value for name, value in item.items() if name != "device_id"}}
            for push in found["pushes"]
            if isinstance(found[f"deliveries {push['push_id']}"], list)
            for item in found[f"deliveries {push['push_id']}"]
            if item["device_id"] == device_id
        ]
        if is_enrolled:
            assert [{name: value for name, value in item.items() if name not in told} for item in whole] == expected
        for item in whole:
            push = found[f"push {item['push_id']}"]
            about = {name: push.get(name) for name in told} | {
                name: push.get("notification", {}).get(name) for name in ("title", "body")
            }
            assert about == {name: item[name] for name in told}
        for state, reason in {(item["state"], item["reason"]) for item in whole}:
            of_both = [item for item in whole if (item["state"], item["reason"]) == (state, reason)]
            assert await ask(2, Wanted(DeliveryState[state.upper()], reason or "")) == of_both
        return whole

    async def _ask_timeline(self, device_no: int, device_id: str) -> None:
        """The timeline of a device: its events in the log, the newest first, a few entries at a time."""
        database: Any = self.world.writer
        timeline = DeviceTimeline(database)

        def ask(limit: int, wanted: Callable[[str], bool]) -> Awaitable[list[Any]]:
            return _whole(lambda cursor: timeline.page(APP.no, device_no, limit, cursor, wanted))

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(device_timeline, "FIRST_ENTRIES", 2)
            patched.setattr(device_timeline, "MOST_ENTRIES", 3)
            patched.setattr(history_pages, "MAX_SLICES", 2)
            patched.setattr(history_pages, "LEAST_ROWS", 1)
            whole = await ask(2, lambda event: True)
        for event in whole:
            assert (event.pop("push", None) is not None) == event["type"].startswith("delivery.")
        expected = [event for event in self.world.events() if event["data"].get("device_id") == device_id]
        assert whole == sorted(expected, key=lambda event: _place(event["id"]), reverse=True)
        ends = await ask(1_000, lambda event: event == "delivery.expired")
        assert [end["id"] for end in ends] == [event["id"] for event in whole if event["type"] == "delivery.expired"]

    async def _ask_mailbox(self, device_no: int) -> list[Any]:
        found: list[Any] = []
        cursor: str | None = None
        while True:
            page = await self.world.reports.mailbox(device_no, 2, cursor)
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def _events(self) -> dict[str, list[Any]]:
        """The events of each delivery and, for the rest, of each device, in order."""
        found: dict[str, list[Any]] = defaultdict(list)
        for event in self.world.events():
            del event["id"]
            data = event["data"]
            of = data["push_id"] if event["type"].startswith("delivery.") else ""
            found[f"{of} {data.get('device_id')}"].append(event)
        return found

    def check(self) -> None:
        """What holds in each world by itself."""
        connection = self.world.connection
        self.world.check_events()
        for push_no, targeted in connection.execute(
            "SELECT no, targeted FROM push WHERE final_counts IS NULL"
        ).fetchall():
            stored = connection.execute(
                "SELECT device_no, state FROM whole_delivery WHERE push_no = ?", (push_no,)
            ).fetchall()
            assert len({device_no for device_no, _ in stored}) == len(stored) == targeted
            counted = connection.execute(
                "SELECT state, count FROM delivery_count WHERE push_no = ? AND count <> 0", (push_no,)
            ).fetchall()
            if counted:
                assert dict(counted) == Counter(state for _, state in stored)
        for count, blob in connection.execute(
            "SELECT count, devices FROM waiting_set UNION ALL SELECT count, devices FROM outcome_set"
        ).fetchall():
            assert count == len(device_sets.unpack(blob)) > 0


def _place(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split(".")))


async def _whole(ask: Callable[[str | None], Awaitable[ListPage | HistoryPage]]) -> list[Any]:
    """All items of a list, page after page."""
    found: list[Any] = []
    cursor: str | None = None
    while True:
        page = await ask(cursor)
        found += items(page)
        cursor = page.next_cursor
        if cursor is None:
            return found


def played(form: str, mailbox_limit: int, moves: list[Move]) -> list[dict[str, Any]]:
    """What there is to know after these moves; when all has ended; when retention has removed it."""
    with stored_as(form):
        play = Play(mailbox_limit)
        try:
            play.play(moves)
            found = [play.everything()]
            play.check()
            play.end()
            found.append(play.everything())
            play.check()
            play.wait(31 * DAY)
            database: Any = play.world.writer
            play.world.run(Retention(database, KEEP).run(play.world.now))
            found.append(play.everything())
            for table in ("delivery", "waiting_set", "outcome_set", "delivery_count"):
                assert not play.world.row(f"SELECT 1 FROM {table}"), table
            return found
        finally:
            play.world.close()


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {
        question: (first.get(question), second.get(question))
        for question in first.keys() | second.keys()
        if first.get(question) != second.get(question)
    }


DEVICE = st.integers(0, DEVICES - 1)
FIELDS = st.fixed_dictionaries(
    {
        "priority": st.sampled_from(["critical", "normal", "normal", "low"]),
        "qos": st.sampled_from([0, 1, 1, 2]),
        "ttl": st.sampled_from([0, 5, 60, 3_600, 86_400]),
    },
    optional={
        "collapse_key": st.just("k"),
        "notification": st.just(ALERT),
        "channel": st.sampled_from(["offers", "news"]),
    },
)
SETTINGS = st.sampled_from(
    [
        {"consent": "denied"},
        {"consent": "granted", "text_version": "1"},
        {"channels": {"offers": False}},
        {"channels": {"offers": True, "news": False}},
        {"quiet_hours": NIGHT},
        {"quiet_hours": None},
    ]
)
WHOM = st.sampled_from(["one", "few", "some", "some", "all", "all", "tag", "nobody"])
PUSH = st.tuples(st.just("push"), WHOM, st.sampled_from([1, 1, 1, 2, 7]), FIELDS)
MOVE: st.SearchStrategy[Move] = st.one_of(
    PUSH,
    PUSH,
    PUSH,
    st.tuples(st.just("connect"), DEVICE, st.sampled_from([0, 1, 1, 2])),
    st.tuples(st.just("connect_all"), st.sampled_from([1, 1, 2])),
    st.tuples(st.just("disconnect"), DEVICE),
    st.tuples(st.just("take"), DEVICE, st.sampled_from([0, 0, 0, 0x97, 0x95])),
    st.tuples(st.just("take_all")),
    st.tuples(
        st.just("receipt"),
        st.lists(DEVICE, min_size=1, max_size=3),
        st.integers(0, 3),
        st.sampled_from(list(RECEIPT_STATES)),
    ),
    st.tuples(st.just("says"), DEVICE, SETTINGS),
    st.tuples(st.just("policy"), st.sampled_from(POLICIES)),
    st.tuples(st.just("recall"), st.integers(0, 3)),
    st.tuples(st.just("empty"), DEVICE),
    st.tuples(st.just("remove"), DEVICE),
    st.tuples(st.just("wait"), st.sampled_from([1, 6, 61, 3_601])),
    st.tuples(st.just("crash")),
    st.tuples(st.just("look")),
)


@pytest.mark.parametrize("form", ["sets", "mixed"])
@settings(max_examples=settings().max_examples // 3, deadline=None, suppress_health_check=list(HealthCheck))
@given(mailbox_limit=st.sampled_from([NARROW, ROOMY]), moves=st.lists(MOVE, max_size=25))
def test_every_question_is_answered_alike_however_deliveries_are_stored(
    form: str, mailbox_limit: int, moves: list[Move]
) -> None:
    for rows, other in zip(played("rows", mailbox_limit, moves), played(form, mailbox_limit, moves), strict=True):
        assert not differences(rows, other)
