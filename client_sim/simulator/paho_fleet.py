"""A process with real devices: `client_sim.device.Device` on paho-mqtt, a share of every simulated fleet.

The simulated devices speak through the server's own codec and would share its mistakes; these do not. They obey the
same commands and tell the same `Observation`s. They are not shaped, deaf or mute, and are cut politely: what becomes of
broken connections the simulated ones show.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from client_sim.backoff import Backoff
from client_sim.device import Device
from client_sim.push import Push
from client_sim.simulator.campaign_parts import ArrivedPart, outcome_of
from client_sim.simulator.fleet import REPORT_SECONDS, DevicePlan, FleetPlan, Observation, consumed
from client_sim.simulator.human_behaviour import ACTED, DISPLAYED, OPENED, SHOWN
from client_sim.simulator.shaped_link import Network
from client_sim.simulator.simulated_push import ACTION, BUILD_ERROR, result_of

DEVICES_PER_PROCESS = 300
"""Devices in a process: two threads and four descriptors each."""


class PahoDevice:
    """One of them, over all its connections; its journal stays, as on a disk."""

    def __init__(self, fleet: PahoFleet, plan: DevicePlan, journal: Path) -> None:
        self.index = plan.index
        self.wanted = False
        self.connected = False
        self._fleet = fleet
        self._plan = plan
        self._journal = journal
        self._device: Device | None = None
        self._begun = 0.0
        self._lock = threading.Lock()
        self._unanswered: list[tuple[int, int]] = []
        """(push number, level) of receipts that the server may not have yet."""
        self._executed: list[tuple[int, int]] = []
        """Receipts of commands, until the device has their results in its journal: it does so after the handler."""

    @property
    def idle(self) -> bool:
        """True when the server has acknowledged all receipts, and the device is where it is wanted."""
        return not self._unanswered and not self._executed and self.connected == self.wanted

    def connect(self) -> None:
        if self._device is not None:
            return
        plan, fleet = self._plan, self._fleet
        app = plan.topics.split("/", 1)[0]
        self._begun = time.monotonic()
        self._device = device = Device(
            plan.topics.split("/")[2],
            plan.token,
            host=fleet.plan.host,
            port=fleet.plan.port,
            app=app,
            journal=self._journal,
            on_push=self._on_push,
            on_state=self._on_state,
            mqtt5=plan.version == 5,
            keep_alive=fleet.plan.keep_alive,
            tls=fleet.plan.tls(),
            backoff=Backoff(cap=30.0),
        )
        device.actions[ACTION] = self._answer
        device.start()

    def disconnect(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()
            self._on_state("disconnected", "")

    def _on_state(self, state: str, detail: str) -> None:
        now = time.monotonic()
        if state == "connecting":
            self._begun = now
        elif state == "connected":
            self.connected = True
            self._fleet.observe("online", (self.index, now, now - self._begun))
        else:
            if self.connected:
                self.connected = False
                self._fleet.observe("offline", (self.index, now))
            if state == "refused":
                self._fleet.observe("failures", f"refused: {detail}")

    def _on_push(self, push: Push) -> Any:
        now = time.monotonic()
        try:
            if "campaign" in push.data:
                return self._build(push)
            number = int(push.data["sim"])
        except (KeyError, TypeError, ValueError):
            self._fleet.observe("violations", (-1, self.index, "a message that is no push of this simulation"))
            return None
        if not self._fleet.effect(self.index, number, push, now):
            return None
        if push.kind == "command":
            self._executed.append((number, ACTED))
            return self._answer(push)
        if push.kind in SHOWN:
            self._show(push, number)
        return None

    def _build(self, push: Push) -> dict[str, str]:
        """Carry out the build of a campaign, or answer with an error: the client has no other way to fail."""
        build, behaviour = push.data, self._fleet.plan.behaviour
        done = outcome_of(behaviour.seed, build["campaign"], self.index, build["failing"]) == "done"
        part = ArrivedPart(build["campaign"], self.index, push.push_id, build["variant"], "done" if done else "error")
        self._fleet.observe("parts", part)
        return self._answer(push) if done else BUILD_ERROR

    def _answer(self, push: Push) -> dict[str, str]:
        return result_of(push.push_id, self._plan.topics.split("/")[2])

    def _show(self, push: Push, number: int) -> None:
        behaviour = self._fleet.plan.behaviour
        level = behaviour.level(number, self.index)
        if level:
            self._send_receipt(push, number, DISPLAYED)
        if level > DISPLAYED:
            self._fleet.after(behaviour.pause(number, self.index), partial(self._decide, push, number, level))

    def _decide(self, push: Push, number: int, level: int) -> None:
        self._send_receipt(push, number, OPENED)
        if level == ACTED:
            self._send_receipt(push, number, ACTED)

    def _send_receipt(self, push: Push, number: int, level: int) -> None:
        device = self._device
        if device is None:
            return  # its person went with it
        with self._lock:
            if level == ACTED:
                device.act(push, ACTION)
            elif level == OPENED:
                device.opened(push)
            else:
                device.displayed(push)
            self._unanswered.append((number, level))

    def check_receipts(self) -> None:
        """Whether the server has what it said."""
        device = self._device
        if (self._unanswered or self._executed) and device is not None:
            with self._lock:
                if device.flush(0):
                    for number, level in self._unanswered:
                        self._fleet.observe("acknowledged", (number, self.index, level))
                    self._unanswered.clear()
                executed, self._executed = self._executed, []
                self._unanswered += executed

    def unanswered(self) -> list[int]:
        """The pushes of which the server has not acknowledged a receipt, while it is connected."""
        return [number for number, _ in self._unanswered] if self.connected else []


class PahoFleet:
    """The main thread obeys and reports; callbacks of the devices come from theirs."""

    def __init__(self, plan: FleetPlan, commands: Connection, observations: Connection, folder: Path) -> None:
        self.plan = plan
        self._seen = Observation()
        self._commands = commands
        self._observations = observations
        self._devices = {one.index: PahoDevice(self, one, folder / f"{one.index}.db") for one in plan.devices}
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._turns = itertools.count()
        self._effects: set[tuple[int, int]] = set()
        self._names: dict[int, str] = {}
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(8)
        """Threads for calls that block: connecting and closing."""

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        self._report()
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            wait = self._due[0][0] - now if self._due else REPORT_SECONDS
            try:
                work = self._work.get(timeout=max(wait, 0.0))
            except queue.Empty:
                continue
            if work is None:
                break
            work()
        for device in self._devices.values():
            device.check_receipts()
            self._seen.unanswered += [(number, device.index) for number in device.unanswered()]
        with self._executor:
            for device in self._devices.values():
                self._executor.submit(device.disconnect)
        self._send()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                name, *arguments = self._commands.recv()
                self._work.put(partial(getattr(self, f"do_{name}"), *arguments))
        self._work.put(None)

    def _schedule(self, delay: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay, next(self._turns), call))

    def after(self, delay: float, call: Callable[[], None]) -> None:
        """Call something on another thread after `delay` seconds. Thread-safe."""
        self._work.put(partial(self._schedule, delay, partial(self._executor.submit, call)))

    # Commands of the coordinator

    def do_connect(self, indexes: Sequence[int], rate: float) -> None:
        for turn, index in enumerate(indexes):
            self._come(index, turn / rate)

    def do_come_back(self, indexes: Sequence[int], within: float) -> None:
        for index in indexes:
            self._come(index, random.uniform(0.0, within))

    def _come(self, index: int, delay: float) -> None:
        device = self._devices[index]
        device.wanted = True
        self._schedule(delay, partial(self._executor.submit, device.connect))

    def do_disconnect(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            self._devices[index].wanted = False
            self._executor.submit(self._devices[index].disconnect)

    def do_cut(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            if (device := self._devices[index]).wanted:
                self._executor.submit(self._disconnect_and_return, device)

    do_take_over = do_cut

    @staticmethod
    def _disconnect_and_return(device: PahoDevice) -> None:
        device.disconnect()
        if device.wanted:
            device.connect()

    def do_deaf(self, indexes: Sequence[int], deaf: bool) -> None:
        """Do nothing: these devices always read."""

    def do_mute(self, indexes: Sequence[int], mute: bool) -> None:
        """Do nothing: these devices always acknowledge."""

    def do_network(self, network: Network | None) -> None:
        """Do nothing: these devices use the network of this machine."""

    def do_end(self) -> None:
        self._work.put(None)

    # What happened

    def effect(self, index: int, number: int, push: Push, now: float) -> bool:
        """Whether it is the first of this push on this device. The journal lets no copy of a push id through."""
        with self._lock:
            if number not in self._names:
                self._names[number] = push.push_id
                self._seen.named.append((number, index, push.push_id))
            if (number, index) in self._effects:
                self._seen.duplicated.append((number, index, now))
                return False
            self._effects.add((number, index))
            self._seen.arrived.append((number, index, now, None))
            return True

    def observe(self, what: str, item: Any) -> None:
        """Add to a list of the next observation, or to its failures."""
        with self._lock:
            found = getattr(self._seen, what)
            if what == "failures":
                found[item] += 1
            else:
                found.append(item)

    def _report(self) -> None:
        for device in self._devices.values():
            device.check_receipts()
        self._send()
        self._schedule(REPORT_SECONDS, self._report)

    def _send(self) -> None:
        with self._lock:
            seen, self._seen = self._seen, Observation()
        seen.connected = sum(device.connected for device in self._devices.values())
        seen.busy = sum(not device.idle for device in self._devices.values())
        seen.cpu, seen.memory = consumed()
        try:
            self._observations.send(seen)
        except OSError:
            self._work.put(None)


def run_paho_fleet(plan: FleetPlan, commands: Connection, observations: Connection) -> None:
    """A worker process, from start to end."""
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="fleetpush-sim-") as folder:
        PahoFleet(plan, commands, observations, Path(folder)).run()
