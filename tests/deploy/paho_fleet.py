"""A fleet of paho-mqtt clients in one thread: devices that stay connected as well as they can, and note what they get.

paho has a thread for each client, and five hundred of them would take the machine from the server. Here one thread
waits for all sockets and calls paho's own functions. Whoever loses the connection comes back as the device contract
says. A few threads more do what waits for the server, TCP and TLS, which devices of their own would do side by side.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from client_sim.backoff import Absence, Backoff
from tests.end_to_end.harness import Device

KEEP_ALIVE_SECONDS = 60
POLL_SECONDS = 0.02
CONNECTING_THREADS = 8
"""More than two cores can keep busy."""


class PahoDevice:
    """One device: its client, the pushes that it got in their order, and how long it was away."""

    def __init__(self, enrolled: Device, port: int, ca: Path | None, dice: random.Random) -> None:
        self.id = enrolled.id
        self.push_ids: list[str] = []
        self.connected = False
        self.longest_absence = 0.0
        """Seconds between the end of a connection and the next SUBACK."""
        self.sessions_lost = 0
        """Times that it came back and the server had forgotten its session."""
        self._port = port
        self._absence = Absence(Backoff(random=dice.uniform))
        self._connecting = False
        """A thread is about to, and has the client to itself."""
        self._topic = enrolled.topics["push"]
        self._lost_at = 0.0
        self._next_try = 0.0
        self._client = Client(CallbackAPIVersion.VERSION2, enrolled.client_id, clean_session=False)
        if ca is not None:
            self._client.tls_set(str(ca))
        self._client.username_pw_set(enrolled.client_id, enrolled.token)
        self._client.on_connect = lambda _client, _data, flags, *_: self._accepted(flags.session_present)
        self._client.on_subscribe = lambda *_: self._subscribed()
        self._client.on_message = lambda _client, _data, message: self._receive(message)

    def _accepted(self, session_present: bool) -> None:
        if self._lost_at and not session_present:
            self.sessions_lost += 1
        self._client.subscribe(self._topic, qos=1)

    def _subscribed(self) -> None:
        self.connected = True
        self._absence.end()
        if self._lost_at:
            self.longest_absence = max(self.longest_absence, time.monotonic() - self._lost_at)

    def _receive(self, message: MQTTMessage) -> None:
        self.push_ids.append(json.loads(message.payload)["push_id"])

    def socket(self) -> socket.socket | None:
        found = None if self._connecting else self._client.socket()
        return found if isinstance(found, socket.socket) else None

    def try_to_connect(self, now: float, threads: Executor) -> None:
        """Connect if it is time to."""
        if now >= self._next_try:
            self._next_try = inf
            self._connecting = True
            self._absence.attempt()
            threads.submit(self._connect)

    def _connect(self) -> None:
        with suppress(OSError):  # nobody listens there yet
            self._client.connect("127.0.0.1", self._port, KEEP_ALIVE_SECONDS)
        if self._client.socket() is None:
            self._try_again()
        self._connecting = False

    def _try_again(self) -> None:
        self._next_try = time.monotonic() + self._absence.delay()

    def work(self, readable: bool, now: float) -> None:
        """Read what has come, write what is to go, and keep alive."""
        if readable:
            self._client.loop_read()
            while isinstance(current := self._client.socket(), ssl.SSLSocket) and current.pending():
                self._client.loop_read()
        if self._client.want_write():
            self._client.loop_write()
        failed = self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS
        if failed or self._client.socket() is None:
            if self.connected:
                self.connected = False
                self._lost_at = now
            self._try_again()

    def disconnect(self) -> None:
        self._client.disconnect()
        while self._client.want_write():
            self._client.loop_write()


class PahoFleet:
    """All devices of one test. A context: they connect when it begins, and say goodbye when it ends."""

    def __init__(self, enrolled: Iterable[Device], port: int, ca: Path | None = None) -> None:
        """`ca` vouches for the server, if it speaks TLS."""
        dice = random.Random(7)
        self.devices = {device.id: PahoDevice(device, port, ca, dice) for device in enrolled}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    @property
    def connected(self) -> int:
        return sum(device.connected for device in self.devices.values())

    def _run(self) -> None:
        watched: dict[str, socket.socket] = {}
        with selectors.DefaultSelector() as selector, ThreadPoolExecutor(CONNECTING_THREADS) as threads:
            while not self._ending.is_set():
                now = time.monotonic()
                for device in self.devices.values():
                    if device.socket() is None:
                        device.try_to_connect(now, threads)
                    self._watch(device, watched, selector)
                readable = {key.data for key, _ in selector.select(POLL_SECONDS)}
                for device in self.devices.values():
                    if device.socket() is not None or device.connected:
                        device.work(device.id in readable, now)
                    self._watch(device, watched, selector)
        for device in self.devices.values():
            device.disconnect()

    @staticmethod
    def _watch(device: PahoDevice, watched: dict[str, socket.socket], selector: selectors.BaseSelector) -> None:
        """Let the selector know the socket that a device has now."""
        current, known = device.socket(), watched.get(device.id)
        if current is known:
            return
        if known is not None:
            selector.unregister(known)
            del watched[device.id]
        if current is not None:
            selector.register(current, selectors.EVENT_READ, device.id)
            watched[device.id] = current
