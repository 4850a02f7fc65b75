"""The four assets of a pipeline. Each reads the ledger and does what is left to do; none waits."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import dagster as dg
import duckdb

from batch_pipeline.batches.api import ApiUnavailable, BatchesApi
from batch_pipeline.batches.poll import poll
from batch_pipeline.batches.reconcile import reconcile
from batch_pipeline.batches.send import send
from batch_pipeline.definitions import lineage, metadata
from batch_pipeline.definitions.failures import as_failures
from batch_pipeline.definitions.load import destination_of, loader_key, loader_of, rows_in
from batch_pipeline.definitions.partition import filter_of, partitions_of
from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
from batch_pipeline.errors import HeldError, InputError, StoreError, counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.selection import Ask
from batch_pipeline.records.sources import DuckDBSource, ParquetSource
from batch_pipeline.records.submission import SelectedSubmission, select_submission
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.prepare import prepare
from batch_pipeline.results.account import Account, account
from batch_pipeline.results.collect import collect
from batch_pipeline.results.duckdb_table import DuckDBTable
from batch_pipeline.results.join import Question
from batch_pipeline.results.parquet_dataset import ParquetDataset
from batch_pipeline.results.publish import publish
from batch_pipeline.results.rebuild import rebuild_lost
from batch_pipeline.results.retention import Retention, retention
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import (
    Endpoint,
    Scope,
    asked_elsewhere,
    know_endpoint,
    known_endpoints,
)

CHECK = "every_record_accounted_for"
RETENTION_CHECK = "answers_fetched_in_time"
SAMPLE_ROWS = 5


class AskConfig(dg.Config):
    """What one submit run asks for."""

    limit: int | None = None
    where: str | None = None
    force: bool = False
    retries_only: bool = False


def build_assets(pipeline: BatchPipeline) -> list[dg.AssetsDefinition]:
    """Return the assets of a pipeline, in the order in which data flows."""
    return [_records(pipeline), _requests(pipeline), _batches(pipeline), _results(pipeline)]


@contextmanager
def _stage(
    context: dg.AssetExecutionContext, pipeline: BatchPipeline, *, offline: bool = False
) -> Iterator[tuple[Store, ClaudeBatches, BatchesApi, list[Scope]]]:
    """Give a step its store, its endpoint and the scopes it works on.

    Args:
        context: the step's.
        pipeline: whose step it is.
        offline: the step can do its work while the API does not answer, so that one bad minute
            does not cost the night; the sensor sees to the sending later.
    """
    claude: ClaudeBatches = getattr(context.resources, pipeline.claude_key)
    resource: BatchStore = getattr(context.resources, pipeline.store_key)
    with as_failures():
        store = resource.open()
        with closing(claude.api()) as api:
            endpoint = _identify(store, api, offline=offline)
            yield (
                store,
                claude,
                api,
                [Scope(pipeline.name, part, endpoint) for part in partitions_of(context)],
            )


def _identify(store: Store, api: BatchesApi, *, offline: bool) -> Endpoint:
    """Ask the API who it is; while it does not answer, an offline step goes by who it always was."""
    try:
        endpoint = api.identify()
    except ApiUnavailable:
        known = known_endpoints(store.ledger, api.base_url)
        if not offline or len(known) != 1:
            raise
        return known[0]
    know_endpoint(store.ledger, endpoint)
    return endpoint


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


def _records(pipeline: BatchPipeline) -> dg.AssetsDefinition:
    upstream = [dg.AssetKey.from_coercible(key) for key in pipeline.upstream]
    spec = _spec(
        pipeline, "records", f"What needs an answer tonight, out of {_source_shown(pipeline.source)}: new, changed "
        "and retryable records, and nothing else.", upstream,
        {"duckdb" if isinstance(pipeline.source, DuckDBSource) else "parquet"},
    )  # fmt: skip

    def records(context: dg.AssetExecutionContext, config: AskConfig) -> dg.MaterializeResult:
        ask = Ask(config.limit, config.where, config.force, config.retries_only)
        with _stage(context, pipeline, offline=True) as (store, _claude, api, scopes):
            if ask.limit is not None and ask.limit < 0:
                raise InputError(f"The limit of this run is {ask.limit}; it must be 0 or more.")
            _check_account(store, pipeline, scopes, ask)
            # What cannot be written is not asked for.
            destination_of(pipeline, store).check()
            selections = []
            for scope in scopes:

                def selected_in(scope: Scope) -> SelectedSubmission:
                    return select_submission(
                        store,
                        scope,
                        pipeline.source,
                        lambda columns: compile_question(
                            pipeline.request, columns, pipeline.output_prefix
                        ),
                        partition_filter=filter_of(pipeline, scope.partition),
                        refresh=pipeline.refresh,
                        max_attempts=pipeline.max_attempts,
                        on_deleted=pipeline.on_deleted,
                        ask=ask,
                    )

                try:
                    selected = selected_in(scope)
                except (duckdb.IOException, FileNotFoundError) as error:
                    # A file of an earlier night may be gone: its rows can be made again.
                    if not _make_again(context, store, api, pipeline):
                        raise StoreError(
                            f"{pipeline.name}: a file cannot be read: {error}. Bring it back, from "
                            "a backup if need be; nothing was sent or changed."
                        ) from error
                    selected = selected_in(scope)
                selections.append(selected.selection)
                context.log.info(
                    _selection_line(pipeline, scope, selected.number, selected.selection)
                )
        _count_rows(context, pipeline, scopes, [one.asked + one.reused for one in selections])
        columns = selections[-1].columns
        return dg.MaterializeResult(
            metadata=metadata.of_selection(selections, columns)
            | lineage.of_records(pipeline, [name for name, _ in columns])
        )

    return _define(pipeline, "records", spec, records)


def _count_rows(
    context: dg.AssetExecutionContext,
    pipeline: BatchPipeline,
    scopes: Sequence[Scope],
    rows: Sequence[int],
) -> None:
    """Say how many rows each partition of the step has, where there are partitions."""
    if pipeline.partitions is None:
        return
    for scope, count in zip(scopes, rows, strict=True):
        context.add_asset_metadata(
            {"dagster/partition_row_count": count}, partition_key=scope.partition
        )


def _check_account(
    store: Store, pipeline: BatchPipeline, scopes: Sequence[Scope], ask: Ask
) -> None:
    """Refuse to ask everything again for another account at the same address, unless that is wanted."""
    elsewhere = asked_elsewhere(store.ledger, scopes[0])
    if elsewhere is None or ask.force:
        return
    raise HeldError(
        f"{pipeline.name} was asked at {elsewhere}, and the API key now belongs to "
        f"{scopes[0].endpoint}. What was answered there does not count here, so everything would be "
        "asked and paid again; nothing was. Set ClaudeBatches(api_key=...) back to a key of that "
        f"workspace; what is open there is collected then. To ask all of it here, on purpose, launch "
        f"{pipeline.name}_submit once with force: true."
    )


def _make_again(
    context: dg.AssetExecutionContext, store: Store, api: BatchesApi, pipeline: BatchPipeline
) -> bool:
    """Make rows and index files that are gone from the store again; whether there were any."""
    done, failed = rebuild_lost(store, api, pipeline.name, pipeline.max_attempts)
    if done:
        context.log.warning(
            f"Of {counted(len(done), 'file')} the rows or the index were gone from the store; "
            f"they are made again from the kept answers: {', '.join(done[:5])}"
        )
    if failed:
        raise StoreError(
            f"{'; '.join(failed[:5])}. Bring the store's files back from a backup; nothing was "
            "sent or changed."
        )
    return bool(done)


def _selection_line(pipeline: BatchPipeline, scope: Scope, number: int, found) -> str:
    where = f"{pipeline.name} {scope.partition}".strip()
    if not found.source_rows:
        return f"{where}: the source has no rows. Nothing to ask."
    parts = {
        "new": found.new,
        "changed": found.changed,
        "asked anew because the question changed": found.version_changed,
        "to ask again": found.retried,
        "forced": found.forced,
    }
    known = {
        "answered earlier and published again at no cost": found.reused,
        "deleted": found.deleted,
        "on their way": found.in_flight,
        "settled": found.settled,
        "out of attempts": found.exhausted,
        "left out of this run": found.left_out,
    }
    asked = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count)
    rest = ", ".join(f"{count:,} {name}" for name, count in known.items() if count)
    head = f"{found.asked:,} of {counted(found.source_rows, 'record')} need an answer ({asked})" if found.asked else (
        f"nothing of {counted(found.source_rows, 'record')} needs an answer"
    )  # fmt: skip
    return f"{where}: {head}; {rest or 'no others'}." + (f" Submission {number}." if number else "")


def _requests(pipeline: BatchPipeline) -> dg.AssetsDefinition:
    spec = _spec(
        pipeline, "requests", f"What will be asked: one request a record for {pipeline.request.model}, in files cut at "
        "the API's limits.", [pipeline.asset_key("records")], {"anthropic"},
    )  # fmt: skip

    def requests(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with _stage(context, pipeline, offline=True) as (store, claude, _api, scopes):
            reports = []
            for scope in scopes:
                report = prepare(
                    store,
                    scope,
                    lambda columns: compile_question(
                        pipeline.request, columns, pipeline.output_prefix
                    ),
                    claude.limits,
                    lambda compiled: Question(compiled.output, pipeline.output_prefix).to_store(),
                    context.log.info,
                )
                reports.append(report)
                if report.abandoned:
                    numbers = ", ".join(map(str, report.abandoned))
                    context.log.info(
                        "Selected for an earlier version of the question, and dropped before "
                        f"anything was sent: submission {numbers}. What needs an answer is "
                        "selected afresh."
                    )
                usd = "unknown" if report.usd_max is None else f"at most ${report.usd_max:.4f}"
                context.log.info(
                    f"{counted(report.requests, 'request')} in {counted(report.files, 'file')}, "
                    f"{report.bytes:,} bytes; "
                    f"{counted(report.rejected, 'record')} rejected; estimated cost {usd}"
                )
                if report.version_changed:
                    context.log.warning(
                        f"{report.version_changed:,} records whose content did not change are asked again because the "
                        f"question changed (prompt, system, model, output or params); estimated cost {usd}. Set "
                        'refresh="new", or MessageTemplate(version=...), to keep their answers.'
                    )
        _count_rows(context, pipeline, scopes, [report.requests for report in reports])
        return dg.MaterializeResult(metadata=metadata.of_requests(reports))

    return _define(pipeline, "requests", spec, requests)


def _batches(pipeline: BatchPipeline) -> dg.AssetsDefinition:
    spec = _spec(
        pipeline, "batches", "What was sent and is paid for: each request file once. The status sensor watches the "
        "batches; nothing waits in a run.", [pipeline.asset_key("requests")], {"anthropic"},
    )  # fmt: skip

    def batches(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with _stage(context, pipeline) as (store, claude, api, scopes):
            reports = []
            for scope in scopes:
                for line in reconcile(store, api, scope, claude.policy).lines:
                    context.log.warning(line)
                report = send(store, api, scope, claude.policy, context.log.info)
                reports.append(report)
                for line in report.trouble:
                    context.log.warning(line)
                context.log.info(
                    f"{counted(len(report.batches), 'batch', 'batches')} sent with "
                    f"{counted(report.requests, 'request')}; "
                    f"{counted(report.waiting, 'file')} waiting ({report.reason})"
                )
                if report.refused:
                    raise dg.Failure(
                        description=report.refused,
                        metadata=metadata.of_batches(reports),
                        allow_retries=False,
                    )
        return dg.MaterializeResult(metadata=metadata.of_batches(reports))

    return _define(pipeline, "batches", spec, batches)


def _results(pipeline: BatchPipeline) -> dg.AssetsDefinition:
    kind = "duckdb" if isinstance(pipeline.destination, DuckDBTable) else "parquet"
    where = _destination_shown(pipeline.destination)
    spec = _spec(
        pipeline, "results", f"One row per record, with an answer or a reason, joined to its columns: {where}. "
        "The numbers are of one run; the row count is the table's.",
        [pipeline.asset_key("batches")], {kind},
    )  # fmt: skip
    check = dg.AssetCheckSpec(
        CHECK,
        asset=spec.key,
        blocking=True,
        description="Every record of every settled submission has exactly one row in the results.",
    )
    in_time = dg.AssetCheckSpec(
        RETENTION_CHECK,
        asset=spec.key,
        description="No paid answers come near the 29 days after which the API drops them.",
    )

    def results(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with _stage(context, pipeline) as (store, claude, api, scopes):
            collected, accounts = [], []
            _make_again(context, store, api, pipeline)
            poll(store, api, scopes[0].endpoint, claude.policy)
            for scope in scopes:
                report = collect(store, api, scope, pipeline.max_attempts, context.log.info)
                collected.append(report)
                for line in report.trouble:
                    context.log.warning(line)
            destination = destination_of(pipeline, store)
            published = publish(store, pipeline.name, destination, pipeline.source.keys)
            if published.busy:
                context.log.info(
                    "Another run is writing the table. What it does not take along, the next does."
                )
            if broken := [line for report in collected for line in report.broken]:
                raise StoreError(
                    f"Of the files that have ended, {len(broken)} cannot be collected: "
                    f"{'; '.join(broken[:5])}. What could be collected is in the table. Bring the "
                    "store's files back, or free its disk; it is tried again."
                )
            accounts = [account(store, scope) for scope in scopes]
            table = destination.columns()
            shown = metadata.of_results(
                collected,
                published,
                destination.describe(),
                list(table.items()),
                destination.row_count() if table else 0,
                destination.sample(SAMPLE_ROWS) if table else None,
                metadata.answers_said(pipeline.request, pipeline.output_prefix),
            )
            shown |= metadata.place_of(destination)
            shown |= lineage.of_results(pipeline, lineage.last_asked(store, pipeline.name), table)
            if table and pipeline.partitions is not None:
                rows = [rows_in(pipeline, destination, scope.partition) for scope in scopes]
                _count_rows(context, pipeline, scopes, rows)
            kept = retention(store, pipeline.name)
            if kept.level != "fine":
                context.log.warning(kept.description)
        return dg.MaterializeResult(
            metadata=shown,
            check_results=[_check_result(accounts), dg.AssetCheckResult(**retention_of(kept))],
        )

    key = loader_key(pipeline)
    return _define(
        pipeline,
        "results",
        spec.with_io_manager_key(key),
        results,
        check_specs=[check, in_time],
        resource_defs={key: loader_of(pipeline)},
    )


def retention_of(kept: Retention) -> dict[str, Any]:
    """Return what a check result or evaluation says of answers that wait at the API."""
    return {
        "check_name": RETENTION_CHECK,
        "passed": kept.level != "fail",
        "severity": dg.AssetCheckSeverity.ERROR
        if kept.level == "fail"
        else dg.AssetCheckSeverity.WARN,
        "description": kept.description,
        "metadata": {
            "batches_waiting": kept.waiting,
            "batches_lost": kept.lost,
            "oldest_days": kept.oldest_days,
        },
    }


def _check_result(accounts: list[Account]) -> dg.AssetCheckResult:
    failures = [line for one in accounts for line in one.failures]
    pending = sum(one.pending for one in accounts)
    numbers = {
        "submissions_compared": sum(one.settled for one in accounts),
        "records": sum(one.records for one in accounts),
        "missing": sum(one.missing for one in accounts),
        "unexpected": sum(one.unexpected for one in accounts),
        "doubled": sum(one.doubled for one in accounts),
        "pending": pending,
    }
    if failures:
        description = "; ".join(failures)
    elif pending:
        description = f"{counted(pending, 'request is', 'requests are')} still on their way; all that came back is accounted for."
    else:
        description = "Every record has exactly one row."
        if numbers["records"]:
            of = counted(numbers["submissions_compared"], "submission")
            description = f"{description[:-1]}: {counted(numbers['records'], 'record')} of {of}."
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not failures,
        severity=dg.AssetCheckSeverity.ERROR
        if failures or not pending
        else dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=numbers,
    )
