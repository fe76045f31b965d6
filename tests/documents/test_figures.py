"""The documents say what the newest benchmarks have measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.benchmarks.figures import Figure
from tests.documents.figures import (
    BENCHMARKS_PAGE,
    ROOT,
    SENTENCES,
    Measured,
    Sentence,
    benchmarks_table,
    newest,
    pages,
    rounded,
    values,
    whole,
)


def test_pages_have_the_figures_of_the_newest_results() -> None:
    """`python -m tests.documents` writes them anew."""
    stale = [str(path) for path, text in pages(newest()).items() if path.read_text() != text]
    assert stale == []


def test_every_figure_in_the_readme_is_measured() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## What it costs\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|") and re.search(r"\d", line)]
    known = [sentence.with_figures(values(newest())) for sentence in SENTENCES if sentence.page == "README.md"]
    assert rows == known


def result(folder: Path, name: str, **ours: float) -> None:
    figures = [Figure(what, "ms", value, "it", 2.0, at_most=1.0).document() for what, value in ours.items()]
    (folder / name).write_text(json.dumps({"figures": figures}))


def test_the_newest_result_that_has_a_figure_counts(tmp_path: Path) -> None:
    result(tmp_path, "2026-11-26-all.json", start=1.0, stop=2.0)
    result(tmp_path, "2026-11-29-start.json", start=3.0)
    result(tmp_path, "2025-12-31-all.json", start=5.0, stop=5.0, pause=5.0)
    measured = newest(tmp_path)
    assert [(one.figure.what, one.figure.ours, one.date) for one in measured] == [
        ("start", 3.0, "2026-11-29"),
        ("stop", 2.0, "2026-11-26"),
        ("pause", 5.0, "2025-12-31"),
    ]
    assert benchmarks_table(measured).splitlines()[2:4] == [
        "| start | 3 ms | it | 2 | 1.50 | ≤ 1 **missed** | 2026-11-29 |",
        "| stop | 2 ms | it | 2 | 1.00 | ≤ 1 ✓ | 2026-11-26 |",
    ]
    result(tmp_path, "yesterday.json")
    with pytest.raises(AssertionError, match="YEAR-MONTH-DAY"):
        newest(tmp_path)


def test_an_incomplete_figure_says_so() -> None:
    lossy = Figure("fan-out", "deliveries/s", 4.0, "Mosquitto", 2.0, at_least=1.0, incomplete="lost 1 of 9 messages")
    (row,) = benchmarks_table([Measured(lossy, "2026-11-30")]).splitlines()[2:]
    assert row.split(" | ")[5] == "≥ 1 **incomplete**: it lost 1 of 9 messages"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (4.38, 2, "4.4"),
        (28.2, 2, "28"),
        (9.97, 2, "10"),
        (6.94, 1, "7"),
        (64_623.0, 1, "60,000"),
        (99_780.0, 1, "100,000"),
        (0.366, 2, "0.37"),
        (0.0, 2, "0.0"),
    ],
)
def test_figures_are_rounded_to_their_digits(value: float, digits: int, text: str) -> None:
    assert rounded("it", digits)({"it": value}) == text


def test_a_figure_is_put_into_its_sentence() -> None:
    sentence = Sentence(BENCHMARKS_PAGE, "It takes {} s for {} devices.", (rounded("time", 2), whole("devices")))
    text = "1,000 devices. It takes 3.5 s\nfor 999 devices. And 4 s more."
    assert sentence.written(text, {"time": 12.34, "devices": 10_000.0}) == (
        "1,000 devices. It takes 12 s\nfor 10,000 devices. And 4 s more."
    )
    with pytest.raises(AssertionError, match="does not say any more: It takes"):
        sentence.written("It took 3.5 s for 999 devices.", {"time": 1.0, "devices": 1.0})


def test_a_sentence_has_no_figures_until_there_is_a_result() -> None:
    sentence = Sentence(BENCHMARKS_PAGE, "It takes {} s.", (rounded("time", 2),), unmeasured="It is quick.")
    assert sentence.written("So: It is\nquick. And", {}) == "So: It is\nquick. And"
    assert sentence.written("So: It is\nquick. And", {"time": 12.34}) == "So: It takes 12 s. And"
    assert sentence.written("So: It takes 12 s. And", {"time": 9.0}) == "So: It takes 9.0 s. And"
    with pytest.raises(AssertionError, match="has figures that no result has"):
        sentence.written("It takes 12 s.", {})
