"""The start on a data directory: its two databases opened, or refused in one line with the remedy that fits.

Which remedy is the point. "Restore a backup" costs what was accepted since, so it is said of damage alone: not of a
full disk, of another owner's file, nor of one that another program has locked. A directory that lost its ledger is not
taken for a new one, since that would make a new key, and strangers of all devices. A ledger in PostgreSQL is no file
here, but the directory says where it is: so an empty database beside an earlier server's directory is refused likewise.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import pwd
import stat
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from broker.clock import ServerClock, boottime
from broker.group_commit import GroupCommit
from broker.sqlite_file import Fault, fault_of
from broker.sqlite_store import SqliteStore, StoreInUse, StoreTooNew, stored_state
from gateway import data_directory, disk_space, kept_ledger, replacement
from gateway.auth import new_key, secret_hash
from gateway.data_directory import BROKER, LEDGER
from gateway.device_topics import DEFAULT_APP
from gateway.keys import insert_key
from gateway.nodes.membership import Membership
from gateway.program import PROGRAM
from gateway.roles import SCOPES
from gateway.settings import Settings
from gateway.store.access.apps import add_app, app_number
from gateway.store.app_locks import EVERY_APP
from gateway.store.connections import first_damage
from gateway.store.database import Database
from gateway.store.errors import DRIVER_ERRORS, OutcomeUnknown, StorageBusy, StorageError, StorageUnreachable
from gateway.store.migrations import HEAD, MigrationFailed, NoSchema, SchemaTooNew, SchemaUnsuitable
from gateway.store.nodes.broker_sessions import SharedSessionStore
from gateway.store.nodes.brought_sessions import SLICE_SESSIONS, bring_sessions, is_whole
from gateway.store.nodes.leases import LeaseConnection
from gateway.store.server_time import TOLD_MS, StoredClock, WallClock
from gateway.store.transaction import Transaction
from gateway.timestamps import wall_time

if TYPE_CHECKING:  # its driver is an extra
    from gateway.store.postgresql.server import PostgresqlServer

log = logging.getLogger(__name__)

NOT_MIGRATED = (SchemaTooNew, NoSchema, MigrationFailed, kept_ledger.NoRoomToKeep)


START_RETRY_SECONDS = 0.5
"""Time between two attempts of a node that starts to reach its database."""


class CannotStart(Exception):
    """One line for a person: what is wrong, and the remedy."""


class MayStartLater(CannotStart):
    """Refusal of a start that may work later, by itself: a service manager tries again."""


@dataclass(slots=True, frozen=True)
class OpenStores:
    """The two databases and the clock that continues theirs."""

    database: Database
    sessions: GroupCommit
    clock: Callable[[], float]
    """Server time in seconds, for the broker."""
    clock_ms: Callable[[], int]
    """Server time in milliseconds, for the gateway."""
    wall_clock: WallClock | None
    """The wall clock's follower. None: the clock runs faster, and is nobody's on a wall."""
    stopped_at: int = 0
    """The last server time that an earlier run has stored, in milliseconds; 0: there was none."""
    membership: Membership | None = None
    """This node among those that share the database. None: the server has it alone."""
    shared_sessions: SharedSessionStore | None = None
    """`sessions` of a node, which are in the database as well. None: they are in a file of the server's own."""


