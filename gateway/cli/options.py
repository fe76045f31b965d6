"""Options and formats that several commands share: the server, JSON output, times, values and changes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from gateway.cli.server_client import ServerClient
from gateway.cli.terminal import Failure, fail, is_terminal

if TYPE_CHECKING:
    from gateway.settings import Settings

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="The server's data directory. Default: ./fleetpush-data")
]
ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="FLEETPUSH_URL",
        help="The server's address, as http://HOST:PORT; its key is taken from FLEETPUSH_KEY",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for scripts")]
DeviceId = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id")]
PushId = Annotated[str, typer.Argument(metavar="PUSH_ID", help="The push's id")]
Values = Annotated[
    list[str] | None,
    typer.Option("--value", metavar="NAME=VALUE", help="What texts read as values.NAME; may be repeated"),
]
CapOption = Annotated[
    list[str] | None, typer.Option(metavar="COUNT/PERIOD", help="Alerts per hour, day or week: 8/day; may be repeated")
]
CapTag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TAG=COUNT/PERIOD", help="Devices with a tag are capped by this instead; vip=none: not at all"
    ),
]
CapSegment = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SEGMENT=COUNT/PERIOD", help="Devices in a saved segment are capped by this instead; silent=none: not"
    ),
]
Adaptive = Annotated[
    str | None,
    typer.Option(metavar="MIN-MAX", help="A cap that the channel sets itself, by who opts out: 1-8 alerts a day"),
]
CapExcess = Annotated[
    Literal["drop", "defer", "digest"] | None, typer.Option(help="What becomes of an alert over a cap. Default: drop")
]
QuietHours = Annotated[str | None, typer.Option(metavar="START-END", help="No alerts from 22:00-07:00")]
QuietExcess = Annotated[
    Literal["defer", "drop"] | None, typer.Option(help="What becomes of an alert in quiet hours. Default: defer")
]
MARKUP: Literal["rich"] | None = "rich" if is_terminal() else None
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
DURATION = re.compile(r"(\d+)([smhd]?)")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
ADAPTIVE = re.compile(r"(\d{1,9})-(\d{1,9})")
CAP = re.compile(r"(\d{1,9})/(hour|day|week)")
HOURS = re.compile(r"(\d\d:\d\d)-(\d\d:\d\d)")


def command_group(description: str | None = None) -> typer.Typer:
    """The commands of one noun, `fleetpush NOUN VERB`."""
    return typer.Typer(
        help=description,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=MARKUP,
        context_settings=HELP_NAMES,
    )


def load_settings(config: Path | None = None, **given: Any) -> Settings:
    """The settings of this run; a mistake in them is wrong use."""
    from gateway.settings import BadSettings, Settings

    try:
        return Settings.load(config, **given)
    except BadSettings as error:
        raise Failure(str(error), 2) from None


def found_data_dir(given: Path | None) -> Path:
    """The flag, or what the server's settings say (variable, fleetpush.toml, default)."""
    return given if given is not None else load_settings().data_dir


def client_of(url: str | None, data_dir: Path | None) -> ServerClient:
    return ServerClient.find(url, found_data_dir(data_dir))


def seconds_of(duration: str, option: str = "--ttl") -> int:
    match = DURATION.fullmatch(duration)
    if match is None:
        fail(f"{option} {duration!r}: seconds, or a number with s, m, h or d behind it", 2)
    return int(match[1]) * SECONDS[match[2]]


def time_of(text: str, option: str) -> str:
    """A time as the API takes it, of `2d` (that long ago) or a time of day, which is local where it has no offset."""
    match = DURATION.fullmatch(text)
    try:
        if match is not None and match[2]:
            found = datetime.now(UTC) - timedelta(seconds=int(match[1]) * SECONDS[match[2]])
        else:
            found = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        fail(f"{option} {text!r}: 90s, 10m, 8h or 2d ago, or a time such as 2026-12-01T09:00 or 2026-12-01T08:00Z", 2)
    return found.isoformat()


def time_in(text: str, option: str) -> str:
    """A time as the API takes it, of `7d`: that long from now."""
    try:
        return (datetime.now(UTC) + timedelta(seconds=seconds_of(text, option))).isoformat()
    except OverflowError:
        fail(f"{option} {text!r}: that is too long", 2)


def time_ahead(text: str, option: str) -> str:
    """A time as the API takes it, of `10m` (that long from now) or a time of day: local, if it has no offset."""
    match = DURATION.fullmatch(text)
    if match is not None and match[2]:
        return time_in(text, option)
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError):
        fail(f"{option} {text!r}: in 90s, 10m, 8h or 2d, or a time such as 2026-12-01T09:00 or 2026-12-01T08:00Z", 2)


