"""The files that put the server into its place: what systemd thinks of the units, and what documents say of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.third_party import require

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "gateway" / "deploy"
UNITS = ("fleetpush.service", "fleetpush.socket", "fleetpush-backup.service")
INSTALL = ROOT / "docs" / "operate" / "install.md"


def analyze(*arguments: str) -> str:
    command = [require("systemd-analyze"), "--no-pager", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """With a program that is there: it looks for that, too."""
    for unit in UNITS:
        text = (DEPLOY / unit).read_text()
        (tmp_path / unit).write_text(text.replace("/opt/fleetpush/bin/fleetpush", sys.executable))
    for unit in UNITS:
        assert analyze("verify", "--man=no", str(tmp_path / unit)) == ""


def test_its_exposure_is_the_documents_figure() -> None:
    said = analyze("security", "--offline=true", str(DEPLOY / "fleetpush.service"))
    exposure = re.search(r"Overall exposure level for fleetpush.service: (\d+\.\d)", said)
    promised = re.search(r"`systemd-analyze security` puts its exposure at \*\*(\d+\.\d)\*\*", INSTALL.read_text())
    assert exposure is not None
    assert promised is not None
    # A later systemd may know more to ask for; this is what was promised with that of Debian 12.
    assert float(exposure[1]) <= float(promised[1])


def test_all_say_the_same_places() -> None:
    unit, readme, install = (
        (DEPLOY / "fleetpush.service").read_text(),
        (DEPLOY / "README.md").read_text(),
        INSTALL.read_text(),
    )
    for place in ("/opt/fleetpush/bin/fleetpush", "/etc/fleetpush/fleetpush.toml", "/var/lib/fleetpush"):
        assert all(place in text for text in (unit, readme, install)), place
    assert 'data_dir = "/var/lib/fleetpush/data"' in readme
    assert "StateDirectory=fleetpush\n" in unit


def test_backups_are_those_of_its_data() -> None:
    unit, page = (DEPLOY / "fleetpush-backup.service").read_text(), (ROOT / "docs/operate/backup.md").read_text()
    assert "--data-dir /var/lib/fleetpush/data\n" in unit
    for place in ("/var/backups/fleetpush", "/etc/fleetpush/backup.pub", "--every 6h --keep 14 --verify"):
        assert place in unit, place
        assert place in page, place


def test_it_has_more_time_to_end_than_it_needs() -> None:
    """The steps of an end: HTTP requests; answers, acknowledgements, hang-ups; the goodbye in rounds."""
    from broker.network.listeners import DRAIN_SECONDS as BROKER_SECONDS
    from gateway.api.server import DRAIN_SECONDS as HTTP_SECONDS

    stop = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "fleetpush.service").read_text(), re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) > HTTP_SECONDS + 3 * BROKER_SECONDS
