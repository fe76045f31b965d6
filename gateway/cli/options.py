"""What several commands share: how to say which server is meant, and how an answer is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.server_client import ServerClient

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="The server's data directory. Default: ./fleetpush-data")
]
ServerUrl = Annotated[
    str | None, typer.Option("--server", envvar="FLEETPUSH_URL", help="The server's address, as http://HOST:PORT")
]
AsJson = Annotated[bool, typer.Option("--json", help="The server's answer as JSON")]


def found_data_dir(given: Path | None) -> Path:
    """The flag, or what the server's settings say (variable, fleetpush.toml, default)."""
    if given is not None:
        return given
    from gateway.settings import Settings

    return Settings.load().data_dir


def client_of(url: str | None, data_dir: Path | None) -> ServerClient:
    return ServerClient.find(url, found_data_dir(data_dir))
