"""What stays of erased records in the store's files: hashes, names of requests, tokens and costs, and no word.

A row stays, so that counts and books balance; what the source said in it, what was asked, what came back, and
why, are gone. Files are put in the place of the earlier ones whole, so a process that is killed leaves one or the
other. Whoever makes rows anew, or fetches answers again, leaves out what was erased meanwhile.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import orjson
from sqlalchemy import RowMapping, select

from batch_pipeline.batches.lines import is_overfull
from batch_pipeline.records.columns import (
    ASKED_ROW,
    DOUBLED,
    DUPLICATE_OF,
    RESULT_COLUMNS,
    WIRE_ID,
    file_columns,
)
from batch_pipeline.records.connections import (
    in_order,
    memory_connection,
    quote_files,
    quote_name,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.results.json_text import parsed
from batch_pipeline.store.erasures import ERASED, erased_since
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import submissions

SAID = ("_error", "_attempts", "_last_error")
"""Columns of the results that repeat what a record or an answer said."""
STAYS = frozenset(name for name in RESULT_COLUMNS if name not in SAID)
"""What stays of a row of results."""
STAYS_OF_RECORDS = frozenset(
    ("_row", "_kind", "_reason", "_key_hash", "_content_hash", "_custom_id", "_attempt",
     DOUBLED, ASKED_ROW, DUPLICATE_OF, WIRE_ID)
)  # fmt: skip
"""What stays of a row of selected records."""
KEPT_OF_MESSAGE = ("id", "type", "role", "model", "stop_reason", "usage")
"""What stays of a message: what it cost follows from it."""
COMPRESSION = "zstd, compression_level 1"
ROW_GROUP_BYTES = 16_000_000  # rows may be wide

# The requests of a submission whose records are all erased, as they are called in its batches, and the
# custom_id of the record that was asked.
WHOLLY_ERASED = """
select line, coalesce(any_value(_custom_id) filter (_kind = 'ask'), line)
from (select {line} as line, _custom_id, _kind, _key_hash in {hashes} as erased
      from read_parquet({records}) where _kind in ('ask', 'duplicate'))
