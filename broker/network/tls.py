"""TLS of a server: versions and ciphers, certificates, and the reasons for failed handshakes in words.

The loop's own TLS does the work (`ssl` of the standard library, OpenSSL). TLS 1.2 and 1.3 with forward secrecy and
authenticated encryption, nothing older: every client since 2014 speaks these, an ESP32 included. RFC 9325.

Laws
1. `reload` gives new connections a new context; those that are open keep theirs. Files that cannot be used change
   nothing.
2. A handshake that fails is reported to the peer, as an alert, and to the operator, in words (`failure`). The loop
   sends no alert by itself: it closes first, so OpenSSL's alert is sent from within the handshake (`_SslObject`).
"""

from __future__ import annotations

import asyncio
import ssl
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from socket import socket
from typing import Any, Final, Literal, NamedTuple

from broker.authorization import ClientCertificate

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Ciphers of TLS 1.2 (RFC 9325, 4.2). Those of 1.3 are all of this kind."""

ClientCertificates = Literal["none", "optional", "required"]


class TlsError(Exception):
    """A file cannot be used; the text is one line with the file, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files of a server's TLS."""

    certificate: Path
    """PEM: the server's certificate, and the chain up to its authority if there are any in between."""
    key: Path
    client_authority: Path | None = None
    """PEM: the authority of clients' certificates."""
    client_certificates: ClientCertificates = "none"
    """Whether clients are asked for a certificate, and whether they must have one."""


class ServerTls:
    """TLS contexts made from files, which can be read again."""

    context: ssl.SSLContext
    browser_context: ssl.SSLContext
    """Context that asks for no optional certificate. A browser that is asked wants to ask its user, and Chromium gives
    a WebSocket up instead (net::ERR_SSL_CLIENT_AUTH_CERT_NEEDED)."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Raises TlsError."""
        self.files = files
        self.reload()

    def reload(self) -> None:
        """Read the files again, for new connections. Raises TlsError, and then all stays as it was."""
        context = browser_context = _context(self.files)
        if self.files.client_certificates == "optional":
            browser_context = _context(replace(self.files, client_certificates="none"))
        self.context, self.browser_context = context, browser_context


def _context(files: TlsFiles) -> ssl.SSLContext:
    for path in (files.certificate, files.key, files.client_authority):
        if path is not None:
            try:
                path.read_bytes()
            except OSError as error:
                raise TlsError(f"{path}: {error.strerror}; name another file, or mend that") from None
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _SslObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # `num_tickets` stays at two. Without them a handshake is 15 % cheaper, but nothing answers the client's last word
    # in it: one without TCP_NODELAY, as most are, holds its CONNECT back for 40 ms.
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except _Encrypted:
        raise TlsError(
            f"{files.key}: the key is encrypted, and nobody is there to type its password; "
            "`openssl pkey -in KEY -out NEW` writes it without"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{files.key}: this is not the key of {files.certificate}; name those that belong together"
                           ) from None  # fmt: skip
        raise TlsError(f"{files.certificate} or {files.key}: {_words(error)}; both have to be PEM, not empty") from None
    if files.client_authority is not None and files.client_certificates != "none":
        try:
            context.load_verify_locations(files.client_authority)
        except ssl.SSLError as error:
            raise TlsError(f"{files.client_authority}: {_words(error)}; it has to be PEM, not empty") from None
        context.verify_mode = ssl.CERT_REQUIRED if files.client_certificates == "required" else ssl.CERT_OPTIONAL
    return context


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted


def client_certificate(transport: asyncio.BaseTransport) -> ClientCertificate | None:
    """Return the client certificate that was verified in the handshake; None without TLS, or without one.

    With several common names it has none: nobody knows which of them an authority has checked.
    """
    certificate: dict[str, Any] | None = transport.get_extra_info("peercert")
    if not certificate:
        return None
    subject = [attribute for part in certificate.get("subject", ()) for attribute in part]
    names = [value for name, value in subject if name == "commonName"]
    numbers = [value for name, value in subject if name == "serialNumber"]
    return ClientCertificate(names[0] if len(names) == 1 else "", numbers[-1] if numbers else None)


