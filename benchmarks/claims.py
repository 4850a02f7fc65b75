"""``make claims``: what this field says about the price of batches and caches, played on the emulator.

Each claim is a night of a pipeline of this package; what it cost is read from the emulator's bill, and what the
same costs synchronously from the bill of the same requests, sent one by one without a cache. The table goes to
docs/money.md.
"""

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import click
import dagster as dg
import duckdb

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    MessageTemplate,
    build_definitions,
)
from batch_pipeline.emulator import EmulatorProcess

PAGE = Path(__file__).parents[1] / "docs" / "money.md"
PLACE = re.compile(r"(<!-- made by make claims -->\n).*?(<!-- end -->)", re.DOTALL)
SHARED_TOKENS = 10_000
HAIKU, NEW_HAIKU, SONNET, OPUS = (
    "claude-haiku-4-5", "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"
)  # fmt: skip
TOO_SHORT = "no cache: too short"
INVOICE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": ["it", "travel", "rent", "other"]},
        "supplier": {"type": "string"},
        "net": {"type": "number"},
        "tax": {"type": "number"},
        "reason": {"type": "string"},
    },
    "required": ["category", "supplier", "net", "tax", "reason"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Night:
    """What a night is made of.

    Attributes:
        model: the model that is asked.
        requests: how many records there are.
        system: the system prompt, which all requests share; None: one of 10,000 tokens.
        cache: for how long it is cached; None: it is not.
        misses: the share of requests that miss a cache they could have read.
        output: what answers look like; None: text.
        late: nothing is read from the cache before the batch that wrote it has ended.
        seed: the first request is a batch of its own, and the others are sent when it has ended.
    """

    model: str
    requests: int
    system: str | None = None
    cache: str | None = None
    misses: float = 0.0
    output: dict[str, Any] | None = None
    late: bool = False
    seed: bool = False


@dataclass(frozen=True)
class Cost:
    """What came of a night: USD of the bill, USD of the same synchronously, tokens shared by each."""

    usd: Decimal
    synchronous: Decimal | None = None

    @property
    def saved(self) -> Decimal:
        """The share of the synchronous price that was saved."""
        assert self.synchronous
        return 1 - self.usd / self.synchronous


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    claim: str
    setting: str
    off: str
    on: str
    seeded: str
    verdict: str


Play = Callable[[Night, bool], Cost]


def claims(play: Play, shared: int, invoices: int) -> Iterator[Row]:
    """Play each claim, and yield what came of it.

    Args:
        play: plays a night; with True, it also asks synchronously.
        shared: requests of a night with a shared prompt.
        invoices: invoices of a month.
    """
    short = "You are an accounts-payable clerk."
    plain = play(Night(HAIKU, shared, short), True)
    yield Row(
        "a batch costs 50 %", f"{shared:,} short questions, {HAIKU}", f"{1 - plain.saved:.1%}", TOO_SHORT, TOO_SHORT,
        _verdict(abs(plain.saved - Decimal("0.5")) < Decimal("0.001")),
    )  # fmt: skip
    for model in (HAIKU, SONNET, OPUS):
        off = play(Night(model, shared), True)
        whole = off.synchronous or Decimal(1)
        for misses in (0.0, 0.05, 0.3, 0.7, None):
            # Where nobody finds it cached before the first batch has ended, a seed makes the difference; else
            # each share has its seeded night, too.
            late = misses is None
            on = play(Night(model, shared, None, "1h", misses or 0.0, late=late), False)
            seeded = play(
                Night(model, shared, None, "1h", misses or 0.0, late=True, seed=True), False
            )
            find = "none" if misses is None else f"{1 - misses:.0%}"
            when = " before the first batch has ended" if late else ""
            saved = 1 - on.usd / whole, 1 - seeded.usd / whole
            yield Row(
                "a shared prompt of 10,000 tokens saves 70-80 %",
                f"{shared:,} questions, {model}, {find} of them find it cached{when}",
                f"{off.saved:.1%} saved", f"{saved[0]:.1%} saved", f"{saved[1]:.1%} saved",
                _of_both(*saved),
            )  # fmt: skip
    for model in (HAIKU, NEW_HAIKU):
        night = Night(model, invoices, short, output=INVOICE)
        off = play(night, False)
        on = play(replace(night, cache="1h"), False)
        seeded = play(replace(night, cache="1h", late=True, seed=True), False)
        yield Row(
            "5,000 short invoices a month with Haiku cost less than $5",
            f"{invoices:,} invoices, {model}", f"${off.usd:.2f}", f"${on.usd:.2f} (too short to be cached)",
            f"${seeded.usd:.2f} (too short to be cached)",
            _verdict(off.usd * 5000 / invoices < 5),
        )  # fmt: skip


def _of_both(on: Decimal, seeded: Decimal) -> str:
    """Say whether 70 % is saved, with the cache alone and seeded."""
    unseeded, with_seed = _share(on), _share(seeded)
    if unseeded == with_seed:
        return unseeded
    return f"{unseeded}; seeded: {with_seed}"


def _share(saved: Decimal) -> str:
    return (
        "holds: 90 % is reached" if saved >= Decimal("0.9") else _verdict(saved >= Decimal("0.7"))
    )


def _verdict(holds: bool) -> str:
    return "holds" if holds else "fails"


@contextmanager
def emulated(folder: Path) -> Iterator[Play]:
    """Give what plays nights against an emulator in a folder."""
    with EmulatorProcess(folder / "emulator") as emulator:
        number = 0

        def play(night: Night, synchronously: bool) -> Cost:
            nonlocal number
            number += 1
            emulator.reset(
                rates={"cache_miss": night.misses}, seed=number, cache_after_batch=night.late
            )
            place = folder / f"night{number}"
            place.mkdir()
            if night.system is None:
                night = replace(night, system=_shared(night.model, emulator.base_url))
            _night(night, place, emulator.base_url)
            usd = Decimal(emulator.bill()["usd"])
            if not synchronously:
                return Cost(usd)
            return Cost(usd, _synchronously(place, emulator))

        yield play


def _shared(model: str, url: str) -> str:
    """Return a system prompt of 10,000 tokens, as the API counts them for a model."""
    client = anthropic.Anthropic(api_key="any", base_url=url)

    def counted(words: int) -> tuple[str, int]:
        text = " ".join(f"rule{number % 97}" for number in range(words))
        turn: Any = {"role": "user", "content": "x"}
        found = client.messages.count_tokens(model=model, system=text, messages=[turn])
        return text, found.input_tokens

    words = 4_000
    for _ in range(3):
        _, tokens = counted(words)
        words = words * SHARED_TOKENS // tokens
    text, tokens = counted(words)
    assert abs(tokens - SHARED_TOKENS) < 100, tokens
    return text


def _night(night: Night, place: Path, url: str) -> None:
    """Play a night of a pipeline, whole: until all is sent and collected."""
    database = str(place / "warehouse.duckdb")
    with duckdb.connect(database) as connection:
        items = (
            "'\n  ' || (n + 1) || ' x ' || ['paper, A4', 'toner cartridge', 'train to Bonn, 2nd class', "
            "'cleaning of the office'][(r + n) % 4 + 1] || ', net ' || (r * 37 + n * 11) % 900 || '.00 EUR'"
        )
        connection.execute(
            "create table invoices as select r as id, 'Supplier ' || r % 71 || ', invoice ' || r || ' of May' || "
            f"array_to_string([{items} for n in range(12)], '') as description from range({night.requests}) t(r)"
        )
    pipeline = BatchPipeline(
        name="claim",
        source=DuckDBSource(database=database, table="invoices", key="id"),
        request=MessageTemplate(
            model=night.model,
            max_tokens=200,
            system=night.system,
            prompt="{{ description }}",
            output=night.output,
            cache=night.cache,
            cache_seed=night.seed,
        ),
    )
    defined = build_definitions(
        pipeline,
        claude=ClaudeBatches(api_key="any", base_url=url),
        store=BatchStore(root=str(place / "store")),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        # The first request's batch is collected before the others are sent.
        seed = ("collect", "send") if night.seed else ()
        for job in ("submit", *seed, "collect"):
            whole = defined.resolve_job_def(f"claim_{job}")
            assert whole.execute_in_process(instance=instance).success


def _synchronously(place: Path, emulator: EmulatorProcess) -> Decimal:
    """Send the night's requests one by one, without a cache; return what that cost."""
    client = anthropic.Anthropic(api_key="any", base_url=emulator.base_url)
    for path in (place / "store").rglob("requests/*.jsonl"):
        for line in path.read_text().splitlines():
            client.messages.create(**json.loads(line)["params"])
    return Decimal(emulator.bill()["messages_usd"])


def table_of(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| claim | played | cache off | cache on | seeded | it |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.claim} | {row.setting} | {row.off} | {row.on} | {row.seeded} | {row.verdict} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def written(page: str, table: str) -> str:
    """Return a page with the table as it must be."""
    assert PLACE.search(page)
    return PLACE.sub(lambda place: f"{place[1]}{table}{place[2]}", page)


@click.command()
@click.option("--shared", default=500, help="Requests of a night with a shared prompt.")
@click.option("--invoices", default=5_000, help="Invoices of a month.")
@click.option("--write/--no-write", default=True, help="Write the table into docs/money.md.")
def main(shared: int, invoices: int, write: bool) -> None:
    """Play what this field claims on the emulator, and print what came of it."""
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    logging.disable(logging.CRITICAL)  # Dagster tells of each step of each night
    with tempfile.TemporaryDirectory() as folder, emulated(Path(folder)) as play:
        rows: list[Row] = []
        for row in claims(play, shared, invoices):
            rows.append(row)
            click.echo(
                f"{row.claim}; {row.setting}: {row.off}, {row.on}, {row.seeded}: {row.verdict}"
            )
    if write:
        PAGE.write_text(written(PAGE.read_text(), table_of(rows)))
        click.echo(f"Written into {PAGE}")


if __name__ == "__main__":
    main()
