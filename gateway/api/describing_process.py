"""The process that makes what `self_description` answers: on standard output, a line of JSON, and then HTML."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import cast

from fastapi import FastAPI

from gateway.api.http import create_api
from gateway.api.problems import ProblemCount
from gateway.api.self_description import describe_here
from gateway.api.services import Services


def api_without_server() -> FastAPI:
    """The application as every server has it, to be described: it answers nothing."""
    return create_api(cast(Services, SimpleNamespace(problems=ProblemCount())))


if __name__ == "__main__":
    os.nice(10)
    sys.stdout.buffer.write(b"\n".join(describe_here(api_without_server())))