def json_of(text: str, option: str) -> Any:
    """The value of an option that is JSON."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        fail(f"{option} is not JSON ({error}). Text needs its quotes inside: {option} '\"text\"'", 2)


def value_of(text: str) -> Any:
    """Read a value as a person writes it: as JSON where that loses nothing, else as text. So `1.10` and `007` are no
    numbers."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(found, int | float) and json.dumps(found) != text else found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def name_and_value(text: str, option: str = "--attribute") -> tuple[str, Any]:
    """Read `NAME=VALUE`, for example `battery=81`."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        fail(f"{option} {text!r}: write NAME=VALUE", 2)
    return name, attribute_value(name, value)


def attribute_value(name: str, text: str) -> Any:
    """Read the value of an attribute as a person writes it. A number whose name ends in `version` is a text: 2.3 beside
    2.2.9 is a version, and segments compare versions that are texts only."""
    found = value_of(text)
    is_version = name.lower().endswith("version") and type(found) in (int, float)
    return text if is_version else found


def name_and_version(text: str, option: str) -> tuple[str, int | None]:
    """Read a template as a person writes it, `lunch` or `lunch@3`; None is the newest version."""
    name, at, version = text.partition("@")
    if not at:
        return name, None
    if not (version.isascii() and version.isdigit()):
        fail(f"{option} {text!r}: write NAME or NAME@VERSION", 2)
    return name, int(version)


def device_fields(attribute: Iterable[str] | None, **fields: Any) -> dict[str, Any]:
    """Make what the API takes of a new device, of the options of a command that were given."""
    fields["attributes"] = dict(name_and_value(text) for text in attribute or ())
    return {name: value for name, value in fields.items() if value}


def hours_of(text: str, option: str = "--quiet-hours") -> dict[str, str]:
    """Read hours as a person writes them: `22:00-07:00`."""
    match = HOURS.fullmatch(text)
    if match is None:
        fail(f"{option} {text!r}: write it as 22:00-07:00", 2)
    return {"start": match[1], "end": match[2]}


def quiet_hours_of(hours: str | None, excess: str | None) -> dict[str, str] | None:
    """Quiet hours as the API takes them; None if no option of them was given."""
    found = {} if hours is None else hours_of(hours)
    return (found if excess is None else {**found, "excess": excess}) or None


def caps_of(
    caps: Iterable[str] | None,
    excess: str | None,
    cap_tags: Iterable[str] | None,
    cap_segments: Iterable[str] | None,
    adaptive: str | None = None,
) -> dict[str, Any] | None:
    """Caps as the API takes them, None if no option of them was given.

    Made of limits (`2/hour`), of limits of tags and segments (`vip=20/day`) and of the bounds of an adaptive one
    (`1-8`).
    """
    found: dict[str, Any] = {}
    if caps:
        found["limits"] = [_limit(text, f"--cap {text!r}") for text in caps]
    groups = [*_groups("tag", cap_tags), *_groups("segment", cap_segments)]
    if groups:
        found["groups"] = groups
    if adaptive is not None:
        match = ADAPTIVE.fullmatch(adaptive)
        if match is None:
            fail(f"--adaptive {adaptive!r}: write it as 1-8, alerts a day at least and at most", 2)
        found["adaptive"] = {"floor_per_day": int(match[1]), "ceiling_per_day": int(match[2])}
    return (found if excess is None else {**found, "excess": excess}) or None


def _groups(kind: str, texts: Iterable[str] | None) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for text in texts or ():
        option = f"--cap-{kind} {text!r}"
        name, equals, limit = text.partition("=")
        if not equals:
            fail(f"{option}: write it as vip=20/day, or vip=none", 2)
        limits = found.setdefault(name, [])
        if limit != "none":
            limits.append(_limit(limit, option))
    return [{kind: name, "limits": limits} for name, limits in found.items()]


def _limit(text: str, option: str) -> dict[str, Any]:
    match = CAP.fullmatch(text)
    if match is None:
        fail(f"{option}: write it as 8/day (or /hour, /week)", 2)
    return {"count": int(match[1]), "per": match[2]}


def describe_caps(caps: Mapping[str, Any] | None) -> str | None:
    """Format caps: `2/hour, 8/day, then drop`."""
    if caps is None:
        return None
    parts = [_describe_limits(caps["limits"])] if caps["limits"] else []
    adaptive = caps.get("adaptive")
    if adaptive is not None:
        parts.append(f"adaptive {adaptive['floor_per_day']} to {adaptive['ceiling_per_day']}/day")
    for group in caps.get("groups", ()):
        name = group.get("tag") or f"segment {group['segment']}"
        parts.append(f"{name} {_describe_limits(group['limits']) or 'unlimited'}")
    return f"{'; '.join(parts)}, then {caps['excess']}"


def _describe_limits(limits: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(f"{limit['count']}/{limit['per']}" for limit in limits)


def describe_hours(hours: Mapping[str, Any] | None) -> str | None:
    """Format quiet hours: `22:00-07:00, defer`; a person's own have no excess."""
    if hours is None:
        return None
    return f"{hours['start']}-{hours['end']}" + (f", {hours['excess']}" if "excess" in hours else "")


def open_input(file: str) -> IO[bytes]:
    """A file, or standard input where it is `-`."""
    if file == "-" and sys.stdin is None:
        fail("-: standard input is closed", 2)
    try:
        return sys.stdin.buffer if file == "-" else open(file, "rb")  # the caller closes it
    except OSError as error:
        fail(f"{file!r} cannot be read: {error.strerror}", 2)


def read_input(file: str) -> bytes:
    """All of a file, or of standard input where it is `-`."""
    with open_input(file) as content:
        try:
            return content.read()
        except OSError as error:  # a folder, for example
            fail(f"{file!r} cannot be read: {error.strerror}", 2)


def json_in(file: str) -> Any:
    """Read the JSON in a file, or in standard input where it is `-`."""
    try:
        return json.loads(read_input(file), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        fail(f"{file!r} is not JSON: {error}", 2)


def changes(fields: Mapping[str, Any], cleared: Iterable[str] | None, clearable: Iterable[str]) -> dict[str, Any]:
    """A merge patch (RFC 7396): the fields that were given, and null for those that are cleared."""
    body = {name: value for name, value in fields.items() if value is not None}
    for name in cleared or ():
        if name not in clearable:
            fail(f"--clear {name!r}: one of {', '.join(clearable)}", 2)
        if name in body:
            fail(f"{name} is given and cleared: which of them?", 2)
        body[name] = None
    if not body:
        fail("nothing to change: give an option that says what (-h lists them)", 2)
    return body
