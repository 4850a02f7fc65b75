"""The night report: what one settled submission came to, from the ledger."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping, select

from batch_pipeline.errors import counted
from batch_pipeline.records.connections import first_line, memory_connection, quote_files
from batch_pipeline.records.rules import RULE, SKIPPED
from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.prices import BatchPrice, Tokens, price_of, utc_day
from batch_pipeline.requests.weight import Weight
from batch_pipeline.store.costs import answered_requests
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, is_live, request_files, submissions
from batch_pipeline.store.variants import shown

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
        duplicates: rows that have the answer to another one's request, or its reason.
        ruled: rows that a rule answered now.
        skipped: rows that a rule skipped now.
        statuses: rows by status, of what was asked, of its duplicates, and of what could not be asked.
        unchanged: records whose answer stands already; None: not known.
        reused: records whose earlier answer was published again.
        cost_usd: what is known of the cost.
        cost_unknown: requests whose cost is not known.
        expected_usd: what was expected before; None: not known.
        at_most_usd: the same at most.
        saved_by_batch: USD against asking synchronously, without a cache; None: not known.
        saved_by_cache: USD, at the batch's prices; less than 0: the cache cost more.
        answered_requests: requests that were answered: answered rows without duplicates.
        flagged: the first rows of the user's query, with its columns; None: there is no query, or it fails.
        flagged_rows: how many there are.
        flagged_error: why the query gives none.
    """

    pipeline: str
    partition: str
    number: int
    sent: int = 0
    duplicates: int = 0
    ruled: int = 0
    skipped: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    unchanged: int | None = None
    reused: int = 0
    cost_usd: Decimal = Decimal(0)
    cost_unknown: int = 0
    expected_usd: Decimal | None = None
    at_most_usd: Decimal | None = None
    saved_by_batch: Decimal | None = None
    saved_by_cache: Decimal | None = None
    answered_requests: int = 0
    flagged: tuple[list[str], list[tuple[Any, ...]]] | None = None
    flagged_rows: int = 0
    flagged_error: str = ""
    late: str = ""

    @property
    def answered(self) -> int:
        """Rows that were answered: by their own request, or by that of one that is the same."""
        return self.statuses["answered"]

    @property
    def failed(self) -> dict[str, int]:
        """Rows without an answer, by reason."""
        return {name: n for name, n in sorted(self.statuses.items()) if name != "answered" and n}

    @property
    def mean_usd(self) -> Decimal | None:
        """What a request that was sent cost on average; None: nobody knows."""
        return self.cost_usd / self.sent if self.sent and not self.cost_unknown else None

    @property
    def not_asked(self) -> dict[str, int]:
        """Records that nothing was paid for, by what kept them from being asked."""
        by_rule = self.ruled + self.skipped
        counts = {"dedupe": self.duplicates, "rule": by_rule, "unchanged": self.unchanged or 0}
        return {name: count for name, count in counts.items() if count}

    @property
    def saved(self) -> dict[str, Decimal]:
        """USD by what saved them, as far as that is known; of what was not asked, at the mean cost of what was."""
        parts: dict[str, Decimal] = {}
        if self.saved_by_batch is not None and self.saved_by_cache is not None:
            parts |= {"batch": self.saved_by_batch, "cache": self.saved_by_cache}
        if (mean := self.mean_usd) is not None:
            parts |= {name: count * mean for name, count in self.not_asked.items()}
        return parts

    @property
    def is_trouble(self) -> bool:
        """Whether somebody should look: rows without an answer, late or flagged, or a cost that nobody knows.

        What a rule settles, also by skipping it, is as it should be.
        """
        flagged = self.flagged_rows or self.flagged_error
        return bool(self.failed or self.cost_unknown or flagged or self.late)

    @property
    def title(self) -> str:
        """The report in a line."""
        where = f" ({shown(self.partition)})" if self.partition else ""
        failed = f", {sum(self.failed.values()):,} without an answer" if self.failed else ""
        ruled = f", {self.ruled:,} by a rule" if self.ruled else ""
        skipped = f", {self.skipped:,} skipped" if self.skipped else ""
        flagged = f", {counted(self.flagged_rows, 'flagged row')}" if self.flagged_rows else ""
        cost = f"${self.cost_usd:,.{2 if self.cost_usd >= 1 else 4}f}"
        rows = f"{self.answered:,} answered{ruled}{skipped}{failed}{flagged}"
        return f"{self.pipeline}{where}: {rows}, {cost}"


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
    )
    asked = [file for file in files if file["kind"] in (FileKind.BATCH, FileKind.LATE)]
    for file in files:
        if file["kind"] in (FileKind.BATCH, FileKind.REJECTED):
            report.statuses.update(file["statuses"] or {})
        if file["kind"] == FileKind.REUSED:
            report.ruled += (file["statuses"] or {}).get(RULE, 0)
            report.skipped += (file["statuses"] or {}).get(SKIPPED, 0)
        if file["kind"] == FileKind.BATCH and file["batch_id"]:
            # Each request has a row, and each duplicate of one has another.
            report.duplicates += max(0, sum((file["statuses"] or {}).values()) - file["requests"])
    for file in asked:
        report.answered_requests += answered_requests(file)
        report.cost_usd += Decimal(file["cost_nanousd"] or 0) / NANO
        report.cost_unknown += file["cost_unknown"] or 0
    report.sent = sum(f["requests"] for f in asked if f["kind"] == FileKind.BATCH and f["batch_id"])
    weights = [Weight.stored(file["weight"]) for file in asked if file["weight"]]
    at = submission["created_at"]
    if asked and len(weights) == len(asked):
        report.expected_usd = _sum_of(weights, "expected", at, prices)
        report.at_most_usd = _sum_of(weights, "max", at, prices)
        if len({model.model for one in weights for model in one.all}) == 1:
            batched = [file for file in asked if not is_live(file["batch_id"])]
            _save(report, batched, weights[0].model, at, prices)
    if flag is not None:
        _flag(report, store, files, flag)
    return report


def _sum_of(weights: list[Weight], kind: Any, at: datetime, prices: OwnPrices) -> Decimal | None:
    costs = [one.usd(kind, lambda model: price_of(model, utc_day(at), prices)) for one in weights]
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
    answers = max(report.answered_requests, 1)
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
    lines += [f"| late | {_cell(report.late)} |"] if report.late else []
    for count, name in (
        (report.duplicates, "of these by the request of a record that is the same"),
        (report.ruled, "answered by a rule"),
        (report.skipped, "skipped by a rule"),
    ):
        lines += [f"| {name} | {count:,} |"] if count else []
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
    if saved := report.saved:
        parts = ", ".join(f"{name} ${usd:,.4f}" for name, usd in saved.items())
        lines.append(
            f"| saved against synchronous | ${sum(saved.values(), Decimal(0)):,.4f}: {parts} |"
        )
        if reckoned := [name for name in report.not_asked if name in saved]:
            names = " and ".join(filter(None, (", ".join(reckoned[:-1]), reckoned[-1])))
            lines += [
                "",
                f"Of {names} it is what those {counted(sum(report.not_asked.values()), 'record')} would have cost at "
                f"the mean cost of the {counted(report.sent, 'request')} of this submission, "
                f"${report.mean_usd:,.6f}.",
            ]
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
