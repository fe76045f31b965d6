"""Rules of apps, as rows: policies, channels, the steps of caps that adapt, and that rules have changed.

Rules are JSON that `audience/policy` reads. Times are server time in milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.store.transaction import Rows, Transaction


class StoredChannel(NamedTuple):
    """A channel of an app."""

    app_no: int
    channel_id: str
    content: str
    """Its fields as JSON."""
    created_at: int
    updated_at: int


class StoredAdaptation(NamedTuple):
    """The present step of the cap of a channel that adapts."""

    app_no: int
    channel_id: str
    per_day: int
    """Alerts a day."""
    content: str
    """The last decision as JSON."""
    reviewed_day: int
    """The last day (since the epoch) of which figures have been looked at."""
    changed_at: int


_OF_APP = " WHERE app_no = ?"


def _select(transaction: Transaction, statement: str, app_no: int | None, condition: str = _OF_APP) -> Rows:
    """The rows of one app, or of all."""
    return transaction.execute(statement) if app_no is None else transaction.execute(statement + condition, (app_no,))


def stored_policies(transaction: Transaction, app_no: int | None = None) -> list[tuple[int, str]]:
    """List the policies of all apps that have set one, or of one app: app and content each."""
    return _select(transaction, "SELECT app_no, content FROM app_policy", app_no).fetchall()


def stored_channels(transaction: Transaction, app_no: int | None = None) -> list[StoredChannel]:
    """List the channels of all apps, or of one."""
    rows = _select(transaction, "SELECT app_no, id, content, created_at, updated_at FROM channel", app_no)
    return [StoredChannel(*row) for row in rows]


def stored_adapted_caps(transaction: Transaction, app_no: int | None = None) -> list[StoredAdaptation]:
    """List the steps of all caps that adapt, or of one app's; some may be of channels that have gone."""
    columns = "app_no, channel, per_day, content, reviewed_day, changed_at"
    rows = _select(transaction, f"SELECT {columns} FROM adapted_cap", app_no)
    return [StoredAdaptation(*row) for row in rows]


def apps_with_restrictions(transaction: Transaction, app_no: int | None = None) -> list[int]:
    """List the apps of which some device has denied consent or made a choice among channels; or look at one."""
    rows = _select(
        transaction,
        "SELECT no FROM application WHERE EXISTS (SELECT 1 FROM device INDEXED BY device_restricted"
        " WHERE app_no = application.no AND (consent = 'denied' OR channels <> '{}'))",
        app_no,
        " AND no = ?",
    )
    return [found for (found,) in rows]


def apps_with_quiet_hours(transaction: Transaction, app_no: int | None = None) -> list[int]:
    """List the apps of which some device has quiet hours of its own; or look at one."""
    rows = _select(
        transaction,
        "SELECT no FROM application WHERE EXISTS (SELECT 1 FROM device INDEXED BY device_with_quiet_hours"
        " WHERE app_no = application.no AND quiet_hours IS NOT NULL)",
        app_no,
        " AND no = ?",
    )
    return [found for (found,) in rows]


def changes_of_rules(transaction: Transaction, app_no: int | None = None) -> list[tuple[int, int]]:
    """List the apps whose waiting deliveries have to be checked by new rules, with the number of the change; or one."""
    return _select(transaction, "SELECT app_no, number FROM rule_change", app_no).fetchall()


def stored_policy(transaction: Transaction, app_no: int) -> str | None:
    """Return the policy of an app; None if it has set none."""
    row = transaction.execute("SELECT content FROM app_policy WHERE app_no = ?", (app_no,)).fetchone()
    return None if row is None else str(row[0])


def replace_policy(transaction: Transaction, app_no: int, content: str, now_ms: int) -> None:
    """Store the policy of an app in the place of the one before. Writer thread."""
    transaction.execute(
        "INSERT OR REPLACE INTO app_policy (app_no, content, updated_at) VALUES (?, ?, ?)", (app_no, content, now_ms)
    )


def stored_channel(transaction: Transaction, app_no: int, channel_id: str) -> str | None:
    """Return the fields of a channel; None if the app has none of this id."""
    row = transaction.execute(
        "SELECT content FROM channel WHERE app_no = ? AND id = ?", (app_no, channel_id)
    ).fetchone()
    return None if row is None else str(row[0])


def replace_channel(transaction: Transaction, channel: StoredChannel) -> None:
    """Store a channel in the place of the one of its id. Writer thread."""
    transaction.execute(
        "INSERT OR REPLACE INTO channel (app_no, id, content, created_at, updated_at) VALUES (?, ?, ?, ?, ?)", channel
    )


def remove_channel(transaction: Transaction, app_no: int, channel_id: str) -> None:
    """Remove a channel. Writer thread."""
    transaction.execute("DELETE FROM channel WHERE app_no = ? AND id = ?", (app_no, channel_id))


def replace_adapted_cap(transaction: Transaction, step: StoredAdaptation) -> None:
    """Store the present step of the cap of a channel. Writer thread."""
    transaction.execute(
        "INSERT OR REPLACE INTO adapted_cap (app_no, channel, per_day, content, reviewed_day, changed_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        step,
    )


def remove_adapted_cap(transaction: Transaction, app_no: int, channel_id: str) -> None:
    """Have the cap of a channel begin anew. Writer thread."""
    transaction.execute("DELETE FROM adapted_cap WHERE app_no = ? AND channel = ?", (app_no, channel_id))


def note_change_of_rules(transaction: Transaction, app_no: int, number: int) -> None:
    """Note that what waits of an app has to be checked by new rules, whatever becomes of this process. Writer
    thread."""
    transaction.execute("INSERT OR REPLACE INTO rule_change (app_no, number) VALUES (?, ?)", (app_no, number))
