"""What came of earlier attempts at the records that are asked again, from the store's own files.

The index says that there were attempts; why they brought no answer stands in their rows, and what the
model said in the kept answers. Where such a file is lost, the record is asked as if nothing were known.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb

from batch_pipeline.records.columns import DUPLICATE_OF, file_columns
from batch_pipeline.records.comparison import one_row
from batch_pipeline.records.connections import (
    let_read,
    one_thread,
    quote_files,
    quote_paths,
    quote_text,
)

REASON_SHOWN = 300
"""Characters of a reason that `_attempts` keeps."""
ANSWERS_AT_ONCE = 8
"""Files of answers that one statement reads."""


@dataclass(frozen=True)
class AttemptFiles:
    """Where an index file's rows and answers are: None where there are none."""

    rows: str | None = None
    answers: str | None = None


PAST = """
-- Table _bp_past: of each request to be sent that is not its record's first, the earlier attempts that
-- brought no answer, a row for each file of the index that tells of one.
CREATE OR REPLACE TEMP TABLE _bp_past AS
WITH again AS (
    SELECT custom_id AS request_id, key_hash, content_hash, attempt AS next, reason
    FROM _bp_plan WHERE kind = 'ask' AND attempt > 1
)
SELECT again.request_id, past.attempt, past.custom_id, past.rank, past.file, past.status,
       past.status = 'invalid' AND again.reason = 'retry' AND {same}
           AND coalesce(past.request = {request}, true) AS is_invalid
FROM again JOIN _bp_index AS past USING (key_hash)
WHERE past.attempt < again.next AND past.rank & 3 BETWEEN 1 AND 2 AND NOT past.ruled
  AND NOT past.deleted AND {in_group}
"""

NOTHING_TOLD = """
CREATE OR REPLACE TEMP TABLE _bp_told (
    file UBIGINT, custom_id VARCHAR, asked_as VARCHAR, status VARCHAR, reason VARCHAR, batch VARCHAR,
    ended TIMESTAMPTZ
)
"""

TOLD = """
-- Table _bp_told: what the rows of these attempts say.
INSERT INTO _bp_told
SELECT {file}, _custom_id, {asked_as}, _status, _error, _batch_id, _answered_at
FROM read_parquet({rows})
WHERE _custom_id IN (SELECT custom_id FROM _bp_past WHERE file = {file})
"""

ATTEMPTS = """
-- Table _bp_attempts: by the request that is to be sent, the attempts before it as JSON; and whether the last
-- of them came to an answer that does not fit, with the request that was sent then, and why.
CREATE OR REPLACE TEMP TABLE _bp_attempts AS
WITH each AS (
    SELECT past.request_id, past.attempt, max(past.rank) AS rank, arg_max({{
               'status': coalesce(told.status, past.status), 'reason': told.reason,
               'batch': told.batch, 'ended': told.ended, 'asked_as': told.asked_as,
               'is_invalid': past.is_invalid AND told.asked_as IS NOT NULL
           }}, past.rank) AS one
    FROM _bp_past AS past LEFT JOIN _bp_told AS told USING (file, custom_id)
    GROUP BY past.request_id, past.attempt
)
SELECT request_id,
       CAST(to_json(list({{
           'attempt': attempt, 'status': one.status, 'reason': left(one.reason, {shown}),
           'batch': one.batch, 'at': strftime(one.ended, '%Y-%m-%dT%H:%M:%SZ')
       }} ORDER BY attempt)) AS VARCHAR) AS attempts,
       arg_max(one, rank).is_invalid AS is_invalid, arg_max(one, rank).asked_as AS asked_as,
       arg_max(one, rank).reason AS error, NULL::VARCHAR AS answer
FROM each GROUP BY request_id
"""

NO_ATTEMPTS = """
-- The same when no record is asked again.
CREATE OR REPLACE TEMP TABLE _bp_attempts AS
SELECT '' AS request_id, '' AS attempts, false AS is_invalid, '' AS asked_as, '' AS error, '' AS answer
WHERE false
"""

