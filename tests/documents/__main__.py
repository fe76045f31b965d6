"""`python -m tests.documents`: write the reference pages anew, the figures of the newest benchmarks, and
what is computed of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.documents import capacity, figures
from tests.documents.reference import pages, write
from tests.gateway.in_process import InProcessGateway


async def texts() -> dict[str, str]:
    with TemporaryDirectory() as folder:
        gateway = await InProcessGateway.build(Path(folder), asyncio.get_running_loop())
        try:
            return pages(gateway)
        finally:
            await gateway.close()


measured = figures.newest()
for path in (
    *write(asyncio.run(texts())),
    *figures.write(measured),
    *capacity.write(figures.values(measured)),
):
    print(path)
