"""Forecasts that pushes were sent with: kept beside the push, to be held against what has happened.

A push that is sent with `?forecast=1` is forecast right before it is accepted, and the forecast is stored right behind
it. It is information and no promise: a kill between the two forgets it, and a push is never refused for want of one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from gateway.store.transaction import Transaction


class KeptForecast(NamedTuple):
    """The part of a forecast that is kept: numbers of devices, and when it was made (ms)."""

    made_at: int
    likely: int
    will_expire: int
    unknown_presence: int


def keep_forecast(transaction: Transaction, app_no: int, push_id: str, forecast: KeptForecast) -> None:
    """Store the forecast of a push that was accepted after it was made, unless it has one. Writer thread.

    A repetition of an earlier request is forecast too late.
    """
    transaction.execute(
        "INSERT OR IGNORE INTO push_forecast (push_no, made_at, likely, will_expire, unknown_presence)"
        " SELECT no, ?3, ?4, ?5, ?6 FROM push WHERE id = ?2 AND app_no = ?1 AND accepted_at >= ?3",
        (app_no, push_id, *forecast),
    )


def remove_forecasts(transaction: Transaction, push_nos: Sequence[int]) -> None:
    """Forget the forecasts of pushes whose counts are no longer kept. Writer thread."""
    transaction.execute(
        "DELETE FROM push_forecast WHERE push_no IN (SELECT value FROM json_each(?))", (json.dumps(list(push_nos)),)
    )


def read_forecasts(transaction: Transaction, push_nos: Sequence[int]) -> dict[int, KeptForecast]:
    """The forecasts of those of the pushes that have one. Reader thread."""
    rows = transaction.execute(
        "SELECT f.push_no, f.made_at, f.likely, f.will_expire, f.unknown_presence"
        " FROM json_each(?) AS w CROSS JOIN push_forecast AS f ON f.push_no = w.value",
        (json.dumps(list(push_nos)),),
    )
    return {push_no: KeptForecast(*forecast) for push_no, *forecast in rows}
