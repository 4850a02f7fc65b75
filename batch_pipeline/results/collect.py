"""Collecting what has ended: answers kept and verified, then judged, joined and indexed.

Every step can be done again: the answers are kept byte for byte, and the same answers give the same
rows. A file counts as collected in the transaction that names its rows and its index.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
from sqlalchemy import RowMapping, or_, select, update

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.claim import postpone
from batch_pipeline.batches.outcome import ApiUnavailable, NoSuchBatch
from batch_pipeline.errors import HeldError, counted
from batch_pipeline.records.connections import first_line, memory_connection
from batch_pipeline.results.download import Answers, Incomplete, answers_of, pause
from batch_pipeline.results.erased import blank_rows, erased_in
from batch_pipeline.results.file_records import submission_of
from batch_pipeline.results.join import (
    MEMORY,
    Batch,
    Joined,
    join_batch,
    join_rejected,
    join_reused,
)
from batch_pipeline.results.question import Question
from batch_pipeline.results.readable import UNREADABLE, is_readable
from batch_pipeline.results.refusal import shared_refusal
from batch_pipeline.store.layout import index_name, results_name, safe_part
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions
from batch_pipeline.store.trouble import meaning_of

NANO = Decimal(10) ** 9
AT_ONCE_SECONDS = 2.0  # until a download that broke is tried again, in the same run
MOST_AT_ONCE = 5  # of these in a run: an API that is down answers none of them


@dataclass
class Collected:
    """What one collecting pass did."""

    files: list[str] = field(default_factory=list)
    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    cost_unknown: int = 0
    asked: int = 0  # requests that came back
    refusals: dict[str, int] = field(default_factory=dict)  # of these, by the API's message
    trouble: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # files that cannot be collected as things are


def ready_to_collect(store: Store, scope: Scope) -> Sequence[RowMapping]:
    """Return the files of a scope that have ended and may be collected now, oldest first."""
    return store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.pipeline == scope.pipeline,
            request_files.c.partition == scope.partition,
            request_files.c.endpoint_id == scope.endpoint.id,
            request_files.c.state == FileState.ENDED,
            or_(
                request_files.c.not_before.is_(None),
                request_files.c.not_before <= store.clock.now(),
            ),
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )


def collect(
    store: Store,
    api: BatchesApi,
    scope: Scope,
    max_attempts: int,
    tell: Callable[[str], None] = lambda _: None,
    today: Question | None = None,
) -> Collected:
    """Collect every file of a scope that has ended.

    Trouble with one file (an incomplete download, an API that does not answer) is reported and
    leaves the others alone, as does a file of the store that is lost or cannot be read.

    Args:
        store: where the files and the ledger are.
        api: the endpoint of ``scope``.
        scope: whose files.
        max_attempts: how often a record is asked at most.
        tell: gets a line per file.
        today: the question of today's code: its class judges what was asked with its schema.

    Raises:
        HeldError: the key is refused.
    """
    report = Collected()
    ready = ready_to_collect(store, scope)
    keep_manifests(store, (file["submission_id"] for file in ready))
    with _Connection() as connection:
        one_pass = _Pass(store, api, max_attempts, today, connection, tell, report)
        for file in ready:
            with store.ledger.lease(f"collect/{file['id']}") as lease:
                if lease is not None:
                    one_pass.collect(_fresh(store, file))
    return report


class _Connection:
    """DuckDB for the files of one pass in turn: an instance takes as long to start as a file to join."""

    def __enter__(self) -> "_Connection":
        self._stack = ExitStack()
        self._open: duckdb.DuckDBPyConnection | None = None
        return self

    def __exit__(self, *_error: object) -> None:
        self.drop()

    def get(self) -> duckdb.DuckDBPyConnection:
        """Return the connection."""
        if self._open is None:
            self._open = self._stack.enter_context(memory_connection(MEMORY, threads=1))
            # The records of a submission are opened for each of its batches, and what stands at their end grows
            # with them. A file that was written to since is read anew.
            self._open.execute("set parquet_metadata_cache = true")
        return self._open

    def drop(self) -> None:
        """Close it, so that the next file gets another: an error may have left it unusable."""
        self._open = None
        self._stack.close()


@dataclass
class _Pass:
    """What the files of one pass share."""

    store: Store
    api: BatchesApi
    max_attempts: int
    today: Question | None
    connection: _Connection
    tell: Callable[[str], None]
    report: Collected
    at_once: int = 0

    def collect(self, file: RowMapping) -> None:
        """Collect one file whose lease is ours, and report it."""
        if file["state"] != FileState.ENDED:
            return  # another process collected it before the lease was ours
        try:
            joined = self._patiently(file)
        except Incomplete as error:
            self.report.trouble.append(f"{file['id']}: {error}")
        except (ApiUnavailable, NoSuchBatch) as error:
            _later(self.store, file)
            self.report.trouble.append(f"{file['id']}: {error}")
        except (duckdb.Error, OSError, ValueError) as error:
            self.connection.drop()
            meant = meaning_of(error) or f"{type(error).__name__}: {first_line(error)}"
            self.report.broken.append(f"{file['id']}: {meant}{_damaged(self.store, file)}")
        except HeldError:
            if self.report.files:
                self.tell("the API refuses the key; what was collected so far counts")
            raise
        else:
            if joined is not None:
                _add(self.report, file, joined)
                shown = ", ".join(
                    f"{count:,} {status}" for status, count in joined.statuses.items()
                )
                self.tell(f"collected {file['id']}: {shown or 'nothing to add'}")

    def _patiently(self, file: RowMapping) -> Joined | None:
        """Collect one file, with a second try soon after a download that broke."""
        try:
            return self._one(file)
        except ApiUnavailable as error:
            if file["first_download_at"] is not None or self.at_once >= MOST_AT_ONCE:
                raise
            self.at_once += 1
            self.tell(f"{file['id']}: {error} Now: it is tried again in {AT_ONCE_SECONDS:.0f} s.")
            self.store.clock.sleep(AT_ONCE_SECONDS)
            return self._one(_fresh(self.store, file))

    def _one(self, file: RowMapping) -> Joined | None:
        """Collect one file; None when another process did so first, or there is nothing to add."""
        store = self.store
        with ExitStack() as stack:
            answers = batch = None
            if file["kind"] in (FileKind.BATCH, FileKind.LATE):
                connection, submission = self.connection.get(), submission_of(store, file)
                batch = Batch(stack, store, connection, file, submission, self.today)
                answers = answers_of(store, self.api, file, batch.requested, batch)
            joined, values = join_file(
                store, file, answers, self.max_attempts, self.today, batch=batch
            )
        with store.ledger.write() as tx:
            moved = store.ledger.move(
                tx,
                file["id"],
                FileState.ENDED,
                FileState.COLLECTED,
                f"{joined.rows if joined else 0:,} rows",
                collected_at=store.clock.now(),
                not_before=None,
                **values,
            )
            if moved and values["retryable"]:
                tx.execute(
                    update(submissions)
                    .where(submissions.c.id == file["submission_id"])
                    .values(retryable=submissions.c.retryable + values["retryable"])
                )
        return joined if moved else None


def keep_answers(
    store: Store, api: BatchesApi, scope: Scope, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Download the answers of every file of a scope that has ended, and make no rows of them yet.

    For a store of which files are lost: the API drops answers after 29 days, whoever looks for a backup.

    Args:
        store: where the files and the ledger are.
        api: the endpoint of ``scope``.
        scope: whose files.
        tell: gets a line per file whose answers are not kept yet.

    Raises:
        HeldError: the key is refused.
    """
    for file in ready_to_collect(store, scope):
        if file["kind"] not in (FileKind.BATCH, FileKind.LATE):
            continue
        with store.ledger.lease(f"collect/{file['id']}") as lease:
            if lease is None:
                continue
            file = _fresh(store, file)
            if file["state"] != FileState.ENDED:
                continue
            try:
                answers_of(store, api, file)
            except (ApiUnavailable, NoSuchBatch) as error:
                _later(store, file)
                tell(f"{file['id']}: {error}")
            except (Incomplete, *UNREADABLE) as error:
                tell(f"{file['id']}: {first_line(error)}")


