"""Measurements of a simulation, as opposed to its proofs: latencies, rates, processor time, memory.

Latency counts from the moment a push was *due*, not from when it left: a sender that is held up would otherwise hide
what it waited for (coordinated omission). It counts for devices that the scenario let be there at that moment; one that
was away would measure its own absence.
"""

from __future__ import annotations

import os
import platform
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdrh.histogram import HdrHistogram

from client_sim.program import installed_version
from client_sim.simulator import thresholds
from client_sim.simulator.fleet import consumed
from client_sim.simulator.simulation_report import Host, Latency, Resources, Sample, SimulationReport

if TYPE_CHECKING:
    from client_sim.simulator.comparison import Comparison
    from client_sim.simulator.fleet import Observation
    from client_sim.simulator.workers import Worker, WorkerPool

BUSY_LAG_SECONDS = 0.1
"""Seconds. From here on what the simulator measures is also itself."""
BUSY_CORES = 0.9
CURVE = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0)
HOUR_MICROSECONDS = 3_600_000_000
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Latencies:
    """A histogram from a microsecond to an hour, three digits exact."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, HOUR_MICROSECONDS, 3)

    def record(self, seconds: float) -> None:
        """Count one measurement, in seconds."""
        self._histogram.record_value(min(max(int(seconds * 1e6), 1), HOUR_MICROSECONDS))

    def at(self, percentile: float) -> float | None:
        """Milliseconds; None without a measurement."""
        if not self._histogram.get_total_count():
            return None
        return round(float(self._histogram.get_value_at_percentile(percentile)) / 1000, 3)

    def latency(self) -> Latency:
        """The percentiles of all measurements."""
        return Latency(
            count=self._histogram.get_total_count(),
            p50=self.at(50),
            p90=self.at(90),
            p99=self.at(99),
            p999=self.at(99.9),
            max=self.at(100),
        )

    def curve(self) -> list[tuple[float, float]]:
        """Percentile and milliseconds, for the report's curve."""
        found = ((percentile, self.at(percentile)) for percentile in CURVE)
        return [(percentile, value) for percentile, value in found if value is not None]


@dataclass
class Second:
    """The events since the last sample."""

    accepted: int = 0
    delivered: int = 0
    receipts: int = 0
    connects: int = 0
    lag: float = 0.0
    latencies: list[float] = field(default_factory=list)


