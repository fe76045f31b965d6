"""The command line: `fleetpush` (also `python -m gateway`).

Each command is a thin translation: to the composition root (`serve`), to the public HTTP interface (everything an
operator does), to a device (`listen`, `kiosk`) or thousands (`simulate`), to the data directory (`tls`, `backup`,
`restore`, `doctor`). Heavy imports stay inside the commands, so that `fleetpush push` does not load a broker.

Exit codes: 0 done; 1 it could not be done (the reason and its remedy are on stderr); 2 wrong use. `simulate` adds 99.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.cli.options import HELP_NAMES, MARKUP, command_group, load_settings
from gateway.cli.terminal import PROGRAM, Failure, abandon_output, note
from gateway.hangup import hold_hangups

COMMANDS = {
    "serve": "gateway.cli:serve",
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
    "consent": "gateway.cli.consent:consent",
    "preferences": "gateway.cli.consent:preferences",
    "events": "gateway.cli.events:events",
    "webhooks": "gateway.cli.webhooks:webhooks",
    "analytics": "gateway.cli.analytics:analytics",
    "apps": "gateway.cli.apps:apps",
    "keys": "gateway.cli.keys:keys",
    "listen": "gateway.cli.listen:listen",
    "kiosk": "gateway.cli.kiosk:kiosk",
    "simulate": "gateway.cli:simulate",
    "tls": "gateway.cli.tls:tls",
    "doctor": "gateway.cli.doctor:doctor",
    "backup": "gateway.cli.data:backup",
    "restore": "gateway.cli.data:restore",
}
"""Name -> module:attribute, a function or a group of commands; in the order of the help."""


class Commands(TyperGroup):
    """All commands. Each is imported and built when it is wanted, so that none pays for the others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = dict.fromkeys(COMMANDS)  # their names, for the list and for who mistypes one

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            function, found = found, command_group()
            found.command(**OWN_ARGUMENTS if cmd_name == "simulate" else {})(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
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


def serve(
    data_dir: Annotated[Path | None, typer.Option(help="Everything is kept here. Default: ./fleetpush-data")] = None,
    bind: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1")] = None,
    mqtt_port: Annotated[int | None, typer.Option(help="0: any free one. Default: 1883")] = None,
    http_port: Annotated[int | None, typer.Option(help="0: any free one. Default: 8080")] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(help="One more: mqtt(s)://, ws(s)://HOST:PORT, unix:/path; repeatable"),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Another address than loopback, unencrypted")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM). Default: DATA_DIR/tls/server.pem")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM). Default: DATA_DIR/tls/server.key")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Who vouches for devices. Default: DATA_DIR/tls/ca.pem")] = None,
    client_certificates: Annotated[str | None, typer.Option(help="none, optional (default) or required")] = None,
    ws_origins: Annotated[
        list[str] | None,
        typer.Option(help="Whose pages may connect, as https://kiosk.example; repeatable"),
    ] = None,
    trusted_proxies: Annotated[
        list[str] | None, typer.Option(help="Address or network whose word on clients counts; repeatable")
    ] = None,
    public_host: Annotated[str | None, typer.Option(help="What enrolled devices are told to connect to")] = None,
    public_url: Annotated[
        str | None, typer.Option(help="What they reach HTTP by, as https://push.example, behind a proxy")
    ] = None,
    max_payload: Annotated[str | None, typer.Option(help="Bytes of a push on the wire. Default: 4096")] = None,
    mailbox_deliveries: Annotated[int | None, typer.Option(help="Waiting per device. Default: 1000")] = None,
    mailbox_bytes: Annotated[str | None, typer.Option(help="The same in bytes. Default: 4 MiB")] = None,
    max_inflight: Annotated[int | None, typer.Option(help="Unacknowledged per device. Default: 512")] = None,
    ack_timeout: Annotated[float | None, typer.Option(help="Seconds. Default: 300")] = None,
    connections_per_address: Annotated[
        int | None, typer.Option(help="Devices connected from one address. Default: 50000")
    ] = None,
    device_message_rate: Annotated[
        int | None, typer.Option(help="Messages per second and device. Default: 500")
    ] = None,
    device_byte_rate: Annotated[str | None, typer.Option(help="The same in bytes. Default: 512 KiB")] = None,
    request_limit: Annotated[int | None, typer.Option(help="HTTP requests per second and key. Default: 20000")] = None,
    disk_reserve: Annotated[str | None, typer.Option(help="Bytes that stay free. Default: 32 MiB")] = None,
    retention_days: Annotated[float | None, typer.Option(help="For ended deliveries. Default: 30")] = None,
    counts_days: Annotated[float | None, typer.Option(help="For final counts. Default: 400")] = None,
    idempotency_hours: Annotated[float | None, typer.Option(help="Default: 24")] = None,
    uplink_keep: Annotated[int | None, typer.Option(help="Uplink messages per device. Default: 100")] = None,
    uplink_days: Annotated[float | None, typer.Option(help="Default: 7")] = None,
    event_days: Annotated[float | None, typer.Option(help="For events. Default: 7")] = None,
    webhook_networks: Annotated[
        list[str] | None, typer.Option(help="Private network that webhooks may be sent to; repeatable")
    ] = None,
    max_attachment: Annotated[str | None, typer.Option(help="Bytes of an attachment. Default: 5 MiB")] = None,
    attachment_storage: Annotated[str | None, typer.Option(help="Bytes of all of them. Default: 1 GiB")] = None,
    clock_speed: Annotated[float | None, typer.Option(help="Time runs this much faster (simulations)")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. Default: info")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file. Default: ./fleetpush.toml if there")] = None,
) -> None:
    """Run broker and gateway in this process until SIGTERM or Ctrl-C. docs/reference/settings.md has every setting."""
    given = {name: value for name, value in locals().items() if name != "config" and value not in (None, [])}
    hold_hangups()
    settings = load_settings(config, **given)
    # What is imported stays, and it is much: a collector that looks through it time and again while it grows takes a
    # sixth of the start.
    gc.disable()
    from gateway.app import run

    gc.freeze()
    gc.enable()
    raise typer.Exit(run(settings))


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
        from gateway.program import installed_version

        print(f"fleetpush {installed_version()}")
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
