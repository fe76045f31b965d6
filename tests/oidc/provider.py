"""oidc-provider, a certified identity provider for node: fetched once from npm, as it is pinned; not in the tree."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from tests.third_party import npm_package, require

HERE = Path(__file__).resolve().parent
SECRET = "a secret: %of& the+server"
ROLES = ("push-admins=admin", "push-viewers=viewer", "hotel-operators=operator@hotel")
"""What the groups of its people may do."""


class OidcProvider:
    """A provider in a process of its own; `issuer` is its address."""

    def __init__(self) -> None:
        node = require("node")
        npm_package(HERE, "oidc-provider")
        self._process = subprocess.Popen(
            [node, "provider.mjs"], cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None, "asked for"
        line = next((line for line in self._process.stdout if line.startswith("issuer ")), "")
        self.issuer = line.removeprefix("issuer ").strip()
        if not self.issuer:
            self.end()
        assert self.issuer, "the provider did not start"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
