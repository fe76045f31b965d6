"""The log, written by a thread of its own: a log that nobody reads (a stalled pipe, Ctrl-S in a terminal) stops nobody.

`with LogWriter(level, formatter):` has all loggers of the process write through it. A record that is about a peer says
so: `log.info("%s: ..", peer, extra={"peer": peer})`.

Laws
1. A caller never waits. A line goes into a queue of `QUEUE_LINES`; if that is full the newest is dropped and
   counted, and a line says how many as soon as something can be written again.
2. Nobody can fill a disk: `log_limits` says what is too much, and what was left out.
3. A record is one harmless line (`log_format`).
4. The end waits for the queue for `FLUSH_SECONDS` at most.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import sys
import threading
import time
from types import TracebackType
from typing import Final, Self

from broker.addresses import address_of
from broker.log_format import LineFormatter, printable
from broker.log_limits import LogLimits, Summary

QUEUE_LINES: Final = 2_000
"""Length of the queue: the lines of a busy server in a minute, 1 MiB of them at once (`log_limits`)."""
FLUSH_SECONDS: Final = 1.0
WINDOW_CHECK_SECONDS: Final = 1.0
"""Interval at which the thread checks for windows that have ended, when nobody logs."""


class LogWriter(logging.Handler):
    """The only handler of the root logger, from entering the context to leaving it.

    Callers run on any thread and never wait; lines are written on the *writer thread* of the log.
    """

    def __init__(self, level: int | str, formatter: LineFormatter, descriptor: int = 2) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.dropped = 0
        """Lines lost because nobody read the log fast enough."""
        self.limits = LogLimits()
        self._root_level = level
        self._line_formatter = formatter
        self._descriptor = descriptor
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        self._ending = False
        self._reported = 0
        """Number of dropped lines that the log has reported."""
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)

    def __enter__(self) -> Self:
        root = logging.getLogger()
        root.setLevel(self._root_level)
        root.addHandler(self)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Write what waits, for a bounded time, and no more."""
        root = logging.getLogger()
        if self not in root.handlers:
            return
        root.removeHandler(self)
        self._ending = True
        deadline = time.monotonic() + FLUSH_SECONDS
        try:
            self._queue.put(None, timeout=FLUSH_SECONDS)
        except queue.Full:
            return  # the log is not read: the thread ends with the process
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def write_line(self, text: str) -> None:
        """Write a line that is no record: for a person who has started the server."""
        self._put(self._line_formatter.note(logging.INFO, text))

    # -- callers ------------------------------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record (see `logging.Handler`); the handler has its lock."""
        kind = f"{record.name}: {record.msg}"
        peer = getattr(record, "peer", None)
        about = address_of(peer) if isinstance(peer, str) else subject_of(record)
        now = time.monotonic()
        if not self.limits.admit(kind, now, about, is_peer=isinstance(peer, str)):
            return
        try:
            line = self.format(record)
        except Exception:  # a mistake in a log call must not end its caller
            text = f"a log line could not be written: {printable(kind)[:200]}"
            line = self._line_formatter.note(logging.ERROR, text)
        if self.limits.spend(kind, record.levelno, len(line.encode(errors="backslashreplace")) + 1, now):
            self._put(line)

    def _put(self, line: str) -> None:
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def _put_summary(self, summary: Summary) -> None:
        about = f" about {printable(summary.about)}" if summary.about else ""
        kind = printable(summary.kind)[:200]
        text = f"{summary.lines} more lines{about} were left out: {kind or 'of many kinds and addresses'}"
        fields = {"left_out": summary.lines, "kind": kind, "about": printable(summary.about)}
        line = self._line_formatter.note(logging.WARNING, text, **{name: said for name, said in fields.items() if said})
        self.limits.spend_note(len(line) + 1)
        self._put(line)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _write_lines(self) -> None:
        ended = False
        while not ended:
            lines: list[str | None] = []
            try:
                lines.append(self._queue.get(timeout=WINDOW_CHECK_SECONDS))
                while len(lines) < 100:
                    lines.append(self._queue.get_nowait())
            except queue.Empty:
                pass
            ended = None in lines or (self._ending and self._queue.empty())
            text = "".join(f"{line}\n" for line in lines if line is not None)
            if text and write_all(self._descriptor, text) and self.dropped > self._reported:
                dropped = self.dropped
                lost = dropped - self._reported
                text = f"{lost} log lines were dropped: the log was not read fast enough"
                note = self._line_formatter.note(logging.WARNING, text, dropped=lost)
                if write_all(self._descriptor, f"{note}\n"):
                    self._reported = dropped
            self._end_windows(everything=ended)
            if ended:
                self._write_rest()

    def _end_windows(self, *, everything: bool) -> None:
        with self.lock or threading.RLock():
            for summary in self.limits.ended(time.monotonic(), everything=everything):
                self._put_summary(summary)

    def _write_rest(self) -> None:
        try:
            while True:
                write_all(self._descriptor, f"{self._queue.get_nowait()}\n")
        except queue.Empty:
            pass


def subject_of(record: logging.LogRecord) -> str:
    """Return what a record is about, if that is no peer: a device, or a webhook; empty, if it is nothing."""
    app, device = getattr(record, "app", ""), getattr(record, "device", "")
    return f"{app}/{device}" if device else str(getattr(record, "webhook", ""))


def write_all(descriptor: int, text: str) -> bool:
    """Write a text, however long that takes; return False if nobody can ever read it."""
    data = text.encode(errors="backslashreplace")
    try:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # another program that shares the terminal has set it so
                select.select([], [descriptor], [])
    except OSError:
        return False
    return True


def print_aside(text: str) -> None:
    """Print a line to the standard output without waiting for whoever should read it."""
    sys.stdout.flush()
    threading.Thread(target=write_all, args=(1, f"{text}\n"), name="stdout", daemon=True).start()
