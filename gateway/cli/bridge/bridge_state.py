"""The memory of a bridge over a restart.

One small JSON file, replaced as a whole, holds how far the bridge has followed the events, which outcomes it owes, and
which entities it has announced. It is written after it has been acted upon: who is killed in between publishes the
same outcome twice, on the same topic. Without the file nothing goes wrong, but the outcome of what is under way is
not published, and buttons of commands that have gone stay until Home Assistant forgets them.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gateway.cli.bridge.home_assistant import Platforms
from gateway.cli.terminal import Failure, note

MAX_OWED_OUTCOMES = 1_000
"""Pushes whose outcome is published when it is known; the oldest lose."""


@dataclass(frozen=True)
class OwedOutcome:
    """A push that the bridge has sent. `command` is None for a notification."""

    device_id: str
    command: str | None


@dataclass
class BridgeState:
    """The memory of one bridge, of one server."""

    cursor: str | None = None
    """The id of the last event that was handled."""
    owed: dict[str, OwedOutcome] = field(default_factory=dict)
    """Push id -> what is owed for it, the oldest first."""
    announced: dict[str, Platforms] = field(default_factory=dict)
    """Device id -> the entities of the last discovery message that the broker has."""

    def owe(self, push_id: str, outcome: OwedOutcome) -> None:
        """Remember a push, and forget the oldest of too many."""
        self.owed[push_id] = outcome
        while len(self.owed) > MAX_OWED_OUTCOMES:
            del self.owed[next(iter(self.owed))]


class StateFile:
    """The file of a BridgeState, which one bridge has at a time."""

    def __init__(self, path: Path) -> None:
        """Raises Failure when it cannot be used, or another bridge uses it."""
        self._path = path
        self._written = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = path.with_suffix(".lock").open("w")
        except OSError as error:
            raise Failure(f"{path} cannot be used: {error.strerror}; --state names another file") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Failure(f"another bridge uses {path}: give this one a --name or a --state of its own") from None

    def close(self) -> None:
        self._lock.close()

    def read(self) -> BridgeState:
        """Read the state; an empty one if there is none, or none that can be read."""
        try:
            found = json.loads(self._path.read_text())
            return _state_of(found)
        except FileNotFoundError:
            return BridgeState()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            note(f"{self._path} cannot be read ({error}): the bridge begins anew.")
            return BridgeState()

    def write(self, state: BridgeState) -> None:
        """Write the state, if it has changed. A disk that refuses it is told about, and tried again."""
        text = json.dumps(asdict(state))
        if text == self._written:
            return
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(text)
            os.replace(temporary, self._path)
        except OSError as error:
            note(f"{self._path} cannot be written: {error.strerror}")
            return
        self._written = text


def _state_of(found: Any) -> BridgeState:
    cursor = found["cursor"]
    return BridgeState(
        None if cursor is None else str(cursor),
        {str(push_id): OwedOutcome(**owed) for push_id, owed in found["owed"].items()},
        {
            str(device_id): {str(key): str(platform) for key, platform in entities.items()}
            for device_id, entities in found["announced"].items()
        },
    )
