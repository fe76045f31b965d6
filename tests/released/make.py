"""`python -m tests.released.make TREE [--postgresql]`: have the version in a checkout leave its data, and keep it here.

    git worktree add /tmp/old REVISION && python -m tests.released.make /tmp/old

`--postgresql`: its ledger in PostgreSQL, as `pNNNN.sql.xz`, on which the upgrade of such a schema is tried.

Its server runs with this environment's packages. What waits is given twenty years, so that it still does when the test
is run; nothing else is changed.
"""

from __future__ import annotations

import json
import lzma
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from tests.end_to_end.harness import DATABASE, Api, Server, wait_for
from tests.end_to_end.test_events import Stream
from tests.end_to_end.wire_device import V5, Publish, WireDevice
from tests.postgresql import Postgresql
from tests.released import FACTS, HERE
from tests.third_party import require

TWENTY_YEARS_MS = 20 * 365 * 86_400_000
KEPT = ("fleetpush.db", "broker.db", "admin.key")


def main(tree: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        program = (sys.executable, "-B", "-m", "gateway")
        server = Server(data_dir, program=program, env={"PYTHONPATH": str(tree)})
        try:
            facts = live(server.start())
        finally:
            server.__exit__()
        revision = complete_files(data_dir)
        (data_dir / FACTS).write_text(json.dumps(facts, indent=1))
        with tarfile.open(HERE / f"r{revision}.tar.xz", "w:xz", preset=9) as tar:
            for name in (*KEPT, FACTS):
                tar.add(data_dir / name, name, filter=anonymous)
    print(f"r{revision}.tar.xz: {(HERE / f'r{revision}.tar.xz').stat().st_size:,} bytes")


def dump(tree: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, Postgresql() as postgresql:
        program = (sys.executable, "-B", "-m", "gateway")
        env = {"PYTHONPATH": str(tree), DATABASE: postgresql.address()}
        server = Server(Path(folder) / "data", program=program, env=env)
        try:
            live(server.start())
        finally:
            server.__exit__()
        with psycopg.connect(postgresql.address()) as connection:
            row = connection.execute("SELECT version_num FROM fleetpush.alembic_version").fetchone()
        assert row is not None, "it has served"
        command = [require("pg_dump"), "--schema=fleetpush", "--no-owner", postgresql.address()]
        found = subprocess.run(command, check=True, capture_output=True).stdout
        kept = HERE / f"p{row[0]}.sql.xz"
        kept.write_bytes(lzma.compress(found, preset=9))
    print(f"{kept.name}: {kept.stat().st_size:,} bytes")


def live(server: Server) -> dict[str, Any]:
    """Some minutes of a fleet's life, cut short by `kill -9`."""
    api = server.api
    away, present, exact, unseen = (
        api.enrol(name, tags=["hall"] if name != "unseen" else []) for name in ("away", "present", "exact", "unseen")
    )
    key = api.call("POST", "/v1/keys", 201, json={"name": "shop", "scopes": ["send", "read"]})
    clients = [
        WireDevice(server.mqtt_port, device.client_id, device.token, version=version)
        for device, version in ((away, 4), (present, V5), (exact, 4))
    ]
    waiting, online, careful = clients
    waiting.start()
    waiting.disconnect()
    api.wait_online(away.id, False)
    online.start()
    careful.completing = False
    careful.answer = answer_the_released
    careful.start(qos=2)

    pushes = {"news": api.push({"all": True}, data="news", collapse_key="news")}
    api.wait_counts(pushes["news"], delivered=1, sent=1, waiting=2)
    online.receipt(pushes["news"], "displayed")
    api.wait_counts(pushes["news"], displayed=1, sent=1, waiting=2)
    pushes["late"] = api.push(away.id, data="late", priority="low")
    pushes["urgent"] = api.push({"tag": "hall"}, data="urgent", priority="critical")
    api.wait_counts(pushes["urgent"], delivered=1, sent=1, waiting=1)
    seen = events(server, api)
    pushes["released"] = api.push(exact.id, data="released", qos=2)
    pushes["unreleased"] = api.push(exact.id, data="unreleased", qos=2)
    careful.wait_push(pushes["unreleased"])
    careful.wait_released(1)
    pushes["recalled"] = api.push(away.id, data="recalled")
    api.call("DELETE", f"/v1/pushes/{pushes['recalled']}", 200)
    planned = plans(api)
    ids = [event["id"] for event in events(server, api)]
    facts = {
        "tokens": {device.id: device.token for device in (away, present, exact, unseen)},
        "key": key["key"],
        "pushes": pushes,
        "counts": {name: api.only(push_id) for name, push_id in pushes.items()},
        "mailbox": {device.id: api.mailbox(device.id) for device in (away, unseen)},
        "inflight": [publish.push_id for publish in careful.received],
        "events": ids,
        "cursor": seen[-1]["id"] if seen else None,
        "plans": planned,
    }
    server.kill9()
    for client in clients:
        client.drop()
    return facts


def plans(api: Api) -> dict[str, Any] | None:
    """What is planned for a device that never comes, and was enrolled after the pushes; in versions that plan."""
    if api.request("GET", "/v1/campaigns").status_code == 404:
        return None
    device = api.enrol("planned", name="Ada", attributes={"floor": 3}, locale="de-AT", timezone="Europe/Vienna")
    api.call("PUT", "/v1/topics/plans/devices", 200, json={"devices": [device.id]})
    api.call("PUT", "/v1/segments/upstairs", 200, json={"expression": "attributes.floor > 2"})
    texts = {"de": {"title": "Hallo {{ device.name }}"}}
    api.call("PUT", "/v1/templates/hello", 200, json={"notification": {"title": "Hello"}, "texts": texts})
    push = {"target": {"segment": "upstairs"}, "template": "hello", "ttl": 3600}
    repeat = {"cron": "0 9 * * 1", "zone": "device"}
    schedule = api.call("POST", "/v1/schedules", 202, json={"name": "Mondays", "push": push | {"repeat": repeat}})
    api.call("POST", f"/v1/schedules/{schedule['schedule_id']}/pause", 200)
    plan = {"name": "Hello", "push": push, "canary": 1, "rollout": ["rest"], "go_on": ["acted >= 1"]}
    campaign_id = api.call("POST", "/v1/campaigns", 201, json=plan)["campaign_id"]
    wait_for(lambda: api.mailbox(device.id), what="the canary's push")
    paused = api.call("POST", f"/v1/campaigns/{campaign_id}/pause", 200, json={"reason": "for an upgrade"})
    return {
        "token": device.token,
        "schedule_id": schedule["schedule_id"],
        "campaign_id": campaign_id,
        "campaign_counts": paused["counts"],
        "mailbox": api.mailbox(device.id),
    }


def answer_the_released(publish: Publish) -> int | None:
    """PUBREC to one of the messages; silence to all others."""
    return 0 if publish.push["data"] == "released" else None


def events(server: Server, api: Api) -> list[dict[str, Any]]:
    """All events so far, in versions that have them."""
    if api.request("GET", "/v1/events", params={"since": "no id"}).status_code == 404:
        return []
    with Stream(server, since="0") as stream:
        wait_for(lambda: stream.events, what="the first event")
        found: list[dict[str, Any]] = []
        while len(found) < len(stream.events):
            found = list(stream.events)
            stream.ended.wait(0.5)  # until nothing more comes
    return found


def complete_files(data_dir: Path) -> str:
    """Take what the killed server left in its logs into the files; the schema revision."""
    with closing(sqlite3.connect(data_dir / "broker.db")) as broker:
        broker.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(sqlite3.connect(data_dir / "fleetpush.db")) as ledger:
        ledger.execute("UPDATE push SET expires_at = expires_at + ?", (TWENTY_YEARS_MS,))
        ledger.commit()
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (revision,) = ledger.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(revision)


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


if __name__ == "__main__":
    make = dump if sys.argv[2:] == ["--postgresql"] else main
    make(Path(sys.argv[1]).resolve())
