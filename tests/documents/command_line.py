"""The reference page of the command line, from the commands themselves."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest.mock import patch

import typer

from gateway import cli
from tests.documents.markdown import table

COMMON: Final = ("--server", "--data-dir", "--json", "-h")
"""Options that are explained once, at the top."""


def page() -> str:
    sections = "\n\n".join(_section(path, command, context) for path, command, context in _commands())
    return f"""# Command line

`fleetpush COMMAND`; in a checkout `python3 run.py COMMAND`; also `python -m gateway COMMAND`. `-h` explains each
command. How commands find their server, the exit codes and shell completion are in
[The command line](../command-line.md).

Options that many commands have:

| option | meaning |
| --- | --- |
| `--server <str>` | Address of the server, as `http://HOST:PORT`; the key is `FLEETPUSH_KEY`. Or: `FLEETPUSH_URL`. |
| `--data-dir <path>` | Data directory of a server on this machine. Default: `./fleetpush-data`. |
| `--json` | JSON, for scripts. |
| `-h`, `--help` | Show the help and exit. |

{sections}

## `python -m broker`

{_of_parser(broker_parser())}
"""


def flags() -> dict[str, set[str]]:
    """The long options of each command and group."""
    found = {path: _long_options(command, context) for path, command, context in _commands()}
    own = {option for action in simulator_parser()._actions for option in action.option_strings}
    return found | {"simulate": own}


def _long_options(command: Any, context: Any) -> set[str]:
    words = (word for left, _ in _records(command, context) for word in left.replace(",", " ").split())
    return {word for word in words if word.startswith("--")}


def _commands() -> Iterator[tuple[str, Any, Any]]:
    """Every command that does something, depth first: its name, the command, its context."""
    program: Any = typer.main.get_command(cli.app)
    root = program.make_context("fleetpush", [], resilient_parsing=True)

    def below(group: Any, context: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            inner = type(context)(command, info_name=name, parent=context)
            here = f"{path} {name}".strip()
            yield here, command, inner
            if hasattr(command, "commands"):
                yield from below(command, inner, here)

    yield from below(program, root, "")


def _section(path: str, command: Any, context: Any) -> str:
    depth = "##" if " " not in path else "###"
    text = " ".join(str(command.help or "").split("\f")[0].split())
    if hasattr(command, "commands"):
        return f"{depth} `fleetpush {path}`\n\n{text}"
    if path == "simulate":
        return f"{depth} `fleetpush simulate`\n\n{_of_parser(simulator_parser())}"
    usage = " ".join([f"fleetpush {path}", *command.collect_usage_pieces(context)])
    rows = [
        (f"`{left}`", right) for left, right in _records(command, context) if left.split()[0].rstrip(",") not in COMMON
    ]
    parts = [f"{depth} `fleetpush {path}`", text, f"`{usage}`"]
    return "\n\n".join([*parts, table(("option", "meaning"), rows)] if rows else parts)


def _records(command: Any, context: Any) -> list[tuple[str, str]]:
    """Each argument and option as the help shows it, and what the help says of it."""
    found = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    return [(str(left), str(right)) for left, right in filter(None, found)]


def _of_parser(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or action.dest == "help":
            continue
        name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.option_strings and action.nargs != 0:
            choices = "|".join(map(str, action.choices)) if action.choices else None
            name = f"{name} {choices or action.metavar or action.dest.upper()}"
        rows.append((f"`{name}`", str(action.help or "") % {"default": action.default, "prog": parser.prog}))
    parts = [str(parser.description or ""), table(("option", "meaning"), rows), str(parser.epilog or "")]
    return "\n\n".join(part for part in parts if part)


def simulator_parser() -> argparse.ArgumentParser:
    context = next(context for path, _, context in _commands() if path == "simulate")
    return _parser_of(lambda: cli.simulate(context))


def broker_parser() -> argparse.ArgumentParser:
    from broker.command import main

    return _parser_of(lambda: main([]))


def _parser_of(program: Callable[[], object]) -> argparse.ArgumentParser:
    """The parser that a program reads its arguments with."""
    found: list[argparse.ArgumentParser] = []

    class Caught(Exception):
        pass

    def parse_args(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        found.append(parser)
        raise Caught

    with patch.object(argparse.ArgumentParser, "parse_args", parse_args):
        try:
            program()
        except Caught:
            pass
    return found[0]
