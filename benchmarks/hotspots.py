"""Where the CPU time of each stage goes, function by function, for each further record.

Run as: python -m benchmarks.hotspots [--sizes 50000,200000] [--kind text] [--destination duckdb] [--lines].
"""

import json
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.answers import write_answers
from benchmarks.night import DESTINATIONS, KINDS, Night
from benchmarks.records import make_records, place_records
from benchmarks.server import serving
from benchmarks.sides import measure_apart

STAGES = {
    "submit": ("records", "requests", "batches"),
    "collect": ("results",),
    "loop": ("build", "create", "results", "join"),
}
SHOWN = 14
LINE = re.compile(r":\d+ ")


def spent(profile: Path, *, by_line: bool) -> Counter[str]:
    """Return the CPU seconds by place; without lines, by function alone."""
    seconds: Counter[str] = Counter()
    for place, took in json.loads(profile.read_bytes()).items():
        seconds[place if by_line else LINE.sub(": ", place)] += took
    return seconds


@click.command()
@click.option("--sizes", default="50000,200000", help="Two numbers of records.")
@click.option("--kind", default=KINDS[0], type=click.Choice(KINDS))
@click.option("--destination", default=DESTINATIONS[0], type=click.Choice(DESTINATIONS))
@click.option(
    "--side", "sides", multiple=True, default=("submit", "collect"), type=click.Choice(list(STAGES))
)
@click.option("--lines", is_flag=True, help="Tell the lines of a function apart.")
def main(sizes: str, kind: str, destination: str, sides: tuple[str, ...], lines: bool) -> None:
    """Profile each stage at two sizes, and print what grows with the records."""
    few, many = (int(one) for one in sizes.split(","))
    console = Console(width=150)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_answers(folder)
        with serving(folder) as url:
            for rows in (few, many):
                night = Night(str(folder / "night"), url, rows, kind, destination)
                made = folder / f"{rows}.parquet"
                make_records(made, rows, wide=False)
                place_records(made, night)
                for side in sides:
                    measure_apart(side, night, folder / f"{side}-{rows}")
                shutil.rmtree(night.folder)
        for side in sides:
            for stage in STAGES[side]:
                least, most = (
                    spent(folder / f"{side}-{rows}" / f"{stage}.json", by_line=lines)
                    for rows in (few, many)
                )
                grown = {
                    name: (took - least.get(name, 0.0)) / (many - few) * 1e6
                    for name, took in most.items()
                }
                whole = sum(grown.values())
                table = Table(
                    "µs",
                    "function",
                    title=f"{side}: {stage}, {kind}, {destination}: {whole:.1f} µs CPU",
                )
                dearest = sorted(grown.items(), key=lambda item: -item[1])[:SHOWN]
                for name, took in dearest:
                    table.add_row(f"{took:.2f}", name)
                console.print(table)


if __name__ == "__main__":
    main()
