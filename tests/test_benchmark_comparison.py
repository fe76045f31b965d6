"""A benchmark beside an earlier result, and beside another revision of the tree that it stands in."""

from __future__ import annotations

import json
import os
import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks import __main__ as program
from tests.benchmarks.comparison import Comparison, Result, comparison_table
from tests.benchmarks.figures import Figure
from tests.third_party import require

SPEED = 300.0
YARDSTICK = 100.0


def figures(ours: float, other: float = YARDSTICK, what: str = "planted") -> list[Figure]:
    return [Figure(what, "pushes/s", ours, "a yardstick", other, at_least=1.5)]


def written(file: Path, found: list[Figure], **more: Any) -> Path:
    file.write_text(json.dumps({"runs": 1, "figures": [figure.document() for figure in found]} | more))
    return file


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[list[Figure]]:
    """A benchmark of that name, and what its runs have measured."""
    runs: list[list[Figure]] = []

    def run(options: Namespace, directory: Path) -> list[Figure]:
        runs.append(figures(SPEED))
        return runs[-1]

    def add_options(parser: ArgumentParser) -> None: ...

    benchmark: Any = SimpleNamespace(SUMMARY="nothing at all", run=run, add_options=add_options)
    monkeypatch.setitem(program.BENCHMARKS, "planted", benchmark)
    return runs


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


# -- an earlier result -------------------------------------------------------------------------------------------------


def test_figures_are_read_as_they_were_written() -> None:
    for figure in (*figures(1.0), Figure("a", "ms", 2.0, "b", 3.0, at_most=0.5), Figure("a", "ms", 2.0, "b", 0.5)):
        assert Figure.read(figure.document()) == figure
    lossy = Figure("a", "ms", 2.0, "b", 3.0, incomplete="lost 1 of 2 messages")
    assert Figure.read(json.loads(json.dumps(lossy.document()))) == lossy


@pytest.mark.usefixtures("planted")
def test_ratios_to_an_earlier_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The machine is half as fast as then: what the yardstick says of that is beside it."""
    earlier = written(tmp_path / "monday.json", figures(400.0, 200.0), benchmarks=["planted"])
    file = tmp_path / "now.json"
    assert program.main(["planted", "--compare", str(earlier), "--json", str(file)]) == 0
    head, _, row = capsys.readouterr().out.splitlines()[-3:]
    assert dict(zip(cells(head)[:-1], cells(row)[:-1], strict=True)) == {
        "what": "planted",
        "unit": "pushes/s",
        "monday": "400",
        "now": "300",
        "now / then": "0.75",
        "beside": "a yardstick",
        "ours / it, monday": "2.00",
        "ours / it, now": "3.00",
    }
    assert cells(row)[-1] == "1.50"
    (comparison,) = json.loads(file.read_text())["comparisons"]
    assert (comparison["change"], comparison["change_beside"]) == (0.75, 1.5)
    assert Result.read(file).benchmarks == ("planted",)


def test_an_incomplete_yardstick_gives_no_ratio() -> None:
    lossy = Figure("planted", "pushes/s", 100.0, "a yardstick", 50.0, incomplete="lost 1 of 2 messages")
    for then, now in ((lossy, figures(200.0)[0]), (figures(200.0)[0], lossy)):
        comparison = Comparison(then, now)
        assert comparison.change_beside is comparison.document()["change_beside"] is None
        assert "incomplete" in comparison_table([comparison], "then", "now")


def test_without_a_readable_result_nothing_is_measured(
    tmp_path: Path, planted: list[list[Figure]], capsys: pytest.CaptureFixture[str]
) -> None:
    of_other = written(tmp_path / "other.json", figures(1.0), benchmarks=["api", "growth"])
    text = tmp_path / "text.json"
    text.write_text("no JSON")
    listed = tmp_path / "list.json"
    listed.write_text("[]")
    for earlier, words in (
        (tmp_path / "missing.json", "missing.json: No such file or directory"),
        (tmp_path, "Is a directory"),
        (text, "is no result of a benchmark"),
        (listed, "is no result of a benchmark"),
        (of_other, "is a result of api, growth, not of planted."),
    ):
        assert program.main(["planted", "--compare", str(earlier)]) == 1
        assert words in capsys.readouterr().err
    assert not planted


@pytest.mark.usefixtures("planted")
def test_a_result_with_other_figures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another fleet, for example; older results do not say of which benchmark they are."""
    earlier = written(tmp_path / "earlier.json", figures(1.0, what="planted for 5"))
    assert program.main(["planted", "--compare", str(earlier)]) == 1
    assert "no figure in common with this run: it measured planted for 5; this run measured planted." in (
        capsys.readouterr().err
    )


