"""New pushes of all nodes: read from the database, and handed to those of their devices that are connected here.

A node's own pushes go from group commit to socket without being read back, as long as no other node has stored any of
their app in between. Everything else comes from here: a few times a second, and when another node says that there is
something, what was stored behind a position is read for each app that has devices here.

Laws
1. Each push is handed out once, and those of an app in the order of their numbers: there is one position for each app,
   which rises over what was handed out, and one read at a time. An own push whose app had another push stored between
   the position and it waits for the read, and is handed out by that (promise 2: order per device and priority).
2. Nobody is missed. A device is here from CONNECT on, and gets nothing before its mailbox was read; what that had is
   not above `DeviceConnection.read_to`. So the devices are chosen when the read is back: who connects later has what
   was read in its mailbox. A mailbox that was read before something was stored, and comes back after that was handed
   out, is read once more. The position of an app begins with the first mailbox of one of its devices.
3. Nothing comes twice: `HandOver` asks `read_to` and `ActivePush.sent`, as for what is accepted here.
4. A push with a ttl of 0 is handed out within OFFER_MS of its acceptance or not at all, and ends for those of its
   devices that are here and had no room. The sweep ends what is left, once no node can hand it out any more.
5. A read is bounded in pushes, deliveries and bytes (`read_new_pushes`, LOADED_BYTES). What is for nobody here is not
   loaded.

Everything but the reads runs on the loop. With one server none of this is made.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from pyroaring import BitMap

from gateway.audience.policy import CRITICAL, PolicyStore
from gateway.delivery.alert_limiter import AlertLimiter
from gateway.delivery.hand_over import HandOver
from gateway.delivery.heartbeat_states import SERVER_APP
from gateway.delivery.ledger import Ledger
from gateway.delivery.push import ActivePush, load_pushes
from gateway.delivery.submission import PendingPush
from gateway.delivery_handles import by_push
from gateway.delivery_states import DeliveryState
from gateway.store.database import Database
from gateway.store.nodes.new_pushes import NewPush, NewPushesPage, read_new_pushes

log = logging.getLogger(__name__)

OFFER_MS = 2_000
"""Time after its acceptance in which a push of ttl 0 may be handed out by any node: a few reads, and a pause of one."""
LOADED_BYTES = 16 * 1024 * 1024
"""Wire payload of the pushes that are loaded together, or of one."""


class NewPushes:
    """Hands out what all nodes store, as far as its devices are here. Loop.

    `online_of` counts the connected devices by app; `clock_ms` gives server time in milliseconds; `elsewhere` gives
    the devices that are connected to other nodes, as far as is known.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        hand_over: HandOver,
        alert_limiter: AlertLimiter,
        policies: PolicyStore,
        online_of: Mapping[int, int],
        clock_ms: Callable[[], int],
        elsewhere: Callable[[], BitMap],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._hand_over = hand_over
        self._alert_limiter = alert_limiter
        self._policies = policies
        self._online_of = online_of
        self._clock_ms = clock_ms
        self._elsewhere = elsewhere
        self._positions: dict[int, int] = {}
        """App number -> the last of its pushes that was handed out here. The first is read first."""
        self._left_to_read: set[int] = set()
        """Apps of which the operation that is being called back has pushes that the next read hands out."""
        self._under_way = False
        self._has_failed = False
        """The last read could not be made, which was logged."""
        self._unread_since: int | None = None
        """Server time in milliseconds since which a read has been asked for, and none has come back; None: one has."""
        self._is_nudged = False
        """Something may have been stored since the read that is under way."""
        self._found: deque[NewPush] = deque()
        """What was read, for devices here, and was not handed out yet; in the order of hand-over."""
        self._loaded: dict[int, ActivePush] = {}
        """Pushes of those that were loaded, by number."""
        self._reached: dict[int, int] = {}
        self._ended: dict[int, BitMap] = {}
        """What has ended on disk since the read under way began: devices by push number."""
        self.reads = 0
        """Reads that were made, those of loading not counted."""
        ledger.limited = True  # another node may store some at any time
        ledger.offer_ms = OFFER_MS
        hand_over.reader.follow(lambda: partial(self.begin, asked_at=dict(self._positions)))

    def begin(self, newest: Mapping[int, int], asked_at: Mapping[int, int]) -> Collection[int]:
        """Begin to follow apps of which mailboxes were read: app number -> the newest push that these could have had.

        Answers the apps of which later pushes have been handed out while the mailboxes were on their way here.
        `asked_at`: the positions when they were asked for. One that has not moved since is not later, though its push
        may have left, and the newest that is left be one before.
        """
        for app_no, push_no in newest.items():
            if app_no not in self._positions:
                self._positions[app_no] = push_no
                if app_no != SERVER_APP:
                    # What is limited is not in the page, and was looked for when the device came, or before.
                    self._alert_limiter.check_app(app_no)
        behind = [
            app_no
            for app_no, push_no in newest.items()
            if self._positions[app_no] > push_no and self._positions[app_no] != asked_at.get(app_no)
        ]
        return newest if SERVER_APP in behind else behind

    def tick(self) -> None:
        """Read what is new. Called a few times a second."""
        if not self._under_way:
            self._forget_apps()
        self.nudge()

    def nudge(self) -> None:
        """Read what is new, now or when the read that is under way has ended."""
        if self._under_way:
            self._is_nudged = True
        elif self._positions:
            self._read()

    def behind_seconds(self) -> float:
        """Return the seconds for which a read has been asked for, and none has come back; 0: nothing is to be read."""
        if self._unread_since is None or not self._positions:
            return 0.0
        return max(self._clock_ms() - self._unread_since, 0) / 1000

    def told(self, app_no: int, last_push_no: int, push_nos: Sequence[int]) -> None:
        """Learn from another node that it has stored pushes of an app for devices here."""
        position = self._positions.get(app_no)
        if position is not None and position < last_push_no:
            self.nudge()

    def _forget_apps(self) -> None:
        """Follow an app no longer when none of its devices is here: its next one begins with its mailbox."""
        here = {app_no for app_no in self._positions if self._online_of.get(app_no, 0)}
        if len(here) < len(self._positions):
            self._positions = {
                app_no: push_no
                for app_no, push_no in self._positions.items()
                if app_no in here or (app_no == SERVER_APP and here)
            }

    # -- own pushes ------------------------------------------------------------------------------------------------

    def accepted(self, before: Mapping[int, int], pending_pushes: Iterable[PendingPush]) -> None:
        """Take note of pushes that were stored here, before they are handed out. `before`: the newest push of each of
        their apps before them."""
        last = {pending.app.no: pending.push_no for pending in pending_pushes if pending.push_no}
        self._left_to_read.clear()
        for app_no, push_no in last.items():
            position = self._positions.get(app_no)
            if position is None:  # nobody is here who is handed anything at once
                continue
            if before[app_no] == position:
                self._positions[app_no] = push_no
            else:
                self._left_to_read.add(app_no)
        if self._left_to_read:
            self.nudge()

    def is_left_to_read(self, pending: PendingPush, now_ms: int) -> bool:
        """Whether an own push is handed out by the next read.

        One of ttl 0 is for devices that are here alone from now on: to others their own node hands it, or nobody.
        """
        connected = self._hand_over.connected
        is_left = pending.app.no in self._left_to_read
        if pending.ttl and not is_left:
            return False
        devices = pending.devices if isinstance(pending.devices, BitMap) else BitMap(pending.devices)
        here = devices & connected
        if not pending.ttl:
            away = devices - here
            if gone := away - self._elsewhere():
                self._ledger.end_devices(pending.push_no, pending.app.no, gone, DeliveryState.EXPIRED, "ttl")
            pending.devices = here if isinstance(pending.devices, BitMap) else list(here)
        if is_left and here:
            self._ledger.pushes.add(pending.active_push(now_ms, here))  # so that it need not be loaded
        return is_left

    # -- reads -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._under_way = True
        self._is_nudged = False
        if self._unread_since is None:
            self._unread_since = self._clock_ms()
        self.reads += 1
        self._database.read_new(
            partial(read_new_pushes, positions=dict(self._positions)),
            self._on_read,
            self._on_error,
        )

    def _on_error(self, error: BaseException) -> None:
        if not self._has_failed:  # not four times a second while the database is away
            log.error("new pushes cannot be read, trying again: %s", error)
        self._has_failed = True
        self._found.clear()
        self._is_nudged = False
        self._end_read({})

    def _on_read(self, page: NewPushesPage) -> None:
        self._has_failed = False
        if page.more:
            self._is_nudged = True
        connected = self._hand_over.connected
        for push in page.pushes:
            if push.no <= self._positions[push.app_no]:
                continue  # an own one, handed out meanwhile
            here, limited = push.devices & connected, push.limited & connected
            if here or limited:
                self._found.append(push._replace(devices=here, limited=limited))
        self._reached = page.reached
        self._hand_out()

    def _hand_out(self) -> None:
        """Hand out what was found, up to the first that has to be loaded, and load that and the next."""
        accepted: list[tuple[ActivePush, Sequence[int]]] = []
        try:
            self._collect_known(accepted)
            if self._found:
                self._load()
        except Exception as error:  # of one push, or this node would read nothing any more
            self._pass_over(error)
        if accepted:
            self._hand_over.fan_out(accepted)
        if not self._found:
            self._end_read(self._reached)

    def _collect_known(self, accepted: list[tuple[ActivePush, Sequence[int]]]) -> None:
        """Collect what was found, up to the first that has to be loaded."""
        now_ms = self._clock_ms()
        while self._found:
            found = self._found[0]
            is_late = not found.ttl and now_ms - found.accepted_at >= OFFER_MS
            if is_late or found.no <= self._positions[found.app_no]:  # it was an own one
                self._found.popleft()
                continue
            devices = found.devices
            if self._ended and found.no in self._ended:
                devices = devices - self._ended[found.no]
            if devices:
                push = self._known(found.no, devices)
                if push is None:
                    break
                accepted.append((push, list(devices)))
            if found.limited:
                self._check_limited(found)
            self._positions[found.app_no] = found.no
            self._found.popleft()

    def _pass_over(self, error: Exception) -> None:
        """Leave the first of what was found to the mailboxes of its devices, and read what comes after it anew."""
        found = self._found[0]
        log.error(
            "push %d cannot be handed out here: its devices get it when they connect again",
            found.no, exc_info=error,
        )  # fmt: skip
        self._positions[found.app_no] = max(self._positions[found.app_no], found.no)
        self._found.clear()
        self._reached = {}
        self._is_nudged = True

    def _known(self, push_no: int, devices: BitMap) -> ActivePush | None:
        """The push of that number, if it is in memory with the texts that these devices get."""
        for push in (self._ledger.pushes.get(push_no), self._loaded.get(push_no)):
            if push is not None and (push.texts is None or devices.issubset(push.texts.covered)):
                return push
        return None

    def _check_limited(self, found: NewPush) -> None:
        """Have the alert limiter check a push for those of its devices for which it is limited."""
        devices = list(found.limited)
        is_muted = found.priority == CRITICAL and not self._policies.is_limited(found.app_no, found.kind, found.channel)
        add = self._alert_limiter.add_muted if is_muted else self._alert_limiter.add
        add(found.no, devices, found.ttl)

    def _load(self) -> None:
        wanted: list[int] = []
        devices = BitMap()
        room = LOADED_BYTES
        app_no = self._found[0].app_no
        for found in self._found:
            if found.app_no != app_no:
                break
            try:
                is_wanted = found.devices and self._known(found.no, found.devices) is None
            except Exception:
                if wanted:
                    break  # it is the first when these have been handed out, and is passed over then
                raise
            if is_wanted:
                if wanted and found.size > room:
                    break
                wanted.append(found.no)
                devices |= found.devices
                room -= found.size
        self._database.read_new(
            lambda transaction: load_pushes(transaction, wanted, devices), self._on_loaded, self._on_error
        )

    def _on_loaded(self, loaded: list[ActivePush]) -> None:
        if not loaded or loaded[0].no != self._found[0].no:  # the first one is always loaded, unless it has left
            self._found.popleft()
        self._loaded = {push.no: push for push in loaded}
        self._hand_out()

    def _end_read(self, reached: Mapping[int, int]) -> None:
        for app_no, push_no in reached.items():
            # Apps that had something are read after the others the next time.
            self._positions[app_no] = max(self._positions.pop(app_no), push_no)
        self._reached, self._loaded, self._ended = {}, {}, {}
        self._under_way = False
        if not self._has_failed:
            self._unread_since = None
        if self._is_nudged:
            self.nudge()

    # -- what has ended meanwhile ----------------------------------------------------------------------------------

    def withdraw(self, handles: list[int]) -> None:
        """Take deliveries that have ended on disk out of what is being handed out."""
        self._hand_over.withdraw(handles)
        if self._under_way:
            for push_no, devices in by_push(handles).items():
                self._ended.setdefault(push_no, BitMap()).update(BitMap(devices))

    def withdraw_devices(self, ended: Sequence[tuple[int, BitMap]]) -> None:
        """Take what has ended on disk as sets out of what is being handed out: (push number, devices) each."""
        self._hand_over.withdraw_devices(ended)
        if self._under_way:
            for push_no, devices in ended:
                self._ended.setdefault(push_no, BitMap()).update(devices)
