"""Files of attachments that several nodes serve: in the database, with a copy in the folder of each that was asked.

Laws
1. A file is in the database, whole, before its attachment is: the operation that stores the attachment counts the
   pieces. They go under the locks of every app, with nobody's attachment on its way.
2. The copy in a node's folder is made when somebody asks for the file, named when its SHA-256 is right, and may be
   missing at any time.
3. Bounded: a file is fetched once, however many ask for it, and FETCHED_FILES at a time; each has a piece in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gateway.errors import problem
from gateway.store.app_locks import EVERY_APP, NO_APP
from gateway.store.database import Database
from gateway.store.nodes.attachment_files import (
    PIECE_BYTES,
    REMOVED_ATTACHMENTS,
    abandoned_files,
    count_pieces,
    expired_attachments,
    pieces_of,
    read_piece,
    remove_expired_attachments,
    remove_files,
    store_piece,
    whole_files,
)
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

FETCHED_FILES = 4
"""Files that are read from the database at a time; who asks for another one waits."""
GRACE_MS = 60_000
"""Time between the end of an attachment and its removal: a push that another node has accepted just before is stored
by then, and keeps it."""
ABANDONED_MS = 600_000
"""Time after which a file without an attachment was left by an upload that has failed: an upload of 5 MiB takes a
second here."""


class SharedFiles:
    """Stores files for all nodes, and fetches what this one does not have. Loop.

    `folder` has this node's copies, by id; `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, *, database: Database, folder: Path, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._folder = folder
        self._clock_ms = clock_ms
        self._places = asyncio.Semaphore(FETCHED_FILES)
        self._fetching: dict[str, asyncio.Task[bool]] = {}

    async def store(self, attachment_id: str, size: int, file: Path) -> None:
        """Store a file, unless the database has it. Raises OSError, StorageError."""
        if await self._database.read_soon(partial(count_pieces, attachment_id=attachment_id)) == pieces_of(size):
            return
        for no in range(pieces_of(size)):
            content = await asyncio.to_thread(_read_part, file, no)
            await self._database.write(
                partial(store_piece, attachment_id=attachment_id, no=no, content=content, now_ms=self._clock_ms()),
                apps=NO_APP,
                is_audited=False,
            )

    def is_whole(self, transaction: Transaction, attachment_id: str, size: int) -> bool:
        """Whether the database has all of a file. Writer thread."""
        return count_pieces(transaction, attachment_id) == pieces_of(size)

    async def store_own(self, sizes: dict[str, int]) -> None:
        """Store those of these files that are in the folder and not in the database.

        `sizes`: id -> bytes. There are some if this node had the database alone before. Raises OSError, StorageError.
        """
        there = await self._database.read(whole_files)
        for attachment_id, size in sizes.items():
            file = self._folder / attachment_id
            if there.get(attachment_id) != pieces_of(size) and file.is_file():
                await self.store(attachment_id, size, file)

    async def fetch(self, attachment_id: str, size: int) -> bool:
        """Have a file in the folder; False if the database does not have it.

        Raises Problem 503 when the disk has no room for it, StorageError.
        """
        task = self._fetching.get(attachment_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(attachment_id, size))
            self._fetching[attachment_id] = task
            task.add_done_callback(partial(self._fetched, attachment_id))
        return await asyncio.shield(task)  # others may wait for it as well

    def _fetched(self, attachment_id: str, task: asyncio.Task[bool]) -> None:
        del self._fetching[attachment_id]
        if not task.cancelled() and task.exception() is not None:
            log.warning("the file of an attachment cannot be fetched: %s", task.exception())

    async def _fetch(self, attachment_id: str, size: int) -> bool:
        async with self._places:
            copy = self._folder / f"{secrets.token_hex(16)}.partial"
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                digest = hashlib.sha256()
                with os.fdopen(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                    for no in range(pieces_of(size)):
                        content = await self._database.read(partial(read_piece, attachment_id=attachment_id, no=no))
                        if content is None:
                            return False
                        digest.update(content)
                        file.write(content)
                if digest.hexdigest() != attachment_id:
                    log.error("the pieces of attachment %s are not what it was", attachment_id)
                    return False
                copy.replace(self._folder / attachment_id)
                return True
            except OSError as error:
                raise problem("unavailable", "this node has no room for its copy of the file; try again") from error
            finally:
                copy.unlink(missing_ok=True)

    async def remove_expired(self) -> int:
        """Remove attachments that have expired, and files that no app has; how many attachments. For one node at a
        time. Raises StorageError."""
        now_ms = self._clock_ms()
        before = now_ms - GRACE_MS
        removed = 0
        more = True
        while more:
            keys = await self._database.read_soon(partial(expired_attachments, before=before))
            if keys:
                await self._database.write(
                    partial(remove_expired_attachments, keys=keys, before=before),
                    apps=frozenset(app_no for app_no, _ in keys),
                )
                await self.remove([attachment_id for _, attachment_id in keys])
            removed += len(keys)
            more = len(keys) == REMOVED_ATTACHMENTS
        abandoned = await self._database.read_soon(partial(abandoned_files, before=now_ms - ABANDONED_MS))
        if abandoned:
            await self.remove(abandoned)
        return removed

    async def remove(self, ids: Sequence[str]) -> None:
        """Remove those of these files that no app has. Raises StorageError."""
        await self._database.write(partial(remove_files, ids=ids), apps=EVERY_APP, is_audited=False)


def _read_part(file: Path, no: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(no * PIECE_BYTES)
        return opened.read(PIECE_BYTES)
