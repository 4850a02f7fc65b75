"""The four assets of a pipeline, defined. Each reads the ledger and does what is left to do; none waits.

What a step does is imported when it runs: a code location that only defines assets loads no database
and no SDK.
"""

import warnings
from typing import Any

import dagster as dg
from pydantic import Field

from batch_pipeline.definitions.assets.checks import check_specs
from batch_pipeline.definitions.assets.threshold_checks import threshold_specs
from batch_pipeline.definitions.freshness import freshness_of
from batch_pipeline.definitions.load import loader_key, loader_of
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.sources import ParquetSource, RequestFiles, ResultsSource, Source
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.scores import check_extra

ASK_SAID = {
    "limit": "Ask at most this many records, the first ones by key; the others stay for a later run.",
    "where": "A SQL condition over the source's columns, such as amount > 1000: other records are left alone.",
    "force": "Ask again even what is answered, and pay for it again; never what is on its way.",
    "retries_only": "Ask only what failed before.",
    "allow_reask": "Ask, even if that is most of an answered table over again.",
}
APPROVE_SAID = "Let the submissions through, once, that a budget holds."


class AskConfig(dg.Config):
    """What one submit run asks for."""

    limit: int | None = Field(None, description=ASK_SAID["limit"])
    where: str | None = Field(None, description=ASK_SAID["where"])
    force: bool = Field(False, description=ASK_SAID["force"])
    retries_only: bool = Field(False, description=ASK_SAID["retries_only"])
    allow_reask: bool = Field(False, description=ASK_SAID["allow_reask"])


class SendConfig(dg.Config):
    """What one send run does besides sending."""

    approve: bool = Field(False, description=APPROVE_SAID)


def build_assets(pipeline: BatchPipeline) -> list[dg.AssetsDefinition]:
    """Return the assets of a pipeline, in the order in which data flows."""
    specs = stage_specs(pipeline)
    found = [
        _records(pipeline, specs["records"]),
        _requests(pipeline, specs["requests"]),
        _batches(pipeline, specs["batches"]),
        _results(pipeline, specs["results"]),
    ]
    if SCORES in specs:
        check_extra()
        found.append(_scores(pipeline, specs[SCORES]))
    return found


STAGES = ("records", "requests", "batches", "results")
"""In the order in which data flows."""
SCORES = "scores"
"""What a pipeline with a label has besides."""


def stage_specs(pipeline: BatchPipeline) -> dict[str, dg.AssetSpec]:
    """Return the specs of a pipeline's assets by stage, as its ``asset_spec`` leaves them."""
    read = _read(pipeline)
    source = "duckdb" if hasattr(read, "database") else "parquet"
    if isinstance(read, RequestFiles):
        source = "json"
    destination = "duckdb" if isinstance(pipeline.destination, DuckDBTable) else "parquet"
    scores = {
        SCORES: _spec(
            pipeline, SCORES, f"How good the answers are, beside the column {pipeline.compared.column} and each other; the "
            "plots are of what the table held then.", [pipeline.asset_key("results")], {"parquet"},
        ).replace_attributes(skippable=True, partitions_def=None)
    } if pipeline.compared is not None else {}  # fmt: skip
    return scores | {
        "records": _spec(
            pipeline, "records", f"What needs an answer tonight, out of {_source_shown(pipeline.source)}: new, changed "
            "and retryable records, and nothing else.",
            pipeline.upstream_keys, {source}, freshness_policy=freshness_of(pipeline.nightly),
        ),
        "requests": _spec(
            pipeline, "requests", f"What will be asked: {_requests_shown(pipeline)}, in files cut "
            "at the API's limits.", [pipeline.asset_key("records")], {"anthropic"},
        ),
        "batches": _spec(
            pipeline, "batches", "What was sent and is paid for: each request file once. The status sensor watches the "
            "batches; nothing waits in a run.", [pipeline.asset_key("requests")], {"anthropic"},
        ),
        "results": _spec(
            pipeline, "results", f"One row per record{_and_variant(pipeline)}, with an answer or a reason, joined to its columns: "
            f"{_destination_shown(pipeline.destination)}. The numbers are of one run; the row count is the table's.",
            [pipeline.asset_key("batches")], {destination},
        ),
    }  # fmt: skip


def execute(
    context: dg.AssetExecutionContext, pipeline: BatchPipeline, stage: str
) -> dg.MaterializeResult | None:
    """Do the work of a stage: what its asset does when it is materialized."""
    given = context.op_execution_context.op_config or {}
    match stage:
        case "records":
            from batch_pipeline.definitions.assets.records import materialize
            from batch_pipeline.records.selection import Ask

            config = AskConfig(**given)
            ask = Ask(**{name: getattr(config, name) for name in type(config).model_fields})
            return materialize(context, pipeline, ask)
        case "requests":
            from batch_pipeline.definitions.assets.requests import materialize

            return materialize(context, pipeline)
        case "batches":
            from batch_pipeline.definitions.assets.batches import materialize

            return materialize(context, pipeline, approve=SendConfig(**given).approve)
        case "scores":
            from batch_pipeline.definitions.assets.scores import materialize

            must = context.job_name != f"{pipeline.name}_collect"
            return materialize(context, pipeline, must=must)
    from batch_pipeline.definitions.assets.results import materialize

    return materialize(context, pipeline)


