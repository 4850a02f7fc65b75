"""The jobs of a pipeline and the schedule of its nights."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from batch_pipeline.pipeline import BatchPipeline

PIPELINE_TAG = "batch_pipeline/pipeline"


def build_jobs(pipeline: BatchPipeline) -> list[Any]:
    """Return ``NAME_submit``, ``NAME_send`` and ``NAME_collect``."""
    key = pipeline.asset_key

    def job(name: str, description: str, stages: Sequence[str], **more: Any):
        return dg.define_asset_job(
            f"{pipeline.name}_{name}",
            selection=dg.AssetSelection.assets(*(key(stage) for stage in stages)),
            description=description,
            tags={PIPELINE_TAG: pipeline.name, **pipeline.tags},
            executor_def=pipeline.executor or dg.in_process_executor,
            **more,
        )

    submit = ("records", "requests", "batches")
    records_op = "__".join([*pipeline.prefix, "records"])
    return [
        job(
            "submit",
            "Selects what needs an answer, builds the requests and sends them; ends when all is sent or the queue's "
            "room is used up. Run config: limit, where, force.",
            submit,
            config=_ask_mapping(records_op),
        ),
        job(
            "send",
            "Sends what is ready or due, after reconciling attempts whose reply was lost.",
            ["batches"],
        ),
        job(
            "collect",
            "Collects what has ended and brings the results table up to date.",
            ["results"],
        ),
    ]


def _ask_mapping(records_op: str) -> dg.ConfigMapping:
    """Let the submit job take ``{limit, where, force}``, without Dagster's way to the op around it."""

    def to_ops(config: Mapping[str, Any]) -> dict[str, Any]:
        ask = {name: value for name, value in config.items() if name != "ops"}
        given = dict(config.get("ops", {}))
        own = dict(given.pop(records_op, {}).get("config", {}))
        return {"ops": {records_op: {"config": ask | own}, **given}}

    return dg.ConfigMapping(
        config_fn=to_ops,
        config_schema={
            "limit": dg.Field(
                dg.Noneable(int), is_required=False, description="Ask at most this many records."
            ),
            "where": dg.Field(
                dg.Noneable(str),
                is_required=False,
                description="A SQL condition on the source's columns.",
            ),
            "force": dg.Field(
                bool,
                is_required=False,
                default_value=False,
                description="Ask again even what is answered.",
            ),
            "retries_only": dg.Field(
                bool,
                is_required=False,
                default_value=False,
                description="Ask only what failed before.",
            ),
            "ops": dg.Field(
                dg.Permissive(), is_required=False, description="Dagster's long form of the same."
            ),
        },
    )


def build_schedule(pipeline: BatchPipeline, submit: Any) -> dg.ScheduleDefinition | None:
    """Return ``NAME_nightly``, if the pipeline has a schedule.

    A tick of a pipeline with time partitions asks for the last partition that is complete at that
    moment; a tick of one with other partitions asks for each of them.
    """
    nightly = pipeline.nightly
    if nightly is None:
        return None

    def requests(context: dg.ScheduleEvaluationContext):
        moment = context.scheduled_execution_time
        if pipeline.partitions is None:
            return [dg.RunRequest(run_key=None)]
        if isinstance(pipeline.partitions, dg.TimeWindowPartitionsDefinition):
            # The last window that has ended: a night asks about the day that is over.
            last = pipeline.partitions.get_last_partition_key(current_time=moment)
            keys = [last] if last else []
        else:
            keys = list(
                pipeline.partitions.get_partition_keys(dynamic_partitions_store=context.instance)
            )
        if not keys:
            return dg.SkipReason("there is no partition to ask about yet")
        return [dg.RunRequest(run_key=None, partition_key=key) for key in keys]

    return dg.ScheduleDefinition(
        name=f"{pipeline.name}_nightly",
        job=submit,
        cron_schedule=nightly.cron,
        execution_timezone=nightly.timezone,
        execution_fn=requests,
        default_status=nightly.status,
        description=f"Asks every night what needs an answer ({nightly.cron}, {nightly.timezone}).",
    )
