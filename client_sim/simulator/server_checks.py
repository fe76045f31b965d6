"""Requests of a simulation to the server, while it runs and at its end, and checks of the answers.

Everything goes by the public HTTP interface, and every mistake goes into the expectations.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import suppress
from datetime import datetime

from client_sim.simulator.contradictions import contradictions, funnel_contradictions, sum_contradiction
from client_sim.simulator.expectations import Expectations
from client_sim.simulator.gateway_client import GatewayClient, GatewayError, ServerDelivery, ServerPush

PARALLEL_REQUESTS = 8
"""Requests at a time for the server's ledger."""
OPEN = ("waiting", "sent")
"""States that a delivery must not end in; of QoS 0 it may end as `sent`."""
WATCH_SECONDS = 0.25
"""The time between two readings of a push's counts while everything moves."""
WATCHED_PUSHES = 10
"""Newest pushes of which one is looked at."""
PRESENCE_SECONDS = 5.0
"""The time after which the server must have noticed who is there, on a busy machine."""
COMPARED_MAILBOXES = 3
"""Mailboxes that are compared at the end of a phase."""
COMPARED_FUNNELS = 20
"""Pushes whose analytics are compared at the end."""


class ServerChecks:
    """Checks of the server's counts, mailboxes, presence and deliveries. `ids`: device ids by their index."""

    def __init__(self, gateway: GatewayClient, expectations: Expectations, ids: Sequence[str]) -> None:
        self._gateway = gateway
        self._expectations = expectations
        self._ids = ids
        self._indexes = {device_id: index for index, device_id in enumerate(ids)}
        self._random = random.Random(0)

    def _index(self, device_id: str | None) -> int:
        """-1: none of ours."""
        return self._indexes.get(device_id or "", -1)

    async def watch_counts(self) -> None:
        """Check until cancelled that the states of a push sum to its devices at every moment."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            number, push_id = self._expectations.recent_push(self._random.randrange(WATCHED_PUSHES))
            if push_id is None:
                continue
            with suppress(GatewayError):  # it was killed, or is busy
                report = await self._gateway.push_report(push_id)
                if report is not None and (wrong := sum_contradiction(report)):
                    self._expectations.contradicts(number, -1, wrong)

    async def compare_absent(self, away: Iterable[int]) -> None:
        """Compare the mailboxes of some devices that are away, at the end of a phase."""
        now = time.monotonic()
        gone = [index for index in away if self._expectations.is_gone(index, now)]
        for index in self._random.sample(gone, min(COMPARED_MAILBOXES, len(gone))):
            asked = time.monotonic()
            listed = await self._gateway.mailbox(self._ids[index])
            self._expectations.check_mailbox(index, listed, (asked, time.monotonic()))

    async def compare_presence(self, connected: Callable[[], Set[int]], known: Set[int]) -> None:
        """Check that connected devices are online to the server, and disconnected ones are not."""
        deadline = time.monotonic() + PRESENCE_SECONDS
        wrong: dict[int, str] | None = None
        while wrong is None or (wrong and time.monotonic() < deadline):
            if wrong is not None:
                await asyncio.sleep(WATCH_SECONDS)
            asked, before = time.monotonic(), set(connected())
            online = await self._gateway.presence()
            still = before & connected()
            now = {
                index: f"the device {'is connected' if index in still else 'has said goodbye'}; the server says"
                f" {'online' if online.get(self._ids[index]) else 'offline'}"
                for index in known
                if (index in still and not online.get(self._ids[index]))
                or (online.get(self._ids[index]) and self._expectations.is_gone(index, asked))
            }
            wrong = now if wrong is None else {index: now[index] for index in wrong if wrong[index] == now.get(index)}
        for index, what in wrong.items():
            self._expectations.contradicts(-1, index, what)

    async def ask_pushes(self, asked: Set[int], last_read: bool, check: Callable[[], None]) -> set[int]:
        """Compare the pushes that are not among `asked`; the numbers of those that are done with. `check` is called
        often."""
        todo = iter([(number, push_id) for number, push_id in self._expectations.pushes() if number not in asked])
        final = set(asked)

        async def read() -> None:
            for number, push_id in todo:
                check()
                # In this order: when all are listed as ended, the counts have nothing left that is open.
                items, report = await self._gateway.deliveries(push_id), await self._gateway.push_report(push_id)
                ttl, qos = self._expectations.sent_with(number)
                said = [(self._index(one.device_id), one.state, one.reason) for one in items]
                ended_after = {} if report is None else self._ended_after(report, items)
                self._expectations.record_states(number, said, time.monotonic(), ended_after)
                still_open = OPEN if qos else OPEN[:1]
                if not any(one.state in still_open for one in items) or last_read:
                    final.add(number)
                    for device_id, what in contradictions(report, items, ttl, qos):
                        self._expectations.contradicts(number, self._index(device_id), what)

        async with asyncio.TaskGroup() as readers:
            for _ in range(PARALLEL_REQUESTS):
                readers.create_task(read())
        return final

    def _ended_after(self, report: ServerPush, items: Sequence[ServerDelivery]) -> dict[int, float]:
        """Seconds of the server's clock from the acceptance of a push to the end of what overflowed, by device."""
        accepted = datetime.fromisoformat(report.sent_at)
        return {
            self._index(one.device_id): (datetime.fromisoformat(one.at) - accepted).total_seconds()
            for one in items
            if one.state == "overflowed" and one.at is not None
        }

    async def compare_funnels(self) -> None:
        """The analytics of some pushes, when nothing moves any more."""
        pushes = self._expectations.pushes()
        for number, push_id in pushes[:: max(1, len(pushes) // COMPARED_FUNNELS)]:
            report, funnel = await self._gateway.push_report(push_id), await self._gateway.funnel(push_id)
            if report is not None and not any(report.counts.get(state) for state in OPEN):
                for what in funnel_contradictions(report, funnel):
                    self._expectations.contradicts(number, self._expectations.only_target(number), what)
