"""The night report: what one settled submission came to, from the ledger."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping, select

from batch_pipeline.errors import counted
from batch_pipeline.records.connections import first_line, memory_connection, quote_files
from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.prices import BatchPrice, Tokens, price_of, utc_day
from batch_pipeline.requests.weight import Weight
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions

NANO = Decimal(10) ** 9
MOST_FLAGGED = 20
MOST_NIGHTS = 14
SHOWN_OF_A_CELL = 60


@dataclass
class Report:
    """What became of a submission.

    Attributes:
        pipeline, partition, number: which one.
        sent: requests that were sent.
        statuses: rows by status, of what was asked and of what could not be.
        unchanged: records whose answer stands already; None: not known.
        reused: records whose earlier answer was published again.
        duplicates: records that were not asked, because another one asked the same.
        ruled: records that a rule settled.
        cost_usd: what is known of the cost.
        cost_unknown: requests whose cost is not known.
        expected_usd: what was expected before; None: not known.
        at_most_usd: the same at most.
        saved_by_batch: USD against asking synchronously, without a cache; None: not known.
        saved_by_cache: USD, at the batch's prices; less than 0: the cache cost more.
        flagged: the first rows of the user's query, with its columns; None: there is no query, or it fails.
        flagged_rows: how many there are.
        flagged_error: why the query gives none.
    """

    pipeline: str
    partition: str
    number: int
    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    unchanged: int | None = None
    reused: int = 0
    duplicates: int = 0
    ruled: int = 0
    cost_usd: Decimal = Decimal(0)
    cost_unknown: int = 0
    expected_usd: Decimal | None = None
    at_most_usd: Decimal | None = None
    saved_by_batch: Decimal | None = None
    saved_by_cache: Decimal | None = None
    flagged: tuple[list[str], list[tuple[Any, ...]]] | None = None
    flagged_rows: int = 0
    flagged_error: str = ""

    @property
    def answered(self) -> int:
        """Records that were answered."""
        return self.statuses["answered"]

    @property
    def failed(self) -> dict[str, int]:
        """Rows without an answer, by reason."""
        return {name: n for name, n in sorted(self.statuses.items()) if name != "answered" and n}

    @property
    def is_trouble(self) -> bool:
        """Whether somebody should look: rows without an answer or flagged, or a cost that nobody knows."""
        flagged = self.flagged_rows or self.flagged_error
        return bool(self.failed or self.cost_unknown or flagged)

    @property
    def title(self) -> str:
        """The report in a line."""
        where = f" ({self.partition})" if self.partition else ""
        failed = f", {sum(self.failed.values()):,} without an answer" if self.failed else ""
        flagged = f", {counted(self.flagged_rows, 'flagged row')}" if self.flagged_rows else ""
        cost = f"${self.cost_usd:,.2f}"
        return f"{self.pipeline}{where}: {self.answered:,} answered{failed}{flagged}, {cost}"


def report_of(
    store: Store, submission: RowMapping, prices: OwnPrices, flag: str | None = None
) -> Report:
    """Return the report on a settled submission.

    Args:
        store: where the files and the ledger are.
        submission: the ledger's row.
        prices: that the user declared.
        flag: a query of rows to show, from ``results``, the rows of the submission.
    """
    files = store.ledger.rows(
        select(request_files).where(
            request_files.c.submission_id == submission["id"],
            request_files.c.state == FileState.COLLECTED,
        )
    )
    counts = submission["counts"]
    report = Report(
        submission["pipeline"],
        submission["partition"],
        submission["number"],
        unchanged=counts.get("settled"),
        reused=counts.get("reused", 0),
        duplicates=counts.get("duplicates", 0),
        ruled=counts.get("ruled", 0),
    )
    asked = [file for file in files if file["kind"] in (FileKind.BATCH, FileKind.LATE)]
    for file in files:
        if file["kind"] in (FileKind.BATCH, FileKind.REJECTED):
            report.statuses.update(file["statuses"] or {})
    for file in asked:
        report.cost_usd += Decimal(file["cost_nanousd"] or 0) / NANO
        report.cost_unknown += file["cost_unknown"] or 0
    report.sent = sum(f["requests"] for f in asked if f["kind"] == FileKind.BATCH and f["batch_id"])
    weights = [Weight.stored(file["weight"]) for file in asked if file["weight"]]
    at = submission["created_at"]
    if asked and len(weights) == len(asked):
        report.expected_usd = _sum_of(weights, "expected", at, prices)
        report.at_most_usd = _sum_of(weights, "max", at, prices)
        _save(report, asked, weights[0].model, at, prices)
    if flag is not None:
        _flag(report, store, files, flag)
    return report


def _sum_of(weights: list[Weight], kind: Any, at: datetime, prices: OwnPrices) -> Decimal | None:
    costs = [one.cost(kind, price_of(one.model, utc_day(at), prices)) for one in weights]
    return None if None in costs else sum((cost for cost in costs if cost), Decimal(0))


def _save(
    report: Report, asked: list[RowMapping], model: str, at: datetime, prices: OwnPrices
) -> None:
    """Say what was saved against asking the same synchronously and without a cache."""
    price = price_of(model, utc_day(at), prices)
    tokens: Counter[str] = Counter()
    for file in asked:
        tokens.update(file["tokens"] or {})
    written = tokens["cache_write_5m"] + tokens["cache_write_1h"]
    if price is None or report.cost_unknown or written != tokens["cache_write"]:
        return
    prompt = tokens["input"] + tokens["cache_read"] + tokens["cache_write"]
    answers = max(min(report.answered, report.sent), 1)
    paid = _cost(price, answers, tokens, prompt)
    plain = _cost(price, answers, Counter(input=prompt, output=tokens["output"]), prompt)
    if paid is None or plain is None:
        return
    report.saved_by_batch = plain  # a batch halves the price of every token: as much again
    report.saved_by_cache = plain - paid


def _cost(price: BatchPrice, answers: int, tokens: Counter[str], prompt: int) -> Decimal | None:
    """Return what tokens cost, at the prices of a request of mean size, without searches."""
    names = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
    mean = BatchPrice(
        {
            name: one if isinstance(one, Decimal) else _tier(one, prompt // answers)
            for name, one in price.per_token.items()
        },
        None,
    )
    return mean.cost(Tokens(**{name: tokens[name] for name in names}))


def _tier(price: Any, prompt: int) -> Decimal:
    reached = (tier.price for tier in reversed(price.tiers) if prompt > tier.start)
    return next(reached, price.base)


def _flag(report: Report, store: Store, files: Any, query: str) -> None:
    """Run the user's query over the rows of the submission; what it fails by is said, and fails no run."""
    names = [file["results_path"] for file in files if file["results_path"]]
    if not names:
        return
    try:
        with memory_connection() as connection:
            store.files.register(connection)
            read = quote_files([store.files.url(name) for name in names])
            connection.execute(
                f"create temp view results as select * from read_parquet({read}, union_by_name = true)"
            )
            inner = query.strip().rstrip(";")
            counting = connection.execute(f"select count(*) from (\n{inner}\n)").fetchone()
            found = connection.execute(f"select * from (\n{inner}\n) limit {MOST_FLAGGED}")
            columns = [one[0] for one in found.description or ()]
            report.flagged = columns, found.fetchall()
            report.flagged_rows = counting[0] if counting else 0
    except Exception as error:
        report.flagged_error = f"{type(error).__name__}: {first_line(error)}"


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    lines = [
        f"**{_cell(report.title)}**",
        "",
        "| | |",
        "|---|---|",
        f"| submission | {report.number:,} |",
        f"| sent | {counted(report.sent, 'request')} |",
        f"| answered | {report.answered:,} |",
        *(f"| {_cell(name)} | {count:,} |" for name, count in report.failed.items()),
    ]
    if report.duplicates:
        lines.append(f"| not asked, the same as another one | {report.duplicates:,} |")
    if report.ruled:
        lines.append(f"| settled by a rule | {report.ruled:,} |")
    if report.reused:
        lines.append(f"| answered earlier, published again | {report.reused:,} |")
    if report.unchanged is not None:
        lines.append(f"| unchanged, not asked | {report.unchanged:,} |")
    unknown = f", and {counted(report.cost_unknown, 'request')} of unknown cost"
    lines.append(f"| cost | ${report.cost_usd:,.4f}{unknown if report.cost_unknown else ''} |")
    if report.expected_usd is not None and report.at_most_usd is not None:
        lines.append(
            f"| expected | ${report.expected_usd:,.4f}, at most ${report.at_most_usd:,.4f} |"
        )
    if report.saved_by_batch is not None and report.saved_by_cache is not None:
        whole = report.saved_by_batch + report.saved_by_cache
        lines.append(
            f"| saved against synchronous | ${whole:,.4f}: batch ${report.saved_by_batch:,.4f}, cache "
            f"${report.saved_by_cache:,.4f} |"
        )
    if report.flagged_error:
        lines += ["", f"notify_rows failed: {_cell(report.flagged_error)}"]
    elif report.flagged is not None and report.flagged_rows:
        columns, rows = report.flagged
        first = f", the first {len(rows)}" if report.flagged_rows > len(rows) else ""
        lines += [
            "",
            f"{counted(report.flagged_rows, 'flagged row')}{first}:",
            "",
            f"| {' | '.join(map(_cell, columns))} |",
            f"|{'---|' * len(columns)}",
            *(f"| {' | '.join(map(_cell, row))} |" for row in rows),
        ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Return a value as text that no Markdown and no HTML reads as its own."""
    text = "" if value is None else " ".join(str(value).split())
    text = text if len(text) <= SHOWN_OF_A_CELL * 2 else text[: SHOWN_OF_A_CELL * 2 - 1] + "…"
    for sign, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(sign, instead)
    for sign in "\\`*_[]~!":
        text = text.replace(sign, f"&#{ord(sign)};")
    return text


def last_costs(store: Store, pipeline: str) -> list[tuple[int, float]]:
    """Return number and USD of a pipeline's last settled submissions, oldest first, for the chart."""
    rows = store.ledger.rows(
        select(submissions.c.number, request_files.c.cost_nanousd)
        .join(request_files, request_files.c.submission_id == submissions.c.id)
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.verified_at.is_not(None),
            request_files.c.batch_id.is_not(None),
            request_files.c.state == FileState.COLLECTED,
        )
    )
    sums: dict[int, float] = {}
    for row in rows:
        sums[row["number"]] = sums.get(row["number"], 0.0) + (row["cost_nanousd"] or 0) / 1e9
    return sorted(sums.items())[-MOST_NIGHTS:]
