"""The ids of pushes."""

from __future__ import annotations

import re

from gateway.delivery.push import PUSH_ID_CHARACTERS
from gateway.delivery.submission import new_push_ids


def test_no_id_is_taken_for_an_option_of_a_command() -> None:
    """One in 64 began with a hyphen: `watch -voIW..` was wrong use."""
    found = new_push_ids(5_000)
    assert len(set(found)) == 5_000
    assert all(re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_-]{{{PUSH_ID_CHARACTERS - 1}}}", push_id) for push_id in found)
