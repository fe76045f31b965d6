"""Mosquitto's command-line clients as devices: what a stranger without our library has.

mosquitto_sub acknowledges messages that it no longer prints after -C, -W or SIGTERM, so `Subscriber` has no limit of
its own: a test ends it only when the ledger and the output have settled. Its output is a pipe, hence `stdbuf -oL`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from dataclasses import dataclass
from typing import Any

from tests.end_to_end.harness import Device, wait_for
from tests.third_party import require


class Failed(Exception):
    """mosquitto_pub ended with an error."""


@dataclass(frozen=True)
class Printed:
    """One line of mosquitto_sub."""

    topic: str
    qos: int
    retain: bool
    push: dict[str, Any]


class Subscriber:
    """`mosquitto_sub -c -q QOS` as a device: nothing but its credential and its topic."""

    def __init__(self, port: int, device: Device, *, qos: int = 1, version: str = "mqttv311") -> None:
        command = [require("stdbuf"), "-oL", require("mosquitto_sub"), "-p", str(port), "-V", version]
        command += ["-i", device.client_id, "-u", device.client_id, "-P", device.token]
        command += ["-c", "-q", str(qos), "-t", device.topics["push"], "-F", "%t %q %r %p"]
        self.received: list[Printed] = []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()

    def push_ids(self) -> list[str]:
        return [printed.push["push_id"] for printed in self.received]

    def wait_received(self, count: int) -> list[Printed]:
        wait_for(lambda: len(self.received) >= count, what=f"{count} lines of mosquitto_sub")
        return list(self.received)

    def vanish(self) -> None:
        """SIGKILL: no DISCONNECT, no acknowledgement that nobody saw."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None, "opened as a pipe"
        for line in self._process.stdout:
            topic, qos, retain, payload = line.rstrip("\n").split(" ", 3)
            self.received.append(Printed(topic, int(qos), retain == "1", json.loads(payload)))


def publish(port: int, device: Device, topic: str, payload: str | dict[str, Any], *options: str) -> str:
    """`mosquitto_pub -i ID:r` with QoS 1; what it wrote to stderr."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    command = [require("mosquitto_pub"), "-p", str(port), "-i", f"{device.client_id}:r", "-q", "1"]
    command += ["-u", device.client_id, "-P", device.token, "-t", topic, "-m", text, *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    if result.returncode:
        raise Failed(result.stderr)
    return result.stderr
