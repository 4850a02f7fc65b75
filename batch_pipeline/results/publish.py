"""Publishing collected rows into the results table: the latest row per key ever selected.

Which row is a key's latest is read from the index files of all submissions, so an old batch that is
collected late never overwrites a newer answer, and publishing twice changes nothing. Each time the
table is compared with what it must hold: what somebody dropped, deleted or doubled is put right from
the store's files, at no cost.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import duckdb
from sqlalchemy import Connection, RowMapping, select, update

from batch_pipeline.errors import counted
from batch_pipeline.records.connections import (
    MANY_ROWS,
    aside,
    lost_files_told,
    memory_connection,
    quote_files,
    quote_name,
    quote_paths,
    quote_text,
)
from batch_pipeline.records.sources import VARIANT
from batch_pipeline.results import sql
from batch_pipeline.results.comparing import Comparing
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.holding import Holding
from batch_pipeline.results.join import write_parquet
from batch_pipeline.results.lost_answers import state_of
from batch_pipeline.results.merging import Merged, OvertakenError, Rows, Snapshot, Writer
from batch_pipeline.results.widening import Schema, read_widened, schemas_of, widened
from batch_pipeline.store.ledger import Lease
from batch_pipeline.store.renaming import went_over
from batch_pipeline.store.scopes import variants_in
from batch_pipeline.store.seen import begin, carry_on
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import IndexRow, index_files
from batch_pipeline.store.tables import FileState, request_files

WAIT_SECONDS = 60.0  # for another process that is publishing
MOST_TRIES = 20
INDEX_MEMORY = "80MB"  # before more is given
FILES_AT_ONCE = 32  # results files that one statement reads
LAST_ERROR = "_last_error"  # why a later attempt failed, while an earlier answer stays


@dataclass
class Published:
    """What publishing changed in the table, and how the table compares with what it must hold."""

    files: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    superseded: int = 0  # rows that a newer submission had overtaken already
    busy: bool = False  # another process was publishing; it or a later run does the rest
    before: Holding = field(default_factory=Holding)
    after: Holding | None = None  # None: it was not compared

    @property
    def put_right(self) -> str:
        """What somebody had done to the table and is put right; "" when there was nothing."""
        hurt = self.before
        parts = [
            f"{counted(hurt.lost, 'row was', 'rows were')} gone or older" if hurt.lost else "",
            f"{counted(hurt.doubled, 'row was', 'rows were')} there twice" if hurt.doubled else "",
            f"{counted(hurt.back, 'row', 'rows')} of deleted records had come back"
            if hurt.back
            else "",
        ]
        return ", ".join(filter(None, parts))


def unpublished(store: Store, pipeline: str) -> Sequence[RowMapping]:
    """Return the collected files of a pipeline whose rows are not in the table yet."""
    return store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.state == FileState.COLLECTED,
            request_files.c.published_at.is_(None),
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )


def table_key(store: Store, pipeline: str, key: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a table's key: those of the source, and of a pipeline asked with variants which one."""
    varied = VARIANT not in key and variants_in(store.ledger, pipeline)
    return (*key, VARIANT) if varied else tuple(key)


def publish(
    store: Store,
    pipeline: str,
    destination: DuckDBTable | ParquetDataset,
    key: Sequence[str],
    *,
    names: Sequence[str] = (),
    everything: bool = False,
    only_hurt: bool = False,
) -> Published:
    """Bring the table up to date with everything that is collected, and put right what is not.

    Args:
        store: where the files and the ledger are.
        pipeline: whose rows; all its partitions share the table.
        destination: the table.
        key: the key's columns.
        names: what the pipeline was called earlier.
        everything: write every row anew, also those that are there.
        only_hurt: do nothing unless somebody changed the table.

    Raises:
        InputError: the destination cannot take the rows; they stay in the store and are published
            later.
        LostFileError: a file of the store is gone, or damaged.
    """
    report = Published()
    key = table_key(store, pipeline, key)
    with store.ledger.lease(f"publish/{pipeline}", WAIT_SECONDS) as lease:
        if lease is None:
            report.busy = True
            return report
        work = _Publishing(store, pipeline, destination, tuple(key), tuple(names), lease)
        for _ in range(MOST_TRIES):
            try:
                with lost_files_told(
                    f"{pipeline}, while its results are published",
                    f"Run {pipeline}_collect, which makes lost files of the store again, or bring the "
                    "file back from a backup. Nothing in the table was changed.",
                ):
                    return work.once(everything, only_hurt)
            except OvertakenError:
                continue  # somebody wrote while we slept: what is latest is to be read again
        report.busy = True
    return report


