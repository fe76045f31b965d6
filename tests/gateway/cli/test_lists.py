"""Lists are whole: every page of them, as a table and as JSON, and what was left out is said."""

from __future__ import annotations

import json

import httpx2
import pytest

from gateway.cli import lists
from tests.gateway.cli.fake_server import FakeServer, Request, pages_of, problem

DEVICES = [{"device_id": f"kiosk-{number:04}", "tags": ["foyer", "x"], "online": number == 0} for number in range(2001)]


def test_a_list_has_every_item(fake: FakeServer) -> None:
    fake.answer = pages_of(DEVICES)
    shown = fake.run("devices", "list")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert len(lines) == 2002
    assert lines[0].split("\t") == ["DEVICE", "NAME", "PRESENCE", "LAST SEEN", "TAGS", "LAST ERROR"]
    assert lines[1] == "kiosk-0000\t\tonline\t\tfoyer, x\t"
    assert lines[2001].startswith("kiosk-2000\t")
    assert shown.stderr == ""
    document = json.loads(fake.run("devices", "list", "--json").stdout)
    assert document == {"items": DEVICES, "next_cursor": None}
    assert [request.query for request in fake.requests[:3]] == [
        {"limit": "1000"},
        {"limit": "1000", "cursor": "1000"},
        {"limit": "1000", "cursor": "2000"},
    ]


def test_pages_that_are_shorter_than_asked_for_are_read_to_the_end(fake: FakeServer) -> None:
    fake.answer = pages_of(DEVICES, page=700)
    assert len(json.loads(fake.run("devices", "list", "--json").stdout)["items"]) == 2001
    assert len(json.loads(fake.run("devices", "list", "--json", "--limit", "1500").stdout)["items"]) == 1500


def test_a_limit_says_what_it_left_out_and_how_to_go_on(fake: FakeServer) -> None:
    fake.answer = pages_of(DEVICES)
    shown = fake.run("devices", "list", "--limit", "1200")
    assert len(shown.stdout.splitlines()) == 1201
    assert shown.stderr.strip() == "There are more than these 1200. The next ones: --cursor 1200; all: no --limit."
    first = fake.run("devices", "list", "--limit", "1200", "--json")
    document = json.loads(first.stdout)
    assert (len(document["items"]), document["next_cursor"]) == (1200, "1200")
    assert "--cursor 1200" in first.stderr
    rest = json.loads(fake.run("devices", "list", "--cursor", document["next_cursor"], "--json").stdout)
    assert document["items"] + rest["items"] == DEVICES
    assert fake.run("devices", "list", "--limit", "1").stderr.startswith("There are more than this one. The next ones:")
    whole = fake.run("devices", "list", "--limit", "2001")
    assert whole.stderr == "", "nothing was left out"


def test_an_empty_list_is_a_document_too(fake: FakeServer) -> None:
    assert json.loads(fake.run("devices", "list", "--json").stdout) == {"items": [], "next_cursor": None}
    shown = fake.run("devices", "list")
    assert (shown.stdout, shown.stderr) == ("", "No devices yet. Enrol one: fleetpush devices add kiosk-1\n")
    assert fake.run("devices", "list", "--tag", "foyer").stderr == "No device is like that.\n"


def test_a_list_that_breaks_off_is_no_document(fake: FakeServer) -> None:
    whole = pages_of(DEVICES)

    def answer(request: Request) -> object:
        return problem(503, "busy") if request.query.get("cursor") == "1000" else whole(request)

    fake.answer = answer
    broken = fake.run("devices", "list", "--json")
    assert broken.exit_code == 1
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken.stdout)
    fake.answer = lambda request: httpx2.Response(200, text="<html>")
    assert fake.run("devices", "list", "--json").stdout == "", "an answer that is none prints nothing"


def test_on_a_terminal_later_pages_keep_the_columns(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    fake.answer = pages_of(DEVICES)
    lines = fake.run("devices", "list").stdout.splitlines()
    assert len(lines) == 2002, "one heading"
    assert {line.index("foyer") for line in lines[1:]} == {lines[0].index("tags")}
    assert json.loads(fake.run("devices", "list", "--json").stdout)["items"] == DEVICES


def test_on_a_narrow_terminal_an_id_is_whole_and_nothing_is_cut_off(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    item = {"push_id": "sqIB0VqmCuEtUbdmotXI", "state": "waiting", "priority": "critical", "kind": "alert"}
    times = {"expires_at": "2026-11-30T07:56:45.966Z", "not_before": "2026-11-29T22:00:00.000Z"}
    fake.answer = pages_of([item | times])
    shown = fake.run("mailbox", "show", "kiosk-1").stdout
    assert "sqIB0VqmCuEtUbdmotXI" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_a_push_without_a_title_is_listed_with_its_text(fake: FakeServer) -> None:
    said = [{"title": "Menu", "body": "Soup"}, {"body": "Hello"}, {"body": "x" * 41}, None]
    counts = {"targeted": 0}
    fake.answer = pages_of([{"push_id": "p1", "notification": words, "counts": counts} for words in said])
    lines = fake.run("pushes", "list").stdout.splitlines()
    title = lines[0].split("\t").index("TITLE")
    assert [line.split("\t")[title] for line in lines[1:]] == ["Menu", "Hello", "x" * 39 + "…", ""]
