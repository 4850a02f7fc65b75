"""The four assets of a pipeline, defined. Each reads the ledger and does what is left to do; none waits.

What a step does is imported when it runs: a code location that only defines assets loads no database
and no SDK.
"""

import warnings
from typing import Any

import dagster as dg

from batch_pipeline.definitions.assets.checks import check_specs
from batch_pipeline.definitions.load import loader_key, loader_of
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.sources import DuckDBSource, ParquetSource
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset


class AskConfig(dg.Config):
    """What one submit run asks for."""

    limit: int | None = None
    where: str | None = None
    force: bool = False
    retries_only: bool = False
    allow_reask: bool = False


class SendConfig(dg.Config):
    """What one send run does besides sending."""

    approve: bool = False


def build_assets(pipeline: BatchPipeline) -> list[dg.AssetsDefinition]:
    """Return the assets of a pipeline, in the order in which data flows."""
    return [_records(pipeline), _requests(pipeline), _batches(pipeline), _results(pipeline)]


def _records(pipeline: BatchPipeline) -> dg.AssetsDefinition:
    upstream = [dg.AssetKey.from_coercible(key) for key in pipeline.upstream]
    spec = _spec(
        pipeline, "records", f"What needs an answer tonight, out of {_source_shown(pipeline.source)}: new, changed "
        "and retryable records, and nothing else.", upstream,
        {"duckdb" if isinstance(pipeline.source, DuckDBSource) else "parquet"},
    )  # fmt: skip

    def records(context: dg.AssetExecutionContext, config: AskConfig) -> dg.MaterializeResult:
        from batch_pipeline.definitions.assets.records import materialize
        from batch_pipeline.records.selection import Ask

        ask = Ask(**{name: getattr(config, name) for name in type(config).model_fields})
        return materialize(context, pipeline, ask)

    return _define(pipeline, "records", spec, records)


def _requests(pipeline: BatchPipeline) -> dg.AssetsDefinition:
    spec = _spec(
        pipeline, "requests", f"What will be asked: one request a record for {pipeline.request.model}, in files cut at "
        "the API's limits.", [pipeline.asset_key("records")], {"anthropic"},
    )  # fmt: skip

    def requests(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from batch_pipeline.definitions.assets.requests import materialize

        return materialize(context, pipeline)

    return _define(pipeline, "requests", spec, requests)


def _batches(pipeline: BatchPipeline) -> dg.AssetsDefinition:
    spec = _spec(
        pipeline, "batches", "What was sent and is paid for: each request file once. The status sensor watches the "
        "batches; nothing waits in a run.", [pipeline.asset_key("requests")], {"anthropic"},
    )  # fmt: skip

    def batches(context: dg.AssetExecutionContext, config: SendConfig) -> dg.MaterializeResult:
        from batch_pipeline.definitions.assets.batches import materialize

        return materialize(context, pipeline, approve=config.approve)

    return _define(pipeline, "batches", spec, batches)


def _results(pipeline: BatchPipeline) -> dg.AssetsDefinition:
    kind = "duckdb" if isinstance(pipeline.destination, DuckDBTable) else "parquet"
    where = _destination_shown(pipeline.destination)
    spec = _spec(
        pipeline, "results", f"One row per record, with an answer or a reason, joined to its columns: {where}. "
        "The numbers are of one run; the row count is the table's.",
        [pipeline.asset_key("batches")], {kind},
    )  # fmt: skip

    def results(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from batch_pipeline.definitions.assets.results import materialize

        return materialize(context, pipeline)

    key = loader_key(pipeline)
    return _define(
        pipeline,
        "results",
        spec.with_io_manager_key(key),
        results,
        check_specs=check_specs(spec.key),
        resource_defs={key: loader_of(pipeline)},
    )


def _spec(
    pipeline: BatchPipeline, stage: str, description: str, deps: list[dg.AssetKey], kinds: set[str]
) -> dg.AssetSpec:
    spec = dg.AssetSpec(
        pipeline.asset_key(stage),
        deps=deps,
        description=description,
        group_name=pipeline.group_name or pipeline.name,
        tags=dict(pipeline.tags),
        kinds=kinds,
        partitions_def=pipeline.partitions,
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
            name=pipeline.asset_key(stage).to_python_identifier(),
            specs=[spec],
            required_resource_keys={pipeline.claude_key, pipeline.store_key},
            backfill_policy=pipeline.backfill_policy,
            **more,
        )(compute)


def _declared(value: str) -> str:
    """Show a string as it was declared: defining a pipeline reads no environment and no disk."""
    variable = getattr(value, "env_var_name", None)
    return f"${variable}" if variable else str(value)


def _source_shown(source: DuckDBSource | ParquetSource) -> str:
    if isinstance(source, ParquetSource):
        return f"Parquet files at {_declared(source.path)}"
    what = "a query" if source.table is None else f"table {_declared(source.table)}"
    return f"{what} in {_declared(source.database)}"


def _destination_shown(destination: DuckDBTable | ParquetDataset | None) -> str:
    if destination is None:
        return "Parquet under the store"
    if isinstance(destination, ParquetDataset):
        return f"Parquet dataset {_declared(destination.path)}"
    return f"table {_declared(destination.table)} in {_declared(destination.database)}"
