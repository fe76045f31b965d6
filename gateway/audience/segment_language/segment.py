"""A segment: an expression that was compiled, and the devices that it selects.

`compile_expression` and `resolve` are for a reader thread, whose reads are bounded in time (`store/read_queue`) and
belong to an app. Compiling takes 5 ms at most: too much for the loop, when a batch has thousands of expressions. What
was compiled lately is kept by `target_resolution`.

`now_ms` is the time on the wall, as the API shows it. How the store finds the devices is its matter
(`store/segments/evaluation`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pyroaring import BitMap

from gateway.audience.segment_language.grammar import parse
from gateway.audience.segment_language.messages import invalid, quoted
from gateway.audience.segment_language.type_checker import check
from gateway.store.deliveries.pushes import kept_pushes
from gateway.store.segments.evaluation import SegmentPlan, matching_devices, plan_of
from gateway.store.segments.terms import (
    HasChannelReceipt,
    HasMissed,
    HasReceipt,
    IsMuted,
    IsOnline,
    Place,
    Term,
    TimeTest,
    terms_within,
)
from gateway.store.transaction import Transaction


@dataclass(slots=True, frozen=True)
class Segment:
    """An expression over the devices of an app, ready to be asked. Made by `compile_expression`."""

    text: str
    term: Term = field(repr=False)
    _plan: SegmentPlan = field(repr=False)
    _pushes: dict[str, Place] = field(repr=False)

    @property
    def needs_online(self) -> bool:
        """Whether it depends on which devices are connected."""
        return any(
            isinstance(one, IsOnline) or (isinstance(one, TimeTest) and one.field == "last_seen")
            for one in terms_within(self.term)
        )

    @property
    def push_ids(self) -> tuple[str, ...]:
        """The pushes whose receipts it asks for."""
        return tuple(self._pushes)

    @property
    def channel_ids(self) -> tuple[str, ...]:
        """The channels that it names."""
        named = (one.channel for one in terms_within(self.term) if isinstance(one, IsMuted | HasChannelReceipt))
        return tuple(dict.fromkeys(named))

    def devices(self, transaction: Transaction, app_no: int, now_ms: int, online: Iterable[int] = ()) -> BitMap:
        """The live devices of the app that match. Reader thread."""
        return matching_devices(transaction, app_no, self._plan, now_ms, online)

    def check_pushes(self, transaction: Transaction, app_no: int) -> None:
        """Refuse pushes of which nothing is known, or nothing is kept. Raises InvalidExpression. Reader thread."""
        if not self._pushes:
            return
        kept = kept_pushes(transaction, app_no, list(self._pushes))
        for push_id, place in self._pushes.items():
            if push_id not in kept:
                sentence = f"there is no push {quoted(push_id)} in this app, or it is not kept any more"
                raise invalid(self.text, place, f"{sentence}; take the push_id of a newer one")
            if not kept[push_id]:
                sentence = "the deliveries of this push were removed by retention, so nobody knows who got it"
                raise invalid(self.text, place, f"{sentence}; take the push_id of a newer one")


def compile_expression(text: str) -> Segment:
    """Compile an expression. Raises InvalidExpression. Reader thread; 5 ms at most."""
    term = check(text, parse(text))
    return Segment(
        text,
        term,
        plan_of(term),
        {one.push_id: one.place for one in terms_within(term) if isinstance(one, HasReceipt | HasMissed)},
    )


def resolve(transaction: Transaction, app_no: int, segment: Segment, now_ms: int, online: Iterable[int] = ()) -> BitMap:
    """The live devices of an app that match now (wall time). Raises InvalidExpression. Reader thread.

    `online` has the numbers of the connected devices, if `segment.needs_online`.
    """
    segment.check_pushes(transaction, app_no)
    return segment.devices(transaction, app_no, now_ms, online)
