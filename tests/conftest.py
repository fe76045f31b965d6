"""`--full` runs every repeated test ten times as often; `full` tells a test how often that is."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:  # or whoever runs a single test would wait for the drivers of browsers
    from tests.browser import Browser
    from tests.oidc.provider import OidcProvider

FULL_FACTOR = 10
EXAMPLES = 50


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help=f"repeat kill, storm and property tests {FULL_FACTOR} times as often"
    )
    parser.addoption(
        "--database", choices=("sqlite", "postgresql"), default="sqlite", help="where the ledgers of tests are kept"
    )
    parser.addoption(
        "--nodes", action="store_true", help="have each request of the API's tests answered by one of two nodes"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Property tests that do not say how many examples they want; the database of a run over PostgreSQL."""
    if config.getoption("--database") == "postgresql" and not hasattr(config, "workerinput"):
        from tests.postgresql import URL_VARIABLE, Postgresql

        server = Postgresql()
        server.__enter__()
        config.add_cleanup(lambda: server.__exit__(None, None, None))
        os.environ[URL_VARIABLE] = server.url  # for the workers, too
    hypothesis.settings.register_profile("default", max_examples=EXAMPLES)
    hypothesis.settings.register_profile("full", max_examples=20 * EXAMPLES)
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests come first, so that none is left running alone at the end; what is for `--full` only comes then. Ten
    times the work may take ten times as long. What is about SQLite's file is left out over another database."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    if config.getoption("--database") == "postgresql" or config.getoption("--nodes"):
        _leave_out(config, items, "sqlite")
    if not config.getoption("--full"):
        _leave_out(config, items, "full_only")
        return
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0]) if marker and marker.args else float(config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(seconds * FULL_FACTOR), append=False)


def _leave_out(config: pytest.Config, items: list[pytest.Item], marker: str) -> None:
    left_out = [item for item in items if item.get_closest_marker(marker)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker(marker)]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays to the end, and the collector need not look through it: not while it grows, which takes
    a third of the time, and not when a test asks for a collection of its own."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> int:
    """What a repeated test multiplies its counts with: 1, or 10 with `--full`."""
    return FULL_FACTOR if request.config.getoption("--full") else 1


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of a worker. Each opens a profile of its own, with `context`."""
    from tests.browser import Browser

    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="session")
def provider() -> Iterator[OidcProvider]:
    """One identity provider for all tests of a worker."""
    from tests.oidc.provider import OidcProvider

    with OidcProvider() as provider:
        yield provider


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What refers to itself in a circle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
