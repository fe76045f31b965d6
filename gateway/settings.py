"""Every setting of the server, with its unit, its default and the reason for it.

Flag over variable (`FLEETPUSH_NAME`) over `fleetpush.toml` (`name = value`) over default. A mistake is one line that
names the setting, where it came from and what it may be. The flags of `fleetpush serve` and their help, and
`docs/reference/settings.md`, are made from this class.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from gateway.described_model import attribute_docstrings
from gateway.host_names import is_loopback
from gateway.misspelling import nearest
from gateway.roles import RoleClaim

CONFIG_FILE = Path("fleetpush.toml")
"""Looked for in the working directory, and then in the environment that is installed (`sys.prefix`), where a package
puts it: so the service and every command find the same settings."""
PREFIX = "FLEETPUSH_"
OTHER_VARIABLES = {f"{PREFIX}{name}" for name in ("URL", "KEY", "CA", "BRIDGE_PASSWORD", "PROGRAM", "PURE")}
"""Variables of commands that talk to a server, and of `run.py`."""
MAX_PAYLOAD_BYTES = 262_144
"""The most that `max_payload` may be: a quarter of the broker's largest packet."""
ORIGIN = re.compile(
    r"https?://([a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII
)

WITHOUT_FLAG: Final = frozenset({"max_attempts", "log_connections"})
"""Settings that only a variable or the file can set: nobody decides on them for a single start."""


def _listed(value: object) -> object:
    """Split a text at commas, as several values are written in a variable."""
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
"""A flag that may be repeated, a list in the file."""


UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
SIZE = re.compile(r"([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)\s*(|[kmg]ib)", re.IGNORECASE)


def _bytes(value: object) -> object:
    """A number of bytes as the documents and the help write it."""
    if not isinstance(value, str):
        return value
    match = SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("a number of bytes, 33554432 for example, or one with its unit: 32 MiB (KiB, MiB, GiB)")
    return int(match[1].replace(",", "")) * UNITS[match[2].lower()]


Bytes = Annotated[int, BeforeValidator(_bytes)]


class BadSettings(Exception):
    """One line: the setting, where it came from, and what it may be."""


