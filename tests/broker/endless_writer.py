"""A process that stores until it is killed. It imports no more than it needs: it is started anew for every kill."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

from broker.message import Body, Message
from broker.sqlite_store import SqliteStore
from broker.store import StoredOutbound, StoredSession


def write_for_ever(path: str) -> None:
    """Store numbers in four tables, and print each when its barrier has called back."""

    def report(number: int) -> None:
        os.write(1, b"%d\n" % number)

    async def run() -> None:
        store = SqliteStore(Path(path), asyncio.get_running_loop())
        store.save_session(StoredSession("kiosk-1", "kiosk-1", 60, None))
        number = 0
        while True:
            for _ in range(7):
                number += 1
                store.save_message(number, Message("t", Body(b"%d" % number)))
                store.save_outbound("kiosk-1", StoredOutbound(number, number, None, 1, number))
                store.save_retained(Message(f"retained/{number}", Body(b"x")))
                store.barrier(partial(report, number))
            await asyncio.sleep(0)

    asyncio.run(run())
