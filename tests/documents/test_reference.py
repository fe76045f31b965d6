"""The reference pages say what the code says."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.documents.reference import FOLDER, pages
from tests.gateway.api.house import House


async def test_the_reference_pages_are_up_to_date(tmp_path: Path) -> None:
    """`python -m tests.documents` writes them anew."""
    house = await House.build(tmp_path, asyncio.get_running_loop())
    try:
        made = pages(house)
    finally:
        await house.close()
    assert {path.name for path in FOLDER.iterdir()} == set(made)
    assert [name for name, text in made.items() if (FOLDER / name).read_text() != text] == []