async def open_stores(settings: Settings, ending: AsyncExitStack) -> OpenStores:
    """Open both files, migrated; `ending` closes them. The ledger first, so that beside anything else it is missing,
    and not yet there. Raises CannotStart."""
    data_dir = settings.data_dir
    ledger = data_dir / LEDGER
    in_postgresql = settings.database is not None
    if settings.clock_speed != 1 and (bool(data_directory.traces(data_dir)) if in_postgresql else ledger.exists()):
        raise _no_faster_clock(f"{data_dir} holds data already, and a faster clock is for a fresh data directory")
    clock: ServerClock
    sessions: GroupCommit
    stored_clock: StoredClock

    def clock_ms() -> int:
        return int(clock() * 1000)

    def make_clock(stored: StoredClock) -> Callable[[], int]:
        nonlocal clock, sessions, stored_clock
        if settings.clock_speed != 1 and stored.last_ms:
            raise _no_faster_clock("the database holds a ledger already, and a faster clock is for a fresh one")
        stored_clock = stored
        own_time = 0.0
        if shared_sessions is None:
            sessions = own_sessions = _open_sessions(data_dir, is_new=stored.last_ms == 0)
            ending.push_async_callback(sessions.close)
            own_time = own_sessions.last_time()
        clock = _server_clock(stored, own_time, settings.clock_speed, membership)
        return clock_ms

    membership: Membership | None = None
    shared_sessions: SharedSessionStore | None = None

    async def join(backend: PostgresqlServer) -> None:
        nonlocal membership, sessions, shared_sessions
        if settings.node_url is not None:
            membership = await Membership.join(backend.connect_lease(), data_dir, settings.node_url)
            ending.push_async_callback(membership.end)
            backend.share(membership.writer_epoch)
            await asyncio.to_thread(_bring_sessions, data_dir / BROKER, backend.connect_lease())
            from gateway.store.postgresql.session_store import PostgresqlSessions

            loop = asyncio.get_running_loop()
            sessions = shared_sessions = await PostgresqlSessions.open(backend, membership.writer_epoch, loop)
            ending.push_async_callback(sessions.close)

    if settings.database is None:
        is_new = is_new_directory(data_dir)
        opening = Database.open(ledger, make_clock, on_full=lambda: disk_space.release(data_dir), fresh=is_new)
    else:
        traces = data_directory.traces(data_dir)
        opening = _open_postgresql(settings.database, ledger, traces, settings.node_url is not None, make_clock, join)
    try:
        database = await opening
    except (*NOT_MIGRATED, StorageError, OSError, *DRIVER_ERRORS) as error:
        raise refusal(ledger, error) from error
    ending.push_async_callback(database.close)
    sessions.keep_time(clock)
    wall_clock = None
    if settings.clock_speed == 1:
        origin_ms = round(clock.boot_origin * 1000)
        if membership is None:
            wall_clock = WallClock(database, clock_ms, origin_ms, stored_clock, wall_time)
        else:
            wall_clock = WallClock(
                database, clock_ms, origin_ms, stored_clock, wall_time, membership.wall_seconds,
                goes_on=None if membership.line is None else True, is_keeper=membership.is_first,
            )  # fmt: skip
        wall_clock.start()
        if wall_clock.ahead_ms < -TOLD_MS:
            log.warning(
                "stored times are %s s ahead of the machine's clock, and are shown by that clock: if it is right, stop"
                " the server and run `%s doctor --mend-clock`", f"{-wall_clock.ahead_ms // 1000:,}", PROGRAM,
            )  # fmt: skip
    if membership is not None:
        membership.store_time_of(clock_ms, clock.advance)
    return OpenStores(
        database, sessions, clock, clock_ms, wall_clock, stored_clock.last_ms, membership, shared_sessions
    )


def _server_clock(
    stored: StoredClock, last_of_sessions: float, speed: float, membership: Membership | None
) -> ServerClock:
    """Server time of this run, which goes on from earlier ones; of a node, with that of the nodes that serve."""
    last = stored.last_ms / 1000
    if membership is not None and membership.line is not None:
        # Sessions of another line, from before this was a node, must not pull all others after it.
        return ServerClock(last, speed, membership.line.boot_origin)
    if stored.is_of_this_boot and stored.boot_origin_ms is not None:
        origin: float | None = stored.boot_origin_ms / 1000
    else:
        origin = None if membership is None else membership.wall_seconds() - boottime()
    return ServerClock(max(last, last_of_sessions), speed, origin)


