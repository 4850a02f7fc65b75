"""The jobs of a pipeline and the schedule of its nights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from batch_pipeline.definitions.assets.define import APPROVE_SAID, ASK_SAID
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

    sending = (
        "Sends what is ready or due, after reconciling attempts whose reply was lost. Run config: "
    )
    if pipeline.partitions is None:
        sending += "approve, which lets through what a budget held."
        send = {"config": _send_mapping(_op(pipeline, "batches"))}
    else:
        sending += f"ops: {{{_op(pipeline, 'batches')}: {{config: {{approve}}}}}}, which lets through what a budget held."
        send = {}
    submit = ("records", "requests", "batches")
    description = (
        "Selects what needs an answer, builds the requests and sends them; ends when all is sent "
        "or the queue's room is used up. Run config: "
    )
    if pipeline.partitions is None:
        description += "limit, where, force, allow_reask."
        ask = {"config": _ask_mapping(_records_op(pipeline))}
    else:
        # Dagster takes no config mapping for a partitioned job.
        description += (
            f"ops: {{{_records_op(pipeline)}: {{config: {{limit, where, force, allow_reask}}}}}}."
        )
        ask = {}
    return [
        job("submit", description, submit, **ask),
        job("send", sending, ["batches"], **send),
        job(
            "collect",
            "Collects what has ended and brings the results table up to date"
            f"{', and the scores' if pipeline.compared is not None else ''}.",
            ["results", *(["scores"] if pipeline.compared is not None else [])],
        ),
    ]


def ask_config(pipeline: BatchPipeline, **ask: Any) -> dict[str, Any]:
    """Return the run config of ``NAME_submit`` for a partial ask, with partitions or without."""
    return {"ops": {_records_op(pipeline): {"config": ask}}}


def asks_all(pipeline: BatchPipeline, run_config: Mapping[str, Any]) -> bool:
    """Return whether a run of ``NAME_submit`` with this config asks all that needs an answer."""
    ops: Any = run_config.get("ops") or {}
    own = (ops.get(_records_op(pipeline)) or {}).get("config") or {}
    ask = {**run_config, **own}
    return ask.get("limit") is None and not ask.get("where") and not ask.get("retries_only")


def _records_op(pipeline: BatchPipeline) -> str:
    return _op(pipeline, "records")


def _op(pipeline: BatchPipeline, stage: str) -> str:
    return pipeline.op_options(stage)["name"]


_LONG_FORM = {
    "ops": dg.Field(
        dg.Permissive(), is_required=False, description="Dagster's long form of the same."
    ),
    **{
        name: dg.Field(
            dg.Permissive(), is_required=False, description="As in any job: passed on as it is."
        )
        for name in ("resources", "execution", "loggers")
    },
}


def _with_op(config: Mapping[str, Any], op: str, short: Mapping[str, Any]) -> dict[str, Any]:
    """Return Dagster's run config for the short form of an op's; the long form goes before it."""
    long = {name: config[name] for name in _LONG_FORM if name in config}
    ops = dict(long.pop("ops", {}))
    own = dict(ops.pop(op, {}).get("config", {}))
    return {"ops": {op: {"config": {**short, **own}}, **ops}, **long}


def _send_mapping(batches_op: str) -> dg.ConfigMapping:
    """Let the send job take ``{approve}``, without Dagster's way to the op around it."""

    def to_ops(config: Mapping[str, Any]) -> dict[str, Any]:
        return _with_op(config, batches_op, {"approve": config["approve"]})

    return dg.ConfigMapping(
        config_fn=to_ops,
        config_schema={
            "approve": dg.Field(
                bool,
                is_required=False,
                default_value=False,
                description=APPROVE_SAID,
            ),
            **_LONG_FORM,
        },
    )


def _ask_mapping(records_op: str) -> dg.ConfigMapping:
    """Let the submit job take ``{limit, where, force, allow_reask}``, without Dagster's way to the op around it."""

    def to_ops(config: Mapping[str, Any]) -> dict[str, Any]:
        ask = {name: value for name, value in config.items() if name not in _LONG_FORM}
        return _with_op(config, records_op, ask)

    return dg.ConfigMapping(
        config_fn=to_ops,
        config_schema={
            "limit": dg.Field(dg.Noneable(int), is_required=False, description=ASK_SAID["limit"]),
            "where": dg.Field(dg.Noneable(str), is_required=False, description=ASK_SAID["where"]),
            **{
                name: dg.Field(
                    bool, is_required=False, default_value=False, description=ASK_SAID[name]
                )
                for name in ("force", "retries_only", "allow_reask")
            },
            **_LONG_FORM,
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

    def requests(
        context: dg.ScheduleEvaluationContext,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        keys = _due(pipeline, context)
        if not keys:
            yield dg.SkipReason("there is no partition to ask about yet")
        for key in keys:
            # Dagster wants run keys where a tick asks for several runs: one is used once, at one tick.
            run_key = f"{context.scheduled_execution_time.isoformat()} {key}" if key else None
            yield dg.RunRequest(run_key=run_key, partition_key=key)

    return dg.ScheduleDefinition(
        name=f"{pipeline.name}_nightly",
        job=submit,
        cron_schedule=nightly.cron,
        execution_timezone=nightly.timezone,
        execution_fn=requests,
        default_status=nightly.status,
        description=f"Asks every night what needs an answer ({nightly.cron}, {nightly.timezone}).",
    )


def _due(pipeline: BatchPipeline, context: dg.ScheduleEvaluationContext) -> Sequence[str | None]:
    """Return the partitions that a tick asks about: of time windows the last that has ended."""
    if pipeline.partitions is None:
        return [None]
    from batch_pipeline.definitions.partition import is_dynamic, last_ended

    moment = context.scheduled_execution_time
    store = context.instance if is_dynamic(pipeline) else None
    keys = pipeline.partitions.get_partition_keys(
        current_time=moment, dynamic_partitions_store=store
    )
    due = last_ended(pipeline, keys, moment)
    return keys if due is None else due
