"""The page over the TLS that README sets up, in a Chromium that trusts the CA as `tls init` prints."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.end_to_end.harness import Server, clean_environment, fleetpush, running
from tests.third_party import require


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Of a person who has set TLS up in `tmp_path/data`, and pasted the lines for a browser."""
    require("certutil")
    home = tmp_path / "home"
    home.mkdir()
    printed = fleetpush("tls", "init", "--data-dir", str(tmp_path / "data"), cwd=tmp_path)
    assert printed.returncode == 0, printed.stderr
    section = re.search(r"^A browser \(Chromium.*\n((?: {4}.*\n)+)", printed.stdout, re.MULTILINE)
    assert section is not None, printed.stdout
    environment = clean_environment(HOME=str(home))
    subprocess.run(["sh", "-e", "-c", section[1]], check=True, env=environment, cwd=tmp_path, timeout=20)
    with Browser(tmp_path / "profile", home) as browser:
        yield browser


@pytest.mark.long
def test_a_kiosk_connects_over_tls_once_the_ca_is_imported_as_printed(browser: Browser, tmp_path: Path) -> None:
    require("npm")
    with socket.create_server(("127.0.0.1", 0)) as free:
        page_port = free.getsockname()[1]
    data = tmp_path / "data"
    origin = f"http://127.0.0.1:{page_port}"
    with (
        Server(data, "--ws-origins", origin, ca=data / "tls" / "ca.pem") as server,
        running("kiosk", "till", "--port", str(page_port), "--data-dir", str(data)) as process,
    ):
        address = process.stdout.readline().strip()
        assert "url=wss%3A%2F%2F" in address
        with browser.context() as context:
            page = context.open(address)
            page.wait_for('document.querySelector("#state")?.dataset.state === "connected"', timeout=30)
            push_id = server.api.push("till", notification={"title": "Fresh bread"})
            page.wait_for('document.querySelector(".banner-title")?.textContent === "Fresh bread"')
            server.api.wait_counts(push_id, displayed=1)
            assert page.complaints == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "TLS handshake" not in server.errors
