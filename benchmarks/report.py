"""The figures of a comparison as tables, and as JSON."""

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.comparison import (
    CHANGED,
    DAGSTER,
    OURS,
    WHOLE,
    Figure,
    Line,
    Plan,
    lines_of,
    ratios_of,
)

LIBRARIES = ("anthropic", "dagster", "duckdb", "pandas", "pyarrow", "pydantic")


def groups_of(figures: Sequence[Figure]) -> Iterator[tuple[str, list[Figure]]]:
    """Yield the figures of each kind of records, answers and destination, with a title."""

    def group(figure: Figure) -> tuple[bool, str, str]:
        return figure.wide, figure.kind, figure.destination

    compared = [one for one in figures if one.side != DAGSTER]
    for (wide, kind, destination), some in groupby(sorted(compared, key=group), key=group):
        yield (
            f"{'documents of 200 KB' if wide else 'records of 1 KB'}, {kind}, {destination}",
            list(some),
        )


def tables_of(figures: Sequence[Figure]) -> Iterator[Table]:
    """Yield a table for each group, and one of Dagster's own part."""
    for title, some in groups_of(figures):
        yield _table(title, lines_of(some))
    own = lines_of([one for one in figures if one.side == DAGSTER])
    if own:
        table = Table("", "CPU s", "peak MB", title="Dagster's own part")
        for line in own:
            (taken,) = line.taken.values()
            table.add_row(line.stage, f"{taken.cpu_s:.2f}", f"{taken.peak_mb:.0f}")
        yield table


def _table(title: str, lines: Sequence[Line]) -> Table:
    sizes = sorted({rows for line in lines for rows in line.taken})
    most = sizes[-1]
    table = Table("side", "stage", title=title)
    for rows in sizes:
        table.add_column(f"CPU s\n{rows:,}", justify="right")
    for heading in (
        "µs CPU a\nfurther record", "of the\nloop", f"wall s\n{most:,}", "rows/s", "peak MB", "MB sent", "MB received"
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    ratios = ratios_of(lines)
    for place, line in enumerate(lines):
        taken = line.taken.get(most)
        ratio = ratios.get(line.stage) if line.side == OURS else None
        table.add_row(
            line.side if place == 0 or lines[place - 1].side != line.side else "",
            line.stage,
            *(f"{line.taken[n].cpu_s:.2f}" if n in line.taken else "" for n in sizes),
            "" if line.further_us is None else f"{line.further_us:.1f}",
            "" if ratio is None else f"{ratio:.2f}",
            *(("",) * 5 if taken is None else (
                f"{taken.wall_s:.1f}",
                f"{most / taken.wall_s:,.0f}" if taken.wall_s and line.side != CHANGED else "",
                f"{taken.peak_mb:.0f}",
                f"{taken.sent / 1e6:.1f}",
                f"{taken.received / 1e6:.1f}",
            )),
            end_section=line.stage == WHOLE,
        )  # fmt: skip
    return table


def json_of(plan: Plan, figures: Sequence[Figure]) -> dict[str, Any]:
    """Return all that was measured, and what it was measured on."""
    summary = {}
    for title, some in groups_of(figures):
        lines = lines_of(some)
        summary[title] = {
            "cpu_us_a_further_record": {
                f"{line.side}: {line.stage}": line.further_us for line in lines
            },
            "of_the_loop": ratios_of(lines),
            "second_night_of_the_full_one": _second_night(lines),
        }
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "processor": _processor(),
            "system": platform.platform(),
            "load": os.getloadavg(),
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "plan": vars(plan),
        "summary": summary,
        "figures": [one.to_json() for one in figures],
    }


def _second_night(lines: Sequence[Line]) -> float | None:
    """Return the CPU of a night in which little changed, as a part of the full one's."""
    whole = {line.side: line.taken for line in lines if line.stage == WHOLE}
    if CHANGED not in whole:
        return None
    rows = max(whole[CHANGED])
    return whole[CHANGED][rows].cpu_s / whole[OURS][rows].cpu_s


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
