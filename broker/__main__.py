"""`python -m broker`: the MQTT server alone, or which extra has to be installed for it."""

from __future__ import annotations

import shlex
import signal
import sys


def main() -> int:
    # A service manager may say "reload" as soon as there is a process. Until the server can, SIGHUP is pending.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        from broker.command import main as serve
    except ModuleNotFoundError as missing:
        if sys.argv[1:] == ["--version"]:
            from broker.program import version_line

            print(version_line())
            return 0
        if (missing.name or "broker").partition(".")[0] == "broker":
            raise
        print(
            f"broker: the server needs the package {missing.name}, which is not installed; "
            f"type: {shlex.quote(sys.executable)} -m pip install 'fleetpush[server]'",
            file=sys.stderr,
        )
        return 2
    return serve()


if __name__ == "__main__":
    sys.exit(main())
