"""Forms of a line of the log: text for people, or a JSON object for programs; under the journal with a priority.

Laws
1. A record is one harmless line: `LINE_CHARACTERS` of its message at most, without control characters. Whoever chose
   its words cannot forge another line, nor control a terminal.
2. Under systemd's journal a line begins with its priority, `<4>` for a warning (sd-daemon(3)), and a traceback is part
   of the line: the journal would make a record of each of its lines. The time is left to the journal. Elsewhere a
   traceback follows on lines of its own.
3. A JSON object has `time`, `level`, `logger` and `message`; of `FIELDS` those that the record has; and `traceback`.
   Names stay, new ones may come.
"""

from __future__ import annotations

import json
import logging
import os
import re
from datetime import UTC, datetime
from typing import Any, Final, Literal

LINE_CHARACTERS: Final = 2_000
TRACEBACK_CHARACTERS: Final = 8_000
"""The end of a traceback says most."""
FIELDS: Final = ("peer", "app", "device", "webhook")
"""What records say beside their text: `log.info("%s: ..", peer, extra={"peer": peer})`."""
TIME: Final = "%(asctime)s "
"""Beginning of a text's format that the journal has no use for."""

_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters of both sets, line separators, changes of the writing direction, halves of characters."""
_UNSAFE_BUT_LINES: Final = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))


def printable(text: str, unsafe: re.Pattern[str] = _UNSAFE) -> str:
    """Return the text with control characters written as escapes: `\\x1b`."""
    return unsafe.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_journal(descriptor: int) -> bool:
    """Whether the journal reads what is written to a descriptor: JOURNAL_STREAM names its device and inode."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def line_formatter(form: Literal["text", "json"], text_format: str, descriptor: int = 2) -> LineFormatter:
    """Return what makes the lines of a log that is written to a descriptor. `text_format` is that of text."""
    journal = is_journal(descriptor)
    return JsonFormatter(journal=journal) if form == "json" else LineFormatter(text_format, journal=journal)


class LineFormatter(logging.Formatter):
    """Formatter of records as text."""

    def __init__(self, text_format: str, *, journal: bool = False) -> None:
        super().__init__(text_format.removeprefix(TIME) if journal else text_format)
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        record.message = _message(record)
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        line = self.formatMessage(record)
        if record.exc_info:
            traceback = self.formatException(record.exc_info)[-TRACEBACK_CHARACTERS:]
            line = f"{line}\n{printable(traceback, _UNSAFE_BUT_LINES)}"
        return self._prefixed(record.levelno, line)

    def note(self, level: int, text: str, **fields: object) -> str:
        """Return the line of what is no record: of the log about itself, or for a person who has started the server.
        Text has no `fields`."""
        return self._prefixed(level, text)

    def _prefixed(self, level: int, line: str) -> str:
        return f"<{_priority(level)}>{printable(line)}" if self._journal else line


class JsonFormatter(LineFormatter):
    """Formatter of records as JSON objects."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__("%(message)s", journal=journal)

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)[-TRACEBACK_CHARACTERS:]
        text = _shortened(record.getMessage())
        return self._object(record.levelno, record.created, record.name, text, fields)

    def note(self, level: int, text: str, **fields: object) -> str:
        return self._object(level, datetime.now(UTC).timestamp(), "log", text, fields)

    def _object(self, level: int, at: float, logger: str, text: str, fields: dict[str, Any]) -> str:
        time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        named = {
            "time": time,
            "level": logging.getLevelName(level).lower(),
            "logger": logger,
            "message": text,
            **fields,
        }
        line = json.dumps(named, ensure_ascii=False, default=str)
        escaped = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
        return f"<{_priority(level)}>{escaped}" if self._journal else escaped


def _message(record: logging.LogRecord) -> str:
    # Twice: what is escaped becomes longer, and what is too long should not be escaped.
    return _shortened(printable(_shortened(record.getMessage())))


def _shortened(text: str) -> str:
    return text if len(text) <= LINE_CHARACTERS + len(" ...") else f"{text[:LINE_CHARACTERS]} ..."


def _priority(level: int) -> int:
    """Return the priority of syslog(3) for a level of `logging`."""
    bounds = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((priority for bound, priority in bounds if level >= bound), 7)