group by line having bool_and(erased)
"""
OF_KEYS = """
select _custom_id, {line}, _kind in ('ask', 'duplicate') from read_parquet({records})
where _key_hash in {hashes}
"""


@dataclass(frozen=True)
class ErasedIn:
    """What is erased of a submission.

    Attributes:
        rows: the custom_ids of its rows.
        lines: the requests, as their batches call them, that no other record shares, with the custom_ids
            of the records that were asked.
        shared: requests of these records that others share.
    """

    rows: frozenset[str] = field(default_factory=frozenset)
    lines: Mapping[str, str] = field(default_factory=dict)
    shared: int = 0


def erased_in(store: Store, submission: RowMapping | Mapping[str, Any]) -> ErasedIn:
    """Return what was erased of a submission since it was made; seldom anything, which costs a query of the ledger.

    Raises:
        duckdb.Error, OSError: its records cannot be read.
    """
    hashes = erased_since(store.ledger, submission["pipeline"], submission["number"])
    if not hashes or not submission["records_path"]:
        return ErasedIn()
    with memory_connection() as con:
        store.files.register(con)
        return erased_by(con, store.files.url(submission["records_path"]), hashes)


def erased_of(store: Store, submission_id: str) -> ErasedIn:
    """Return the same of a submission by its id."""
    rows = store.ledger.rows(select(submissions).where(submissions.c.id == submission_id))
    return erased_in(store, rows[0]) if rows else ErasedIn()


def erased_by(con: duckdb.DuckDBPyConnection, records: str, hashes: Collection[str]) -> ErasedIn:
    """Return which rows and requests of some selected records are about keys, by a file of records."""
    columns = file_columns(con, records)
    names = [name for name in (WIRE_ID, DUPLICATE_OF) if name in columns]
    filled = {
        "line": f"coalesce({', '.join([*names, '_custom_id'])})",
        "records": quote_files([records]),
        "hashes": listed(hashes),
    }
    mine = con.execute(OF_KEYS.format(**filled)).fetchall()
    if not mine:
        return ErasedIn()
    whole = con.execute(WHOLLY_ERASED.format(**filled)).fetchall()
    lines = dict(whole)
    asked = {line for _, line, is_asked in mine if is_asked}
    return ErasedIn(frozenset(one for one, *_ in mine), lines, len(asked - lines.keys()))


def listed(hashes: Iterable[str]) -> str:
    """Return hashes of keys as a list in SQL."""
    return f"({', '.join(f'{quote_text(one)}::uuid' for one in sorted(hashes))})"


def blank_answers(source: str, to: str, erased: Mapping[str, str | None]) -> int:
    """Copy a local file of answers without what erased requests were told; return how many lines that changed.

    Args:
        source: the file.
        to: the copy.
        erased: the requests, with the status that their answers were found to have; None: not known.
    """
    return _copy_lines(source, to, lambda line: _blank_answer(line, erased))


def blank_requests(source: str, to: str, erased: Collection[str]) -> int:
    """Copy a local file of requests without what erased ones ask; return how many lines that changed."""
    return _copy_lines(source, to, lambda line: _blank_request(line, erased))


def _copy_lines(source: str, to: str, blank: Callable[[bytes], bytes | None]) -> int:
    changed = 0
    with open(source, "rb") as lines, open(to, "wb") as out:
        for line in lines:
            instead = blank(line)
            changed += instead is not None
            out.write(line if instead is None else instead + b"\n")
    return changed


def _blank_request(line: bytes, erased: Collection[str]) -> bytes | None:
    request = None if is_overfull(line) else parsed(line)
    if not isinstance(request, dict) or request.get("custom_id") not in erased:
        return None
    if not request.get("params"):
        return None
    return orjson.dumps({"custom_id": request["custom_id"], "params": {}})


def _blank_answer(line: bytes, erased: Mapping[str, str | None]) -> bytes | None:
    """Return what is to stand in the place of a line; None: it stays."""
    answer = None if is_overfull(line) else parsed(line)
    if not isinstance(answer, dict) or not isinstance(answer.get("custom_id"), str):
        # A line that came garbled, and may hold what was said.
        hit = any(f'"{custom_id}"'.encode() in line for custom_id in erased)
        return orjson.dumps({ERASED: "garbled"}) if hit else None
    custom_id = answer["custom_id"]
    if custom_id not in erased or ERASED in answer:
        return None
    body = answer.get("result")
    body = body if isinstance(body, dict) else {}
    kept: dict[str, Any] = {"type": body.get("type")}
    status = erased[custom_id]
    if isinstance(message := body.get("message"), dict):
        kept["message"] = {name: message[name] for name in KEPT_OF_MESSAGE if name in message}
        kept["message"]["content"] = []
        if message.get("container"):  # that there was one decides what is known of the cost
            kept["message"]["container"] = {"id": ERASED}
        status = status or "answered"
    error = body.get("error")
    while isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    if isinstance(error, dict):
        kept["error"] = {"type": "error", "error": {"type": error.get("type"), "message": ERASED}}
        status = status or "errored"
    return orjson.dumps({"custom_id": custom_id, "result": kept, ERASED: status or kept["type"]})


def blank_rows(
    con: duckdb.DuckDBPyConnection, source: str, to: str, custom_ids: Collection[str]
) -> int:
    """Copy a file of rows without what erased ones say; return how many that changes, 0: nothing is written."""
    says = [name for name in file_columns(con, source) if name not in STAYS]
    return _copy_rows(con, source, to, _named(custom_ids), says)


def blank_records(
    con: duckdb.DuckDBPyConnection, source: str, to: str, hashes: Collection[str]
) -> int:
    """Copy a file of selected records without what erased ones say, and with a mark; return how many that changes."""
    says = [name for name in file_columns(con, source) if name not in STAYS_OF_RECORDS]
    return _copy_rows(con, source, to, f"_key_hash in {listed(hashes)}", says, "_reason")


def blank_rejected(
    con: duckdb.DuckDBPyConnection, source: str, to: str, custom_ids: Collection[str]
) -> int:
    """Copy a list of records that could not be asked without why erased ones could not; return how many."""
    return _copy_rows(con, source, to, _named(custom_ids), [], "reason")


def _named(custom_ids: Collection[str]) -> str:
    if not custom_ids:
        return "false"
    return f"_custom_id in ({', '.join(map(quote_text, sorted(custom_ids)))})"


def _copy_rows(
    con: duckdb.DuckDBPyConnection,
    source: str,
    to: str,
    hit: str,
    says: Iterable[str],
    mark: str = "",
) -> int:
    """Copy a file with NULL in what some rows say, and in the column ``mark`` that they are erased."""
    rows, mark_text = f"read_parquet({quote_files([source])})", quote_text(ERASED)
    values = {quote_name(name): ("null", f"{quote_name(name)} is not null") for name in says}
    if mark:
        values[mark] = (mark_text, f"{mark} is distinct from {mark_text}")
    said = " or ".join(said for _, said in values.values()) or "false"
    ((count,),) = con.execute(f"select count(*) from {rows} where {hit} and ({said})").fetchall()
    if count:
        columns = ", ".join(
            f"case when {hit} then {instead} else {name} end as {name}"
            for name, (instead, _) in values.items()
        )
        copy = (
            f"copy (select * replace ({columns}) from {rows}) to {quote_text(to)}"
            f" (format parquet, compression {COMPRESSION}, row_group_size_bytes {ROW_GROUP_BYTES})"
        )
        with in_order(con):
            with_enough_memory(con, lambda: con.execute(copy))
    return count
