"""Law 1 of the reference device, by force: it is killed between effect and acknowledgement, and effects = commands."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from pathlib import Path

import pytest

from client_sim.testing import FakeServer
from tests.client_sim.dying_device import Place, live

KILLS = 100
TIMEOUT = 20.0
PLACES: tuple[Place, ...] = ("in the effect", "in the journal", "any time")


@pytest.mark.long
@pytest.mark.timeout(120)
def test_effects_are_commands_however_often_the_device_is_killed(tmp_path: Path, full: int) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.client_sim.dying_device"])
    commands: dict[str, Place] = {}
    with FakeServer() as server:
        for _, place in zip(range(KILLS * full), itertools.cycle(PLACES), strict=False):
            commands[server.push("d1", kind="command", data={"command": "do"})] = place
            process = processes.Process(target=live, args=(place, server.port, str(tmp_path)))
            process.start()
            process.join(TIMEOUT)
            assert process.exitcode == -signal.SIGKILL
        survivor = processes.Process(target=live, args=("never", server.port, str(tmp_path)))
        survivor.start()
        results = {push_id: server.wait(push_id, "acted", TIMEOUT)["result"] for push_id in commands}
        survivor.kill()
        survivor.join()
        assert server.complaints == []
    assert sorted((tmp_path / "effects").read_text().split()) == sorted(commands)
    done, interrupted = {"done": True}, {"error": "interrupted"}
    expected: dict[Place, list[object]] = {
        "in the effect": [interrupted],
        "in the journal": [done],
        "any time": [done, interrupted],
    }
    for push_id, place in commands.items():
        assert results[push_id] in expected[place], (push_id, place)
