"""One tick of the status sensor: looks at the endpoint, and requests the jobs that the ledger needs.

It is level-triggered. A wiped cursor, a failed run, a restart change nothing: what is needed is read
from the ledger on every tick, and runs carry no run key, so none can be burnt.
"""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import takewhile

import dagster as dg

from batch_pipeline.batches.clocks import put_right
from batch_pipeline.batches.poll import poll, share_poll
from batch_pipeline.batches.whose import expect, refusals_noted
from batch_pipeline.batches.whose import whose as ask_whose
from batch_pipeline.definitions.budget import caps_of
from batch_pipeline.definitions.jobs import PIPELINE_TAG, ask_config
from batch_pipeline.definitions.partition import known_partitions
from batch_pipeline.definitions.resources import KEY_VARIABLE, BatchStore, ClaudeBatches
from batch_pipeline.definitions.status.late import cancel_what_is_late, live_needs
from batch_pipeline.definitions.status.observations import evaluations, looked_at, observations
from batch_pipeline.definitions.variants import is_declared, left_unsent
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.results.retention import retention
from batch_pipeline.store.addresses import same_address
from batch_pipeline.store.clock import process_clock
from batch_pipeline.store.needs import Need, endpoints_at_work, needs
from batch_pipeline.store.overdue import overdue, overdue_said
from batch_pipeline.store.queue import hold_of
from batch_pipeline.store.refusals import forget_refusal, refusal_of
from batch_pipeline.store.renaming import take_over
from batch_pipeline.store.standing import standing
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.trouble import meaning_of
from batch_pipeline.store.unattended import unattended
from batch_pipeline.store.variants import partition_of

MOST_RUNS = 25  # a tick's run requests are submitted one by one within its 60 s
POLL_BUDGET_SECONDS = 25.0  # one call may take 15 s more, and a tick has 60 s in all
MOST_NAMED = 3
# A run that was killed hard stays "started" for ever unless run monitoring is on. All jobs may run
# beside one of their own, so after this long another one is requested.
STALE_RUN = timedelta(minutes=15)
BACK_OFF_MINUTES = 1
BACK_OFF_MOST_MINUTES = 60
MOST_UNDER_WAY = 1_000
UNDER_WAY = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
STAGES = {"send": "batches", "collect": "results", "retry": "batches"}
JOBS = {"send": "send", "collect": "collect", "retry": "submit"}

_WHOSE: dict[tuple[str, str, str], tuple[Endpoint, datetime]] = {}
"""Ledger, address and digest of the key; whose the key was, and when that was seen."""


def tick(
    context: dg.SensorEvaluationContext,
    pipeline: BatchPipeline,
    interval_seconds: int | None = None,
) -> dg.SensorResult:
    """Look at the endpoint; request the jobs that the ledger says are needed, and say how things stand.

    Args:
        context: the sensor's.
        pipeline: whose sensor ticks.
        interval_seconds: how often it ticks, when that is not what the resource says: the tick does
            nothing then before ``poll_interval_seconds`` have passed. None: it ticks as it should.
    """
    claude: ClaudeBatches = getattr(context.resources, pipeline.claude_key)
    if interval_seconds is not None:
        wait = _early(context, claude.poll_interval_seconds, interval_seconds)
        if wait is not None:
            return dg.SensorResult(skip_reason=dg.SkipReason(wait), cursor=context.cursor)
    resource: BatchStore = getattr(context.resources, pipeline.store_key)
    try:
        store = resource.open()
        take_over(
            store, pipeline.name, pipeline.renamed_from, republish=pipeline.destination is None
        )
        wanted, trouble = _look(store, claude, pipeline)
    except Exception as error:
        meant = error if isinstance(error, BatchPipelineError) else meaning_of(error)
        if meant is None:
            raise
        return dg.SensorResult(skip_reason=dg.SkipReason(str(meant)), cursor=context.cursor)
    requests, waiting = _choose(context.instance, pipeline, wanted, store.clock.now())
    stands = standing(store, pipeline.name)
    cursor, events = observations(store, pipeline, context.cursor, stands)
    said = [stands.line(store.clock.now()), *_requested(requests), *trouble, *waiting]
    if stands.ready and not _may_send(pipeline, store.clock.now()):
        said.append(f"What is ready is sent between {pipeline.sending_hours}")
    if by := pipeline.deadline:
        said += filter(None, [overdue_said(overdue(store, pipeline.name, by.due), by)])
    kept = retention(store, pipeline.name)
    if kept.level != "fine":
        said.append(kept.description)
    said += filter(None, [left_unsent(store, pipeline)])
    said += _codeless(context, store, pipeline)
    cursor, evaluated = evaluations(pipeline, kept, store.clock.now(), context.cursor, cursor)
    message = ". ".join(part.rstrip(".") for part in said)
    context.log.info(message)
    return dg.SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else dg.SkipReason(message),
        asset_events=[*events, *evaluated],
        cursor=cursor,
    )


