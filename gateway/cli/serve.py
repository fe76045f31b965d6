"""`fleetpush serve`: a flag for each setting of the server, made from the settings themselves."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.options import load_settings
from gateway.settings import Setting, described_settings


def serve(config: Path | None = None, **given: Any) -> None:
    """Run broker and gateway in this process until SIGTERM or Ctrl-C. docs/reference/settings.md has every setting."""
    settings = load_settings(config, **{name: value for name, value in given.items() if value not in (None, [])})
    # What is imported stays, and it is much: a collector that looks through it time and again while it grows takes a
    # sixth of the start.
    gc.disable()
    from gateway.app import run

    gc.freeze()
    gc.enable()
    raise typer.Exit(run(settings))


def _parameters() -> Iterator[inspect.Parameter]:
    """The parameters of `serve` as typer is to see them: one for each setting that has a flag, and `config`."""
    for setting in described_settings():
        if setting.has_flag:
            yield _parameter(setting.name, _kind(setting), typer.Option(setting.flag, help=_help(setting)))
    text = "Settings file. Default: ./fleetpush.toml if it is there."
    yield _parameter("config", Path, typer.Option("--config", help=text))


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind(setting: Setting) -> Any:
    """The type that typer reads a flag as. Text is left to the settings, which say what it may be."""
    kinds = {"on or off": bool, "whole number": int, "number": float, "path": Path, "list": list[str]}
    return kinds.get(setting.values, str)


def _help(setting: Setting) -> str:
    default = setting.default.strip("`")
    if setting.values == "whole number":
        default = default.replace(",", "")  # as it may be typed
    shown = "" if default in ("unset", "off") else f" Default: {default}."
    return setting.text + (" May be repeated." if setting.values == "list" else "") + shown


serve.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]  # typer reads it
