"""No alert fires while a fleet is at work and nothing is wrong. For long, and with churn: `run.py bench soak`."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Self

from tests.alerts.timeline import firing_over, scrape, value_of
from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import wait_for

DEVICES = 12
ROUNDS = 20
OF_A_SLOW_MACHINE = {
    "FleetpushDeliverySlow",
    "FleetpushDiskSlow",
    "FleetpushLoopStalls",
    "FleetpushRequestsFail",
    "FleetpushWriterBehind",
}
"""Alerts that are right when the machine itself does not get on, as one that runs eight test processes at once."""


class Standstills:
    """Measures by how much this process, which does nothing, is kept from running."""

    def __init__(self) -> None:
        self.longest = 0.0
        """Seconds."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(0.05):
            now = time.monotonic()
            self.longest, before = max(self.longest, now - before - 0.05), now


def test_nothing_fires_while_a_fleet_is_at_work(start_server: StartServer, wire: Wire, tmp_path: Path) -> None:
    """Each sample as if a minute had passed: what counts up, and what is slow, weighs as much as in twenty minutes."""
    server = start_server()
    api = server.api
    devices = api.enrol_many([f"kiosk-{number}" for number in range(DEVICES)])
    clients = [wire(server, device).start() for device in devices[:-1]]
    timeline = [scrape(server)]
    with Standstills() as standstills:
        for number in range(ROUNDS):
            api.push({"all": True}, priority=("critical", "normal")[number % 2], collapse_key=f"key-{number % 3}")
            api.push_batch([{"target": {"device": device.id}, "data": number} for device in devices])
            if number % 10 == 0:
                clients[number % len(clients)].connect()  # it takes its own connection over
            timeline.append(scrape(server))
        for client in clients:
            wait_for(lambda: len({push.push_id for push in client.received}) >= ROUNDS, what="its pushes")  # noqa: B023
        timeline.append(scrape(server))
    assert value_of(timeline[-1], "fleetpush_deliveries_targeted_total") == 2 * ROUNDS * DEVICES
    fired = firing_over(tmp_path, timeline, 60) | firing_over(tmp_path, timeline, 1)
    if standstills.longest > 0.3:
        fired -= OF_A_SLOW_MACHINE
    assert fired == set()
