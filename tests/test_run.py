"""The bootstrap's words on a machine that lacks something, and that a second start does nothing twice."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import namedtuple
from importlib.machinery import ModuleSpec
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
VersionInfo = namedtuple("VersionInfo", "major minor micro releaselevel serial")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """run.py as a module whose project is an empty directory with our lists."""
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp.json")
    return module


def test_an_old_python_is_told_so(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", VersionInfo(3, 9, 2, "final", 0))
    assert run.main(["demo"]) == 1
    assert "needs Python 3.11 or newer, and this is 3.9.2" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_missing_venv_names_the_debian_package(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    find_spec = importlib.util.find_spec

    def lacking(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == missing else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", lacking)
    assert run.main(["demo"]) == 1
    assert f"apt-get install python3.{sys.version_info[1]}-venv" in capsys.readouterr().err


def test_a_stamp_is_trusted_only_while_nothing_changed(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def make_venv() -> None:
        done.append("venv")
        run.venv_python().parent.mkdir(parents=True, exist_ok=True)
        run.venv_python().touch()

    monkeypatch.setattr(run, "make_venv", make_venv)
    monkeypatch.setattr(run, "install", lambda development: done.append("all" if development else "runtime"))
    run.ensure(development=False)
    run.ensure(development=False)
    assert done == ["venv", "runtime"]
    run.ensure(development=True)
    run.ensure(development=False)
    assert done[2:] == ["all"], "the development set joins the same environment"
    with (run.ROOT / "constraints.txt").open("a") as file:
        file.write("another==1\n")
    run.ensure(development=False)
    assert done[3:] == ["venv", "runtime"]
    assert set(json.loads(run.STAMP.read_text())) == {"runtime"}


def test_another_python_uses_the_environment_that_is_there(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second terminal may have another Python in its PATH, while a server runs from .venv in the first."""
    done: list[str] = []

    def make_venv() -> None:
        done.append("venv")
        run.venv_python().parent.mkdir(parents=True, exist_ok=True)
        run.venv_python().unlink(missing_ok=True)
        run.venv_python().symlink_to(system_python)

    monkeypatch.setattr(run, "make_venv", make_venv)
    monkeypatch.setattr(run, "install", lambda development: done.append("runtime"))
    system_python = run.ROOT / "python3"
    (run.ROOT / "python3.11").touch()
    (run.ROOT / "python3.13").touch()
    system_python.symlink_to("python3.11")
    run.ensure(development=False)
    monkeypatch.setattr(sys, "version", "3.12.1 (another one)")
    run.ensure(development=False)
    assert done == ["venv", "runtime"]
    # The system's own moves on: what was installed for 3.11 is not found by 3.13.
    system_python.unlink()
    system_python.symlink_to("python3.13")
    run.ensure(development=False)
    assert done[2:] == ["venv", "runtime"]
    run.ensure(development=False)
    assert done[4:] == []


def test_a_failed_installation_is_not_stamped(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(development: bool) -> None:
        raise run.SetUpError("no network")

    monkeypatch.setattr(run, "make_venv", lambda: run.VENV.mkdir())
    monkeypatch.setattr(run, "install", fail)
    assert run.main(["demo"]) == 1
    assert not run.STAMP.exists()


@pytest.mark.parametrize("typed", ["run.py", "../fleet/run.py"])
def test_messages_will_name_what_was_typed(run: ModuleType, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(run, "ensure", lambda development: None)
    monkeypatch.setattr(run, "start", lambda *command: started.append(command))
    monkeypatch.setattr(sys, "argv", [typed, "demo"])
    monkeypatch.setenv("FLEETPUSH_PROGRAM", "")
    run.main(["demo"])
    assert started == [("gateway", "demo")]
    assert os.environ["FLEETPUSH_PROGRAM"] == f"python3 {typed}"


def test_without_a_command_it_says_what_there_is_and_installs_nothing() -> None:
    done = subprocess.run([sys.executable, "-S", ROOT / "run.py"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "python3 run.py demo" in done.stdout


def test_constraints_pin_every_dependency_and_name_no_address() -> None:
    import tomllib

    from packaging.requirements import Requirement

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 and "://" not in line and "@" not in line for line in lines)
    pins = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            continue  # the extras that another one takes in
        assert requirement.specifier.contains(pins[requirement.name.lower()]), text
