"""Routing: exact filters, the trie, merged matches and shared groups. Subscribers are strings here."""

from __future__ import annotations

import random

import pytest

from broker.protocol.topic_filters import matches
from broker.router import CACHE_TOPICS, IDENTIFIER_SHIFT, NO_LOCAL, RETAIN_AS_PUBLISHED, Router


def subscribers(router: Router[str], topic: str) -> set[str]:
    return {match.subscriber for match in router.match(topic).direct}


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b", "/a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("+", "/", False),
        ("+/+", "/", True),
        ("a/+/c", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
        ("$SYS/+", "$SYS/a", True),
    ],
)
def test_filters_match_as_the_specification_says(topic_filter: str, topic: str, expected: bool) -> None:
    """[MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.2-1]"""
    router: Router[str] = Router()
    router.subscribe(topic_filter, "s", 0)
    router.subscribe("other/+", "t", 0)
    assert ("s" in subscribers(router, topic)) is expected


def test_the_trie_agrees_with_the_single_match_on_random_filters() -> None:
    seed = random.Random(7)
    levels = ["a", "b", "", "$x"]

    def some(wild: bool) -> str:
        parts = [seed.choice([*levels, "+"] if wild else levels) for _ in range(seed.randint(1, 4))]
        if wild and seed.random() < 0.3:
            parts.append("#")
        return "/".join(parts) or "a"

    router: Router[str] = Router()
    present: set[str] = set()
    for _ in range(600):
        topic_filter = some(True)
        if topic_filter in present and seed.random() < 0.5:
            assert router.unsubscribe(topic_filter, topic_filter)
            present.remove(topic_filter)
        else:
            assert router.subscribe(topic_filter, topic_filter, 0) is (topic_filter not in present)
            present.add(topic_filter)
        topic = some(False)
        assert subscribers(router, topic) == {f for f in present if matches(f, topic)}
    for topic_filter in present:
        assert router.unsubscribe(topic_filter, topic_filter)
    assert router._root.is_empty()
    assert not router._exact


def test_one_two_and_again_one_subscriber_of_an_exact_topic() -> None:
    router: Router[str] = Router()
    assert router.subscribe("a", "one", 1)
    assert not router.subscribe("a", "one", 2)
    assert router.match("a").direct[0].options == 2
    assert router.subscribe("a", "two", 0)
    assert not router.subscribe("a", "two", 1)
    assert subscribers(router, "a") == {"one", "two"}
    assert not router.unsubscribe("a", "three")
    assert router.unsubscribe("a", "one")
    assert subscribers(router, "a") == {"two"}
    assert not router.unsubscribe("a", "one")
    assert router.unsubscribe("a", "two")
    assert not router.unsubscribe("a", "two")
    assert subscribers(router, "a") == set()


def test_a_subscriber_with_overlapping_filters_appears_once_at_the_highest_qos() -> None:
    """[MQTT-3.3.5-1]"""
    router: Router[str] = Router()
    router.subscribe("a/b", "s", 0 | 5 << IDENTIFIER_SHIFT)
    router.subscribe("a/+", "s", 2 | RETAIN_AS_PUBLISHED | 6 << IDENTIFIER_SHIFT)
    router.subscribe("#", "s", 1)
    (match,) = router.match("a/b").direct
    assert match.options == 2 | RETAIN_AS_PUBLISHED
    assert set(match.identifiers) == {5, 6}


def test_no_local_takes_away_only_the_filters_that_asked_for_it() -> None:
    """[MQTT-3.8.3-3]"""
    router: Router[str] = Router()
    router.subscribe("a", "s", 2 | NO_LOCAL | 5 << IDENTIFIER_SHIFT)
    router.subscribe("+", "s", 1 | 6 << IDENTIFIER_SHIFT)
    router.subscribe("#", "s", 0 | 7 << IDENTIFIER_SHIFT)
    (match,) = router.match("a").direct
    assert match.options == 2
    own = match.for_publisher()
    assert own is not None
    assert own.options == 1
    assert set(own.identifiers) == {6, 7}
    router.unsubscribe("+", "s")
    router.unsubscribe("#", "s")
    assert router.match("a").direct[0].for_publisher() is None


def test_cached_results_follow_every_change() -> None:
    router: Router[str] = Router()
    router.subscribe("+", "wild", 0)
    assert subscribers(router, "a") == {"wild"}
    router.subscribe("a", "exact", 0)
    assert subscribers(router, "a") == {"wild", "exact"}
    router.subscribe("$share/g/a", "shared", 0)
    assert len(router.match("a").shared) == 1
    router.unsubscribe("$share/g/a", "shared")
    assert not router.match("a").shared
    router.subscribe("$share/g/#", "shared", 0)
    assert len(router.match("a").shared) == 1
    router.unsubscribe("+", "wild")
    router.unsubscribe("a", "exact")
    assert subscribers(router, "a") == set()


def test_the_cache_is_bounded() -> None:
    router: Router[str] = Router()
    router.subscribe("#", "s", 0)
    for number in range(CACHE_TOPICS + 10):
        router.match(f"t/{number}")
    assert len(router._cache) <= CACHE_TOPICS


@pytest.mark.parametrize("topic_filter", ["$share/g/a", "$share/g/+"])
def test_a_group_takes_turns_and_skips_who_cannot(topic_filter: str) -> None:
    """[MQTT-4.8.2-4]"""
    router: Router[str] = Router()
    for name in ("one", "two", "three"):
        assert router.subscribe(topic_filter, name, 1)
    (group,) = router.match("a").shared
    turns = [group.next()[0] for _ in range(6)]
    assert turns == ["one", "two", "three"] * 2
    chosen = [group.choose(lambda name: name != "two") for _ in range(4)]
    assert [who for who, _ in filter(None, chosen)] == ["one", "three", "one", "three"]
    assert group.choose(lambda _: False) is None
    for name in ("one", "two", "three"):
        assert router.unsubscribe(topic_filter, name)
        assert not router.unsubscribe(topic_filter, name)
    assert not router.match("a").shared


def test_groups_with_different_names_each_get_a_message() -> None:
    router: Router[str] = Router()
    router.subscribe("$share/g/a", "one", 1)
    router.subscribe("$share/h/a", "two", 1)
    router.subscribe("a", "one", 0)
    assert len(router.match("a").shared) == 2
    assert subscribers(router, "a") == {"one"}
