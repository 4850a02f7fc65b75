"""What the demo shows: stages as they are done, bars while batches are open, tables at the end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from batch_pipeline.demo.bill import Bill, Tally
from batch_pipeline.demo.night import Said
from batch_pipeline.demo.packages import SectionAccuracy

WIDTH = 120
LONG = 18
GAP = 2
SHOWN_SECTIONS = 12
# Lines that say again what the next line sums up.
CHATTER = ("wrote ", "sent ")


class Screen:
    """Prints to a terminal, or line by line to a file."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        if not self.console.is_terminal and self.console.width < WIDTH:
            self.console = Console(file=self.console.file, width=WIDTH)

    def head(self, text: str) -> None:
        """Print a heading."""
        self.console.print()
        self.console.rule(f"[bold]{text}[/bold]", align="left")

    def say(self, text: str, style: str = "") -> None:
        """Print a line."""
        self.console.print(text, style=style, highlight=False, markup=False)

    def stage(self, pipeline: str, said: Said) -> None:
        """Print what a stage of a pipeline said."""
        text = said.text.removeprefix(f"{pipeline}: ")
        if said.warning:
            self._line(pipeline, said.stage, f"! {text}", "yellow")
        elif not text.startswith(CHATTER):
            self._line(pipeline, said.stage, text, "")

    def _line(self, pipeline: str, stage: str, text: str, style: str) -> None:
        self.console.print(
            f"[bold]{pipeline:<9}[/bold][cyan]{stage:<10}[/cyan]", end="", highlight=False
        )
        self.console.print(text, style=style, highlight=False, markup=False)

    @contextmanager
    def watching(self, pipelines: Sequence[str]) -> Iterator["Watch"]:
        """Give a watch on the open batches of some pipelines."""
        if not self.console.is_terminal:
            yield LineWatch(self)
            return
        columns = (
            TextColumn("[bold]{task.description:<9}[/bold][cyan]batches   [/cyan]"),
            SpinnerColumn(),
            TextColumn("{task.fields[batches]}"),
            BarColumn(40),
            MofNCompleteColumn(),
            TextColumn("requests"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            yield BarWatch(bars, pipelines)

    def table(
        self, title: str, rows: Sequence[Mapping[str, Any]], widths: Mapping[str, int]
    ) -> None:
        """Print rows with these columns, each cut to its width."""
        table = _table(title)
        # On a narrow terminal the long columns give way, not the short ones.
        long = sum(width for width in widths.values() if width >= LONG)
        room = self.console.width - sum(widths.values()) - GAP * (len(widths) + 1)
        fitted = {
            name: width if width < LONG or room >= 0 else max(1, width + room * width // long)
            for name, width in widths.items()
        }
        for name, width in fitted.items():
            table.add_column(name, no_wrap=True, width=width)
        for row in rows:
            table.add_row(*(_cell(row[name], width) for name, width in fitted.items()))
        self.console.print(table, highlight=False, markup=False)

    def accuracy(self, sections: Sequence[SectionAccuracy], total: SectionAccuracy) -> None:
        """Print how often the packages' answers are right."""
        table = _table("Accuracy by section (the largest)")
        for name in ("section", "packages", "right", "accuracy") * 2:
            table.add_column(name, justify="left" if name == "section" else "right")
        shown = sections[:SHOWN_SECTIONS]
        half = (len(shown) + 1) // 2
        for left, right in zip(shown[:half], [*shown[half:], None][:half], strict=False):
            table.add_row(*_accuracy_cells(left), *(_accuracy_cells(right) if right else [""] * 4))
        self.console.print(table, highlight=False)
        self.say(
            f"{total.right:,} of {total.packages:,} packages got the section that Debian gave "
            f"them: {total.share:.1%}."
        )

    def bills(self, bills: Sequence[Bill], total: Bill) -> None:
        """Print what was sent and paid."""
        table = _table("Bill so far, from the ledger", show_footer=True)
        columns = (
            ("pipeline", lambda one: one.name),
            ("batches", lambda one: f"{one.batches:,}"),
            ("requests", lambda one: f"{one.requests:,}"),
            ("charged", lambda one: f"{one.charged:,}"),
            ("input tokens", lambda one: f"{one.input_tokens:,}"),
            ("cache written", lambda one: f"{one.cache_write_tokens:,}"),
            ("cache read", lambda one: f"{one.cache_read_tokens:,}"),
            ("output tokens", lambda one: f"{one.output_tokens:,}"),
            (
                "cost",
                lambda one: (
                    dollars(one.usd) + (f" + {one.unknown:,} unknown" if one.unknown else "")
                ),
            ),
        )
        for name, cell in columns:
            table.add_column(
                name, footer=cell(total), justify="left" if name == "pipeline" else "right"
            )
        for one in bills:
            table.add_row(*(cell(one) for _, cell in columns))
        self.console.print(table, highlight=False)


class Watch:
    """Shows how far open batches are."""

    def update(self, pipeline: str, now: Tally) -> None:
        """Show a pipeline's new standing."""
        raise NotImplementedError


class BarWatch(Watch):
    """A bar per pipeline."""

    def __init__(self, bars: Progress, pipelines: Sequence[str]) -> None:
        self._bars = bars
        self._tasks = {name: bars.add_task(name, total=None, batches="") for name in pipelines}

    def update(self, pipeline: str, now: Tally) -> None:
        """Move a bar."""
        self._bars.update(
            self._tasks[pipeline],
            total=now.requests or None,
            completed=now.requests_done,
            batches=f"{now.batches_done} of {now.batches} ended",
            visible=bool(now.batches),
        )


class LineWatch(Watch):
    """A line whenever something changed, for output that is no terminal."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._last: dict[str, Tally] = {}
        self._since = time.monotonic()

    def update(self, pipeline: str, now: Tally) -> None:
        """Print a line, if anything changed."""
        before = self._last.get(pipeline)
        if now.batches and (
            before is None
            or (now.batches, now.batches_done) != (before.batches, before.batches_done)
        ):
            self._screen.stage(
                pipeline,
                Said(
                    "batches",
                    False,
                    f"{now.batches_done} of {now.batches} batches ended, {now.requests_done:,} of "
                    f"{now.requests:,} requests, after {time.monotonic() - self._since:.0f} s",
                ),
            )
        self._last[pipeline] = now


def _table(title: str, **more: Any) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        **more,
    )


def dollars(amount: Decimal) -> str:
    """Return an amount as people write it."""
    return f"${amount:,.4f}"


def _accuracy_cells(one: SectionAccuracy) -> list[str]:
    return [one.section, f"{one.packages:,}", f"{one.right:,}", f"{one.share:.0%}"]


def _cell(value: Any, width: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, int | float):
        return f"{value:,.10g}"
    text = str(value)
    return text if len(text) <= width else text[: width - 1] + "…"
