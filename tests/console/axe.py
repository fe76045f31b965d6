"""axe-core: whether everybody can use a page. From npm, fetched once, as it is pinned in package.json; not in the tree.

It runs inside the page and finds what can be found without a person: names of controls, contrast, order of headings,
roles. What it is sure of is a fault, whatever it thinks how bad that is.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from tests.browser import Page
from tests.third_party import require

HERE = Path(__file__).resolve().parent
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
FETCH_TIMEOUT = 120


@cache
def axe_source() -> str:
    """The script; the first test that wants it has npm fetch it."""
    script = HERE / "node_modules" / "axe-core" / "axe.min.js"
    wanted = json.loads((HERE / "package.json").read_text())["devDependencies"]["axe-core"]
    with (HERE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of test processes, one fetches
        if not _is_there(script, wanted):
            command = [require("npm"), "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=FETCH_TIMEOUT)
            assert done.returncode == 0, done.stdout + done.stderr
            assert _is_there(script, wanted), "npm has fetched another version"
    return script.read_text()


def _is_there(script: Path, version: str) -> bool:
    return script.exists() and json.loads((script.parent / "package.json").read_text())["version"] == version


def violations(page: Page, within: str = "document") -> list[str]:
    """What is wrong for somebody: rule, element and why, a line each."""
    if not page.evaluate("'axe' in globalThis"):
        page.evaluate(axe_source() + ";0")
    options = {"runOnly": TAGS, "resultTypes": ["violations"]}
    found: list[dict[str, Any]] = page.evaluate(f"axe.run({within}, {json.dumps(options)}).then((r) => r.violations)")
    return [
        f"{rule['id']} ({rule['impact']}): {node['target']}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]
