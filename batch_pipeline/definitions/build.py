"""From declared pipelines to Dagster definitions."""

from weakref import WeakKeyDictionary

import dagster as dg

from batch_pipeline.definitions.arrivals.sensor import build_arrivals_sensor
from batch_pipeline.definitions.assets.define import build_assets
from batch_pipeline.definitions.jobs import build_jobs, build_schedule
from batch_pipeline.definitions.probe import build_probe
from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
from batch_pipeline.definitions.status.sensor import build_status_sensor
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline

# By the op that computes an asset: merging, binding resources and changing specs keep it, and no
# metadata of the user's assets is needed for it.
_PIPELINES: WeakKeyDictionary[dg.OpDefinition, BatchPipeline] = WeakKeyDictionary()


def build_definitions(
    *pipelines: BatchPipeline, claude: ClaudeBatches | None = None, store: BatchStore | None = None
) -> dg.Definitions:
    """Return the assets, jobs, schedules, sensors and checks of any number of pipelines. Does no I/O.

    Args:
        *pipelines: what to define.
        claude: the resource for every ``claude_key`` of the pipelines; None when the project
            defines it elsewhere and merges.
        store: the same for ``store_key``.

    Raises:
        InputError: two pipelines have the same name.
    """
    names = [pipeline.name for pipeline in pipelines]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"Two pipelines are named {', '.join(twice)}; each needs a name of its own in the store."
        )
    resources: dict[str, object] = {}
    assets, jobs, schedules, sensors = [], [], [], []
    interval = claude.poll_interval_seconds if claude is not None else None
    for pipeline in pipelines:
        stages = build_assets(pipeline)
        _PIPELINES.update({stage.op: pipeline for stage in stages})
        assets += stages
        own = build_jobs(pipeline)
        jobs += [*own, build_probe(pipeline)]
        sensors.append(build_status_sensor(pipeline, own, interval))
        if (arrivals := build_arrivals_sensor(pipeline, own[0])) is not None:
            sensors.append(arrivals)
        schedule = build_schedule(pipeline, own[0])
        if schedule is not None:
            schedules.append(schedule)
        if claude is not None:
            resources[pipeline.claude_key] = claude
        if store is not None:
            resources[pipeline.store_key] = store
    return dg.Definitions(
        assets=assets, jobs=jobs, schedules=schedules, sensors=sensors, resources=resources
    )


def pipeline_of(asset: object) -> BatchPipeline | None:
    """Return the pipeline that an asset is a stage of, if it is one of ours."""
    if not isinstance(asset, dg.AssetsDefinition) or not asset.is_executable:
        return None
    return _PIPELINES.get(asset.node_def) if isinstance(asset.node_def, dg.OpDefinition) else None
