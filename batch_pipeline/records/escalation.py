"""Which answers of the first model are not good enough: those that the better one is asked about.

What came of the first model stands in the rows that the store keeps of each batch. Only what is settled
counts: the answer to a record as it is now, or its last failure after all attempts.
"""

from collections.abc import Mapping, Sequence

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records.attempts import AttemptFiles
from batch_pipeline.records.columns import RESULT_COLUMNS
from batch_pipeline.records.connections import (
    first_line,
    let_read,
    quote_files,
    quote_list,
    quote_name,
    quote_text,
)
from batch_pipeline.records.identity import key_hash_sql
from batch_pipeline.records.reading import source_columns
from batch_pipeline.records.sources import ESCALATED
from batch_pipeline.records.unsettled import AUDIT, STATUSES, Unsettled

FILES_AT_ONCE = 32
SHAPE = "_bp_shape"


SETTLED = """
-- Table _bp_settled: the records of _bp_hashed that the question has settled, with the row that says how.
CREATE OR REPLACE TEMP TABLE _bp_settled AS
SELECT hashed.key_hash, any_value(hashed.content_hash) AS content_hash,
       any_value(past.custom_id) AS custom_id, any_value(past.status) AS status,
       any_value(past.file) AS file, NULL::INTEGER AS place
FROM _bp_verdicts AS verdicts JOIN _bp_hashed AS hashed ON hashed.rowid = verdicts.id
JOIN _bp_index AS past ON past.key_hash = hashed.key_hash AND past.rank = verdicts.latest
WHERE verdicts.verdict IN ('settled', 'exhausted') AND NOT verdicts.ruled AND NOT past.ruled
  AND NOT past.deleted
GROUP BY hashed.key_hash
"""

FILES_OF = "SELECT DISTINCT file FROM _bp_settled ORDER BY file"

MEETS = """
-- Of the rows in some files, those for which a condition holds: into _bp_settled, unless an earlier one holds.
UPDATE _bp_settled SET place = least(coalesce(place, {place}), {place})
WHERE file IN {files} AND custom_id IN (
    SELECT _custom_id FROM (
        SELECT * FROM read_parquet({paths}, union_by_name = true) UNION ALL BY NAME FROM {shape}
    ) AS results
    WHERE coalesce(CAST(({condition}
) AS BOOLEAN), false)
)
"""

READ = """
-- Reads all columns of all rows in some files.
SELECT count(hash(results)) FROM read_parquet({paths}, union_by_name = true) AS results
"""

HAS_STATUS = """
UPDATE _bp_settled SET place = least(coalesce(place, {place}), {place}) WHERE status = {status}
"""

# The first 32 bits of the key's hash decide: the same records every night.
UNSETTLED = """
COPY (
    SELECT key_hash, content_hash, coalesce(list_extract({why}, place + 1), {audit_said}) AS why
    FROM _bp_settled
    WHERE place IS NOT NULL OR status = 'answered'
      AND CAST('0x' || left(CAST(key_hash AS VARCHAR), 8) AS UBIGINT) < {audit}
) TO {path} (FORMAT parquet)
"""


def check_conditions(
    con: duckdb.DuckDBPyConnection,
    wanted: Unsettled,
    answer: Mapping[str, str],
) -> None:
    """Refuse conditions that no row of the results could be compared with; leave the table of their shape.

    Args:
        con: a connection with the view ``source``.
        wanted: the conditions.
        answer: the columns of the question's answer.

    Raises:
        InputError: a condition names no such column, or is no condition.
    """
    columns = {**source_columns(con), **answer, **RESULT_COLUMNS}
    columns.pop(ESCALATED, None)
    listed = ", ".join(f"NULL::{kind} AS {quote_name(name)}" for name, kind in columns.items())
    con.execute(f"CREATE OR REPLACE TEMP TABLE {SHAPE} AS SELECT {listed} WHERE false")
    for condition in wanted.conditions:
        try:
            kinds = con.execute(
                f"DESCRIBE SELECT ({condition}\n) AS met FROM {SHAPE} AS results"
            ).fetchall()
        except duckdb.Error as error:
            raise InputError(
                f"escalate: when ({condition}) cannot be used. The columns of the results are: {', '.join(columns)}. The "
                f"words are: {', '.join(STATUSES)}. DuckDB says: {first_line(error)}"
            ) from error
        if kinds[0][1] not in ("BOOLEAN", '"NULL"'):
            raise InputError(
                f"escalate: when ({condition}) is {kinds[0][1]} and no condition: write what must hold, such as "
                "confidence < 0.8."
            )


