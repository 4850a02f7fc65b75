"""The step of ``NAME/batches``: what is sent, and is paid for."""

import dagster as dg

from batch_pipeline.batches.reconcile import reconcile
from batch_pipeline.batches.send import Sent, send, waiting_files
from batch_pipeline.definitions import metadata
from batch_pipeline.definitions.assets.look import may_send
from batch_pipeline.definitions.assets.step import step
from batch_pipeline.errors import counted
from batch_pipeline.pipeline import BatchPipeline


def materialize(context: dg.AssetExecutionContext, pipeline: BatchPipeline) -> dg.MaterializeResult:
    """Send the request files that are ready, after settling attempts whose reply was lost."""
    with step(context, pipeline) as (store, claude, api, scopes):
        reports = []
        for scope in scopes:
            for line in reconcile(store, api, scope, claude.policy).lines:
                context.log.warning(line)
            if not may_send(context, store, api, pipeline, scope):
                waiting = waiting_files(store, scope)
                reports.append(Sent(waiting=waiting, reason="the table cannot be looked at"))
                continue
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
