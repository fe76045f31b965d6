"""`python -m broker`: the MQTT server alone, without a gateway.

Prints `broker ready mqtt=HOST:PORT` when clients may come; with `--ws-port` the line goes on with ` ws=HOST:PORT`.
SIGTERM and SIGINT drain it and end it with 0. What keeps it from starting is one line on stderr with the remedy, and
exit code 2.

Open by decision, never by omission: it needs `--password-file` or `--allow-anonymous`, and an address that others can
reach needs `--insecure` as long as there is no TLS. Every limit of `BrokerSettings` is an option.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import getpass
import ipaddress
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

from broker.authorization import AllowAll, Authenticator
from broker.broker import Broker
from broker.clock import ServerClock
from broker.network.listeners import BrokerServer, raise_open_files_limit, settle_collector
from broker.network.password_file import (
    BadPasswordFile,
    HashedPassword,
    PasswordFileAuthenticator,
    hashed_line,
    read_password_file,
)
from broker.network.proxies import host_and_port
from broker.network.websocket_handshake import WebSocketRules
from broker.settings import BrokerSettings
from broker.sqlite_store import SqliteStore, StoreInUse, StoreTooNew
from broker.store import MemoryStore

TWO_BYTES = ("server_keep_alive", "max_inflight", "receive_maximum", "topic_alias_maximum")
"""Limits that the protocol writes in two bytes."""
MAY_BE_ZERO = ("server_keep_alive", "topic_alias_maximum", "max_session_expiry", "system_interval", "disconnect_spread")


class CannotStart(Exception):
    """One line for a person: what is wrong, and the remedy."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        if options.hash_password is not None:
            print(_hashed_line(options.hash_password))
            return 0
        users = _checked(options)
        raise_open_files_limit()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(options, users))
    except CannotStart as problem:
        print(f"broker: {problem}", file=sys.stderr)
        return 2
    return 0


async def _serve(options: argparse.Namespace, users: dict[str, HashedPassword] | None) -> None:
    loop = asyncio.get_running_loop()
    rules = _websocket_rules(options)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)

    permissions = AllowAll(options.deny_filter)
    passwords = None if users is None else PasswordFileAuthenticator(users, permissions)
    store = _open_store(options.data_dir, loop)
    try:
        if store is None:
            clock = ServerClock()
        else:
            clock = ServerClock(store.last_time())
            store.keep_time(clock)
        authenticator: Authenticator = passwords or permissions
        broker = Broker(_settings(options), store or MemoryStore(), authenticator, None, clock)
        broker.start()
        server = BrokerServer(broker)
        try:
            ready = f"broker ready mqtt={await _listen(server.start_tcp, options.bind, options.port, '--port')}"
            if options.ws_port is not None:
                start = partial(server.start_websocket, rules=rules)
                ready += f" ws={await _listen(start, options.bind, options.ws_port, '--ws-port')}"
            if store is None:
                notice = "without --data-dir sessions and retained messages end with this process"
                print(f"broker: {notice}", file=sys.stderr)
            settle_collector()
            print(ready, flush=True)
            await stop.wait()
        finally:
            await server.stop()
    finally:
        if store is not None:
            await store.close()
        if passwords is not None:
            passwords.close()


# -- what can be wrong -----------------------------------------------------------------------------------------------


def _checked(options: argparse.Namespace) -> dict[str, HashedPassword] | None:
    """The users; None if anybody may connect."""
    if options.password_file is None and not options.allow_anonymous:
        raise CannotStart(
            "nobody could connect; give --password-file FILE (--hash-password USER makes a line for it),"
            " or --allow-anonymous for experiments"
        )
    if not options.insecure and not _is_loopback(options.bind):
        raise CannotStart(
            f"{options.bind} can be reached by others, and without TLS they can read passwords and messages;"
            " bind 127.0.0.1, or accept that with --insecure"
        )
    if options.password_file is None:
        return None
    try:
        return read_password_file(options.password_file)
    except OSError as error:
        raise CannotStart(f"{options.password_file}: {error.strerror}; check the path of --password-file") from None
    except (BadPasswordFile, UnicodeDecodeError) as error:
        raise CannotStart(
            f"{options.password_file}: {error}; --hash-password USER makes a line as it should be"
        ) from None


