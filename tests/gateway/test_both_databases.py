"""The tests that run over both databases do, and notice what is wrong with one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.conftest import OVER_BOTH

ROOT = Path(__file__).parents[2]
TEST = "tests/gateway/delivery/test_device_history.py::test_a_device_that_gets_little_is_found_behind_what_others_get"
SPOILED = """
import re
from gateway.store.postgresql import dialect
dialect._CALL = re.compile(dialect._CALL.pattern.replace("json_group_array|", ""))
"""
"""A plugin of pytest: calls of a function that PostgreSQL does not have are left as they are."""


def test_modules_that_run_over_both_are_there() -> None:
    here = Path(__file__).parent
    assert [name for name in OVER_BOTH if not (here / f"{name.replace('.', '/')}.py").exists()] == []


@pytest.mark.sqlite("a run over both")
def test_a_default_run_notices_what_only_postgresql_refuses(tmp_path: Path) -> None:
    (tmp_path / "spoiled.py").write_text(SPOILED)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "spoiled", TEST]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1, done.stdout
    assert "-postgresql]" in failed[0]
    assert "json_group_array" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
