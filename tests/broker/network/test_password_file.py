from __future__ import annotations

import asyncio
import base64
import hashlib
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from broker.authorization import Accepted, AllowAll, Credentials, Refused
from broker.network import password_file
from broker.network.password_file import (
    BadPasswordFile,
    PasswordFileAuthenticator,
    hashed_line,
    read_password_file,
)
from broker.network.password_hashes import HashedPassword, decoy_hash, new_hash, parse_hash
from broker.protocol.packets import ReasonCode
from tests.third_party import require


def test_a_line_we_make_is_read_again(tmp_path: Path) -> None:
    line = hashed_line("käse", "geheim 🧀".encode())
    assert "geheim" not in line
    file = tmp_path / "passwords"
    file.write_text(f"# who may connect\n\n{line}\n", encoding="utf-8")
    users = read_password_file(file)
    assert users["käse"].matches("geheim 🧀".encode())
    assert not users["käse"].matches(b"geheim")
    assert not users["käse"].matches(b"")


def test_two_lines_for_one_password_differ() -> None:
    assert hashed_line("a", b"secret") != hashed_line("a", b"secret")


def test_reads_what_mosquitto_passwd_writes(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    subprocess.run([require("mosquitto_passwd"), "-c", "-b", file, "kiosk-1", "secret"], check=True)
    users = read_password_file(file)
    assert users["kiosk-1"].matches(b"secret")
    assert not users["kiosk-1"].matches(b"Secret")


SHA512 = "$6$c2FsdHNhbHQ=$" + base64.b64encode(hashlib.sha512(b"secret" + b"saltsalt").digest()).decode()
"""As mosquitto_passwd 1.x wrote it."""
ARGON2 = "$argon2id$v=19$m=47104,t=1,p=1$YWFhYWFhYWFhYWFhYWFhYQ$"
"""As 2.1 writes it, without the hash."""


@pytest.mark.parametrize("text", [SHA512, ARGON2 + "3xsJAHxnkh7/fYYm8T0uCQhBNQJ8cDKmRFCnXxHHOV0"], ids=["1.x", "2.1"])
async def test_lines_of_older_and_newer_mosquittos_are_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"kiosk-1:{text}\n")
    users = read_password_file(file)
    right, wrong = (b"secret", b"Secret") if text == SHA512 else (b"x", b"y")
    assert users["kiosk-1"].matches(right)
    assert not users["kiosk-1"].matches(wrong)
    assert not decoy_hash(list(users.values())).matches(right)
    asked = PasswordFileAuthenticator(users, AllowAll())
    assert isinstance(await answer_to(asked, "kiosk-1", right), Accepted)
    assert isinstance(await answer_to(asked, "kiosk-1", wrong), Refused)
    assert isinstance(await answer_to(asked, "kiosk-2", right), Refused)
    asked.close()


def test_an_unknown_user_costs_what_the_slowest_line_does(tmp_path: Path) -> None:
    fast, slow = parse_hash(SHA512), parse_hash(ARGON2 + "A" * 43)
    assert decoy_hash([]).seconds > fast.seconds
    assert decoy_hash([fast, slow]).seconds == slow.seconds


async def test_a_file_that_is_read_again_counts_at_once() -> None:
    old, new, other = (parse_hash(new_hash(password)) for password in (b"old", b"new", b"other"))
    asked = PasswordFileAuthenticator({"kiosk-1": old, "kiosk-2": other, "kiosk-3": other}, AllowAll())
    assert isinstance(await answer_to(asked, "kiosk-1", b"old"), Accepted)
    late = asyncio.create_task(answer_to(asked, "kiosk-2", b"other"))
    changing = asyncio.create_task(answer_to(asked, "kiosk-1", b"new"))
    await asyncio.sleep(0)
    assert asked.replace({"kiosk-1": new, "kiosk-3": other}) == ["kiosk-1", "kiosk-2"]
    assert isinstance(await late, Refused), "it was being judged, and is gone"
    assert isinstance(await changing, Accepted), "it was being judged by the line before"
    assert isinstance(await answer_to(asked, "kiosk-1", b"old"), Refused), "although it was let in before"
    assert isinstance(await answer_to(asked, "kiosk-3", b"other"), Accepted)
    asked.close()


