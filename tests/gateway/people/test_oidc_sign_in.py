"""The whole way of a browser to a real identity provider and back, and what attackers make of its parts."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest

from gateway.people.browser_sign_in import RETURN_CHARACTERS, START, return_path
from tests.gateway.in_process import OURS, InProcessGateway
from tests.oidc.provider import ROLES, SECRET, OidcProvider

BEGIN = "/v1/session/oidc"
COOKIES = ("fleetpush_session", "fleetpush_sign_in")


def settings_of(provider: OidcProvider, folder: Path) -> dict[str, Any]:
    secret = folder / "client.secret"
    secret.write_text(f"{SECRET}\n")
    return {
        "oidc_issuer": provider.issuer,
        "oidc_client_id": "fleetpush",
        "oidc_client_secret": secret,
        "oidc_name": "Example Ltd",
        "oidc_scopes": ("groups",),
        "oidc_roles": ROLES,
        "oidc_networks": ("127.0.0.1/32",),
    }


async def build(folder: Path, **settings: Any) -> InProcessGateway:
    gateway = await InProcessGateway.build(folder, asyncio.get_running_loop(), **settings)
    gateway.clock.milliseconds = int(time.time() * 1000)  # the provider's clock is not moved by hand
    return gateway


@pytest.fixture
async def gateway(provider: OidcProvider, tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    gateway = await build(tmp_path, **settings_of(provider, tmp_path))
    yield gateway
    await gateway.close()


class Person:
    """Somebody with a browser: `ours` is what it sends to this server, `theirs` what it sends to the provider."""

    def __init__(self, gateway: InProcessGateway, name: str) -> None:
        self.name = name
        self.ours = gateway.client(None)
        self.theirs = httpx2.AsyncClient()

    async def begin(self, **query: str) -> str:
        """Press the button; the address of the provider."""
        answer = await self.ours.get(BEGIN, params=query)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def sign_in_there(self, address: str) -> str:
        """Fill in the provider's forms; the address to which it sends the browser back."""
        answer = await self.theirs.get(address)
        for _ in range(10):
            if answer.is_redirect:
                address = urljoin(address, answer.headers["location"])
                if address.startswith("http://test/"):
                    return address
                answer = await self.theirs.get(address)
                continue
            found = re.search(r'action="([^"]+)".*name="prompt" value="(\w+)"', answer.text, re.DOTALL)
            assert found is not None, answer.text
            address = urljoin(address, unescape(found[1]))
            fields = {"prompt": found[2], "login": self.name, "password": "any"}
            answer = await self.theirs.post(address, data=fields)
        raise AssertionError("the provider does not come to an end")

    async def come_back(self, address: str) -> httpx2.Response:
        return await self.ours.get(address.removeprefix("http://test"))

    async def sign_in(self, **query: str) -> httpx2.Response:
        return await self.come_back(await self.sign_in_there(await self.begin(**query)))


@pytest.fixture
async def person(gateway: InProcessGateway) -> AsyncIterator[Person]:
    person = Person(gateway, "ada")
    yield person
    await person.theirs.aclose()


def refusal_of(answer: httpx2.Response) -> str:
    """The code that the sign-in page is told, of a sign-in that gave no session."""
    assert answer.status_code == 303, answer.text
    address = urlsplit(answer.headers["location"])
    assert (address.scheme, address.netloc, address.path) == ("", "", "/console/sign-in")
    assert "fleetpush_session" not in answer.cookies
    return parse_qs(address.query)["error"][0]


async def test_a_person_signs_in_and_does_what_the_role_may(gateway: InProcessGateway, person: Person) -> None:
    options = await gateway.call("GET", "/v1/session/options", http=person.ours)
    assert options == {"oidc": {"name": "Example Ltd"}}
    answer = await person.sign_in(to="/console/fleet?where=online")
    assert answer.status_code == 200
    # The provider's site led here, so the cookie is not sent before a page of ours leads on.
    assert '<meta http-equiv="refresh" content="0;url=/console/fleet?where=online">' in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    session, sign_in = sorted(answer.headers.get_list("set-cookie"), key=lambda header: "Max-Age=0" in header)
    assert session.startswith("fleetpush_session=ses_")
    assert "SameSite=strict" in session
    assert "HttpOnly" in session
    assert sign_in.startswith('fleetpush_sign_in=""')

    shown = await gateway.call("GET", "/v1/session", http=person.ours)
    assert (shown["app"], shown["role"], shown["name"], shown["sign_in"]) == ("default", "admin", "Ada", "oidc")
    made = await gateway.call(
        "POST", "/v1/keys", 201, person.ours, json={"name": "till", "scopes": ["send"]}, headers=OURS
    )
    entries = (await gateway.call("GET", "/v1/audit"))["items"][:2]
    assert [(entry["action"], entry["object"]) for entry in entries] == [
        ("key.create", f"key:{made['id']}"),
        ("session.begin", f"session:{shown['id']}"),
    ]
    (actor,) = {entry["actor"] for entry in entries}
    assert actor.startswith("person:u_")
    # Whoever makes a key chooses its name, and is not called that.
    assert [entry["details"]["person"] for entry in entries] == ["Ada", "Ada"]
    assert entries[0]["details"]["name"] == "till"