def _early(
    context: dg.SensorEvaluationContext, wanted_seconds: int, interval_seconds: int
) -> str | None:
    """Return why it is too early for a look; None when it is time, or nobody knows when the last was."""
    last, now = looked_at(context.cursor), process_clock().now().timestamp()
    # A tick is never quite on time: the one that is nearest to the moment looks.
    if last is None or not 0 <= now - last < wanted_seconds - interval_seconds / 2:
        return None
    return (
        f"The last look was {now - last:.0f} s ago, and poll_interval_seconds is {wanted_seconds}"
    )


def _codeless(
    context: dg.SensorEvaluationContext, store: Store, pipeline: BatchPipeline
) -> list[str]:
    """Say, in a sentence, which pipelines of the store nobody looks after while work of theirs is open."""
    repository = context.repository_def
    names = set() if repository is None else {one.name for one in repository.sensor_defs}
    names.add(f"{pipeline.name}_status")
    found = unattended(store, lambda name: f"{name}_status" in names)
    if not found:
        return []
    shown = ", ".join(f"{one.pipeline} ({one.what})" for one in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return [
        f"No sensor looks after {shown}{more}: bring the code back, or run `batch-pipeline collect "
        f"{found[0].pipeline}`"
    ]


def _look(
    store: Store, claude: ClaudeBatches, pipeline: BatchPipeline
) -> tuple[list[Need], list[str]]:
    """Poll the endpoint in force; return what is needed there, and what there is to say about it.

    Nothing is needed of an API that does not answer or refuses the key: a run would only fail.
    """
    put_right(store.ledger)
    known = endpoints_at_work(store, pipeline.name, escalates=pipeline.escalate is not None)
    here = [endpoint for endpoint in known if same_address(endpoint.base_url, claude.addresses)]
    said = [
        f"What was sent to {endpoint} is left alone while base_url is {claude.url}"
        for endpoint in known
        if endpoint not in here
    ]
    if not here:
        if refusal_of(store.ledger, pipeline.name) is not None:
            said += _look_again(store, claude, pipeline)
        return _needs(store, pipeline, None, claude), said
    endpoint, now = here[0], store.clock.now()
    try:
        with (
            closing(claude.api(patient=False)) as api,
            refusals_noted(store, api, pipeline.name),
        ):
            expect(api, here)
            whose = _whose_key(store, claude, now)
            if len(here) > 1:
                endpoint = whose = whose or _remember(store, claude, ask_whose(store, api), now)
            if share_poll(store, endpoint, pipeline.name, claude.poll_interval_seconds):
                found = poll(
                    store, api, endpoint, claude.policy, pipeline.name, POLL_BUDGET_SECONDS
                )
                said += found.notes
                if found.list_calls:  # it reads no other account's list
                    whose = _remember(store, claude, endpoint, now)
            caps = caps_of(pipeline, claude, now)
            said += cancel_what_is_late(store, api, pipeline, endpoint, caps)
            wanted = _needs(store, pipeline, endpoint, claude)
            live, over = live_needs(store, pipeline, endpoint, caps)
            said += over
            asked = {(one.job, one.partition) for one in wanted}
            wanted += [one for one in live if (one.job, one.partition) not in asked]
            # A run works for the account that the key belongs to: for another one it would find
            # nothing to do, at every tick again.
            if wanted and whose is None:
                whose = _remember(store, claude, ask_whose(store, api), now)
            if wanted and whose != endpoint:
                said.append(
                    f"What was sent to {endpoint} is left alone while the key belongs to {whose}"
                )
                wanted = _needs(store, pipeline, None, claude)
            if whose is not None:
                forget_refusal(store.ledger, pipeline.name, _WHOSE[_key(store, claude)][1])
    except BatchPipelineError as error:
        return [], [*said, str(error)]
    if reason := hold_of(store.ledger, pipeline.name, endpoint):
        said.append(f"Nothing is sent: {reason}")
    return wanted, said


def _look_again(store: Store, claude: ClaudeBatches, pipeline: BatchPipeline) -> list[str]:
    """Look whether the API takes a key that it refused, while nothing is on its way; return what it says if not."""
    try:
        with (
            closing(claude.api(patient=False)) as api,
            refusals_noted(store, api, pipeline.name),
        ):
            _remember(store, claude, ask_whose(store, api), store.clock.now())
    except BatchPipelineError as error:
        return [str(error)]
    forget_refusal(store.ledger, pipeline.name)
    return []


def _needs(
    store: Store, pipeline: BatchPipeline, endpoint: Endpoint | None, claude: ClaudeBatches
) -> list[Need]:
    return needs(
        store,
        pipeline.name,
        endpoint,
        max_queued_requests=claude.policy.max_queued_requests,
        reconcile_after_seconds=claude.policy.reconcile_after_seconds,
        caps=caps_of(pipeline, claude, store.clock.now()),
        may_send=_may_send(pipeline, store.clock.now()),
        is_asked=is_declared(pipeline),
        escalates=pipeline.escalate is not None,
    )


def _may_send(pipeline: BatchPipeline, now: datetime) -> bool:
    """Whether these are hours in which batches are sent."""
    return pipeline.sending_hours is None or pipeline.sending_hours.is_open(now)


def _whose_key(store: Store, claude: ClaudeBatches, now: datetime) -> Endpoint | None:
    """Return whose the key was when this process last saw that, unless that is an interval ago."""
    seen, at = _WHOSE.get(_key(store, claude), (None, now))
    age = (now - at).total_seconds()
    return seen if 0 <= age < claude.poll_interval_seconds else None


def _remember(store: Store, claude: ClaudeBatches, endpoint: Endpoint, now: datetime) -> Endpoint:
    """Keep for the other sensors of this process whose the key is: to ask costs a list call."""
    _WHOSE[_key(store, claude)] = endpoint, now
    return endpoint


def _key(store: Store, claude: ClaudeBatches) -> tuple[str, str, str]:
    key = claude.api_key or os.environ.get(KEY_VARIABLE) or ""
    return store.ledger.id, claude.url, sha256(key.encode()).hexdigest()


def _choose(
    instance: dg.DagsterInstance, pipeline: BatchPipeline, wanted: Sequence[Need], now: datetime
) -> tuple[list[dg.RunRequest], list[str]]:
    """Return the runs to request now, and why the others are not requested."""
    requests: list[dg.RunRequest] = []
    waiting: dict[str, list[str]] = {}
    # One request for a partition that is gone fails a tick.
    is_known = known_partitions(pipeline, instance)
    under_way = _under_way(instance, now) if wanted else []
    # A run works on all variants of a partition.
    runs = {(one.job, partition_of(one.partition)): one for one in reversed(wanted)}
    for need in [replace(one, partition=key) for (_, key), one in reversed(runs.items())]:
        if not is_known(need.partition):
            reason = (
                "there is work for partitions that the pipeline does not have any more: `batch-pipeline "
                f"collect {pipeline.name}` fetches and publishes what is answered; give them back to it, and "
                "all of it is done"
            )
        elif len(requests) >= MOST_RUNS:
            reason = "more runs are requested at the next tick"
        else:
            reason = _done_by(under_way, pipeline, need) or _not_now(instance, pipeline, need, now)
        if reason is None:
            requests.append(_request(pipeline, need))
        else:
            waiting.setdefault(reason, []).append(need.partition)
    return requests, [f"{reason}{_named(keys)}" for reason, keys in waiting.items()]


def _requested(requests: Sequence[dg.RunRequest]) -> list[str]:
    """Say which jobs a tick requests, and why."""
    partitions: dict[tuple[str | None, str], list[str]] = {}
    for request in requests:
        why = request.tags["batch_pipeline/why"]
        partitions.setdefault((request.job_name, why), []).append(request.partition_key or "")
    return [f"{job} is requested{_named(keys)}: {why}" for (job, why), keys in partitions.items()]


def _named(partitions: Sequence[str]) -> str:
    """Return the first few partitions in brackets; nothing for a pipeline without partitions."""
    named = [key for key in partitions if key]
    if not named:
        return ""
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return f" ({', '.join(named[:MOST_NAMED])}{more})"


def _request(pipeline: BatchPipeline, need: Need) -> dg.RunRequest:
    config = ask_config(pipeline, retries_only=True) if need.job == "retry" else {}
    return dg.RunRequest(
        job_name=f"{pipeline.name}_{JOBS[need.job]}",
        partition_key=need.partition or None,
        run_config=config,
        tags={PIPELINE_TAG: pipeline.name, "batch_pipeline/why": need.why},
    )


def _under_way(instance: dg.DagsterInstance, now: datetime) -> list[dg.DagsterRun]:
    """Return the runs that are queued or running, whatever job they are of."""
    records = instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY), limit=MOST_UNDER_WAY)
    return [
        record.dagster_run
        for record in records
        if record.dagster_run.status == dg.DagsterRunStatus.QUEUED
        or abs(now - _changed(record)) < STALE_RUN
    ]


