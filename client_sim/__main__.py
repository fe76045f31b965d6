"""`python -m client_sim`: the simulator's command, as `fleetpush simulate`."""

from __future__ import annotations

import sys
from contextlib import suppress

if __name__ == "__main__":  # a worker process of the simulator loads this module too, and needs no command
    from client_sim.simulator.command import main

    with suppress(BrokenPipeError):
        sys.exit(main())
