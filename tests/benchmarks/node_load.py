"""A node that stores pushes as fast as it can, for the benchmark `nodes`: a process beside others.

    python -m tests.benchmarks.node_load DIRECTORY ADDRESS NUMBER APPS APPS_OF_NODE SECONDS GROUP_MS

It is the gateway without sockets: senders that wait for their answer, each for a device of its own, whose push is
acknowledged as soon as it is accepted. It prints `ready`, begins with the first line of its input, and prints what it
has measured as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import cycle
from pathlib import Path

from gateway.delivery.push import PushRequest
from gateway.delivery.submission import AppRef, PendingPush, Submission
from gateway.errors import Problem
from gateway.store import database as store
from gateway.store.access.apps import app_number
from gateway.store.app_locks import Apps
from gateway.store.transaction import Transaction
from tests.benchmarks.figures import median
from tests.gateway.in_process import Clock, InProcessGateway

SENDERS = 100
"""Of each node: as many pushes wait for a group."""
TICK_SECONDS = 0.05
"""Time between two moves of the clock, which stands still in between."""


def app_id(number: int) -> str:
    return f"app-{number}"


def device_id(node: int, sender: int) -> str:
    return f"d-{node}-{sender}"


async def prepare(gateway: InProcessGateway, node: int, apps: int) -> None:
    """Make the apps, unless another node has, and a device in each for every sender of this node."""
    for number in range(apps):
        if node == 0:
            await gateway.call("POST", "/v1/apps", 201, json={"id": app_id(number)})
        key = (
            await gateway.call(
                "POST", "/v1/keys", 201, json={"app": app_id(number), "name": "load", "scopes": ["devices"]}
            )
        )["key"]
        devices = [{"device_id": device_id(node, sender)} for sender in range(SENDERS)]
        async with gateway.client(key) as client:
            answer = await client.post("/v1/devices/bulk", json={"devices": devices})
            answer.raise_for_status()


class Load:
    """The senders, and what they measure."""

    def __init__(self, gateway: InProcessGateway, node: int, apps: list[AppRef]) -> None:
        self._gateway = gateway
        self._node = node
        self._apps = apps
        self._over = False
        self.answered_ms: list[float] = []
        self.began_ms: list[float] = []
        """How long each group has waited for its locks."""
        self._time_locks()

    def _time_locks(self) -> None:
        backend = self._gateway.database._backend
        begin = backend.begin

        def timed(connection: Transaction, apps: Apps, shared: frozenset[int]) -> None:
            began = time.perf_counter()
            begin(connection, apps, shared)
            self.began_ms.append((time.perf_counter() - began) * 1000)

        backend.begin = timed  # type: ignore[method-assign]

    async def run(self, seconds: float) -> dict[str, float]:
        database = self._gateway.database
        groups = database.groups
        senders = [asyncio.create_task(self._send(number)) for number in range(SENDERS)]
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            await asyncio.sleep(TICK_SECONDS)
            self._gateway.clock.milliseconds += int(TICK_SECONDS * 1000)
        self._over = True
        await asyncio.gather(*senders)
        took = time.monotonic() - began
        in_order = sorted(self.answered_ms)
        return {
            "pushes": len(in_order) / took,
            "groups": (database.groups - groups) / took,
            "answered_ms": median(in_order),
            "answered_p99_ms": in_order[len(in_order) * 99 // 100],
            "locked_ms": sum(self.began_ms) / len(self.began_ms),
        }

    async def _send(self, sender: int) -> None:
        acceptance, ledger = self._gateway.components.delivery.acceptance, self._gateway.components.delivery.ledger
        request = PushRequest.model_validate(
            {"target": {"device": device_id(self._node, sender)}, "data": "x" * 150, "ttl": 3600}
        )
        for app in cycle(self._apps[sender % len(self._apps) :] + self._apps[: sender % len(self._apps)]):
            if self._over:
                return
            began = time.perf_counter()
            pending = acceptance.pending(app, Submission(request))
            answer = await acceptance.accept_pending(pending)
            assert not isinstance(answer, Problem), answer
            self.answered_ms.append((time.perf_counter() - began) * 1000)
            push = ledger.pushes.add(pending.active_push(self._gateway.clock.milliseconds, pending.devices))
            ledger.acknowledged(push.no, _only(pending), 1)


def _only(pending: PendingPush) -> int:
    (device_no,) = pending.devices
    return int(device_no)


async def main(
    directory: str, address: str, node: str, apps: str, apps_of_node: str, seconds: str, group_ms: str
) -> None:
    store.GROUP_SECONDS = float(group_ms) / 1000
    folder = Path(directory)
    folder.mkdir()
    loop = asyncio.get_running_loop()
    clock = Clock()
    gateway = await InProcessGateway.build_node(folder, loop, address, f"http://127.0.0.1:{int(node) + 1}", clock)
    if node != "0":
        gateway.key = (folder.parent / "node-0" / "admin.key").read_text().strip()
        gateway.http = gateway.client(gateway.key)
    await prepare(gateway, int(node), int(apps))

    def read(transaction: Transaction) -> list[AppRef]:
        first = int(node) * int(apps_of_node) % int(apps)
        names = [app_id(number) for number in range(first, first + int(apps_of_node))]
        numbers = [(app_number(transaction, name), name) for name in names]
        return [AppRef(no, name) for no, name in numbers if no is not None]

    load = Load(gateway, int(node), await gateway.database.read(read))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.readline)
    sys.stdout.write(json.dumps(await load.run(float(seconds))) + "\n")
    sys.stdout.flush()
    await gateway.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