def write_unsettled(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[AttemptFiles],
    wanted: Unsettled,
    path: str,
) -> None:
    """Write the hashes of the records that the better model is asked about, and why.

    Args:
        con: where selection left its tables behind, and ``check_conditions`` its own.
        files: for each file of the index, in its order, where what it tells of is.
        wanted: what is not settled.
        path: of the file.

    Raises:
        InputError: a condition fails for a record.
        duckdb.Error: a file of the store is lost or damaged.
    """
    con.execute(SETTLED)
    places = [place for (place,) in con.execute(FILES_OF).fetchall()]
    for order, condition in enumerate(wanted.when):
        if condition in STATUSES:
            con.execute(HAS_STATUS.format(place=order, status=quote_text(condition)))
            continue
        for start in range(0, len(places), FILES_AT_ONCE):
            some = places[start : start + FILES_AT_ONCE]
            paths = [rows for place in some if (rows := files[place].rows) is not None]
            if not paths:
                continue
            let_read(con, paths)
            statement = MEETS.format(
                place=order,
                files=f"({', '.join(str(int(place)) for place in some)})",
                paths=quote_files(paths),
                shape=SHAPE,
                condition=condition,
            )
            try:
                con.execute(statement)
            except duckdb.OutOfMemoryException:
                raise
            except duckdb.Error as error:
                # Also what a value is no such thing for (a division, a date, JSON); but a file may be damaged, which
                # raises the same, and then this does so once more.
                con.execute(READ.format(paths=quote_files(paths)))
                raise InputError(
                    f"escalate: when ({condition}) fails for a record. What has no such value must be no error: use "
                    f"try_cast or TRY(...), for example. DuckDB says: {first_line(error)}"
                ) from error
    con.execute(
        UNSETTLED.format(
            why=quote_list(wanted.when) if wanted.when else "[]::VARCHAR[]",
            audit_said=quote_text(AUDIT),
            audit=round(wanted.audit * 2**32),
            path=quote_text(path),
        )
    )


def keep_among(con: duckdb.DuckDBPyConnection, keys: Sequence[str], path: str) -> None:
    """Leave in the view ``source`` only the records that a file of ``write_unsettled`` names, with why.

    What such a record says is compared by ``drop_changed``.

    Args:
        con: a connection with the view ``source``, which has the column ``_escalated``.
        keys: the key's columns, as hashes go by them.
        path: the file.
    """
    types = source_columns(con)
    lower = {name.lower(): kind for name, kind in types.items()}
    key_hash = key_hash_sql(keys, {key: lower[key.lower()] for key in keys})
    let_read(con, [path])
    con.execute(
        f"CREATE TEMP TABLE _bp_among AS SELECT source.* REPLACE (among.why AS {ESCALATED}),"
        f" among.content_hash AS _bp_settled_content FROM source"
        f" JOIN read_parquet({quote_files([path])}) AS among ON {key_hash} = among.key_hash"
    )
    con.execute("DROP VIEW source")
    con.execute("CREATE TEMP VIEW source AS SELECT * EXCLUDE (_bp_settled_content) FROM _bp_among")


def drop_changed(con: duckdb.DuckDBPyConnection, content_hash: str) -> None:
    """Leave out the records that read otherwise than when the first model's answer was looked at.

    Args:
        con: after ``keep_among``.
        content_hash: SQL for a record's content hash, over ``source``.
    """
    con.execute(
        "DELETE FROM _bp_among WHERE rowid IN (SELECT source.rowid FROM _bp_among AS source"
        f" WHERE {content_hash} IS DISTINCT FROM source._bp_settled_content)"
    )
