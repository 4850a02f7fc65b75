"""A variant that costs less and answers as well, by the pipeline's own scores."""

from decimal import Decimal

from batch_pipeline.errors import plain
from batch_pipeline.records.connections import memory_connection, quote_files
from batch_pipeline.store.store import Store

FEWEST = 100
"""Labelled answers below which two variants are not called alike."""
FIGURES = """
select variant, max(value) filter (metric = 'accuracy') as accuracy, max(high) filter (metric = 'accuracy') as high,
  max(n) filter (metric = 'accuracy') as labelled, max(value) filter (metric = 'cost_per_1000') as usd
from read_parquet({file}) where variant <> '' and metric in ('accuracy', 'cost_per_1000')
group by variant having accuracy is not null and usd is not null and labelled >= {fewest}
order by accuracy desc, usd
"""


def cheaper_variant(store: Store, pipeline: str, answers: int) -> tuple[str, Decimal] | None:
    """Return what the newest scores show of a cheaper variant, and the USD that it saves; None: nothing.

    It is as good when the 95% interval of its accuracy reaches the accuracy of the best one.

    Args:
        store: where the scores are kept.
        pipeline: whose.
        answers: of a month, of all variants together.

    Raises:
        duckdb.Error: the file of the scores cannot be read.
    """
    folder = f"{pipeline}/scores"
    kept = sorted(name for name in store.files.file_names(folder) if name.endswith(".parquet"))
    if not kept:
        return None
    with memory_connection() as connection:
        store.files.register(connection)
        file = quote_files([store.files.url(f"{folder}/{kept[-1]}")])
        rows = connection.execute(FIGURES.format(file=file, fewest=FEWEST)).fetchall()
    if len(rows) < 2:
        return None
    best, accuracy, _, labelled, usd = rows[0]
    alike = [row for row in rows[1:] if row[2] >= accuracy and row[4] < usd]
    if not alike:
        return None
    name, its_accuracy, _, _, its_usd = min(alike, key=lambda row: row[4])
    said = (
        f"Variant {plain(name)} answers as well as {plain(best)} ({its_accuracy:.1%} right beside {accuracy:.1%} of "
        f"{labelled:,} labelled records, within its 95% interval) for ${its_usd:,.2f} in place of ${usd:,.2f} per 1,000 "
        f"records: ask with {plain(name)} rather than with {plain(best)}."
    )
    records = Decimal(answers) / len(rows)
    return said, records * (Decimal(str(usd)) - Decimal(str(its_usd))) / 1_000
