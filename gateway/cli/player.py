"""A silent player for the terminal device, so that the actions play, pause and next have something to do. A line says
what would be heard. Its pieces are those of the browser device."""

from __future__ import annotations

from typing import Any

PIECES = ("Morning light", "Window seat", "Last train home")


class Player:
    """Plays the pieces, one after the other, without a sound."""

    def __init__(self) -> None:
        self._piece = 0
        self._playing = False

    def do(self, name: str) -> dict[str, Any] | None:
        """Carry out an action or a command; its result, `{"state": "playing" | "paused", "title": ..}`. None for a name
        that a player does not know."""
        match name:
            case "play":
                self._playing = True
            case "pause":
                self._playing = False
            case "next":
                self._piece = (self._piece + 1) % len(PIECES)
            case _:
                return None
        return {"state": "playing" if self._playing else "paused", "title": PIECES[self._piece]}
