"""The process that makes what `self_description` answers: on standard output, a line of JSON, and then HTML."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import cast

from gateway.api.http import create_api
from gateway.api.problems import ProblemCount
from gateway.api.self_description import describe_here
from gateway.api.services import Services

if __name__ == "__main__":
    os.nice(10)
    without_server = cast(Services, SimpleNamespace(problems=ProblemCount()))
    sys.stdout.buffer.write(b"\n".join(describe_here(create_api(without_server))))