@dataclass
class _Publishing:
    """What the steps of publishing share."""

    store: Store
    pipeline: str
    destination: DuckDBTable | ParquetDataset
    key: tuple[str, ...]
    names: tuple[str, ...]
    lease: Lease

    def once(self, everything: bool, only_hurt: bool) -> Published:
        """Compare, merge what is needed, compare again."""
        report = Published()
        with self.store.files.scratch() as folder, ExitStack() as stack:
            # Before anything else is read: a merge into another state than this one is refused.
            there = self.destination.snapshot(self.key, None)
            # In this order: whatever the index names is among the collected files, whoever collects
            # meanwhile. What was collected after the index was read is left to the next look.
            index = index_files(self.store.ledger, self.pipeline)
            collected = _collected(self.store, self.pipeline)
            if not index or (only_hurt and not _was_published(collected)):
                return report
            writer = Writer(
                self.pipeline,
                self.names,
                there.generation,
                lambda name: went_over(self.store.ledger, name, self.pipeline),
            )
            if there.owner not in ("", self.pipeline) and writer.is_owner(there.owner):
                # Of a pipeline that was renamed. A night that merges nothing says so, too.
                self.destination.sign(writer)
                with self.store.ledger.write() as tx:
                    self._carry_on(tx, there)
                raise OvertakenError  # by ourselves: its state is another one now
            place = {row.name: position for position, row in enumerate(index)}
            files = [
                file
                for file in collected
                if file["published_at"] is None
                and (file["index_path"] is None or file["index_path"] in place)
            ]
            fresh = [place[file["index_path"]] for file in files if file["index_path"] in place]
            lost = _lost_columns(there)
            threads = 1 if sum(file["requests"] for file in collected) <= MANY_ROWS else None
            con = stack.enter_context(memory_connection(INDEX_MEMORY, threads))
            self.store.files.register(con)
            table = Comparing(
                self.store, con, self.pipeline, self.destination, self.key, index, fresh,
                _results(collected), folder, there,
            )  # fmt: skip
            table.look(whole=everything or lost)
            report.before = report.after = table.holding
            if only_hurt and not (report.before.is_hurt or lost):
                if not table.is_noted:
                    with self.store.ledger.write() as tx:
                        table.note(tx)
                return report
            merged = None
            needed = self._rows(con, collected, index, there, everything or lost, folder)
            gone = self._gone(con, table.there, folder) if report.before.back else None
            report.superseded = _superseded(self.store, con, files)
            if needed is not None or gone is not None:
                # What is latest was read a while ago: somebody may have published if we slept.
                if not self.lease.still_held():
                    report.busy = True
                    return report
                with aside(con):
                    merged = _merge(self.destination, needed, self.key, gone, writer)
                report.inserted, report.updated = merged.inserted, merged.updated
                report.deleted = merged.deleted
                table.look_again()
                report.after = table.holding
        with self.store.ledger.write() as tx:
            table.note(tx)
            if merged is not None:
                self._carry_on(tx, there, [file["partition"] for file in collected])
            tx.execute(
                update(request_files)
                .where(request_files.c.id.in_([file["id"] for file in files]))
                .values(published_at=self.store.clock.now())
            )
        report.files = len(files)
        return report

    def _carry_on(self, tx: Connection, there: Snapshot, partitions: Sequence[str] = ()) -> None:
        """Note that the table's next state is of our own making, and holds nothing that we did not know."""
        # The merge was refused if the state was another one.
        after = state_of(self.destination, there.generation + 1)
        if there.generation == 0 and not there.columns:
            begin(tx, self.pipeline, set(partitions), after)
        carry_on(tx, self.pipeline, state_of(self.destination, there.generation), after)

    def _rows(
        self,
        con: duckdb.DuckDBPyConnection,
        collected: Sequence[RowMapping],
        index: Sequence[IndexRow],
        there: Snapshot,
        everything: bool,
        folder: str,
    ) -> str | Rows | None:
        """Return the rows that the table needs: where they are, or, of a store that is not local, in a file.

        None when it needs none.
        """
        condition = "true" if everything else "fresh or absent or twice"
        con.execute(
            "create or replace temp table needed as "
            f"select custom_id, position from due where {condition}"
        )
        needed = dict(
            con.execute(
                "select position, count(*) from needed group by all order by all"
            ).fetchall()
        )
        if not needed:
            return None
        results = _results(collected)
        urls = {
            self.store.files.url(results[index[position].name]): position for position in needed
        }
        schemas = schemas_of(con, urls)
        columns = widened(con, schemas)
        columns |= self._emptied(con, collected, there, columns)
        failures = self._failures(con, results, index)
        if self.store.files.is_local:
            return self._where_they_are(con, urls, schemas, columns, needed, failures, folder)
        return self._copied(con, urls, schemas, columns, folder)

    def _where_they_are(
        self,
        con: duckdb.DuckDBPyConnection,
        urls: dict[str, int],
        schemas: dict[str, Schema],
        columns: dict[str, str],
        needed: dict[int, int],
        failures: int,
        folder: str,
    ) -> Rows:
        """Return a query for the rows in the files of the store, which any connection can read."""
        counts = _row_counts(con, urls)
        whole = [url for url, position in urls.items() if needed[position] == counts[url]]
        parts = []
        if whole:
            parts.append(read_widened(con, {url: schemas[url] for url in whole}, columns))
        if len(whole) < len(urls):
            write_parquet(con, "select custom_id, position from needed", f"{folder}/needed.parquet")
            wanted = f"read_parquet({quote_files([f'{folder}/needed.parquet'])})"
            parts += [
                f"select * from ({read_widened(con, {url: schemas[url]}, columns)}) as r where"
                f" r._custom_id in (select custom_id from {wanted} where position = {position})"
                for url, position in urls.items()
                if url not in whole
            ]
        rows = " union all ".join(f"({part})" for part in parts)
        said, joined = "null::varchar", ""
        if failures:
            write_parquet(con, "select * from failures", f"{folder}/failures.parquet")
            said = "f.said"
            joined = (
                f" left join read_parquet({quote_files([f'{folder}/failures.parquet'])}) as f"
                " on f.custom_id = r._custom_id"
            )
        query = f"select r.*, {said} as {LAST_ERROR} from ({rows}) as r{joined}"
        return Rows(query, sum(needed.values()))

    def _copied(
        self,
        con: duckdb.DuckDBPyConnection,
        urls: dict[str, int],
        schemas: dict[str, Schema],
        columns: dict[str, str],
        folder: str,
    ) -> str:
        """Write the rows to one file of this machine."""
        parts = []
        for start in range(0, len(urls), FILES_AT_ONCE):
            part = f"{folder}/rows-{start:06d}.parquet"
            some = list(urls.items())[start : start + FILES_AT_ONCE]
            query = " union all ".join(
                f"select r.*, f.said as {LAST_ERROR}"
                f" from ({read_widened(con, {url: schemas[url]}, columns)}) as r"
                " left join failures f on f.custom_id = r._custom_id"
                f" where r._custom_id in (select custom_id from needed where position = {position})"
                for url, position in some
            )
            write_parquet(con, query, part)
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        whole = f"{folder}/rows.parquet"
        write_parquet(con, f"select * from read_parquet({quote_files(parts)})", whole)
        return whole

    def _failures(
        self, con: duckdb.DuckDBPyConnection, results: dict[str, str], index: Sequence[IndexRow]
    ) -> int:
        """Make the table ``failures``: by the custom_id of an answer that stays, what failed later.

        Returns:
            In how many files that stands.
        """
        found = con.execute(
            "select distinct failed_position from winners join needed using (custom_id)"
            " where failed_position is not null order by all"
        ).fetchall()
        urls = [self.store.files.url(results[index[place].name]) for (place,) in found]
        query = "select '' as custom_id, '' as said where false"
        if urls:
            query = sql.FAILURES.format(results=quote_files(urls))
        con.execute(f"create or replace temp table failures as {query}")
        return len(urls)

    def _emptied(
        self,
        con: duckdb.DuckDBPyConnection,
        collected: Sequence[RowMapping],
        there: Snapshot,
        columns: dict[str, str],
    ) -> dict[str, str]:
        """Return the table's columns that earlier rows of ours had and these rows lack.

        They are NULL in these rows. What is neither here nor there is the team's, and is kept.
        """
        given = {name.lower() for name in (*columns, LAST_ERROR)}
        others = {name: kind for name, kind in there.columns.items() if name.lower() not in given}
        if not others:
            return {}
        ours = there.ours
        if ours is None:
            # A table of an earlier version, which did not write down what is ours.
            first = {file["submission_id"]: file["results_path"] for file in collected}
            urls = [self.store.files.url(name) for name in first.values() if name]
            ours = _names(schemas_of(con, urls).values())
        return {name: kind for name, kind in others.items() if name.lower() in ours}

    def _gone(self, con: duckdb.DuckDBPyConnection, there: Snapshot, folder: str) -> str | None:
        """Write the keys of rows that must not be there, as the table has them."""
        if there.path is None:
            return None
        keys = ", ".join(quote_name(name) for name in self.key)
        path = f"{folder}/gone.parquet"
        write_parquet(
            con,
            f"select distinct {keys} from read_parquet({quote_text(there.path)})"
            " where _bp_custom_id in (select custom_id from back)",
            path,
        )
        return path


