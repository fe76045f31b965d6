"""How the person started us, so that what a message says to type works as pasted."""

from __future__ import annotations

import os

PROGRAM = os.environ.get("FLEETPUSH_PROGRAM", "fleetpush")
"""run.py sets it: where that is used, there is no `fleetpush` on the path."""
