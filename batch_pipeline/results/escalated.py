"""What escalation came to: how often the two models agree on the audit sample, and what it saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from sqlalchemy import RowMapping, select

from batch_pipeline.records.connections import memory_connection, quote_files, quote_name
from batch_pipeline.records.sources import ESCALATED as COLUMN
from batch_pipeline.records.unsettled import AUDIT
from batch_pipeline.results.join import MEMORY
from batch_pipeline.store.scopes import is_of
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files
from batch_pipeline.store.variants import ESCALATED, variant_of

Z = 1.959964
"""Of a normal distribution 95% lie so many deviations around the mean."""
NANO = 10**9

# One row for each record of the audit that both models answered: whether they agree, and what the better answer cost.
AUDITED = """
with second as (
       select rows.*, i.key_hash, i.content_hash
       from read_parquet({better_rows}, union_by_name = true) as rows
       join (select distinct custom_id, key_hash, content_hash from read_parquet({better_index}, union_by_name = true)) as i
            on i.custom_id = rows._custom_id
       where rows.{column} = '{audit}' and rows._status = 'answered'
       qualify row_number() over (partition by i.key_hash order by rows._answered_at desc, rows._custom_id) = 1),
     first as (
       select rows.*, i.key_hash, i.content_hash
       from read_parquet({first_rows}, union_by_name = true) as rows
       join (select distinct custom_id, key_hash, content_hash from read_parquet({first_index}, union_by_name = true)
             semi join second using (key_hash, content_hash)) as i on i.custom_id = rows._custom_id
       where rows._status = 'answered'
       qualify row_number() over (partition by i.key_hash order by rows._answered_at desc, rows._custom_id) = 1)
select {agree} as agrees, second._cost_usd as usd, second._duplicate_of is null as is_asked
from second join first using (key_hash, content_hash)
"""


@dataclass(frozen=True)
class Escalation:
    """What escalation came to, over all nights.

    Attributes:
        first: requests that the first model was asked.
        escalated: requests that the better one was asked because of what the first one answered.
        audited: records of the audit sample that both answered.
        agreed: of them with the same answer.
        columns: of the answer that were compared.
        low: the lower end of the 95% interval (Wilson) of the share that agrees; None: nothing was audited.
        high: its upper end.
        usd: what both models cost; None: it is not known.
        saved_usd: how much more the better one alone would have cost, as the audit sample tells; None: it does not.
    """

    first: int
    escalated: int
    audited: int
    agreed: int
    columns: tuple[str, ...]
    low: float | None
    high: float | None
    usd: float | None
    saved_usd: float | None

    @property
    def said(self) -> str:
        """The agreement in a sentence."""
        if self.low is None or self.high is None:
            return "No record was audited yet."
        return (
            f"Of {self.audited:,} audited records, {self.agreed / self.audited:.1%} got the same answer of both models "
            f"({', '.join(self.columns)}; 95% interval {self.low:.1%} to {self.high:.1%})."
        )


def escalation_of(store: Store, pipeline: str, columns: Sequence[str]) -> Escalation:
    """Return what escalation came to, over all that a pipeline asked.

    Args:
        store: where the files and the ledger are.
        pipeline: its name.
        columns: of the answer, by which two are the same.

    Raises:
        duckdb.Error: a file of the store is lost or damaged.
    """
    files = store.ledger.rows(
        select(request_files).where(
            request_files.c.pipeline == pipeline,
            is_of(request_files.c.partition, ESCALATED) | is_of(request_files.c.partition, ""),
            request_files.c.state == FileState.COLLECTED,
            request_files.c.results_path.is_not(None),
        )
    )
    better = [file for file in files if variant_of(file["partition"]) == ESCALATED]
    first = [file for file in files if variant_of(file["partition"]) != ESCALATED]
    agrees, costs = _audited(store, first, better, columns) if first and better else ([], [])
    low, high = wilson(sum(agrees), len(agrees)) if agrees else (None, None)
    asked, asked_better = _requests(first), _requests(better)
    audited = len(costs)
    usd = saved = None
    if not any(file["cost_unknown"] for file in files):
        usd = sum(file["cost_nanousd"] or 0 for file in files) / NANO
        known = [cost for cost in costs if cost is not None]
        if known and len(known) == audited:
            # What was escalated is asked of the better one either way.
            each = sum(known) / audited
            cost_first = sum(file["cost_nanousd"] or 0 for file in first) / NANO
            saved = each * (asked - (asked_better - audited)) - cost_first - each * audited
    return Escalation(
        asked,
        max(asked_better - audited, 0),
        len(agrees),
        sum(agrees),
        tuple(columns),
        low,
        high,
        usd,
        saved,
    )


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Return the 95% interval of a share, which is one of at least one."""
    share = hits / of
    middle = share + Z**2 / (2 * of)
    around = Z * sqrt(share * (1 - share) / of + Z**2 / (4 * of**2))
    return max(0.0, (middle - around) / (1 + Z**2 / of)), min(
        1.0, (middle + around) / (1 + Z**2 / of)
    )


def _audited(
    store: Store,
    first: Sequence[RowMapping],
    better: Sequence[RowMapping],
    columns: Sequence[str],
) -> tuple[list[bool], list[float | None]]:
    """Return whether the models agree on each audited record, and what each audited request cost."""

    def named(files: Sequence[RowMapping], what: str) -> str:
        return quote_files(store.files.url(file[what]) for file in files if file[what])

    agree = " and ".join(
        f"first.{quote_name(name)} is not distinct from second.{quote_name(name)}"
        for name in columns
    )
    with memory_connection(MEMORY) as con:
        store.files.register(con)
        rows = con.execute(
            AUDITED.format(
                better_rows=named(better, "results_path"),
                better_index=named(better, "index_path"),
                first_rows=named(first, "results_path"),
                first_index=named(first, "index_path"),
                column=COLUMN,
                audit=AUDIT,
                agree=agree,
            )
        ).fetchall()
    return [row[0] for row in rows], [row[1] for row in rows if row[2]]


def _requests(files: Sequence[RowMapping]) -> int:
    return sum(file["requests"] for file in files if file["kind"] == FileKind.BATCH)
