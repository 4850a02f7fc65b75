"""The code location of `make cluster`."""

import dagster as dg

from batch_pipeline import build_definitions
from batch_pipeline_tests.cluster.project import names, pipeline, resources, told

defs: dg.Definitions = build_definitions(
    *map(pipeline, names(int(told("PIPELINES", "5")))), **resources()
)
