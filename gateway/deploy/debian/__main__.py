"""`python3 run.py deb`: build the Debian package of this checkout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gateway.deploy.debian.package import build_package
from gateway.deploy.debian.python_environment import ROOT, BuildFailed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 run.py deb", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the package (default: dist)")
    parser.add_argument("--revision", default="1", help="of the package, behind the version (default: 1)")
    options = parser.parse_args()
    try:
        print(build_package(options.output, options.revision))
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
