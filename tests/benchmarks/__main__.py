"""`python -m tests.benchmarks [NAME]`: run one benchmark, or all; print the table and the figures as JSON.

A figure means something only beside another one of the same run on the same machine, so every benchmark measures its
yardsticks itself and reports ratios (README.md says what each benchmark does).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from tests.benchmarks import api, backlog, connects, deaf, fanout, growth, handshakes, latency, memory, restart, soak
from tests.benchmarks.figures import Figure, medians, table
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
    "deaf": deaf,
    "soak": soak,
}
APART = frozenset({"soak"})
"""Not among those that run without a NAME."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 run.py bench", description="Benchmarks; tests/benchmarks/README.md")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    common.add_argument("--runs", type=int, default=1, help="of each; the median counts (%(default)s)")
    benchmarks = parser.add_subparsers(dest="name", metavar="NAME")
    benchmarks.add_parser("all", parents=[common], help="all of these except " + ", ".join(sorted(APART)))
    defaults: dict[str, argparse.Namespace] = {}
    for name, benchmark in BENCHMARKS.items():
        subparser = benchmarks.add_parser(name, parents=[common], help=benchmark.SUMMARY)
        benchmark.add_options(subparser)
        defaults[name] = subparser.parse_args([])
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in {*BENCHMARKS, "all", "-h", "--help"}:
        given = ["all", *given]
    options = parser.parse_args(given)
    chosen = [name for name in BENCHMARKS if name not in APART] if options.name == "all" else [options.name]
    figures: list[Figure] = []
    try:
        for name in chosen:
            settings = options if options.name == name else defaults[name]
            figures += medians([measure(BENCHMARKS[name], name, settings) for _ in range(options.runs)])
    except CannotRun as reason:
        print(reason, file=sys.stderr)
        return 1
    print(table(figures))
    document = json.dumps({"runs": options.runs, "figures": [figure.document() for figure in figures]})
    if options.json is not None:
        options.json.write_text(document + "\n")
    else:
        print(document)
    return 0


def measure(benchmark: ModuleType, name: str, options: argparse.Namespace) -> list[Figure]:
    print(f"{name}: {benchmark.SUMMARY} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="fleetpush-bench-") as directory:
        figures: list[Figure] = benchmark.run(options, Path(directory))
    return figures


if __name__ == "__main__":
    sys.exit(main())
