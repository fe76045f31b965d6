"""Reports as a simulation would write them, made up: a fleet that connects, a steady flow, a server killed on the way.

Deterministic, so a picture of one is the same every time.
"""

from __future__ import annotations

import random
from typing import Any

from client_sim.simulator.simulation_report import (
    Finding,
    Host,
    Latency,
    PhaseReport,
    Resources,
    Sample,
    SimulationReport,
    Threshold,
)

MIB = 1024**2
SCENARIO = """\
# Kills the server in mid-traffic and starts it again.
title = "Restart in mid-traffic"
devices = 5000
seed = 42

[[phases]]
name = "ramp"
duration = "20s"

[[phases]]
name = "steady"
duration = "40s"
pushes_per_second = 400

[[phases]]
name = "kill"
duration = "6s"
action = "kill -9"
"""


def report(**changes: Any) -> SimulationReport:
    """Passed, two minutes, with an outage; `changes` are fields of the report."""
    facts: dict[str, Any] = {
        "scenario": "restart",
        "title": "Restart in mid-traffic",
        "description": "Kills the server it started in mid-traffic, starts it again and looks for every push.",
        "scenario_text": SCENARIO,
        "fleetpush": "0.1.0",
        "server": "started by the simulation",
        "began_at": "2026-11-26T12:00:00.000Z",
        "duration": 120.0,
        "seed": 42,
        "devices": 5000,
        "paho_devices": 50,
        "processes": 1,
        "accepted": 37_600,
        "deliveries": 37_600,
        "delivered": 37_412,
        "lost": 0,
        "duplicated": 0,
        "late": 0,
        "out_of_order": 0,
        "expired_online": 0,
        "disagreements": 0,
        "violations": 0,
        "redelivered": 213,
        "ended": {"expired": 121, "superseded": 67},
        "server_states": {
            "delivered": 9_000,
            "displayed": 20_312,
            "opened": 5_100,
            "acted": 3_000,
            "expired": 121,
            "superseded": 67,
        },
        "errors": {"ConnectionRefusedError: connection refused": 18_211, "HTTP 503 shutting_down": 12},
        "latency_ms": Latency(count=37_412, p50=4.2, p90=11.9, p99=612.4, p999=5_913, max=6_871),
        "latency_curve": latency_curve(4.2, 6_871),
        "request_ms": Latency(count=37_600, p50=2.1, p90=4.4, p99=41, p999=5_800, max=6_004),
        "connect_ms": Latency(count=10_013, p50=12.4, p90=310, p99=1_893, p999=2_950, max=3_104),
        "phases": [
            PhaseReport(name="ramp", began=0, ended=20, description="5,000 devices connect, 250 a second"),
            PhaseReport(name="steady", began=20, ended=60, description="400 pushes a second, each to one device"),
            PhaseReport(name="kill", began=60, ended=66, description="kill -9, started again after 5 s"),
            PhaseReport(name="recovery", began=66, ended=90, description="the fleet comes back with full jitter"),
            PhaseReport(name="steady again", began=90, ended=115, description="400 pushes a second"),
            PhaseReport(name="drain", began=115, ended=120, description="until nothing is open"),
        ],
        "samples": outage_samples(),
        "thresholds": [
            Threshold(text="lost == 0", actual="0", passed=True),
            Threshold(text="delivery_p50 < 20ms", actual="4.20 ms", passed=True),
            Threshold(text="connect_p99 < 2s", actual="1.89 s", passed=True),
            Threshold(text="memory_per_device <= 8KiB", actual="5.61 KiB", passed=True),
        ],
        "findings": [],
        "warnings": [],
        "resources": Resources(
            simulator_microseconds_per_push=212.5,
            server_microseconds_per_push=1_131.0,
            bytes_per_device=5_745,
            connects_per_second=249.8,
            deliveries_per_second=399.2,
            loop_lag_p99_ms=3.4,
            loop_lag_max_ms=21.7,
        ),
        "host": Host(
            system="Linux 6.12 (Debian 12)",
            processor="AMD EPYC 7B13",
            cores=2,
            memory=8 * 1024 * MIB,
            python="3.11.2",
        ),
        "passed": True,
    }
    return SimulationReport(**{**facts, **changes})


