"""Deleting requests and answers that are older than a store keeps them.

Records, rows, index and ledger stay, so selection, reuse, retries, costs and the results table lose nothing. What is
given up is the second copy: rows that are lost later cannot be made again from their answers, once the API
has dropped these, too. So a submission's files go only while its rows can be read, all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, or_, select

from batch_pipeline.errors import HeldError, counted
from batch_pipeline.records.connections import lost_files_told, memory_connection, quote_files
from batch_pipeline.results.holding import find_winners
from batch_pipeline.results.join import FINAL
from batch_pipeline.results.readable import is_readable
from batch_pipeline.store.erasures import ERASED
from batch_pipeline.store.prunings import PrunedTo, note_pruned, pruned_to
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import index_files
from batch_pipeline.store.tables import FileState, request_files, submissions

GONE = ("requests/", "answers/")
"""What goes of a submission's folder; but the lists of records that could not be asked stay."""
DONE = (FileState.COLLECTED, FileState.SPLIT)

# The files of an index whose rows are the latest of their keys and may be asked again.
ASKED_AGAIN = """
select distinct file_index from (select *, file_index from read_parquet({index})) as rows
semi join (select custom_id from winners where status not in {final}) using (custom_id)
where status not in {final} and status not in ('pending', 'deleted') and attempt < {most}
"""


@dataclass
class Pruned:
    """What was pruned, or would be.

    Attributes:
        before: submissions that were made before this moment are old.
        submissions: how many of them lost their requests and answers.
        files: how many files that was.
        bytes: how much.
        kept: of the others, why their files stay: a sentence each.
    """

    before: datetime
    submissions: int = 0
    files: int = 0
    bytes: int = 0
    kept: list[str] = field(default_factory=list)


def prune(
    store: Store,
    pipeline: str,
    keep_days: int,
    *,
    max_attempts: int | None = None,
    dry_run: bool = False,
    wait_seconds: float = 60.0,
) -> Pruned:
    """Delete a pipeline's requests and answers that are older; or say what that would be.

    Args:
        store: where files and ledger are.
        pipeline: its name.
        keep_days: how long they are kept, from the moment their submission was made.
        max_attempts: how often a record is asked at most; None: not known, any may be asked again.
        dry_run: delete nothing.
        wait_seconds: how long to wait for another process that does so.

    Raises:
        HeldError: another process does so.
        LostFileError: an index file cannot be read.
    """
    if dry_run:
        return _prune(store, pipeline, keep_days, max_attempts, dry_run=True)
    with store.ledger.lease(f"rewrite/{pipeline}", wait_seconds) as lease:
        if lease is None:
            raise HeldError(
                f"Another process is erasing or pruning files of {pipeline}, or was a moment ago. Nothing was deleted; try "
                "again in two minutes."
            )
        return _prune(store, pipeline, keep_days, max_attempts, dry_run=False)


def _prune(
    store: Store, pipeline: str, keep_days: int, max_attempts: int | None, *, dry_run: bool
) -> Pruned:
    found = Pruned(store.clock.now() - timedelta(days=keep_days))
    noted = pruned_to(store.ledger, pipeline)
    old = _old(store, pipeline, found.before, noted)
    if not old:
        return found
    by_submission: dict[str, list[RowMapping]] = {one["id"]: [] for one in old}
    for file in store.ledger.rows(
        select(request_files).where(request_files.c.submission_id.in_(list(by_submission)))
    ):
        by_submission[file["submission_id"]].append(file)
    again = _asked_again(store, pipeline, by_submission, max_attempts)
    left = []
    for submission in old:
        files = by_submission[submission["id"]]
        reason = _reason(store, files, again)
        if reason:
            left.append(submission["id"])
            found.kept.append(f"submission {submission['number']} ({submission['id']}): {reason}")
        else:
            _delete(store, submission, found, dry_run)
    if not dry_run:
        moment = max(noted.moment, found.before)
        note_pruned(store.ledger, pipeline, PrunedTo(moment, tuple(left)))
    return found


def _old(store: Store, pipeline: str, before: datetime, noted: PrunedTo) -> Sequence[RowMapping]:
    """Return the old submissions that are not pruned yet, oldest first."""
    return store.ledger.rows(
        select(submissions)
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.state == "built",
            submissions.c.version != ERASED,
            submissions.c.created_at < before,
            or_(submissions.c.created_at >= noted.moment, submissions.c.id.in_(noted.left)),
        )
        .order_by(submissions.c.number)
    )


def _asked_again(
    store: Store,
    pipeline: str,
    files: dict[str, list[RowMapping]],
    max_attempts: int | None,
) -> set[str]:
    """Return the index files with records that may be asked again: what was answered may go with the request."""
    names = [
        file["index_path"]
        for some in files.values()
        for file in some
        if file["retryable"] and file["index_path"]
    ]
    if not names:
        return set()
    query = ASKED_AGAIN.format(
        index=quote_files(map(store.files.url, names)), final=FINAL, most=2**31 - 1 if max_attempts is None else int(max_attempts)
    )  # fmt: skip
    with (
        lost_files_told(pipeline, f"Run {pipeline}_collect, which makes lost files of the store again. Nothing was deleted."),
        memory_connection() as con,
    ):  # fmt: skip
        store.files.register(con)
        find_winners(store, con, index_files(store.ledger, pipeline))
        found = con.execute(query).fetchall()
    return {names[place] for (place,) in found}


def _reason(store: Store, files: Sequence[RowMapping], again: set[str]) -> str:
    """Return why the files of a submission stay; "" when they may go."""
    now = store.clock.now()
    if waits := [file for file in files if file["state"] not in DONE]:
        return f"{counted(len(waits), 'file is', 'files are')} not collected yet"
    collected = [file for file in files if file["state"] == FileState.COLLECTED]
    if any(file["published_at"] is None for file in collected):
        return "its rows are not in the results table yet"
    if any(file["watch_until"] and file["watch_until"] > now for file in files):
        return "a batch of it may still turn up"
    if any(file["index_path"] in again for file in collected):
        return "records of it may be asked again, with what was answered"
    rows = [file for file in collected if file["results_path"]]
    for file in rows:
        told = {"results_path": ("_status", file["statuses"]), "index_path": ("", None)}
        for part, what in told.items():
            if not is_readable(store, file[part], *what):
                return f"{file[part]} is gone or damaged; the collect run makes it again from the answers"
    return ""


def _delete(store: Store, submission: RowMapping, found: Pruned, dry_run: bool) -> None:
    paths = (submission["records_path"], submission["index_path"])
    # Of a pipeline that was renamed, the files may lie under both of its names.
    folders = {f"{path.split('/', 1)[0]}/{submission['id']}" for path in paths if path}
    folders.add(f"{submission['pipeline']}/{submission['id']}")
    names = [
        name
        for folder in sorted(folders)
        for name in sorted(store.files.names(folder))
        if name.removeprefix(f"{folder}/").startswith(GONE) and name.endswith(".jsonl")
    ]
    found.submissions += bool(names)
    for name in names:
        found.files += 1
        found.bytes += store.files.size(name)
        if not dry_run:
            store.files.remove(name)