def test_kept_results_can_be_compared_with() -> None:
    results = sorted((Path(program.__file__).parent / "results").glob("*.json"))
    assert results
    for path in results:
        assert Result.read(path).benchmarks, path


# -- another revision --------------------------------------------------------------------------------------------------

FAKE = """
import json, os, pathlib, sys

*options, _, file = sys.argv[1:]
with open(os.environ["TURNS_LOG"], "a") as log:
    print(SPEED, *options, file=log)
figure = {"what": "planted", "unit": "pushes/s", "ours": SPEED, "beside": "it", "other": 10.0, "goal": ""}
pathlib.Path(file).write_text(json.dumps({"runs": 1, "figures": [figure]}))
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose benchmark measured 100 in its commit `slow`, and measures 250 now."""
    require("git")
    root = tmp_path / "repository"
    (root / "tests/benchmarks").mkdir(parents=True)
    for package in ("tests", "tests/benchmarks"):  # as in every revision: a folder without is found after all packages
        (root / package / "__init__.py").touch()
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TURNS_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(program, "ROOT", root)
    benchmark = root / "tests/benchmarks/__main__.py"
    benchmark.write_text(f"SPEED = 100\n{FAKE}")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "-m", "slow")
    git(root, "tag", "slow")
    benchmark.write_text(f"SPEED = 250\n{FAKE}")
    return root


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


def test_a_revision_and_this_tree_take_turns(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert program.main(["fanout", "--devices", "5", "7", "--against", "slow", "--json", str(file)]) == 0
    turns = [line.split(maxsplit=1) for line in (tmp_path / "log").read_text().splitlines()]
    assert [speed for speed, _ in turns] == ["100", "250", "250", "100", "100", "250"]
    assert {options for _, options in turns} == {"fanout --devices 5 7"}
    document = json.loads(file.read_text())
    assert document["runs"] == 3
    (comparison,) = document["comparisons"]
    assert (comparison["then"], comparison["now"], comparison["change"]) == (100.0, 250.0, 2.5)
    commit = git(repository, "rev-parse", "--short", "slow").strip()
    assert document["then"] == f"slow ({commit})"
    assert f"turn 1 of 3: slow ({commit})" in capsys.readouterr().err
    assert len(git(repository, "worktree", "list").splitlines()) == 1, "the temporary one is gone"


def test_a_revision_that_cannot_be_measured(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program.main(["fanout", "--against", "nonsense"]) == 1
    assert "git knows no revision 'nonsense' here" in capsys.readouterr().err
    (repository / "tests/benchmarks/__main__.py").write_text("raise SystemExit(3)")
    assert program.main(["fanout", "--against", "slow", "--runs", "1"]) == 1
    assert "The benchmark of here ended with 3" in capsys.readouterr().err
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    monkeypatch.setattr(program, "ROOT", tmp_path)
    assert program.main(["fanout", "--against", "slow"]) == 1
    assert f"{tmp_path} is no git checkout" in capsys.readouterr().err


def test_one_comparison_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["fanout", "--against", "main", "--compare", "some.json"])
    assert "not allowed with argument" in capsys.readouterr().err
