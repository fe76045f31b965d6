"""The life of the Debian package on a bare machine: installed, started, used, upgraded under load, removed, purged.

The machine is Debian's minimal system with systemd as process 1. Nothing of this source tree is on it but the package;
its devices are paho's, and reach it over loopback. A second one has no systemd.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.deploy.debian.package import NAME, PLACE, assemble
from gateway.deploy.debian.python_environment import BuildFailed, build_wheel, make_environment, system_python
from tests.deploy.bare_root import BareRoot, BootedRoot, wait_ready
from tests.deploy.upgrade_drill import Drill, answers, free_port
from tests.third_party import require

pytestmark = [pytest.mark.full_only, pytest.mark.long, pytest.mark.timeout(1_200)]

DATA_DIR = "/var/lib/fleetpush/data"
CONFIG = "/etc/fleetpush/fleetpush.toml"
PORTS = "/etc/systemd/system.conf.d/ports.conf"


class Packages:
    """The package of this source tree, and a newer build of it."""

    def __init__(self, folder: Path) -> None:
        require("dpkg-deb")
        try:
            python = system_python()
        except BuildFailed as reason:
            pytest.skip(str(reason))
        self.dependencies = [python.name, "adduser", "libgcc-s1", "libstdc++6"]
        make_environment(folder / "old", PLACE, python, build_wheel(folder))
        shutil.copytree(folder / "old", folder / "new", symlinks=True)
        (metadata,) = (folder / "new").glob("opt/*/lib/*/site-packages/fleetpush-*.dist-info/METADATA")
        self.version = metadata.parent.name.removesuffix(".dist-info").partition("-")[2]
        metadata.write_text(metadata.read_text().replace(f"\nVersion: {self.version}\n", "\nVersion: 99.0.0\n"))
        self.old = assemble(folder / "old", f"{self.version}-1", folder)
        self.new = assemble(folder / "new", "99.0.0-1", folder)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return Packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def machine(packages: Packages, tmp_path: Path) -> Iterator[BootedRoot]:
    with BootedRoot(tmp_path / "machine", packages.dependencies) as machine:
        yield machine


def test_a_package_lives_on_a_machine_and_leaves_nothing(packages: Packages, machine: BootedRoot) -> None:
    started = time.monotonic()
    http_port, mqtt_port = free_port(), free_port()
    configure_ports(machine, http_port, mqtt_port)
    files_before, names_before = machine.files(), machine.names()

    # Installed without a network, it runs: by the unit, as its own user.
    machine.install(packages.old)
    wait_ready(machine, DATA_DIR)
    command = [f"{PLACE}/bin/python", f"{PLACE}/bin/fleetpush", "serve", "--config", CONFIG]
    assert machine.main_process("fleetpush") == (command, "fleetpush")
    assert machine.run("stat", "--format=%U %a", DATA_DIR) == "fleetpush 700\n"
    assert machine.run("systemctl", "is-enabled", "fleetpush") == "enabled\n"
    url = f"http://127.0.0.1:{http_port}"
    drill = Drill(url, (machine.folder / DATA_DIR.lstrip("/") / "admin.key").read_text().strip(), mqtt_port)
    assert drill.version() == packages.version

    # Its commands find it from anywhere.
    doctor = machine.run("fleetpush", "doctor", user="fleetpush")
    assert f"{url} is ready" in doctor
    assert "\nfail" not in doctor
    machine.run("fleetpush", "devices", "add", "kiosk-1", user="fleetpush")

    # Its settings are changed, a newer build is installed while the fleet is busy, and the change is kept.
    settings = machine.folder / CONFIG.lstrip("/")
    settings.write_text(f"{settings.read_text()}\nmailbox_deliveries = 2_000\n")
    drill.upgrade(lambda: print(machine.install(packages.new)))
    assert drill.version() == "99.0.0"
    assert settings.read_text().endswith("mailbox_deliveries = 2_000\n")

    # Removed, it is stopped, and all data are there; installed again, it goes on.
    machine.run("dpkg", "--remove", NAME)
    assert not answers(http_port)
    assert (machine.folder / DATA_DIR.lstrip("/") / "fleetpush.db").exists()
    assert (machine.folder / CONFIG.lstrip("/")).exists()
    machine.install(packages.new)
    wait_ready(machine, DATA_DIR)
    assert "kiosk-1" in machine.run("fleetpush", "devices", "list", user="fleetpush")

    # Purged, it has never been there.
    machine.run("dpkg", "--purge", NAME)
    assert not answers(http_port)
    assert sorted(machine.names() - names_before) == []
    left_behind = sorted(machine.files() - files_before)
    print(f"left behind after purge: {left_behind}")
    print(f"missing after purge: {sorted(files_before - machine.files())}")
    print(f"the whole drill took {time.monotonic() - started:.0f} s")
    assert left_behind == []
    assert sorted(files_before - machine.files()) == []


def configure_ports(machine: BootedRoot, http_port: int, mqtt_port: int) -> None:
    """Choose other ports than those that something on this machine may use."""
    path = machine.folder / PORTS.lstrip("/")
    path.parent.mkdir(parents=True)
    variables = f"FLEETPUSH_HTTP_PORT={http_port} FLEETPUSH_MQTT_PORT={mqtt_port}"
    path.write_text(f"[Manager]\nDefaultEnvironment={variables}\n")
    machine.run("systemctl", "daemon-reexec")


def test_without_systemd_it_is_installed_and_purged_as_well(packages: Packages, tmp_path: Path) -> None:
    root = BareRoot(tmp_path / "root", packages.dependencies)
    try:
        # Not the first user that comes and goes: adduser's lock and the former user lists (`/etc/gshadow-`) are there.
        root.run("adduser", "--system", "--quiet", "--group", "--no-create-home", "somebody")
        root.run("userdel", "somebody")
        files_before, names_before = root.files(), root.names()
        root.install(packages.old)
        assert root.run("/usr/bin/fleetpush", "--version").startswith(f"fleetpush {packages.version} (")
        assert "fleetpush" in root.names()
        root.install(packages.old)
        root.run("dpkg", "--remove", NAME)
        assert (root.folder / CONFIG.lstrip("/")).exists()
        root.run("dpkg", "--purge", NAME)
        assert sorted(root.names() - names_before) == []
        assert sorted(root.files() ^ files_before) == []
    finally:
        root.remove()
