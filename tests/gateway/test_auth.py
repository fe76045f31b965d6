from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.authorization import Accepted, ClientCertificate, Credentials, Refused
from broker.protocol.packets import ReasonCode
from gateway.auth import (
    DeviceAuthenticator,
    DeviceIdentity,
    DevicePermissions,
    KeyCache,
    credential_generation,
    new_key,
    new_token,
    secret_hash,
)
from gateway.device_topics import device_topics
from gateway.errors import Problem
from gateway.store.database import Database
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import fresh_database

T = TypeVar("T")

NOW_MS = 1_800_000_000_000


class Rows:
    """A database that works at once and calls back in a later turn of the loop; counts how often it was asked."""

    def __init__(self) -> None:
        self.connection = fresh_database()
        self.reads = 0
        self.meanwhile: Callable[[], None] = lambda: None
        """Happens between a read and its answer."""

    async def read_soon(self, operation: Callable[[Transaction], T]) -> T:
        self.reads += 1
        result = operation(self.connection)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return result

    def look_up(
        self,
        operation: Callable[[Transaction], T],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.reads += 1
        loop = asyncio.get_running_loop()
        try:
            result = operation(self.connection)
        except sqlite3.Error as error:
            loop.call_soon(on_error, error)
        else:
            loop.call_soon(on_done, result)

    def add_device(self, device_id: str, token: str, app_no: int = 1) -> None:
        self.connection.execute(
            "INSERT INTO device (app_no, id, token_hash, created_at, updated_at) VALUES (?, ?, ?, 0, 0)",
            (app_no, device_id, secret_hash(token)),
        )

    def add_key(self, key_id: str, key: str, scopes: str) -> None:
        self.connection.execute(
            "INSERT INTO api_key (id, app_no, name, scopes, secret_hash, created_at) VALUES (?, 1, ?, ?, ?, 0)",
            (key_id, f"name of {key_id}", scopes, secret_hash(key)),
        )


@pytest.fixture
def rows() -> Any:
    rows = Rows()
    rows.connection.execute("INSERT INTO application (no, id, created_at) VALUES (2, 'shop', 0)")
    rows.add_device("kiosk-1", "dev_right")
    rows.add_device("kiosk-1", "dev_shop", app_no=2)
    yield rows
    rows.connection.close()


def test_secrets_are_random_and_say_what_they_are() -> None:
    keys, tokens = {new_key() for _ in range(100)}, {new_token() for _ in range(100)}
    assert len(keys | tokens) == 200
    assert all(key.startswith("key_") and len(key) >= 47 for key in keys)
    assert all(token.startswith("dev_") and len(token) >= 47 for token in tokens)


async def test_a_key_opens_its_app_with_its_scopes(rows: Rows) -> None:
    rows.add_key("k1", "key_a", "send read")
    ring = KeyCache(rows, lambda: NOW_MS)
    principal = await ring.authenticate("Bearer key_a")
    assert (principal.app_id, principal.key_id) == ("default", "k1")
    assert (principal.kind, principal.name, principal.session_id) == ("key", "name of k1", None)
    principal.require("send")
    with pytest.raises(Problem) as refusal:
        principal.require("admin")
    assert refusal.value.code == "forbidden"
    await ring.authenticate("bearer key_a")
    assert rows.reads == 1  # remembered


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic key_a", "key_a", "Bearer key_b"])
async def test_without_a_valid_key_there_is_no_way_in(rows: Rows, header: str | None) -> None:
    rows.add_key("k1", "key_a", "admin")
    with pytest.raises(Problem) as refusal:
        await KeyCache(rows, lambda: NOW_MS).authenticate(header)
    assert refusal.value.code == "unauthorized"
    assert "key_b" not in str(refusal.value)


@pytest.mark.parametrize("key", ["key_b", "dev_b"])
async def test_a_wrong_key_is_answered_with_the_remedy(rows: Rows, key: str) -> None:
    with pytest.raises(Problem, match=r"admin\.key of the server's data directory, or make one with POST /v1/keys$"):
        await KeyCache(rows, lambda: NOW_MS).authenticate(f"Bearer {key}")


async def test_a_revoked_key_is_void_at_once(rows: Rows) -> None:
    rows.add_key("k1", "key_a", "admin")
    ring = KeyCache(rows, lambda: NOW_MS)
    await ring.authenticate("Bearer key_a")
    rows.connection.execute("UPDATE api_key SET revoked_at = 1")
    ring.forget("k1")
    with pytest.raises(Problem):
        await ring.authenticate("Bearer key_a")


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(rows: Rows) -> None:
    rows.add_key("k1", "key_a", "admin")
    ring = KeyCache(rows, lambda: NOW_MS)

    def revoke() -> None:
        rows.connection.execute("UPDATE api_key SET revoked_at = 1")
        ring.forget("k1")

    rows.meanwhile = revoke
    for _ in range(2):
        with pytest.raises(Problem) as refusal:
            await ring.authenticate("Bearer key_a")
        assert refusal.value.code == "unauthorized"


async def shown(
    rows: Rows, certificate: ClientCertificate, client_id: str, username: str | None = None, token: str | None = None
) -> Accepted | Refused:
    """What is answered to who has shown a certificate."""
    authenticator = DeviceAuthenticator(
        clock_ms=lambda: NOW_MS,
        on_expired=lambda device_no, text: None,
        database=rows,
        on_denied=lambda identity, text: None,
        timers=asyncio.get_running_loop(),
    )
    answered: asyncio.Future[Accepted | Refused] = asyncio.get_running_loop().create_future()
    password = None if token is None else token.encode()
    credentials = Credentials(client_id, username, password, 4, "test", certificate)
    authenticator.authenticate(credentials, answered.set_result)
    return await asyncio.wait_for(answered, 10)


async def test_a_certificate_takes_the_place_of_a_token(rows: Rows) -> None:
    mine = ClientCertificate("kiosk-1", credential_generation(secret_hash("dev_right")))
    for username, token in ((None, None), ("kiosk-1", None), ("kiosk-1", "dev_right")):
        accepted = await shown(rows, mine, "kiosk-1", username, token)
        assert isinstance(accepted, Accepted)
        assert (accepted.principal, accepted.persistent) == ("kiosk-1", True)
    side = await shown(rows, mine, "kiosk-1:r")
    assert isinstance(side, Accepted)
    assert not side.persistent
    assert isinstance(await shown(rows, ClientCertificate("kiosk-1", None), "kiosk-1"), Accepted), "of a company's PKI"


@pytest.mark.parametrize("serial_number", ["SN-4711", "4711", "Größe 7", "A" * 32])
async def test_the_serial_number_of_a_company_s_certificate_is_its_own(rows: Rows, serial_number: str) -> None:
    assert isinstance(await shown(rows, ClientCertificate("kiosk-1", serial_number), "kiosk-1"), Accepted)


async def test_a_certificate_is_of_one_device_and_one_token(rows: Rows) -> None:
    refused = Refused(ReasonCode.BAD_USER_NAME_OR_PASSWORD)
    generation = credential_generation(secret_hash("dev_right"))
    mine = ClientCertificate("kiosk-1", generation)
    assert await shown(rows, mine, "shop/kiosk-1", "shop/kiosk-1") == refused, "of another device"
    assert await shown(rows, mine, "shop/kiosk-1", "shop/kiosk-1", "dev_shop") == refused, "even with its token"
    assert await shown(rows, mine, "kiosk-1", "kiosk-1", "dev_wrong") == refused, "with a wrong token"
    assert await shown(rows, mine, "kiosk-2") == Refused(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID)
    assert await shown(rows, ClientCertificate("nobody", generation), "nobody") == refused
    assert await shown(rows, ClientCertificate("", None), "") == refused, "without a name"
    rows.connection.execute("UPDATE device SET token_hash = ? WHERE id = 'kiosk-1'", (secret_hash("dev_new"),))
    assert await shown(rows, mine, "kiosk-1") == refused, "of an earlier token"
    assert await shown(rows, mine, "kiosk-1", "kiosk-1", "dev_new") == refused, "even with the new one"


async def connect(rows: Rows, *claims: tuple[str, str | None, str | None]) -> list[Accepted | Refused]:
    authenticator = DeviceAuthenticator(
        clock_ms=lambda: NOW_MS,
        on_expired=lambda device_no, text: None,
        database=rows,
        on_denied=lambda identity, text: None,
        timers=asyncio.get_running_loop(),
    )
    answers: dict[int, Accepted | Refused] = {}
    done = asyncio.Event()

    def answer(index: int, result: Accepted | Refused) -> None:
        answers[index] = result
        if len(answers) == len(claims):
            done.set()

    for index, (client_id, username, password) in enumerate(claims):
        credentials = Credentials(client_id, username, None if password is None else password.encode(), 4, "test")
        authenticator.authenticate(credentials, lambda result, index=index: answer(index, result))  # type: ignore[misc]
    await asyncio.wait_for(done.wait(), 10)
    return [answers[index] for index in range(len(claims))]


@pytest.mark.parametrize(
    ("client_id", "username", "password", "code"),
    [
        ("kiosk-1", "kiosk-1", "dev_wrong", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
        ("kiosk-1", "kiosk-1", "dev_shop", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
        ("kiosk-1", "kiosk-1", None, ReasonCode.BAD_USER_NAME_OR_PASSWORD),
        ("kiosk-1", None, None, ReasonCode.BAD_USER_NAME_OR_PASSWORD),
        ("nobody", "nobody", "dev_right", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
        ("default/kiosk-1", "default/kiosk-1", "dev_right", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
        ("a/b/c", "a/b/c", "dev_right", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
        ("kiosk-1\n", "kiosk-1\n", "dev_right", ReasonCode.BAD_USER_NAME_OR_PASSWORD),
        ("kiosk-2", "kiosk-1", "dev_right", ReasonCode.CLIENT_IDENTIFIER_NOT_VALID),
        ("", "kiosk-1", "dev_right", ReasonCode.CLIENT_IDENTIFIER_NOT_VALID),
        ("kiosk-1:", "kiosk-1", "dev_right", ReasonCode.CLIENT_IDENTIFIER_NOT_VALID),
        ("kiosk-1:a:b", "kiosk-1", "dev_right", ReasonCode.CLIENT_IDENTIFIER_NOT_VALID),
        ("kiosk-1:" + "x" * 17, "kiosk-1", "dev_right", ReasonCode.CLIENT_IDENTIFIER_NOT_VALID),
        ("kiosk-1", "shop/kiosk-1", "dev_shop", ReasonCode.CLIENT_IDENTIFIER_NOT_VALID),
    ],
)
async def test_wrong_credentials_are_refused(
    rows: Rows, client_id: str, username: str | None, password: str | None, code: int
) -> None:
    assert await connect(rows, (client_id, username, password)) == [Refused(code)]


async def test_a_device_is_let_in_as_itself(rows: Rows) -> None:
    main, side, shop = await connect(
        rows,
        ("kiosk-1", "kiosk-1", "dev_right"),
        ("kiosk-1:r", "kiosk-1", "dev_right"),
        ("shop/kiosk-1", "shop/kiosk-1", "dev_shop"),
    )
    assert isinstance(main, Accepted)
    assert isinstance(side, Accepted)
    assert isinstance(shop, Accepted)
    assert main.persistent
    assert not side.persistent
    assert main.principal == side.principal == "kiosk-1"
    assert main.identity == side.identity == DeviceIdentity(1, 1, "default", "kiosk-1", "kiosk-1", "test")
    assert shop.identity == DeviceIdentity(2, 2, "shop", "kiosk-1", "shop/kiosk-1", "test")
    assert main.permissions.may_subscribe("default/devices/kiosk-1/push")
    assert not side.permissions.may_subscribe("default/devices/kiosk-1/push")
    assert side.permissions.may_publish("default/devices/kiosk-1/receipts", False)


async def test_a_removed_device_is_nobody(rows: Rows) -> None:
    rows.connection.execute("UPDATE device SET removed_at = 1")
    assert await connect(rows, ("kiosk-1", "kiosk-1", "dev_right")) == [Refused(ReasonCode.BAD_USER_NAME_OR_PASSWORD)]


async def test_many_at_once_are_two_look_ups(rows: Rows) -> None:
    """One for the first, one for those that came meanwhile."""
    for number in range(500):
        rows.add_device(f"d{number}", f"dev_{number}")
    answers = await connect(rows, *[(f"d{n}", f"d{n}", f"dev_{n}" if n % 2 else "dev_wrong") for n in range(500)])
    assert [isinstance(answer, Accepted) for answer in answers] == [bool(n % 2) for n in range(500)]
    assert rows.reads == 2


async def test_a_token_rotated_while_it_is_looked_up_lets_nobody_in(rows: Rows) -> None:
    authenticator = DeviceAuthenticator(
        clock_ms=lambda: NOW_MS,
        on_expired=lambda device_no, text: None,
        database=rows,
        on_denied=lambda identity, text: None,
        timers=asyncio.get_running_loop(),
    )
    answered: asyncio.Future[Accepted | Refused] = asyncio.get_running_loop().create_future()
    authenticator.authenticate(Credentials("kiosk-1", "kiosk-1", b"dev_right", 4, "test"), answered.set_result)
    assert rows.reads == 1
    rows.connection.execute("UPDATE device SET token_hash = ?", (secret_hash("dev_new"),))
    authenticator.forget()
    assert await asyncio.wait_for(answered, 10) == Refused(ReasonCode.BAD_USER_NAME_OR_PASSWORD)


async def test_a_rotated_token_lets_nobody_in_after_the_disconnection(tmp_path: Path) -> None:
    """Between a look-up and its answer there is no room for a change that neither of them has seen."""
    database = await Database.open(tmp_path / "test.db", lambda last_stored: lambda: 1, on_full=lambda: False)
    authenticator = DeviceAuthenticator(
        clock_ms=lambda: NOW_MS,
        on_expired=lambda device_no, text: None,
        database=database,
        on_denied=lambda identity, text: None,
        timers=asyncio.get_running_loop(),
    )
    connected: set[str] = set()
    late: list[str] = []
    void: set[str] = set()
    current = ""
    unanswered = 0
    all_answered = asyncio.Event()

    def enrol(connection: Transaction) -> None:
        connection.execute("INSERT INTO application (no, id, created_at) VALUES (1, 'default', 0)")
        connection.execute(
            "INSERT INTO device (app_no, id, token_hash, created_at, updated_at) VALUES (1, 'd', x'', 0, 0)"
        )

    def connect_with(token: str) -> None:
        def answer(result: Accepted | Refused) -> None:
            nonlocal unanswered
            unanswered -= 1
            if not unanswered:
                all_answered.set()
            if isinstance(result, Accepted):
                connected.add(token)
                if token in void:  # the next one may be in before its commit is called back, which is early enough
                    late.append(token)

        nonlocal unanswered
        unanswered += 1
        authenticator.authenticate(Credentials("d", "d", token.encode(), 4, "test"), answer)

    async def everybody_answered() -> None:
        await database.write(lambda connection: None)
        if unanswered:
            all_answered.clear()
            await all_answered.wait()

    def rotate_to(token: str) -> None:
        def operation(connection: Transaction) -> None:
            connection.execute("UPDATE device SET token_hash = ?", (secret_hash(token),))

        def on_commit(_: None) -> None:
            nonlocal current
            void.add(current)
            current = token
            authenticator.forget()
            connected.clear()  # the disconnection

        database.submit(operation, on_commit, lambda error: late.append(str(error)))

    await database.write(enrol)
    for number in range(50):
        for _ in range(number % 4):
            connect_with(current)
        rotate_to(f"dev_{number}")
        for _ in range(3):
            connect_with(current)
            connect_with(f"dev_{number}")
            await asyncio.sleep(0)
    await asyncio.wait_for(everybody_answered(), 10)
    connect_with(current)
    await asyncio.wait_for(everybody_answered(), 10)
    assert connected == {"dev_49"}
    assert not late
    await database.close()


async def test_an_answer_that_fails_costs_the_others_nothing(rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = DeviceAuthenticator(
        clock_ms=lambda: NOW_MS,
        on_expired=lambda device_no, text: None,
        database=rows,
        on_denied=lambda identity, text: None,
        timers=asyncio.get_running_loop(),
    )
    answers: list[Accepted | Refused] = []
    last = asyncio.Event()

    def note(answer: Accepted | Refused) -> None:
        answers.append(answer)
        if len(answers) == 2:
            last.set()

    def fails(result: Accepted | Refused) -> None:
        raise RuntimeError("this connection is broken")

    right = Credentials("kiosk-1", "kiosk-1", b"dev_right", 4, "test")
    for answer in (fails, fails, note, fails, note):
        authenticator.authenticate(right, answer)
    await asyncio.wait_for(last.wait(), 10)
    assert [type(answer) for answer in answers] == [Accepted, Accepted]
    assert "this connection is broken" in caplog.text
    assert "dev_right" not in caplog.text


@pytest.mark.sqlite("whose table goes")
async def test_a_failing_database_lets_nobody_in(rows: Rows) -> None:
    rows.connection.execute("DROP TABLE device")
    assert await connect(rows, ("kiosk-1", "kiosk-1", "dev_right")) == [Refused(ReasonCode.SERVER_UNAVAILABLE)]


ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
MINE = DeviceIdentity(1, 1, "default", "kiosk-1", "kiosk-1")


def permissions(denied: list[str] | None = None, side: bool = False) -> DevicePermissions:
    notes: list[str] = [] if denied is None else denied
    return DevicePermissions(MINE, side, lambda identity, text: notes.append(text))


@given(device=ids, app=st.sampled_from(["default", "shop", "d"]), leaf=st.sampled_from(["push", "notices", "receipts"]))
def test_nobody_elses_topic_is_open(device: str, app: str, leaf: str) -> None:
    if (app, device) == ("default", "kiosk-1"):
        return
    topic = device_topics(app, device)[leaf]
    assert not permissions().may_subscribe(topic)
    assert not permissions().may_publish(topic, False)


@given(st.text(max_size=80))
def test_nothing_but_two_filters_can_be_subscribed(topic_filter: str) -> None:
    mine = {"default/devices/kiosk-1/push", "default/devices/kiosk-1/notices"}
    assert permissions().may_subscribe(topic_filter) == (topic_filter in mine)


@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "+/devices/kiosk-1/push",
        "default/devices/+/push",
        "default/devices/kiosk-1/#",
        "$share/g/default/devices/kiosk-1/push",
    ],
)
def test_no_wildcard_and_no_share(topic_filter: str) -> None:
    assert not permissions().may_subscribe(topic_filter)


@pytest.mark.parametrize(
    ("leaf", "retain", "allowed"),
    [
        ("receipts", False, True),
        ("settings", False, True),
        ("report", False, True),
        ("presence", False, True),
        ("presence", True, True),
        ("uplink/a/b", False, True),
        ("uplink", False, True),
        ("receipts", True, False),
        ("uplink/a", True, False),
        ("push", False, False),
        ("notices", False, False),
        ("uplinks", False, False),
        ("receipts/x", False, False),
        ("", False, False),
    ],
)
def test_a_device_publishes_what_the_contract_says(leaf: str, retain: bool, allowed: bool) -> None:
    denied: list[str] = []
    assert permissions(denied).may_publish(f"default/devices/kiosk-1/{leaf}", retain) == allowed
    assert bool(denied) != allowed


def test_the_generation_of_a_credential_is_part_of_the_device_contract() -> None:
    """Certificates in the field have it; by hand: (printf 'fleetpush certificate '; printf TOKEN | openssl dgst -sha256
    -binary) | sha256sum | cut -c1-32."""
    assert credential_generation(secret_hash("dev_token")) == "aeac43b6b03c44288b1ef834c1335c5a"
    assert credential_generation(secret_hash("dev_other")) != credential_generation(secret_hash("dev_token"))