async def test_a_viewer_reads_and_does_nothing_else(gateway: InProcessGateway) -> None:
    vera = Person(gateway, "vera")
    await vera.sign_in()
    assert (await gateway.call("GET", "/v1/session", http=vera.ours))["role"] == "viewer"
    await gateway.call("GET", "/v1/devices", http=vera.ours)
    body = {"target": {"all": True}}
    await gateway.refused("POST", "/v1/pushes", 403, "forbidden", vera.ours, json=body, headers=OURS)
    await gateway.refused("POST", "/v1/devices", 403, "forbidden", vera.ours, json={}, headers=OURS)
    await gateway.refused("GET", "/v1/keys", 403, "forbidden", vera.ours)
    await vera.theirs.aclose()


async def test_roles_belong_to_an_app(gateway: InProcessGateway) -> None:
    hugo, ada = Person(gateway, "hugo"), Person(gateway, "ada")
    assert refusal_of(await hugo.sign_in()) == "no_role"  # there is no such app yet
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    await gateway.enrol("kiosk-1")
    await hugo.sign_in()
    shown = await gateway.call("GET", "/v1/session", http=hugo.ours)
    assert (shown["app"], shown["role"]) == ("hotel", "operator")
    await gateway.refused("GET", "/v1/devices/kiosk-1", 404, "device_not_found", hugo.ours)
    assert refusal_of(await ada.sign_in(app="hotel")) == "no_role"
    for somebody in (hugo, ada):
        await somebody.theirs.aclose()


async def test_who_has_no_role_gets_no_session(gateway: InProcessGateway) -> None:
    nobody = Person(gateway, "nobody")
    assert refusal_of(await nobody.sign_in()) == "no_role"
    await gateway.refused("GET", "/v1/session", 401, "unauthorized", nobody.ours)
    await nobody.theirs.aclose()


async def test_an_answer_of_the_provider_counts_once_and_in_its_own_browser(
    gateway: InProcessGateway, person: Person
) -> None:
    address = await person.sign_in_there(await person.begin())
    thief = Person(gateway, "thief")
    assert refusal_of(await thief.come_back(address)) == "sign_in_expired"  # without a sign-in
    await thief.begin()
    assert refusal_of(await thief.come_back(address)) == "sign_in_expired"  # with another one
    cookie = person.ours.cookies["fleetpush_sign_in"]
    await person.come_back(address)
    assert refusal_of(await person.come_back(address)) == "sign_in_expired"  # its cookie has gone
    again = {"Cookie": f"fleetpush_sign_in={cookie}"}
    answer = await thief.ours.get(address.removeprefix("http://test"), headers=again)
    assert refusal_of(answer) == "sign_in_expired"  # kept, and shown again
    await thief.theirs.aclose()


