"""Clients that are let in over TLS, and those that are not: the log has the reason, by name, every time."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import wire
from tests.certificates import Authority, Pair
from tests.conformance.standalone import BrokerProcess
from tests.third_party import require
from tests.wire import RawClient

SECONDS = 10.0
Client = Callable[[], ssl.SSLContext]


class SecureBroker:
    def __init__(self, folder: Path, *options: str) -> None:
        self.authority = Authority(folder)
        self.strangers = Authority(folder, "strangers")
        self.server = self.authority.issue("broker", "localhost", file="server")
        self.log = folder / "broker.log"
        self.process = BrokerProcess(
            None,
            "--allow-anonymous",
            f"--tls-cert={self.server.certificate}",
            f"--tls-key={self.server.key}",
            f"--tls-ca={self.authority.certificate}",
            "--verbose",
            *options,
            log=self.log,
        )

    def connect(self, trust: ssl.SSLContext, host: str = "localhost") -> RawClient:
        return RawClient(self.process.port, wrap=lambda bare: trust.wrap_socket(bare, server_hostname=host))

    def expect_logged(self, words: str, since: int = 0) -> None:
        """One line with the peer's address and these words."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            said = self.log.read_text()[since:]
            if any(words in line and "127.0.0.1:" in line for line in said.splitlines()):
                return
            time.sleep(0.01)
        raise AssertionError(f"no line with {words!r} in:\n{said}")

    def reload(self, words: str = "certificates read again") -> None:
        since = len(self.log.read_text())
        os.kill(self.process.pid, signal.SIGHUP)
        deadline = time.monotonic() + SECONDS
        while words not in self.log.read_text()[since:]:
            assert time.monotonic() < deadline, "SIGHUP was not noticed"
            time.sleep(0.01)


