"""Who may connect, and which topics a connection may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from broker.protocol.packets import ReasonCode
from broker.settings import BrokerSettings


class Permissions(Protocol):
    """What one connection may do. Called synchronously for each topic; implementations note denials themselves."""

    def may_publish(self, topic: str, retain: bool) -> bool: ...

    def may_subscribe(self, topic_filter: str) -> bool: ...


class ClientCertificate(NamedTuple):
    """What a TLS client has proved: names of its certificate's subject, which an authority that we trust has signed."""

    common_name: str
    """Empty if it has none, or several."""
    serial_number: str | None
    """The attribute of the subject (X.520), not the number of the certificate."""


class Credentials(NamedTuple):
    """What a CONNECT claims. `peer` is the remote address as text, for logs and rate limits."""

    client_id: str
    username: str | None
    password: bytes | None
    protocol_version: int
    peer: str
    certificate: ClientCertificate | None = None
    """None without TLS, and if the client has shown none."""
    suspect: bool = False
    """Its address has tried `max_failed_authentications` different wrong ones of late: whoever has to work for a
    judgement may take its time. Right ones are still to be let in."""


class Accepted(NamedTuple):
    """The connection may proceed.

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
    """`reason_code` is MQTT 5's; CONNACK of 3.1.1 gets the nearest return code."""

    reason_code: int
    why: str = field(default="", compare=False)
    """For the log; the client is not told."""

    @property
    def reason(self) -> str:
        return self.why or ReasonCode(self.reason_code).name.lower().replace("_", " ")


@dataclass(slots=True, frozen=True)
class Challenge:
    """The exchange goes on: `data` goes to the client in AUTH, and what it answers comes to the next `step`."""

    data: bytes | None


class Exchange(Protocol):
    """One enhanced authentication (MQTT 5.0, 4.12) of one client: at CONNECT, or again while it is connected."""

    def step(self, data: bytes | None, answer: Callable[[Accepted | Refused | Challenge], None]) -> None:
        """Take the client's authentication data; call `answer` once, now or later, on the broker's thread."""


class Authenticator(Protocol):
    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        """Call `answer` once, now or later, on the broker's thread. Nothing of the session is touched before."""

    def exchange(self, method: str, credentials: Credentials) -> Exchange | None:
        """Begin an enhanced authentication; None: no such method (0x8C) [MQTT-4.12.0-1]. Who authenticates again has to
        be accepted as the principal that it is, and may get other permissions."""


def publish_refusal(permissions: Permissions, topic: str, retain: bool, settings: BrokerSettings) -> int:
    """The reason code of a message or will that may not be published; 0 if it may."""
    if topic.count("/") >= settings.max_topic_levels:
        return ReasonCode.TOPIC_NAME_INVALID
    # $SYS is the server's own (MQTT 5.0, 4.7.2).
    if topic.startswith("$SYS/") or not permissions.may_publish(topic, retain):
        return ReasonCode.NOT_AUTHORIZED
    return ReasonCode.SUCCESS


def subscribe_refusal(
    permissions: Permissions, topic_filter: str, subscriptions: Mapping[str, int], settings: BrokerSettings
) -> int:
    """The reason code of a subscription that a session with these may not add; 0 if it may."""
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
    """Who has shown a certificate is who its common name says; what CONNECT says of user and password is not looked at.

    All others are `otherwise`'s. Permissions are the same for all.
    """

    def __init__(self, permissions: Permissions, otherwise: Authenticator | None) -> None:
        """`otherwise` None: nobody else may connect."""
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
