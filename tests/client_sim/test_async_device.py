"""The reference device in an asyncio program, against the fake server and, where bytes matter, the scripted broker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_sim.async_device import AsyncDevice
from client_sim.backoff import Backoff
from client_sim.push import Push
from client_sim.testing import FakeServer

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 10.0
AT_ONCE = Backoff(base=0.001, cap=0.01)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server
        assert server.complaints == []


def device_of(server: FakeServer, on_push: Any = None, **options: Any) -> AsyncDevice:
    return AsyncDevice("d1", "token", port=server.port, on_push=on_push, backoff=AT_ONCE, **options)


async def wait(server: FakeServer, push_id: str, state: str) -> dict[str, Any]:
    return await asyncio.to_thread(server.wait, push_id, state)


async def test_handlers_run_in_the_loop_and_are_waited_for(server: FakeServer) -> None:
    loop = asyncio.get_running_loop()
    may_finish = asyncio.Event()
    begun: asyncio.Queue[str] = asyncio.Queue()

    async def slow(push: Push) -> None:
        assert asyncio.get_running_loop() is loop
        await begun.put(push.push_id)
        await may_finish.wait()

    async with device_of(server, slow) as device:
        await device.wait_connected(TIMEOUT)
        assert device.connected
        first, second = server.push("d1"), server.push("d1")
        assert await asyncio.wait_for(begun.get(), TIMEOUT) == first
        assert server.delivery(first)["state"] == "sent", "acknowledged when its handler has returned"
        assert begun.empty(), "one at a time"
        may_finish.set()
        await wait(server, second, "delivered")


async def test_handlers_of_both_sorts(server: FakeServer) -> None:
    device = device_of(server)

    @device.command("add")
    async def add(push: Push) -> int:
        return int(push.data["a"]) + 1

    @device.command("fail")
    async def fail(push: Push) -> None:
        raise OSError("no sound card")

    @device.command("plain")
    def plain(push: Push) -> str:
        return "plain"

    async with device:
        results = []
        for name in ("add", "fail", "plain", "sing"):
            push_id = server.push("d1", kind="command", data={"command": name, "a": 1})
            results.append((await wait(server, push_id, "acted"))["result"])
    assert results == [2, {"error": "OSError: no sound card"}, "plain", {"error": "unknown command 'sing'"}]


async def test_what_was_typed_and_what_the_push_names_as_its_command(server: FakeServer) -> None:
    arrived: asyncio.Queue[Push] = asyncio.Queue()
    device = device_of(server, arrived.put)

    @device.action("order")
    async def order(push: Push) -> str:
        return f"{push.input} ordered"

    @device.command("reboot")
    async def reboot(push: Push) -> str:
        return "rebooted"

    actions = [
        {"id": "order", "title": "Order", "input": "How many?"},
        {"id": "say", "title": "Say", "input": "What?"},
        {"id": "now", "title": "Now", "command": "reboot"},
        {"id": "later", "title": "Later", "command": "wait"},
    ]
    async with device:
        server.push("d1", notification={"title": "Hi", "actions": actions})
        push = await asyncio.wait_for(arrived.get(), TIMEOUT)
        assert await device.act(push, "order", "three") == "three ordered"
        assert await device.act(push, "say", "yes") == "yes"
        assert await device.act(push, "now") == "rebooted"
        assert await device.act(push, "later") == {"error": "unknown command 'wait'"}


async def test_everything_a_device_says(server: FakeServer) -> None:
    arrived: asyncio.Queue[Push] = asyncio.Queue()
    async with device_of(server, arrived.put) as device:
        push_id = server.push("d1", notification={"title": "Hi"})
        push = await asyncio.wait_for(arrived.get(), TIMEOUT)

        @device.action("play")
        async def play(push: Push) -> dict[str, str]:
            return {"state": "playing"}

        @device.action("sing")
        async def sing(push: Push) -> None:
            raise ValueError("no voice")

        await device.displayed(push)
        await device.opened(push)
        await device.dismissed(push)
        assert await device.act(push, "play") == {"state": "playing"}
        assert await device.act(push, "sing") == {"error": "ValueError: no voice"}
        assert await device.act(push, "unknown") is None
        await device.set_consent("granted", "v1")
        await device.set_channels({"offers": False})
        assert (device.consent, device.channels) == ("granted", {"offers": False})
        with pytest.raises(ValueError):
            await device.set_consent("yes")
        await device.report({"battery": 81})
        await device.uplink("door", b"open")
        assert await device.flush(TIMEOUT)
        receipts = server.delivery(push_id)["receipts"]
        assert [receipt["event"] for receipt in receipts] == ["displayed", "opened", "dismissed", *["acted"] * 3]
        assert [receipt.get("action") for receipt in receipts[3:]] == ["play", "sing", "unknown"]
        assert server.settings["d1"]["consent"] == "granted"
        assert server.attributes["d1"] == {"battery": 81}
        assert server.uplink["d1"] == [("door", b"open")]


async def test_notices_and_consent(server: FakeServer) -> None:
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    arrived: asyncio.Queue[Push] = asyncio.Queue()
    async with device_of(server, arrived.put, on_notice=told.put) as device:
        await device.wait_connected(TIMEOUT)
        server.notice("d1", {"v": 1, "type": "gap", "count": 2})
        assert (await asyncio.wait_for(told.get(), TIMEOUT))["count"] == 2
        server.push("d1", kind="in_app", notification={"title": "May we?"})
        push = await asyncio.wait_for(arrived.get(), TIMEOUT)
        assert await device.act(push, "consent.granted") == {"consent": "granted"}
        await device.set_quiet_hours("22:00", "07:00")
        assert device.quiet_hours == ("22:00", "07:00")
        assert await device.flush(TIMEOUT)
        settings = server.settings["d1"]
        assert (settings["consent"], settings["quiet_hours"]["start"]) == ("granted", "22:00")
        await device.set_quiet_hours(None)
        assert await device.flush(TIMEOUT)
        assert "quiet_hours" not in server.settings["d1"]


async def test_many_handlers_speak_at_once(server: FakeServer) -> None:
    """More than the loop's default executor has threads: none waits for another."""
    arrived: asyncio.Queue[Push] = asyncio.Queue()

    async def play(push: Push) -> str:
        await device.displayed(push)
        return "played"

    async with device_of(server, arrived.put) as device:
        device.actions["play"] = play
        server.push("d1")
        push = await asyncio.wait_for(arrived.get(), TIMEOUT)
        results = await asyncio.wait_for(asyncio.gather(*(device.act(push, "play") for _ in range(100))), TIMEOUT)
        assert results == ["played"] * 100


