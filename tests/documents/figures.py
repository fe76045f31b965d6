"""Figures of benchmarks in the documents: those of the newest results (`tests/benchmarks/results`), nowhere typed.

A page says a figure in a sentence of its own, without any mark in it: which sentence holds which figure is known here.
`python -m tests.documents` writes the figures of the newest results into their sentences, and the table of
docs/benchmarks.md; `test_figures` compares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.comparison import Result
from tests.benchmarks.figures import Figure, number_text
from tests.documents.markdown import table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
RESULT_NAME = re.compile(r"(\d{4}-\d\d-\d\d)-[a-z-]+\.json")
BENCHMARKS_PAGE = "docs/benchmarks.md"
TABLE_HEAD = ("what", "ours", "beside", "it", "ours / it", "goal", "measured")
TABLE = re.compile(r"^\| what \| ours \|.*\n(?:\|.*\n)+", re.MULTILINE)
NUMBER = r"[0-9](?:[0-9.,]*[0-9])?"


@dataclass(frozen=True)
class Measured:
    """A figure and the day of its result."""

    figure: Figure
    date: str


def newest(folder: Path = RESULTS) -> list[Measured]:
    """The figures of all results, each of the newest that has it; those of the newest result first."""
    found: dict[tuple[str, str], Measured] = {}
    for path in sorted(folder.iterdir(), reverse=True):
        name = RESULT_NAME.fullmatch(path.name)
        assert name is not None, f"{path}: a result is called YEAR-MONTH-DAY-NAME.json"
        for figure in Result.read(path).figures:
            found.setdefault(figure.key, Measured(figure, name[1]))
    return list(found.values())


Values = Mapping[str, float]
"""Ours, by what was measured."""


def values(measured: Sequence[Measured]) -> Values:
    found: dict[str, float] = {}
    for one in measured:
        found.setdefault(one.figure.what, one.figure.ours)
    return found


# -- sentences ---------------------------------------------------------------------------------------------------------

Quantity = Callable[[Values], str]
"""A number of a sentence, as it is written there."""


def whole(what: str) -> Quantity:
    return lambda values: f"{values[what]:,.0f}"


def rounded(what: str, digits: int, invert: float | None = None) -> Quantity:
    """To so many digits. `invert`: this divided by the figure."""

    def text(values: Values) -> str:
        value = float(f"{values[what] if invert is None else invert / values[what]:.{digits}g}")
        before_point = math.floor(math.log10(value)) + 1 if value else 1
        return f"{value:,.{max(digits - before_point, 0)}f}"

    return text


@dataclass(frozen=True)
class Sentence:
    """Words of a page, in which `{}` stands for each quantity; spaces may be line ends there."""

    page: str
    words: str
    quantities: tuple[Quantity, ...]
    unmeasured: str | None = None
    """What the page says instead as long as no result has all of the figures."""

    def with_figures(self, values: Values) -> str:
        return self.words.format(*(quantity(values) for quantity in self.quantities))

    @property
    def pattern(self) -> re.Pattern[str]:
        """What it looks like with any figures."""
        return re.compile(f"({NUMBER})".join(_with_any_spaces(part).pattern for part in self.words.split("{}")))

    def written(self, text: str, values: Values) -> str:
        """The page's text with these figures."""
        if self.unmeasured is not None:
            instead = _with_any_spaces(self.unmeasured).search(text)
            try:
                words = self.with_figures(values)
            except KeyError:
                assert instead is not None, f"{self.page} has figures that no result has: {self.words}"
                return text
            if instead is not None:
                text = text[: instead.start()] + words + text[instead.end() :]
        found = self.pattern.search(text)
        assert found is not None, f"{self.page} does not say any more: {self.words}"
        for number, quantity in reversed(list(enumerate(self.quantities, 1))):
            text = text[: found.start(number)] + quantity(values) + text[found.end(number) :]
        return text


def _with_any_spaces(words: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"(\\ )+", r"\\s+", re.escape(words)))


SINGLE, STREAM = "fan-out to 10,000, single push", "fan-out to 10,000, stream"
REQUESTS, BATCHES = "single pushes", "batches of 10,000"
RETURN = "10,000 devices return to 10 pushes each: all connected"
HANDSHAKES = "TLS handshakes and connects"
IDLE = "memory of an idle device"
RESTART = "restart after kill -9, 1,000,000 waiting"
LATENCY = "request to device socket at 1,000/s, p99"
SEGMENT = "segment of 1,000,000"

# Of a node over PostgreSQL, by `node_deliveries` and `node_sessions`:
NODE_STREAM, NODE_SINGLES = "push to 10,000 over PostgreSQL, stream", "single pushes until stored, over PostgreSQL"
NODE_CONNECTS = "connects of 10,000 authenticated devices, at a node"
NODE_IDLE, NODE_BARE = "memory of an idle device on a node", "memory of a node without devices"
NODE_NEWS = "PostgreSQL, for a node that a push is not for"
WAL_SINGLE = "WAL of a single push on two nodes"
WAL_DELIVERY = "WAL of a delivery, push to 10,000 of 100,000 on two nodes, alone"

