"""Messages about wrong expressions, each of which a person who is no programmer has to be able to follow."""

from __future__ import annotations

import pytest

from gateway.audience.segment_language.segment import compile_expression
from gateway.errors import InvalidExpression

MESSAGES = {
    # names
    "'a' in tgas": "there is no 'tgas'; did you mean 'tags', as in 'hall' in tags?",
    "tag == 'hall'": "there is no 'tag' here; write 'hall' in tags",
    "hall in tags": "hall means nothing here; write 'hall' if it is a text, or attributes.hall if it is an attribute",
    "ONLINE": "there is no 'ONLINE'; did you mean 'online'?",
    "online()": "online is no function; write online",
    "opened": "opened is a function; write opened('PUSH_ID')",
    "opnd('P1')": "there is no 'opnd'; did you mean 'opened', as in opened('PUSH_ID')?",
    "foo('x')": "there is no function 'foo'; there are has, size, version, timestamp, duration, muted, opened and"
    " others for receipts",
    "attributes.model.startswith('K')": "there is no 'startswith'; did you mean 'startsWith', as in"
    " attributes.model.startsWith('K')?",
    "attributes.model.matches('K.*')": "there is no 'matches' here; write attributes.model.startsWith('K')",
    "startsWith(attributes.model, 'K')": "startsWith is written behind the text: attributes.model.startsWith('K')",
    "attributes.a.b == 1": "what is within an attribute cannot be asked for, only texts, numbers and booleans at the"
    " first level; an attribute whose name has a dot is written attributes['a.b']",
    "True": "write true in small letters",
    # types
    "attributes.age < '5'": "'5' is a text, and texts are compared letter by letter ('10' is before '9'): write 5"
    " without quotes for a number, or version(attributes.age) and version('5') for versions",
    "attributes.version < '2.3.1'": "texts are compared letter by letter ('2.10' is before '2.9'): write"
    " version(attributes.version) < version('2.3.1')",
    "attributes.version < version('2.3')": "a version is compared with a version: write version(attributes.version)",
    "version(attributes.version) < 2.3": "a version is compared with a version: write version('2.3')",
    "version('2.3-rc1') == version(attributes.v)": "this is no version: up to 8 numbers with dots between them, such as"
    " '2.3'",
    "attributes.a == attributes.b": "two values of a device cannot be compared with each other; compare one with a"
    " fixed value",
    "attributes.a == null": "there is no null here; write has(attributes.a), or !has(attributes.a)",
    "attributes.model in ('K1', 'K2')": "this comma comes unexpectedly: a list is written in brackets, ['a', 'b'], and"
    " conditions are joined with && or ||",
    "attributes.model in 'K1'": "a list stands in brackets: in ['K1']",
    "attributes.model in []": "this list is empty, so nobody is in it",
    "attributes.model in ['K1', true]": "only texts and numbers stand in a list; write attributes.model == true",
    "tags == 'hall'": "tags is a list of names; write 'hall' in tags",
    "tags in 'hall'": "it is the other way round: 'hall' in tags",
    "'my hall' in tags": "none of the tags is called so; their names have letters, digits and _ . : - only",
    "!'hall' in tags": "! stands before a condition, so put parentheses around it: !('hall' in tags)",
    "name == 5": "name is a text: write it in quotes, '5'",
    "consent == 'grant'": "no consent is 'grant'; did you mean 'granted'?",
    "consent > 'denied'": "consent has no order; use ==, != or in",
    "online > true": "what is true or false is compared with == and != only",
    "size(tags) > 'x'": "size(tags) is a number; compare it with one: size(tags) > 2",
    "has(tags)": "write size(tags) > 0 to ask whether a device has any tags",
    "'a' == 'a'": "both sides are fixed values, so this is the same for every device; compare an attribute",
    "'hall'": "'hall' alone is no condition; compare it, such as attributes.model == 'K2'",
    # times
    "last_seen > '2026-01-01T00:00:00Z'": "last_seen is a time: write timestamp('2026-01-01T00:00:00Z'), or"
    " now - duration('7d')",
    "last_seen > duration('7d')": "last_seen is compared with a time: write now - duration('7d')",
    "last_seen > now - '7d'": "write duration('7d')",
    "last_seen > now - 7": "a number has no unit; write now - duration('7d')",
    "now - last_seen < duration('7d')": "write a time on each side instead of their difference:"
    " last_seen > now - duration('7d')",
    "last_seen > timestamp('2026-01-01')": "the time of the day is missing: write '2026-01-01T00:00:00Z' (UTC)",
    "last_seen > timestamp('2026-01-01T00:00:00')": "the offset is missing: write '2026-01-01T00:00:00Z' (UTC), or"
    " '2026-01-01T00:00:00+01:00'",
    "last_seen > timestamp('2026-02-30T00:00:00Z')": "there is no such day or time",
    "last_seen > now - duration('7 days')": "a duration is a number and a unit: '90s', '15m', '12h', '7d', '2w', or"
    " '1h30m'",
    "last_seen > now - duration('1000d')": "a duration is at most 400 days",
    # functions
    "opened(P1)": "a text is written in quotes: 'P1'",
    "opened('P 1')": "this is no push id; it is the push_id in the answer to a push",
    "opened_channel('offers')": "opened_channel takes two values in its parentheses:"
    " opened_channel('offers', duration('7d'))",
    "opened_channel('offers', '7d')": "a duration belongs here: opened_channel('offers', duration('7d'))",
    # signs
    "attributes.model = 'K2'": "write == instead of =",
    "attributes.model <> 'K2'": "write != instead of <>",
    "attributes.model == 'K2' and online": "write && instead of and",
    "not online": "write ! instead of not, as in !('hall' in tags)",
    "attributes.model like 'K%'": "write attributes.model.contains('K') or attributes.model.startsWith('K') for this",
    "attributes.a == 1 == 2": "one comparison ends here; put && or || between it and the next",
    "online ? true : false": "there is no 'condition ? a : b' here; write it with &&, || and !",
    "attributes.a * 2 > 5": "there is no arithmetic here but now - duration('7d'); compare with a fixed number",
    "'a in tags": "this text has no end: put ' behind its last character",
    "attributes.model == “K2”": "this is a typographic quote; write ' or \" around a text",
    "attributes.model == 'K2' &&": "something is missing at the end, behind this",
    "(online": "this '(' is never closed; put ')' where it ends",
    "online)": "this ')' closes nothing; remove it, or open it before",
    "last_seen > now - 7d": "write duration('7d')",
    "last_seen > now - 7 d": "d comes unexpectedly: put an operator before it, such as ==, in, && or ||",
    "a b": "b comes unexpectedly: put an operator before it, such as ==, in, && or ||",
    "": "the expression is empty; to address all devices use the target all",
    # limits
    f"attributes.a == '{'y' * 129}'": "a text that is compared has at most 128 characters, this has 129",
    f"attributes.{'n' * 65} == 1": "the name of an attribute that can be asked for has 1 to 64 characters",
    "attributes.a == 9223372036854775808": "this number is too large: at most 9223372036854775807",
    "!" * 40 + "online": "more than 32 levels are nested here; write it with fewer parentheses and signs",
    " || ".join(["online"] * 101): "an expression has at most 100 conditions, and this has 101; use a list"
    " (attributes.model in ['K1', 'K2']), or give the devices a tag",
    " || ".join(["opened('P1')"] * 11): "an expression asks for receipts at most 10 times, this 11 times",
    "id in [" + "1," * 300: "an expression has at most 500 words, values and signs; give the devices a tag instead",
    "'" + "x" * 4_100: "an expression has at most 4,096 characters",
}  # fmt: skip


