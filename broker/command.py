"""The command `python -m broker`: the MQTT server alone, without a gateway.

Prints `broker ready mqtt=HOST:PORT` when clients may come; the line goes on with every further listener, as in
` ws=HOST:PORT`. SIGTERM and SIGINT drain it and end it with 0. What keeps it from starting is one line on stderr with
the remedy, and exit code 2. A disk that does not confirm what it was given ends it with 74.

Open by decision, never by omission: it needs `--password-file`, `--allow-anonymous` or client certificates, and an
address that others can reach needs TLS or `--insecure`. Every limit of `BrokerSettings` is an option. SIGHUP reads the
certificates again.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import getpass
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from broker.authorization import AllowAll, Authenticator, CertificateAuthenticator
from broker.broker import Broker
from broker.clock import ServerClock
from broker.log_format import line_formatter
from broker.log_writer import LogWriter, print_aside
from broker.network.descriptor_shares import share_out
from broker.network.listen_address import WEBSOCKET_PATH, BadAddress, ListenAddress, parse_address
from broker.network.listeners import BrokerServer, ListenerConfig, raise_open_files_limit, tune_collector
from broker.network.password_file import (
    BadPasswordFile,
    PasswordFileAuthenticator,
    hashed_line,
    read_password_file,
)
from broker.network.password_hashes import PasswordHash
from broker.network.proxies import TrustedProxies
from broker.network.tls import ServerTls, TlsError, TlsFiles
from broker.program import version_line
from broker.protocol.packets import ReasonCode
from broker.settings import BrokerSettings
from broker.sqlite_store import EXIT_UNSYNCED, SqliteStore, StoreInUse, StoreTooNew
from broker.store import MemoryStore

log = logging.getLogger(__name__)

TWO_BYTES = ("server_keep_alive", "max_inflight", "receive_maximum", "topic_alias_maximum")
"""Limits that the protocol writes in two bytes."""
MAY_BE_ZERO = ("server_keep_alive", "topic_alias_maximum", "max_session_expiry", "system_interval", "disconnect_spread")


class CannotStart(Exception):
    """The broker cannot start; the text is one line with the reason and the remedy."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.hash_password is not None:
            print(_hashed_line(options.hash_password))
            return 0
        addresses = _addresses(options)
        users = _checked(options, addresses)
        config = _listener_config(options, addresses)
        descriptors = share_out(raise_open_files_limit(), http=0).devices
        level = logging.INFO if options.verbose else logging.WARNING
        with (
            LogWriter(level, line_formatter("text", "%(asctime)s %(levelname)s %(message)s")) as log_writer,
            asyncio.Runner(loop_factory=_loop_factory()) as runner,
        ):
            lost = runner.run(_serve(options, users, addresses, config, descriptors, log_writer))
            if lost is not None:
                remedy = "have the disk looked at, and start again"
                ended = f"{lost}: ended, so that the next start begins from what is on disk; {remedy}"
                log_writer.write_line(f"broker: {ended}")
                log_writer.end()
                # Not by returning: the store would be closed, and write to its file.
                os._exit(EXIT_UNSYNCED)
    except CannotStart as problem:
        print(f"broker: {problem}", file=sys.stderr)
        return 2
    return 0


