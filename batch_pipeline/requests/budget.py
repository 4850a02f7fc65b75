"""What request files may cost before they are sent: the reserve that caps go by."""

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any

from sqlalchemy import RowMapping, and_, or_, select, update

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import first_line
from batch_pipeline.requests.lengths import lengths_of
from batch_pipeline.requests.line_weight import weigh_file
from batch_pipeline.requests.own_prices import OwnPrices
from batch_pipeline.requests.prices import price_of, utc_day
from batch_pipeline.requests.weight import Kind, Weight
from batch_pipeline.store.reservations import month_of
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope
from batch_pipeline.store.tables import (
    FileKind,
    FileState,
    request_files,
    reservations,
    submissions,
)

NANO = Decimal(10) ** 9


def reserve_by(
    kind: Kind, prices: OwnPrices, at: datetime
) -> Callable[[Mapping[str, Any] | RowMapping], int | None]:
    """Return what tells, from a file's ledger row, how many billionths of a dollar it may cost.

    Args:
        kind: how careful it is: ``p99`` or ``max``.
        prices: that the user declared.
        at: when the files are sent; it decides the prices.
    """
    day = utc_day(at)

    def reserve(file: Mapping[str, Any] | RowMapping) -> int | None:
        if file["weight"] is None:
            return None
        weight = Weight.stored(file["weight"])
        usd = weight.usd(kind, lambda model: price_of(model, day, prices))
        return None if usd is None else int((usd * NANO).to_integral_value(ROUND_CEILING))

    return reserve


def weigh_the_rest(
    store: Store, scope: Scope, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Weigh the files of a scope that are to be sent or were sent, and all whose cost is not known this month.

    Those whose weight is not known were built by an earlier version, or their ledger was made again. A file
    that cannot be read is left as it is: the sending says what is wrong with it.
    """
    # Of any pipeline: a cap of the endpoint counts them, and nobody else may ever weigh them.
    unpriced = select(reservations.c.file_id).where(
        reservations.c.settled_nanousd.is_(None),
        reservations.c.nanousd.is_(None),
        or_(
            reservations.c.sent_at.is_(None),
            reservations.c.sent_at >= month_of(store.clock.now()),
        ),
    )
    mine = and_(
        request_files.c.pipeline == scope.pipeline,
        request_files.c.partition == scope.partition,
        request_files.c.state.in_(
            [FileState.READY, FileState.SENDING, FileState.UNKNOWN, FileState.IN_PROGRESS]
        ),
    )
    rows = store.ledger.rows(
        select(request_files, submissions.c.version)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(
            or_(
                and_(mine, request_files.c.kind == FileKind.BATCH),
                request_files.c.id.in_(unpriced),
            ),
            request_files.c.path.is_not(None),
            request_files.c.weight.is_(None),
        )
    )
    for row in rows:
        try:
            with store.files.local(row["path"]) as path:
                lengths = lengths_of(store, row["pipeline"], row["version"])
                weight = weigh_file(path, row["bytes"], lengths)
        except (InputError, OSError, ValueError, KeyError, TypeError) as error:
            tell(f"{row['id']} cannot be weighed: {first_line(error)}")
            continue
        with store.ledger.write() as tx:
            tx.execute(
                update(request_files)
                .where(request_files.c.id == row["id"])
                .values(weight=weight.to_store())
            )