@pytest.mark.parametrize("text", MESSAGES, ids=lambda text: text[:40])
def test_a_message_says_what_to_write(text: str) -> None:
    with pytest.raises(InvalidExpression) as refused:
        compile_expression(text)
    sentence = refused.value.detail.split("\n")[0].partition(": ")[2]
    assert sentence == MESSAGES[text]


def test_a_message_shows_the_place() -> None:
    text = "attributes.model == 'K2' &&\n  (attributes.floor > 3 || atributes.x)"
    with pytest.raises(InvalidExpression) as refused:
        compile_expression(text)
    assert (refused.value.line, refused.value.column) == (2, 28)
    assert refused.value.detail == (
        "line 2, column 28: there is no 'atributes'; did you mean 'attributes', as in attributes.model == 'K2'?\n"
        "    (attributes.floor > 3 || atributes.x)\n"
        "                             ^^^^^^^^^"
    )
    assert refused.value.document()["line"] == 2
    assert refused.value.document()["column"] == 28


def test_a_long_line_is_cut_around_the_place() -> None:
    text = " || ".join([f"'tag-{number}' in tags" for number in range(20)] + ["'x' in tgas"] + ["online"] * 20)
    with pytest.raises(InvalidExpression) as refused:
        compile_expression(text)
    _, shown, underline = refused.value.detail.split("\n")
    assert shown.startswith("  …")
    assert shown.endswith("…")
    assert shown[underline.index("^") : underline.rindex("^") + 1] == "tgas"
    assert text[refused.value.column - 1 :].startswith("tgas")
