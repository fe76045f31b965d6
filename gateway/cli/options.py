"""What several commands share: how to say which server is meant, and how an answer is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.server_client import ServerClient
from gateway.cli.terminal import Failure

if TYPE_CHECKING:
    from gateway.settings import Settings

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="The server's data directory. Default: ./fleetpush-data")
]
ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="FLEETPUSH_URL",
        help="The server's address, as http://HOST:PORT; its key is taken from FLEETPUSH_KEY",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for scripts")]


def load_settings(config: Path | None = None, **given: Any) -> Settings:
    """The settings of this run; a mistake in them is wrong use."""
    from gateway.settings import BadSettings, Settings

    try:
        return Settings.load(config, **given)
    except BadSettings as error:
        raise Failure(str(error), 2) from None


def found_data_dir(given: Path | None) -> Path:
    """The flag, or what the server's settings say (variable, fleetpush.toml, default)."""
    return given if given is not None else load_settings().data_dir


def client_of(url: str | None, data_dir: Path | None) -> ServerClient:
    return ServerClient.find(url, found_data_dir(data_dir))
