"""Scenario files: what may stand in them, and what is said of what may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sim.simulator.quantities import duration, per_second, seconds
from client_sim.simulator.scenario import BadScenario, Scenario, builtin_scenarios

SMALLEST = """
title = "One push"
[[phase]]
name = "connect"
"""


def parse(text: str) -> Scenario:
    return Scenario.parse("mine", text, "mine.toml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("250ms", 0.25), ("20s", 20), ("1.5 s", 1.5), ("5m", 300), ("5min", 300), ("2h", 7_200), ("1d", 86_400)],
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(("text", "value"), [("100/s", 100), ("30/min", 0.5), ("36/h", 0.01), ("0.5 / s", 0.5)])
def test_rates(text: str, value: float) -> None:
    assert per_second(text) == value


@pytest.mark.parametrize("text", ["20", "s", "-1s", "1e3s", "1 week", "٣s", "", 20, None, "1s 2ms"])
def test_what_is_no_quantity_is_told_how_one_is_written(text: object) -> None:
    with pytest.raises(ValueError, match="is no duration: write it as 250ms, 20s"):
        seconds(text)
    with pytest.raises(ValueError, match="is no rate: write it as 100/s"):
        per_second(text)


@given(st.integers(1, 10_000_000))
def test_a_duration_that_is_written_is_read_as_the_same(milliseconds: int) -> None:
    value = milliseconds / 1000
    assert seconds(duration(value)) == pytest.approx(value)


@pytest.mark.parametrize("name", builtin_scenarios())
def test_the_built_in_ones_say_what_they_prove(name: str) -> None:
    scenario = Scenario.load(name)
    assert "Proves " in scenario.description or "proves " in scenario.description, scenario.description
    assert scenario.name == name
    assert any(phase.pushes for phase in scenario.phases)
    assert sum(phase.lasts or 0 for phase in scenario.phases) <= 600 or name == "soak"


def test_the_smallest_one_has_defaults_for_the_rest() -> None:
    scenario = parse(SMALLEST)
    assert (scenario.devices, scenario.seed, scenario.clock_speed) == (1_000, 1, 1.0)
    assert not scenario.needs_own_server
    assert scenario.text == SMALLEST


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("title = ", "mine.toml: Invalid value"),
        ("title = 'x'", "mine.toml: phase: Field required"),
        (SMALLEST + "speed = 3", "mine.toml: phase[0].speed: there is no such key"),
        ("devises = 3" + SMALLEST, "mine.toml: devises: there is no such key"),
        ("devices = 0" + SMALLEST, "mine.toml: devices: Input should be greater than or equal to 1"),
        ("devices = 200_000" + SMALLEST, "devices: Input should be less than or equal to 100000"),
        ("settle = 60" + SMALLEST, "mine.toml: settle: 60 is no duration: write it as 250ms"),
        ("thresholds = ['lost is 0']" + SMALLEST, "mine.toml: thresholds: "),
        (SMALLEST + "away = 1.5", "phase[0].away: Input should be less than or equal to 1"),
        (SMALLEST + "away = 1.5", "less than or equal to 1 (phase 'connect')"),
        ("title = 'x'\nphase = [3]", "phase[0]: Input should be a valid dictionary"),
        ("[people]\nhours = '8-18'" + SMALLEST, "people.hours: '8-18': write it as 08:00-18:00"),
        ("[people]\nzones = ['Mars']" + SMALLEST, "people.zones: unknown time zone 'Mars'"),
        ("[people]\nbegins = 2026-03-02T06:00:00" + SMALLEST, "people.begins: needs an offset"),
        (SMALLEST + "[phase.campaign]", "phase[0]: a campaign needs `lasts`"),
        (SMALLEST + "lasts = '5s'\naway = 0.1\n[phase.campaign]", "phase[0]: a campaign needs all devices"),
        (SMALLEST + "lasts = '5s'\n[phase.campaign]\nrollout = ['10%']", "rollout: must end with `rest`"),
        (SMALLEST + "churn = '1/s'", "phase[0]: what goes on for a while needs `lasts`"),
        (SMALLEST + "[[phase.push]]\nrate = '1/s'", "phase[0]: what goes on for a while needs `lasts`"),
        (SMALLEST + "lasts = '5s'\ncut_every = '1s'", "phase[0]: `cut_every` needs `cut`"),
        (SMALLEST + "lasts = '5s'\nkill_every = '5s'", "phase[0]: `kill_every` and `cut_every` must be shorter"),
        (SMALLEST + "lasts = '5s'\n[[phase.push]]\nrate = '0/s'", "phase[0].push[0].rate: Input should be greater"),
        (SMALLEST + "lasts = '5s'\n[[phase.push]]\nrate = '1/s'\nttl = '500ms'", "ttl: whole seconds, please"),
        (
            SMALLEST + "lasts = '5s'\n[[phase.push]]\nrate = '1/s'\nqos = 2",
            "push[0].qos: Input should be 0 or 1",
        ),
        (SMALLEST + "lasts = '5s'\n[[phase.push]]\nrate = '1/s'\nkind = 'sms'", "kind: Input should be 'alert'"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(BadScenario) as caught:
        parse(text)
    assert complaint in str(caught.value)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(BadScenario) as caught:
        parse("devices = 0\nsettle = '1'" + SMALLEST)
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SMALLEST)
    assert Scenario.load(str(path)).name == "mine"
    with pytest.raises(BadScenario, match=r"there is no scenario `mine`\. Built in are broadcast, .* ends in \.toml"):
        Scenario.load("mine")
    with pytest.raises(BadScenario, match="No such file"):
        Scenario.load(str(tmp_path / "yours.toml"))
    path.write_bytes(b"title = '\xff'")
    with pytest.raises(BadScenario, match="not UTF-8"):
        Scenario.load(str(path))


def test_another_duration_stretches_every_phase_in_its_proportion() -> None:
    text = (
        SMALLEST
        + """
[[phase]]
name = "storm"
lasts = "30s"
cut = 0.5
cut_every = "10s"
[[phase]]
name = "calm"
lasts = "10s"
return_within = "4s"
"""
    )
    changed = parse(text).with_(lasts=20.0, devices=5, seed=9)
    assert [phase.lasts for phase in changed.phases] == [None, 15.0, 5.0]
    assert changed.phases[1].cut_every == 5.0
    assert changed.phases[2].return_within == 2.0
    assert (changed.devices, changed.seed) == (5, 9)
    assert changed.text.startswith("# devices = 5\n# seed = 9\n# duration = 20s, instead of 40s\n")
    with pytest.raises(BadScenario, match="has no phase that lasts for a time"):
        parse(SMALLEST).with_(lasts=20.0)
    with pytest.raises(BadScenario, match="0 devices: from 1 to 100,000"):
        parse(SMALLEST).with_(devices=0)


def test_a_phase_says_what_happens_in_it() -> None:
    text = (
        SMALLEST
        + """
[[phase]]
name = "storm"
lasts = "30s"
away = 0.1
cut = 1
cut_every = "10s"
churn = "5/s"
kill_server = true
[[phase.push]]
rate = "100/s"
[[phase.push]]
rate = "6/min"
to = 0.25
"""
    )
    scenario = parse(text)
    assert scenario.phases[0].describe() == "until all are connected"
    assert scenario.phases[1].describe() == (
        "for 30s, 10% away, 100% of the connections cut every 10s, server killed, 5 devices/s vanish and return, "
        "100/s to one, 6/min to 25% of the fleet"
    )
    assert scenario.needs_own_server
