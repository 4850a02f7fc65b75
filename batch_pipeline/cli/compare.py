"""`batch-pipeline costs --compare`: what the ledger says beside what the Console says, by day."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batch_pipeline.cli.deployments import Deployments
from batch_pipeline.cli.output import Row, in_usd, listing, print_json, say
from batch_pipeline.errors import counted

if TYPE_CHECKING:
    from batch_pipeline.batches.console import ConsoleDay
    from batch_pipeline.definitions.resources import ClaudeBatches

USUAL_DAYS = 30
CENT = Decimal("0.005")
"""Differences below are of rounding."""


@dataclass
class Day:
    """A day as the ledger has it, UTC.

    Attributes:
        usd: what is known of the cost, by model.
        tokens: input, read, written and output together, by model.
        open: requests that are not collected yet.
        unknown: requests whose cost is not known.
    """

    usd: dict[str, Decimal] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    open: int = 0
    unknown: int = 0


def compare(deployments: Deployments, since: datetime | None, as_json: bool) -> None:
    """Show ledger and Console side by side, for each API that the pipelines ask.

    Args:
        deployments: the stores, and the APIs that their pipelines ask.
        since: the first day; None: 30 days ago.
        as_json: print it as JSON.
    """
    claudes: dict[str, ClaudeBatches] = {}
    for deployment in deployments.all:
        claude = deployment.claude()
        claudes.setdefault(claude.url, claude)
    shown: list[dict[str, Any]] = []
    for url, claude in claudes.items():
        rows = _rows(deployments, claude, since)
        shown += [{"api": url, **row} for row in rows]
        if not as_json:
            _print(url, rows)
    if as_json:
        print_json({"days": shown})
    elif not shown:
        say("Neither the ledger nor the Console has anything of these days.")


def _rows(
    deployments: Deployments, claude: "ClaudeBatches", since: datetime | None
) -> list[dict[str, Any]]:
    from batch_pipeline.batches.console import ConsoleDay, console_days
    from batch_pipeline.store.addresses import same_address
    from batch_pipeline.store.clock import process_clock
    from batch_pipeline.store.costs import each
    from batch_pipeline.store.tables import endpoints

    today = process_clock().now().astimezone(UTC).date()
    first = since.date() if since else today - timedelta(days=USUAL_DAYS)
    ledger: dict[date, Day] = {}
    workspaces: set[str] = set()
    for store in deployments.stores():
        here = [
            row
            for row in store.ledger.rows(endpoints.select())
            if same_address(row["base_url"], claude.addresses)
        ]
        workspaces |= {row["workspace"] for row in here}
        start = datetime.combine(first, datetime.min.time(), UTC)
        for row in each(store, {row["id"] for row in here}, start):
            _add(ledger.setdefault(row["day"], Day()), row)
    with closing(claude.reports()) as api:
        console = console_days(api, first, today + timedelta(days=1), frozenset(workspaces))
    days = sorted({*ledger, *console})
    return _explained(
        [(day, ledger.get(day, Day()), console.get(day, ConsoleDay())) for day in days], today
    )


def _add(day: Day, row: dict[str, Any]) -> None:
    from batch_pipeline.requests.prices import without_release

    model = without_release(row["model"])
    day.usd[model] = day.usd.get(model, Decimal(0)) + Decimal(str(row["cost_usd"]))
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    day.tokens[model] = day.tokens.get(model, 0) + sum(row[name] for name in names)
    day.open += row["open"]
    day.unknown += row["unknown"]


def _explained(days: Sequence[tuple[date, Day, "ConsoleDay"]], today: date) -> list[dict[str, Any]]:
    """Return a row for each day that has anything, with what explains the difference."""
    differences = [
        sum(console.batch_usd.values(), Decimal(0)) - sum(ledger.usd.values(), Decimal(0))
        for _, ledger, console in days
    ]
    rows: list[dict[str, Any]] = []
    for place, (day, ledger, console) in enumerate(days):
        if not (ledger.usd or console.batch_usd or console.other_usd):
            continue
        nearby = [
            (days[other][0], differences[other])
            for other in (place - 1, place + 1)
            if 0 <= other < len(days) and abs(days[other][0] - day).days == 1
        ]
        difference = differences[place]
        rows.append(
            {
                "day": f"{day}",
                "ledger_usd": float(sum(ledger.usd.values(), Decimal(0))),
                "console_batch_usd": float(sum(console.batch_usd.values(), Decimal(0))),
                "difference_usd": float(difference),
                "console_other_usd": float(console.other_usd),
                "open": ledger.open,
                "unknown": ledger.unknown,
                "why": _why(ledger, console, difference, nearby, day >= today - timedelta(days=1))
                if abs(difference) >= CENT
                else [],
            }
        )
    return rows


def _why(
    ledger: Day,
    console: "ConsoleDay",
    difference: Decimal,
    nearby: Sequence[tuple[date, Decimal]],
    recent: bool,
) -> list[str]:
    from batch_pipeline.requests.prices import without_release

    said: list[str] = []
    if ledger.open:
        said.append(f"{counted(ledger.open, 'request')} of that day are not collected yet.")
    if ledger.unknown:
        said.append(
            f"{counted(ledger.unknown, 'request')} of unknown cost are not in the ledger's sum."
        )
    for day, other in nearby:
        if abs(difference + other) < CENT:
            said.append(
                f"{day} differs by as much the other way: sent on one day, processed on the other."
            )
            return said
    theirs = {without_release(model): usd for model, usd in console.batch_usd.items()}
    tokens = {without_release(model): count for model, count in console.batch_tokens.items()}
    strange = {model: usd for model, usd in theirs.items() if model not in ledger.usd}
    if strange:
        named = ", ".join(f"{model} {in_usd(usd)}" for model, usd in sorted(strange.items()))
        said.append(
            f"Other uses of the account: batches of models that the ledger has not sent that day ({named})."
        )
    for model, usd in sorted(ledger.usd.items()):
        more = theirs.get(model, Decimal(0)) - usd
        own, counted_there = ledger.tokens.get(model, 0), tokens.get(model, 0)
        if abs(more) < CENT:
            continue
        if own == counted_there:
            said.append(
                f"{model}: the same {own:,} tokens at other prices: a contract's (BatchPipeline(prices=...)), or the "
                "price list of this installation is out of date."
            )
        elif counted_there > own and not ledger.open:
            said.append(
                f"{model}: the Console counts {counted_there - own:,} tokens more: other batches of this account, or "
                "ones of another ledger."
            )
        elif counted_there < own:
            said.append(
                f"{model}: the Console counts {own - counted_there:,} tokens less: "
                + (
                    "its reports are some minutes behind, at times longer."
                    if recent
                    else "this admin key is another organization's, or its reports count them on another day."
                )
            )
    return said


def _print(url: str, rows: Sequence[dict[str, Any]]) -> None:
    columns = ("day", "ledger", "console: batches", "difference", "console: all else")
    usd = ("ledger_usd", "console_batch_usd", "difference_usd", "console_other_usd")
    listing(
        f"Ledger and Console, {url} (UTC)",
        columns,
        [
            Row((row["day"], *(in_usd(Decimal(str(row[name]))) for name in usd)), tuple(row["why"]))
            for row in rows
        ],
    )
