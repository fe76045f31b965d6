from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.roles import ROLES, SCOPES_OF_ROLE, Role, granted_scopes, role_of


@pytest.mark.parametrize(
    ("scopes", "role"),
    [
        ((), None),
        (("send",), None),
        (("devices",), None),
        (("read",), "viewer"),
        (("read", "devices"), "viewer"),
        (("read", "send"), "sender"),
        (("read", "send", "devices"), "operator"),
        (("admin",), "admin"),
        (("admin", "read"), "admin"),
    ],
)
def test_scopes_are_shown_as_the_greatest_role_that_they_include(scopes: tuple[str, ...], role: Role | None) -> None:
    assert role_of(scopes) == role


def test_each_role_may_do_what_those_before_it_may() -> None:
    granted = [set(granted_scopes(SCOPES_OF_ROLE[role])) for role in ROLES]
    assert all(less < more for less, more in pairwise(granted))
