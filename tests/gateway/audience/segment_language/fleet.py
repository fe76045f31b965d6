"""A fleet in a real ledger, and the same fleet as plain Python: what an independent model is asked about."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from pyroaring import BitMap

from gateway.delivery_states import DeliveryState
from gateway.devices import DeviceEnrolment, NewDevice, insert_devices
from gateway.store.audience.device_sets import ALL_TAG, add_to_sets, pack, remove_from_sets, segments_of, topic_set
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import APP_NO, fresh_database

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
TAGS = ("hall", "store-7", "beta")
TOPICS = ("news", "sport", "weather")
NAMES = ("a", "model", "version", "x y", 'b"c\\d', "é", "long", "flag", "nothing")
SHARED = "x" * 127
TEXTS = (
    "", "K", "K1", "K2", "Ka", "k1", "K\U0010ffff", "é", "\ud7ff", "\ue000", "it's", 'a"b', "a\\b", "%", "_", "1", "10",
    "9", "true", SHARED, SHARED + "y", SHARED + "yz", SHARED + "yzK1", SHARED + "yzK2", "line\nfeed",
)  # fmt: skip
VERSIONS = (
    "2.3", "v2.3", "V2.3.0", "2.10", "2.03", "2", "2.3.0.0.0.0.0.1", "2.3.0.0.0.0.0.0.1", "2..3", ".2", "2.", "", "v",
    "vv2.3", "2.3-rc1", "999999999999999", "9999999999999999", "02.3", "2.3 ", "٢.3",
)  # fmt: skip
NUMBERS = (0, -1, 1, 5, 5.0, 5.5, -0.0, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 1e300, 1e-300, 10**30)
LOCALES = ("de-CH", "de", "en-GB")
ZONES = ("Europe/Berlin", "UTC")
PUSHES = ("P1", "P2", "P3")
CHANNELS = ("offers", "news")
MOMENTS_MS = (NOW_MS - 10 * DAY_MS, NOW_MS - DAY_MS, NOW_MS - 1, NOW_MS, NOW_MS + 5)
AGE_MS = {"P1": 2 * DAY_MS, "P2": DAY_MS, "P3": 3_600_000}
"""How long ago a push was sent."""
CHANNEL_OF = {"P1": "offers", "P2": "offers", "P3": None}


@dataclass
class ModelDevice:
    """Everything that an expression can ask of a device."""

    no: int
    id: str
    name: str | None
    locale: str | None
    timezone: str | None
    tags: set[str]
    topics: set[str]
    attributes: dict[str, Any]
    enrolled_at: int
    last_seen: int | None
    consent: str
    channels: dict[str, bool]
    online: bool
    states: dict[str, DeliveryState] = field(default_factory=dict)
    dismissed: set[str] = field(default_factory=set)


@dataclass
class Fleet:
    """Live devices, and the ledger that has them among others."""

    connection: Transaction
    devices: list[ModelDevice]

    @property
    def online(self) -> list[int]:
        return [device.no for device in self.devices if device.online]


def make_fleet(seed: int, count: int = 120) -> Fleet:
    """Make a fleet by enrolment and changes, with devices that have been removed and another app's."""
    chance = random.Random(seed)
    connection = fresh_database()
    devices: list[ModelDevice] = []
    enrolments = []
    for number in range(count):
        wanted = NewDevice(
            device_id=f"kiosk-{number}",
            name=chance.choice([None, f"Hall {number % 7}", "Ä b"]),
            tags=chance.sample(TAGS, chance.randrange(len(TAGS) + 1)),
            attributes=_attributes(chance),
            locale=chance.choice([None, *LOCALES]),
            timezone=chance.choice([None, *ZONES]),
        )
        enrolments.append(DeviceEnrolment(wanted, f"kiosk-{number}", f"token-{number}"))
    others = [DeviceEnrolment(one.device, one.device_id, one.token + "o") for one in enrolments[:20]]
    insert_devices(connection, APP_NO + 1, others, 0)
    insert_devices(connection, APP_NO, enrolments, 0)
    first_no = len(others) + 1
    _make_pushes(connection)
    for no, (wanted, device_id, _) in enumerate(enrolments, first_no):
        device = ModelDevice(
            no=no,
            id=device_id,
            name=wanted.name,
            locale=wanted.locale,
            timezone=wanted.timezone,
            tags=set(wanted.tags or ()),
            topics=set(chance.sample(TOPICS, chance.randrange(len(TOPICS) + 1))),
            attributes=_attributes(chance) if chance.random() < 0.5 else (wanted.attributes or {}),
            enrolled_at=chance.choice(MOMENTS_MS),
            last_seen=chance.choice([None, *MOMENTS_MS]),
            consent=chance.choice(["granted", "denied", "unknown"]),
            channels={channel: chance.random() < 0.5 for channel in chance.sample(CHANNELS, chance.randrange(3))},
            online=chance.random() < 0.3,
        )
        _store(connection, device)
        _deliver(connection, device, chance)
        devices.append(device)
    _deliver_in_sets(connection, devices, chance)
    removed = set(chance.sample([device.no for device in devices], count // 10))
    for no in removed:
        _remove(connection, no)
    return Fleet(connection, [device for device in devices if device.no not in removed])


def _attributes(chance: random.Random) -> dict[str, Any]:
    """Few, none or very many."""
    values = [*TEXTS, *VERSIONS, *NUMBERS, True, False, None, [1], {"a": 1}]
    found = {name: chance.choice(values) for name in chance.sample(NAMES, chance.randrange(len(NAMES)))}
    if chance.random() < 0.5:
        found["version"] = chance.choice(VERSIONS)
    if chance.random() < 0.1:
        found |= {f"more {number}": number for number in range(chance.choice([50, 64, 70]))}
    return found


def _store(connection: Transaction, device: ModelDevice) -> None:
    connection.execute(
        "UPDATE device SET attributes = ?, created_at = ?, last_seen = ?, consent = ?, channels = ? WHERE no = ?",
        (
            json.dumps(device.attributes, ensure_ascii=False),
            device.enrolled_at,
            device.last_seen,
            device.consent,
            json.dumps(device.channels),
            device.no,
        ),
    )
    connection.executemany(
        "INSERT INTO device_topic (app_no, topic, device_no, joined_at) VALUES (?, ?, ?, 0)",
        [(APP_NO, topic, device.no) for topic in device.topics],
    )
    add_to_sets(connection, APP_NO, {topic_set(topic): [device.no] for topic in device.topics})


def _remove(connection: Transaction, no: int) -> None:
    """As `DeviceRegistry.remove` does it."""
    tags = connection.execute("DELETE FROM device_tag WHERE device_no = ? RETURNING tag", (no,)).fetchall()
    topics = connection.execute("DELETE FROM device_topic WHERE device_no = ? RETURNING topic", (no,)).fetchall()
    keys = [ALL_TAG, *(tag for (tag,) in tags), *(topic_set(topic) for (topic,) in topics)]
    remove_from_sets(connection, APP_NO, {key: [no] for key in keys})
    connection.execute(
        "UPDATE device SET removed_at = 1, token_hash = x'', name = NULL, attributes = '{}', channels = '{}'"
        " WHERE no = ?",
        (no,),
    )


def _make_pushes(connection: Transaction) -> None:
    connection.executemany(
        "INSERT INTO push (no, id, app_no, kind, priority, qos, ttl, channel, target, content, size, accepted_at,"
        " expires_at, targeted, suppressed, in_sets)"
        " VALUES (?, ?, ?, 'alert', 2, 1, 60, ?, '{}', '{}', 2, ?, ?, 9, 0, ?)",
        [
            (no, push_id, APP_NO, CHANNEL_OF[push_id], NOW_MS - AGE_MS[push_id], NOW_MS + DAY_MS, int(push_id == "P2"))
            for no, push_id in enumerate(PUSHES, 1)
        ],
    )


def _deliver(connection: Transaction, device: ModelDevice, chance: random.Random) -> None:
    """Rows of every state."""
    for no, push_id in enumerate(PUSHES, 1):
        if chance.random() < 0.4:
            continue
        state = chance.choice(list(DeliveryState))
        dismissed = state is DeliveryState.DISMISSED or (state > DeliveryState.DISMISSED and chance.random() < 0.2)
        connection.execute(
            "INSERT INTO delivery (push_no, device_no, priority, size, state, dismissed_at) VALUES (?, ?, 2, 2, ?, ?)",
            (no, device.no, int(state), NOW_MS if dismissed else None),
        )
        device.states[push_id] = state
        if dismissed:
            device.dismissed.add(push_id)


def _deliver_in_sets(connection: Transaction, devices: list[ModelDevice], chance: random.Random) -> None:
    """Outcomes of P2, for those that have no row."""
    for state in (DeliveryState.DELIVERED, DeliveryState.EXPIRED):
        chosen = [device for device in devices if "P2" not in device.states and chance.random() < 0.5]
        for device in chosen:
            device.states["P2"] = state
        for segment, here in segments_of(BitMap([device.no for device in chosen])):
            connection.execute(
                "INSERT INTO outcome_set (push_no, segment, state, at, count, devices) VALUES (2, ?, ?, 1, ?, ?)",
                (segment, int(state), len(here), pack(here)),
            )
    # Of some that were told of its end a receipt has come since: their row says so, and the set is as it was.
    late = [device for device in devices if device.states.get("P2") is DeliveryState.EXPIRED][:3]
    for device in late:
        device.states["P2"] = DeliveryState.OPENED
        device.dismissed.discard("P2")  # its row is another one
        connection.execute(
            "INSERT OR REPLACE INTO delivery (push_no, device_no, priority, size, state, dismissed_at)"
            " VALUES (2, ?, 2, 2, ?, NULL)",
            (device.no, int(DeliveryState.OPENED)),
        )
