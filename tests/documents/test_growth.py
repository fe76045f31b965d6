"""What grows on the disk is named with its limit: every table of both databases, every file of the data directory."""

from __future__ import annotations

import re
from pathlib import Path

from broker.sqlite_tables import SCHEMA
from gateway.settings import Settings
from gateway.store import models

ROOT = Path(__file__).resolve().parents[2]
SIZING = ROOT / "docs" / "operate" / "sizing.md"
INSTALL = ROOT / "docs" / "operate" / "install.md"
DO_NOT_GROW = {"admin.key", "server.json", "lock", "reserve", "tls/", "listen/"}
"""Files of the data directory of a size that stays, or that people make one by one."""


def rows() -> list[str]:
    section = SIZING.read_text().partition("## What grows, and its limit")[2]
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


def test_every_table_is_in_the_list_once() -> None:
    tables = {*models.Push.metadata.tables, *re.findall(r"CREATE TABLE (\w+)", SCHEMA)}
    named = [
        name for row in rows() for group in re.findall(r"\[([^]]*`)\]", row) for name in re.findall(r"`(\w+)`", group)
    ]
    assert sorted(named) == sorted({*named}), "none stands twice"
    assert {*named} == tables


def test_every_file_that_grows_is_in_the_list() -> None:
    section = INSTALL.read_text().partition("## The data directory")[2]
    files = {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }
    assert [name for name in sorted(files - DO_NOT_GROW) if name not in " ".join(rows())] == []


def test_every_limit_that_is_a_setting_is_one() -> None:
    limits = " ".join(row.split("|")[3] for row in rows())
    named = {name for name in re.findall(r"`([a-z_]+)`", limits) if "_" in name} - {"fleetpush_disk_free_bytes"}
    assert [name for name in sorted(named - {"ttl"}) if name not in Settings.model_fields] == []
