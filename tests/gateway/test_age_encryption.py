"""What is encrypted comes back whole or not at all, and only with its key."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest
from pyrage.x25519 import Identity

from gateway.age_encryption import (
    KeyProblem,
    decrypting,
    encrypting,
    is_encrypted,
    load_identity,
    load_recipient,
    write_identity,
)
from tests.third_party import require

CONTENT = os.urandom(300_000)


def encrypted(content: bytes, *identities: Identity) -> bytes:
    target = io.BytesIO()
    with encrypting(target, [identity.to_public() for identity in identities]) as plain:
        plain.write(content)
    return target.getvalue()


def decrypted(data: bytes, identity: Identity) -> bytes:
    with decrypting(io.BytesIO(data), [identity]) as plain:
        return plain.read()


def test_each_of_two_keys_opens_it() -> None:
    keys = Identity.generate(), Identity.generate()
    data = encrypted(CONTENT, *keys)
    assert is_encrypted(data)
    assert CONTENT[:100] not in data
    assert [decrypted(data, key) for key in keys] == [CONTENT, CONTENT]


def test_what_is_cut_off_or_changed_is_noticed() -> None:
    key = Identity.generate()
    data = encrypted(CONTENT, key)
    for size in (10, 100, 200, 70_000, len(data) - 1):
        with pytest.raises(EOFError):
            decrypted(data[:size], key)
    for at in (30, 150, 1_000, len(data) - 1):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises((EOFError, KeyProblem)):
            decrypted(bytes(changed), key)


def test_another_key_is_said_to_be_another() -> None:
    with pytest.raises(KeyProblem, match="another public key"):
        decrypted(encrypted(b"x", Identity.generate()), Identity.generate())


def test_a_reader_may_stop_early() -> None:
    key = Identity.generate()
    with decrypting(io.BytesIO(encrypted(CONTENT, key)), [key]) as plain:
        assert plain.read(3) == CONTENT[:3]


def test_a_readers_own_complaint_is_not_taken_for_damage() -> None:
    key = Identity.generate()
    with pytest.raises(ZeroDivisionError), decrypting(io.BytesIO(encrypted(CONTENT, key)), [key]):
        raise ZeroDivisionError


def test_a_full_disk_is_told_as_one() -> None:
    class FullDisk(io.BufferedIOBase):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device", "fleet.age")

    def fill() -> None:
        with encrypting(FullDisk(), [Identity.generate().to_public()]) as plain:
            for _ in range(100):
                plain.write(CONTENT)

    with pytest.raises(OSError, match="No space left") as refusal:
        fill()
    assert refusal.value.filename == "fleet.age"


def test_a_key_is_made_for_its_owner_only_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "fleet.key"
    public = write_identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(load_identity(path).to_public()) == public == str(load_recipient(public))
    (tmp_path / "fleet.pub").write_text(f"# the fleet's\n{public}\n")
    assert str(load_recipient(str(tmp_path / "fleet.pub"))) == public
    with pytest.raises(FileExistsError):
        write_identity(path)


@pytest.mark.parametrize("text", ["age1nonsense", "/nowhere/key.pub"])
def test_what_is_no_public_key_is_named(text: str) -> None:
    with pytest.raises(KeyProblem, match=text):
        load_recipient(text)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"AGE-SECRET-KEY-1NONSENSE", b"age1abc"])
def test_what_is_no_secret_key_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.key"
    path.write_bytes(content)
    with pytest.raises(KeyProblem, match=r"some\.key") as refusal:
        load_identity(path)
    assert "\n" not in str(refusal.value)


def test_the_program_age_opens_it(tmp_path: Path) -> None:
    age = require("age")
    path = tmp_path / "fleet.key"
    write_identity(path)
    (tmp_path / "fleet.age").write_bytes(encrypted(CONTENT, load_identity(path)))
    opened = subprocess.run([age, "-d", "-i", path, tmp_path / "fleet.age"], capture_output=True, check=True)
    assert opened.stdout == CONTENT
