from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from gateway.roles import (
    ROLES,
    SCOPES_OF_ROLE,
    Role,
    RoleClaim,
    claim_values,
    granted_scopes,
    role_of,
    roles_by_app,
)


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


def test_values_of_a_claim_give_the_greatest_role_in_each_app_in_the_order_of_the_settings() -> None:
    texts = ("desk=sender@hotel", "staff=viewer", "night=admin@hotel", "CN=a,OU=b=operator@shop", "staff=viewer@hotel")
    claims = [RoleClaim.parse(text) for text in texts]
    assert list(roles_by_app(claims, {"staff"}).items()) == [("default", "viewer"), ("hotel", "viewer")]
    assert roles_by_app(claims, {"desk", "staff", "night"}) == {"hotel": "admin", "default": "viewer"}
    assert roles_by_app(claims, {"CN=a,OU=b"}) == {"shop": "operator"}
    assert roles_by_app(claims, {"STAFF", "CN=a"}) == {}


@pytest.mark.parametrize(
    ("claims", "path", "values"),
    [
        ({"groups": ["a", "b"]}, "groups", {"a", "b"}),
        ({"groups": "a"}, "groups", {"a"}),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", {"a"}),
        ({"https://example/roles": ["a"]}, "https://example/roles", {"a"}),
        ({"groups": ["a", 7, None, {"b": 1}]}, "groups", {"a"}),
        ({"groups": {"a": True}}, "groups", set()),
        ({"groups": 7}, "groups.x", set()),
        ({}, "groups", set()),
        ({"groups": [str(n) for n in range(2_000)]}, "groups", {str(n) for n in range(1_000)}),
    ],
)
def test_a_claim_is_a_text_a_list_or_inside_another(claims: dict[str, Any], path: str, values: set[str]) -> None:
    assert claim_values(claims, path) == values
