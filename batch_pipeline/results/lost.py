"""Files of the store that are gone or damaged: found, and made again from what is left, at no cost.

An index is made again from its rows. Rows are joined again from the kept answers, or from those that the API
still has. What a submission selected stands in its records, and in the index of what was collected. A list of records that
could not be asked stands in their rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import RowMapping, select, update

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.errors import LostFileError, counted, plain
from batch_pipeline.records.connections import (
    first_line,
    memory_connection,
    quote_files,
    quote_text,
)
from batch_pipeline.results.collect import join_file
from batch_pipeline.results.download import Answers, Lines, fetch_again, read_lines
from batch_pipeline.results.file_records import custom_ids_of, submission_of
from batch_pipeline.results.join import write_parquet
from batch_pipeline.results.question import Question
from batch_pipeline.results.readable import UNREADABLE, is_readable
from batch_pipeline.results.sql import INDEX
from batch_pipeline.store.compactions import compactions_of, forget
from batch_pipeline.store.erasures import keys_in
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import planned_in
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions

MOST_SHOWN = 5

UNANSWERED = {"missing", "canceled"}
"""The statuses of requests without answers: where there are others, answers were kept once."""

TOLD_TOGETHER = "case status when 'rejected' then 'truncated' else status end"
"""The statuses of an index, as far as the ledger's, which are those of the rows, tell them.

What filled the model's context window is truncated in the rows, and rejected in the index.
"""

# What a submission selected, from its records.
FROM_RECORDS = """
select _key_hash as key_hash, _content_hash as content_hash, {version} as version,
       _custom_id as custom_id, _attempt as attempt, 'pending' as status
from read_parquet({files}) order by _row
"""

# What a submission selected, from the index of what was collected of it.
FROM_INDEX = """
select any_value(key_hash) as key_hash, any_value(content_hash) as content_hash, {version} as version,
       custom_id, any_value(attempt) as attempt, 'pending' as status
from read_parquet({files}) group by custom_id order by custom_id
"""

# The index of what was collected, from its rows.
FROM_ROWS = """
with joined as (
       select rows.*, _key_hash, _content_hash
       from read_parquet({rows}) as rows join read_parquet({records}) as records using (_custom_id))
{index} order by _custom_id
"""

NOTHING = """
select null::uuid as key_hash, null::uuid as content_hash, '' as version, '' as custom_id,
       0::integer as attempt, '' as status where false
