"""The client of the commands: it finds their server and talks to it, by the public HTTP interface alone.

Address and key are, in this order: what was given (`--server`, FLEETPUSH_URL, FLEETPUSH_KEY); on the server's own
machine, `server.json` and `admin.key` in the data directory, which `serve` writes. A key is never an argument:
arguments are visible to everybody who may list processes.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx2

from gateway.cli.terminal import PROGRAM, Failure
from gateway.data_directory import CA_CERTIFICATE, KEY_FILE, SERVER_CERTIFICATE, SERVER_FILE, TLS_DIR

KEY_VARIABLE = "FLEETPUSH_KEY"
TIMEOUT_SECONDS = 30.0
PAGE_ITEMS = 1000
"""Items of a list: the most that the API gives at a time."""
STREAM_TIMEOUT_SECONDS = 45.0
"""Seconds without a byte after which a stream counts as lost: the server says something every 15."""
EVERY_ADDRESS = ("0.0.0.0", "::")
COMMANDS = {
    "POST /v1/devices": "devices add ID",
    "POST /v1/devices/ID/token": "devices rotate ID",
    "POST /v1/keys": "keys add NAME --scope SCOPE",
    "POST /v1/apps": "apps add ID",
    "POST /v1/channels": "channels add ID --name NAME",
    "GET /v1/webhooks": "webhooks list",
    'PATCH it with {"enabled": true}': "webhooks change WEBHOOK --enable",
}
"""Calls that the API names, and the commands that make them here."""
CALL = re.compile(rf"\b({'|'.join(map(re.escape, COMMANDS))})(?![\w/])")
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""Words of OpenSSL for an answer that is no TLS, by its version."""
REMEDY_OF_DISTRUST = (
    "set FLEETPUSH_CA to the PEM file of whoever signed it (tls/ca.pem of the server's data directory, after "
    f"`{PROGRAM} tls init`), and dial a name that it is for"
)
MAX_RETRIES = 3
"""What carries an idempotency key may be tried again when the connection breaks, and is not sent twice."""


