"""Preferences of the person at a device: consent, channels, topics, quiet hours. `Device` keeps them in its journal.

A change is committed before it is sent, and what was decided last is known without the server.
"""

from __future__ import annotations

from typing import Any

from client_sim.journal import Journal
from client_sim.outgoing import channels_change, consent_change, quiet_hours_change, topics_change


class Preferences:
    """Choices of the person at a device, as its program gives them."""

    _journal: Journal

    def _change_settings(self, change: dict[str, Any], about: dict[str, Any]) -> None:
        raise NotImplementedError

    @property
    def consent(self) -> str:
        """The person's last answer as given to `set_consent`; `unknown` before."""
        return str(self._journal.settings().get("consent", "unknown"))

    def set_consent(self, consent: str, text_version: str | None = None) -> None:
        """The person's answer, `granted` or `denied`, and the version of the text that asked. Raises ValueError."""
        self._change_settings(*consent_change(consent, text_version))

    @property
    def channels(self) -> dict[str, bool]:
        """The channel choices as given to `set_channels`: False for a muted one. Others were never changed here."""
        return dict(self._journal.settings().get("channels", {}))

    def set_channels(self, channels: dict[str, bool]) -> None:
        """Mute channels (False) or take them up again (True); those not named stay as they are. Raises ValueError."""
        self._change_settings(channels_change(channels), {})

    @property
    def topics(self) -> dict[str, bool]:
        """The topics as given to `set_topics`: True for one that was joined here. An operator may change them, too."""
        return dict(self._journal.settings().get("topics", {}))

    def set_topics(self, topics: dict[str, bool]) -> None:
        """Join topics (True) or leave them (False); those not named stay as they are. The app's policy says which ones
        a device may. Raises ValueError."""
        self._change_settings(topics_change(topics), {})

    @property
    def quiet_hours(self) -> tuple[str, str] | None:
        """The quiet hours as given to `set_quiet_hours`."""
        found = self._journal.settings().get("quiet_hours")
        return (found["start"], found["end"]) if found else None

    def set_quiet_hours(self, start: str | None, end: str | None = None) -> None:
        """Suppress alerts between two times of the device's own clock, `"22:00"` and `"07:00"`; None: at no time. The
        server knows that clock from `report({"timezone": "Europe/Vienna"})`. Raises ValueError."""
        self._change_settings(quiet_hours_change(start, end), {})
