"""Which records need an answer tonight: an anti-join of the source on the index of earlier nights.

All work on rows is DuckDB's; ten million rows never pass through Python.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records import statements
from batch_pipeline.records.attempts import AttemptFiles, look_at_attempts
from batch_pipeline.records.columns import file_columns, stored_columns
from batch_pipeline.records.comparison import Comparison, one_row
from batch_pipeline.records.connections import (
    let_read,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.records.earlier import look_back
from batch_pipeline.records.escalation import (
    check_conditions,
    drop_changed,
    keep_among,
    write_unsettled,
)
from batch_pipeline.records.files import FilesRead
from batch_pipeline.records.index_rows import Located, index_rows
from batch_pipeline.records.partitions import PartitionFilter
from batch_pipeline.records.reading import source_columns
from batch_pipeline.records.reask import (
    LEAST,
    Destination,
    Reask,
    Unknown,
    find_reask,
    find_unknown,
)
from batch_pipeline.records.rules import Rule
from batch_pipeline.records.unsettled import Unsettled
from batch_pipeline.store.known_contents import LEAST_ROWS, MOST_ROWS
from batch_pipeline.store.submissions import IndexRow

UNLIMITED = 30
"""So many times twice as many tokens is more than any answer has."""
MOST_CHANGED = 0.05
"""What is known of records is written anew once it is not known of so many of them."""
ASKED_VERDICTS = ("new", "changed", "version", "retry", "forced")


@dataclass(frozen=True)
class Ask:
    """What one run asks for; the run config of ``NAME_submit``.

    Attributes:
        limit: ask at most this many records, the first ones by key.
        where: a SQL condition over the source's columns; other records are left alone.
        force: ask again even what is answered (but never what is in flight).
        retries_only: ask only records whose earlier attempt failed.
        allow_reask: ask, even if that is most of an answered table over again.
    """

    limit: int | None = None
    where: str | None = None
    force: bool = False
    retries_only: bool = False
    allow_reask: bool = False


@dataclass(frozen=True)
class IndexFile:
    """One index file of an earlier submission, with what the file itself does not say."""

    path: str
    number: int
    partition: str
    request: str | None = None  # a hash of what its requests had in common, if that is known
    rows: str | None = None  # the file of the rows that it is about
    answers: str | None = None  # the kept answers that these were made of
    beside: bool = False  # it is of the other model of an escalation
    compacted: str | None = None  # the compaction that has its rows
    place: int | None = None  # its place in that

    @classmethod
    def of(cls, row: IndexRow, url: Callable[[str], str], beside: bool = False) -> "IndexFile":
        """Return an index file of the ledger; ``url`` says where a file of the store is."""
        rows, answers, compacted = (
            url(name) if name else None for name in (row.rows, row.answers, row.compacted)
        )
        return cls(
            url(row.name),
            row.number,
            row.partition,
            row.request,
            rows,
            answers,
            beside,
            compacted,
            row.place,
        )


@dataclass(frozen=True)
class Contents:
    """A file of what records say, as hashes.

    Attributes:
        path: where it is.
        by: what it was computed by.
        rows: how many records it has.
    """

    path: str
    by: str
    rows: int


@dataclass(frozen=True)
class Selection:
    """What was selected, in counts and files.

    Every source row is counted once in: ``asked`` (= new + changed + version_changed + retried +
    forced), ``reused``, ``ruled``, ``in_flight``, ``settled``, ``exhausted``, ``erased`` or ``left_out``.

    Attributes:
        source_rows: rows of the source in this partition.
        asked: records to ask.
        duplicates: asked, by the request of another one that is the same.
        new: asked, their key was never seen.
        changed: asked, their content is new.
        version_changed: asked, this content was only seen under another version.
        retried: asked, an earlier attempt failed.
        forced: asked because of ``Ask.force``.
        reused: published again from an earlier answer, at no cost.
        ruled: settled by a rule, and to be published at no cost.
        by_rule: all that a rule settles: these, and those that stand as it says.
        deleted: keys that are gone from the source and will be removed from the table.
        in_flight: selected or sent earlier, not settled yet.
        settled: final, and what the table shows.
        exhausted: failed ``max_attempts`` times; the last reason stands.
        erased: not asked, because their records were erased by a person.
        left_out: in need of an answer, but outside this run's limit, where or retries_only.
        records_path: local records.parquet; None when there is nothing to ask or publish.
        index_path: local index/selected.parquet; None when there is also nothing to delete.
        columns: the source's columns as records.parquet has them: (name, DuckDB type).
        answered: rows that are not asked now, and are answered as they are.
        failed: rows that are not asked now, and failed: for good, or left out of this run.
        contents: what the records say now, if that was written.
        reask: answered records that would be asked again, if they are most of the table.
        unknown: answers in the destination that the store lost, if they would be paid again.
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
    reask: Reask | None = None
    unknown: Unknown | None = None
    answered: int = 0
    erased: int = 0
    failed: int = 0
    duplicates: int = 0
    ruled: int = 0
    by_rule: int = 0
    contents: Contents | None = None


