"""The step of ``NAME/batches``: what is sent, and is paid for."""

from urllib.parse import urlsplit

import dagster as dg

from batch_pipeline.batches.live import AskedLive, ask_live, end_asking
from batch_pipeline.batches.reconcile import reconcile
from batch_pipeline.batches.send import Sent, send, waiting_files
from batch_pipeline.definitions import metadata
from batch_pipeline.definitions.assets.look import may_send
from batch_pipeline.definitions.assets.step import step
from batch_pipeline.definitions.budget import caps_of
from batch_pipeline.definitions.resources import ClaudeBatches
from batch_pipeline.definitions.variants import left_unsent, with_earlier
from batch_pipeline.errors import counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.requests.budget import weigh_the_rest
from batch_pipeline.store.budget import Caps
from batch_pipeline.store.budget import approve as let_through
from batch_pipeline.store.deadlines import asking_files, deadlines
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint, Scope
from batch_pipeline.store.variants import asked_by

PUBLIC_API = "api.anthropic.com"

WAY_ON = (
    "`batch-pipeline held {name}` has the figures; `batch-pipeline held {name} --release`, or {name}_send with "
    "approve: true, lets it through once. It goes on by itself when it fits: the cap is raised, or a cap on the month turns with it"
)


def materialize(
    context: dg.AssetExecutionContext, pipeline: BatchPipeline, *, approve: bool = False
) -> dg.MaterializeResult:
    """Send the request files that are ready, after settling attempts whose reply was lost.

    Args:
        context: the step's.
        pipeline: whose files.
        approve: let the submissions through, once, that a cap holds back.
    """
    with step(context, pipeline) as (store, claude, api, scopes):
        reports: list[Sent] = []
        asked: list[AskedLive] = []
        if waiting := left_unsent(store, pipeline):
            context.log.warning(f"{waiting}.")
        for scope in with_earlier(store, scopes):
            for line in reconcile(store, api, scope, claude.policy).lines:
                context.log.warning(line)
            if scope not in scopes:
                # Of a variant that is not declared (any more): nothing of it is sent, or asked live.
                end_asking(store, api, scope, claude.policy, context.log.info)
                continue
            if not may_send(context, store, api, pipeline, scope):
                caps = caps_of(pipeline, claude, store.clock.now())
                asked.append(asked_live(store, claude, pipeline, scope, caps, context, begin=False))
                waiting = waiting_files(store, scope)
                reports.append(Sent(waiting=waiting, reason="the table cannot be looked at"))
                continue
            weigh_the_rest(store, scope, context.log.warning)
            if approve:
                by = f"run {context.run.run_id} with approve: true"
                for one in let_through(store, pipeline.name, by, scope.partition):
                    context.log.warning(f"Let through once: {one.reason}")
            caps = caps_of(pipeline, claude, store.clock.now())
            late = asked_live(store, claude, pipeline, scope, caps, context)
            asked.append(late)
            if late.refused:
                raise dg.Failure(
                    description=late.refused,
                    metadata=metadata.of_batches(reports, asked=asked),
                    allow_retries=False,
                )
            hours = pipeline.sending_hours
            report = send(store, api, scope, claude.policy, context.log.info, caps, hours)
            reports.append(report)
            for line in report.trouble:
                context.log.warning(line)
            context.log.info(
                f"{asked_by(scope.variant)}{counted(len(report.batches), 'batch', 'batches')} sent with "
                f"{counted(report.requests, 'request')}; "
                f"{counted(report.waiting, 'file')} waiting ({report.reason})"
            )
            for line in report.over_budget:
                context.log.warning(f"Not sent: {line}. {WAY_ON.format(name=pipeline.name)}")
            if report.refused:
                raise dg.Failure(
                    description=report.refused,
                    metadata=metadata.of_batches(reports),
                    allow_retries=False,
                )
        console = console_of(scopes[0].endpoint)
    return dg.MaterializeResult(metadata=metadata.of_batches(reports, console, asked))


def asked_live(
    store: Store,
    claude: ClaudeBatches,
    pipeline: BatchPipeline,
    scope: Scope,
    caps: Caps,
    context: dg.AssetExecutionContext,
    *,
    begin: bool = True,
) -> AskedLive:
    """Ask what is late in a scope live, where the pipeline says so.

    Args:
        store: where the files and the ledger are.
        claude: the endpoint.
        pipeline: whose files.
        scope: which of them.
        caps: what may be spent.
        context: the step's.
        begin: ask also what no run has begun to ask.
    """
    by = pipeline.deadline
    live = by is not None and by.late == "live"
    if not live and not asking_files(store, pipeline.name, scope.endpoint.id):
        return AskedLive()
    wanted = deadlines(store, pipeline.name, by.due) if by is not None and live else None
    asked = ask_live(
        store, claude.api, scope, claude.policy, wanted, caps, tell=context.log.info, begin=begin
    )
    for line in asked.trouble:
        context.log.warning(line)
    for line in asked.over_budget:
        context.log.warning(f"Not asked live: {line}.")
    if asked.replies or asked.lost or asked.left:
        context.log.info(
            f"{asked_by(scope.variant)}{counted(asked.replies, 'late record')} asked live, at full price; "
            f"{asked.lost:,} without a known reply, {asked.left:,} left to a later run"
        )
    return asked


def console_of(endpoint: Endpoint) -> str | None:
    """Return the page of the Console that lists an endpoint's batches; None: it is not the public API."""
    if urlsplit(endpoint.base_url).hostname != PUBLIC_API:
        return None
    return f"https://platform.claude.com/workspaces/{endpoint.workspace or 'default'}/batches"
