"""A machine that systemd has started: its own processes, mounts, network and users, over the files of this one.

systemd needs to be process 1 and to write where it likes, so it gets namespaces, and an overlay of this machine's file
system whose changes are gone with it. Nothing but a script of the test runs there beside the units: `facts` are what
that has written, and then the machine ends. Only root may make namespaces like this, and not in every container.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.third_party import require

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = Path("/lib/systemd/systemd")
NAMESPACES = ("--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--kill-child")
TARGETS = ("sysinit", "basic", "sockets", "network-online", "shutdown", "multi-user")
PROGRAM = """\
#!/opt/python/bin/python3
import sys
sys.path[:0] = ["/opt/tree", "/opt/packages"]
from gateway.__main__ import main
main()
"""
SETTINGS = 'data_dir = "/var/lib/fleetpush/data"\n'
DROP_IN = """\
[Service]
StandardOutput=append:/media/stdout
StandardError=append:/media/stderr
# A Python of somebody's home, which the service cannot see.
Environment=LD_LIBRARY_PATH=/opt/python/lib
"""
MACHINE = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
mkdir -p opt/python opt/packages opt/tree opt/fleetpush/bin etc/fleetpush etc/units old
mount --bind {python} opt/python
mount --bind {packages} opt/packages
mount --bind {tree} opt/tree
mount --bind {folder} media
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
useradd -R /mnt/root --system --home-dir /var/lib/fleetpush --shell /usr/sbin/nologin fleetpush
cp -r media/root/. .
chmod 755 opt/fleetpush/bin/fleetpush
python3 -c "$LOOPBACK_UP"
pivot_root . old
umount -l /old
exec {systemd} --system --unit=test.target --log-target=console --show-status=no
"""

LOOPBACK_UP = """\
import fcntl, socket, struct
with socket.socket() as any_socket:
    SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP | IFF_RUNNING))
"""


@contextmanager
def machine(folder: Path, units: Path, script: str, *, seconds: float) -> Iterator[dict[str, str]]:
    """Start a machine with units of ours, whose script writes `name=value` to `facts`, and wait for its end."""
    if os.geteuid() != 0 or not SYSTEMD.exists():
        pytest.skip("it takes root and systemd to start a machine")
    files = {
        "opt/fleetpush/bin/fleetpush": PROGRAM,
        "etc/fleetpush/fleetpush.toml": SETTINGS,
        "etc/units/fleetpush.service.d/test.conf": DROP_IN,
        "etc/units/test.target": "[Unit]\nDefaultDependencies=no\nWants=script.service\n",
        "etc/units/script.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\n"
        "ExecStart=/bin/bash /media/script\nStandardOutput=append:/media/output\nStandardError=append:/media/output\n",
        **{f"etc/units/{name}.target": "[Unit]\nDefaultDependencies=no\n" for name in TARGETS},
        **{f"etc/units/{unit.name}": unit.read_text() for unit in units.glob("*.s*")},
    }
    for name, text in files.items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "script").write_text(f"cd /media\n{script}\ntouch ended\nsystemctl exit 0 --force --force\n")
    paths = {"python": sys.base_prefix, "packages": sysconfig.get_path("purelib"), "tree": str(ROOT)}
    quoted = {name: shlex.quote(path) for name, path in {**paths, "folder": str(folder)}.items()}
    command = [require("unshare"), *NAMESPACES, "bash", "-c", MACHINE.format(**quoted, systemd=SYSTEMD)]
    environment = {"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": "/etc/units", "container": "fleetpush-test"}
    environment["LOOPBACK_UP"] = LOOPBACK_UP
    with (folder / "console").open("wb") as console:
        process = subprocess.Popen(command, env=environment, stdout=console, stderr=console, stdin=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    said = "\n".join((folder / name).read_text() for name in ("console", "output") if (folder / name).exists())
    if not (folder / "output").exists():
        pytest.skip(f"no machine can be started here: {said.splitlines()[-1:]}")
    assert (folder / "ended").exists(), said
    yield dict(line.split("=", 1) for line in (folder / "facts").read_text().splitlines())