def refused_alike(collected: Sequence[Collected]) -> str | None:
    """Return what is said of a refusal that all requests of these passes got; None when there is none."""
    refusals: dict[str, int] = {}
    for one in collected:
        for message, times in one.refusals.items():
            refusals[message] = refusals.get(message, 0) + times
    return shared_refusal(refusals, sum(one.asked for one in collected))


def _later(store: Store, file: RowMapping) -> None:
    """Try a file again later: within seconds at first, then with pauses that grow."""
    first = _fresh(store, file)["first_download_at"]
    postpone(store.ledger, file["id"], pause(store, first))
    if first is None:
        with store.ledger.write() as tx:
            tx.execute(
                update(request_files)
                .where(
                    request_files.c.id == file["id"], request_files.c.first_download_at.is_(None)
                )
                .values(first_download_at=store.clock.now())
            )


def _damaged(store: Store, file: RowMapping) -> str:
    """Return which file is in the way of a file's rows, in words: what is damaged does not say so itself."""
    submission = submission_of(store, file)
    names = [submission["records_path"], submission["rejected_path"]]
    damaged = [name for name in names if name and not is_readable(store, name)]
    if not damaged:
        return ""
    kept = _fresh(store, file)["answers_path"]
    kept = f"; its answers are kept in {kept}, and become rows when that is back" if kept else ""
    return f" (gone or damaged: {', '.join(damaged)}{kept})"


