"""Every JSON, TOML and Python block of the documents is what it says it is.

The second word behind the fence says what that is: a request (`json PUT /v1/policy`), which is sent; what a device says
(`json receipts`, `settings`, `report`), which is parsed as the server does; what it is told (`json push`, `notice`);
what a webhook is sent (`json events`); a file of settings or a scenario (`toml settings`, `toml scenario`). An
`excerpt` is not looked at; a `yaml prometheus` is checked by `tests/alerts`. Python blocks of a page run one after the
other, beside a server in memory.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import BaseModel

from client_sim.push import Push
from client_sim.simulator.scenario import NetworkConditions, PeopleHabits, Phase, Scenario, Stream
from client_sim.testing import FakeServer
from gateway.delivery.device_messages import Unusable, parse
from gateway.delivery.notification import Action, Enclosure, Notification
from gateway.delivery.push import ActivePush, PushRequest
from gateway.delivery.push_timing import SCHEDULE_FIELDS
from gateway.delivery_states import PRIORITIES
from gateway.settings import Settings
from gateway.store.deliveries.event_log import TYPES
from tests.documents.markdown import Block, blocks, prose
from tests.gateway.in_process import InProcessGateway

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES: Final = {"sh", "json", "jsonc", "toml", "python", "js", "text", "ini", "csv", "yaml"}
NOTICES: Final = {"clear", "gap", "preferences"}


def documents() -> list[Path]:
    """All pages but those that are made (`test_reference`)."""
    return [page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if page.parent.name != "reference"]


def found(*languages: str) -> list[Block]:
    every = [block for page in documents() for block in blocks(page)]
    return [block for block in every if block.language in languages and block.mark != "excerpt"]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    await gateway.enrol("kiosk-1")
    yield gateway
    await gateway.close()


async def check_json(block: Block, gateway: InProcessGateway) -> None:
    """Raises AssertionError or ValueError if the block is not what its mark says."""
    content = re.sub(r"(?m)(^|\s)//.*$", "", block.text) if block.language == "jsonc" else block.text
    value = json.loads(content)
    method, _, path = block.mark.partition(" ")
    match block.mark:
        case "receipts" | "settings" | "report":
            assert parse(block.mark, content.encode()) is not None
        case "push":
            assert value == as_delivered(value)
        case "notice":
            assert value["v"] == 1
            assert value["type"] in NOTICES
        case "events":
            assert {event["type"] for event in value["data"]["events"]} <= {*TYPES}
        case _:
            assert path.startswith("/v1/"), f"{block.place}: nobody knows what `{block.mark}` is"
            answer = await gateway.http.request(method, path, json=value)
            assert answer.is_success, f"{block.place}: {answer.status_code} {answer.text}"


def as_delivered(value: dict[str, Any]) -> Any:
    """The body that a device gets of a push that says the same."""
    said = {name: value[name] for name in ("kind", "notification", "data", "channel", "priority", "collapse_key")}
    request = PushRequest.model_validate({"target": {"all": True}, **said})
    push = ActivePush(
        no=1, app_no=1, push_id=value["push_id"], kind=value["kind"], priority=PRIORITIES.index(request.priority),
        qos=1, ttl=request.ttl, collapse_key=request.collapse_key, channel=request.channel, content=request.content(),
        accepted_at=0, expires_at=value["expires_in"] * 1000,
    )  # fmt: skip
    return json.loads(push.body(0).payload) | {"sent_at": value["sent_at"]}


async def test_every_json_block_is_what_it_says(gateway: InProcessGateway) -> None:
    checked = found("json", "jsonc")
    assert len(checked) > 10
    for block in checked:
        try:
            await check_json(block, gateway)
        except (ValueError, Unusable) as error:
            pytest.fail(f"{block.place}: {error}")


def test_the_annotated_push_has_every_field() -> None:
    (block,) = (block for block in blocks(ROOT / "README.md") if block.language == "jsonc")
    models = (PushRequest, Notification, Action, Enclosure)
    fields = {name for model in models for name in model.model_fields} - {*SCHEDULE_FIELDS}  # of schedules
    assert [name for name in sorted(fields) if f'"{name}"' not in block.text] == []


async def test_a_block_that_is_something_else_is_found(gateway: InProcessGateway) -> None:
    wrong = {"PUT /v1/policy": '{"cap": 3}', "receipts": '{"push_id": "p", "event": "seen"}', "answer": "{}"}
    for mark, text in wrong.items():
        with pytest.raises((AssertionError, ValueError, Unusable)):
            await check_json(Block(ROOT / "README.md", 1, "json", mark, text), gateway)


def test_every_toml_block_is_what_it_says(tmp_path: Path) -> None:
    for block in found("toml"):
        if block.mark == "scenario":
            Scenario.parse("example", block.text, block.place)
        else:
            assert block.mark == "settings", block.place
            path = tmp_path / "fleetpush.toml"
            path.write_text(block.text)
            Settings.load(path)


def test_the_simulators_page_has_every_key_of_a_scenario() -> None:
    rows = [line for line in prose(ROOT / "docs" / "simulator.md") if line.startswith("| `")]
    keys = {key.strip(" `.") for row in rows for key in row.split("|")[1].replace("people.", "").split(",")}
    keys = {key.removeprefix("network.") for key in keys}
    models: tuple[type[BaseModel], ...] = (Scenario, Phase, Stream, PeopleHabits, NetworkConditions)
    fields = {name for model in models for name in model.model_fields}
    assert fields - keys == {"text", "people", "network", "phases", "pushes"}, "all others stand there by these names"


@pytest.mark.parametrize("page", sorted({str(block.page.relative_to(ROOT)) for block in found("python")}))
def test_the_python_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    with FakeServer() as server:
        shown: list[Push] = []

        def show_and_act(push: Push) -> None:
            names["show"](push)
            shown.append(push)
            names["device"].act(push, "play")

        names: dict[str, Any] = {"show_and_act": show_and_act}
        for block in blocks(ROOT / page):
            if block.language != "python" or block.mark == "excerpt":
                continue
            here = block.text.replace('host="push.example"', f"port={server.port}").replace(
                "kiosk-1.db", f"{tmp_path}/j.db"
            )
            here = here.replace("on_push=show", "on_push=show_and_act")
            exec(compile(here, block.place, "exec"), names)
            if "device.start()" in here:
                push_id = server.push(
                    "kiosk-1", notification={"title": "Hi", "actions": [{"id": "play", "title": "Play"}]}
                )
                assert server.wait(push_id, "acted")["result"] == {"state": "playing"}
                names["device"].close()
        assert shown
        assert server.complaints == []


def test_every_block_has_a_language_that_a_test_knows() -> None:
    every = [block for page in documents() for block in blocks(page)]
    assert [block.place for block in every if block.language not in LANGUAGES] == []
    unknown = [
        block for block in every if block.language in ("js", "yaml") and block.mark not in ("excerpt", "prometheus")
    ]
    assert [block.place for block in unknown] == []


def test_no_page_has_an_indented_block() -> None:
    """It would be run by nobody."""
    assert [
        f"{page.name}:{number}"
        for page in documents()
        for number, (before, line) in enumerate(pairwise(prose(page)), 2)
        if not before and line.startswith("    ")
    ] == []


def test_no_line_begins_a_list_by_accident() -> None:
    """As the second line of "with QoS / 1. Then .." does."""
    assert [
        f"{page.name}:{number}"
        for page in documents()
        for number, (before, line) in enumerate(pairwise(prose(page)), 2)
        if re.match(r" *([0-9]+[.)]|[-+*]) ", line)
        if before and not re.match(r" *([0-9]+\.|-) | ", before)
    ] == []
