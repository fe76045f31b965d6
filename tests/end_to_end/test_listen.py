"""`fleetpush listen` on a terminal: keys pressed by a person, and what comes back to the sender."""

from __future__ import annotations

import os
import pty
import signal
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartServer
from tests.end_to_end.harness import Api, clean_environment, wait_for
from tests.end_to_end.warm_start import WarmProcess


class TerminalDevice:
    """The program on a terminal of its own, 100 columns wide."""

    def __init__(self, folder: Path) -> None:
        try:
            self.terminal, programs = pty.openpty()
        except OSError as error:  # a bare root without /dev/pts
            pytest.skip(f"this machine has no pseudo terminals: {error}")
        termios.tcsetwinsize(programs, (40, 100))
        self.before = termios.tcgetattr(self.terminal)
        env = clean_environment(HOME=str(folder), XDG_DATA_HOME=str(folder / "share"), TERM="xterm")
        self.process = WarmProcess(["listen", "kiosk-1"], programs, env, folder, programs, stdout=programs)
        os.close(programs)
        self._screen = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while data := os.read(self.terminal, 4096):
                self._screen += data
        except OSError:
            pass  # EIO: the program has ended

    def wait_text(self, text: str) -> None:
        wait_for(lambda: text in self._screen.decode(errors="replace"), what=f"{text!r} on the screen")

    def press(self, key: str) -> None:
        os.write(self.terminal, key.encode())

    def close(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.process.stdout.close()
        os.close(self.terminal)


@pytest.fixture
def api(start_server: StartServer, tmp_path: Path) -> Api:
    return start_server(data_dir=tmp_path / "fleetpush-data").api


@pytest.fixture
def device(api: Api, tmp_path: Path) -> Iterator[TerminalDevice]:
    device = TerminalDevice(tmp_path)
    device.wait_text("kiosk-1 is listening")
    yield device
    device.close()


def test_a_key_executes_an_action_and_its_result_comes_back(api: Api, device: TerminalDevice) -> None:
    actions = [{"id": "play", "title": "Play"}, {"id": "next", "title": "Next"}]
    push_id = api.push("kiosk-1", notification={"title": "Film tonight", "body": "At eight", "actions": actions})
    device.wait_text("Film tonight")
    device.wait_text("[2] Next")
    device.press("1")
    device.wait_text("Play: playing, Morning light")
    wait_for(lambda: api.reached(push_id)["acted"] == 1, what="the receipt")
    delivery = api.delivery(push_id)
    assert (delivery["action"], delivery["result"]) == ("play", {"state": "playing", "title": "Morning light"})


def test_opening_and_dismissing(api: Api, device: TerminalDevice) -> None:
    older, newer = (api.push("kiosk-1", notification={"title": title}) for title in ("Older", "Newer"))
    device.wait_text("Newer")
    device.press("d")
    wait_for(lambda: api.delivery(newer)["state"] == "dismissed", what="the newer one to be dismissed")
    device.press("o")
    wait_for(lambda: api.delivery(older)["state"] == "opened", what="the older one to be opened")


def test_a_command_is_carried_out_without_a_key(api: Api, device: TerminalDevice) -> None:
    push_id = api.push("kiosk-1", kind="command", data={"command": "next"})
    wait_for(lambda: api.delivery(push_id)["state"] == "acted", what="its result")
    assert api.delivery(push_id)["result"] == {"state": "paused", "title": "Window seat"}
    device.wait_text("command next: paused, Window seat")


def test_quitting_leaves_the_terminal_as_it_was(device: TerminalDevice) -> None:
    assert termios.tcgetattr(device.terminal) != device.before, "keys are read one by one"
    device.press("q")
    assert device.process.wait(15) == 0
    assert termios.tcgetattr(device.terminal) == device.before


def test_a_person_mutes_changes_their_mind_and_reads_what_they_missed(
    api: Api, device: TerminalDevice, tmp_path: Path
) -> None:
    api.push("kiosk-1", notification={"title": "Cheap bread"}, channel="offers")
    device.wait_text("m mute offers")
    device.press("m")
    device.wait_text("offers: muted")
    wait_for(lambda: api.device("kiosk-1")["channels"] == {"offers": False}, what="the channel to be muted")
    assert api.accept("kiosk-1", notification={"title": "Cheap milk"}, channel="offers")["suppressed"] == 1
    device.press("c")
    wait_for(lambda: api.device("kiosk-1")["consent"] == "granted", what="consent")
    device.press("c")
    wait_for(lambda: api.device("kiosk-1")["consent"] == "denied", what="its withdrawal")
    device.press("q")
    device.process.wait(15)
    missed = api.push("kiosk-1", kind="in_app", notification={"title": "Gone"}, ttl=1)
    api.wait_counts(missed, expired=1)
    back = TerminalDevice(tmp_path)
    back.wait_text("missed while away: 1 expired")
    back.close()


def test_a_push_that_asks_is_answered_by_a_key(api: Api, device: TerminalDevice) -> None:
    question = {"title": "May we send you offers?", "actions": "consent"}
    push_id = api.push("kiosk-1", kind="in_app", notification=question, data={"text_version": "v2"})
    device.wait_text("[1] Allow")
    device.press("1")
    wait_for(lambda: api.device("kiosk-1")["consent"] == "granted", what="the answer")
    wait_for(lambda: api.delivery(push_id)["state"] == "acted", what="the receipt")
    records = api.call("GET", "/v1/devices/kiosk-1/consent", 200)["items"]
    assert {record["text_version"] for record in records} == {"v2"}


def test_a_call_is_answered_by_the_terminal(api: Api, device: TerminalDevice) -> None:
    answer = api.call("POST", "/v1/devices/kiosk-1/call", 200, json={"command": "play"})
    assert answer["result"] == {"state": "playing", "title": "Morning light"}
