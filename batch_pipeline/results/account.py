"""Accounting for every record: what was selected comes back as exactly one row."""

from dataclasses import dataclass, field

from sqlalchemy import RowMapping, func, select, update

from batch_pipeline.records.connections import (
    is_unreadable,
    lost_files_told,
    memory_connection,
    quote_files,
)
from batch_pipeline.results.join import MEMORY
from batch_pipeline.store.budget import over_budget
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope
from batch_pipeline.store.tables import OPEN, FileKind, FileState, request_files, submissions

# Per settled submission, the records without a row, the rows without a record, and the records with
# two.
DIFFERENCE = """
with records as ({records}), results as ({results})
select (select count(*) from records anti join results using (_custom_id)),
       (select count(*) from results anti join records using (_custom_id)),
       (select count(*) from results where n > 1),
       (select count(*) from records)
"""

ROWS = "select _custom_id, count(*) as n from read_parquet({files}) group by all"
SELECTED = "select custom_id as _custom_id from read_parquet({files}) where status = 'pending'"


@dataclass
class Account:
    """What became of the records of a scope's submissions."""

    settled: int = 0  # submissions that were compared now
    records: int = 0  # records of these
    missing: int = 0  # of them without a row
    unexpected: int = 0  # rows that no record stands behind
    doubled: int = 0
    pending: int = 0  # requests that are still on their way
    over_budget: int = 0  # of these, those that a budget holds back
    failures: list[str] = field(default_factory=list)
    balanced_now: list[RowMapping] = field(default_factory=list)  # submissions, in their order

    @property
    def balanced(self) -> bool:
        """Whether every record of every settled submission has exactly one row."""
        return not self.failures


def account(store: Store, scope: Scope) -> Account:
    """Compare records and rows of every settled submission that has not been found balanced before.

    Raises:
        LostFileError: a file of the store is gone, or damaged.
    """
    back = sum(
        one.requests
        for one in over_budget(store, scope.pipeline)
        if one.partition == scope.partition
    )
    report = Account(pending=_pending(store, scope), over_budget=back)
    for submission in _settled(store, scope):
        report.settled += 1
        with lost_files_told(
            f"{scope.pipeline}, while the records of submission {submission['number']} are counted",
            f"Run {scope.pipeline}_collect, which makes lost files of the store again, or bring the file "
            "back from a backup. Nothing was sent.",
        ):
            missing, unexpected, doubled, records = _difference(store, submission)
        report.records += records
        report.missing += missing
        report.unexpected += unexpected
        report.doubled += doubled
        if missing or unexpected or doubled:
            report.failures.append(
                f"submission {submission['number']} ({submission['id']}): {missing:,} of "
                f"{records:,} records have no "
                f"row, {unexpected:,} rows have no record, {doubled:,} records have two"
            )
            continue
        with store.ledger.write() as tx:
            tx.execute(
                update(submissions)
                .where(submissions.c.id == submission["id"])
                .values(verified_at=store.clock.now())
            )
        report.balanced_now.append(submission)
    return report


def _pending(store: Store, scope: Scope) -> int:
    with store.ledger.read() as tx:
        waiting = tx.execute(
            select(func.coalesce(func.sum(request_files.c.requests), 0)).where(
                request_files.c.pipeline == scope.pipeline,
                request_files.c.partition == scope.partition,
                request_files.c.kind == FileKind.BATCH,
                request_files.c.state.in_(OPEN),
            )
        ).scalar_one()
    return int(waiting)


def _settled(store: Store, scope: Scope) -> list[RowMapping]:
    still_open = select(request_files.c.submission_id).where(request_files.c.state.in_(OPEN))
    return list(
        store.ledger.rows(
            select(submissions)
            .where(
                submissions.c.pipeline == scope.pipeline,
                submissions.c.partition == scope.partition,
                submissions.c.state == "built",
                submissions.c.verified_at.is_(None),
                submissions.c.id.not_in(still_open),
            )
            .order_by(submissions.c.number)
        )
    )


def _difference(store: Store, submission: RowMapping) -> tuple[int, int, int, int]:
    if not submission["records_path"]:
        return 0, 0, 0, 0
    files = store.ledger.rows(
        select(request_files.c.results_path).where(
            request_files.c.submission_id == submission["id"],
            request_files.c.state == FileState.COLLECTED,
            # A second batch of a file answers records that its first one answered too.
            request_files.c.kind != FileKind.LATE,
            request_files.c.results_path.is_not(None),
        )
    )
    results = quote_files(store.files.url(file["results_path"]) for file in files)
    rows = ROWS.format(files=results) if files else "select '' as _custom_id, 0 as n where false"
    try:
        records = quote_files([store.files.url(submission["records_path"])])
        return _counted(store, f"select _custom_id from read_parquet({records})", rows)
    except Exception as error:
        if not is_unreadable(error):
            raise
    # The records are lost, or the rows: what was selected stands in the index, too.
    index = quote_files([store.files.url(submission["index_path"])])
    return _counted(store, SELECTED.format(files=index), rows)


def _counted(store: Store, records: str, rows: str) -> tuple[int, int, int, int]:
    with memory_connection(MEMORY, threads=1) as connection:
        store.files.register(connection)
        query = DIFFERENCE.format(records=records, results=rows)
        (found,) = connection.execute(query).fetchall()
    return found
