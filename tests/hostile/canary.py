"""The canary: what an attack costs everybody else, measured by one device, one sender and one newcomer.

A process of its own, so that the attacker's work in the test does not slow its clock. While an attack runs it sends a
push every 50 ms to its device and opens a connection that says CONNECT every 250 ms; both open loop: what is late does
not keep the next one from being sent on time. It reads the memory and the descriptors of the server meanwhile.

    with Canary(server) as canary:
        attack()
    # leaving the block waits for what is under way, and fails the test if a bound was broken

Time that the server's loop or the canary itself spent waiting for a processor that other processes had (the run queue,
/proc/PID/schedstat) is taken off, and what is left is divided by how much slower than LOOP_NS the processor was: what
is judged is the server, not a machine that runs several tests at once, or is a guest among others.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests import wire
from tests.hostile.peer import Peer, descriptors, resident

if TYPE_CHECKING:
    from tests.end_to_end.harness import Server

PUSH_EVERY_S = 0.05
CONNECT_EVERY_S = 0.25
WATCH_EVERY_S = 0.05
PUSH_LATE_MS = 500.0
"""No push of the canary may be later than this, from the request to its device."""
CONNECT_LATE_MS = 1_000.0
"""No fresh connection may wait longer for its CONNACK, from SYN to CONNACK."""
GROWTH_BYTES = 64 * 1024 * 1024
"""The server may not grow by more while the attack runs."""
GRACE_S = 15.0
"""How long what is under way at the end may take to arrive at all."""
WARM_UP_S = 1.0
LOOP_NS = 20.0
"""What a pass of an empty Python loop takes on the processor that the bounds are for. On a busy host a guest takes
up to four times as long, and in the next minute does not."""
LOOP_PASSES = 20_000


@dataclass(slots=True)
class CanaryReport:
    """The canary's findings. Times in milliseconds, without the waits for a processor, as if that were not slow."""

    pushes: int = 0
    push_worst_ms: float = 0.0
    push_median_ms: float = 0.0
    pushes_lost: int = 0
    pushes_refused: list[str] = field(default_factory=list)
    connects: int = 0
    connect_worst_ms: float = 0.0
    connects_refused: list[str] = field(default_factory=list)
    growth_bytes: int = 0
    descriptors_before: int = 0
    descriptors_most: int = 0
    slowness: float = 1.0
    """Of the processor, by which times were divided."""

    def broken_bounds(
        self, push_late_ms: float = PUSH_LATE_MS, connect_late_ms: float = CONNECT_LATE_MS,
        growth_bytes: int = GROWTH_BYTES,
    ) -> list[str]:  # fmt: skip
        """Each bound that did not hold, in words."""
        found = []
        if self.pushes == 0 or self.connects == 0:
            found.append("the canary measured nothing")
        if self.pushes_lost:
            found.append(f"{self.pushes_lost} of {self.pushes} pushes never came")
        if self.pushes_refused:
            found.append(f"{len(self.pushes_refused)} pushes were refused, first: {self.pushes_refused[0]}")
        if self.push_worst_ms > push_late_ms:
            found.append(f"a push was {self.push_worst_ms:.0f} ms late (bound {push_late_ms:.0f})")
        if self.connects_refused:
            found.append(f"{len(self.connects_refused)} CONNECTs were refused, first: {self.connects_refused[0]}")
        if self.connect_worst_ms > connect_late_ms:
            found.append(f"a CONNECT took {self.connect_worst_ms:.0f} ms (bound {connect_late_ms:.0f})")
        if self.growth_bytes > growth_bytes:
            found.append(f"the server grew by {self.growth_bytes >> 20} MiB (bound {growth_bytes >> 20})")
        return found


class BrokerServer(Protocol):
    """A standalone broker with anonymous access, `tests.conformance.standalone.BrokerProcess` for example."""

    port: int

    @property
    def pid(self) -> int: ...


