"""Topic conditions: expressions over topics alone.

FCM has them: `'news' in topics && ('sport' in topics || !('beta' in topics))`, with at most five topics. A condition is
an operation on some bitmaps (`store/segments`): a few milliseconds for 1,000,000 devices, whatever it says. Compiling
it is not for the writer thread, so `target_resolution` evaluates it on a reader, as it does every expression.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from gateway.audience.segment_language.grammar import parse
from gateway.audience.segment_language.messages import invalid
from gateway.audience.segment_language.type_checker import check
from gateway.store.segments.terms import IsMember, Place, Term, terms_within

MAX_TOPICS = 5
"""Topics of a condition, as FCM has them at most: each is up to 128 KiB of sets to read."""
KEPT_CONDITIONS = 64
"""Compiled conditions that are kept, a few KiB each."""


@dataclass(slots=True, frozen=True)
class TopicCondition:
    """A condition over topics, ready to be evaluated. Made by `compile_condition`."""

    text: str
    term: Term = field(repr=False)
    topics: tuple[str, ...]
    """The topics that it names, each once."""


@lru_cache(maxsize=KEPT_CONDITIONS)
def compile_condition(text: str) -> TopicCondition:
    """Compile a condition. Raises InvalidExpression. Reader thread; 5 ms at most, and nothing if it is kept."""
    term = check(text, parse(text))
    whole = Place(0, len(text))
    topics: dict[str, None] = {}
    for one in terms_within(term):
        if not isinstance(one, IsMember) or one.of != "topics":
            sentence = (
                "a condition is about topics only: 'news' in topics, with &&, || and !; use the target where for more"
            )
            raise invalid(text, whole, sentence)
        topics[one.name] = None
    if len(topics) > MAX_TOPICS:
        raise invalid(text, whole, f"a condition has at most {MAX_TOPICS} topics, and this has {len(topics)}")
    return TopicCondition(text, term, tuple(topics))
