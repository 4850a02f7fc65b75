"""Our stages, as the runs of a pipeline's jobs call them, without the run around them.

Each is the whole step of its asset: checks, comparison with the table, account and metadata
included. What Dagster itself adds is measured apart (``overhead.py``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import dagster as dg

from batch_pipeline.definitions.assets import batches, records, requests, results
from batch_pipeline.records.selection import Ask
from benchmarks.meter import Meter
from benchmarks.night import Night
from benchmarks.pipeline import pipeline_of, resources_of


def submit(night: Night, meter: Meter) -> None:
    """Do what ``NAME_submit`` does."""
    pipeline = pipeline_of(night)
    with _context(night) as context:
        with meter.stage("records"):
            records.materialize(context, pipeline, Ask())
        with meter.stage("requests"):
            requests.materialize(context, pipeline)
        with meter.stage("batches"):
            batches.materialize(context, pipeline)


def collect(night: Night, meter: Meter) -> None:
    """Do what ``NAME_collect`` does."""
    pipeline = pipeline_of(night)
    with _context(night) as context, meter.stage("results"):
        results.materialize(context, pipeline)


@contextmanager
def _context(night: Night) -> Iterator[dg.AssetExecutionContext]:
    """Give what a step is called with, without a run."""
    claude, store = resources_of(night)
    with dg.build_asset_context(resources={"claude": claude, "store": store}) as context:
        yield cast(dg.AssetExecutionContext, context)