class Canary:
    """See the module. `report` is there once the block was left."""

    def __init__(
        self,
        server: Server | BrokerServer,
        *,
        push_late_ms: float = PUSH_LATE_MS,
        connect_late_ms: float = CONNECT_LATE_MS,
        growth_bytes: int = GROWTH_BYTES,
        judge: bool = True,
    ) -> None:
        """`judge`: fail when a bound was broken; without it the test looks at `report` itself."""
        from tests.end_to_end.harness import Server  # not in the canary's own process: half a second of imports

        self.report = CanaryReport()
        self._bounds = (push_late_ms, connect_late_ms, growth_bytes)
        self._judge = judge
        self._settings: dict[str, object] = {"pid": server.pid}
        if isinstance(server, Server):
            device, newcomer = server.api.enrol(), server.api.enrol()
            self._settings |= {
                "http_port": server.http_port,
                "mqtt_port": server.mqtt_port,
                "key": server.admin_key,
                "device": [device.client_id, device.token, device.topics["push"]],
                "newcomer": [newcomer.client_id, newcomer.token],
            }
            if server.ca is not None:  # its devices come by another port, without TLS
                self._settings |= {"ca": str(server.ca), "mqtt_port": int(server.listening[0].rpartition(":")[2])}
        else:
            self._settings |= {
                "mqtt_port": server.port,
                "device": ["canary", "", "canary/push"],
                "newcomer": ["newcomer", ""],
            }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Canary:
        from tests.end_to_end.harness import clean_environment

        command = [sys.executable, "-m", "tests.hostile.canary", json.dumps(self._settings)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment()
        )
        self._process = process
        assert process.stdout is not None, "opened as a pipe"
        line = process.stdout.readline()
        assert line == "singing\n", f"the canary does not sing: {line}{process.stdout.read()}"
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        process = self._process
        assert process is not None, "entered before"
        assert process.stdout is not None, "opened as a pipe"
        assert process.stdin is not None, "opened as a pipe"
        overdue = threading.Timer(GRACE_S * 3, process.kill)
        overdue.start()
        with process:
            process.stdin.close()
            said = process.stdout.read()
        overdue.cancel()
        if kind is not None:
            return
        assert process.returncode == 0, f"the canary died: {said}"
        self.report = CanaryReport(**json.loads(said))
        print(self.report)  # pytest shows it when the test fails
        if self._judge:
            broken = self.report.broken_bounds(*self._bounds)
            assert not broken, "; ".join(broken)


# -- the process -------------------------------------------------------------------------------------------------------


def _run_queue_ms(pid: int) -> float:
    """Return the time that the main thread of a process has waited for a processor so far."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e6
    except (OSError, IndexError):
        return 0.0


def _slowness() -> float:
    began = time.thread_time_ns()
    for _ in range(LOOP_PASSES):
        pass
    return (time.thread_time_ns() - began) / LOOP_PASSES / LOOP_NS


class _Stopwatch:
    """Milliseconds since it was made, without the waits for a processor of the server's loop and our own."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = time.monotonic()
        self._waited = self._waits()

    def _waits(self) -> float:
        return _run_queue_ms(self._pid) + _run_queue_ms(os.getpid())

    def ms(self) -> float:
        return max(0.0, (time.monotonic() - self._began) * 1_000 - (self._waits() - self._waited))


