"""What is made holds before an independent judge, the openssl command; what is there is kept, or moved aside."""

from __future__ import annotations

import os
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.certificates import (
    CertificateError,
    InitializedTls,
    certificate_facts,
    checked_name,
    covers,
    device_files,
    initialize,
    make_device,
    require_matching_key,
)
from tests.third_party import require

NAMES = ("push.example", "*.fleet.example", "192.0.2.7", "2001:db8::7")
GENERATION = "0123456789abcdef" * 2
NOW = datetime.now(UTC).replace(microsecond=0)


def init(
    data_dir: Path, *names: str, days: int = 825, now: datetime = NOW, new_ca: bool = False, force: bool = False
) -> InitializedTls:
    return initialize(data_dir, names or NAMES, days, now, host="vm", new_ca=new_ca, force=force)


def openssl(*arguments: str | Path) -> str:
    command = [require("openssl"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


def verifies(certificate: Path, ca: Path, *options: str) -> bool:
    command = [require("openssl"), "verify", "-x509_strict", *options, "-CAfile", str(ca), str(certificate)]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def test_the_server_certificate_is_good_for_the_names_and_for_nothing_else(tmp_path: Path) -> None:
    made = init(tmp_path)
    server, ca = made.server.path, made.ca.path
    for host in ("push.example", "a.fleet.example"):
        assert verifies(server, ca, "-purpose", "sslserver", "-verify_hostname", host)
    for address in ("192.0.2.7", "2001:db8::7"):
        assert verifies(server, ca, "-purpose", "sslserver", "-verify_ip", address)
    for host in ("other.example", "fleet.example", "a.b.fleet.example"):
        assert not verifies(server, ca, "-verify_hostname", host)
    assert not verifies(server, ca, "-purpose", "sslclient")
    assert "does match certificate" in openssl("x509", "-in", server, "-noout", "-checkhost", "push.example")
    assert len(server.read_text().split("-----BEGIN CERTIFICATE-----")) == 2, "the leaf alone"


def test_the_ca_signs_leaves_and_no_further_ca(tmp_path: Path) -> None:
    text = openssl("x509", "-in", init(tmp_path).ca.path, "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in text
    assert "Certificate Sign, CRL Sign" in text
    assert "NIST CURVE: P-256" in text
    assert "Subject: CN = Fleetpush fleet CA vm " in text


def test_two_cas_have_two_names(tmp_path: Path) -> None:
    first, second = init(tmp_path / "1").ca, init(tmp_path / "2").ca
    assert first.subject != second.subject
    long = initialize(tmp_path / "3", NAMES, 825, NOW, host="h" * 64).ca.subject
    assert len(long) == 64


def test_a_device_certificate_names_the_device_and_its_credential(tmp_path: Path) -> None:
    ca = init(tmp_path).ca.path
    facts, key = make_device(tmp_path, "shop/kiosk-1", GENERATION, 825, NOW)
    assert verifies(facts.path, ca, "-purpose", "sslclient")
    assert not verifies(facts.path, ca, "-purpose", "sslserver")
    subject = openssl("x509", "-in", facts.path, "-noout", "-subject", "-nameopt", "RFC2253")
    assert subject.strip() == f"subject=serialNumber={GENERATION},CN=shop/kiosk-1"
    assert facts.subject == "shop/kiosk-1"
    require_matching_key(facts.path, key)


def test_keys_are_private_from_the_first_byte(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    umask = os.umask(0o022)
    try:
        init(data_dir)
        _, device_key = make_device(data_dir, "kiosk-1", GENERATION, 825, NOW)
    finally:
        os.umask(umask)
    for key in (data_dir / "tls" / "ca.key", data_dir / "tls" / "server.key", device_key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for folder in (data_dir, data_dir / "tls", data_dir / "tls" / "devices"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_certificates_begin_an_hour_ago_and_live_no_longer_than_apple_takes(tmp_path: Path) -> None:
    made = init(tmp_path)
    assert made.server.not_before == NOW - timedelta(hours=1)
    # Both ends belong to the validity (RFC 5280, 4.1.2.5).
    assert made.server.not_after - made.server.not_before + timedelta(seconds=1) == timedelta(days=825)
    assert 3650 < made.ca.days_left(NOW) < 3653
    assert init(tmp_path, days=30).server.days_left(NOW) == pytest.approx(30, abs=0.1)


def test_nothing_outlives_its_ca(tmp_path: Path) -> None:
    ca = init(tmp_path).ca
    late = ca.not_after - timedelta(days=10)
    assert init(tmp_path, now=late).server.not_after == ca.not_after
    assert make_device(tmp_path, "kiosk-1", GENERATION, 825, late)[0].not_after == ca.not_after
    with pytest.raises(CertificateError, match="the fleet CA ended"):
        init(tmp_path, now=ca.not_after)


def test_facts_are_those_that_openssl_sees(tmp_path: Path) -> None:
    made = init(tmp_path)
    facts = certificate_facts(made.server.path)
    assert facts == made.server
    assert facts.names == ("push.example", "*.fleet.example", "192.0.2.7", "2001:db8::7")
    assert facts.issuer == made.ca.subject == made.ca.issuer
    seen = openssl("x509", "-in", facts.path, "-noout", "-fingerprint", "-sha256", "-enddate", "-dateopt", "iso_8601")
    assert facts.fingerprint in seen
    assert f"{facts.not_after:%Y-%m-%d %H:%M:%S}Z" in seen


def test_of_a_chain_the_first_certificate_counts(tmp_path: Path) -> None:
    made = init(tmp_path)
    chain = tmp_path / "fullchain.pem"
    chain.write_text(made.server.path.read_text() + made.ca.path.read_text())
    assert certificate_facts(chain).subject == "push.example"
    require_matching_key(chain, tmp_path / "tls" / "server.key")


# -- a second time -----------------------------------------------------------------------------------------------------


def test_a_renewal_keeps_the_ca_and_the_names(tmp_path: Path) -> None:
    first = init(tmp_path, "push.example", "192.0.2.7")
    key = (tmp_path / "tls" / "server.key").read_text()
    again = init(tmp_path, "new.example", "push.example")
    assert (first.ca_is_new, first.renewed) == (True, False)
    assert (again.ca_is_new, again.renewed, again.set_aside) == (False, True, None)
    assert again.ca == first.ca
    assert again.server.names == ("new.example", "push.example", "192.0.2.7")
    assert (tmp_path / "tls" / "server.key").read_text() != key
    require_matching_key(again.server.path, tmp_path / "tls" / "server.key")


def test_a_new_ca_voids_the_old_certificates_and_loses_none(tmp_path: Path) -> None:
    old = init(tmp_path)
    device, _ = make_device(tmp_path, "kiosk-1", GENERATION, 825, NOW)
    new = init(tmp_path, new_ca=True)
    assert new.ca_is_new
    assert new.set_aside is not None
    assert {path.name for path in new.set_aside.iterdir()} == {
        "ca.pem",
        "ca.key",
        "server.pem",
        "server.key",
        "devices",
    }
    aside = new.set_aside / "devices" / device.path.name
    assert verifies(new.server.path, new.ca.path)
    assert not verifies(aside, new.ca.path)
    assert new.server.names == old.server.names
    new.ca.path.write_text(new.ca.path.read_text() + (new.set_aside / "ca.pem").read_text())
    assert verifies(aside, new.ca.path), "both are trusted, as the command suggests for the time of change"
    assert init(tmp_path).ca == new.ca, "and the one whose key is there goes on signing"


@pytest.mark.parametrize("own_ca", [True, False], ids=["beside our CA", "without one"])
@pytest.mark.parametrize("readable", [True, False])
def test_a_certificate_from_elsewhere_is_not_replaced_unless_told(tmp_path: Path, own_ca: bool, readable: bool) -> None:
    data_dir, tls = tmp_path / "data", tmp_path / "data" / "tls"
    theirs = init(tmp_path / "theirs").server.path.read_text() if readable else "what is this"
    if own_ca:
        init(data_dir)
    tls.mkdir(parents=True, exist_ok=True)
    (tls / "server.pem").write_text(theirs)
    for new_ca in (False, True):
        with pytest.raises(CertificateError, match="not from this fleet's CA"):
            init(data_dir, new_ca=new_ca)
    assert (tls / "server.pem").read_text() == theirs
    assert (tls / "ca.pem").exists() == own_ca
    made = init(data_dir, force=True)
    assert made.ca_is_new != own_ca
    assert made.set_aside is not None
    assert (made.set_aside / "server.pem").read_text() == theirs
    assert verifies(made.server.path, made.ca.path)


def test_a_key_that_waits_for_its_certificate_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "server.key").write_text("mine")
    made = init(tmp_path)
    assert made.set_aside is not None
    assert (made.set_aside / "server.key").read_text() == "mine"


# -- what is not as it should be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "finding"),
    [
        ("rm ca.key", "ca.key is missing"),
        ("rm ca.pem", "ca.pem is missing"),
        ("cp server.key ca.key", "is not the key of"),
        ("cp server.key ca.key; cp server.pem ca.pem", "is no CA's certificate"),
        ("echo > ca.key", "holds no private key"),
        ("echo > ca.pem", "holds no certificate"),
        ("openssl pkey -in ca.key -aes256 -passout pass:secret -out x && mv x ca.key", "protected by a passphrase"),
        ("openssl genpkey -algorithm ed25519 -out ca.key", "neither an ECDSA nor an RSA key"),
    ],
)
def test_a_ca_that_cannot_sign_says_why_and_changes_nothing(tmp_path: Path, harm: str, finding: str) -> None:
    require("openssl")
    init(tmp_path)
    subprocess.run(harm, shell=True, cwd=tmp_path / "tls", check=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    with pytest.raises(CertificateError, match=finding) as error:
        init(tmp_path)
    assert error.value.remedy
    with pytest.raises(CertificateError, match=finding):
        make_device(tmp_path, "kiosk-1", GENERATION, 825, NOW)
    assert {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()} == before
    assert init(tmp_path, new_ca=True, force=True).ca_is_new, "there is a way out of every one of them"


def test_a_ca_that_was_brought_along_signs(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    tls.mkdir()
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=Example/CN=Example CA", "-days", "90",
        "-addext", "keyUsage=critical,keyCertSign",
        "-keyout", tls / "ca.key", "-out", tls / "ca.pem",
    )  # fmt: skip
    made = init(tmp_path)
    assert not made.ca_is_new
    assert made.server.issuer == "Example CA"
    assert verifies(made.server.path, tls / "ca.pem", "-verify_hostname", "push.example")


def test_a_device_certificate_needs_a_ca_and_a_name_that_fits(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="fleetpush tls init"):
        make_device(tmp_path, "kiosk-1", GENERATION, 825, NOW)
    init(tmp_path)
    make_device(tmp_path, "d" * 64, GENERATION, 825, NOW)
    with pytest.raises(CertificateError, match="66 characters"):
        make_device(tmp_path, "a/" + "d" * 64, GENERATION, 825, NOW)


def test_no_two_devices_share_a_file(tmp_path: Path) -> None:
    names = ["a", "shop/a", "shop-a", "shop_a", "sh/op-a"]
    files = {file for name in names for file in device_files(tmp_path, name)}
    assert len(files) == 2 * len(names)
    assert {file.parent for file in files} == {tmp_path / "tls" / "devices"}


def test_a_key_of_another_certificate_is_found(tmp_path: Path) -> None:
    tls = init(tmp_path).server.path.parent
    require_matching_key(tls / "server.pem", tls / "server.key")
    with pytest.raises(CertificateError, match="is not the key of"):
        require_matching_key(tls / "server.pem", tls / "ca.key")
    with pytest.raises(CertificateError, match="cannot be read: No such file"):
        require_matching_key(tls / "server.pem", tls / "none.key")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("push.example", "push.example"),
        ("Push.Example", "push.example"),
        ("localhost", "localhost"),
        ("*.push.example", "*.push.example"),
        ("kiosk_1.local", "kiosk_1.local"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0:0::7", "2001:db8::7"),
    ],
)
def test_names_that_a_certificate_can_have(given: str, written: str) -> None:
    assert checked_name(given) == written


@pytest.mark.parametrize(
    "name",
    ["", ".", "push..example", "https://push.example", "push.example:8080", "a b", "bücher.example", "-a.example",
     "a.*.example", "*", "300.1.1.1", "1.2.3", "fe80::1%eth0", "[::1]", "x" * 64, ".".join(["x" * 63] * 4) + ".a",
     "push.example\n"],
)  # fmt: skip
def test_names_that_it_cannot(name: str) -> None:
    with pytest.raises(CertificateError, match="write a host name"):
        checked_name(name)


def test_a_host_is_looked_for_as_clients_do() -> None:
    names = ("push.example", "*.fleet.example", "192.0.2.7", "2001:db8::7")
    for host in ("push.example", "PUSH.example.", "a.fleet.example", "192.0.2.7", "2001:DB8::7", "[2001:db8::7]"):
        assert covers(names, host), host
    for host in ("example", "a.push.example", "fleet.example", "a.b.fleet.example", "192.0.2.8", "2001:db8::8", ""):
        assert not covers(names, host), host
