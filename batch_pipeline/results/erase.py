"""Erasing what the store holds about some keys, for good, while the books stay.

First the erasure is committed: from then on no selection asks about the keys, and whoever makes rows anew leaves
out what they said. Then their rows go from the table, and what is theirs in the store's files. Each step looks at
what is there, so an erasure that was broken off is finished by erasing the same keys again.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb
from sqlalchemy import RowMapping, select

from batch_pipeline.errors import HeldError, InputError, counted
from batch_pipeline.records.connections import (
    first_line,
    lost_files_told,
    memory_connection,
    quote_files,
    quote_list,
    quote_name,
    quote_text,
)
from batch_pipeline.records.identity import column_text_sql
from batch_pipeline.records.reading import open_source, source_columns
from batch_pipeline.records.sources import Source
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.erased import (
    ErasedIn,
    blank_answers,
    blank_records,
    blank_rejected,
    blank_requests,
    blank_rows,
    erased_by,
    listed,
)
from batch_pipeline.results.history import history, key_hash_of
from batch_pipeline.results.publish import publish, table_key
from batch_pipeline.results.retention import KEPT
from batch_pipeline.store.erasures import (
    ERASED,
    ErasedKey,
    NewErasure,
    commit_erasures,
    erased_since,
    generations_of,
)
from batch_pipeline.store.high_water import SUBMISSION
from batch_pipeline.store.layout import (
    index_name,
    labels_name,
    new_submission_id,
    table_name,
)
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.scopes import variants_in
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import index_files
from batch_pipeline.store.tables import is_live, request_files, submissions

WAIT_SECONDS = 60.0  # for another process that rewrites the pipeline's files
MOST_TRIES = 20
MOST_NAMED = 5
INDEX_AT_ONCE = 500  # index files that one statement reads

INDEX_ROWS = """
select cast(key_hash as varchar), cast(content_hash as varchar), custom_id, attempt, version, status, file_index
from read_parquet({index}) where key_hash in {hashes}
"""


@dataclass
class Erasure:
    """What an erasure did, or would do.

    Attributes:
        keys: the keys.
        submissions: how many had records of theirs.
        records: rows of selected records that were blanked, of all submissions.
        rows: the same of the joined rows.
        requests: requests that were blanked.
        answers: answers that were blanked.
        labels: labels that were removed.
        table_rows: rows that went from the table.
        shared: requests of theirs that stay, because other records ask the same and need the answer.
        batches: at the API, those that asked about them and whose answers it still keeps.
        finished: the keys were erased before; this finished what was left, if anything was.
        busy: another process writes the table; erasing the same keys again takes their rows out.
    """

    keys: list[list[str]]
    submissions: int = 0
    records: int = 0
    rows: int = 0
    requests: int = 0
    answers: int = 0
    labels: int = 0
    table_rows: int = 0
    shared: int = 0
    batches: list[str] = field(default_factory=list)
    finished: bool = False
    busy: bool = False


@dataclass(frozen=True)
class _Row:
    """A row of an index file about one of the keys."""

    key_hash: str
    content_hash: str
    custom_id: str
    attempt: int
    version: str
    status: str
    submission: RowMapping
    file: RowMapping | None  # that it was collected with; None: it was only selected


def in_source(
    source: Source, keys: Sequence[str], wanted: Sequence[Sequence[str]]
) -> list[list[str]]:
    """Return which of some keys, given as texts, a source still has.

    Raises:
        InputError: the source cannot be read.
    """
    with open_source(source) as con:
        lower = {name.lower(): (name, kind) for name, kind in source_columns(con).items()}
        texts = [column_text_sql(*lower[key.lower()]) for key in keys]
        query = f"select distinct [{', '.join(texts)}] as key from source where key in ({', '.join(map(quote_list, wanted))})"
        try:
            return sorted(key for (key,) in con.execute(query).fetchall())
        except duckdb.Error as error:
            raise InputError(f"The source's keys cannot be read: {first_line(error)}") from error


def erase(
    store: Store,
    pipeline: str,
    keys: Sequence[str],
    wanted: Sequence[Sequence[str]],
    destination: DuckDBTable | ParquetDataset,
    *,
    names: Sequence[str] = (),
    dry_run: bool = False,
) -> Erasure:
    """Erase what a store and a table hold about some keys; or say what that would be.

    Args:
        store: where files and ledger are.
        pipeline: its name.
        keys: the key columns, as the source declares them.
        wanted: the keys, each as texts in the order of ``keys``.
        destination: the table.
        names: what the pipeline was called earlier.
        dry_run: change nothing.

    Raises:
        InputError: no submission ever had one of the keys.
        HeldError: a record of theirs is on its way, or another process rewrites the same files.
        LostFileError: a file of the store cannot be read.
    """
    work = _Erasing(
        store, pipeline, tuple(keys), [list(one) for one in wanted], tuple(names), dry_run
    )
    if dry_run:
        with work.told():
            work.find()
            return work.rewrite(destination)
    with store.ledger.lease(f"rewrite/{pipeline}", WAIT_SECONDS) as lease:
        if lease is None:
            raise HeldError(
                f"Another process is erasing or pruning files of {pipeline}, or was a moment ago. Nothing was erased; try "
                "again in two minutes."
            )
        with work.told():
            work.commit()
        published = publish(store, pipeline, destination, table_key(store, pipeline, keys), names=names)  # fmt: skip
        work.report.busy = published.busy
        work.report.table_rows = published.deleted
        if isinstance(destination, ParquetDataset):
            with store.ledger.lease(f"publish/{pipeline}", WAIT_SECONDS) as alone:
                if alone is not None:
                    destination.sweep()
                work.report.busy |= alone is None
        with work.told():
            work.rewrite(destination)
        # Replies to what was asked live stood in the ledger until they were in the store.
        store.ledger.wipe_deleted()
        return work.report


class _Erasing:
    """What the steps of an erasure share."""

    def __init__(
        self,
        store: Store,
        pipeline: str,
        keys: tuple[str, ...],
        wanted: list[list[str]],
        names: tuple[str, ...],
        dry_run: bool,
    ) -> None:
        self.store, self.pipeline, self.keys, self.wanted = store, pipeline, keys, wanted
        self.names, self.dry_run = names, dry_run
        self.report = Erasure(wanted)
        self.hashes: dict[str, list[str]] = {}  # of each key, by variant; and which key it is
        self.rows: list[_Row] = []

    @contextmanager
    def told(self) -> Iterator[None]:
        """Say what is to be done about a file of the store that cannot be read."""
        with lost_files_told(
            f"{self.pipeline}, while records are erased",
            f"Run {self.pipeline}_collect, which makes lost files of the store again, or bring the file back from a "
            "backup; then erase the same keys again: what is erased stays so.",
        ):
            yield

    def commit(self) -> None:
        """Write down in the ledger that the keys are erased, unless all of them are."""
        for _ in range(MOST_TRIES):
            read = generations_of(self.store.ledger, self.pipeline)
            self.find()
            new = self._new_erasures()
            self.report.finished = not new
            if not new or commit_erasures(self.store, self.pipeline, read, new):
                break
            for one in new:
                self.store.files.remove(one.index_path)
        else:
            raise HeldError(
                f"{self.pipeline}: other runs selected records {MOST_TRIES} times meanwhile. Nothing was erased; try again."
            )
        mine = select(submissions.c.id).where(
            submissions.c.pipeline == self.pipeline, submissions.c.version == ERASED
        )
        keep_manifests(self.store, [row["id"] for row in self.store.ledger.rows(mine)])

    def find(self) -> None:
        """Find all that the index tells of the keys.

        Raises:
            InputError: it tells nothing of one.
            HeldError: something of them is on its way.
        """
        with memory_connection() as con:
            self.store.files.register(con)
            variants = variants_in(self.store.ledger, self.pipeline) or [""]
            self.hashes = {
                str(key_hash_of(con, self.store, self.pipeline, variant, self.keys, values)): values
                for values in self.wanted
                for variant in variants
            }
            self.rows = self._index_rows(con)
        known = {row.key_hash for row in self.rows}
        strange = [
            values for values in self.wanted if not any(self.hashes[one] == values for one in known)
        ]
        if strange:
            raise InputError(
                f"No submission of {self.pipeline} ever had {_named(strange)} ({', '.join(self.keys)}). Nothing was "
                "erased. `batch-pipeline history` shows how keys look."
            )
        settled = {(row.key_hash, row.submission["id"], row.custom_id) for row in self.rows if row.status != "pending"}  # fmt: skip
        on_its_way = {
            row.key_hash
            for row in self.rows
            if (row.key_hash, row.submission["id"], row.custom_id) not in settled
        }
        if on_its_way:
            raise HeldError(self._waits([self.hashes[one] for one in sorted(on_its_way)]))

    def _index_rows(self, con: duckdb.DuckDBPyConnection) -> list[_Row]:
        named = index_files(self.store.ledger, self.pipeline)
        there = self.store.files.present(row.name for row in named)
        names = [row.name for row in named if row.name in there]
        mine = submissions.c.pipeline == self.pipeline
        by_id = {one["id"]: one for one in self.store.ledger.rows(select(submissions).where(mine))}
        owner = {one["index_path"]: one for one in by_id.values()}
        collected = {
            file["index_path"]: file
            for file in self.store.ledger.rows(
                select(request_files).where(
                    request_files.c.pipeline == self.pipeline,
                    request_files.c.index_path.is_not(None),
                )
            )
        }
        owner |= {name: by_id[file["submission_id"]] for name, file in collected.items()}
        found: list[_Row] = []
        for start in range(0, len(names), INDEX_AT_ONCE):
            some = names[start : start + INDEX_AT_ONCE]
            query = INDEX_ROWS.format(
                index=quote_files(map(self.store.files.url, some)), hashes=listed(self.hashes)
            )
            for *said, place in con.execute(query).fetchall():
                key_hash, content_hash, custom_id, attempt, version, status = said
                name = some[place]
                found.append(
                    _Row(
                        key_hash, content_hash, custom_id, attempt, version, status,
                        owner[name], collected.get(name),
                    )
                )  # fmt: skip
        return found

    def _waits(self, waiting: Sequence[Sequence[str]]) -> str:
        parts = []
        for values in waiting[:MOST_NAMED]:
            asked = history(self.store, self.pipeline, self.keys, values)
            open_now = [one for one in asked if one.status is None and one.state != "collected"]
            where = "; ".join(
                f"submission {one.submission}, {_where(one.state, one.batch_id, self.pipeline)}"
                for one in open_now
            )
            parts.append(f"{', '.join(values)} ({where or 'selected'})")
        more = f" and {len(waiting) - MOST_NAMED} more" if len(waiting) > MOST_NAMED else ""
        return (
            f"Records of {self.pipeline} are on their way: {'; '.join(parts)}{more}. Nothing was erased: what is at the "
            "API cannot be erased there before its batch has ended, and its answer would come back. Erase them again "
            "when it is collected. `batch-pipeline cancel` ends a batch sooner."
        )

    def _new_erasures(self) -> list[NewErasure]:
        """Write the index file of each erasure that is to be committed: one for each partition and endpoint."""
        places: dict[tuple[str, str], list[_Row]] = {}
        for row in self.rows:
            one = row.submission
            places.setdefault((one["endpoint_id"], one["partition"]), []).append(row)
        new = []
        for (endpoint, partition), rows in sorted(places.items()):
            keys = []
            for key_hash in sorted({row.key_hash for row in rows}):
                latest = max(
                    (row for row in rows if row.key_hash == key_hash),
                    key=lambda row: (row.submission["number"], row.attempt),
                )
                if latest.version != ERASED:
                    keys.append(ErasedKey(key_hash, latest.content_hash, latest.custom_id, latest.attempt))  # fmt: skip
            if keys:
                new.append(self._new_erasure(endpoint, partition, keys))
        return new

    def _new_erasure(self, endpoint: str, partition: str, keys: list[ErasedKey]) -> NewErasure:
        submission = new_submission_id(self.store.clock.now())
        name = index_name(self.pipeline, submission, "selected")
        with memory_connection() as con, self.store.files.scratch() as folder:
            write_index(con, keys, f"{folder}/index.parquet")
            self.store.files.put(f"{folder}/index.parquet", name)
        return NewErasure(submission, endpoint, partition, name, keys)

    def rewrite(self, destination: DuckDBTable | ParquetDataset) -> Erasure:
        """Take what the keys said from the store's files; count it only, in a dry run."""
        report, folders = self.report, self._folders()
        with memory_connection() as con:
            self.store.files.register(con)
            if self.dry_run and destination.columns():
                report.table_rows = self._in_table(destination)
            for table in self._left_tables(destination):
                report.table_rows += self._take_out(table)
            self._labels(con)
            for folder, submission in folders.items():
                report.submissions += self._one(con, folder, submission)
        since = self.store.clock.now() - KEPT
        asked = {row.file["batch_id"]: row.file for row in self.rows if row.file}
        report.batches = [
            name
            for name, file in sorted(asked.items(), key=str)
            if name and not is_live(name) and _created(file) > since
        ]
        return report

    def _left_tables(self, destination: DuckDBTable | ParquetDataset) -> list[ParquetDataset]:
        """Return the store's own tables that the results went into before they went where they go now."""
        names = {self.pipeline, *self.names, *(name.split("/", 1)[0] for name in self._folders())}
        taken = self.store.ledger.rows(
            select(submissions.c.pipeline).distinct().where(submissions.c.pipeline != self.pipeline)
        )
        # What a new pipeline of an earlier name keeps there is its own.
        names -= {row["pipeline"] for row in taken}
        tables = [
            ParquetDataset(path=self.store.files.url(table_name(name))) for name in sorted(names)
        ]
        return [one for one in tables if one.describe() != destination.describe() and one.exists()]

    def _take_out(self, table: ParquetDataset) -> int:
        """Take the rows of the keys out of a table that nobody writes any more; return how many."""
        count = self._in_table(table)
        if not count or self.dry_run:
            return count
        key = table.key()
        with self.store.files.scratch() as folder:
            gone = f"{folder}/gone.parquet"
            with table.connection() as con:
                rows = self._theirs(table, con)
                columns = ", ".join(quote_name(one) for one in key)
                con.execute(
                    f"copy (select distinct {columns} from {rows}) to {quote_text(gone)} (format parquet)"
                )
            table.merge(None, key, gone)
        table.sweep()
        return count

    def _in_table(self, destination: DuckDBTable | ParquetDataset) -> int:
        with destination.connection() as con:
            rows = self._theirs(destination, con)
            ((count,),) = con.execute(f"select count(*) from {rows}").fetchall()
        return count

    def _theirs(
        self, destination: DuckDBTable | ParquetDataset, con: duckdb.DuckDBPyConnection
    ) -> str:
        """Return SQL for the rows of a table that have one of the keys."""
        spelled = {name.lower(): (name, kind) for name, kind in destination.columns().items()}
        key = ", ".join(column_text_sql(*spelled[one.lower()]) for one in self.keys)
        wanted = ", ".join(map(quote_list, self.wanted))
        return f"(select * from {destination.relation(con)} as source where [{key}] in ({wanted}))"

    def _folders(self) -> dict[str, RowMapping | None]:
        """Return the folders of the pipeline's submissions, also of those that were never built, oldest first."""
        known = self.store.ledger.rows(
            select(submissions).where(
                submissions.c.pipeline == self.pipeline, submissions.c.version != ERASED
            )
        )
        found: dict[str, RowMapping | None] = {}
        for one in known:
            # Of a pipeline that was renamed, the files may lie under both of its names.
            for name in {self.pipeline, *(path.split("/", 1)[0] for path in (one["records_path"], one["index_path"]) if path)}:  # fmt: skip
                found[f"{name}/{one['id']}"] = one
        ids = {one["id"] for one in known}
        for name in self.store.files.folders(self.pipeline):
            if SUBMISSION.fullmatch(name) and name not in ids:
                found[f"{self.pipeline}/{name}"] = None
        return dict(sorted(found.items(), key=lambda one: one[0].rsplit("/", 1)[-1]))

    def _one(
        self, con: duckdb.DuckDBPyConnection, folder: str, submission: RowMapping | None
    ) -> bool:
        """Erase what one submission's folder has; whether it has anything of the keys."""
        names = self.store.files.names(folder)
        records = f"{folder}/records.parquet"
        hashes = erased_since(
            self.store.ledger, self.pipeline, submission["number"] if submission else 0
        )
        hashes |= set(self.hashes) if self.dry_run else set()
        if records not in names or not hashes & self.hashes.keys():
            return False
        mine = erased_by(con, self.store.files.url(records), hashes & self.hashes.keys())
        if not mine.rows:
            return False
        # Together with all that was erased before: a request goes when nobody needs it any more.
        erased = erased_by(con, self.store.files.url(records), hashes)
        self.report.shared += erased.shared
        by_kind: dict[str, list[str]] = {}
        for name in sorted(names):
            by_kind.setdefault(name.removeprefix(f"{folder}/").rpartition("/")[0], []).append(name)
        rows = by_kind.get("results", [])
        statuses = self._statuses(con, rows, erased)
        report = self.report
        for name in by_kind.get("answers", []):
            report.answers += self._lines(
                name, lambda source, to: blank_answers(source, to, statuses)
            )
        for name in by_kind.get("requests", []):
            if name.endswith(".jsonl"):
                report.requests += self._lines(name, lambda source, to: blank_requests(source, to, erased.lines))  # fmt: skip
            else:
                self._rows(con, name, blank_rejected, erased.rows)
        for name in rows:
            report.rows += self._rows(con, name, blank_rows, erased.rows)
        report.records += self._rows(con, records, blank_records, hashes)
        return True

    def _statuses(
        self, con: duckdb.DuckDBPyConnection, rows: Sequence[str], erased: ErasedIn
    ) -> dict[str, str | None]:
        """Return what came of the requests whose answers go, as their rows say."""
        found: dict[str, str] = {}
        if rows and erased.lines:
            files = quote_files(map(self.store.files.url, rows))
            ids = ", ".join(map(quote_text, sorted(erased.lines.values())))
            query = (
                "select _custom_id, arg_max(_status, _status = 'answered')"
                f" from read_parquet({files}, union_by_name = true) where _custom_id in ({ids}) group by all"
            )
            found = dict(con.execute(query).fetchall())
        return {line: found.get(custom_id) for line, custom_id in erased.lines.items()}

    def _lines(self, name: str, blank: Any) -> int:
        with self.store.files.scratch() as folder, self.store.files.local(name) as path:
            changed = blank(path, f"{folder}/blanked")
            if changed and not self.dry_run:
                self._replace(f"{folder}/blanked", name)
        return changed

    def _rows(
        self, con: duckdb.DuckDBPyConnection, name: str, blank: Any, of: Collection[str]
    ) -> int:
        with self.store.files.scratch() as folder:
            changed = blank(con, self.store.files.url(name), f"{folder}/blanked", of)
            if changed and not self.dry_run:
                self._replace(f"{folder}/blanked", name)
        return changed

    def _replace(self, local: str, name: str) -> None:
        """Put a file in the place of an earlier one, whole; processes are killed here in tests."""
        self.store.files.put(local, name)

    def _labels(self, con: duckdb.DuckDBPyConnection) -> None:
        """Remove the labels that people gave to records of these keys."""
        named = (
            f"{labels_name(pipeline)}/{one}"
            for pipeline in (self.pipeline, *self.names)
            for one in self.store.files.file_names(labels_name(pipeline))
        )
        for name in named:
            rows = f"read_parquet({quote_files([self.store.files.url(name)])})"
            theirs = f"key in ({', '.join(map(quote_list, self.wanted))})"
            ((count, rest),) = con.execute(
                f"select count(*) filter ({theirs}), count(*) filter (not {theirs}) from {rows}"
            ).fetchall()
            self.report.labels += count
            if not count or self.dry_run:
                continue
            if not rest:
                self.store.files.remove(name)
                continue
            with self.store.files.scratch() as scratch:
                copy = f"copy (select * from {rows} where not {theirs}) to {quote_text(f'{scratch}/labels')} (format parquet)"
                con.execute(copy)
                self._replace(f"{scratch}/labels", name)


