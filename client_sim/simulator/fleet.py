"""A worker process full of simulated devices: it executes the coordinator's commands and reports what happened.

Commands come as tuples over one pipe, a method's name and its arguments; every quarter of a second an `Observation`
goes into another. Times are `time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import ssl
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import uvloop

from client_sim.backoff import Backoff
from client_sim.simulator.campaign_parts import ArrivedPart
from client_sim.simulator.human_behaviour import HumanBehaviour
from client_sim.simulator.shaped_link import Network
from client_sim.simulator.simulated_device import GONE, ONLINE, SimulatedDevice
from client_sim.simulator.timing_wheel import TimingWheel

REPORT_SECONDS = 0.25
READING_SECONDS = 0.2
"""The most that a busy server needs from one reading of its clock to the next for the same packet (7 ms were seen)."""
WEEK_SECONDS = 604_800.0
DIALLING_DEVICES = 64
"""Attempts at a time. A queue in front of the server's accept loop would only make them time out together."""
PORTS_PER_ADDRESS = 25_000
"""Devices that share a source address: Linux has 28,232 ephemeral ports for one (ip_local_port_range)."""


@dataclass(frozen=True)
class DevicePlan:
    """One device: its number in the fleet, its credential, what its topics begin with, its protocol version."""

    index: int
    client_id: str
    token: str
    topics: str
    version: int


