"""The container image: what its files say, and its life: built, started, used, upgraded under load, removed.

Podman builds and runs it. No registry is asked: the base is Debian's minimal system of debootstrap. It is run as
`compose.yaml` says, except that it shares the network of this machine, and that its limits are those of this machine.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml

from gateway.deploy.debian.package import DATA_DIR
from tests.deploy.bare_root import environment, minimal_system
from tests.deploy.upgrade_drill import Drill, answers, free_port
from tests.end_to_end.harness import wait_for
from tests.third_party import require

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "gateway" / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICE: dict[str, Any] = COMPOSE["services"]["fleetpush"]
NEWER = """\
FROM localhost/fleetpush:old
USER 0
RUN sed -i 's/^Version: .*/Version: 99.0.0/' /opt/fleetpush/lib/python3*/site-packages/fleetpush-*.dist-info/METADATA
USER 10001:10001
"""
HOST = "localhost"


def test_both_files_agree_with_each_other_and_with_the_package() -> None:
    health = [word.strip(' "]') for word in CONTAINERFILE.partition("    CMD [")[2].partition("\n")[0].split(",")]
    assert SERVICE["healthcheck"]["test"] == ["CMD", *health]
    assert health == ["/opt/fleetpush/bin/fleetpush-health", DATA_DIR]
    assert SERVICE["build"]["dockerfile"] == "gateway/deploy/Containerfile"
    (volume,) = SERVICE["volumes"]
    assert f"VOLUME {volume.partition(':')[2]}\n" in CONTAINERFILE
    assert DATA_DIR.startswith(volume.partition(":")[2])
    ports = [port.partition(":")[2] for port in SERVICE["ports"]]
    assert f"EXPOSE {' '.join(ports)}\n" in CONTAINERFILE


def test_it_is_run_without_privileges_on_a_root_that_is_read_only() -> None:
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert "\nUSER 10001:10001\n" in CONTAINERFILE


def test_what_is_copied_is_what_the_build_needs() -> None:
    """Named one by one, and so forgotten one by one: what makes the wheel is all there."""
    copied = {word for line in CONTAINERFILE.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied >= {"broker", "client_sim", "gateway", "run.py", "pyproject.toml", "hatch_build.py", "LICENSE"}
    assert [name for name in copied if not (ROOT / name).exists()] == []


class Podman:
    """Podman with images, containers and volumes of its own, in one folder that goes with the test."""

    def __init__(self, folder: Path) -> None:
        runtime = require("runc")
        self._folder = folder
        self._runroot = mkdtemp(prefix="podman-")  # podman takes 50 characters at most, and a test's folder has more
        self._command = [require("podman"), f"--root={folder / 'storage'}", f"--runroot={self._runroot}"]
        # No systemd here, which podman would ask for control groups, for its log, and for the times of health checks.
        self._command += [f"--runtime={runtime}", "--cgroup-manager=cgroupfs", "--events-backend=none"]

    def try_to_run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, timeout=900, env=environment() | {"HOME": "/"}
        )

    def run(self, *arguments: str) -> str:
        done = self.try_to_run(*arguments)
        assert done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr[-4000:]}"
        return done.stdout.strip()

    def build(self, tag: str, file: Path, *options: str) -> None:
        self.run(
            "build", "--isolation=chroot", "--network=host", "--format=docker", f"--tag={tag}", f"--file={file}",
            *options, str(ROOT),
        )  # fmt: skip

    def import_root(self, folder: Path, tag: str) -> None:
        """Make an image of a folder."""
        archive = self._folder / "root.tar"
        subprocess.run(["tar", "--directory", folder, "--create", "--file", archive, "."], check=True)
        self.run("import", str(archive), tag)
        archive.unlink()

    def close(self) -> None:
        self.try_to_run("rm", "--all", "--force", "--time=0")
        self.try_to_run("rmi", "--all", "--force")
        subprocess.run(["umount", self._folder / "storage" / "overlay"], capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._runroot, ignore_errors=True)


def index_options(folder: Path) -> list[str]:
    """Let pip inside reach the package index as it is reached here: through whom, and trusting whom."""
    files = {"cert": os.environ.get("PIP_CERT"), "index-url": os.environ.get("PIP_INDEX_URL")}
    options = []
    if files["cert"]:
        options.append(f"--volume={files['cert']}:/etc/pip-authorities.pem:ro")
        files["cert"] = "/etc/pip-authorities.pem"
    lines = [f"{name} = {value}" for name, value in files.items() if value]
    (folder / "pip.conf").write_text("\n".join(["[global]", *lines]))
    return [*options, f"--volume={folder / 'pip.conf'}:/etc/pip.conf:ro"]


def compose_options() -> list[str]:
    """The options of `podman run` for what compose.yaml says."""
    options = [f"--volume={volume}" for volume in SERVICE["volumes"]]
    options += [f"--tmpfs={tmpfs}" for tmpfs in SERVICE["tmpfs"]]
    options += [f"--cap-drop={capability}" for capability in SERVICE["cap_drop"]]
    options += [f"--security-opt={option.removesuffix(':true')}" for option in SERVICE["security_opt"]]
    options += ["--read-only"] if SERVICE["read_only"] else []
    files = min(SERVICE["ulimits"]["nofile"], resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    # Podman would raise the limits of processes, which not every root may.
    return [*options, f"--ulimit=nofile={files}:{files}", "--ulimit=nproc=4096:4096"]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    folder = tmp_path_factory.mktemp("podman")
    podman = Podman(folder)
    python = Path("/usr/bin/python3").resolve().name
    try:
        podman.import_root(minimal_system([python, "adduser", "libgcc-s1", "libstdc++6"]), "localhost/bare")
        options = (option for option in host_options() if not option.startswith("--volume"))
        first = podman.try_to_run("run", "--rm", *options, "localhost/bare", "true")
        if first.returncode:
            pytest.skip(f"podman cannot run a container here: {first.stderr.strip().splitlines()[-1:]}")
        podman.build(
            "localhost/fleetpush:old",
            DEPLOY / "Containerfile",
            "--build-arg=BASE=localhost/bare",
            *index_options(folder),
        )
        (folder / "Newer").write_text(NEWER)
        podman.build("localhost/fleetpush:new", folder / "Newer")
        yield podman
    finally:
        podman.close()


def host_options() -> list[str]:
    """What differs from compose.yaml: the network of this machine, and no timer of systemd for the health check."""
    return ["--network=host", "--no-healthcheck", *compose_options()]


@pytest.mark.full_only
@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_an_image_lives_and_leaves_nothing(podman: Podman) -> None:
    started = time.monotonic()
    http_port, mqtt_port = free_port(), free_port()
    variables = {"HTTP_PORT": http_port, "MQTT_PORT": mqtt_port, "PUBLIC_HOST": HOST}
    options = [*host_options(), *(f"--env=FLEETPUSH_{name}={value}" for name, value in variables.items())]

    def start(version: str) -> None:
        podman.run("run", "--detach", "--name=fleetpush", *options, f"localhost/fleetpush:{version}")

    def end() -> None:
        """End it as compose would."""
        podman.run("stop", f"--time={SERVICE['stop_grace_period'].removesuffix('s')}", "fleetpush")

    def remove() -> int:
        """Remove what has ended; its exit code."""
        code = int(podman.run("inspect", "--format={{.State.ExitCode}}", "fleetpush"))
        podman.run("rm", "fleetpush")
        return code

    def stop() -> int:
        end()
        return remove()

    # Without a certificate it does not let tokens cross a network, and says so.
    refused = podman.try_to_run("run", "--rm", *options, "localhost/fleetpush:old")
    assert refused.returncode == 2
    assert "`fleetpush tls init` makes a certificate" in refused.stderr
    podman.run("run", "--rm", *options, "localhost/fleetpush:old", "tls", "init", "--name", HOST)

    # Told to end before Python has begun, it does: process 1 would ignore that.
    start("old")
    before = time.monotonic()
    assert stop() in (0, 143)
    assert time.monotonic() - before < 30

    # It is healthy, has no privilege, and leaves no zombies.
    start("old")
    wait_healthy(podman)
    status = podman.run("exec", "fleetpush", "cat", "/proc/1/status")
    assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
    assert "\nCapBnd:\t0000000000000000\n" in status
    assert podman.run("exec", "fleetpush", "cat", "/proc/1/cmdline").startswith("/usr/bin/tini\0")
    assert "Read-only file system" in podman.try_to_run("exec", "fleetpush", "touch", "/opt/x").stderr
    podman.run("exec", "fleetpush", "sh", "-c", "for n in 1 2 3; do (sleep 0.1 &) ; done")
    wait_for(lambda: "sleep" not in podman.run("top", "fleetpush", "comm"), what="orphans to be reaped")
    assert "kiosk-1" in podman.run("exec", "fleetpush", "fleetpush", "devices", "add", "kiosk-1")

    # Replaced by a newer build while the fleet is busy, it loses nothing.
    volume = Path(podman.run("volume", "inspect", "--format={{.Mountpoint}}", "data"))
    data_dir = volume / "data"
    ca = data_dir / "tls" / "ca.pem"
    drill = Drill(f"https://{HOST}:{http_port}", (data_dir / "admin.key").read_text().strip(), mqtt_port, ca)
    assert drill.version() != "99.0.0"

    def replace() -> None:
        # As docs/operate/upgrade.md says: what can be done before the old one ends is done before.
        podman.run("create", "--name=fleetpush-next", *options, "localhost/fleetpush:new")
        began = time.monotonic()
        end()
        ended = time.monotonic()
        podman.run("start", "fleetpush-next")
        wait_for(lambda: answers(mqtt_port), timeout=60, what="the new server to listen")
        print(f"image: stopped after {ended - began:.1f} s, listening {time.monotonic() - ended:.1f} s later")
        assert remove() == 0
        podman.run("rename", "fleetpush-next", "fleetpush")

    drill.upgrade(replace)
    assert drill.version() == "99.0.0"

    # Removed, and the volume as well, it has never been there.
    assert stop() == 0
    assert not answers(http_port)
    podman.run("volume", "rm", "data")
    podman.run("rmi", "localhost/fleetpush:new", "localhost/fleetpush:old")
    left = [podman.run("ps", "--all", "--quiet"), podman.run("volume", "ls", "--quiet"), str(volume.exists())]
    left.append(podman.run("images", "--quiet", "--filter=reference=localhost/fleetpush"))
    print(f"left behind of the image: {left}")
    print(f"the whole drill took {time.monotonic() - started:.0f} s")
    assert left == ["", "", "False", ""]


def wait_healthy(podman: Podman) -> None:
    """Wait until the image's own health check says so."""
    (image,) = json.loads(podman.run("image", "inspect", "localhost/fleetpush:old"))
    kind, *check = image["Healthcheck"]["Test"]
    assert kind == "CMD"
    wait_for(lambda: podman.try_to_run("exec", "fleetpush", *check).returncode == 0, timeout=60, what="health")
