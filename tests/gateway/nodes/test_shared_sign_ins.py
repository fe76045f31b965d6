"""Sign-ins that begin at one node and come back to another one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.people.browser_sign_in import SignInFailed
from gateway.people.identity_provider import IdentityProvider
from gateway.people.oidc_sign_in import OidcSignIn
from gateway.people.sessions import FLUSH_MS, PEERS_MS
from gateway.store.app_locks import NO_APP
from gateway.store.nodes.sign_ins import sign_in_key, use_sign_in
from tests.gateway.in_process import OURS
from tests.gateway.nodes.conftest import Pair
from tests.nodes import gateways_in_process

IDLE_MS = 15 * 60_000
UNIX_S = 1_800_000_000


class _Provider:
    issuer = "https://id.example"
    client_id = "console"

    async def metadata(self) -> Any:
        return SimpleNamespace(authorization_endpoint=f"{self.issuer}/authorize", sends_issuer=False)


async def sign_in_at(pair: Pair, number: int) -> OidcSignIn:
    database = pair.databases[number]
    found = OidcSignIn(
        provider=cast(IdentityProvider, _Provider()),
        database=database,
        name=None,
        scopes=(),
        claim="groups",
        role_claims=(),
        unix_time=lambda: float(UNIX_S),
    )

    async def use(state: str, ends: int) -> bool:
        return await database.write(lambda t: use_sign_in(t, state, ends, UNIX_S), apps=NO_APP)

    found.share(await database.write(lambda t: sign_in_key(t, bytes([number]) * 32), apps=NO_APP), use)
    return found


async def outcome(node: OidcSignIn, cookie: str, state: str) -> str:
    """The code of a sign-in that the provider has refused: a node that can open its cookie finds that."""
    with pytest.raises(SignInFailed) as failure:
        await node.finish(cookie, {"state": state, "error": "access_denied"})
    return failure.value.code


async def test_a_person_comes_back_to_any_node_and_once(pair: Pair) -> None:
    first, second = await sign_in_at(pair, 0), await sign_in_at(pair, 1)
    begun = await first.begin("https://push.example/back", "/console", None, None)
    (state,) = parse_qs(urlsplit(begun.address).query)["state"]
    assert await outcome(second, begun.cookie, state) == "sign_in_refused"
    assert await outcome(first, begun.cookie, state) == "sign_in_expired", "it was finished at the other one"


async def test_what_has_ended_leaves(pair: Pair) -> None:
    database = pair.databases[0]

    async def use(state: str, ends: int, now: int) -> bool:
        return await database.write(lambda t: use_sign_in(t, state, ends, now), apps=NO_APP)

    assert await use("old", UNIX_S, UNIX_S)
    assert await use("new", UNIX_S + 600, UNIX_S + 1)
    rows = await database.read(lambda t: t.execute("SELECT state FROM used_sign_in").fetchall())
    assert rows == [("new",)]


async def test_a_session_in_use_at_one_node_is_not_ended_by_another(tmp_path: Path) -> None:
    """Which hears of its use once a minute."""
    async with gateways_in_process(tmp_path, 2, run=True) as (first, second), AsyncExitStack() as ending:
        browser, there = [await ending.enter_async_context(node.client(None)) for node in (first, second)]
        await first.call("POST", "/v1/session", 201, browser, json={"key": first.key}, headers=OURS)
        there.cookies = browser.cookies
        clock = first.clock
        sessions = [node.components.people.sessions for node in (first, second)]
        async with asyncio.timeout(15):
            while not len(sessions[1]):  # noqa: ASYNC110  the other one has not heard of it yet
                await asyncio.sleep(0.01)
        clock.milliseconds += IDLE_MS - 1
        await first.call("GET", "/v1/session", http=browser)
        clock.milliseconds += FLUSH_MS
        sessions[1].flush()
        sessions[0].flush()
        await second.call("GET", "/v1/session", http=there)
        clock.milliseconds += IDLE_MS + PEERS_MS
        await second.refused("GET", "/v1/session", 401, "unauthorized", there)
