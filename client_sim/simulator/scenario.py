"""The scenario of a simulation: a short TOML file, built in or the user's own, of what happens to a fleet.

title = "A broadcast in the morning"
devices = 500
thresholds = ["delivery_p99 < 2s"]

[[phase]]
name = "connect"                # without `lasts` it ends when all are connected

[[phase]]
name = "news"
lasts = "30s"
away = 0.1                      # every tenth device is switched off meanwhile
[[phase.push]]
rate = "6/min"
to = "all"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from client_sim.simulator.quantities import Duration, Rate, duration
from client_sim.simulator.shaped_link import Network
from client_sim.simulator.thresholds import Rule
from client_sim.simulator.thresholds import parse as parse_threshold
from client_sim.simulator.working_hours import parse_hours

Share = Annotated[float, Field(ge=0, le=1)]
Priority = Literal["critical", "high", "normal", "low"]
Kind = Literal["alert", "in_app", "silent", "command"]
MAX_DEVICES = 100_000
MAX_TTL_SECONDS = 31_536_000
"""Seconds; the server's bound."""
MAX_PADDING_BYTES = 2_048
"""Bytes; with envelope and notification it stays below the server's 4 KiB."""


class BadScenario(ValueError):
    """The message names the file, the key, and what is allowed there."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PeopleHabits(_Part):
    """The shares of pushes that are displayed, of those that are opened, and of those that are acted on."""

    displayed: Share = 1.0
    opened: Share = 0.25
    acted: Share = 0.1
    think_time: Duration = 1.0
    leave: Share = 0.0
    """The probability with which an alert makes a person leave, for each alert of the seven days before it."""
    mute: Share = 0.5
    """The share of those who leave by muting its channel; the others deny consent."""
    hours: str | None = None
    """Working hours by the clock of the device's zone, `08:00-18:00`: it is connected only then, in phases that last
    for a time. None: always."""
    zones: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] = ("UTC",)
    """Time zones of the devices, one after the other."""
    begins: datetime = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
    """Date and time, by the simulation's own clock, at which the first phase begins that lasts for a time."""

    @field_validator("hours")
    @classmethod
    def _is_span(cls, given: str | None) -> str | None:
        if given is not None:
            parse_hours(given)
        return given

    @field_validator("zones")
    @classmethod
    def _are_known(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            try:
                ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(f"unknown time zone {name!r}: use an IANA name such as Europe/Berlin") from None
        return given

    @field_validator("begins")
    @classmethod
    def _has_offset(cls, given: datetime) -> datetime:
        if given.tzinfo is None:
            raise ValueError("needs an offset: 2026-03-02T06:00:00Z")
        return given


class NetworkConditions(_Part):
    """Per device; rates are of events on its connection."""

    latency: Duration = 0.0
    jitter: Duration = 0.0
    resets: Rate = 0.0
    stalls: Rate = 0.0
    stall: Duration = 3.0
    half_open: Rate = 0.0

    def shaped(self) -> Network:
        """The network that these conditions describe."""
        return Network(self.latency, self.jitter, self.resets, self.stalls, self.stall, self.half_open)


class Stream(_Part):
    """Pushes at a rate: Poisson, or evenly spaced."""

    rate: Annotated[Rate, Field(gt=0)]
    even: bool = False
    to: Literal["one", "all"] | Annotated[float, Field(gt=0, le=1)] = "one"
    """One device, the whole fleet, or a random share of it."""
    kind: Kind = "alert"
    channel: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] | None = None
    """The channel that it names, which people can mute."""
    priority: Priority | Annotated[tuple[Priority, ...], Field(min_length=1)] = "normal"
    """Several: one is drawn for each push."""
    ttl: Annotated[Duration, Field(le=MAX_TTL_SECONDS)] = 3_600.0
    qos: Literal[0, 1] = 1
    collapse: Annotated[int, Field(ge=0)] = 0
    """The number of collapse keys to draw from; 0: none."""
    size: Annotated[int, Field(ge=0, le=MAX_PADDING_BYTES)] = 0
    """Bytes of padding."""

    @field_validator("ttl")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value != int(value):
            raise ValueError("whole seconds, please")
        return value


