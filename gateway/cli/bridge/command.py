"""The command: reads its options, starts the threads, and ends them in order."""

from __future__ import annotations

import os
import queue
import threading
import time
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from gateway.cli.bridge.bridge import Bridge, EventHappened, EventsLost, Inbox, NoDevices, ServerSide, event_types
from gateway.cli.bridge.bridge_options import BridgeOptions, BrokerAddress, broker_address
from gateway.cli.bridge.bridge_state import StateFile
from gateway.cli.bridge.bridged_devices import BridgedDevices
from gateway.cli.bridge.broker_connection import BrokerConnection
from gateway.cli.bridge.message_pushes import PushSender, Sign
from gateway.cli.bridge.topics import BridgeTopics
from gateway.cli.event_stream import follow
from gateway.cli.events import ended_by_signals
from gateway.cli.options import DataDir, ServerUrl, client_of, seconds_of
from gateway.cli.server_client import RequestRefused, ServerClient
from gateway.cli.signing import AppOption, SignWith, load_key, signed_body
from gateway.cli.terminal import Failure, note

LATEST_EVENT = str(2**53)
"""Where a bridge without a memory begins: behind every event there is, so that the server says at once where the last
one was, by `events.lost`. Then nothing is missed if the stream breaks off before the next event."""
MAX_WAITING_EVENTS = 1_000
"""Events in the inbox; the stream waits meanwhile."""
RETRY_SECONDS = 5.0
"""Time until a stream of events that cannot be had is asked for again."""
END_SECONDS = 2.0
"""Time for the last words to the broker."""
CLEAR_TIMEOUT_SECONDS = 60.0


def bridge(
    to: Annotated[str, typer.Option(metavar="mqtt://USER@HOST", help="Your own MQTT broker; mqtts:// with TLS")],
    device: Annotated[list[str] | None, typer.Option(help="Bridge this device; may be repeated")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Bridge devices with this tag; may be repeated")] = None,
    all_devices: Annotated[bool, typer.Option("--all-devices", help="Bridge all devices of the app")] = False,
    command: Annotated[
        list[str] | None,
        typer.Option(help="A command that may be ordered, if the device declares it; may be repeated. '*': all"),
    ] = None,
    notify: Annotated[bool, typer.Option("--notify", help="Notifications may be sent")] = False,
    discovery: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="Announce devices to Home Assistant below this topic: homeassistant"),
    ] = None,
    name: Annotated[str, typer.Option(help="Of this bridge: the first word of its topics")] = "fleetpush",
    refresh: Annotated[str, typer.Option(help="How often reports, names and removals are looked up")] = "30s",
    password_file: Annotated[
        Path | None, typer.Option(help="Password for the broker. Default: the variable FLEETPUSH_BRIDGE_PASSWORD")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file of who signed the broker's certificate")] = None,
    state: Annotated[Path | None, typer.Option(help="File in which the bridge remembers where it was")] = None,
    sign: SignWith = None,
    app: AppOption = "default",
    clear: Annotated[bool, typer.Option("--clear", help="Remove all topics of this bridge from the broker")] = False,
    server: ServerUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Bridge devices to your own MQTT broker and Home Assistant, until Ctrl-C or SIGTERM.

    Devices become retained topics, and messages become pushes. The key needs the scopes read and send."""
    refresh_seconds = seconds_of(refresh, "--refresh")
    if refresh_seconds < 1:
        raise Failure("--refresh: at least a second", 2)
    options = BridgeOptions(
        topics=BridgeTopics(name),
        devices=tuple(dict.fromkeys(device or ())),
        tags=tuple(dict.fromkeys(tag or ())),
        every_device=all_devices or clear,
        commands=tuple(dict.fromkeys(command or ())),
        notify=notify,
        discovery=None if discovery is None else discovery.rstrip("/"),
        refresh_seconds=refresh_seconds,
    )
    options.check()
    address = broker_address(to, password_file, ca)
    if address.shows_password:
        note("The password goes to the broker without TLS: mqtts:// hides it.")
    with client_of(server, data_dir) as client:
        state_file = StateFile(state or state_path(client, name))
        try:
            with ended_by_signals():
                if clear:
                    _clear(client, options, address, state_file)
                else:
                    _run(client, options, address, state_file, signer(sign, app))
        finally:
            state_file.close()


def signer(key: Path | None, app: str) -> Sign | None:
    """Return what signs commands with a key, if there is one. Raises Failure."""
    if key is None:
        return None
    load_key(key)
    return partial(signed_body, key=key, app=app, encrypt=False, device_keys=None)


def _run(
    client: ServerClient, options: BridgeOptions, address: BrokerAddress, state_file: StateFile, sign: Sign | None
) -> None:
    inbox: Inbox = queue.SimpleQueue()
    room = threading.Semaphore(MAX_WAITING_EVENTS)
    broker = BrokerConnection(address, options.topics, topic_filters(options), inbox.put)
    sender = PushSender(client, inbox.put, sign)
    bridge = Bridge(options, BridgedDevices(client, options), broker, sender, state_file, inbox, room)
    events = threading.Thread(
        target=follow_events,
        args=(client, event_types(options), bridge.state.cursor or LATEST_EVENT, inbox, room),
        name="bridge events",
        daemon=True,
    )
    broker.start()
    sender.start()
    events.start()
    try:
        bridge.run()
    except KeyboardInterrupt:
        pass  # how it is ended
    finally:
        bridge.shut_down(END_SECONDS)
        broker.close(END_SECONDS)


def _clear(client: ServerClient, options: BridgeOptions, address: BrokerAddress, state_file: StateFile) -> None:
    inbox: Inbox = queue.SimpleQueue()
    broker = BrokerConnection(address, options.topics, [], inbox.put)
    source: ServerSide = NoDevices()
    bridge = Bridge(
        options, source, broker, PushSender(client, inbox.put, None), state_file, inbox, threading.Semaphore()
    )
    bridge.ready_line = None
    broker.start()
    done = bridge.clear_all(CLEAR_TIMEOUT_SECONDS)
    broker.close(END_SECONDS)
    if not done:
        raise Failure(f"{address} did not take everything in {CLEAR_TIMEOUT_SECONDS:.0f} s: try again")


def topic_filters(options: BridgeOptions) -> list[str]:
    """Return the topic filters of messages for the bridge."""
    filters = []
    if options.notify:
        filters.append(options.topics.of_all_devices("notify"))
    if options.commands:
        filters.append(options.topics.of_all_devices("command/+"))
    return filters


def follow_events(client: ServerClient, types: str, cursor: str, inbox: Inbox, room: threading.Semaphore) -> None:
    """Put events into the inbox as they happen, for as long as the server lets this key."""
    while True:
        try:
            for event in follow(client, types, cursor):
                cursor = str(event["id"])
                room.acquire()
                inbox.put(EventHappened(event))
        except Failure as failure:
            final = isinstance(failure, RequestRefused) and not failure.retryable
            inbox.put(EventsLost(failure, final=final))
            if final:
                return
        time.sleep(RETRY_SECONDS)


def state_path(client: ServerClient, name: str) -> Path:
    """Return where a bridge of this name and server keeps its state: in the user's state home."""
    home = os.environ.get("XDG_STATE_HOME")
    base = Path(home) if home else Path.home() / ".local" / "state"
    address = urlsplit(client.url)
    return base / "fleetpush" / "bridge" / f"{address.hostname}-{address.port or address.scheme}" / f"{name}.json"
