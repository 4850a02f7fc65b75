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
from batch_pipeline.batches.policy import CLOCK_MARGIN_SECONDS, UNDATED, SendPolicy, watch_until
from batch_pipeline.batches.wire import Batch
from batch_pipeline.errors import counted
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint, betas_of
from batch_pipeline.store.tables import NOT_RESULTS, FileKind, FileState, candidates, request_files

STEPS_PER_COMMIT = 100
MOST_PAGES = 2_000  # of the list, a thousand batches each
NEVER_SHOWN_SECONDS = 1800.0
JITTER = timedelta(minutes=1)  # two batches of the same moment may stand in any order
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
    cut: str = ""  # why the list was not read as far as it was needed
    counts_lie: bool = False  # the list does not know how many requests our own batches have

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
            # Its batch is not where it must be: the reply to its create call may have named another.
            and_(
                request_files.c.state == FileState.IN_PROGRESS,
                request_files.c.absent_since.is_not(None),
            ),
            and_(
                request_files.c.state == FileState.ENDED,
                request_files.c.error.contains(NOT_RESULTS),
            ),
        ),
    )


def window_start(file: RowMapping, server_ahead: timedelta, now: datetime) -> datetime:
    """Return the earliest creation time, by the server's clock, of a batch that could be this file."""
    if file["first_sent_at"] > now:
        # Our clock was ahead when it was sent: nobody knows when that was.
        return now - UNDATED + min(timedelta(0), server_ahead)
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
    """Read the list, newest first, as far back as any file needs it.

    A list that goes in circles, never ends or takes too long is read as far as it goes; ``report.cut``
    says so then, and nothing may be concluded from what it does not show.
    """
    listed: dict[str, Batch] = {}
    missing = {file["batch_id"] for file in sent}
    sizes = {file["batch_id"]: file["requests"] for file in sent}
    after: str | None = None
    seen: set[str] = set()
    newest_first = True
    last: datetime | None = None
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
        known = len(listed)
        for batch in page.batches:
            listed[batch.id] = batch
            missing.discard(batch.id)
            newest_first &= last is None or batch.created_at <= last + JITTER
            last = batch.created_at
            report.counts_lie |= batch.requests != sizes.get(batch.id, batch.requests)
        if page.next_after is None:
            return listed
        wanted = [window_start(file, ahead, started) for file in doubtful]
        wanted += [file["batch_created_at"] for file in sent if file["batch_id"] in missing]
        # What comes in another order may have any batch on its last page.
        if newest_first and (not wanted or page.batches[-1].created_at < min(wanted)):
            return listed
        if page.next_after in seen or len(listed) == known:
            report.cut = "its pages repeat"
        elif report.list_calls >= MOST_PAGES:
            report.cut = f"it does not end after {MOST_PAGES:,} pages"
        elif report.out_of_time:
            report.cut = "there was no time to read all of it"
        if report.cut:
            return listed
        seen.add(page.next_after)
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
    shown: list[RowMapping] = []
    for file in sent:
        batch = listed.get(file["batch_id"]) or _retrieve(store, api, file, policy, report)
        if batch is None:
            continue
        if batch.ended:
            over.append((file, batch))
        else:
            report.open += 1
            if file["answered"] is None or file["absent_since"] is not None:
                shown.append(file)
    if shown:
        _are_there(store, shown)
    # A commit waits for the disk. And who goes by the same order waits for nobody crosswise.
    over.sort(key=lambda one: one[0]["id"])
    for start in range(0, len(over), STEPS_PER_COMMIT):
        some = over[start : start + STEPS_PER_COMMIT]
        with store.ledger.write() as tx:
            ended = [file["id"] for file, batch in some if end_file(store, tx, file, batch)]
        report.ended += ended


def _are_there(store: Store, files: Sequence[RowMapping]) -> None:
    """Write down that the API has shown batches, and not only named them in its replies."""
    with store.ledger.write() as tx:
        for file in sorted(files, key=lambda one: one["id"]):
            tx.execute(
                update(request_files)
                .where(
                    request_files.c.id == file["id"],
                    request_files.c.state == FileState.IN_PROGRESS,
                    request_files.c.batch_id == file["batch_id"],
                )
                .values(answered=file["requests"], absent_since=None)
            )


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
        betas = betas_of(store.ledger, file["submission_id"])
        return api.with_betas(betas).retrieve(file["batch_id"])
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
            elif (
                (now - since).total_seconds() < _absent_seconds(file, policy)
                or report.cut
                or _may_be_another(tx, file)
            ):
                pass  # it is too early to tell
            elif file["answered"] is None and file["kind"] == FileKind.BATCH:
                report.notes.append(_hold_never_shown(store, tx, file, since, error))
                return None
            else:
                note = f"{file['batch_id']} is gone ({error}): somebody deleted it. Its answers are lost."
                if store.ledger.move(
                    tx,
                    file["id"],
                    FileState.IN_PROGRESS,
                    FileState.ENDED,
                    note,
                    ended_at=now,
                    error=note,
                    watch_until=watch_until(now),
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


def _hold_never_shown(
    store: Store, tx, file: RowMapping, since: datetime, error: NoSuchBatch
) -> str:
    """Hold a file whose batch only the reply to its create call has named; return what is said of it.

    Something took the call, so its batch may be there under another id, which the list hides. A batch
    of the file that the list shows later is taken for its own, as after a lost reply.
    """
    note = (
        f"{file['id']}: the reply to its create call named {file['batch_id']}, which the API has never shown in its list, "
        f"and does not know by its id since {since:%Y-%m-%d %H:%M} UTC ({error}). Something between here and the API may have changed "
        "that id: a batch may have been made, and paid, under another one, so it is not sent again. A batch of this file that the "
        "list shows later is taken, at no further cost. If the Console shows none that was created at "
        f"{file['batch_created_at']:%Y-%m-%d %H:%M} UTC with {counted(file['requests'], 'request')}, send it "
        f"again: `batch-pipeline held --resend {file['id']}`"
    )
    store.ledger.move(
        tx,
        file["id"],
        FileState.IN_PROGRESS,
        FileState.HELD,
        note,
        request_files.c.batch_id == file["batch_id"],
        batch_id=None,
        batch_created_at=None,
        expires_at=None,
        absent_since=None,
        not_before=None,
        error=note,
    )
    return note


def _absent_seconds(file: RowMapping, policy: SendPolicy) -> float:
    """Return how long a batch must stay unknown to the API before it counts as deleted.

    One that only the reply to its create call has named may be in the list under another id, later.
    """
    known = policy.reconcile_after_seconds
    return known if file["answered"] is not None else max(known, NEVER_SHOWN_SECONDS)


def _may_be_another(tx, file: RowMapping) -> bool:
    """Whether an open batch that nobody knows may be the one of a file whose own is not found."""
    found = select(candidates.c.batch_id).where(
        candidates.c.endpoint_id == file["endpoint_id"],
        candidates.c.verdict == "open",
        candidates.c.requests.in_([file["requests"], 0]),
    )
    return tx.execute(found).first() is not None


def end_file(store: Store, tx, file: RowMapping, batch: Batch) -> bool:
    return store.ledger.move(
        tx,
        file["id"],
        FileState.IN_PROGRESS,
        FileState.ENDED,
        f"{batch.id} ended",
        request_files.c.batch_id == batch.id,
        ended_at=batch.ended_at or store.clock.now(),
        # What a list says of the size of a batch is not always so.
        answered=batch.requests or file["requests"],
        absent_since=None,
        not_before=None,
    )
