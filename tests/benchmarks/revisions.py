"""The same benchmark of two revisions, in turns: what was measured an hour ago on a shared machine is another machine.

The other revision is a worktree of git in a temporary folder, with this environment's packages. Each side runs its own
benchmark as a process in its own tree, so that the product and the harness of a revision stay together; only the
figures that both have are compared.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.comparison import Result
from tests.benchmarks.figures import Figure, medians
from tests.benchmarks.tools import CannotRun

HERE = "here"
"""This tree's name in tables, with what is not committed."""


@dataclass(frozen=True)
class Tree:
    """A revision's files."""

    name: str
    folder: Path

    def measure(self, arguments: Sequence[str], file: Path) -> list[Figure]:
        """The figures of one run of its benchmark. Raises CannotRun."""
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "tests.benchmarks", *arguments, "--json", str(file)]
        run = subprocess.run(
            command, cwd=self.folder, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL
        )
        if run.returncode:
            raise CannotRun(f"The benchmark of {self.name} ended with {run.returncode}; its reason is above.")
        return Result.read(file).figures


@contextmanager
def checkout(revision: str, root: Path) -> Iterator[Tree]:
    """A temporary worktree of a revision of the repository at `root`. Raises CannotRun."""
    commit = find_commit(revision, root)
    with TemporaryDirectory(prefix="fleetpush-bench-") as temporary:
        folder = Path(temporary) / commit
        added = _git(root, "worktree", "add", "--detach", str(folder), commit)
        if added.returncode:
            raise CannotRun(f"git made no worktree of {revision}:\n{added.stderr.strip()}")
        try:
            yield Tree(f"{revision} ({commit})" if revision != commit else commit, folder)
        finally:
            _git(root, "worktree", "remove", "--force", str(folder))


def find_commit(revision: str, root: Path) -> str:
    """The short name of a revision's commit. Raises CannotRun."""
    if shutil.which("git") is None:
        raise CannotRun("--against needs git (Debian: apt install git).")
    if _git(root, "rev-parse", "--git-dir").returncode:
        raise CannotRun(f"{root} is no git checkout, so it has no other revision to measure.")
    found = _git(root, "rev-parse", "--verify", "--quiet", "--short", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode:
        raise CannotRun(f"git knows no revision {revision!r} here: a commit, a tag or a branch (`git log --oneline`).")
    return found.stdout.strip()


def measure_in_turns(
    other: Tree, here: Tree, arguments: Sequence[str], turns: int
) -> tuple[list[Figure], list[Figure]]:
    """The medians of both trees' figures. Who begins changes with each turn. Raises CannotRun."""
    figures: dict[str, list[list[Figure]]] = {other.name: [], here.name: []}
    with TemporaryDirectory(prefix="fleetpush-bench-") as folder:
        for turn in range(turns):
            for tree in (other, here) if turn % 2 == 0 else (here, other):
                print(f"turn {turn + 1} of {turns}: {tree.name}", file=sys.stderr, flush=True)
                figures[tree.name].append(tree.measure(arguments, Path(folder) / "figures.json"))
    return medians(figures[other.name]), medians(figures[here.name])


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