async def test_the_state_is_told_in_the_loop(server: FakeServer) -> None:
    states: asyncio.Queue[str] = asyncio.Queue()
    async with device_of(server, on_state=lambda state, _: states.put_nowait(state)) as device:
        assert [await asyncio.wait_for(states.get(), TIMEOUT) for _ in range(2)] == ["connecting", "connected"]
        await asyncio.to_thread(server.go_offline)
        assert await asyncio.wait_for(states.get(), TIMEOUT) == "disconnected"
        with pytest.raises(TimeoutError):
            await device.wait_connected(0)
        server.go_online()
        await device.wait_connected(TIMEOUT)


async def test_close_from_a_handler(server: FakeServer) -> None:
    closed = asyncio.Event()

    async def last(push: Push) -> None:
        await device.close()
        closed.set()

    device = device_of(server, last).start()
    push_id = server.push("d1")
    await asyncio.wait_for(closed.wait(), 1.0)
    await asyncio.wait_for(device.close(), TIMEOUT)
    assert (await wait(server, push_id, "delivered"))["state"] == "delivered", "its handler came to its end"
    assert not device.connected


async def test_close_without_start_and_twice(server: FakeServer) -> None:
    device = device_of(server)
    await device.close()
    await device.close()


def test_a_program_that_ends_in_a_handler_leaves_it_interrupted(server: FakeServer, tmp_path: Path) -> None:
    """asyncio.run cancels what is left: neither acknowledged nor begun again."""
    program = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from client_sim.async_device import AsyncDevice

        async def main():
            begun = asyncio.Event()

            async def never(push):
                begun.set()
                await asyncio.Event().wait()

            AsyncDevice("d1", "t", port={server.port}, on_push=never, journal=Path({str(tmp_path / "j.db")!r})).start()
            await begun.wait()

        asyncio.run(main())
    """)
    push_id = server.push("d1")
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=TIMEOUT).returncode == 0
    assert server.delivery(push_id)["state"] == "sent"

    async def main() -> None:
        interrupted: asyncio.Queue[Push] = asyncio.Queue()
        options = {"journal": tmp_path / "j.db", "on_interrupted": interrupted.put}
        async with device_of(server, lambda push: pytest.fail("begun again"), **options):
            assert (await asyncio.wait_for(interrupted.get(), TIMEOUT)).push_id == push_id
            await wait(server, push_id, "delivered")

    asyncio.run(main())