async def wait_for_database(settings: Settings, stopping: asyncio.Event) -> bool:
    """Wait until PostgreSQL answers, or refuses for good, which the start explains; False: `stopping` came first.

    A node that has lost its lease because its database is away starts again, and is there when that is.
    """
    try:
        from gateway.store.postgresql.address import BadAddress
        from gateway.store.postgresql.server import PostgresqlServer
    except ImportError:
        return True
    url = settings.database
    assert url is not None, "a node has one"
    is_told = False
    while not stopping.is_set():
        try:
            await asyncio.to_thread(lambda: PostgresqlServer(url).connect_reader(for_apps=False).close())
        except StorageUnreachable as error:
            if not is_told:
                log.warning("waiting for PostgreSQL: %s", error)
                is_told = True
        except (BadAddress, StorageError):
            return True
        else:
            return True
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), START_RETRY_SECONDS)
    return False


async def _open_postgresql(
    url: str,
    ledger: Path,
    traces: list[str],
    has_nodes: bool,
    make_clock: Callable[[StoredClock], Callable[[], int]],
    join: Callable[[PostgresqlServer], Awaitable[None]],
) -> Database:
    """Raises CannotStart, MayStartLater. No message repeats the address: it has a password in it."""
    data_dir = ledger.parent
    if ledger.exists():
        raise CannotStart(
            f"--database: {data_dir} holds a ledger of its own ({LEDGER}): `{PROGRAM} migrate-store` copies it, and"
            " then it has to be moved away; or choose another --data-dir, or start without --database"
        )
    try:
        from gateway.store.postgresql.address import BadAddress
        from gateway.store.postgresql.server import PostgresqlServer
    except ImportError as error:
        raise CannotStart(f"--database: {error}; install the extra: pip install 'fleetpush[postgresql]'") from error
    try:
        backend = await asyncio.to_thread(PostgresqlServer.open, url, fresh=not traces, has_nodes=has_nodes)
        await join(backend)
        database = await Database.over(backend, ledger, make_clock, on_full=lambda: False)  # its disk is not ours
    except NoSchema as error:
        raise CannotStart(
            f"--database: {error}, and {data_dir} holds {', '.join(traces)} of an earlier server: name the database of"
            " that server; to begin anew, choose another --data-dir"
        ) from error
    except (StorageUnreachable, StorageBusy) as error:
        raise MayStartLater(f"--database: {error}") from error
    except (BadAddress, SchemaTooNew, SchemaUnsuitable, MigrationFailed, StorageError) as error:
        raise CannotStart(f"--database: {error}") from error
    data_directory.write_private(data_dir / data_directory.POSTGRESQL_FILE, f"{backend.name}\n")
    return database


def _no_faster_clock(why: str) -> CannotStart:
    return CannotStart(f"--clock-speed: {why}: choose another --data-dir, and with --database another database")


def is_new_directory(data_dir: Path) -> bool:
    """May the ledger be made? Raises CannotStart where it is missing."""
    traces = data_directory.traces(data_dir)
    ledger = data_dir / LEDGER
    _require_regular_file(ledger)
    if traces and (not ledger.exists() or ledger.stat().st_size == 0):
        raise CannotStart(_without_ledger(data_dir, traces))
    return not traces


def _open_sessions(data_dir: Path, *, is_new: bool) -> SqliteStore:
    path = data_dir / BROKER
    try:
        _require_regular_file(path)
        if not is_new and not path.exists():
            log.warning("%s is missing: sessions begin anew, and devices subscribe again", path)
        return SqliteStore(path, asyncio.get_running_loop())
    except (StoreTooNew, StoreInUse, OSError, *DRIVER_ERRORS) as error:
        raise refusal(path, error) from error


