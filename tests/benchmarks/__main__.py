"""`python -m tests.benchmarks [NAME]`: run one benchmark, print its table and its figures as JSON.

A figure means something only beside another one of the same run on the same machine, so every benchmark measures its
yardsticks itself and reports ratios (README.md says what each benchmark does).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import fanout
from tests.benchmarks.tools import CannotRun

BENCHMARKS = {"fanout": fanout}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 run.py bench", description="Benchmarks; tests/benchmarks/README.md")
    benchmarks = parser.add_subparsers(dest="name", metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        subparser = benchmarks.add_parser(name, help=benchmark.SUMMARY)
        benchmark.add_options(subparser)
        subparser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in {*BENCHMARKS, "-h", "--help"}:
        given = ["fanout", *given]
    options = parser.parse_args(given)
    benchmark = BENCHMARKS[options.name]
    try:
        with tempfile.TemporaryDirectory(prefix="fleetpush-bench-") as directory:
            report = benchmark.run(options, Path(directory))
    except CannotRun as reason:
        print(reason, file=sys.stderr)
        return 1
    print(benchmark.table(report))
    figures = json.dumps(report)
    print(figures)
    if options.json is not None:
        options.json.write_text(figures + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