def check_keys(
    con: duckdb.DuckDBPyConnection,
    keys: Sequence[str],
    partition: PartitionFilter | None = None,
) -> None:
    """Check that each source row of the partition has a key of its own. ``select`` does so itself.

    Raises:
        InputError: keys are NULL or occur more than once; it names up to five.
    """
    Comparison(con, keys, (), "", partition, None).hash_source("source")


def select(
    con: duckdb.DuckDBPyConnection,
    *,
    keys: Sequence[str],
    content_columns: Sequence[str],
    version: str,
    index: Sequence[IndexFile],
    elsewhere: Sequence[IndexFile] = (),
    earlier: Sequence[str] = (),
    out_dir: str,
    ledger_id: str,
    request: str = "",
    most_doublings: int = UNLIMITED,
    refresh: Literal["changed", "new"] = "changed",
    max_attempts: int = 3,
    on_deleted: Literal["keep", "drop"] = "keep",
    partition: PartitionFilter | None = None,
    ask: Ask | None = None,
    dedupe: bool = False,
    rules: Sequence[Rule] = (),
    files: FilesRead | None = None,
    destination: Destination | None = None,
    correct: bool = False,
    together: Sequence[str] = (),
    among: str | None = None,
    unsettled: Unsettled | None = None,
    unsettled_into: str = "",
    answer: Mapping[str, str] | None = None,
    known: Contents | None = None,
    known_into: str | None = None,
) -> Selection:
    """Write the records that need an answer to ``out_dir`` and say what was found.

    Args:
        con: a connection with the view ``source`` (``open_source``).
        keys: the key columns.
        content_columns: the columns the template reads.
        version: the template's version.
        index: all index files of the pipeline, of every partition.
        elsewhere: those of what was asked at other endpoints, which does not count here.
        earlier: the pipeline's latest files of selected records, the newest first.
        out_dir: a local folder; gets ``records.parquet`` and ``index/selected.parquet``.
        ledger_id: 8 hex characters that tell this ledger's requests from others'.
        request: a hash of what the requests have in common; "" when it is not known.
        most_doublings: how often an answer that was cut short may get twice as many tokens.
        refresh: "changed" asks again when a record's content or the version changed; "new" asks
            each key once.
        max_attempts: how often a record is asked before its last failure stands.
        on_deleted: "drop" marks keys that left the source as deleted.
        partition: the part of the source this run is about.
        ask: the run's limit, where, force and retries_only.
        dedupe: records that would ask the same are asked once.
        rules: what settles records without asking; the first that holds counts.
        files: which files the question reads of each record: a change of one is a changed content.
        destination: where answers may be that the store lost; None: it is in the store itself.
        correct: what was answered and did not fit is asked again with that answer.
        together: columns: what is asked about records that share them stands together.
        among: a file of the only records that this is about, as ``unsettled_into`` gets it; None: all are.
        unsettled: which answers are not good enough for the better model not to be asked.
        unsettled_into: a local file that gets the records it is to be asked about.
        answer: the columns of the question's answer, for the conditions in ``unsettled``.
        known: what the records said before, if that is kept.
        known_into: a local file that gets what they say now, where that is worth it.

    Raises:
        InputError: keys are missing or repeated, or ``where`` or the partition cannot be applied.
    """
    ask = ask or Ask()
    found = look_back(con, keys, source_columns(con), earlier)
    if among is not None:
        keep_among(con, found.keys, among)
    if unsettled is not None:
        check_conditions(con, unsettled, answer or {})
    question = Comparison(
        con, found.keys, content_columns, version, partition, ask.where, rules, together, files
    )
    if known is not None and known.by == question.hashed_by:
        question.known_path = known.path
    question.check_where()
    if among is not None:
        drop_changed(con, question.content_hash)
    _view_index(con, "_bp_index", index)
    _view_index(con, "_bp_elsewhere", elsewhere)
    attempts = [AttemptFiles(file.rows, file.answers) for file in index]
    asked_verdicts = ("retry",) if ask.retries_only else ASKED_VERDICTS
    # Only a whole look at the source can say that a key is gone.
    partial = ask.limit is not None or bool(ask.where) or ask.retries_only
    look_for_gone = on_deleted == "drop" and not partial

    def select_from(source: str) -> Selection | None:
        question.hash_source(source)
        drops_into = partition.key if partition and on_deleted == "drop" else None
        verdicts = question.judge(
            refresh, max_attempts, ask.force, drops_into, request, most_doublings
        )
        reasons = question.plan(ledger_id, asked_verdicts, ask.limit, not ask.retries_only)
        question.noted, question.corrected = look_at_attempts(
            con,
            attempts,
            version=version,
            request=request,
            by_key=refresh == "new",
            correct=correct,
        )
        if unsettled is not None:
            write_unsettled(con, attempts, unsettled, unsettled_into)
        duplicates = question.ask_once() if dedupe else 0
        # A whole source without any row is taken for an accident upstream, not for a wish to drop
        # the table; a partition may well be empty.
        look = look_for_gone and (partition is not None or bool(verdicts))
        deleted = _find_gone(con, partition.key if partition else "", look)
        if deleted and partition is not None:
            deleted -= question.leave_moved(source)
        selection = _counted(verdicts, reasons, deleted, stored_columns(question.types))
        answered, failed, by_rule = question.stands()
        selection = replace(
            selection, answered=answered, failed=failed, duplicates=duplicates, by_rule=by_rule
        )
        # Small partitions are counted together.
        least = LEAST if partition is None else 1
        asked = verdicts.get("new", 0) + verdicts.get("changed", 0)
        is_new = not (index or elsewhere)
        if partition is None and not elsewhere and asked * 2 <= question.plain:
            asked = 0  # they cannot be most of what is answered
        if asked >= least and not (ask.force or ask.retries_only or is_new):
            reask = find_reask(
                con,
                version=version,
                partition=partition.key if partition else None,
                earlier=found,
                retyped_key=found.retyped(keys, question.types),
                retyped_content=found.retyped(content_columns, question.types),
                keys=keys,
                hash_whole=lambda: question.hash_whole(source),
            )
            selection = replace(selection, reask=reask)
        if destination is not None and not (ask.force or ask.allow_reask):
            unknown = None
            # What a rule settles takes the place of an answer, which only the table has then.
            replaced = (*asked_verdicts, *(() if ask.retries_only else ("rule",)))
            may_be_paid = (*replaced, *(("in_flight",) if destination.unsent else ()))
            paid = sum(verdicts.get(verdict, 0) for verdict in may_be_paid)
            if paid:
                unknown = find_unknown(
                    con,
                    destination,
                    keys=found.keys,
                    verdicts=replaced,
                    lost=is_new,
                )
            selection = replace(selection, unknown=unknown)
        return _written(question, source, selection, Path(out_dir))

    def contents() -> Contents | None:
        """Write what the records say, if enough of that is not known yet."""
        by, rows = question.hashed_by, question.rows
        stale = rows - question.known > rows * MOST_CHANGED
        if not (known_into and by and stale and LEAST_ROWS <= rows <= MOST_ROWS):
            return None
        try:
            question.write_contents(known_into)
        except duckdb.Error:  # a disk is full, say: without it all is hashed the next time
            return None
        return Contents(known_into, by, rows)

    selection = with_enough_memory(con, lambda: select_from("source"))
    if selection is None:
        # A query may return other rows each time, for example `limit 100`: read it just once.
        with_enough_memory(con, lambda: con.execute(statements.ONCE))
        selection = with_enough_memory(con, lambda: select_from("_bp_once"))
    if selection is None:
        raise InputError(
            f"The key ({', '.join(keys)}) has values that are equal and print differently (such as"
            f" 0.0 and -0.0). Cast it to text in the source's query."
        )
    return replace(selection, contents=contents())


