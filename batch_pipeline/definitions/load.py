"""Results as an input: what a user's asset downstream of ``NAME/results`` gets, by its annotation.

The asset ``results`` brings an IO manager of its own, which only reads: results publish themselves.
So nobody has to configure anything, and a project's own ``io_manager`` keeps its own assets.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import dagster as dg

from batch_pipeline.definitions.failures import as_failures
from batch_pipeline.definitions.resources import BatchStore
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline

if TYPE_CHECKING:
    from batch_pipeline.definitions.rows import Rows

COLUMNS = "columns"
"""Key of an input's metadata: the columns to load."""


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

    def load_input(self, context: dg.InputContext) -> Any:
        """Return the results as what the input is annotated with.

        Raises:
            dagster.Failure: the annotation is none of the three, a column is not there, there are
                no results yet, or the database stayed in use.
        """
        from batch_pipeline.definitions.rows import Rows, destination_of

        with as_failures():
            load = self._way(context)
            rows = Rows(
                destination_of(self._pipeline, self._store.open()),
                context.definition_metadata.get(COLUMNS),
                self._condition(context),
            )
            return load(rows)

    def _way(self, context: dg.InputContext) -> Callable[["Rows"], Any]:
        import duckdb
        import pandas as pd
        import pyarrow as pa

        from batch_pipeline.definitions.rows import Rows

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

        def condition(columns: Mapping[str, str]) -> str | None:
            from batch_pipeline.definitions.partition import rows_of

            return rows_of(pipeline, wanted, columns)

        return condition


def _named(annotation: object) -> str:
    if isinstance(annotation, type):
        return f"{annotation.__module__}.{annotation.__qualname__}"
    return str(annotation)