def _merge(
    destination: DuckDBTable | ParquetDataset,
    rows: str | Rows | None,
    key: tuple[str, ...],
    gone: str | None,
    writer: Writer,
) -> Merged:
    """Let the table change, in one transaction; processes are killed here in tests."""
    return destination.merge(rows, key, gone, writer)


def _collected(store: Store, pipeline: str) -> Sequence[RowMapping]:
    """Return the collected files of a pipeline, oldest first; of each what publishing must know."""
    names = (
        "id",
        "submission_id",
        "partition",
        "requests",
        "results_path",
        "index_path",
        "published_at",
    )
    return store.ledger.rows(
        select(*(request_files.c[name] for name in names))
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.state == FileState.COLLECTED,
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )


def _results(collected: Sequence[RowMapping]) -> dict[str, str]:
    """Return, by index file, the file of its rows."""
    return {file["index_path"]: file["results_path"] for file in collected if file["index_path"]}


def _was_published(collected: Sequence[RowMapping]) -> bool:
    return any(file["published_at"] is not None for file in collected)


def _lost_columns(there: Snapshot) -> bool:
    """Whether somebody took away or renamed a column of ours: then every row is written anew."""
    known = {name.lower() for name in there.columns}
    return bool(there.columns and there.ours and not there.ours <= known)


def _names(schemas: Iterable[Schema]) -> frozenset[str]:
    return frozenset(name.lower() for schema in schemas for name, _ in schema)


def _row_counts(con: duckdb.DuckDBPyConnection, urls: Iterable[str]) -> dict[str, int]:
    """Return how many rows each of some Parquet files has, as they say themselves."""
    counts = {}
    for url in urls:
        row = con.execute(
            f"select sum(num_rows) from parquet_file_metadata({quote_paths([url])})"
        ).fetchone()
        counts[url] = int(row[0]) if row else 0
    return counts


def _superseded(store: Store, con: duckdb.DuckDBPyConnection, files: Sequence[RowMapping]) -> int:
    """Return how many rows of these files a newer submission had overtaken already."""
    urls = [store.files.url(file["results_path"]) for file in files if file["results_path"]]
    if not urls:
        return 0
    ((total,),) = con.execute(f"select count(*) from read_parquet({quote_files(urls)})").fetchall()
    fresh = (
        "select custom_id from due where fresh union all select custom_id from stays where fresh"
    )
    ((kept,),) = con.execute(f"select count(*) from ({fresh})").fetchall()
    return total - kept
