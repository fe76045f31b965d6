"""Several server processes over one PostgreSQL: leases that are kept, lost and taken."""

from __future__ import annotations

from pathlib import Path

from tests.nodes import start_nodes


def test_nodes_share_what_is_stored(tmp_path: Path) -> None:
    with start_nodes(tmp_path, 2) as (first, second):
        first.api.enrol("kiosk-1")
        push_id = second.api.push("kiosk-1")
        assert first.api.mailbox("kiosk-1") == [push_id]
        assert {first.no, second.no} == {1, 2}
        assert second.stop() == 0
        assert first.stop() == 0
