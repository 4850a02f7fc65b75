"""One tick of the status sensor: looks at the endpoint, and requests the jobs that the ledger needs.

It is level-triggered. A wiped cursor, a failed run, a restart change nothing: what is needed is read
from the ledger on every tick, and runs carry no run key, so none can be burnt.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import takewhile

import dagster as dg

from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches.poll import poll, share_poll
from batch_pipeline.batches.whose import expect
from batch_pipeline.batches.whose import whose as ask_whose
from batch_pipeline.definitions.jobs import PIPELINE_TAG, ask_config
from batch_pipeline.definitions.resources import KEY_VARIABLE, BatchStore, ClaudeBatches
from batch_pipeline.definitions.status.observations import evaluations, observations
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.results.retention import retention
from batch_pipeline.store.addresses import same_address
from batch_pipeline.store.needs import Need, endpoints_at_work, needs
from batch_pipeline.store.queue import hold_of
from batch_pipeline.store.renaming import take_over
from batch_pipeline.store.standing import standing
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint

MOST_RUNS = 25  # a tick's run requests are submitted one by one within its 60 s
POLL_BUDGET_SECONDS = 25.0  # one call may take 15 s more, and a tick has 60 s in all
MOST_NAMED = 3
# A run that was killed hard stays "started" for ever unless run monitoring is on. All jobs may run
# beside one of their own, so after this long another one is requested.
STALE_RUN = timedelta(minutes=15)
BACK_OFF_MINUTES = 1
BACK_OFF_MOST_MINUTES = 60
JOBS = {"send": "send", "collect": "collect", "retry": "submit"}

_WHOSE: dict[tuple[str, str, str], tuple[Endpoint, datetime]] = {}
"""Ledger, address and digest of the key; whose the key was, and when that was seen."""


def tick(context: dg.SensorEvaluationContext, pipeline: BatchPipeline) -> dg.SensorResult:
    """Look at the endpoint; request the jobs that the ledger says are needed, and say how things stand."""
    claude: ClaudeBatches = getattr(context.resources, pipeline.claude_key)
    resource: BatchStore = getattr(context.resources, pipeline.store_key)
    try:
        store = resource.open()
        take_over(
            store, pipeline.name, pipeline.renamed_from, republish=pipeline.destination is None
        )
        wanted, trouble = _look(store, claude, pipeline)
    except BatchPipelineError as error:
        return dg.SensorResult(skip_reason=dg.SkipReason(str(error)), cursor=context.cursor)
    requests, waiting = _choose(context.instance, pipeline, wanted, store.clock.now())
    stands = standing(store, pipeline.name)
    cursor, events = observations(store, pipeline, context.cursor, stands)
    said = [stands.line(store.clock.now()), *_requested(requests), *trouble, *waiting]
    kept = retention(store, pipeline.name)
    if kept.level != "fine":
        said.append(kept.description)
    cursor, evaluated = evaluations(pipeline, kept, store.clock.now(), context.cursor, cursor)
    message = ". ".join(part.rstrip(".") for part in said)
    context.log.info(message)
    return dg.SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else dg.SkipReason(message),
        asset_events=[*events, *evaluated],
        cursor=cursor,
    )


def _look(
    store: Store, claude: ClaudeBatches, pipeline: BatchPipeline
) -> tuple[list[Need], list[str]]:
    """Poll the endpoint in force; return what is needed there, and what there is to say about it.

    Nothing is needed of an API that does not answer or refuses the key: a run would only fail.
    """
    known = endpoints_at_work(store, pipeline.name)
    here = [endpoint for endpoint in known if same_address(endpoint.base_url, claude.addresses)]
    said = [
        f"What was sent to {endpoint} is left alone while base_url is {claude.url}"
        for endpoint in known
        if endpoint not in here
    ]
    if not here:
        return _needs(store, pipeline, None, claude.policy), said
    endpoint, now = here[0], store.clock.now()
    try:
        with closing(claude.api(patient=False)) as api:
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
            wanted = _needs(store, pipeline, endpoint, claude.policy)
            # A run works for the account that the key belongs to: for another one it would find
            # nothing to do, at every tick again.
            if wanted and whose is None:
                whose = _remember(store, claude, ask_whose(store, api), now)
            if wanted and whose != endpoint:
                said.append(
                    f"What was sent to {endpoint} is left alone while the key belongs to {whose}"
                )
                wanted = _needs(store, pipeline, None, claude.policy)
    except BatchPipelineError as error:
        return [], [*said, str(error)]
    if reason := hold_of(store.ledger, pipeline.name, endpoint):
        said.append(f"Nothing is sent: {reason}")
    return wanted, said


def _needs(
    store: Store, pipeline: BatchPipeline, endpoint: Endpoint | None, policy: SendPolicy
) -> list[Need]:
    return needs(
        store,
        pipeline.name,
        endpoint,
        max_queued_requests=policy.max_queued_requests,
        reconcile_after_seconds=policy.reconcile_after_seconds,
    )


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
    is_known = _known_partitions(instance, pipeline)
    for need in wanted:
        if not is_known(need.partition):
            reason = (
                "there is work for partitions that the pipeline does not have any more: give them "
                "back to it, and it is done"
            )
        elif len(requests) >= MOST_RUNS:
            reason = "more runs are requested at the next tick"
        else:
            reason = _not_now(instance, pipeline, need, now)
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


def _known_partitions(
    instance: dg.DagsterInstance, pipeline: BatchPipeline
) -> Callable[[str], bool]:
    """Return what tells whether a run can be requested for a partition.

    One request that cannot fails a tick.
    """
    match pipeline.partitions:
        case None:
            return lambda key: key == ""
        case dg.DynamicPartitionsDefinition(name=str(name)):
            return lambda key: instance.has_dynamic_partition(name, key)
        case dg.TimeWindowPartitionsDefinition() as windows:
            return windows.has_partition_key
        case definition:
            keys = set(definition.get_partition_keys(dynamic_partitions_store=instance))
            return keys.__contains__


def _request(pipeline: BatchPipeline, need: Need) -> dg.RunRequest:
    config = ask_config(pipeline, retries_only=True) if need.job == "retry" else {}
    return dg.RunRequest(
        job_name=f"{pipeline.name}_{JOBS[need.job]}",
        partition_key=need.partition or None,
        run_config=config,
        tags={PIPELINE_TAG: pipeline.name, "batch_pipeline/why": need.why},
    )


def _not_now(
    instance: dg.DagsterInstance, pipeline: BatchPipeline, need: Need, now: datetime
) -> str | None:
    """Return why a needed job is not requested: one is under way, or the last ones failed."""
    job = f"{pipeline.name}_{JOBS[need.job]}"
    tags = {"dagster/partition": need.partition} if need.partition else {}
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags=tags), limit=8)
    for record in records:
        if not record.dagster_run.is_finished and now - _changed(record) < STALE_RUN:
            return f"{job} is running"
    finished = [record for record in records if record.dagster_run.is_finished]
    failed = list(takewhile(lambda record: record.dagster_run.is_failure_or_canceled, finished))
    if not failed:
        return None
    minutes = min(BACK_OFF_MINUTES * 2 ** (len(failed) - 1), BACK_OFF_MOST_MINUTES)
    again = _changed(failed[0]) + timedelta(minutes=minutes)
    if now >= again:
        return None
    times = f" {len(failed)} times in a row" if len(failed) > 1 else ""
    return f"{job} failed{times}; it is requested again after {again:%H:%M} UTC"


def _changed(record: dg.RunRecord) -> datetime:
    moment = record.update_timestamp
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
