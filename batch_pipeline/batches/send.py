"""Sending request files, each paid once.

The intent (state ``sending``, with an owner and a lease) is committed before the POST and the batch
id after it. What may go wrong in between is settled by ``reconcile``. The risk that remains is the
API's own word: it has no idempotency key, so a batch that does not show in its list within
``reconcile_after_seconds`` counts as not accepted, and so does one turned away with 429.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import RowMapping, select
from sqlalchemy.exc import IntegrityError

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.cancel import send_cancel
from batch_pipeline.batches.claim import Room, claim, hold_pipeline, release_pipeline
from batch_pipeline.batches.hours import SendBetween
from batch_pipeline.batches.late import add_late
from batch_pipeline.batches.outcome import (
    FileDamaged,
    FileRefused,
    FileTooLarge,
    NotAccepted,
    OutcomeUnknown,
    PipelineRefused,
)
from batch_pipeline.batches.policy import SendPolicy, back_off, watch_until
from batch_pipeline.batches.split import split
from batch_pipeline.batches.wire import Batch
from batch_pipeline.errors import BatchPipelineError, counted, sentence
from batch_pipeline.store.budget import NO_CAPS, Caps
from batch_pipeline.store.high_water import note_attempt
from batch_pipeline.store.ledger import new_owner
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.seeds import behind_a_seed
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint, Scope, betas_of, know_endpoint
from batch_pipeline.store.tables import FileState, endpoints, request_files

OPENING, CLOSING = b'{"requests":[', b"]}"
CHUNK = 1 << 20


@dataclass
class Sent:
    """What one sending pass did."""

    batches: list[Batch] = field(default_factory=list)
    requests: int = 0
    bytes: int = 0
    waiting: int = 0
    reason: str = ""
    trouble: list[str] = field(default_factory=list)  # messages about files that were not accepted
    refused: str | None = None  # why the pipeline is held
    over_budget: tuple[str, ...] = ()  # what a cap holds back, a line for each submission


def send(
    store: Store,
    api: BatchesApi,
    scope: Scope,
    policy: SendPolicy,
    tell: Callable[[str], None] = lambda _: None,
    caps: Caps = NO_CAPS,
    hours: SendBetween | None = None,
) -> Sent:
    """Send what is ready and due, until all is sent or the queue's room is used up.

    Args:
        store: where the files and the ledger are.
        api: the endpoint of ``scope``.
        scope: whose files.
        policy: limits and waits.
        tell: gets a line per batch.
        caps: what may be spent; what would pass one is not sent.
        hours: when batches are sent; outside of them nothing is. None: at any time.
    """
    report = Sent()
    owner = new_owner()
    # Before anything of a submission is paid, the store can tell what it is.
    keep_manifests(store, (row["submission_id"] for row in _ready(store, scope)))
    with store.ledger.read() as tx:
        _, late = behind_a_seed(tx, scope.pipeline, scope.endpoint, store.clock.now())
    for seed in late:
        report.trouble.append(
            f"{seed['id']}, whose request was to fill the cache first, is {seed['state']}: the others are sent without it, "
            "and each may write the cache anew"
        )
    while report.refused is None:
        if hours is not None and not hours.is_open(store.clock.now()):
            report.waiting = len(_ready(store, scope))
            report.reason = f"they are sent between {hours}"
            return report
        claimed = claim(store.ledger, scope, owner, policy, caps)
        if isinstance(claimed, Room):
            report.waiting, report.reason = claimed.waiting, claimed.reason
            report.over_budget = claimed.over_budget
            return report
        _attempt(store, api, scope, policy, claimed, report, tell)
    report.waiting = len(_ready(store, scope))
    report.reason = "the API refuses this account"
    return report


def _attempt(
    store: Store,
    api: BatchesApi,
    scope: Scope,
    policy: SendPolicy,
    file: RowMapping,
    report: Sent,
    tell: Callable[[str], None],
) -> None:
    """Send one claimed file, and write down what is known of the outcome."""
    ledger, now = store.ledger, store.clock.now
    name = f"{file['id']} ({counted(file['requests'], 'request')})"

    def step(to: FileState, error: BatchPipelineError, **values) -> None:
        with ledger.write() as tx:
            ledger.move(
                tx,
                file["id"],
                FileState.SENDING,
                to,
                str(error),
                request_files.c.owner == file["owner"],
                request_files.c.attempts == file["attempts"],
                owner=None,
                error=str(error),
                attempt_ended_at=now(),
                **values,
            )

    try:
        length, betas = length_of(store, file), betas_of(ledger, file["submission_id"])
        started = file["lease_until"] - timedelta(seconds=policy.lease_seconds)
        if (now() - started).total_seconds() > policy.lease_seconds / 2:
            raise NotAccepted(
                "half of the lease was gone before the call could start; nothing was sent", 1.0
            )
        # Whoever brings back an older ledger is told by it that this may have been paid.
        note_attempt(store.files, file)
        batch = api.with_betas(betas).create(body(store, file["path"]), length)
        if why := _not_believed(store, file, batch):
            raise OutcomeUnknown(f"a reply from {api.base_url} that cannot be so: {why}")
    except NotAccepted as error:
        wait = back_off(file["attempts"], error.retry_after)
        watched = {"watch_until": watch_until(now())} if error.on_its_word else {}
        step(FileState.READY, error, not_before=now() + timedelta(seconds=wait), **watched)
        report.trouble.append(f"{name}: {error}; sent again in {wait:.0f} s")
    except OutcomeUnknown as error:
        step(FileState.UNKNOWN, error)
        report.trouble.append(
            f"{name}: {sentence(str(error))} Whether the API took it is found out from its batch list in "
            f"{policy.reconcile_after_seconds:.0f} s; nothing is sent twice."
        )
    except PipelineRefused as error:
        step(FileState.READY, error, watch_until=watch_until(now()))
        hold_pipeline(ledger, scope, str(error))
        report.refused = str(error)
    except FileTooLarge as error:
        halves = split(store, file, str(error))
        report.trouble.append(
            f"{name}: {error}; " + ("cut into two" if halves else "its one record is rejected")
        )
    except FileRefused as error:
        step(FileState.HELD, error)
        report.trouble.append(
            f"{name}: {error}. It is held; by these words the API took nothing of it."
        )
    except FileDamaged as error:
        step(FileState.HELD, error)
        report.trouble.append(f"{name}: {error}")
    except BaseException as error:
        # A run that is being terminated, a disk that fails while the file is read: it may have been
        # sent.
        step(
            FileState.UNKNOWN,
            OutcomeUnknown(f"the attempt was cut short ({type(error).__name__}: {error})"),
        )
        raise
    else:
        _accepted(store, api, file, batch)
        if batch.endpoint is not None and batch.endpoint.differs_from(scope.endpoint):
            report.refused = (
                f"{batch.id} ({file['id']}) was made for {batch.endpoint}: the API key moved there "
                f"from {scope.endpoint} while files were sent. It is collected there, when the key "
                "belongs there; nothing more is sent. Set ClaudeBatches(api_key=...) to a key of "
                "the account that is meant, then launch the send job."
            )
            hold_pipeline(ledger, scope, report.refused)
        else:
            release_pipeline(ledger, scope)
        report.batches.append(batch)
        report.requests += file["requests"]
        report.bytes += length
        tell(f"sent {name} as {batch.id}")


def length_of(store: Store, file: RowMapping) -> int:
    """Return the bytes of a file's body, if the file is still as it was written.

    Raises:
        FileDamaged: it is gone, or has another length: the batch would have other requests than the
            ledger knows, and its reply could never be told from another batch's.
    """
    way_on = (
        "It is held, and nothing of it was sent. Bring the file back from a backup and send it "
        f"(`batch-pipeline held --resend {file['id']}`), or give it up, and its records are asked "
        f"in a new one (`batch-pipeline held --drop {file['id']}`)."
    )
    try:
        length = store.files.size(file["path"]) - 1 + len(OPENING) + len(CLOSING)
    except FileNotFoundError:
        raise FileDamaged(
            f"The request file {file['path']} is gone from the store {store.files.root}. {way_on}"
        ) from None
    if length != file["bytes"]:
        raise FileDamaged(
            f"The request file {file['path']} in the store {store.files.root} is not as it was written: its body has "
            f"{length:,} bytes, and had {file['bytes']:,}. {way_on}"
        )
    return length


def body(store: Store, path: str) -> Iterator[bytes]:
    """Yield a request file as the API's JSON body: its line ends become the commas between requests."""
    yield OPENING
    remaining = store.files.size(path) - 1  # the last line end closes the list instead
    with store.files.open(path) as lines:
        while remaining > 0:
            chunk = lines.read(min(CHUNK, remaining))
            if not chunk:
                raise OSError(f"{path} is shorter than it was; it is not sent")
            remaining -= len(chunk)
            yield chunk.replace(b"\n", b",")
    yield CLOSING


