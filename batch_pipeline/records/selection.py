"""Which records need an answer tonight: an anti-join of the source on the index of earlier nights.

All work on rows is DuckDB's; ten million rows never pass through Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records import statements
from batch_pipeline.records.columns import stored_columns
from batch_pipeline.records.connections import (
    MANY_ROWS,
    MEMORY_LIMIT,
    allow_memory,
    first_line,
    let_read,
    quote_list,
    quote_name,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.records.identity import (
    column_text_sql,
    content_hash_sql,
    custom_id_sql,
    key_hash_sql,
    variant_sql,
)
from batch_pipeline.records.partitions import PartitionFilter
from batch_pipeline.records.sources import closest, single_select, source_columns

ASKED_VERDICTS = ("new", "changed", "version", "retry", "forced")
EXAMPLES = 5
"""How many offending keys a message shows."""
ROW_GROUP_SIZE = 2_048
"""Rows per Parquet row group of records.parquet: small, so that wide rows need little memory."""


@dataclass(frozen=True)
class Ask:
    """What one run asks for; the run config of ``NAME_submit``.

    Attributes:
        limit: ask at most this many records, the first ones by key.
        where: a SQL condition over the source's columns; other records are left alone.
        force: ask again even what is answered (but never what is in flight).
        retries_only: ask only records whose earlier attempt failed.
    """

    limit: int | None = None
    where: str | None = None
    force: bool = False
    retries_only: bool = False


@dataclass(frozen=True)
class IndexFile:
    """One index file of an earlier submission, with what the file itself does not say."""

    path: str
    number: int
    partition: str


@dataclass(frozen=True)
class Selection:
    """What was selected, in counts and files.

    Every source row is counted once in: ``asked`` (= new + changed + version_changed + retried +
    forced), ``reused``, ``in_flight``, ``settled``, ``exhausted`` or ``left_out``.

    Attributes:
        source_rows: rows of the source in this partition.
        asked: records to ask.
        new: asked, their key was never seen.
        changed: asked, their content is new.
        version_changed: asked, this content was only seen under another version.
        retried: asked, an earlier attempt failed.
        forced: asked because of ``Ask.force``.
        reused: published again from an earlier answer, at no cost.
        deleted: keys that are gone from the source and will be removed from the table.
        in_flight: selected or sent earlier, not settled yet.
        settled: final, and what the table shows.
        exhausted: failed ``max_attempts`` times; the last reason stands.
        left_out: in need of an answer, but outside this run's limit, where or retries_only.
        records_path: local records.parquet; None when there is nothing to ask or publish.
        index_path: local index/selected.parquet; None when there is also nothing to delete.
        columns: the source's columns as records.parquet has them: (name, DuckDB type).
    """

    source_rows: int
    asked: int
    new: int
    changed: int
    version_changed: int
    retried: int
    forced: int
    reused: int
    deleted: int
    in_flight: int
    settled: int
    exhausted: int
    left_out: int
    records_path: str | None
    index_path: str | None
    columns: list[tuple[str, str]]


def check_keys(
    con: duckdb.DuckDBPyConnection,
    keys: Sequence[str],
    partition: PartitionFilter | None = None,
) -> None:
    """Check that each source row of the partition has a key of its own. ``select`` does so itself.

    Raises:
        InputError: keys are NULL or occur more than once; it names up to five.
    """
    _Question(con, keys, (), "", partition, Ask()).hash_source("source")


def select(
    con: duckdb.DuckDBPyConnection,
    *,
    keys: Sequence[str],
    content_columns: Sequence[str],
    version: str,
    index: Sequence[IndexFile],
    out_dir: str,
    ledger_id: str,
    refresh: Literal["changed", "new"] = "changed",
    max_attempts: int = 3,
    on_deleted: Literal["keep", "drop"] = "keep",
    partition: PartitionFilter | None = None,
    ask: Ask | None = None,
) -> Selection:
    """Write the records that need an answer to ``out_dir`` and say what was found.

    Args:
        con: a connection with the view ``source`` (``open_source``).
        keys: the key columns.
        content_columns: the columns the template reads.
        version: the template's version.
        index: all index files of the pipeline, of every partition.
        out_dir: a local folder; gets ``records.parquet`` and ``index/selected.parquet``.
        ledger_id: 8 hex characters that tell this ledger's requests from others'.
        refresh: "changed" asks again when a record's content or the version changed; "new" asks
            each key once.
        max_attempts: how often a record is asked before its last failure stands.
        on_deleted: "drop" marks keys that left the source as deleted.
        partition: the part of the source this run is about.
        ask: the run's limit, where, force and retries_only.

    Raises:
        InputError: keys are missing or repeated, or ``where`` or the partition cannot be applied.
    """
    ask = ask or Ask()
    question = _Question(con, keys, content_columns, version, partition, ask)
    question.check_where()
    _view_index(con, index)
    # Only a whole look at the source can say that a key is gone.
    look_for_gone = on_deleted == "drop" and ask == Ask(force=ask.force)

    def select_from(source: str) -> Selection | None:
        question.hash_source(source)
        counts = question.judge(refresh, max_attempts, ledger_id)
        deleted = _find_gone(con, partition.key if partition else "", look_for_gone)
        return question.write(source, Path(out_dir), counts, deleted)

    selection = with_enough_memory(con, lambda: select_from("source"))
    if selection is None:
        # A query may return other rows each time, for example `limit 100`: read it just once.
        con.execute(statements.ONCE)
        selection = with_enough_memory(con, lambda: select_from("_bp_once"))
    if selection is None:
        raise InputError(
            f"The key ({', '.join(keys)}) has values that are equal and print differently (such as"
            f" 0.0 and -0.0). Cast it to text in the source's query."
        )
    return selection


class _Question:
    """One selection: the names and SQL expressions its statements share."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        keys: Sequence[str],
        content_columns: Sequence[str],
        version: str,
        partition: PartitionFilter | None,
        ask: Ask,
    ) -> None:
        self.con = con
        self.keys = tuple(keys)
        self.types = source_columns(con)
        self.version = version
        self.ask = ask
        self.partition = partition
        self.partition_sql = f"({partition.sql}\n)" if partition else "true"
        known = {name.lower(): kind for name, kind in self.types.items()}
        for column in (*keys, *content_columns):
            if column.lower() not in known:
                raise InputError(
                    f"The column `{column}` is not in the source."
                    f"{closest(column, list(self.types))}"
                    f" Its columns are: {', '.join(self.types)}."
                )
        self.named_types = {c: known[c.lower()] for c in (*keys, *content_columns)}
        self.key_hash = key_hash_sql(self.keys, self.named_types)
        self.content_hash = content_hash_sql(content_columns, self.named_types)
        self.key_names = ", ".join(f"k{i}" for i in range(len(self.keys)))

    def check_where(self) -> None:
        """Try the run's ``where`` on no rows at all."""
        if self.ask.where is None:
            return
        what = f"The `where` of this run ({self.ask.where})"
        probe = f"SELECT 1 FROM source WHERE {self._wanted()}"
        single_select(self.con, probe, what)
        try:
            self.con.execute(f"EXPLAIN {probe}")
        except duckdb.Error as error:
            raise InputError(f"{what} cannot be used. DuckDB says: {first_line(error)}") from error

    def _wanted(self) -> str:
        where = self.ask.where
        return f"coalesce(CAST(({where}\n) AS BOOLEAN), false)" if where else "true"

    def hash_source(self, source: str) -> None:
        """Read the source once into _bp_hashed; check its keys."""
        where = self.ask.where
        keys = [f"source.{quote_name(key)} AS k{i}" for i, key in enumerate(self.keys)]
        sql = statements.HASHED.format(
            keys=", ".join(keys),
            key_hash=self.key_hash,
            content_hash=self.content_hash,
            wanted=self._wanted(),
            source=source,
            partition=self.partition_sql,
        )
        try:
            self.con.execute(sql)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            used = [f"where: {where}"] if where else []
            used += [f"partition: {self.partition.sql}"] if self.partition else []
            raise InputError(
                f"The source cannot be read{' (' + '; '.join(used) + ')' if used else ''}."
                f" DuckDB says: {first_line(error)}"
            ) from error
        (rows,) = _row(self.con, "SELECT count(*) FROM _bp_hashed")
        if rows > MANY_ROWS:
            allow_memory(self.con, MEMORY_LIMIT)
        self._check_keys()

    def _check_keys(self) -> None:
        is_null = " OR ".join(f"k{i} IS NULL" for i in range(len(self.keys)))
        nulls, repeats = _row(self.con, statements.KEY_PROBLEMS.format(is_null=is_null))
        name = ", ".join(self.keys)
        if nulls:
            rows = self.con.execute(
                statements.KEYLESS_ROWS.format(
                    keys=self.key_names, is_null=is_null, examples=EXAMPLES
                )
            ).fetchall()
            shown = "" if len(self.keys) == 1 else f" For example: {'; '.join(map(str, rows))}."
            raise InputError(
                f"The key ({name}) is NULL in {nulls:,} source rows.{shown} Each record needs a"
                f" key: fill it in, or leave these rows out with `where ... is not null`."
            )
        if repeats:
            texts = ", ".join(f"CAST(k{i} AS VARCHAR)" for i in range(len(self.keys)))
            rows = self.con.execute(
                statements.REPEATED_KEYS.format(key_texts=texts, examples=EXAMPLES)
            ).fetchall()
            shown = "; ".join(f"{key} ({times} times)" for key, times in rows)
            raise InputError(
                f"The key ({name}) is not unique: {repeats:,} source rows repeat a key."
                f" For example: {shown}. Add a column to `key`, or remove the repeated rows."
            )

    def judge(self, refresh: str, max_attempts: int, ledger_id: str) -> dict[str, int]:
        """Give each hashed row a verdict, fill _bp_plan, and return the counts."""
        by_key = refresh == "new"
        group = "key_hash" if by_key else "key_hash, content_hash, version"
        version = quote_text(self.version)
        same_group = f"past.content_hash = hashed.content_hash AND past.version = {version}"
        is_open = "open.key_hash = hashed.key_hash"
        if not by_key:
            is_open += f" AND open.content_hash = hashed.content_hash AND open.version = {version}"
        self.con.execute(statements.OPEN.format(group=group))
        self.con.execute(
            statements.VERDICTS.format(
                in_group="true" if by_key else same_group,
                version=version,
                force="true" if self.ask.force else "false",
                max_attempts=int(max_attempts),
                is_open=is_open,
            )
        )
        found = {
            verdict: (rows, wanted)
            for verdict, rows, wanted in self.con.execute(statements.COUNTS).fetchall()
        }
        asked_verdicts = ("retry",) if self.ask.retries_only else ASKED_VERDICTS
        limit = self.ask.limit
        key_texts = [
            column_text_sql(f"k{i}", self.named_types[key], "numbered")
            for i, key in enumerate(self.keys)
        ]
        variant = variant_sql("numbered.key_hash", "numbered.content_hash", self.version)
        self.con.execute(
            statements.PLAN.format(
                key_names=self.key_names,
                asked_verdicts="(" + ", ".join(map(quote_text, asked_verdicts)) + ")",
                limit=f"LIMIT {int(limit)}" if limit is not None else "",
                with_reuse="false" if self.ask.retries_only else "true",
                custom_id=custom_id_sql(ledger_id, variant, "numbered.attempt", key_texts),
            )
        )
        rows, asked, custom_ids, unnamed = _row(self.con, statements.PLAN_PROBLEMS)
        if custom_ids != asked or unnamed:
            raise RuntimeError(
                f"selection gave {custom_ids} custom_ids to {asked} requests, {unnamed} rows none"
            )
        reasons = dict(
            self.con.execute("SELECT reason, count(*) FROM _bp_plan GROUP BY ALL").fetchall()
        )
        counts = {
            name: found.get(name, (0, 0))[0] for name in ("in_flight", "settled", "exhausted")
        }
        source_rows = sum(total for total, _ in found.values())
        return {
            "source_rows": source_rows,
            "asked": asked,
            "new": reasons.get("new", 0),
            "changed": reasons.get("changed", 0),
            "version_changed": reasons.get("version", 0),
            "retried": reasons.get("retry", 0),
            "forced": reasons.get("forced", 0),
            "reused": rows - asked,
            **counts,
            "left_out": source_rows - rows - sum(counts.values()),
        }

    def write(
        self, source: str, out_dir: Path, counts: dict[str, int], deleted: int
    ) -> Selection | None:
        """Write the files of the plan; None when the source no longer reads as it was judged."""
        planned = counts["asked"] + counts["reused"]
        columns = stored_columns(self.types)
        nothing = Selection(
            **counts, deleted=deleted, records_path=None, index_path=None, columns=columns
        )
        if not planned and not deleted:
            return nothing
        records_path, index_path = out_dir / "records.parquet", out_dir / "index/selected.parquet"
        index_path.parent.mkdir(parents=True, exist_ok=True)
        if planned:
            same = [f"source.{quote_name(key)} = plan.k{i}" for i, key in enumerate(self.keys)]
            values = [
                f"CAST(source.{quote_name(name)} AS {stored}) AS {quote_name(name)}"
                if stored != self.types[name]
                else f"source.{quote_name(name)}"
                for name, stored in columns
            ]
            path = quote_text(str(records_path))
            self.con.execute(
                statements.RECORDS.format(
                    columns=", ".join(values),
                    content_hash=self.content_hash,
                    source=source,
                    partition=self.partition_sql,
                    same_key=" AND ".join(same),
                    path=path,
                    row_group_size=ROW_GROUP_SIZE,
                )
            )
            written = _row(self.con, statements.RECORDS_WRITTEN.format(path=path))
            if written != (planned, planned):
                return None
        self.con.execute(
            statements.SELECTED.format(
                version=quote_text(self.version), path=quote_text(str(index_path))
            )
        )
        return replace(
            nothing,
            records_path=str(records_path) if planned else None,
            index_path=str(index_path),
        )


def _view_index(con: duckdb.DuckDBPyConnection, index: Sequence[IndexFile]) -> None:
    if not index:
        con.execute(statements.EMPTY_INDEX)
        return
    paths = [file.path for file in index]
    let_read(con, paths)
    files = ", ".join(
        f"({position}, {int(file.number)}::BIGINT, {quote_text(file.partition)})"
        for position, file in enumerate(index)
    )
    con.execute(statements.INDEX.format(paths=quote_list(paths), files=files))


def _find_gone(con: duckdb.DuckDBPyConnection, partition_key: str, look: bool) -> int:
    con.execute(
        statements.GONE.format(
            partition_key=quote_text(partition_key), look="true" if look else "false"
        )
    )
    (gone,) = _row(con, "SELECT count(*) FROM _bp_gone")
    return gone


def _row(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[int, ...]:
    row = con.execute(sql).fetchone()
    if row is None:
        raise RuntimeError(f"no row from: {sql}")
    return row
