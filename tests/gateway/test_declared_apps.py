"""Every write says whose rows it writes, or is listed here: what is not declared locks every app (decision 10)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

GATEWAY = Path(__file__).resolve().parents[2] / "gateway"
_WRITERS = re.compile(r"(.*[._])?(database|ledger)")
_DECLARED = {"write": 2, "submit": 4, "submit_until_done": 3}
_OWN = {"store.database", "delivery.ledger"}
"""Modules whose own method it is."""
"""How many values of a call declare its apps by their place: the app that asks for it, or the apps."""

UNDECLARED = frozenset(
    {
        "delivery.acceptance.Acceptance.store_made",
        "delivery.device_connections.DeviceConnections.recover",
        "delivery.escalations.Escalations._clear_next",
        "delivery.fatigue.Fatigue._close",
        "delivery.fatigue.Fatigue._follow",
        "delivery.fatigue.Fatigue._pass_over",
        "delivery.fatigue.Fatigue.load",
        "delivery.heartbeats.Heartbeats.load",
        "delivery.ledger.Ledger.recover",
        "delivery.retention.Retention._close_finished",
        "delivery.retention.Retention.run",
        "plans.campaigns.Campaigns.remove_old",
        "plans.schedule_runner.ScheduleRunner.remove_ended",
    }
)
"""`module.function`. It only shrinks: a new one is to say its apps, or that it writes every app's."""


def undeclared(source: str, module: str) -> Iterator[str]:
    """The functions that write and say nothing of whose rows."""

    def look(node: ast.AST, place: str) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            place = f"{place}.{node.name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _DECLARED:
            is_said = len(node.args) >= _DECLARED[node.func.attr] or any(
                keyword.arg in ("apps", "app_no") for keyword in node.keywords
            )
            receiver = ast.unparse(node.func.value)
            is_database = _WRITERS.fullmatch(receiver) or (receiver == "self" and module in _OWN)
            if not is_said and is_database:
                yield place
        for child in ast.iter_child_nodes(node):
            yield from look(child, place)

    return look(ast.parse(source), module)


def test_what_says_nothing_of_its_apps_is_listed_and_the_list_only_shrinks() -> None:
    found: set[str] = set()
    for path in GATEWAY.rglob("*.py"):
        module = ".".join(path.relative_to(GATEWAY).with_suffix("").parts)
        found.update(undeclared(path.read_text(), module))
    assert sorted(found - UNDECLARED) == [], "they say nothing of the apps whose rows they write"
    assert sorted(UNDECLARED - found) == [], "they do now: take them off the list"


@pytest.mark.parametrize(
    ("call", "is_found"),
    [
        ("self._database.write(operation)", True),
        ("self._database.submit(operation, done, on_error, uses_reserve=False)", True),
        ("self._ledger.submit_until_done(operation, done)", True),
        ("await database.write(operation)", True),
        ("self._database.write(operation, app_no)", False),
        ("self._database.write(operation, apps=EVERY_APP)", False),
        ("self._database.submit(operation, done, on_error, apps=apps)", False),
        ("self._ledger.submit_until_done(operation, done, apps)", False),
        ("file.write(line)", False),
    ],
)
def test_a_write_that_says_nothing_is_found(call: str, is_found: bool) -> None:
    source = f"class Some:\n async def change(self):\n  {call}"
    assert list(undeclared(source, "module")) == (["module.Some.change"] if is_found else [])
