"""Whole simulations, small: a fleet against a real server, a good one and broken ones."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import httpx2
import pytest
from _pytest.mark.structures import ParameterSet

from client_sim.simulator.scenario import Scenario, builtin_scenarios
from client_sim.simulator.server_process import FLEETPUSH, ServerProcess
from client_sim.simulator.simulation import Simulation, Target
from client_sim.simulator.simulation_report import SimulationReport

BROKEN_SERVER = Path(__file__).with_name("broken_server.py")
DEVICES, LASTS = 60, 6.0
"""Of the day whose funnel is compared."""
SECONDS = 3.0
"""Of a built-in scenario's phases together, in a short run."""

TRAFFIC = """
title = "Traffic"
devices = 30
settle = "20s"
[people]
think_time = "100ms"
[[phase]]
name = "connect"
[[phase]]
name = "traffic"
lasts = "3s"
[[phase.push]]
rate = "200/s"
[[phase.push]]
rate = "6/s"
to = "all"
even = true
"""
"""A little more than a thousand deliveries: the first fault that is planted happens to one of so many."""

ABSENCE = """
title = "Short lives"
devices = 30
settle = "20s"
[[phase]]
name = "connect"
[[phase]]
name = "absence"
lasts = "3s"
away = 1
[[phase.push]]
rate = "20/s"
ttl = "1s"
[[phase]]
name = "back"
lasts = "1s"
return_within = "500ms"
"""


def sampled(names: Iterable[str], *always: str) -> list[ParameterSet]:
    """Parameters: those that every run tries, and the others with --full."""
    return [pytest.param(name, marks=() if name in always else pytest.mark.full_only) for name in names]


async def simulate(scenario: Scenario, folder: Path, *program: str) -> SimulationReport:
    folder.mkdir(exist_ok=True)
    speed = [] if scenario.clock_speed == 1 else ["--clock-speed", f"{scenario.clock_speed:g}"]
    server = ServerProcess(folder, *speed, program=program or FLEETPUSH)
    return await Simulation(scenario, server=server).run()


async def simulate_broken(fault: str, text: str, folder: Path) -> SimulationReport:
    scenario = Scenario.parse(fault, text, f"{fault}.toml")
    with pytest.MonkeyPatch.context() as environment:
        # A fault is planted by replacing methods, which compiled modules do not look up.
        environment.setenv("FLEETPUSH_PURE", "1")
        return await simulate(scenario, folder, sys.executable, str(BROKEN_SERVER), fault)


@pytest.mark.long
@pytest.mark.parametrize("name", sampled(builtin_scenarios(), "offline-drain"))
async def test_a_built_in_scenario_passes(name: str, tmp_path: Path) -> None:
    scenario = Scenario.load(name).with_(devices=30, lasts=SECONDS)
    report = await simulate(scenario.model_copy(update={"thresholds": ()}), tmp_path)
    assert report.passed, (report.findings, report.warnings, report.errors)
    assert report.delivered > 0
    assert report.deliveries == report.delivered + sum(report.ended.values())
    assert report.paho_devices == 1


@pytest.mark.full_only
async def test_every_kind_of_push_is_answered_in_its_way(tmp_path: Path) -> None:
    """People see alerts, devices obey commands, data is seen by nobody: else the two ledgers would differ."""
    streams = "".join(
        f'[[phase.push]]\nrate = "20/s"\nkind = "{kind}"\n' for kind in ("alert", "in_app", "silent", "command")
    )
    text = (
        f'title = "Kinds"\ndevices = 30\n[[phase]]\nname = "connect"\n[[phase]]\nname = "go"\nlasts = "2s"\n{streams}'
    )
    report = await simulate(Scenario.parse("kinds", text, "kinds.toml"), tmp_path)
    assert report.passed, report.findings
    assert report.delivered == report.deliveries > 100


