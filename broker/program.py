"""The version of the installed package, and which form of it runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from broker.compiled_modules import running_form


def installed_version() -> str:
    """Return the version; `unknown` if only the source is there."""
    try:
        return version("fleetpush")
    except PackageNotFoundError:
        return "unknown"


def version_line() -> str:
    """Return what `--version` prints."""
    return f"fleetpush {installed_version()} ({running_form()})"
