"""A yardstick that loses messages: the benchmark says so, marks its figure, and goes on. Ours may lose none."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import fanout, tools
from tests.benchmarks.__main__ import main
from tests.benchmarks.figures import Figure, medians, table
from tests.benchmarks.tools import Batch, CannotRun, Fleet, anonymous_devices
from tests.third_party import require
from tests.wire import connack_4, puback, suback

DEVICES = 5
LOST = range(8, 13)
"""Messages that the broker below loses, counted from 1."""


class LossyBroker(threading.Thread):
    """A broker of MQTT 3.1.1 for the load generator, which loses messages that it has acknowledged."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._subscribers: dict[bytes, socket.socket] = {}
        self._messages = 0
        self._connections: list[threading.Thread] = []

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            connection = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._connections.append(connection)
            connection.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self, *self._connections):
            thread.join(10)

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as received:
            while head := received.read(2):
                first, length = head
                if length > 127:
                    length = length - 128 + 128 * received.read(1)[0]
                self._answer(client, first, received.read(length))

    def _answer(self, client: socket.socket, first: int, body: bytes) -> None:
        match first >> 4:
            case 1:
                client.sendall(connack_4())
            case 8:
                self._subscribers[body[4:-1]] = client
                client.sendall(suback(int.from_bytes(body[:2]), 1))
            case 3:
                end = 2 + int.from_bytes(body[:2])
                client.sendall(puback(int.from_bytes(body[end : end + 2])))
                self._messages += 1
                if self._messages not in LOST:
                    length = len(body)
                    head = bytes([first, length % 128 | 128, length // 128])
                    self._subscribers[body[2:end]].sendall(head + body)


@contextmanager
def lossy_broker(*_: object, **__: object) -> Iterator[tuple[int, int]]:
    broker = LossyBroker()
    broker.start()
    try:
        yield broker.port, 0
    finally:
        broker.stop()


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    require("cc")
    monkeypatch.setattr(tools, "LOSS_SECONDS", 2.0)


def whole_batches(*_: object) -> list[Batch]:
    return [Batch(1, 0.001), Batch(1, 0.001), Batch(10, 0.01)]


def test_what_a_yardstick_loses_is_counted(tmp_path: Path) -> None:
    with lossy_broker() as (port, _):
        batches = fanout.published(port, DEVICES, [1, 10, 1], 10, tmp_path)
    assert [batch.lost for batch in batches] == [0, len(LOST), 0]
    assert all(0 < batch.seconds < tools.LOSS_SECONDS for batch in batches), "the time of those that came"


def test_the_benchmark_goes_on_and_marks_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fanout, "mosquitto", lossy_broker)
    monkeypatch.setattr(fanout, "floor", lambda *_: (0.0, whole_batches()))
    monkeypatch.setattr(fanout, "measure_amqtt", whole_batches)
    monkeypatch.setattr(fanout, "measure_fleetpush", whole_batches)
    file = tmp_path / "figures.json"
    small = ["--transport", "tcp", "--devices", str(DEVICES), "--pushes", "1", "--stream", "50"]
    assert main(["fanout", *small, "--json", str(file)]) == 0
    printed = capsys.readouterr()
    loss = "lost 2 of 50 messages"
    assert f"fan-out to 5, stream: {fanout.MOSQUITTO} {loss}, so its figure is incomplete" in printed.err
    assert f"incomplete: {loss}" in printed.out
    incomplete = {
        (figure["what"], figure["beside"]): figure["incomplete"]
        for figure in json.loads(file.read_text())["figures"]
        if figure["incomplete"] is not None
    }
    assert incomplete == {
        ("fan-out to 5, single push", fanout.MOSQUITTO): "lost 3 of 5 messages",
        ("fan-out to 5, stream", fanout.MOSQUITTO): loss,
    }


def test_ours_may_lose_nothing(tmp_path: Path) -> None:
    """The fleet waits for what is missing until its time is over, and gives up."""
    listed = anonymous_devices(DEVICES, tmp_path)
    with (
        lossy_broker() as (port, _),
        Fleet(port, listed, [20], "--publish", timeout=1.0, quiet=True) as fleet,
        pytest.raises(CannotRun),
    ):
        fleet.batch()


def figure(ratio: float, incomplete: str | None = None) -> Figure:
    return Figure("fan-out", "deliveries/s", ratio, "it", 1.0, at_least=1.5, incomplete=incomplete)


def test_an_incomplete_figure_meets_no_goal() -> None:
    assert figure(2.0).is_met
    incomplete = figure(2.0, "lost 1 of 2 messages")
    assert incomplete.is_met is None
    assert "met" not in table([incomplete])
    document: dict[str, Any] = incomplete.document()
    assert document["met"] is None


def test_complete_runs_count() -> None:
    assert medians([[figure(9.0, "lost 1 of 2 messages")], [figure(2.0)], [figure(8.0, "lost 1 of 2 messages")]]) == [
        figure(2.0)
    ]
    (left,) = medians([[figure(9.0, "lost 1 of 2 messages")]])
    assert left.incomplete is not None
