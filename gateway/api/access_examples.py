"""Examples of requests and answers about apps, keys and sessions: a part of `examples`, with its promises."""

from __future__ import annotations

from typing import Any, Final

_SECRET: Final = "fp_dGhpcyBpcyBub3QgYSByZWFsIGtleSwgc29ycnkh"
BODIES: Final[dict[tuple[str, str], Any]] = {
    ("post", "/v1/apps"): {"id": "canteen"},
    ("post", "/v1/keys"): {"name": "A sender", "scopes": ["send"]},
    ("post", "/v1/session"): {"key": _SECRET},
}

_AT: Final = "2026-12-01T11:00:00.000Z"
_KEY: Final = {"id": "k_9f86d081884c", "app": "default", "name": "A sender", "scopes": ["send"], "created_at": _AT}
ANSWERS: Final[dict[str, Any]] = {
    "Application": {"id": "canteen", "created_at": _AT},
    "Applications": {"items": [{"id": "default", "created_at": _AT}], "next_cursor": None},
    "Keys": {"items": [{**_KEY, "revoked_at": None}], "next_cursor": None},
    "NewKey": {**_KEY, "key": _SECRET},
    "Session": {
        "id": "s_2c26b46b68ff",
        "app": "default",
        "role": "sender",
        "scopes": ["read", "send"],
        "name": "Front desk",
        "sign_in": "key",
        "signed_in_at": _AT,
        "expires_at": "2026-12-01T11:15:00.000Z",
        "ends_at": "2026-12-01T23:00:00.000Z",
    },
    "SignedOut": {"provider_sign_out": "https://id.example/logout?client_id=fleetpush"},
    "SignInOptions": {"oidc": {"name": "Example Ltd"}},
}