def _not_believed(store: Store, file: RowMapping, batch: Batch) -> str | None:
    """Return why a reply cannot be about the batch that was just made of a file, if it cannot."""
    if batch.requests not in (0, file["requests"]):
        return f"{batch.id} has {counted(batch.requests, 'request')}"
    known = store.ledger.rows(
        select(request_files.c.id).where(
            request_files.c.batch_id == batch.id,
            # A process that slept here may have been overtaken: its batch is a late one then.
            request_files.c.path != file["path"],
        )
    )
    others = [row["id"] for row in known]
    return f"{batch.id} is the batch of {others[0]}" if others else None


def _accepted(store: Store, api: BatchesApi, file: RowMapping, batch: Batch) -> None:
    """Store the batch id by compare-and-set; a batch that nobody waits for any more is cancelled.

    Only this and what is late (``overtime``) is cancelled by itself: the row was given up and sent again while this
    process slept past its lease, so this batch is the second of two. What it has answered by then
    is paid, so it is collected like any other.
    """
    ledger = store.ledger
    endpoint_id = file["endpoint_id"]
    if batch.endpoint is not None and file["endpoint_id"] != batch.endpoint.id:
        endpoint_id = _whose(store, file, batch.endpoint)
    values = dict(
        endpoint_id=endpoint_id,
        batch_id=batch.id,
        batch_created_at=batch.created_at,
        expires_at=batch.expires_at,
        attempt_ended_at=store.clock.now(),
        owner=None,
        error=None,
    )
    mine = (request_files.c.attempts == file["attempts"], request_files.c.batch_id.is_(None))
    late = None
    with suppress(IntegrityError), ledger.write() as tx:  # another process adopted it just now
        for state in (FileState.SENDING, FileState.UNKNOWN, FileState.HELD):
            if ledger.move(
                tx,
                file["id"],
                state,
                FileState.IN_PROGRESS,
                f"accepted as {batch.id}",
                *mine,
                **values,
            ):
                return
        adopted = tx.execute(
            select(request_files.c.id).where(request_files.c.batch_id == batch.id)
        ).first()
        if adopted is None:
            note = f"{batch.id} came after the file was given up and sent again"
            late = add_late(store, tx, file, batch, note)
    if late is not None:
        send_cancel(store, api, late, batch.id)


def _whose(store: Store, file: RowMapping, endpoint: Endpoint) -> str:
    """Return the id of the account that a batch was made for, as its reply tells."""
    rows = store.ledger.rows(select(endpoints).where(endpoints.c.id == file["endpoint_id"]))
    meant = Endpoint(rows[0]["base_url"], rows[0]["organization"], rows[0]["workspace"])
    if not endpoint.differs_from(meant):
        return file["endpoint_id"]
    know_endpoint(store.ledger, endpoint)
    return endpoint.id


def waiting_files(store: Store, scope: Scope) -> int:
    """Return how many files of a scope are ready, now or later."""
    return len(_ready(store, scope))


def _ready(store: Store, scope: Scope) -> Sequence[RowMapping]:
    return store.ledger.rows(
        select(request_files.c.id, request_files.c.submission_id).where(
            request_files.c.pipeline == scope.pipeline,
            request_files.c.partition == scope.partition,
            request_files.c.endpoint_id == scope.endpoint.id,
            request_files.c.state == FileState.READY,
        )
    )
