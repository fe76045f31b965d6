"""Names whose name server is dead hold up nobody else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from gateway.events import dns
from gateway.events.dns import MAX_LOOKUPS, MAX_LOOKUPS_PER_SHARE, DnsResolver, RequestFailed

ROOT = Path(__file__).resolve().parents[3]


class NameServers:
    """Names of `.dead` get no answer until `revive` is set."""

    def __init__(self) -> None:
        self.revive = threading.Event()
        self.asked: list[str] = []

    def addresses(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host.endswith(".dead"):
            assert self.revive.wait(30)
            raise RequestFailed(f"{host} cannot be resolved: Temporary failure in name resolution")
        return ["192.0.2.1"]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    servers = NameServers()
    monkeypatch.setattr(dns, "addresses", servers.addresses)
    yield servers
    servers.revive.set()


@pytest.fixture
async def names() -> AsyncIterator[DnsResolver]:
    names = DnsResolver()
    yield names
    await names.close()


async def test_one_apps_dead_names_leave_room_for_other_apps(servers: NameServers, names: DnsResolver) -> None:
    resolve = names.of_share(1)
    waiting = [asyncio.ensure_future(resolve(f"hook{number}.dead", 443)) for number in range(2 * MAX_LOOKUPS)]
    for _ in range(100):
        async with asyncio.timeout(15):
            assert await names.of_share(2)("shop.example", 443) == ["192.0.2.1"]
    dead = [host for host in servers.asked if host.endswith(".dead")]
    assert len(dead) == MAX_LOOKUPS_PER_SHARE < MAX_LOOKUPS
    servers.revive.set()
    for task in waiting:
        with pytest.raises(RequestFailed, match="Temporary failure"):
            await task


async def test_a_dead_name_takes_one_thread_however_often_it_is_asked_for(
    servers: NameServers, names: DnsResolver
) -> None:
    resolve = names.of_share(1)
    for _ in range(2 * MAX_LOOKUPS_PER_SHARE):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await resolve("hook.dead", 443)
    async with asyncio.timeout(15):
        assert await resolve("shop.example", 443) == ["192.0.2.1"]
        assert await resolve("shop.example", 443) == ["192.0.2.1"]
    assert servers.asked == ["hook.dead", "shop.example", "shop.example"]


async def test_an_address_is_not_looked_up(servers: NameServers, names: DnsResolver) -> None:
    assert await names.of_share(1)("2001:DB8::1", 443) == ["2001:db8::1"]
    assert servers.asked == []


def test_the_server_does_not_wait_for_dead_names_at_its_end() -> None:
    program = """
import asyncio, threading
from gateway.events import dns

async def main():
    begun = threading.Event()

    def dead(host, port):
        begun.set()
        threading.Event().wait(600)

    dns.addresses = dead
    names = dns.DnsResolver()
    asking = asyncio.create_task(names.of_share(1)("hook.dead", 443))
    assert await asyncio.to_thread(begun.wait, 20)
    await names.close()

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30, cwd=ROOT)
