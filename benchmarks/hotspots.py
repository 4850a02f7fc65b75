"""Where the CPU time of each stage goes, function by function, for each further record.

Run as: python -m benchmarks.hotspots [--sizes 50000,200000] [--kind text] [--destination duckdb] [--least 0.5].
"""

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from benchmarks.answers import write_answers
from benchmarks.night import DESTINATIONS, KINDS, Night
from benchmarks.records import make_records, place_records
from benchmarks.sampler import BELOW
from benchmarks.server import serving
from benchmarks.sides import measure_apart

STAGES = {
    "submit": ("records", "requests", "batches"),
    "collect": ("results",),
    "loop": ("build", "create", "results", "join"),
}
SKIPPED = 3  # functions of the benchmark itself, above a stage


def spent(profile: Path) -> Counter[tuple[str, ...]]:
    """Return the CPU seconds of each way through our functions, with what is called on it."""
    seconds: Counter[tuple[str, ...]] = Counter()
    for way, took in json.loads(profile.read_bytes()).items():
        names = way.split(BELOW)
        for depth in range(len(names)):
            seconds[tuple(names[: depth + 1])] += took
    return seconds


def tree_of(title: str, grown: dict[tuple[str, ...], float], least: float) -> Tree:
    """Return what grew by ``least`` or more as a tree, the dearest first."""
    tree = Tree(title)
    places: dict[tuple[str, ...], Tree] = {(): tree}
    for way, took in sorted(grown.items(), key=lambda item: (len(item[0]), -item[1])):
        above = places.get(way[:-1])
        if above is not None and took >= least:
            places[way] = above.add(f"{took:5.1f}  {escape(way[-1])}")
    return tree


@click.command()
@click.option("--sizes", default="50000,200000", help="Two numbers of records.")
@click.option("--kind", default=KINDS[0], type=click.Choice(KINDS))
@click.option("--destination", default=DESTINATIONS[0], type=click.Choice(DESTINATIONS))
@click.option(
    "--side", "sides", multiple=True, default=("submit", "collect"), type=click.Choice(list(STAGES))
)
@click.option("--least", default=0.5, help="µs that a function must take to be shown.")
def main(sizes: str, kind: str, destination: str, sides: tuple[str, ...], least: float) -> None:
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
                first, last = (
                    spent(folder / f"{side}-{rows}" / f"{stage}.json") for rows in (few, many)
                )
                grown = {
                    way[SKIPPED:]: (took - first[way]) / (many - few) * 1e6
                    for way, took in last.items()
                    if len(way) > SKIPPED
                }
                title = f"{stage} ({kind}, {destination}): µs CPU a further record"
                console.print(tree_of(title, grown, least))


if __name__ == "__main__":
    main()
