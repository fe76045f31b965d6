"""The server process, `fleetpush serve`: started, announced and ended here, on one loop (`composition` wires it).

Order of the start: the data directory's lock; the HTTP port (so that a port in use is noticed before anything is
touched); databases, migrated; the components; what the broker still holds past PUBREC; the MQTT port; HTTP; the ready
line. The end is the reverse: a node hands its devices to the others (`nodes/device_move`); no new requests, those under
way are answered; nothing more is handed to devices, what they have is acknowledged, they are told goodbye; what they
said and acknowledged until then is on disk before the files close. A second signal leaves the first of these out.

What keeps the server from starting is one line on stderr with its remedy, and exit code 2; or 75, if it may pass by
itself: a PostgreSQL that does not answer yet. A disk that does not confirm a commit, or a PostgreSQL, ends it with 74:
nobody knows what is stored until it has been read anew. A node that has lost its lease ends with 69, at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import uvloop

from broker.log_format import LineFormatter, line_formatter
from broker.log_writer import LogWriter, print_aside
from broker.network.acceptor import AcceptorOptions
from broker.network.listen_address import ListenAddress
from broker.network.listeners import BrokerServer, raise_open_files_limit, tune_collector
from broker.network.tls import ServerTls
from broker.sqlite_store import EXIT_UNSYNCED
from gateway import data_directory, disk_space, listener_config, startup
from gateway.api.http import create_api
from gateway.api.http_connection import MQTT_PATH
from gateway.api.server import BACKLOG_CONNECTIONS, HttpServer
from gateway.audience.time_zones import time_zones
from gateway.composition import Components
from gateway.device_topics import DEFAULT_APP
from gateway.devices import MqttAddress
from gateway.hangup import Hangups
from gateway.host_names import bracketed, reachable
from gateway.metrics_key import BadMetricsKey
from gateway.nodes.device_move import DeviceMove
from gateway.people.components import BadClientSecret
from gateway.service_manager import ServiceManager
from gateway.settings import Settings
from gateway.socket_activation import BadPassedSocket, PassedSockets
from gateway.startup import CannotStart, MayStartLater
from gateway.store.errors import StorageError
from gateway.watchdog import STALL_SECONDS, Watchdog

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
EXIT_REFUSED = 2
"""Exit code of a start that cannot work before somebody has changed something; no service manager repeats it."""
EXIT_LEASE_LOST = 69
"""Exit code of a node whose lease is over (`EX_UNAVAILABLE` of sysexits.h); the next start begins a new epoch."""
EXIT_LATER = 75
"""Exit code of a start that may work later (`EX_TEMPFAIL` of sysexits.h)."""
SWITCH_SECONDS = 0.0005
"""After which a thread that wants the interpreter's lock gets it. With Python's own 0.005 the writer's thread waits so
long for each statement while the loop is at work: beside 480 connections that ask without end, the latest of 75 pushes
came after 19-241 ms in five runs, and comes after 19-136. Measured in turns, it costs nothing: a push to 1,000 devices
1.16 of what it was (stream), request to socket 0.83 (p99)."""
NOISY_LOGGERS = ("uvicorn", "psycopg", "alembic", "sqlalchemy", "asyncio", "httpx2", "httpcore2", "h11")
"""Kept at warnings: what they say below is not for an operator. Statements have values in them, and the addresses of
webhooks their tokens."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code."""
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.setswitchinterval(SWITCH_SECONDS)
    data_dir = settings.data_dir
    formatter = line_formatter(settings.log_format, LOG_FORMAT)
    refuse = partial(_refuse, formatter)
    os.umask(0o077)  # what is stored is nobody else's
    try:
        log_writer = LogWriter(settings.log_level.upper(), formatter)
        with (
            data_directory.locked(data_dir),
            log_writer,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            try:
                disk_space.release_for_start(data_dir)
                startup.finish_restore(data_dir)
                lost = runner.run(_serve(settings, log_writer))
            except (CannotStart, BadPassedSocket, listener_config.BadListenerConfig, BadMetricsKey, BadClientSecret):
                raise
            except StorageError as error:
                raise startup.refusal(data_dir / data_directory.LEDGER, error) from error
            except Exception:
                # Whatever a damaged file leads to, it is one line; a fault of ours is none of it.
                found = startup.damage(data_dir)
                if found is None:
                    raise
                return refuse(found)
            with suppress(OSError):
                disk_space.make_reserve_at_end(data_dir)
            if lost is not None:
                is_of_disk = settings.database is None or data_directory.BROKER in lost
                remedy = "have the disk looked at, and start again" if is_of_disk else "start again"
                ended = f"{lost}: ended, so that the next start begins from what is stored; {remedy}"
                log_writer.write_line(f"fleetpush: {ended}")
                log_writer.end()
                # Not by returning: what is left of the databases would be closed, and write to their files.
                os._exit(EXIT_UNSYNCED)
    except data_directory.DirectoryInUse as holder:
        return refuse(f"{data_dir} is in use by {holder}: stop that server, or choose another --data-dir")
    except (CannotStart, BadPassedSocket, listener_config.BadListenerConfig, BadMetricsKey, BadClientSecret) as refusal:
        return refuse(str(refusal), EXIT_LATER if isinstance(refusal, MayStartLater) else EXIT_REFUSED)
    except OSError as error:
        if error.filename is None or not str(error.filename).startswith(str(data_dir)):
            raise
        if isinstance(error, FileExistsError | NotADirectoryError):
            return refuse(f"{error.filename}: it is no directory; mend that, or choose another --data-dir")
        return refuse(str(startup.refusal(Path(error.filename), error)))
    return 0


def _refuse(formatter: LineFormatter, text: str, code: int = EXIT_REFUSED) -> int:
    one_line = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    print(formatter.note(logging.ERROR, f"fleetpush: {one_line}"), file=sys.stderr)
    return code


async def _serve(settings: Settings, log_writer: LogWriter) -> str | None:
    """Serve until told to stop; why a database could not go on, if that was the reason."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hurry = asyncio.Event()  # set by the second signal, and by a database that is lost
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, _ask_to_end, stop, hurry)
    hangups = Hangups(stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangups)
    listeners = listener_config.load_listener_config(settings)
    wanted = listener_config.addresses(settings, listeners)
    tls = listeners.tls
    raise_open_files_limit()
    time_zones()
    manager = ServiceManager.from_environment(os.environ)
    host = "127.0.0.1" if settings.bind == "localhost" else settings.bind
    async with AsyncExitStack() as ending:
        starting = loop.create_task(manager.extend_start())
        ending.push_async_callback(_cancel, starting)
        passed = ending.enter_context(PassedSockets.from_environment(os.environ))
        http_listener = passed.claim("http", f"{bracketed(host)}:{settings.http_port}", "http")
        mqtt_listeners = _claim_mqtt(passed, wanted)
        passed.require_all_claimed()
        listener_config.require_secrecy(settings, listeners, http_listener, mqtt_listeners[0])
        listener = ending.enter_context(http_listener or _listen(host, settings.http_port))
        if settings.node_url is not None and not await startup.wait_for_database(settings, stop):
            return None
        stored = await startup.open_stores(settings, ending)
        if stored.membership is not None:
            stored.membership.lost.add_done_callback(partial(_end_without_lease, log_writer))
        admin_key = await startup.first_start(settings.data_dir, stored)
        components = Components(settings, stored, log_writer)
        ending.push_async_callback(components.flush)
        if components.peers is not None:
            ending.push_async_callback(components.peers.end)
        if components.moving_sessions is not None:
            ending.push_async_callback(components.moving_sessions.takeover.end)
        await components.recover()
        components.certificate_ends = listener_config.certificate_ends(tls)
        components.enrolment.fleet_ca = listener_config.fleet_ca(tls, settings.data_dir)
        mqtt = BrokerServer(components.broker, listeners, components.device_descriptors)
        ending.push_async_callback(mqtt.stop)
        listening = [
            await _open_mqtt(mqtt, address, passed_socket, main=address is wanted[0])
            for address, passed_socket in zip(wanted, mqtt_listeners, strict=True)
        ]
        http_host, http_port = listener.getsockname()[:2]
        web_host = bracketed(settings.public_host) if settings.public_host else reachable(http_host)
        web = settings.public_url or f"{'http' if tls is None else 'https'}://{web_host}:{http_port}"
        components.mqtt_address = MqttAddress(
            host=settings.public_host or listening[0].host,
            port=listening[0].port,
            tls=tls is not None,
            websocket=f"ws{web.removeprefix('http')}{MQTT_PATH}",
        ).reached_at(settings.public_mqtt)

        api = create_api(components.services(stop.is_set))
        http = HttpServer(
            app=api,
            websocket=mqtt.websocket,
            limiter=components.connections,
            trusted_proxies=settings.trusted_proxies,
            turns=components.turns,
            share_of_holder=components.share_of_holder,
        )
        reload: Callable[[], None]
        if tls is None:
            await http.start(listener)
            reload = partial(log.info, "SIGHUP: there are no certificates to read again")
        else:
            await http.start(None)
            http_tls = listener_config.for_requests(tls)
            entrance = mqtt.accept(
                listener, AcceptorOptions(http_tls), lambda _: http.protocol(), components.connections.room_for
            )
            reload = partial(_reload, components, settings.data_dir, tls, http_tls)
        hangups.ready(partial(_tell_of_reload, manager, reload))
        ending.push_async_callback(http.stop)
        ending.callback(components.feed.end)  # before that: a stream would keep it waiting
        components.webhook_sender.start()
        ending.push_async_callback(components.webhook_sender.end)
        ending.push_async_callback(components.people.end)
        if tls is not None:
            ending.callback(entrance.close)
        watchdog = Watchdog(components.writer_probes(), loop.time, manager.watchdog_seconds or STALL_SECONDS)
        for work in (
            manager.pulse(watchdog.fault, components.status),
            components.sweep(),
            components.remove_old(),
            components.watch_disk(),
            components.enforce_quotas(),
            components.run_schedules(),
            components.record_presence(),
            *components.works_of_one(),
            components.delivery.policies.segments.run(components.delivery.policies.cap_segments),
            components.measurements.measure(),
            components.measurements.watch_loop(),
            *(() if components.peers is None else (components.peers.run(),)),
            *(() if settings.database is None else (components.ask_database_again(),)),
        ):
            task = loop.create_task(work, name=getattr(work, "__qualname__", "a task"))
            task.add_done_callback(report_failure)
            ending.push_async_callback(_cancel, task)

        facts = {
            "url": f"{'http' if tls is None else 'https'}://{reachable(http_host)}:{http_port}",
            "pid": os.getpid(),
            "http_port": http_port,
            "mqtt_port": listening[0].port,
            "listeners": [str(address) for address in listening],
        }
        if tls is not None:
            facts["certificate"] = str(tls.files.certificate.absolute())
        ending.enter_context(data_directory.announced(settings.data_dir, facts))
        if admin_key is not None:
            log_writer.write_line(
                f"fleetpush: first start: made the app {DEFAULT_APP!r} and an admin key for it in {admin_key}"
            )
        tune_collector()
        further = [f"{address.scheme}={address.place}" for address in listening[1:]]
        secure = "" if tls is None else "s"
        ready = f"fleetpush ready http{secure}={bracketed(http_host)}:{http_port} mqtt{secure}={listening[0].place}"
        print_aside(" ".join([ready, *further]))
        starting.cancel()
        manager.ready(components.status())
        stopping = loop.create_task(stop.wait())
        lost = stored.database.lost, stored.sessions.lost
        for future in lost:
            future.add_done_callback(partial(_end_at_once, stop, hurry))
        await asyncio.wait([stopping, http.ended], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if http.ended.done():
            http.ended.result()
            raise RuntimeError("the HTTP server ended by itself")
        if stored.membership is not None:
            moving = DeviceMove(components.broker, stored.membership)
            manager.stopping("ending: handing the devices to the other nodes", moving.expected_seconds())
            await moving.run(hurry)
        reason = next((future.result() for future in lost if future.done()), None)
        if reason is None:
            manager.stopping("ending: answering what was asked, saying goodbye to the devices")
            log.info("ending: answering what was asked, saying goodbye to the devices")
        else:
            manager.stopping(f"ending: {reason}")
            log.critical("ending: %s", reason)
    return reason


def _ask_to_end(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """Stop at the first signal, and without the devices that are still to be moved at the second."""
    (hurry if stop.is_set() else stop).set()


def _end_at_once(stop: asyncio.Event, hurry: asyncio.Event, lost: asyncio.Future[str]) -> None:
    stop.set()
    hurry.set()


def _end_without_lease(log_writer: LogWriter, lost: asyncio.Future[str]) -> None:
    """End as after a kill: within a second another node serves the devices whose sockets are open here, and whatever
    is not stored yet is refused."""
    if not lost.cancelled():
        log_writer.write_line(f"fleetpush: this node's lease is over ({lost.result()}): ended; start again")
        log_writer.end()
        os._exit(EXIT_LEASE_LOST)


def _tell_of_reload(manager: ServiceManager, reload: Callable[[], None]) -> None:
    with manager.reloading():
        reload()


def _reload(components: Components, data_dir: Path, tls: ServerTls, http_tls: ServerTls) -> None:
    """Read the certificates again, at a SIGHUP."""
    if listener_config.reload(*{tls, http_tls}):
        components.certificate_ends = listener_config.certificate_ends(tls)
        components.enrolment.fleet_ca = listener_config.fleet_ca(tls, data_dir)


def report_failure(task: asyncio.Task[None]) -> None:
    """Say at once that a task which lasts as long as the server has failed: nothing else shows it until the end."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.critical("%s has failed, and is done again after a restart only", task.get_name(), exc_info=error)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass


# -- ports -------------------------------------------------------------------------------------------------------------


def _listen(host: str, port: int) -> socket.socket:
    """The HTTP port. Raises CannotStart."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG_CONNECTIONS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _no_port("http", host, port, error) from None
    return listener


def _claim_mqtt(passed: PassedSockets, wanted: Sequence[ListenAddress]) -> list[socket.socket | None]:
    """Return, for each address at which devices connect, the socket that the service manager has passed.

    Raises BadPassedSocket.
    """
    names = ["mqtt", *([None] * (len(wanted) - 1))]
    return [passed.claim(address.scheme, address.place, name) for address, name in zip(wanted, names, strict=True)]


async def _open_mqtt(
    server: BrokerServer, address: ListenAddress, passed: socket.socket | None, *, main: bool
) -> ListenAddress:
    try:
        return await server.listen(address, passed)
    except OSError as error:
        if main:
            raise _no_port("mqtt", address.host, address.port, error) from None
        reason = os.strerror(error.errno) if error.errno else error
        raise CannotStart(f"cannot listen on {address}: {reason}; choose another with --listen") from None


def _no_port(name: str, host: str, port: int, error: OSError) -> CannotStart:
    if error.errno == errno.EADDRINUSE:
        return CannotStart(
            f"port {port} of {host} is in use (`ss -ltnp 'sport = :{port}'` shows by whom): stop that, or choose "
            f"another with --{name}-port"
        )
    reason = os.strerror(error.errno) if error.errno else error
    return CannotStart(f"cannot listen on {host}, port {port}: {reason}; choose others with --bind and --{name}-port")