def _done_by(under_way: Sequence[dg.DagsterRun], pipeline: BatchPipeline, need: Need) -> str | None:
    """Return which other run does what is needed: one of a backfill, or of the UI's "Materialize".

    Those are of Dagster's own job, which holds all assets.
    """
    stage = pipeline.asset_key(STAGES[need.job])
    for run in under_way:
        if stage not in (run.asset_selection or ()):
            continue
        if run.job_name == f"{pipeline.name}_{JOBS[need.job]}":
            continue  # that is told below, in other words
        first = run.tags.get("dagster/asset_partition_range_start")
        if first is not None or run.tags.get("dagster/partition", "") == need.partition:
            return f"a run that materializes {stage.to_user_string()} is under way"
    return None


def _not_now(
    instance: dg.DagsterInstance, pipeline: BatchPipeline, need: Need, now: datetime
) -> str | None:
    """Return why a needed job is not requested: one is under way, or the last ones failed."""
    job = f"{pipeline.name}_{JOBS[need.job]}"
    tags = {"dagster/partition": need.partition} if need.partition else {}
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags=tags), limit=8)
    for record in records:
        if not record.dagster_run.is_finished and abs(now - _changed(record)) < STALE_RUN:
            return f"{job} is running"
    finished = [record for record in records if record.dagster_run.is_finished]
    failed = list(takewhile(lambda record: record.dagster_run.is_failure_or_canceled, finished))
    if not failed:
        return None
    minutes = min(BACK_OFF_MINUTES * 2 ** (len(failed) - 1), BACK_OFF_MOST_MINUTES)
    wait = timedelta(minutes=minutes)
    again = _changed(failed[0]) + wait
    if now >= again or again - now > wait:  # the latter: by a clock that was ahead
        return None
    times = f" {len(failed)} times in a row" if len(failed) > 1 else ""
    return f"{job} failed{times}; it is requested again after {again:%H:%M} UTC"


def _changed(record: dg.RunRecord) -> datetime:
    moment = record.update_timestamp
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
