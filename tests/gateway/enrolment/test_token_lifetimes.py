"""Tokens that end: renewed before that by who has them, good a while longer after it, and refused with a reason."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.authorization import Accepted, ClientCertificate, Credentials, Refused
from gateway.api import responses
from gateway.auth import credential_generation, secret_hash
from gateway.enrolment import token_expiry
from gateway.timestamps import rfc3339
from gateway.token_lifetimes import DAY_MS, OVERLAP_MS, RENEWAL_PAUSE_MS
from tests.gateway.in_process import START, InProcessGateway

DAYS = 30


async def enrolled(gateway: InProcessGateway, device_id: str = "kiosk-1", days: int | None = DAYS) -> str:
    """The token."""
    body = {"device_id": device_id, "token_days": days}
    answer = await gateway.call("POST", "/v1/devices", 201, json=body)
    responses.EnrolledDeviceResponse.model_validate(answer)
    if days is not None:
        assert answer["token_expires_at"] == rfc3339(gateway.clock.milliseconds + days * DAY_MS)
        assert answer["token_expires_in"] == days * 86_400
    return str(answer["token"])


async def renewed(gateway: InProcessGateway, token: str, device_id: str = "kiosk-1") -> str:
    path = f"/v1/devices/{device_id}/token/renewal"
    answer = await gateway.call("POST", path, 200, gateway.client(token))
    responses.EnrolledDeviceResponse.model_validate(answer)
    return str(answer["token"])


async def refused(gateway: InProcessGateway, token: str, status: int, code: str, device_id: str = "kiosk-1") -> str:
    path = f"/v1/devices/{device_id}/token/renewal"
    return str((await gateway.refused("POST", path, status, code, gateway.client(token)))["detail"])


async def connects(gateway: InProcessGateway, token: str | None, certificate: ClientCertificate | None = None) -> Any:
    """What the broker is answered."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    password = None if token is None else token.encode()
    credentials = Credentials("kiosk-1", "kiosk-1", password, 4, "10.0.0.1:1", certificate)
    gateway.components._authenticator.authenticate(credentials, answer.set_result)
    return await answer


async def test_a_renewed_token_takes_over_and_the_one_before_is_good_for_a_week(gateway: InProcessGateway) -> None:
    old = await enrolled(gateway)
    gateway.clock.milliseconds += 20 * DAY_MS
    new = await renewed(gateway, old)
    for token in (old, new):
        assert isinstance(await connects(gateway, token), Accepted)
    gateway.clock.milliseconds += OVERLAP_MS
    assert isinstance(await connects(gateway, old), Refused)
    await refused(gateway, old, 401, "unauthorized")
    assert isinstance(await connects(gateway, new), Accepted)
    gateway.clock.milliseconds += DAYS * DAY_MS - OVERLAP_MS - 1
    assert isinstance(await connects(gateway, new), Accepted)
    gateway.clock.milliseconds += 1
    assert isinstance(await connects(gateway, new), Refused)


async def test_the_one_before_is_not_good_beyond_its_own_end(gateway: InProcessGateway) -> None:
    old = await enrolled(gateway)
    gateway.clock.milliseconds += DAYS * DAY_MS - 1_000
    await renewed(gateway, old)
    gateway.clock.milliseconds += 1_000
    assert isinstance(await connects(gateway, old), Refused)


async def test_who_lost_the_answer_renews_with_what_it_has(gateway: InProcessGateway) -> None:
    old = await enrolled(gateway)
    gateway.clock.milliseconds += 20 * DAY_MS
    lost = await renewed(gateway, old)
    assert "wait" in await refused(gateway, old, 429, "rate_limited")
    gateway.clock.milliseconds += RENEWAL_PAUSE_MS
    new = await renewed(gateway, old)
    assert isinstance(await connects(gateway, lost), Refused), "nobody has it"
    for token in (old, new):
        assert isinstance(await connects(gateway, token), Accepted)
    gateway.clock.milliseconds += OVERLAP_MS - RENEWAL_PAUSE_MS
    assert isinstance(await connects(gateway, old), Refused), "its week began with the first renewal"


@pytest.mark.of_one_server  # an error is stored later, and shown by its node at once
async def test_an_expired_token_is_refused_and_the_operator_sees_why(gateway: InProcessGateway) -> None:
    token = await enrolled(gateway)
    gateway.clock.milliseconds += DAYS * DAY_MS
    assert isinstance(await connects(gateway, "dev_wrong"), Refused)
    assert (await gateway.call("GET", "/v1/devices/kiosk-1"))["last_error"] is None, "anybody could have tried that"
    assert isinstance(await connects(gateway, token), Refused)
    device = await gateway.call("GET", "/v1/devices/kiosk-1")
    assert device["last_error"].startswith(f"its token expired at {rfc3339(START + DAYS * DAY_MS)}")
    assert "has expired" in await refused(gateway, token, 401, "unauthorized")
    new = (await gateway.call("POST", "/v1/devices/kiosk-1/token"))["token"]
    assert isinstance(await connects(gateway, new), Accepted), "an operator gives it another"


