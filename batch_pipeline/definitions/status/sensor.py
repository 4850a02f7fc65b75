"""The sensor ``NAME_status``, defined; what a tick does is imported when it ticks."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from batch_pipeline.pipeline import BatchPipeline

UNKNOWN_SECONDS = 15  # between two ticks, where the resource that says how often is not known yet


def build_status_sensor(
    pipeline: BatchPipeline, jobs: Sequence[Any], interval_seconds: int | None
) -> dg.SensorDefinition:
    """Return the sensor ``NAME_status``.

    Args:
        pipeline: whose sensor it is.
        jobs: what it requests.
        interval_seconds: the resource's ``poll_interval_seconds``; None where the resource is defined
            elsewhere: it ticks often then, and looks as often as the resource says.
    """

    def status(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from batch_pipeline.definitions.status.tick import tick

        return tick(context, pipeline, UNKNOWN_SECONDS if interval_seconds is None else None)

    return dg.SensorDefinition(
        name=f"{pipeline.name}_status",
        evaluation_fn=status,
        jobs=list(jobs),
        minimum_interval_seconds=interval_seconds or UNKNOWN_SECONDS,
        default_status=pipeline.status_sensor,
        required_resource_keys={pipeline.claude_key, pipeline.store_key},
        description=(
            f"Watches the open batches of {pipeline.name}; sends what waited for room, reconciles lost replies, "
            "collects what has ended and asks failed records again."
        ),
    )
