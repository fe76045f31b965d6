"""`fleetpush kiosk`: a browser as a device. Fetches MQTT.js, enrols the device, serves its page on this machine.

Three things that are not ours are needed and none is in the tree: MQTT.js and jose, which npm fetches once (their
versions are pinned in client_sim/web/package.json); a browser; and a server whose WebSocket lets this page's origin in.

The page's address ends in a fragment with the credential. A fragment is sent to nobody, and the page takes it out of
the address bar. The port is the same at every start unless told otherwise, because a browser keeps storage and
permission per address: with another port the page is a stranger to it.
"""

from __future__ import annotations

import base64
import fcntl
import http.client
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode, urlsplit, urlunsplit

import typer

from gateway.cli.listen import Credential, load_or_enrol
from gateway.cli.options import DataDir, ServerUrl, client_of
from gateway.cli.server_client import ServerClient, tls_context
from gateway.cli.terminal import PROGRAM, Failure, fail, note
from gateway.cli.tls_recipes import trust_lines
from gateway.data_directory import CA_CERTIFICATE, TLS_DIR

DEFAULT_PORT = 8090
MQTT_JS = "node_modules/mqtt/dist/mqtt.esm.js"
JOSE = "node_modules/jose/dist/webapi"
"""The folder of the modules that read signatures; a page without pinned keys loads none of them."""
TRUSTED_KEYS = "/trusted-keys.json"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
PAGE = (
    "index.html",
    "kiosk.js",
    "kiosk.css",
    "banners.js",
    "player.js",
    "device.js",
    "backoff.js",
    "enrolment.js",
    "journal.js",
    "texts.js",
    "texts.json",
    "icon.svg",
    "trust.js",
    "trusted-keys.json",
)
"""All that is served, besides MQTT.js and jose."""
HEADERS = {
    "Cache-Control": "no-store",
    # What the page may load is in its own meta element; this is what only a header can say.
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
PROBE_TIMEOUT_SECONDS = 5.0


def kiosk(
    device_id: Annotated[str, typer.Argument(metavar="[ID]", help="The device to be")] = "kiosk",
    port: Annotated[int, typer.Option(help="Of the page, on 127.0.0.1; 0: any free one")] = DEFAULT_PORT,
    texts: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help='Words of the page: {"fr": {"connected": "Connecté"}}'),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Obey commands signed by these keys only (`signing show`)"),
    ] = None,
    code: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of an enrolment code, as its label has it; needs no key")
    ] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Take a new token for a device that exists")] = False,
    server: ServerUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a browser a device: serve its page until Ctrl-C. Fetches MQTT.js with npm, enrols the device if need be."""
    if code is not None:
        if rotate:
            fail("--rotate needs a key, and --code is for who has none: leave one of them out", 2)
        serve_with_code(code, port, texts, trust)
        return
    with client_of(server, data_dir) as client:
        mqtt_js = installed_mqtt_js(web_folder())
        credential, _ = load_or_enrol(client, device_id, rotate=rotate, command="kiosk")
        websocket = websocket_of(credential, client)
        context = client.tls or tls_context(None)
    ended = end_signal()
    with serving(pages(web_folder(), mqtt_js, texts, trust), port) as origin:
        if (complaint := refusal_of(websocket, origin, context)) is not None:
            note(complaint)
        if websocket.startswith("wss:"):
            note(trust_of(client.found_in))
        note(f"Open this in a browser on this machine. It makes the browser {device_id}: show it to nobody.")
        print(address_of(origin, credential, websocket), flush=True)
        note("Ctrl-C ends it; the page then stays connected until it is closed.")
        ended.wait()


def serve_with_code(code: str, port: int, texts: Path | None, trust: Path | None) -> None:
    """Serve the page until Ctrl-C, for a browser that enrols itself."""
    from client_sim.enrolment import CodeAddress

    try:
        label = CodeAddress.parse(code)
    except ValueError as error:
        raise Failure(str(error), 2) from None
    mqtt_js = installed_mqtt_js(web_folder())
    ended = end_signal()
    with serving(pages(web_folder(), mqtt_js, texts, trust), port) as origin:
        if label.server.startswith("https:"):
            note(trust_of(None))
        note(f"The server must let this page in: {PROGRAM} serve --ws-origins {origin}")
        note("Open this in a browser on this machine. It uses the code up: show it to nobody.")
        print(f"{origin}/#{urlencode({'enrol': code})}", flush=True)
        note("Ctrl-C ends it; the page then stays connected until it is closed.")
        ended.wait()


def trust_of(data_dir: Path | None) -> str:
    """Explain how the browser comes to trust the server; with a fleet CA on this machine, by lines to paste."""
    ca = None if data_dir is None else data_dir / TLS_DIR / CA_CERTIFICATE
    if ca is None or not ca.exists():
        return "The browser must trust the server's certificate, too: import the CA that signed it, if it is your own."
    lines = "\n".join(f"    {line}" for line in trust_lines(ca))
    return f"The browser must trust the fleet's CA, too. Chromium on Linux does after\n{lines}"


# MQTT.js


def web_folder() -> Path:
    import client_sim

    return Path(client_sim.__file__).parent / "web"


def installed_mqtt_js(web: Path) -> Path:
    """The bundle of MQTT.js, fetched with jose if both are not there yet."""
    wanted: dict[str, str] = json.loads((web / "package.json").read_text())["dependencies"]
    folder = modules_folder(web, wanted["mqtt"])
    bundle = folder / MQTT_JS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise Failure(f"{folder} cannot be used for MQTT.js: {error.strerror}") from error
    try:
        # Two first starts at once: one fetches it, the other waits and finds it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if versions_in(folder, wanted) != wanted or not bundle.exists():
            fetch(web, folder, wanted)
    finally:
        os.close(lock)
    return bundle


def modules_folder(web: Path, version: str) -> Path:
    """The page's own folder in a checkout; elsewhere (an installed package, a read-only disk) the user's cache."""
    if (web.parent.parent / "pyproject.toml").exists() and os.access(web, os.W_OK):
        return web
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "fleetpush" / f"mqtt-js-{version}"


def versions_in(folder: Path, packages: Iterable[str]) -> dict[str, str]:
    """Read the versions of those of the packages that are in a folder."""
    found = {}
    for package in packages:
        try:
            found[package] = str(
                json.loads((folder / "node_modules" / package / "package.json").read_text())["version"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            pass
    return found


def fetch(web: Path, folder: Path, wanted: dict[str, str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        root = "" if os.geteuid() == 0 else "sudo "
        raise Failure(
            "the page needs MQTT.js, which npm fetches, and there is no npm.\n"
            f"On Debian or Ubuntu: {root}apt-get install nodejs npm"
        )
    if folder != web:
        for name in ("package.json", ".npmrc"):
            shutil.copyfile(web / name, folder / name)
    note(f"Fetching MQTT.js {wanted['mqtt']} with npm into {folder / 'node_modules'} ...")
    # Said again here, because an .npmrc can be overruled by variables. No lock file: it would record addresses.
    command = [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0 or versions_in(folder, wanted) != wanted:
        words = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise Failure(
            f"npm could not fetch MQTT.js. Its last words:\n\n{words}\n\nWith the network in reach, try again."
        )


# The page


def pages(web: Path, mqtt_js: Path, texts: Path | None = None, trusted: Path | None = None) -> dict[str, Path]:
    """Path of the address -> file. Nothing else is served. `texts` and `trusted` take the places of our empty files."""
    found = {"/": web / "index.html"} | {f"/{name}": web / name for name in PAGE} | {f"/{MQTT_JS}": mqtt_js}
    modules = mqtt_js.parents[3]
    found |= {f"/{file.relative_to(modules)}": file for file in sorted((modules / JOSE).rglob("*.js"))}
    found |= {} if texts is None else {"/texts.json": texts}
    return found if trusted is None else found | {TRUSTED_KEYS: trusted}


class PageHandler(BaseHTTPRequestHandler):
    """Serves the files of the kiosk page, and nothing else."""

    protocol_version = "HTTP/1.1"

    def __init__(self, files: dict[str, Path], *arguments: object) -> None:
        self._files = files
        super().__init__(*arguments)  # type: ignore[arg-type]  # the server's three

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        file = self._files.get(urlsplit(self.path).path)
        try:
            content = None if file is None else file.read_bytes()
        except OSError:
            content = None
        if file is None or content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", f"{TYPES[file.suffix]}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """The terminal is for the person."""


class PageServer(ThreadingHTTPServer):
    """The HTTP server of the kiosk page, a thread for each request."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up in the middle is no news."""


