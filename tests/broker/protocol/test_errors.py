"""Every error of the wire has its codes and label, and 3.1.1 gets a return code for every reason."""

from __future__ import annotations

import pytest

from broker.protocol.errors import MqttError, UnsupportedProtocolVersion, return_code_of
from broker.protocol.packets import ConnectReturnCode, ReasonCode


@pytest.mark.parametrize("error", MqttError.__subclasses__())
def test_an_error_is_named_as_its_reason_code(error: type[MqttError]) -> None:
    assert error.reason_code >= 0x80
    assert error.label == error.reason_code.name.lower()


def test_3_1_1_has_one_word_for_what_a_decoder_refuses() -> None:
    with_return_code = [error for error in MqttError.__subclasses__() if error.return_code is not None]
    assert with_return_code == [UnsupportedProtocolVersion]
    assert UnsupportedProtocolVersion.return_code == 1


@pytest.mark.parametrize(
    ("reason_code", "return_code"),
    [
        (ReasonCode.SUCCESS, 0),
        (ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, 1),
        (ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, 2),
        (ReasonCode.SERVER_UNAVAILABLE, 3),
        (ReasonCode.QUOTA_EXCEEDED, 3),
        (ReasonCode.BAD_USER_NAME_OR_PASSWORD, 4),
        (ReasonCode.NOT_AUTHORIZED, 5),
        (ReasonCode.BANNED, 5),
        (0xFF, 3),
    ],
)
def test_the_nearest_return_code(reason_code: int, return_code: int) -> None:
    assert return_code_of(reason_code) == ConnectReturnCode(return_code)