def _execute(context: dg.AssetExecutionContext, pipeline: BatchPipeline, stage: str) -> Any:
    own = pipeline.execute_stage
    return execute(context, pipeline, stage) if own is None else own(context, stage)


def _records(pipeline: BatchPipeline, spec: dg.AssetSpec) -> dg.AssetsDefinition:
    def records(context: dg.AssetExecutionContext, config: AskConfig):
        return _execute(context, pipeline, "records")

    return _define(pipeline, "records", spec, records)


def _requests(pipeline: BatchPipeline, spec: dg.AssetSpec) -> dg.AssetsDefinition:
    def requests(context: dg.AssetExecutionContext):
        return _execute(context, pipeline, "requests")

    return _define(pipeline, "requests", spec, requests)


def _batches(pipeline: BatchPipeline, spec: dg.AssetSpec) -> dg.AssetsDefinition:
    def batches(context: dg.AssetExecutionContext, config: SendConfig):
        return _execute(context, pipeline, "batches")

    return _define(pipeline, "batches", spec, batches)


def _results(pipeline: BatchPipeline, spec: dg.AssetSpec) -> dg.AssetsDefinition:
    def results(context: dg.AssetExecutionContext):
        return _execute(context, pipeline, "results")

    key = loader_key(pipeline)
    return _define(
        pipeline,
        "results",
        spec.with_io_manager_key(key),
        results,
        check_specs=[
            *check_specs(spec.key, caches=pipeline.caches),
            *threshold_specs(spec.key, pipeline.thresholds),
        ],
        resource_defs={key: loader_of(pipeline)},
    )


def _scores(pipeline: BatchPipeline, spec: dg.AssetSpec) -> dg.AssetsDefinition:
    def scores(context: dg.AssetExecutionContext):
        made = _execute(context, pipeline, SCORES)
        if made is not None:
            yield made

    return _define(pipeline, SCORES, spec, scores)


def _spec(
    pipeline: BatchPipeline,
    stage: str,
    description: str,
    deps: list[dg.AssetKey],
    kinds: set[str],
    **more: Any,
) -> dg.AssetSpec:
    spec = dg.AssetSpec(
        pipeline.asset_key(stage),
        deps=deps,
        description=description,
        group_name=pipeline.group_name or pipeline.name,
        tags=dict(pipeline.tags),
        kinds=kinds,
        partitions_def=pipeline.partitions,
        metadata=declared_in(pipeline),
        **more,
    )
    if pipeline.asset_spec is None:
        return spec
    given = pipeline.asset_spec(spec)
    if given.key != spec.key:
        raise InputError(
            f"Pipeline {pipeline.name}: asset_spec gave {spec.key.to_user_string()} the key "
            f"{given.key.to_user_string()}. Jobs and sensors find the assets by their keys: set key_prefix instead."
        )
    return given


def _define(
    pipeline: BatchPipeline, stage: str, spec: dg.AssetSpec, compute, **more: Any
) -> dg.AssetsDefinition:
    with warnings.catch_warnings():
        # Giving an asset a resource of its own is "beta" in Dagster 1.13, for years now. A warning
        # would tell users of something that they did not do.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.multi_asset(
            specs=[spec],
            required_resource_keys={pipeline.claude_key, pipeline.store_key},
            backfill_policy=pipeline.backfill_policy if spec.partitions_def else None,
            **pipeline.op_options(stage),
            **more,
        )(compute)


def declared_in(pipeline: BatchPipeline) -> dict[str, Any]:
    """Return the metadata by which Dagster links to the lines that declare a pipeline, if Python does."""
    where = pipeline.declared_at
    if where is None:
        return {}
    path, line = where
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # as for resources, below
        reference = dg.LocalFileCodeReference(file_path=path, line_number=line, label=pipeline.name)
        return {
            "dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])
        }


def _declared(value: str) -> str:
    """Show a string as it was declared: defining a pipeline reads no environment and no disk."""
    variable = getattr(value, "env_var_name", None)
    return f"${variable}" if variable else str(value)


def _read(pipeline: BatchPipeline) -> Any:
    """Return the source, or the destination of another pipeline whose results are the source."""
    source = pipeline.source
    if isinstance(source, ResultsSource):
        return getattr(source.results, "destination", None)
    return source


def _source_shown(source: Source) -> str:
    if isinstance(source, ResultsSource):
        return f"the results of {source.name}"
    if isinstance(source, RequestFiles):
        return f"ready requests at {_declared(source.path)}"
    if isinstance(source, ParquetSource):
        return f"Parquet files at {_declared(source.path)}"
    what = "a query" if source.table is None else f"table {_declared(source.table)}"
    return f"{what} in {_declared(source.database)}"


def _requests_shown(pipeline: BatchPipeline) -> str:
    models = dict.fromkeys(one.request.model for one in pipeline.by_variant.values())
    return f"one request a record{_and_variant(pipeline)} for {' or '.join(models)}"


def _and_variant(pipeline: BatchPipeline) -> str:
    return "" if "" in pipeline.by_variant else f" and variant ({', '.join(pipeline.by_variant)})"


def _destination_shown(destination: DuckDBTable | ParquetDataset | None) -> str:
    if destination is None:
        return "Parquet under the store"
    if isinstance(destination, ParquetDataset):
        return f"Parquet dataset {_declared(destination.path)}"
    return f"table {_declared(destination.table)} in {_declared(destination.database)}"
