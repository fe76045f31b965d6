"""Preferences of people, as rows: consent, choices among channels, quiet hours, and the record of their answers.

`delivery/consent` decides what is stored and what it makes unwanted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal, NamedTuple

from pyroaring import BitMap

from gateway.store.audience.device_sets import queried_devices
from gateway.store.transaction import Transaction

MAX_CHANNELS = 200
"""Channels of an app: more than a person could look through."""


def choices_of(text: str) -> dict[str, bool]:
    """A person's choices by channel, as a row holds them."""
    found: dict[str, bool] = json.loads(text)
    return found


# -- one person --------------------------------------------------------------------------------------------------------


class StoredPreferences(NamedTuple):
    """Preferences that a change of them is compared with."""

    app_no: int
    choices: str
    """JSON, as `choices_of` reads it."""
    seq: int | None
    """Sequence number of the last change that had one."""
    consent: str


class PreferenceChange(NamedTuple):
    """Preferences of a device's person as they will be; of what is None, the stored value stays."""

    consent: str | None
    choices: str
    """JSON of all of them."""
    seq: int | None
    text_version: str | None
    client: str | None


class ConsentAnswer(NamedTuple):
    """An answer about consent."""

    consent: str
    text_version: str | None
    client: str | None
    source: str
    seq: int | None
    recorded_at: int
    """Milliseconds of server time."""


class SettingsDocument(NamedTuple):
    """Everything that a device's row says of its person's settings."""

    consent: str
    choices: str
    """JSON, as `choices_of` reads it."""
    seq: int | None
    changed_at: int | None
    """Milliseconds of server time."""
    quiet_hours: str | None
    """JSON; None: none of their own."""
    zone: str | None
    """Time zone of the device; None: that of the app."""


def stored_preferences(transaction: Transaction, device_no: int) -> StoredPreferences | None:
    """The preferences of a device's person before a change; None if there is no such device."""
    row = transaction.execute(
        "SELECT app_no, channels, settings_seq, consent FROM device WHERE no = ?", (device_no,)
    ).fetchone()
    return None if row is None else StoredPreferences._make(row)


def store_quiet_hours(transaction: Transaction, device_no: int, hours: str | None) -> None:
    """Store a person's own quiet hours, as JSON; None: none. Writer thread."""
    transaction.execute("UPDATE device SET quiet_hours = ? WHERE no = ?", (hours, device_no))


def store_preferences(transaction: Transaction, device_no: int, change: PreferenceChange, now_ms: int) -> None:
    """Store a change of preferences. Writer thread."""
    transaction.execute(
        "UPDATE device SET consent = coalesce(?, consent), channels = ?, settings_seq = coalesce(?, settings_seq),"
        " settings_text_version = coalesce(?, settings_text_version), settings_client = coalesce(?, settings_client),"
        " settings_at = ? WHERE no = ?",
        (*change, now_ms, device_no),
    )


def record_consent(transaction: Transaction, device_no: int, record: ConsentAnswer, kept: int) -> None:
    """Add an answer to the record of a device, of which the newest `kept` stay. Writer thread."""
    transaction.execute(
        "INSERT INTO consent_record (device_no, consent, text_version, client, source, seq, recorded_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (device_no, *record),
    )
    transaction.execute(
        "DELETE FROM consent_record WHERE device_no = ?1 AND no <= (SELECT no FROM consent_record"
        " WHERE device_no = ?1 ORDER BY no DESC LIMIT 1 OFFSET ?2)",
        (device_no, kept),
    )


def consent_records(transaction: Transaction, device_no: int) -> list[ConsentAnswer]:
    """The answers of a device about consent, the newest first."""
    rows = transaction.execute(
        "SELECT consent, text_version, client, source, seq, recorded_at FROM consent_record"
        " WHERE device_no = ? ORDER BY no DESC",
        (device_no,),
    )
    return list(map(ConsentAnswer._make, rows.fetchall()))


