"""The package around the environment: files, control data, maintainer scripts, and dpkg-deb.

Built twice of the same source with the same SOURCE_DATE_EPOCH it has the same files, byte for byte: nothing below reads
a clock, a user or a machine, but for the date where nobody has given one.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from email.utils import formatdate
from importlib.metadata import Distribution, distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.deploy.debian.python_environment import (
    ROOT,
    BuildFailed,
    build_wheel,
    make_environment,
    run,
    system_python,
)
from gateway.deploy.debian.shared_objects import UnknownLibrary, packages_needed
from gateway.deploy.settings_file import settings_file

NAME = "fleetpush"
PLACE = "/opt/fleetpush"
CONFIG = "/etc/fleetpush/fleetpush.toml"
DATA_DIR = "/var/lib/fleetpush/data"
UNITS = "lib/systemd/system"
DOCUMENTS = f"usr/share/doc/{NAME}"
MAINTAINER = "Fleetpush <packages@fleetpush.example>"
HERE = Path(__file__).resolve().parent
SCRIPTS = ("postinst", "prerm", "postrm")
CONTROL = """\
Package: {name}
Version: {version}
Section: net
Priority: optional
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {kibibytes}
Depends: {depends}
Recommends: ca-certificates
Homepage: https://fleetpush.example
Description: push for private fleets of devices
 Fleetpush sends push messages to devices that you own, from a server that you
 run, and tells for every device what became of each one. A gateway over HTTP,
 its ledger and an MQTT broker are one process with one directory of data.
 .
 All Python packages that it needs are in /opt/fleetpush. They are run by the
 system's Python.
"""
CHANGELOG = """\
{name} ({version}) unstable; urgency=medium

  * The changes of this version are in /usr/share/doc/{name}/changelog.gz.

 -- {maintainer}  {date}
"""


def build_package(output: Path, revision: str) -> Path:
    """Build the package of this source tree into a folder; its file. Raises BuildFailed."""
    python = system_python()
    with TemporaryDirectory() as temporary:
        wheel = build_wheel(Path(temporary))
        version = f"{wheel.name.split('-')[1]}-{revision}"
        stage = Path(temporary, NAME)
        make_environment(stage, PLACE, python, wheel)
        return assemble(stage, version, output)


def assemble(stage: Path, version: str, output: Path) -> Path:
    """Put the rest of the package around the environment in `stage`, and pack it; the package's file in `output`.
    Raises BuildFailed."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or str(int(time.time()))
    _add_files(stage, version, int(epoch))
    architecture = run("dpkg", "--print-architecture").strip()
    control = stage / "DEBIAN"
    control.mkdir()
    content = [*_content(stage)]
    text = CONTROL.format(
        name=NAME,
        version=version,
        architecture=architecture,
        maintainer=MAINTAINER,
        kibibytes=sum(path.stat().st_size + 1023 >> 10 for path in content),
        depends=", ".join(_depends(stage)),
    )
    (control / "control").write_text(text)
    (control / "conffiles").write_text(f"{CONFIG}\n")
    sums = (f"{_md5(path)}  {path.relative_to(stage)}\n" for path in content if f"/{path.relative_to(stage)}" != CONFIG)
    (control / "md5sums").write_text("".join(sums))
    for script in SCRIPTS:
        shutil.copy(HERE / script, control / script)
    _set_modes(stage)
    output.mkdir(parents=True, exist_ok=True)
    package = output / f"{NAME}_{version}_{architecture}.deb"
    run("dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", stage, package.absolute(), SOURCE_DATE_EPOCH=epoch)
    return package


def _add_files(stage: Path, version: str, epoch: int) -> None:
    """Add everything that is not the environment."""

    def write(place: str, text: str) -> None:
        path = stage / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode(), mtime=0))
        else:
            path.write_text(text)

    write(CONFIG.lstrip("/"), settings_file({"data_dir": f'"{DATA_DIR}"'}))
    # Where an installed server and its commands look for settings, from whatever directory they are called.
    (stage / PLACE.lstrip("/") / "fleetpush.toml").symlink_to(CONFIG)
    (stage / "usr" / "bin").mkdir(parents=True)
    (stage / "usr" / "bin" / "fleetpush").symlink_to(f"{PLACE}/bin/fleetpush")
    for unit in sorted([*HERE.parent.glob("*.service"), *HERE.parent.glob("*.socket")]):
        write(f"{UNITS}/{unit.name}", unit.read_text())
    write(f"usr/share/man/man1/{NAME}.1.gz", (HERE / f"{NAME}.1").read_text())
    write(f"usr/share/lintian/overrides/{NAME}", (HERE / "lintian-overrides").read_text())
    write(f"{DOCUMENTS}/changelog.gz", (ROOT / "CHANGELOG.md").read_text())
    changes = CHANGELOG.format(name=NAME, version=version, maintainer=MAINTAINER, date=formatdate(epoch))
    write(f"{DOCUMENTS}/changelog.Debian.gz", changes)
    write(f"{DOCUMENTS}/copyright", (HERE / "copyright").read_text() + "".join(_licences(stage)))


def _licences(stage: Path) -> Iterator[str]:
    """A line for each Python package of others, as the package itself names its licence."""
    folders = [str(path) for path in stage.glob(f"{PLACE.lstrip('/')}/lib/python*/site-packages")]
    for found in sorted(distributions(path=folders), key=lambda one: one.name.lower()):
        if found.name != NAME:
            yield f" {found.name} {found.version}: {_licence(found)}\n"


def _licence(package: Distribution) -> str:
    classifiers = [line.rpartition(" :: ")[2] for line in package.metadata.get_all("Classifier") or ()]
    named = [name for name in classifiers if "License" in name]
    written = package.metadata["License-Expression"] or " ".join(named) or package.metadata["License"]
    return written.splitlines()[0] if written else "see its .dist-info directory"


def _depends(stage: Path) -> list[str]:
    """The packages without which this one does not run: the Python of its minor version, and libraries."""
    environment = stage / PLACE.lstrip("/")
    (python,) = environment.glob("lib/python*")
    try:
        return [python.name, "adduser", *packages_needed(environment)]
    except UnknownLibrary as error:
        raise BuildFailed(str(error)) from None


def _content(stage: Path) -> Iterator[Path]:
    """The files of the package, links left out, in an order that is the same everywhere."""
    for path in sorted(stage.rglob("*")):
        if path.is_file() and not path.is_symlink() and "DEBIAN" not in path.relative_to(stage).parts[:1]:
            yield path


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _set_modes(stage: Path) -> None:
    """Take away what the umask and the wheels of others have decided: everybody reads, root alone writes."""
    programs = {stage / "DEBIAN" / script for script in SCRIPTS}
    programs.update(path for path in (stage / PLACE.lstrip("/") / "bin").iterdir() if not path.is_symlink())
    for path in [stage, *stage.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in programs else 0o644)
