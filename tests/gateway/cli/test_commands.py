"""The command line as a whole: help and version everywhere, completion, and no command that pays for another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from broker.compiled_modules import running_form
from gateway.cli import COMMANDS, app
from tests.end_to_end.harness import ROOT


def every_command(names: Iterable[str] = COMMANDS) -> Iterator[tuple[str, ...]]:
    """Each as it is typed. To build one takes a while."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root)
    for name in names:
        command = root.get_command(context, name)
        yield (name,)
        yield from ((name, verb) for verb in getattr(command, "commands", ()))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_that_says_what_it_does(name: str) -> None:
    for words in every_command([name] if name != "simulate" else []):
        texts = [CliRunner().invoke(app, [*words, flag]).stdout for flag in ("-h", "--help")]
        assert texts[0] == texts[1]
        usage, _, description = texts[0].partition("\n\n")
        assert usage.startswith(f"Usage: fleetpush {' '.join(words)} ")
        assert description.strip(), words
        assert "-h, --help" in texts[0]


def test_the_help_lists_every_command() -> None:
    text = CliRunner().invoke(app, ["-h"]).stdout
    assert not [name for name in COMMANDS if f"\n  {name} " not in text]


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"fleetpush {version('fleetpush')} ({running_form()})\n"


def test_who_mistypes_a_command_is_told_the_right_one() -> None:
    wrong = CliRunner().invoke(app, ["pushs"])
    assert wrong.exit_code == 2
    assert "'pushes'" in wrong.stderr


def test_shells_are_told_every_command_and_every_verb() -> None:
    root: Any = typer.main.get_command(app)
    context = typer.Context(root)
    assert [item.value for item in root.shell_complete(context, "")] == list(COMMANDS)
    verbs = {words for words in every_command() if len(words) == 2}
    completed = set()
    for name in {name for name, _ in verbs}:
        group = root.get_command(context, name)
        completed |= {(name, item.value) for item in group.shell_complete(typer.Context(group, parent=context), "")}
    assert completed == verbs
    assert {("devices", "enrol"), ("webhooks", "dead-letters"), ("policy", "critical-uses")} < verbs


def test_a_full_disk_is_one_line() -> None:
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "--version"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "fleetpush: the output cannot be written: No space left on device\n"


COMPLETED = {
    "bash": {"COMP_WORDS": "fleetpush pushes deliveries p1 --state ex", "COMP_CWORD": "5"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "fleetpush pushes deliveries p1 --state ex"},
    "fish": {
        "_TYPER_COMPLETE_ARGS": "fleetpush pushes deliveries p1 --state ex",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    },
}


@pytest.mark.parametrize("shell", COMPLETED)
def test_shells_complete_commands_and_their_values(shell: str) -> None:
    environment = os.environ | {"_FLEETPUSH_COMPLETE": f"complete_{shell}"} | COMPLETED[shell]
    command = "import sys; sys.argv[0] = 'fleetpush'; from gateway.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", command], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "expired" in found.stdout, found.stderr
    assert "waiting" not in found.stdout


def test_a_push_loads_what_a_push_needs() -> None:
    """Its start is a person's wait: no broker, no client of ours, nothing of other commands."""
    script = (
        "import sys; from gateway.cli import app\n"
        "try: app(['push', '--help'], prog_name='fleetpush')\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {name for name in loaded.stderr.split() if name.partition(".")[0] in ("gateway", "broker", "client_sim")}
    expected = {"attachments", "options", "push", "push_times", "server_client", "signing", "terminal", "watch"}
    assert {name for name in ours if name.startswith("gateway.cli.")} == {f"gateway.cli.{name}" for name in expected}
    assert not [name for name in ours if name.startswith(("broker", "client_sim", "gateway.api", "gateway.delivery"))]
    assert not {"fastapi", "sqlmodel", "uvloop", "cryptography"} & set(loaded.stderr.split())
