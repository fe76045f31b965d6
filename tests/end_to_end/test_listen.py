"""`fleetpush listen` on a terminal: keys pressed by a person, and what comes back to the sender."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartServer
from tests.end_to_end.harness import Api, clean_environment, wait_for


class TerminalDevice:
    """The program on a terminal of its own, 100 columns wide."""

    def __init__(self, folder: Path) -> None:
        self.terminal, programs = pty.openpty()
        termios.tcsetwinsize(programs, (40, 100))
        self.before = termios.tcgetattr(self.terminal)
        env = clean_environment(HOME=str(folder), XDG_DATA_HOME=str(folder / "share"), TERM="xterm")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "listen", "kiosk-1"],
            stdin=programs,
            stdout=programs,
            stderr=programs,
            env=env,
            cwd=folder,
        )
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
        self.process.kill()
        self.process.wait()
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