async def test_who_signs_in_again_and_again_is_told_to_wait(
    gateway: InProcessGateway, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.people.sessions.SIGN_INS_TOGETHER", 1)
    assert (await person.sign_in()).status_code == 200
    assert refusal_of(await person.sign_in()) == "busy"


async def test_the_log_knows_which_address_a_failed_sign_in_came_from(
    gateway: InProcessGateway, person: Person, caplog: pytest.LogCaptureFixture
) -> None:
    """So that it limits the lines of each, as those of other strangers (`broker.log_writer`)."""
    assert refusal_of(await person.ours.get(f"{BEGIN}/callback")) == "sign_in_expired"
    (record,) = [record for record in caplog.records if "sign-in at the console failed" in record.getMessage()]
    assert record.__dict__["peer"] == "127.0.0.1"


async def test_a_code_is_of_no_use_in_another_sign_in(gateway: InProcessGateway, person: Person) -> None:
    """An attacker puts a code into the address of a sign-in of their own: its verifier is another one (PKCE)."""
    stolen = parse_qs(urlsplit(await person.sign_in_there(await person.begin())).query)
    thief = Person(gateway, "thief")
    state = parse_qs(urlsplit(await thief.begin()).query)["state"][0]
    answer = await thief.ours.get(
        f"{BEGIN}/callback", params={"code": stolen["code"][0], "state": state, "iss": stolen["iss"][0]}
    )
    assert refusal_of(answer) == "sign_in_refused"
    await thief.theirs.aclose()


async def test_the_answer_of_another_provider_is_refused(gateway: InProcessGateway, person: Person) -> None:
    for change in ({"iss": "https://evil.example"}, {"iss": None}):
        address = urlsplit(await person.sign_in_there(await person.begin()))
        answer = {name: values[0] for name, values in parse_qs(address.query).items()} | change
        sent = {name: value for name, value in answer.items() if value is not None}
        assert refusal_of(await person.ours.get(address.path, params=sent)) == "sign_in_refused"


async def test_a_sign_in_waits_ten_minutes_for_its_person(gateway: InProcessGateway, person: Person) -> None:
    address = await person.sign_in_there(await person.begin())
    gateway.clock.milliseconds += 600_000
    assert refusal_of(await person.come_back(address)) == "sign_in_expired"


async def test_a_refusal_of_the_provider_is_said_without_its_words(gateway: InProcessGateway, person: Person) -> None:
    state = parse_qs(urlsplit(await person.begin()).query)["state"][0]
    query = {"error": "access_denied", "error_description": "<script>", "state": state}
    answer = await person.ours.get(f"{BEGIN}/callback", params=query)
    assert refusal_of(answer) == "sign_in_refused"
    assert "script" not in answer.headers["location"] + answer.text


async def test_the_session_that_the_browser_had_ends(gateway: InProcessGateway, person: Person) -> None:
    await gateway.call("POST", "/v1/session", 201, person.ours, json={"key": gateway.key}, headers=OURS)
    before = person.ours.cookies["fleetpush_session"]
    address = await person.sign_in_there(await person.begin())
    cookies = {"Cookie": f"fleetpush_sign_in={person.ours.cookies['fleetpush_sign_in']}"}  # the other is `Strict`
    person.ours.cookies.clear()
    answer = await person.ours.get(address.removeprefix("http://test"), headers=cookies)
    assert answer.status_code == 200
    after = person.ours.cookies["fleetpush_session"]
    person.ours.cookies.clear()
    for token, status in ((before, 401), (after, 200)):
        headers = {"Cookie": f"fleetpush_session={token}"}
        assert (await person.ours.get("/v1/session", headers=headers)).status_code == status


async def test_sign_out_names_the_place_to_sign_out_of_the_provider_too(
    gateway: InProcessGateway, person: Person, provider: OidcProvider
) -> None:
    await person.sign_in()
    ended = await gateway.call("DELETE", "/v1/session", 200, person.ours, headers=OURS)
    await gateway.refused("GET", "/v1/session", 401, "unauthorized", person.ours)
    assert ended["provider_sign_out"].startswith(f"{provider.issuer}/session/end?")
    answer = await person.theirs.get(ended["provider_sign_out"])
    assert answer.status_code == 200, "the provider knows us, and where to come back to"
    assert "Do you want to sign-out" in answer.text


async def test_a_client_without_a_secret_is_protected_by_pkce(provider: OidcProvider, tmp_path: Path) -> None:
    settings = {**settings_of(provider, tmp_path), "oidc_client_id": "public", "oidc_client_secret": None}
    gateway = await build(tmp_path, **settings)
    person = Person(gateway, "ada")
    assert (await person.sign_in()).status_code == 200
    await person.theirs.aclose()
    await gateway.close()


async def test_a_provider_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    with OidcProvider() as provider:
        gateway = await build(tmp_path, **settings_of(provider, tmp_path))
        person = Person(gateway, "ada")
        address = await person.sign_in_there(await person.begin())
    assert refusal_of(await person.come_back(address)) == "provider_unavailable"
    await gateway.call("POST", "/v1/session", 201, person.ours, json={"key": gateway.key}, headers=OURS)
    await person.theirs.aclose()
    await gateway.close()
    again = await build(tmp_path, **settings_of(provider, tmp_path))
    assert refusal_of(await again.client(None).get(BEGIN)) == "provider_unavailable"
    await again.close()


async def test_without_a_provider_there_is_no_such_way(tmp_path: Path) -> None:
    gateway = await build(tmp_path)
    for path in (BEGIN, f"{BEGIN}/callback"):
        answer = await gateway.client(None).get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    await gateway.close()


FOREIGN = [
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example",
    "/console/\\evil.example",
    "/console//evil.example",
    "/console/%2f/evil.example",
    "/console/../v1/keys",
    "/console/%2e%2e/v1/keys",
    "/console/fleet/..",
    "/console/./fleet",
    "/console",
    "/v1/session",
    "console/fleet",
    "javascript:alert(1)",
    "/console/\n/evil.example",
    "/console/%0d%0aSet-Cookie:x",
    '/console/"><script>',
    "/console/fleet#x",
    "",
]


@pytest.mark.parametrize("to", FOREIGN)
async def test_a_sign_in_leads_to_no_other_place(to: str) -> None:
    assert return_path(to) is None


async def test_an_open_redirect_is_refused_before_the_provider_is_asked(
    gateway: InProcessGateway, person: Person
) -> None:
    answer = await person.ours.get(BEGIN, params={"to": FOREIGN[0]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "to", ["/console/", "/console/fleet", "/console/devices/kiosk-1?tab=pushes&x=%2F%2F", "/console/a.b/c~d"]
)
def test_it_leads_to_pages_of_the_console(to: str) -> None:
    assert return_path(to) == to


def test_a_long_address_is_forgotten_for_the_start() -> None:
    assert return_path(None) == return_path(f"/console/compose?text={'x' * RETURN_CHARACTERS}") == START
