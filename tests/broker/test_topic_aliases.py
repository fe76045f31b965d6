"""Topic aliases of both directions, in themselves; on the wire they are in `conformance`."""

from __future__ import annotations

import pytest

from broker.protocol.errors import TopicAliasInvalid
from broker.topic_aliases import InboundAliases, OutboundAliases


def test_an_inbound_alias_is_defined_used_and_defined_anew() -> None:
    aliases = InboundAliases()
    assert aliases.resolve("a", 3, 3) == "a"
    assert aliases.resolve("", 3, 3) == "a"
    assert aliases.resolve("b", 3, 3) == "b"
    assert aliases.resolve("", 3, 3) == "b"


@pytest.mark.parametrize("alias", [0, 2, 4])
def test_an_inbound_alias_that_is_out_of_range_or_unknown_is_refused(alias: int) -> None:
    aliases = InboundAliases()
    aliases.resolve("a", 1, 3)
    with pytest.raises(TopicAliasInvalid):
        aliases.resolve("", alias, 3)


def test_outbound_aliases_are_first_come_up_to_the_maximum() -> None:
    aliases = OutboundAliases(1)
    assert aliases.shorten("a", b"a", b"") == (b"a", b"\x23\x00\x01")
    assert aliases.shorten("a", b"a", b"x") == (b"", b"x\x23\x00\x01")
    assert aliases.shorten("b", b"b", b"x") == (b"b", b"x")


def test_what_was_not_written_defines_nothing() -> None:
    aliases = OutboundAliases(2)
    aliases.shorten("a", b"a", b"")
    aliases.shorten("b", b"b", b"")
    aliases.forget("b")
    aliases.forget("never said")
    assert aliases.shorten("a", b"a", b"")[0] == b""
    assert aliases.shorten("c", b"c", b"") == (b"c", b"\x23\x00\x02")
