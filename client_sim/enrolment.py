"""Enrolment of a device by a code: `Device.enrol` uses it, and a program that is no `Device` may.

    credential = enrol("https://push.example/enrol#K7QF-2M9T-4XWA-0HZP", Path("kiosk.json"))

Laws
1. Nobody is trusted blindly. An address with a CA's fingerprint (from a label, that is from the operator's hand)
   fetches that CA over a connection that proves nothing, compares it, and shows the code over a second connection that
   trusts that CA alone. Without a fingerprint the system's authorities count.
2. The nonce is on disk before the code is shown. A process that dies between the server's commit and its own has the
   same code answered once more, for the same device, and nobody else has.
3. A credential that is there already is used, and no code is needed for it: a device calls the same at every start.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import re
import secrets
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2

from client_sim.attachments import seconds_asked
from client_sim.credential import Credential, trusting, write_private
from client_sim.errors import EnrolmentFailed

ADDRESS = re.compile(r"(https?://[^/#?\s]+)/enrol#([0-9A-Za-z-]+)(?:\.([A-Za-z0-9_-]{43}))?")
TIMEOUT_SECONDS = 30.0
MAX_ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 1.0
"""Seconds before the second attempt, about; twice as long each time, or as long as the server says."""
NONCE_BYTES = 32
MAX_CA_BYTES = 64 * 1024


class CodeAddress(NamedTuple):
    """The server, the code and the CA of a label."""

    server: str
    """`https://HOST:PORT`."""
    code: str
    fingerprint: str | None = None
    """SHA-256 of the CA's certificate (DER), base64url; None: the authorities that the system trusts."""

    @classmethod
    def parse(cls, text: str, server: str | None = None) -> CodeAddress:
        """Read the address of a QR code, or a code that was typed, for the server that is given then. Raises
        ValueError."""
        found = ADDRESS.fullmatch(text.strip())
        if found is not None:
            return cls(found[1] if server is None else server.rstrip("/"), found[2], found[3])
        if server is None:
            raise ValueError(f"{text[:80]!r} is no address of a code, and a code alone needs the server's address")
        if urlsplit(server).scheme not in ("http", "https"):
            raise ValueError(f"{server!r} is no address of a server: write it as https://HOST:PORT")
        return cls(server.rstrip("/"), text.strip())


def enrol(
    code: str | None,
    path: Path,
    *,
    server: str | None = None,
    about: dict[str, Any] | None = None,
    ca: str | None = None,
) -> Credential:
    """Return the credential in the file `path`, or trade a code for one. Blocks.

    code    what the QR code says, or the code alone; None if there must be a credential already.
    server  `https://HOST:PORT`, for a code alone; or instead of the label's.
    about   what the device knows of itself: `device_id`, `name`, `attributes`, `locale`, `timezone`.
    ca      the CA to trust, in PEM; instead of the one whose fingerprint is on the label.

    Raises EnrolmentFailed, ValueError, or OSError if the credential cannot be stored.
    """
    kept = Credential.load(path)
    if kept is not None:
        return kept
    if code is None:
        raise EnrolmentFailed(f"{path} is not there: the device is not enrolled, and needs a code")
    label = CodeAddress.parse(code, server)
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_name(f"{path.name}.enrolling")
    nonce = _nonce(begun, label.code)
    secure = urlsplit(label.server).scheme == "https"
    if secure and ca is None and label.fingerprint is not None:
        ca = fetch_ca(label.server, label.fingerprint)
    body = {**(about or {}), "code": label.code, "nonce": nonce}
    answer = post(f"{label.server}/v1/enrol", body, trusting(ca) if secure else None)
    credential = _credential(answer, label.server, ca)
    credential.save(path)
    begun.unlink(missing_ok=True)
    return credential


def ask_again(
    path: Path,
    *,
    server: str | None = None,
    device_id: str | None = None,
    app: str = "default",
    ca: str | None = None,
    note: str | None = None,
    on_pending: Callable[[str], None] | None = None,
    stopping: threading.Event | None = None,
) -> Credential:
    """Ask for a new token for a device that has lost its own, until an operator has confirmed it. Blocks.

    path        the credential file; what is in it says where to ask and as whom, if nothing else is given. It is
                replaced.
    server, device_id, app, ca
                as in a credential, for a device that has none left.
    note        text for the operator.
    on_pending  called each time that the request waits, with the text that the operator has to see on the device's
                screen. It is the same until there is an answer.
    stopping    set it to give up; the request goes on with the next call.

    Raises EnrolmentFailed, or OSError if the credential cannot be stored.
    """
    kept = Credential.load(path)
    if kept is not None:
        server, device_id, app, ca = kept.server, kept.device_id, kept.app, kept.ca
    if server is None or device_id is None:
        raise EnrolmentFailed(f"{path} is not there: name the server and the device that has lost its token")
    server = server.rstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    asking = path.with_name(f"{path.name}.asking")
    body = {"device_id": device_id, "app": app, "secret": _nonce(asking, f"{server} {app}/{device_id}")}
    body |= {} if note is None else {"note": note}
    tls = trusting(ca) if urlsplit(server).scheme == "https" else None
    stopping = stopping or threading.Event()
    while True:
        try:
            answer, wait = _post(f"{server}/v1/enrol/again", body, tls, None, stopping)
        except EnrolmentFailed as refusal:
            if refusal.code == "request_refused":
                asking.unlink(missing_ok=True)  # the next one has another secret
            raise
        if "token" in answer:
            break
        if on_pending is not None:
            on_pending(str(answer.get("confirmation", "")))
        if stopping.wait(max(wait, 1.0)):
            raise EnrolmentFailed("the device is closing")
    credential = _credential(answer, server, ca)
    credential.save(path)
    asking.unlink(missing_ok=True)
    return credential


