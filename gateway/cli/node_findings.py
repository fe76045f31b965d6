"""Findings of `fleetpush doctor` in nodes: leases, addresses, server times, and what a fail-over would lose.

Nothing is said where the database is for one server alone, and has no standby.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from gateway.cli.findings import Finding
from gateway.host_names import is_loopback
from gateway.store.nodes.examination import ExaminedNode, ExaminedNodes

LEASE_MS = 3_000
"""`membership.LEASE_SECONDS`: a node that has not renewed its lease for so long serves nobody."""
APART_MS = 1_000
"""Distance of server times that is a finding. A row may show a time up to half a second newer than its renewal."""
CLOCK_MS = 2_000
"""Distance of this machine's clock from the database's that is a finding."""
CONNECT_SECONDS = 1.0
"""Time for a node's address to take a connection: one that vanished costs the doctor no more."""


def connect_error(url: str) -> str | None:
    """Return why the address of a node takes no connection from this machine, or None if it does."""
    address = urlsplit(url)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def check_nodes(
    found: ExaminedNodes,
    own_url: str | None,
    now_ms: float,
    *,
    names_several: bool,
    connect: Callable[[str], str | None] = connect_error,
) -> Iterator[Finding]:
    """Find what is wrong with the nodes over a database, and say who is there.

    `own_url` is the setting `node_url`; `now_ms`: this machine's clock, in Unix milliseconds, when the nodes were
    looked at; `names_several`: the address of the database has more than one host; `connect`: why an address takes no
    connection.
    """
    yield from check_standbys(found, names_several=names_several)
    if own_url is None and not found.nodes:
        return
    if own_url is not None and own_url not in [node.url for node in found.nodes]:
        yield Finding(
            "warn", "nodes", f"{own_url} is none of those that serve", "start it, or mend the setting `node_url`"
        )
    is_one_machine = all(_is_on_loopback(node.url) for node in found.nodes)
    for node in found.nodes:
        yield check_node(node, is_one_machine=is_one_machine, connect=connect)
    for url, times in Counter(node.url for node in found.nodes).items():
        if times > 1:
            yield Finding(
                "fail", "nodes", f"{times} have the address {url}", "`node_url` is the address of each itself"
            )
    yield Finding("ok", "sessions", f"{found.sessions_away:,} of devices that are away: any node goes on with them")
    yield from check_times(found, now_ms)


def check_node(node: ExaminedNode, *, is_one_machine: bool, connect: Callable[[str], str | None]) -> Finding:
    """Say whether a node has its lease, and whether others can reach it."""
    subject = f"node {node.no}"
    if node.age_ms > LEASE_MS:
        text = f"{node.url} has not renewed its lease for {node.age_ms / 1000:,.0f} s, and serves nobody"
        remedy = "start it again; the others declare it ended by themselves, and let its devices in"
        return Finding("warn", subject, text, remedy)
    if not is_one_machine and _is_on_loopback(node.url):
        text = f"nodes of other machines do not reach {node.url}"
        return Finding("fail", subject, text, "set its `node_url` to its address in their network")
    if (error := connect(node.url)) is not None:
        text = f"it renewed its lease {node.age_ms} ms ago, but {node.url} takes no connection from here: {error}"
        remedy = "set its `node_url` to where its HTTP port is, or mend the network: nodes have to reach each other"
        return Finding("warn", subject, text, remedy)
    return Finding("ok", subject, f"{node.url} renewed its lease {node.age_ms} ms ago; {node.sessions:,} devices")


def check_times(found: ExaminedNodes, now_ms: float) -> Iterator[Finding]:
    """Compare the server times of the nodes, and this machine's clock with the database's, which all of them go by."""
    lines = [node.line_ms for node in found.nodes if node.line_ms is not None and node.age_ms <= LEASE_MS]
    if len(lines) > 1:
        apart = max(lines) - min(lines)
        text = f"{len(lines)} nodes have the same server time within {apart:,} ms"
        remedy = "the ones behind gain a millisecond a second; if it grows, restart the one that is ahead"
        yield Finding("warn" if apart > APART_MS else "ok", "server time", text, remedy)
    away = now_ms - found.database_ms
    if abs(away) > CLOCK_MS:
        text = f"this machine's is {abs(away) / 1000:,.0f} s {'ahead of' if away > 0 else 'behind'} the database's"
        yield Finding("warn", "clocks", f"{text}, which all nodes go by", "set the one that is wrong (timedatectl)")


def check_standbys(found: ExaminedNodes, *, names_several: bool) -> Iterator[Finding]:
    """Say what a standby that takes over would lack. Nothing where there is none."""
    if not found.standbys and not names_several:
        return
    if not found.waits_for_standby:
        text = "no commit waits for a standby: one that takes over may lack pushes that were accepted"
        remedy = "set synchronous_standby_names, and synchronous_commit to on (examples/cluster/patroni.yml)"
        yield Finding("fail", "standbys", text, remedy)
    elif not found.standbys:
        text = "there is none just now, and each commit waits for one"
        yield Finding("warn", "standbys", text, "start one: nothing is accepted until it follows")
    else:
        yield Finding("ok", "standbys", f"{found.standbys}, and a commit is answered when one has it")


def _is_on_loopback(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")
