"""Sessions of people at the console: what a browser shows instead of a key.

The cookie's value (`ses_..`) is 256 random bits; stored is its SHA-256. Sessions are few, so all of them are in memory,
and a request with a cookie is one look-up there: no read of the ledger, nor a write.

Laws
1. A session that ends has ended at once, in memory, before anybody is answered: at sign-out, when its key is revoked,
   when it has not been used for `idle_ms`, or is `lifetime_ms` old. Its row goes with the commit that revokes the key
   or signs out, else within a minute; a row whose time is over is never loaded.
2. Use renews it. How far is written for all together once in FLUSH_MS, so that a kill forgets a minute of use at most.
   With several nodes the others may know as little of it, and end a session that much later.
3. There is always a new token: what a browser shows when it signs in is ended and never adopted, so that nobody can be
   made to use a session that another person knows (fixation).
4. A holder (a key, a person) has SESSIONS_OF_HOLDER sessions, and the server MAX_SESSIONS. One more ends the one of
   that holder that was not used for longest; if the server is full, that of the app with the most.
5. A holder signs in SIGN_INS_TOGETHER times, and then once in SIGN_IN_MS: each is a commit and an entry of the audit
   log, and a key that may only read must not be able to push out what is in there.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal

from gateway.auth import TOKEN_BYTES, Principal, secret_hash
from gateway.errors import Problem, RateLimited, problem
from gateway.store.audited_writes import about
from gateway.store.database import Database
from gateway.store.people.sessions import (
    SessionRow,
    add_session,
    is_session_stored,
    live_sessions,
    read_session,
    remove_sessions,
    renew_sessions,
)
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

SESSIONS_OF_HOLDER = 20
"""Sessions of a key or a person: browsers at home, at work and on the phone, and colleagues who share a key."""
MAX_SESSIONS = 1_000
"""Sessions of all: half a megabyte."""
SIGN_INS_TOGETHER = 40
"""Sign-ins of a holder in a row: colleagues who share a key, and all begin at nine."""
SIGN_IN_MS = 10_000
"""Time in which a holder may sign in once more: 3 MiB of the audit log in a day at most."""
FLUSH_MS = 60_000
"""Time between two writes of how far sessions were used, and of those that have ended."""
PEERS_MS = 2 * FLUSH_MS
"""How old may be what a node knows of a session's use at another one: that one's flush, and as much for its way."""

SignIn = Literal["key", "oidc"]


@dataclass(slots=True)
class ConsoleSession:
    """A session in memory. Times are server time in milliseconds."""

    principal: Principal
    token_hash: bytes
    created_at: int
    used_at: int
    ends_at: int
    """When it ends however much it is used."""

    @property
    def id(self) -> str:
        assert self.principal.session_id is not None, "made with one"
        return self.principal.session_id

    @property
    def sign_in(self) -> SignIn:
        return "oidc" if self.principal.kind == "person" else "key"


class ConsoleSessions:
    """Sessions of people, in memory and in the ledger. Runs on the *loop*."""

    def __init__(
        self, *, database: Database, clock_ms: Callable[[], int], idle_ms: int, lifetime_ms: int, has_nodes: bool
    ) -> None:
        """`clock_ms` gives server time in milliseconds. A session ends `idle_ms` after its last use, and `lifetime_ms`
        after it began; with other nodes, at which it may be in use, PEERS_MS later."""
        self._database = database
        self._clock_ms = clock_ms
        self._idle_ms = idle_ms + (PEERS_MS if has_nodes else 0)
        self._lifetime_ms = lifetime_ms
        self._by_hash: dict[bytes, ConsoleSession] = {}
        self._used: set[str] = set()
        """Sessions that were used since that was last written."""
        self._ended: dict[str, int] = {}
        """Sessions whose rows have to go, and their apps."""
        self._sign_ins: dict[str, tuple[float, int]] = {}
        """Holder -> (sign-ins left, when that was so), of the MAX_SESSIONS who did so last."""
        self._flush_at = 0
        self._endings = 0
        """Sessions and keys that were ended, so that a sign-in that overlaps one is checked again."""
        self.refused = 0
        """Requests with the cookie of no session, for metrics: it has ended, or was guessed."""

    def __len__(self) -> int:
        return len(self._by_hash)

    async def load(self) -> None:
        """Load the sessions that have not ended, before the first connection."""
        now_ms = self._clock_ms()
        idle_since = now_ms - self._idle_ms
        rows = await self._database.read(lambda transaction: live_sessions(transaction, now_ms, idle_since))
        for row in rows:
            self._add(_of_row(row))

    async def reload(self, session_id: str) -> None:
        """Know of a session what is stored: another node has begun, used or ended it."""
        row = await self._database.read_soon(partial(read_session, session_id=session_id))
        known = next((found for found in self._by_hash.values() if found.id == session_id), None)
        if row is None:
            if known is not None:
                self._endings += 1
                del self._by_hash[known.token_hash]
        elif known is None:
            self._add(_of_row(row))
        else:
            known.used_at = max(known.used_at, row.used_at)

    def find(self, token: str) -> ConsoleSession | None:
        """Return the session of a cookie's value, and count this as its use; None if it has ended, or never was."""
        session = self._by_hash.get(secret_hash(token))
        if session is not None and self.expires_at(session) <= (now_ms := self._clock_ms()):
            self._forget(session)
            session = None
        if session is None:
            self.refused += 1
            return None
        session.used_at = now_ms
        self._used.add(session.id)
        return session

    def known(self, token: str) -> Principal | None:
        """Return the principal of a cookie's value, without using its session; None if that has ended."""
        session = self._by_hash.get(secret_hash(token))
        if session is None or self.expires_at(session) <= self._clock_ms():
            return None
        return session.principal

    async def begin(self, principal: Principal, before: str | None) -> tuple[str, ConsoleSession]:
        """Begin a session for the holder of a key, or a person; its cookie's value, and it. The session of `before`, a
        cookie's value that the browser shows, ends. Raises Problem 401 if the key was revoked meanwhile, 429."""
        self._count_sign_in(principal.key_id)
        token = f"ses_{secrets.token_urlsafe(TOKEN_BYTES)}"
        now_ms = self._clock_ms()
        of_session = replace(principal, session_id=f"s_{secrets.token_hex(6)}")
        session = ConsoleSession(of_session, secret_hash(token), now_ms, now_ms, now_ms + self._lifetime_ms)
        about("session", session.id)
        previous = self._by_hash.get(secret_hash(before)) if before is not None else None
        if previous is not None:
            self._forget(previous)
        endings = self._endings
        ended = dict(self._ended)

        def write(transaction: Transaction) -> bool:
            remove_sessions(transaction, list(ended))
            return add_session(transaction, _as_row(session), principal.kind == "person")

        apps = frozenset((principal.app_no, *ended.values()))
        if not await self._database.write(write, principal.app_no, apps=apps):
            raise _ended()
        if endings != self._endings and not await self._database.read_soon(lambda t: is_session_stored(t, session.id)):
            raise _ended()
        self._add(session)
        log.info("%s begins the session %s of the console", principal.key_id, session.id)
        return token, session

    async def end(self, session: ConsoleSession) -> None:
        """End a session, whose row is gone when this returns."""
        about("session", session.id)
        self._forget(session)
        await self._database.write(
            lambda transaction: remove_sessions(transaction, [session.id]), session.principal.app_no
        )

    def end_of_key(self, key_id: str) -> None:
        """End the sessions of a key that was revoked.

        Call this when that has committed, which removes their rows, and before it is answered."""
        self._endings += 1
        for session in [session for session in self._by_hash.values() if session.principal.key_id == key_id]:
            del self._by_hash[session.token_hash]

    def tick(self) -> None:
        """Write down what is due: called again and again, and at the end by `flush`."""
        if self._clock_ms() >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        """Write down how far sessions were used, and remove the rows of those that have ended."""
        now_ms = self._clock_ms()
        self._flush_at = now_ms + FLUSH_MS
        for session in [found for found in self._by_hash.values() if self.expires_at(found) <= now_ms]:
            self._forget(session)
        in_use = [found for found in self._by_hash.values() if found.id in self._used]
        used = {found.id: found.used_at for found in in_use}
        ended, self._ended = self._ended, {}
        self._used.clear()
        if not used and not ended:
            return

        def write(transaction: Transaction) -> None:
            renew_sessions(transaction, used)
            remove_sessions(transaction, list(ended))

        def failed(error: BaseException) -> None:
            log.warning("the use of %d sessions of the console could not be stored: %s", len(used), error)
            self._used.update(used)
            self._ended.update(islice(ended.items(), MAX_SESSIONS - len(self._ended)))

        apps = frozenset([*(found.principal.app_no for found in in_use), *ended.values()])
        self._database.submit(write, lambda _: None, failed, apps=apps, uses_reserve=False)

    def expires_at(self, session: ConsoleSession) -> int:
        """Return when a session ends if it is not used any more, in milliseconds of server time."""
        return min(session.used_at + self._idle_ms, session.ends_at)

    def _count_sign_in(self, holder: str) -> None:
        """Count a sign-in of a holder (law 5). Raises Problem 429."""
        now_ms = self._clock_ms()
        left, since = self._sign_ins.pop(holder, (float(SIGN_INS_TOGETHER), now_ms))
        left = min(SIGN_INS_TOGETHER, left + (now_ms - since) / SIGN_IN_MS)
        self._sign_ins[holder] = left - 1 if left >= 1 else left, now_ms
        if len(self._sign_ins) > MAX_SESSIONS:
            del self._sign_ins[next(iter(self._sign_ins))]
        if left < 1:
            raise RateLimited((1 - left) * SIGN_IN_MS / 1_000)

    def _forget(self, session: ConsoleSession) -> None:
        self._endings += 1
        if self._by_hash.pop(session.token_hash, None) is not None:
            self._ended[session.id] = session.principal.app_no

    def _add(self, session: ConsoleSession) -> None:
        """Add a session, and end another one if its holder or the server has too many."""
        self._by_hash[session.token_hash] = session
        sessions = self._by_hash.values()
        of_holder = [found for found in sessions if found.principal.key_id == session.principal.key_id]
        if len(of_holder) > SESSIONS_OF_HOLDER:
            self._evict(of_holder, "its holder has too many")
        elif len(sessions) > MAX_SESSIONS:
            ((app_no, _),) = Counter(found.principal.app_no for found in sessions).most_common(1)
            self._evict([found for found in sessions if found.principal.app_no == app_no], "the server has too many")

    def _evict(self, among: Iterable[ConsoleSession], why: str) -> None:
        loser = min(among, key=lambda session: session.used_at)
        log.info("the session %s of %s ends: %s", loser.id, loser.principal.key_id, why)
        self._forget(loser)
        self._flush_at = 0


def _ended() -> Problem:
    return problem("unauthorized", "the key was revoked meanwhile: sign in with another one")


def _as_row(session: ConsoleSession) -> SessionRow:
    principal = session.principal
    return SessionRow(
        session.id,
        session.token_hash,
        principal.app_no,
        principal.app_id,
        principal.key_id,
        principal.name,
        " ".join(sorted(principal.scopes)),
        session.created_at,
        session.used_at,
        session.ends_at,
    )


def _of_row(row: SessionRow) -> ConsoleSession:
    scopes = frozenset(row.scopes.split())
    principal = Principal(row.app_no, row.app_id, row.holder, scopes, name=row.name, session_id=row.session_id)
    return ConsoleSession(principal, row.token_hash, row.created_at, row.used_at, row.ends_at)
