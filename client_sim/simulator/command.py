"""`fleetpush simulate` (also `python -m client_sim`): the acceptance test of a push installation.

Exit codes: 0 passed; 99 failed, that is a threshold, or a truth that must be; 2 wrong use; 1 it could not be carried
out. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from client_sim.program import PROGRAM, installed_version
from client_sim.simulator import html_report, junit_report
from client_sim.simulator.file_limit import TooFewFiles
from client_sim.simulator.gateway_client import GatewayError
from client_sim.simulator.quantities import seconds
from client_sim.simulator.scenario import BadScenario, Scenario, builtin_scenarios
from client_sim.simulator.server_process import ServerDidNotStart, ServerProcess
from client_sim.simulator.simulation import Simulation, SimulationFailed, Target
from client_sim.simulator.simulation_progress import Progress
from client_sim.simulator.simulation_report import SimulationReport
from client_sim.simulator.text_report import print_report
from client_sim.simulator.thresholds import METRICS, BadThreshold, Rule, parse

PASSED, COULD_NOT, WRONG_USE, FAILED = 0, 1, 2, 99
MAX_PROCESSES = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `fleetpush simulate`; the exit code."""
    options = _parser().parse_args(arguments)
    if options.list:
        for name, title in builtin_scenarios().items():
            Console().print(f"{name:16} {title}", markup=False, highlight=False)
        return PASSED
    try:
        scenario = Scenario.load(options.scenario or "steady").with_(
            devices=options.devices, lasts=options.duration, seed=options.seed
        )
        rules = [parse(text) for text in options.threshold]
        target = _target(options)
        if target is not None and scenario.needs_own_server:
            raise BadScenario(
                f"`{scenario.name}` kills the server or changes its clock, and does so only to one that it has started "
                "itself: leave --server out"
            )
        if options.compare is not None and options.report is None:
            raise BadUse("--compare draws an earlier run beside this one in the report: give --report FILE, too")
        earlier = _earlier(options.compare)
        files = {path: kind for kind in ("report", "json", "junit") if (path := getattr(options, kind)) is not None}
        for path in files:
            _check_writable(path)
    except (BadScenario, BadThreshold, BadUse) as error:
        _complain(str(error))
        return WRONG_USE
    try:
        report = _simulate(scenario, target, rules, options.processes)
    except (SimulationFailed, GatewayError, ServerDidNotStart, TooFewFiles) as error:
        _complain(str(error))
        return COULD_NOT
    except KeyboardInterrupt:
        _complain("interrupted; nothing was judged")
        return COULD_NOT
    for path, kind in files.items():
        path.write_text(_rendered(kind, report, earlier), encoding="utf-8")
    print_report(report, Console(), list(files))
    return PASSED if report.passed else FAILED


class BadUse(ValueError):
    """The message says what to do instead."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} simulate",
        description="Simulate a fleet, and judge whether every push was delivered as promised.",
        epilog="Metrics for --threshold: " + ", ".join(METRICS),
    )
    parser.add_argument(
        "scenario", nargs="?", help="a built-in name (--list) or a file ending in .toml; default: steady"
    )
    parser.add_argument("--version", action="version", version=f"fleetpush {installed_version()}")
    parser.add_argument("--list", action="store_true", help="the built-in scenarios")
    parser.add_argument("--devices", type=_count, metavar="N", help="instead of the scenario's")
    parser.add_argument("--duration", type=_duration, metavar="TIME", help="of all phases together, as 20s, 5m, 8h")
    parser.add_argument("--seed", type=_count, metavar="N", help="the same seed is the same simulation")
    parser.add_argument("--processes", type=_count, default=1, metavar="N", help="that share the devices (%(default)s)")
    parser.add_argument(
        "--server", metavar="URL", help="one that runs, with the key in FLEETPUSH_KEY; default: one is started"
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="PEM file of who vouches for --server; default: FLEETPUSH_CA"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report as one HTML file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it as JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write it as JUnit XML")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="the --json of an earlier run, for the report")
    parser.add_argument(
        "--threshold", action="append", default=[], metavar="TEXT", help="as 'delivery_p99 < 250ms'; repeatable"
    )
    return parser


def _duration(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _target(options: argparse.Namespace) -> Target | None:
    if not 1 <= options.processes <= MAX_PROCESSES:
        raise BadUse(f"--processes {options.processes}: from 1 to {MAX_PROCESSES}, please")
    if options.server is None:
        if options.ca is not None:
            raise BadUse("--ca says whom to trust at --server, and that is missing")
        return None
    if not options.server.startswith(("http://", "https://")):
        raise BadUse(f"--server {options.server}: an address begins with http:// or https://")
    # A file or a shell may leave a line break behind it.
    key = (os.environ.get("FLEETPUSH_KEY") or "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise BadUse("FLEETPUSH_KEY is no key: it has a character that none has")
    if not key:
        raise BadUse(
            f"set FLEETPUSH_KEY to a key with the scopes send, read and devices (`{PROGRAM} keys add` makes one)"
        )
    ca, name = options.ca, "--ca"
    if ca is None and os.environ.get("FLEETPUSH_CA"):
        ca, name = Path(os.environ["FLEETPUSH_CA"]), "FLEETPUSH_CA"
    if ca is not None and not ca.is_file():
        raise BadUse(f"{name} {ca}: there is no such file")
    return Target(options.server.rstrip("/"), key, None if ca is None else str(ca))


def _earlier(path: Path | None) -> SimulationReport | None:
    if path is None:
        return None
    try:
        return SimulationReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadUse(f"--compare {path}: {error.strerror}") from None
    except ValidationError:
        raise BadUse(f"--compare {path}: this is not what --json of this version writes") from None


def _check_writable(path: Path) -> None:
    """Fail before the simulation rather than after it."""
    try:
        path.touch()
    except OSError as error:
        raise BadUse(f"{path}: {error.strerror}") from None


def _complain(words: str) -> None:
    Console(stderr=True).print(f"fleetpush simulate: {words}", markup=False, highlight=False, soft_wrap=True)


def _simulate(scenario: Scenario, target: Target | None, rules: Sequence[Rule], processes: int) -> SimulationReport:
    with ExitStack() as stack:
        server = None
        if target is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleetpush-sim-")))
            speed = [] if scenario.clock_speed == 1 else ["--clock-speed", f"{scenario.clock_speed:g}"]
            server = ServerProcess(folder, *speed)
        watcher = stack.enter_context(Progress(Console(stderr=True), scenario.title, scenario.devices))
        simulation = Simulation(
            scenario, target=target, server=server, processes=processes, rules=rules, watcher=watcher
        )
        return asyncio.run(simulation.run())


def _rendered(kind: str, report: SimulationReport, earlier: SimulationReport | None) -> str:
    if kind == "report":
        return html_report.render(report, earlier)
    if kind == "junit":
        return junit_report.render(report)
    return report.model_dump_json(indent=2) + "\n"
