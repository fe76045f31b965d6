"""Segments that caps have limits for: which devices are in them, in memory, as of some minutes ago at most.

Whether an alert may be handed over is decided by the writer, one device at a time: an expression, which may ask for the
receipts of a hundred thousand devices, has no place there. So the segments that caps name are searched in the
background, on a reader and in the turn of their app, and the decision is a look at a set.

Laws
1. A segment is searched before caps that name it are stored, so that nobody is held to the limits of others meanwhile.
2. What a cap has held back is not looked at again because a device comes into a segment, but when it was told.
3. One that cannot be searched (it takes too long, or too much waits) stays as it was; one that was removed is empty.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from pyroaring import BitMap

from gateway.errors import Problem, problem

log = logging.getLogger(__name__)

MAX_CAP_SEGMENTS = 20
"""Segments that the caps of an app name at most: each takes up to 128 KiB of memory for a million devices."""
LOOK_SECONDS = 60.0
"""Time between two searches for the devices of a segment, and more where they take long."""
REST_FACTOR = 4
"""Pause after a search, as a multiple of the time that it took: a fifth of a reader at most."""
START_SECONDS = 5.0
"""Time that a start waits for the segments; those that are left are searched soon after."""
_NOBODY = BitMap()


class CapSegments:
    """Keeps the devices of the segments that caps name. Loop, but for `members`.

    `search` finds the devices of a segment of an app now. Raises Problem 404, 422, 503.
    """

    def __init__(self, search: Callable[[int, str], Awaitable[BitMap]]) -> None:
        self._search = search
        self._devices: dict[tuple[int, str], BitMap] = {}
        """By app and name. A set is replaced, and never changed."""

    def members(self, app_no: int, name: str) -> BitMap:
        """The numbers of the devices in a segment. Any thread."""
        return self._devices.get((app_no, name), _NOBODY)

    async def prepare(self, app_no: int, names: Iterable[str], others: Iterable[str]) -> None:
        """Search segments that caps are about to name. Raises Problem 404, 422, 503.

        `others`: those that the app's other caps name.
        """
        wanted = set(names)
        if len(wanted.union(others)) > MAX_CAP_SEGMENTS:
            raise problem("invalid_request", f"the caps of an app name at most {MAX_CAP_SEGMENTS} segments")
        for name in sorted(wanted):
            self._devices[app_no, name] = await self._search(app_no, name)

    async def load(self, wanted: Mapping[int, Iterable[str]]) -> None:
        """Search all segments that caps name, for some seconds. Before the first connection."""
        try:
            await asyncio.wait_for(self._search_all(wanted, 0), START_SECONDS)
        except TimeoutError:
            log.warning("segments that caps name are searched for longer: some devices have the limits of others")

    async def run(self, wanted: Callable[[], Mapping[int, Iterable[str]]]) -> None:
        """Search them again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.refresh(wanted())

    async def refresh(self, wanted: Mapping[int, Iterable[str]]) -> None:
        """Search all segments that caps name, and forget the others."""
        kept = {(app_no, name) for app_no, names in wanted.items() for name in names}
        for key in self._devices.keys() - kept:
            del self._devices[key]
        await self._search_all(wanted, REST_FACTOR)

    async def _search_all(self, wanted: Mapping[int, Iterable[str]], rest_factor: float) -> None:
        for app_no, names in wanted.items():
            for name in names:
                began = time.monotonic()
                try:
                    self._devices[app_no, name] = await self._search(app_no, name)
                except Problem as error:
                    if error.status == 404:
                        self._devices[app_no, name] = _NOBODY
                except Exception as error:
                    log.warning("the segment %r of app %d cannot be searched: %s", name, app_no, error)
                await asyncio.sleep(rest_factor * (time.monotonic() - began))
