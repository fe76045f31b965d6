"""A simulation while it runs: one screen of figures that change, or, where nobody watches, a line now and then."""

from __future__ import annotations

from collections import deque

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client_sim.simulator import report_terms
from client_sim.simulator.simulation_report import Sample

LINE_SECONDS = 10
"""The time between two lines in a log."""
TREND = "▁▂▃▄▅▆▇█"
TREND_SECONDS = 60
MIB_BYTES = 1024**2


class SilentWatcher:
    """The receiver of a running simulation's progress; this one shows nothing."""

    def phase(self, name: str, description: str) -> None:
        """A phase begins, or what comes before and after them."""

    def second(self, sample: Sample) -> None:
        """One more second has passed."""


class Progress(SilentWatcher):
    """A context manager: what it has drawn is gone at its end, so that the report stands alone."""

    def __init__(self, console: Console, title: str, devices: int) -> None:
        self._console = console
        self._title = title
        self._devices = devices
        self._phase = ("", "")
        self._accepted = self._delivered = self._receipts = 0
        self._trend: deque[int] = deque(maxlen=TREND_SECONDS)
        self._last: Sample | None = None
        self._live = (
            Live(get_renderable=self._screen, console=console, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def phase(self, name: str, description: str) -> None:
        self._phase = (name, description)
        if self._live is None:
            self._line(f"{name}: {description}" if description else name)

    def second(self, sample: Sample) -> None:
        self._last = sample
        self._accepted += sample.accepted
        self._delivered += sample.delivered
        self._receipts += sample.receipts
        self._trend.append(sample.delivered)
        if self._live is None and int(sample.at) % LINE_SECONDS == 0:
            self._line("  " + "  ".join(" ".join(pair) for pair in self._figures(sample)))

    def _line(self, words: str) -> None:
        """Print a line to a log, as long as it is."""
        self._console.print(_text(words), highlight=False, soft_wrap=True)

    def _figures(self, sample: Sample) -> list[tuple[str, str]]:
        said = [
            ("at", report_terms.span(sample.at)),
            ("online", f"{report_terms.count(sample.online)} of {report_terms.count(self._devices)}"),
            ("accepted", report_terms.count(self._accepted)),
            ("delivered", f"{report_terms.count(self._delivered)} ({report_terms.count(sample.delivered)}/s)"),
            ("receipts", report_terms.count(self._receipts)),
            ("p50", report_terms.milliseconds(sample.p50_ms)),
            ("p99", report_terms.milliseconds(sample.p99_ms)),
        ]
        if sample.server_cores is not None and sample.server_memory is not None:
            said.append(("server", f"{sample.server_cores:.2f} cores, {sample.server_memory / MIB_BYTES:.0f} MiB"))
        said.append(("simulator", f"{sample.simulator_cores:.2f} cores, {sample.simulator_memory / MIB_BYTES:.0f} MiB"))
        said.append(("lag", report_terms.milliseconds(sample.loop_lag_ms)))
        return said

    def _screen(self) -> RenderableType:
        head = Text.assemble(
            (report_terms.printable(self._title), "bold"), "  ", (report_terms.printable(self._phase[0]), "cyan")
        )
        body = _text(self._phase[1], "dim")
        if self._last is None:
            return Group(head, body)
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
        pairs = self._figures(self._last)
        half = (len(pairs) + 1) // 2
        for row in range(half):
            cells = [*pairs[row], *(pairs[row + half] if row + half < len(pairs) else ("", ""))]
            table.add_row(*(_text(cell, "dim" if column % 2 == 0 else "") for column, cell in enumerate(cells)))
        highest = max(self._trend, default=0) or 1
        trend = "".join(TREND[value * (len(TREND) - 1) // highest] for value in self._trend)
        return Group(head, body, table, Text.assemble(("deliveries/s  ", "dim"), (trend, "green")))


def _text(words: str, style: str = "") -> Text:
    return Text(report_terms.printable(words), style=style)
