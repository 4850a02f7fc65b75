"""Where a column comes from, as far as it is certain: Dagster's column lineage of our assets."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import dagster as dg
import duckdb
import orjson
from sqlalchemy import select

from batch_pipeline.definitions.metadata import DAGSTERS_KEYS
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.columns import HIDDEN_COLUMNS, file_columns
from batch_pipeline.records.connections import SMALL_MEMORY, memory_connection
from batch_pipeline.records.sources import ESCALATED, VARIANT, DuckDBSource, ResultsSource
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.settings import resolve
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import submissions

KEY = "dagster/column_lineage"
# What a `*` in a query may say besides that it is one, and still leave names as they are.
PLAIN_STAR = {"class", "type", "query_location", "query_location_length", "exclude_list"}


def of_records(pipeline: BatchPipeline, columns: Sequence[str]) -> dict[str, Any]:
    """Return the lineage of ``records``: which columns of the upstream asset its columns come from.

    There is none without exactly one upstream asset, nor for a query that joins, or reads more than
    one table's own columns.

    Args:
        pipeline: whose records.
        columns: the source's columns.
    """
    source = pipeline.source
    if isinstance(source, ResultsSource):
        first = source.results.asset_key("results")
        return _lineage({name: [(first, name)] for name in columns})
    if len(pipeline.upstream) != 1:
        return {}
    upstream = dg.AssetKey.from_coercible(pipeline.upstream[0])
    if not isinstance(source, DuckDBSource) or source.query is None:
        read = {name: [name] for name in columns}
    else:
        read = _read_by(resolve(source.query), columns)
    return _lineage({name: [(upstream, one) for one in found] for name, found in read.items()})


def of_results(
    pipeline: BatchPipeline, source_columns: Mapping[str, str], table: Collection[str]
) -> dict[str, Any]:
    """Return the lineage of ``results``.

    A source column comes from the same column of ``records``, and what was answered from those that
    the prompt reads.

    Args:
        pipeline: whose results.
        source_columns: the source's columns, name to DuckDB type, as they were asked last.
        table: the columns of the results table.
    """
    if not source_columns:
        return {}
    records = pipeline.asset_key("records")
    try:
        questions = [
            compile_question(one.request, source_columns, pipeline.output_prefix)
            for one in pipeline.by_variant.values()
        ]
    except InputError:  # the question has changed since, and reads what was not asked then
        return {}
    answered = {name for name, _ in questions[0].output_columns}
    asked = dict.fromkeys(one for question in questions for one in question.columns)
    own = (
        {ESCALATED} if pipeline.escalate else {VARIANT} if "" not in pipeline.by_variant else set()
    )
    read: dict[str, list[tuple[dg.AssetKey, str]]] = {}
    for name in table:
        if name in answered:
            read[name] = [(records, one) for one in asked]
        elif name in source_columns and name not in own:
            read[name] = [(records, name)]
    return _lineage(read)


def last_asked(store: Store, pipeline: str) -> dict[str, str]:
    """Return the source's columns of a pipeline's newest submission; none when its file is gone."""
    rows = store.ledger.rows(
        select(submissions.c.records_path)
        .where(submissions.c.pipeline == pipeline, submissions.c.records_path.is_not(None))
        .order_by(submissions.c.number.desc())
        .limit(1)
    )
    if not rows or not store.files.exists(rows[0]["records_path"]):
        return {}
    with memory_connection(SMALL_MEMORY) as connection, suppress(duckdb.Error):
        store.files.register(connection)
        found = file_columns(connection, store.files.url(rows[0]["records_path"]))
        return {name: kind for name, kind in found.items() if name not in HIDDEN_COLUMNS}
    return {}


def _lineage(read: Mapping[str, Sequence[tuple[dg.AssetKey, str]]]) -> dict[str, Any]:
    deps = {
        name: [dg.TableColumnDep(asset_key=key, column_name=column) for key, column in found]
        for name, found in read.items()
        if found and name not in DAGSTERS_KEYS
    }
    return {KEY: dg.TableColumnLineage(deps)} if deps else {}


def _read_by(query: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of the one table that a query reads, for each of the query's columns.

    Empty for a query of which that cannot be said with certainty.
    """
    with memory_connection(SMALL_MEMORY) as connection:
        row = connection.execute(
            "SELECT json_serialize_sql(CAST(? AS VARCHAR))", [query]
        ).fetchone()
    parsed = orjson.loads(row[0]) if row else {}
    node = (parsed.get("statements") or [{}])[0].get("node") or {}
    table = node.get("from_table") or {}
    if (
        node.get("type") != "SELECT_NODE"
        or (node.get("cte_map") or {}).get("map")
        or table.get("type") != "BASE_TABLE"
        or table.get("column_name_alias")
    ):
        return {}
    read: dict[str, list[str]] = {}
    for item in node["select_list"]:
        if item["class"] == "STAR":
            if any(value for name, value in item.items() if name not in PLAIN_STAR):
                return {}
            read = {name: [name] for name in columns} | read
            continue
        found = list(
            dict.fromkeys(_columns_in(item, {table["alias"].lower(), table["table_name"].lower()}))
        )
        name = item.get("alias") or (
            item["column_names"][-1] if item["class"] == "COLUMN_REF" else None
        )
        if name is None or None in found:
            continue
        read[name] = [one for one in found if one is not None]
    return {name: read[name] for name in columns if name in read}


def _columns_in(expression: Any, table: Collection[str]) -> Iterator[str | None]:
    """Yield the columns that an expression reads; None where it has names of its own.

    Args:
        expression: a part of DuckDB's syntax tree.
        table: the names that may stand before a column's.
    """
    if isinstance(expression, list):
        for inner in expression:
            yield from _columns_in(inner, table)
    elif isinstance(expression, dict):
        if expression.get("class") in ("SUBQUERY", "LAMBDA"):
            yield None
        elif expression.get("class") == "COLUMN_REF":
            first, *rest = expression["column_names"]
            yield rest[0] if rest and first.lower() in table else first
        else:
            for inner in expression.values():
                yield from _columns_in(inner, table)