def _bring_sessions(path: Path, connection: LeaseConnection) -> None:
    """Bring the sessions that this server had alone to those that nodes share, once. Raises CannotStart, StorageError.

    The file is kept under another name; one server alone would begin without sessions.
    """
    if not path.exists():
        return
    try:
        stored = stored_state(path).sessions
    except (StoreTooNew, OSError, *DRIVER_ERRORS) as error:
        raise refusal(path, error) from error
    whole = [session for session in stored if is_whole(session)]
    with closing(connection):
        for at in range(0, len(whole), SLICE_SESSIONS):
            connection.run(partial(bring_sessions, sessions=whole[at : at + SLICE_SESSIONS]))
    path.rename(path.with_name(f"{path.name}.before-nodes"))
    log.info("%d of %d sessions are the nodes' now; the other devices subscribe again", len(whole), len(stored))


def finish_restore(data_dir: Path) -> None:
    """Carry out a restore that was decided and then interrupted. Raises CannotStart."""
    try:
        if replacement.finish(data_dir):
            log.warning("a restore had been interrupted: %s is as its backup was now", data_dir)
    except OSError as error:
        raise CannotStart(
            f"{data_dir}: a restore was interrupted and cannot be finished: {error.filename}: {error.strerror}; "
            "mend that, and start again"
        ) from None


async def first_start(data_dir: Path, stored: OpenStores) -> Path | None:
    """Make the app `default` and its admin key if there is none; where the key is. Raises CannotStart."""
    if await stored.database.read(lambda transaction: app_number(transaction, DEFAULT_APP)) is not None:
        return None
    key = new_key()
    path = data_dir / data_directory.KEY_FILE
    now_ms = stored.clock_ms()

    def make(transaction: Transaction) -> bool:
        if app_number(transaction, DEFAULT_APP) is not None:  # another node has started meanwhile
            return False
        add_app(transaction, DEFAULT_APP, now_ms)
        insert_key(transaction, DEFAULT_APP, "first start", SCOPES, secret_hash(key), now_ms)
        return True

    try:
        data_directory.write_private(path, key + "\n")
        if not await stored.database.write(make, apps=EVERY_APP):
            path.unlink()
            return None
    except (OSError, StorageError) as error:
        raise refusal(path if isinstance(error, OSError) else data_dir / LEDGER, error) from error
    return path


# -- what is wrong, and the remedy -------------------------------------------------------------------------------------


def refusal(path: Path, error: Exception) -> CannotStart:
    """Explain why `path` cannot be used, and what to do about it."""
    match error:
        case CannotStart():
            return error
        case SchemaTooNew():
            return CannotStart(f"{path.parent}: {error}: {_way_back(path.parent)}")
        case StoreTooNew():
            return CannotStart(
                f"{error}: start the newer version again, or move that file away: then sessions begin anew, devices "
                "subscribe again, and what waits for them is in the ledger"
            )
        case MigrationFailed() | kept_ledger.NoRoomToKeep():
            return CannotStart(f"{path}: {error}")
        case NoSchema():
            return CannotStart(f"{path}: {error}; {_begin_anew(path.parent)}")
        case StorageUnreachable():
            return MayStartLater(f"--database: {error}")
        case OutcomeUnknown() if data_directory.ledger_in_postgresql(path.parent) is not None:
            return MayStartLater(f"--database: PostgreSQL did not confirm a commit ({error})")
        case StoreInUse():
            return CannotStart(f"{path.parent} is in use by another server: stop that, or choose another --data-dir")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            fault: Fault | None = Fault.FULL
        case OSError():
            fault = Fault.FORBIDDEN
        case StorageError():
            fault = error.fault
        case _:
            fault = fault_of(error)
    if fault is Fault.FORBIDDEN and _is_full(path.parent):
        fault = Fault.FULL  # SQLite says of a file that it cannot make only that it cannot be opened
    return CannotStart(f"{path}: {_explained(path, fault, _reason(error))}")


