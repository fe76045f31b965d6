"""Everything that signing people in consists of, wired with each other: a part of the composition root."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.auth import KeyCache, Principal
from gateway.enrolment.guesses import GuessLimiter
from gateway.errors import Problem
from gateway.events.dns import DnsResolver
from gateway.events.guarded_client import GuardedClient
from gateway.people.sessions import ConsoleSessions
from gateway.roles import RoleClaim
from gateway.settings import Settings
from gateway.store.database import Database
from gateway.timestamps import wall_time

if TYPE_CHECKING:
    from gateway.people.oidc_sign_in import OidcSignIn

log = logging.getLogger(__name__)

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
SECRET_BYTES: Final = 4_096
"""Bytes of the file of the client's secret, far more than a secret has."""
LOOKUPS_OF_PEOPLE: Final = 0
"""The share of lookups of names that the provider's count for: no app has this number."""


class BadClientSecret(Exception):
    """One line: what is wrong with the file of the client's secret, and the remedy."""


class PeopleComponents:
    """Sessions of people, sign-ins by an identity provider, and what limits guesses. Runs on the *loop*."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        keys: KeyCache,
        clock_ms: Callable[[], int],
        clock: Callable[[], float],
        share_of: Callable[[str], str],
        has_nodes: bool,
    ) -> None:
        """`clock_ms` gives server time in milliseconds, `clock` gives seconds that only grow; `share_of` gives the
        address that a host counts for; `has_nodes`: other nodes serve the same people. Raises BadClientSecret."""
        self._keys = keys
        self._clock_ms = clock_ms
        self._resolver = DnsResolver()
        self.sessions = ConsoleSessions(
            database=database,
            clock_ms=clock_ms,
            idle_ms=int(settings.session_idle_minutes * MINUTE_MS),
            lifetime_ms=int(settings.session_hours * HOUR_MS),
            has_nodes=has_nodes,
        )
        self.guesses = GuessLimiter(clock, share_of)
        self.public_url = settings.public_url
        """Where the server is reached; None: where a request says."""
        self.oidc = self._make_oidc(settings, database, clock)
        """Sign-ins by the identity provider; None: there is none."""

    async def holder_of_key(self, key: str, host: str) -> Principal:
        """Return the holder of a key with which a person of this host wants to sign in. A wrong one is answered late.
        Raises Problem 401, 429."""
        try:
            return await self._keys.authenticate(f"Bearer {key}")
        except Problem as refusal:
            if refusal.code == "unauthorized":
                log.info("%s: a wrong key at the console's sign-in", host, extra={"peer": host})
                await self.guesses.delay(host)
            raise

    async def end(self) -> None:
        """Cancel what is asked of the identity provider, when the server ends."""
        await self._resolver.close()

    def _make_oidc(self, settings: Settings, database: Database, clock: Callable[[], float]) -> OidcSignIn | None:
        if settings.oidc_issuer is None:
            return None
        # Loaded where there is a provider: cryptography is a tenth of a start.
        from gateway.people.identity_provider import ANSWER_BYTES, IdentityProvider
        from gateway.people.oidc_sign_in import OidcSignIn

        assert settings.oidc_client_id is not None, "the settings ask for both"
        networks = [ipaddress.ip_network(text) for text in settings.oidc_networks]

        def make_client() -> GuardedClient:
            return GuardedClient(
                networks,
                self._resolver.of_share(LOOKUPS_OF_PEOPLE),
                answer_bytes=ANSWER_BYTES,
                text_bytes=ANSWER_BYTES,
                setting="oidc_networks",
            )

        provider = IdentityProvider(
            issuer=settings.oidc_issuer,
            client_id=settings.oidc_client_id,
            secret=_read_secret(settings.oidc_client_secret),
            make_client=make_client,
            clock=clock,
            unix_time=self._unix_time,
        )
        return OidcSignIn(
            provider=provider,
            database=database,
            name=settings.oidc_name,
            scopes=settings.oidc_scopes,
            claim=settings.oidc_claim,
            role_claims=[RoleClaim.parse(text) for text in settings.oidc_roles],
            unix_time=self._unix_time,
        )

    def _unix_time(self) -> float:
        """Seconds of the wall clock."""
        return wall_time.of(self._clock_ms()) / 1000


def _read_secret(path: Path | None) -> str | None:
    """Read the client's secret; blanks and line breaks around it do not count. Raises BadClientSecret."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_BYTES + 1)
    except OSError as error:
        raise BadClientSecret(
            f"oidc_client_secret: {path}: {error.strerror}; write the secret into it, readable by the server alone"
        ) from None
    secret = content.decode("ascii", "replace").strip()
    if not secret or len(content) > SECRET_BYTES or not secret.isascii() or not secret.isprintable():
        raise BadClientSecret(f"oidc_client_secret: {path} holds something else than one secret")
    return secret
