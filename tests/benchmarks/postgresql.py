"""A PostgreSQL of one's own, for a benchmark: made in a folder, reached over loopback, gone with the block."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.tools import CannotRun, free_port

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",  # promise 1: an answer means that it is on disk
    "wal_level": "replica",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "unix_socket_directories": "",
}
"""What an operator would have: the defaults of version 15, with more than its 128 MB of buffers."""
USER = "postgres"


@contextlib.contextmanager
def postgresql(directory: Path) -> Iterator[str]:
    """Serve from a folder; its address. As another user if we are root, whom PostgreSQL does not serve."""
    programs = newest_programs()
    data = directory / "postgresql"
    data.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam(USER)
        os.chown(data, user.pw_uid, user.pw_gid)
        for folder in data.parents:
            if folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    initdb = [*as_user, f"{programs}/initdb", "-D", str(data), "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8"]
    made = subprocess.run(initdb, capture_output=True, text=True, cwd="/", check=False)
    if made.returncode:
        raise CannotRun(f"initdb: {made.stderr.strip()}")
    port = free_port()
    settings = [f"-c{name}={value}" for name, value in SETTINGS.items()]
    serve = [f"{programs}/postgres", "-D", str(data), "-h", "127.0.0.1", "-p", str(port), *settings]
    log = directory / "postgresql.log"
    with log.open("w") as said:
        process = subprocess.Popen([*as_user, *serve], cwd="/", stdout=subprocess.DEVNULL, stderr=said)
    try:
        is_ready = [f"{programs}/pg_isready", "--quiet", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(is_ready, check=False).returncode:
            if process.poll() is not None:
                raise CannotRun(f"PostgreSQL did not start: {log.read_text()[-500:]}")
            time.sleep(0.05)
        yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(30)


def newest_programs() -> Path:
    """The folder of the programs of the newest PostgreSQL. Raises CannotRun."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parent.parent.name))
    on_path = shutil.which("postgres")
    if found:
        return found[-1].parent
    if on_path is None:
        raise CannotRun("PostgreSQL is not installed (Debian package postgresql)")
    return Path(on_path).resolve().parent
