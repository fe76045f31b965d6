"""`fleetpush listen`: a device in a terminal. Draws each push, lets a person answer it by a key, sends the receipts.

Enrols itself when it has no credential and keeps the token in a file that only its user may read. Keys are read one by
one from a terminal and line by line from anything else, so that a script can press them too; at the end of its input it
keeps listening.

The device itself is the reference client, `client_sim.device.Device`; what it can do is play, pause and next, as the
action of a push and as a command.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from gateway.cli.options import DataDir, ServerUrl, client_of, found_data_dir
from gateway.cli.player import Player
from gateway.cli.server_client import (
    REMEDY_OF_DISTRUST,
    RequestRefused,
    ServerClient,
    segment,
    server_here,
    tls_context,
)
from gateway.cli.terminal import (
    PROGRAM,
    Failure,
    action_choices,
    draw_notification,
    fail,
    is_terminal,
    json_text,
    note,
)
from gateway.data_directory import write_private
from gateway.printable import UNPRINTABLE, printable

if TYPE_CHECKING:
    from client_sim.credential import Credential as EnrolledCredential
    from client_sim.device import Device
    from client_sim.push import Push
    from client_sim.trust import TrustedKeys

OPEN_KEY, DISMISS_KEY, MUTE_KEY, CONSENT_KEY, QUIT_KEY = "o", "d", "m", "c", "q"
DEFAULT_ID = "terminal"
ESCAPE = "\x1b"
BACKSPACE = "\x08\x7f"
LONGEST_INPUT_CHARACTERS = 1_000
"""Characters of an answer in words; the server takes 4 KiB of JSON."""
OPEN_PUSHES = 100
"""Unanswered pushes that keys still reach; a screenful and more. Of more the oldest is dismissed: `screen_full`."""


def listen(
    device_id: Annotated[str, typer.Argument(metavar="[ID]", help="The device to be")] = DEFAULT_ID,
    rotate: Annotated[bool, typer.Option("--rotate", help="Take a new token for a device that exists")] = False,
    answer: Annotated[str | None, typer.Option(metavar="ACTION", help="Execute this action without asking")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many pushes")] = None,
    code: Annotated[
        str | None, typer.Option(metavar="CODE", help="Enrol with the code of an invitation, or its address; no key")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="The token is lost: ask for another, and wait for an operator; no key")
    ] = False,
    app: Annotated[str, typer.Option(help="The device's application, for --again")] = "default",
    mqtt5: Annotated[bool, typer.Option("--mqtt5", help="Speak MQTT 5.0 instead of 3.1.1")] = False,
    trust: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Obey commands signed by these keys only (`signing show`)")
    ] = None,
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per push")] = False,
) -> None:
    """Be a device: show each push, answer it by a key, send receipts. Enrols itself if need be: with the key of the
    command line, or with a `--code`, whose token it keeps: the same command again goes on with that."""
    from client_sim.backoff import Backoff
    from client_sim.device import Device
    from client_sim.push import unsigned_command

    keyless = code is not None or again
    if keyless:
        if rotate or (again and code is not None):
            fail("--rotate is for who has a key, --code and --again for who has none: choose one of them", 2)
        own, folder = (
            enrol_again(device_id, app, server, data_dir)
            if code is None
            else enrol_by_code(code, server, data_dir, None if device_id == DEFAULT_ID else device_id)
        )
        device_id, token = own.device_id, own.token
        where: dict[str, Any] = {**own.device_options()}
    else:
        with client_of(server, data_dir) as client:
            credential, folder = load_or_enrol(client, device_id, rotate=rotate)
            # On the server's own machine what it does now counts, whatever it did when the device was enrolled.
            secure = client.tls is not None if client.found_in is not None else credential.tls
            context = client.tls or tls_context(None)
            host, port = client.mqtt_address(credential.host, credential.port)
        device_id, token = credential.device_id, credential.token
        where = {"host": host, "port": port, "app": credential.app, "tls": context if secure else None}
    trusted = None if trust is None else trusted_keys(trust, folder / f"{device_id}.jwk")
    screen = Screen(device_id, as_json=as_json, count=count, answer=answer)
    device = Device(
        device_id,
        token,
        **where,
        journal=folder / f"{device_id}.db",
        on_push=screen.show,
        on_interrupted=screen.interrupted,
        on_state=screen.state,
        on_notice=screen.notice,
        mqtt5=mqtt5,
        backoff=Backoff(base=0.5, cap=15.0),
        trusted_keys=trusted,
    )
    if trusted is not None and trusted.encryption_key is not None:
        device.report({"encryption_key": trusted.encryption_key})
        note(f"The fingerprint of its key for what is encrypted: {trusted.encryption_key['kid']}")
    screen.device = device
    for name in ("play", "pause", "next"):
        # They are commands of this device, too: with pinned keys no button, which nobody signs, gives one.
        device.actions[name] = screen.play(name) if trusted is None else unsigned_command
    with device:
        read_keys(screen.press, screen.finished)
    if screen.refused is not None and keyless:
        fail(
            f"the server refused {device_id} ({screen.refused}): its token is void. It needs another code, or asks for "
            f"a new token: {PROGRAM} listen {device_id} --again"
        )
    if screen.refused is not None:
        fail(
            f"the server refused {device_id} ({screen.refused}). If its token was rotated or the device removed, "
            f"take a new one: {PROGRAM} listen {device_id} --rotate"
        )


def trusted_keys(pinned: Path, encryption_key: Path) -> TrustedKeys:
    """The keys that the device is to obey. Raises Failure."""
    from client_sim.trust import TrustedKeys

    try:
        return TrustedKeys(pinned, encryption_key=encryption_key)
    except (OSError, ValueError) as error:
        raise Failure(f"{error}. `{PROGRAM} signing show KEY > {pinned}` writes such a file", 2) from error


def enrol_by_code(
    code: str, server: str | None, data_dir: Path | None, device_id: str | None
) -> tuple[EnrolledCredential, Path]:
    """Trade a code for a credential, and keep it in a folder of the server; or load the one that it was traded for."""
    from client_sim.enrolment import CodeAddress, enrol
    from client_sim.errors import EnrolmentFailed

    try:
        ca = None
        if server is None and "#" not in code:
            server, ca = server_here(found_data_dir(data_dir))
        elif authority := os.environ.get("FLEETPUSH_CA"):
            ca = Path(authority).read_text()
        label = CodeAddress.parse(code, server)
        folder = folder_of(label.server)
        # By its hash: a code lets somebody in until it is used.
        file = folder / f"code-{hashlib.sha256(label.code.encode()).hexdigest()[:16]}.json"
        about = {} if device_id is None else {"device_id": device_id}
        return enrol(code, file, server=server, ca=ca, about=about), folder
    except (EnrolmentFailed, ValueError, OSError) as error:
        raise Failure(str(error)) from None


def enrol_again(device_id: str, app: str, server: str | None, data_dir: Path | None) -> tuple[EnrolledCredential, Path]:
    """Ask for a new token until an operator has confirmed it, and keep it in a folder of the server."""
    from client_sim.enrolment import ask_again
    from client_sim.errors import EnrolmentFailed

    ca = None
    try:
        if server is None:
            server, ca = server_here(found_data_dir(data_dir))
        elif authority := os.environ.get("FLEETPUSH_CA"):
            ca = Path(authority).read_text()
        folder = folder_of(server)
        shown: set[str] = set()

        def wait(confirmation: str) -> None:
            if confirmation not in shown:
                shown.add(confirmation)
                note(f"{device_id} asks for a new token. An operator who sees {confirmation} in the list confirms it:")
                note(f"    {PROGRAM} devices requests")

        found = ask_again(
            folder / f"again-{segment(app)}-{segment(device_id)}.json",
            server=server,
            device_id=device_id,
            app=app,
            ca=ca,
            on_pending=wait,
        )
        return found, folder
    except (EnrolmentFailed, ValueError, OSError) as error:
        remedy = "" if ca is not None or "is not trusted" not in str(error) else f": {REMEDY_OF_DISTRUST}"
        raise Failure(f"{error}{remedy}") from None


@dataclass(frozen=True)
class Credential:
    """A device's credential, as enrolment answered it and a file keeps it."""

    device_id: str
    token: str
    mqtt: dict[str, Any]

    @property
    def host(self) -> str:
        return str(self.mqtt["host"])

    @property
    def port(self) -> int:
        return int(self.mqtt["port"])

    @property
    def tls(self) -> bool:
        return bool(self.mqtt.get("tls"))

    @property
    def app(self) -> str:
        return str(self.mqtt["topics"]["push"]).split("/", 1)[0]


