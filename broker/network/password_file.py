"""Credentials of the stand-alone broker: a file of hashed passwords, one user per line.

    kiosk-1:$7$10000$c2FsdHNhbHRzYWx0$5v1Q…==

That is user name and hash, in the formats of mosquitto_passwd (`password_hashes`), so that its files work as they are.
Empty lines and lines that begin with `#` are skipped. A line is
made by `python -m broker --hash-password USER`, which asks for the password.

Laws
1. A wrong file is refused at start, with its line number; nothing is guessed.
2. An unknown user costs the same time as a wrong password, and gets the same answer.
3. Hashing runs on threads of its own, without the interpreter lock: the broker goes on meanwhile. Addresses take turns
   at them. At most `MAX_WAITING_CONNECTS` wait, `WAITING_CONNECTS_PER_ADDRESS` of them from one address; one more is
   refused with "server busy".
4. A user that was let in before is let in at once, without hashing: the right password of each user is remembered as a
   digest under a key that only this process knows. So nobody's guesses shut out a device that was here before.
5. From an address that has guessed much (`Credentials.suspect`), one unknown password is hashed per `SUSPECT_SECONDS`;
   the others are told to come back.
6. A file that is read again counts as a whole and at once, or not at all: the digests are forgotten, and a password
   that is being hashed is hashed again if its line has changed.

Any user may use any topic and any client identifier: rules for topics are the embedder's (`authorization`).
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from broker.addresses import address_of
from broker.authorization import Accepted, Credentials, Permissions, Refused
from broker.network.password_hashes import BadHash, PasswordHash, decoy_hash, new_hash, parse_hash
from broker.protocol.packets import ReasonCode

HASHING_THREADS = 2
MAX_WAITING_CONNECTS = 10_000
WAITING_CONNECTS_PER_ADDRESS = 500
"""Two seconds of both threads with our own lines."""
SUSPECT_SECONDS = 1.0
"""Interval of one guess: sixty a minute, as against the hundred before an address is a suspect."""
MAX_SUSPECT_ADDRESSES = 1_000
"""Beyond it all addresses start again at none."""


class BadPasswordFile(Exception):
    """A password file cannot be used; the message names the line and its error."""


def hashed_line(user: str, password: bytes) -> str:
    """Return a line for the file. Raises ValueError for a bad user name."""
    if not user or ":" in user or "\n" in user or user.startswith("#"):
        raise ValueError("a user name is not empty, has no colon and no line break, and does not begin with #")
    return f"{user}:{new_hash(password)}"


def read_password_file(path: Path) -> dict[str, PasswordHash]:
    """Return the hash of each user. Raises BadPasswordFile, OSError, UnicodeDecodeError."""
    users: dict[str, PasswordHash] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, hashed = line.rstrip().partition(":")
        if not user or not colon:
            raise BadPasswordFile(f"line {number}: not USER:HASH")
        if user in users:
            raise BadPasswordFile(f"line {number}: a second entry for {user}")
        try:
            users[user] = parse_hash(hashed)
        except BadHash as error:
            raise BadPasswordFile(f"line {number}: {error}") from None
    return users


class _WaitingConnect(NamedTuple):
    """A CONNECT that waits for its password to be hashed."""

    user: str
    password: bytes
    digest: bytes
    answer: Callable[[Accepted | Refused], None]


_NONE_WAITING: deque[_WaitingConnect] = deque()


class PasswordFileAuthenticator:
    """Authenticator by password file. Runs on the *loop*, where it has to be made; `close` it after the broker."""

    def __init__(self, users: dict[str, PasswordHash], permissions: Permissions) -> None:
        self._users = users
        self._permissions = permissions
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="broker-passwords")
        self._at_work = 0
        self._waiting = 0
        self._queues: dict[str, deque[_WaitingConnect]] = {}
        """Waiting CONNECTs of each address, in the order of the addresses' turns."""
        self._hashed_at: dict[str, float] = {}
        """Loop time at which a password of each suspect address was hashed last."""
        self._secret = os.urandom(32)
        self._known: dict[str, bytes] = {}
        """Digest of the password that was right, by user."""
        self._decoy = decoy_hash(list(users.values()))
        """The hash with which an unknown user's password is compared."""

    def replace(self, users: dict[str, PasswordHash]) -> list[str]:
        """Use a file that was read again; return the users whose password has changed or is gone."""
        changed = [user for user, known in self._users.items() if users.get(user) != known]
        self._users = users
        self._known.clear()
        self._decoy = decoy_hash(list(users.values()))
        return changed

    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        user = credentials.username
        password = credentials.password
        if user is None or password is None:
            answer(Refused(ReasonCode.NOT_AUTHORIZED))
            return
        digest = self._digest(user, password)
        if hmac.compare_digest(self._known.get(user, b""), digest):
            answer(Accepted(principal=user, permissions=self._permissions))
            return
        address = address_of(credentials.peer)
        if credentials.suspect and not self._may_hash(address):
            answer(Refused(ReasonCode.CONNECTION_RATE_EXCEEDED, "its address has tried too many wrong passwords"))
            return
        queue = self._queues.get(address, _NONE_WAITING)
        if self._waiting >= MAX_WAITING_CONNECTS or len(queue) >= WAITING_CONNECTS_PER_ADDRESS:
            answer(Refused(ReasonCode.SERVER_BUSY))
            return
        self._waiting += 1
        self._queues.setdefault(address, deque()).append(_WaitingConnect(user, password, digest, answer))
        self._hash_next()

    def _digest(self, user: str, password: bytes) -> bytes:
        return hmac.digest(self._secret, f"{user}\0".encode() + password, "sha256")

    def _may_hash(self, address: str) -> bool:
        now = self._loop.time()
        if now - self._hashed_at.get(address, -SUSPECT_SECONDS) < SUSPECT_SECONDS:
            return False
        if len(self._hashed_at) >= MAX_SUSPECT_ADDRESSES:
            self._hashed_at.clear()
        self._hashed_at[address] = now
        return True

    def _hash_next(self) -> None:
        """Give the threads work; each address has its turn."""
        while self._at_work < HASHING_THREADS and self._queues:
            address = next(iter(self._queues))
            queue = self._queues.pop(address)
            waiting = queue.popleft()
            if queue:
                self._queues[address] = queue
            self._at_work += 1
            expected = self._users.get(waiting.user, self._decoy)
            hashed = self._loop.run_in_executor(self._threads, expected.matches, waiting.password)
            hashed.add_done_callback(partial(self._hash_done, waiting, address, expected))

    def _hash_done(
        self, waiting: _WaitingConnect, address: str, expected: PasswordHash, matched: asyncio.Future[bool]
    ) -> None:
        self._at_work -= 1
        self._waiting -= 1
        if matched.cancelled():
            return  # the broker is ending
        if self._users.get(waiting.user, expected) != expected:  # the file was read again meanwhile
            self._waiting += 1
            self._queues.setdefault(address, deque()).append(waiting)
        elif waiting.user in self._users and matched.result():
            self._known[waiting.user] = waiting.digest
            waiting.answer(Accepted(principal=waiting.user, permissions=self._permissions))
        else:
            waiting.answer(Refused(ReasonCode.BAD_USER_NAME_OR_PASSWORD))
        self._hash_next()

    def exchange(self, method: str, credentials: Credentials) -> None:
        """Refuse any method: a file of passwords knows none of enhanced authentication."""
        return

    def close(self) -> None:
        self._queues.clear()
        self._threads.shutdown(cancel_futures=True)
