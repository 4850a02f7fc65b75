"""The steps of one selection, each of which leaves a table behind for the next."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_pipeline.errors import InputError, plain
from batch_pipeline.records import statements
from batch_pipeline.records.columns import (
    ASKED_ROW,
    DOUBLED,
    DUPLICATE_OF,
    EARLIER_ANSWER,
    EARLIER_ERROR,
    OUTCOME,
    PAST_ATTEMPTS,
    has_wide_integers,
    stored_columns,
    stored_type,
)
from batch_pipeline.records.connections import (
    MANY_ROWS,
    MEMORY_LIMIT,
    allow_memory,
    first_line,
    in_order,
    kept_sides,
    one_thread,
    quote_files,
    quote_name,
    quote_text,
)
from batch_pipeline.records.files import FilesRead
from batch_pipeline.records.identity import (
    column_text_sql,
    content_hash_sql,
    custom_id_sql,
    key_hash_sql,
    same_content_sql,
    variant_sql,
)
from batch_pipeline.records.partitions import PartitionFilter
from batch_pipeline.records.reading import closest, single_select, source_columns
from batch_pipeline.records.rules import Rule
from batch_pipeline.store.erasures import ERASED

EXAMPLES = 5
"""How many offending keys a message shows."""
EXACT = re.compile(r"U?(TINY|SMALL|BIG)?INT(EGER)?|DECIMAL\(.*\)|DATE|TIMESTAMP.*|UUID|BOOLEAN")
"""Types whose values print differently when they differ, and only then."""
COMPRESSION = "zstd, COMPRESSION_LEVEL 1"
"""Of records.parquet. Measured per record of 1 KB, written and read by the next stage: 5.7 µs of CPU, snappy
5.6, zstd as it is 7.3, none 2.5. With none, and in much of what snappy writes, a byte that changed on the
disk would be read as if it were right, and be asked."""
FEW_ROWS = 200_000
"""So many rows of a source are looked up in the index, and not the other way round."""
ROW_GROUP_SIZE = 2_048
"""Rows per Parquet row group of records.parquet: small, so that wide rows need little memory."""


class Comparison:
    """What is asked of one source: its columns and the SQL expressions that the steps share.

    The steps in order: ``check_where``, ``hash_source``, ``judge``, ``write_records``.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        keys: Sequence[str],
        content_columns: Sequence[str],
        version: str,
        partition: PartitionFilter | None,
        where: str | None,
        rules: Sequence[Rule] = (),
        together: Sequence[str] = (),
        files: FilesRead | None = None,
    ) -> None:
        self.con = con
        self.keys = tuple(keys)
        self.types = source_columns(con)
        self.version = version
        self.where = where
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
        if files is not None:
            files.check(self.types)
            self.content_hash = files.content_sql(con, self.content_hash)
        self.same_content = same_content_sql(content_columns, self.named_types)
        texts = [f"CAST(source.{quote_name(name)} AS VARCHAR)" for name in together]
        self.hash_together = f", hash({', '.join(texts)}) AS together" if together else ""
        self.together = ", together" if together else ""
        self.rows = 0  # of the table _bp_hashed
        self.plain = 0  # of these, have one answer, to what would be asked now
        self.known = 0  # of these, said what they had said before
        self.known_path: str | None = None  # what records said before, by ``hashed_by``
        by = (self.key_hash, self.content_hash, self.same_content, duckdb.__version__)
        # What a file or a rule says of a record does not stand in its content.
        self.hashed_by = None if files or rules else sha256(repr(by).encode()).hexdigest()
        self.duplicates = 0
        self.noted = self.corrected = 0  # records of the table _bp_attempts; those with an answer
        self.rules = tuple(rules)
        self.rule = _first_of(rules, [str(number) for number in range(len(rules))])
        if rules:
            self.check_rules()
            outcome = _first_of(rules, [quote_text(one.outcome) for one in rules])
            self.content_hash = (
                f"CASE WHEN {self.rule} IS NULL THEN {self.content_hash} ELSE CAST(substr(sha256("
                f"concat(CAST({self.content_hash} AS VARCHAR), {outcome})), 1, 32) AS UUID) END"
            )
        self.key_names = ", ".join(f"k{i}" for i in range(len(self.keys)))

    def check_where(self) -> None:
        """Try the run's ``where`` on no rows at all."""
        if self.where is None:
            return
        what = f"The `where` of this run ({self.where})"
        probe = f"SELECT 1 FROM source WHERE {self._wanted()}"
        single_select(self.con, probe, what)
        with _read_errors_told(f"{what} cannot be used."):
            self.con.execute(f"EXPLAIN {probe}")

    def check_rules(self) -> None:
        """Try the conditions of the rules on no rows at all."""
        for rule in self.rules:
            what = _named(rule)
            with _read_errors_told(f"{what} cannot be used. Its columns are those of the source."):
                described = self.con.execute(
                    f"DESCRIBE SELECT ({rule.condition}\n) AS rule FROM source"
                ).fetchall()
            if described[0][1] not in ("BOOLEAN", '"NULL"'):
                raise InputError(
                    f"{what} is {described[0][1]} and no condition: write what must hold, such as amount < 5."
                )

    def _wanted(self) -> str:
        where = self.where
        return f"coalesce(CAST(({where}\n) AS BOOLEAN), false)" if where else "true"

    def hash_source(self, source: str) -> None:
        """Read the source once into _bp_hashed; check its keys."""
        keys = [f"source.{quote_name(key)} AS k{i}" for i, key in enumerate(self.keys)]
        parts = {
            "keys": ", ".join(keys),
            "key_hash": self.key_hash,
            "content_hash": self.content_hash,
            "same_content": self.same_content,
            "wanted": self._wanted(),
            "rule": self.rule,
            "hash_together": self.hash_together,
            "source": source,
            "partition": self.partition_sql,
        }
        if not self._hash_changed(parts):
            self._hash_all(source, statements.HASHED.format(**parts))
        (self.rows,) = one_row(self.con, "SELECT count(*) FROM _bp_hashed")
        if self.rows > MANY_ROWS:
            allow_memory(self.con, MEMORY_LIMIT)
        self._check_keys()

    def _hash_changed(self, parts: Mapping[str, str]) -> bool:
        """Hash only what is not known; False when that cannot be done."""
        self.known = 0
        if self.known_path is None or any(name.lower().startswith("_bp_") for name in self.types):
            return False  # a column of the source's could be taken for one of the statement's
        sql = statements.HASHED_ANEW.format(**parts, path=quote_files([self.known_path]))
        try:
            # What is known is looked up, whatever DuckDB thinks of its size: records are wide.
            with kept_sides(self.con):
                self.con.execute(sql)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error:  # the file is damaged; or the source, which is told then
            return False
        (self.known,) = one_row(self.con, statements.KNOWN)
        return True

    def write_contents(self, path: str) -> None:
        """Write what every hashed row says, for the next night."""
        self.con.execute(statements.CONTENTS.format(path=quote_text(path)))

    def _hash_all(self, source: str, sql: str) -> None:
        used = [f"where: {self.where}"] if self.where else []
        used += [f"partition: {self.partition.sql}"] if self.partition else []
        with (
            in_order(self.con),
            _read_errors_told(
                f"The source cannot be read{' (' + '; '.join(used) + ')' if used else ''}."
            ),
        ):
            try:
                self.con.execute(sql)
            except duckdb.OutOfMemoryException:
                raise
            except duckdb.Error:
                self._try_rules(source)
                raise

    def _try_rules(self, source: str) -> None:
        """Raise InputError for the first rule that DuckDB cannot apply to some record, if there is one."""
        for rule in self.rules:
            hint = "What has no such value must be no error: use try_cast, for example."
            with _read_errors_told(f"{_named(rule)} fails for a record. {hint}"):
                self.con.execute(
                    f"SELECT count(*) FILTER ({rule.condition}\n) FROM {source} AS source "
                    f"WHERE {self.partition_sql}"
                )

    def hash_whole(self, source: str) -> None:
        """Read the source of all partitions into _bp_whole, whatever its keys are like."""
        sql = statements.WHOLE.format(
            key_hash=self.key_hash, content_hash=self.content_hash, source=source
        )
        with _read_errors_told("The source cannot be read as a whole."):
            self.con.execute(sql)

    def _check_keys(self) -> None:
        is_null = " OR ".join(f"k{i} IS NULL" for i in range(len(self.keys)))
        nulls, repeats = one_row(self.con, statements.KEY_PROBLEMS.format(is_null=is_null))
        name = ", ".join(self.keys)
        if nulls:
            texts = ", ".join(f"CAST(k{i} AS VARCHAR)" for i in range(len(self.keys)))
            rows = self.con.execute(
                statements.KEYLESS_ROWS.format(keys=texts, is_null=is_null, examples=EXAMPLES)
            ).fetchall()
            examples = "; ".join(plain(str(row)) for row in rows)
            shown = "" if len(self.keys) == 1 else f" For example: {examples}."
            raise InputError(
                f"The key ({name}) is NULL in {nulls:,} source rows.{shown} Each record needs a"
                f" key: fill it in, or leave these rows out in the source's query."
            )
        if repeats:
            texts = ", ".join(f"CAST(k{i} AS VARCHAR)" for i in range(len(self.keys)))
            rows = self.con.execute(
                statements.REPEATED_KEYS.format(key_texts=texts, examples=EXAMPLES)
            ).fetchall()
            shown = "; ".join(f"{plain(str(key))} ({times} times)" for key, times in rows)
            raise InputError(
                f"The key ({name}) is not unique: {repeats:,} source rows repeat a key."
                f" For example: {shown}. Add a column to `key`, or remove the repeated rows."
            )

    def judge(
        self,
        refresh: str,
        max_attempts: int,
        force: bool,
        drops_into: str | None,
        request: str = "",
        most_doublings: int = 0,
    ) -> dict[str, int]:
        """Give each hashed row a verdict; return how many rows have which.

        Args:
            refresh: "changed" or "new".
            max_attempts: how often a record is asked at most.
            force: ask again what is answered.
            drops_into: this partition, when partitions drop the rows of keys that left them: a key
                that came from another one is published again. None: they keep them.
            request: a hash of what requests have in common; "" when it is not known.
            most_doublings: how often an answer that was cut short may get twice as many tokens.
        """
        by_key = refresh == "new"
        group = "key_hash" if by_key else "key_hash, content_hash, version"
        version = quote_text(self.version)
        same_group = f"past.content_hash = hashed.content_hash AND past.version = {version}"
        is_open = "open.key_hash = hashed.key_hash"
        if not by_key:
            is_open += f" AND open.content_hash = hashed.content_hash AND open.version = {version}"
        place = {
            "version": version,
            "force": "true" if force else "false",
            "moves": "false" if drops_into is None else "true",
            "partition": quote_text(drops_into or ""),
        }
        few = self.rows <= FEW_ROWS
        among = " WHERE key_hash IN (SELECT key_hash FROM _bp_hashed)" if few else ""
        self.con.execute(statements.OFTEN.format(among=among))
        (self.plain,) = one_row(self.con, statements.PLAIN.format(**place))
        self.con.execute(statements.REST)
        self.con.execute(statements.OPEN.format(group=group))
        self.con.execute(
            statements.VERDICTS.format(
                in_group="CASE WHEN hashed.rule IS NOT NULL"
                " THEN past.ruled AND past.content_hash = hashed.content_hash"
                f" ELSE NOT past.ruled AND {'true' if by_key else same_group} END",
                max_attempts=int(max_attempts),
                request=quote_text(request) if request else "NULL",
                most_doublings=int(most_doublings),
                is_open=is_open,
                **place,
                erased=ERASED,
            )
        )
        return dict(self.con.execute(statements.COUNTS).fetchall())

    def plan(
        self, ledger_id: str, verdicts: Sequence[str], limit: int | None, with_reuse: bool
    ) -> dict[str, int]:
        """Fill the plan: who is asked, who is published again; return how many for which reason.

        Args:
            ledger_id: 8 hex characters, the start of each custom_id.
            verdicts: the verdicts that are asked.
            limit: ask at most this many, the first by key.
            with_reuse: earlier answers are published again.
        """
        key_texts = [
            column_text_sql(f"k{i}", self.named_types[key], "numbered")
            for i, key in enumerate(self.keys)
        ]
        variant = variant_sql("numbered.key_hash", "numbered.content_hash", self.version)
        plan = statements.PLAN.format(
            key_names=self.key_names,
            together=self.together,
            asked_verdicts="(" + ", ".join(map(quote_text, verdicts)) + ")",
            limit=f"ORDER BY {self.key_names} LIMIT {int(limit)}" if limit is not None else "",
            with_reuse="true" if with_reuse else "false",
            custom_id=custom_id_sql(ledger_id, variant, "numbered.attempt", key_texts),
        )
        with in_order(self.con), one_thread(self.con):
            self.con.execute(plan)
        asked, custom_ids, unnamed = one_row(self.con, statements.PLAN_PROBLEMS)
        if custom_ids != asked or unnamed:
            raise RuntimeError(
                f"selection gave {custom_ids} custom_ids to {asked} requests, {unnamed} rows none"
            )
        return dict(self.con.execute(statements.REASONS).fetchall())

    def ask_once(self) -> int:
        """Let one of several records that would ask the same be asked for all; return how many are not."""
        (self.duplicates,) = one_row(self.con, statements.DUPLICATES)
        if self.duplicates:
            with in_order(self.con):
                self.con.execute(statements.ASKED_ONCE)
        return self.duplicates

    def stands(self) -> tuple[int, ...]:
        """Return how many source rows are answered, how many failed, besides those that are asked now.

        And how many a rule settles.
        """
        known = "('retry', 'forced', 'reuse', 'exhausted', 'settled')"
        return one_row(self.con, statements.STANDS.format(known=known))

    def leave_moved(self, source: str) -> int:
        """Take the keys from _bp_gone that the source has in another partition; return how many."""
        with _read_errors_told("The source's keys cannot be read."):
            done = self.con.execute(statements.MOVED.format(key_hash=self.key_hash, source=source))
        row = done.fetchone()
        return row[0] if row else 0

    def write_records(self, source: str, path: Path) -> bool:
        """Write records.parquet; False when the source no longer reads as it was judged."""
        same = [
            f"source.{quote_name(key)} = plan.k{i}"
            if self._is_compared(key)
            # As text they may differ where DuckDB finds them equal: 30 days and 1 month, or a and A
            # where the column does not tell case.
            else f"CAST(source.{quote_name(key)} AS VARCHAR) COLLATE C"
            f" = CAST(plan.k{i} AS VARCHAR) COLLATE C"
            for i, key in enumerate(self.keys)
        ]
        values = [
            f"CAST(source.{quote_name(name)} AS {stored}) AS {quote_name(name)}"
            if stored != self.types[name]
            else f"source.{quote_name(name)}"
            for name, stored in stored_columns(self.types, self._too_wide(source))
        ]
        (doubled,) = one_row(self.con, "SELECT coalesce(max(doubled), 0) FROM _bp_plan")
        planned, ruled = one_row(
            self.con, "SELECT count(*), count(*) FILTER (kind = 'rule') FROM _bp_plan"
        )
        outcomes = " ".join(
            f"WHEN {number} THEN {quote_text(rule.outcome)}"
            for number, rule in enumerate(self.rules)
        )
        (is_in_order,) = one_row(self.con, statements.IN_ORDER)
        # Of keys that are equal and print differently the join finds too many rows.
        is_in_order = is_in_order and not any(
            self._is_compared(key) and not EXACT.fullmatch(self.named_types[key])
            for key in self.keys
        )
        attempts = f", past.attempts AS {PAST_ATTEMPTS}" if self.noted else ""
        if self.corrected:
            attempts += f", past.answer AS {EARLIER_ANSWER}, past.error AS {EARLIER_ERROR}"
        past = " LEFT JOIN _bp_attempts AS past ON past.request_id = plan.custom_id"
        # Whole and in its order, the source is written as it is read: sorting records would be the
        # dearest part of it, in time and memory.
        is_in_order = is_in_order and not self.noted
        ways = [("POSITIONAL JOIN _bp_plan AS plan", "")] if is_in_order else []
        ways.append((f"JOIN _bp_plan AS plan ON {' AND '.join(same)}", "ORDER BY plan.row"))
        for join, order in ways:
            sql = statements.RECORDS.format(
                doubled=f", plan.doubled AS {DOUBLED}" if doubled else "",
                duplicates=f", plan.asked_row AS {ASKED_ROW}, plan.duplicate_of AS {DUPLICATE_OF}"
                if self.duplicates
                else "",
                ruled=f", CASE WHEN plan.kind = 'rule' THEN CASE plan.rule {outcomes} END END AS {OUTCOME}"
                if ruled
                else "",
                attempts=attempts,
                join_attempts=past if self.noted else "",
                columns=", ".join(values),
                source=source,
                partition=self.partition_sql,
                join=join,
                same_key=" AND ".join(same) if not order else "true",
                same_content=self.same_content,
                order=order,
                path=quote_text(str(path)),
                compression=COMPRESSION,
                row_group_size=ROW_GROUP_SIZE,
            )
            threads = one_thread(self.con) if not order or planned <= MANY_ROWS else nullcontext()
            with threads, _read_errors_told("The selected records cannot be written as Parquet."):
                self.con.execute(sql)
            if _has_rows(path, planned):
                return True
        return False

    def _is_compared(self, key: str) -> bool:
        """Whether a key's values are compared as they are, and not as their text."""
        return stored_type(self.named_types[key]) == self.named_types[key] != "VARCHAR"

    def _too_wide(self, source: str) -> list[str]:
        """Return the columns with an integer that no DECIMAL holds."""
        columns = [name for name, kind in self.types.items() if has_wide_integers(kind)]
        if not columns:
            return []
        fits = ", ".join(
            f"bool_and(CAST(TRY_CAST({column} AS {stored_type(self.types[name])}) AS VARCHAR)"
            f" IS NOT DISTINCT FROM CAST({column} AS VARCHAR))"
            for name in columns
            for column in [f"source.{quote_name(name)}"]
        )
        sql = f"SELECT {fits} FROM {source} AS source WHERE {self.partition_sql}"
        with _read_errors_told("The selected records cannot be read."):
            found = one_row(self.con, sql)
        return [name for name, fits in zip(columns, found, strict=True) if fits == 0]

    def write_index(self, path: Path) -> None:
        """Write index/selected.parquet: the plan and the keys that are gone."""
        self.con.execute(
            statements.SELECTED.format(version=quote_text(self.version), path=quote_text(str(path)))
        )


