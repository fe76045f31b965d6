from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from gateway.health_check import examine


class Answering(BaseHTTPRequestHandler):
    """Is ready unless a test says otherwise."""

    status = 200
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"the server ends")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    monkeypatch.setattr(Answering, "asked", [])
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        announce(tmp_path, f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def announce(data_dir: Path, url: object) -> None:
    (data_dir / "server.json").write_text(json.dumps({"url": url}))


def test_a_server_that_is_ready_is_healthy(server: HTTPServer, tmp_path: Path) -> None:
    assert examine(tmp_path) is None
    assert Answering.asked == ["/readyz"]


def test_one_that_takes_no_pushes_is_not(server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answering, "status", 503)
    assert examine(tmp_path) == "answered 503: the server ends"


def test_nor_is_one_that_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    announce(tmp_path, f"http://127.0.0.1:{port}")
    assert str(examine(tmp_path)).startswith(f"127.0.0.1:{port} does not answer: ")


@pytest.mark.parametrize("url", [None, 17, "", "http://[", "ftp://127.0.0.1:x"])
def test_nor_is_one_that_is_not_there(tmp_path: Path, url: object) -> None:
    if url is not None:
        announce(tmp_path, url)
    assert examine(tmp_path)


def test_it_says_so_in_one_line_and_loads_nothing_of_others(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-m", "gateway.health_check"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([*command, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"fleetpush: no server has announced itself in {tmp_path / 'server.json'}")
    assert done.stderr.count("\n") == 1
    assert subprocess.run(command, cwd=root, capture_output=True).returncode == 1
