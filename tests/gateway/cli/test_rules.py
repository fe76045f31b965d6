"""Mailboxes, apps, channels, the policy, consent and preferences: what their commands send, and how they print it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.cli.fake_server import FakeServer, problem

POLICY: dict[str, Any] = {
    "consent": {"unknown": "allow", "denied": {"in_app": "allow", "silent": "allow", "command": "allow"}},
    "caps": {"limits": [{"count": 8, "per": "day"}], "excess": "drop"},
    "quiet_hours": {"start": "22:00", "end": "07:00", "excess": "defer"},
    "timezone": "Europe/Berlin",
    "critical": {"per_day": 10},
    "joinable_topics": [],
    "approve_above": 100,
}
PREFERENCES: dict[str, Any] = {
    "consent": "granted",
    "channels": [
        {"id": "offers", "name": "Offers", "may_mute": True, "muted": True},
        {"id": "orders", "name": "Or\x1b[31mders", "may_mute": False, "muted": False},
        {"id": "old", "muted": True},
    ],
    "quiet_hours": {"start": "23:00", "end": "06:00"},
    "timezone": "UTC",
    "topics": ["news"],
    "joinable_topics": [],
    "seq": 7,
    "changed_at": "2026-12-01T08:00:00.000Z",
}


def test_a_mailbox_is_shown_in_its_order_and_emptied(fake: FakeServer) -> None:
    item = {"push_id": "p1", "state": "waiting", "priority": "high", "kind": "al\x1b[2Jert", "attempts": 0}
    times = {"sent_at": "a", "expires_at": "b", "not_before": None}
    fake.answer = lambda request: {"items": [item | times], "next_cursor": None}
    shown = fake.run("mailbox", "show", "kiosk/1")
    assert fake.only.path == "/v1/devices/kiosk/1/mailbox"
    assert shown.stdout.splitlines()[1] == "p1\twaiting\thigh\tal�[2Jert\tb\t\t"
    fake.answer = lambda request: {"cancelled": 3}
    assert fake.run("mailbox", "empty", "kiosk-1").stdout == "3 cancelled\n"
    assert fake.requests[-1].method == "DELETE"
    assert json.loads(fake.run("mailbox", "empty", "kiosk-1", "--json").stdout) == {"cancelled": 3}


def test_an_app_is_made_with_what_to_do_next(fake: FakeServer) -> None:
    fake.answer = lambda request: {"id": "canteen", "created_at": "now"}
    made = fake.run("apps", "add", "canteen")
    assert fake.only.json == {"id": "canteen"}
    assert "fleetpush keys add NAME --app canteen --scope admin" in made.stderr


def test_a_channel_with_all_its_rules(fake: FakeServer) -> None:
    caps = ["--cap", "2/hour", "--cap", "8/day", "--excess", "digest"]
    quiet = ["--quiet-hours", "22:00-07:00", "--quiet-excess", "drop"]
    texts = ["--description", "Cheap today", "--importance", "low", "--sound", "bell"]
    fake.run("channels", "add", "offers", "--name", "Offers", *texts, "--always-on", *caps, *quiet)
    fields = {
        "name": "Offers",
        "description": "Cheap today",
        "importance": "low",
        "sound": "bell",
        "may_mute": False,
        "caps": {"limits": [{"count": 2, "per": "hour"}, {"count": 8, "per": "day"}], "excess": "digest"},
        "quiet_hours": {"start": "22:00", "end": "07:00", "excess": "drop"},
    }
    assert fake.requests[-1].json == {"id": "offers"} | fields
    fake.run("channels", "change", "offers", "--may-mute", "--excess", "defer", "--clear", "quiet_hours")
    assert (fake.requests[-1].method, fake.requests[-1].json) == (
        "PATCH",
        {"may_mute": True, "caps": {"excess": "defer"}, "quiet_hours": None},
    )
    fake.answer = lambda request: {"items": [{"id": "offers"} | fields], "next_cursor": None}
    listed = fake.run("channels", "list").stdout.splitlines()[1]
    assert listed == "offers\tOffers\tlow\tno\t2/hour, 8/day, then digest\t22:00-07:00, drop\tCheap today"


def test_caps_of_groups_and_caps_that_adapt(fake: FakeServer) -> None:
    tags = [
        "--cap-tag",
        "vip=none",
        "--cap-tag",
        "beta=2/hour",
        "--cap-tag",
        "beta=20/day",
        "--cap-segment",
        "weary=1/day",
    ]
    fake.run("channels", "change", "offers", "--cap", "8/day", *tags, "--adaptive", "1-8")
    caps = {
        "limits": [{"count": 8, "per": "day"}],
        "groups": [
            {"tag": "vip", "limits": []},
            {"tag": "beta", "limits": [{"count": 2, "per": "hour"}, {"count": 20, "per": "day"}]},
            {"segment": "weary", "limits": [{"count": 1, "per": "day"}]},
        ],
        "adaptive": {"floor_per_day": 1, "ceiling_per_day": 8},
    }
    assert fake.only.json == {"caps": caps}
    channel = {
        "id": "offers",
        "name": "Offers",
        "importance": "low",
        "may_mute": True,
        "caps": caps | {"excess": "drop"},
        "adapted": {"per_day": 4},
        "quiet_hours": None,
        "description": None,
    }
    fake.answer = lambda request: {"items": [channel], "next_cursor": None}
    listed = fake.run("channels", "list").stdout.splitlines()[1]
    caps_line = "8/day; adaptive 1 to 8/day; vip unlimited; beta 2/hour, 20/day; segment weary 1/day, then drop"
    assert f"{caps_line}; now 4/day" in listed


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("channels", "change", "offers", "--adaptive", "8"), "--adaptive '8': write it as 1-8"),
        (("policy", "change", "--cap-tag", "vip"), "--cap-tag 'vip': write it as vip=20/day, or vip=none"),
        (("policy", "change", "--cap-segment", "vip"), "--cap-segment 'vip': write it as vip=20/day, or vip=none"),
        (("policy", "change", "--cap-tag", "vip=20"), "--cap-tag 'vip=20': write it as 8/day"),
        (("channels", "add", "offers", "--name", "Offers", "--cap", "8"), "--cap '8': write it as 8/day"),
        (("channels", "change", "offers"), "nothing to change"),
        (("policy", "change", "--quiet-hours", "night"), "--quiet-hours 'night': write it as"),
        (("policy", "change"), "nothing to change"),
        (("policy", "set", "no-such-file"), "'no-such-file' cannot be read: No such file"),
        (("preferences", "change", "k", "--mute", "a", "--unmute", "a"), "'a' is muted and unmuted"),
        (("preferences", "change", "k"), "nothing to change"),
        (("consent", "set", "k", "maybe"), "maybe"),
    ],
)
def test_what_cannot_be_meant_is_wrong_use_and_asks_nobody(fake: FakeServer, wrong: tuple[str, ...], says: str) -> None:
    ended = fake.run(*wrong)
    assert ended.exit_code == 2
    assert says in ended.stderr
    assert fake.requests == []


def test_a_change_of_the_policy_keeps_the_rest(fake: FakeServer) -> None:
    """PUT replaces the whole: what is not given has to be sent, too."""
    fake.answer = lambda request: POLICY
    fake.run("policy", "change", "--denied-command", "suppress", "--critical-per-day", "0", "--clear", "quiet_hours")
    read, written = fake.requests
    assert (read.method, written.method) == ("GET", "PUT")
    consent = {"unknown": "allow", "denied": {"in_app": "allow", "silent": "allow", "command": "suppress"}}
    kept = {name: POLICY[name] for name in ("caps", "timezone", "joinable_topics", "approve_above")}
    assert written.json == kept | {"consent": consent, "critical": {"per_day": 0}}, "left out is the default: none"


def test_a_policy_goes_through_a_file(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = lambda request: POLICY
    shown = fake.run("policy", "show", "--json").stdout
    file = tmp_path / "policy.json"
    file.write_text(shown)
    fake.run("policy", "set", str(file))
    fake.run("policy", "set", "-", input=shown.encode())
    assert [request.json for request in fake.requests[1:]] == [POLICY, POLICY]
    assert "is not JSON" in fake.run("policy", "set", "-", input=b"\xff{").stderr
    facts = fake.run("policy", "show").stdout
    assert "8/day, then drop" in facts
    assert "22:00-07:00, defer" in facts


def test_critical_uses_of_what_is_gone(fake: FakeServer) -> None:
    use = {"device_id": None, "push_id": None, "passed": "channel_muted", "at": "now"}
    fake.answer = lambda request: {"items": [use], "next_cursor": None}
    assert fake.run("policy", "critical-uses").stdout.endswith("\nnow\t(removed)\t(no longer kept)\tchannel_muted\n")


def test_consent_is_recorded_with_its_proof(fake: FakeServer) -> None:
    fake.answer = lambda request: PREFERENCES
    set_ = fake.run("consent", "set", "kiosk-1", "granted", "--text-version", "v3", "--client", "paper form")
    assert (fake.only.method, fake.only.path) == ("PATCH", "/v1/devices/kiosk-1/preferences")
    assert fake.only.json == {"consent": "granted", "text_version": "v3", "client": "paper form"}
    assert "granted" in set_.stdout
    names = ("consent", "text_version", "client", "source", "seq", "recorded_at")
    record = dict(zip(names, ("denied", "v2", "kiosk\x1b]0;2", "mqtt", 7, "now"), strict=True))
    fake.answer = lambda request: {"items": [record]}
    shown = fake.run("consent", "show", "kiosk-1")
    assert shown.stdout.splitlines()[1] == "now\tdenied\tmqtt\tv2\tkiosk�]0;2\t7"
    assert fake.requests[-1].query == {}, "it is no list with pages"


def test_preferences_mute_and_name_channels_that_were_not_made(fake: FakeServer) -> None:
    fake.answer = lambda request: PREFERENCES
    changed = fake.run("preferences", "change", "k", "--mute", "offers", "--unmute", "old", "--clear", "quiet_hours")
    assert fake.only.json == {"channels": {"offers": False, "old": True}, "quiet_hours": None}
    lines = changed.stdout.splitlines()
    assert lines[-3:] == ["offers\tOffers\tmuted\tyes", "orders\tOr�[31mders\ton\tno", "old\t\tmuted\tyes"]
    assert any(line.split() == ["quiet_hours", "23:00-06:00"] for line in lines)


def test_a_refusal_is_one_line(fake: FakeServer) -> None:
    fake.answer = lambda request: problem(404, "device_not_found", "no such device: x; enrol it with POST /v1/devices")
    for command in (("mailbox", "show"), ("mailbox", "empty"), ("consent", "show"), ("preferences", "show")):
        ended = fake.run(*command, "x")
        assert ended.exit_code == 1
        told = "fleetpush: no such device: x; enrol it with `fleetpush devices add ID` (device_not_found)\n"
        assert (ended.stdout, ended.stderr) == ("", told)