class CampaignPlan(_Part):
    """A campaign that brings all devices a build: its canary, its groups, and how many devices fail it."""

    canary: Annotated[int, Field(ge=1)] = 5
    rollout: Annotated[tuple[str, ...], Field(min_length=1)] = ("rest",)
    """The groups behind the canary, as the API takes them; the last one is `rest`."""
    failing: Share = 0.0
    """The share of devices that fail the build: they answer with an error, refuse it (MQTT 5.0), or say nothing."""
    variants: Annotated[int, Field(ge=1, le=5)] = 1
    patience: Annotated[Duration, Field(gt=0)] = 5.0
    """The time for all devices of a group to carry it out."""
    kill_server: bool = False
    """kill -9 and a restart, once the canary has been sent."""

    @field_validator("rollout")
    @classmethod
    def _is_for_all(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if given[-1] != "rest":
            raise ValueError("must end with `rest`: a build is for all devices")
        return given


class Phase(_Part):
    """A phase of a scenario: who is there, what is sent, and what goes wrong."""

    name: Annotated[str, Field(min_length=1)]
    lasts: Annotated[Duration, Field(gt=0)] | None = None
    """The duration; None: until everybody is connected that is to be."""
    connect_rate: Annotated[Rate, Field(gt=0)] = 1_000.0
    """The rate at which devices connect for the first time."""
    away: Share = 0.0
    return_within: Duration | None = None
    """The time in which devices return that were away in the phase before."""
    deaf: Share = 0.0
    """The share of devices that do not read from their socket."""
    mute: Share = 0.0
    """The share of devices that read, and acknowledge nothing."""
    cut: Share = 0.0
    cut_every: Annotated[Duration, Field(gt=0)] | None = None
    kill_server: bool = False
    """kill -9 and a restart, in the middle."""
    kill_every: Annotated[Duration, Field(gt=0)] | None = None
    churn: Rate = 0.0
    pushes: Annotated[tuple[Stream, ...], Field(alias="push")] = ()
    network: NetworkConditions | None = None
    campaign: CampaignPlan | None = None
    """A campaign; the phase ends with it, or is over after `lasts`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.lasts is None and (self.pushes or self.churn or self.kill_server or self.kill_every or self.cut_every):
            raise ValueError("what goes on for a while needs `lasts`; without it a phase ends when all are connected")
        if self.campaign is not None:
            if self.lasts is None:
                raise ValueError("a campaign needs `lasts`, the time by which it must have ended")
            if self.away or self.deaf or self.mute or self.churn or self.cut or self.kill_server or self.kill_every:
                raise ValueError("a campaign needs all devices, and to be alone: only it may kill the server")
        if self.cut_every is not None and not self.cut:
            raise ValueError("`cut_every` needs `cut`, the share of connections that are cut each time")
        if self.lasts is not None and max(self.kill_every or 0, self.cut_every or 0) >= self.lasts:
            raise ValueError("`kill_every` and `cut_every` must be shorter than `lasts`")
        return self

    @property
    def kills_server(self) -> bool:
        """True if the server is killed in it."""
        return (
            self.kill_server or self.kill_every is not None or (self.campaign is not None and self.campaign.kill_server)
        )

    def describe(self) -> str:
        """The phase in words, for reports."""
        said = [f"for {duration(self.lasts)}"] if self.lasts is not None else ["until all are connected"]
        for share, what in ((self.away, "away"), (self.deaf, "deaf"), (self.mute, "without acknowledging")):
            if share:
                said.append(f"{share:.0%} {what}")
        if self.cut:
            again = "" if self.cut_every is None else f" every {duration(self.cut_every)}"
            said.append(f"{self.cut:.0%} of the connections cut{again}")
        if self.kill_server or self.kill_every:
            again = "" if self.kill_every is None else f" every {duration(self.kill_every)}"
            said.append(f"server killed{again}")
        if self.churn:
            said.append(f"{self.churn:g} devices/s vanish and return")
        for stream in self.pushes:
            to = f"{stream.to:.0%} of the fleet" if isinstance(stream.to, float) else stream.to
            said.append(f"{_rate(stream.rate)} to {to}")
        if self.campaign is not None:
            said.append(f"campaign with a canary of {self.campaign.canary}, {self.campaign.failing:.0%} fail the build")
        if self.network is not None:
            said.append(
                f"latency {duration(self.network.latency)} to {duration(self.network.latency + self.network.jitter)}"
            )
        return ", ".join(said)


class Scenario(_Part):
    """A scenario: the fleet, its people, the phases and the thresholds."""

    name: str
    title: Annotated[str, Field(min_length=1)]
    description: str = ""
    devices: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = 1_000
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    mqtt5: Share = 0.5
    """The share of devices that speak MQTT 5.0; the others speak 3.1.1."""
    keep_alive: Annotated[Duration, Field(ge=1, le=65_535)] = 60.0
    clock_speed: Annotated[float, Field(ge=1, le=100_000)] = 1.0
    """The speed of the clock of a server that the simulation starts."""
    settle: Annotated[Duration, Field(gt=0)] = 60.0
    """The time after the last phase by which both ledgers must have their last word."""
    thresholds: tuple[str, ...] = ()
    people: PeopleHabits = PeopleHabits()
    phases: Annotated[tuple[Phase, ...], Field(alias="phase", min_length=1)]
    text: str = ""
    """The TOML, and above it what was asked for besides."""

    @field_validator("description")
    @classmethod
    def _one_line(cls, given: str) -> str:
        return " ".join(given.split())

    @field_validator("thresholds")
    @classmethod
    def _can_be_parsed(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            parse_threshold(text)
        return given

    @classmethod
    def load(cls, name: str) -> Scenario:
        """A built-in name, or the path of a file (with a `/`, or ending in `.toml`). Raises BadScenario."""
        if "/" in name or name.endswith(".toml"):
            path = Path(name)
            try:
                return cls.parse(path.stem, path.read_text(encoding="utf-8"), name)
            except (OSError, UnicodeDecodeError) as error:
                raise BadScenario(f"{name}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
        known = _built_in()
        if name not in known:
            raise BadScenario(
                f"there is no scenario `{name}`. Built in are {', '.join(known)}; a file of your own is named by a "
                f"path that ends in .toml"
            )
        return cls.parse(name, known[name], f"{name}.toml")

    @classmethod
    def parse(cls, name: str, text: str, source: str) -> Scenario:
        """The scenario of a TOML text. `source` is its name in messages. Raises BadScenario."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadScenario(f"{source}: {error}") from None
        try:
            return cls.model_validate({**document, "name": name, "text": text})
        except ValidationError as error:
            complaints = (_complaint(item, document) for item in error.errors())
            raise BadScenario("\n".join(f"{source}: {line}" for line in complaints)) from None

    def with_(self, *, devices: int | None = None, lasts: float | None = None, seed: int | None = None) -> Scenario:
        """The scenario with another fleet or seed. `lasts`: seconds of all phases together, each in its proportion.

        Raises BadScenario.
        """
        fields: dict[str, Any] = {}
        said = []
        if devices is not None:
            fields["devices"] = devices
            said.append(f"devices = {devices}")
        if seed is not None:
            fields["seed"] = seed
            said.append(f"seed = {seed}")
        if lasts is not None:
            # A campaign takes the time that it takes.
            total = sum(phase.lasts or 0.0 for phase in self.phases if phase.campaign is None)
            if not total:
                raise BadScenario(f"scenario `{self.name}` has no phase that lasts for a time, so none can be changed")
            fields["phases"] = tuple(
                phase if phase.campaign is not None else _stretched(phase, lasts / total) for phase in self.phases
            )
            said.append(f"duration = {duration(lasts)}, instead of {duration(total)}")
        if said:
            fields["text"] = "".join(f"# {line}\n" for line in said) + "\n" + self.text
        changed = self.model_copy(update=fields)
        if not (1 <= changed.devices <= MAX_DEVICES):
            raise BadScenario(f"{changed.devices} devices: from 1 to {MAX_DEVICES:,}, please")
        return changed

    @property
    def needs_own_server(self) -> bool:
        """True if the scenario kills the server, or needs its clock to run faster."""
        return self.clock_speed != 1 or any(phase.kills_server for phase in self.phases)

    def rules(self) -> list[Rule]:
        """The thresholds, parsed."""
        return [parse_threshold(text) for text in self.thresholds]


def _stretched(phase: Phase, factor: float) -> Phase:
    """Stretch a phase. Faults happen as often as before, and devices return in the same share of the time."""
    update = {
        name: round(value * factor, 3)
        for name in ("lasts", "return_within", "kill_every", "cut_every")
        if (value := getattr(phase, name)) is not None
    }
    return phase.model_copy(update=update)


def builtin_scenarios() -> dict[str, str]:
    """Names and titles."""
    return {name: Scenario.load(name).title for name in _built_in()}


def _built_in() -> dict[str, str]:
    folder = files("client_sim.simulator") / "scenarios"
    found = {item.name.removesuffix(".toml"): item for item in folder.iterdir() if item.name.endswith(".toml")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def _complaint(item: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Put an error of the document into words: its place, what is wrong, and the name of its phase."""
    where = ""
    for part in item["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "there is no such key"
    match item["loc"]:
        case ("phase", int(number), *_) if isinstance(phase := document["phase"][number], dict) and "name" in phase:
            message += f" (phase {phase['name']!r})"
    return f"{where}: {message}" if where else message


def _rate(value: float) -> str:
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if value * seconds >= 1:
            return f"{round(value * seconds, 2):g}/{unit}"
    return f"{value * 86_400:g}/d"
