"""The tables of normative statements in `broker/CONFORMANCE.md` are whole and true.

Every number of both standards is there, every test they name exists and names the statement, and the statement stands
at a line of the broker that obeys it.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFORMANCE = (ROOT / "broker" / "CONFORMANCE.md").read_text()
ROW = re.compile(r"^\| (MQTT-[\d.-]+) \| (.+?) \| (.+) \|$", re.MULTILINE)
TESTS = re.compile(r"`([\w]+)::(\w+)`")
VERSIONS = {"3.1.1": "[3.1.1: {}]", "5.0": "[{}]"}
"""How a statement is written in the source and in the tests."""
COUNTS = {"3.1.1": 141, "5.0": 251}
"""Of the statements in Appendix B of each standard."""


def rows(version: str) -> list[tuple[str, str, str]]:
    section = CONFORMANCE.split(f"## Statements of MQTT {version}\n", 1)[1].split("\n#", 1)[0]
    return ROW.findall(section)


@cache
def source() -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / "broker").rglob("*.py")))


@cache
def docstrings(module: str) -> dict[str, str]:
    tree = ast.parse((ROOT / "tests" / "conformance" / f"test_{module}.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name: ast.get_docstring(function) or "" for function in functions}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_statement_has_one_row(version: str) -> None:
    numbers = [number for number, _, _ in rows(version)]
    assert len(numbers) == len(set(numbers)) == COUNTS[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_names_tests_that_name_it_or_says_why_not(version: str) -> None:
    wrong = []
    for number, _, how in rows(version):
        named = TESTS.findall(how)
        if not named and not how.startswith("n/a: "):
            wrong.append(f"{number}: neither a test nor a reason")
        wrong += [
            f"{number}: {module}::{name}"
            for module, name in named
            if VERSIONS[version].format(number) not in docstrings(module).get(name, "")
        ]
    assert not wrong


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tested_statement_stands_where_it_is_obeyed(version: str) -> None:
    cited = source()
    tested = [number for number, _, how in rows(version) if TESTS.search(how)]
    assert not [number for number in tested if VERSIONS[version].format(number) not in cited]
