from __future__ import annotations

import re
from pathlib import Path

from gateway.deploy.settings_file import settings_file
from gateway.settings import Settings, described_settings


def test_it_names_and_explains_every_setting() -> None:
    text = settings_file({})
    for setting in described_settings():
        assert re.search(rf"^#{setting.name} = .+$", text, re.MULTILINE)
    assert "Bytes of a push on the wire" in text
    assert not [line for line in text.splitlines() if line and not line.startswith("#")], "it changes nothing"


def test_what_is_behind_its_marks_are_the_defaults(tmp_path: Path) -> None:
    """Whoever takes a mark away has changed nothing. A kind of value, `"PATH"`, stands where there is no default."""
    lines = re.findall(r"^#(\w+ = .+)$", settings_file({}), re.MULTILINE)
    file = tmp_path / "fleetpush.toml"
    file.write_text("\n".join(line for line in lines if not re.search(r'= "(PATH|TEXT)"$', line)))
    assert Settings.load(file) == Settings()


def test_chosen_settings_are_in_force(tmp_path: Path) -> None:
    file = tmp_path / "fleetpush.toml"
    file.write_text(settings_file({"data_dir": '"/var/lib/fleetpush/data"', "bind": '"0.0.0.0"'}))
    assert Settings.load(file) == Settings(data_dir=Path("/var/lib/fleetpush/data"), bind="0.0.0.0")
