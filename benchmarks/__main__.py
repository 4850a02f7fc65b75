"""``make bench``: our stages beside the plain SDK loop, in one run, against one server."""

import json
import tempfile
from pathlib import Path

import click
from rich.console import Console

from benchmarks.answers import write_answers
from benchmarks.comparison import Plan, play
from benchmarks.night import DESTINATIONS, KINDS
from benchmarks.report import json_of, tables_of
from benchmarks.server import serving


def _numbers(_context: click.Context, _parameter: click.Parameter, given: str) -> tuple[int, ...]:
    return tuple(int(one) for one in given.split(",") if one.strip())


@click.command()
@click.option("--sizes", default="10000,50000", callback=_numbers, help="Numbers of records.")
@click.option("--repeat", default=1, help="How often each night is played; the medians count.")
@click.option("--wide", default="", callback=_numbers, help="Numbers of documents of 200 KB.")
@click.option("--changed", default=1_000, help="Records that change before the second night.")
@click.option("--kind", "kinds", multiple=True, default=KINDS, type=click.Choice(KINDS))
@click.option(
    "--destination",
    "destinations",
    multiple=True,
    default=DESTINATIONS,
    type=click.Choice(DESTINATIONS),
)
@click.option("--out", default=".bench/figures.json", type=click.Path(path_type=Path))
@click.option(
    "--folder", default=None, help="Where records and nights are written. Default: a temporary one."
)
def main(out: Path, folder: str | None, **given) -> None:
    """Measure nights of several sizes on both sides, print tables, and write all figures as JSON."""
    plan = Plan(**given)
    console = Console(width=160)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        write_answers(Path(scratch))
        with serving(Path(scratch)) as url:
            figures = play(plan, Path(scratch), url, console.print)
    for table in tables_of(figures):
        console.print(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(json_of(plan, figures), indent=1), encoding="utf-8")
    console.print(f"All figures: {out}")


if __name__ == "__main__":
    main()
