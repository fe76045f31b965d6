"""Topics: lists of devices that the server keeps, to which a push may be sent.

A tag says what a device is, and whoever describes the device writes all of its tags. A topic says what a device is to
be told: devices join and leave it, ten thousand with one request, or one by itself where the app's policy lets it
(`joinable_topics`). A topic is there as long as a device is in it; it need not be made.

A push to a topic costs what one to a tag does (`store/audience/topics`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from gateway.errors import Problem, problem
from gateway.pages import ListPage, fill_page
from gateway.store.audience.device_sets import (
    BEFORE_LETTERS,
    BEHIND_TOPICS,
    TOPIC_PREFIX,
    count_sets,
    devices_of_set,
    topic_set,
)
from gateway.store.audience.devices import device_rows
from gateway.store.audience.topics import (
    add_members,
    count_topics,
    devices_with_topics,
    members_behind,
    remove_members,
    topics_in_use,
    topics_of,
)
from gateway.store.database import Database
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

TOPICS_OF_DEVICE = 256
"""Topics of one device: four times its tags. A device row that is shown has 16 KiB of them at most."""
TOPICS_OF_APP = 10_000
"""Topics of one app. Each has a row for every 65,536 devices of the app that are in it."""
SLICE_DEVICES = 2_000
"""Devices whose membership one operation changes, about 15 ms of the writer."""


def change_own_topics(
    transaction: Transaction, app_no: int, device_no: int, wanted: Mapping[str, bool], now_ms: int
) -> str | None:
    """Have a device join (true) and leave (false) topics; the part that could not be done, in words. Writer thread."""
    present = set(topics_of(transaction, [device_no]).get(device_no, ()))
    joined = [topic for topic, is_in in wanted.items() if is_in and topic not in present]
    left = [topic for topic, is_in in wanted.items() if not is_in and topic in present]
    complaint = None
    room = max(TOPICS_OF_DEVICE - len(present) + len(left), 0)
    if len(joined) > room:
        joined, complaint = joined[:room], f"a device is in at most {TOPICS_OF_DEVICE} topics: leave some first"
    too_many = _without_room(transaction, app_no, joined)
    if too_many:
        complaint = f"the app has {TOPICS_OF_APP} topics: {too_many[0]!r} cannot be another"
        joined = [topic for topic in joined if topic not in too_many]
    add_members(transaction, app_no, joined, [device_no], now_ms)
    remove_members(transaction, app_no, left, [device_no])
    return complaint


def _without_room(transaction: Transaction, app_no: int, topics: Sequence[str]) -> list[str]:
    """Those of these topics that are new, and for which the app has no room. All of its topics are counted once."""
    present = topics_in_use(transaction, app_no, topics)
    new = [topic for topic in topics if topic not in present]
    if not new:
        return []
    return new[TOPICS_OF_APP - count_topics(transaction, app_no, TOPICS_OF_APP) :]


def change_members(
    transaction: Transaction, app_no: int, topic: str, device_ids: Sequence[str], join: bool, now_ms: int
) -> list[str | Problem]:
    """Have devices join a topic, or leave it: for each `joined`, `left` or `unchanged`, or a problem. Writer thread.

    Each id is there once.
    """
    numbers = device_rows(transaction, app_no, device_ids)
    members = devices_of_set(transaction, app_no, topic_set(topic))
    changing = [no for no in numbers.values() if (no in members) is not join]
    full: set[int] = set()
    if join and changing:
        if _without_room(transaction, app_no, [topic]):
            return [too_many_topics()] * len(device_ids)
        full = devices_with_topics(transaction, changing, TOPICS_OF_DEVICE)
        add_members(transaction, app_no, [topic], [no for no in changing if no not in full], now_ms)
    elif changing:
        remove_members(transaction, app_no, [topic], changing)
    changed = set(changing)
    return [_result(device_id, numbers.get(device_id), changed, full, join) for device_id in device_ids]


def _result(device_id: str, device_no: int | None, changed: set[int], full: set[int], join: bool) -> str | Problem:
    if device_no is None:
        return problem("device_not_found", f"no device {device_id!r} in this app; enrol it with POST /v1/devices")
    if device_no in full:
        return problem("too_many_topics", f"a device is in at most {TOPICS_OF_DEVICE} topics: have it leave some first")
    if device_no not in changed:
        return "unchanged"
    return "joined" if join else "left"


def too_many_topics() -> Problem:
    return problem("too_many_topics", f"an app has at most {TOPICS_OF_APP} topics: delete some first")


class TopicStore:
    """Topics and who is in them. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, *, database: Database, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def change_members(
        self, app_no: int, topic: str, device_ids: Sequence[str], join: bool
    ) -> list[str | Problem]:
        """Have devices join a topic, or leave it, slice by slice; as the function of this name, for each id in order.

        When a slice fails, its devices and those behind it have the problem. Raises what the first slice raises.
        """
        wanted = list(dict.fromkeys(device_ids))
        found: dict[str, str | Problem] = {}
        for start in range(0, len(wanted), SLICE_DEVICES):
            ids = wanted[start : start + SLICE_DEVICES]
            operation = partial(
                change_members, app_no=app_no, topic=topic, device_ids=ids, join=join, now_ms=self._clock_ms()
            )
            try:
                found.update(zip(ids, await self._database.write(operation, app_no), strict=True))
            except Exception as error:
                if not found:
                    raise
                refusal = problem("unavailable", "this one could not be stored; send it again")
                found.update(dict.fromkeys(wanted[start:], error if isinstance(error, Problem) else refusal))
                break
        return [found[device_id] for device_id in device_ids]

    async def remove(self, app_no: int, topic: str) -> int:
        """Have all devices leave a topic, slice by slice; how many have. Raises Problem 404 if none was in it."""

        def operation(transaction: Transaction) -> int:
            some = devices_of_set(transaction, app_no, topic_set(topic))[:SLICE_DEVICES]
            if some:
                remove_members(transaction, app_no, [topic], list(some))
            return len(some)

        removed = 0
        while some := await self._database.write(operation, app_no):
            removed += some
        if not removed:
            raise unknown_topic(topic)
        return removed

    async def page(self, app_no: int, limit: int, cursor: str | None) -> dict[str, Any]:
        """List the topics of an app by name: `{"topic", "devices"}` each."""

        begin = topic_set(cursor or "") + BEFORE_LETTERS
        found = await self._database.read(
            lambda transaction: count_sets(transaction, app_no, begin, BEHIND_TOPICS, limit + 1), app_no
        )
        items = [{"topic": name.removeprefix(TOPIC_PREFIX), "devices": count} for name, count in found[:limit]]
        return {"items": items, "next_cursor": items[-1]["topic"] if len(found) > limit else None}

    async def show(self, app_no: int, topic: str) -> dict[str, Any]:
        """Describe a topic: `{"topic", "devices"}`. Raises Problem 404 if nobody is in it."""
        members = await self._database.read(
            lambda transaction: devices_of_set(transaction, app_no, topic_set(topic)), app_no
        )
        if not members:
            raise unknown_topic(topic)
        return {"topic": topic, "devices": len(members)}

    async def members(self, app_no: int, topic: str, limit: int, after: int) -> ListPage:
        """List the devices of a topic in the order of their enrolment, behind this number. Raises Problem 404."""

        def read(transaction: Transaction) -> ListPage:
            return fill_page(
                members_behind(transaction, app_no, topic, after, limit + 1),
                limit,
                lambda member: {"device_id": member.device_id, "joined_at": rfc3339(member.joined_at)},
                attrgetter("device_no"),
            )

        found = await self._database.read(read, app_no)
        if not found.items and not after:
            raise unknown_topic(topic)
        return found


def unknown_topic(topic: str) -> Problem:
    return problem("topic_not_found", f"no device is in the topic {topic!r}; have some join it with PUT")