async def test_a_server_that_drops_one_of_a_thousand_is_found_out(tmp_path: Path) -> None:
    report = await simulate_broken("drops", TRAFFIC, tmp_path)
    assert not report.passed
    assert report.lost == report.deliveries // 1_000
    assert {finding.kind for finding in report.findings} == {"booked_without_arrival"}
    assert all(finding.push_id and finding.device_id for finding in report.findings)


@pytest.mark.full_only
async def test_a_server_that_sends_twice_is_found_out(tmp_path: Path) -> None:
    report = await simulate_broken("sends-twice", TRAFFIC, tmp_path)
    assert not report.passed
    assert report.violations == report.redelivered >= 1
    assert "violation" in {finding.kind for finding in report.findings}
    assert (report.lost, report.duplicated) == (0, 0), "the device took them once"


@pytest.mark.full_only
async def test_a_server_that_acknowledges_twice_is_found_out(tmp_path: Path) -> None:
    report = await simulate_broken("answers-twice", TRAFFIC, tmp_path)
    assert not report.passed
    assert report.violations > 100
    assert {finding.kind for finding in report.findings} == {"violation"}
    assert all("not in flight" in finding.detail for finding in report.findings)


@pytest.mark.full_only
async def test_a_server_that_delivers_expired_pushes_is_found_out(tmp_path: Path) -> None:
    report = await simulate_broken("too-late", ABSENCE, tmp_path)
    assert not report.passed
    assert report.late > 0
    assert "late" in {finding.kind for finding in report.findings}
    good = await simulate(Scenario.parse("good", ABSENCE, "good.toml"), tmp_path / "good")
    assert good.passed, good.findings
    assert set(good.ended) == {"expired"}


SHORT = """
title = "Short"
devices = 20
settle = "8s"
[people]
think_time = "300ms"
opened = 0.6
acted = 0.6
[[phase]]
name = "connect"
"""
SHORT_TRAFFIC = f"""{SHORT}
[[phase]]
name = "traffic"
lasts = "2s"
[[phase.push]]
rate = "150/s"
[[phase.push]]
rate = "4/s"
to = "all"
"""
RETURN = f"""{SHORT}
[[phase]]
name = "before"
lasts = "1s"
[[phase.push]]
rate = "60/s"
[[phase]]
name = "absence"
lasts = "4s"
away = 1
[[phase.push]]
rate = "60/s"
priority = ["critical", "high", "normal", "low"]
ttl = "30s"
[[phase.push]]
rate = "20/s"
collapse = 3
[[phase]]
name = "back"
lasts = "1s"
return_within = "500ms"
"""
CUTS = f"""{SHORT}
[[phase]]
name = "cuts"
lasts = "4s"
mute = 0.5
cut = 1
cut_every = "1500ms"
[[phase.push]]
rate = "150/s"
kind = "silent"
"""
KILL = f"""{SHORT.replace('settle = "8s"', 'settle = "60s"')}
[[phase]]
name = "kill"
lasts = "5s"
kill_server = true
away = 0.3
[[phase.push]]
rate = "150/s"
"""
FLOOD = f"""{SHORT.replace("devices = 20", "devices = 2")}
[[phase]]
name = "flood"
lasts = "5s"
away = 1
[[phase.push]]
rate = "500/s"
kind = "silent"
[[phase]]
name = "back"
lasts = "1s"
"""
AT_MOST_ONCE = f"""{SHORT}
[[phase]]
name = "traffic"
lasts = "2s"
cut = 0.2
cut_every = "500ms"
[[phase.push]]
rate = "100/s"
qos = 0
[[phase.push]]
rate = "50/s"
kind = "silent"
qos = 0
"""