SENTENCES = (
    Sentence(
        "README.md",
        "| one push to 10,000 devices | {} deliveries/s; {} in a stream of pushes |",
        (whole(SINGLE), whole(STREAM)),
    ),
    Sentence("README.md", "| pushes accepted one by one, in batches | {}/s, {}/s |", (whole(REQUESTS), whole(BATCHES))),
    Sentence("README.md", "| 10,000 devices that return at once | connected in {} s |", (rounded(RETURN, 2),)),
    Sentence(
        "README.md",
        "| memory of an idle device | {} KiB; {} KiB over TLS |",
        (rounded(IDLE, 2), rounded(f"{IDLE} over TLS", 2)),
    ),
    Sentence(
        "README.md", "| restart after `kill -9` with a million waiting deliveries | {} s |", (rounded(RESTART, 2),)
    ),
    Sentence(
        "docs/operate/sizing.md",
        "| an idle device | {} KiB of memory; {} KiB over WebSocket, {} KiB over TLS, {} KiB over both |",
        (
            rounded(IDLE, 2),
            rounded(f"{IDLE} over WebSocket", 2),
            rounded(f"{IDLE} over TLS", 2),
            rounded(f"{IDLE} over WebSocket in TLS", 2),
        ),
    ),
    Sentence(
        "docs/operate/sizing.md",
        "Ten thousand that return at once are back in {} s in the clear, and in {} s over TLS.",
        (rounded(RETURN, 2), rounded(HANDSHAKES, 1, invert=10_000)),
    ),
    Sentence(
        "docs/operate/sizing.md",
        "Some {} a second one by one, {} in batches; {} to {} deliveries a second to devices that are there.",
        (rounded(REQUESTS, 1), rounded(BATCHES, 2), rounded(SINGLE, 1), rounded(STREAM, 1)),
    ),
    Sentence(
        "docs/operate/sizing.md",
        "At 1,000 pushes a second the request reaches the device's socket within {} ms at the 99th percentile.",
        (rounded(LATENCY, 2),),
    ),
    Sentence(
        "docs/operate/network.md",
        "10,000 devices need {} s to come back instead of {}, and a connection {} KiB instead of {} ([measured]",
        (
            rounded(HANDSHAKES, 1, invert=10_000),
            rounded(RETURN, 2),
            rounded(f"{IDLE} over TLS", 2),
            rounded(IDLE, 1),
        ),
    ),
    Sentence(
        "docs/segments.md",
        "Of 1,000,000 devices, those with one value of a thousand are found in {} ms, those of an old version in {} ms,"
        " and those that were seen within a week, for which all are looked at, in {} ms ([measured](benchmarks.md)):",
        (
            rounded(f"{SEGMENT}: an attribute, one value of a thousand", 2),
            rounded(f"{SEGMENT}: an old version", 2),
            rounded(f"{SEGMENT}: seen within a week", 2),
        ),
        unmeasured="Of 1,000,000 devices, most expressions select their devices in less than half a second:",
    ),
    Sentence("broker/README.md", "An idle durable device takes {} KiB of memory,", (rounded(IDLE, 2),)),
)


# -- the table ---------------------------------------------------------------------------------------------------------


def benchmarks_table(measured: Sequence[Measured]) -> str:
    return table(TABLE_HEAD, [_row(one) for one in measured]) + "\n"


def _row(one: Measured) -> tuple[str, ...]:
    figure = one.figure
    verdict = {True: " ✓", False: " **missed**", None: ""}[figure.is_met]
    if figure.incomplete is not None:
        verdict = f" **incomplete**: it {figure.incomplete}"
    ours, other = f"{number_text(figure.ours)} {figure.unit}", number_text(figure.other)
    goal = f"{figure.goal}{verdict}".strip()
    return figure.what, ours, figure.beside, other, f"{figure.ratio:.2f}", goal, one.date


# -- pages -------------------------------------------------------------------------------------------------------------


def pages(measured: Sequence[Measured]) -> dict[Path, str]:
    """The text with the newest figures of every page that has any."""
    found = values(measured)
    texts = {name: (ROOT / name).read_text() for name in (BENCHMARKS_PAGE, *(one.page for one in SENTENCES))}
    for sentence in SENTENCES:
        texts[sentence.page] = sentence.written(texts[sentence.page], found)
    texts[BENCHMARKS_PAGE], count = TABLE.subn(lambda _: benchmarks_table(measured), texts[BENCHMARKS_PAGE])
    assert count == 1, f"{BENCHMARKS_PAGE} has the table of figures once"
    return {ROOT / name: text for name, text in texts.items()}


def write(measured: Sequence[Measured]) -> Iterator[Path]:
    """Write the pages whose figures are others now; yield them."""
    for path, text in pages(measured).items():
        if path.read_text() != text:
            path.write_text(text)
            yield path
