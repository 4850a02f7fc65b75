"""One merge into a Parquet dataset: the files of the next state, bucket by bucket."""

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records.columns import file_columns
from batch_pipeline.records.connections import (
    MANY_ROWS,
    MEMORY_LIMIT,
    SMALL_MEMORY,
    allow_memory,
    let_read,
    memory_connection,
    one_thread,
    quote_files,
    quote_name,
    quote_paths,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.records.identity import key_hash_sql
from batch_pipeline.results.manifest import DataFile, Manifest
from batch_pipeline.results.merging import (
    Merged,
    Rows,
    cast_columns,
    columns_in,
    grown_columns,
    rows_to_merge,
    same_key,
)
from batch_pipeline.results.wider import fitting

DATA_FOLDER = "data"
ROW_GROUP_SIZE = 10_240
"""Rows per Parquet row group: small, so that wide rows need little memory to write."""
LEAST_HELD, MOST_HELD = 16_384, 65_536
"""Rows that are held in memory while they are written by bucket."""
BUCKET = "_bp_bucket"
"""The column that staged rows carry their bucket in; it is never published."""

STAGE = """
-- Folder {target}: rows in the columns of the next state, in a folder of its own for each bucket.
COPY (
    SELECT *, {bucket} AS _bp_bucket FROM (SELECT {columns} FROM ({rows}) AS rows) AS source
) TO {target} (
    FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {row_group_size}, PARTITION_BY (_bp_bucket)
)
"""

CHANGED_KEYS = """
-- Table _bp_changed: each key that gets a new row (_bp_new) or loses its row, and its bucket.
CREATE OR REPLACE TEMP TABLE _bp_changed AS
SELECT *, {bucket} AS _bp_bucket FROM (
    SELECT {keys}, bool_or(_bp_new) AS _bp_new FROM ({parts}) GROUP BY {keys}
) AS source
"""

COUNTS = """
-- One row: the bucket's old rows; those that get replaced; those that go.
SELECT count(*), count(*) FILTER (WHERE changed._bp_new),
       count(*) FILTER (WHERE NOT changed._bp_new)
FROM ({old}) AS old
LEFT JOIN (SELECT * FROM _bp_changed WHERE _bp_bucket = {bucket}) AS changed ON {same_key}
"""

WRITE = """
-- File {target}: the bucket's rows of the next state.
COPY (
    SELECT {names} FROM ({old}) AS old
    WHERE NOT EXISTS (
        SELECT 1 FROM _bp_changed AS changed WHERE changed._bp_bucket = {bucket} AND {same_key}
    )
    UNION ALL
    SELECT {names} FROM ({new}) AS new
) TO {target} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {row_group_size})
"""


@dataclass(frozen=True)
class NextState:
    """A dataset as it is to be: its manifest, the files written for it, and what changed."""

    manifest: Manifest
    written: tuple[DataFile, ...]
    merged: Merged


def merge_buckets(
    url: str,
    before: Manifest | None,
    rows: str | Rows | None,
    key: Sequence[str],
    deleted_path: str | None,
    rows_per_bucket: int,
) -> NextState:
    """Write the files of a dataset's next state beside those of the present one.

    Args:
        url: the dataset's folder or URL.
        before: its present state; None when there is none.
        rows: a local Parquet file of rows to put in, unique by key, or a query for them.
        key: the key columns.
        deleted_path: a local Parquet file with the keys of rows to take out.
        rows_per_bucket: how many rows a file should hold.
    """
    with (
        memory_connection(SMALL_MEMORY) as con,
        tempfile.TemporaryDirectory(prefix="batch-pipeline-merge-") as work,
    ):
        let_read(con, [url])
        new = None if rows is None else rows_to_merge(con, rows)
        merge = _Merge(con, Path(work), url, before, new, tuple(key), deleted_path)
        many = max(new.count if new else 0, before.rows if before else 0) > MANY_ROWS
        # A second thread holds rows of each bucket, too, which then have to be spilled.
        with nullcontext() if many else one_thread(con):
            return with_enough_memory(con, lambda: merge.write(rows_per_bucket))


@dataclass(frozen=True)
class _Merge:
    """What the steps of one merge share."""

    con: duckdb.DuckDBPyConnection
    work: Path
    url: str
    before: Manifest | None
    rows: Rows | None
    key: tuple[str, ...]
    deleted_path: str | None

    def write(self, rows_per_bucket: int) -> NextState:
        """Write the files of each bucket that changes."""
        old_columns = self.before.columns if self.before else {}
        new_columns = columns_in(self.con, self.rows.query) if self.rows else {}
        tables: list[tuple[str, dict[str, str]]] = []
        if self.before:
            tables.append((rows_sql(self.con, self.url, self.before), self.before.columns))
        if self.rows:
            tables.append((f"({self.rows.query})", new_columns))
        fits = fitting(self.con, tables)
        columns = grown_columns(self.con, old_columns, new_columns, fits)
        buckets = self._wanted_buckets(rows_per_bucket)
        new_counts = self._stage_new(columns, new_columns, buckets)
        reshuffled = self._stage_old(columns, buckets)
        self._find_changed(columns, new_columns, buckets)
        # Each file has the columns of the manifest: one added column rewrites them all.
        rewrite_all = reshuffled or columns != old_columns
        changed = {row[0] for row in self._rows("SELECT DISTINCT _bp_bucket FROM _bp_changed")}
        changed |= {bucket for bucket, count in new_counts.items() if count}
        kept = {file.bucket: file for file in self.before.files} if self.before else {}
        files: list[DataFile] = []
        written: list[DataFile] = []
        inserted = updated = deleted = 0
        for bucket in range(buckets):
            old_file = None if reshuffled else kept.get(bucket)
            if bucket not in changed and not rewrite_all:
                files += [old_file] if old_file else []
                continue
            new = new_counts.get(bucket, 0)
            if old_file is None and not reshuffled:
                if new:
                    written.append(self._write_new(columns, new_columns, bucket, new))
                    files.append(written[-1])
                    inserted += new
                continue
            old_sql = self._old_rows(columns, bucket, old_file, reshuffled)
            same = same_key(self.key, "old", "changed")
            counts = COUNTS.format(old=old_sql, bucket=bucket, same_key=same)
            ((old, replaced, gone),) = self._rows(counts)
            total = old - replaced - gone + new
            inserted += max(new - replaced, 0)  # a key of several rows is replaced by one
            updated += replaced
            deleted += gone
            if not (new or gone or rewrite_all):
                files += [old_file] if old_file else []
            elif total:
                new_sql = self._new_rows(columns, new_columns, bucket)
                written.append(self._write_bucket(columns, bucket, old_sql, new_sql, total))
                files.append(written[-1])
        manifest = Manifest(
            number=self.before.number + 1 if self.before else 1,
            key=self.key,
            columns=columns,
            buckets=buckets,
            files=tuple(files),
        )
        merged = Merged(inserted, updated, deleted, manifest.rows)
        return NextState(manifest, tuple(written), merged)

    def _wanted_buckets(self, rows_per_bucket: int) -> int:
        """Return the number of buckets: a power of two that only grows, when twice too small."""
        now = self.before.buckets if self.before else 0
        rows = self.before.rows if self.before else 0
        if self.rows:
            rows = max(rows, self.rows.count)
        if rows > MANY_ROWS:
            allow_memory(self.con, MEMORY_LIMIT)
        if now and rows <= 2 * rows_per_bucket * now:
            return now
        return max(now, 1 << (max(rows - 1, 0) // rows_per_bucket).bit_length())

    def _stage_new(
        self, columns: dict[str, str], have: dict[str, str], buckets: int
    ) -> dict[int, int]:
        """Write the new rows of each bucket to the work folder, if there are several buckets.

        Returns:
            How many new rows a bucket gets.
        """
        if self.rows is None:
            return {}
        if buckets == 1:
            return {0: self.rows.count}
        self._stage_sql(
            self.rows.query, cast_columns(have, columns, "rows"), "new", columns, buckets
        )
        found = {}
        for bucket in range(buckets):
            if files := self._staged_files("new", bucket):
                count = f"SELECT sum(num_rows) FROM parquet_file_metadata({quote_paths(files)})"
                ((found[bucket],),) = self._rows(count)
        return found

    def _find_changed(self, columns: dict[str, str], have: dict[str, str], buckets: int) -> None:
        """Fill _bp_changed: with the keys that may be there already, and those that go."""
        keys = ", ".join(quote_name(name) for name in self.key)
        kinds = self._key_types(columns)
        parts = [f"SELECT {keys}, true AS _bp_new FROM ({empty_sql(kinds)})"]
        if self.rows and self.before and self.before.files:
            casts = cast_columns(have, kinds, "rows")
            parts.append(f"SELECT {casts}, true FROM ({self.rows.query}) AS rows")
        if self.deleted_path:
            gone = file_columns(self.con, self.deleted_path)
            parts.append(
                f"SELECT {cast_columns(gone, kinds, 'gone')}, false"
                f" FROM read_parquet({quote_files([self.deleted_path])}) AS gone"
            )
        self.con.execute(
            CHANGED_KEYS.format(
                bucket=self._bucket_sql(columns, buckets),
                keys=keys,
                parts=" UNION ALL ".join(parts),
            )
        )

    def _stage_old(self, columns: dict[str, str], buckets: int) -> bool:
        """Write all old rows by their new buckets, if they change buckets; say whether they do."""
        before = self.before
        if before is None or not before.files:
            return False
        same_types = self._key_types(before.columns) == self._key_types(columns)
        if before.buckets == buckets and before.key == self.key and same_types:
            return False
        source = f"SELECT * FROM {rows_sql(self.con, self.url, before)}"
        casts = cast_columns(before.columns, columns, "rows")
        self._stage_sql(source, casts, "old", columns, buckets)
        return True

    def _stage_sql(
        self, rows: str, casts: str, name: str, columns: dict[str, str], buckets: int
    ) -> None:
        held = min(MOST_HELD, max(LEAST_HELD, ROW_GROUP_SIZE * buckets))
        self.con.execute(f"SET partitioned_write_flush_threshold = {held}")
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)  # of a first try that had too little memory
        self.con.execute(
            STAGE.format(
                target=quote_text(str(folder)),
                rows=rows,
                columns=casts,
                bucket=self._bucket_sql(columns, buckets),
                row_group_size=ROW_GROUP_SIZE,
            )
        )

    def _old_rows(
        self, columns: dict[str, str], bucket: int, file: DataFile | None, reshuffled: bool
    ) -> str:
        if reshuffled:
            return self._staged("old", bucket) or empty_sql(columns)
        if file is None or self.before is None:
            return empty_sql(columns)
        casts = cast_columns(self.before.columns, columns, "rows")
        path = quote_files([f"{self.url}/{file.path}"])
        return f"SELECT {casts} FROM read_parquet({path}) AS rows"

    def _new_rows(self, columns: dict[str, str], have: dict[str, str], bucket: int) -> str:
        """Return SQL for the new rows of a bucket."""
        if self.rows is None:
            return empty_sql(columns)
        if not (self.work / "new").exists():  # there is one bucket
            return f"SELECT {cast_columns(have, columns, 'rows')} FROM ({self.rows.query}) AS rows"
        return self._staged("new", bucket) or empty_sql(columns)

    def _write_new(
        self, columns: dict[str, str], have: dict[str, str], bucket: int, total: int
    ) -> DataFile:
        """Make the file of a bucket that has new rows only; where it can be, it is the staged one."""
        staged = self._staged_files("new", bucket)
        if len(staged) != 1 or "://" in self.url:
            new_sql = self._new_rows(columns, have, bucket)
            return self._write_bucket(columns, bucket, empty_sql(columns), new_sql, total)
        name = _new_name(bucket)
        shutil.move(staged[0], f"{self.url}/{name}")
        return DataFile(bucket, name, total)

    def _write_bucket(
        self, columns: dict[str, str], bucket: int, old_sql: str, new_sql: str, total: int
    ) -> DataFile:
        name = _new_name(bucket)
        row = self.con.execute(
            WRITE.format(
                names=", ".join(quote_name(column) for column in columns),
                old=old_sql,
                new=new_sql,
                bucket=bucket,
                same_key=same_key(self.key, "old", "changed"),
                target=quote_text(f"{self.url}/{name}"),
                row_group_size=ROW_GROUP_SIZE,
            )
        ).fetchone()
        if row is None or row[0] != total:
            raise RuntimeError(f"{name} got {row} rows, {total} were expected")
        return DataFile(bucket, name, total)

    def _bucket_sql(self, columns: dict[str, str], buckets: int) -> str:
        # sha256 and not DuckDB's hash(): a later DuckDB must find the same bucket.
        key_hash = key_hash_sql(self.key, self._key_types(columns))
        return f"CAST('0x' || substr(CAST({key_hash} AS VARCHAR), 1, 8) AS BIGINT) % {buckets}"

    def _key_types(self, columns: dict[str, str]) -> dict[str, str]:
        kinds = {name.lower(): kind for name, kind in columns.items()}
        missing = [name for name in self.key if name.lower() not in kinds]
        if missing:
            raise InputError(f"The result rows have no key column `{missing[0]}`.")
        return {name: kinds[name.lower()] for name in self.key}

    def _staged(self, name: str, bucket: int) -> str:
        """Return SQL for the staged rows of a bucket; "" when there are none."""
        files = self._staged_files(name, bucket)
        return f"SELECT * FROM read_parquet({quote_files(files)})" if files else ""

    def _staged_files(self, name: str, bucket: int) -> list[str]:
        return sorted(map(str, (self.work / name / f"{BUCKET}={bucket}").glob("*.parquet")))

    def _rows(self, sql: str) -> list[tuple[int, ...]]:
        return self.con.execute(sql).fetchall()


def _new_name(bucket: int) -> str:
    return f"{DATA_FOLDER}/{bucket:04d}-{secrets.token_hex(8)}.parquet"


def empty_sql(columns: dict[str, str]) -> str:
    """Return a SELECT of no rows with ``columns``."""
    nulls = ", ".join(f"CAST(NULL AS {kind}) AS {quote_name(c)}" for c, kind in columns.items())
    return f"SELECT {nulls} WHERE false"


def rows_sql(con: duckdb.DuckDBPyConnection, url: str, manifest: Manifest) -> str:
    """Return SQL for a table of all rows of one state, readable through ``con``."""
    if not manifest.files:
        return f"({empty_sql(manifest.columns)})"
    paths = [f"{url}/{file.path}" for file in manifest.files]
    let_read(con, paths)
    return f"read_parquet({quote_files(paths)}, union_by_name = true)"