def failed_report(**changes: Any) -> SimulationReport:
    """A server that loses some, sends some twice and is slow about the rest."""
    findings = [
        Finding(
            kind="lost",
            push_id=f"01KB0Z6Q9V{number:016}",
            device_id=f"sim-{number * 37:05}",
            detail=f"accepted at {21 + number}.{number:03} s with a ttl of 3,600 s; the server says `delivered`",
        )
        for number in range(37)
    ]
    findings += [
        Finding(
            kind="duplicated",
            push_id=f"01KB0Z7A1C{number:016}",
            device_id=f"sim-{number * 11:05}",
            detail="took effect at 63.101 s and at 67.230 s",
        )
        for number in range(5)
    ]
    findings.append(
        Finding(
            kind="violation",
            push_id="",
            device_id="sim-00812",
            detail="PUBLISH with QoS 3 [MQTT-3.3.1-4]; disconnected",
        )
    )
    facts: dict[str, Any] = {
        "delivered": 37_375,
        "lost": 37,
        "duplicated": 5,
        "disagreements": 37,
        "violations": 1,
        "findings": findings,
        "thresholds": [
            Threshold(text="lost == 0", actual="37", passed=False),
            Threshold(text="delivery_p99 < 250ms", actual="612 ms", passed=False),
            Threshold(text="delivered_share >= 99%", actual="99.4%", passed=True),
            Threshold(text="server_cores < 1.5", actual="not measured", passed=False),
        ],
        "warnings": [
            "The simulator was the bottleneck for 4 s: its event loop lagged by more than 100 ms. Latencies of these "
            "seconds say more about this machine than about the server."
        ],
        "passed": False,
    }
    return report(**{**facts, **changes})


def empty_report(**changes: Any) -> SimulationReport:
    """Nobody answered: no device came online, nothing was accepted."""
    nothing = ("accepted", "deliveries", "delivered", "redelivered", "paho_devices")
    facts: dict[str, Any] = {
        **dict.fromkeys(nothing, 0),
        "duration": 0.4,
        "ended": {},
        "server_states": {},
        "errors": {},
        "latency_ms": Latency(),
        "latency_curve": [],
        "request_ms": Latency(),
        "connect_ms": Latency(),
        "phases": [],
        "samples": [],
        "thresholds": [],
        "resources": Resources(),
        "passed": False,
    }
    return report(**{**facts, **changes})


def hours_report(hours: int = 3, **changes: Any) -> SimulationReport:
    """A soak: one sample a second, and a peak of one second in the middle."""
    dice = random.Random(7)
    samples = [
        Sample(
            at=at,
            online=5000 - dice.randrange(20),
            accepted=100 + dice.randrange(20),
            delivered=100 + dice.randrange(20),
            receipts=150,
            connects=dice.randrange(3),
            p50_ms=3 + dice.random(),
            p99_ms=98_765.4 if at == hours * 1800 else 9 + 4 * dice.random(),
            server_cores=0.3 + 0.1 * dice.random(),
            server_memory=int(120 * MIB + at * 1000),
            simulator_cores=0.1 + 0.05 * dice.random(),
            simulator_memory=90 * MIB,
            loop_lag_ms=dice.random(),
        )
        for at in range(hours * 3600)
    ]
    phase = PhaseReport(name="soak", began=0, ended=hours * 3600)
    facts: dict[str, Any] = {"duration": hours * 3600.0, "samples": samples, "phases": [phase]}
    return report(**{**facts, **changes})


def latency_curve(median: float, highest: float) -> list[tuple[float, float]]:
    """Rises like the tail of something that mostly works."""
    percentiles = [0, 10, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.75, 99.9, 99.95, 99.99, 100]
    last = len(percentiles) - 1
    return [(percentile, median * (highest / median) ** (n / last) ** 2.5) for n, percentile in enumerate(percentiles)]


def outage_samples() -> list[Sample]:
    dice = random.Random(42)
    samples = []
    for at in range(120):
        up = not 60 <= at < 66
        back = min(1.0, max(0.0, (at - 66) / 18)) if at >= 60 else 1.0
        online = min(5000, at * 250) if at < 60 else int(5000 * back) if up else 0
        sending = 20 <= at < 115
        accepted = 380 + dice.randrange(40) if sending and up else 0
        backlog = 900 if 67 <= at < 74 else 0
        delivered = int(accepted * back) + backlog if up else 0
        slow = 60 if 66 <= at < 80 else 1
        samples.append(
            Sample(
                at=at,
                online=online,
                accepted=accepted,
                delivered=delivered,
                receipts=int(delivered * 1.4),
                connects=250 if at < 20 else dice.randrange(200, 350) if 66 <= at < 84 else 0,
                p50_ms=(4 + dice.random()) * slow if delivered else None,
                p99_ms=(12 + 9 * dice.random()) * slow * 2 if delivered else None,
                server_cores=0.35 + delivered / 1200 + 0.1 * dice.random() if up else None,
                server_memory=int((62 + online / 160 + at / 30) * MIB) if up else None,
                simulator_cores=0.05 + delivered / 6000 + 0.03 * dice.random(),
                simulator_memory=int((48 + at / 60) * MIB),
                loop_lag_ms=0.4 + dice.random() + (18 if at == 66 else 0),
            )
        )
    return samples
