"""The status sensor: looks at the endpoint, and requests the jobs that the ledger says are needed.

It is level-triggered. A wiped cursor, a failed run, a restart change nothing: what is needed is read
from the ledger on every tick, and runs carry no run key, so none can be burnt.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from sqlalchemy import RowMapping, func, select

from batch_pipeline.batches.poll import poll, share_poll
from batch_pipeline.definitions.jobs import PIPELINE_TAG
from batch_pipeline.definitions.needs import Need, needs, open_endpoints, progress
from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import transitions

MOST_RUNS = 25  # a tick's run requests are submitted one by one within its 60 s
MOST_CHANGES = 50
CURSOR_VERSION = 1
# A run that was killed hard stays "started" for ever unless run monitoring is on. All jobs may run
# beside one of their own, so after this long another one is requested.
STALE_RUN = timedelta(minutes=15)
BACK_OFF_MINUTES = 1
BACK_OFF_MOST_MINUTES = 60
JOBS = {"send": "send", "collect": "collect", "retry": "submit"}


def build_status_sensor(
    pipeline: BatchPipeline, jobs: Sequence[Any], interval_seconds: int
) -> dg.SensorDefinition:
    """Return the sensor ``NAME_status``."""

    def status(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        claude: ClaudeBatches = getattr(context.resources, pipeline.claude_key)
        resource: BatchStore = getattr(context.resources, pipeline.store_key)
        try:
            store = resource.open()
            endpoint, trouble = _look(store, claude, pipeline)
        except BatchPipelineError as error:
            return dg.SensorResult(skip_reason=dg.SkipReason(str(error)), cursor=context.cursor)
        wanted = needs(store, pipeline.name, endpoint, claude.policy)
        requests, waiting = [], []
        for need in wanted:
            reason = _not_now(context.instance, pipeline, need)
            if reason:
                waiting.append(reason)
            elif len(requests) < MOST_RUNS:
                requests.append(_request(pipeline, need))
        cursor, events = _observations(store, pipeline, context.cursor)
        said = [progress(store, pipeline.name).line(store.clock.now()), *trouble, *waiting]
        message = ". ".join(said)
        context.log.info(message)
        return dg.SensorResult(
            run_requests=requests or None,
            skip_reason=None if requests else dg.SkipReason(message),
            asset_events=events,
            cursor=cursor,
        )

    return dg.SensorDefinition(
        name=f"{pipeline.name}_status",
        evaluation_fn=status,
        jobs=list(jobs),
        minimum_interval_seconds=interval_seconds,
        default_status=pipeline.status_sensor,
        required_resource_keys={pipeline.claude_key, pipeline.store_key},
        description=(
            f"Watches the open batches of {pipeline.name}; sends what waited for room, reconciles lost replies, "
            "collects what has ended and asks failed records again."
        ),
    )


def _look(
    store: Store, claude: ClaudeBatches, pipeline: BatchPipeline
) -> tuple[Endpoint | None, list[str]]:
    """Poll the endpoint in force; return it, and what went wrong on the way."""
    known = open_endpoints(store, pipeline.name)
    here = [endpoint for endpoint in known if endpoint.base_url == claude.url]
    trouble = [
        f"batches at {endpoint} are left alone while base_url is {claude.url}"
        for endpoint in known
        if endpoint not in here
    ]
    if not here:
        return None, trouble
    endpoint = here[0]
    try:
        with closing(claude.api(patient=False)) as api:
            if len(here) > 1:
                endpoint = api.identify()
            if share_poll(store, endpoint, pipeline.name, claude.poll_interval_seconds):
                found = poll(store, api, endpoint, claude.policy)
                trouble += found.notes
    except BatchPipelineError as error:
        trouble.append(str(error))
    return endpoint, trouble


def _request(pipeline: BatchPipeline, need: Need) -> dg.RunRequest:
    config = {"retries_only": True} if need.job == "retry" else {}
    return dg.RunRequest(
        job_name=f"{pipeline.name}_{JOBS[need.job]}",
        partition_key=need.partition or None,
        run_config=config,
        tags={PIPELINE_TAG: pipeline.name, "batch_pipeline/why": need.why},
    )


def _not_now(instance: dg.DagsterInstance, pipeline: BatchPipeline, need: Need) -> str | None:
    """Return why a needed job is not requested: one is under way, or the last ones failed."""
    job = f"{pipeline.name}_{JOBS[need.job]}"
    tags = {"dagster/partition": need.partition} if need.partition else {}
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags=tags), limit=8)
    now = datetime.now(UTC)
    failures = 0
    for record in records:
        run = record.dagster_run
        changed = record.update_timestamp.replace(tzinfo=record.update_timestamp.tzinfo or UTC)
        if not run.is_finished:
            if now - changed < STALE_RUN:
                return f"{job} is running" if failures == 0 else None
            continue
        if not run.is_failure_or_canceled:
            break
        if failures == 0:
            latest = changed
        failures += 1
    if not failures:
        return None
    wait = timedelta(minutes=min(BACK_OFF_MINUTES * 2 ** (failures - 1), BACK_OFF_MOST_MINUTES))
    if now - latest >= wait:
        return None
    return f"{job} failed {failures} times in a row; tried again after {(latest + wait):%H:%M} UTC"


def _observations(
    store: Store, pipeline: BatchPipeline, cursor: str | None
) -> tuple[str, list[dg.AssetObservation]]:
    """Return an observation per partition whose batches changed state, and where to go on next time.

    The cursor is a hint: without it the history so far counts as seen.
    """
    with store.ledger.read() as tx:
        newest = tx.execute(
            select(func.max(transitions.c.id)).where(transitions.c.pipeline == pipeline.name)
        ).scalar()
    seen = _seen(cursor)
    if seen is None or seen > (newest or 0):
        seen = (
            0 if cursor is None and newest is not None and newest <= MOST_CHANGES else (newest or 0)
        )
    rows = store.ledger.rows(
        select(transitions)
        .where(transitions.c.pipeline == pipeline.name, transitions.c.id > seen)
        .order_by(transitions.c.id)
    )
    changes: dict[str, list[RowMapping]] = {}
    for row in rows:
        changes.setdefault(row["partition"], []).append(row)
    now = progress(store, pipeline.name)
    events = [
        dg.AssetObservation(
            asset_key=pipeline.asset_key("batches"),
            partition=partition or None,
            description=now.line(store.clock.now()),
            metadata={
                "batches_open": now.open,
                "batches_ended": now.ended,
                "files_waiting": now.waiting,
                "files_held": now.held,
                "changes": dg.MetadataValue.table(
                    [_change(row) for row in changed[-MOST_CHANGES:]]
                ),
            },
        )
        for partition, changed in changes.items()
    ]
    return json.dumps({"version": CURSOR_VERSION, "transition": newest or 0}), events


def _change(row: RowMapping) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "at": row["at"].isoformat(timespec="seconds"),
            "file": row["file_id"],
            "from": row["from_state"] or "",
            "to": row["to_state"],
            "note": row["note"][:200],
        }
    )


def _seen(cursor: str | None) -> int | None:
    try:
        value = json.loads(cursor or "")
        return int(value["transition"]) if value["version"] == CURSOR_VERSION else None
    except (ValueError, KeyError, TypeError):
        return None
