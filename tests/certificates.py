"""Certificates for tests: an authority, and what it signs, good or wrong in one respect each."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtensionOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """Two files."""

    certificate: Path
    key: Path


class Authority:
    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"test {name}")
        certificate = _draft(self._name, self._name, self._key.public_key(), _now() - DAY, _now() + 365 * DAY)
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        signed = certificate.add_extension(constraints, critical=True).sign(self._key, hashes.SHA256())
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(signed.public_bytes(Encoding.PEM))

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def issue(
        self,
        common_name: str,
        *hosts: str,
        days: float = 30,
        file: str | None = None,
        second_name: str | None = None,
        alternative_names: bytes | None = None,
    ) -> Pair:
        """For a server if there are hosts, else for a client. Negative `days`: it has ended so long ago.
        `alternative_names`: DER, as it is."""
        key = ec.generate_private_key(ec.SECP256R1())
        end = _now() + days * DAY
        subject = _name(common_name, *([] if second_name is None else [second_name]))
        draft = _draft(subject, self._name, key.public_key(), min(_now(), end) - DAY, end)
        if hosts:
            draft = draft.add_extension(x509.SubjectAlternativeName(list(map(_host, hosts))), critical=False)
        if alternative_names is not None:
            raw = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, alternative_names)
            draft = draft.add_extension(raw, critical=False)
        pair = Pair(self._folder / f"{file or common_name}.pem", self._folder / f"{file or common_name}.key")
        pair.certificate.write_bytes(draft.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair

    def client(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Trusts this authority, and shows a certificate if it has one."""
        context = ssl.create_default_context(cafile=self.certificate)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context


def _now() -> datetime:
    return datetime.now(UTC)


def _name(*common_names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _draft(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
