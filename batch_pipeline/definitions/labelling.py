"""Labels that people give: what they are asked about, and what comes of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import duckdb

from batch_pipeline.definitions.rows import destination_of, earlier_names
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.requests.compiled import columns_of
from batch_pipeline.requests.label import Label
from batch_pipeline.results.compared import Compared, compare_rows, keep_labels
from batch_pipeline.results.join import MEMORY
from batch_pipeline.results.sample import Sample, read_labels, write_sample
from batch_pipeline.store.store import Store


@contextmanager
def compared(
    pipeline: BatchPipeline, store: Store
) -> Iterator[tuple[duckdb.DuckDBPyConnection, Label, Compared, str]]:
    """Give a connection with the table ``compared`` of a pipeline, its label, what is in it, and a scratch folder.

    Raises:
        InputError: the pipeline has no label, or no results yet.
    """
    if pipeline.compared is None:
        raise InputError(
            f'{pipeline.name} has no label. Declare which column holds the right answer, BatchPipeline(label="column"): '
            "the source need not have it yet, while people give the labels."
        )
    names = (pipeline.name, *earlier_names(pipeline))
    destination = destination_of(pipeline, store)
    with store.files.scratch() as folder, memory_connection(MEMORY) as con:
        label = pipeline.compared
        found = compare_rows(con, store, folder, destination, pipeline.source, label, names)
        yield con, label, found, folder


def write(
    pipeline: BatchPipeline,
    store: Store,
    how: Literal["stratified", "random"],
    number: int,
    path: str,
    *,
    answers: bool,
) -> Sample:
    """Write records to label to a CSV file; see ``write_sample``."""
    outputs = [f"{pipeline.output_prefix}{name}" for name, _ in columns_of(pipeline.request)]
    with compared(pipeline, store) as (con, label, found, folder):
        declared = [name for name in pipeline.by_variant if name in found.variants]
        return write_sample(
            con,
            folder,
            destination_of(pipeline, store),
            pipeline.source.keys,
            outputs,
            label,
            declared or found.variants,
            how,
            number,
            path,
            answers=answers,
        )


def read(pipeline: BatchPipeline, store: Store, path: str) -> tuple[int, list[str], str]:
    """Keep the labels of a CSV file; return how many, those that no answer has, and where they are."""
    with compared(pipeline, store) as (con, label, _, folder):
        count, strange = read_labels(
            con, pipeline.source.keys, label, path, f"{folder}/given.parquet"
        )
        if not count:
            return 0, [], ""
        name = keep_labels(store, pipeline.name, f"{folder}/given.parquet")
    return count, strange, store.files.url(name)
