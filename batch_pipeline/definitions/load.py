"""Results as an input: what a user's asset downstream of ``NAME/results`` gets, by its annotation.

The asset ``results`` brings an IO manager of its own, which only reads: results publish themselves.
So nobody has to configure anything, and a project's own ``io_manager`` keeps its own assets.

A DuckDB file is open only while its rows are read, and a writer's lock is waited for, as sources do.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa

from batch_pipeline.definitions.failures import as_failures
from batch_pipeline.definitions.partition import rows_of
from batch_pipeline.definitions.resources import BatchStore
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.connections import (
    memory_connection,
    open_database,
    quote_name,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.results.destinations import Destination
from batch_pipeline.results.duckdb_table import DuckDBTable
from batch_pipeline.results.parquet_dataset import ParquetDataset
from batch_pipeline.settings import project_path
from batch_pipeline.store.layout import table_name
from batch_pipeline.store.store import Store

Loaded = TypeVar("Loaded")
COLUMNS = "columns"
"""Key of an input's metadata: the columns to load."""


def destination_of(pipeline: BatchPipeline, store: Store) -> DuckDBTable | ParquetDataset:
    """Return the results table: the pipeline's own, or Parquet under the store."""
    return pipeline.destination or ParquetDataset(path=store.files.url(table_name(pipeline.name)))


def loader_key(pipeline: BatchPipeline) -> str:
    """Return the resource key of a pipeline's loader; no other asset has it."""
    return f"{pipeline.asset_key('results').to_python_identifier()}__loader"


def loader_of(pipeline: BatchPipeline) -> dg.IOManagerDefinition:
    """Return the IO manager that loads a pipeline's results; it needs the pipeline's store."""

    def loader(context: dg.InitResourceContext) -> Any:
        with ExitStack() as until_the_end:
            yield ResultsLoader(
                pipeline, getattr(context.resources, pipeline.store_key), until_the_end
            )

    return dg.IOManagerDefinition(
        loader,
        required_resource_keys={pipeline.store_key},
        description=f"Loads the results of {pipeline.name} as pandas, Arrow or DuckDB.",
    )


def rows_in(pipeline: BatchPipeline, destination: Destination, partition: str) -> int:
    """Return how many rows of a results table, which must exist, belong to a partition."""
    return Rows(destination, None, lambda columns: rows_of(pipeline, [partition], columns)).count()


class ResultsLoader(dg.IOManager):
    """Reads a results table for an asset downstream of it."""

    def __init__(self, pipeline: BatchPipeline, store: BatchStore, until_the_end: ExitStack):
        """Load nothing yet.

        Args:
            pipeline: whose results.
            store: where they are when the pipeline has no destination.
            until_the_end: holds what a relation needs until the run, or the step's process, ends.
        """
        self._pipeline = pipeline
        self._store = store
        self._until_the_end = until_the_end

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write nothing: results publish themselves."""

    def load_input(self, context: dg.InputContext) -> pd.DataFrame | pa.Table | Any:
        """Return the results as what the input is annotated with.

        Raises:
            dagster.Failure: the annotation is none of the three, a column is not there, there are
                no results yet, or the database stayed in use.
        """
        with as_failures():
            load = self._way(context)
            rows = Rows(
                destination_of(self._pipeline, self._store.open()),
                context.definition_metadata.get(COLUMNS),
                self._condition(context),
            )
            return load(rows)

    def _way(self, context: dg.InputContext) -> Callable[["Rows"], Any]:
        ways = {
            pd.DataFrame: Rows.pandas,
            pa.Table: Rows.arrow,
            duckdb.DuckDBPyRelation: lambda rows: rows.relation(self._until_the_end),
        }
        wanted = context.dagster_type.typing_type
        if wanted in ways:
            return ways[wanted]
        given = "no annotation" if wanted is Any else f"the annotation {_named(wanted)}"
        name = context.name if context.has_input_name else "results"
        raise InputError(
            f"The input `{name}` is loaded from {self._pipeline.asset_key('results').to_user_string()} "
            f"and has {given}. Annotate it with the type you want: pandas.DataFrame, pyarrow.Table or "
            "duckdb.DuckDBPyRelation. If you only need the order, use deps=[...] instead."
        )

    def _condition(self, context: dg.InputContext) -> Callable[[Mapping[str, str]], str | None]:
        pipeline = self._pipeline
        if pipeline.partitions is None or not context.has_asset_partitions:
            return lambda _columns: None
        wanted = set(context.asset_partition_keys)
        # Whoever wants every partition gets every row, also of partitions that are gone.
        if wanted.issuperset(
            pipeline.partitions.get_partition_keys(dynamic_partitions_store=context.instance)
        ):
            return lambda _columns: None
        return lambda columns: rows_of(pipeline, wanted, columns)


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
        with _reading(self._destination) as con:
            sql = f"SELECT count(*) FROM ({self._statement(con)})"
            (found,) = con.execute(sql).fetchall()
            return found[0]

    def pandas(self) -> pd.DataFrame:
        """Return them as a data frame."""
        return self._read(lambda rows: rows.df())

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
        with _reading(self._destination) as reader:
            sql = f"COPY ({self._statement(reader)}) TO {quote_text(copy)} (FORMAT parquet)"
            with_enough_memory(reader, lambda: reader.execute(sql))
        return con.sql(f"SELECT * FROM read_parquet({quote_text(copy)})")

    def _read(self, take: Callable[[duckdb.DuckDBPyRelation], Loaded]) -> Loaded:
        with _reading(self._destination) as con:
            sql = self._statement(con)
            return with_enough_memory(con, lambda: take(con.sql(sql)))

    def _statement(self, con: duckdb.DuckDBPyConnection) -> str:
        table = self._destination.relation(con)
        return f"SELECT {self._shown} FROM {table} AS source{self._where}"


@contextmanager
def _reading(destination: Destination) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to read a destination through; a DuckDB file is open as long as it."""
    if not isinstance(destination, DuckDBTable):
        with memory_connection() as con:
            yield con
        return
    with open_database(
        project_path(destination.database),
        read_only=True,
        wait_seconds=destination.lock_wait_seconds,
    ) as database:
        yield database.connection


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


def _named(annotation: object) -> str:
    if isinstance(annotation, type):
        return f"{annotation.__module__}.{annotation.__qualname__}"
    return str(annotation)
