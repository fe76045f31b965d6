"""The log under attack: all that others do wrong at once fills no disk, and what is not in the log is counted."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from tests import wire
from tests.end_to_end.harness import Server

BURST_BYTES = 1024 * 1024
BYTES_PER_SECOND = 8 * 1024
"""The bound that docs/limits.md states."""
LONGEST_KIND_BYTES = 128 * 1024
ADDRESSES = 250
AT_ONCE = 50
KINDS = {
    "bad login": "broker.connection: %s: CONNECT of %.64r as %.64r is refused: %s",
    "malformed packet": "broker.connection: %s: %s (%s)",
    "refused request": "gateway.api.admission: %s: %s",
}
"""The lines that the attacks cause, as the log names them."""


class Flood:
    """One attack after the other, from many addresses of the loopback network."""

    def __init__(self, server: Server, times: int) -> None:
        self.done: Counter[str] = Counter()
        self._server = server
        self._times = times
        self._addresses = (f"127.0.{1 + number // 250 % 4}.{1 + number % 250}" for number in count())
        self._numbers = count()

    async def run(self) -> None:
        await asyncio.gather(*(self._attack(kind) for kind in KINDS for _ in range(AT_ONCE)))

    async def _attack(self, kind: str) -> None:
        for _ in range(self._times // AT_ONCE):
            number = next(self._numbers)
            data, port = self._bytes(kind, number)
            source = next(self._addresses), 0
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source)
            writer.write(data)
            try:
                await asyncio.wait_for(reader.read(1), 30)
            except ConnectionError:
                pass
            writer.transport.abort()
            self.done[kind] += 1

    def _bytes(self, kind: str, number: int) -> tuple[bytes, int]:
        match kind:
            case "bad login":
                name = f"device-{number}"
                return wire.connect(name, username=name, password="wrong"), self._server.mqtt_port
            case "malformed packet":
                return bytes.fromhex("10 0c 0003 4d5154 04 02 003c 0001 61") + b"\n" * 20, self._server.mqtt_port
        head = f"GET /v1/devices/{'x' * 200} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        return f"{head}Authorization: Bearer {number}\r\n\r\n".encode(), self._server.http_port


def lines_of(text: str, kind: str) -> Iterator[str]:
    logger, _, form = kind.partition(": ")
    words = [re.escape(part) for part in re.split(r"%(?:\.\d+)?[sr]", form)]
    written = (line for line in text.splitlines() if "were left out" not in line)
    return (line for line in written if re.search(rf" {logger}: {'.*'.join(words)}$", line))


async def test_a_flood_of_everything_stays_within_the_stated_bytes(tmp_path: Path, full: int) -> None:
    times = 600 * full
    with Server(tmp_path / "data", "--webhook-networks", "127.0.0.0/8") as server:
        # Webhooks that nobody answers, too: attempts to reach them are no lines.
        for number in range(5):
            server.api.call("POST", "/v1/webhooks", 201, json={"url": f"http://127.0.0.1:9/{number}"})
        for number in range(50):
            server.api.enrol(f"kiosk-{number}")
        began = time.monotonic()
        flood = Flood(server, times)
        await flood.run()
        took = time.monotonic() - began
        assert server.stop() == 0
        log = server.errors
    written = len(log.encode())
    assert written <= BURST_BYTES + BYTES_PER_SECOND * took
    assert written < 3 * LONGEST_KIND_BYTES
    assert written < 60 * sum(flood.done.values()), "a line of each would be some 120 bytes"
    assert max(len(line) for line in log.splitlines()) < 400
    for name, kind in KINDS.items():
        said = sum(1 for _ in lines_of(log, kind))
        left_out = sum(
            map(int, re.findall(rf"^(\d+) more lines.* were left out: {re.escape(kind)}$", log, re.MULTILINE))
        )
        assert 0 < said <= 200, name
        assert left_out > 0, name
        assert said + left_out <= flood.done[name], name
    # Counted to the last one: with a line of its kind, or with those for which there was no line.
    everything = sum(map(int, re.findall(r"^(\d+) more lines.* were left out", log, re.MULTILINE)))
    said = sum(sum(1 for _ in lines_of(log, kind)) for kind in KINDS.values())
    assert said + everything >= sum(flood.done.values())