"""

# The records that could not be asked, from their rows.
FROM_REJECTED = """
select records._row, rows._custom_id, rows._error as reason
from read_parquet({rows}) as rows join read_parquet({records}) as records using (_custom_id)
where records._kind = 'ask'
order by records._row
"""

Result = TypeVar("Result")


def with_lost_files(
    store: Store,
    api: BatchesApi,
    pipeline: str,
    max_attempts: int,
    action: Callable[[], Result],
    today: Question | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Result:
    """Return what ``action`` returns; when a file is in its way, that is made again, and it is repeated.

    Args:
        store: where the files and the ledger are.
        api: the endpoint; asked only when answers are gone, too.
        pipeline: whose files.
        max_attempts: how often a record is asked at most.
        action: what reads the store's files; it must bear being repeated.
        today: the question of today's code, if there is one (see `Question`).
        tell: gets a line about what was made again.

    Raises:
        LostFileError: what is in the way cannot be made again.
        HeldError, ApiUnavailable: answers had to be fetched, and the API would not give them.
    """
    try:
        return action()
    except LostFileError:
        if not make_again(store, api, pipeline, max_attempts, today, tell, thorough=True):
            raise
        return action()


def make_again(
    store: Store,
    api: BatchesApi,
    pipeline: str,
    max_attempts: int,
    today: Question | None = None,
    tell: Callable[[str], None] = lambda _: None,
    *,
    thorough: bool = False,
) -> bool:
    """Make files of a pipeline that are lost again; whether there were any.

    Raises:
        LostFileError: some cannot be made again.
    """
    # What is compacted stands in the index files, too, which are read themselves from now on.
    compacted = [one.name for one in compactions_of(store.ledger, pipeline).used]
    whole = store.files.present(compacted) if compacted and not thorough else set()
    is_lost = len(whole - store.files.damaged(whole)) < len(compacted)
    forgot = is_lost and forget(store.ledger, pipeline)
    done, failed = rebuild_lost(store, api, pipeline, max_attempts, today, thorough=thorough)
    if done:
        tell(
            f"Of {counted(len(done), 'file')} the rows or the index were gone from the store or damaged; "
            f"they are made again from what is kept: {', '.join(done[:MOST_SHOWN])}"
        )
    if failed:
        raise LostFileError(
            f"{'; '.join(failed[:MOST_SHOWN])}. Bring the store's files back from a backup; nothing was "
            "sent or changed. If the store is older than its ledger, and there is no later copy of it, docs/operations.md "
            "says how to go on."
        )
    return bool(done) or forgot


def rebuild_lost(
    store: Store,
    api: BatchesApi,
    pipeline: str,
    max_attempts: int,
    today: Question | None = None,
    *,
    thorough: bool = False,
) -> tuple[list[str], list[str]]:
    """Make again each index, and the rows of each collected file, that are gone or damaged.

    Args:
        store: where the files and the ledger are.
        api: the endpoint; asked only when the answers are gone, too.
        pipeline: whose files.
        max_attempts: how often a record is asked at most.
        today: the question of today's code, if there is one (see `Question`).
        thorough: read every file, to find one that is damaged in its middle. Else only what is gone,
            emptied or cut short is found, at little cost.

    Returns:
        The files that are whole again, and a message for each that cannot be.

    Raises:
        HeldError, ApiUnavailable: answers had to be fetched, and the API would not give them.
    """
    work = _Rebuilding(store, api, max_attempts, today, thorough)
    selections = store.ledger.rows(
        select(submissions)
        .where(submissions.c.pipeline == pipeline, submissions.c.state != "abandoned")
        .order_by(submissions.c.number)
    )
    files = store.ledger.rows(
        select(request_files)
        .where(request_files.c.pipeline == pipeline)
        .order_by(request_files.c.number, request_files.c.seq)
    )
    work.look(selections, files)
    for file in work.lists:
        work.list_again(file)
    for file in work.rows:
        work.rows_again(file)
    # Last: the index of what was collected tells what was selected, if the records do not.
    for selection in work.selections:
        work.selection_again(selection, files)
    return work.done, work.failed


class _Rebuilding:
    """What the steps of making files again share."""

    def __init__(
        self,
        store: Store,
        api: BatchesApi,
        max_attempts: int,
        today: Question | None,
        thorough: bool,
    ) -> None:
        self.store, self.api = store, api
        self.max_attempts, self.today, self.thorough = max_attempts, today, thorough
        self.done: list[str] = []
        self.failed: list[str] = []

    def look(self, selections: Sequence[RowMapping], files: Sequence[RowMapping]) -> None:
        """Find out what is lost: selections, rows of collected files, lists of rejected records."""
        collected = [
            file
            for file in files
            if file["state"] == FileState.COLLECTED and file["results_path"] is not None
        ]
        lists = [file for file in collected if file["kind"] == FileKind.REJECTED and file["path"]]
        parts = ("results_path", "index_path", "answers_path")
        parquet = {file[part] for file in collected for part in parts[:2] if file[part]}
        parquet |= {one["index_path"] for one in selections if one["index_path"]}
        parquet |= {file["path"] for file in lists}
        answers = {file["answers_path"] for file in collected if file["answers_path"]}
        # Looked for after the ledger is read: it names a file when it is there, and another run may
        # collect.
        self.all_rows = {file["results_path"] for file in collected}
        self.there = self.store.files.present(parquet | answers)
        self.there -= self.store.files.damaged(parquet & self.there)
        if self.thorough:
            told = _told(selections, collected, lists)
            self.there -= {
                name
                for name in parquet & self.there
                if not is_readable(self.store, name, *told[name])
            }
        lost = [
            file
            for file in collected
            if not {file["results_path"], file["index_path"]} <= self.there
        ]
        # What is known from earlier is read from the rows of the batches: they come first.
        self.rows = sorted(lost, key=lambda file: file["kind"] == FileKind.REUSED)
        self.lists = [file for file in lists if file["path"] not in self.there]
        self.selections = [
            one for one in selections if one["index_path"] and one["index_path"] not in self.there
        ]

    def list_again(self, file: RowMapping) -> None:
        """Make a list of records that could not be asked again, from their rows."""
        with self._trouble(file["id"]):
            if file["results_path"] not in self.there:
                raise ValueError(f"{file['path']} and the rows made from it are both gone")
            query = FROM_REJECTED.format(
                rows=self._urls([file["results_path"]]),
                records=self._urls([submission_of(self.store, file)["records_path"]]),
            )
            self._write(query, file["path"])
            self.done.append(file["path"])

    def rows_again(self, file: RowMapping) -> None:
        """Make a file's index again from its rows; where these are gone, join its answers again."""
        if file["results_path"] in self.there and self._index_again(file):
            return
        with self._trouble(file["id"]):
            answers = None
            if file["kind"] in (FileKind.BATCH, FileKind.LATE):
                answers = self._answers(file)
            lost = self.all_rows - self.there
            _, values = join_file(self.store, file, answers, self.max_attempts, self.today, lost)
            if _name_again(self.store, file, values):
                self.done.append(file["id"])
                self.there |= {values["results_path"], values["index_path"]}

    def _index_again(self, file: RowMapping) -> bool:
        """Make a file's index again from its rows, for which its answers are not needed; whether that did."""
        submission = submission_of(self.store, file)
        if not submission["records_path"]:
            return False
        query = FROM_ROWS.format(
            rows=self._urls([file["results_path"]]),
            records=self._urls([submission["records_path"]]),
            index=INDEX.replace("$version", quote_text(submission["version"])),
        )
        with suppress(*UNREADABLE):
            if self._write(query, file["index_path"], sum((file["statuses"] or {}).values())):
                self.done.append(file["index_path"])
                return True
        return False

    def _answers(self, file: RowMapping) -> Answers:
        """Return a collected batch's answers, from the API when the kept ones are gone, too."""
        name, damage = file["answers_path"], file["error"] if file["damaged"] else None
        if name is None and not {*(file["statuses"] or ())} - UNANSWERED:
            return Answers(None, damage)
        if name in self.there:
            lines = self._lines(file, name)
            if not lines.lost or file["damaged"]:
                return Answers(name, damage, lines.lost)
        # Gone, or fewer by now than were counted once.
        name = fetch_again(self.store, self.api, file)
        return Answers(name, damage, self._lines(file, name).lost)

    def _lines(self, file: RowMapping, name: str) -> Lines:
        lines = Lines(custom_ids_of(self.store, file), file["answered"] or file["requests"])
        return read_lines(self.store, name, lines)

    def selection_again(self, selection: RowMapping, files: Sequence[RowMapping]) -> None:
        """Make a selection's index again, from its records or from the index of what was collected."""
        name, counts = selection["index_path"], selection["counts"]
        expected = planned_in(counts)
        version = quote_text(selection["version"])
        if not selection["records_path"]:
            self._write(_removed(selection["question"], version), name)
            self.done.append(self._selected(selection))
            return
        with suppress(*UNREADABLE):
            records = self._urls([selection["records_path"]])
            if self._write(FROM_RECORDS.format(version=version, files=records), name, expected):
                self.done.append(self._selected(selection))
                return
        mine = [file for file in files if file["submission_id"] == selection["id"]]
        with self._trouble(name):
            # As the ledger names them now: they may have been made again just before.
            kept = self.store.ledger.rows(
                select(request_files.c.index_path).where(
                    request_files.c.submission_id == selection["id"],
                    request_files.c.index_path.is_not(None),
                )
            )
            query = FROM_INDEX.format(
                version=version, files=self._urls([row["index_path"] for row in kept])
            )
            if not mine or not kept or not self._write(query, name, expected):
                raise ValueError(
                    f"{selection['records_path']} is lost, too, and not all of it was collected"
                )
            self.done.append(self._selected(selection))

    def _selected(self, selection: RowMapping) -> str:
        """Say what was made again of a selection. Which keys it removed from the table, only its index knew."""
        name, counts = selection["index_path"], selection["counts"]
        gone = counts.get("deleted", 0)
        if not gone or keys_in(selection["question"]):
            return name
        if selection["state"] == "built":  # else it is not sure yet what comes of it
            with self.store.ledger.write() as tx:
                tx.execute(
                    update(submissions)
                    .where(submissions.c.id == selection["id"])
                    .values(counts={**counts, "deleted": 0})
                )
        return (
            f"{name} (but for {counted(gone, 'key')} that had left the source: their rows come back, and go when the "
            "submit job runs with on_deleted='drop')"
        )

    def _urls(self, names: Iterable[str]) -> str:
        return quote_files([self.store.files.url(name) for name in names])

    def _write(self, query: str, name: str, expected: int | None = None) -> bool:
        """Put what a query returns in the place of a file; False when it is not as many rows as expected."""
        with memory_connection() as connection, self.store.files.scratch() as folder:
            self.store.files.register(connection)
            local = f"{folder}/again.parquet"
            write_parquet(connection, query, local)
            (rows,) = connection.execute(
                f"select count(*) from read_parquet({quote_files([local])})"
            ).fetchall()
            if expected is not None and rows[0] != expected:
                return False
            self.store.files.put(local, name)
        self.there.add(name)
        return True

    @contextmanager
    def _trouble(self, what: str) -> Iterator[None]:
        """Write down why something cannot be made again, and let the rest go on."""
        try:
            yield
        except (*UNREADABLE, LostFileError) as error:
            why = plain(first_line(error))
            self.failed.append(f"{what} is lost and cannot be made again: {why}")


