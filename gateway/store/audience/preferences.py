"""Preferences of people, as rows of devices hold them: consent, and choices among the channels of an app."""

from __future__ import annotations

import json

MAX_CHANNELS = 200
"""Channels of an app: more than a person could look through."""


def choices_of(text: str) -> dict[str, bool]:
    """A person's choices by channel, as a row holds them."""
    found: dict[str, bool] = json.loads(text)
    return found
