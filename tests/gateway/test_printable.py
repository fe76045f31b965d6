from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.audience.policy import NewChannel
from gateway.delivery.push import PushRequest
from gateway.devices import NewDevice
from gateway.printable import printable

WRITTEN = [
    "مرحبا بالعالم",
    "שלום",
    "नमस्ते क्\u200dष",  # a joiner
    "نامه\u200cای",  # a non-joiner
    "10\u00a0000 €",  # a no-break space
    "👩‍👩‍👧‍👦 🏳️‍🌈 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\U0001fae9 \U0001f6d8 \U0001fb7e",  # newer than the tables of Python 3.11, or assigned by nobody yet
    "a\u200fb",  # a mark of direction turns nothing around
]
OBEYED = ["\x1b[2J", "a\nb", "\x9b", "\x7f", "photo\u202egpj.exe", "a\u2066b", "a\u2028b", "\ufffe", "\U0001ffff"]


@pytest.mark.parametrize("text", WRITTEN)
def test_what_people_write_is_taken_everywhere(text: str) -> None:
    assert NewDevice(name=text).name == text
    assert NewChannel(id="c", name=text, description=text).description == text
    assert PushRequest.model_validate({"target": {"all": True}, "collapse_key": text}).collapse_key == text
    assert printable(text) == text


@pytest.mark.parametrize("text", OBEYED)
def test_what_a_terminal_obeys_is_taken_nowhere(text: str) -> None:
    for make in (
        lambda: NewDevice(name=text),
        lambda: NewChannel(id="c", name=text),
        lambda: NewChannel(id="c", name="n", description=text),
        lambda: PushRequest.model_validate({"target": {"all": True}, "collapse_key": text}),
    ):
        with pytest.raises(ValidationError, match=r"only printable characters, please: U\+"):
            make()
    assert printable(text) == text if text == "a\nb" else "�" in printable(text)
