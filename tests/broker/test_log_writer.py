"""The log is written aside: nobody waits for it, strangers cannot fill it, and a record is one harmless line."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import log_limits, log_writer
from broker.log_format import LINE_CHARACTERS, JsonFormatter, LineFormatter, printable
from broker.log_limits import LINES_PER_KIND, LINES_PER_PEERS_KIND, LINES_PER_SUBJECT
from broker.log_writer import QUEUE_LINES, LogWriter

log = logging.getLogger("test.log_writer")
Read = Callable[[], str]


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """Reset the root level after a writer: pytest would keep records of later tests, with errors and connections."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def read(reading: int) -> list[str]:
    os.set_blocking(reading, False)
    data = b""
    try:
        while part := os.read(reading, 1 << 20):
            data += part
    except BlockingIOError:
        pass
    return data.decode().splitlines()


def test_a_record_is_a_line(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with LogWriter("INFO", LineFormatter("%(levelname)s %(message)s"), writing) as writer:
        log.info("%s: hello", "192.0.2.1:9")
        log.debug("not this")
        forged = "a\nforged line \x1b[31mred\x9b\u202e \udc80 ü"  # which pytest's own handler could not report
        writer.handle(logging.LogRecord("test", logging.INFO, "", 0, forged, None, None))
        log.info("x" * 10_000)
        writer.handle(logging.LogRecord("test", logging.INFO, "", 0, "%d", ("no number",), None))
        try:
            raise ValueError("with\x1b\r\nlines")
        except ValueError:
            log.exception("it failed")
    lines = read(reading)
    assert lines[0] == "INFO 192.0.2.1:9: hello"
    assert lines[1] == r"INFO a\nforged line \x1b[31mred\x9b\u202e \udc80 ü"
    assert lines[2] == f"INFO {'x' * LINE_CHARACTERS} ..."
    assert lines[3] == "a log line could not be written: test: %d"
    assert lines[4:6] == ["ERROR it failed", "Traceback (most recent call last):"]
    assert lines[-2:] == [r"ValueError: with\x1b\r", "lines"]
    assert not any(printable(line) != line for line in lines)


def test_nobody_waits_for_a_log_that_is_not_read(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with LogWriter("INFO", LineFormatter("%(message)s"), writing) as writer:
        began = time.monotonic()
        writer.limits._bytes.spend(-1e9)  # as many bytes as it takes
        for number in range(4 * QUEUE_LINES):
            # Each of another kind.
            writer.handle(logging.LogRecord("test", logging.INFO, "", 0, f"{number}{' ' * 100}", None, None))
        assert time.monotonic() - began < 5
        assert writer.dropped > 0
        said = read(reading)
        deadline = time.monotonic() + 10
        while not any("log lines were dropped" in line for line in said) and time.monotonic() < deadline:
            writer.write_line("again")
            time.sleep(0.01)
            said += read(reading)
    notes = [line for line in said if "log lines were dropped: the log was not read fast enough" in line]
    assert int(notes[0].split()[0]) > 0


def test_the_end_does_not_wait_for_it_either(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "FLUSH_SECONDS", 0.2)
    reading, writing = pipe
    began = time.monotonic()
    with LogWriter("INFO", LineFormatter("%(message)s"), writing) as writer:
        while writer.dropped == 0:
            writer.write_line("x" * 1_000)
    assert time.monotonic() - began < 5
    while writer._thread.is_alive():  # or it would write to whoever gets the descriptor's number next
        read(reading)


def test_an_address_has_few_lines_of_a_kind_and_then_a_count(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with LogWriter("INFO", LineFormatter("%(message)s"), writing) as writer:
        for number in range(50):
            peer = f"192.0.2.1:{number}"
            log.info("%s: guess %d", peer, number, extra={"peer": peer})
        for peer in ("192.0.2.2:1", "[2001:db8::1]:1"):
            log.info("%s: guess %d", peer, 1, extra={"peer": peer})
        for number in range(10):
            peer = f"[2001:db8::{number}]:1"
            log.info("%s: guess %d", peer, 2, extra={"peer": peer})
        log.info("%s: something else", "192.0.2.1:1", extra={"peer": "192.0.2.1:1"})
    lines = read(reading)
    assert sum("192.0.2.1:" in line and "guess" in line for line in lines) == LINES_PER_SUBJECT
    assert sum("192.0.2.2:" in line for line in lines) == 1
    assert sum("[2001:db8::" in line for line in lines) == LINES_PER_SUBJECT
    assert "192.0.2.1:1: something else" in lines
    assert f"{50 - LINES_PER_SUBJECT} more lines about 192.0.2.1 were left out: test.log_writer: %s: guess %d" in lines
    assert (
        f"{11 - LINES_PER_SUBJECT} more lines about 2001:db8::/64 were left out: test.log_writer: %s: guess %d" in lines
    )
    assert writer.limits.left_out == 61 - 2 * LINES_PER_SUBJECT


def test_many_addresses_have_no_more_than_a_kind_may(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with LogWriter("INFO", LineFormatter("%(message)s"), writing):
        for number in range(1_000):
            peer = f"192.0.{number // 250}.{number % 250}:1"
            log.info("%s: guess", peer, extra={"peer": peer})
    lines = read(reading)
    assert sum(line.endswith(": guess") for line in lines) == LINES_PER_PEERS_KIND + 1
    assert f"{1_000 - LINES_PER_PEERS_KIND} more lines were left out: test.log_writer: %s: guess" in lines


def test_a_kind_that_is_about_nobody_has_more(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with LogWriter("INFO", LineFormatter("%(message)s"), writing) as writer:
        for number in range(LINES_PER_KIND + 50):
            writer.handle(logging.LogRecord("test", logging.INFO, "", 0, "device %d", (number,), None))
    lines = read(reading)
    assert sum(line.startswith("device ") for line in lines) == LINES_PER_KIND
    assert "50 more lines were left out: test: device %d" in lines


def test_a_device_that_comes_and_goes_has_few_lines_and_hides_no_other(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with LogWriter("INFO", LineFormatter("%(message)s"), writing):
        for number in range(2 * LINES_PER_KIND):
            device = "kiosk-1" if number % 2 else f"kiosk-{number}"
            log.info("device %s is here", device, extra={"app": "shop", "device": device})
        for _ in range(7):
            log.info("webhook %s: dead", "w1", extra={"webhook": "w1"})
    lines = read(reading)
    assert lines.count("device kiosk-1 is here") == LINES_PER_SUBJECT
    assert sum(line.startswith("device ") for line in lines) == LINES_PER_KIND
    left_out = f"{LINES_PER_KIND - LINES_PER_SUBJECT} more lines about shop/kiosk-1 were left out"
    assert f"{left_out}: test.log_writer: device %s is here" in lines
    assert f"{7 - LINES_PER_SUBJECT} more lines about w1 were left out: test.log_writer: webhook %s: dead" in lines


def test_a_window_ends_by_itself(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_limits, "WINDOW_SECONDS", 0.1)
    monkeypatch.setattr(log_writer, "WINDOW_CHECK_SECONDS", 0.01)
    reading, writing = pipe
    with LogWriter("INFO", LineFormatter("%(message)s"), writing):
        for _ in range(LINES_PER_SUBJECT + 3):
            log.info("%s: guess", "192.0.2.1:1", extra={"peer": "192.0.2.1:1"})
        lines: list[str] = []
        deadline = time.monotonic() + 10
        while not any("more lines" in line for line in lines) and time.monotonic() < deadline:
            time.sleep(0.01)
            lines += read(reading)
        log.info("%s: guess", "192.0.2.1:1", extra={"peer": "192.0.2.1:1"})
    assert "3 more lines about 192.0.2.1 were left out: test.log_writer: %s: guess" in lines
    assert "192.0.2.1:1: guess" in read(reading)


def test_every_line_of_a_log_in_json_is_an_object(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with LogWriter("INFO", JsonFormatter(), writing) as writer:
        writer.write_line("fleetpush: first start")
        for _ in range(LINES_PER_SUBJECT + 2):
            log.warning("%s: guess", "192.0.2.1:9", extra={"peer": "192.0.2.1:9"})
        writer.handle(logging.LogRecord("test", logging.INFO, "", 0, "%d", ("no number",), None))
    said = [json.loads(line) for line in read(reading)]
    assert said[0]["message"] == "fleetpush: first start"
    assert said[1]["peer"] == "192.0.2.1:9"
    assert said[-2]["message"] == "a log line could not be written: test: %d"
    assert said[-1].items() >= {"left_out": 2, "kind": "test.log_writer: %s: guess", "about": "192.0.2.1"}.items()
    assert all({"time", "level", "logger", "message"} <= set(line) for line in said)


def test_a_flood_is_as_many_bytes_as_the_limit_says(tmp_path: Path) -> None:
    """Of lines that nothing else limits: each is of another kind, and as long as it may be."""
    path = tmp_path / "log"

    def write(number: int, level: int) -> None:
        writer.handle(logging.LogRecord("test", level, "", 0, f"{number} {'ü' * 3_000}", None, None))

    began = time.monotonic()
    with path.open("wb") as file, LogWriter("INFO", LineFormatter("%(message)s"), file.fileno()) as writer:
        for number in range(500):
            write(number, logging.INFO)
        left_out = writer.limits.over_bytes
        bound = log_limits.BURST_BYTES / 2 + log_limits.BYTES_PER_SECOND * (time.monotonic() - began)
        write(500, logging.ERROR)
        assert writer.limits.over_bytes == left_out, "an error has room"
    lines = path.read_text().splitlines()
    summaries = [line for line in lines if "left out" in line]
    sizes = [len(line.encode()) + 1 for line in lines if "left out" not in line]
    assert len(sizes) == 501 - left_out
    assert bound - 10_000 <= sum(sizes[:-1]) <= bound
    assert sum(int(line.split()[0]) for line in summaries) == left_out


def test_a_ready_line_waits_for_nobody() -> None:
    """Standard output is a pipe that is full and not read."""
    code = (
        "import os, fcntl; os.set_blocking(1, False)\n"
        "try:\n while os.write(1, b'x' * 65536): pass\n"
        "except BlockingIOError: os.set_blocking(1, True)\n"
        "from broker.log_writer import print_aside\nprint_aside('ready')\nos.write(2, b'went on')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.wait(20) == 0
        assert process.stderr.read() == b"went on"
