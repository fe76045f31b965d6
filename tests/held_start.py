"""A program that is held while it starts, at the first module of ours that it imports after those named.

Python imports `sitecustomize` before any program. Ours waits there for the test, which meanwhile does what comes too
early for the program: a signal, a terminal that closes.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.end_to_end.harness import clean_environment, wait_for

HOLD = """
import os, sys

class Hold:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("{package}.") and name not in {before!r}:
            sys.meta_path.remove(self)
            with open({pipe!r}) as until_the_test_goes_on:
                until_the_test_goes_on.read()

sys.meta_path.insert(0, Hold())
"""


class HeldStart:
    def __init__(self, folder: Path, package: str, before: tuple[str, ...]) -> None:
        """`before`: modules of the package that are imported without a stop."""
        folder.mkdir()
        self._pipe = folder / "pipe"
        os.mkfifo(self._pipe)
        (folder / "sitecustomize.py").write_text(HOLD.format(package=package, before=before, pipe=str(self._pipe)))
        self.environment = clean_environment()
        """That of the program."""
        self.environment["PYTHONPATH"] = f"{folder}{os.pathsep}{self.environment['PYTHONPATH']}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """The program stands still meanwhile."""
        pipe = wait_for(self._opened, what="the program to begin")
        assert pipe is not None, "what was waited for"
        with pipe:
            yield

    def hung_up(self, command: Sequence[str], folder: Path, ready: str) -> str:
        """Tell the program SIGHUP while it is held, and to end when its line says `ready`; what it wrote to stderr."""
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=self.environment
        )
        try:
            with self.held():
                process.send_signal(signal.SIGHUP)
            assert process.stdout is not None, "a pipe"
            assert process.stdout.readline().startswith(ready), f"ended with {process.wait(20)}"
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        return errors

    def _opened(self) -> IO[bytes] | None:
        try:
            return open(os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None  # it does not read yet
