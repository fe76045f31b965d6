"""Coverage-guided fuzzing of the decoder: `python -m tests.hostile.fuzz_codec CORPUS -runs=N -seed=N`.

A process of its own: libFuzzer takes it over and ends it. It says "Done N runs" on stderr and exits with 0, or leaves
the input that broke a law in `crash-…` and exits with 77.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

atheris: Any = importlib.import_module("atheris")  # by name: not every Python has it, and it has no types

with atheris.instrument_imports(include=["broker.protocol"]):
    import broker.protocol.codec  # noqa: F401  (instrumented before the laws import it)
    from tests.hostile.codec_laws import check


def one(data: bytes) -> None:
    if data:
        check(data[0], data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
