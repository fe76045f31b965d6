"""Whatever the API can do, the command line can: an operator's session that reaches every operation of `/openapi.json`.

The commands run in this process against a real server, in an app of their own. What they ask for is noted down and
held against the document: each operation, each parameter of a query and each field of a body, but for the lists below.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from client_sim.device import Device
from client_sim.push import Push
from client_sim.signatures import EncryptionKey
from gateway.cli.server_client import ServerClient
from tests.end_to_end.conftest import Name
from tests.end_to_end.harness import Api, Server, wait_for
from tests.gateway.cli.fake_server import Outcome, run_command

WITHOUT_A_COMMAND = {
    "GET /healthz": "for who watches over the process; a command would add nothing to its one word",
    "GET /readyz": "the same; `doctor` asks whether the server answers",
    "GET /metrics": "Prometheus reads it",
    "POST /v1/enrol": "a device's: `listen --code` and the browser device call it without a key",
    "POST /v1/enrol/again": "the same; `listen --again`",
    "GET /v1/enrol/ca": "the same, before they trust the server",
    "POST /v1/session": "a browser's: a command has its key",
    "GET /v1/session": "the same",
    "DELETE /v1/session": "the same",
    "GET /v1/session/options": "the same",
}
FIELDS_OF_FILES = {
    "POST /v1/pushes/batch": "its lines are pushes",
    "PUT /v1/templates/{template_name}": "what a template has is written as JSON; the commonest have options",
}
FIELDS_WITHOUT_AN_OPTION = {
    "GET /v1/devices with_count": "for the pages of the console: `segments try` counts",
    "GET /v1/webhooks/{webhook_id}/dead-letters with_count": "the same: `webhooks replay` says how many it sends",
    "GET /v1/devices with_waiting": "the same: `devices show` and `mailbox show` say it",
    "POST /v1/invitations qr": "a picture for a page; `--png` and `--pdf` draw it here",
    "POST /v1/devices/tags cursor": "only after 1,000 devices, which the command does by itself",
    "POST /v1/devices/removal cursor": "the same",
    "GET /v1/events since": "`--since` says it as Last-Event-ID, as it does when the stream has broken off",
    "POST /v1/pushes/forecast deadline": "changes nothing of who would get it",
    "PATCH /v1/devices/{device_id}/preferences seq": "a device's own count",
}
"""Operation and field, and why."""


class Session:
    """Commands in an app of their own; what they ask for is kept."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.operations = {
            f"{method.upper()} {path}": operation
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        }
        self.reached: set[str] = set()
        self.fields: set[str] = set()

    def note(self, request: httpx2.Request) -> None:
        operation = self.operation_of(request.method, request.url.path)
        self.reached.add(operation)
        self.fields |= {f"{operation} {name}" for name in request.url.params}
        if request.headers.get("content-type") == "application/json":
            self.fields |= {f"{operation} {name}" for name in json.loads(request.read())}

    def operation_of(self, method: str, path: str) -> str:
        """The one with the fewest names in its path that fits."""
        fitting = [
            operation
            for operation in self.operations
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", operation), f"{method} {path}")
        ]
        assert fitting, f"{method} {path} is in no document"
        return min(fitting, key=lambda operation: operation.count("{"))

    def wanted_fields(self) -> set[str]:
        """Not those of the lines of a file, which is sent as it is."""
        wanted = set()
        for name, operation in self.operations.items():
            if name in FIELDS_OF_FILES:
                continue
            fields = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                reference = content["schema"].get("$ref", "").rpartition("/")[2]
                fields |= set(self.document["components"]["schemas"].get(reference, {}).get("properties", ()))
            wanted |= {f"{name} {field}" for field in fields}
        return wanted

    def run(self, *words: str, expect: int = 0) -> Outcome:
        outcome = run_command(*words)
        assert outcome.exit_code == expect, f"{words} ended with {outcome.exit_code}: {outcome.stderr}"
        return outcome

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def listed(self, *words: str) -> list[Any]:
        """All items of a list, asked for in pages of one and as a whole, and as a table."""
        whole: Any = None
        while (now := self.json(*words)) != whole:  # or it has changed meanwhile: a push is delivered, for example
            whole = now
            assert whole["next_cursor"] is None
            first = self.json(*words, "--limit", "1")
            found = list(first["items"])
            if first["next_cursor"] is not None:
                found += self.json(*words, "--cursor", first["next_cursor"])["items"]
            else:
                run_command(*words, "--cursor", "7")
        assert found == whole["items"]
        self.run(*words)
        items: list[Any] = whole["items"]
        return items


