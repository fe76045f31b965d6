"""`examples/cluster`: what is shipped for several machines does what its README says.

PostgreSQL with two standbys, the balancer in front, and a server over them, all of this machine (`tests/cluster.py`).
The primary dies under load, a standby takes its place, and the server is back by itself: nothing is lost, and what the
ledger says is what the devices know (`fleet_under_kills`, which shares no code with the server).
"""

from __future__ import annotations

import random
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
import yaml

from tests.benchmarks.tools import free_port
from tests.certificates import Authority
from tests.cluster import ADDRESS_PARAMETERS, EXAMPLE, HOST, Balancer, DatabaseCluster, NodeAddress
from tests.deploy.patroni import PatroniCluster, PatroniMachine
from tests.end_to_end.fleet_under_kills import FleetUnderKills
from tests.end_to_end.harness import DATABASE, ROOT, Device, Server, StartFailed, wait_for
from tests.end_to_end.wire_device import WireDevice
from tests.third_party import require
from tests.wire import RawClient, connect

EXIT_UNCONFIRMED = 74
PATRONI_TTL_SECONDS = 20
"""`ttl` of the example."""
BACK_SECONDS = 10.0
"""From the death of the primary to the first push that is accepted again, of which a start of the server is a part."""


@pytest.fixture(scope="module")
def database() -> Iterator[DatabaseCluster]:
    with DatabaseCluster() as database:
        yield database


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.in_folder(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def node(database: DatabaseCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    behind = f"mqtt://{HOST}:{free_port()}?proxy=v2"
    options = ("--listen", behind, "--trusted-proxies", HOST)
    folder = tmp_path_factory.mktemp("node")
    with Server(folder / "data", *options, env={DATABASE: database.url()}) as server:
        yield server


@pytest.fixture(scope="module")
def balancer(node: Server, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    folder = tmp_path_factory.mktemp("balancer")
    pair = authority.issue("push", "localhost", HOST)
    both = folder / "push.pem"
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    with Balancer(folder, [NodeAddress(node.listening[0], f"{HOST}:{node.http_port}")], both) as balancer:
        yield balancer


def client(balancer: Balancer, authority: Authority, port: str, source: str = "") -> RawClient:
    context = ssl.create_default_context(cafile=authority.certificate)
    return RawClient(balancer.ports[port], HOST, lambda raw: context.wrap_socket(raw, server_hostname=HOST), source)


def test_devices_and_senders_reach_a_node_with_their_own_address(
    node: Server, balancer: Balancer, authority: Authority
) -> None:
    device = node.api.enrol("entrance")
    with client(balancer, authority, "mqtt", "127.0.0.7") as ours:
        ours.enter(connect(device.client_id, username=device.client_id, password=device.token))
        address = wait_for(lambda: node.api.device(device.id)["address"], what="an address")
        assert address == f"127.0.0.7:{ours.local_port}"
    with client(balancer, authority, "http", "127.0.0.7") as ours:
        request = b"GET /v1/pushes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key_wrong\r\n"
        ours.send(request, b"X-Forwarded-For: 192.0.2.1\r\n\r\n")
        assert ours.receive(12) == b"HTTP/1.1 401"
    node.wait_log(r" 127\.0\.0\.7: this key is wrong")


@pytest.mark.parametrize(
    "path", ["/nodes/nudge", "/nodes", "/%6eodes/yield", "//nodes/sent", "/./nodes/x", "/NODES/x", "/nodes?x=1"]
)
def test_what_nodes_tell_each_other_does_not_pass_the_balancer(
    node: Server, balancer: Balancer, authority: Authority, path: str
) -> None:
    with client(balancer, authority, "http") as ours:
        ours.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        assert ours.receive(12) == b"HTTP/1.1 403", (
            "the balancer's own answer: a node would ask for a key, or know none"
        )


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_primary_dies_under_load(node: Server, database: DatabaseCluster, tmp_path: Path, full: int) -> None:
    """Once, 20 times with --full. Nothing lost, nothing twice; each time the server accepts again within 10 s."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    behind = NodeAddress(node.listening[0], f"{HOST}:{node.http_port}")
    with Balancer(tmp_path, [behind]) as balancer, ExitStack() as devices:

        def through_balancer(_: Server, enrolled: Device, **options: Any) -> WireDevice:
            topic = enrolled.topics["push"]
            device = WireDevice(balancer.ports["mqtt"], enrolled.client_id, enrolled.token, topic=topic, **options)
            devices.callback(device.drop)
            return device

        fleet = FleetUnderKills(node, through_balancer, dice)
        fleet.start()
        for _ in range(1 if full == 1 else 20):
            time.sleep(dice.uniform(0.5, 1.5))  # the moment is the experiment
            died_at = time.monotonic()
            dead = database.primary
            fleet.crash_below(database.fail_over, EXIT_UNCONFIRMED)
            wait_for(node.api.is_ready, what="the server to accept again")
            back_s = time.monotonic() - died_at
            print(f"{dead.name} died; back after {back_s:.1f} s on {database.primary.name}")
            assert back_s < BACK_SECONDS
            database.rejoin(dead)
            database.wait_synchronous()
        fleet.finish()
        fleet.judge()


@pytest.mark.full_only
@pytest.mark.timeout(240)
def test_patroni_replaces_a_primary(tmp_path: Path) -> None:
    """As the example configures it: for a PostgreSQL that crashes there is another one, or the same, within seconds;
    one whose machine has gone is replaced when its key in etcd has run out. Every push that was accepted is there."""
    with PatroniCluster() as database, Server(tmp_path / "data", env={DATABASE: database.url()}) as node:
        device = node.api.enrol("kiosk-1")
        accepted = [node.api.push(device.id)]
        for kill, seconds in (
            (PatroniMachine.kill_postgresql, BACK_SECONDS),
            (PatroniMachine.kill, PATRONI_TTL_SECONDS + 2 * BACK_SECONDS),
        ):
            dead, died_at = database.primary, time.monotonic()
            kill(dead)
            accepted.append(push_until_accepted(node, device, accepted, died_at + seconds))
            print(f"{dead.name} died; the next push after {time.monotonic() - died_at:.1f} s")
            assert kill is PatroniMachine.kill_postgresql or database.primary is not dead, "a crash alone may be mended"
            assert node.api.mailbox(device.id) == accepted
            database.wait_synchronous()


def push_until_accepted(node: Server, device: Device, accepted: list[str], deadline: float) -> str:
    """A sender that sends again, under the same key, and the unit that starts the server again."""
    while True:
        assert time.monotonic() < deadline, "nothing is accepted"
        if not node.running:
            assert node.wait() == EXIT_UNCONFIRMED, node.output
            with suppress(StartFailed):
                node.start()
            continue
        try:
            return str(node.api.accept(device.id, key=f"push-{len(accepted)}")["push_id"])
        except (AssertionError, httpx2.HTTPError):
            time.sleep(0.2)  # 503, or the connection has ended


def test_systemd_understands_the_drop_ins(tmp_path: Path) -> None:
    unit = (ROOT / "gateway" / "deploy" / "fleetpush.service").read_text()
    (tmp_path / "fleetpush.service").write_text(unit.replace("/opt/fleetpush/bin/fleetpush", sys.executable))
    (tmp_path / "patroni.service").write_text(f"[Service]\nExecStart={sys.executable}\n")
    for name in ("fleetpush.service", "patroni.service"):
        drop_in = tmp_path / f"{name}.d" / "cluster.conf"
        drop_in.parent.mkdir()
        drop_in.write_text((EXAMPLE / f"{name}.conf").read_text())
        command = [require("systemd-analyze"), "--no-pager", "verify", "--man=no", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_settings_of_the_example_are_those_that_were_tried() -> None:
    """And each machine of the database is in the address."""
    settings = tomllib.loads((EXAMPLE / "fleetpush.toml").read_text())
    address = urlsplit(settings["database"])
    assert parse_qsl(address.query) == parse_qsl(ADDRESS_PARAMETERS)
    patroni = yaml.safe_load((EXAMPLE / "patroni.yml").read_text())
    hosts = [place.partition(":")[0] for place in patroni["etcd3"]["hosts"].split(",")]
    assert address.netloc.rpartition("@")[2].split(",") == hosts
    dcs = patroni["bootstrap"]["dcs"]
    assert dcs["synchronous_mode"] is dcs["synchronous_mode_strict"] is True
    readme = (EXAMPLE / "README.md").read_text()
    assert f"within {BACK_SECONDS:.0f} s" in readme
    assert all(f"`{path.name}`" in readme for path in EXAMPLE.iterdir() if path.name != "README.md")
    assert dcs["ttl"] == PATRONI_TTL_SECONDS
    assert dcs["loop_wait"] + 2 * dcs["retry_timeout"] <= dcs["ttl"]
