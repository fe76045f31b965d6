"""The Python environment of the package: what will be /opt/fleetpush, made elsewhere and complete.

The system's own Python runs it, so it is made for exactly that minor version. Nothing in it knows where it was made:
not the first line of its programs, not its bytecode, not the notes of pip. Bytecode is made here, once, and does not
depend on the times of files: at the place nobody but root may write, and whatever Python wrote there would stay behind
when the package goes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SYSTEM_PYTHON = Path("/usr/bin/python3")
PROGRAMS = ("fleetpush", "fleetpush-health")
"""Of all that the packages would put into `bin`."""
EXTRAS = "server,simulator"
FACTS = "import json, sys, sysconfig; print(json.dumps([*sys.version_info[:2], sysconfig.get_config_var('SOABI')]))"
NOTES_OF_PIP = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")
"""Beside the metadata of each package: for pip to remove it again, and where it came from."""


class BuildFailed(Exception):
    """The message is for the person: what is wrong, and what mends it where that is known."""


def run(*command: str | Path, **variables: str) -> str:
    """Run a program in the source tree; its output. Raises BuildFailed with its last words."""
    environment = os.environ | {"PIP_CONSTRAINT": "constraints.txt", "PIP_ROOT_USER_ACTION": "ignore", "PIP_USER": "0"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT, env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        raise BuildFailed("\n".join([f"{command[0]} failed:", *done.stdout.splitlines()[-20:]]))
    return done.stdout


def pip(*arguments: str | Path, **variables: str) -> None:
    """Run the pip of the environment that runs this. Raises BuildFailed."""
    run(sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input", "--quiet", **variables)


def system_python() -> Path:
    """Return the system's Python by its version, /usr/bin/python3.11. Raises BuildFailed if it is not the one that
    compiled modules would be made for."""
    if not SYSTEM_PYTHON.exists():
        raise BuildFailed(f"{SYSTEM_PYTHON} is missing: a Debian package is built on Debian (apt-get install python3)")
    major, minor, abi = json.loads(run(SYSTEM_PYTHON, "-c", FACTS))
    if abi != sysconfig.get_config_var("SOABI"):
        raise BuildFailed(
            f"The package is for {SYSTEM_PYTHON}, Python {major}.{minor}, and this is {sys.executable}, Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}: remove .venv, and type: {SYSTEM_PYTHON} run.py deb"
        )
    return SYSTEM_PYTHON.with_name(f"python{major}.{minor}")


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this tree in a folder, with compiled modules unless FLEETPUSH_PURE says otherwise. Raises
    BuildFailed."""
    pure = os.environ.get("FLEETPUSH_PURE", "0")
    pip("wheel", "--no-deps", "--wheel-dir", folder, ".", FLEETPUSH_PURE=pure)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(stage: Path, place: str, python: Path, wheel: Path) -> None:
    """Make the environment that will be at `place` (/opt/fleetpush) below the folder `stage`. Raises BuildFailed."""
    folder = stage / place.lstrip("/")
    run(python, "-m", "venv", "--without-pip", folder)
    requirement = f"fleetpush[{EXTRAS}] @ {wheel.as_uri()}"
    pip("--python", folder / "bin" / "python", "install", "--no-compile", requirement)
    (packages,) = folder.glob("lib/python*/site-packages")
    _keep_programs(folder, place, python)
    shutil.rmtree(folder / "include", ignore_errors=True)
    (folder / "lib64").unlink(missing_ok=True)
    for notes in NOTES_OF_PIP:
        for path in packages.glob(f"*.dist-info/{notes}"):
            path.unlink()
    mode = ("--invalidation-mode", "unchecked-hash")
    run(python, "-m", "compileall", "-q", "-j", "0", *mode, "-s", stage, "-p", "/", packages)


def _keep_programs(folder: Path, place: str, python: Path) -> None:
    """Leave the Python and our programs in `bin`, and let them begin with the place where they will be."""
    for path in (folder / "bin").iterdir():
        if not path.name.startswith("python") and path.name not in PROGRAMS:
            path.unlink()
    for name in PROGRAMS:
        program = folder / "bin" / name
        program.write_text(re.sub(r"\A#!.*", f"#!{place}/bin/python", program.read_text()))
    version = run(python, "-c", "import platform; print(platform.python_version())")
    (folder / "pyvenv.cfg").write_text(
        f"home = {python.parent}\ninclude-system-site-packages = false\nversion = {version}"
    )
