"""What a terminal shows of what others wrote: everything, but nothing that moves the cursor."""

from __future__ import annotations

import json
import re

import pytest
import typer

from gateway.cli.terminal import (
    CARD_COLUMNS,
    RIGHT_TO_LEFT,
    action_choices,
    describe_counts,
    draw_notification,
    fail,
    note,
    print_facts,
    print_json,
    print_line,
    print_table,
)
from gateway.printable import UNPRINTABLE_BUT_LINES, printable


def test_control_characters_of_others_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\x1b[2Jb\nc\x07") == "a�[2Jb\nc�"
    draw_notification("kiosk", {"notification": {"title": "[bold]\x1b[31mred", "body": "b"}})
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[bold]" in shown, "no markup is looked up"


HOSTILE = "a\x1b[2J\x9b1m\u202eb\ud800"


def test_whatever_is_printed_is_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    for aligned in (False, True):
        print_table(("device",), [(HOSTILE,)], "none", aligned=aligned)
    print_facts({"last_error": HOSTILE, "attributes": {HOSTILE: HOSTILE}})
    print_json({"name": HOSTILE})
    print_line(HOSTILE)
    note(HOSTILE)
    with pytest.raises(typer.Exit):
        fail(HOSTILE)
    output, errors = capsys.readouterr()
    assert not UNPRINTABLE_BUT_LINES.search(output + errors)


def test_json_says_what_there_was(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": HOSTILE})
    assert json.loads(capsys.readouterr().out) == {"name": HOSTILE}


def test_text_from_right_to_left_turns_no_frame_around(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.terminal.is_terminal", lambda: True)
    words = "שלום עולם " * 12
    draw_notification(
        "kiosk", {"notification": {"title": "Hi", "body": words, "actions": [{"id": "a", "title": "כן"}]}}
    )
    rows = [row for row in capsys.readouterr().out.splitlines() if RIGHT_TO_LEFT.search(row)]
    assert len(rows) == 4, "three of the body, one of the buttons"
    for row in rows:
        assert row.count("\u2068") == row.count("\u2069") == 1
        assert len(re.sub("[\u2068\u2069]", "", row)) == CARD_COLUMNS
    print_table(("name", "id"), [("שלום", "x")], "none")
    assert "\u2068שלום\u2069" in capsys.readouterr().out


def test_a_notification_in_a_pipe_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    actions = [{"id": "play", "title": "Play"}, {"id": "later", "title": "Later"}]
    message = {"kind": "alert", "notification": {"title": "Film", "body": "At eight", "actions": actions}}
    draw_notification("kiosk-1", message)
    assert capsys.readouterr().out.splitlines() == ["-- kiosk-1", "   Film", "   At eight", "    [1] Play    [2] Later"]


@pytest.mark.parametrize("notification", [None, "text", {"actions": "play"}, {"actions": [1, {"title": "no id"}]}])
def test_a_malformed_notification_has_no_actions(notification: object) -> None:
    assert action_choices({"notification": notification}) == {}


def test_tables_in_a_pipe_are_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("device", "name"), [("a", None), ("b", "x\ty\nz")], "none")
    assert capsys.readouterr().out == "DEVICE\tNAME\na\t\nb\tx y z\n"
    print_table(("device",), [], "none yet")
    assert capsys.readouterr() == ("", "none yet\n")


def test_counts_in_words() -> None:
    assert (
        describe_counts({"targeted": 3, "waiting": 1, "sent": 0, "delivered": 2})
        == "3 targeted: 1 waiting, 2 delivered"
    )
