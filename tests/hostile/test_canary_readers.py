"""Questions of one key that take the readers' time keep no device out, and no other app waits for them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests.end_to_end.harness import Api, Server
from tests.end_to_end.ledger_access import copy_push, opened_ledger
from tests.hostile.canary import Canary

DEVICES, PUSHES = 2_000, 260
"""More deliveries than are counted for a page."""
ASKERS = 12
ATTACK_SECONDS = 2.0


def grow_history(server: Server) -> None:
    """Make the one push that there is hundreds, each with a delivery to every device, all expired."""
    with opened_ledger(server) as ledger:
        first = copy_push(ledger, PUSHES)
        ledger.execute("UPDATE push SET in_sets = 0 WHERE no > ?", (first,))  # as they were before there were sets
        ledger.execute(
            "INSERT INTO delivery (push_no, device_no, priority, size, state, reason, ended_at)"
            " SELECT p.no, d.no, 2, 100, 20, 'ttl', 0 FROM push AS p, device AS d WHERE p.no > ?",
            (first,),
        )


def test_long_lists_of_one_key_keep_no_device_out(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        server.api.enrol_many(f"d{number}" for number in range(DEVICES))
        server.api.push({"all": True}, ttl=86_400)
        server.stop()
        grow_history(server)
        server.start()
        server.api.call("POST", "/v1/apps", 201, json={"id": "other"})
        other = Api(
            server.url,
            server.api.call("POST", "/v1/keys", 201, json={"name": "o", "scopes": ["read"], "app": "other"})["key"],
        )
        over = threading.Event()
        statuses: set[int] = set()

        def ask() -> None:
            api = Api(server.url, server.admin_key)
            while not over.is_set():
                statuses.add(api.request("GET", "/v1/pushes", params={"limit": 1000}).status_code)
            api.close()

        slowest = 0.0
        with Canary(server):
            askers = [threading.Thread(target=ask) for _ in range(ASKERS)]
            for asker in askers:
                asker.start()
            until = time.monotonic() + ATTACK_SECONDS
            while time.monotonic() < until:
                began = time.monotonic()
                other.call("GET", "/v1/pushes", 200)
                slowest = max(slowest, time.monotonic() - began)
            over.set()
            for asker in askers:
                asker.join()
        other.close()
        assert statuses <= {200, 503}
        assert 200 in statuses
        assert slowest < 2
        page = server.api.call("GET", "/v1/pushes", 200, params={"limit": 1000})
        assert page["next_cursor"] is not None
        assert sum(item["push_id"].startswith("copy-") for item in server.api.items("/v1/pushes")) == PUSHES
