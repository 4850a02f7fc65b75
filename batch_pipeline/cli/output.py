"""What the command line prints: readable in a terminal of 80 columns, in a pipe, and as JSON.

Whatever comes from records, errors or the API is printed as text: no markup, no control characters.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from io import StringIO
from typing import IO, Any

import click
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.store.variants import partition_of, variant_of

MOST_WIDTH = 120  # longer lines are hard to read
GAP = 2
LEAST_WIDTH = 8
INDENT = 4

WAITS_FOR_A_PERSON = 3
"""The exit code of a command that found something which only a person can decide."""
DECISION_EXIT_CODES = "Exit code: 0 done, or nothing to do; 1 an error; 2 wrong usage; 3 something waits for a person."


class RefusedError(click.ClickException):
    """An error of ours, shown as what it says."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it, like a note."""
        warn(f"Error: {self.message}")


def errors_shown(command: Callable[..., None]) -> Callable[..., None]:
    """Show errors of ours without a traceback."""

    @functools.wraps(command)
    def speak(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except BatchPipelineError as error:
            raise RefusedError(str(error)) from error
        except Exception as error:
            from batch_pipeline.store.trouble import meaning_of

            meant = meaning_of(error)
            if meant is None:
                raise
            raise RefusedError(str(meant)) from error

    return speak


def json_option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option ``--json`` of a command, with what its help says."""
    return click.option("--json", "as_json", is_flag=True, help=text)


@dataclass(frozen=True)
class Row:
    """A line of a listing.

    Attributes:
        cells: what stands in the columns, in their order.
        below: sentences under the line; empty ones are left out.
        todo: what a person must do; it stands out.
    """

    cells: Sequence[object]
    below: Sequence[object] = ()
    todo: object = None


def say(text: object) -> None:
    """Print a paragraph."""
    with _printing() as console:
        console.print(Text(plain(text)))


def warn(text: str) -> None:
    """Print a paragraph beside the answer, on the error stream; only a terminal breaks its lines."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(Text(plain(text)))
    else:
        click.echo(plain(text), err=True)


def listing(title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Print rows under a title and column names, with sentences under each; nothing without rows.

    Numbers stand on the right. A column that is empty in all rows is left out.

    Args:
        title: what they are.
        columns: the columns' names.
        rows: what to print.
    """
    if not rows:
        return
    with _printing() as console:
        for line in listed(title, columns, rows, console.width):
            console.print(line)


def listed(
    title: str, columns: Sequence[str], rows: Sequence[Row], room: int
) -> Iterator[RenderableType]:
    """Yield what ``listing`` prints, for a place of ``room`` columns."""
    kept = [index for index in range(len(columns)) if any(plain(row.cells[index]) for row in rows)]
    names = [columns[index] for index in kept]
    table = [[plain(row.cells[index]) for index in kept] for row in rows]
    right = [any(isinstance(row.cells[index], int) for row in rows) for index in kept]
    widths = [max(map(cell_len, column)) for column in zip(names, *table, strict=True)]
    widths = _fitted(widths, room)
    yield Text(plain(title), style="bold")
    if any(names):
        yield _line(names, widths, right, "dim")
    for row, cells in zip(rows, table, strict=True):
        yield _line(cells, widths, right, "")
        for text in filter(None, row.below):
            yield _indented(plain(text), "")
        if row.todo:
            yield _indented(f"To do: {plain(row.todo)}", "bold")
    yield Text()


def fields_of(one: Any) -> dict[str, Any]:
    """Return the fields of a dataclass for JSON; of what the ledger calls a partition, its key and the variant."""
    found = asdict(one)
    if (name := found.get("partition")) is not None:
        found |= {"partition": partition_of(name), "variant": variant_of(name) or None}
    return found


def print_json(value: Any) -> None:
    """Print a value as JSON, times in ISO 8601."""
    click.echo(json.dumps(value, default=_jsonable, indent=2))


def print_json_line(value: Any) -> None:
    """Print a value as JSON in one line."""
    click.echo(json.dumps(value, default=_jsonable))


def in_usd(usd: Decimal | None) -> str:
    """Return a sum of money, to the hundredth of a cent; to the millionth of a dollar below that."""
    if usd is None:
        return "unknown"
    return f"${usd:,.4f}" if usd == 0 or abs(usd) >= Decimal("0.01") else f"${usd:,.6f}"


def confirm(question: str, yes: bool, otherwise: str) -> None:
    """Ask a person, on the error stream; ``yes`` is the answer given beforehand.

    Raises:
        RefusedError: the answer is no, or nobody can be asked; it says ``otherwise``.
    """
    try:
        if yes or click.confirm(plain(question), err=True):
            return
    except click.Abort:
        click.echo(err=True)
        otherwise += " Say --yes where nobody can be asked."
    raise RefusedError(otherwise)


def plain(value: object) -> str:
    """Return a value as text that cannot steer a terminal: control characters are shown, not sent."""
    if value is None:
        return ""
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def _indented(text: str, style: str) -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, INDENT))


@contextmanager
def _printing() -> Iterator[Console]:
    """Give a console; what is not for a terminal gets a fixed width, and no blanks at line ends."""
    plainly: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    terminal = Console(**plainly)
    if terminal.is_terminal:
        yield Console(**plainly, width=min(terminal.width, MOST_WIDTH))
        return
    lines = StringIO()
    yield Console(**plainly, width=MOST_WIDTH, file=lines, color_system=None)
    for line in lines.getvalue().splitlines():
        click.echo(line.rstrip())


def _fitted(widths: list[int], room: int) -> list[int]:
    """Return the widths, the widest made smaller until all fit."""
    widths = list(widths)
    while sum(widths) + GAP * (len(widths) - 1) > room and max(widths) > LEAST_WIDTH:
        widths[widths.index(max(widths))] -= 1
    return widths


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], style: str) -> Table:
    line = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    for width, is_number in zip(widths, right, strict=True):
        line.add_column(
            width=width, overflow="fold", justify="right" if is_number else "left", style=style
        )
    line.add_row(*(Text(cell) for cell in cells))
    return line


def _jsonable(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