def write_index(con: duckdb.DuckDBPyConnection, keys: Sequence[ErasedKey], path: str) -> None:
    """Write the index file of an erasure."""
    values = ", ".join(
        f"({quote_text(key.key_hash)}::uuid, {quote_text(key.content_hash)}::uuid, {quote_text(ERASED)},"
        f" {quote_text(key.custom_id)}, {key.attempt}::integer, 'deleted')"
        for key in keys
    )
    columns = "key_hash, content_hash, version, custom_id, attempt, status"
    con.execute(
        f"copy (select * from (values {values}) as keys ({columns})) to {quote_text(path)} (format parquet)"
    )


def _created(file: RowMapping) -> datetime:
    return file["batch_created_at"] or file["sent_at"] or file["collected_at"]


def _where(state: str | None, batch_id: str | None, pipeline: str) -> str:
    if batch_id and state == "in_progress":
        return f"in the batch {batch_id}"
    if state == "ended":
        return f"in the batch {batch_id}, which has ended and is collected by {pipeline}_collect"
    if state == "held":
        return "in a file that is held: `batch-pipeline held`"
    if state in ("selected", "built"):
        return "selected and not written as requests yet: the next run of the submit job does that, or drops it"
    return f"in a file that is {state}"


def _named(keys: Sequence[Sequence[str]]) -> str:
    shown = "; ".join(", ".join(one) for one in keys[:MOST_NAMED])
    return counted(len(keys), "key") + f": {shown}" + (" ..." if len(keys) > MOST_NAMED else "")