class RequestRefused(Failure):
    """The server answered no; `code` is the problem's, empty if the answer was none of ours."""

    def __init__(self, message: str, code: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class UntrustedServer(Failure):
    """The server shows a certificate that this command cannot trust."""

    def __init__(self, finding: str, remedy: str) -> None:
        super().__init__(f"{finding}; {remedy}")
        self.finding = finding
        self.remedy = remedy


class ServerClient:
    """A client of the HTTP API, for one command."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        key_source: str | None = None,
        found_in: Path | None = None,
        certificate: Path | None = None,
        mqtt_port: int | None = None,
        pid: int | None = None,
    ) -> None:
        """`key_source` is the variable or file that the key came from, for messages. `found_in` is the data directory
        the address came from, for messages and for `listen`'s token; of the server there, `certificate` is the file
        that it has read, `mqtt_port` its main one, `pid` its process. Raises Failure when a certificate cannot be
        used."""
        self.url = url
        self._key_source = key_source
        self.found_in = found_in
        self.certificate = certificate
        self._mqtt_port = mqtt_port
        self._pid = pid
        self.tls = tls_context(certificate, self.fleet_ca) if urlsplit(url).scheme == "https" else None
        """The TLS context, for MQTT as well. None without TLS."""
        self._client = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            # Without TLS a context that trusts nobody: to load the system's authorities takes 80 ms of every command.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self.tls is None else self.tls,
        )

    @classmethod
    def find(cls, url: str | None, data_dir: Path) -> Self:
        found_in = certificate = mqtt_port = pid = None
        if url is None:
            try:
                facts = json.loads((data_dir / SERVER_FILE).read_text())
                url = str(facts["url"])
                found_in = data_dir
                certificate = Path(facts["certificate"]) if "certificate" in facts else None
                mqtt_port = int(facts["mqtt_port"]) if "mqtt_port" in facts else None
                pid = int(facts["pid"]) if "pid" in facts else None
            except (OSError, ValueError, KeyError, TypeError):
                raise Failure(
                    f"no server found: there is no {data_dir / SERVER_FILE}. Start one with `{PROGRAM} serve`, give "
                    "its data directory with --data-dir, or its address with --server or FLEETPUSH_URL."
                ) from None
        key, key_source = given_key(), KEY_VARIABLE
        if key and found_in is not None and not is_this_machine(url, found_in / SERVER_FILE):
            raise Failure(
                f"{found_in / SERVER_FILE} is not your own server's, or names another machine ({url}): FLEETPUSH_KEY is"
                " not sent there. Give the address with --server or FLEETPUSH_URL."
            )
        if not key and found_in is None and not is_loopback(url):
            # admin.key opens the server of this machine; it is not for whatever address somebody typed.
            raise Failure(f"no key for {url}: set FLEETPUSH_KEY. The one in {data_dir} is not sent to other machines.")
        if not key:
            key_source = str(data_dir / KEY_FILE)
            try:
                key = checked_key((data_dir / KEY_FILE).read_text(errors="replace"), key_source)
            except OSError as error:
                raise Failure(
                    f"no key: set FLEETPUSH_KEY, or run this where {data_dir / KEY_FILE} is readable "
                    f"({error.strerror})."
                ) from None
        try:
            return cls(
                url,
                key,
                key_source=key_source,
                found_in=found_in,
                certificate=certificate,
                mqtt_port=mqtt_port,
                pid=pid,
            )
        except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
            raise Failure(f"address or key cannot be used: {type(error).__name__}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def fleet_ca(self) -> Path | None:
        """The CA of the data directory, if it is what vouches for the server."""
        if self.found_in is None or self.certificate is None:
            return None
        folder = (self.found_in / TLS_DIR).resolve()
        authority = folder / CA_CERTIFICATE
        return authority if self.certificate.resolve() == folder / SERVER_CERTIFICATE and authority.exists() else None

    @property
    def reload_command(self) -> str:
        """Return the command that lets the server on this machine read its certificate again."""
        return f"kill -HUP {'PID' if self._pid is None else self._pid}"

    def reachable_host(self, host: str) -> str:
        """Return the host that devices connect to, by what enrolment says. A server that listens on every address does
        not know which of them is dialled, and then it is the one that this command has dialled."""
        dialled = urlsplit(self.url).hostname
        return dialled if dialled is not None and host in EVERY_ADDRESS else host

    def mqtt_address(self, host: str, port: int) -> tuple[str, int]:
        """Host and port that a device of this command connects to, by what enrolment said. On the server's own machine
        that is here, by whatever name the others dial it, and whatever the port was when the device was enrolled."""
        here = urlsplit(self.url).hostname
        if self.found_in is None or here is None:
            return self.reachable_host(host), port
        return here, self._mqtt_port or port

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a successful answer, None if it is empty. Raises RequestRefused, or Failure if there is no
        answer."""
        answer = self.request(method, path, **options)
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise Failure(f"{self.url} answers, but not as Fleetpush does: is it another server?") from None

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """A successful answer. Raises RequestRefused, or Failure if there is none."""
        with self._explained():
            answer = self._client.request(method, path, **options)
        if not answer.is_success:
            raise refusal(answer, self._key_source)
        return answer

    def stream(self, path: str, parameters: dict[str, str], headers: dict[str, str]) -> Iterator[bytes]:
        """The bytes of an answer as they come, until it ends. Raises RequestRefused, or Failure if it breaks off."""
        with (
            self._explained(),
            self._client.stream(
                "GET",
                path,
                params=parameters,
                headers=headers,
                timeout=httpx2.Timeout(TIMEOUT_SECONDS, read=STREAM_TIMEOUT_SECONDS),
            ) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise refusal(answer, self._key_source)
            yield from answer.iter_bytes()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Translate errors of the HTTP client into a Failure with its remedy."""
        try:
            yield
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise Failure(f"{self.url!r} is no address of a server: write it as http://HOST:PORT", 2) from error
        except httpx2.LocalProtocolError:
            # What the library would say repeats a header, and one of them is the key.
            raise Failure(
                f"the request to {self.url} cannot be written: a value has a character that is not allowed", 2
            ) from None
        except httpx2.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise UntrustedServer(*self._distrusted(str(error))) from error
            where = f" (from {self.found_in / SERVER_FILE})" if self.found_in else ""
            why = str(error).rstrip(".") or type(error).__name__
            raise Failure(f"no answer from {self.url}{where}: {why}. {self._remedy(error)}") from error

    def _remedy(self, error: httpx2.TransportError) -> str:
        if any(reason in str(error) for reason in NO_TLS):
            return "It speaks no TLS: write its address as http://HOST:PORT."
        cut = isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError)
        if cut and self.found_in is None and self.tls is None:
            return f"If it speaks TLS, write its address as https://HOST:PORT; `{PROGRAM} doctor` looks closer."
        return f"Is the server running? `{PROGRAM} serve` starts it, `{PROGRAM} doctor` looks closer."

    def _distrusted(self, why: str) -> tuple[str, str]:
        """The finding, and the remedy."""
        finding = f"the certificate of {self.url} is not trusted: {why}"
        if self.certificate is not None:
            finding += f". It shows another than {self.certificate}, and reads that when it is told to"
            return finding, f"tell it: {self.reload_command}"
        return finding, REMEDY_OF_DISTRUST

    def shown_certificate(self) -> bytes:
        """DER, of a server with TLS. Raises OSError."""
        server = urlsplit(self.url)
        address = (server.hostname or "", server.port or 443)
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(address, timeout=TIMEOUT_SECONDS))

    def post_once(
        self,
        body: dict[str, Any],
        idempotency_key: str | None,
        wait: int | None = None,
        path: str = "/v1/pushes",
        *,
        forecast: bool = False,
    ) -> dict[str, Any]:
        """Send a push, a schedule or a campaign once, however often the connection breaks.

        Of a push, `wait`: seconds to wait until it is delivered. `forecast`: keep one beside it.
        """
        parameters = {} if wait is None else {"wait": str(wait)}
        parameters |= {"forecast": "true"} if forecast else {}
        options: dict[str, Any] = {"params": parameters, "timeout": TIMEOUT_SECONDS + (wait or 0)}
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        for attempt in range(1, MAX_RETRIES + 1):
            try:
                accepted: dict[str, Any] = self.call("POST", path, json=body, headers=headers, **options)
                return accepted
            except Failure as failure:
                lost = isinstance(failure.__cause__, httpx2.ReadError | httpx2.RemoteProtocolError)
                if not lost or attempt == MAX_RETRIES:
                    raise
        raise AssertionError("the loop returns or raises")

    def pages(
        self, path: str, limit: int | None = None, cursor: str | None = None, **parameters: Any
    ) -> Iterator[dict[str, Any]]:
        """The pages of a list, up to `limit` items; parameters that are None are left out."""
        given = {name: _query(value) for name, value in parameters.items() if value is not None}
        left = limit
        while left is None or left > 0:
            position = {"limit": str(min(PAGE_ITEMS, left or PAGE_ITEMS))} | (
                {} if cursor is None else {"cursor": cursor}
            )
            page = self.call("GET", path, params=given | position)
            yield page
            left = None if left is None else left - len(page["items"])
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def items(self, path: str, limit: int | None = None, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The items of a list, page by page, up to `limit`."""
        for page in self.pages(path, limit, **parameters):
            yield from page["items"]


def server_here(data_dir: Path) -> tuple[str, str | None]:
    """Return the address of the server of a data directory, and the fleet's CA there (PEM). Raises Failure if there is
    no server."""
    try:
        url = str(json.loads((data_dir / SERVER_FILE).read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Failure(
            f"no server found: there is no {data_dir / SERVER_FILE}. Give its address with --server or FLEETPUSH_URL."
        ) from None
    authority = data_dir / TLS_DIR / CA_CERTIFICATE
    return url, authority.read_text() if authority.exists() else None


def _query(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def tls_context(certificate: Path | None, fleet_ca: Path | None = None) -> ssl.SSLContext:
    """Make the TLS context for a server: it trusts a known certificate, or what the system trusts. A server whose
    certificate is known may show that one, and what else the fleet's CA has signed for a server, whatever name it is
    dialled by: until it is told to read a renewed one it shows the one before. For others the authorities of
    FLEETPUSH_CA count, or the system's. Raises Failure."""
    authority = os.environ.get("FLEETPUSH_CA") if certificate is None else str(certificate)
    try:
        context = ssl.create_default_context(cafile=authority)
        if fleet_ca is not None:
            authority = str(fleet_ca)
            context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise Failure(f"{authority}: {error.strerror or error}; FLEETPUSH_CA names a PEM file", 2) from None
    if certificate is not None:
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def given_key() -> str | None:
    """FLEETPUSH_KEY; None if it is not set. Raises Failure for what can be no key."""
    key = os.environ.get(KEY_VARIABLE)
    return checked_key(key, KEY_VARIABLE) if key else None


def checked_key(text: str, source: str) -> str:
    """Return a key without the white space that a file or a shell leaves around it. Raises Failure, which does not
    repeat it."""
    key = text.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Failure(f"{source} is no key: it has a character that none has, a line break for example", 2)
    return key


def is_this_machine(url: str, facts: Path) -> bool:
    """Whether `server.json` was written by ourselves or by root, and names an address of this machine."""
    try:
        if facts.stat().st_uid not in (0, os.geteuid()):
            return False
        host = urlsplit(url).hostname or ""
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        if address.is_loopback:
            return True
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))  # only an address of our own can be bound
        return True
    except (OSError, ValueError):
        return False


def is_loopback(url: str) -> bool:
    """Tell whether an address leads to this machine. Raises Failure if it is no address of a server at all."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise Failure(f"{url!r} is no address of a server: write it as http://HOST:PORT", 2)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def for_terminals(detail: str) -> str:
    """Translate what the API says to do into what a person at the command line does."""
    return CALL.sub(lambda call: f"`{PROGRAM} {COMMANDS[call[1]]}`", detail)


def refusal(answer: httpx2.Response, key_source: str | None) -> RequestRefused:
    """A refusal in one line: the problem document's detail and code, or what there is instead.

    Below it is the place of a mistake in an expression, if it is one. `key_source` as in ServerClient.
    """
    place = ""
    try:
        document = answer.json()
        code = str(document["code"])
        detail, line_end, place = str(document["detail"]).partition("\n")
        text, place = f"{for_terminals(detail)} ({code})", line_end + place
        retryable = document.get("retryable") is True
    except (ValueError, KeyError, TypeError):
        code, retryable = "", False
        text = f"the server answered {answer.status_code} {answer.reason_phrase}"
    if answer.status_code == 401:
        text += f". Is {key_source or 'the key'} of this server?"
    if code == "forbidden" and key_source == KEY_VARIABLE:
        text += f". The key is the one in {KEY_VARIABLE}, which wins over {KEY_FILE}"
    return RequestRefused(text + place, code, retryable=retryable)


def segment(name: str) -> str:
    """A name as one segment of a path, whatever it holds."""
    return quote(name, safe="")