@pytest.fixture(scope="module", params=["optional", "required"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    found = SecureBroker(tmp_path_factory.mktemp("tls"), f"--client-certificates={request.param}")
    with found.process:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[SecureBroker]:
    found = SecureBroker(tmp_path, "--client-certificates=optional", "--connect-timeout=1")
    with found.process:
        yield found


def client_with(broker: SecureBroker, **changed: object) -> ssl.SSLContext:
    trust = broker.authority.client(broker.authority.issue("a-client"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of versions that are not to be used: that is the point
        for name, value in changed.items():
            setattr(trust, name, value)
    return trust


def accepted(client: RawClient, name: str = "thing") -> None:
    client.enter(wire.connect(name))
    client.expect_silence()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_that_are_safe_are_spoken(broker: SecureBroker, version: ssl.TLSVersion) -> None:
    with broker.connect(client_with(broker, minimum_version=version, maximum_version=version)) as client:
        accepted(client)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused(broker: SecureBroker, version: ssl.TLSVersion) -> None:
    since = len(broker.log.read_text())
    trust = client_with(broker, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=version)
    trust.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError) as refused:
        broker.connect(trust)
    assert refused.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION", "the client is told as well"
    broker.expect_logged("it speaks TLS 1.1 or older", since)


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA"])
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(broker: SecureBroker, ciphers: str) -> None:
    since = len(broker.log.read_text())
    trust = client_with(broker, maximum_version=ssl.TLSVersion.TLSv1_2)
    trust.set_ciphers(ciphers)
    with pytest.raises(ssl.SSLError) as refused:
        broker.connect(trust)
    assert refused.value.reason in ("SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV1_ALERT_INSUFFICIENT_SECURITY")
    broker.expect_logged("it offers no cipher with forward secrecy", since)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (wire.connect("thing"), "it does not speak TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "it speaks http on a port of https"),
        (b"\x16\x03\x01\x00\x05hello", "the TLS handshake failed"),
    ],
    ids=["mqtt", "http", "garbage"],
)
def test_plain_text_on_the_tls_port_is_refused(broker: SecureBroker, said: bytes, words: str) -> None:
    since = len(broker.log.read_text())
    with socket.create_connection(("127.0.0.1", broker.process.port), timeout=SECONDS) as client:
        client.sendall(said)
        answer = client.recv(100)
    assert answer == b"" or answer[:1] == b"\x15", "nothing but an alert"
    broker.expect_logged(words, since)


def refused_with(broker: SecureBroker, pair: Pair | None) -> str:
    """The alert that the client gets. In TLS 1.3 its own handshake is over by then: it comes with the first read."""
    try:
        with broker.connect(broker.authority.client(pair)) as client:
            client.send(wire.connect("thing"))
            client.read()
    except ssl.SSLError as refused:
        return str(refused.reason)
    raise AssertionError("let in")


def test_a_client_certificate_that_has_expired_is_refused(broker: SecureBroker) -> None:
    since = len(broker.log.read_text())
    alert = refused_with(broker, broker.authority.issue("late", days=-1))
    assert alert == "SSLV3_ALERT_CERTIFICATE_EXPIRED"
    broker.expect_logged("its client certificate is refused: certificate has expired", since)


def test_a_client_certificate_of_another_authority_is_refused(broker: SecureBroker) -> None:
    since = len(broker.log.read_text())
    assert refused_with(broker, broker.strangers.issue("stranger")) == "TLSV1_ALERT_UNKNOWN_CA"
    broker.expect_logged("its client certificate is refused: unable to get local issuer certificate", since)


def test_who_has_to_show_a_certificate_and_has_none_is_refused(tmp_path: Path) -> None:
    broker = SecureBroker(tmp_path, "--client-certificates=required")
    with broker.process:
        assert refused_with(broker, None) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        broker.expect_logged("it has no client certificate")


def test_a_client_that_does_not_trust_us_is_named(broker: SecureBroker) -> None:
    since = len(broker.log.read_text())
    with pytest.raises(ssl.SSLCertVerificationError):
        broker.connect(broker.strangers.client())
    broker.expect_logged("it does not trust our certificate's authority", since)


def test_a_client_that_dials_another_name_is_named(broker: SecureBroker) -> None:
    since = len(broker.log.read_text())
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        broker.connect(broker.authority.client(), host="push.example")
    broker.expect_logged("is the name it dials among the certificate's?", since)


def test_a_client_to_which_our_certificate_has_expired_is_named(own: SecureBroker) -> None:
    own.authority.issue("broker", "localhost", days=-1, file="server")
    own.reload()
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        own.connect(own.authority.client())
    own.expect_logged("to its clock our certificate has expired")


def test_mosquitto_refuses_a_name_that_is_not_ours_and_is_named(own: SecureBroker) -> None:
    """A client of another make: `127.0.0.1` is not among this certificate's names."""
    command = [require("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(own.process.port)]
    command += ["--cafile", str(own.authority.certificate), "-t", "a", "-m", "b"]
    assert subprocess.run(command, capture_output=True, timeout=SECONDS).returncode
    own.expect_logged("when the name they dial is not the certificate's")
    command[2] = "localhost"
    assert subprocess.run(command, capture_output=True, timeout=SECONDS).returncode == 0


def test_a_handshake_that_does_not_end_is_given_up(own: SecureBroker) -> None:
    with socket.create_connection(("127.0.0.1", own.process.port), timeout=SECONDS) as silent:
        assert silent.recv(1) == b""
    own.expect_logged("it did not finish the TLS handshake in time")


def test_last_words_arrive_although_the_client_goes_on_talking(broker: SecureBroker) -> None:
    """Closing with unread bytes must not reset what tells the client why."""
    with broker.connect(client_with(broker)) as client:
        client.send(wire.connect("thing", wire.V5), wire.connect("thing", wire.V5), b"\xc0\x00" * 5_000)
        assert client.read()[:1] == b"\x20"
        client.expect_goodbye(0x82, wire.V5)


def test_a_reload_drops_none_of_a_thousand_connections(own: SecureBroker) -> None:
    """Connected clients go on with the old certificate; new ones get the new one."""
    trust = own.authority.client()
    with ExitStack() as hold:
        clients: list[RawClient] = []
        for number in range(1_000):
            clients.append(hold.enter_context(own.connect(trust)))
            clients[-1].enter(wire.connect(f"thing-{number}", keep_alive=600))
        before = certificate_of(clients[0])
        own.authority.issue("broker", "localhost", file="server")
        own.reload()
        for client in clients:
            client.send(wire.PINGREQ)
        for client in clients:
            client.expect(wire.PINGRESP)
        with own.connect(trust) as late:
            accepted(late, "late")
            assert certificate_of(late) != before


def test_a_reload_of_files_that_cannot_be_used_changes_nothing(own: SecureBroker) -> None:
    trust = own.authority.client()
    with own.connect(trust) as client:
        accepted(client)
        own.server.key.write_text("rubbish")
        own.reload("the certificates stay as they are")
        client.expect_silence()
    with own.connect(trust) as late:
        accepted(late)


def certificate_of(client: RawClient) -> bytes | None:
    stream = client._socket
    assert isinstance(stream, ssl.SSLSocket)
    return stream.getpeercert(binary_form=True)


def test_a_certificate_is_a_user(own: SecureBroker) -> None:
    """The session belongs to the certificate's user and to nobody else."""
    one, other = (own.authority.client(own.authority.issue(name)) for name in ("one", "other"))
    with own.connect(one) as client:
        client.join("shared-name")
    with own.connect(other) as client:
        client.send(wire.connect("shared-name", clean=False))
        client.expect(wire.connack_4(code=2))
    with own.connect(one) as client:
        client.join("shared-name", present=True)
