"""Schedules on the real server: due by its own clock, and killed in the middle of a spread."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from tests.end_to_end.conftest import Name, StartServer
from tests.end_to_end.harness import wait_for

DEVICES = 40


def test_a_kill_in_the_middle_of_a_spread_neither_loses_nor_repeats(start_server: StartServer, name: Name) -> None:
    server = start_server()
    api = server.api
    devices = [{"device_id": name(), "tags": ["chain"]} for _ in range(DEVICES)]
    api.call("POST", "/v1/devices/bulk", 201, json={"devices": devices})
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    body = {"target": {"tag": "chain"}, "data": 1, "send_at": soon, "spread": 4}
    path = f"/v1/schedules/{api.call('POST', '/v1/pushes', 202, json=body)['schedule_id']}"

    def parts() -> int:
        return sum(len(run["push_ids"]) for run in api.call("GET", f"{path}/runs", 200)["items"])

    for so_many in (1, 2):
        while parts() < so_many:
            pass  # each is a request
        server.kill9()
        server.start()
    (run,) = wait_for(
        lambda: [run for run in api.call("GET", f"{path}/runs", 200)["items"] if run["state"] != "running"],
        what="the end of the run",
    )
    assert (run["state"], run["targeted"], run["left_out"]) == ("done", DEVICES, 0)
    given = Counter(
        item["device_id"]
        for push_id in run["push_ids"]
        for item in api.call("GET", f"/v1/pushes/{push_id}/deliveries", 200)["items"]
    )
    assert given == {device["device_id"]: 1 for device in devices}
    assert run["counts"]["waiting"] == DEVICES
