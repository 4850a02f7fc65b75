"""What scores are computed from: each answer of the results table beside its label."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from batch_pipeline.errors import BatchPipelineError, InputError
from batch_pipeline.records.connections import (
    first_line,
    quote_files,
    quote_name,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.records.reading import closest, open_source, source_columns
from batch_pipeline.records.sources import VARIANT, Source
from batch_pipeline.requests.label import Label
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.join import MEMORY
from batch_pipeline.store.layout import labels_name
from batch_pipeline.store.store import Store

BY_RULE = ("rule", "skipped")
"""What was not asked, so that it says nothing of Claude's answers."""

COMPARED = """
-- Table compared: a row per key and variant, as `scores.score` takes it. A label of the source goes before one of a
-- label file, and that before the one that the source had when the record was asked.
create or replace temp table compared as
select t.key, t.variant, coalesce(s.label, f.label, t.label) as label,
       case when t.status = 'answered' then t.answer end as answer, t.status not in {by_rule} as asked,
       t.status, t.cost
from {rows} as t left join {source} as s using (key) left join {given} as f using (key)
"""


@dataclass(frozen=True)
class Compared:
    """What stands in the table ``compared``.

    Attributes:
        variants: those that have rows, in order; "" of a pipeline without.
        labelled: how many records have a label.
        notes: why labels may be missing, in sentences.
    """

    variants: list[str]
    labelled: int
    notes: list[str]


def compare_rows(
    con: duckdb.DuckDBPyConnection,
    store: Store,
    folder: str,
    destination: DuckDBTable | ParquetDataset,
    source: Source,
    label: Label,
    pipelines: Sequence[str],
) -> Compared:
    """Make the table ``compared`` on a connection.

    Args:
        con: where it is made.
        store: where the label files are.
        folder: an empty local folder.
        destination: the results table.
        source: where the labels are; while it cannot be read, those count that it had when records were asked.
        label: the column of the label, and what is compared with it.
        pipelines: the pipeline's name, and those that it had before: whose label files count.

    Raises:
        InputError: there are no results yet, or they have no column to compare.
    """
    notes: list[str] = []
    is_truth = _copy_rows(destination, source.keys, label, f"{folder}/rows.parquet")
    rows = f"read_parquet({quote_files([f'{folder}/rows.parquet'])})"
    labels = "(select null::varchar[] as key, null::varchar as label where false)"
    try:
        said = _copy_labels(source, label.column, f"{folder}/labels.parquet")
        if said is None:
            labels = f"read_parquet({quote_files([f'{folder}/labels.parquet'])})"
        else:
            notes.append(said)
    except (BatchPipelineError, duckdb.Error, OSError) as error:
        notes.append(
            f"The source cannot be read now ({first_line(error)}), so the labels count that it had when records were "
            "asked."
        )
    truth = "cast(try_cast({0} as boolean) as varchar)" if is_truth else "{0}"
    store.files.register(con)
    con.execute(
        COMPARED.format(
            rows=f"(select * replace ({truth.format('label')} as label) from {rows})",
            source=f"(select key, {truth.format('label')} as label from {labels})",
            given=f"(select key, {truth.format('label')} as label from {_given(con, store, pipelines)})",
            by_rule=str(BY_RULE),
        )
    )
    found = con.execute("select distinct variant from compared order by all").fetchall()
    counted = con.execute(
        "select count(distinct key) from compared where label is not null"
    ).fetchall()
    return Compared([name for (name,) in found], counted[0][0], notes)


def keep_labels(store: Store, pipeline: str, path: str) -> str:
    """Put a label file (columns ``key``, texts, and ``label``) into the store; return its name."""
    name = labels_name(pipeline, f"{store.clock.now():%Y%m%dT%H%M%S%f}-{store.files.new_part()}")
    return store.files.put(path, name)


def _given(con: duckdb.DuckDBPyConnection, store: Store, pipelines: Sequence[str]) -> str:
    """Return SQL for the labels that were given in files, the newest of each key."""
    names = sorted(
        (name for pipeline in pipelines for name in _label_files(store, pipeline)),
        key=lambda name: name.rsplit("/", 1)[-1],
    )
    if not names:
        return "(select null::varchar[] as key, null::varchar as label where false)"
    files = quote_files(map(store.files.url, names))
    return (
        f"(select key, arg_max(label, file_index) as label from read_parquet({files}) group by key)"
    )


def _label_files(store: Store, pipeline: str) -> list[str]:
    folder = labels_name(pipeline)
    return [f"{folder}/{name}" for name in store.files.file_names(folder) if name.endswith(".parquet")]  # fmt: skip


def _copy_rows(
    destination: DuckDBTable | ParquetDataset, keys: Sequence[str], label: Label, path: str
) -> bool:
    """Copy what is compared of the results table; return whether answers are true or false."""
    columns = destination.columns()
    if not columns:
        raise InputError(
            f"There are no results yet: {destination.describe()} does not exist. It is made when the first answers are "
            "collected."
        )
    spelled = {name.lower(): name for name in columns}
    if label.answer.lower() not in spelled:
        raise InputError(
            f"{destination.describe()} has no column `{label.answer}`, which is compared with the label."
            f"{closest(label.answer, list(columns))}"
        )
    answer = spelled[label.answer.lower()]
    key = ", ".join(f"cast({quote_name(spelled.get(one.lower(), one))} as varchar)" for one in keys)
    variant = VARIANT if VARIANT in spelled else "''"
    own = spelled.get(label.column.lower())
    labelled = f"cast({quote_name(own)} as varchar)" if own else "null::varchar"
    with destination.connection(MEMORY) as con:
        query = (
            f"select [{key}] as key, {variant} as variant, cast({quote_name(answer)} as varchar) as answer,"
            f" {labelled} as label, _status as status, _cost_usd as cost from {destination.relation(con)} as source"
        )
        copy = f"copy ({query}) to {quote_text(path)} (format parquet)"
        with_enough_memory(con, lambda: con.execute(copy))
    return columns[answer] == "BOOLEAN"


def _copy_labels(source: Source, column: str, path: str) -> str | None:
    """Copy the labels that the source has now; return why there are none, if it has no such column."""
    with open_source(source) as con:
        columns = source_columns(con)
        named = next((name for name in columns if name.lower() == column.lower()), None)
        if named is None:
            return f"The source has no column `{column}` for the label.{closest(column, list(columns))}"
        spelled = {name.lower(): name for name in columns}
        key = ", ".join(f"cast({quote_name(spelled[one.lower()])} as varchar)" for one in source.keys)  # fmt: skip
        query = (
            f"select [{key}] as key, cast({quote_name(named)} as varchar) as label from source"
            f" where {quote_name(named)} is not null"
        )
        copy = f"copy ({query}) to {quote_text(path)} (format parquet)"
        with_enough_memory(con, lambda: con.execute(copy))
    return None
