"""`fleetpush simulate`, as a person or a pipeline uses it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from client_sim.simulator.command import main
from client_sim.simulator.scenario import builtin_scenarios
from client_sim.simulator.simulation_report import SimulationReport
from tests.end_to_end.harness import fleetpush

SCENARIO = """
title = "A few kiosks"
devices = 10
settle = "20s"
thresholds = ["lost == 0"]
[[phase]]
name = "connect"
[[phase]]
name = "offers"
lasts = "1s"
[[phase.push]]
rate = "20/s"
to = "all"
even = true
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "kiosks.toml"
    path.write_text(SCENARIO)
    return str(path)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """On stderr, without the line breaks of a narrow terminal."""
    return " ".join(capsys.readouterr().err.split())


def test_a_pipeline_gets_its_files_and_an_exit_code(scenario: str, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("html", "json", "xml")}
    command = ["simulate", scenario, "--duration", "2s", "--seed", "7"]
    command += ["--report", str(files["html"]), "--json", str(files["json"]), "--junit", str(files["xml"])]
    result = fleetpush(*command, env={"COLUMNS": "80", "NO_COLOR": ""}, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search("^PASSED ", result.stdout, re.MULTILINE)
    assert "offers: for 2s" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr, "no escape sequences where nobody watches"

    report = json.loads(files["json"].read_text())
    assert report["passed"] is True
    assert (report["lost"], report["duplicated"], report["late"]) == (0, 0, 0)
    assert report["accepted"] == 40, "2 s at 20 each second"
    assert report["delivered"] == 400
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]
    assert report["version"] == 1
    assert report["seed"] == 7
    suite = ElementTree.parse(files["xml"]).getroot()
    assert suite.get("failures") == "0"
    assert "<svg" in files["html"].read_text()


@pytest.mark.full_only
def test_a_threshold_that_does_not_hold_is_99(scenario: str, tmp_path: Path) -> None:
    json_file = tmp_path / "out.json"
    assert main([scenario, "--threshold", "delivery_p50 < 1us", "--json", str(json_file)]) == 99
    report = SimulationReport.model_validate_json(json_file.read_text())
    assert not report.passed
    assert [threshold.passed for threshold in report.thresholds] == [False, True]
    assert report.lost == 0

    page = tmp_path / "out.html"
    assert main([scenario, "--compare", str(json_file), "--report", str(page)]) == 0
    assert "earlier" in page.read_text().lower()


def test_the_built_in_ones_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(re.search(f"^{name} ", listed, re.MULTILINE) for name in builtin_scenarios())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sturm"], "there is no scenario `sturm`. Built in are broadcast"),
        (["missing.toml"], "missing.toml: No such file or directory"),
        (["--devices", "0"], "0 devices: from 1 to"),
        (["--devices", "many"], "'many' is no whole number"),
        (["--duration", "20"], "20"),
        (["--processes", "0"], "--processes 0: from 1 to 64"),
        (["--threshold", "delivery_p99 is quick"], "delivery_p99"),
        (["--threshold", "speed > 1"], "speed"),
        (["--server", "push.example"], "begins with http:// or https://"),
        (["--server", "http://push.example"], "set FLEETPUSH_KEY"),
        (["--ca", "ca.pem"], "--server"),
        (["--compare", "before.json"], "give --report FILE, too"),
        (["--compare", "before.json", "--report", "out.html"], "--compare before.json: No such file"),
        (["--report", "no/such/folder/out.html"], "no/such/folder/out.html: No such file or directory"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_use_is_2_and_says_what_to_do(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLEETPUSH_KEY", raising=False)
    try:
        code = main(arguments)
    except SystemExit as end:  # argparse's
        code = int(str(end.code))
    assert code == 2
    assert complaint in said(capsys)


def test_a_foreign_server_is_not_killed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FLEETPUSH_KEY", "any")
    for scenario in ("restart", "day-cycle"):
        assert main([scenario, "--server", "http://127.0.0.1:1"]) == 2
        assert "leave --server out" in said(capsys)


def test_a_scenario_with_mistakes_names_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(SCENARIO.replace('"20/s"', '"20"').replace("devices", "kiosks"))
    assert main([str(path)]) == 2
    words = said(capsys)
    assert "wrong.toml: kiosks: there is no such key" in words
    assert "wrong.toml: phase[1].push[0].rate: " in words


def test_a_server_that_is_not_there_is_1(
    scenario: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEETPUSH_KEY", "any")
    assert main([scenario, "--server", "http://127.0.0.1:1"]) == 1
    assert "http://127.0.0.1:1" in said(capsys)
