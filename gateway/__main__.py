"""`fleetpush` and `python -m gateway`: the command line, or which extra has to be installed for a command.

Without the extra `server` the device client is alone: there, only `--version` works.

A server is told to reload as soon as its process is there, and all else that it imports takes most of a second. So
nothing is imported here before hang-ups are kept, except what that needs.
"""

from __future__ import annotations

import shlex
import sys

from gateway.hangup import keep_hangups

OURS = ("broker", "client_sim", "gateway")


def main() -> None:
    if command_name(sys.argv[1:]) == "serve":
        keep_hangups()
    try:
        from gateway.cli import main as run

        run()
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] in OURS:
            raise
        sys.exit(without(missing.name, sys.argv[1:]))


def command_name(arguments: list[str]) -> str:
    """Return the name of the command, empty if there is none. What may stand before it has no value of its own."""
    return next((word for word in arguments if not word.startswith("-")), "")


def without(package: str, arguments: list[str]) -> int:
    """Say what to type for the missing package; the exit code."""
    if arguments == ["--version"]:
        from gateway.program import version_line

        print(version_line())
        return 0
    command = command_name(arguments)
    extra = "simulator" if command == "simulate" else "server"
    print(
        f"fleetpush: `{f'fleetpush {command}'.strip()}` needs the package {package}, which is not installed; "
        f"type: {shlex.quote(sys.executable)} -m pip install 'fleetpush[{extra}]'",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main()
