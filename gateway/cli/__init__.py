"""The command line: `fleetpush` (also `python -m gateway`).

Each command is a thin translation: to the composition root (`serve`), to the public HTTP interface (everything an
operator does), to the reference device (`listen`), to the data directory (`backup`, `restore`, `doctor`). Heavy imports
stay inside the commands, so that `fleetpush push` does not load a broker.

Exit codes: 0 done; 1 it could not be done (the reason and its remedy are on stderr); 2 wrong use.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.data import backup, restore
from gateway.cli.devices import devices
from gateway.cli.doctor import doctor
from gateway.cli.keys import keys
from gateway.cli.listen import listen
from gateway.cli.pushes import push, watch
from gateway.cli.terminal import Failure, note


def main() -> None:
    try:
        app(prog_name="fleetpush")
    except Failure as failure:
        note(f"fleetpush: {failure}")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); it has what it wanted.
        sys.stderr.close()
        sys.exit(0)


def serve(
    data_dir: Annotated[Path | None, typer.Option(help="Everything is kept here. Default: ./fleetpush-data")] = None,
    mqtt_port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one. Default: 1883")] = None,
    http_port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one. Default: 8080")] = None,
    bind: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1")] = None,
    insecure: Annotated[bool | None, typer.Option("--insecure", help="Another address without TLS")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM)")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM)")] = None,
    public_host: Annotated[str | None, typer.Option(help="What enrolled devices are told to connect to")] = None,
    clock_speed: Annotated[float | None, typer.Option(help="Run time this much faster (simulations)")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file. Default: ./fleetpush.toml if there")] = None,
) -> None:
    """Run broker and gateway in this process until SIGTERM or Ctrl-C."""
    given = {name: value for name, value in locals().items() if name != "config" and value is not None}
    from gateway.app import run
    from gateway.settings import Settings

    raise typer.Exit(run(Settings.load(config, **given)))


def demo() -> None:
    """The whole promise on real sockets, in under a minute: three devices, one kill -9, a ledger that adds up."""
    from gateway.demo import run

    run()


app = typer.Typer(
    name="fleetpush",
    help="Push for private fleets: an MQTT broker, a gateway with a ledger, and devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)
app.command()(serve)
app.command()(demo)
app.add_typer(devices, name="devices")
app.command()(push)
app.command()(watch)
app.add_typer(keys, name="keys")
app.command()(listen)
app.command()(doctor)
app.command()(backup)
app.command()(restore)
