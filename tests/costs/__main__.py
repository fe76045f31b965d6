"""`python -m tests.costs`: what each operation costs now; with the name of one, the functions that it calls most.

A process of its own: what it replaces (`turns`) is replaced for good.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.costs.counters import COUNTERS, Cost
from tests.costs.operations import measure
from tests.costs.turns import take_turns

FUNCTIONS = 25
"""How many of an operation's functions are shown."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.costs", description="What hot operations cost, counted.")
    parser.add_argument("operation", nargs="?", help="show the functions that this one calls most")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="fleetpush-costs-") as folder:
        loop = take_turns()
        costs = loop.run_until_complete(measure(Path(folder), loop))
    if options.json:
        print(json.dumps({name: {"counts": cost.counts, "functions": cost.functions} for name, cost in costs.items()}))
    elif options.operation is None:
        print(table(costs))
    elif options.operation in costs:
        print(most_called(costs[options.operation].functions))
    else:
        parser.error(f"no operation {options.operation!r}; there are {', '.join(costs)}")
    return 0


def table(costs: dict[str, Cost]) -> str:
    rows = [("operation", *COUNTERS)]
    rows += [(name, *(f"{cost.counts[counter]:.4g}" for counter in COUNTERS)) for name, cost in costs.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def most_called(functions: dict[str, float]) -> str:
    called = sorted(functions.items(), key=lambda function: -function[1])
    return "\n".join(f"{count:10.4g}  {name}" for name, count in called[:FUNCTIONS])


if __name__ == "__main__":
    try:
        status = main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the threads wait for a turn that does not come
