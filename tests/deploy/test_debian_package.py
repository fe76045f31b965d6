"""What is in the Debian package, seen with dpkg-deb: around an environment that a test has made up.

`test_bare_root` builds the real one, and lives with it.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import uvloop

from gateway.deploy.debian.package import CONFIG, SCRIPTS, assemble
from gateway.deploy.debian.python_environment import BuildFailed
from gateway.settings import Settings
from tests.third_party import require

COMPILED = next(Path(uvloop.__file__).parent.glob("loop.*.so"))
METADATA = "Metadata-Version: 2.4\nName: uvloop\nVersion: 0.23.0\nLicense-Expression: MIT\n"


def stage_with(folder: Path, *libraries: Path) -> Path:
    """An environment as `make_environment` leaves it, of some files."""
    environment = folder / "stage" / "opt" / "fleetpush"
    packages = environment / "lib" / "python3.11" / "site-packages"
    (packages / "uvloop-0.23.0.dist-info").mkdir(parents=True)
    (packages / "uvloop-0.23.0.dist-info" / "METADATA").write_text(METADATA)
    for library in libraries:
        shutil.copy(library, packages)
    (environment / "bin").mkdir()
    (environment / "bin" / "fleetpush").write_text("#!/opt/fleetpush/bin/python\n")
    (environment / "bin" / "python").symlink_to("/usr/bin/python3.11")
    return folder / "stage"


def fields(package: Path) -> dict[str, str]:
    text = subprocess.run(["dpkg-deb", "--field", package], check=True, capture_output=True, text=True).stdout
    return dict(re.findall(r"^(\S+): (.*)$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("dpkg-deb")
    folder = tmp_path_factory.mktemp("package")
    return assemble(stage_with(folder, COMPILED), "1.2.3-4", folder / "dist")


@pytest.fixture(scope="module")
def content(package: Path) -> tarfile.TarFile:
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True)
    return tarfile.open(fileobj=io.BytesIO(done.stdout))


def test_it_says_what_it_is_and_needs(package: Path) -> None:
    found = fields(package)
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
    assert package.name == f"fleetpush_1.2.3-4_{architecture}.deb"
    assert (found["Package"], found["Version"], found["Architecture"]) == ("fleetpush", "1.2.3-4", architecture)
    assert re.fullmatch(r"python3\.11, adduser, libc6 \(>= 2\.\d+\)(, lib\S+)*", found["Depends"])


def test_everything_is_in_its_place_and_belongs_to_root(content: tarfile.TarFile) -> None:
    members = {member.name.removeprefix("."): member for member in content}
    assert {
        CONFIG,
        "/lib/systemd/system/fleetpush.service",
        "/lib/systemd/system/fleetpush.socket",
        "/lib/systemd/system/fleetpush-backup.service",
        "/opt/fleetpush/lib/python3.11/site-packages/uvloop-0.23.0.dist-info/METADATA",
        "/usr/share/doc/fleetpush/copyright",
        "/usr/share/doc/fleetpush/changelog.Debian.gz",
        "/usr/share/doc/fleetpush/changelog.gz",
        "/usr/share/man/man1/fleetpush.1.gz",
    } <= set(members)
    links = {name: member.linkname for name, member in members.items() if member.issym()}
    assert links == {
        "/usr/bin/fleetpush": "/opt/fleetpush/bin/fleetpush",
        "/opt/fleetpush/bin/python": "/usr/bin/python3.11",
        "/opt/fleetpush/fleetpush.toml": CONFIG,
    }
    assert {(member.uname, member.gname) for member in members.values()} == {("root", "root")}
    assert not [name for name, member in members.items() if not member.issym() and member.mode & 0o022]
    assert members["/opt/fleetpush/bin/fleetpush"].mode == 0o755


def test_its_settings_are_kept_and_keep_the_data_where_the_service_may_write(
    package: Path, content: tarfile.TarFile, tmp_path: Path
) -> None:
    conffiles = subprocess.run(["dpkg-deb", "--info", package, "conffiles"], capture_output=True, text=True).stdout
    assert conffiles == f"{CONFIG}\n"
    packed = content.extractfile(f".{CONFIG}")
    assert packed is not None
    (tmp_path / "fleetpush.toml").write_bytes(packed.read())
    assert Settings.load(tmp_path / "fleetpush.toml") == Settings(data_dir=Path("/var/lib/fleetpush/data"))


def test_packages_of_others_are_listed_with_their_licence(content: tarfile.TarFile) -> None:
    packed = content.extractfile("./usr/share/doc/fleetpush/copyright")
    assert packed is not None
    assert packed.read().decode().endswith("\n .\n uvloop 0.23.0: MIT\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_its_scripts_are_scripts(package: Path, script: str) -> None:
    text = subprocess.run(["dpkg-deb", "--info", package, script], capture_output=True, text=True).stdout
    assert text.startswith("#!/bin/sh\n")
    assert "\nset -e\n" in text
    assert subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True).stderr == ""


def test_the_same_source_and_date_make_the_same_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("dpkg-deb")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = [assemble(stage_with(tmp_path / name), "1.2.3-4", tmp_path / name) for name in ("one", "two")]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_a_library_that_nobody_has_named_ends_the_build(tmp_path: Path) -> None:
    renamed = tmp_path / COMPILED.name
    renamed.write_bytes(COMPILED.read_bytes().replace(b"\0libc.so.6\0", b"\0libz.so.1\0"))
    with pytest.raises(BuildFailed, match=r"needs libz\.so\.1: name its Debian package"):
        assemble(stage_with(tmp_path, renamed), "1.2.3-4", tmp_path)