def _websocket_rules(options: argparse.Namespace) -> WebSocketRules:
    if options.ws_origin and options.ws_port is None:
        raise CannotStart("--ws-origin is for pages that come over WebSocket; give --ws-port as well")
    try:
        return WebSocketRules(origins=frozenset(options.ws_origin))
    except ValueError as error:
        raise CannotStart(f"{error}; correct --ws-origin") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open_store(data_dir: Path | None, loop: asyncio.AbstractEventLoop) -> SqliteStore | None:
    if data_dir is None:
        return None
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SqliteStore(data_dir / "broker.db", loop)
    except StoreInUse:
        raise CannotStart(
            f"{data_dir} is in use by another server; stop that one, or choose another with --data-dir"
        ) from None
    except StoreTooNew as error:
        raise CannotStart(f"{error}; start the version that wrote it, or choose another --data-dir") from None
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CannotStart(f"{data_dir}: {reason}; mend it, or choose another with --data-dir") from None


Start = Callable[[str, int], Awaitable[tuple[str, int]]]


async def _listen(start: Start, host: str, port: int, option: str) -> str:
    """The address it got; `option` is where the port comes from."""
    try:
        return host_and_port(*await start(host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"port {port} of {host} is in use; choose another with {option}, or {option} 0 for a free one"
            ) from None
        # The loop's own text repeats the address; the resolver's errors have negative numbers and a good text.
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        raise CannotStart(
            f"cannot listen on {host}, port {port}: {reason}; choose others with --bind and {option}"
        ) from None


# -- options -----------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m broker", description="An MQTT 3.1.1 and 5.0 server.")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument("--port", type=_number(65_535), default=1883, help="default: %(default)s; 0 picks a free one")
    parser.add_argument(
        "--ws-port", type=_number(65_535), metavar="PORT", help="also serve MQTT over WebSocket, at /mqtt; 0 as above"
    )
    parser.add_argument(
        "--ws-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="pages of https://HOST may use --ws-port, besides our own; * for those of everybody; may be repeated",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="keep sessions and retained messages here")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="who may connect: USER:HASH per line")
    parser.add_argument("--hash-password", metavar="USER", help="ask for a password, print its line for the file, end")
    parser.add_argument("--allow-anonymous", action="store_true", help="anybody may connect and use any topic")
    parser.add_argument("--insecure", action="store_true", help="allow an address that others can reach, without TLS")
    parser.add_argument("--deny-filter", metavar="FILTER", help="refuse subscriptions to this topic filter")
    parser.add_argument("--verbose", action="store_true", help="log refused packets as well")
    limits = parser.add_argument_group("limits", "described in broker/README.md")
    for field in fields(BrokerSettings):
        number: Callable[[str], float] = float if field.type == "float" else int
        limits.add_argument(
            "--" + field.name.replace("_", "-"),
            type=_number(65_535 if field.name in TWO_BYTES else None, number, 0 if field.name in MAY_BE_ZERO else 1),
            default=field.default,
            metavar="N",
            help="default: %(default)s" if field.default is not None else "default: what the client asks for",
        )
    return parser


def _number(highest: float | None, number: Callable[[str], float] = int, lowest: float = 0) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = number(text)
        if value < lowest or (highest is not None and value > highest):
            raise argparse.ArgumentTypeError(
                f"{text} is not {f'{lowest} to {highest}' if highest else f'{lowest} or more'}"
            )
        return value

    convert.__name__ = "number"  # argparse names it when the text is none
    return convert


def _settings(options: argparse.Namespace) -> BrokerSettings:
    return BrokerSettings(**{field.name: getattr(options, field.name) for field in fields(BrokerSettings)})


def _hashed_line(user: str) -> str:
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not password:
        raise CannotStart("an empty password lets anybody in; choose another")
    try:
        return hashed_line(user, password.encode())
    except ValueError as error:
        raise CannotStart(f"{user!r}: {error}") from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop  # slower, and the same
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
