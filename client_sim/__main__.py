"""`python -m client_sim`: the simulator, as `fleetpush simulate`, or which extra has to be installed for it."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress

from client_sim.program import installed_version


def main() -> int:
    try:
        from client_sim.simulator.command import main as simulate
    except ModuleNotFoundError as missing:
        if sys.argv[1:] == ["--version"]:
            print(f"fleetpush {installed_version()}")
            return 0
        if (missing.name or "client_sim").partition(".")[0] in ("client_sim", "broker"):
            raise
        print(
            f"client_sim: the simulator needs the package {missing.name}, which is not installed; "
            f"type: {shlex.quote(sys.executable)} -m pip install 'fleetpush[simulator]'",
            file=sys.stderr,
        )
        return 2
    return simulate()


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
