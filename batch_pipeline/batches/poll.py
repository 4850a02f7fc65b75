"""Looking at the endpoint: one walk over its batch list serves every open file of every pipeline.

The walk tells which batches have ended (``listing``), and which unknown ones could be a file whose
outcome nobody knows (``candidates``).
"""

import math
import time

from sqlalchemy import and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.candidates import note_candidates, settle_candidates
from batch_pipeline.batches.claim import expire_leases
from batch_pipeline.batches.listing import (
    Polled,
    doubtful_files,
    files_at,
    see,
    tell_cancelled,
    walk,
)
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import FileState, endpoints, looks, request_files

MOST_SECONDS = 900.0  # of a look without a budget: a list may never end
SETTLE_SECONDS = 5.0  # of a look with a budget, for finding out whose candidates are


def poll(
    store: Store,
    api: BatchesApi,
    endpoint: Endpoint,
    policy: SendPolicy,
    pipeline: str | None = None,
    budget_seconds: float = math.inf,
) -> Polled:
    """Bring the ledger up to date with the endpoint. Safe at any time, by any number of processes.

    Args:
        store: where the ledger is.
        api: the endpoint.
        endpoint: who it is; a reply that names another organization or workspace is refused.
        policy: limits and waits.
        pipeline: whose sensor is looking, for ``share_poll``.
        budget_seconds: begin no further call to the API after this long; what is not looked at is
            left as it is. A sensor has a minute for everything.

    Raises:
        HeldError: the key is refused.
        ApiUnavailable: no answer; the ledger keeps what it knew.
    """
    expire_leases(store.ledger, endpoint)
    sent = files_at(store, endpoint, request_files.c.state == FileState.IN_PROGRESS)
    doubtful = doubtful_files(store, endpoint)
    report = Polled()
    if not sent and not doubtful:
        return report
    started = store.clock.now()
    report.until = time.monotonic() + min(budget_seconds, MOST_SECONDS)
    listed = walk(api, endpoint, started, sent, doubtful, report)
    # First, because a batch that is not found may be one of them.
    note_candidates(store, endpoint, listed, doubtful, report.counts_lie)
    if report.cut:
        report.notes.append(
            f"{api.base_url} gives a batch list that cannot be read as far as is needed ({report.cut}): "
            "no lost reply is settled by it, and nothing is sent again"
        )
    see(store, api, sent, listed, policy, report)
    for file in sent:
        if file["cancel_requested_at"] is not None and file["cancel_sent_at"] is None:
            tell_cancelled(store, api, file, report)
    if math.isfinite(budget_seconds):
        # It takes several calls for each, and can go on at the next look.
        report.until = min(report.until, time.monotonic() + SETTLE_SECONDS)
    settle_candidates(store, api, endpoint, listed, report)
    # A run that looks does not take its turn from the sensor that looks for all.
    turn = {} if pipeline is None else {"polled_by": pipeline}
    with store.ledger.write() as tx:
        tx.execute(
            update(endpoints).where(endpoints.c.id == endpoint.id).values(polled_at=started, **turn)
        )
    return report


def share_poll(store: Store, endpoint: Endpoint, pipeline: str, interval_seconds: float) -> bool:
    """Return whether this pipeline should poll now, or another one just did it for all.

    The sensor that polled last goes on doing it. Any other leaves it at what was found within the
    interval, unless nobody has polled since its own last look: the sensors of fifty pipelines make
    one listing an interval, also when all of them start, or have just sent something.
    """
    now = store.clock.now()
    with store.ledger.write() as tx:
        found = tx.execute(
            select(endpoints.c.polled_at, endpoints.c.polled_by).where(
                endpoints.c.id == endpoint.id
            )
        ).first()
        polled, polled_by = found if found else (None, None)
        mine = and_(looks.c.endpoint_id == endpoint.id, looks.c.pipeline == pipeline)
        last = tx.execute(select(looks.c.at).where(mine)).scalar()
        if last is not None:
            tx.execute(update(looks).where(mine).values(at=now))
    if last is None:
        try:
            with store.ledger.write() as tx:
                tx.execute(insert(looks).values(endpoint_id=endpoint.id, pipeline=pipeline, at=now))
        except IntegrityError:
            pass  # this sensor ticks in another process, too
    if polled is None or polled_by in (None, pipeline):
        return True
    if polled > now:  # by a clock that was ahead
        return True
    if (now - polled).total_seconds() >= interval_seconds:
        return True
    return last is not None and polled <= last
