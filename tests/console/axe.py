"""axe-core: whether everybody can use a page. From npm, fetched once, as it is pinned in package.json; not in the tree.

It runs inside the page and finds what can be found without a person: names of controls, contrast, order of headings,
roles. What it is sure of is a fault, whatever it thinks how bad that is.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.browser import Page
from tests.third_party import npm_package

HERE = Path(__file__).resolve().parent
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@cache
def axe_source() -> str:
    """The script."""
    return (npm_package(HERE, "axe-core") / "axe.min.js").read_text()


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
