from __future__ import annotations

import pytest

from gateway.content.locales import LocaleChoice


@pytest.mark.parametrize(
    ("names", "locale", "chosen"),
    [
        (["de", "en"], "de", ("de",)),
        (["de", "de-AT", "default"], "de-AT", ("de-AT", "de", "default")),
        (["de", "default"], "de-CH-1996", ("de", "default")),
        (["zh-Hant", "zh"], "zh-Hant-TW", ("zh-Hant", "zh")),
        (["DE_at"], "de-AT", ("DE_at",)),
        (["pt"], "PT_br", ("pt",)),
        (["en", "en-a"], "en-a-bbb", ("en",)),  # RFC 4647, 3.4: a single letter is never the last part
        (["de-AT"], "de", ()),
        (["de"], None, ()),
        (["de", "default"], None, ("default",)),
        (["de"], "den", ()),
    ],
)
def test_a_locale_has_the_texts_that_fit_it_best(names: list[str], locale: str, chosen: tuple[str, ...]) -> None:
    assert LocaleChoice(names).of(locale) == chosen


def test_many_locales_are_not_kept() -> None:
    choice = LocaleChoice(["de"])
    for number in range(5_000):
        assert choice.of(f"de-x{number}") == ("de",)
    assert len(choice._chosen) <= 1_002
