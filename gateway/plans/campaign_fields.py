"""A campaign as people send it, and the arithmetic of its plan: how many devices are in which group.

A plan is made of the size of the frozen target alone, so that the forecast and the campaign itself cannot differ:

1. The holdout gets nothing. Its share is rounded down.
2. The canary goes first: devices that are named, those with a tag, or so many, or such a share of the target.
3. The groups follow. Shares are of the whole target, and rounded up: 1 % of 50 devices is one. `rest` is whoever is
   left; without it, whoever is left gets nothing.
4. Or a rate: a group for each step of it, of at least one second; the steps are longer if there would be more than
   MAX_PARTS parts.
5. The devices of a group are divided among the variants by their weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from gateway.content.text_fields import LocalizedTexts, TemplateUse
from gateway.delivery.notification import Notification
from gateway.delivery.push import PushRequest, Target
from gateway.delivery.push_timing import scheduled_by
from gateway.described_model import DescribedModel
from gateway.names import Name
from gateway.plans.assignment import shares_of
from gateway.plans.conditions import (
    FAILED,
    MAX_CONDITION_CHARACTERS,
    UNITS_MS,
    BadCondition,
    Condition,
    parse_condition,
    parse_duration,
)
from gateway.printable import Printable

MAX_PARTS = 200
"""Parts of a campaign, groups times variants: each is a push, and all are counted when somebody looks."""
MAX_GROUPS = 50
"""Groups that are listed: more than anybody watches one by one. A rate makes its own."""
MAX_VARIANTS = 10
"""Variants: of ten, 45 pairs are compared, and few fleets are large enough to tell them apart."""
MAX_CONDITIONS = 10
"""Conditions of each kind."""
DEFAULT_OBSERVE = "10m"
"""Long enough for devices that are online to answer, and for a person to be called."""
SMALLEST_STEP_MS = 1_000
"""Time between two parts of a rate: each is an operation of the writer, a commit and an event."""
MAX_RATE_DAYS = 90
"""Days that a rate may take: longer than that nobody remembers what is being rolled out."""
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)\s*%")
_RATE = re.compile(r"(\d{1,9})\s*/\s*([smhd])")
DAY_MS = UNITS_MS["d"]
VARIANT_CONTENT = ("notification", "data", "texts", "template")
"""Fields of a variant that replace those of the push."""


class _Strict(DescribedModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def share_of(text: str) -> Fraction:
    """The share that a text such as `10%` or `0.5%` says. Raises ValueError."""
    match = _SHARE.fullmatch(text.strip())
    share = None if match is None else Fraction(match[1]) / 100
    if share is None or not 0 < share <= 1:
        raise ValueError(f"{text!r}: write a share such as 10% or 0.5%, up to 100%")
    return share


def _is_share(text: str) -> str:
    share_of(text)
    return text


def _is_size(text: str) -> str:
    if text != "rest":
        try:
            share_of(text)
        except ValueError:
            raise ValueError(f"{text!r}: write a share such as 10%, a number of devices, or rest") from None
    return text


def _is_duration(text: str) -> str:
    parse_duration(text)
    return text


def _is_rate(text: str) -> str:
    devices_per_ms(text)
    return text


def devices_per_ms(text: str) -> Fraction:
    """Devices in a millisecond of a rate such as `500/m`. Raises ValueError."""
    match = _RATE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise ValueError(f"{text!r}: write a rate as devices in a second, minute, hour or day, such as 500/m")
    return Fraction(int(match[1]), UNITS_MS[match[2]])


def _is_condition(text: str) -> str:
    try:
        parse_condition(text)
    except BadCondition as error:
        raise ValueError(str(error)) from None
    return text


Share = Annotated[str, StringConstraints(max_length=16), AfterValidator(_is_share)]
Size = Annotated[str, StringConstraints(max_length=16), AfterValidator(_is_size)]
Count = Annotated[int, Field(ge=1, le=100_000_000)]
Duration = Annotated[str, StringConstraints(max_length=16), AfterValidator(_is_duration)]
Rate = Annotated[str, StringConstraints(max_length=16), AfterValidator(_is_rate)]
ConditionText = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_CONDITION_CHARACTERS), AfterValidator(_is_condition)
]


class RateRollout(_Strict):
    """A rollout at a rate, constant or growing."""

    rate: Rate
    """Devices in a time, such as `500/m`: in a second (`s`), minute (`m`), hour (`h`) or day (`d`)."""
    growth: Annotated[float, Field(strict=False, ge=1, le=10)] = 1.0
    """Factor by which the rate grows each time that `every` has passed, 1 to 10, default 1: it is constant. Above 1 it
    is at least 1.01."""
    every: Duration | None = None
    """Time after which the rate grows, such as `10m`. Needed with `growth`."""

    @model_validator(mode="after")
    def _growth_has_a_time(self) -> RateRollout:
        if (self.growth > 1) != (self.every is not None):
            raise ValueError('"growth" and "every" belong together: by which factor the rate grows, and how often')
        if 1 < self.growth < 1.01:
            raise ValueError('"growth" is 1, or at least 1.01')
        return self


def _form(value: Any) -> str:
    """The form in which a size is given, for error messages as well."""
    return "number" if isinstance(value, int) else "share" if isinstance(value, str) else "devices"


def _form_of_rollout(value: Any) -> str:
    return "groups" if isinstance(value, list) else "rate"


Canary = Annotated[
    Annotated[Target, Tag("devices")] | Annotated[Share, Tag("share")] | Annotated[Count, Tag("number")],
    Discriminator(_form),
]
GroupSize = Annotated[Annotated[Size, Tag("share")] | Annotated[Count, Tag("number")], Discriminator(_form)]
Rollout = Annotated[
    Annotated[list[GroupSize], Field(min_length=1, max_length=MAX_GROUPS), Tag("groups")]
    | Annotated[RateRollout, Tag("rate")],
    Discriminator(_form_of_rollout),
]


_EVERYBODY: list[str | int] = ["rest"]


class Variant(_Strict):
    """A variant of the push: what is left out is as the push has it."""

    id: Name
    """The variant's id, unique within the campaign: 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_`, `.`, `:`, `-`."""
    weight: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Its share of each group is its weight, 1 to 10,000, among the weights of all variants. Default 1."""
    notification: Notification | None = None
    """Content that the person sees, instead of the push's."""
    data: Any = None
    """JSON for the device's program, instead of the push's."""
    texts: LocalizedTexts | None = None
    """Texts by locale, instead of the push's."""
    template: TemplateUse | None = None
    """A saved template, instead of the push's; or its name alone, as a string."""

    @field_validator("template", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return TemplateUse.from_name(value)


class CampaignRequest(_Strict):
    """A push with a plan: to whom first, at what pace, and what has to be true for it to go on."""

    name: Annotated[Printable, StringConstraints(min_length=1, max_length=128)]
    """Name for people, 1 to 128 characters."""
    push: PushRequest
    """The push, with its target. Not to a `duty`, and without a `send_at`: that is the campaign's. Each part of the
    campaign is a push of its own, to some of the devices."""
    canary: Canary | None = None
    """Devices that go first: any target but a duty, such as `{"devices": [..]}` or `{"tag": ".."}`, as far as the push
    is for them; a share of the push's target such as `"1%"`; or a number. Left out: none."""
    rollout: Rollout = Field(default_factory=lambda: _EVERYBODY)
    """Groups in their order, 1 to 50: shares of the target such as `"10%"`, numbers of devices, and `"rest"` as the
    last; or `{"rate": "500/m", "growth": 1.5, "every": "10m"}`. Default: `["rest"]`. Groups times variants: 200 at
    most."""
    go_on: Annotated[list[ConditionText], Field(max_length=MAX_CONDITIONS)] = Field(default_factory=list)
    """Conditions that a group has to fulfil before the next one is sent, at most 10, such as `acted >= 95% in 10m`.
    If one does not become true in its time (without `in`: in `observe`), the campaign pauses. With a rate they are
    for the canary."""
    stop: Annotated[list[ConditionText], Field(max_length=MAX_CONDITIONS)] = Field(default_factory=list)
    """Conditions that stop the campaign, at most 10, such as `refused + failed >= 3`: of the present group, or of all
    that was sent. They are checked every second, and before each part."""
    min_sample: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Devices with an outcome from which on a percentage is judged, 1 to 1,000,000, default 1. A condition may have
    its own: `of at least 20`."""
    on_stop: Literal["pause", "abort"] = "pause"
    """What a condition of `stop` does: `pause` (nothing more is sent), or `abort` (what still waits is recalled,
    too)."""
    observe: Duration | None = None
    """Time for which a group is watched at least before the next one is sent, and the last one before the campaign is
    complete. Default `10m`; with `go_on` default none, since those have their times."""
    variants: Annotated[list[Variant], Field(min_length=2, max_length=MAX_VARIANTS)] | None = None
    """2 to 10 variants that are compared. Left out: the push as it is."""
    goal: Literal["delivered", "displayed", "opened", "acted", "dismissed", "failed"] | None = None
    """What variants are compared by. Default `acted`."""
    confidence: Annotated[float, Field(strict=False, ge=0.8, le=0.999)] = 0.95
    """Confidence with which a variant is called the winner, 0.8 to 0.999, default 0.95."""
    holdout: Share | None = None
    """Share of the target that gets nothing, such as `"10%"`, to be compared with. Left out: none."""
    send_at: Annotated[AwareDatetime, Field(strict=False)] | None = None
    """Time at which it starts, RFC 3339 with an offset, at most a year ahead. Left out: at once."""
    ask_approval: bool = False
    """`true`: another key than the one that makes it has to approve it, whatever the policy says. Default `false`: a
    `command` to more devices than the policy's `approve_above` has to be approved."""

    @model_validator(mode="after")
    def _fits(self) -> CampaignRequest:
        if self.push.target.duty is not None:
            raise ValueError('push.target: a campaign goes to devices, not to a "duty"')
        timed = scheduled_by(self.push)
        if timed is not None:
            raise ValueError(f'push.{timed}: a campaign has its own times: "send_at", "rollout" and "observe"')
        if isinstance(self.canary, Target) and self.canary.duty is not None:
            raise ValueError('canary: devices, not a "duty"')
        if isinstance(self.rollout, list):
            _check_sizes(self.rollout, self.holdout)
        elif self.go_on and self.canary is None:
            raise ValueError('go_on: with a rate it is for the canary, and there is none; use "stop"')
        for text in self.stop:
            if parse_condition(text).within_ms is not None:
                raise ValueError(f'stop: {text!r} is checked all the time: leave out "in"')
        self._check_variants()
        if self.groups_at_most * len(self.variant_ids) > MAX_PARTS:
            raise ValueError(f"groups times variants: {MAX_PARTS} parts at most")
        return self

    def _check_variants(self) -> None:
        if self.variants is None:
            if self.goal is not None:
                raise ValueError('goal: there are no "variants" to compare')
            return
        if len(set(self.variant_ids)) < len(self.variants):
            raise ValueError("variants: two have the same id")
        for number in range(len(self.variants)):
            self.push_of(number)

    @property
    def variant_ids(self) -> list[str | None]:
        """The ids of the variants; a single None of a campaign without any."""
        return [None] if self.variants is None else [variant.id for variant in self.variants]

    @property
    def weights(self) -> list[int]:
        """The weights of the variants; a single 1 of a campaign without any."""
        return [1] if self.variants is None else [variant.weight for variant in self.variants]

    @property
    def groups_at_most(self) -> int:
        """Groups that there will be, with the canary; of a rate, those that are always there."""
        return (self.canary is not None) + (len(self.rollout) if isinstance(self.rollout, list) else 1)

    @property
    def go_on_conditions(self) -> list[Condition]:
        return [parse_condition(text) for text in self.go_on]

    @property
    def stop_conditions(self) -> list[Condition]:
        return [parse_condition(text) for text in self.stop]

    @property
    def observe_ms(self) -> int:
        """Milliseconds for which a group is watched at least."""
        if self.observe is not None:
            return parse_duration(self.observe)
        return 0 if self.go_on else parse_duration(DEFAULT_OBSERVE)

    @property
    def go_on_ms(self) -> int:
        """Milliseconds in which a condition without a time of its own has to become true."""
        return parse_duration(self.observe or DEFAULT_OBSERVE)

    @property
    def counts_failures(self) -> bool:
        """Whether results have to be looked at one by one."""
        return (
            self.push.kind == "command"
            or self.push.template is not None  # which may say that it is a command
            or any(variant.template is not None for variant in self.variants or ())
            or self.goal == FAILED
            or any(FAILED in text for text in self.go_on + self.stop)
        )

    def push_of(self, variant_no: int) -> PushRequest:
        """The push of a variant; as `merged_push`."""
        fields = self.push.model_dump(mode="json", exclude_unset=True, exclude={"target"})
        variant = None if self.variants is None else self.variants[variant_no]
        return merged_push(fields, None if variant is None else variant.model_dump(mode="json", exclude_unset=True))

    def pin_template(self, variant_no: int, version: int) -> None:
        """Have the push of a variant made with this version of its template, whatever is saved later."""
        variant = None if self.variants is None else self.variants[variant_no]
        if variant is not None and "template" in variant.model_fields_set:
            if variant.template is not None:
                variant.template = variant.template.model_copy(update={"version": version})
        elif self.push.template is not None:
            self.push.template = self.push.template.model_copy(update={"version": version})


def merged_push(fields: Mapping[str, Any], variant: Mapping[str, Any] | None) -> PushRequest:
    """Make the push of a variant of the push's fields and its own, both as JSON values. Raises ValueError.

    Its target is `all`, whomever the campaign is for: a part has its devices from the campaign, and ten thousand ids
    would be checked with each.
    """
    own = {name: value for name, value in (variant or {}).items() if name in VARIANT_CONTENT}
    return PushRequest.model_validate_json(json.dumps({**fields, **own, "target": {"all": True}}))


def _check_sizes(rollout: list[str | int], holdout: str | None) -> None:
    if "rest" in rollout[:-1]:
        raise ValueError('rollout: "rest" is whoever is left, so it is the last group')
    shares = sum(share_of(size) for size in rollout if isinstance(size, str) and size != "rest")
    if shares + (share_of(holdout) if holdout is not None else 0) > 1:
        raise ValueError("rollout: the groups and the holdout are more than 100%")


class Group(_Strict):
    """A group of a plan that was made."""

    name: str
    """`canary`, or its size as the rollout has it; of a rate, its number."""
    size: int
    """Devices."""
    pace_ms: int | None = None
    """Milliseconds from its start to that of the next one, whatever becomes of it; None: conditions and time decide."""


class Plan(_Strict):
    """Sizes of everything in a campaign, for a target of a certain size."""

    total: int
    """Devices of the target."""
    holdout: int
    groups: list[Group]

    @property
    def left_out(self) -> int:
        """Devices that no group is for."""
        return self.total - self.holdout - sum(group.size for group in self.groups)


def make_plan(fields: CampaignRequest, total: int, named: int | None) -> Plan:
    """Divide a target of so many devices; `named` of them are the canary, None if that is no cohort."""
    left = total - (named or 0)
    holdout = 0 if fields.holdout is None else min(left, math.floor(share_of(fields.holdout) * total))
    left -= holdout
    groups: list[Group] = []
    if named is not None:
        groups.append(Group(name="canary", size=named))
    elif fields.canary is not None:
        assert isinstance(fields.canary, str | int), "a cohort is named"
        groups.append(Group(name="canary", size=min(left, _size_of(fields.canary, total))))
        left -= groups[0].size
    if isinstance(fields.rollout, RateRollout):
        groups += _paced_groups(fields.rollout, left, MAX_PARTS // len(fields.weights) - len(groups))
    else:
        for size in fields.rollout:
            count = left if size == "rest" else min(left, _size_of(size, total))
            groups.append(Group(name=str(size), size=count))
            left -= count
    return Plan(total=total, holdout=holdout, groups=groups)


def sizes_of_variants(fields: CampaignRequest, plan: Plan) -> list[int]:
    """Devices of each variant, over all groups."""
    by_group = [shares_of(group.size, fields.weights) for group in plan.groups]
    return [sum(sizes) for sizes in zip(*by_group, strict=True)]


def _size_of(size: str | int, total: int) -> int:
    return size if isinstance(size, int) else math.ceil(share_of(size) * total)


def duration_ms(rollout: RateRollout, devices: int) -> int:
    """Milliseconds that a rate needs for so many devices."""
    found = 0
    for sent, until_ms, per_ms in _periods(rollout):
        left = devices - sent
        if per_ms * (until_ms - found) >= left:
            return found + math.ceil(left / per_ms)
        found = until_ms
    raise AssertionError("the last period has no end")


def _periods(rollout: RateRollout) -> Iterator[tuple[Fraction, int, Fraction]]:
    """The periods of a rate: devices before it, its end in milliseconds, and devices in a millisecond."""
    per_ms, growth = devices_per_ms(rollout.rate), Fraction(str(rollout.growth))
    if rollout.every is None:
        yield Fraction(0), 2**62, per_ms
        return
    every_ms = parse_duration(rollout.every)
    sent, end = Fraction(0), 0
    while True:
        end += every_ms
        yield sent, end, per_ms
        sent += per_ms * every_ms
        # Exact fractions grow with each power; a millionth of a device in a day is exact enough.
        per_ms = Fraction(math.ceil(per_ms * growth * 2**60), 2**60)


def _paced_groups(rollout: RateRollout, devices: int, at_most: int) -> list[Group]:
    """The groups of a rate: one for each step in which somebody's turn comes."""
    if not devices:
        return []
    whole_ms = duration_ms(rollout, devices)
    step_ms = max(SMALLEST_STEP_MS, math.ceil(whole_ms / at_most))
    ends: list[tuple[int, int]] = []
    """Of each group: the time at which it starts, and the devices up to its end."""
    periods = _periods(rollout)
    sent, until_ms, per_ms = next(periods)
    began_ms = 0
    reached = 0
    for start_ms in range(0, whole_ms + step_ms, step_ms):
        while start_ms + step_ms > until_ms:
            began_ms = until_ms
            sent, until_ms, per_ms = next(periods)
        end = min(devices, math.ceil(sent + per_ms * (start_ms + step_ms - began_ms)))
        if end > reached:
            ends.append((start_ms, end))
            reached = end
        if reached == devices:
            break
    starts = [start for start, _ in ends]
    return [
        Group(
            name=f"{number + 1}",
            size=end - (ends[number - 1][1] if number else 0),
            pace_ms=None if number == len(ends) - 1 else starts[number + 1] - starts[number],
        )
        for number, (_, end) in enumerate(ends)
    ]
