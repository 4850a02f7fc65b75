"""The sensor ``NAME_status``, defined; what a tick does is imported when it ticks."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from batch_pipeline.pipeline import BatchPipeline


def build_status_sensor(
    pipeline: BatchPipeline, jobs: Sequence[Any], interval_seconds: int
) -> dg.SensorDefinition:
    """Return the sensor ``NAME_status``."""

    def status(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from batch_pipeline.definitions.status.tick import tick

        return tick(context, pipeline)

    return dg.SensorDefinition(
        name=f"{pipeline.name}_status",
        evaluation_fn=status,
        jobs=list(jobs),
        minimum_interval_seconds=interval_seconds,
        default_status=pipeline.status_sensor,
        required_resource_keys={pipeline.claude_key, pipeline.store_key},
        description=(
            f"Watches the open batches of {pipeline.name}; sends what waited for room, reconciles lost replies, "
            "collects what has ended and asks failed records again."
        ),
    )