def _named(rule: Rule) -> str:
    return f"The {'skip_when' if rule.answer is None else 'answer_when'} ({rule.condition})"


def _first_of(rules: Sequence[Rule], values: Sequence[str]) -> str:
    """Return SQL for the value that belongs to the first rule that settles a row; NULL when none does."""
    if not rules:
        return "CAST(NULL AS SMALLINT)"
    cases = " ".join(
        f"WHEN ({rule.condition}\n) THEN {value}" for rule, value in zip(rules, values, strict=True)
    )
    return f"CASE {cases} END"


def _has_rows(path: Path, count: int) -> bool:
    """Whether a records.parquet holds so many rows, each once and in their order."""
    last = -1
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows != count:
            return False
        for batch in file.iter_batches(columns=["_row"]):
            rows = batch.column(0)
            is_later = pc.call_function("greater", [rows[1:], rows[:-1]])
            if rows[0].as_py() <= last or is_later.false_count:
                return False
            last = rows[-1].as_py()
    return True


@contextmanager
def _read_errors_told(what: str) -> Iterator[None]:
    """Raise InputError, starting with ``what``, for what DuckDB cannot do with the source."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise InputError(f"{what} DuckDB says: {first_line(error)}") from error


def one_row(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[int, ...]:
    """Return the one row that ``sql`` returns."""
    row = con.execute(sql).fetchone()
    if row is None:
        raise RuntimeError(f"no row from: {sql}")
    return row