def credential_folder(client: ServerClient) -> Path:
    """Beside the server's data on its own machine (gone with it), else a folder per server in the user's data home."""
    if client.found_in is not None:
        return client.found_in / "listen"
    return folder_of(client.url)


def folder_of(url: str) -> Path:
    """The folder for credentials of a server that is not on this machine, or that nobody has looked for."""
    home = os.environ.get("XDG_DATA_HOME")
    base = Path(home) if home else Path.home() / ".local" / "share"
    server = urlsplit(url)
    return base / "fleetpush" / "listen" / f"{server.hostname}-{server.port or server.scheme}"


def load_or_enrol(
    client: ServerClient, device_id: str, *, rotate: bool, command: str = "listen"
) -> tuple[Credential, Path]:
    """The credential, and the folder it is kept in. `command` is the one that asks, for its words to the person."""
    path = credential_folder(client) / f"{segment(device_id)}.json"
    if not rotate:
        try:
            return Credential(**json.loads(path.read_text())), path.parent
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            raise Failure(f"{path} cannot be used ({error}); delete it, or take a new token with --rotate") from error
    answer = rotated(client, device_id) if rotate else None
    if answer is None:
        try:
            answer = client.call("POST", "/v1/devices", json={"device_id": device_id, "name": f"fleetpush {command}"})
        except RequestRefused as refusal:
            if refusal.code != "device_exists":
                raise
            raise Failure(
                f"device {device_id} is enrolled already and its token is not here ({path}). To be this device, take "
                f"a new token, which ends the old one: {PROGRAM} {command} {device_id} --rotate"
            ) from refusal
        note(f"Enrolled {device_id}; its token is kept in {path}")
    credential = Credential(answer["device_id"], answer["token"], answer["mqtt"])
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, json.dumps(asdict(credential)) + "\n")
    return credential, path.parent


