"""The result of a simulation as data: the JSON of `--json`, and the source of the HTML and JUnit reports.

`version` counts incompatible changes; fields are added without one. Times are seconds since the start of the simulation
unless the name says otherwise, latencies milliseconds, processor time cores or microseconds, memory bytes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_FINDINGS = 100
"""Findings written out; more are counted only."""

FindingKind = Literal[
    "lost",
    "duplicated",
    "late",
    "out_of_order",
    "expired_online",
    "booked_without_arrival",
    "arrived_without_booking",
    "violation",
    "ended_without_cause",
    "not_superseded",
    "contradiction",
    "event",
    "unanswered",
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Part):
    """Percentiles of `count` measurements, from the moment each was due. Empty: None."""

    count: int = 0
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    p999: float | None = None
    max: float | None = None


class Finding(_Part):
    """One thing that must not be: which push, which device, and in words what was seen."""

    kind: FindingKind
    push_id: str
    device_id: str
    detail: str


class Threshold(_Part):
    """`text` as it was given, for example `delivery_p99 < 250ms`; `actual` what was measured, in the same unit."""

    text: str
    actual: str
    passed: bool


class PhaseReport(_Part):
    """A phase as it ran: its name, and when it began and ended."""

    name: str
    began: float
    ended: float
    description: str = ""


class Sample(_Part):
    """One second. Counts are of this second alone; `None`: not measured (a server on another machine, nothing came)."""

    at: float
    online: int
    accepted: int
    delivered: int
    receipts: int
    connects: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    server_cores: float | None = None
    server_memory: int | None = None
    simulator_cores: float
    simulator_memory: int
    loop_lag_ms: float


class Host(_Part):
    """The machine of the simulator."""

    system: str
    processor: str
    cores: int
    memory: int
    python: str


class Resources(_Part):
    """The cost of the whole simulation. The simulator's figures leave out the paho devices and the sender."""

    simulator_microseconds_per_push: float | None = None
    server_microseconds_per_push: float | None = None
    bytes_per_device: int | None = None
    connects_per_second: float | None = None
    deliveries_per_second: float | None = None
    loop_lag_p99_ms: float = 0.0
    loop_lag_max_ms: float = 0.0


class SimulationReport(_Part):
    """The report of a simulation: what happened, what was wrong, how fast it was, what it cost."""

    version: Literal[1] = 1
    scenario: str
    title: str
    description: str
    scenario_text: str = Field(description="The scenario as it ran, TOML")
    fleetpush: str = Field(description="Version")
    server: str = Field(description="Its address, or `started by the simulation`")
    began_at: str = Field(description="RFC 3339, UTC")
    duration: float
    seed: int
    devices: int
    paho_devices: int = Field(description="How many of them are real paho-mqtt clients in processes of their own")
    processes: int

    accepted: int = Field(description="Pushes that the server answered with 202")
    deliveries: int = Field(description="What they sum to: one push to one device each")
    delivered: int = Field(description="Deliveries that took effect on their device, each counted once")
    lost: int = Field(description="Accepted, neither arrived nor ended by the server with a reason")
    duplicated: int = Field(description="Effects beyond the first of the same push on the same device")
    late: int = Field(description="Arrived after the end of their time to live")
    out_of_order: int = Field(description="Arrived after a push of the same priority that was accepted later")
    expired_online: int = Field(description="Ended `expired` though their device was connected all the while")
    disagreements: int = Field(description="Deliveries of which the two ledgers do not say the same")
    violations: int = Field(description="Times the server broke the protocol, as the devices see it")
    unexplained: int = Field(
        default=0, description="Ended, or not ended, otherwise than what was sent, the clock and the devices call for"
    )
    contradictions: int = Field(default=0, description="Answers of the server about a push that do not agree")
    events_wrong: int = Field(default=0, description="Events that were not told, told twice, or told of nothing")
    unanswered: int = Field(default=0, description="Receipts that the server never acknowledged to a connected device")
    redelivered: int = Field(description="Copies of a push that its device had already; allowed, and dropped there")
    campaign_parts: int = Field(default=0, description="Parts of campaigns that devices had, not among the deliveries")
    people_left: int = Field(default=0, description="Devices whose person muted a channel or denied consent")
    ended: dict[str, int] = Field(description="Deliveries that the server ended undelivered, by state")
    server_states: dict[str, int] = Field(description="All deliveries by the state that the server's ledger gives them")
    errors: dict[str, int] = Field(description="Requests and connections that failed, by what was said; all retried")

    latency_ms: Latency = Field(description="From the intended send time to the device")
    latency_curve: list[tuple[float, float]] = Field(description="(percentile, ms), ascending")
    request_ms: Latency = Field(description="From the intended send time to the 202")
    connect_ms: Latency = Field(description="From the start of an attempt to the SUBACK")

    phases: list[PhaseReport]
    samples: list[Sample]
    thresholds: list[Threshold]
    findings: list[Finding]
    warnings: list[str]
    resources: Resources
    host: Host
    passed: bool