@dataclass(frozen=True)
class FleetPlan:
    """The devices of a worker process, the server they dial, and how its people behave."""

    devices: Sequence[DevicePlan]
    host: str
    port: int
    ca: str | None
    """PEM file to trust; None: no TLS, and empty the system's authorities."""
    exact: bool
    """`ca` is the server's own certificate: it counts by whatever name the server is dialled."""
    keep_alive: int
    behaviour: HumanBehaviour
    clock_speed: float
    """The speed of the server's clock, as a multiple of ours."""

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context of the devices; None: they connect without."""
        if self.ca is None:
            return None
        context = ssl.create_default_context(cafile=self.ca or None)
        if self.exact:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


@dataclass
class Observation:
    """The events of a worker process since its last observation, and its state."""

    named: list[tuple[int, int, str]] = field(default_factory=list)
    """(push number, device, push id) of pushes that were seen for the first time."""
    arrived: list[tuple[int, int, float, int | None]] = field(default_factory=list)
    """(push number, device, when, the seconds that `expires_in` said): it took effect. None where it may have come by
    the connection before."""
    duplicated: list[tuple[int, int, float]] = field(default_factory=list)
    acknowledged: list[tuple[int, int, int]] = field(default_factory=list)
    """(push number, device, level) of receipts that the server has acknowledged."""
    online: list[tuple[int, float, float]] = field(default_factory=list)
    """(device, when, seconds since the attempt began)."""
    offline: list[tuple[int, float]] = field(default_factory=list)
    violations: list[tuple[int, int, str]] = field(default_factory=list)
    """(push number or -1, device, in words)."""
    failures: Counter[str] = field(default_factory=Counter)
    unanswered: list[tuple[int, int]] = field(default_factory=list)
    """Receipts without an acknowledgement at the end: (push number, device)."""
    left: list[tuple[int, float, str | None, bool]] = field(default_factory=list)
    """(device, when, channel or None, whether the server has acknowledged it): its person mutes the channel, or denies
    consent."""
    parts: list[ArrivedPart] = field(default_factory=list)
    """Parts of campaigns that devices had, copies of the same push left out."""
    redelivered: list[tuple[int, int, float]] = field(default_factory=list)
    """(push number, device, when) of copies that were dropped."""
    connected: int = 0
    busy: int = 0
    """Devices that are to be connected and are not, or have said something that is not answered yet."""
    lag: float = 0.0
    """The longest that this process kept a due call waiting, in seconds."""
    cpu: float = 0.0
    """Processor seconds of this process since its start."""
    memory: int = 0
    """Resident bytes."""
    bare_memory: int = 0
    """The resident bytes of the process before it had devices."""


class Fleet:
    """The devices of this process (`DeviceHost` to each of them)."""

    def __init__(self, plan: FleetPlan, commands: Connection, observations: Connection) -> None:
        self.behaviour = plan.behaviour
        self.keep_alive = plan.keep_alive
        self.week_seconds = WEEK_SECONDS / plan.clock_speed
        self.clock_slack = READING_SECONDS * (plan.clock_speed - 1)
        self.backoff = Backoff(cap=30.0)
        self.network: Network | None = None
        self._loop = asyncio.get_running_loop()
        self.wheel = TimingWheel(self._loop)
        self._plan = plan
        self._tls = plan.tls()
        self._commands = commands
        self._observations = observations
        _, self._bare_memory = consumed()
        self._devices = {
            one.index: SimulatedDevice(self, one.index, one.client_id, one.token, one.topics, one.version)
            for one in plan.devices
        }
        self._diallings: asyncio.Queue[SimulatedDevice] = asyncio.Queue()
        self._effects: dict[int, int] = {}
        """Push number and device in one -> the connection it came by."""
        self._names: dict[int, str] = {}
        self._parts: set[tuple[int, str]] = set()
        """(device, push id) of parts of campaigns."""
        self._connected = 0
        self._seen = Observation()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        self.wheel.start()
        diallers = [asyncio.create_task(self._dialler()) for _ in range(DIALLING_DEVICES)]
        threading.Thread(target=self._listen, daemon=True).start()
        # The devices stay: there is nothing in them for the collector to look at again and again.
        gc.collect()
        gc.freeze()
        self.wheel.after(0.0, self._report, None)
        await self._ended.wait()
        for task in diallers:
            task.cancel()
        self.wheel.stop()
        self._send()

    # Commands of the coordinator

    def _listen(self) -> None:
        """A thread: a loop that watched the pipe would make it non-blocking, and a long command comes in pieces."""
        with suppress(EOFError, OSError):
            while True:
                name, *arguments = self._commands.recv()
                self._loop.call_soon_threadsafe(getattr(self, f"do_{name}"), *arguments)
        with suppress(RuntimeError):  # the loop is closed: at the end
            self._loop.call_soon_threadsafe(self._ended.set)  # the coordinator is gone

    def do_connect(self, indexes: Sequence[int], rate: float) -> None:
        """Connect devices, `rate` of them per second."""
        for turn, index in enumerate(indexes):
            self._devices[index].connect(turn / rate)

    def do_come_back(self, indexes: Sequence[int], within: float) -> None:
        """Each at a random moment within so many seconds."""
        for index in indexes:
            self._devices[index].connect(random.uniform(0.0, within))

    def do_disconnect(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            self._devices[index].disconnect()

    def do_cut(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            self._devices[index].cut()

    def do_take_over(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            self._devices[index].take_over()

    def do_deaf(self, indexes: Sequence[int], deaf: bool) -> None:
        for index in indexes:
            self._devices[index].set_deaf(deaf)

    def do_mute(self, indexes: Sequence[int], mute: bool) -> None:
        for index in indexes:
            self._devices[index].set_mute(mute)

    def do_network(self, network: Network | None) -> None:
        """Use this network for connections made from now on; present ones end, so that all go through it."""
        self.network = network
        for device in self._devices.values():
            device.cut()
        if network is not None:
            for rate, event in (
                (network.resets, SimulatedDevice.cut),
                (network.stalls, SimulatedDevice.stall),
                (network.half_open, SimulatedDevice.half_open),
            ):
                if rate > 0:
                    self._happen((network, rate * len(self._devices), event, None))

    def do_end(self) -> None:
        for index, device in self._devices.items():
            self._seen.unanswered += [(number, index) for number in device.unanswered()]
        for device in self._devices.values():
            device.disconnect()
        # DISCONNECTs leave before the process does.
        self.wheel.after(REPORT_SECONDS, lambda _: self._ended.set(), None)

    def _happen(self, scheduled: tuple[Network, float, object, SimulatedDevice | None]) -> None:
        """An event of the network to one device, and the date of the next one (a Poisson process over all)."""
        network, rate, event, device = scheduled
        if network is not self.network:
            return
        if device is not None:
            event(device)  # type: ignore[operator]  # one of the three methods above
        next_device = random.choice(list(self._devices.values()))
        self.wheel.after(random.expovariate(rate), self._happen, (network, rate, event, next_device))

    # What devices need (DeviceHost)

    def dial(self, device: SimulatedDevice) -> None:
        self._diallings.put_nowait(device)

    async def _dialler(self) -> None:
        plan = self._plan
        loopback = plan.host.startswith("127.")
        while True:
            device = await self._diallings.get()
            block = device.index // PORTS_PER_ADDRESS
            source = (f"127.0.0.{block + 1}", 0) if loopback and block else None
            try:
                await self._loop.create_connection(
                    lambda device=device: device,
                    plan.host,
                    plan.port,
                    ssl=self._tls,
                    local_addr=source,
                )
            except OSError as error:
                device.not_reached(os.strerror(error.errno) if error.errno else str(error))

    def online(self, device: SimulatedDevice, now: float, seconds: float) -> None:
        self._connected += 1
        self._seen.online.append((device.index, now, seconds))

    def offline(self, device: SimulatedDevice, now: float) -> None:
        self._connected -= 1
        self._seen.offline.append((device.index, now))

    def effect(self, device: SimulatedDevice, number: int, push_id: str, now: float, expires_in: int) -> bool:
        key = number << 24 | device.index
        before = self._effects.get(key)
        name = self._names.get(number)
        if name is None:
            self._names[number] = name = push_id
            self._seen.named.append((number, device.index, push_id))
        if before is None:
            self._effects[key] = device.connection
            self._seen.arrived.append((number, device.index, now, expires_in))
            return True
        if name != push_id:
            self._seen.duplicated.append((number, device.index, now))
            return True
        if before == device.connection:
            self.violated(device, f"push {push_id} came twice on one connection", number)  # [MQTT-4.4.0-1]
        self._effects[key] = device.connection
        self._seen.redelivered.append((number, device.index, now))
        return False

    def receipt_acknowledged(self, device: SimulatedDevice, number: int, level: int) -> None:
        self._seen.acknowledged.append((number, device.index, level))

    def left(self, device: SimulatedDevice, now: float, channel: str | None, acknowledged: bool) -> None:
        self._seen.left.append((device.index, now, channel, acknowledged))

    def part(self, device: SimulatedDevice, part: ArrivedPart) -> bool:
        key = (part.device, part.push_id)
        if key in self._parts:
            return False
        self._parts.add(key)
        self._seen.parts.append(part)
        return True

    def failed(self, what: str) -> None:
        self._seen.failures[what] += 1

    def violated(self, device: SimulatedDevice, what: str, number: int = -1) -> None:
        self._seen.violations.append((number, device.index, what))

    # Observations for the coordinator

    def _report(self, _: None) -> None:
        self._send()
        self.wheel.after(REPORT_SECONDS, self._report, None)

    def _send(self) -> None:
        seen, self._seen = self._seen, Observation()
        seen.connected = self._connected
        seen.busy = sum(
            (one.wanted and one.state != ONLINE) or not one.idle or (not one.wanted and one.state != GONE)
            for one in self._devices.values()
        )
        seen.lag, self.wheel.lag = self.wheel.lag, 0.0
        seen.cpu, seen.memory = consumed()
        seen.bare_memory = self._bare_memory
        try:
            self._observations.send(seen)
        except OSError:
            self._ended.set()


def consumed() -> tuple[float, int]:
    """Processor seconds and resident bytes of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return usage.ru_utime + usage.ru_stime, pages * resource.getpagesize()


def run_fleet(plan: FleetPlan, commands: Connection, observations: Connection) -> None:
    """A worker process, from start to end."""

    async def main() -> None:
        await Fleet(plan, commands, observations).run()

    try:
        uvloop.run(main())
    except KeyboardInterrupt:
        pass  # Ctrl-C reaches the whole group; the coordinator ends us
