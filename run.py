#!/usr/bin/env python3
"""Fleetpush on a bare machine: `python3 run.py demo`, `python3 run.py serve`, `python3 run.py test`.

Only Python itself is needed (3.11 or newer, with its venv module). The first start makes `.venv` beside this file and
installs the versions that constraints.txt pins; a stamp of everything that decides the result makes every later start
instant. `test`, `test --full` and `bench` add the development set first; any other command is passed to `fleetpush`.

Where there is a C compiler, the commands whose speed matters compile the hot modules first, once for each state of the
source (`broker/compiled_modules.py` says where to, and loads them). Without one, and where it fails, the source runs.

Laws: standard library only, and syntax that an older Python still parses, so that it can say it is too old. The stamp
is written last, so an interrupted installation is repeated, never trusted; compiled modules are put in place at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NoReturn

MINIMUM = (3, 11)
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "fleetpush-stamp.json"
COMPILED_FIRST = ("serve", "broker", "bench", "compile")
"""Commands that wait for the compiler, if there is one. Others take what is there: compiling takes longer than they do,
and who edits and tests does not want to wait after each edit."""
FAILED = "failed.txt"
"""In the directory of compiled modules: why there are none. `compile` tries again."""
KEPT_BUILDS = 4
"""The newest, of as many states of the source: branches take turns."""
USAGE = """\
python3 run.py demo             the main job on real sockets, in under a minute
python3 run.py serve            broker and gateway; data in ./fleetpush-data
python3 run.py simulate [NAME]  a fleet of simulated devices, judged to the last push (--list names them)
python3 run.py kiosk [ID]       a browser as a device (fetches MQTT.js with npm)
python3 run.py broker [...]     the MQTT broker alone, without gateway and pushes
python3 run.py test [--full]    all tests (more pytest arguments may follow)
python3 run.py bench [NAME]     the benchmarks (tests/benchmarks/README.md)
python3 run.py compile          the hot modules to machine code; serve, broker and bench do it by themselves
python3 run.py deb              a Debian package of this checkout, in ./dist
python3 run.py COMMAND ...      any other fleetpush command; `python3 run.py --help` lists them
"""


class SetUpError(Exception):
    """The message is for the person: what is wrong, and the command that mends it."""


def check_python() -> None:
    version = ".".join(str(number) for number in sys.version_info[:3])
    if sys.version_info[:2] < MINIMUM:
        wanted = ".".join(str(number) for number in MINIMUM)
        raise SetUpError(
            f"Fleetpush needs Python {wanted} or newer, and this is {version} ({sys.executable}).\n"
            f"Start it with a newer one: python{wanted} run.py ..."
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        # Debian and its relatives ship venv's other half, ensurepip, in a package of its own.
        root = "" if os.geteuid() == 0 else "sudo "
        raise SetUpError(
            f"This Python ({version}) cannot make virtual environments: its venv package is missing.\n"
            f"On Debian or Ubuntu: {root}apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        )


def fingerprint() -> str:
    """Changes whenever the installed result would: the lists, the Python, and the place (venv paths are absolute).

    The Python is the environment's own, down to its real file (python3.11), whoever starts us: with another one in the
    PATH of a second terminal, the environment would be made anew under the server that runs from it in the first.
    """
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    digest.update(f"{venv_python().resolve()} {ROOT}".encode())
    return digest.hexdigest()


def installed() -> dict[str, str]:
    """The stamp: what was installed ("runtime", "development") under which fingerprint."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and venv_python().exists() else {}


def venv_python() -> Path:
    return VENV / "bin" / "python"


def ensure(development: bool) -> None:
    """Make `.venv` hold the pinned runtime, and the development set if asked for."""
    wanted = fingerprint()
    key = "development" if development else "runtime"
    if installed().get(key) == wanted:
        return
    check_python()
    import fcntl  # not at the top: an old or foreign Python must get as far as check_python's words

    # Two first starts at once: one installs, the other waits and finds it done.
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = installed()
        if stamp.get(key) == wanted:
            return
        if wanted not in stamp.values():
            make_venv()
            stamp, wanted = {}, fingerprint()
        install(development)
        stamp["runtime"] = wanted
        if development:
            stamp["development"] = wanted
        STAMP.write_text(json.dumps(stamp))
    finally:
        os.close(lock)


def make_venv() -> None:
    print("Making the environment in .venv ...", file=sys.stderr, flush=True)
    try:
        if VENV.exists():
            shutil.rmtree(VENV)
        command = [sys.executable, "-m", "venv", str(VENV)]
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise SetUpError(f"Cannot write {VENV}: {error.strerror}. Run it in a directory you may write to.") from error
    except subprocess.CalledProcessError as error:
        raise SetUpError(f"python -m venv failed:\n{error.stdout}") from error


def install(development: bool) -> None:
    total = pinned(development)
    progress = Progress(total)
    # PIP_CONSTRAINT as well: it reaches pip's isolated build environment, which -c does not. A relative name, because
    # pip splits the variable at blanks. Nothing is compiled for an editable installation, so nothing is fetched for it.
    environment = dict(os.environ, PIP_CONSTRAINT="constraints.txt", PIP_ROOT_USER_ACTION="ignore", PIP_USER="0")
    environment["FLEETPUSH_PURE"] = "1"
    command = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["-c", "constraints.txt", "-e", ".[dev]" if development else ".[server,simulator]"]
    output: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None, "a pipe was asked for"
        for line in pip.stdout:
            output.append(line)
            progress.pip_says(line)
    progress.end()
    if pip.returncode:
        raise SetUpError(
            "Installing the packages failed. pip's last words:\n\n"
            + "".join(output[-20:])
            + "\nWith the network (or your package index) in reach, run the same command again."
        )


