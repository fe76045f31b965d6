"""The fleet's own certificates: a CA in the data directory, what it signs, and what a certificate says.

Laws
1. All keys made here are ECDSA on P-256: what every TLS stack verifies, the small ones fastest. A key is on disk with
   mode 0600 from its first byte, and is in no message.
2. The CA is kept: every device trusts it. Only `new_ca` makes another, and then, as with everything here that is not a
   plain renewal, what was there is moved aside, never deleted.
3. A certificate that the CA did not sign is somebody's own, and is not replaced unless that is said (`force`).
4. Certificates begin an hour before they are made: the clock of a device may be behind ours.

`DIR/tls` holds `ca.pem`, `ca.key`, `server.pem` and `server.key`; `devices/` in it a pair for each device. `server.pem`
is the leaf alone: the CA signs it directly, and who verifies has the CA. Whoever has `ca.key` can be any server and any
device of this fleet; it is read here and nowhere else, so it may be kept on another machine in between.

What is wrong with a file is a `CertificateError`, in two halves: the finding, and what to do.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.data_directory import (
    CA_CERTIFICATE,
    CA_KEY,
    DEVICES_DIR,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    TLS_DIR,
    write_private,
)
from gateway.program import PROGRAM

CA_DAYS = 3_652
"""Ten years. Whoever replaces a CA has to visit every device."""
SERVER_DAYS = 825
"""The most that Apple's systems accept of a server certificate, whoever signed it (since iOS 13 and macOS 10.15). The
398 days, and less, of newer rules are for public CAs; a fleet renews by hand, so it is not asked to more often."""
DEVICE_DAYS = 825
BACKDATED = timedelta(hours=1)
MAX_COMMON_NAME_CHARACTERS = 64
"""X.520, ub-common-name; OpenSSL refuses to write more, others to read it."""
DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_DNS_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?(?:{_DNS_LABEL}\.)*(?!\d+\Z){_DNS_LABEL}")
"""The last label of a name is never a number: that is an address that is none."""


class CertificateError(Exception):
    """A certificate cannot be made or used: a finding, and its remedy."""

    def __init__(self, finding: str, remedy: str) -> None:
        super().__init__(f"{finding}; {remedy}")
        self.finding = finding
        self.remedy = remedy


@dataclass(frozen=True)
class CertificateFacts:
    """Facts of a certificate file, from the first certificate in it, which is the one that is shown."""

    path: Path
    subject: str
    """Common name, or the whole subject where it has none."""
    issuer: str
    names: tuple[str, ...]
    """DNS names and addresses that a client may dial, in the certificate's order."""
    not_before: datetime
    not_after: datetime
    fingerprint: str
    """SHA-256, as `openssl x509 -fingerprint -sha256` prints it."""

    def days_left(self, now: datetime) -> float:
        return (self.not_after - now) / DAY


@dataclass(frozen=True)
class InitializedTls:
    """The result of `initialize`: the fleet's CA and the server's certificate."""

    ca: CertificateFacts
    server: CertificateFacts
    ca_is_new: bool
    renewed: bool
    """Whether there was a server certificate of this CA before."""
    set_aside: Path | None
    """Folder of what was there and is no plain renewal."""


# -- what files say ----------------------------------------------------------------------------------------------------


def certificate_facts(path: Path) -> CertificateFacts:
    """Read the first certificate of a file. Raises CertificateError."""
    return _facts(path, _read_certificates(path)[0])


def signing_ca(certificate: Path, authorities: Path) -> tuple[str, bytes] | None:
    """Return the certificate of the authority, among those of a file, that has signed the first certificate of another:
    in PEM and in DER. None if none of them has. Raises CertificateError."""
    signed = _read_certificates(certificate)[0]
    found = next((ca for ca in _read_certificates(authorities) if _has_signed(ca, signed)), None)
    return None if found is None else (found.public_bytes(Encoding.PEM).decode(), found.public_bytes(Encoding.DER))


def require_matching_key(certificate: Path, key: Path) -> None:
    """Check that a private key belongs to the first certificate of a file. Raises CertificateError."""
    if _read_certificates(certificate)[0].public_key() != _read_key(key).public_key():
        raise CertificateError(
            f"{key} is not the key of {certificate}",
            f"put the pair there that was made together, or make a new one with `{PROGRAM} tls init`",
        )


def covers(names: Iterable[str], host: str) -> bool:
    """Whether a client that dials `host` finds it among a certificate's names, as RFC 9525 compares them."""
    try:
        wanted = str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        wanted = host.lower().removesuffix(".")
        above = wanted.partition(".")[2]
        return any(name == wanted or (above != "" and name == f"*.{above}") for name in map(str.lower, names))
    return wanted in names


