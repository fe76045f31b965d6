"""Lines for people, for programs and for the journal: one record is one line, and the same facts are in each form."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.log_format import (
    FIELDS,
    LINE_CHARACTERS,
    TRACEBACK_CHARACTERS,
    JsonFormatter,
    LineFormatter,
    is_journal,
    line_formatter,
)

FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def record(
    text: str = "%s: hello", *arguments: object, level: int = logging.WARNING, **extra: Any
) -> logging.LogRecord:
    made = logging.LogRecord("test", level, "", 0, text, arguments or ("192.0.2.1:9",), None)
    made.__dict__.update(extra)
    return made


def failed() -> logging.LogRecord:
    try:
        raise ValueError("with\x1b\nlines " + "x" * 2 * TRACEBACK_CHARACTERS)
    except ValueError:
        made = record(level=logging.ERROR)
        made.exc_info = sys.exc_info()
        return made


def test_text_has_its_time_and_under_the_journal_its_priority() -> None:
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING test: 192.0.2.1:9: hello", LineFormatter(FORM).format(record())
    )
    journal = LineFormatter(FORM, journal=True)
    assert journal.format(record()) == "<4>WARNING test: 192.0.2.1:9: hello"
    assert journal.note(logging.INFO, "first start") == "<6>first start"
    assert LineFormatter(FORM).note(logging.INFO, "first start") == "first start"
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    assert [journal.format(record(level=level))[:3] for level in levels] == ["<7>", "<6>", "<4>", "<3>", "<2>"]


def test_a_traceback_is_part_of_the_journals_line() -> None:
    line = LineFormatter(FORM, journal=True).format(failed())
    assert "\n" not in line
    assert "Traceback" not in line, "its end says most"
    assert line.startswith(r"<3>ERROR test: 192.0.2.1:9: hello\n")
    assert len(line) < TRACEBACK_CHARACTERS + 100
    lines = LineFormatter(FORM).format(failed()).split("\n")
    assert len(lines) == 2
    assert not re.search("[\x00-\x1f]", "".join(lines))


def test_a_json_object_has_stable_keys() -> None:
    said = json.loads(JsonFormatter().format(record(peer="192.0.2.1:9", device="kiosk-1", other="not this")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said.pop("time"))
    assert said == {
        "level": "warning",
        "logger": "test",
        "message": "192.0.2.1:9: hello",
        "peer": "192.0.2.1:9",
        "device": "kiosk-1",
    }
    assert FIELDS == ("peer", "app", "device", "webhook")
    said = json.loads(JsonFormatter().format(failed()))
    assert said["traceback"] == "x" * TRACEBACK_CHARACTERS
    line = JsonFormatter(journal=True).format(record())
    assert line.startswith('<4>{"time": ')


@pytest.mark.parametrize(
    "formatter", [LineFormatter("%(message)s"), LineFormatter("%(message)s", journal=True), JsonFormatter()]
)
def test_what_others_say_is_one_harmless_line(formatter: LineFormatter) -> None:
    text = 'a\nforged \x1b[31mred\x9b\u202e\udc80 ü"}'
    line = formatter.format(record("%s", text))
    assert re.search("[\x00-\x1f\x7f-\x9f\u202e\ud800-\udfff]", line) is None
    assert "ü" in line
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["message"] == text
    # As long as it may be, also of characters that become longer by being escaped.
    for longer in ("x" * 10_000, "\x00" * 10_000, "\u202e" * 10_000):
        assert len(formatter.format(record("%s", longer))) <= 6 * LINE_CHARACTERS + 200


def test_the_journal_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as file:
        found = os.fstat(file.fileno())
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not is_journal(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        assert not is_journal(file.fileno()), "stderr has been sent elsewhere since"
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert is_journal(file.fileno())
        assert line_formatter("text", FORM, file.fileno()).note(logging.INFO, "x") == "<6>x"
        assert line_formatter("json", FORM, file.fileno()).note(logging.INFO, "x").startswith("<6>{")
    assert not is_journal(999)