GOOD_HASH = "$7$101$c2FsdHNhbHQ=$" + "A" * 86 + "=="


@pytest.mark.parametrize(
    "text",
    [
        "kiosk-1",
        "kiosk-1:secret",
        ":" + GOOD_HASH,
        "kiosk-1:" + GOOD_HASH.replace("$7$", "$6$"),
        "kiosk-1:" + GOOD_HASH.replace("101", "many"),
        "kiosk-1:" + GOOD_HASH.replace("101", "0"),
        "kiosk-1:" + GOOD_HASH.replace("101", "99999999999"),
        "kiosk-1:" + GOOD_HASH.replace("c2FsdHNhbHQ=", "?"),
        "kiosk-1:" + GOOD_HASH.replace("c2FsdHNhbHQ=", ""),
        "kiosk-1:$7$101$c2FsdHNhbHQ=$AAAA",
        "kiosk-1:$6$c2FsdHNhbHQ=$AAAA",
        "kiosk-1:$6$$" + "A" * 86 + "==",
        "kiosk-1:" + ARGON2,
        "kiosk-1:" + ARGON2.replace("47104", "99999999") + "A" * 43,
        "kiosk-1:" + ARGON2.replace("t=1", "t=0") + "A" * 43,
        "kiosk-1:" + ARGON2.replace("p=1", "p=0") + "A" * 43,
        "kiosk-1:" + ARGON2.replace("argon2id", "argon2i") + "A" * 43,
    ],
)
def test_a_wrong_line_is_named_and_its_content_is_not(tmp_path: Path, text: str) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"good:{GOOD_HASH}\n{text}\n")
    with pytest.raises(BadPasswordFile) as caught:
        read_password_file(file)
    assert str(caught.value).startswith("line 2: ")
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.kdf.argon2", None)
    file = tmp_path / "passwords"
    file.write_text("kiosk-1:" + ARGON2 + "A" * 43)
    with pytest.raises(BadPasswordFile) as caught:
        read_password_file(file)
    assert str(caught.value).endswith(f"type: {shlex.quote(sys.executable)} -m pip install 'fleetpush[server]'")


def test_a_second_entry_for_a_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"a:{GOOD_HASH}\na:{GOOD_HASH}\n")
    with pytest.raises(BadPasswordFile, match="line 2"):
        read_password_file(file)


@pytest.mark.parametrize("user", ["", "a:b", "a\nb", "#a"])
def test_a_user_name_that_would_break_the_file_is_refused(user: str) -> None:
    with pytest.raises(ValueError):
        hashed_line(user, b"secret")


# -- the authenticator ------------------------------------------------------------------------------------------------


def authenticator() -> PasswordFileAuthenticator:
    hashed = hashed_line("kiosk-1", b"secret").partition(":")[2]
    return PasswordFileAuthenticator({"kiosk-1": parse_hash(hashed)}, AllowAll())


async def answer_to(
    asked: PasswordFileAuthenticator,
    user: str | None,
    password: bytes | None,
    peer: str = "127.0.0.1:1",
    suspect: bool = False,
) -> Accepted | Refused:
    answered: asyncio.Future[Accepted | Refused] = asyncio.get_running_loop().create_future()
    asked.authenticate(Credentials("any-client", user, password, 4, peer, None, suspect), answered.set_result)
    return await answered


async def test_who_knows_the_password_is_accepted_as_the_user() -> None:
    asked = authenticator()
    answer = await answer_to(asked, "kiosk-1", b"secret")
    assert isinstance(answer, Accepted)
    assert answer.principal == "kiosk-1"
    assert answer.persistent
    asked.close()


async def test_an_unknown_user_and_a_wrong_password_hear_the_same() -> None:
    asked = authenticator()
    answers = [await answer_to(asked, "kiosk-1", b"wrong"), await answer_to(asked, "kiosk-2", b"secret")]
    assert answers == [Refused(ReasonCode.BAD_USER_NAME_OR_PASSWORD)] * 2
    asked.close()