def checked_name(text: str) -> str:
    """A DNS name or an address as it goes into a certificate. Raises CertificateError."""
    try:
        if "%" not in text:
            return str(ipaddress.ip_address(text))
    except ValueError:
        if _DNS_NAME.fullmatch(name := text.lower()):
            return name
    raise CertificateError(
        f"{text!r} is no name that a certificate can have",
        "write a host name as push.example (if it is not ASCII, in its xn-- form) or an address as 192.0.2.7",
    )


def is_name(text: str) -> bool:
    try:
        checked_name(text)
    except CertificateError:
        return False
    return True


# -- what is made ------------------------------------------------------------------------------------------------------


def initialize(
    data_dir: Path,
    names: Sequence[str],
    days: int,
    now: datetime,
    *,
    host: str,
    found: Sequence[str] = (),
    new_ca: bool = False,
    force: bool = False,
) -> InitializedTls:
    """Make what is missing of the CA, and a server certificate for `names`, those that the one before had, and `found`.

    The first name is the one that commands tell people to dial. `host` becomes part of the CA's name. Raises
    CertificateError, OSError.
    """
    tls = data_dir / TLS_DIR
    ca_path, server_path = tls / CA_CERTIFICATE, tls / SERVER_CERTIFICATE
    exists = ca_path.exists() or (tls / CA_KEY).exists()
    ca = _read_ca(tls, now) if exists and not new_ca else _make_ca(host, now)
    wanted = [checked_name(name) for name in names]
    foreign = server_path.exists() and not _is_signed_by(server_path, ca_path)
    if foreign and not force:
        raise CertificateError(
            f"{server_path} is not from this fleet's CA, so it is left alone",
            "--force moves it aside; to serve with it as it is, no `tls init` is needed",
        )
    renewed = server_path.exists() and not foreign
    if renewed:
        wanted += certificate_facts(server_path).names
    wanted += [checked_name(name) for name in found]
    server = _make_server(ca, list(dict.fromkeys(wanted)), days, now)

    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    tls.mkdir(mode=0o700, exist_ok=True)
    going = [] if renewed and not new_ca else [SERVER_CERTIFICATE, SERVER_KEY]
    going += [CA_CERTIFICATE, CA_KEY, DEVICES_DIR] if new_ca else []
    aside = _move_aside(tls, tls / f"before-{now:%Y%m%dT%H%M%SZ}", [name for name in going if (tls / name).exists()])
    if new_ca or not exists:
        write_private(tls / CA_KEY, ca.key_pem)
        write_private(ca_path, ca.certificate_pem)
    write_private(tls / SERVER_KEY, server.key_pem)
    write_private(server_path, server.certificate_pem)
    return InitializedTls(
        _facts(ca_path, ca.certificate),
        _facts(server_path, server.certificate),
        ca_is_new=new_ca or not exists,
        renewed=renewed,
        set_aside=aside,
    )


def make_device(
    data_dir: Path, user_name: str, generation: str, days: int, now: datetime
) -> tuple[CertificateFacts, Path]:
    """A certificate for a device (`ID`, or `APP/ID`) and the path of its key. Raises CertificateError, OSError."""
    if len(user_name) > MAX_COMMON_NAME_CHARACTERS:
        raise CertificateError(
            f"{user_name} has {len(user_name)} characters, and a certificate's common name at most "
            f"{MAX_COMMON_NAME_CHARACTERS}",
            "let this device use its token, or enrol it under a shorter id",
        )
    tls = data_dir / TLS_DIR
    ca = _read_ca(tls, now)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name((NameOID.COMMON_NAME, user_name), (NameOID.SERIAL_NUMBER, generation))
    made = _Pair(_signed(ca, subject, key, ExtendedKeyUsageOID.CLIENT_AUTH, (), days, now), key)
    certificate_path, key_path = device_files(data_dir, user_name)
    certificate_path.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(key_path, made.key_pem)
    write_private(certificate_path, made.certificate_pem)
    return _facts(certificate_path, made.certificate), key_path


def device_files(data_dir: Path, user_name: str) -> tuple[Path, Path]:
    """Certificate and key of a device. Neither an app's id nor a device's has a dot in it, so no two have one file."""
    stem = user_name.replace("/", ".")
    folder = data_dir / TLS_DIR / DEVICES_DIR
    return folder / f"{stem}.pem", folder / f"{stem}.key"


# -- private: files ----------------------------------------------------------------------------------------------------


def _read_certificates(path: Path) -> list[x509.Certificate]:
    """All of a file, at least one."""
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise CertificateError(
            f"{path} holds no certificate in PEM", "put one there (-----BEGIN CERTIFICATE-----)"
        ) from None