SAID = """
-- What the model said in the answers that did not fit, into _bp_attempts: texts, and calls of tools without their ids.
UPDATE _bp_attempts SET answer = said.answer
FROM (
    SELECT asked_as, CAST(to_json([
               CASE WHEN block->>'type' = 'text' THEN json_object('type', 'text', 'text', block->'text')
                    ELSE json_object('type', 'tool_use', 'name', block->'name', 'input', block->'input')
               END FOR block IN blocks IF block->>'type' IN ('text', 'tool_use')
           ]) AS VARCHAR) AS answer
    FROM (
        SELECT json->>'custom_id' AS asked_as,
               json_extract(json, '$.result.message.content[*]') AS blocks
        FROM read_json_objects({paths}, format = 'newline_delimited', ignore_errors = true)
    ) WHERE asked_as IN (SELECT asked_as FROM _bp_attempts WHERE is_invalid)
) AS said
WHERE _bp_attempts.is_invalid AND _bp_attempts.asked_as = said.asked_as AND said.answer <> '[]'
"""

TURNS = """
-- In _bp_plan, what tells apart requests that go on from other answers.
UPDATE _bp_plan
SET turns = CAST(substr(sha256(concat(strlen(answer), ':', answer, error)), 1, 32) AS UUID)
FROM _bp_attempts AS past WHERE past.request_id = _bp_plan.custom_id AND past.answer IS NOT NULL
"""


def look_at_attempts(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[AttemptFiles],
    *,
    version: str,
    request: str,
    by_key: bool,
    correct: bool,
) -> tuple[int, int]:
    """Make the table ``_bp_attempts`` of the plan's records that were asked before.

    Args:
        con: the connection with the plan and the index.
        files: for each file of the index, in its order, where what it tells of is.
        version: the question's.
        request: a hash of what requests have in common; "" when it is not known.
        by_key: attempts count whatever the record's content was.
        correct: an answer that does not fit is looked up, so that the model can put it right.

    Returns:
        How many records had attempts without an answer, and for how many the answer was found.
    """
    (again,) = one_row(con, "SELECT count(*) FROM _bp_plan WHERE kind = 'ask' AND attempt > 1")
    if not again:
        con.execute(NO_ATTEMPTS)
        return 0, 0
    same = f"past.content_hash = again.content_hash AND past.version = {quote_text(version)}"
    con.execute(
        PAST.format(
            same=same,
            request=quote_text(request) if request else "NULL",
            in_group="true" if by_key else same,
        )
    )
    con.execute(NOTHING_TOLD)
    for (place,) in con.execute("SELECT DISTINCT file FROM _bp_past ORDER BY 1").fetchall():
        if (rows := files[place].rows) is not None:
            _read_rows(con, place, rows)
    con.execute(ATTEMPTS.format(shown=REASON_SHOWN))
    noted, invalid = one_row(con, "SELECT count(*), count(*) FILTER (is_invalid) FROM _bp_attempts")
    if not (correct and invalid):
        return noted, 0
    places = con.execute(
        "SELECT DISTINCT file FROM _bp_past AS past JOIN _bp_attempts AS last USING (request_id)"
        " WHERE last.is_invalid AND past.is_invalid ORDER BY 1"
    ).fetchall()
    paths = [answers for (place,) in places if (answers := files[place].answers) is not None]
    # A thread holds 32 MB of text.
    with one_thread(con):
        for start in range(0, len(paths), ANSWERS_AT_ONCE):
            some = paths[start : start + ANSWERS_AT_ONCE]
            if not _read_answers(con, some):
                for one in some:
                    _read_answers(con, [one])
    con.execute(TURNS)
    (found,) = one_row(con, "SELECT count(*) FROM _bp_attempts WHERE answer IS NOT NULL")
    return noted, found


def _read_rows(con: duckdb.DuckDBPyConnection, place: int, rows: str) -> None:
    """Read what the rows of a file say; nothing of a file that is lost."""
    with _lost_tells_nothing():
        let_read(con, [rows])
        # Rows of earlier versions have no duplicates.
        known = {name.lower() for name in file_columns(con, rows)}
        asked_as = (
            f"coalesce({DUPLICATE_OF}, _custom_id)" if DUPLICATE_OF in known else "_custom_id"
        )
        con.execute(TOLD.format(asked_as=asked_as, rows=quote_files([rows]), file=int(place)))


def _read_answers(con: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> bool:
    """Read answers that did not fit; False when a file is lost, and of the others nothing was read either."""
    with _lost_tells_nothing():
        let_read(con, paths)
        con.execute(SAID.format(paths=quote_paths(paths)))
        return True
    return False


@contextmanager
def _lost_tells_nothing() -> Iterator[None]:
    """Let a file that is lost or damaged stop nothing; only that there is too little memory does."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except (duckdb.Error, OSError):
        return
