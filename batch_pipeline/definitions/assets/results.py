"""The step of ``NAME/results``: the answers, joined to their records."""

import logging
from contextlib import suppress
from functools import partial
from typing import Any

import dagster as dg
from sqlalchemy import RowMapping

from batch_pipeline.batches.poll import poll
from batch_pipeline.definitions import lineage, metadata
from batch_pipeline.definitions.assets.checks import accounted_for, cache_read, in_time
from batch_pipeline.definitions.assets.reports import reports
from batch_pipeline.definitions.assets.step import (
    count_rows,
    make_again,
    question_of,
    step,
    with_lost_files,
)
from batch_pipeline.definitions.assets.threshold_checks import threshold_results
from batch_pipeline.definitions.rows import destination_of, earlier_names, rows_in, statuses_in
from batch_pipeline.definitions.variants import table_keys, with_earlier
from batch_pipeline.errors import LostFileError, StoreError, counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.requests.label import agreed_columns
from batch_pipeline.results.account import account
from batch_pipeline.results.advice import Advice, advise
from batch_pipeline.results.cache_hits import cache_hits_of
from batch_pipeline.results.collect import Collected, collect, keep_answers, refused_alike
from batch_pipeline.results.compacting import compact
from batch_pipeline.results.escalated import escalation_of
from batch_pipeline.results.prune import prune
from batch_pipeline.results.publish import Published, publish
from batch_pipeline.results.retention import retention
from batch_pipeline.store.overdue import overdue, overdue_said
from batch_pipeline.store.store import Store
from batch_pipeline.store.variants import variant_of

log = logging.getLogger(__name__)


def materialize(context: dg.AssetExecutionContext, pipeline: BatchPipeline) -> dg.MaterializeResult:
    """Collect what has ended, and bring the table up to date."""
    with step(context, pipeline) as (store, claude, api, declared):
        scopes = with_earlier(store, declared)
        collected: list[Collected] = []
        try:
            make_again(context, store, api, pipeline)
        except LostFileError:
            # The API drops answers after a while, and whoever looks for a backup may take as long.
            poll(store, api, scopes[0].endpoint, claude.policy)
            for scope in scopes:
                keep_answers(store, api, scope, context.log.warning)
            raise
        poll(store, api, scopes[0].endpoint, claude.policy)
        today = question_of(pipeline)

        def collect_all() -> list[Collected]:
            found = [
                collect(store, api, scope, pipeline.max_attempts, context.log.info, today)
                for scope in scopes
            ]
            for line in (line for report in found for line in report.trouble):
                context.log.warning(line)
            return found

        collected += collect_all()
        if any(report.broken for report in collected):
            # What is in their way may be a file that is damaged in its middle. What could be collected is
            # published, also if it cannot be made again.
            with suppress(LostFileError):
                make_again(context, store, api, pipeline, thorough=True)
                for report in collected:
                    report.broken.clear()
                collected += collect_all()
        if refused := refused_alike(collected):
            context.log.error(refused)
        destination = destination_of(pipeline, store)

        def publish_all() -> Published:
            return publish(
                store,
                pipeline.name,
                destination,
                table_keys(pipeline, store),
                names=earlier_names(pipeline),
            )

        published = with_lost_files(context, store, api, pipeline, publish_all)
        if published.busy:
            context.log.info(
                "Another run is writing the table. What it does not take along, the next does."
            )
        if published.put_right:
            context.log.warning(
                f"Somebody changed {destination.describe()}: {published.put_right}. That is put right "
                "from the store's files, at no cost."
            )
        if staying := published.before.staying:
            context.log.warning(
                f"{counted(staying, 'record')} came back without an answer, and {destination.describe()} has answers "
                "to the same question about the same content, which the store does not know: it was restored, or "
                "another store's results are there. Those answers stay."
            )
        if broken := [line for report in collected for line in report.broken]:
            raise StoreError(
                f"Of the files that have ended, {len(broken)} cannot be collected: "
                f"{'; '.join(broken[:5])}. What could be collected is in the table. Bring the "
                "store's files back, or free its disk; it is tried again."
            )
        accounts = [
            with_lost_files(context, store, api, pipeline, partial(account, store, scope))
            for scope in scopes
        ]
        table = destination.columns()
        shown = metadata.of_results(
            collected,
            published,
            destination.describe(),
            list(table.items()),
            destination.row_count() if table else 0,
            metadata.sample_of(destination) if table else None,
            metadata.answers_said(pipeline.request, pipeline.output_prefix),
            statuses_in(destination) if table else None,
        )
        if refused:
            shown["why_rejected"] = refused
        shown |= metadata.place_of(destination)
        shown |= lineage.of_results(pipeline, lineage.last_asked(store, pipeline.name), table)
        if table and pipeline.partitions is not None:
            each = {scope.key: scope for scope in scopes}
            rows = [rows_in(pipeline, destination, key) for key in each]
            count_rows(context, pipeline, [*each.values()], rows)
        compact_index(store, pipeline.name)
        settled = [one for report in accounts for one in report.balanced_now]
        advice = metadata.of_advice(
            next(filter(None, (_advice(store, pipeline, one) for one in reversed(settled))), [])
        )
        partitions = [scope.partition for scope in scopes]
        # First what is read in the morning: Dagster shows it in this order.
        shown = reports(context, store, pipeline, settled, partitions) | advice | shown
        if pipeline.escalate is not None and (settled or collected):
            shown |= _escalated(store, pipeline)
        checked = threshold_results(store, scopes, pipeline)
        if pipeline.caches:
            hits = [cache_hits_of(store, scope) for scope in scopes]
            checked.append(cache_read([one for one in hits if one is not None]))
        late = ""
        if by := pipeline.deadline:
            found = overdue(store, pipeline.name, by.due, partitions)
            late = overdue_said(found, by)
            shown["records_late"] = sum(one.records for one in found)
            if late:
                context.log.warning(late)
        if store.keep_days is not None:
            _prune(context, store, pipeline, store.keep_days)
        kept = retention(store, pipeline.name)
        if kept.level != "fine":
            context.log.warning(kept.description)
    return dg.MaterializeResult(
        metadata=shown,
        check_results=[
            accounted_for(accounts, published.after, destination.describe(), late),
            dg.AssetCheckResult(**in_time(kept)),
            *checked,
        ],
    )


