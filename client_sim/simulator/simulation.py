"""One simulation from start to report: the server, the fleet, the phases of the scenario, the comparison.

This is the coordinator: one process with the sender and the expectations. The devices are in the processes of the
`WorkerPool`. Everything random is seeded, so that a run can be repeated: which devices are away, deaf or cut, and whom
each push is for. Which message crosses which other depends on the machine, and that is what a simulation tests.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from urllib.parse import urlsplit

from client_sim.simulator.campaign_checks import CampaignRunner
from client_sim.simulator.event_observer import TYPES, EventObserver, ObserverPlan, webhook_types
from client_sim.simulator.expectations import Expectations
from client_sim.simulator.file_limit import need_files
from client_sim.simulator.fleet import DevicePlan, FleetPlan, Observation
from client_sim.simulator.gateway_client import Enrolled, GatewayClient, GatewayError, suppressing
from client_sim.simulator.human_behaviour import HumanBehaviour
from client_sim.simulator.scenario import Phase, Scenario
from client_sim.simulator.sender import Sender
from client_sim.simulator.server_checks import ServerChecks
from client_sim.simulator.server_process import ServerProcess
from client_sim.simulator.shaped_link import Network
from client_sim.simulator.simulation_progress import SilentWatcher
from client_sim.simulator.simulation_report import PhaseReport, SimulationReport
from client_sim.simulator.simulation_statistics import Statistics
from client_sim.simulator.thresholds import Rule
from client_sim.simulator.workers import Worker, WorkerPool, paho_devices
from client_sim.simulator.working_hours import WorkingHours

GRACE_SECONDS = 1.0
"""Seconds that a push may be under way after its hand-over before it counts as late; a bad network adds its own."""
JITTER_SECONDS = 1.0
"""Seconds, within which devices return that a scenario gives no other time: the jitter of a first attempt."""
CHURN_SECONDS = 0.1
HOURS_SECONDS = 0.25
"""Time between two looks at the clock of working hours: on one that runs 288 times faster it is a minute."""
CONNECT_SECONDS = 120.0
"""The time for a fleet to connect, beyond what its rate makes of it."""
POLL_SECONDS = 0.1
EVENT_SECONDS = 12.0
"""The silence after which missing events do not come any more: a webhook whose server was killed is tried again after
five seconds, and after five to ten more."""
EVENT_QUIET_SECONDS = 1.0
"""The silence that is enough when no event is missing that must come: the others follow at once."""
QUIET_SECONDS = 2.0
"""The time without an arrival after which the server is asked for its ledger."""
SPARE_FILES = 200
RUN_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


class SimulationFailed(Exception):
    """The simulation could not be carried out; the message is for the person."""


@dataclass(frozen=True)
class Target:
    """A server that runs already: its address, a key with the scopes `send`, `read` and `devices`, whom to trust."""

    url: str
    key: str
    ca: str | None = None
    """PEM file; None: the system's authorities."""