def _counted(
    verdicts: dict[str, int],
    reasons: dict[str, int],
    deleted: int,
    columns: list[tuple[str, str]],
) -> Selection:
    planned = sum(reasons.values())
    source_rows = sum(verdicts.values())
    in_flight, settled, exhausted, erased = (
        verdicts.get(name, 0) for name in ("in_flight", "settled", "exhausted", "erased")
    )
    return Selection(
        source_rows=source_rows,
        asked=planned - reasons.get("reuse", 0) - reasons.get("rule", 0),
        ruled=reasons.get("rule", 0),
        new=reasons.get("new", 0),
        changed=reasons.get("changed", 0),
        version_changed=reasons.get("version", 0),
        retried=reasons.get("retry", 0),
        forced=reasons.get("forced", 0),
        reused=reasons.get("reuse", 0),
        deleted=deleted,
        in_flight=in_flight,
        settled=settled,
        exhausted=exhausted,
        left_out=source_rows - planned - in_flight - settled - exhausted - erased,
        erased=erased,
        records_path=None,
        index_path=None,
        columns=columns,
    )


def _written(
    question: Comparison, source: str, selection: Selection, out_dir: Path
) -> Selection | None:
    """Write what was selected; None when the source no longer reads as it was judged."""
    index_path = out_dir / "index" / "selected.parquet"
    if selection.asked or selection.reused or selection.ruled:
        records_path = out_dir / "records.parquet"
        index_path.parent.mkdir(parents=True, exist_ok=True)
        if not question.write_records(source, records_path):
            return None
        stored = file_columns(question.con, str(records_path))
        columns = [(name, stored[name]) for name, _ in selection.columns]
        selection = replace(selection, records_path=str(records_path), columns=columns)
    elif not selection.deleted:
        return selection
    index_path.parent.mkdir(parents=True, exist_ok=True)
    question.write_index(index_path)
    return replace(selection, index_path=str(index_path))


def _view_index(con: duckdb.DuckDBPyConnection, view: str, index: Sequence[IndexFile]) -> None:
    if not index:
        con.execute(statements.EMPTY_INDEX.format(view=view))
        return
    rows = index_rows([Located(file.path, file.compacted, file.place) for file in index])
    let_read(con, rows.paths)
    # Not as Arrow's table: to make one of lists, pyarrow loads pandas, 55 MB.
    con.execute(
        statements.INDEX_FILES.format(view=view),
        {
            "file": rows.numbers,
            "position": list(range(len(index))),
            "number": [file.number for file in index],
            "partition": [file.partition for file in index],
            "request": [file.request or None for file in index],
            "beside": [file.beside for file in index],
        },
    )
    con.execute(statements.INDEX.format(view=view, rows=rows.sql))


def _find_gone(con: duckdb.DuckDBPyConnection, partition_key: str, look: bool) -> int:
    con.execute(
        statements.GONE.format(
            partition_key=quote_text(partition_key), look="true" if look else "false"
        )
    )
    (gone,) = one_row(con, "SELECT count(*) FROM _bp_gone")
    return gone
