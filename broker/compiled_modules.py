"""The form of the hot modules that runs: compiled to machine code, or their Python source.

mypyc compiles them from the same typed source (docs/adr/0006-compiled-modules.md; the list is in pyproject.toml). A
wheel for a platform has them beside their source, and Python prefers them by itself. A checkout never has: there, they
would hide every later edit. `python3 run.py compile` builds them into a directory of the environment that is named
after all that decides the result, and the finder below loads them from it. After an edit there is no directory of that
name, and what was edited is what runs.

`FLEETPUSH_PURE=1` in the environment asks for the source, wherever compiled modules are.

Price: a process in a checkout reads the broker's source once more, about a millisecond. An installed one reads nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from types import ModuleType

PURE_VARIABLE = "FLEETPUSH_PURE"
LIBRARY = "fleetpush__mypyc"
"""The code of all compiled modules. Each of them is a small file that enters it."""
PACKAGES = ("broker",)
"""Those with compiled modules. What else they import of ours decides the result as well: constants are compiled in."""
RECIPE = ("pyproject.toml", "constraints.txt", "hatch_build.py")
"""Beside the packages: what is compiled, with which compiler, and how."""
BUILDS = "fleetpush-compiled"
"""Directory of the environment with a directory for each build."""
HOT = "broker.protocol.codec"
"""The module that shows which form runs: all are compiled, or none."""
_SUFFIX = EXTENSION_SUFFIXES[0]
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class FormFinder:
    """Finds modules of ours below `folder`, in files with one suffix. Others are left to Python."""

    def __init__(self, folder: str, suffix: str) -> None:
        self._folder = folder
        self._suffix = suffix

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in (*PACKAGES, LIBRARY):
            return None
        file = os.path.join(self._folder, *name.split(".")) + self._suffix
        return spec_from_file_location(name, file) if os.path.isfile(file) else None


def choose_form() -> None:
    """Decide for this process. Called when the first package with compiled modules is imported, before its modules."""
    if os.environ.get(PURE_VARIABLE) == "1":
        if os.path.exists(os.path.join(_ROOT, LIBRARY + _SUFFIX)):
            sys.meta_path.insert(0, FormFinder(_ROOT, ".py"))
    elif os.path.isdir(os.path.join(sys.prefix, BUILDS)):
        folder = build_directory(sys.prefix)
        if os.path.exists(os.path.join(folder, LIBRARY + _SUFFIX)):
            sys.meta_path.insert(0, FormFinder(folder, _SUFFIX))


def running_form() -> str:
    """Return `compiled` or `pure`, as this process loads or has loaded the hot modules."""
    spec = find_spec(HOT)
    return "compiled" if spec is not None and str(spec.origin).endswith(_SUFFIX) else "pure"


def build_directory(environment: str) -> str:
    """Return the directory for the compiled modules of exactly this source, there or not, in a virtual environment."""
    from hashlib import sha256  # OpenSSL's, which an installed device would load for nothing

    digest = sha256()
    for file in _deciding():
        with open(os.path.join(_ROOT, file), "rb") as source:
            content = source.read()
        digest.update(f"{file} {len(content)}\n".encode())
        digest.update(content)
    return os.path.join(environment, BUILDS, digest.hexdigest()[:20])


def _deciding() -> list[str]:
    """The files that decide what is compiled, in an order that is the same everywhere."""
    files = [name for name in RECIPE if os.path.exists(os.path.join(_ROOT, name))]
    for package in PACKAGES:
        for folder, _, names in os.walk(os.path.join(_ROOT, package)):
            files += [os.path.relpath(os.path.join(folder, name), _ROOT) for name in names if name.endswith(".py")]
    return sorted(files)
