"""Nodes behind the balancer of `examples/cluster`, over a PostgreSQL that outlives its primary, and what befalls them.

The tests are the service manager: a node that ends is started again. `CuttableNetwork` gives each node a network
namespace, whose cable can be cut; that takes root.
"""

from __future__ import annotations

import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx2
import pytest

from tests.benchmarks.tools import free_port
from tests.cluster import HOST, Balancer, DatabaseCluster, NodeAddress
from tests.end_to_end.harness import ROOT, THIS_TREE, Api, StartFailed, wait_for
from tests.nodes import NODE_URL, NodeProcess
from tests.third_party import require

RESTART_SECONDS = 0.25
"""`RestartSec` of examples/cluster/fleetpush.service.conf."""
ENDING_SECONDS = 4.0
"""A node that has lost its lease, which nobody has seen yet, has had no devices for as long at most when it exits."""
NUDGE_RELAY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen peers
    bind {host}:{port}
    http-request deny deny_status 503 if {{ path /nodes/nudge }}
    server node {host}:{http_port}
"""
"""In front of a node's HTTP port, for its peers: everything but nudges."""


class CuttableNetwork:
    """Network namespaces of nodes, at a bridge of this machine, on which everything else is.

    A namespace that is cut off sees no packet and sends none: nothing is refused, and no connection ends.
    """

    def __init__(self, nodes: int) -> None:
        if os.geteuid() != 0:
            pytest.skip("network namespaces take root")
        self._tag = f"fp{os.getpid() % 100_000}"
        self._net = f"10.213.{os.getpid() % 256}"
        """Of this process: two bridges with one network would take each other's packets."""
        self.host = f"{self._net}.254"
        """This machine's address for nodes."""
        self._nodes = nodes
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as ending:
            self._ip("link", "add", self._tag, "type", "bridge")
            ending.callback(self._ip, "link", "delete", self._tag)
            self._ip("address", "add", f"{self.host}/24", "dev", self._tag)
            self._ip("link", "set", self._tag, "up")
            for node in range(self._nodes):
                space, ours = self.namespace(node), self._cable(node)
                self._ip("netns", "add", space)
                ending.callback(self._ip, "netns", "delete", space)
                self._ip("link", "add", ours, "type", "veth", "peer", "name", "eth0", "netns", space)
                self._ip("link", "set", ours, "master", self._tag, "up")
                self._ip("-n", space, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
                for link in ("lo", "eth0"):
                    self._ip("-n", space, "link", "set", link, "up")
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def namespace(self, node: int) -> str:
        return f"{self._tag}n{node}"

    def address(self, node: int) -> str:
        return f"{self._net}.{node + 1}"

    def cut(self, node: int) -> None:
        self._ip("link", "set", self._cable(node), "nomaster")

    def mend(self, node: int) -> None:
        self._ip("link", "set", self._cable(node), "master", self._tag)

    def _cable(self, node: int) -> str:
        return f"{self._tag}c{node}"

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run([require("ip"), *arguments], check=True, timeout=20)


@dataclass(slots=True)
class Outage:
    """A node had ended, or was cut off, by the monotonic clock."""

    node: int
    since: float
    until: float = math.inf


class SupervisedNode:
    """A node and its service manager: it is started again whenever it has ended."""

    def __init__(self, place: int, process: NodeProcess, host: str) -> None:
        self.place = place
        self.process = process
        self.outages: list[Outage] = []
        self.url = f"http://{host}:{process.http_port}"
        self.ends: list[int] = []
        """Exit codes, -9 for a kill."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def start(self) -> None:
        self.process.start()
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(40)
        self.process.__exit__()

    def kill(self) -> None:
        """SIGKILL; it is back after RESTART_SECONDS and its start."""
        if self.process.running:
            self.outages.append(Outage(self.place, time.monotonic()))
        with suppress(ProcessLookupError):
            self.process.kill()

    def _supervise(self) -> None:
        while not self._closing.is_set():
            if self.process.running:
                self._closing.wait(0.02)
                continue
            self.ends.append(self.process.wait())
            if not self.outages or self.outages[-1].until < math.inf:
                self.outages.append(Outage(self.place, time.monotonic() - ENDING_SECONDS))
            self._closing.wait(RESTART_SECONDS)
            with suppress(StartFailed):
                self.process.start()
                self.outages[-1].until = time.monotonic()


class NodesBehindBalancer:
    """`nodes` of them, three at most; `api` asks one of them through the balancer."""

    def __init__(
        self,
        folder: Path,
        nodes: int,
        *options: str,
        environments: Mapping[int, Mapping[str, str]] | None = None,
        nudges: bool = True,
        network: CuttableNetwork | None = None,
    ) -> None:
        """`environments`: of single nodes, by their place. `nudges`: False drops all of them on their way. `network`:
        where the nodes are, if not on this machine's own."""
        self._folder = folder
        self._count = nodes
        self._options = options
        self._environments = environments or {}
        self._nudges = nudges
        self._network = network
        self._ending = ExitStack()
        self.database = DatabaseCluster(addresses=(HOST,) if network is None else (network.host, HOST))
        self.nodes: list[SupervisedNode] = []
        self._cuts: list[Outage] = []

    def __enter__(self) -> Self:
        with ExitStack() as ending:
            ending.enter_context(self.database)
            addresses = []
            for number in range(self._count):
                node, address = self._node(ending, number)
                node.start()
                ending.callback(node.close)
                self.nodes.append(node)
                addresses.append(address)
            self.balancer = ending.enter_context(Balancer(self._folder, addresses))
            self.url = f"http://{HOST}:{self.balancer.ports['http']}"
            self.api = Api(self.url, self.nodes[0].process.admin_key)
            ending.callback(self.api.close)
            self.wait_ready()
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def wait_ready(self) -> None:
        """Until every node takes pushes, and so does the balancer."""

        def all_ready() -> bool:
            urls = [*(node.url for node in self.nodes), self.url]
            with suppress(httpx2.HTTPError):
                return all(httpx2.get(f"{url}/readyz", timeout=5).status_code == 200 for url in urls)
            return False

        wait_for(all_ready, timeout=60, what="all nodes to take pushes")

    @property
    def outages(self) -> list[Outage]:
        """Of all nodes so far."""
        return [*self._cuts, *(outage for node in self.nodes for outage in node.outages)]

    def cut_off(self, node: int, seconds: float) -> None:
        """Let no packet to a node or from it for a while."""
        assert self._network is not None, "nodes in a network of their own"
        outage = Outage(node, time.monotonic())
        self._cuts.append(outage)
        self._network.cut(node)
        time.sleep(seconds)
        self._network.mend(node)
        outage.until = time.monotonic()

    def fail_over(self) -> None:
        """The primary dies; another one takes its place, and the dead one comes back as a standby."""
        dead = self.database.primary
        self.database.fail_over()
        self.database.rejoin(dead)
        self.database.wait_synchronous()

    def _node(self, ending: ExitStack, number: int) -> tuple[SupervisedNode, NodeAddress]:
        network = self._network
        host, proxy = (HOST, HOST) if network is None else (network.address(number), network.host)
        behind = f"{host}:{free_port()}"
        options = ["--listen", f"mqtt://{behind}?proxy=v2", "--trusted-proxies", proxy, *self._options]
        if network is not None:
            options += ["--bind", host, "--insecure"]
        process = NodeProcess(self._folder / f"node-{number}", self.database.url(), *options)
        node = SupervisedNode(number, process, host)
        process.env |= {NODE_URL: node.url, **self._environments.get(number, {})}
        if network is not None:
            process.program = ("ip", "netns", "exec", network.namespace(number), *THIS_TREE)
            process.env["PYTHONPATH"] = str(ROOT)
        if not self._nudges:
            process.env[NODE_URL] = ending.enter_context(relay_without_nudges(self._folder, process.http_port))
        return node, NodeAddress(behind, node.url.removeprefix("http://"))


@contextmanager
def relay_without_nudges(folder: Path, http_port: int) -> Iterator[str]:
    """The address of a relay to a node's HTTP port that drops nudges, and nothing else."""
    port = free_port()
    configuration = folder / f"relay-{port}.cfg"
    configuration.write_text(NUDGE_RELAY.format(host=HOST, port=port, http_port=http_port))
    process = subprocess.Popen([require("haproxy"), "-db", "-f", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        yield f"http://{HOST}:{port}"
    finally:
        process.kill()
        process.wait()


def befall(seconds: float, pause_s: float, faults: Sequence[Callable[[], None]], between: Callable[[], None]) -> int:
    """Have faults happen in turns, one each `pause_s`; how many."""
    until, happened = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        next_at = time.monotonic() + pause_s
        while time.monotonic() < next_at:
            between()
            time.sleep(0.1)
        faults[happened % len(faults)]()
        happened += 1
    return happened


def ends_of(nodes: Iterable[SupervisedNode]) -> list[int]:
    """How the nodes' processes have ended so far."""
    return [code for node in nodes for code in node.ends]
