"""`fleetpush` and `python -m gateway`: the command line, or which extra has to be installed for a command.

Without the extra `server` the device client is alone: there, only `--version` works.
"""

from __future__ import annotations

import shlex
import sys

from gateway.program import installed_version

OURS = ("broker", "client_sim", "gateway")


def main() -> None:
    try:
        from gateway.cli import main as run

        run()
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] in OURS:
            raise
        sys.exit(without(missing.name, sys.argv[1:]))


def without(package: str, arguments: list[str]) -> int:
    """Say what to type for the missing package; the exit code."""
    if arguments == ["--version"]:
        print(f"fleetpush {installed_version()}")
        return 0
    command = next((word for word in arguments if not word.startswith("-")), "")
    extra = "simulator" if command == "simulate" else "server"
    print(
        f"fleetpush: `{f'fleetpush {command}'.strip()}` needs the package {package}, which is not installed; "
        f"type: {shlex.quote(sys.executable)} -m pip install 'fleetpush[{extra}]'",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main()