class Statistics:
    """The measurements of a simulation while it runs, and the report in the end."""

    def __init__(self, devices: int) -> None:
        self.errors: Counter[str] = Counter()
        self.online: set[int] = set()
        self.warnings: list[str] = []
        self._devices = devices
        self._began = 0.0
        self._here_since = array("d", [0.0]) * devices
        """The time since which the scenario lets each device be there; infinite while it keeps one away."""
        self._intended = array("d")
        self._delivery = Latencies()
        self._request = Latencies()
        self._connect = Latencies()
        self._lags: list[float] = []
        self._second = Second()
        self._samples: list[Sample] = []
        self._cpu: dict[int, float] = {}
        """Processor seconds by worker, as it said last."""
        self._sender_late = 0.0
        self._server = (0, 0.0)
        """Process id, and its processor seconds when looked at last."""
        self._server_before = 0.0
        """Processor seconds of those that were killed."""
        self._simulator_cpu = 0.0
        self._own_cpu = consumed()[0]
        self._first_push: tuple[float, float] | None = None
        """Processor seconds of server and simulated devices when the first push was sent."""
        self._last_push: tuple[float, float] | None = None
        """Processor seconds of both when nothing was under way any more."""
        self._bytes_per_device: int | None = None
        self._arrived = self._arrived_simulated = 0
        self._busy_worker = 0.0
        self._own_then = 0.0
        self._cpu_then: dict[int, float] = {}

    def begin(self, now: float) -> None:
        self._began = now

    # Of devices

    def absent(self, index: int) -> None:
        self._here_since[index] = inf

    def present(self, index: int, now: float) -> None:
        if self._here_since[index] == inf:
            self._here_since[index] = now

    def came_online(self, index: int, took: float) -> None:
        self.online.add(index)
        self._second.connects += 1
        self._connect.record(took)

    def went_offline(self, index: int) -> None:
        self.online.discard(index)

    def arrived(self, number: int, index: int, when: float) -> None:
        self._arrived += 1
        self._second.delivered += 1
        intended = self._intended[number]
        if self._here_since[index] <= intended:
            self._delivery.record(when - intended)
            self._second.latencies.append(when - intended)

    def observed(self, worker: Worker, seen: Observation) -> None:
        self._second.receipts += len(seen.acknowledged)
        self._second.lag = max(self._second.lag, seen.lag)
        self.errors.update(seen.failures)
        if not worker.paho:
            self._arrived_simulated += len(seen.arrived)
            pid = worker.process.pid or 0
            self._simulator_cpu += seen.cpu - self._cpu.get(pid, 0.0)
            self._cpu[pid] = seen.cpu

    # Of the sender

    def sending(self, pool: WorkerPool, intended: float, now: float) -> None:
        """The next push is sent for the first time, now."""
        if self._first_push is None:
            self._first_push = (self._server_cpu(), self._simulator_cpu)
            workers = pool.simulated
            devices = sum(len(worker.indexes) for worker in workers)
            if devices:
                memory = sum(worker.last.memory - worker.last.bare_memory for worker in workers)
                self._bytes_per_device = max(0, memory // devices)
        self._intended.append(intended)
        self._sender_late = max(self._sender_late, now - intended)

    def accepted(self, number: int, answered: float) -> None:
        self._second.accepted += 1
        self._request.record(answered - self._intended[number])

    def all_arrived(self) -> None:
        """Stop counting the server's processor time: from now on it answers the simulator's questions."""
        if self._last_push is None:
            self._last_push = (self._server_cpu(), self._simulator_cpu)

    # Every second

    def second(self, now: float, pool: WorkerPool, server_pid: int | None) -> Sample:
        past, self._second = self._second, Second()
        last = self._samples[-1].at if self._samples else 0.0
        at = now - self._began
        span = max(at - last, 1e-3)
        own = sum(worker.last.cpu for worker in pool.workers) + consumed()[0] - self._own_cpu
        latencies = sorted(past.latencies)
        cores = memory = None
        if server_pid is not None:
            cores, memory = self._sample_server(server_pid, span)
        busiest = max((worker.last.cpu - self._cpu_then.get(id(worker), 0.0) for worker in pool.simulated), default=0.0)
        self._busy_worker = max(self._busy_worker, busiest / span)
        self._cpu_then = {id(worker): worker.last.cpu for worker in pool.simulated}
        sample = Sample(
            at=round(at, 3),
            online=len(self.online),
            accepted=past.accepted,
            delivered=past.delivered,
            receipts=past.receipts,
            connects=past.connects,
            p50_ms=_percentile(latencies, 0.5),
            p99_ms=_percentile(latencies, 0.99),
            server_cores=cores,
            server_memory=memory,
            simulator_cores=round(max(own - self._own_then, 0.0) / span, 3),
            simulator_memory=sum(worker.last.memory for worker in pool.workers) + consumed()[1],
            loop_lag_ms=round(past.lag * 1000, 3),
        )
        self._own_then = own
        self._lags.append(past.lag)
        self._samples.append(sample)
        return sample

    def _sample_server(self, pid: int, span: float) -> tuple[float | None, int | None]:
        try:
            cpu, memory = of_process(pid)
        except (OSError, ValueError):
            return None, None  # it has just been killed
        (known, before), self._server = self._server, (pid, cpu)
        # What one that is new has used, it has used since a moment that is not known here.
        cores = round(max(cpu - before, 0.0) / span, 3) if known == pid else None
        return cores, memory or None  # a dead one has no memory

    def server_ends(self, pid: int) -> None:
        """Read the server's processor time before it is killed."""
        try:
            cpu, _ = of_process(pid)
        except (OSError, ValueError):
            cpu = self._server[1]
        self._server_before += cpu
        self._server = (0, 0.0)

    def _server_cpu(self) -> float:
        pid, cpu = self._server
        if pid:
            try:
                cpu, _ = of_process(pid)
            except (OSError, ValueError):
                pass  # then what was seen last
        return self._server_before + cpu

    # At the end

    def report(self, comparison: Comparison, rules: Sequence[thresholds.Rule], **facts: Any) -> SimulationReport:
        """The report of the simulation. `facts`: its fields that say what was simulated."""
        resources = self._resources()
        draft = SimulationReport(
            **facts,
            **comparison.fields(),
            fleetpush=installed_version(),
            errors=dict(self.errors.most_common()),
            latency_ms=self._delivery.latency(),
            latency_curve=self._delivery.curve(),
            request_ms=self._request.latency(),
            connect_ms=self._connect.latency(),
            samples=self._samples,
            thresholds=[],
            warnings=[*self.warnings, *self._doubts(resources)],
            resources=resources,
            host=host(),
            passed=False,
        )
        values = thresholds.metrics(draft)
        evaluated = [rule.evaluate(values) for rule in rules]
        passed = comparison.clean and draft.accepted > 0 and all(threshold.passed for threshold in evaluated)
        return draft.model_copy(update={"thresholds": evaluated, "passed": passed})

    def _resources(self) -> Resources:
        server, simulator = self._first_push or (0.0, 0.0)
        server_at_end, simulator_at_end = self._last_push or (self._server_cpu(), self._simulator_cpu)
        sending = [sample for sample in self._samples if sample.delivered]
        connecting = [sample.connects for sample in self._samples if sample.connects]
        server_cpu = server_at_end - server
        lags = sorted(self._lags)
        return Resources(
            simulator_microseconds_per_push=_per(simulator_at_end - simulator, self._arrived_simulated),
            server_microseconds_per_push=_per(server_cpu, self._arrived) if server_cpu > 0 else None,
            bytes_per_device=self._bytes_per_device,
            connects_per_second=max(connecting, default=None),
            deliveries_per_second=(
                round(sum(sample.delivered for sample in sending) / len(sending), 1) if sending else None
            ),
            loop_lag_p99_ms=_percentile(lags, 0.99) or 0.0,
            loop_lag_max_ms=round(max(lags, default=0.0) * 1000, 3),
        )

    def _doubts(self, resources: Resources) -> list[str]:
        """Warn where the simulator was measured rather than the server."""
        doubts = []
        remedy = "spread the fleet with --processes, or simulate from another machine."
        if self._busy_worker >= BUSY_CORES:
            doubts.append(
                f"The simulator itself was busy: one of its processes used {self._busy_worker:.2f} of a core. What was "
                f"measured is partly its own: {remedy}"
            )
        elif resources.loop_lag_p99_ms >= BUSY_LAG_SECONDS * 1000:
            doubts.append(
                f"In bursts the simulator was up to {resources.loop_lag_max_ms:.0f} ms late itself, and latencies "
                f"contain that: {remedy}"
            )
        if self._sender_late >= BUSY_LAG_SECONDS:
            doubts.append(
                f"The sender was up to {self._sender_late * 1000:.0f} ms late. Latencies count from when a push was "
                "due, so they contain that."
            )
        return doubts


def of_process(pid: int) -> tuple[float, int]:
    """Processor seconds and resident bytes. Raises OSError when there is none."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND, int(fields[21]) * PAGE_BYTES


def host() -> Host:
    """The facts about this machine; empty where it does not tell."""
    processor = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return Host(
        system=f"{platform.system()} {platform.release()}",
        processor=processor,
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES,
        python=platform.python_version(),
    )


def _percentile(values: Sequence[float], share: float) -> float | None:
    """A percentile in milliseconds, of ascending seconds."""
    if not values:
        return None
    return round(values[max(0, ceil(share * len(values)) - 1)] * 1000, 3)


def _per(seconds: float, count: int) -> float | None:
    return round(seconds / count * 1e6, 1) if count else None
