"""Reading the API's batch list as far back as the open files need it, and what became of their batches."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, and_, or_, select, update

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.cancel import send_cancel
from batch_pipeline.batches.outcome import ApiUnavailable, NoSuchBatch, PipelineRefused
from batch_pipeline.batches.policy import CLOCK_MARGIN_SECONDS, SendPolicy
from batch_pipeline.batches.wire import Batch
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import FileKind, FileState, request_files

STEPS_PER_COMMIT = 100
MOST_RETRIEVALS = 20  # single look-ups per poll, for batches that the list does not show


@dataclass
class Polled:
    """What a look at the endpoint found."""

    open: int = 0  # batches still in progress, over all pipelines of this ledger
    ended: list[str] = field(default_factory=list)  # ids of the files that turned out to have ended
    adopted: list[str] = field(default_factory=list)  # ids of the files whose batch was found
    list_calls: int = 0
    notes: list[str] = field(default_factory=list)
    until: float = math.inf  # by the machine's steady clock

    @property
    def out_of_time(self) -> bool:
        """Whether no further call should be begun."""
        return time.monotonic() > self.until


def files_at(store: Store, endpoint: Endpoint, *conditions) -> Sequence[RowMapping]:
    return store.ledger.rows(
        select(request_files)
        .where(request_files.c.endpoint_id == endpoint.id, *conditions)
        .order_by(request_files.c.number, request_files.c.seq)
    )


def doubtful_files(store: Store, endpoint: Endpoint) -> Sequence[RowMapping]:
    """Files that may have a batch in the list which the ledger does not know."""
    return files_at(
        store,
        endpoint,
        request_files.c.kind == FileKind.BATCH,
        or_(
            request_files.c.state == FileState.UNKNOWN,
            and_(
                request_files.c.state == FileState.HELD, request_files.c.first_sent_at.is_not(None)
            ),
            request_files.c.watch_until > store.clock.now(),
        ),
    )


def window_start(file: RowMapping, server_ahead: timedelta) -> datetime:
    """Return the earliest creation time, by the server's clock, of a batch that could be this file."""
    # A server clock that is ahead only widens the window: harmless, since custom_ids decide.
    return (
        file["first_sent_at"]
        + min(timedelta(0), server_ahead)
        - timedelta(seconds=CLOCK_MARGIN_SECONDS)
    )


def walk(
    api: BatchesApi,
    endpoint: Endpoint,
    started: datetime,
    sent: Sequence[RowMapping],
    doubtful: Sequence[RowMapping],
    report: Polled,
) -> dict[str, Batch]:
    """Read the list, newest first, as far back as any file needs it."""
    listed: dict[str, Batch] = {}
    missing = {file["batch_id"] for file in sent}
    after: str | None = None
    while True:
        page = api.page(after)
        report.list_calls += 1
        if page.endpoint != endpoint:
            raise PipelineRefused(
                f"Open batches were sent to {endpoint}, but the key now belongs to "
                f"{page.endpoint}. Set "
                "ClaudeBatches(api_key=..., base_url=...) back to collect them; nothing was "
                "changed."
            )
        ahead = (page.server_now - started) if page.server_now else timedelta(0)
        for batch in page.batches:
            listed[batch.id] = batch
            missing.discard(batch.id)
        if page.next_after is None or report.out_of_time:
            return listed
        oldest = page.batches[-1].created_at
        wanted = [window_start(file, ahead) for file in doubtful]
        wanted += [file["batch_created_at"] for file in sent if file["batch_id"] in missing]
        if not wanted or oldest < min(wanted):
            return listed
        after = page.next_after


def see(
    store: Store,
    api: BatchesApi,
    sent: Sequence[RowMapping],
    listed: dict[str, Batch],
    policy: SendPolicy,
    report: Polled,
) -> None:
    """Take note of what became of the batches."""
    over: list[tuple[RowMapping, Batch]] = []
    for file in sent:
        batch = listed.get(file["batch_id"]) or _retrieve(store, api, file, policy, report)
        if batch is None:
            continue
        if batch.ended:
            over.append((file, batch))
        else:
            report.open += 1
    # A commit waits for the disk. And who goes by the same order waits for nobody crosswise.
    over.sort(key=lambda one: one[0]["id"])
    for start in range(0, len(over), STEPS_PER_COMMIT):
        some = over[start : start + STEPS_PER_COMMIT]
        with store.ledger.write() as tx:
            ended = [file["id"] for file, batch in some if end_file(store, tx, file, batch)]
        report.ended += ended


def tell_cancelled(store: Store, api: BatchesApi, file: RowMapping, report: Polled) -> None:
    """Tell the API what it was not told when a person cancelled; a batch that has ended stays so."""
    if file["id"] in report.ended or report.out_of_time:
        return
    report.list_calls += 1
    try:
        send_cancel(store, api, file["id"], file["batch_id"])
    except (ApiUnavailable, NoSuchBatch) as error:
        report.notes.append(f"{file['batch_id']} is to be cancelled: {error}")


def _retrieve(
    store: Store, api: BatchesApi, file: RowMapping, policy: SendPolicy, report: Polled
) -> Batch | None:
    """Look up a batch that the list did not show; one that stays unknown to the API was deleted."""
    if report.out_of_time or report.list_calls > MOST_RETRIEVALS:
        report.open += 1
        return None
    report.list_calls += 1
    try:
        return api.retrieve(file["batch_id"])
    except NoSuchBatch as error:
        now = store.clock.now()
        since = file["absent_since"]
        with store.ledger.write() as tx:
            if since is None:
                tx.execute(
                    update(request_files)
                    .where(request_files.c.id == file["id"])
                    .values(absent_since=now)
                )
            elif (now - since).total_seconds() >= policy.reconcile_after_seconds:
                note = f"{file['batch_id']} is gone ({error}): somebody deleted it. Its answers are lost."
                if store.ledger.move(
                    tx,
                    file["id"],
                    FileState.IN_PROGRESS,
                    FileState.ENDED,
                    note,
                    ended_at=now,
                    error=note,
                ):
                    report.ended.append(file["id"])
                report.notes.append(note)
                return None
        report.open += 1
        return None
    except ApiUnavailable as error:
        report.notes.append(str(error))
        report.open += 1
        return None


def end_file(store: Store, tx, file: RowMapping, batch: Batch) -> bool:
    return store.ledger.move(
        tx,
        file["id"],
        FileState.IN_PROGRESS,
        FileState.ENDED,
        f"{batch.id} ended",
        request_files.c.batch_id == batch.id,
        ended_at=batch.ended_at or store.clock.now(),
        answered=batch.requests,
        absent_since=None,
        not_before=None,
    )