def rotated(client: ServerClient, device_id: str) -> dict[str, Any] | None:
    """A new token; None when there is no such device (any more)."""
    try:
        answer: dict[str, Any] = client.call("POST", f"/v1/devices/{segment(device_id)}/token")
    except RequestRefused as refusal:
        if refusal.code != "device_not_found":
            raise
        return None
    note(f"New token for {device_id}; the old one is void")
    return answer


class Screen:
    """The pushes on display, newest last; keys answer the newest that has not been answered."""

    def __init__(self, device_id: str, *, as_json: bool, count: int | None, answer: str | None) -> None:
        self.device_id = device_id
        self.device: Device | None = None
        self.finished = threading.Event()
        self.refused: str | None = None
        self._as_json = as_json
        self._remaining = count
        self._answer = answer
        self._player = Player()
        self._open: list[Push] = []
        self._typing: tuple[Push, str, str] | None = None
        """The answer that is being typed: the push, the action and its label."""
        self._typed = ""
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._shown_state = ""

    def show(self, push: Push) -> dict[str, Any] | None:
        """The device's on_push; of a command, the result."""
        assert self.device is not None, "set before the device starts"
        with self._lock:
            if self._as_json:
                print(json_text(push.message), flush=True)
            else:
                draw_notification(f"{self.device_id}  {datetime.now().astimezone():%H:%M:%S}", push.message)
            if push.kind in ("alert", "in_app"):
                self.device.displayed(push)
                labels = dict(action_choices(push.message).values())
                if push.collapse_key is not None:
                    self._dismiss([old for old in self._open if old.collapse_key == push.collapse_key], "collapse_key")
                if self._answer in labels:
                    self._act(push, str(self._answer), labels[str(self._answer)])
                else:
                    self._open.append(push)
                    self._dismiss(self._open[:-OPEN_PUSHES], "screen_full")
                    self._dismiss_expired()
                    if not self._as_json:
                        note(self._hint(push))
            if self._remaining is not None:
                self._remaining -= 1
                if self._remaining <= 0:
                    self.finished.set()
            return self._obey(push) if push.kind == "command" else None

    def interrupted(self, push: Push) -> None:
        """The device's on_interrupted."""
        note(f"push {printable(push.push_id)} was begun by an earlier {PROGRAM} listen, which ended before it was done")

    def play(self, name: str) -> Callable[[Push], dict[str, Any] | None]:
        """The handler of an action."""
        return lambda push: self._player.do(name)

    def _obey(self, push: Push) -> dict[str, Any]:
        """Carry out a command by its name, `{"command": "play"}`."""
        name = push.command
        if name is None:
            return {"error": "unknown command"}
        result = self._player.do(name) or {"error": f"unknown command {name!r}"}
        note(f"command {printable(name)}: {printable(describe(result))}")
        return result

    def _act(self, push: Push, action: str, label: str, text: str | None = None) -> None:
        assert self.device is not None, "there is a push, so there is a device"
        result = self.device.act(push, action, text)
        # What this device cannot do is an answer all the same: the sender is told which one was chosen.
        note(f"{printable(label)}: {printable(describe(result)) if result is not None else 'answered'}")

    def _remove(self, push_ids: list[str]) -> list[str]:
        """Take pushes that are not to be answered any more off the screen; the titles of those that were there."""
        gone = [push for push in self._open if push.push_id in push_ids]
        self._open = [push for push in self._open if push not in gone]
        if self._typing is not None and self._typing[0] in gone:
            self._typing, self._typed = None, ""
        return [title_of(push) for push in gone]

    def _dismiss(self, pushes: list[Push], reason: str) -> None:
        """Take pushes off the screen that no person answers any more, and tell the sender why."""
        assert self.device is not None, "there is a push, so there is a device"
        for push in pushes:
            self.device.dismissed(push, reason)
        self._remove([push.push_id for push in pushes])

    def _dismiss_expired(self) -> None:
        """Dismiss pushes whose lifetime is over, and wait for the next one: one timer for all."""
        left = {push.push_id: push.leaves_screen_in for push in self._open}
        over = [push for push in self._open if (seconds := left[push.push_id]) is not None and seconds <= 0]
        self._dismiss(over, "ttl")
        for push in over:
            note(f"no longer valid: {printable(title_of(push))}")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if waiting := [seconds for seconds in left.values() if seconds is not None and seconds > 0]:
            self._timer = threading.Timer(min(waiting), self._timer_is_up)
            self._timer.daemon = True
            self._timer.start()

    def _timer_is_up(self) -> None:
        with self._lock:
            self._dismiss_expired()

    def _hint(self, push: Push) -> str:
        keys = [f"{key} {printable(label)}" for key, (_, label) in action_choices(push.message).items()]
        keys += [f"{OPEN_KEY} open", f"{DISMISS_KEY} dismiss"]
        if push.channel is not None:
            keys.append(f"{MUTE_KEY} mute {printable(push.channel)}")
        return "   " + "   ".join([*keys, f"{QUIT_KEY} quit"])

    def press(self, key: str) -> None:
        with self._lock:
            if self._typing is not None:
                self._type(key)
                return
            if key.isspace():
                return
            if key == QUIT_KEY:
                self.finished.set()
                return
            if key == CONSENT_KEY:
                self._change_mind()
            if not self._open:
                return
            assert self.device is not None, "there is a push, so there is a device"
            push = self._open[-1]
            if key == OPEN_KEY:
                # It stays: what was opened can still be acted on.
                self.device.opened(push)
                note("opened")
            elif key == DISMISS_KEY:
                self.device.dismissed(push)
                self._open.pop()
                note("dismissed")
            elif key == MUTE_KEY and push.channel is not None:
                wanted = not self.device.channels.get(push.channel, True)
                self.device.set_channels({push.channel: wanted})
                note(f"{printable(push.channel)}: {'on again' if wanted else 'muted'}; {MUTE_KEY} changes it back")
            elif key in (choices := action_choices(push.message)):
                action, label = choices[key]
                question = push.choice(action).get("input")
                if isinstance(question, str):
                    self._typing, self._typed = (push, action, label), ""
                    note(f"{printable(question)} (Enter sends, Esc goes back)")
                    return
                self._act(push, action, label)
                self._open.pop()

    def _type(self, key: str) -> None:
        """A key of an answer in words. An empty one is none: the end of the line that chose it is a key as well."""
        assert self._typing is not None, "asked before"
        shown = is_terminal() and not self._as_json
        if key == ESCAPE:
            self._typing = None
            note("\nnot answered" if shown else "not answered")
        elif key in BACKSPACE:
            self._typed = self._typed[:-1]
        elif key not in "\r\n":
            self._typed = (self._typed + key)[:LONGEST_INPUT_CHARACTERS] if not UNPRINTABLE.search(key) else self._typed
        elif text := self._typed.strip():
            push, action, label = self._typing
            self._typing = None
            if shown:
                note("")
            self._act(push, action, label, text)
            self._open = [other for other in self._open if other is not push]
        if shown and self._typing is not None:
            print(f"\r\x1b[K> {self._typed}", end="", file=sys.stderr, flush=True)

    def _change_mind(self) -> None:
        """Alerts or none: what the person says is told to the server, now or when there is a connection."""
        assert self.device is not None, "there are keys, so there is a device"
        consent = "denied" if self.device.consent == "granted" else "granted"
        self.device.set_consent(consent, "listen-1")
        note(f"consent {consent}: {'alerts come' if consent == 'granted' else 'no alerts any more'}; "
             f"{CONSENT_KEY} changes it back")  # fmt: skip

    def notice(self, notice: dict[str, Any]) -> None:
        """The device's on_notice."""
        if self._as_json:
            print(json_text(notice), flush=True)
        if notice.get("type") == "clear":
            cleared = notice.get("push_ids")
            with self._lock:
                for title in self._remove(cleared if isinstance(cleared, list) else []):
                    if not self._as_json:
                        note(f"withdrawn: {printable(title)}")
        elif not self._as_json and notice.get("type") == "gap":
            reasons = notice.get("reasons")
            counted = reasons.items() if isinstance(reasons, dict) else ()
            words = ", ".join(f"{number} {printable(str(state))}" for state, number in counted)
            note(f"missed while away: {words or notice.get('count')}")

    def state(self, state: str, detail: str) -> None:
        """The device's on_state: one line per change, none per attempt."""
        if state == "refused":
            self.refused = detail
            self.finished.set()
        elif state in ("connected", "disconnected") and state != self._shown_state:
            self._shown_state = state
            where = f"{self.device_id} is {'listening' if state == 'connected' else 'disconnected; trying again'}"
            note(where + (f" ({detail})" if detail and state != "connected" else ""))


