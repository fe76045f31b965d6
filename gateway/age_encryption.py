"""Encryption of backups in the age format (age-encryption.org/v1), read and written as streams.

A backup is encrypted to a public key (a recipient, `age1…`). What opens it is the identity of that recipient
(`AGE-SECRET-KEY-1…`), which need not be on the server: who takes the server, or its backups, cannot read them. The
format is another's, and so is the code that does it (rage, by way of pyrage): `age` and `rage` open our files, too, on
a machine without Fleetpush.

The library pushes what it reads into what it writes. A thread and a pipe turn that into a file to write to, or to read
from: 64 KiB are in memory, and nothing in the clear is on a disk. What comes out of `decrypting` is authentic piece by
piece; that it is whole is known at its end, so read to the end before you trust it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyrage
from pyrage.x25519 import Identity, Recipient

from gateway.data_directory import write_private

MAGIC = b"age-encryption.org/v1\n"
RECIPIENT_PREFIX = "age1"
IDENTITY_PREFIX = "AGE-SECRET-KEY-1"
KEY_FILE_BYTES = 65_536
"""A file of keys is no larger; reading stops there."""


class KeyProblem(Exception):
    """A key cannot be used, or does not open a file; the message says what to do."""


def load_recipient(text: str) -> Recipient:
    """Read a public key: itself (`age1…`), or the first in a file. Raises KeyProblem."""
    word = text if text.startswith(RECIPIENT_PREFIX) else _first_line(Path(text), RECIPIENT_PREFIX, "public key")
    try:
        return Recipient.from_str(word)
    except pyrage.RecipientError as error:
        raise KeyProblem(f"{word[:80]!r} is no public key of age ({error}): it begins with age1") from None


def load_identity(path: Path) -> Identity:
    """Read the first secret key in a file, as `age-keygen` writes it. Raises KeyProblem."""
    try:
        return Identity.from_str(_first_line(path, IDENTITY_PREFIX, "secret key"))
    except pyrage.IdentityError as error:
        raise KeyProblem(f"{path} holds no usable secret key of age: {error}") from None


def _first_line(path: Path, prefix: str, kind: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(KEY_FILE_BYTES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise KeyProblem(f"{path}: {reason}; it should hold a {kind} of age ({prefix}…)") from None
    found = next((line.strip() for line in lines if line.strip().startswith(prefix)), None)
    if found is None:
        raise KeyProblem(f"{path} holds no {kind} of age: no line begins with {prefix}")
    return found


def write_identity(path: Path) -> str:
    """Make a secret key in a new file, for its owner only; return its public key. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    identity = Identity.generate()
    public = str(identity.to_public())
    write_private(path, f"# public key: {public}\n{identity}\n")
    return public


def is_encrypted(head: bytes) -> bool:
    """Do these first bytes of a file begin one of age?"""
    return head.startswith(MAGIC)


@contextmanager
def encrypting(target: io.BufferedIOBase, recipients: Sequence[Recipient]) -> Iterator[io.BufferedWriter]:
    """Give a file to write to, which arrives in `target` encrypted; complete when the block ends without an error."""
    writer = _Writer(target)
    with _piped() as (source, plain), ThreadPoolExecutor(1) as threads:
        work = threads.submit(_encrypt, source, writer, recipients)
        try:
            yield plain
            plain.close()
        except BaseException as error:
            with suppress(OSError):
                plain.close()
            if isinstance(error, BrokenPipeError) and work.exception() is not None and writer.error is not None:
                raise writer.error from None  # the reason why nobody reads: a full disk, for example
            raise
        if work.exception() is not None and writer.error is not None:
            raise writer.error
        work.result()


@contextmanager
def decrypting(source: io.BufferedIOBase, identities: Sequence[Identity]) -> Iterator[io.BufferedReader]:
    """Give a file to read from, which has what is in `source`. Raises KeyProblem if no key opens it, EOFError if it is
    damaged."""
    with _piped() as (plain, target), ThreadPoolExecutor(1) as threads:
        work = threads.submit(_decrypt, source, target, identities)
        try:
            yield plain
        except Exception:
            plain.close()
            _raise_damage(work)  # it explains what the reader made of half a file
            raise
        finally:
            plain.close()
        _raise_damage(work)


class _Writer(io.BufferedIOBase):
    """Writes to a file, and keeps its error: of that the library says the text only."""

    def __init__(self, target: io.BufferedIOBase) -> None:
        self.error: OSError | None = None
        self._target = target

    def write(self, data: Any) -> int:
        try:
            return self._target.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._target.flush()


@contextmanager
def _piped() -> Iterator[tuple[io.BufferedReader, io.BufferedWriter]]:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as source:
        target = os.fdopen(write_end, "wb")
        try:
            yield source, target
        finally:
            with suppress(OSError):  # nobody reads what is still in its buffer
                target.close()


def _encrypt(source: io.BufferedIOBase, target: io.BufferedIOBase, recipients: Sequence[Recipient]) -> None:
    with source:
        pyrage.encrypt_io(source, target, recipients)


def _decrypt(source: io.BufferedIOBase, target: io.BufferedIOBase, identities: Sequence[Identity]) -> None:
    try:
        pyrage.decrypt_io(source, target, identities)
    finally:
        target.close()


def _raise_damage(work: Future[None]) -> None:
    """Raise what the thread found in the file; that nobody read on is no damage."""
    error = work.exception()
    if error is None or isinstance(error, BrokenPipeError):
        return
    if isinstance(error, pyrage.DecryptError) and "matching keys" in str(error):
        raise KeyProblem("the key does not open it: it was encrypted to another public key") from error
    if isinstance(error, pyrage.DecryptError) or (isinstance(error, OSError) and error.errno is None):
        raise EOFError(f"it is cut off or changed ({error})") from error
    raise error