async def test_a_rotation_voids_both(gateway: InProcessGateway) -> None:
    old = await enrolled(gateway)
    gateway.clock.milliseconds += RENEWAL_PAUSE_MS
    new = await renewed(gateway, old)
    last = (await gateway.call("POST", "/v1/devices/kiosk-1/token"))["token"]
    for token, kind in ((old, Refused), (new, Refused), (last, Accepted)):
        assert isinstance(await connects(gateway, token), kind)


async def test_an_operator_renews_without_a_break(gateway: InProcessGateway) -> None:
    old = await enrolled(gateway)
    gateway.clock.milliseconds += RENEWAL_PAUSE_MS
    new = (await gateway.call("POST", "/v1/devices/kiosk-1/token/renewal"))["token"]
    for token in (old, new):
        assert isinstance(await connects(gateway, token), Accepted)
    await gateway.refused("POST", "/v1/devices/nobody/token/renewal", 404, "device_not_found")


async def test_a_token_that_never_ends_is_not_renewed(gateway: InProcessGateway) -> None:
    token = await enrolled(gateway, days=None)
    await refused(gateway, token, 409, "token_does_not_expire")
    gateway.clock.milliseconds += 10_000 * DAY_MS
    assert isinstance(await connects(gateway, token), Accepted)
    assert (await gateway.call("GET", "/v1/devices/kiosk-1"))["token_expires_at"] is None


async def test_a_device_renews_its_own_token_only(gateway: InProcessGateway) -> None:
    token = await enrolled(gateway)
    await enrolled(gateway, "kiosk-2")
    gateway.clock.milliseconds += RENEWAL_PAUSE_MS
    await refused(gateway, token, 401, "unauthorized", "kiosk-2")
    reader = await gateway.key_for("read")
    await gateway.refused("POST", "/v1/devices/kiosk-1/token/renewal", 403, "forbidden", reader)


async def test_a_certificate_goes_with_its_token(gateway: InProcessGateway) -> None:
    old = await enrolled(gateway)
    certificate = ClientCertificate("kiosk-1", credential_generation(secret_hash(old)))
    assert isinstance(await connects(gateway, None, certificate), Accepted)
    gateway.clock.milliseconds += RENEWAL_PAUSE_MS
    new = await renewed(gateway, old)
    for generation in (certificate, ClientCertificate("kiosk-1", credential_generation(secret_hash(new)))):
        assert isinstance(await connects(gateway, None, generation), Accepted)
    gateway.clock.milliseconds += OVERLAP_MS
    assert isinstance(await connects(gateway, None, certificate), Refused)
    gateway.clock.milliseconds += DAYS * DAY_MS
    assert isinstance(await connects(gateway, None, ClientCertificate("kiosk-1", None)), Refused), "of a company's PKI"


async def test_an_invitation_says_how_long_tokens_last(gateway: InProcessGateway) -> None:
    body = {"token_days": 7, "device_id": "kiosk-1"}
    made = (await gateway.call("POST", "/v1/invitations", 201, json=body))["invitations"][0]
    answer = await gateway.call(
        "POST", "/v1/enrol", 201, gateway.client(None), json={"code": made["code"], "nonce": "n" * 43}
    )
    assert answer["token_expires_in"] == 7 * 86_400
    gateway.clock.milliseconds += 60_000
    again = await gateway.call(
        "POST", "/v1/enrol", 201, gateway.client(None), json={"code": made["code"], "nonce": "n" * 43}
    )
    assert again["token_expires_in"] == 7 * 86_400
    assert (await gateway.call("GET", "/v1/invitations"))["items"][0]["token_days"] == 7
    body = {"code": made["code"], "token_days": 3_000}
    await gateway.refused("POST", "/v1/enrol", 422, "invalid_request", gateway.client(None), json=body)


async def test_those_that_end_soon_are_listed(gateway: InProcessGateway) -> None:
    for device_id, days in (("short", 3), ("long", 300), ("endless", None)):
        await enrolled(gateway, device_id, days)
    before = rfc3339(START + 7 * DAY_MS)
    found = await gateway.call("GET", f"/v1/devices?token_expires_before={before}")
    assert [item["device_id"] for item in found["items"]] == ["short"]
    responses.DevicesResponse.model_validate(found)


async def test_who_is_connected_when_its_token_ends_is_disconnected(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_expiry, "SLICE_DEVICES", 2)
    for number in range(5):
        await enrolled(gateway, f"kiosk-{number}", 3 if number < 4 else 30)
    connections = gateway.components.delivery.connections
    ended: list[str] = []
    monkeypatch.setattr(connections, "disconnect_device", lambda client_id: ended.append(client_id))
    monkeypatch.setattr(
        connections, "presence", lambda number, plain=connections.presence: plain(number).__class__(number != 1, 1, "a")
    )
    expiry = gateway.components.enrolment.token_expiry
    await expiry.run()
    assert ended == []
    gateway.clock.milliseconds += 3 * DAY_MS
    await expiry.run()
    assert ended == ["kiosk-1", "kiosk-2", "kiosk-3"], "the first was not connected, the last has time left"
    await expiry.run()
    assert len(ended) == 3
    assert expiry.closed == 3
