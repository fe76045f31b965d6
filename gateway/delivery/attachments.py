"""Attachments: pictures and files that pushes refer to, kept by what they contain until no push needs them.

A push is a few KiB; what belongs to it and is larger is uploaded once, named by its SHA-256, and fetched by the devices
that were pushed. `attachment:ID` in a notification becomes the address to fetch it from, and the push says of itself
whose addresses are ours (`fetch_from`): nobody else is shown a device's credential, whatever a sender puts in.

Laws
1. What was answered is on disk: the file is synced, then named and its row committed in one operation of the writer.
2. A file is never changed, and is named by what it contains: who fetches can prove that it is whole.
3. A file goes when no row names it: looked at and removed by one operation of the writer, as it is named by one, so
   that what arrives again meanwhile is not lost. What a crash leaves without a row goes at the next start.
4. What a push refers to lives at least a day longer than the push.

Rows are kept in memory as well: a push is checked without reading the disk. Where several nodes serve the files
(`shared_files`), each of them hears what the others have stored before that is answered (`reload`), and the room is
measured again by the operation that stores the row; one of them removes what has expired.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial as with_arguments
from pathlib import Path
from typing import Any

from gateway.data_directory import sync_directory
from gateway.delivery.push import PushRequest
from gateway.delivery.shared_files import SharedFiles
from gateway.errors import Problem, RetryableProblem, problem
from gateway.store.app_locks import EVERY_APP
from gateway.store.audited_writes import about
from gateway.store.database import Database
from gateway.store.deliveries.attachments import (
    AttachmentRow,
    extend_attachments,
    has_owner,
    keep_attachment,
    remove_attachments,
    stored_attachments,
)
from gateway.store.nodes.attachment_files import stored_attachment, stored_room
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

log = logging.getLogger(__name__)

SCHEME = "attachment:"
ATTACHMENT_ID = re.compile(r"[0-9a-f]{64}")
"""SHA-256 in hexadecimal."""
CONTENT_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}(; ?[a-z0-9-]+=[\w.-]+){0,2}", re.ASCII)
DEFAULT_TTL_SECONDS = 7 * 86_400
"""Seconds; pushes make it longer."""
MAX_ATTACHMENTS = 20_000
"""Attachments of all apps; the loop looks through them when it looks for what has expired, about 2 ms."""
AFTER_PUSH_MS = 86_400_000
"""Time that an attachment outlives a push: for people who open it late, and for the push's idempotency key."""
FETCHES_PER_SECOND = 100
"""Rate that a fleet is asked to keep to; a push to more devices says how long they have (`fetch_within`)."""
MAX_SPREAD_SECONDS = 3_600
"""Seconds."""
APP_SHARE = 0.75
"""Share of one app in the room and the number of attachments, at most: a quarter is left for the others, or for what is
pushed next."""
UPLOADS_OF_APP = 20
"""Uploads of one app under way at a time: each has a file open and a chunk in memory."""
MAX_UPLOADS = 60
"""Uploads of all apps under way at a time."""
SHARED_UNTIL_MS = 3_600_000
"""Where nodes share the files, attachments live until a whole hour: what every push made longer would have every node
read it again."""
STORE_ATTEMPTS = 3
"""Times that a file is stored for the other nodes, if it is removed by one of them meanwhile."""
RETRY_SECONDS = 5.0
PARTIAL = ".partial"


@dataclass(slots=True)
class StoredAttachment:
    """A file that is kept: `size` in bytes, times in milliseconds."""

    id: str
    content_type: str
    size: int
    created_at: int
    expires_at: int


@dataclass(slots=True, frozen=True)
class AttachmentLimits:
    """Limits of what is kept."""

    size: int
    """Bytes of one."""
    storage: int
    """Bytes of all together, each file once."""


class _NoRoom(Exception):
    """What is stored fills the room; raised on the writer thread."""

    def __init__(self, whose: str) -> None:
        super().__init__(whose)
        self.whose = whose


class _NotWhole(Exception):
    """A file that other nodes cannot serve; raised on the writer thread."""


