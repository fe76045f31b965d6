"""The form of the hot modules that is loaded: never one of another source, and the source wherever it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from broker import compiled_modules
from broker.compiled_modules import BUILDS, LIBRARY, FormFinder, build_directory, running_form

ROOT = Path(__file__).resolve().parents[2]
SUFFIX = EXTENSION_SUFFIXES[0]
SAY_FORM = "import broker.compiled_modules as c, broker.protocol.packets as p; print(c.running_form(), p.__file__)"
SAY_BUILD = "import sys, broker.compiled_modules as c; print(c.build_directory(sys.prefix))"


def python(tree: Path, program: str, **environment: str) -> str:
    """What a program prints that finds our packages in `tree`."""
    command = [sys.executable, "-c", program]
    variables = {name: value for name, value in os.environ.items() if name != "FLEETPUSH_PURE"}
    variables |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    done = subprocess.run(command, cwd=tree.parent, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout of its own, whose source can be edited."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "broker", tree / "broker", ignore=shutil.ignore_patterns("__pycache__"))
    for name in compiled_modules.RECIPE:
        shutil.copy(ROOT / name, tree)
    return tree


def test_the_source_runs_where_nothing_is_built(tree: Path) -> None:
    form, file = python(tree, f"import sys; sys.prefix = '/nowhere'; {SAY_FORM}").split()
    assert (form, file) == ("pure", f"{tree}/broker/protocol/packets.py")


@pytest.mark.parametrize(
    "edited", ["broker/settings.py", "broker/protocol/codec.py", "pyproject.toml", "hatch_build.py"]
)
def test_an_edit_of_anything_that_decides_the_result_is_another_build(tree: Path, edited: str) -> None:
    """Of constants, too: those of modules that are not compiled are compiled into the others."""
    before = python(tree, SAY_BUILD)
    assert before == build_directory(sys.prefix), "the place of the source is no part of it"
    with (tree / edited).open("a") as file:
        file.write("# another\n")
    assert python(tree, SAY_BUILD) != before


def test_a_module_that_is_gone_is_another_build(tree: Path) -> None:
    before = python(tree, SAY_BUILD)
    (tree / "broker" / "system_topics.py").unlink()
    assert python(tree, SAY_BUILD) != before


def test_a_build_of_another_source_is_not_loaded(tree: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "environment"
    with_prefix = f"import sys; sys.prefix = {str(prefix)!r}"
    built = Path(python(tree, f"{with_prefix}; {SAY_BUILD}"))
    assert built.parent == prefix / BUILDS
    built.mkdir(parents=True)
    (built / (LIBRARY + SUFFIX)).touch()
    (built / "broker" / "protocol").mkdir(parents=True)
    (built / "broker" / "protocol" / ("codec" + SUFFIX)).touch()
    assert python(tree, f"{with_prefix}; {SAY_FORM}").startswith("compiled "), "without a look into the file"
    assert python(tree, f"{with_prefix}; {SAY_FORM}", FLEETPUSH_PURE="1").startswith("pure ")
    with (tree / "broker" / "settings.py").open("a") as file:
        file.write("# edited\n")
    assert python(tree, f"{with_prefix}; {SAY_FORM}").startswith("pure ")


def test_the_source_is_preferred_in_an_installation_where_it_is_asked_for(tree: Path) -> None:
    """There, Python itself takes the compiled module, which is beside its source. This one is an empty file."""
    (tree / (LIBRARY + SUFFIX)).touch()
    (tree / "broker" / "protocol" / ("codec" + SUFFIX)).touch()
    assert python(tree, SAY_FORM).startswith("compiled ")
    assert python(tree, SAY_FORM, FLEETPUSH_PURE="1") == f"pure {tree}/broker/protocol/packets.py"
    assert "codec.py" in python(tree, "import broker.protocol.codec as c; print(c.__file__)", FLEETPUSH_PURE="1")


def test_modules_of_others_are_left_to_python(tmp_path: Path) -> None:
    for name in ("json", "gateway", "broker"):
        (tmp_path / f"{name}.py").touch()
    finder = FormFinder(str(tmp_path), ".py")
    found = {name for name in ("json", "gateway", "broker", "broker.codec") if finder.find_spec(name)}
    assert found == {"broker"}


def test_this_process_runs_one_form() -> None:
    """Half of them compiled would be a class that inherits from one of the other form."""
    import broker.broker
    import broker.connection
    import broker.protocol.packets
    import broker.session

    modules = (broker.broker, broker.connection, broker.protocol.packets, broker.session)
    assert {str(module.__file__).endswith(SUFFIX) for module in modules} == {running_form() == "compiled"}