async def _serve(
    options: argparse.Namespace,
    users: dict[str, PasswordHash] | None,
    addresses: Sequence[ListenAddress],
    config: ListenerConfig,
    descriptors: int,
    log_writer: LogWriter,
) -> str | None:
    """Serve until told to stop; return the reason if the store could not go on."""
    loop = asyncio.get_running_loop()
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
        authenticator: Authenticator | None = passwords or (permissions if options.allow_anonymous else None)
        if authenticator is None or options.client_certificates != "none":
            authenticator = CertificateAuthenticator(permissions, authenticator)
        broker = Broker(_settings(options), store or MemoryStore(), authenticator, None, clock)
        broker.start()
        loop.add_signal_handler(signal.SIGHUP, _reload, config.tls, options.password_file, passwords, broker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # of an earlier one as well, if it is pending
        server = BrokerServer(broker, config, descriptors)
        try:
            given_by = ["--port"] if options.ws_port is None else ["--port", "--ws-port"]
            given_by += ["--listen"] * len(options.listen)
            listening = [await _listen(server, *each) for each in zip(addresses, given_by, strict=True)]
            if store is None:
                notice = "without --data-dir sessions and retained messages end with this process"
                log_writer.write_line(f"broker: {notice}")
            tune_collector()
            # The first is always named `mqtt`; its scheme is known to the caller.
            names = ["mqtt", *(address.scheme for address in listening[1:])]
            places = [f"{name}={address.place}" for name, address in zip(names, listening, strict=True)]
            print_aside(" ".join(["broker ready", *places]))
            if store is not None:
                store.lost.add_done_callback(lambda _: stop.set())
            await stop.wait()
            return store.lost.result() if store is not None and store.lost.done() else None
        finally:
            await server.stop()
    finally:
        if store is not None:
            await store.close()
        if passwords is not None:
            passwords.close()


# -- checks of the options -------------------------------------------------------------------------------------------


def _addresses(options: argparse.Namespace) -> list[ListenAddress]:
    """Return the listening addresses, the main one first."""
    bind = "127.0.0.1" if options.bind == "localhost" else options.bind
    secure = options.tls_cert is not None
    found = [ListenAddress("mqtts" if secure else "mqtt", bind, options.port)]
    if options.ws_port is not None:
        found.append(ListenAddress("wss" if secure else "ws", bind, options.ws_port, WEBSOCKET_PATH))
    try:
        found += [parse_address(text) for text in options.listen]
    except BadAddress as error:
        raise CannotStart(f"--listen {error}") from None
    return found


def _checked(options: argparse.Namespace, addresses: Sequence[ListenAddress]) -> dict[str, PasswordHash] | None:
    """Check the options together; return the users, None if there is no list of them."""
    if options.password_file is None and not options.allow_anonymous and options.client_certificates != "required":
        raise CannotStart(
            "nobody could connect; give --password-file FILE (--hash-password USER makes a line for it),"
            " --client-certificates required, or --allow-anonymous for experiments"
        )
    for address in addresses:
        if address.crosses_networks and not options.insecure and (not address.is_tls or options.allow_anonymous):
            danger = "anybody can do anything there" if address.is_tls else "they can read passwords and messages"
            raise CannotStart(
                f"{address} can be reached by others, and {danger}; bind 127.0.0.1, "
                f"{'drop --allow-anonymous' if address.is_tls else 'give --tls-cert and --tls-key'},"
                " or accept that with --insecure"
            )
        if address.proxy and not options.trusted_proxy and address.scheme != "unix":
            raise CannotStart(f"{address} waits for a proxy; say which with --trusted-proxy ADDRESS")
    return None if options.password_file is None else _read_users(options.password_file)


def _read_users(path: Path) -> dict[str, PasswordHash]:
    try:
        return read_password_file(path)
    except OSError as error:
        raise CannotStart(f"{path}: {error.strerror}; check the path of --password-file") from None
    except (BadPasswordFile, UnicodeDecodeError) as error:
        raise CannotStart(f"{path}: {error}; --hash-password USER makes a line as it should be") from None


def _listener_config(options: argparse.Namespace, addresses: Sequence[ListenAddress]) -> ListenerConfig:
    if options.ws_origin and not any(address.is_websocket for address in addresses):
        raise CannotStart("--ws-origin is for pages that come over WebSocket; give --ws-port as well")
    try:
        proxies = TrustedProxies(options.trusted_proxy)
    except ValueError as error:
        raise CannotStart(f"--trusted-proxy: {error}") from None
    if options.client_certificates != "none" and options.tls_ca is None:
        raise CannotStart("--client-certificates: who vouches for them? Give --tls-ca FILE")
    if (options.tls_cert is None) is not (options.tls_key is None):
        raise CannotStart("--tls-cert and --tls-key belong together; give both")
    tls = None
    if options.tls_cert is not None:
        try:
            tls = ServerTls(TlsFiles(options.tls_cert, options.tls_key, options.tls_ca, options.client_certificates))
        except TlsError as error:
            raise CannotStart(str(error)) from None
    for address in addresses:
        if address.is_tls and tls is None:
            raise CannotStart(f"{address} needs a certificate; give --tls-cert FILE and --tls-key FILE")
    try:
        config = ListenerConfig(tls, proxies, frozenset(options.ws_origin))
        config.websocket_rules()
    except ValueError as error:
        raise CannotStart(f"{error}; correct --ws-origin") from None
    return config


def _reload(
    tls: ServerTls | None, file: Path | None, passwords: PasswordFileAuthenticator | None, broker: Broker
) -> None:
    """Read passwords and certificates again, after SIGHUP."""
    if file is not None and passwords is not None:
        try:
            users = _read_users(file)
        except CannotStart as error:
            log.error("the passwords stay as they are: %s", error)
        else:
            changed = passwords.replace(users)
            for user in changed:
                broker.disconnect_principal(user, ReasonCode.NOT_AUTHORIZED)
            log.warning("%d passwords read again, %d of them gone or changed: theirs end", len(users), len(changed))
    if tls is None:
        return
    try:
        tls.reload()
    except TlsError as error:
        log.error("the certificates stay as they are: %s", error)
    else:
        log.warning("certificates read again: they count for connections that come from now on")


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


async def _listen(server: BrokerServer, address: ListenAddress, option: str) -> ListenAddress:
    """Open a listener. `option` is the option that has the address."""
    try:
        return await server.listen(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = f", or {option} 0 for a free one" if option != "--listen" else ""
            raise CannotStart(f"{address.place} is in use; choose another with {option}{other}") from None
        # The loop's own text repeats the address; the resolver's errors have negative numbers and a good text.
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        other = "another" if option == "--listen" else "others with --bind and"
        raise CannotStart(f"cannot listen on {address.place}: {reason}; choose {other} {option}") from None


# -- options -----------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m broker", description="An MQTT 3.1.1 and 5.0 server.")
    parser.add_argument("--version", action="version", version=version_line())
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument("--port", type=_number(65_535), default=1883, help="default: %(default)s; 0 picks a free one")
    parser.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="URL",
        help="one more: mqtt://, mqtts://, ws://, wss://HOST:PORT, unix:/path; may be repeated",
    )
    parser.add_argument(
        "--ws-port", type=_number(65_535), metavar="PORT", help="WebSocket too, at /mqtt, with TLS if there is any"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="keep sessions and retained messages here")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="who may connect: USER:HASH per line")
    parser.add_argument("--hash-password", metavar="USER", help="ask for a password, print its line for the file, end")
    parser.add_argument("--allow-anonymous", action="store_true", help="anybody may connect and use any topic")
    parser.add_argument("--insecure", action="store_true", help="allow an address that others can reach, without TLS")
    parser.add_argument("--deny-filter", metavar="FILTER", help="refuse subscriptions to this topic filter")
    parser.add_argument("--verbose", action="store_true", help="log refused packets as well")
    security = parser.add_argument_group("TLS and proxies")
    security.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM): the main port speaks TLS")
    security.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
    security.add_argument("--tls-ca", type=Path, metavar="FILE", help="who vouches for clients' certificates (PEM)")
    security.add_argument(
        "--client-certificates",
        choices=("none", "optional", "required"),
        default="none",
        help="whose is verified needs no password: its common name is the user; default: %(default)s",
    )
    security.add_argument(
        "--ws-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="whose pages may open a WebSocket, as https://kiosk.example; * is all; may be repeated",
    )
    security.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="or network: whose PROXY headers and X-Forwarded-For are believed; may be repeated",
    )
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