@pytest.fixture
def session(server: Server, api: Api, monkeypatch: pytest.MonkeyPatch) -> Session:
    session = Session(api.call("GET", "/openapi.json", 200))
    plain_find = ServerClient.find

    def note_requests(url: str | None, data_dir: Path) -> ServerClient:
        found = plain_find(url, data_dir)
        found._client.event_hooks = {"request": [session.note]}
        return found

    monkeypatch.setattr(ServerClient, "find", note_requests)
    monkeypatch.setenv("FLEETPUSH_URL", server.url)
    monkeypatch.setenv("FLEETPUSH_KEY", server.admin_key)
    return session


def test_every_operation_of_the_api_has_a_command(
    session: Session, server: Server, name: Name, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app = name()
    session.run("apps", "add", app)
    assert app in {item["id"] for item in session.listed("apps", "list")}
    assert session.json("keys", "list", "--app", app)["items"] == []
    made = session.json("keys", "add", "operator", "--app", app, "--scope", "admin")
    monkeypatch.setenv("FLEETPUSH_KEY", made["key"])
    spare = session.json("keys", "add", "spare", "--scope", "read")
    assert {item["id"] for item in session.listed("keys", "list")} == {made["id"], spare["id"]}
    session.run("keys", "revoke", spare["id"])
    set_rules(session, tmp_path)
    enrol_and_change(session, server, app, tmp_path)
    select(session)
    send_and_follow(session, tmp_path)
    write_texts(session, tmp_path)
    roll_out(session, tmp_path)
    schedule(session)
    sign(session, app, tmp_path)
    order(session, server, app)
    configure_webhooks(session, tmp_path)
    session.run("devices", "remove", "till-1")
    look_back(session, tmp_path)
    assert set(session.operations) - session.reached == set(WITHOUT_A_COMMAND)
    assert session.wanted_fields() - session.fields - without_a_command(session) == set(FIELDS_WITHOUT_AN_OPTION)


def without_a_command(session: Session) -> set[str]:
    return {field for field in session.wanted_fields() if field.rpartition(" ")[0] in WITHOUT_A_COMMAND}


def look_back(session: Session, tmp_path: Path) -> None:
    """The audit log."""
    removed = ["--action", "device.remove", "--object", "device:till-1", "--from", "2026-01-01T00:00:00Z"]
    (entry,) = session.listed("audit", "list", *removed, "--to", "2100-01-01T00:00:00Z")
    assert session.listed("audit", "list", "--actor", entry["actor"], "--action", "device.remove")[0] == entry
    head = session.run("audit", "head").stdout.strip()
    assert "agree" in session.run("audit", "verify", "--noted", head).stdout
    evidence = tmp_path / "evidence"
    session.run(
        "audit",
        "export",
        str(evidence),
        "--device",
        "kiosk-1",
        "--from",
        "2026-01-01T00:00:00Z",
        "--to",
        "2100-01-01T00:00:00Z",
    )
    assert "device" in evidence.read_text()


def select(session: Session) -> None:
    """Topics and segments."""
    session.run("topics", "join", "news", "till-1", "kiosk-1")
    assert session.json("topics", "leave", "news", "kiosk-1")["devices"] == [{"device_id": "kiosk-1", "result": "left"}]
    assert "foyer" in [item["tag"] for item in session.listed("devices", "tags")]
    assert [item["tag"] for item in session.listed("devices", "tags", "--prefix", "foy")] == ["foyer"]
    assert session.listed("topics", "list") == [{"topic": "news", "devices": 1}]
    assert session.json("topics", "show", "news")["devices"] == 1
    assert [item["device_id"] for item in session.listed("topics", "devices", "news")] == ["till-1"]
    assert session.json("preferences", "change", "till-1", "--join", "sport", "--leave", "news")["topics"] == ["sport"]
    session.run("topics", "remove", "sport")
    expression = "'foyer' in tags && attributes.floor == 2"
    assert session.json("segments", "try", expression)["examples"] == ["kiosk-1"]
    session.run("segments", "set", "upstairs", expression)
    assert session.json("segments", "show", "upstairs")["devices"] == 1
    assert [item["name"] for item in session.listed("segments", "list")] == ["upstairs"]
    wrong = session.run("segments", "try", "'foyer' in tag", expect=1)
    assert "tags" in wrong.stderr
    session.run("segments", "remove", "upstairs")


def write_texts(session: Session, tmp_path: Path) -> None:
    """Templates, and pushes that are made with them; nothing is left waiting."""
    content = tmp_path / "lunch.json"
    template = {
        "notification": {"title": "Lunch for {{ device.name | default: 'you' }}", "body": "{{ values.dish }}"},
        "data": {"dish": "soup"},
        "values": {"dish": "soup"},
    }
    content.write_text(json.dumps(template))
    assert session.json("templates", "set", "lunch", str(content))["version"] == 1
    session.run("templates", "set", "dinner", "--title", "Dinner")
    assert [item["name"] for item in session.listed("templates", "list")] == ["dinner", "lunch"]
    session.run("templates", "show", "lunch")
    session.run("templates", "show", "lunch", "--version", "1")
    preview = ["templates", "preview", "lunch", "till-1", "--value", "dish=fish", "--data", "{}", "--version", "1"]
    assert "Till" in json.dumps(session.json(*preview))
    assert session.json("push", "till-1", "--template", "lunch", "--forecast")["targeted"] == 1
    with_template = session.json("push", "till-1", "--template", "lunch", "--value", "dish=fish", "--ttl", "1h")
    assert len(session.listed("pushes", "texts", with_template["push_id"], "--device", "till-1")) == 1
    texts = json.dumps({"de": {"title": "Tee"}})
    rendered = [
        "push",
        "--all",
        "{{ device.name }}",
        "--render",
        "liquid",
        "--texts",
        texts,
        "--on-missing",
        "leave_out",
    ]
    assert session.json(*rendered, "--forecast")["targeted"] == 3
    assert "Till" in session.run(*rendered, "--preview", "till-1").stdout
    for push_id in (with_template["push_id"], session.json(*rendered)["push_id"]):
        session.run("pushes", "recall", push_id)
    session.run("templates", "remove", "dinner")
    session.run("analytics", "fatigue", "--channel", "offers", "--from", "28d", "--to", "2100-01-01")
    session.run("analytics", "fatigue", "--tag", "foyer")
    session.listed("duties", "escalations", "--state", "running")


def roll_out(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "campaign.json"
    plan = {
        "name": "Update",
        "push": {"target": {"all": True}, "kind": "command", "data": {"command": "update"}},
        "canary": 1,
        "rollout": ["50%", "rest"],
        "go_on": ["acted >= 95% in 10m"],
        "stop": ["failed >= 3"],
        "min_sample": 1,
        "on_stop": "abort",
        "observe": "1m",
        "variants": [{"id": "a"}, {"id": "b", "data": {"command": "update", "quick": True}}],
        "goal": "acted",
        "confidence": 0.9,
        "holdout": "1%",
        "ask_approval": False,
        "send_at": "2026-01-01T00:00:00Z",
    }
    file.write_text(json.dumps(plan))
    assert session.json("campaigns", "forecast", str(file))["groups"][0]["size"] == 1
    session.run("campaigns", "forecast", str(file))
    made = session.json("campaigns", "create", str(file), "--idempotency-key", "update-1")["campaign_id"]
    again = session.run("campaigns", "create", str(file), "--idempotency-key", "update-1")
    assert again.stdout.split() == [made]
    session.run("campaigns", "pause", made, "--reason", "lunch")
    assert [item["campaign_id"] for item in session.listed("campaigns", "list")] == [made]
    assert "lunch" in session.run("campaigns", "watch", made, expect=1).stdout
    session.run("campaigns", "resume", made)
    session.run("campaigns", "approve", made, expect=1)
    assert session.json("campaigns", "abort", made, "--reason", "enough")["state"] == "aborted"
    assert "enough" in session.run("campaigns", "show", made).stdout
    assert session.listed("campaigns", "holdout", made) == []
    assert [item["campaign_id"] for item in session.listed("campaigns", "list", "--state", "aborted")] == [made]


def set_rules(session: Session, tmp_path: Path) -> None:
    rules = ["--cap", "9/hour", "--excess", "defer", "--quiet-hours", "02:00-02:01", "--quiet-excess", "drop"]
    texts = ["--description", "Cheap today", "--importance", "low", "--sound", "bell", "--may-mute"]
    made = session.json("channels", "add", "offers", "--name", "Offers", *texts, *rules)
    limits = [{"count": 9, "per": "hour"}]
    assert made["caps"] == {"limits": limits, "groups": [], "adaptive": None, "excess": "defer"}
    session.run("channels", "add", "orders", "--name", "Orders", "--always-on")
    assert [item["id"] for item in session.listed("channels", "list")] == ["offers", "orders"]
    assert session.json("channels", "change", "offers", "--name", "All offers", *texts, *rules)["name"] == "All offers"
    assert (
        session.json("channels", "change", "offers", "--excess", "digest")["caps"]["limits"] == made["caps"]["limits"]
    )
    session.run("channels", "change", "offers", "--clear", "caps", "--clear", "quiet_hours")
    assert session.json("channels", "show", "offers")["caps"] is None
    session.run("channels", "remove", "orders")
    before = session.json("policy", "show")
    changed = session.json("policy", "change", "--denied-command", "suppress", "--critical-per-day", "3", *rules)
    assert changed["consent"]["denied"] == before["consent"]["denied"] | {"command": "suppress"}
    again = session.json("policy", "change", "--timezone", "Europe/Berlin", "--clear", "caps", "--clear", "quiet_hours")
    assert again == changed | {"timezone": "Europe/Berlin", "caps": None, "quiet_hours": None}, "the rest stays"
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(before))
    assert session.json("policy", "set", str(file)) == before == session.json("policy", "show")
    session.run("policy", "show")
    session.listed("policy", "critical-uses")


def enrol_and_change(session: Session, server: Server, app: str, tmp_path: Path) -> None:
    about = ["--name", "Till", "--tag", "foyer", "--attribute", "floor=1", "--locale", "de", "--timezone", "UTC"]
    session.run("devices", "add", "till-1", *about)
    session.run("devices", "add", "till-8", "--token-days", "30")
    session.run("devices", "renew", "till-8", expect=1)
    ending = session.listed("devices", "list", "--token-ends-within", "31d")
    assert [item["device_id"] for item in ending] == ["till-8"]
    session.run("devices", "remove", "till-8")
    table = tmp_path / "fleet.csv"
    table.write_text(TABLE)
    partly = session.run("devices", "enrol", str(table), "--tokens", str(tmp_path / "tokens.csv"), expect=1)
    assert [line.partition(":")[0] for line in partly.stderr.splitlines()[:-1]] == ["line 4", "line 5", "line 6"]
    assert "device_exists" in partly.stderr
    enrolled = (tmp_path / "tokens.csv").read_text().splitlines()
    assert len(enrolled) == 3, "the heading, and two devices"
    kiosk = session.json("devices", "show", "kiosk-1")
    assert (kiosk["tags"], kiosk["attributes"]) == (["foyer", "x"], {"floor": 2, "serial": "007"})
    assert len(session.listed("devices", "list")) == 3
    invite(session, about, table, tmp_path)
    answer_token_requests(session, server, app)
    wanted = ["--tag", "foyer", "--offline", "--search", "till", "--last-seen-before", "0s", "--no-error"]
    wanted += ["--where", "'foyer' in tags"]
    assert [item["device_id"] for item in session.listed("devices", "list", *wanted, "--not-waiting")] == ["till-1"]
    session.run("devices", "change", "till-1", *about)
    session.run("devices", "tag", "till-1", "--add", "night", "--remove", "nobody")
    at_night = ["--where", "'night' in tags", "--expect", "1"]
    assert session.json("devices", "tag", "--remove", "night", *at_night)["devices"][0]["result"] == "changed"
    session.run("devices", "tag", "till-1", "kiosk-9", "--add", "night", expect=1)
    session.run("devices", "add", "night-1", "--tag", "owl")
    owls = session.json("devices", "remove", "--where", "'owl' in tags", "--expect", "1")
    assert [item["device_id"] for item in owls["devices"]] == ["night-1"]
    session.run("devices", "remove", "night-1", "night-2", expect=1)
    session.run("devices", "tag", "till-1", "--remove", "night")
    session.run("devices", "rotate", "kiosk-1")
    session.listed("devices", "uplink", "kiosk-1")
    proof = ["--text-version", "v3", "--client", "paper form"]
    assert session.json("consent", "set", "till-1", "granted", *proof)["consent"] == "granted"
    (record,) = session.json("consent", "show", "till-1")["items"]
    assert (record["consent"], record["text_version"], record["source"]) == ("granted", "v3", "operator")
    wishes = ["--mute", "offers", "--unmute", "news", "--quiet-hours", "23:00-06:00"]
    session.run("preferences", "change", "till-1", *wishes)
    shown = session.json("preferences", "show", "till-1")
    assert {item["id"]: item["muted"] for item in shown["channels"]} == {"offers": True, "news": False}
    cleared = session.json("preferences", "change", "till-1", "--unmute", "offers", "--clear", "quiet_hours")
    assert cleared["quiet_hours"] is None
    session.run("preferences", "show", "till-1")
    session.run("consent", "show", "till-1")


TABLE = """device_id,tags,attribute.floor,attribute.serial,locale
kiosk-1,foyer x,2,007,de
,,,,
kiosk 3,,,,
till-1,,,,
kiosk-1,,,,
kiosk-2,"foyer, y",,"a ""b"" c",
"""


def invite(session: Session, about: list[str], table: Path, tmp_path: Path) -> None:
    made = session.json("devices", "invite", "till-9", *about, "--token-days", "30", "--expires", "1h")
    alike = tmp_path / "codes.csv"
    session.run("devices", "invite", "--count", "2", *about, "--csv", str(alike))
    assert len(alike.read_text().splitlines()) == 3
    session.run("devices", "invite", "--count", "2", "--prefix", "till-9", *about, "--token-days", "30")
    session.run("devices", "invite", "--from", str(table), "--csv", str(tmp_path / "more.csv"), expect=1)
    found = session.listed("devices", "invitations", "--state", "open", "--batch", made["batch"])
    assert [(item["id"], item["device_id"], item["tags"]) for item in found] == [(made["id"], "till-9", ["foyer"])]
    session.run("devices", "uninvite", made["id"])
    assert session.listed("devices", "invitations", "--batch", made["batch"]) == []


def answer_token_requests(session: Session, server: Server, app: str) -> None:
    for secret in ("s" * 43, "t" * 43):
        body = {"device_id": "till-1", "app": app, "secret": secret}
        server.api.call("POST", "/v1/enrol/again", 202, json=body)
    first, second = session.listed("devices", "requests")
    assert session.json("devices", "confirm", first["id"])["state"] == "confirmed"
    session.run("devices", "refuse", second["id"])


def send_and_follow(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "menu.txt"
    file.write_text("soup")
    kept = session.json("attachments", "add", str(file), "--ttl", "1h")
    session.run("attachments", "fetch", kept["id"], str(tmp_path / "fetched.txt"))
    assert (tmp_path / "fetched.txt").read_text() == "soup"
    session.run("attachments", "remove", kept["id"])
    options = ["--ttl", "1h", "--collapse-key", "lunch", "--channel", "offers", "--qos", "1", "--priority", "high"]
    lunch = ["push", "--tag", "foyer", "Lunch", "--data", "{}", "--kind", "alert", *options]
    assert session.json(*lunch, "--forecast")["targeted"] == 3
    first = session.json(*lunch, "--keep-forecast")["push_id"]
    session.run(
        "push", "till-1", "--kind", "command", "--data", '{"command": "sing"}', "--deadline", "9", "--ttl", "1h"
    )
    pushes = tmp_path / "pushes.ndjson"
    pushes.write_text('{"target": {"device": "till-1"}, "kind": "silent"}\n\n{"target": {}}\nno JSON\n')
    batch = session.run("pushes", "batch", str(pushes), "--idempotency-key", "run-1", expect=1)
    repeated = session.run("pushes", "batch", str(pushes), "--idempotency-key", "run-1", expect=1)
    assert batch.stdout == repeated.stdout, "the same push, sent once"
    assert [line.partition(":")[0] for line in batch.stderr.splitlines()] == [
        "line 3",
        "line 4",
        "1 accepted, 2 refused.",
    ]
    assert len(session.listed("pushes", "list")) == 3
    assert session.json("pushes", "show", first)["counts"]["waiting"] == 3
    assert len(session.listed("pushes", "deliveries", first)) == 3
    session.listed("pushes", "deliveries", first, "--state", "waiting", "--device", "till-1", "--reason", "")
    assert session.json("pushes", "reasons", first)["items"] == [{"state": "waiting", "reason": None, "count": 3}]
    assert "waiting" in session.run("pushes", "reasons", first).stdout
    assert first in {item["push_id"] for item in session.listed("devices", "history", "till-1", "--deliveries")}
    assert "since" in session.run("devices", "connection", "till-1").stdout
    session.run("devices", "history", "till-1", "--state", "waiting", "--reason", "ttl")
    assert "device.enrolled" not in session.run("devices", "history", "till-1", "--type", "delivery.*").stdout
    some = session.json("devices", "history", "till-1", "--limit", "1")
    session.run("devices", "history", "till-1", "--cursor", some["next_cursor"])
    waiting = session.listed("mailbox", "show", "till-1")
    assert [item["priority"] for item in waiting] == ["high", "normal", "normal"]
    session.run("mailbox", "cancel", "kiosk-2", batch.stdout.split()[0], expect=1)
    assert session.json("mailbox", "cancel", "till-1", batch.stdout.split()[0])["cancelled"] == 1
    assert session.json("mailbox", "empty", "till-1") == {"cancelled": 2}
    assert session.json("pushes", "recall", first)["cancelled"] == 2
    steps = ["--step", "till-1@1h", "--step", "kiosk-1,kiosk-2@1h", "--step", "tag:foyer@1h"]
    more = ["--repeat", "1", "--act", "take", "--opened", "--description", "Who comes"]
    assert session.json("duties", "set", "desk", *steps, *more)["steps"][1]["devices"] == ["kiosk-1", "kiosk-2"]
    alarm = session.json("push", "--duty", "desk", "Come")["push_id"]
    assert session.json("duties", "show", "desk")["running"] == 1
    session.run("pushes", "show", alarm)
    assert session.json("pushes", "recall", alarm)["cancelled"] == 1
    assert [item["running"] for item in session.listed("duties", "list")] == [0]
    session.run("duties", "remove", "desk")
    beats = ["--every", "1h", "--within", "1m", "--misses", "3"]
    assert session.json("heartbeats", "set", "site", "--device", "till-1", *beats)["device"] == "till-1"
    session.run("heartbeats", "set", "site", "--device", "till-1", "--device", "kiosk-1")
    session.run("heartbeats", "set", "site", "--tag", "foyer")
    session.run("heartbeats", "show", "site")
    assert len(session.listed("heartbeats", "list")) == 1
    session.run("heartbeats", "remove", "site")
    key = next(item for item in session.listed("keys", "list") if item["revoked_at"] is None)
    session.run("watches", "set", "prices", "--every", "1d", "--channel", "prices", "--key", key["id"])
    assert session.json("watches", "show", "prices")["silent"] is False
    assert len(session.listed("watches", "list")) == 1
    session.run("watches", "remove", "prices")
    session.run("analytics", "push", first)
    assert "online" in session.run("stats", "--minutes", "3").stdout
    times = ["--from", "1d", "--to", "2100-01-01"]
    assert session.run("analytics", "by", "channel", *times, "--format", "csv").stdout.startswith("channel,targeted")
    session.run("analytics", "by", "hour", *times)
    told = session.run("events", "--since", "0", "--type", "delivery.*", "--limit", "5", "--json")
    ends = [json.loads(line) for line in told.stdout.splitlines()]
    assert {event["type"] for event in ends} == {"delivery.cancelled"}
    last = ends[-2]["id"]
    assert json.loads(session.run("events", "--since", last, "--limit", "1", "--json").stdout) == ends[-1]
    session.run("push", "till-1", "Now?", "--ttl", "0", "--wait", "9s", expect=1)


def schedule(session: Session) -> None:
    everybody = ["push", "--all", "Tea"]
    times = [
        ["--at", "2026-01-01T09:00", "--window", "08:00-20:00", "--zone", "device", "--spread", "10m"],
        ["--at-local", "09:00"],
        ["--repeat", "0 9 * * *", "--zone", "UTC", "--until", "2100-01-01", "--count", "9"],
    ]
    for options in times:
        assert session.json(*everybody, *options, "--forecast")["targeted"] == 3
    times[0][1] = (datetime.now(UTC) + timedelta(days=9)).isoformat()
    first, _, daily = [session.json(*everybody, *options, "--yes")["schedule_id"] for options in times]
    named = session.run(*everybody, *times[2], "--name", "Tea", "--missed", "skip", "--yes").stdout.strip()
    assert len(session.listed("schedules", "list", "--state", "active")) == 4
    changed = session.json(
        "schedules", "change", named, "--at-local", "08:00", "--name", "Early", "--missed", "catch_up"
    )
    assert (changed["name"], "repeat" in changed["push"]) == ("Early", False)
    session.run("schedules", "change", named, "--push", '{"ttl": 60}')
    session.run("schedules", "pause", daily)
    session.run("schedules", "resume", daily)
    session.run("schedules", "run", daily)
    wait_for(lambda: session.json("schedules", "show", daily)["last_run"], what="the run")
    session.run("schedules", "show", daily)
    (run,) = session.listed("schedules", "runs", daily)
    assert run["asked"]
    assert session.json("schedules", "cancel", daily, "--recall")["recalled"]["cancelled"] == 3
    for one in (first, named):
        session.run("schedules", "cancel", one)


def sign(session: Session, app: str, tmp_path: Path) -> None:
    key, pinned = str(tmp_path / "ops.jwk"), str(tmp_path / "device-keys.json")
    assert session.json("signing", "new", key)["kty"] == "OKP"
    device = EncryptionKey.new()
    session.run("devices", "change", "till-1", "--attribute", f"encryption_key={json.dumps(device.public)}")
    trusted = session.json("signing", "trust", "till-1", "--app", app, "--device-keys", pinned)
    assert trusted["fingerprint"] == device.key_id
    signed = ["--sign", key, "--app", app, "--device-keys", pinned]
    for options in (signed, [*signed, "--encrypt"]):
        push = ["push", "till-1", "--kind", "command", "--data", '{"command": "sing"}', *options]
        assert session.json(*push, "--forecast")["targeted"] == 1
        session.run(*push)
        session.run("call", "till-1", "sing", "--wait", "0", *options, expect=1)
    session.run("mailbox", "empty", "till-1")


def order(session: Session, server: Server, app: str) -> None:
    credential = session.json("devices", "rotate", "till-1")
    device = Device("till-1", credential["token"], port=server.mqtt_port, app=app)

    @device.command("add")
    def add(push: Push) -> int:
        return int(push.data["a"]) + 1

    with device:
        options = ["--wait", "20", "--ttl", "30", "--priority", "critical", "--deadline", "9"]
        assert session.run("call", "till-1", "add", "--data", '{"a": 1}', *options).stdout == "2\n"
        assert "unknown command" in session.run("call", "till-1", "sing", "--wait", "20", expect=1).stderr


def configure_webhooks(session: Session, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    fields = ["--type", "delivery.acted", "--type", "device.*", "--description", "The shop"]
    address = "https://receiver.example/hooks"
    made = session.json("webhooks", "add", address, *fields, "--disabled", "--secret-file", str(secret))
    assert made["secret"] == secret.read_text().strip()
    session.run("webhooks", "add", address, "--disabled")
    assert [item["enabled"] for item in session.listed("webhooks", "list")] == [False, False]
    webhook = made["id"]
    session.run("webhooks", "change", webhook, "--url", f"{address}/2", *fields, "--disable")
    assert session.json("webhooks", "show", webhook)["url"] == f"{address}/2"
    assert session.json("webhooks", "rotate", webhook)["secret"] != made["secret"]
    session.listed("webhooks", "dead-letters", webhook)
    session.run("webhooks", "test", webhook, expect=1)
    session.run("webhooks", "replay", webhook, expect=1)
    session.run("webhooks", "change", webhook, "--enable")
    assert session.json("webhooks", "replay", webhook) == {"replaying": 0}
    session.run("webhooks", "replay", webhook, "17")
    session.run("webhooks", "remove", webhook)
