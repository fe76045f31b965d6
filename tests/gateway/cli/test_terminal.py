"""What a terminal shows of what others wrote: everything, but nothing that moves the cursor."""

from __future__ import annotations

import pytest

from gateway.cli.terminal import action_choices, describe_counts, draw_notification, print_table, printable


def test_control_characters_of_others_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\x1b[2Jb\nc\x07") == "a�[2Jb\nc�"
    draw_notification("kiosk", {"notification": {"title": "[bold]\x1b[31mred", "body": "b"}})
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[bold]" in shown, "no markup is looked up"


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