# -- handshakes that fail ----------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """Reason for a failed handshake."""

    label: str
    """One of few words, for metrics."""
    text: str
    """Text for the log."""


_FAILURES: Final[dict[str, Failure]] = {
    "WRONG_VERSION_NUMBER": Failure("tls_plain_text", "it does not speak TLS; plain text has to go to another port"),
    "HTTP_REQUEST": Failure("tls_plain_text", "it speaks http on a port of https"),
    "UNSUPPORTED_PROTOCOL": Failure("tls_version", "it speaks TLS 1.1 or older; 1.2 is the oldest that is safe"),
    "VERSION_TOO_LOW": Failure("tls_version", "it speaks TLS 1.1 or older; 1.2 is the oldest that is safe"),
    "NO_SHARED_CIPHER": Failure("tls_cipher", "it offers no cipher with forward secrecy and authenticated encryption"),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Failure("tls_client_certificate", "it has no client certificate"),
    "TLSV1_ALERT_UNKNOWN_CA": Failure(
        "tls_server_certificate", "it does not trust our certificate's authority (unknown ca): give it the CA's ca.pem"
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": Failure("tls_server_certificate", "to its clock our certificate has expired"),
    "SSLV3_ALERT_BAD_CERTIFICATE": Failure(
        "tls_server_certificate", "it refuses our certificate (is the name it dials among the certificate's?)"
    ),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": Failure(
        "tls_server_certificate",
        "it refuses our certificate (does it trust the CA, and is the name it dials among the certificate's?)",
    ),
    "TLSV1_ALERT_INTERNAL_ERROR": Failure(
        "tls_server_certificate",
        "it gave up (internal error): so do mosquitto's clients when the name they dial is not the certificate's",
    ),
    "TLSV1_ALERT_PROTOCOL_VERSION": Failure("tls_version", "it wants another version of TLS than 1.2 and 1.3"),
}
"""OpenSSL's reason to its meaning here."""
HUNG_UP: Final = Failure("tls_hung_up", "it hung up before the TLS handshake")
"""Health checks of load balancers do that."""
LATE: Final = Failure("tls_timeout", "it did not finish the TLS handshake in time")
GAVE_UP: Final = Failure(
    "tls_gave_up",
    "it gave up in the middle of the TLS handshake without saying why: it may not trust our certificate, or is a "
    "browser that was asked for one of its own",
)


def failure(error: OSError | UnicodeError, handshake: Handshake) -> Failure:
    """Return the reason for a handshake that failed, or was given up."""
    if isinstance(error, UnicodeError):  # `ssl` takes the names in it for UTF-8, and gives up where they are not
        return Failure("tls_client_certificate", f"its client certificate cannot be read: {error}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure("tls_client_certificate", f"its client certificate is refused: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return _FAILURES.get(error.reason or "", Failure("tls_failed", f"the TLS handshake failed: {_words(error)}"))
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return LATE
    return GAVE_UP if handshake.answered else HUNG_UP


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


class Handshake:
    """A TLS handshake under way."""

    __slots__ = ("answered", "socket")

    def __init__(self, socket: socket) -> None:
        self.socket = socket
        """The socket that an alert is sent to."""
        self.answered = False
        """The client has started, and our certificate is on its way to it."""


arriving: ContextVar[Handshake] = ContextVar("arriving")
"""The handshake that starts in this context."""


class _Context(ssl.SSLContext):
    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **named: Any) -> ssl.SSLObject:
        wrapped = super().wrap_bio(incoming, outgoing, *args, **named)
        if isinstance(wrapped, _SslObject):
            wrapped.handshake = arriving.get(), outgoing
        return wrapped


class _SslObject(ssl.SSLObject):
    handshake: tuple[Handshake, ssl.MemoryBIO] | None
    """The handshake and its outgoing bytes; None when it is done."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if self.handshake is not None and self.handshake[1].pending:
                self.handshake[0].answered = True
            raise
        except ssl.SSLError:
            if self.handshake is not None:
                handshake, outgoing = self.handshake
                try:
                    # An alert of 7 to 30 bytes: a socket that does not take it has hung up.
                    handshake.socket.send(outgoing.read())
                except OSError:
                    pass
            raise
        self.handshake = None
