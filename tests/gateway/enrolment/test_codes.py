"""Enrolment codes: what people make of them is read, and a slip of theirs is found before anything is looked up."""

from __future__ import annotations

import itertools

import pytest

from gateway.enrolment.codes import ALPHABET, CODE_CHARACTERS, grouped, new_code, plain_code


def test_codes_differ_and_are_read_as_they_are_written() -> None:
    codes = {new_code() for _ in range(500)}
    assert len(codes) == 500
    for code in codes:
        assert [len(group) for group in code.split("-")] == [4, 4, 4, 4]
        plain = code.replace("-", "")
        assert plain_code(code) == plain
        assert grouped(plain) == code
    assert {character for code in codes for character in code} == {*ALPHABET, "-"}, "all of them are drawn"


def test_people_may_write_it_otherwise() -> None:
    code = next(found for found in iter(new_code, "") if {"0", "1"} <= set(found))
    plain = plain_code(code)
    for written in (code.lower(), code.replace("-", " "), code.replace("0", "O").replace("1", "l"), f" {plain}\t"):
        assert plain_code(written) == plain, written


@pytest.mark.parametrize("number", range(20))
def test_a_wrong_character_and_two_that_changed_places_are_found(number: int) -> None:
    plain = new_code().replace("-", "")
    for at in range(CODE_CHARACTERS):
        for other in ALPHABET:
            if other != plain[at]:
                assert plain_code(plain[:at] + other + plain[at + 1 :]) is None
    for first, second in itertools.combinations(range(CODE_CHARACTERS), 2):
        swapped = list(plain)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        assert swapped == list(plain) or plain_code("".join(swapped)) is None


@pytest.mark.parametrize(
    "text", ["", "K7QF", "U" * 16, "é" * 16, "0" * 15, "0" * 17, "0" * 16 + "-" * 60, "0000\x00" * 4]
)
def test_what_cannot_be_a_code_is_none(text: str) -> None:
    assert plain_code(text) is None
