"""Roles of people: named sets of the scopes that keys have, so that nobody has to think in scopes to let somebody in.

A role is a word for what a person may do in one app. Whoever signs in with a key may do what the key may, and is shown
the role that fits it; values of an identity provider's claim give roles (`RoleClaim`), and with them their scopes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, Self, cast, get_args

from gateway.device_topics import DEFAULT_APP

Role = Literal["viewer", "sender", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""From the least to the most: each role may do what those before it may."""
Scope = Literal["send", "read", "devices", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
"""What a key may do; `admin` includes the others."""
SCOPES_OF_ROLE: Final[dict[Role, tuple[str, ...]]] = {
    "viewer": ("read",),
    "sender": ("read", "send"),
    "operator": ("devices", "read", "send"),
    "admin": ("admin",),
}


def role_of(scopes: Collection[str]) -> Role | None:
    """Return the greatest role all of whose scopes these include; None if they include no role, as `send` alone."""
    granted = set(granted_scopes(scopes))
    return next((role for role in reversed(ROLES) if granted.issuperset(SCOPES_OF_ROLE[role])), None)


def granted_scopes(scopes: Collection[str]) -> list[str]:
    """Return what the holder of these scopes may do, with all that `admin` includes, in alphabetical order."""
    return sorted(SCOPES if "admin" in scopes else scopes)


CLAIM_VALUES: Final = 1_000
"""Values of a claim that are looked at: the groups of one person."""
_TARGET: Final = re.compile(rf"({'|'.join(ROLES)})(?:@([a-z0-9-]{{1,32}}))?")


class RoleClaim(NamedTuple):
    """A value of an identity provider's claim, with the role that it gives in an app."""

    value: str
    role: Role
    app_id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `VALUE=ROLE@APP`; a value may have `=` in it, as distinguished names do. Raises ValueError."""
        value, _, target = text.rpartition("=")
        found = _TARGET.fullmatch(target)
        if not value or found is None:
            raise ValueError(f"no role: {text!r} is not VALUE=ROLE@APP with one of the roles {', '.join(ROLES)}")
        return cls(value, cast(Role, found[1]), found[2] or DEFAULT_APP)


def roles_by_app(role_claims: Iterable[RoleClaim], values: Collection[str]) -> dict[str, Role]:
    """Return the apps that values of the claim let somebody into.

    They are in the order of the settings, each with the greatest role that the values give there."""
    found: dict[str, Role] = {}
    for claim in role_claims:
        if claim.value in values:
            before = found.get(claim.app_id)
            if before is None or ROLES.index(claim.role) > ROLES.index(before):
                found[claim.app_id] = claim.role
    return found


def claim_values(claims: Mapping[str, Any], path: str) -> frozenset[str]:
    """Return the texts of a claim, or of one inside others (`realm_access.roles`); none if it is not there."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
    values = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return frozenset(value for value in values[:CLAIM_VALUES] if isinstance(value, str))
