"""`python -m tests.documents`: write the reference pages anew."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.documents.reference import pages, write
from tests.gateway.api.house import House


async def texts() -> dict[str, str]:
    with TemporaryDirectory() as folder:
        house = await House.build(Path(folder), asyncio.get_running_loop())
        try:
            return pages(house)
        finally:
            await house.close()


for path in write(asyncio.run(texts())):
    print(path)