class _Song:
    def __init__(self, settings: dict[str, object]) -> None:
        self._pid = int(str(settings["pid"]))
        self._http_port = str(settings["http_port"]) if "http_port" in settings else None
        self._mqtt_port = int(str(settings["mqtt_port"]))
        self._key = settings.get("key")
        self._tls = ssl.create_default_context(cafile=str(settings["ca"])) if "ca" in settings else None
        self._device = list(map(str, settings["device"]))  # type: ignore[call-overload]  # a list of our own
        self._newcomer = list(map(str, settings["newcomer"]))  # type: ignore[call-overload]  # the same
        self.report = CanaryReport()
        self._under_way: dict[int, _Stopwatch] = {}
        self._times: list[float] = []
        self._slowness = [_slowness()]
        self._number = 0
        self._measuring = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def sing(self, stop: asyncio.Event) -> CanaryReport:
        device = await Peer.open(self._mqtt_port)
        await device.enter(self._connect(*self._device[:2]))
        await device.send(wire.subscribe(1, (self._device[2], 1)))
        assert (await device.read())[:1] == b"\x90"
        send = self._over_mqtt if self._http_port is None else self._over_http
        listening = asyncio.create_task(self._listen(device))
        singing = [asyncio.create_task(self._every(PUSH_EVERY_S, send))]
        await asyncio.sleep(WARM_UP_S)
        await self._settle()
        baseline = resident(self._pid)
        self.report = CanaryReport(descriptors_before=descriptors(self._pid))
        self._times.clear()
        self._measuring = True
        singing.append(asyncio.create_task(self._every(CONNECT_EVERY_S, self._come)))
        singing.append(asyncio.create_task(self._watch(baseline)))
        print("singing", flush=True)
        await stop.wait()
        # What the attack has just caused may still be on its way: one more bar.
        await asyncio.sleep(2 * CONNECT_EVERY_S)
        for task in singing:
            task.cancel()
        await self._settle()
        listening.cancel()
        self.report.pushes_lost = len(self._under_way)
        self.report.slowness = max(1.0, sum(self._slowness) / len(self._slowness))
        self.report.connect_worst_ms /= self.report.slowness
        if self._times:
            self._times.sort()
            self.report.push_worst_ms = self._times[-1] / self.report.slowness
            self.report.push_median_ms = self._times[len(self._times) // 2] / self.report.slowness
        return self.report

    async def _settle(self) -> None:
        until = time.monotonic() + GRACE_S
        while (self._tasks or self._under_way) and time.monotonic() < until:  # noqa: ASYNC110  # several things at once
            await asyncio.sleep(0.02)

    async def _every(self, seconds: float, act: object) -> None:
        assert callable(act)
        due = time.monotonic()
        while True:
            task = asyncio.create_task(act())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due = max(due + seconds, time.monotonic() - 1)  # a machine that stood still owes no burst
            await asyncio.sleep(due - time.monotonic())

    def _connect(self, client_id: str, token: str) -> bytes:
        if not token:
            return wire.connect(client_id)
        return wire.connect(client_id, clean=False, username=client_id, password=token)

    # -- pushes

    def _next(self) -> int:
        self._number += 1
        if self._measuring:
            self.report.pushes += 1
        self._under_way[self._number] = _Stopwatch(self._pid)
        return self._number

    async def _over_http(self) -> None:
        number = self._next()
        body = json.dumps({"target": {"device": self._device[0]}, "data": {"canary": number}, "ttl": 3600})
        head = (
            f"POST /v1/pushes HTTP/1.1\r\nHost: canary\r\nAuthorization: Bearer {self._key}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(GRACE_S):
                reader, writer = await asyncio.open_connection("localhost", self._http_port, ssl=self._tls)
                writer.write((head + body).encode())
                answer = await reader.read()
                writer.close()
        except (OSError, TimeoutError) as error:
            answer = repr(error).encode()
        if b" 202 " not in answer[:20]:
            self.report.pushes_refused.append(answer[:300].decode(errors="replace"))
            self._under_way.pop(number, None)

    async def _over_mqtt(self) -> None:
        number = self._next()
        try:
            sender = await Peer.open(self._mqtt_port)
            await sender.enter(wire.connect(""))
            await sender.send(wire.publish(self._device[2], json.dumps({"data": {"canary": number}}).encode(), 1, 1))
            await sender.read()
            await sender.close()
        except (OSError, TimeoutError, AssertionError) as error:
            self.report.pushes_refused.append(repr(error))
            self._under_way.pop(number, None)

    async def _listen(self, device: Peer) -> None:
        while packet := await device.read(1e6):
            if packet[0] & 0xF0 != 0x30:
                continue
            at = 2 if packet[1] < 0x80 else 3
            topic_end = at + 2 + int.from_bytes(packet[at : at + 2], "big")
            if packet[0] & 0x06:
                await device.send(b"\x40\x02" + packet[topic_end : topic_end + 2])
                topic_end += 2
            number = json.loads(packet[topic_end:])["data"]["canary"]
            if watch := self._under_way.pop(number, None):
                self._times.append(watch.ms())

    # -- connections

    async def _come(self) -> None:
        self.report.connects += 1
        watch = _Stopwatch(self._pid)
        try:
            newcomer = await Peer.open(self._mqtt_port)
            await newcomer.enter(self._connect(*self._newcomer))
            await newcomer.send(wire.DISCONNECT)
            await newcomer.close()
        except (OSError, TimeoutError, AssertionError) as error:
            self.report.connects_refused.append(f"{error!r} after {watch.ms():.0f} ms")
        self.report.connect_worst_ms = max(self.report.connect_worst_ms, watch.ms())

    # -- the server's books

    async def _watch(self, baseline: int) -> None:
        while True:
            self.report.growth_bytes = max(self.report.growth_bytes, resident(self._pid) - baseline)
            self.report.descriptors_most = max(self.report.descriptors_most, descriptors(self._pid))
            self._slowness.append(_slowness())
            await asyncio.sleep(WATCH_EVERY_S)


async def _main(settings: dict[str, object]) -> None:
    stop = asyncio.Event()
    # The test closes our standard input: the attack is over.
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    print(json.dumps(asdict(await _Song(settings).sing(stop))), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