def choose_form(command: str) -> str:
    """Compile the hot modules for the commands that wait for it, unless that is done; say what will run, and why."""
    from broker.compiled_modules import PURE_VARIABLE, build_directory

    if os.environ.get(PURE_VARIABLE) == "1":
        return f"pure Python ({PURE_VARIABLE}=1)"
    built = Path(build_directory(str(VENV)))
    failed = built / FAILED
    if command == "compile":
        shutil.rmtree(built, ignore_errors=True)
    if not built.exists():
        if command not in COMPILED_FIRST:
            return "pure Python; `python3 run.py compile` compiles this state of the source"
        missing = missing_tool()
        if missing:
            return f"pure Python, which is slower: to compile it, {missing} is missing"
        print("Compiling the hot modules, once; it takes a minute ...", file=sys.stderr, flush=True)
        build(built)
    return f"pure Python: compiling failed, see {failed}" if failed.exists() else "compiled"


def missing_tool() -> str:
    """What the environment's Python needs to compile and does not have; empty if nothing."""
    command = [str(venv_python()), "-c", "import hatch_build; print(hatch_build.missing_tool() or '')"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def build(built: Path) -> None:
    """Make a wheel, as a release does, and take the compiled modules out of it; or write down why there are none."""
    # As in `install`. FLEETPUSH_PURE=0: a wheel without them is of no use here.
    environment = dict(os.environ, PIP_CONSTRAINT="constraints.txt", PIP_ROOT_USER_ACTION="ignore", FLEETPUSH_PURE="0")
    built.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent, prefix=".unfinished-") as name:
        folder = Path(name, built.name)
        folder.mkdir()
        command = [str(venv_python()), "-m", "pip", "wheel", "--disable-pip-version-check", "--no-input", "--no-deps"]
        done = subprocess.run(
            [*command, "--wheel-dir", name, "."],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            (folder / FAILED).write_text(done.stdout)
        else:
            (wheel,) = Path(name).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [entry for entry in archive.namelist() if entry.endswith(".so")])
        try:
            folder.rename(built)
        except OSError:
            pass  # another process was faster: its modules are of the same source
    others = sorted(built.parent.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[KEPT_BUILDS:]:
        shutil.rmtree(old, ignore_errors=True)


def pinned(development: bool) -> int:
    """How many packages there are to fetch: the lines below the headings of constraints.txt."""
    counts = {"runtime": 0, "development": 0, "build": 0}
    section = ""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        words = line.lstrip("# ").split()
        if line.startswith("#"):
            section = words[0] if words and words[0] in counts else ""
        elif words and section:
            counts[section] += 1
    return counts["runtime"] + (counts["development"] if development else 0)


class Progress:
    """One line that counts on a terminal; a line for every tenth package elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._seen = 0
        self._live = sys.stderr.isatty()

    def pip_says(self, line: str) -> None:
        words = line.split()
        known = "Requirement already satisfied: "
        if line.startswith("Collecting ") or (line.startswith(known) and "(from " in line):
            requirement = line[len(known) :].split()[0] if line.startswith(known) else words[1]
            name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
            self._seen += 1
            if self._live or self._seen % 10 == 1:
                self._say(f"Fetching packages {min(self._seen, self._total)}/{self._total}: {name}")
        elif line.startswith("Installing collected packages"):
            self._say("Installing them ...")

    def _say(self, text: str) -> None:
        if self._live:
            columns = shutil.get_terminal_size().columns
            print(f"\r\033[K{text[: columns - 1]}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    if not arguments:
        print(USAGE, end="")
        return 2
    command, rest = arguments[0], arguments[1:]
    try:
        ensure(development=command in ("test", "bench"))
        if any(argument.startswith("--cov") for argument in rest):
            os.environ["FLEETPUSH_PURE"] = "1"  # compiled lines are not counted
        if command in (*COMPILED_FIRST, "test"):
            form = choose_form(command)
            print(f"Fleetpush runs {form}.", file=sys.stderr, flush=True)
    except SetUpError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the next start begins the installation again.", file=sys.stderr)
        return 130
    if command == "compile":
        return 0 if form == "compiled" else 1
    if command == "test":
        os.chdir(ROOT)
        # A hundred servers are started; each would compile us anew where files of bytecode are not wanted.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        # A small machine has two cores, and half of the time tests wait: for clocks, disks, the other end.
        start("pytest", "-n", "4", "--dist", "worksteal", *rest)
    if command == "bench":
        os.chdir(ROOT)
        start("tests.benchmarks", *rest)
    if command == "broker":
        start("broker", *rest)
    if command == "deb":
        start("gateway.deploy.debian", *rest)
    # As it was typed, so that what our messages say to type works from the same place.
    os.environ["FLEETPUSH_PROGRAM"] = f"python3 {shlex.quote(sys.argv[0])}"
    start("gateway", *arguments)


def start(module: str, *arguments: str) -> NoReturn:
    """The module takes this process's place: signals and the exit code are its own."""
    python = str(venv_python())
    os.execv(python, [python, "-m", module, *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