class Simulation:
    """One run of a scenario against a server: `run` conducts it and returns the report."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        target: Target | None = None,
        server: ServerProcess | None = None,
        processes: int = 1,
        rules: Sequence[Rule] = (),
        watcher: SilentWatcher | None = None,
    ) -> None:
        """Conduct `scenario` against `target`; without one it starts `server`, and may kill it. `rules` come besides
        those of the scenario."""
        self._scenario = scenario
        self._target = target
        self._server = server
        self._processes = processes
        self._rules = rules
        self._watcher = watcher or SilentWatcher()
        run = "".join(random.SystemRandom().choices(RUN_LETTERS, k=6))
        self._name = f"sim-{run}"
        self._random = random.Random(scenario.seed)
        self._ids = [f"{self._name}-{index:05d}" for index in range(scenario.devices)]
        self._real = paho_devices(scenario.devices)
        self._pool = WorkerPool(self._observed, self._worker_lost)
        self._expectations = Expectations(self._ids, clock_speed=scenario.clock_speed)
        self._statistics = Statistics(scenario.devices)
        self._phases: list[PhaseReport] = []
        self._lost_worker = ""
        self._known: set[int] = set()
        """Devices that have been told to connect."""
        people = scenario.people
        self._hours = None
        if people.hours is not None:
            self._hours = WorkingHours(people.hours, people.zones, people.begins, scenario.clock_speed)
        self._day_began: float | None = None
        """When the first phase began that lasts for a time."""
        self._sampled_away: set[int] = set()
        """Devices that the present phase has away, whatever their hours."""
        self._away: set[int] = set()
        self._deaf: set[int] = set()
        self._mute: set[int] = set()
        self._network: Network | None = None
        self._worst_network = 0.0
        self._last_arrival = 0.0

    # From begin to end

    async def run(self) -> SimulationReport:
        """Raises SimulationFailed, or what cannot be reached or started says."""
        try:
            return await self._run()
        except ExceptionGroup as failed:
            # Of things that were done side by side. One reason is enough, and it is the first.
            raise _first(failed) from None

    async def _run(self) -> SimulationReport:
        began_at = datetime.now(UTC)
        began = time.monotonic()
        self._statistics.begin(began)
        need_files(self._scenario.devices + SPARE_FILES)
        async with AsyncExitStack() as stack:
            self._watcher.phase("start", "")
            target = self._target or await self._start_server(stack)
            gateway = await stack.enter_async_context(GatewayClient(target.url, target.key, target.ca))
            await gateway.check_access()
            self._watcher.phase("enrol", "")
            if self._target is not None:
                stack.push_async_callback(self._remove, gateway)
            self._expectations.may_suppress = suppressing(await gateway.policy())
            enrolled = await gateway.enrol(self._ids, self._name, self._zones())
            if self._target is not None:
                self._expectations.least_attempts = 1  # whoever runs it may have set it so
            self._campaigns = CampaignRunner(
                gateway, self._ids, self._name, self._scenario.clock_speed, partial(self._expectations.contradicts, -1)
            )
            checks = ServerChecks(gateway, self._expectations, self._ids)
            observer = await self._observe_events(stack, gateway, target)
            self._pool.start(self._plan(enrolled, target), self._processes)
            stack.push_async_callback(asyncio.to_thread, self._pool.end)
            sampling = asyncio.create_task(self._sample())
            stack.callback(sampling.cancel)
            watching = asyncio.create_task(checks.watch_counts())
            stack.callback(watching.cancel)
            sender = Sender(gateway, self._name, self._scenario, self)
            for phase in self._scenario.phases:
                await self._phase(phase, sender, began, checks)
            await self._drain(checks, sender)
            await checks.compare_presence(self._connected_now, self._known)
            await checks.compare_funnels()
            await self._compare_events(observer)
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling
            await asyncio.to_thread(self._pool.end)
            await asyncio.sleep(0)  # what they said at their end
            return self._report(began_at, time.monotonic() - began)

    async def _observe_events(self, stack: AsyncExitStack, gateway: GatewayClient, target: Target) -> EventObserver:
        """A process that follows the events; with a webhook of its own where the server is ours, and may reach us."""
        port = None
        if self._target is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
        plan = ObserverPlan(target.url, target.key, target.ca, port, f"{self._name}-")
        observer = await asyncio.to_thread(EventObserver, plan, "0" if port is not None else None)
        stack.push_async_callback(asyncio.to_thread, observer.end)
        if not await asyncio.to_thread(observer.wait_started, CONNECT_SECONDS):
            raise SimulationFailed(f"{target.url}/v1/events cannot be followed with this key")
        if port is not None:
            types = webhook_types(self._scenario.devices)
            observer.expect_signature(await gateway.add_webhook(f"http://127.0.0.1:{port}/", types))
        return observer

    async def _compare_events(self, observer: EventObserver) -> None:
        """Give what was told to the expectations, when nothing more comes."""
        self._watcher.phase("events", "what the event stream and the webhook have told")
        deadline = time.monotonic() + self._scenario.settle
        types = {"the event stream": TYPES}
        if self._target is None:
            types["the webhook"] = tuple(webhook_types(self._scenario.devices))
        while True:
            received = await asyncio.to_thread(observer.snapshot)
            told = {"the event stream": received.stream, "the webhook": received.webhook}
            missing = any(self._expectations.misses_events(told[source], asked) for source, asked in types.items())
            uncounted = [index for index in self._online if received.presence.get(index) != "device.connected"]
            missing = missing or bool(uncounted)
            if not missing and received.idle_seconds > EVENT_QUIET_SECONDS:
                break
            if received.idle_seconds > EVENT_SECONDS or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        for source, asked in types.items():
            self._expectations.record_events(source, told[source], asked)
        for complaint in received.complaints:
            self._expectations.event_complaint(*complaint)
        for index in uncounted:
            last = received.presence.get(index)
            self._expectations.event_complaint(
                f"the device is connected; the event stream told {last} last", index=index
            )

    async def _start_server(self, stack: AsyncExitStack) -> Target:
        server = self._server
        assert server is not None, "either there is a server, or one to be started"
        stack.callback(server.kill)
        await asyncio.to_thread(server.start)
        return Target(server.url, server.key)

    async def _remove(self, gateway: GatewayClient) -> None:
        """Leave nothing behind on a server that is not ours."""
        self._watcher.phase("remove", "")
        try:
            await asyncio.shield(gateway.remove(self._ids))
        except GatewayError as error:
            self._watcher.phase("remove", f"devices with the tag {self._name} are left behind: {error}")

    def _plan(self, enrolled: Sequence[Enrolled], target: Target) -> FleetPlan:
        scenario = self._scenario
        first = enrolled[0]
        host = first.host if first.host not in ("0.0.0.0", "::") else urlsplit(target.url).hostname or first.host
        people = scenario.people
        newer = round(scenario.mqtt5 * 100)
        return FleetPlan(
            devices=[
                # 37 and 100 have no common divisor: the share holds for every hundred devices, and both kinds are real.
                DevicePlan(index, one.client_id, one.token, one.topics, 5 if index * 37 % 100 < newer else 4)
                for index, one in enumerate(enrolled)
            ],
            host=host,
            port=first.port,
            ca=(target.ca or "") if first.tls else None,
            exact=False,
            keep_alive=round(scenario.keep_alive),
            behaviour=HumanBehaviour(
                people.displayed,
                people.opened,
                people.acted,
                people.think_time,
                scenario.seed,
                people.leave,
                people.mute,
            ),
            clock_speed=scenario.clock_speed,
        )

    # Phases

    async def _phase(self, phase: Phase, sender: Sender, began: float, checks: ServerChecks) -> None:
        start = time.monotonic()
        self._watcher.phase(phase.name, phase.describe())
        self._set_up(phase)
        async with asyncio.TaskGroup() as doing:
            tasks = []
            if phase.cut:
                tasks.append(doing.create_task(self._cut(phase)))
            if self._hours is not None and phase.lasts is not None:
                tasks.append(doing.create_task(self._keep_hours(phase)))
            if phase.churn:
                tasks.append(doing.create_task(self._churn(phase.churn)))
            if phase.kill_server or phase.kill_every:
                kills = doing.create_task(self._kill_server(phase))
                if phase.kill_every:
                    tasks.append(kills)
            campaign = None
            if phase.campaign is not None and phase.lasts is not None:
                number = len(self._phases)
                running = self._campaigns.run(number, phase.campaign, phase.lasts, self._restart_server)
                campaign = doing.create_task(running)
            if phase.lasts is None:
                await self._connected(phase)
            else:
                lasts = phase.lasts if phase.pushes or campaign is None else 0.0
                streams = doing.create_task(sender.run(phase.pushes, lasts))
                end = start + phase.lasts
                while (left := end - time.monotonic()) > 0 and not (campaign is not None and campaign.done()):
                    self._check()
                    await asyncio.sleep(min(left, POLL_SECONDS))
                await streams
            for task in tasks:
                task.cancel()
        if self._away:
            await checks.compare_absent(self._away & self._known)
            await checks.compare_presence(set, self._away & self._known)
        self._phases.append(
            PhaseReport(
                name=phase.name, began=start - began, ended=time.monotonic() - began, description=phase.describe()
            )
        )

    def _set_up(self, phase: Phase) -> None:
        """Set which devices are there, how they behave, and what network is between, from now on."""
        scenario = self._scenario
        everyone = range(scenario.devices)
        network = phase.network.shaped() if phase.network is not None else None
        if network != self._network:
            self._network = network
            self._worst_network = max(self._worst_network, network.worst if network else 0.0)
            self._expectations.shaped = self._expectations.shaped or network is not None
            self._pool.send_all("network", network)
        self._sampled_away = set(self._random.sample(everyone, round(phase.away * scenario.devices)))
        away = self._sampled_away | self._off_duty(phase)
        back = self._send_away(away)
        simulated = range(self._real, scenario.devices)
        for share, command, before in ((phase.deaf, "deaf", self._deaf), (phase.mute, "mute", self._mute)):
            chosen = set(self._random.sample(simulated, min(round(share * scenario.devices), len(simulated))))
            self._absent(chosen - before)
            for index in chosen:
                self._expectations.hindered(index)
            self._pool.send(command, chosen - before, True)
            self._pool.send(command, before - chosen, False)
            self._present((before - chosen) & self._online)
            before.clear()
            before |= chosen
        new = [index for index in everyone if index not in self._known and index not in away]
        self._random.shuffle(new)
        self._bring(back, new, phase, JITTER_SECONDS if phase.return_within is None else phase.return_within)

    def _send_away(self, away: set[int]) -> set[int]:
        """Disconnect those who are to be away from now on; those who were, and are not to be any more."""
        back = self._away - away
        self._absent(away - self._away)
        self._pool.send("disconnect", (away - self._away) & self._known)
        self._away = away
        return back

    def _bring(self, back: set[int], new: Sequence[int], phase: Phase, within: float) -> None:
        """Have devices come: those that were there before within so many seconds, new ones at the phase's rate."""
        self._pool.send("come_back", back & self._known, within)
        if new:
            self._pool.connect(new, phase.connect_rate)
            self._known.update(new)

    def _zones(self) -> list[str] | None:
        """The time zones of the devices; None: the scenario has no hours."""
        hours = self._hours
        return None if hours is None else [hours.zone_of(index) for index in range(self._scenario.devices)]

    def _off_duty(self, phase: Phase) -> set[int]:
        """The devices that are away because of the time of day. In a phase without an end everybody is there."""
        if self._hours is None or phase.lasts is None:
            return set()
        now = time.monotonic()
        if self._day_began is None:
            self._day_began = now
        return self._hours.off_duty(self._scenario.devices, now - self._day_began)

    async def _keep_hours(self, phase: Phase) -> None:
        """Have devices go and come with the time of day, until cancelled."""
        while True:
            await asyncio.sleep(HOURS_SECONDS)
            away = self._sampled_away | self._off_duty(phase)
            if away == self._away:
                continue
            back = self._send_away(away)
            self._bring(back, sorted(back - self._known), phase, JITTER_SECONDS)

    async def _connected(self, phase: Phase) -> None:
        """Wait until all are connected that are to be."""
        wanted = self._known - self._away
        deadline = time.monotonic() + len(wanted) / phase.connect_rate + CONNECT_SECONDS
        while self._pool.connected < len(wanted):
            self._check()
            if time.monotonic() > deadline:
                missing = len(wanted) - self._pool.connected
                said = ", ".join(what for what, _ in self._statistics.errors.most_common(3))
                raise SimulationFailed(
                    f"{missing} of {len(wanted)} devices could not connect in phase `{phase.name}`. "
                    f"What they met: {said or 'nothing; the server does not answer'}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def _cut(self, phase: Phase) -> None:
        """Connections end without a DISCONNECT: at the start, or again and again."""
        while True:
            here = sorted(self._known - self._away)
            self._pool.send("cut", self._random.sample(here, round(phase.cut * len(here))))
            if phase.cut_every is None:
                return
            await asyncio.sleep(phase.cut_every)

    async def _churn(self, rate: float) -> None:
        """Devices vanish and are back at once, every other one without a DISCONNECT: it takes its session over."""
        due_devices = 0.0
        due = time.monotonic()
        while True:
            due += CHURN_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due_devices += rate * CHURN_SECONDS
            here = sorted(self._known - self._away)
            who = self._random.sample(here, min(int(due_devices), len(here)))
            due_devices -= int(due_devices)
            self._pool.send("take_over", who[::2])
            self._pool.send("disconnect", who[1::2])
            self._pool.send("come_back", who[1::2], JITTER_SECONDS)

    async def _kill_server(self, phase: Phase) -> None:
        wait = phase.kill_every if phase.kill_every is not None else (phase.lasts or 0.0) / 2
        while True:
            await asyncio.sleep(wait)
            await self._restart_server()
            if phase.kill_every is None:
                return

    async def _restart_server(self) -> None:
        if self._server is None:
            raise SimulationFailed("the scenario kills the server, and does so only to one of its own")
        await asyncio.shield(asyncio.to_thread(self._restart, self._server))

    def _restart(self, server: ServerProcess) -> None:
        self._statistics.server_ends(server.pid)
        self._expectations.killed(time.monotonic())
        server.kill()
        server.start()

    # The end

    async def _drain(self, checks: ServerChecks, sender: Sender) -> None:
        """Wait until nothing is under way, with all devices back and listening; it ends when both ledgers have the last
        word, or `settle` has passed."""
        self._watcher.phase("settle", "everybody is back; until nothing is under way any more")
        deadline = time.monotonic() + self._scenario.settle
        self._set_up(Phase.model_validate({"name": "settle"}))
        if unanswered := await sender.finish(self._scenario.settle):
            self._statistics.warnings.append(
                f"{unanswered} requests were still being repeated {self._scenario.settle:g} s after the last phase; "
                "whether the server has accepted their pushes is unknown."
            )
        asked: set[int] = set()
        while True:
            last_read = time.monotonic() > deadline
            while self._under_way() and time.monotonic() < deadline:
                self._check()
                await asyncio.sleep(POLL_SECONDS)
            self._statistics.all_arrived()
            self._watcher.phase("compare", "what the server says of each push")
            asked = await checks.ask_pushes(asked, last_read, self._check)
            if len(asked) == len(self._expectations.pushes()):
                return
            await asyncio.sleep(1.0)

    def _under_way(self) -> bool:
        now = time.monotonic()
        if self._pool.busy or self._pool.connected < len(self._known):
            return True
        return now - self._last_arrival < QUIET_SECONDS

    def _report(self, began_at: datetime, seconds: float) -> SimulationReport:
        scenario = self._scenario
        comparison = self._expectations.compare(GRACE_SECONDS + self._worst_network)
        comparison.campaign_parts = self._campaigns.parts
        return self._statistics.report(
            comparison,
            [*self._rules, *scenario.rules()],
            scenario=scenario.name,
            title=scenario.title,
            description=scenario.description,
            scenario_text=scenario.text,
            server="started by the simulation" if self._target is None else self._target.url,
            began_at=began_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            duration=seconds,
            seed=scenario.seed,
            devices=scenario.devices,
            paho_devices=self._real,
            processes=self._processes,
            phases=self._phases,
        )

    # What is heard

    def _check(self) -> None:
        if self._lost_worker:
            raise SimulationFailed(f"the simulation is incomplete: {self._lost_worker}")

    def _worker_lost(self, what: str) -> None:
        self._lost_worker = what

    def _absent(self, indexes: Iterable[int]) -> None:
        now = time.monotonic()
        for index in indexes:
            self._expectations.away(index, now)
            self._statistics.absent(index)

    def _present(self, indexes: Iterable[int]) -> None:
        now = time.monotonic()
        for index in indexes:
            self._expectations.back(index, now)
            self._statistics.present(index, now)

    @property
    def _online(self) -> set[int]:
        return self._statistics.online

    def _connected_now(self) -> set[int]:
        return set(self._online)

    def _observed(self, worker: Worker, seen: Observation) -> None:
        """Everything a worker tells goes to the expectations, and what is measured to the statistics."""
        expectations, statistics = self._expectations, self._statistics
        for index, when, took in seen.online:
            expectations.online(index, when, when - took)
            statistics.came_online(index, took)
            # It was away until now; its own fault is over only when it is back.
            if index not in self._away and index not in self._deaf and index not in self._mute:
                expectations.back(index, when)
                statistics.present(index, when)
        for number, index, push_id in seen.named:
            expectations.named(number, index, push_id)
        for number, index, when, expires_in in seen.arrived:
            expectations.arrived(number, index, when, expires_in)
            statistics.arrived(number, index, when)
        for number, index, when in seen.duplicated:
            expectations.duplicated(number, index, when)
        for number, index, level in seen.acknowledged:
            expectations.receipt_acknowledged(number, index, level)
        for index, when in seen.offline:
            expectations.offline(index, when)
            statistics.went_offline(index)
        for number, index, what in seen.violations:
            expectations.violation(number, index, what)
        for number, index in seen.unanswered:
            expectations.unanswered(number, index)
        for index, when, channel, acknowledged in seen.left:
            expectations.departures.left(index, when, channel, acknowledged)
        self._campaigns.arrived(seen.parts)
        for number, index, when in seen.redelivered:
            expectations.redelivered(number, index, when)
        if seen.arrived or seen.duplicated or seen.redelivered:
            self._last_arrival = time.monotonic()
        statistics.observed(worker, seen)

    # What the sender tells (SenderEvents)

    def sending(
        self,
        intended: float,
        requested: float,
        targets: Sequence[int] | None,
        ttl: float,
        priority: str,
        collapse_key: str | None = None,
        size: int = 0,
        qos: int = 1,
        kind: str = "alert",
        channel: str | None = None,
    ) -> int:
        self._statistics.sending(self._pool, intended, requested)
        return self._expectations.sending(requested, targets, ttl, priority, collapse_key, size, qos, kind, channel)

    def accepted(self, number: int, push_id: str, answered: float, targeted: int) -> None:
        self._expectations.accepted(number, push_id, answered, targeted)
        self._statistics.accepted(number, answered)

    def repeated(self, number: int, push_id: str) -> None:
        self._expectations.repeated(number, push_id)

    def refused(self, number: int, why: str) -> None:
        self._expectations.refused(number, why)
        self._statistics.errors[why] += 1

    def retried(self, why: str) -> None:
        self._statistics.errors[why] += 1

    async def _sample(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + 1.0, time.monotonic())  # after a stall of ours no two in a moment
            await asyncio.sleep(due - time.monotonic())
            server = self._server
            pid = server.running_pid if self._target is None and server is not None else None
            sample = self._statistics.second(time.monotonic(), self._pool, pid)
            self._watcher.second(sample)


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    reason = failed.exceptions[0]
    return _first(reason) if isinstance(reason, BaseExceptionGroup) else reason
