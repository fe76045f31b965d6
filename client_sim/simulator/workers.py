"""The worker processes of a simulation, as the coordinator sees them: their devices, commands and observations."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from client_sim.simulator.fleet import FleetPlan, Observation, run_fleet
from client_sim.simulator.paho_fleet import DEVICES_PER_PROCESS, run_paho_fleet

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

PAHO_SHARE = 0.01
END_SECONDS = 20.0


@dataclass
class Worker:
    """A worker process: its pipes, the devices in it, and its last observation."""

    process: SpawnProcess
    commands: Connection
    observations: Connection
    indexes: frozenset[int]
    paho: bool
    last: Observation = field(default_factory=Observation)
    """The worker's last observation."""


class WorkerPool:
    """The worker processes of a fleet. `observe(worker, observation)` is called in the loop of whoever starts it."""

    def __init__(self, observe: Callable[[Worker, Observation], None], lost: Callable[[str], None]) -> None:
        """`lost`: a worker ended by itself; in words."""
        self._observe = observe
        self._lost = lost
        self._ending = False
        self._readers: list[threading.Thread] = []
        self.workers: list[Worker] = []

    def start(self, plan: FleetPlan, processes: int) -> None:
        """The first of the devices are real ones; the others are spread over so many processes."""
        context = multiprocessing.get_context("spawn")
        paho = paho_devices(len(plan.devices))
        real, simulated = plan.devices[:paho], plan.devices[paho:]
        parts = [(real[begin : begin + DEVICES_PER_PROCESS], True) for begin in range(0, paho, DEVICES_PER_PROCESS)]
        parts += [(simulated[number::processes], False) for number in range(processes) if simulated[number::processes]]
        loop = asyncio.get_running_loop()
        for devices, is_paho in parts:
            theirs, commands = context.Pipe(duplex=False)
            observations, ours = context.Pipe(duplex=False)
            run = run_paho_fleet if is_paho else run_fleet
            process = context.Process(target=run, args=(replace(plan, devices=devices), theirs, ours), daemon=True)
            process.start()
            theirs.close()
            ours.close()
            indexes = frozenset(device.index for device in devices)
            worker = Worker(process, commands, observations, indexes, is_paho)
            self.workers.append(worker)
            reader = threading.Thread(target=self._read, args=(loop, worker), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
        try:
            while True:
                loop.call_soon_threadsafe(self._on_observation, worker, worker.observations.recv())
        except (EOFError, OSError):
            if not self._ending:
                loop.call_soon_threadsafe(self._lost, f"{worker.process.name} ended by itself")
        except RuntimeError:
            pass  # the loop is closed

    def _on_observation(self, worker: Worker, observation: Observation) -> None:
        worker.last = observation
        self._observe(worker, observation)

    def send(self, command: str, indexes: Iterable[int], *arguments: object) -> None:
        """A command for some of the devices."""
        wanted = frozenset(indexes)
        for worker in self.workers:
            if theirs := sorted(wanted & worker.indexes):
                worker.commands.send((command, theirs, *arguments))

    def connect(self, indexes: Sequence[int], rate: float) -> None:
        """Together so many per second."""
        for worker in self.workers:
            if theirs := [index for index in indexes if index in worker.indexes]:
                worker.commands.send(("connect", theirs, rate * len(theirs) / len(indexes)))

    def send_all(self, command: str, *arguments: object) -> None:
        """Send a command to every worker."""
        for worker in self.workers:
            worker.commands.send((command, *arguments))

    @property
    def simulated(self) -> list[Worker]:
        """The workers whose devices are simulated ones."""
        return [worker for worker in self.workers if not worker.paho]

    @property
    def connected(self) -> int:
        """The number of connected devices."""
        return sum(worker.last.connected for worker in self.workers)

    @property
    def busy(self) -> int:
        """The number of devices with something under way."""
        return sum(worker.last.busy for worker in self.workers)

    def end(self) -> None:
        """Blocks until they have ended; what they still say is read."""
        self._ending = True
        for worker in self.workers:
            try:
                worker.commands.send(("end",))
            except OSError:
                pass  # it has ended
        for worker in self.workers:
            worker.process.join(END_SECONDS)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        for reader in self._readers:
            reader.join()
        for worker in self.workers:
            worker.commands.close()
            worker.observations.close()


def paho_devices(devices: int) -> int:
    """The number of real devices in a fleet: one in a hundred, at least one."""
    return max(1, -(-devices // int(1 / PAHO_SHARE)))
