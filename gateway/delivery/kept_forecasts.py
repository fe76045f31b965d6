"""Forecasts that pushes were sent with: kept beside the push, to be held against what has happened.

A push that is sent with `?forecast=1` is forecast right before it is accepted, and the forecast is stored right behind
it. It is information and no promise: a kill between the two forgets it, and a push is never refused for want of one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.timestamps import rfc3339


class KeptForecast(NamedTuple):
    """The part of a forecast that is kept: numbers of devices, and when it was made (ms)."""

    made_at: int
    likely: int
    will_expire: int
    unknown_presence: int


def keep_forecast(connection: sqlite3.Connection, app_no: int, push_id: str, forecast: KeptForecast) -> None:
    """Store the forecast of a push that was accepted after it was made, unless it has one. Writer thread.

    A repetition of an earlier request is forecast too late.
    """
    connection.execute(
        "INSERT OR IGNORE INTO push_forecast (push_no, made_at, likely, will_expire, unknown_presence)"
        " SELECT no, ?3, ?4, ?5, ?6 FROM push WHERE id = ?2 AND app_no = ?1 AND accepted_at >= ?3",
        (app_no, push_id, *forecast),
    )


def remove_forecasts(connection: sqlite3.Connection, push_nos: Sequence[int]) -> None:
    """Forget the forecasts of pushes whose counts are no longer kept. Writer thread."""
    connection.execute(
        "DELETE FROM push_forecast WHERE push_no IN (SELECT value FROM json_each(?))", (json.dumps(list(push_nos)),)
    )


def read_forecasts(connection: sqlite3.Connection, push_nos: Sequence[int]) -> dict[int, KeptForecast]:
    """The forecasts of those of the pushes that have one. Reader thread."""
    rows = connection.execute(
        "SELECT f.push_no, f.made_at, f.likely, f.will_expire, f.unknown_presence"
        " FROM json_each(?) AS w CROSS JOIN push_forecast AS f ON f.push_no = w.value",
        (json.dumps(list(push_nos)),),
    )
    return {push_no: KeptForecast(*forecast) for push_no, *forecast in rows}


def described_forecast(forecast: KeptForecast, push: Mapping[str, Any]) -> dict[str, Any]:
    """A forecast beside what has become of its push, both as the API shows them."""
    counts = push["counts"]
    # What was sent with QoS 0 stays so.
    is_open = counts["waiting"] > 0 or (counts["sent"] > 0 and push["qos"] > 0)
    reached = push["reached"]["delivered"]
    return {
        "likely": forecast.likely,
        "will_expire": forecast.will_expire,
        "unknown_presence": forecast.unknown_presence,
        "made_at": rfc3339(forecast.made_at),
        "reached": reached,
        "error": None if is_open else forecast.likely - reached,
    }
