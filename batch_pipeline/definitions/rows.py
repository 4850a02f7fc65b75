"""The rows of a results table that somebody wants, as pandas, Arrow or a DuckDB relation.

A DuckDB file is open only while its rows are read, and a writer's lock is waited for, as sources do.
"""

import functools
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import duckdb
import pyarrow as pa

from batch_pipeline.definitions.partition import rows_of
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.columns import HIDDEN_COLUMNS, RESULT_COLUMNS, stored_columns
from batch_pipeline.records.connections import (
    first_line,
    quote_files,
    quote_name,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.records.reading import columns_of
from batch_pipeline.records.sources import ResultsSource, Source
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.results.destinations import Destination, DuckDBTable, ParquetDataset
from batch_pipeline.results.merging import Wanted, Writer
from batch_pipeline.store.layout import table_name
from batch_pipeline.store.renaming import went_over
from batch_pipeline.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

Loaded = TypeVar("Loaded")
FILLED = ("_status", "_custom_id", "_attempt")
"""The columns of ours that every row has a value in."""


def destination_of(pipeline: BatchPipeline, store: Store) -> DuckDBTable | ParquetDataset:
    """Return the results table: the pipeline's own, or Parquet under the store."""
    return pipeline.destination or ParquetDataset(path=store.files.url(table_name(pipeline.name)))


def source_of(pipeline: BatchPipeline, store: Store | None) -> Source:
    """Return a pipeline's source; of another pipeline's results with the table that it reads.

    Args:
        pipeline: whose source.
        store: where results are kept that have no destination; None: it is not there yet.
    """
    source = pipeline.source
    if not isinstance(source, ResultsSource):
        return source
    if store is None:
        return (
            source
            if source.results.destination is None
            else source.at(lambda first: first.destination)
        )
    return source.at(lambda first: destination_of(first, store))


def earlier_names(pipeline: BatchPipeline) -> tuple[str, ...]:
    """Return what a pipeline was called earlier."""
    earlier = getattr(pipeline, "renamed_from", None)
    return (earlier,) if isinstance(earlier, str) else tuple(earlier or ())


def wanted_of(pipeline: BatchPipeline, store: Store | None) -> Wanted:
    """Return what a pipeline is going to keep in its destination, for a check before it sends.

    Args:
        pipeline: the pipeline.
        store: its store, whose ledger knows all its earlier names; None when it has none yet.
    """

    asked = next(iter(pipeline.by_variant.values()))

    @functools.cache
    def answer() -> tuple[dict[str, str], dict[str, str]]:
        source = columns_of(source_of(asked, store))
        question = compile_question(asked.request, source, pipeline.output_prefix)
        shown = {name: kind for name, kind in source.items() if name not in HIDDEN_COLUMNS}
        return dict(stored_columns(shown)), dict(question.output_columns)

    return Wanted(
        Writer(
            pipeline.name,
            earlier_names(pipeline),
            took_over=lambda name: (
                store is not None and went_over(store.ledger, name, pipeline.name)
            ),
        ),
        asked.source.keys,
        columns=lambda: {**answer()[0], **answer()[1], **RESULT_COLUMNS},
        answers=lambda: [*answer()[1], *(name for name in RESULT_COLUMNS if name not in FILLED)],
    )


def rows_in(pipeline: BatchPipeline, destination: Destination, partition: str) -> int:
    """Return how many rows of a results table, which must exist, belong to a partition."""
    return Rows(destination, None, lambda columns: rows_of(pipeline, [partition], columns)).count()


def statuses_in(destination: Destination) -> dict[str, int]:
    """Return how many rows of a results table, which must exist, have which status."""
    with destination.connection() as con:
        found = con.execute(
            f"SELECT _status, count(*) FROM {destination.relation(con)} GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    return {str(status or "unknown"): count for status, count in found}


class Rows:
    """The rows and columns of a results table that somebody wants."""

    def __init__(
        self,
        destination: Destination,
        columns: object,
        condition: Callable[[Mapping[str, str]], str | None],
    ):
        """Read no row yet.

        Args:
            destination: the table.
            columns: the columns; None: all of them.
            condition: from the table's columns to the SQL that its rows, as ``source``, must fulfil.

        Raises:
            InputError: there is no table yet, or it has no such column.
        """
        there = destination.columns()
        if not there:
            raise InputError(
                f"There are no results yet: {destination.describe()} does not exist. It is made when "
                "the first answers are collected; run this again after that."
            )
        self._destination = destination
        self._shown = _chosen(columns, there)
        only = condition(there)
        self._where = f" WHERE {only}" if only else ""

    def count(self) -> int:
        """Return how many there are."""
        with self._destination.connection() as con:
            sql = f"SELECT count(*) FROM ({self._statement(con)})"
            (found,) = con.execute(sql).fetchall()
            return found[0]

    def pandas(self) -> "pd.DataFrame":
        """Return them as a data frame.

        Raises:
            InputError: they hold a date that pandas does not have.
        """
        try:
            return self._read(lambda rows: rows.df())
        except duckdb.ConversionException as error:
            raise InputError(
                f"The results ({self._destination.describe()}) hold a value that pandas does not have,"
                f" such as an infinite date. DuckDB says: {first_line(error)}. Annotate the input as"
                ' pyarrow.Table or duckdb.DuckDBPyRelation, or leave the column out: metadata={"columns":'
                " [...]} of the input."
            ) from error

    def arrow(self) -> pa.Table:
        """Return them as an Arrow table."""
        return self._read(lambda rows: rows.to_arrow_table())

    def relation(self, until: ExitStack) -> duckdb.DuckDBPyRelation:
        """Return them as a relation on a connection of its own, which ``until`` closes.

        Nothing is read of a Parquet dataset before the relation is: its files stay. The rows of a
        DuckDB table are copied to the system's temp folder first, so that its file is closed, and
        open to writers, when this returns.
        """
        folder = until.enter_context(
            tempfile.TemporaryDirectory(prefix="batch-pipeline-", ignore_cleanup_errors=True)
        )
        con = duckdb.connect(config={"temp_directory": f"{folder}/spilled"})
        until.callback(con.close)
        con.execute("SET TimeZone = 'UTC'")
        con.execute("SET enable_progress_bar = false")
        if not isinstance(self._destination, DuckDBTable):
            return con.sql(self._statement(con))
        copy = f"{folder}/results.parquet"
        with self._destination.connection() as reader:
            sql = f"COPY ({self._statement(reader)}) TO {quote_text(copy)} (FORMAT parquet)"
            with_enough_memory(reader, lambda: reader.execute(sql))
        return con.sql(f"SELECT * FROM read_parquet({quote_files([copy])})")

    def _read(self, take: Callable[[duckdb.DuckDBPyRelation], Loaded]) -> Loaded:
        with self._destination.connection() as con:
            sql = self._statement(con)
            return with_enough_memory(con, lambda: take(con.sql(sql)))

    def _statement(self, con: duckdb.DuckDBPyConnection) -> str:
        table = self._destination.relation(con)
        return f"SELECT {self._shown} FROM {table} AS source{self._where}"


def _chosen(wanted: object, columns: Collection[str]) -> str:
    """Return a SELECT list of the columns that somebody wants, spelled as the table has them."""
    if wanted is None:
        return "*"
    if isinstance(wanted, str) or not isinstance(wanted, Sequence) or not wanted:
        raise InputError(
            f"The input's metadata has columns={wanted!r}; it must be a list of names."
        )
    spelled = {name.lower(): name for name in columns}
    missing = [str(name) for name in wanted if str(name).lower() not in spelled]
    if missing:
        raise InputError(
            f"The input's metadata names columns that the results do not have: {', '.join(missing)}. "
            f"Their columns are: {', '.join(columns)}."
        )
    return ", ".join(quote_name(spelled[str(name).lower()]) for name in wanted)