def title_of(push: Push) -> str:
    return str(push.notification.get("title") or push.notification.get("body"))


def describe(result: Any) -> str:
    """Format a result: `playing, Morning light`; text as it is."""
    return ", ".join(str(value) for value in result.values()) if isinstance(result, dict) else str(result)


def read_keys(press: Callable[[str], None], finished: threading.Event) -> None:
    """Feed keys to `press` until `finished`, a signal or a keyboard interrupt."""
    wake_read, wake_write = os.pipe()
    # The self-pipe makes both ends of the wait selectable: the event is set by other threads.
    threading.Thread(target=lambda: (finished.wait(), os.write(wake_write, b"!")), daemon=True).start()
    previous = signal.signal(signal.SIGTERM, lambda *_: finished.set())
    # Started in the background of a script, a process inherits that it ignores Ctrl-C, and Python leaves it so.
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    watched = [wake_read, sys.stdin.fileno()] if has_keys() else [wake_read]
    try:
        with single_keys():
            while not finished.is_set():
                ready, _, _ = select.select(watched, [], [])
                if len(watched) == 2 and watched[1] in ready:
                    data = os.read(watched[1], 256)
                    if not data:
                        watched.pop()  # end of input: keep listening
                    for key in decoder.decode(data):
                        press(key)
    except KeyboardInterrupt:
        finished.set()
    finally:
        signal.signal(signal.SIGTERM, previous)
        signal.signal(signal.SIGINT, interrupted)


def has_keys() -> bool:
    """Whether there are keys to read. A job in the background that reads its terminal is stopped (SIGTTIN)."""
    if sys.stdin is None or sys.stdin.closed:
        return False
    if not sys.stdin.isatty():
        return True
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal that controls no jobs of ours
        return True


@contextmanager
def single_keys() -> Iterator[None]:
    """A terminal that hands over each key at once, unechoed; put back afterwards."""
    if not (has_keys() and sys.stdin.isatty() and is_terminal()):
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
