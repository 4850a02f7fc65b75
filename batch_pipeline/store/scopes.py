"""Which partitions and variants the ledger knows, and conditions on the column that holds both."""

from sqlalchemy import ColumnElement, func, or_, select

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.tables import submissions
from batch_pipeline.store.variants import ESCALATED, MARK, scope_name, variant_of


def is_of(column: ColumnElement[str], variant: str) -> ColumnElement[bool]:
    """Return the condition on a column of such names that they are of a variant, or of none.

    Of two variants whose names differ in case alone it may take one for the other.
    """
    if variant:
        return column.endswith(MARK + variant, autoescape=True)
    return column.not_like(f"%{MARK}%")


def is_in(column: ColumnElement[str], partition: str, variant: str | None) -> ColumnElement[bool]:
    """Return the condition on a column of such names that they are of a partition: of one variant of it, or all."""
    if variant is not None:
        return column == scope_name(partition, variant)
    # LIKE would take partitions for others whose names differ in case.
    start = partition + MARK
    return or_(column == partition, func.substr(column, 1, len(start)) == start)


def variants_in(ledger: Ledger, pipeline: str) -> list[str]:
    """Return the variants that a pipeline ever asked, in order; none of one that has no variants."""
    return sorted({variant_of(name) for name in names_in(ledger, pipeline)} - {"", ESCALATED})


def names_in(ledger: Ledger, pipeline: str) -> set[str]:
    """Return the names of all that a pipeline ever selected, and did not drop before it was sent."""
    rows = ledger.rows(
        select(submissions.c.partition)
        .where(submissions.c.pipeline == pipeline, submissions.c.state != "abandoned")
        .distinct()
    )
    return {row["partition"] for row in rows}
