"""The apps whose rows an operation may write, and the locks that a group of operations takes for them.

Several nodes over one database are one writer after the other for each app: a group takes the locks of all its apps
before its first statement, and has them until its commit. So an operation that reads a set, changes it and writes it
back loses no change of another node, and the numbers within an app rise in the order of commits (decision 10). One
server over its own file or schema takes none, and nothing here costs it anything.

An operation that does not say its apps writes those of every app: that is right, and stops every node for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, NamedTuple, Protocol, TypeAlias

MOST_APPS: Final = 256
"""Apps of one group, more of which are every app: PostgreSQL has room for some 6,400 locks of all connections together
(`max_locks_per_transaction` 64 × `max_connections` 100), and when that is full nobody gets one, of a table neither."""


class EveryApp(Enum):
    """The type of `EVERY_APP`."""

    EVERY_APP = "every app"


EVERY_APP: Final = EveryApp.EVERY_APP
"""Rows of any app, those that will be made included."""
NO_APP: Final[frozenset[int]] = frozenset()
"""Rows of no app: of the server or node itself, or of a connection."""
Apps: TypeAlias = frozenset[int] | EveryApp
"""Numbers of apps; 0 is the server's own (`delivery/heartbeats`)."""
DeclaredApps: TypeAlias = Apps | Callable[[], Apps] | None
"""What is said of an operation: its apps; or what is asked for them on the writer thread before its group begins, more
than once if it is run again, and only where there are nodes; or nothing."""


class Declared(Protocol):
    """An operation for the writer, as it was declared."""

    app_no: int | None
    apps: DeclaredApps
    is_shared: bool


class AppLocks(NamedTuple):
    """The locks of a group."""

    apps: Apps
    """The apps that it may write: nobody else writes or reads them on a writer meanwhile."""
    shared: frozenset[int]
    """The apps that it reads only, which nobody may write meanwhile. None of `apps`."""


NO_LOCKS: Final = AppLocks(NO_APP, NO_APP)


def apps_of(declared: DeclaredApps, app_no: int | None) -> Apps:
    """Return the apps whose rows an operation may write that was declared so, in the turn of this app or of none.

    Writer thread, unless nothing has to be asked.
    """
    if callable(declared):
        return declared()
    if declared is not None:
        return declared
    return EVERY_APP if app_no is None else frozenset((app_no,))


def with_app(declared: DeclaredApps, app_no: int | None, besides: int | None) -> DeclaredApps:
    """Return what is to be declared of an operation that may write rows of the app `besides`, too, if that is one."""
    if besides is None or (declared is None and app_no == besides):
        return declared

    def both() -> Apps:
        apps = apps_of(declared, app_no)
        return apps if apps is EVERY_APP else apps | {besides}

    return both


def locks_for(operations: Iterable[Declared]) -> AppLocks:
    """Return the locks that a group of these operations needs."""
    written: set[int] = set()
    shared: set[int] = set()
    for operation in operations:
        apps = apps_of(operation.apps, operation.app_no)
        if apps is EVERY_APP:
            return AppLocks(EVERY_APP, NO_APP)
        (shared if operation.is_shared else written).update(apps)
    if len(written | shared) > MOST_APPS:
        return AppLocks(EVERY_APP, NO_APP)
    return AppLocks(frozenset(written), frozenset(shared - written))
