"""The AUTH packets of one connection (MQTT 5.0, 3.15 and 4.12): their order and their method.

Their content is the business of an `Exchange` of the authenticator. A client that has been accepted may authenticate
again with the same method; meanwhile everything else goes on under the permissions that it has.

    CONNECT ─▶ step ─▶ Challenge ─AUTH 0x18─▶ client ─AUTH 0x18─▶ step ─▶ … ─▶ Accepted ─CONNACK─▶ (nothing under way)
                                                              AUTH 0x19 ─▶ step ─▶ … ─▶ Accepted ─AUTH 0x00─▶ ┘
"""

from __future__ import annotations

from collections.abc import Callable

from broker.authorization import Accepted, Authenticator, Challenge, Credentials, Exchange, Refused
from broker.protocol.errors import ProtocolError
from broker.protocol.packets import Auth, Properties, ReasonCode


class EnhancedAuthentication:
    """Enhanced authentication of one connection, for a client that has named a method in CONNECT."""

    __slots__ = ("_authenticator", "_clients_turn", "_credentials", "_decided", "_exchange", "_send_auth", "method")

    def __init__(
        self,
        method: str,
        authenticator: Authenticator,
        credentials: Credentials,
        send_auth: Callable[[Auth], None],
        decided: Callable[[Accepted | Refused], None],
    ) -> None:
        self.method = method
        self._authenticator = authenticator
        self._credentials = credentials
        self._send_auth = send_auth
        self._decided = decided
        self._exchange: Exchange | None = None
        """The exchange under way; None between two."""
        self._clients_turn = False

    def begin(self, data: bytes | None) -> bool:
        """Start an exchange with the client's first data; return False if the method is unknown."""
        self._exchange = self._authenticator.exchange(self.method, self._credentials)
        if self._exchange is None:
            return False
        self._exchange.step(data, self._exchange_answered)
        return True

    def auth(self, auth: Auth) -> None:
        """Process an AUTH of the client. Raises ProtocolError if it comes out of turn, or for another method."""
        properties = auth.properties
        # [MQTT-4.12.0-5] [MQTT-4.12.1-1]
        if properties is None or properties.authentication_method != self.method:
            raise ProtocolError("AUTH with another method than CONNECT")
        data = properties.authentication_data
        if auth.reason_code == ReasonCode.REAUTHENTICATE and self._exchange is None:
            self.begin(data)
        # [MQTT-4.12.0-3]
        elif auth.reason_code == ReasonCode.CONTINUE_AUTHENTICATION and self._exchange is not None:
            if not self._clients_turn:
                raise ProtocolError("AUTH out of turn")
            self._clients_turn = False
            self._exchange.step(data, self._exchange_answered)
        else:
            raise ProtocolError("AUTH that nobody asked for")

    def properties(self, data: bytes | None) -> Properties:
        """Return the properties of an AUTH or CONNACK, which all name the method [MQTT-4.12.0-5]."""
        return Properties(authentication_method=self.method, authentication_data=data)

    def accepted(self, answer: Accepted, decided: Callable[[Accepted | Refused], None]) -> Properties:
        """Return the CONNACK's properties; from now on `decided` is called when the client has authenticated again."""
        self._decided = decided
        return self.properties(answer.data)

    def _exchange_answered(self, answer: Accepted | Refused | Challenge) -> None:
        if isinstance(answer, Challenge):
            self._clients_turn = True
            # [MQTT-4.12.0-2]
            self._send_auth(Auth(ReasonCode.CONTINUE_AUTHENTICATION, self.properties(answer.data)))
        else:
            self._exchange = None
            self._decided(answer)
