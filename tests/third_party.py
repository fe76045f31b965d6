"""Programs that are not ours and that tests drive: mosquitto and its clients, strace, a C compiler.

On a person's machine a missing one skips the test and says which package has it. In an automatic run (`CI=true`) it
fails the test: a suite that skips what it exists for would stay green for ever.
"""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {
    "cc": "gcc",
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "stdbuf": "coreutils",
    "strace": "strace",
}
"""The Debian package of each program."""
SERVERS = "/usr/sbin"
"""Where Debian puts mosquitto; not on every person's PATH."""


def require(binary: str) -> str:
    """The path of `binary`; without it the test is skipped, or failed where CI=true."""
    path = shutil.which(binary) or shutil.which(binary, path=SERVERS)
    if path is not None:
        return path
    reason = f"{binary} is not installed (Debian package {PACKAGES.get(binary, binary)})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
