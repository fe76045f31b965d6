"""A device program that kills itself, like `kill -9`, at a chosen place after the effect of a command."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path
from typing import Literal

from client_sim import device as device_module
from client_sim.backoff import Backoff
from client_sim.device import Device
from client_sim.journal import Journal, OutgoingMessage
from client_sim.push import Push

Place = Literal["in the effect", "in the journal", "any time", "never"]
SOON = 0.003
"""Seconds in which journal and acknowledgement follow the effect."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingJournal(Journal):
    """Dies when the effect is on disk and nothing has left yet."""

    def finish(self, push_id: str, message: OutgoingMessage | None = None) -> None:
        super().finish(push_id, message)
        if message is not None and "interrupted" not in str(message[1]):
            die()


def live(place: Place, port: int, folder: str) -> None:
    """A whole life. An effect is a line in a file."""

    def effect(push: Push) -> dict[str, bool]:
        with (Path(folder) / "effects").open("a") as effects:
            effects.write(f"{push.push_id}\n")
        if place == "in the effect":
            die()
        if place == "any time":
            threading.Timer(random.uniform(0, SOON), die).start()
        return {"done": True}

    if place == "in the journal":
        vars(device_module)["Journal"] = DyingJournal  # in this process, which is about to die
    device = Device("d1", "token", port=port, journal=Path(folder) / "journal.db", backoff=Backoff(0.001, 0.01))
    device.commands["do"] = effect
    device.start()
    threading.Event().wait()
