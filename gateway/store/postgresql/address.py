"""The address of a database in PostgreSQL, read without ever being repeated: its password is in no message of ours.

A password with characters that an address does not take unescaped splits it elsewhere, and a piece of it becomes a
host, a port or a database. libpq would name that piece in its error, so such addresses are refused before it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

SETTINGS: Final = "-c join_collapse_limit=1 -c client_min_messages=warning -c jit=off"
"""Joins are made in the order in which a statement names them, as with CROSS JOIN in SQLite: whoever wrote it knows
what is small. Statements are short, and many: compiling one takes longer than it does."""
_KEEPALIVES: Final = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
"""PostgreSQL's own look at our end: 25 s after a machine has gone, what that had locked is free."""
_PATIENCE: Final[Mapping[str, str | int]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""Seconds, and milliseconds for the last, until a PostgreSQL that has gone without a word counts as gone; an address
may say otherwise."""
_SCHEMES = ("postgresql://", "postgres://")
"""How what libpq takes for an address begins; anything else it reads as words of its own (`host=HOST ..`)."""


class BadAddress(Exception):
    """The address cannot be read; the text says how to write one, and repeats nothing of it."""


class Address(NamedTuple):
    """A database, and how it is reached."""

    parameters: dict[str, str | int]
    """What libpq connects with, the password included."""
    place: str
    """The database and its host, without a password, for messages."""

    def with_parameters(self, **parameters: str | int) -> Address:
        """Return the address with these parameters of libpq, whatever it says of them itself."""
        return self._replace(parameters={**self.parameters, **parameters})

    def connect(self, *settings: str, autocommit: bool = False) -> psycopg.Connection[Any]:
        """A connection with these settings (`name=value`) besides, whatever the address says of them. Raises
        psycopg.Error."""
        options = " ".join([str(self.parameters["options"]), *(f"-c {setting}" for setting in settings)])
        parameters = {**self.parameters, "options": options}
        return psycopg.connect(autocommit=autocommit, **parameters)  # type: ignore[arg-type]  # libpq's words


def read_address(url: str) -> Address:
    """Read an address `postgresql://USER:PASSWORD@HOST/DATABASE`. Raises BadAddress."""
    if not url.startswith(_SCHEMES):
        raise _bad_address()
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise _bad_address() from None
    host = str(given.get("host") or given.get("hostaddr") or "")
    name = str(given.get("dbname") or given.get("user") or "")
    ports = str(given.get("port") or "").split(",")
    if "@" in host or "@" in name or not all(port.isdigit() or not port for port in ports):
        raise _bad_address()
    ours = {**_PATIENCE, "application_name": "fleetpush"}
    options = f"{SETTINGS} {_KEEPALIVES} {given.get('options') or ''}".rstrip()
    return Address(
        {**ours, **given, "options": options},  # type: ignore[dict-item]  # what is None is not given
        f"database {name or '(the default)'} at {host or 'this machine'}",
    )


def _bad_address() -> BadAddress:
    return BadAddress(
        "this is no address of PostgreSQL: postgresql://USER:PASSWORD@HOST/DATABASE, in which a character of the "
        "password that is no letter or digit is written as % and its two hexadecimal digits; behind a question mark "
        "only parameters that psql takes"
    )
