"""The flags of `serve` are the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway import app as server
from gateway.cli import app
from gateway.settings import WITHOUT_FLAG, Settings, described_settings


def help_text() -> str:
    return " ".join(CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "100"}).stdout.split())


def test_every_setting_has_a_flag_with_its_docstring_and_default() -> None:
    text = help_text()
    described = {setting.name: setting for setting in described_settings()}
    assert list(described) == list(Settings.model_fields)
    for setting in described.values():
        assert setting.text.endswith("."), setting.name
        assert (f"{setting.flag} " in text) is (setting.name not in WITHOUT_FLAG), setting.name
        if setting.has_flag:
            assert setting.text in text
    assert "Bytes of a push on the wire. 4 KiB is what FCM and APNs allow. Default: 4 KiB." in text
    assert "loses. Default: 1000." in text


def test_flags_reach_the_settings_as_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Settings] = []

    def run(settings: Settings) -> int:
        found.append(settings)
        return 3

    monkeypatch.setattr(server, "run", run)
    flags = [
        "--data-dir",
        str(tmp_path),
        "--mqtt-port",
        "0",
        "--http-port",
        "0",
        "--insecure",
        "--max-payload",
        "8 KiB",
    ]
    listen = ["--listen", "mqtt://127.0.0.1:0", "--listen", "unix:/run/x", "--retention-days", "1.5"]
    assert CliRunner().invoke(app, ["serve", *flags, *listen]).exit_code == 3
    (settings,) = found
    assert (settings.data_dir, settings.mqtt_port, settings.insecure) == (tmp_path, 0, True)
    assert settings.listen == ("mqtt://127.0.0.1:0", "unix:/run/x")
    assert (settings.max_payload, settings.retention_days) == (8_192, 1.5)
    assert settings.log_level == Settings.model_fields["log_level"].default


def test_a_flag_that_is_wrong_is_one_line_that_names_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", "--data-dir", str(tmp_path), "--log-level", "loud"])
    assert "--log-level: 'loud'" in str(result.exception)
