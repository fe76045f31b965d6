"""Templates, and pushes made with them: what their commands send, and how they print it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.gateway.cli.fake_server import FakeServer

SAVED = {"name": "lunch", "version": 3, "content": {"notification": {"title": "Lunch"}}, "created_at": "10:00"}


def test_a_template_is_made_of_options_or_of_a_file(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = lambda request: SAVED
    ended = fake.run("templates", "set", "lunch", "--title", "{{ device.name }}", "--channel", "offers")
    assert ended.exit_code == 0
    assert "version 3" in ended.stderr
    assert (fake.only.method, fake.only.path) == ("PUT", "/v1/templates/lunch")
    assert fake.only.json == {"notification": {"title": "{{ device.name }}"}, "channel": "offers"}
    file = tmp_path / "lunch.json"
    file.write_text(json.dumps({"data": {"a": None}}))
    fake.requests.clear()
    fake.run("templates", "set", "lunch", str(file))
    assert fake.only.json == {"data": {"a": None}}
    assert fake.run("templates", "set", "lunch").exit_code == 2
    assert fake.run("templates", "set", "lunch", str(file), "--title", "x").exit_code == 2


def test_templates_are_listed_shown_and_removed(fake: FakeServer) -> None:
    item = {"name": "lunch", "version": 3, "size": 120, "created_at": "10:00", "updated_at": "11:00"}
    fake.answer = lambda request: {"items": [item], "next_cursor": None}
    assert fake.run("templates", "list").stdout.splitlines()[1] == "lunch\t3\t120\t11:00"
    fake.answer = lambda request: {**SAVED, "versions": [{"version": 3}, {"version": 2}]}
    assert "3, 2" in fake.run("templates", "show", "lunch").stdout
    fake.requests.clear()
    fake.answer = lambda request: SAVED
    fake.run("templates", "show", "lunch", "--version", "2")
    assert fake.only.path == "/v1/templates/lunch/versions/2"
    fake.requests.clear()
    fake.run("templates", "remove", "lunch")
    assert (fake.only.method, fake.only.path) == ("DELETE", "/v1/templates/lunch")


def test_a_preview_shows_the_push_or_says_what_is_missing(fake: FakeServer) -> None:
    fake.answer = lambda request: {"push": {"notification": {"title": "Hi"}}, "size": 99, "missing": []}
    ended = fake.run("templates", "preview", "lunch", "d1", "--value", "dish=fish", "--value", "n=7", "--version", "2")
    assert (ended.exit_code, "99" in ended.stdout) == (0, True)
    assert fake.only.json == {"device": "d1", "values": {"dish": "fish", "n": 7}, "version": 2}
    missing = [{"variable": "device.name", "where": "notification.title"}]
    fake.answer = lambda request: {"push": None, "size": None, "missing": missing}
    ended = fake.run("templates", "preview", "lunch", "d1")
    assert ended.exit_code == 1
    assert "d1 lacks device.name (for notification.title)" in ended.stderr


def test_a_push_is_made_with_a_template(fake: FakeServer) -> None:
    fake.answer = lambda request: {"push_id": "p1", "targeted": 1, "suppressed": 0, "unknown": []}
    fake.run("push", "d1", "--template", "lunch@2", "--value", "dish=fish", "--on-missing", "leave_out")
    assert fake.only.json == {
        "target": {"device": "d1"},
        "template": {"name": "lunch", "version": 2, "values": {"dish": "fish"}},
        "on_missing": "leave_out",
    }
    fake.requests.clear()
    fake.run("push", "d1", "Hi {{ device.name }}", "--render", "liquid", "--texts", '{"de": {"body": "Hallo"}}')
    assert fake.only.json["render"] == "liquid"
    assert fake.only.json["texts"] == {"de": {"body": "Hallo"}}
    assert fake.run("push", "d1", "Hi", "--value", "a=b").exit_code == 2
    assert fake.run("push", "d1", "--template", "lunch@x").exit_code == 2


def test_the_texts_of_a_push_are_listed(fake: FakeServer) -> None:
    item = {"text": 1, "devices": 7, "size": 120, "notification": {"title": "Hi"}}
    fake.answer = lambda request: {"items": [item], "next_cursor": None}
    assert fake.run("pushes", "texts", "p1", "--device", "d1").stdout.splitlines()[1] == "1\t7\t120\tHi\t"
    assert fake.only.path == "/v1/pushes/p1/texts"
