"""Freezing the target of a campaign: who is in which part is decided once, and stored before anything is sent.

The ids of the devices are read and hashed on readers, put in order on the loop, both in slices, and stored as sets in
operations of some milliseconds. If the server ends in between, the next start begins again: what was stored leaves
first, and nothing was sent.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from functools import partial

from pyroaring import BitMap

from gateway.plans.assignment import ADDED_DEVICES, Order, shares_of, sort_keys
from gateway.plans.campaign_fields import CampaignRequest, Plan
from gateway.store.audience.devices import ids_of_numbers
from gateway.store.database import Database
from gateway.store.plans import campaigns as rows
from gateway.store.plans.campaigns import Campaign, SetRow
from gateway.store.transaction import Transaction

DRAWERS_PER_TURN = 16
"""Drawers of an order that are sorted before the loop gets a turn: 4,000 devices of a million, about 1 ms."""
SET_PLACES = 10_000
"""Places of an order that become a set at once, about 1 ms."""


class FreezeTurns:
    """Turns of apps at having a target frozen: one is at a time, and who had its turn waits behind the others. Loop.

    `clock_ms` gives server time; whoever is refused asks again after about `again_ms`.
    """

    def __init__(self, clock_ms: Callable[[], int], again_ms: int) -> None:
        self._clock_ms = clock_ms
        self._lost_ms = 5 * again_ms
        """Time after which an app that has not asked again loses its place: its campaigns were paused or ended."""
        self._asked: dict[int, int] = {}
        """Apps that wait, in the order of their turns, and when they last asked."""
        self.lock = asyncio.Lock()
        """Held while a target is frozen."""

    def is_turn_of(self, app_no: int) -> bool:
        """Whether the app may take the lock now; if so, its next turn is behind the others'."""
        now_ms = self._clock_ms()
        self._asked[app_no] = now_ms  # who asks again keeps its place
        for other, asked_at in list(self._asked.items()):
            if now_ms - asked_at > self._lost_ms:
                del self._asked[other]
        if self.lock.locked() or next(iter(self._asked)) != app_no:
            return False
        del self._asked[app_no]
        return True


async def freeze_target(
    database: Database,
    campaign: Campaign,
    fields: CampaignRequest,
    plan: Plan,
    target: BitMap,
    cohort: BitMap | None,
) -> bool:
    """Store who is in which part of a campaign; False if it does not start any more. Loop.

    `cohort`: the devices that are the canary, if that names them.
    """
    if not await _remove_sets(database, campaign):
        return False
    waiting: list[SetRow] = []
    size = 0
    async for group_no, variant_no, devices in _parts(database, campaign, fields, plan, target, cohort):
        for row in rows.rows_of_set(group_no, variant_no, devices):
            waiting.append(row)
            size += len(row[3])
            if len(waiting) >= rows.SLICE_SETS or size >= rows.SLICE_BYTES:
                if not await _insert(database, campaign, waiting):
                    return False
                waiting, size = [], 0
    return await _insert(database, campaign, waiting)


async def _remove_sets(database: Database, campaign: Campaign) -> bool:
    """Remove what an earlier server run has stored; False if the campaign does not start any more."""
    while True:

        def operation(transaction: Transaction) -> int | None:
            if not rows.is_starting(transaction, campaign.no):
                return None
            return rows.remove_sets(transaction, campaign.no, keep_holdout=False)

        removed = await database.write(operation, campaign.app_no)
        if not removed:
            return removed is not None


async def _insert(database: Database, campaign: Campaign, sets: list[SetRow]) -> bool:
    def operation(transaction: Transaction) -> bool:
        if not rows.is_starting(transaction, campaign.no):
            return False
        rows.insert_sets(transaction, campaign.no, sets)
        return True

    return await database.write(operation, campaign.app_no)


async def _parts(
    database: Database,
    campaign: Campaign,
    fields: CampaignRequest,
    plan: Plan,
    target: BitMap,
    cohort: BitMap | None,
) -> AsyncIterator[tuple[int, int, BitMap]]:
    """The parts with anybody in them: (group, variant, devices). The holdout comes first."""
    named = None if cohort is None else await _in_order(database, campaign, cohort)
    others = await _in_order(database, campaign, target if cohort is None else target - cohort)
    if plan.holdout:
        yield rows.HOLDOUT, 0, await _between(others, 0, plan.holdout)
    place = plan.holdout
    for group_no, group in enumerate(plan.groups):
        order = others
        start = place
        if named is not None and group_no == 0:
            order, start = named, 0
        else:
            place += group.size
        for variant_no, count in enumerate(shares_of(group.size, fields.weights)):
            if count:
                yield group_no, variant_no, await _between(order, start, start + count)
            start += count


async def _in_order(database: Database, campaign: Campaign, devices: BitMap) -> Order:
    order = Order()
    remaining = iter(devices)
    numbers = array("I")
    done = False
    while not done:
        for number in remaining:
            numbers.append(number)
            if len(numbers) == ADDED_DEVICES:
                break
        else:
            done = True
        some = numbers.tolist()
        order.add(await database.read(partial(_read_keys, campaign_id=campaign.id, numbers=some), campaign.app_no))
        numbers = array("I")
    for turn, _ in enumerate(order.sort()):
        if turn % DRAWERS_PER_TURN == 0:
            await asyncio.sleep(0)
    return order


def _read_keys(transaction: Transaction, campaign_id: str, numbers: list[int]) -> array[int]:
    """The sort keys of devices. Reader thread."""
    found, ids = ids_of_numbers(transaction, numbers)
    return sort_keys(campaign_id, zip(found, ids, strict=True))


async def _between(order: Order, first: int, end: int) -> BitMap:
    """The devices at the places from `first` to before `end`."""
    found = BitMap()
    for start in range(first, end, SET_PLACES):
        found |= order.between(start, min(end, start + SET_PLACES))
        await asyncio.sleep(0)
    return found
