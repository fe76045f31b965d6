"""A bare Debian machine inside this one: debootstrap's minimal system, booted by systemd-nspawn or entered by chroot.

The minimal system is made once and kept beside other temporary files; each test has a copy. It is of the release that
this machine has, because packages are built for that. It has what our package depends on, so that the package can be
installed without a network, and what it leaves behind can be told from what they leave.

A booted one shares the network of this machine: devices and senders of a test reach its server over loopback.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Self

import pytest

from tests.end_to_end.harness import wait_for
from tests.third_party import require

SYSTEMD = ("systemd", "systemd-sysv")
BOOT_SECONDS = 120.0
"""Generous: a loaded machine of two cores."""
LONGEST_COMMAND_SECONDS = 600


class BareRoot:
    """A copy of the minimal system, with some packages more, in a folder."""

    def __init__(self, folder: Path, packages: Sequence[str]) -> None:
        """Skips the test where it cannot be made."""
        self.folder = folder
        done = subprocess.run(
            ["cp", "-a", "--reflink=auto", minimal_system(packages), folder], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def run(self, *command: str, user: str = "root", network: bool = True, fails: bool = False) -> str:
        """Run a command inside; what it says. It is expected to succeed unless it `fails`."""
        entered = [*self._enter(), *([] if network else ["unshare", "--net"])]
        if user != "root":
            entered += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "env", "HOME=/"]
        done = subprocess.run(
            [*entered, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            timeout=LONGEST_COMMAND_SECONDS,
        )
        assert fails or done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _enter(self) -> list[str]:
        return ["chroot", str(self.folder)]

    def install(self, package: Path) -> str:
        """Install a package file, without a network; what dpkg says."""
        shutil.copy(package, self.folder / "package.deb")
        try:
            return self.run("dpkg", "--install", "/package.deb", network=False)
        finally:
            (self.folder / "package.deb").unlink()

    def files(self) -> set[str]:
        """List every file, link and directory, as seen from inside."""
        return {
            f"/{Path(parent, name).relative_to(self.folder)}"
            for parent, folders, files in os.walk(self.folder)
            for name in (*folders, *files)
        }

    def names(self) -> set[str]:
        """List its users and groups."""
        lines = (self.folder / "etc" / file for file in ("passwd", "group", "shadow", "gshadow"))
        return {line.partition(":")[0] for file in lines for line in file.read_text().splitlines()}

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class BootedRoot(BareRoot):
    """A copy in which systemd runs as process 1. A context: it runs until its end."""

    def __init__(self, folder: Path, packages: Sequence[str]) -> None:
        require("systemd-nspawn")
        super().__init__(folder, [*packages, *SYSTEMD])
        self._console = folder.with_suffix(".console")
        command = ["systemd-nspawn", f"--directory={folder}", "--register=no", "--keep-unit", "--link-journal=no"]
        command += ["--console=pipe", "--boot", "systemd.unit=multi-user.target"]
        with self._console.open("wb") as console:
            self._container = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, env=environment()
            )
        self._leader = 0

    def __enter__(self) -> Self:
        deadline = time.monotonic() + BOOT_SECONDS
        while not self._is_running():
            if self._container.poll() is not None or time.monotonic() > deadline:
                said = self._console.read_text(errors="replace").strip().splitlines()[-1:]
                self.__exit__()
                pytest.skip(f"systemd cannot be booted in a container here: {said}")
            time.sleep(0.1)
        return self

    def _is_running(self) -> bool:
        """Processes and mounts of the container appear one after the other, and then systemd answers."""
        self._leader = next((pid for pid in processes() if parent_of(pid) == self._container.pid), 0)
        if not self._leader:
            return False
        return self.run("systemctl", "is-system-running", fails=True).strip() in ("running", "degraded")

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--pid", "--root", "--wd=/"]

    def main_process(self, unit: str) -> tuple[list[str], str]:
        """The command line of a service's main process, and the name of its user."""
        pid = self.run("systemctl", "show", "--property=MainPID", "--value", unit).strip()
        command = self.run("cat", f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
        return command, self.run("stat", "--format=%U", f"/proc/{pid}").strip()

    def __exit__(self, *_: object) -> None:
        if self._container.poll() is None:
            self._container.send_signal(signal.SIGTERM)
            try:
                self._container.wait(30)
            except subprocess.TimeoutExpired:
                self._container.kill()
                self._container.wait()
        self.remove()


def processes() -> list[int]:
    """The processes of this machine."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def parent_of(pid: int) -> int:
    """The parent of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def environment() -> dict[str, str]:
    """The variables of a machine that has just been started."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TERM": "dumb"}


def minimal_system(packages: Sequence[str]) -> Path:
    """The minimal system with some packages, made by the first who asks. Skips the test where it cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("a bare root is made and entered as root")
    debootstrap = require("debootstrap")
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    folder = Path(gettempdir(), "-".join(["fleetpush", release, *sorted(packages)]))
    if folder.exists():
        return folder
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [debootstrap, "--variant=minbase", f"--include={','.join(packages)}", release, str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment()})
    if done.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        pytest.skip(f"debootstrap cannot fetch {release}: {done.stdout.strip().splitlines()[-1:]}")
    try:
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished)  # another process was faster
    return folder


def wait_ready(root: BareRoot, data_dir: str) -> None:
    """Wait until the server inside accepts pushes, as its health check sees it."""
    check = ("/opt/fleetpush/bin/fleetpush-health", data_dir)
    try:
        wait_for(lambda: root.run(*check, fails=True) == "", timeout=BOOT_SECONDS, what="the server to be ready")
    except AssertionError as error:
        said = root.run("journalctl", "-u", "fleetpush", "--no-pager", "-n", "40", fails=True)
        raise AssertionError(f"{error}\n{root.run(*check, fails=True)}\n{said}") from None
