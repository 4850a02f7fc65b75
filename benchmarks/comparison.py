"""Nights played by both sides, and what comes out of comparing them."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.meter import Taken
from benchmarks.night import DESTINATIONS, KINDS, Night
from benchmarks.records import change_records, make_records, place_records
from benchmarks.sides import measure_apart

OURS, LOOP, CHANGED, DAGSTER = "batch_pipeline", "loop", "second night", "dagster"
WIDE_REQUESTS = 1_000  # a batch: 200 MB of documents
WHOLE = "all"
COUNTERPARTS = {
    "records": ("read",),
    "requests": ("build",),
    "batches": ("create", "wait"),
    "results": ("results", "join"),
    WHOLE: (WHOLE,),
}
"""By stage of ours, the stages of the loop that do the same."""


@dataclass(frozen=True)
class Plan:
    """What is played.

    Attributes:
        sizes: numbers of records of 1 KB.
        repeat: how often each night is played; the medians count.
        wide: numbers of documents of 200 KB; they are asked for plain text, and not by the loop.
        changed: records that change before a second night, which is played for plain text.
        kinds: of answers.
        destinations: of them.
    """

    sizes: Sequence[int]
    repeat: int = 1
    wide: Sequence[int] = ()
    changed: int = 1_000
    kinds: Sequence[str] = KINDS
    destinations: Sequence[str] = DESTINATIONS


@dataclass(frozen=True)
class Figure:
    """What one stage of one night took."""

    side: str
    stage: str
    rows: int
    kind: str
    destination: str
    wide: bool
    repetition: int
    taken: Taken

    def to_json(self) -> dict[str, Any]:
        """Return it flat."""
        flat = asdict(self)
        return flat | flat.pop("taken")


def play(
    plan: Plan,
    folder: Path,
    url: str,
    tell: Callable[[str], None] = lambda _: None,
    measure: Callable[[str, Night], dict[str, Taken]] = measure_apart,
) -> list[Figure]:
    """Play all nights of a plan.

    Args:
        plan: which.
        folder: gets the records, and for a while what a night writes.
        url: of the server.
        tell: gets a line per night.
        measure: runs a side.
    """
    figures = []
    for wide, sizes in ((False, plan.sizes), (True, plan.wide)):
        for rows in sizes:
            make_records(folder / f"{rows}-{wide}.parquet", rows, wide=wide)
    for repetition in range(plan.repeat):
        for number, (night, made) in enumerate(_nights(plan, folder, url)):
            tell(
                f"{night.rows:,} {'documents' if night.wide else 'records'}, {night.kind}, "
                f"{night.destination}, {repetition + 1} of {plan.repeat}"
            )
            place_records(made, night)
            taken = _play_one(plan, night, measure, overhead=number == 0)
            figures += [
                Figure(side, stage, night.rows, night.kind, night.destination, night.wide, repetition, one)
                for side, stages in taken.items()
                for stage, one in stages.items()
            ]  # fmt: skip
            shutil.rmtree(night.folder)
    return figures


def _nights(plan: Plan, folder: Path, url: str) -> Iterator[tuple[Night, Path]]:
    """Yield each night of a repetition, and where its records were made."""
    where = str(folder / "night")
    for rows in plan.sizes:
        for kind in plan.kinds:
            for destination in plan.destinations:
                yield Night(where, url, rows, kind, destination), folder / f"{rows}-False.parquet"
    for rows in plan.wide:
        for destination in plan.destinations:
            night = Night(where, url, rows, KINDS[0], destination, WIDE_REQUESTS, wide=True)
            yield night, folder / f"{rows}-True.parquet"


def _play_one(
    plan: Plan,
    night: Night,
    measure: Callable[[str, Night], dict[str, Taken]],
    overhead: bool,
) -> dict[str, dict[str, Taken]]:
    """Play a night on both sides; return what each took."""
    played = {OURS: measure("submit", night) | measure("collect", night)}
    if not night.wide:
        played[LOOP] = measure("loop", night)
        if plan.changed and not night.structured and night.rows == max(plan.sizes):
            change_records(night, plan.changed)
            played[CHANGED] = measure("submit", night) | measure("collect", night)
    for stages in played.values():
        stages[WHOLE] = _together(list(stages.values()))
    if overhead:
        played[DAGSTER] = measure("overhead", night)
    return played


def _together(stages: Sequence[Taken]) -> Taken:
    return Taken(
        cpu_s=sum(one.cpu_s for one in stages),
        wall_s=sum(one.wall_s for one in stages),
        peak_mb=max(one.peak_mb for one in stages),
        sent=sum(one.sent for one in stages),
        received=sum(one.received for one in stages),
    )


@dataclass(frozen=True)
class Line:
    """What the repetitions of one stage come to, over all sizes.

    Attributes:
        side: whose.
        stage: which, or `WHOLE`.
        taken: medians, by number of records.
    """

    side: str
    stage: str
    taken: dict[int, Taken]

    @property
    def further_us(self) -> float | None:
        """CPU microseconds for each further record, from the least size to the greatest."""
        least, most = min(self.taken), max(self.taken)
        if least == most:
            return None
        return (self.taken[most].cpu_s - self.taken[least].cpu_s) / (most - least) * 1e6


def lines_of(figures: Sequence[Figure]) -> list[Line]:
    """Return the medians of figures of one kind and destination, stage by stage."""
    stages = dict.fromkeys((one.side, one.stage) for one in figures)
    return [
        Line(side, stage, _medians([f for f in figures if (f.side, f.stage) == (side, stage)]))
        for side, stage in stages
    ]


def _medians(figures: Sequence[Figure]) -> dict[int, Taken]:
    sizes = dict.fromkeys(one.rows for one in figures)
    by_size = {rows: [one.taken for one in figures if one.rows == rows] for rows in sizes}
    return {
        rows: Taken(
            cpu_s=median(one.cpu_s for one in taken),
            wall_s=median(one.wall_s for one in taken),
            peak_mb=median(one.peak_mb for one in taken),
            sent=int(median(one.sent for one in taken)),
            received=int(median(one.received for one in taken)),
        )
        for rows, taken in by_size.items()
    }


def ratios_of(lines: Sequence[Line]) -> dict[str, float]:
    """Return, by stage of ours, its CPU a further record as a part of the loop's; one size: of all CPU."""
    found = {(line.side, line.stage): line for line in lines}
    ratios = {}
    for stage, others in COUNTERPARTS.items():
        ours = found.get((OURS, stage))
        theirs = [found[LOOP, one] for one in others if (LOOP, one) in found]
        if ours is None or not theirs:
            continue
        base = sum(_cost(one) for one in theirs)
        if base > 0:
            ratios[stage] = _cost(ours) / base
    return ratios


def _cost(line: Line) -> float:
    further = line.further_us
    return line.taken[max(line.taken)].cpu_s if further is None else further
