"""Builds the wheel: with the hot modules compiled by mypyc where there is a C compiler, without where there is none.

A hook of hatchling. The list of modules is in pyproject.toml, the reasons are in docs/adr/0006-compiled-modules.md.

`FLEETPUSH_PURE=1` makes a wheel for every platform. `FLEETPUSH_PURE=0` demands the compiled modules: without them the
build fails. Otherwise what cannot be compiled is left out and said on stderr, and the wheel is as good without: the
source is in it in either case.

Compiling runs in a process of its own (`python hatch_build.py FOLDER MODULE...`), so that whatever it dies of, the
wheel does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

GROUP = "fleetpush"
"""mypyc names the library with the code of all modules after it: `broker.compiled_modules.LIBRARY`."""
COMPILER = ("mypy[mypyc]==2.4.1", "setuptools>=77")
"""The version of mypy that constraints.txt pins, and tests check our types with: another one makes other code."""
JOBS = os.cpu_count() or 1


def missing_tool() -> str | None:
    """Return what this Python needs to compile and does not have."""
    compiler = os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler.split()[0]) is None:
        return f"the C compiler {compiler.split()[0]}"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return None if header.exists() else f"{header} (Debian: python3-dev)"


def compile_modules(folder: Path, modules: Sequence[str]) -> None:
    """Compile the modules of the current directory into files below `folder`."""
    import setuptools  # first: mypyc works with the one that is loaded
    from mypyc.build import mypycify
    from setuptools.command.build_ext import build_ext

    class BuildInParallel(build_ext):  # type: ignore[misc]  # it has no types
        """One library of many files, which setuptools would compile one after the other."""

        def build_extensions(self) -> None:
            from concurrent.futures import ThreadPoolExecutor

            one_by_one = self.compiler.compile

            def compile_sources(sources: list[str], **options: Any) -> list[str]:
                with ThreadPoolExecutor(JOBS) as pool:
                    made = pool.map(lambda source: one_by_one([source], **options), sources)
                    return [name for names in made for name in names]

            self.compiler.compile = compile_sources
            super().build_extensions()

    # Our settings of mypy name a plugin and packages that are not here; what they find is a test's business.
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--no-incremental"]
    sources = [module.replace(".", os.sep) + ".py" for module in modules]
    temporary = mkdtemp()
    try:
        extensions = mypycify(
            [*options, *sources],
            group_name=GROUP,
            multi_file=True,
            opt_level="2",
            debug_level="0",
            target_dir=temporary,
        )
        command = BuildInParallel(setuptools.Distribution({"name": GROUP, "ext_modules": extensions}))
        command.build_lib, command.build_temp = str(folder), temporary
        command.parallel = JOBS
        command.ensure_finalized()
        command.run()
    finally:
        shutil.rmtree(temporary)


def get_build_hook() -> type[Any]:
    """Return the hook's class. hatchling asks for it by this name, and is there when it does: not when we compile."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class CompiledModules(BuildHookInterface[Any]):  # type: ignore[misc]  # it has no types here
        """Adds the compiled modules to a wheel that is to be installed; an editable one has the source."""

        PLUGIN_NAME = "custom"

        def dependencies(self) -> list[str]:
            return [] if self._reason_for_pure() else list(COMPILER)

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            reason = "it is editable" if version == "editable" else self._reason_for_pure()
            if reason is None:
                self._built = Path(mkdtemp())
                reason = self._compile(self._built)
            if reason is None:
                for file in self._built.rglob("*.*"):
                    build_data["force_include"][str(file)] = file.relative_to(self._built).as_posix()
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
            elif os.environ.get("FLEETPUSH_PURE") == "0":
                raise RuntimeError(f"FLEETPUSH_PURE=0, and the modules cannot be compiled: {reason}")
            elif version != "editable":
                self.app.display_warning(f"A wheel of pure Python, without compiled modules: {reason}")

        def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
            if built := getattr(self, "_built", None):
                shutil.rmtree(built)

        def _reason_for_pure(self) -> str | None:
            if os.environ.get("FLEETPUSH_PURE") == "1":
                return "FLEETPUSH_PURE=1"
            missing = missing_tool()
            return missing and f"{missing} is missing"

        def _compile(self, folder: Path) -> str | None:
            """Return why it failed. What `run.py` has compiled of the same source is not compiled again."""
            sys.path.insert(0, self.root)
            from broker.compiled_modules import build_directory

            done_before = Path(build_directory(sys.prefix))
            if list(done_before.glob("*.so")):
                shutil.copytree(done_before, folder, dirs_exist_ok=True)
                return None
            command = [sys.executable, __file__, str(folder), *self.config["modules"]]
            done = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
            return None if done.returncode == 0 else "\n".join((done.stdout + done.stderr).splitlines()[-20:])

    return CompiledModules


if __name__ == "__main__":
    compile_modules(Path(sys.argv[1]), sys.argv[2:])
