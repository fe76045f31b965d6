"""The state of a bridge: kept over a restart, bounded, one bridge's at a time, and dispensable."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.bridge.bridge_state import MAX_OWED_OUTCOMES, BridgeState, OwedOutcome, StateFile
from gateway.cli.terminal import Failure


def test_it_is_kept(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "new" / "bridge.json")
    assert file.read() == BridgeState()
    state = BridgeState("7.0", {"p1": OwedOutcome("kiosk-1", "reboot"), "p2": OwedOutcome("kiosk-1", None)})
    state.announced["kiosk-1"] = {"battery": "sensor"}
    file.write(state)
    file.close()
    again = StateFile(tmp_path / "new" / "bridge.json")
    assert again.read() == state
    again.close()


def test_one_bridge_has_it_at_a_time(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "bridge.json")
    with pytest.raises(Failure, match="another bridge uses"):
        StateFile(tmp_path / "bridge.json")
    file.close()
    StateFile(tmp_path / "bridge.json").close()
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="--state names another"):
        StateFile(tmp_path / "file" / "bridge.json")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cursor": null, "owed": {"p": 1}, "announced": {}}', "\xff"])
def test_what_cannot_be_read_is_begun_anew(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bridge.json").write_bytes(content.encode("latin-1"))
    file = StateFile(tmp_path / "bridge.json")
    assert file.read() == BridgeState()
    assert "begins anew" in capsys.readouterr().err
    file.close()


def test_a_disk_that_refuses_is_told_and_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = StateFile(tmp_path / "bridge.json")
    (tmp_path / "bridge.new").mkdir()
    file.write(BridgeState("1.0"))
    assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "bridge.new").rmdir()
    file.write(BridgeState("1.0"))
    assert file.read().cursor == "1.0"
    file.close()


def test_what_is_owed_is_bounded_and_the_oldest_lose() -> None:
    state = BridgeState()
    for number in range(MAX_OWED_OUTCOMES + 2):
        state.owe(f"p{number}", OwedOutcome("kiosk-1", None))
    assert len(state.owed) == MAX_OWED_OUTCOMES
    assert next(iter(state.owed)) == "p2"
