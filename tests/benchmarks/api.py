"""What the HTTP interface accepts: single pushes, one request each, and batches of 10,000.

Single pushes are measured beside an empty FastAPI route on the same uvicorn, with the same client: what is lost is
validation, authentication and the commit. Nobody is connected, so that nothing but acceptance is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.figures import GOAL, Figure
from tests.benchmarks.tools import HttpLoad, enrolled, free_port, wait_for_port
from tests.end_to_end.harness import Server

SUMMARY = "pushes accepted per second, one by one and in batches"
CONNECTIONS = "64"
DEVICES = 1_000
LINES = 10_000
GOAL_BATCH = 50_000
EMPTY = """
import uvicorn
from fastapi import FastAPI, Response

app = FastAPI()

@app.post("/v1/pushes")
async def nothing() -> Response:
    return Response(b"{}", 202, media_type="application/json")

uvicorn.run(app, host="127.0.0.1", port={port}, log_level="warning", access_log=False, loop="uvloop", http="httptools",
            server_header=False, proxy_headers=False)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=20_000, help="single pushes (%(default)s)")
    parser.add_argument("--batches", type=int, default=20, help=f"batches of {LINES} (%(default)s)")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    single = json.dumps({"target": {"device": "kiosk-%D"}, "data": {"hello": "world"}})
    limits = ["--requests", str(options.requests), "--connections", CONNECTIONS, "--devices", str(DEVICES)]
    port = free_port()
    empty = subprocess.Popen([sys.executable, "-c", EMPTY.replace("{port}", str(port))])
    try:
        wait_for_port(port, empty)
        HttpLoad(port, "/v1/pushes", single, *limits).result()
        route = HttpLoad(port, "/v1/pushes", single, *limits).result()
    finally:
        empty.terminate()
        empty.wait(10)
    with Server(directory / "data", "--mailbox-deliveries", "1000000", "--request-limit", "1000000") as server:
        enrolled(server, DEVICES, directory)
        HttpLoad(server.http_port, "/v1/pushes", single, *limits, key=server.admin_key).result()
        ours = HttpLoad(server.http_port, "/v1/pushes", single, *limits, key=server.admin_key).result()
        lines = (
            json.dumps({"target": {"device": f"kiosk-{number % DEVICES}"}, "data": {"hello": "world"}})
            for number in range(LINES)
        )
        batch = directory / "batch"
        batch.write_text("\n".join(lines))
        batched = HttpLoad(
            server.http_port, "/v1/pushes/batch", f"@{batch}", "--requests", str(options.batches), "--connections", "2",
            "--type", "application/x-ndjson", key=server.admin_key,
        ).result()  # fmt: skip
    rate = batched.per_second * LINES
    return [
        Figure("single pushes", "pushes/s", ours.per_second, "empty FastAPI route", route.per_second, at_least=0.5),
        Figure("single pushes, p99", "ms", ours.latency.p99, "empty FastAPI route", route.latency.p99),
        Figure(f"batches of {LINES:,}", "pushes/s", rate, GOAL, GOAL_BATCH, at_least=1.0),
    ]