def _removed(question: Mapping[str, Any] | None, version: str) -> str:
    """Return SQL for the index of a submission that asks nothing: the keys that it erases, as the ledger has them."""
    keys = [
        f"({quote_text(key['key_hash'])}::uuid, {quote_text(key['content_hash'])}::uuid, {version},"
        f" {quote_text(key['custom_id'])}, {int(key['attempt'])}::integer, 'deleted')"
        for key in keys_in(question)
    ]
    columns = "key_hash, content_hash, version, custom_id, attempt, status"
    return f"select * from (values {', '.join(keys)}) as keys ({columns})" if keys else NOTHING


def _told(
    selections: Sequence[RowMapping], collected: Sequence[RowMapping], lists: Sequence[RowMapping]
) -> dict[str, tuple[str, Mapping[str, int] | None]]:
    """Return, for each Parquet file, its column of statuses and what the ledger says of that."""
    found: dict[str, tuple[str, Mapping[str, int] | None]] = {}
    for one in selections:
        counts = one["counts"]
        told = {"pending": planned_in(counts), "deleted": counts.get("deleted", 0)}
        found[one["index_path"]] = "status", {name: n for name, n in told.items() if n}
    for file in collected:
        found[file["results_path"]] = "_status", file["statuses"]
        found[file["index_path"]] = TOLD_TOGETHER, _together(file["statuses"])
    for file in lists:
        found[file["path"]] = "", {"": file["requests"]}
    return found


def _together(statuses: Mapping[str, int] | None) -> Mapping[str, int] | None:
    """Return the counts of rows by status as ``TOLD_TOGETHER`` tells them."""
    if statuses is None:
        return None
    found = dict(statuses)
    if rejected := found.pop("rejected", 0):
        found["truncated"] = found.get("truncated", 0) + rejected
    return found


def _name_again(store: Store, file: RowMapping, values: dict[str, Any]) -> bool:
    """Let the ledger name the rows that were made again; False when another process did so first."""
    with store.ledger.write() as tx:
        moved = tx.execute(
            update(request_files)
            .where(
                request_files.c.id == file["id"],
                request_files.c.results_path == file["results_path"],
            )
            .values(
                results_path=values["results_path"],
                index_path=values["index_path"],
                published_at=None,
            )
        )
        if moved.rowcount:
            store.ledger.record(
                tx, file["id"], file["pipeline"], file["partition"], FileState.COLLECTED,
                FileState.COLLECTED, "its rows were gone, and are made again from what is kept",
            )  # fmt: skip
        return bool(moved.rowcount)
