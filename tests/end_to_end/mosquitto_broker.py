"""Mosquitto as the broker of an operator, and somebody who looks at what it retains."""

from __future__ import annotations

import json
import queue
import socket
import subprocess
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.certificates import Pair
from tests.end_to_end.harness import wait_for
from tests.third_party import require

USERNAME, PASSWORD = "bridge", "between two brokers"
SECONDS = 15.0


class MosquittoBroker:
    """A broker that asks for a password, with a folder of its own. After `kill9` it starts again on the same port, and
    has forgotten everything."""

    def __init__(self, folder: Path, tls: Pair | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        passwords = folder / "passwords"
        subprocess.run([require("mosquitto_passwd"), "-b", "-c", passwords, USERNAME, PASSWORD], check=True)
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous false", f"password_file {passwords}"]
        lines += ["persistence false", f"user {Path('/').owner()}", "log_type all"]
        if tls is not None:
            lines += [f"certfile {tls.certificate}", f"keyfile {tls.key}"]
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text("\n".join([*lines, ""]))
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill9()

    def start(self) -> Self:
        with self._log.open("ab") as log:
            command = [require("mosquitto"), "-c", str(self._configuration)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._listens, what=f"mosquitto to listen; {self._log}")
        return self

    def kill9(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class Onlooker:
    """A second client of the broker: it reads what is retained, and publishes as Home Assistant does."""

    def __init__(self, port: int, username: str | None = USERNAME, password: str = PASSWORD) -> None:
        self._messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self._subscribed: queue.Queue[int] = queue.Queue()
        self.client = client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        if username is not None:
            client.username_pw_set(username, password)
        client.on_message = lambda _c, _u, message: self._messages.put(message)
        client.on_subscribe = lambda _c, _u, message_id, _r, _p: self._subscribed.put(message_id)
        connected: queue.Queue[bool] = queue.Queue()
        client.on_connect = lambda *_: connected.put(True)
        client.connect("127.0.0.1", port)
        client.loop_start()
        connected.get(timeout=SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def retained(self) -> dict[str, str]:
        """All that a new subscriber gets now, by topic."""
        self.client.subscribe("#", 0)  # with QoS 1 it would get as many as may be queued for it
        self._subscribed.get(timeout=SECONDS)
        self.client.publish("the end", b"", qos=1)  # behind what is retained: one queue per client
        found: dict[str, str] = {}
        while (message := self._messages.get(timeout=SECONDS)).topic != "the end":
            if message.retain:
                found[message.topic] = message.payload.decode()
        self.client.unsubscribe("#")
        return found

    def wait_retained(self, topic: str, value: str | None) -> None:
        """Wait until a topic retains this; None: nothing."""
        wait_for(lambda: self.retained().get(topic, None) == value, what=f"{value!r} on {topic}")

    def json(self, topic: str) -> Any:
        return json.loads(self.retained().get(topic, "{}"))

    def wait_result(self, device_id: str, state: str) -> dict[str, Any]:
        """Wait for a result of a device; what it says."""
        topic = f"fleetpush/devices/{device_id}/result"
        wait_for(lambda: self.json(topic).get("state") == state, what=f"{state} on {topic}")
        found = self.json(topic)
        assert isinstance(found, dict)
        return found

    def publish(self, topic: str, payload: str | bytes = "PRESS", *, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(SECONDS)
