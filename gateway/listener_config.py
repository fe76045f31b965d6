"""Listeners as the settings describe them: addresses, certificates, trusted proxies, allowed origins.

Laws
1. With a certificate, named or found in the data directory, both main ports speak TLS; without one they do not. Client
   certificates are the devices' own: whoever comes over HTTP has a key.
2. Tokens do not cross a network in the clear by accident: an address that others reach speaks TLS, or somebody has said
   `insecure`.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from broker.network.listen_address import BadAddress, ListenAddress, bracketed, is_loopback, parse_address
from broker.network.listeners import ListenerConfig
from broker.network.proxies import TrustedProxies
from broker.network.tls import ServerTls, TlsError, TlsFiles
from gateway.data_directory import CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY, TLS_DIR
from gateway.enrolment.addresses import FleetCa
from gateway.program import PROGRAM
from gateway.settings import Settings

log = logging.getLogger(__name__)


class BadListenerConfig(Exception):
    """One line: what is wrong with where or how to listen, and the remedy."""


def load_listener_config(settings: Settings) -> ListenerConfig:
    """Read what all listeners of the server share. Raises BadListenerConfig."""
    try:
        proxies = TrustedProxies(settings.trusted_proxies)
    except ValueError as error:
        raise BadListenerConfig(f"trusted_proxies: {error}") from None
    try:
        config = ListenerConfig(_tls(settings), proxies, frozenset(settings.ws_origins))
        config.websocket_rules()
    except ValueError as error:
        raise BadListenerConfig(f"ws_origins: {error}") from None
    return config


def addresses(settings: Settings, config: ListenerConfig) -> list[ListenAddress]:
    """List the addresses at which devices connect, the main one first. The HTTP port is opened by `app`. Raises
    BadListenerConfig."""
    host = "127.0.0.1" if settings.bind == "localhost" else settings.bind
    found = [ListenAddress("mqtt" if config.tls is None else "mqtts", host, settings.mqtt_port)]
    try:
        found += [parse_address(text) for text in settings.listen]
    except BadAddress as error:
        raise BadListenerConfig(f"listen: {error}") from None
    for address in found:
        if address.is_tls and config.tls is None:
            raise BadListenerConfig(
                f"listen: {address} needs a certificate: `{PROGRAM} tls init` makes one, --tls-cert and --tls-key name "
                "another"
            )
        if address.proxy and address.scheme != "unix" and not settings.trusted_proxies:
            raise BadListenerConfig(f"listen: {address} waits for a proxy: say which with --trusted-proxies")
        if address.crosses_networks and not address.is_tls and not settings.insecure:
            raise BadListenerConfig(
                f"{'bind' if address is found[0] else 'listen'}: others can reach {address}, and every token would "
                f"cross the network in the clear: `{PROGRAM} tls init` makes a certificate; or listen on 127.0.0.1 "
                "behind a TLS proxy, or say --insecure"
            )
    return found


def require_secrecy(settings: Settings, config: ListenerConfig, *passed: socket.socket | None) -> None:
    """Refuse a main port's socket that the service manager has opened where tokens would cross a network in the clear.

    `bind`, which is checked by `addresses`, does not say where that is. Raises BadListenerConfig.
    """
    for listener in passed:
        if listener is None or config.tls is not None or settings.insecure:
            continue
        host, port = listener.getsockname()[:2]
        if not is_loopback(str(host)):
            raise BadListenerConfig(
                f"others can reach {bracketed(str(host))}:{port}, which the service manager has opened, and every "
                f"token would cross the network in the clear: `{PROGRAM} tls init` makes a certificate; or let the "
                "socket unit listen on 127.0.0.1 behind a TLS proxy, or say --insecure"
            )


def _tls(settings: Settings) -> ServerTls | None:
    directory = settings.data_dir / TLS_DIR
    certificate, key = settings.tls_cert, settings.tls_key
    if (certificate is None) is not (key is None):
        raise BadListenerConfig("tls_cert and tls_key belong together: name both, or neither")
    if certificate is None or key is None:
        certificate, key = directory / SERVER_CERTIFICATE, directory / SERVER_KEY
        if not certificate.exists():
            if settings.client_certificates == "required":
                raise BadListenerConfig(
                    f"client_certificates: they need TLS; `{PROGRAM} tls init` makes the certificate"
                )
            return None
    authority = settings.tls_ca
    if authority is None and (directory / CA_CERTIFICATE).exists():
        authority = directory / CA_CERTIFICATE
    wanted = settings.client_certificates
    if authority is None:
        if wanted == "required":
            raise BadListenerConfig("client_certificates: who vouches for them? Name the authority with --tls-ca")
        wanted = "none"
    return _read(TlsFiles(certificate, key, authority, wanted))


def _read(files: TlsFiles) -> ServerTls:
    try:
        return ServerTls(files)
    except TlsError as error:
        raise BadListenerConfig(str(error)) from None


def for_requests(tls: ServerTls) -> ServerTls:
    """Return the TLS of the HTTP port, which asks for no certificate that is optional, since browsers come there. Where
    devices need one it asks; requests with a key are served without, and a WebSocket is refused without one afterwards
    (`WebSocketRules.certificate`). Raises BadListenerConfig."""
    wanted = tls.files.client_certificates
    if wanted == "none":
        return tls
    return _read(replace(tls.files, client_certificates="optional" if wanted == "required" else "none"))


def reload(*in_use: ServerTls) -> bool:
    """Read the certificates again, for connections that come from now on. False: they stay as they are."""
    try:
        for tls in in_use:
            tls.reload()
    except TlsError as error:
        log.error("the certificates stay as they are: %s", error)
        return False
    log.info("certificates read again, for connections that come from now on")
    return True


def fleet_ca(tls: ServerTls | None, data_dir: Path) -> FleetCa | None:
    """Return the fleet's own CA, if it has signed what the server shows; None for another authority's certificate."""
    authorities = data_dir / TLS_DIR / CA_CERTIFICATE
    if tls is None or not authorities.exists():
        return None
    from gateway.certificates import CertificateError, signing_ca

    try:
        found = signing_ca(tls.files.certificate, authorities)
    except CertificateError as error:
        log.warning("%s", error)
        return None
    if found is None:
        return None
    pem, der = found
    return FleetCa(pem, base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("="))


def certificate_ends(tls: ServerTls | None) -> Mapping[str, float]:
    """Return the ends of the certificates' validity, in Unix time, for metrics; empty without TLS."""
    if tls is None:
        return {}
    from gateway.certificates import CertificateError, certificate_facts

    named: dict[str, Path | None] = {"server": tls.files.certificate, "ca": tls.files.client_authority}
    ends = {}
    for name, path in named.items():
        if path is not None:
            try:
                ends[name] = certificate_facts(path).not_after.timestamp()
            except CertificateError as error:
                log.warning("%s", error)
    return ends
