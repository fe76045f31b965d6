"""What the service manager is told, over a real datagram socket."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from pathlib import Path

import pytest

from gateway import service_manager
from gateway.service_manager import STATUS_CHARACTERS, ServiceManager
from tests.service_manager import NotifySocket


def test_without_one_nothing_is_told_and_nothing_is_done() -> None:
    for address in ("", "vsock:2:1", "relative"):
        manager = ServiceManager.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
        assert manager.watchdog_seconds is None
        manager.ready("serving")
        asyncio.run(manager.extend_start())
        asyncio.run(manager.pulse(lambda: pytest.fail("asked for nobody"), str))


def test_variables_are_read_once_and_are_not_for_others() -> None:
    ours = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    assert ServiceManager.from_environment(ours).watchdog_seconds == 30
    assert ours == {"HOME": "/"}
    for wrong in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}):
        given = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", **wrong}
        assert ServiceManager.from_environment(given).watchdog_seconds is None


def test_a_reload_is_told_when_the_start_is_over(tmp_path: Path) -> None:
    with NotifySocket(tmp_path) as manager_socket:
        manager = ServiceManager(manager_socket.address)
        with manager.reloading():
            assert manager_socket.receive(0) is None, "its end would count as the start's"
        manager.ready("serving\nnobody" + "x" * 1_000)
        ready = manager_socket.receive(0)
        assert ready == {"READY": "1", "STATUS": ("serving nobody" + "x" * 1_000)[:STATUS_CHARACTERS]}
        with manager.reloading():
            began = manager_socket.receive(0)
        assert began is not None
        assert began.pop("MONOTONIC_USEC").isdigit()
        assert began == {"RELOADING": "1"}
        assert manager_socket.receive(0) == {"READY": "1"}


def test_what_could_not_be_told_goes_along_with_the_next(tmp_path: Path) -> None:
    address = str(tmp_path / "later")
    manager = ServiceManager(address)
    manager.ready("serving")
    manager.stopping("ending")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        manager.stopping("gone")
        assert receiver.recv(1_000) == b"READY=1\nSTATUS=gone\nSTOPPING=1"
        # One that does not read stops nobody.
        for _ in range(10_000):
            manager.stopping("gone")


async def test_no_ping_while_something_is_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with NotifySocket(tmp_path) as manager_socket:
        manager = ServiceManager(manager_socket.address, watchdog_seconds=0.03)
        faults = iter([None, "the writer has stalled", "the writer has stalled", None])
        pulse = asyncio.create_task(manager.pulse(lambda: next(faults, None), lambda: "serving"))
        told = [await asyncio.to_thread(manager_socket.receive, 15) for _ in range(4)]
        pulse.cancel()
    assert told == [
        {"WATCHDOG": "1", "STATUS": "serving"},
        {"STATUS": "the writer has stalled"},
        {"STATUS": "the writer has stalled"},
        {"WATCHDOG": "1", "STATUS": "serving"},
    ]
    assert [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"] == [
        "the service manager gets no sign of life: the writer has stalled"
    ]


async def test_a_start_is_put_off_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_manager, "START_CHECK_SECONDS", 0.05)
    working = True

    def migrate() -> None:
        while working:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000)  # in C, without the interpreter's lock

    with NotifySocket(tmp_path) as manager_socket:
        manager = ServiceManager(manager_socket.address)
        thread = asyncio.get_running_loop().run_in_executor(None, migrate)
        starting = asyncio.create_task(manager.extend_start())
        said = await asyncio.to_thread(manager_socket.receive, 15)
        starting.cancel()
        working = False
        await thread
        assert said == {"EXTEND_TIMEOUT_USEC": "60000000", "STATUS": "starting: preparing the data"}
        manager_socket.empty()
        checks = 0

        def no_work_done() -> tuple[float, int]:
            nonlocal checks
            checks += 1
            if checks == 4:
                starting.cancel()
            return 0.0, 0

        monkeypatch.setattr(service_manager, "_work_done", no_work_done)
        starting = asyncio.create_task(manager.extend_start())
        await asyncio.wait([starting])
        assert manager_socket.receive(0) is None, "one that hangs is not put off"
