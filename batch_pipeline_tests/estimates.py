"""What estimates and reserves are worth: random nights with faults and caching, against the emulator's bill.

    python -m batch_pipeline_tests.estimates [--nights 50] [--records 12000] [--start SEED]

Each walk is a pipeline of its own with three nights of history; those after them are measured: what was expected and
reserved before sending beside what it did cost. `make soak` plays it, and fails where a promise does not hold.
"""

import logging
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import click
import duckdb
from sqlalchemy import select

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches, DuckDBSource, MessageTemplate
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.requests.prices import price_of, utc_day
from batch_pipeline.requests.weight import Weight
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.standing import standing
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import (
    FileKind,
    FileState,
    request_files,
    reservations,
    submissions,
)
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.stage_calls import StageCalls

HISTORY = 3
MEASURED = 5  # nights of a walk, after these
MEDIAN, P95, MOST_RESERVED = 0.05, 0.10, 1.3
MOST_TICKS = 60
NANO = Decimal(10) ** 9
WORDS = "invoice amount Contoso due paid twenty widgets rent travel net tax of May to be paid in Bonn".split()
FAULTS: list[tuple[str, str, dict[str, Any]]] = [
    ("create", "drop_before", {}),
    ("create", "drop_after", {}),
    ("create", "status_before", {"status": 500}),
    ("create", "status_before", {"status": 529}),
    ("create", "status_before", {"status": 413}),
    ("create", "status_after", {"status": 504}),
    ("create", "cut_body", {}),
    ("list", "drop_before", {}),
    ("retrieve", "status_before", {"status": 529}),
    ("results", "drop_before", {}),
    ("results", "cut_results_mid_line", {"line": 1}),
    ("results", "line_twice", {}),
]  # fmt: skip
ENTRY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "summary": {"type": "string"},
        "kind": {"type": "string", "enum": ["it", "travel", "rent", "other"]},
    },
    "required": ["summary", "kind"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Measured:
    """A night's figures in USD: what was said before, and what it cost."""

    walk: int
    night: int
    expected: float
    reserved: float
    actual: float

    @property
    def error(self) -> float:
        """By which part the expected cost was wrong."""
        return abs(self.expected - self.actual) / self.actual

    @property
    def ratio(self) -> float:
        """What was reserved, by what it did cost."""
        return self.reserved / self.actual


@dataclass(frozen=True)
class Walked:
    """A walk: what it is, its measured nights, all that it reserved, its ledger's sums and the emulator's bill."""

    said: str
    nights: list[Measured]
    reserved: Decimal
    ledger: Decimal
    settled: Decimal
    bill: Decimal


def walk(seed: int, folder: Path, emulator: EmulatorProcess, records: int, measured: int) -> Walked:
    """Play a pipeline's nights, as a seed says.

    Args:
        seed: decides texts, question, rates and faults.
        folder: an empty one.
        emulator: of this walk alone.
        records: how many there are; each night a third to all of them change.
        measured: nights after the history.
    """
    chance = random.Random(seed)
    rates = {
        "errored": chance.uniform(0, 0.05),
        "expired": chance.uniform(0, 0.03),
        "truncated": chance.uniform(0, 0.01),
        "cache_miss": chance.uniform(0.02, 0.5),
    }
    emulator.reset(seed=seed, rates=rates)
    longest = chance.choice([40, 120, 250])
    database = str(folder / "warehouse.duckdb")
    _write(database, chance, range(records), longest)
    pipeline = _pipeline(database, chance)
    claude = ClaudeBatches(
        api_key="any",
        base_url=emulator.base_url,
        max_batch_requests=max(50, records // chance.choice([1, 3, 8])),
        per_month_usd=1_000_000.0,
    )
    found: list[Measured] = []
    clock = HandClock(moved=emulator.advance)
    with going_by(clock):
        run = StageCalls(pipeline, claude, BatchStore(root=str(folder / "store")))
        store = run.store.open()
        for night in range(HISTORY + measured):
            if night:
                changed = chance.sample(range(records), chance.randint(records // 3, records))
                _write(database, chance, changed, longest)
            if chance.random() < 0.5:
                operation, kind, options = chance.choice(FAULTS)
                emulator.fault(operation, kind, times=1, **options)
            last = _last(store)
            run.run("submit", {"allow_reask": True})
            for _ in range(MOST_TICKS):
                if run.tick_and_run() == 0 and standing(store, "p").is_quiet:
                    break
                clock.advance(150)
            else:
                raise AssertionError(f"walk {seed}, night {night}: not quiet")
            emulator.clear_faults()
            if night >= HISTORY:
                found.append(_night(store, seed, night, last))
            clock.advance(24 * 3600)
        files = store.ledger.rows(select(request_files))
        kept = store.ledger.rows(select(reservations))
    request = pipeline.request
    cached = f"cache {request.cache}, {len(request.system or '') // 1000} kB shared"
    return Walked(
        f"{request.model}, {cached}, {rates['cache_miss']:.0%} miss, {rates['errored'] + rates['expired']:.0%} fail",
        found,
        Decimal(sum(row["nanousd"] or 0 for row in kept)) / NANO,
        Decimal(sum(file["cost_nanousd"] or 0 for file in files)) / NANO,
        Decimal(sum(row["settled_nanousd"] or 0 for row in kept)) / NANO,
        Decimal(emulator.bill()["usd"]),
    )


def _write(database: str, chance: random.Random, keys: Sequence[int], longest: int) -> None:
    rows = [(key, " ".join(chance.choices(WORDS, k=chance.randint(3, longest)))) for key in keys]
    with duckdb.connect(database) as connection:
        connection.execute("create table if not exists records (k integer primary key, t varchar)")
        keys_and_texts = {"k": [key for key, _ in rows], "t": [text for _, text in rows]}
        connection.execute(
            "insert or replace into records select unnest($k), unnest($t)", keys_and_texts
        )


def _pipeline(database: str, chance: random.Random) -> BatchPipeline:
    clerk = "You are an accounts-payable clerk who goes by the rules of the house. "
    return BatchPipeline(
        name="p",
        source=DuckDBSource(database=database, table="records", key="k"),
        request=MessageTemplate(
            model=chance.choice(["claude-haiku-4-5", "claude-sonnet-5-5", "claude-opus-5-5"]),
            max_tokens=400,
            system=clerk * chance.choice([1, 100, 200]),
            prompt="{{ t }}",
            cache=chance.choice([None, "5m", "1h", "1h"]),
            output=chance.choice([None, ENTRY, ENTRY]),
        ),
    )


def _last(store: Store) -> int:
    rows = store.ledger.rows(select(submissions.c.number))
    return max((row["number"] for row in rows), default=0)


def _night(store: Store, walk: int, night: int, last: int) -> Measured:
    """Return what was said of the first submission after another one, and what it cost."""
    asked = store.ledger.rows(
        select(request_files).where(
            request_files.c.number == last + 1,
            request_files.c.kind.in_([FileKind.BATCH, FileKind.LATE]),
            request_files.c.state != FileState.SPLIT,
        )
    )
    expected = reserved = Decimal(0)
    for file in asked:
        if file["kind"] != FileKind.BATCH:
            continue
        weight = Weight.stored(file["weight"])
        price = price_of(weight.model, utc_day(file["sent_at"]), None)
        expected += weight.cost("expected", price) or 0
        reserved += weight.cost("p99", price) or 0
    actual = Decimal(sum(file["cost_nanousd"] or 0 for file in asked)) / NANO
    return Measured(walk, night, float(expected), float(reserved), float(actual))


def walks(seeds: Sequence[int], records: int, measured: int = MEASURED) -> Iterator[Walked]:
    """Play some walks, each in a folder and with an emulator of its own."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            with EmulatorProcess(place / "emulator") as emulator:
                (place / "walk").mkdir()
                yield walk(seed, place / "walk", emulator, records, measured)


def wrong(found: Sequence[Walked]) -> list[str]:
    """Return which promises do not hold."""
    nights = [night for one in found for night in one.nights]
    errors = sorted(night.error for night in nights)
    said: list[str] = []
    if median(errors) > MEDIAN or errors[_p95(errors)] > P95:
        said.append("what is expected is further off than promised")
    if above := sum(night.ratio > MOST_RESERVED for night in nights):
        said.append(f"more than {MOST_RESERVED} times the cost was reserved in {above} nights")
    if any(one.ledger > one.reserved for one in found):
        said.append("a walk cost more than was reserved for it")
    if any(not one.ledger == one.settled == one.bill for one in found):
        said.append("the ledger is not the bill")
    return said


def _p95(values: Sequence[float]) -> int:
    return min(len(values) - 1, int(0.95 * len(values)))


@click.command()
@click.option("--nights", default=50, help="Nights that are measured.")
@click.option("--records", default=12_000, help="Records of each pipeline.")
@click.option("--start", default=0, help="The first seed.")
def main(nights: int, records: int, start: int) -> None:
    """Play random nights, and measure what was said of their cost before."""
    logging.disable(logging.CRITICAL)
    begun, found = time.monotonic(), list[Walked]()
    seeds = range(start, start + -(-nights // MEASURED))
    for seed, one in zip(seeds, walks(seeds, records), strict=True):
        found.append(one)
        for night in one.nights:
            click.echo(
                f"walk {seed} night {night.night}: expected ${night.expected:.4f} reserved ${night.reserved:.4f} "
                f"cost ${night.actual:.4f}: off by {night.error:.1%}, reserved {night.ratio:.2f}"
            )
        same = "=" if one.ledger == one.settled == one.bill else "IS NOT"
        click.echo(
            f"  {one.said}: ledger ${one.ledger} {same} bill ${one.bill}; reserved in all ${one.reserved:.4f}"
        )
    measured = [night for one in found for night in one.nights]
    errors = sorted(night.error for night in measured)
    ratios = sorted(night.ratio for night in measured)
    passed = sum(night.ratio < 1 for night in measured)
    click.echo(
        f"{len(measured)} nights of about {records:,} records, {time.monotonic() - begun:.0f} s: expected off by "
        f"{median(errors):.1%} (median), {errors[_p95(errors)]:.1%} (p95), {errors[-1]:.1%} (most); reserved / cost "
        f"{ratios[0]:.2f} to {ratios[-1]:.2f} (median {median(ratios):.2f}), passed in {passed} nights, in all "
        f"{sum(n.reserved for n in measured) / sum(n.actual for n in measured):.2f}"
    )
    for line in (problems := wrong(found)):
        click.echo(f"WRONG: {line}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