def _read_key(path: Path) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(_read(path), None)
    except TypeError:
        raise CertificateError(
            f"{path} is protected by a passphrase, and nobody is there to type it when a server starts",
            f"take it off: openssl pkey -in {path} -out PLAIN.key, then chmod 600 PLAIN.key",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(
            f"{path} holds no private key in PEM", "put one there (-----BEGIN PRIVATE KEY-----)"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be read: {error.strerror}", "run as its owner, or put it there"
        ) from None


def _facts(path: Path, certificate: x509.Certificate) -> CertificateFacts:
    try:
        stated = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(str(name.value) for name in stated if isinstance(name, x509.DNSName | x509.IPAddress))
    except x509.ExtensionNotFound:
        names = ()
    except ValueError as error:
        raise CertificateError(
            f"{path} has an extension that cannot be read: {error}", "use another certificate"
        ) from None
    digest = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return CertificateFacts(
        path,
        _shown(certificate.subject),
        _shown(certificate.issuer),
        names,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        digest,
    )


def _shown(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string()


def _is_signed_by(path: Path, ca_path: Path) -> bool:
    """Whether a CA of `ca_path` signed the certificate; no, if either cannot be read."""
    try:
        certificate, cas = _read_certificates(path)[0], _read_certificates(ca_path)
    except CertificateError:
        return False
    return any(_has_signed(ca, certificate) for ca in cas)


def _has_signed(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _move_aside(tls: Path, aside: Path, names: Sequence[str]) -> Path | None:
    if not names:
        return None
    aside.mkdir(mode=0o700)
    for name in names:
        os.replace(tls / name, aside / name)
    return aside


# -- private: certificates ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    """RSA is no key that is made here: a CA may have been brought along."""

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _read_ca(tls: Path, now: datetime) -> _Pair:
    """The CA, able to sign. `ca.pem` may hold further ones that are trusted only, as after a change of CAs."""
    certificate_path, key_path = tls / CA_CERTIFICATE, tls / CA_KEY
    another = f"put it back (from a backup), or make another CA with `{PROGRAM} tls init --new-ca`"
    if not certificate_path.exists() and not key_path.exists():
        raise CertificateError(f"{tls} holds no fleet CA", f"make it with `{PROGRAM} tls init`")
    for path in (certificate_path, key_path):
        if not path.exists():
            raise CertificateError(f"{path} is missing", another)
    key = _read_key(key_path)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateError(f"{key_path} is neither an ECDSA nor an RSA key", another)
    own = [found for found in _read_certificates(certificate_path) if found.public_key() == key.public_key()]
    if not own:
        raise CertificateError(f"{key_path} is not the key of {certificate_path}", another)
    if not _is_ca(own[0]):
        raise CertificateError(f"{certificate_path} may not sign: it is no CA's certificate", another)
    if own[0].not_valid_after_utc <= now:
        raise CertificateError(
            f"the fleet CA ended on {own[0].not_valid_after_utc:%Y-%m-%d}",
            f"make another with `{PROGRAM} tls init --new-ca`; every device has to trust it",
        )
    return _Pair(own[0], key)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _make_ca(host: str, now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # Two CAs with one name confuse whoever trusts both: they are looked up by it.
    unique = secrets.token_hex(4)
    room = MAX_COMMON_NAME_CHARACTERS - len(f"Fleetpush fleet CA  {unique}")
    name = _name((NameOID.COMMON_NAME, f"Fleetpush fleet CA {host[:room]} {unique}"))
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(name, name, key.public_key(), now - BACKDATED, now - BACKDATED + CA_DAYS * DAY - _SECOND)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _Pair(builder.sign(key, hashes.SHA256()), key)


def _make_server(ca: _Pair, names: Sequence[str], days: int, now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # Nothing verifies the subject any more (RFC 9525, 6.1), people read it in lists.
    common = next((name for name in names if len(name) <= MAX_COMMON_NAME_CHARACTERS), "Fleetpush server")
    subject = _name((NameOID.COMMON_NAME, common))
    return _Pair(_signed(ca, subject, key, ExtendedKeyUsageOID.SERVER_AUTH, names, days, now), key)


def _signed(
    ca: _Pair,
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    purpose: x509.ObjectIdentifier,
    names: Sequence[str],
    days: int,
    now: datetime,
) -> x509.Certificate:
    """A leaf for one purpose, which ends with its CA at the latest."""
    begins = now - BACKDATED
    ends = min(begins + days * DAY - _SECOND, ca.certificate.not_valid_after_utc)
    builder = (
        _builder(subject, ca.certificate.subject, key.public_key(), begins, ends)
        .add_extension(_authority(ca.certificate), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
    return builder.sign(ca.key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _authority(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Make the authority key identifier, by the identifier that the CA's certificate states. A CA that was brought
    along may have made it otherwise."""
    try:
        stated = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        stated = x509.SubjectKeyIdentifier.from_public_key(ca.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(stated)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])
