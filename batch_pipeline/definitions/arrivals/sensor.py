"""The sensor ``NAME_arrivals``, defined; what a tick does is imported when it ticks."""

from typing import Any

import dagster as dg

from batch_pipeline.errors import counted
from batch_pipeline.pipeline import BatchPipeline

INTERVAL_SECONDS = 30


def build_arrivals_sensor(pipeline: BatchPipeline, submit: Any) -> dg.SensorDefinition | None:
    """Return the sensor ``NAME_arrivals``, if the pipeline has arrivals."""
    arrivals = pipeline.arrivals_in_force
    if arrivals is None:
        return None

    def arrived(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from batch_pipeline.definitions.arrivals.tick import tick

        return tick(context, pipeline, arrivals)

    return dg.SensorDefinition(
        name=f"{pipeline.name}_arrivals",
        evaluation_fn=arrived,
        jobs=[submit],
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=arrivals.status,
        required_resource_keys={pipeline.claude_key, pipeline.store_key},
        description=(
            f"Asks what arrived: requests {pipeline.name}_submit when the source or an upstream asset "
            f"has changed and at least {counted(arrivals.min_records, 'record')} "
            f"{'needs' if arrivals.min_records == 1 else 'need'} an answer, at most once in "
            f"{arrivals.cooldown_minutes:g} min."
        ),
    )
