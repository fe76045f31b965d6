"""Connections of devices: what the engine says of them, and who is online.

Every connected device has a `DeviceConnection` here, by client and by number, from CONNECT to the end of its
connection. What it can take is handed over by `hand_over`; what becomes of it goes to the ledger.

Everything here runs on the loop, but for the statements that it gives to the writer.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from pyroaring import BitMap

from gateway.auth import DeviceIdentity
from gateway.delivery.connections_elsewhere import ConnectionsElsewhere, LiveConnection, Presence
from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery.engine import (
    ACKNOWLEDGED,
    COMPLETED,
    LOST,
    MOVED,
    UNHANDLED,
    Engine,
    Message,
    ReasonCode,
)
from gateway.delivery.hand_over import HandOver
from gateway.delivery.ledger import Ledger
from gateway.delivery.mailbox_reader import DeviceConnection, HandOverState
from gateway.delivery.push import ActivePush, load_pushes
from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK
from gateway.device_topics import client_id as client_id_of
from gateway.device_topics import device_topic
from gateway.store.app_locks import EVERY_APP, NO_APP, Apps
from gateway.store.audience.devices import principals_without_device
from gateway.store.deliveries.ledger_statements import ENDED_DELIVERIES, revoke_removed_rows, revoke_rows
from gateway.store.protocols import Writer
from gateway.store.transaction import Transaction


class DeviceConnections:
    """The connected devices, and the engine's events about them (`EngineEvents`). Loop.

    `clock_ms` gives server time in milliseconds. `on_published` and `on_released` take what devices say; `on_connected`
    and `on_disconnected` are not called for side connections; `on_revoked` is called when a credential is void.
    `elsewhere` answers for other nodes; None: there are none.
    """

    def __init__(
        self,
        *,
        database: Writer,
        ledger: Ledger,
        activity: DeviceActivity,
        clock_ms: Callable[[], int],
        hand_over: HandOver,
        on_published: Callable[[str, DeviceIdentity | None, Message, Callable[[int], None], int | None], None],
        on_released: Callable[[str, Sequence[int], Callable[[], None]], None],
        on_connected: Callable[[DeviceIdentity, int], None],
        on_disconnected: Callable[[DeviceIdentity, int, str, str], None],
        on_revoked: Callable[[], None],
        elsewhere: ConnectionsElsewhere | None,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._activity = activity
        self._clock_ms = clock_ms
        self._hand_over = hand_over
        self.elsewhere = elsewhere
        self._engine: Engine
        self._by_client: dict[str, DeviceConnection] = {}
        self._identities: dict[str, DeviceIdentity] = {}
        self.online_of: defaultdict[int, int] = defaultdict(int)
        """Connected devices, by app."""
        self._exactly_once: dict[int, str] = {}
        self._interrupted: set[int] = set()
        """Handles of QoS 2 that were in flight when the last run was killed. What was in flight before them with QoS 1
        waits on disk, so they are not repeated first, but when their mailbox is read."""
        self._on_published, self._on_released = on_published, on_released
        self._on_connected, self._on_disconnected = on_connected, on_disconnected
        self._on_revoked = on_revoked

    def connect(
        self,
        *,
        engine: Engine,
        on_ready: Callable[[int, bool], None],
        on_returned: Callable[[int, str, str], None],
    ) -> None:
        """Connect to the components that are made later; once, before the first push.

        `engine` carries the messages: deliveries past PUBREC before a restart are in flight from here on. `on_ready` is
        called with the device number when a device can take pushes, for the first time on this connection (True) or
        again; `on_returned` the first time only, with device number, app id and device id.
        """
        self._hand_over.connect(engine)
        self._engine, self._on_ready, self._on_returned = engine, on_ready, on_returned

    async def recover(self, *, is_alone: bool = True) -> None:
        """Tell the ledger what the engine still holds after a restart; before the first connection.

        It is in flight and cannot be handed over again. Sessions and deliveries of devices whose removal was
        interrupted go. `is_alone`: what was in flight otherwise was so here, and not at another node.
        """
        for principal in await self._sessions_without_device():
            self._engine.remove_session(principal, lambda: None)
        now_ms = self._clock_ms()
        while await self._database.write(lambda transaction: revoke_removed_rows(transaction, now_ms)):
            pass
        if not is_alone:
            return
        held = self._engine.past_pubrec()
        await self._ledger.recover([handle for _, handle in held])
        for client_id, handle in await self.note_held(held, self._engine.unfinished()):
            self._engine.forget(client_id, handle)

    async def note_held(self, held: Sequence[tuple[str, int]], interrupted: Iterable[int]) -> list[tuple[str, int]]:
        """Tell the ledger of deliveries past PUBREC (client and handle) in sessions that come from the store.

        `interrupted`: handles of QoS 2 whose connection has ended with its server. Answers which of `held` are of no
        push any more, and to be forgotten.
        """
        self._interrupted |= set(interrupted)
        if not held:
            return []
        numbers = {handle >> DEVICE_BITS for _, handle in held}
        devices = {handle & DEVICE_MASK for _, handle in held}
        while found := await self._database.write(
            lambda transaction: load_pushes(transaction, numbers, devices), apps=NO_APP
        ):
            for push in found:
                self._ledger.pushes.add(push)
                numbers.discard(push.no)
        unknown = []
        for client_id, handle in held:
            held_push = self._ledger.pushes.get(handle >> DEVICE_BITS)
            if held_push is None:  # the push left by retention: nothing to record
                unknown.append((client_id, handle))
            else:
                held_push.sent.add(handle & DEVICE_MASK)
        return unknown

    async def _sessions_without_device(self) -> list[str]:
        """Principals of stored sessions without a device: it was removed, and a kill came in between."""
        principals = self._engine.principals()
        if not principals:
            return []
        return await self._database.write(partial(principals_without_device, principals=principals), apps=NO_APP)

    def is_subscribed(self, app_id: str, device_id: str, leaf: str) -> bool:
        """Whether the device is connected and has subscribed to that topic of its own."""
        topic = device_topic(app_id, device_id, leaf)
        name = client_id_of(app_id, device_id)
        return name in self._by_client and self._engine.granted_qos(name, topic) is not None

    # -- engine events ---------------------------------------------------------------------------------------------

    def connected(self, client_id: str, identity: object, session_present: bool) -> None:
        assert isinstance(identity, DeviceIdentity), "the authenticator attaches it"
        self._identities[client_id] = identity
        now_ms = self._clock_ms()
        self._activity.seen(identity, now_ms)
        if client_id != identity.client_id:
            return  # a side connection: publishes only
        device = DeviceConnection(
            client_id=client_id,
            device_no=identity.device_no,
            app_no=identity.app_no,
            topic=device_topic(identity.app_id, identity.device_id, "push"),
            connected_at=now_ms,
            deliver=self._engine.deliver_to(client_id),
        )
        self.online_of[identity.app_no] += client_id not in self._by_client
        self._by_client[client_id] = device
        self._hand_over.devices[identity.device_no] = device
        self._hand_over.connected.add(identity.device_no)
        self._activity.connected(identity, now_ms)
        self._hand_over.reader.count_connection(now_ms)
        self._on_connected(identity, now_ms)

    def disconnected(self, client_id: str, reason: str, detail: str = "") -> None:
        identity = self._identities.pop(client_id, None)
        device = self._by_client.pop(client_id, None)
        if device is not None:
            self.online_of[device.app_no] -= 1
            self._hand_over.reader.pause(device, HandOverState.CLOSED)
            self._hand_over.devices.pop(device.device_no, None)
            self._hand_over.connected.discard(device.device_no)
        if identity is not None:
            self._activity.seen(identity, self._clock_ms())
            if device is not None:
                self._on_disconnected(identity, device.connected_at, reason, detail)

    def ready(self, client_id: str, send_quota: int) -> None:
        device = self._by_client.get(client_id)
        if device is None:
            return
        granted = self._engine.granted_qos(client_id, device.topic)
        if granted is None:
            self._hand_over.reader.pause(device, HandOverState.CLOSED)
            return
        device.granted = granted
        first = device.state is HandOverState.CLOSED
        self._on_ready(device.device_no, first)
        if first:
            identity = self._identities[client_id]
            self._on_returned(device.device_no, identity.app_id, identity.device_id)
        if device.state is HandOverState.CLOSED or device.state is HandOverState.FULL:
            self._hand_over.reader.start(device)

    def delivery_ended(self, client_id: str, handle: int, outcome: int) -> None:  # Hot path.
        if outcome == ACKNOWLEDGED:
            self._ledger.acknowledged(handle >> DEVICE_BITS, handle & DEVICE_MASK, 1)
        elif outcome == COMPLETED:
            self._exactly_once[handle] = client_id
            self._ledger.acknowledged(handle >> DEVICE_BITS, handle & DEVICE_MASK, 2)
        elif outcome == LOST:
            self._interrupted.discard(handle)  # it was handed over in this run
            self._ledger.lost(handle >> DEVICE_BITS, handle & DEVICE_MASK)
        elif outcome == UNHANDLED:
            self._interrupted.discard(handle)
            self._ledger.unhandled(handle >> DEVICE_BITS, handle & DEVICE_MASK)
        elif outcome == MOVED:
            self._ledger.moved(handle >> DEVICE_BITS, handle & DEVICE_MASK)
        else:
            self._ledger.refused(handle >> DEVICE_BITS, handle & DEVICE_MASK, outcome)

    def resume(
        self, client_id: str, handles: Sequence[int], done: Callable[[Mapping[int, Message | None]], None]
    ) -> None:
        device = self._by_client.get(client_id)
        if device is None:
            done({})
            return

        def resumed(alive: list[int], loaded: list[ActivePush]) -> None:
            if self._by_client.get(client_id) is not device:
                done({})
                return
            found = {push.no: push for push in loaded}
            for no in {handle >> DEVICE_BITS for handle in alive} - found.keys():
                present = self._ledger.pushes.get_for(no, device.device_no)
                if present is None:  # it was in memory when it was checked, and is not any more
                    self.resume(client_id, handles, done)
                    return
                found[no] = present
            now_ms = self._clock_ms()
            messages: dict[int, Message | None] = {}
            for handle in alive:
                push = self._ledger.pushes.add(found[handle >> DEVICE_BITS])
                if self._ledger.is_recalled(push) or push.expires_at <= now_ms:
                    continue
                if handle in self._interrupted:
                    messages[handle] = None
                    continue
                push.sent.add(handle & DEVICE_MASK)
                messages[handle] = Message(topic=device.topic, body=push.body(now_ms, device.device_no), qos=push.qos)
            done(messages)

        self._ledger.end_stale(list(handles), resumed, self._engine.awaiting_pubrec(client_id), device.device_no)

    def published(
        self, client_id: str, message: Message, done: Callable[[int], None], identifier: int | None = None
    ) -> None:
        self._on_published(client_id, self._identities.get(client_id), message, done, identifier)

    def released(self, client_id: str, identifiers: Sequence[int], done: Callable[[], None]) -> None:
        self._on_released(client_id, identifiers, done)

    def recorded(self, handles: list[int]) -> None:
        for handle in handles:
            client_id = self._exactly_once.pop(handle, None)
            if client_id is not None:
                self._engine.forget(client_id, handle)

    # -- commands --------------------------------------------------------------------------------------------------

    def presence(self, device_no: int) -> Presence:
        """Whether a device is connected to this node."""
        device = self._hand_over.devices.get(device_no)
        if device is None:
            return Presence(False, None, None)
        return Presence(True, device.connected_at, self._identities[device.client_id].peer)

    async def presences(self, device_nos: Sequence[int]) -> dict[int, Presence]:
        """Return whether each of these devices is connected, to any node."""
        found = {device_no: self.presence(device_no) for device_no in device_nos}
        if self.elsewhere is not None:
            away = [device_no for device_no, presence in found.items() if not presence.online]
            found.update(await self.elsewhere.presences(away))
        return found

    async def online_of_app(self, app_no: int) -> int:
        """Count the connected devices of an app, of all nodes."""
        here = self.online_of.get(app_no, 0)
        return here if self.elsewhere is None else here + await self.elsewhere.online_of(app_no)

    def connection(self, device_no: int) -> LiveConnection | None:
        """The connection of a device, with what the engine knows of it; None of one that is away."""
        device = self._hand_over.devices.get(device_no)
        if device is None:
            return None
        name = device.client_id
        facts = self._engine.connection_facts(name)
        granted, in_flight = self._engine.granted_qos(name, device.topic), self._engine.in_flight(name)
        return LiveConnection(device.connected_at, self._identities[name].peer, facts, granted, in_flight)

    def online_devices(self, app_no: int) -> list[int]:
        return [device.device_no for device in self._by_client.values() if device.app_no == app_no]

    def apps_of(self, device_nos: Iterable[int]) -> Apps:
        """The apps of these devices; every app, if one is not connected. Any thread."""
        devices = [self._hand_over.devices.get(device_no) for device_no in device_nos]
        if None in devices:
            return EVERY_APP
        return frozenset([device.app_no for device in devices if device is not None])

    def online_set(self) -> BitMap:
        """The numbers of the connected devices of all apps and nodes, in microseconds."""
        here = self.connected_here()
        return here if self.elsewhere is None else here | self.elsewhere.devices()

    def connected_here(self) -> BitMap:
        """The numbers of the devices that are connected to this node."""
        return self._hand_over.connected.copy()

    @property
    def online(self) -> int:
        return len(self._by_client)

    async def remove_device(
        self,
        device_no: int,
        client_id: str,
        forget_device: Callable[[Transaction, int], None],
        app_no: int | None = None,
    ) -> int:
        """Remove a device: `forget_device(transaction, now_ms)` and the end of its first deliveries are one commit.

        Then its connections are closed and its session is deleted, on disk too: who enrols the id again after a crash
        must not find it; and what else waits for it ends, after a kill at the next start. How many ended `revoked`.
        """
        self._ledger.flush()
        now_ms = self._clock_ms()

        def operation(transaction: Transaction) -> int:
            forget_device(transaction, now_ms)
            return revoke_rows(transaction, device_no, now_ms)

        revoked = await self._database.write(operation, app_no)
        forgotten = asyncio.Event()
        self._engine.remove_session(client_id, forgotten.set)
        self.disconnect_device(client_id, ReasonCode.ADMINISTRATIVE_ACTION)
        await forgotten.wait()
        more = revoked
        while more == ENDED_DELIVERIES:
            more = await self._database.write(lambda transaction: revoke_rows(transaction, device_no, now_ms), app_no)
            revoked += more
        return revoked

    def forget_device(self, client_id: str) -> None:
        """Close the connections of a device that another node has removed, and delete its session."""
        self._engine.remove_session(client_id, lambda: None)
        self.disconnect_device(client_id, ReasonCode.ADMINISTRATIVE_ACTION)

    def disconnect_device(self, client_id: str, reason_code: int = ReasonCode.NOT_AUTHORIZED) -> int:
        """Close all connections of a device, side connections included, and let nobody in who was looked up before.

        Its token was rotated, or it was removed: that is on disk.
        """
        self._on_revoked()
        return self._engine.disconnect(client_id, reason_code)