@contextmanager
def serving(files: dict[str, Path], port: int) -> Iterator[str]:
    """The page's origin, as long as it is served."""
    try:
        page = PageServer(("127.0.0.1", port), partial(PageHandler, files))
    except (OSError, OverflowError) as error:
        raise Failure(f"port {port} cannot be used for the page ({error}); choose another one with --port") from error
    with page:
        thread = threading.Thread(target=page.serve_forever, name="kiosk page", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{page.server_port}"
        finally:
            page.shutdown()
            thread.join()


def address_of(origin: str, credential: Credential, websocket: str) -> str:
    fragment = {"device": credential.device_id, "token": credential.token, "url": websocket}
    if credential.app != "default":
        fragment["app"] = credential.app
    return f"{origin}/#{urlencode(fragment)}"


def end_signal() -> threading.Event:
    """Set by a signal or Ctrl-C; in the background of a script, too, where Ctrl-C is otherwise ignored."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended


# The server's WebSocket


def websocket_of(credential: Credential, client: ServerClient) -> str:
    """Return the address of MQTT over WebSocket, by what enrolment said. On the server's own machine what it does now
    counts, whatever it did when the device was enrolled: there it is the address that this command has dialled."""
    told = urlsplit(str(credential.mqtt.get("websocket", "")))
    dialled = urlsplit(client.url)
    if client.found_in is not None or told.hostname is None:
        return urlunsplit(("wss" if dialled.scheme == "https" else "ws", dialled.netloc, "/mqtt", "", ""))
    host = client.reachable_host(told.hostname)
    host = f"[{host}]" if ":" in host else host
    return urlunsplit(told._replace(netloc=host if told.port is None else f"{host}:{told.port}"))


def refusal_of(websocket: str, origin: str, trust: ssl.SSLContext) -> str | None:
    """Try the opening handshake that the browser will make, and say why it would fail, with the remedy."""
    where = urlsplit(websocket)
    host = where.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, where.port, timeout=PROBE_TIMEOUT_SECONDS, context=trust)
        if where.scheme == "wss"
        else http.client.HTTPConnection(host, where.port, timeout=PROBE_TIMEOUT_SECONDS)
    )
    request = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
        "Sec-WebSocket-Protocol": "mqtt",
        "Origin": origin,
    }
    try:
        connection.request("GET", where.path, headers=request)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{websocket} does not answer ({error}). The page tries again until it does."
    finally:
        connection.close()
    if status == http.client.SWITCHING_PROTOCOLS:
        return None
    if status == http.client.FORBIDDEN:
        return (
            f"The server lets no page from {origin} in. Start it with --ws-origins {origin}, for example\n"
            f"    {PROGRAM} serve --ws-origins {origin}\n"
            "The page tries again until it is let in."
        )
    return f"{websocket} answers {status}, not as a WebSocket does. Is there a proxy that does not pass it on?"
