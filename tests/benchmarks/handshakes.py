"""The storm of `connects` over TLS: how many devices per second come through a handshake, and what it costs the server.

Each handshake is a whole one (TLS 1.3, X25519, an ECDSA certificate on P-256, the same for both servers; no device
resumes a session), and each device is authenticated by its password after it. Beside Mosquitto, and beside the same
storm without TLS. The fleet is one thread, which has to do its half of every handshake: where the rates are close to
each other it may be the fleet's, and the servers' processor time is what to compare.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.benchmarks.connects import mosquitto_storm
from tests.benchmarks.figures import Figure
from tests.benchmarks.tools import Storm, enrolled, storm, without_the_impossible
from tests.benchmarks.transports import Endpoint, Transport

SUMMARY = "how many authenticated devices per second can connect over TLS"
WHAT = "TLS handshakes and connects"
MOSQUITTO, PLAIN = "Mosquitto, password file", "the same without TLS"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=5_000, help="default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    if not without_the_impossible(["tls"]):
        return []
    ours, theirs = both("tls", options.devices, directory)
    our_plain, their_plain = both("tcp", options.devices, directory)
    return [
        Figure(WHAT, "connects/s", ours.rate, MOSQUITTO, theirs.rate),
        Figure(WHAT, "connects/s", ours.rate, PLAIN, our_plain.rate),
        Figure(f"{WHAT}, Mosquitto's", "connects/s", theirs.rate, PLAIN, their_plain.rate),
        Figure(f"{WHAT}, the server's CPU", "µs", ours.cost, MOSQUITTO, theirs.cost),
        Figure(f"{WHAT}, the server's CPU", "µs", ours.cost, PLAIN, our_plain.cost),
        Figure(f"{WHAT}, Mosquitto's CPU", "µs", theirs.cost, PLAIN, their_plain.cost),
    ]


def both(transport: Transport, devices: int, directory: Path) -> tuple[Storm, Storm]:
    """Ours and Mosquitto's."""
    place = directory / transport
    place.mkdir()
    endpoint = Endpoint.of(transport, place)
    with endpoint.server(place / "data") as server:
        listed = enrolled(server, devices, place)
        server.restart()
        ours = storm(endpoint.port(server), server.pid, listed, devices, transport)
    return ours, mosquitto_storm(endpoint, listed, devices, place)
