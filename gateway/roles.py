"""Roles of people: named sets of the scopes that keys have, so that nobody has to think in scopes to let somebody in.

A role is a word for what a person may do in one app. Whoever signs in with a key may do what the key may, and is shown
the role that fits it; an identity provider's claim gives a role, and with it its scopes (`people.role_claims`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, get_args

Role = Literal["viewer", "sender", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""From the least to the most: each role may do what those before it may."""
SCOPES: Final = ("send", "read", "devices", "admin")
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