def fetch_ca(server: str, fingerprint: str) -> str:
    """Fetch the CA that has this fingerprint, in PEM, from a server that is not trusted yet. Raises
    EnrolmentFailed."""
    unproven = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unproven.check_hostname = False
    unproven.verify_mode = ssl.CERT_NONE  # what comes over it is compared with what the label says
    try:
        with (
            httpx2.Client(verify=unproven, timeout=TIMEOUT_SECONDS, trust_env=False) as client,
            client.stream("GET", f"{server}/v1/enrol/ca") as answer,
        ):
            pem = b"".join(_bounded(answer)).decode("ascii") if answer.is_success else ""
            status = answer.status_code
        der = ssl.PEM_cert_to_DER_cert(pem) if pem else b""
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise EnrolmentFailed(f"no answer from {server}: {str(error) or type(error).__name__}") from error
    except ValueError as error:
        raise EnrolmentFailed(f"{server} does not answer with the certificate of a CA: {error}") from error
    if not der:
        raise EnrolmentFailed(f"{server} does not show its CA (it answers {status}), and the label names one")
    found = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")
    if not hmac.compare_digest(found, fingerprint):
        raise EnrolmentFailed(
            f"{server} shows another CA than the label names: it is another server, or the label is of an earlier CA"
        )
    return pem


def post(
    url: str,
    body: dict[str, Any],
    tls: ssl.SSLContext | None,
    *,
    headers: dict[str, str] | None = None,
    stopping: threading.Event | None = None,
) -> dict[str, Any]:
    """Send JSON until there is an answer, some times; a success as JSON. Blocks. Raises EnrolmentFailed, also when
    `stopping` is set meanwhile."""
    return _post(url, body, tls, headers, stopping or threading.Event())[0]


def _post(
    url: str,
    body: dict[str, Any],
    tls: ssl.SSLContext | None,
    headers: dict[str, str] | None,
    stopping: threading.Event,
) -> tuple[dict[str, Any], float]:
    """As `post`, with the seconds that the server asks to wait."""
    pause = FIRST_PAUSE_SECONDS
    why = ""
    # Without TLS a context that trusts nobody: a redirection to TLS is not followed.
    verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if tls is None else tls
    with httpx2.Client(timeout=TIMEOUT_SECONDS, trust_env=False, verify=verify, headers=headers) as client:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            asked = None
            try:
                answer = client.post(url, json=body)
            except httpx2.InvalidURL as error:
                raise EnrolmentFailed(f"{url!r}: {error}") from None
            except httpx2.HTTPError as error:
                why = str(error) or type(error).__name__
                if "CERTIFICATE_VERIFY_FAILED" in why:
                    raise EnrolmentFailed(f"the certificate of {url} is not trusted: {why}") from error
            else:
                asked = answer.headers.get("retry-after")
                if answer.is_success:
                    return _object(answer, url), seconds_asked(asked, datetime.now(UTC))
                code, why = _refusal(answer)
                if answer.status_code not in (429, 502, 503, 504, 507):
                    raise EnrolmentFailed(f"{url} refuses: {why}", code)
            if attempt < MAX_ATTEMPTS:
                seconds = seconds_asked(asked, datetime.now(UTC)) + pause * random.random()
                if stopping.wait(seconds):
                    raise EnrolmentFailed("the device is closing")
                pause *= 2
    raise EnrolmentFailed(f"{url}: {why}, {MAX_ATTEMPTS} times")


def _credential(answer: dict[str, Any], server: str, ca: str | None) -> Credential:
    try:
        return Credential.of(answer, server, ca)
    except (KeyError, TypeError, ValueError) as error:
        raise EnrolmentFailed(f"{server} answers, but not with a credential ({error!r})") from error


def _nonce(path: Path, code: str) -> str:
    """The random text that is shown with a code, or as a device: that of an attempt before, if there was one."""
    shown = hashlib.sha256(code.encode()).hexdigest()
    try:
        begun = json.loads(path.read_text())
        if begun["code"] == shown:
            return str(begun["nonce"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    nonce = secrets.token_urlsafe(NONCE_BYTES)
    write_private(path, json.dumps({"code": shown, "nonce": nonce}) + "\n")
    return nonce


def _bounded(answer: httpx2.Response) -> list[bytes]:
    chunks: list[bytes] = []
    size = 0
    for chunk in answer.iter_bytes():
        size += len(chunk)
        if size > MAX_CA_BYTES:
            raise EnrolmentFailed(f"{answer.url} has more than {MAX_CA_BYTES} bytes")
        chunks.append(chunk)
    return chunks


def _object(answer: httpx2.Response, url: str) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise EnrolmentFailed(f"{url} answers, but not as Fleetpush does: is it another server?")
    return found


def _refusal(answer: httpx2.Response) -> tuple[str, str]:
    """The code of a problem, and its words."""
    try:
        problem = answer.json()
        return str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return "", f"it answers {answer.status_code}"