def compact_index(store: Store, pipeline: str) -> None:
    """Compact the index of a pipeline: that it is not is no reason for a run to fail."""
    try:
        compact(store, pipeline)
    except Exception:
        log.warning("The index of %s is not compacted.", pipeline, exc_info=True)


def _prune(
    context: dg.AssetExecutionContext, store: Store, pipeline: BatchPipeline, keep_days: int
) -> None:
    """Delete requests and answers that are older than they are kept; what hinders that fails no run."""
    try:
        found = prune(
            store, pipeline.name, keep_days, max_attempts=pipeline.max_attempts, wait_seconds=0.0
        )
    except Exception as error:
        context.log.warning(f"Old requests and answers were not deleted: {error}")
        return
    if found.files:
        context.log.info(
            f"{counted(found.files, 'file')} of requests and answers, older than {keep_days} days, deleted"
        )


def _escalated(store: Store, pipeline: BatchPipeline) -> dict[str, Any]:
    """Return what escalation came to: figures, which fail no run."""
    try:
        columns = agreed_columns(pipeline.request, pipeline.output_prefix)
        found = escalation_of(store, pipeline.name, columns)
    except Exception:
        log.warning("What escalation of %s came to is not known.", pipeline.name, exc_info=True)
        return {}
    shown: dict[str, Any] = {
        "escalated": found.escalated,
        "audited": found.audited,
        "audit": found.said,
    }
    if found.audited:
        shown["audit_agreement"] = found.agreed / found.audited
    if found.saved_usd is not None and found.usd is not None:
        shown |= {"saved_usd": found.saved_usd, "both_models_usd": found.usd}
    log.info("%s: %s", pipeline.name, found.said)
    return shown


def _advice(store: Store, pipeline: BatchPipeline, submission: RowMapping) -> list[Advice]:
    """Return what a settled submission shows that could be cheaper: advice, which fails no run."""
    try:
        request = pipeline.as_asked(variant_of(submission["partition"])).request
        return advise(store, request, pipeline.prices, submission, dedupe=pipeline.dedupe)
    except Exception:
        log.warning("There is no advice on %s.", pipeline.name, exc_info=True)
        return []
