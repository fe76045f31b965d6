"""The log, written by a thread of its own: a log that nobody reads (a stalled pipe, Ctrl-S in a terminal) stops nobody.

`with LogWriter(level, format):` has all loggers of the process write through it. A record that is about a peer says so:
`log.info("%s: ..", peer, extra={"peer": peer})`.

Laws
1. A caller never waits. A line goes into a queue of `QUEUE_LINES`; if that is full the newest is dropped and
   counted, and a line says how many as soon as something can be written again.
2. Nobody can fill a disk: of each kind of line (its text before anything is filled in) `LINES_PER_KIND` are written in
   `WINDOW_SECONDS`; of a kind that is about peers `LINES_PER_PEERS_KIND`, and `LINES_PER_PEER` about one address. A
   line at the end says how many were left out.
3. A record is a line, at most `LINE_CHARACTERS` long, without control characters: whoever chose its words cannot forge
   another, nor control a terminal. A traceback follows on lines of its own.
4. The end waits for the queue for `FLUSH_SECONDS` at most.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import select
import sys
import threading
import time
from types import TracebackType
from typing import Final, Self

from broker.addresses import address_of

QUEUE_LINES: Final = 2_000
"""Length of the queue: 4 MB at most, the lines of a busy server in a minute."""
LINE_CHARACTERS: Final = 2_000
TRACEBACK_CHARACTERS: Final = 8_000
"""The end of a traceback says most."""
WINDOW_SECONDS: Final = 60.0
LINES_PER_PEER: Final = 5
LINES_PER_PEERS_KIND: Final = 100
"""About all addresses together: some 30 MB a day of a kind at most; there are fifteen that strangers can cause."""
LINES_PER_KIND: Final = 1_000
"""Limit of the kinds that are about no address: a fleet that returns may fill a minute with one."""
MAX_COUNTED_KINDS: Final = 10_000
"""Kinds and addresses; beyond it the oldest starts again at none."""
FLUSH_SECONDS: Final = 1.0
WINDOW_CHECK_SECONDS: Final = 1.0
"""Interval at which the thread checks for windows that have ended, when nobody logs."""

_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters of both sets, line separators, changes of the writing direction, halves of characters."""
_UNSAFE_BUT_LINES: Final = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))


def printable(text: str, unsafe: re.Pattern[str] = _UNSAFE) -> str:
    """Return the text with control characters written as escapes: `\\x1b`."""
    return unsafe.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} ..."


class LineFormatter(logging.Formatter):
    """Formatter of one record as one line of bounded length."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = printable(_shortened(record.getMessage(), LINE_CHARACTERS))
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        line = self.formatMessage(record)
        if record.exc_info:
            traceback = self.formatException(record.exc_info)[-TRACEBACK_CHARACTERS:]
            line = f"{line}\n{printable(traceback, _UNSAFE_BUT_LINES)}"
        return line


class _Count:
    """Lines of one kind, or of one kind about one address, since a moment."""

    __slots__ = ("left_out", "lines", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.lines = 0
        self.left_out = 0


class LogWriter(logging.Handler):
    """The only handler of the root logger, from entering the context to leaving it.

    Callers run on any thread and never wait; lines are written on the *writer thread* of the log.
    """

    def __init__(self, level: int | str, line_format: str, descriptor: int = 2) -> None:
        super().__init__()
        self.setFormatter(LineFormatter(line_format))
        self.dropped = 0
        """Lines lost because nobody read the log fast enough."""
        self.left_out = 0
        """Lines that were not written because there had been many of their kind."""
        self._root_level = level
        self._descriptor = descriptor
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        self._ending = False
        self._reported = 0
        """Number of dropped lines that the log has reported."""
        self._counts: dict[tuple[str, str], _Count] = {}
        """Counts by kind and address, the oldest first; the address is empty for a kind as a whole."""
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
        self._put(text)

    # -- callers ------------------------------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record (see `logging.Handler`); the handler has its lock."""
        try:
            if self._is_one_too_many(record):
                self.left_out += 1
                return
            self._put(self.format(record))
        except Exception:  # a mistake in a log call must not end its caller
            self._put(f"a log line of {record.name} could not be written: {printable(str(record.msg))[:200]}")

    def _put(self, line: str) -> None:
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def _is_one_too_many(self, record: logging.LogRecord) -> bool:
        kind = str(record.msg)
        peer = getattr(record, "peer", None)
        if not isinstance(peer, str):
            return not self._counted((kind, ""), LINES_PER_KIND, record.created)
        return not (
            self._counted((kind, address_of(peer)), LINES_PER_PEER, record.created)
            and self._counted((kind, ""), LINES_PER_PEERS_KIND, record.created)
        )

    def _counted(self, key: tuple[str, str], limit: int, now: float) -> bool:
        """Count a line; return whether it may be written."""
        count = self._counts.get(key)
        if count is None or abs(now - count.since) >= WINDOW_SECONDS:
            if count is not None:
                del self._counts[key]
                self._put_summary(key, count)
            elif len(self._counts) >= MAX_COUNTED_KINDS:
                oldest = next(iter(self._counts))
                self._put_summary(oldest, self._counts.pop(oldest))
            count = self._counts[key] = _Count(now)
        if count.lines >= limit:
            count.left_out += 1
            return False
        count.lines += 1
        return True

    def _put_summary(self, key: tuple[str, str], count: _Count) -> None:
        if count.left_out:
            kind, address = key
            about = f" about {printable(address)}" if address else ""
            self._put(f"{count.left_out} more lines{about} were left out: {printable(kind)[:200]}")

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
                if write_all(self._descriptor, f"{lost} log lines were dropped: the log was not read fast enough\n"):
                    self._reported = dropped
            self._end_windows(time.time(), everything=ended)
            if ended:
                self._write_rest()

    def _end_windows(self, now: float, *, everything: bool) -> None:
        with self.lock or threading.RLock():
            while self._counts:
                key, count = next(iter(self._counts.items()))
                if not everything and abs(now - count.since) < WINDOW_SECONDS:
                    break  # the oldest is first
                del self._counts[key]
                self._put_summary(key, count)

    def _write_rest(self) -> None:
        try:
            while True:
                write_all(self._descriptor, f"{self._queue.get_nowait()}\n")
        except queue.Empty:
            pass


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
