"""Webhooks from the terminal: what the commands send, and how dead letters are shown."""

from __future__ import annotations

from pathlib import Path

from tests.gateway.cli.fake_server import FakeServer, problem

WEBHOOK = {
    "id": "w1",
    "url": "https://shop.example/hooks",
    "types": ["delivery.*"],
    "enabled": False,
    "disabled_reason": "it answered \x1b[5m410",
    "succeeded_at": None,
    "failed_at": "now",
    "last_error": "410\nGone",
}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_webhook_is_made_with_a_secret_that_no_list_of_processes_shows(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = lambda request: WEBHOOK | {"secret": SECRET}
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    common = ["webhooks", "add", "https://shop.example/hooks", "--type", "delivery.*", "--type", "device.gap"]
    made = fake.run(*common, "--description", "The shop", "--disabled", "--secret-file", str(file))
    fake.run(*common, "--secret-file", "-", input=SECRET.encode())
    body = {"url": "https://shop.example/hooks", "types": ["delivery.*", "device.gap"], "secret": SECRET}
    assert fake.requests[0].json == body | {"description": "The shop", "enabled": False}
    assert fake.requests[1].json == body
    assert SECRET in made.stdout
    assert "shown this once" in made.stderr
    broken = fake.run(*common, "--secret-file", "-", input="pässword".encode())
    assert (broken.exit_code, "ssword" in broken.stderr) == (2, False)


def test_changes_and_rotation(fake: FakeServer) -> None:
    fake.answer = lambda request: WEBHOOK | {"secret": SECRET}
    fake.run("webhooks", "change", "w1", "--enable", "--type", "*", "--clear", "description")
    assert fake.requests[-1].json == {"enabled": True, "types": ["*"], "description": None}
    assert "nothing to change" in fake.run("webhooks", "change", "w1").stderr
    assert SECRET in fake.run("webhooks", "rotate", "w1").stdout
    assert (fake.requests[-1].method, fake.requests[-1].path) == ("POST", "/v1/webhooks/w1/secret")


def test_a_list_says_which_one_is_disabled_and_why(fake: FakeServer) -> None:
    fake.answer = lambda request: {"items": [WEBHOOK], "next_cursor": None}
    line = fake.run("webhooks", "list").stdout.splitlines()[1]
    shown = "w1\thttps://shop.example/hooks\tdelivery.*\tdisabled: it answered �[5m410\t\tnow\t410 Gone"
    assert line == shown


def test_dead_letters_are_counted_by_type_and_replayed_by_name(fake: FakeServer) -> None:
    events = [{"type": name} for name in ("device.uplink", "delivery.acted", "delivery.acted")]
    letter = {"id": "17", "events": events, "attempts": 9, "error": "500", "at": "now", "replaying": True}
    fake.answer = lambda request: {"items": [letter], "next_cursor": None}
    listed = fake.run("webhooks", "dead-letters", "w1").stdout.splitlines()[1]
    assert listed == "17\tnow\t9\t3: 2 delivery.acted, 1 device.uplink\tyes\t500"
    fake.answer = lambda request: {"replaying": 2}
    assert fake.run("webhooks", "replay", "w1", "17", "18").stdout == "2 replaying\n"
    assert fake.requests[-1].json == {"ids": ["17", "18"]}
    fake.run("webhooks", "replay", "w1")
    assert fake.requests[-1].json == {}


def test_a_disabled_webhook_is_enabled_by_the_command_that_it_names(fake: FakeServer) -> None:
    detail = "webhook 'w1' is disabled: PATCH it with {\"enabled\": true} first"
    fake.answer = lambda request: problem(422, "invalid_request", detail)
    said = fake.run("webhooks", "replay", "w1").stderr
    assert said == (
        "fleetpush: webhook 'w1' is disabled: `fleetpush webhooks change WEBHOOK --enable` first (invalid_request)\n"
    )
