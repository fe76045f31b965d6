"""Mosquitto's command-line clients as devices: what a stranger without our library has.

mosquitto_sub acknowledges messages that it no longer prints after -C, -W or SIGTERM, so `Subscriber` has no limit of
its own: a test ends it only when the ledger and the output have settled.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from tests.end_to_end.harness import Device, wait_for
from tests.third_party import Listener, require


class Failed(Exception):
    """mosquitto_pub ended with an error."""


@dataclass(frozen=True)
class Printed:
    """One line of mosquitto_sub."""

    topic: str
    qos: int
    retain: bool
    push: dict[str, Any]


class Subscriber(Listener):
    """`mosquitto_sub -c -q QOS` as a device: nothing but its credential and its topic."""

    def __init__(
        self, port: int, device: Device, *options: str, qos: int = 1, version: str = "mqttv311", token: bool = True
    ) -> None:
        """Without a `token` its `options` prove who it is."""
        command = [require("mosquitto_sub"), "-p", str(port), "-V", version, "-i", device.client_id]
        command += ["-u", device.client_id, "-P", device.token] if token else []
        command += ["-c", "-q", str(qos), "-t", device.topics["push"], "-F", "%t %q %r %p", *options]
        self.received: list[Printed] = []
        super().__init__(command, self._heard)

    def push_ids(self) -> list[str]:
        return [printed.push["push_id"] for printed in self.received]

    def wait_received(self, count: int) -> list[Printed]:
        wait_for(lambda: len(self.received) >= count, what=f"{count} lines of mosquitto_sub")
        return list(self.received)

    def _heard(self, line: str) -> None:
        topic, qos, retain, payload = line.split(" ", 3)
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
