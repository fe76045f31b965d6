"""Authentication of clients, and the topics that a connection may use: protocols that an embedder fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from broker.protocol.packets import ReasonCode
from broker.settings import BrokerSettings


class Permissions(Protocol):
    """Topic rules of one connection, asked synchronously for each topic. An implementation logs its own denials."""

    def may_publish(self, topic: str, retain: bool) -> bool: ...

    def may_subscribe(self, topic_filter: str) -> bool: ...


class ClientCertificate(NamedTuple):
    """Names in the subject of a client certificate that was verified in the TLS handshake."""

    common_name: str
    """Empty if the subject has none, or several."""
    serial_number: str | None
    """The attribute of the subject (X.520), not the number of the certificate."""


class Credentials(NamedTuple):
    """Credentials of one CONNECT. `peer` is the remote address as text, for logs and rate limits."""

    client_id: str
    username: str | None
    password: bytes | None
    protocol_version: int
    peer: str
    certificate: ClientCertificate | None = None
    """The verified client certificate; absent without TLS, and if the client has shown none."""
    suspect: bool = False
    """The address has tried `max_failed_authentications` different wrong credentials of late: an authenticator for
    which checking is work may delay it. Right credentials still have to be accepted."""


class Accepted(NamedTuple):
    """Positive answer of an authenticator.

    `principal` groups connections of one credential (`Broker.disconnect_principal`). `persistent=False` makes a side
    connection: its session ends with it whatever CONNECT asked for, and every SUBSCRIBE is refused by `permissions`.
    """

    principal: str
    permissions: Permissions
    identity: object = None
    persistent: bool = True
    data: bytes | None = None
    """Authentication data that ends an exchange: in CONNACK, or in AUTH when the client has authenticated again."""


@dataclass(slots=True, frozen=True)
class Refused:
    """Negative answer of an authenticator, with a 5.0 reason code; a CONNACK of 3.1.1 gets the nearest return code."""

    reason_code: int
    why: str = field(default="", compare=False)
    """Text for the log; the client is not told."""

    @property
    def reason(self) -> str:
        return self.why or ReasonCode(self.reason_code).name.lower().replace("_", " ")


@dataclass(slots=True, frozen=True)
class Challenge:
    """Intermediate answer: `data` goes to the client in AUTH, and the client's data comes to the next `step`."""

    data: bytes | None


class Exchange(Protocol):
    """One enhanced authentication (MQTT 5.0, 4.12) of one client: at CONNECT, or again while it is connected."""

    def step(self, data: bytes | None, answer: Callable[[Accepted | Refused | Challenge], None]) -> None:
        """Process the client's authentication data. Call `answer` once, now or later, on the *loop*."""


class Authenticator(Protocol):
    """Check of credentials at CONNECT. Nothing of the session is touched before it has answered. Runs on the *loop*."""

    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        """Check credentials. Call `answer` once, now or later, on the *loop*."""

    def exchange(self, method: str, credentials: Credentials) -> Exchange | None:
        """Start an enhanced authentication; return None if the method is unknown (0x8C) [MQTT-4.12.0-1].

        A client that authenticates again must be accepted as the same principal, and may get other permissions.
        """


def publish_refusal(permissions: Permissions, topic: str, retain: bool, settings: BrokerSettings) -> int:
    """Return the reason code of a message or will that may not be published; 0 if it may."""
    if topic.count("/") >= settings.max_topic_levels:
        return ReasonCode.TOPIC_NAME_INVALID
    # $SYS is the server's own (MQTT 5.0, 4.7.2).
    if topic.startswith("$SYS/") or not permissions.may_publish(topic, retain):
        return ReasonCode.NOT_AUTHORIZED
    return ReasonCode.SUCCESS


def subscribe_refusal(
    permissions: Permissions, topic_filter: str, subscriptions: Mapping[str, int], settings: BrokerSettings
) -> int:
    """Return the reason code of a subscription that a session with `subscriptions` may not add; 0 if it may."""
    if topic_filter.count("/") >= settings.max_topic_levels:
        return ReasonCode.TOPIC_FILTER_INVALID
    if not permissions.may_subscribe(topic_filter):
        return ReasonCode.NOT_AUTHORIZED
    if len(subscriptions) >= settings.max_subscriptions and topic_filter not in subscriptions:
        return ReasonCode.QUOTA_EXCEEDED
    return ReasonCode.SUCCESS


class AllowAll:
    """Permissions and authenticator of an open broker (`--allow-anonymous`), less one denied filter."""

    def __init__(self, deny_filter: str | None = None) -> None:
        self._deny_filter = deny_filter

    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        answer(Accepted(principal=credentials.client_id, permissions=self))

    def exchange(self, method: str, credentials: Credentials) -> None:
        return None

    def may_publish(self, topic: str, retain: bool) -> bool:
        return True

    def may_subscribe(self, topic_filter: str) -> bool:
        return self._deny_filter is None or topic_filter != self._deny_filter


class CertificateAuthenticator:
    """Authenticator by client certificate: the common name is the user, and CONNECT's user and password are ignored.

    Clients without a certificate are checked by `otherwise`. Permissions are the same for all.
    """

    def __init__(self, permissions: Permissions, otherwise: Authenticator | None) -> None:
        """Refuse clients without a certificate if `otherwise` is None."""
        self._permissions = permissions
        self._otherwise = otherwise

    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        certificate = credentials.certificate
        if certificate is not None:
            if certificate.common_name:
                answer(Accepted(certificate.common_name, self._permissions))
            else:
                answer(Refused(ReasonCode.NOT_AUTHORIZED, "its certificate has no common name"))
        elif self._otherwise is not None:
            self._otherwise.authenticate(credentials, answer)
        else:
            answer(Refused(ReasonCode.NOT_AUTHORIZED, "it has shown no client certificate"))

    def exchange(self, method: str, credentials: Credentials) -> Exchange | None:
        return None if self._otherwise is None else self._otherwise.exchange(method, credentials)
