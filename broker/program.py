"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version; `unknown` if only the source is there."""
    try:
        return version("fleetpush")
    except PackageNotFoundError:
        return "unknown"
