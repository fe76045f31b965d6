"""The OpenAPI document and the page of problems, made by a process of their own (`describing_process`).

On a thread of the server they took 0.4 s of its interpreter, in which the loop got a turn every 5 ms, and what the
framework keeps of the work stayed in memory. They are the same in every server of a version.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from typing import NamedTuple

from fastapi import FastAPI

from gateway.api.openapi import describe
from gateway.api.problems_page import problems_page
from gateway.pages import to_json


class SelfDescription(NamedTuple):
    """Two files as they are answered, UTF-8."""

    openapi: bytes
    """JSON in one line."""
    problems: bytes
    """HTML."""


async def describe_elsewhere() -> SelfDescription:
    """Have them made by another process, behind everybody else. Raises OSError when it cannot be started or fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "FLEETPUSH_PURE": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.api.describing_process", stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:  # who asked has gone, or the server ends
            process.kill()
            await process.wait()
    openapi, _, problems = output.partition(b"\n")
    if process.returncode or not problems:
        raise ChildProcessError(f"{process.returncode}: {errors[-1_000:].decode(errors='replace').strip()}")
    return SelfDescription(openapi, problems)


def describe_here(app: FastAPI) -> SelfDescription:
    """Make them in this process. It takes some tenths of a second."""
    document = describe(app)
    return SelfDescription(to_json(document), problems_page(document).encode())