class Attachments:
    """Keeps the files that pushes refer to, and removes them when no push needs them. Loop.

    `clock_ms` gives server time in milliseconds; `address` the address under which devices reach this server's HTTP
    (`https://host`); `storage_left` says whether the disk has room to accept more; `shared` stores the files for other
    nodes (None: there are none).
    """

    def __init__(
        self,
        *,
        database: Database,
        folder: Path,
        limits: AttachmentLimits,
        clock_ms: Callable[[], int],
        address: Callable[[], str],
        storage_left: Callable[[], bool],
        shared: SharedFiles | None,
    ) -> None:
        self.limits = limits
        self._shared = shared
        self._database = database
        self._folder = folder
        self._clock_ms = clock_ms
        self._address = address
        self._storage_left = storage_left
        self._known: dict[tuple[int, str], StoredAttachment] = {}
        self._owners: dict[str, set[int]] = {}
        """The apps that have each file."""
        self._naming: set[tuple[int, str]] = set()
        """Files whose rows are on their way to the disk: nothing of them is removed meanwhile."""
        self._arriving: Counter[int] = Counter()
        """Bytes of uploads under way that have come, by app."""
        self._uploads: Counter[int] = Counter()
        """Uploads under way, by app."""
        self._of_app: Counter[int] = Counter()
        """Bytes of an app's attachments."""
        self._count_of_app: Counter[int] = Counter()
        self.full = False
        """The last upload found no room, for the log."""
        self.refused = 0
        """Uploads for which there was no room, for metrics."""
        self.uploads_sent_away = 0
        """Uploads that were refused because too many were under way, for metrics."""
        self.downloads_sent_away = 0
        """Downloads that were refused for the same reason, for metrics."""
        self.downloads_ended = 0
        """Downloads that were ended because they were read too slowly, for metrics."""
        self.stored = 0
        """Bytes of files, for metrics."""
        self._downloads: Counter[tuple[int, str]] = Counter()
        """Downloads under way, by app and by reader: a device or a key."""

    async def load(self) -> None:
        """Read the rows after a restart, and remove files without one."""
        for row in await self._database.read(stored_attachments):
            if (row.app_no, row.id) not in self._known:  # a node may have heard of it meanwhile
                self._keep(row.app_no, StoredAttachment(*row[1:]))
        await asyncio.to_thread(_tidy, self._folder, set(self._owners))
        if self._shared is not None:
            await self._shared.store_own({attachment.id: attachment.size for attachment in self._known.values()})

    async def reload(self, app_no: int, attachment_id: str) -> None:
        """Read again what another node may have stored, kept for longer or removed. Raises StorageError."""
        row = await self._database.read_soon(
            with_arguments(stored_attachment, app_no=app_no, attachment_id=attachment_id)
        )
        key = app_no, attachment_id
        known = self._known.get(key)
        if known is not None and (row is None or row.created_at != known.created_at):
            self._drop(key)
            known = None
        if row is None:
            if attachment_id not in self._owners and all(attachment_id != naming for _, naming in self._naming):
                (self._folder / attachment_id).unlink(missing_ok=True)
        elif known is None:
            self._keep(app_no, StoredAttachment(*row[1:]))
        else:  # a push of this node may be on its way to keep it for longer
            known.content_type, known.expires_at = row.content_type, max(known.expires_at, row.expires_at)

    def get(self, app_no: int, attachment_id: str) -> StoredAttachment:
        """The attachment of an app. Raises Problem 404."""
        found = self._known.get((app_no, attachment_id))
        if found is None or found.expires_at <= self._clock_ms():
            raise problem("attachment_not_found", "there is no such attachment, or no longer: upload it again")
        return found

    @property
    def uploads(self) -> int:
        """Uploads under way, for metrics."""
        return self._uploads.total()

    @property
    def downloads(self) -> int:
        """Downloads under way, for metrics."""
        return self._downloads.total()

    def downloads_of(self, reader: tuple[int, str]) -> tuple[int, int]:
        """Count the downloads under way of this reader's app, and of this reader (app number, device or key)."""
        of_app = sum(count for (app_no, _), count in self._downloads.items() if app_no == reader[0])
        return of_app, self._downloads[reader]

    @contextmanager
    def download(self, reader: tuple[int, str]) -> Iterator[None]:
        """Count a download while it is under way."""
        self._downloads[reader] += 1
        try:
            yield
        finally:
            self._downloads[reader] -= 1
            self._downloads += Counter()  # forgets who has none

    async def path_of(self, attachment: StoredAttachment) -> Path | None:
        """The file of an attachment; None if it is gone. Raises Problem 503, StorageError if it has to be fetched."""
        path = self._folder / attachment.id
        if path.is_file():
            return path
        if self._shared is not None and await self._shared.fetch(attachment.id, attachment.size):
            return path
        return None

    def described(self, attachment: StoredAttachment) -> dict[str, Any]:
        return {
            "id": attachment.id,
            "url": self._url(attachment.id),
            "content_type": attachment.content_type,
            "size": attachment.size,
            "created_at": rfc3339(attachment.created_at),
            "expires_at": rfc3339(attachment.expires_at),
        }

    async def store(
        self, app_no: int, content_type: str, ttl: int, length: int | None, chunks: AsyncIterator[bytes]
    ) -> tuple[StoredAttachment, bool]:
        """Keep a file for `ttl` seconds at least; whether the app did not have it.

        `length`: its bytes, if they are known before. Raises Problem 413, 422, 503, 507.
        """
        if length is not None and length > self.limits.size:
            raise _too_large(self.limits.size)
        if not self._storage_left():
            raise problem("storage_full", "the disk is full: nothing was stored; free space and send again")
        self._check_room(app_no, length or 1)
        if self._uploads[app_no] >= UPLOADS_OF_APP or self._uploads.total() >= MAX_UPLOADS:
            self.uploads_sent_away += 1
            log.warning(
                "app %d: an upload is refused: %d are under way, %d of this app",
                app_no, self.uploads, self._uploads[app_no],
            )  # fmt: skip
            raise RetryableProblem(
                "busy",
                f"{UPLOADS_OF_APP} uploads of an app, {MAX_UPLOADS} of all, may be under way: wait for some",
                RETRY_SECONDS,
            )
        partial = self._folder / f"{secrets.token_hex(16)}{PARTIAL}"
        self._uploads[app_no] += 1
        arrived = [0]
        try:
            attachment_id, size = await self._receive(app_no, partial, chunks, arrived)
            return await self._name(app_no, attachment_id, content_type, size, ttl, partial)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise problem("storage_full", "the disk is full: nothing was stored; free space") from error
            raise
        finally:
            self._arriving[app_no] -= arrived[0]
            self._uploads[app_no] -= 1
            partial.unlink(missing_ok=True)

    def _check_room(self, app_no: int, more: int) -> None:
        """Check that there is room for so many bytes more, of this app and of all. Raises Problem 507."""
        size = self.stored + self._arriving.total() + more
        of_app = self._of_app[app_no] + self._arriving[app_no] + more
        whose = self._filled(size, len(self._known), of_app, self._count_of_app[app_no])
        if whose is not None:
            raise self._no_room(app_no, whose)
        self.full = False

    def _filled(self, size: int, count: int, size_of_app: int, count_of_app: int) -> str | None:
        """Say whose attachments fill their room, if they do, with so many bytes and so many there before."""
        storage = self.limits.storage
        if size > storage or count >= MAX_ATTACHMENTS:
            return "all"
        if size_of_app > storage * APP_SHARE or count_of_app >= MAX_ATTACHMENTS * APP_SHARE:
            return "this app's"
        return None

    def _no_room(self, app_no: int, whose: str) -> Problem:
        self.refused += 1
        if not self.full:
            self.full = True
            log.warning("attachments are refused: %s fill their room (app %d)", whose, app_no)
        return problem(
            "storage_full",
            f"{whose} attachments fill their room ({self.limits.storage} bytes and {MAX_ATTACHMENTS} of all, three"
            " quarters of one app): wait until some have expired, or raise attachment_storage",
        )

    async def _receive(
        self, app_no: int, partial: Path, chunks: AsyncIterator[bytes], arrived: list[int]
    ) -> tuple[str, int]:
        digest = hashlib.sha256()
        size = 0
        self._folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > self.limits.size:
                    raise _too_large(self.limits.size)
                self._check_room(app_no, len(chunk))
                self._arriving[app_no] += len(chunk)
                arrived[0] += len(chunk)
                digest.update(chunk)
                rest = memoryview(chunk)
                while rest:  # one write may take a part only, above all the last one that fits on the disk
                    rest = rest[file.write(rest) :]
            if not size:
                raise problem("invalid_request", "the body is empty: send the attachment's bytes as they are")
            await asyncio.to_thread(os.fsync, file.fileno())
        return digest.hexdigest(), size

    async def _name(
        self, app_no: int, attachment_id: str, content_type: str, size: int, ttl: int, partial: Path
    ) -> tuple[StoredAttachment, bool]:
        now_ms = self._clock_ms()
        key = app_no, attachment_id
        new = StoredAttachment(attachment_id, content_type, size, now_ms, now_ms + ttl * 1000)
        final = self._folder / attachment_id

        about("attachment", attachment_id, size=size)

        row = AttachmentRow(app_no, attachment_id, content_type, size, new.created_at, new.expires_at)

        def write(transaction: Transaction) -> bool:
            is_new = self._shared is not None and self._check_shared(transaction, row)
            if partial.exists():  # an operation may run twice
                os.replace(partial, final)
                sync_directory(self._folder)
            keep_attachment(transaction, row)
            return is_new

        self._naming.add(key)
        try:
            if self._shared is None:
                await self._database.write(write, app_no)
                is_new = key not in self._known
            else:
                is_new = await self._write_shared(self._shared, row, partial, write)
        finally:
            self._naming.discard(key)
        known = self._known.get(key)
        if known is None:
            self._keep(app_no, new)
            return new, is_new
        known.content_type = content_type
        known.expires_at = max(known.expires_at, new.expires_at)
        return known, is_new

    def _check_shared(self, transaction: Transaction, row: AttachmentRow) -> bool:
        """Check that other nodes can serve a file, and that there is room for it if the app does not have it; whether
        it does not. Writer thread. Raises _NotWhole, _NoRoom."""
        assert self._shared is not None, "asked only then"
        if not self._shared.is_whole(transaction, row.id, row.size):
            raise _NotWhole
        if stored_attachment(transaction, row.app_no, row.id) is not None:
            return False
        room = stored_room(transaction, row.app_no)
        more = 0 if has_owner(transaction, row.id) else row.size
        whose = self._filled(room.bytes + more, room.files, room.bytes_of_app + row.size, room.files_of_app)
        if whose is not None:
            raise _NoRoom(whose)
        return True

    async def _write_shared(
        self, shared: SharedFiles, row: AttachmentRow, file: Path, write: Callable[[Transaction], bool]
    ) -> bool:
        """Store a file for all nodes, and then its row; whether the app did not have it. Raises Problem 503, 507."""
        for _ in range(STORE_ATTEMPTS):
            await shared.store(row.id, row.size, file)
            try:
                return await self._database.write(write, row.app_no)
            except _NotWhole:  # another node has removed the file, which no app had
                continue
            except _NoRoom as full:
                await shared.remove([row.id])
                raise self._no_room(row.app_no, full.whose) from None
        raise problem("unavailable", "the file was removed again and again while it was stored; send it again")

    async def remove(self, app_no: int, attachment_id: str) -> None:
        """Remove an attachment. Pushes that refer to it lead nowhere then. Raises Problem 404."""
        self.get(app_no, attachment_id)
        await self._forget([(app_no, attachment_id)])

    async def remove_expired(self) -> int:
        """Remove what has expired; how many. One node does it for all of them."""
        if self._shared is not None:
            return await self._shared.remove_expired()
        now_ms = self._clock_ms()
        expired = [key for key, attachment in self._known.items() if attachment.expires_at <= now_ms]
        if expired:
            await self._forget(expired)
        return len(expired)

    async def _forget(self, keys: list[tuple[int, str]]) -> None:
        keys = [key for key in keys if key not in self._naming]
        for key in keys:
            self._drop(key)
        apps = frozenset([app_no for app_no, _ in keys])
        await self._database.write(lambda transaction: remove_attachments(transaction, keys), apps=apps)

        def unlink(transaction: Transaction) -> None:
            for attachment_id in {attachment_id for _, attachment_id in keys}:
                if not has_owner(transaction, attachment_id):
                    (self._folder / attachment_id).unlink(missing_ok=True)

        # By the writer although nothing is written: what it names after the commit above, it names before or after.
        await self._database.write(unlink, apps=EVERY_APP)
        if self._shared is not None:
            await self._shared.remove([attachment_id for _, attachment_id in keys])

    # -- pushes ------------------------------------------------------------------------------------------------------

    def refer(self, app_no: int, request: PushRequest, *, keep: bool = True) -> str | None:
        """Put the addresses of attachments into a push, and with `keep` have them live as long as it.

        Answers where devices fetch them from (`https://host`), None if it has none; those of a push that is composed
        are in its texts, when they are rendered. Called before the push is stored, so that this is on disk with it at
        the latest. Raises Problem 404.
        """
        notification = request.notification
        if notification is None:
            return None
        # Most refer to nothing, and this is done for every push.
        actions = notification.actions or ()
        if notification.image is None and notification.attachment is None:
            for action in actions:
                if action.icon is not None:
                    break
            else:
                return None
        if request.is_composed:
            return None
        found: dict[str, StoredAttachment] = {}
        ours = self._url("")

        def referred(text: str) -> StoredAttachment | None:
            """Find the attachment that a text names, also by the address that the upload was answered with."""
            if text.startswith(SCHEME):
                if not ATTACHMENT_ID.fullmatch(text, len(SCHEME)):
                    raise problem(
                        "invalid_request",
                        "attachment: and the whole id, 64 hex digits, that the upload was answered with",
                    )
                attachment = self.get(app_no, text.removeprefix(SCHEME))
            elif text.startswith(ours) and ATTACHMENT_ID.fullmatch(text, len(ours)):
                attachment = self.get(app_no, text.removeprefix(ours))
            else:
                return None
            found[attachment.id] = attachment
            return attachment

        if notification.image is not None and (attachment := referred(notification.image)) is not None:
            notification.image = self._url(attachment.id)
        for action in actions:
            if action.icon is not None and (attachment := referred(action.icon)) is not None:
                action.icon = self._url(attachment.id)
        if (enclosed := notification.attachment) is not None and (attachment := referred(enclosed.url)) is not None:
            enclosed.url = self._url(attachment.id)
            enclosed.content_type = enclosed.content_type or attachment.content_type
            enclosed.size = attachment.size
        until = self._clock_ms() + request.ttl * 1000 + AFTER_PUSH_MS
        if self._shared is not None:
            until += -until % SHARED_UNTIL_MS
        longer = [attachment for attachment in found.values() if attachment.expires_at < until] if keep else []
        for attachment in longer:
            attachment.expires_at = until
        if longer:
            ids = [attachment.id for attachment in longer]
            self._database.submit(
                lambda transaction: extend_attachments(transaction, app_no, ids, until),
                lambda _: None,
                lambda _: None,  # the push that comes right behind it has the same trouble, and says so
                apps=frozenset((app_no,)),
            )
        return self._address() if found else None

    def _url(self, attachment_id: str) -> str:
        return f"{self._address()}/v1/attachments/{attachment_id}"

    def _keep(self, app_no: int, attachment: StoredAttachment) -> None:
        self._known[app_no, attachment.id] = attachment
        self._of_app[app_no] += attachment.size
        self._count_of_app[app_no] += 1
        owners = self._owners.setdefault(attachment.id, set())
        if not owners:
            self.stored += attachment.size
        owners.add(app_no)

    def _drop(self, key: tuple[int, str]) -> None:
        attachment = self._known.pop(key)
        self._of_app[key[0]] -= attachment.size
        self._count_of_app[key[0]] -= 1
        owners = self._owners[attachment.id]
        owners.discard(key[0])
        if not owners:
            del self._owners[attachment.id]
            self.stored -= attachment.size


def fetch_within(targeted: int, ttl: int) -> int:
    """Seconds over which so many devices should spread their fetches; 0: at once."""
    return min(targeted // FETCHES_PER_SECOND, MAX_SPREAD_SECONDS, ttl)


def _too_large(limit: int) -> Exception:
    return problem("payload_too_large", f"an attachment may have {limit} bytes: send less, or raise max_attachment")


def _tidy(folder: Path, named: set[str]) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in named:
                path.unlink(missing_ok=True)
