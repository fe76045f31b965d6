"""A push as it reaches a device, and what a program's handlers make of it."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

CONSENT_ACTIONS = {"consent.granted": "granted", "consent.denied": "denied"}
"""Actions of a push that asks for consent, and the answer that choosing one is."""

Handler = Callable[["Push"], Any]
"""A function of the program. What it returns must be JSON where it is a result."""


@dataclass(frozen=True)
class Push:
    """A push as it arrived. `message` is the whole JSON object, with fields that this version does not know."""

    push_id: str
    kind: str
    message: dict[str, Any]
    expires_in: int
    received_at: float = field(default_factory=time.monotonic)
    input: str | None = None
    """The text that the person typed, for the handler of an action that asks for one."""
    signed_by: str | None = None
    """The thumbprint of the publisher's key that signed the `data`, verified here (`trust`). None: nobody's, or nobody
    has looked, because the device has no `trusted_keys`."""

    @classmethod
    def parse(cls, payload: bytes | bytearray) -> Push:
        """Raises ValueError for what cannot be a push."""
        message = json.loads(payload)
        if not isinstance(message, dict) or not isinstance(message.get("push_id"), str):
            raise ValueError("not a JSON object with a push_id")
        expires_in = message.get("expires_in")
        return cls(
            push_id=message["push_id"],
            kind=str(message.get("kind", "alert")),
            message=message,
            expires_in=expires_in if isinstance(expires_in, int) else 0,
        )

    @property
    def notification(self) -> dict[str, Any]:
        """The content that a person sees: `title`, `body`, `actions` and so on; empty for a push that shows nothing."""
        found = self.message.get("notification")
        return found if isinstance(found, dict) else {}

    @property
    def data(self) -> Any:
        """The sender's data, any JSON; None without."""
        return self.message.get("data")

    @property
    def priority(self) -> str:
        """`critical`, `high`, `normal` or `low`."""
        return str(self.message.get("priority", "normal"))

    @property
    def actions(self) -> list[dict[str, Any]]:
        """The buttons of the notification, each with an `id` and a `title`."""
        found = self.notification.get("actions")
        return [action for action in found if isinstance(action, dict)] if isinstance(found, list) else []

    def choice(self, action: str) -> dict[str, Any]:
        """One of the actions, by its id; empty if the push has none of it."""
        return next((choice for choice in self.actions if choice.get("id") == action), {})

    @property
    def collapse_key(self) -> str | None:
        """The key by which a newer push takes this one's place; None without."""
        found = self.message.get("collapse_key")
        return found if isinstance(found, str) else None

    @property
    def command(self) -> str | None:
        """The order's name: `data` of `{"command": "reboot", ..}`. None for other kinds, and for one without a name."""
        name = self.data.get("command") if self.kind == "command" and isinstance(self.data, dict) else None
        return name if isinstance(name, str) else None

    @property
    def channel(self) -> str | None:
        """The category that a person can mute; None without."""
        found = self.message.get("channel")
        return found if isinstance(found, str) else None

    @property
    def fetch_from(self) -> str | None:
        """The server that keeps this push's attachments, as `https://host`."""
        found = self.message.get("fetch_from")
        return found if isinstance(found, str) else None

    @property
    def fetch_within(self) -> int:
        """Seconds over which a fleet spreads its fetches of what belongs to it; 0: at once."""
        found = self.message.get("fetch_within")
        return max(0, found) if isinstance(found, int) else 0

    @property
    def leaves_screen_in(self) -> float | None:
        """Seconds until it is to leave the screen by itself; None: it stays there until somebody answers it."""
        if self.notification.get("expires") != "screen" or self.expires_in <= 0:
            return None
        return self.expires_in - (time.monotonic() - self.received_at)

    @property
    def expired(self) -> bool:
        """True when the lifetime ended while the push waited here. `expires_in` 0 means at once or not at all: it is at
        once now."""
        return self.expires_in > 0 and time.monotonic() - self.received_at > self.expires_in


def handler_of(push: Push, action: str, actions: dict[str, Handler], commands: dict[str, Handler]) -> Handler | None:
    """The handler of an action: that of the `command` the push names for it, else the program's for its id. None: the
    action is an answer, and nothing to do."""
    command = push.choice(action).get("command")
    if not isinstance(command, str):
        return actions.get(action)
    return commands.get(command) or actions.get(command) or (lambda push: {"error": f"unknown command {command!r}"})


def is_command(push: Push, action: str, handler: Handler | None, commands: dict[str, Handler]) -> bool:
    """Whether a button is an order: it names one, is called like one, or has the handler of one."""
    return "command" in push.choice(action) or action in commands or handler in commands.values()


def unsigned_command(push: Push) -> dict[str, str]:
    """Refuse the command of a button on a device that obeys signed ones only: nobody signs a notification."""
    return {"error": "refused: nobody has signed the command of this button", "refused": "unsigned"}


def outcome(handler: Handler, push: Push) -> Any:
    """Run a handler and return its result; an error becomes a result that says so. Only one that was cancelled has no
    outcome: its effect may have happened in part, and CancelledError says so."""
    try:
        return handler(push)
    except concurrent.futures.CancelledError:
        raise
    except Exception as error:
        return failure(push, error)


def failure(push: Push, error: Exception) -> dict[str, str]:
    """The result of a handler that failed, which is logged."""
    log.error("a handler failed on push %s", push.push_id, exc_info=error)
    return {"error": f"{type(error).__name__}: {error}"}
