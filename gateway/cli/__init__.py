"""The command line: `fleetpush` (also `python -m gateway`).

Each command is a thin translation: to the composition root (`serve`), to the public HTTP interface (everything an
operator does), to a device (`listen`, `kiosk`) or thousands (`simulate`), to the data directory (`tls`, `backup`,
`verify-backup`, `restore`, `doctor`). Heavy imports stay inside the commands, so that `fleetpush push` does not load a
broker.

Exit codes: 0 done; 1 it could not be done (the reason and its remedy are on stderr); 2 wrong use. `simulate` adds 99.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.cli.options import HELP_NAMES, MARKUP, command_group
from gateway.cli.terminal import PROGRAM, Failure, abandon_output, note

COMMANDS = {
    "serve": "gateway.cli.serve:serve",
    "demo": "gateway.cli:demo",
    "devices": "gateway.cli.devices:devices",
    "push": "gateway.cli.push:push",
    "watch": "gateway.cli.watch:watch",
    "pushes": "gateway.cli.pushes:pushes",
    "call": "gateway.cli.call:call",
    "mailbox": "gateway.cli.mailbox:mailbox",
    "attachments": "gateway.cli.attachments:attachments",
    "channels": "gateway.cli.channels:channels",
    "policy": "gateway.cli.policy:policy",
    "topics": "gateway.cli.topics:topics",
    "segments": "gateway.cli.segments:segments",
    "campaigns": "gateway.cli.campaigns:campaigns",
    "duties": "gateway.cli.duties:duties",
    "templates": "gateway.cli.templates:templates",
    "schedules": "gateway.cli.schedules:schedules",
    "consent": "gateway.cli.consent:consent",
    "preferences": "gateway.cli.consent:preferences",
    "heartbeats": "gateway.cli.heartbeats:heartbeats",
    "watches": "gateway.cli.watches:watches",
    "events": "gateway.cli.events:events",
    "webhooks": "gateway.cli.webhooks:webhooks",
    "bridge": "gateway.cli.bridge.command:bridge",
    "stats": "gateway.cli.stats:stats",
    "analytics": "gateway.cli.analytics:analytics",
    "apps": "gateway.cli.apps:apps",
    "keys": "gateway.cli.keys:keys",
    "audit": "gateway.cli.audit:audit",
    "signing": "gateway.cli.signing:signing",
    "listen": "gateway.cli.listen:listen",
    "kiosk": "gateway.cli.kiosk:kiosk",
    "simulate": "gateway.cli:simulate",
    "tls": "gateway.cli.tls:tls",
    "doctor": "gateway.cli.doctor:doctor",
    "monitoring": "gateway.cli.monitoring:monitoring",
    "backup": "gateway.cli.backups:backup",
    "verify-backup": "gateway.cli.backups:verify_backup",
    "backup-key": "gateway.cli.backups:backup_key",
    "restore": "gateway.cli.backups:restore",
    "migrate-store": "gateway.cli.store_transfer:migrate_store",
}
"""Name -> module:attribute, a function or a group of commands; in the order of the help."""


class Commands(TyperGroup):
    """All commands. Each is imported and built when it is wanted, so that none pays for the others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = dict.fromkeys(COMMANDS)  # their names, for the list and for who mistypes one

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return build_command(cmd_name) if cmd_name in COMMANDS else None


@cache
def build_command(name: str) -> Any:
    """Import a command and read its signatures, once for a process: tests run hundreds in one."""
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, command_group()
        found.command(**OWN_ARGUMENTS if name == "simulate" else {})(function)
    command = typer.main.get_command(found)
    command.name = name
    return command


def main() -> None:
    # Closed (`>&-`): what is printed goes nowhere, and no file that is opened takes its number.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # for the whole process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # the same
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows ASCII only shows a question mark where it cannot show a letter.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            app(prog_name=PROGRAM)
        finally:
            sys.stdout.flush()  # what cannot be written is told below, not by Python at its end
    except Failure as failure:
        note(f"fleetpush: {failure}")
        sys.exit(failure.exit_code)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); it has what it wanted.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        note(f"fleetpush: {error.filename or 'the output'} cannot be written: {error.strerror}")
        abandon_output()
        sys.exit(1)


def demo() -> None:
    """The whole promise on real sockets, in under a minute: three devices, one kill -9, a ledger that adds up."""
    from gateway.cli.demo import run

    run()


def simulate(arguments: typer.Context) -> None:
    """A fleet of simulated devices: is every push delivered as promised, and how fast? `simulate --help` says more."""
    from client_sim.simulator.command import main

    raise typer.Exit(main(arguments.args))


def print_version(wanted: bool) -> None:
    if wanted:
        from gateway.program import version_line

        print(version_line())
        raise typer.Exit


def fleetpush(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version")
    ] = False,
) -> None:
    """Push for private fleets: an MQTT broker, a gateway with a ledger, and devices."""


OWN_ARGUMENTS: Any = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
}
"""The simulator stands on its own (`python -m client_sim`) and reads its own arguments, `--help` too."""

app = typer.Typer(
    name="fleetpush",
    cls=Commands,
    no_args_is_help=True,
    # A shell completes the name of a program: `python3 run.py` is none.
    add_completion=" " not in PROGRAM,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    context_settings=HELP_NAMES,
)
app.callback()(fleetpush)
