"""`python -m tests.benchmarks [NAME]`: run one benchmark, or all; print the table and the figures as JSON.

A figure means something only beside another one of the same run on the same machine, so every benchmark measures its
yardsticks itself and reports ratios (README.md says what each benchmark does). `--compare` puts an earlier result
beside the new one, `--against` another revision, measured in turns with this tree.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.benchmarks import (
    api,
    backlog,
    broadcast,
    connects,
    consoles,
    deaf,
    fanout,
    growth,
    handshakes,
    latency,
    memory,
    node_deliveries,
    node_sessions,
    nodes,
    restart,
    segments,
    soak,
    stores,
)
from tests.benchmarks.comparison import Comparison, Result, compared, comparison_table
from tests.benchmarks.figures import Figure, medians, table
from tests.benchmarks.revisions import HERE, Tree, checkout, measure_in_turns
from tests.benchmarks.tools import CannotRun

BENCHMARKS: dict[str, ModuleType] = {
    "fanout": fanout,
    "connects": connects,
    "handshakes": handshakes,
    "backlog": backlog,
    "memory": memory,
    "latency": latency,
    "api": api,
    "growth": growth,
    "restart": restart,
    "broadcast": broadcast,
    "segments": segments,
    "consoles": consoles,
    "deaf": deaf,
    "stores": stores,
    "nodes": nodes,
    "node_deliveries": node_deliveries,
    "node_sessions": node_sessions,
    "soak": soak,
}
APART = frozenset({"node_deliveries", "node_sessions", "nodes", "soak", "stores"})
"""Not among those that run without a NAME."""


RUNS = 1
TURNS = 3
"""Runs of each revision, when there are two."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """What was measured, and what stands beside it."""

    figures: list[Figure]
    then: str = ""
    """Name of what it is compared with."""
    now: str = "now"
    comparisons: list[Comparison] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    common = common_options()
    parser = argparse.ArgumentParser(prog="python3 run.py bench", description="Benchmarks; tests/benchmarks/README.md")
    benchmarks = parser.add_subparsers(dest="name", metavar="NAME")
    all_help = "all of these except " + ", ".join(sorted(APART))
    benchmarks.add_parser("all", parents=[common], allow_abbrev=False, help=all_help)
    defaults: dict[str, argparse.Namespace] = {}
    for name, benchmark in BENCHMARKS.items():
        subparser = benchmarks.add_parser(name, parents=[common], allow_abbrev=False, help=benchmark.SUMMARY)
        benchmark.add_options(subparser)
        defaults[name] = subparser.parse_args([])
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in {*BENCHMARKS, "all", "-h", "--help"}:
        given = ["all", *given]
    options = parser.parse_args(given)
    chosen = [name for name in BENCHMARKS if name not in APART] if options.name == "all" else [options.name]
    runs = options.runs or (RUNS if options.against is None else TURNS)
    try:
        if options.against is not None:
            _, own = common.parse_known_args(given[1:])
            outcome = measure_against(options.against, [options.name, *own], runs)
        else:
            settings = {name: options if options.name == name else defaults[name] for name in chosen}
            outcome = measure_here(settings, runs, options.compare)
    except CannotRun as reason:
        print(reason, file=sys.stderr)
        return 1
    report(outcome, {"benchmarks": chosen, "runs": runs}, options.json)
    return 0


def common_options() -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--runs", type=int, help=f"of each; the median counts ({RUNS}; with --against {TURNS})")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--compare", type=Path, metavar="FILE", help="print ratios to an earlier result (of --json)")
    earlier.add_argument("--against", metavar="REV", help="measure that git revision in turns, and print ratios to it")
    return parser


def measure_here(settings: Mapping[str, argparse.Namespace], runs: int, earlier: Path | None) -> Outcome:
    """Run benchmarks, each with its settings, and compare the figures with an earlier result if there is one."""
    result = None
    if earlier is not None:
        result = Result.read(earlier)  # before anything takes a quarter of an hour
        result.require(list(settings), earlier)
    outcome = Outcome([])
    for name, options in settings.items():
        outcome.figures += medians([measure(BENCHMARKS[name], name, options) for _ in range(runs)])
    if earlier is not None and result is not None:
        outcome.then = earlier.stem
        outcome.comparisons = compared(result.figures, outcome.figures, str(earlier))
    return outcome


def measure_against(revision: str, arguments: list[str], turns: int) -> Outcome:
    """Run a benchmark of this tree and of another revision's, in turns."""
    with checkout(revision, ROOT) as other:
        here = Tree(HERE, ROOT)
        then, now = measure_in_turns(other, here, arguments, turns)
        return Outcome(now, other.name, here.name, compared(then, now, other.name))


def measure(benchmark: ModuleType, name: str, options: argparse.Namespace) -> list[Figure]:
    print(f"{name}: {benchmark.SUMMARY} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="fleetpush-bench-") as directory:
        figures: list[Figure] = benchmark.run(options, Path(directory))
    return figures


def report(outcome: Outcome, document: dict[str, Any], file: Path | None) -> None:
    """Print the tables, and the figures as JSON, to the file if one is given."""
    print(table(outcome.figures))
    document["figures"] = [figure.document() for figure in outcome.figures]
    if outcome.comparisons:
        print(f"\n{comparison_table(outcome.comparisons, outcome.then, outcome.now)}")
        document["then"] = outcome.then
        document["comparisons"] = [comparison.document() for comparison in outcome.comparisons]
    text = json.dumps(document)
    if file is not None:
        file.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    sys.exit(main())