@pytest.mark.parametrize(("user", "password"), [(None, None), ("kiosk-1", None), (None, b"secret")])
async def test_without_credentials_nobody_is_accepted(user: str | None, password: bytes | None) -> None:
    asked = authenticator()
    assert await answer_to(asked, user, password) == Refused(ReasonCode.NOT_AUTHORIZED)
    asked.close()


async def test_a_storm_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More CONNECTs than may wait: the newest hears at once that the server is busy, the others their answer."""
    monkeypatch.setattr(password_file, "MAX_WAITING_CONNECTS", 3)
    held = threading.Event()
    monkeypatch.setattr(HashedPassword, "matches", lambda self, password: held.wait(10.0))
    asked = authenticator()
    waiting = [asyncio.create_task(answer_to(asked, "kiosk-1", b"secret")) for _ in range(3)]
    await asyncio.sleep(0)
    assert await answer_to(asked, "kiosk-1", b"secret") == Refused(ReasonCode.SERVER_BUSY)
    held.set()
    assert all(isinstance(answer, Accepted) for answer in await asyncio.gather(*waiting))
    assert isinstance(await answer_to(asked, "kiosk-1", b"other"), Accepted)
    asked.close()


async def test_who_was_let_in_before_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = authenticator()
    assert isinstance(await answer_to(asked, "kiosk-1", b"secret"), Accepted)
    monkeypatch.setattr(password_file, "MAX_WAITING_CONNECTS", 0)
    assert isinstance(await answer_to(asked, "kiosk-1", b"secret", suspect=True), Accepted)
    assert await answer_to(asked, "kiosk-1", b"Secret") == Refused(ReasonCode.SERVER_BUSY)
    assert await answer_to(asked, "kiosk-2", b"secret") == Refused(ReasonCode.SERVER_BUSY)
    asked.close()


async def test_a_suspect_address_is_checked_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password_file, "SUSPECT_SECONDS", 1_000.0)
    asked = authenticator()
    wrong, later = Refused(ReasonCode.BAD_USER_NAME_OR_PASSWORD), Refused(ReasonCode.CONNECTION_RATE_EXCEEDED)
    assert await answer_to(asked, "kiosk-1", b"a", "192.0.2.1:1", suspect=True) == wrong
    assert await answer_to(asked, "kiosk-1", b"b", "192.0.2.1:2", suspect=True) == later
    assert await answer_to(asked, "kiosk-1", b"b", "192.0.2.2:1", suspect=True) == wrong
    assert isinstance(await answer_to(asked, "kiosk-1", b"secret", "192.0.2.3:1"), Accepted)
    assert isinstance(await answer_to(asked, "kiosk-1", b"secret", "192.0.2.1:3", suspect=True), Accepted)
    asked.close()


async def test_addresses_take_turns_at_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that asks much has its own line, which is bounded."""
    monkeypatch.setattr(password_file, "HASHING_THREADS", 1)
    monkeypatch.setattr(password_file, "WAITING_CONNECTS_PER_ADDRESS", 20)
    judged: list[bytes] = []
    held = threading.Event()

    def matches(_: HashedPassword, password: bytes) -> bool:
        held.wait(10.0)
        judged.append(password)
        return False

    monkeypatch.setattr(HashedPassword, "matches", matches)
    asked = authenticator()
    crowd = [asyncio.create_task(answer_to(asked, "kiosk-1", b"crowd", "192.0.2.1:1")) for _ in range(30)]
    other = asyncio.create_task(answer_to(asked, "kiosk-1", b"other", "192.0.2.2:1"))
    await asyncio.sleep(0)
    held.set()
    await other
    answers = await asyncio.gather(*crowd)
    assert judged.index(b"other") == 2
    assert answers.count(Refused(ReasonCode.SERVER_BUSY)) == 9, "one is judged, 20 wait"
    asked.close()
