"""The step of ``NAME/requests``: what will be asked."""

from contextlib import closing

import dagster as dg

from batch_pipeline.definitions import metadata
from batch_pipeline.definitions.assets.step import count_rows, step
from batch_pipeline.errors import counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.prepare import Pricing, prepare
from batch_pipeline.results.question import Question
from batch_pipeline.store.variants import asked_by


def materialize(context: dg.AssetExecutionContext, pipeline: BatchPipeline) -> dg.MaterializeResult:
    """Build the request files of what was selected."""
    with (
        step(context, pipeline, offline=True) as (store, claude, _api, scopes),
        # To count tokens is worth a moment, and no night.
        closing(claude.api(patient=False)) as counter,
    ):
        reports = []
        for scope in scopes:
            request = pipeline.as_asked(scope.variant).request
            named = counter.with_betas(request.betas)
            api = named if claude.dry_run else None
            pricing = Pricing(pipeline.prices, named.count_tokens, api=api)
            report = prepare(
                store,
                scope,
                lambda columns, request=request: compile_question(
                    request, columns, pipeline.output_prefix
                ),
                claude.limits,
                lambda compiled: Question(
                    compiled.output,
                    pipeline.output_prefix,
                    compiled.tool_calls,
                    pipeline.prices,
                    compiled.citations,
                    compiled.thinking,
                ).to_store(),
                context.log.info,
                pricing,
            )
            reports.append(report)
            if report.abandoned:
                numbers = ", ".join(map(str, report.abandoned))
                context.log.info(
                    "Selected for an earlier version of the question, and dropped before "
                    f"anything was sent: submission {numbers}. What needs an answer is "
                    "selected afresh."
                )
            usd = report.estimate.line
            context.log.info(
                f"{asked_by(scope.variant)}{counted(report.requests, 'request')} in {counted(report.files, 'file')}, "
                f"{report.bytes:,} bytes; "
                f"{counted(report.rejected, 'record')} rejected; estimated cost {usd}"
            )
            if report.estimate.cache_by is not None:
                context.log.info(report.estimate.cache_by.line)
            if report.uncached:
                context.log.warning(report.uncached)
            if report.version_changed:
                context.log.warning(
                    f"{report.version_changed:,} records whose content did not change are asked again because the "
                    f"question changed (prompt, system, model, output or params); estimated cost {usd}. Set "
                    'refresh="new", or MessageTemplate(version=...), to keep their answers.'
                )
    count_rows(context, pipeline, scopes, [report.requests for report in reports])
    return dg.MaterializeResult(metadata=metadata.of_requests(reports))