class Settings(BaseSettings):
    """Settings of the server, from flags, variables, the file and defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    data_dir: Path = Path("fleetpush-data")
    """Directory in which everything is kept."""
    database: str | None = None
    """PostgreSQL that keeps the ledger instead of a file in the data directory:
    `postgresql://USER:PASSWORD@HOST/DATABASE`. The first start makes the schema `fleetpush` there. Several
    servers share it if each has a `node_url`."""
    node_url: str | None = None
    """Address of this server's HTTP port for the other nodes over the same PostgreSQL, `http://10.0.0.5:8080` for
    example. Unset: the server has its database alone."""
    bind: str = "127.0.0.1"
    """Address to listen on. Another than loopback needs TLS, or `insecure`."""
    mqtt_port: Annotated[int, Field(ge=0, le=65_535)] = 1883
    """TCP port for MQTT. 0 picks a free one."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """TCP port for HTTP, and for WebSocket at `/mqtt`. 0 picks a free one."""
    listen: Listed = ()
    """Further places where devices connect: `mqtt://`, `mqtts://`, `ws://`, `wss://HOST:PORT` or `unix:/path`. With
    `?proxy=v2` behind a proxy; `wss://…?certificates=ask` asks devices for a certificate."""
    insecure: bool = False
    """Listen on another address than loopback although tokens cross the network unencrypted."""
    tls_cert: Path | None = None
    """Certificate (PEM, with its chain): both ports speak TLS. Unset: `tls/server.pem` of the data directory, if it is
    there."""
    tls_key: Path | None = None
    """Private key of the certificate (PEM). Unset: `tls/server.key` of the data directory."""
    tls_ca: Path | None = None
    """Authority that vouches for the certificates of devices (PEM). Unset: `tls/ca.pem` of the data directory, if it is
    there."""
    client_certificates: Literal["none", "optional", "required"] = "optional"
    """Whether a device may show a certificate instead of a token. `none`: it is not asked for one; `optional`: it is
    asked by MQTT over TLS, not by the HTTP port and WebSockets; `required`: nobody connects without one."""
    ws_origins: Listed = ()
    """Origins whose pages may open a WebSocket besides the server's own: `https://kiosk.example`, or `*` for all."""
    trusted_proxies: Listed = ()
    """Addresses and networks whose PROXY headers and X-Forwarded-For are believed."""
    public_host: str | None = None
    """Host name that enrolled devices are told to connect to. Unset: `bind`."""
    public_url: str | None = None
    """Address at which devices reach HTTP and WebSocket where a proxy stands in front: `https://push.example`, without
    a path. Unset: `public_host` and `http_port`."""
    public_mqtt: str | None = None
    """Address at which devices reach MQTT where a balancer stands in front: `mqtts://push.example:8883`, or `mqtt://`
    without TLS. Unset: `public_host`, `mqtt_port`, and TLS if the server speaks it."""
    metrics_key: Path | None = None
    """File with the key that `/metrics` asks for, 16 characters or more. Unset: it asks for none."""
    max_payload: Annotated[Bytes, Field(ge=256, le=MAX_PAYLOAD_BYTES)] = 4_096
    """Bytes of a push on the wire. 4 KiB is what FCM and APNs allow."""
    mailbox_deliveries: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """Waiting deliveries per device; the oldest of the lowest priority loses."""
    mailbox_bytes: Annotated[Bytes, Field(ge=4_096)] = 4 * 1024 * 1024
    """Bytes of wire payload that wait per device; likewise."""
    max_inflight: Annotated[int, Field(ge=1, le=65_535)] = 512
    """Unacknowledged pushes to one device; its own receive maximum may lower it."""
    ack_timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds after which a device that does not acknowledge is disconnected."""
    connections_per_address: Annotated[int, Field(ge=1)] = 50_000
    """Devices connected from one remote address (of IPv6 its /64): a fleet sits behind one."""
    device_message_rate: Annotated[int, Field(ge=1)] = 500
    """Messages per second and device, all its connections together; ten seconds' worth may come at once. Over it the
    device is read more slowly. A message costs up to 0.2 ms: a tenth of the server's one core."""
    device_byte_rate: Annotated[Bytes, Field(ge=1024)] = 512 * 1024
    """Bytes per second and device in those messages, likewise."""
    max_attempts: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Times that a device may not take a push (not acknowledged, or the end of its connection) before it is refused."""
    request_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """HTTP requests per second and key, as a burst; over it 429 with Retry-After."""
    session_idle_minutes: Annotated[float, Field(gt=0, le=1_440)] = 15.0
    """Minutes after its last request that a session of the console ends."""
    session_hours: Annotated[float, Field(gt=0, le=168)] = 12.0
    """Hours after which a session of the console ends however much it is used: a working day."""
    oidc_issuer: str | None = None
    """Identity provider (OpenID Connect) that people can sign in with at the console: its issuer, as
    `https://id.example/realms/shops`. Unset: people sign in with keys."""
    oidc_client_id: str | None = None
    """Identifier of this server at the provider."""
    oidc_client_secret: Path | None = None
    """File with the secret that the provider gave the server. Unset: there is none (a public client), and PKCE is what
    protects a sign-in."""
    oidc_name: str | None = None
    """Name of the provider, as the button at the sign-in shows it. Unset: the issuer's host."""
    oidc_scopes: Listed = ()
    """Scopes to ask the provider for besides `openid` and `profile`: `groups` for example, if that is what puts the
    claim into the ID token."""
    oidc_claim: str = "groups"
    """Claim of the ID token that roles are made from, a text or a list; `realm_access.roles` is one inside another."""
    oidc_roles: Listed = ()
    """Roles that values of the claim give: `VALUE=ROLE@APP`. The role is `viewer`, `sender`, `operator` or `admin`;
    without `@APP` the app is `default`."""
    oidc_networks: Listed = ()
    """Private or loopback addresses and networks that the provider may be at: `10.1.0.0/16`. Public ones always may."""
    disk_reserve: Annotated[Bytes, Field(ge=0)] = 32 * 1024 * 1024
    """Bytes that stay free on the disk (at most an eighth of it), beside what the logs may still take, so that what was
    accepted can be recorded; pages that are free inside the ledger count. Below it new pushes get 507."""
    retention_days: Annotated[float, Field(gt=0)] = 30.0
    """Days that deliveries and receipts stay after their push has fully ended."""
    counts_days: Annotated[float, Field(gt=0)] = 400.0
    """Days that a push's final counts stay; then it answers 410 for as long again, then 404."""
    idempotency_hours: Annotated[float, Field(gt=0)] = 24.0
    """Hours that an Idempotency-Key is remembered."""
    uplink_keep: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Messages kept of what a device says."""
    uplink_days: Annotated[float, Field(gt=0)] = 7.0
    """Days that they are kept."""
    event_days: Annotated[float, Field(gt=0)] = 7.0
    """Days that `GET /v1/events` and webhooks can go back; no farther than `retention_days`."""
    audit_days: Annotated[float, Field(gt=0)] = 400.0
    """Days for which entries of the audit log are kept, 64 MiB of each app at most; the oldest leave."""
    webhook_networks: Listed = ()
    """Private or loopback addresses and networks that webhooks may be sent to: `10.1.0.0/16`. Public ones always
    may."""
    max_attachment: Annotated[Bytes, Field(ge=1)] = 5 * 1024 * 1024
    """Bytes of a file that a push may refer to."""
    attachment_storage: Annotated[Bytes, Field(ge=0)] = 1024 * 1024 * 1024
    """Bytes of all such files together; over it uploads get 507."""
    clock_speed: Annotated[float, Field(gt=0, le=100_000)] = 1.0
    """Factor by which the server's clock runs faster, for simulations: loopback and a fresh data directory only. It
    rules ttl and retention; waiting for devices takes as long as ever. Webhooks carry its time stamps, which verifiers
    refuse as too far from their clock."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least serious lines of the log: `debug`, `info`, `warning` or `error`."""
    log_format: Literal["text", "json"] = "text"
    """Form of the log: `text`, a line for a person, or `json`, an object in each line."""
    log_connections: bool = True
    """A line in the log, at `info`, for each device that connects or disconnects, and why; a storm is one line."""

    @field_validator("bind")
    @classmethod
    def _address(cls, value: str) -> str:
        if value != "localhost":
            ipaddress.ip_address(value)
        return value

    @field_validator("public_url", "node_url")
    @classmethod
    def _origin(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            is_one = ORIGIN.fullmatch(value) is not None and urlsplit(value).port != 0
        except ValueError:  # a port beyond 65535, or brackets around what is no address
            is_one = False
        if not is_one:
            raise ValueError("no origin: as https://push.example or http://10.0.0.5:8080, without user, path and query")
        return value.lower()

    @field_validator("node_url")
    @classmethod
    def _reachable(cls, value: str | None) -> str | None:
        host = "" if value is None else urlsplit(value).hostname or ""
        if host in ("0.0.0.0", "::"):
            raise ValueError(
                "every address is none that others can reach: name this machine's, as http://10.0.0.5:8080"
            )
        return value

    @field_validator("public_mqtt")
    @classmethod
    def _mqtt_origin(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, _, place = value.lower().partition("://")
        try:
            port = urlsplit(value).port
        except ValueError:
            port = None
        if scheme not in ("mqtt", "mqtts") or not port or ORIGIN.fullmatch(f"http://{place}") is None:
            raise ValueError("no address of MQTT: as mqtts://push.example:8883 or mqtt://10.0.0.5:1883")
        return value.lower()

    @field_validator("oidc_issuer")
    @classmethod
    def _issuer(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = urlsplit(value)
            is_one = url.scheme in ("https", "http") and bool(url.hostname) and url.port != 0
        except ValueError:
            is_one = False
        if not is_one or "@" in url.netloc or url.query or url.fragment or not value.isascii():
            raise ValueError("no issuer: as https://id.example/realms/shops, without user, query and fragment")
        if url.scheme == "http" and url.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("an issuer without TLS is believed on this machine alone: it needs https")
        return value

    @field_validator("oidc_roles")
    @classmethod
    def _role_claims(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            RoleClaim.parse(text)
        return value

    @field_validator("webhook_networks", "oidc_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.clock_speed != 1 and not self.loopback:
            raise ValueError("clock_speed: a faster clock is for simulations, on loopback only")
        if self.node_url is not None:
            self._require_node(self.node_url)
        if self.oidc_issuer is not None and (self.oidc_client_id is None or not self.oidc_roles):
            raise ValueError("oidc_issuer: it needs oidc_client_id, and oidc_roles that say who may do what")
        if self.mqtt_port == self.http_port != 0:
            raise ValueError(f"mqtt_port and http_port are both {self.mqtt_port}: each needs a port of its own")
        return self

    def _require_node(self, url: str) -> None:
        """Raises ValueError if a server with these settings cannot be a node, or would be found by nobody."""
        if self.database is None:
            raise ValueError("node_url: nodes share a PostgreSQL, which database (--database) names")
        if self.clock_speed != 1:
            raise ValueError("node_url: nodes share their time, so clock_speed is 1")
        if self.http_port == 0:
            raise ValueError("node_url: others find this node at a port that stays, so http_port is not 0")
        if self.loopback and not is_loopback(urlsplit(url).hostname or ""):
            raise ValueError(f"node_url: the server listens on {self.bind} alone, where no other node reaches {url}")

    @property
    def loopback(self) -> bool:
        return is_loopback(self.bind)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)
        given = dict(init_settings.init_kwargs)
        from_file = given.pop("from_file", {})
        return (
            InitSettingsSource(settings_cls, init_kwargs=given),
            env_settings,
            InitSettingsSource(settings_cls, init_kwargs=from_file),
        )

    @classmethod
    def load(cls, config: Path | None = None, **given: Any) -> Settings:
        """The settings of this run; `given` are the flags. Raises BadSettings."""
        _check_environment()
        from_file = _read_config(config)
        sources: dict[str, Any] = {**given, "from_file": from_file}
        try:
            return cls(**sources)
        except ValidationError as error:
            raise BadSettings(_explain(error, given, from_file, config or found_config())) from None


def _check_environment() -> None:
    """A variable that is written wrongly would leave its default in force, unseen."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = nearest(name.upper(), known)
            hint = f"; did you mean {near}?" if near else ""
            raise BadSettings(f"{name} is set, and there is no such setting{hint} (`unset {name}` takes it out)")


def found_config() -> Path:
    """Return the settings file that is read if no other is named, there or not."""
    # A directory of somebody else's, as that of the person who types `sudo -u fleetpush`, has none to offer.
    installed = Path(sys.prefix, CONFIG_FILE)
    here = os.access(os.curdir, os.X_OK) and CONFIG_FILE.exists()
    return installed if not here and installed.exists() else CONFIG_FILE


def _read_config(config: Path | None) -> dict[str, Any]:
    path = config or found_config()
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        if config is None:
            return {}
        raise BadSettings(f"{path}: no such file; create it, or leave --config out") from None
    except UnicodeDecodeError as error:
        raise BadSettings(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8, as TOML asks") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"{path}: {error}") from None
    for name in values:
        if name not in Settings.model_fields:
            near = nearest(name, Settings.model_fields)
            raise BadSettings(f"{path}: unknown setting {name!r}" + (f"; did you mean {near!r}?" if near else ""))
    return values


def _explain(error: ValidationError, given: dict[str, Any], from_file: dict[str, Any], path: Path) -> str:
    first = error.errors(include_url=False)[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    source = f"--{name.replace('_', '-')}" if name in given else f"FLEETPUSH_{name.upper()}"
    if name not in given and name in from_file and first["input"] == from_file[name]:
        source = f"{name} in {path}"
    return f"{source}: {first['input']!r}: {message}"


# -- descriptions ------------------------------------------------------------------------------------------------------

SIZES: Final = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


@dataclass(slots=True, frozen=True)
class Setting:
    """A setting as people read of it: in the help of `serve`, and in the reference."""

    name: str
    text: str
    """The docstring of its attribute."""
    default: str
    """The default as a person would write it; `unset` where there is none."""
    values: str
    """The values that it takes: `on or off`, `whole number`, `number`, `text`, `path`, `list`, `bytes`, or a list of
    them."""

    @property
    def has_flag(self) -> bool:
        return self.name not in WITHOUT_FLAG

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def described_settings() -> list[Setting]:
    """Describe every setting, in the order of the class."""
    texts = attribute_docstrings(Settings)
    return [
        Setting(name, texts.get(name, ""), _default_of(name, field), _values_of(field))
        for name, field in Settings.model_fields.items()
    ]


def _default_of(name: str, field: FieldInfo) -> str:
    value = field.default
    if value is None or value == ():
        return "unset"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int) and _is_bytes(field):
        unit, size = next(((unit, size) for unit, size in SIZES if value % size == 0), ("", 1))
        return f"{value // size} {unit}".strip()
    if isinstance(value, int | float) and not name.endswith("_port"):
        return f"{value:,g}" if isinstance(value, float) else f"{value:,}"
    return f"`{value}`" if isinstance(value, str | Path) else str(value)


def _values_of(field: FieldInfo) -> str:
    kinds = [kind for kind in get_args(field.annotation) or [field.annotation] if kind is not type(None)]
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{kind}`" for kind in kinds)
    if get_origin(field.annotation) is tuple:
        return "list"
    if _is_bytes(field):
        return "bytes"
    known: Mapping[Any, str] = {bool: "on or off", int: "whole number", float: "number", str: "text", Path: "path"}
    return known[kinds[0]]


def _is_bytes(field: FieldInfo) -> bool:
    return any(isinstance(part, BeforeValidator) and part.func is _bytes for part in field.metadata)