LEAVING = f"""{SHORT.replace("[people]", "[people]" + chr(10) + "leave = 0.2")}
[[phase]]
name = "too many"
lasts = "4s"
[[phase.push]]
rate = "8/s"
to = "all"
channel = "offers"
"""
CAMPAIGNS = f"""{SHORT}
[[phase]]
name = "traffic"
lasts = "1s"
[[phase.push]]
rate = "10/s"
[[phase]]
name = "bad build"
lasts = "60s"
[phase.campaign]
canary = 5
failing = 0.9
[[phase]]
name = "good build"
lasts = "60s"
[phase.campaign]
canary = 5
rollout = ["30%", "rest"]
variants = 2
patience = "20s"
"""

FAULTS = {
    "superseded": (SHORT_TRAFFIC, "ended_without_cause"),
    "suppressed": (SHORT_TRAFFIC, "ended_without_cause"),
    "overflowed": (SHORT_TRAFFIC, "ended_without_cause"),
    "cancelled": (SHORT_TRAFFIC, "ended_without_cause"),
    "refused": (SHORT_TRAFFIC, "ended_without_cause"),
    "too-early": (SHORT_TRAFFIC, "ended_without_cause"),
    "miscounts": (SHORT_TRAFFIC, "contradiction"),
    "no-answer": (SHORT_TRAFFIC, "unanswered"),
    "no-webhook": (SHORT_TRAFFIC, "event"),
    "no-event": (SHORT_TRAFFIC, "event"),
    "wrong-device": (SHORT_TRAFFIC, "arrived_without_booking"),
    "mixed-up": (SHORT_TRAFFIC, "booked_without_arrival"),
    "truncated": (SHORT_TRAFFIC, "violation"),
    "downgraded": (SHORT_TRAFFIC, "violation"),
    "retained": (SHORT_TRAFFIC, "violation"),
    "no-expiry": (SHORT_TRAFFIC, "violation"),
    "fresh-expiry": (RETURN, "late"),
    "backwards": (RETURN, "out_of_order"),
    "urgent-last": (RETURN, "out_of_order"),
    "new-names": (CUTS, "duplicated"),
    "again": (RETURN, "violation"),
    "never-drained": (RETURN, "lost"),
    "gives-up": (CUTS, "arrived_without_booking"),
    "collapses-none": (RETURN, "not_superseded"),
    "collapses-newest": (RETURN, "ended_without_cause"),
    "overflows-newest": (FLOOD, "ended_without_cause"),
    "twice": (SHORT_TRAFFIC, "duplicated"),
    "fewer": (SHORT_TRAFFIC, "lost"),
    "shuffled": (SHORT_TRAFFIC, "duplicated"),
    "turned-away": (SHORT_TRAFFIC, "contradiction"),
    "refused-and-sent": (SHORT_TRAFFIC, "arrived_without_booking"),
    "misbooked": (SHORT_TRAFFIC, "booked_without_arrival"),
    "no-result": (SHORT_TRAFFIC, "contradiction"),
    "late-booking": (KILL, "arrived_without_booking"),
    "stale-counts": (SHORT_TRAFFIC, "contradiction"),
    "misreached": (SHORT_TRAFFIC, "contradiction"),
    "no-time": (SHORT_TRAFFIC, "contradiction"),
    "wrong-qos": (SHORT_TRAFFIC, "contradiction"),
    "short-mailbox": (RETURN, "contradiction"),
    "wrong-funnel": (SHORT_TRAFFIC, "contradiction"),
    "always-online": (RETURN, "contradiction"),
    "wrong-push": (SHORT_TRAFFIC, "event"),
    "wrong-webhook": (SHORT_TRAFFIC, "event"),
    "bare-acted": (SHORT_TRAFFIC, "event"),
    "newest-first": (SHORT_TRAFFIC, "event"),
    "no-coming": (SHORT_TRAFFIC, "event"),
    "never-minds": (LEAVING, "ended_without_cause"),
    "never-stops": (CAMPAIGNS, "contradiction"),
    "another-order": (CAMPAIGNS, "contradiction"),
    "no-sessions": (KILL, "violation"),
    "no-mailbox": (KILL, "lost"),
}
"""What is planted, where, and as what it is found."""
OF_NO_PUSH = ("always-online", "another-order", "never-stops", "no-coming", "no-sessions", "turned-away")
"""What they do wrong is done to a device; the last one makes no push."""
OF_NO_DEVICE = (
    "another-order",
    "never-stops",
    "miscounts",
    "misreached",
    "shuffled",
    "stale-counts",
    "fewer",
    "wrong-funnel",
)
"""They miscount a push as a whole, or take it for another, and it may be to many."""


