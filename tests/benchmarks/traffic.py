"""What the soak does to a server: everything that users and devices do, all at once, and restarts.

Every worker is a thread that goes on until it is told to end. A worker that meets a server on its way down, or away,
waits for its return; whatever else surprises one is counted under its name (`surprises`). Nothing is random between two
runs but the interleaving: each worker has dice of its own with a fixed seed.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.benchmarks.tools import CannotRun, Fleet, device_list
from tests.end_to_end.harness import Api, Device, Server
from tests.end_to_end.wire_device import V4, V5, Disconnected, WireDevice

SENDERS = 4
GROUPS = 5
"""Parts of the fleet; the first stays, the others vanish and return."""
TALKERS = 8
"""Devices that say something besides receiving; half of them speak 5.0, half take QoS 2."""
DEAF = 2
"""Devices that subscribe and then read nothing. One more reads and never acknowledges."""
TAG = "tagged"
STAYS, LEAVES = (5.0, 20.0), (1.0, 4.0)
"""Seconds that a group is connected, and away."""
GUEST_SECONDS = 1.0
"""Pause between two devices that are enrolled, get a push, and are removed."""
TALK_SECONDS = 0.2
BATCH = 20
LIFETIMES = (10, 10, 20, 30)
"""Short beside the soak: what waits for who is away or does not read has to end, or there is nothing steady to see."""
LONG = 86_400
"""For those who come back: such a push leaves when it is delivered, long before its end of life."""
PRIORITIES = ("critical", "high", "normal", "low")
EVENTS = ("displayed", "opened", "dismissed", "acted", "delivered")


@dataclass(eq=False)
class Group:
    """Devices that connect and vanish together."""

    listed: Path
    options: Sequence[str] = ()
    stays: bool = False
    subscribed: bool = False
    connected: bool = False


@dataclass
class Flags:
    up: threading.Event = field(default_factory=threading.Event)
    """The server is meant to answer."""
    sending: threading.Event = field(default_factory=threading.Event)
    running: threading.Event = field(default_factory=threading.Event)


class Traffic:
    def __init__(self, server: Server, devices: int, rate: int, directory: Path) -> None:
        self.accepted: dict[str, int | None] = {}
        """Push id -> how many deliveries its 202 promised, where that was looked at."""
        self.surprises: Counter[str] = Counter()
        self._server = server
        self._rate = rate
        self._flags = Flags()
        self._starts = 0
        self._recent: deque[str] = deque(maxlen=200)
        enrol = server.api.enrol_many
        fleet = enrol(f"kiosk-{number}" for number in range(devices))
        tagged = enrol((f"tagged-{number}" for number in range(-(-devices // 10))), tags=[TAG])
        deaf = enrol(f"deaf-{number}" for number in range(DEAF))
        talkers = enrol(f"talker-{number}" for number in range(TALKERS))
        (silent,) = enrol(["silent"])
        parts = [tagged + fleet[::GROUPS], *(fleet[number::GROUPS] for number in range(1, GROUPS)), deaf]
        self._groups = [Group(device_list(directory / f"group-{number}", part)) for number, part in enumerate(parts)]
        self._groups[0].stays = True
        self._groups[-1].options = ["--deaf"]
        self._talkers = [
            WireDevice(server.mqtt_port, one.client_id, one.token, version=V5 if number % 2 else V4, receive_maximum=20)
            for number, one in enumerate(talkers)
        ]
        self._silent = WireDevice(server.mqtt_port, silent.client_id, silent.token)
        self._silent.answer = lambda publish: None
        self.unready = [one.id for one in [*deaf, silent]]
        """Devices for which pushes wait although they are connected."""
        self._names = [one.id for one in [*fleet, *tagged, *deaf, *talkers * 5, silent]]
        self._returning = [one.id for one in [*fleet, *tagged]]
        self._threads: list[threading.Thread] = []

    # -- from outside ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        for event in (self._flags.up, self._flags.sending, self._flags.running):
            event.set()
        work: list[Callable[[], None]] = [self._talk, self._host_guests]
        work += [functools.partial(self._send, random.Random(number)) for number in range(SENDERS)]
        work += [functools.partial(self._come_and_go, group) for group in self._groups]
        self._threads = [threading.Thread(target=self._watched, args=(one,)) for one in work]
        for thread in self._threads:
            thread.start()

    def restart(self, kill: bool) -> None:
        self._flags.up.clear()
        self._starts += 1
        if kill:
            self._server.kill9()
        elif (code := self._server.stop(60)) != 0:
            self.surprises[f"exit code {code}"] += 1
        self._server.start()
        self._flags.up.set()

    def stop_sending(self) -> None:
        """From here on everybody stays connected, and nothing more is said."""
        self._flags.sending.clear()

    @property
    def is_connected(self) -> bool:
        return all(group.connected for group in self._groups)

    def stop(self) -> None:
        self._flags.sending.clear()
        self._flags.running.clear()
        self._flags.up.set()
        for thread in self._threads:
            thread.join()

    # -- workers ---------------------------------------------------------------------------------------------------

    def _watched(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.surprises[f"a worker ended: {error!r}"] += 1

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """What goes wrong while the server ends, is away or was restarted is no surprise."""
        self._flags.up.wait()
        starts = self._starts
        try:
            yield
        except (httpx2.TransportError, OSError, Disconnected, AssertionError, CannotRun) as error:
            if self._flags.running.is_set() and self._flags.up.is_set() and starts == self._starts:
                self.surprises[f"{type(error).__name__}: {error}"[:300]] += 1

    def _send(self, dice: random.Random) -> None:
        due = time.monotonic()
        with closing(Api(self._server.url, self._server.admin_key)) as api:
            while self._flags.sending.is_set():
                due = max(due + SENDERS / self._rate, time.monotonic() - 1.0)  # an outage is not made up for
                time.sleep(max(due - time.monotonic(), 0.0))
                with self._surviving():
                    self._one_request(api, dice)

    def _one_request(self, api: Api, dice: random.Random) -> None:
        lot = dice.random()
        if lot < 0.02:
            for push_id in api.push_batch([self._push(dice) for _ in range(BATCH)]):
                self._take(push_id, None)
        elif lot < 0.04 and self._recent:
            api.call("DELETE", f"/v1/pushes/{dice.choice(self._recent)}", 200)
        elif lot < 0.08 and self._recent:
            api.counts(dice.choice(self._recent))
        elif lot < 0.16:
            push, key = self._push(dice), f"key-{dice.random()}"
            first = api.accept(**push, key=key)
            self._take(first["push_id"], first["targeted"])
            assert api.accept(**push, key=key) == first, "an idempotency key was not heeded"
        else:
            answer = api.accept(**self._push(dice))
            self._take(answer["push_id"], answer["targeted"])

    def _take(self, push_id: str, targeted: int | None) -> None:
        self.accepted[push_id] = targeted
        self._recent.append(push_id)

    def _push(self, dice: random.Random) -> dict[str, Any]:
        push: dict[str, Any] = {
            "target": {"device": dice.choice(self._names)},
            "data": "x" * dice.randrange(10, 500),
            "priority": dice.choice(PRIORITIES),
            "qos": dice.choice((0, 1, 1, 1, 2)),
            "ttl": dice.choice(LIFETIMES),
        }
        lot = dice.random()
        if lot < 0.01:
            push["target"] = {"all": True}
        elif lot < 0.04:
            push["target"] = {"tag": TAG}
        elif lot < 0.08:
            push["target"] = {"devices": dice.sample(self._names, 10)}
        elif lot < 0.3:
            push |= {"target": {"device": dice.choice(self._returning)}, "ttl": LONG}
        if lot > 0.8:
            push["collapse_key"] = dice.choice("abc")
        elif lot > 0.7:
            push["ttl"] = dice.choice((0, 1, 3))
        elif lot > 0.6:
            push["notification"] = {"title": "Hello", "actions": [{"id": "play", "title": "Play"}]}
        return push

    def _come_and_go(self, group: Group) -> None:
        dice = random.Random(group.listed.name)
        while self._flags.running.is_set():
            with self._surviving():
                options = [*group.options, *(["--resume"] if group.subscribed else [])]
                with Fleet(
                    self._server.mqtt_port, group.listed, [10**9], *options, timeout=86_400, quiet=True
                ) as fleet:
                    group.subscribed = group.connected = True
                    leaves = time.monotonic() + dice.uniform(*STAYS)
                    while self._flags.running.is_set() and not fleet.has_ended(0.2):
                        if self._flags.sending.is_set() and not group.stays and time.monotonic() > leaves:
                            break
                    group.connected = False
                    fleet.vanish()
            if not group.stays and self._flags.sending.is_set():
                time.sleep(dice.uniform(*LEAVES))

    def _talk(self) -> None:
        dice = random.Random("talkers")
        while self._flags.running.is_set():
            for number, device in enumerate([*self._talkers, self._silent]):
                with self._surviving():
                    if not device.connected:
                        device.start(qos=1 if number % 4 < 2 else 2)
                    elif device is not self._silent and self._flags.sending.is_set():
                        self._say(device, dice)
                device.received.clear()
                device.acknowledged.clear()
            time.sleep(TALK_SECONDS)
        for device in [*self._talkers, self._silent]:
            device.disconnect()

    @staticmethod
    def _say(device: WireDevice, dice: random.Random) -> None:
        receipts = [
            {"push_id": publish.push_id, "event": event} | ({"action": "play", "result": 1} if event == "acted" else {})
            for publish in list(device.received)
            for event in dice.sample(EVENTS, 2)
        ]
        if receipts:
            device.publish(device.leaf("receipts"), receipts)
        lot = dice.randrange(4)
        if lot == 0:
            device.publish(device.leaf("uplink/temperature"), str(dice.random()), qos=dice.randrange(3))
        elif lot == 1:
            device.publish(device.leaf("report"), {"battery": dice.randrange(100)})
        elif lot == 2:
            device.publish(device.leaf("settings"), {"consent": "granted", "channels": {"offers": dice.random() < 0.5}})
        else:
            device.publish(device.leaf("presence"), b"1", retain=True)

    def _host_guests(self) -> None:
        """Devices that are enrolled, get two pushes and take one, and are removed."""
        number = 0
        with closing(Api(self._server.url, self._server.admin_key)) as api:
            while self._flags.sending.is_set():
                with self._surviving():
                    number += 1
                    self._host(api, api.enrol(f"guest-{number}", tags=["guest"]))
                time.sleep(GUEST_SECONDS)

    def _host(self, api: Api, device: Device) -> None:
        guest = WireDevice(self._server.mqtt_port, device.client_id, device.token)
        try:
            guest.start()
            push_id = api.push(device.id)
            guest.wait_push(push_id)
            guest.drop()
            for accepted in (push_id, api.push(device.id)):
                self._take(accepted, 1)
            api.call("DELETE", f"/v1/devices/{device.id}", 204)
        finally:
            guest.drop()
