"""SIGHUP: a service manager that says "read your certificates again", or the end of the terminal we were started in.

Until the server can do either, a hang-up is kept (`keep_hangups`, then `Hangups`): it must not end a start.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

_had_terminal = False
"""The process was started in a terminal whose end is to be its own."""
_kept = False
"""One came before it could be done."""


def keep_hangups() -> None:
    """First thing of a server: from now on SIGHUP does not end the process. Who started it with `nohup` has asked for
    it to outlive the terminal."""
    global _had_terminal
    # Now: a terminal that is gone when the server can do something about it must still have been there.
    _had_terminal = has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    signal.signal(signal.SIGHUP, _keep)


def _keep(*_: object) -> None:
    global _kept
    _kept = True


def has_terminal() -> bool:
    """Whether there is a terminal that belongs to this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class Hangups:
    """Call it for each SIGHUP."""

    def __init__(self, stop: Callable[[], None]) -> None:
        """`stop` ends the server: the terminal that it was started in is gone, and nobody else would."""
        self._stop = stop
        self._reload: Callable[[], None] | None = None

    def __call__(self) -> None:
        if _had_terminal and not has_terminal():
            self._stop()
        elif self._reload is None:
            _keep()
        else:
            self._reload()

    def ready(self, reload: Callable[[], None]) -> None:
        """Call `reload` at each hang-up from now on; at once, if one has come already."""
        self._reload = reload
        if _kept:
            self()
