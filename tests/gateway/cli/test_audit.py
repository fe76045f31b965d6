"""Commands of the audit log: what they ask for, and what they make of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.audit_chain import Head, digest_of
from tests.gateway.cli.fake_server import FakeServer

GENESIS = Head.genesis("default")


def log_of(count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The entries of a log, the oldest first, and its chain as the API describes it."""
    place, entries = GENESIS, []
    for seq in range(1, count + 1):
        entry: dict[str, Any] = {
            "seq": seq,
            "at": "2026-12-01T11:00:00.000Z",
            "actor": "key:k_1",
            "action": "device.remove",
            "object": f"device:kiosk-{seq}",
            "address": "192.0.2.1",
            "result": "done",
            "details": {"name": "Grüße"},
        }
        place = place.follow(digest_of(entry))
        entries.append({**entry, "hash": place.hash.hex()})
    ends = {name: {"seq": end.seq, "hash": end.hash.hex()} for name, end in (("head", place), ("base", GENESIS))}
    return entries, {"app": "default", **ends, "oldest_at": None, "bytes": 1}


def serve(fake: FakeServer, entries: list[dict[str, Any]], chain: dict[str, Any]) -> None:
    fake.answer = lambda request: chain if request.path.endswith("/chain") else {"items": entries, "next_cursor": None}


def test_the_list_is_asked_for_by_its_filters(fake: FakeServer) -> None:
    entries, chain = log_of(2)
    serve(fake, entries[::-1], chain)
    shown = fake.run(
        "audit", "list", "--action", "device.*", "--object", "device:kiosk-1", "--from", "2026-12-01T00:00Z"
    )
    assert fake.only.path == "/v1/audit"
    assert fake.only.query["action"] == "device.*"
    assert fake.only.query["object"] == "device:kiosk-1"
    assert fake.only.query["from"] == "2026-12-01T00:00Z"
    assert shown.stdout.splitlines()[1].split("\t")[:3] == ["2", "2026-12-01T11:00:00.000Z", "key:k_1"]


def test_the_head_is_a_line_to_note(fake: FakeServer) -> None:
    _, chain = log_of(3)
    serve(fake, [], chain)
    assert fake.run("audit", "head").stdout == f"3:{chain['head']['hash']}\n"


def test_the_log_is_verified_by_what_it_says(fake: FakeServer, tmp_path: Path) -> None:
    entries, chain = log_of(5)
    serve(fake, entries, chain)
    good = fake.run("audit", "verify", "--noted", f"3:{entries[2]['hash']}")
    assert (good.exit_code, good.stdout.startswith("5 entries agree with their chain, up to 5:")) == (0, True)
    assert fake.run("audit", "verify", "--noted", f"3:{entries[3]['hash']}").exit_code == 1
    assert fake.run("audit", "verify", "--noted", "nonsense").exit_code == 1
    file = tmp_path / "log.ndjson"
    assert fake.run("audit", "export", str(file)).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    asked = len(fake.requests)
    assert "5 entries agree" in fake.run("audit", "verify", "--file", str(file)).stdout
    assert len(fake.requests) == asked, "it asks no server"
    entries[1]["object"] = "device:other"
    assert fake.run("audit", "verify").exit_code == 1
    text = file.read_text()
    file.write_text(text.replace("kiosk-4", "kiosk-5"))
    assert fake.run("audit", "verify", "--file", str(file)).exit_code == 1


def test_the_log_of_another_app_is_not_taken_for_this_one(fake: FakeServer) -> None:
    entries, chain = log_of(2)
    serve(fake, entries, chain | {"app": "canteen"})
    refused = fake.run("audit", "verify")
    assert refused.exit_code == 1
    assert "the id of the app 'canteen'" in refused.stderr


def test_what_has_come_since_is_left_for_the_next_time(fake: FakeServer, tmp_path: Path) -> None:
    """It could come faster than it is read."""
    entries, chain = log_of(2)
    later, _ = log_of(4)
    page = {"items": later, "next_cursor": "4"}
    serve(fake, [], chain)
    at_the_end, fake.answer = fake.answer, lambda r: page if r.query.get("cursor") == "0" else at_the_end(r)
    for command in (["verify"], ["export", str(tmp_path / "log.ndjson")]):
        assert f"2 entries agree with their chain, up to 2:{entries[1]['hash']}" in fake.run("audit", *command).stdout
    assert len(fake.requests) == 4, "the chain and a page, for each of the two"


@pytest.mark.parametrize("options", [["--from", "2026-12-01T00:00:00Z"], ["--to", "2026-12-01T00:00:00Z"]])
def test_a_part_of_the_log_is_no_chain(fake: FakeServer, tmp_path: Path, options: list[str]) -> None:
    assert fake.run("audit", "export", str(tmp_path / "x"), *options).exit_code == 2
    assert fake.requests == []
