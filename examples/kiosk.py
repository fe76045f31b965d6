"""A kiosk: it shows notifications, has one button, obeys one command, and tells the server what happened.

    fleetpush devices add kiosk-1 --json > kiosk-1.json      # where the key is: the file has the device's token
    python3 kiosk.py kiosk-1.json                            # where the kiosk is, with fleetpush installed
    fleetpush push kiosk-1 'Fresh bread' --action play

A line on standard input is a touch of the button with this name (`play`). The end of the input ends the kiosk.
"""

from __future__ import annotations

import json
import ssl
import sys
from pathlib import Path

from client_sim.device import Device
from client_sim.push import Push

file = Path(sys.argv[1])
enrolled = json.loads(file.read_text())
mqtt = enrolled["mqtt"]
on_screen: Push | None = None


def show(push: Push) -> None:
    """Called for one push after the other. The push counts as handled when this returns, and not before."""
    global on_screen
    if not push.notification:
        return  # data for the program: there is nothing to show
    print(*(push.notification[part] for part in ("title", "body") if part in push.notification), sep=": ", flush=True)
    on_screen = push
    device.displayed(push)  # kept on disk at once, and sent when there is a connection


def show_connection(state: str, detail: str) -> None:
    print(f"[{state}] {detail}", file=sys.stderr, flush=True)


device = Device(
    enrolled["device_id"],
    enrolled["token"],
    host=mqtt["host"],
    port=mqtt["port"],
    tls=ssl.create_default_context() if mqtt["tls"] else None,  # (cafile="ca.pem") for a CA of your own
    journal=file.with_suffix(".db"),  # remembers what was handled: one effect per push, also across a power cut
    on_push=show,
    on_state=show_connection,
)


@device.action("play")
def play(push: Push) -> dict[str, str]:
    """Called when a person touches the button. The sender gets what this returns."""
    return {"state": "playing"}


@device.command("volume")
def volume(push: Push) -> dict[str, int]:
    """Called for a push of the kind `command` with the data `{"command": "volume", "percent": 40}`."""
    percent = min(100, max(0, int(push.data["percent"])))  # an error is sent as the result, and ends nothing
    return {"percent": percent}


with device:  # connects in the background, and comes back by itself for as long as the program runs
    device.report({"program": "kiosk.py"})  # a fact about itself, among the device's attributes on the server
    for line in sys.stdin:
        if on_screen is not None and line.strip():
            print(device.act(on_screen, line.strip()), flush=True)
