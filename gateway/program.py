"""The command that started us, so that what a message says to type works as pasted; the version, and its form."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

PROGRAM = os.environ.get("FLEETPUSH_PROGRAM", "fleetpush")
"""run.py sets it: where that is used, there is no `fleetpush` on the path."""


def installed_version() -> str:
    """Return the version of the installed package; `unknown` where only the source is there."""
    try:
        return version("fleetpush")
    except PackageNotFoundError:
        return "unknown"


def version_line() -> str:
    """Return what `--version` prints."""
    from broker.compiled_modules import running_form  # here: no other command needs anything of the broker

    return f"fleetpush {installed_version()} ({running_form()})"