def consent_and_choices(transaction: Transaction, device_no: int) -> tuple[str, str]:
    """The consent of a device's person, and their choices as JSON."""
    consent, choices = transaction.execute("SELECT consent, channels FROM device WHERE no = ?", (device_no,)).fetchone()
    return consent, choices


def settings_document(transaction: Transaction, device_no: int) -> SettingsDocument:
    """Everything that is known of a device's settings."""
    row = transaction.execute(
        "SELECT consent, channels, settings_seq, settings_at, quiet_hours, timezone FROM device WHERE no = ?",
        (device_no,),
    ).fetchone()
    return SettingsDocument._make(row)


# -- many people -------------------------------------------------------------------------------------------------------


def preferences_of(transaction: Transaction, devices: Iterable[int], everybody: bool) -> dict[int, tuple[str, str]]:
    """Read preferences: device number -> consent and choices (JSON). Writer thread.

    Without `everybody` only those who want less than everything.
    """
    less = "" if everybody else " AND (v.consent = 'denied' OR v.channels <> '{}')"
    (text,) = transaction.execute(
        "SELECT json_group_array(json_array(v.no, v.consent, v.channels)) FROM json_each(?) AS wanted"
        f" CROSS JOIN device AS v ON v.no = wanted.value{less}",
        (json.dumps(list(devices)),),
    ).fetchone()
    return {device_no: (consent, choices) for device_no, consent, choices in json.loads(text)}


class Refusal(NamedTuple):
    """People of an app who do not want a push: by their consent, or because they have muted its channel."""

    reason: Literal["no_consent", "channel_muted"]
    consent: Literal["unknown", "denied"] | None = None
    """`denied`: those who deny it; `unknown`: those as well who have not answered."""
    channel: str | None = None


_RESTRICTED = (
    "SELECT no FROM device INDEXED BY device_restricted WHERE app_no = ?"
    " AND (consent = 'denied' OR channels <> '{}') AND "
)


def refusing_devices(transaction: Transaction, app_no: int, refusal: Refusal) -> BitMap:
    """The devices of an app whose people refuse in this way."""
    if refusal.consent == "unknown":
        return queried_devices(
            transaction, "SELECT no FROM device WHERE app_no = ? AND consent IN ('unknown', 'denied')", (app_no,)
        )
    if refusal.consent == "denied":
        return queried_devices(transaction, _RESTRICTED + "consent = 'denied'", (app_no,))
    # A channel's name needs no escape within the quotes of a path.
    return queried_devices(
        transaction, _RESTRICTED + "json_extract(channels, ?) = 0", (app_no, f'$."{refusal.channel}"')
    )


def devices_with_quiet_hours(transaction: Transaction, app_no: int) -> BitMap:
    """The devices of an app whose people have quiet hours of their own."""
    return queried_devices(
        transaction,
        "SELECT no FROM device INDEXED BY device_with_quiet_hours WHERE app_no = ? AND quiet_hours IS NOT NULL",
        (app_no,),
    )


class FrequencyPreferences(NamedTuple):
    """The part of a person's preferences that says when alerts may reach them."""

    device_no: int
    app_no: int
    zone: str | None
    """Time zone of the device; None: that of the app."""
    quiet_hours: str | None
    """JSON; None: none of their own."""
    choices: str
    """JSON, as `choices_of` reads it."""


def frequency_preferences(transaction: Transaction, devices: Iterable[int]) -> list[FrequencyPreferences]:
    """Say when alerts may reach the people of these devices."""
    rows = transaction.execute(
        "SELECT v.no, v.app_no, v.timezone, v.quiet_hours, v.channels FROM json_each(?) AS wanted"
        " CROSS JOIN device AS v ON v.no = wanted.value",
        (json.dumps(list(devices)),),
    )
    return list(map(FrequencyPreferences._make, rows.fetchall()))
