"""The bootstrap's words on a machine that lacks something, and that a second start does nothing twice."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections import namedtuple
from importlib.machinery import ModuleSpec
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hatch_build
from broker.compiled_modules import BUILDS, build_directory

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


def compilations(run: ModuleType, monkeypatch: pytest.MonkeyPatch, returncode: int) -> list[list[str]]:
    """Commands that would have built a wheel: this one has one compiled module, or they have failed."""
    commands: list[list[str]] = []

    def make_wheel(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["env"]["FLEETPUSH_PURE"] == "0"
        assert options["env"]["PIP_CONSTRAINT"] == "constraints.txt"
        commands.append(command)
        folder = Path(command[command.index("--wheel-dir") + 1])
        if not returncode:
            with zipfile.ZipFile(folder / "fleetpush-0.whl", "w") as wheel:
                wheel.writestr("broker/broker.so", f"number {len(commands)}")
                wheel.writestr("broker/broker.py", "")
        return subprocess.CompletedProcess(command, returncode, "gcc: no")

    run.VENV.mkdir(exist_ok=True)
    monkeypatch.delenv("FLEETPUSH_PURE", raising=False)
    monkeypatch.setattr(run, "missing_tool", lambda: "")
    monkeypatch.setattr(run.subprocess, "run", make_wheel)
    return commands


def test_the_hot_modules_are_compiled_once(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = compilations(run, monkeypatch, 0)
    built = Path(build_directory(str(run.VENV)))
    assert run.choose_form("test").startswith("pure Python; `python3 run.py compile` ")
    assert not commands, "tests after each edit need not wait"
    assert run.choose_form("serve") == "compiled"
    assert [str(path.relative_to(built)) for path in built.rglob("*.*")] == ["broker/broker.so"]
    assert run.choose_form("serve") == "compiled"
    assert len(commands) == 1
    assert run.choose_form("compile") == "compiled"
    assert (built / "broker" / "broker.so").read_text() == "number 2"
    assert [path.name for path in built.parent.iterdir()] == [built.name], "nothing unfinished is left"


def test_of_compiled_modules_the_newest_are_kept(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    compilations(run, monkeypatch, 0)
    for number in range(6):
        (run.VENV / BUILDS / f"{number}").mkdir(parents=True)
        os.utime(run.VENV / BUILDS / f"{number}", (number, number))
    run.choose_form("serve")
    left = {path.name for path in (run.VENV / BUILDS).iterdir()}
    assert left == {Path(build_directory(str(run.VENV))).name, "5", "4", "3"}


def test_where_compiling_fails_it_says_where_to_read_why(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = compilations(run, monkeypatch, 1)
    for tries in (1, 1, 2):
        said = run.choose_form("serve" if tries == 1 else "compile")
        assert len(commands) == tries, "once, and when it is asked for"
        assert said.startswith("pure Python: compiling failed, see ")
        assert Path(said.rpartition(" ")[2]).read_text() == "gcc: no"


@pytest.mark.parametrize("missing", ["the C compiler gcc", "/usr/include/python3.11/Python.h (Debian: python3-dev)"])
def test_without_a_compiler_it_says_so(run: ModuleType, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    commands = compilations(run, monkeypatch, 0)
    monkeypatch.setattr(run, "missing_tool", lambda: missing)
    assert run.choose_form("serve") == f"pure Python, which is slower: to compile it, {missing} is missing"
    monkeypatch.setenv("FLEETPUSH_PURE", "1")
    assert run.choose_form("serve") == "pure Python (FLEETPUSH_PURE=1)"
    assert not commands


def test_what_compiling_needs_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    assert hatch_build.missing_tool() == "the C compiler no-such-compiler"
    monkeypatch.setenv("CC", sys.executable)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nowhere")
    assert hatch_build.missing_tool() == "/nowhere/Python.h (Debian: python3-dev)"


@pytest.mark.parametrize(("command", "says"), [("serve", True), ("broker", True), ("push", False), ("demo", False)])
def test_long_commands_say_which_form_runs(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, says: bool
) -> None:
    monkeypatch.setattr(run, "ensure", lambda development: None)
    monkeypatch.setattr(run, "start", lambda *command: None)
    monkeypatch.setattr(run, "choose_form", lambda command: "compiled")
    monkeypatch.setenv("FLEETPUSH_PROGRAM", "")
    run.main([command])
    assert capsys.readouterr().err == ("Fleetpush runs compiled.\n" if says else "")


@pytest.mark.parametrize(("form", "code"), [("compiled", 0), ("pure Python: compiling failed, see x", 1)])
def test_compiling_starts_nothing(run: ModuleType, monkeypatch: pytest.MonkeyPatch, form: str, code: int) -> None:
    monkeypatch.setattr(run, "ensure", lambda development: None)
    monkeypatch.setattr(run, "choose_form", lambda command: form)
    assert run.main(["compile"]) == code


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
    extras = chain.from_iterable(project["optional-dependencies"].values())
    for text in [*project["dependencies"], *extras, *hatch_build.COMPILER]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            continue  # the extras that another one takes in
        assert requirement.specifier.contains(pins[requirement.name.lower()]), text