def _fresh(store: Store, file: RowMapping) -> RowMapping:
    return store.ledger.rows(select(request_files).where(request_files.c.id == file["id"]))[0]


def join_file(
    store: Store,
    file: RowMapping,
    answers: Answers | None,
    max_attempts: int,
    today: Question | None = None,
    lost: Collection[str] = (),
    batch: Batch | None = None,
) -> tuple[Joined | None, dict[str, Any]]:
    """Write a file's rows and index into the store.

    Args:
        store: where the files are.
        file: the ledger's row of the file.
        answers: the kept answers of a batch; None for a file that asks nothing.
        max_attempts: how often a record is asked at most.
        today: the question of today's code, if there is one (see `Question`).
        lost: names of other files' rows that are known to be lost.
        batch: what is at hand of the file's batch already; None: nothing.

    Returns:
        What was joined (None when the file adds no row), and what the ledger is to say of it.
    """
    submission = submission_of(store, file)
    values: dict[str, Any] = {
        "results_path": None,
        "index_path": None,
        "statuses": {},
        "tokens": {},
        "cost_nanousd": 0,
        "cost_unknown": 0,
        "retryable": 0,
    }
    with store.files.scratch() as folder:
        match file["kind"]:
            case FileKind.REJECTED:
                joined = join_rejected(store, file, submission, folder)
            case FileKind.REUSED:
                joined = join_reused(store, submission, folder, lost)
            case _:
                assert answers is not None, "a batch is joined to its answers"
                joined = join_batch(
                    store, file, submission, answers, max_attempts, folder, today, batch
                )
                # What no line tells may have been answered, and paid. Of a file without a batch,
                # whoever gave it up wrote down what is known.
                joined.counts.cost_unknown += (
                    answers.lost if file["batch_id"] else file["cost_unknown"] or 0
                )
        if joined is None:
            return None, values
        rows_path = _without_erased(store, submission, joined.rows_path)
        # A process that was overtaken in its sleep must not write over what another one collected.
        named = safe_part(file["batch_id"] or file["kind"])
        part = f"{file['seq']:05d}-{named}-{store.files.new_part()}"
        where = (file["pipeline"], file["submission_id"], part)
        counts = joined.counts
        return joined, values | {
            "results_path": store.files.put(rows_path, results_name(*where)),
            "index_path": store.files.put(joined.index_path, index_name(*where)),
            "statuses": joined.statuses,
            "tokens": counts.tokens | _answered_once(joined),
            "cost_nanousd": int((counts.cost * NANO).to_integral_value()),
            "cost_unknown": counts.cost_unknown,
            "retryable": joined.retryable,
        }


def _without_erased(store: Store, submission: RowMapping, rows_path: str) -> str:
    """Return where joined rows are without what was erased after their submission was made."""
    if not (custom_ids := erased_in(store, submission).rows):
        return rows_path
    with memory_connection(MEMORY) as connection:
        blanked = blank_rows(connection, rows_path, f"{rows_path}-erased", custom_ids)
    return f"{rows_path}-erased" if blanked else rows_path


def _answered_once(joined: Joined) -> dict[str, int]:
    """Return how many requests were answered, where rows that are answered are more than these."""
    requests, rows = joined.counts.statuses["answered"], joined.statuses.get("answered", 0)
    return {"answered": requests} if 0 < requests < rows else {}


def _add(report: Collected, file: RowMapping, joined: Joined) -> None:
    report.files.append(file["id"])
    report.rows += joined.rows
    report.asked += joined.asked if file["batch_id"] else 0
    for message, times in joined.refusals.items():
        report.refusals[message] = report.refusals.get(message, 0) + times
    for status, count in joined.statuses.items():
        report.statuses[status] = report.statuses.get(status, 0) + count
    report.input_tokens += joined.counts.input_tokens
    report.output_tokens += joined.counts.output_tokens
    report.cache_read_tokens += joined.counts.cache_read_tokens
    report.cache_write_tokens += joined.counts.cache_write_tokens
    report.cost_usd += joined.counts.cost
    report.cost_unknown += joined.counts.cost_unknown
    if joined.judged_by_schema_alone:
        report.trouble.append(
            f"{file['id']}: the class that the pipeline declares as its output has another schema than "
            "these records were asked with; they were judged by that schema alone"
        )
    if joined.counts.foreign:
        report.trouble.append(
            f"{file['id']}: ignored {counted(joined.counts.foreign, 'answer')} that came twice or for no "
            "request of it"
        )
    if joined.counts.cost_unknown:
        report.trouble.append(
            f"{file['id']}: the cost of {counted(joined.counts.cost_unknown, 'request')} is not known"
        )