@pytest.mark.parametrize("fault", sampled(FAULTS))
async def test_a_server_with_a_fault_is_found_out(fault: str, tmp_path: Path) -> None:
    """Some of them, and each with --full: every fault costs a server and a fleet."""
    text, kind = FAULTS[fault]
    report = await simulate_broken(fault, text, tmp_path)
    assert not report.passed
    found = [finding for finding in report.findings if finding.kind == kind]
    assert found, report.findings
    assert all(finding.push_id for finding in found) or fault in OF_NO_PUSH
    assert all(finding.device_id for finding in found) or fault in OF_NO_DEVICE


@pytest.mark.full_only
@pytest.mark.parametrize("text", [RETURN, CUTS, KILL, FLOOD, AT_MOST_ONCE, LEAVING, CAMPAIGNS])
async def test_a_right_server_passes_where_faults_are_looked_for(text: str, tmp_path: Path) -> None:
    report = await simulate(Scenario.parse("right", text, "right.toml"), tmp_path)
    assert report.passed, report.findings
    assert report.delivered > 0


@pytest.mark.full_only
async def test_the_funnel_is_what_the_devices_saw(tmp_path: Path) -> None:
    """A day on a faster clock: the server's analytics, of all hours together, are the simulator's own counts."""
    scenario = Scenario.load("day-cycle").with_(devices=DEVICES, lasts=LASTS)
    server = ServerProcess(tmp_path, "--clock-speed", f"{scenario.clock_speed:g}")
    server.start()
    try:
        target = Target(server.url, server.key)
        report = await Simulation(scenario.model_copy(update={"thresholds": ()}), target=target).run()
        assert report.passed, report.findings
        headers = {"Authorization": f"Bearer {server.key}"}
        answer = httpx2.get(f"{server.url}/v1/analytics?by=hour", headers=headers, timeout=60)
        hours = answer.raise_for_status().json()["items"]
    finally:
        server.kill()
    states = report.server_states
    levels = ("delivered", "displayed", "opened", "acted")
    own = {level: sum(states.get(other, 0) for other in levels[levels.index(level) :]) for level in levels}
    assert {level: sum(item[level] for item in hours) for level in levels} == own
    assert own["delivered"] == report.delivered
    assert sum(item["targeted"] for item in hours) == report.deliveries


async def test_a_server_that_runs_already_is_left_as_it_was_found(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    server.start()
    try:
        scenario = Scenario.parse("traffic", TRAFFIC, "traffic.toml").with_(lasts=1.0)
        report = await Simulation(scenario, target=Target(server.url, server.key), processes=2).run()
        assert report.passed, report.findings
        assert report.server == server.url
        assert server.running_pid is not None
    finally:
        server.kill()


def test_a_server_has_no_setting_of_the_caller_and_runs_in_its_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a fault that is planted in the source is none where compiled modules are."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "print(*(name for name in os.environ if name.startswith('FLEETPUSH_')), file=open('variables', 'w'))\n"
        "print('fleetpush ready http=127.0.0.1:1 mqtt=127.0.0.1:2')\n"
    )
    monkeypatch.setenv("FLEETPUSH_PURE", "1")
    monkeypatch.setenv("FLEETPUSH_MAX_PAYLOAD", "256")
    server = ServerProcess(tmp_path, program=(sys.executable, str(program)))
    server.start()
    server.wait()
    assert set((tmp_path / "variables").read_text().split()) == {"FLEETPUSH_PURE", "FLEETPUSH_WEBHOOK_NETWORKS"}