def _explained(path: Path, fault: Fault | None, reason: str) -> str:
    match fault:
        case Fault.FULL:
            return f"the disk is full ({reason}): free some space and start again; nothing that was accepted is lost"
        case Fault.LOCKED:
            return f"another program keeps it locked (`fuser -v {path}` shows which): end that, and start again"
        case Fault.FORBIDDEN:
            return f"it cannot be opened: {_obstacle(path) or reason}"
        case Fault.UNSYNCED | Fault.FAILED:
            return f"the disk fails ({reason}): have it looked at, and start again; the file may be sound"
        case Fault.DAMAGED:
            return (
                f"it is damaged ({reason}): have the disk looked at, then restore a backup (`{PROGRAM} restore FILE "
                "--force` keeps what is there aside)"
            )
    return f"it cannot be used: {reason}; `{PROGRAM} doctor` looks closer"


def _without_ledger(data_dir: Path, traces: list[str]) -> str:
    place = data_directory.ledger_in_postgresql(data_dir)
    if place is not None:
        return f"{data_dir}: its ledger is in PostgreSQL ({place}): start it with --database, or choose another one"
    return (
        f"{data_dir} holds {', '.join(traces)} of an earlier server, and its ledger ({LEDGER}) is missing or empty: "
        + _begin_anew(data_dir)
    )


def _way_back(data_dir: Path) -> str:
    """Explain how to go on with an earlier version than the one that wrote the ledger."""
    command = f"{PROGRAM} restore {{}} --force --data-dir {data_dir}"
    kept = next((path for path in kept_ledger.kept_ledgers(data_dir) if kept_ledger.schema_of(path) <= HEAD), None)
    if kept is None:
        return f"start that version, or restore a backup made before the upgrade (`{command.format('FILE')}`)"
    return (
        "start that version, or go back to the ledger from before its upgrade, without what was accepted since: "
        f"`{command.format(kept)}`"
    )


def _begin_anew(data_dir: Path) -> str:
    return (
        f"put the ledger back, or restore a backup (`{PROGRAM} restore FILE --force --data-dir {data_dir}`); to begin "
        "anew, with other keys and no devices, move what is there away, or choose another --data-dir"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(getattr(error, "orig", None) or error)


def _require_regular_file(path: Path) -> None:
    """Refuse a folder, a socket and the like in a file's place; reading some of them never ends. Raises CannotStart."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise refusal(path, error) from None
    if not stat.S_ISREG(mode):
        raise CannotStart(f"{path} is no file: {_kind(mode)}; move it away, or choose another --data-dir")


def _kind(mode: int) -> str:
    names = {stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe"}
    return names.get(stat.S_IFMT(mode), "a device")


def _obstacle(path: Path) -> str | None:
    """Find what keeps a database from being read and written, with the remedy."""
    for place in (path.parent, path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        try:
            found = place.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{place}: {error.strerror}"
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            return f"{place} is on a read-only disk: make it writable, or choose another --data-dir"
        if not os.access(place, os.R_OK | os.W_OK | (os.X_OK if place == path.parent else 0)):
            return (
                f"{place} belongs to {_user(found.st_uid)} (mode {stat.S_IMODE(found.st_mode):04o}), and this is "
                f"{_user(os.geteuid())}: start the server as its owner, `chown -R` the data directory to "
                "who starts it, or choose another --data-dir"
            )
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _is_full(folder: Path) -> bool:
    disk = os.statvfs(folder)
    return disk.f_bavail == 0 or (disk.f_files > 0 and disk.f_favail == 0)


def damage(data_dir: Path) -> str | None:
    """Find what is wrong in the databases, by SQLite's own check, with the remedy. It is for a start that failed in a
    way nobody thought of."""
    for path in (data_dir / LEDGER, data_dir / BROKER):
        try:
            found = first_damage(path)
        except FileNotFoundError:
            continue
        except (*DRIVER_ERRORS, OSError) as error:
            return str(refusal(path, error))
        if found is not None:
            return f"{path}: {_explained(path, Fault.DAMAGED, found)}"
    return None
