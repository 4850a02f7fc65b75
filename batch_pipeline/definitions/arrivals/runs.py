"""What Dagster's history tells of a pipeline's submit runs, whoever started them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import dagster as dg

from batch_pipeline.definitions.jobs import asks_all
from batch_pipeline.pipeline import BatchPipeline

MOST_EVENTS = 5_000
PAGE = 1_000
BACK_OFF_MINUTES = 1
BACK_OFF_MOST_MINUTES = 60
SKEW = timedelta(minutes=1)  # a run of later than this was dated by a clock that was ahead
REMEMBERED = timedelta(hours=3)  # longer than any back-off's doubling goes on to matter
# A run that was killed hard stays "started" for ever unless run monitoring is on. All jobs may run
# beside one of their own, so after this long it does not count any more.
STALE_RUN = timedelta(hours=2)
UNDER_WAY = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class Submits:
    """A pipeline's submit runs of late.

    Attributes:
        job: the name of its submit job.
        runs: records of runs, newest first, by partition ("" without partitions).
        under_way: partitions for which a run is queued or running; None stands for all of them.
        whole: ids of runs that asked all there was to ask, and sent it.
    """

    job: str
    runs: Mapping[str, list[dg.RunRecord]]
    under_way: set[str | None]
    whole: set[str] = field(default_factory=set)

    def asked_since(self, partition: str, moment: float) -> bool:
        """Return whether a run that began at ``moment`` or later has asked all that was there."""
        return any(
            record.dagster_run.status == dg.DagsterRunStatus.SUCCESS
            and (record.start_time or 0) >= moment
            and record.dagster_run.run_id in self.whole
            for record in self.runs.get(partition, ())
        )

    def not_now(self, partition: str, now: datetime, cooldown: timedelta) -> str | None:
        """Return why no run is requested now; None when one may be."""
        if {partition, None} & self.under_way:
            return f"{self.job} is queued or running"
        records = self.runs.get(partition, [])
        finished = [one for one in records if one.dagster_run.is_finished]
        failed = list(takewhile(_failed, finished))
        if failed:
            minutes = min(BACK_OFF_MINUTES * 2 ** (len(failed) - 1), BACK_OFF_MOST_MINUTES)
            wait = timedelta(minutes=minutes)
            again = _aware(failed[0].update_timestamp) + wait
            if now < again <= now + wait:  # later: by a clock that was ahead
                times = f" {len(failed)} times in a row" if len(failed) > 1 else ""
                return f"{self.job} failed{times}; it is requested again after {again:%H:%M} UTC"
        # A failed run is made up for by the next: it asks nothing twice.
        for record in records:
            began = _aware(record.create_timestamp)
            if cooldown and not _failed(record) and began - SKEW <= now < began + cooldown:
                return (
                    f"the last {self.job} was at {began:%H:%M} UTC, so the next is requested after "
                    f"{began + cooldown:%H:%M} UTC (cooldown_minutes)"
                )
        return None


def submits(
    instance: dg.DagsterInstance,
    pipeline: BatchPipeline,
    now: datetime,
    cooldown: timedelta,
    since: float,
) -> Submits:
    """Return a pipeline's submit runs: those of the cooldown, and those that began after ``since``.

    A run counts when it is of the job ``NAME_submit``, or materializes ``NAME/records`` as the UI's
    "Materialize" does.

    Args:
        instance: Dagster's.
        pipeline: whose runs.
        now: the time.
        cooldown: how long after a run there is none.
        since: a Unix time.
    """
    job = f"{pipeline.name}_submit"
    records_key = pipeline.asset_key("records")
    began = min(now - max(cooldown, REMEMBERED), datetime.fromtimestamp(since, UTC))
    found = {
        record.dagster_run.run_id: record
        for record in instance.get_run_records(
            dg.RunsFilter(job_name=job, created_after=began), limit=MOST_EVENTS
        )
    }
    partitions = {
        run_id: {key}
        for run_id, record in found.items()
        if (key := _partition(record.dagster_run)) is not None
    }
    asked = _materialized(instance, records_key, began)
    others = [run_id for run_id in asked if run_id not in found]
    if others:
        found |= {
            record.dagster_run.run_id: record
            for record in instance.get_run_records(dg.RunsFilter(run_ids=others))
        }
    for run_id, keys in asked.items():
        partitions.setdefault(run_id, set()).update(keys)
    under_way: set[str | None] = set()
    for record in instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY), limit=MOST_EVENTS):
        run = record.dagster_run
        is_ours = run.job_name == job or records_key in (run.asset_selection or ())
        queued = run.status == dg.DagsterRunStatus.QUEUED
        if is_ours and (queued or abs(now - _aware(record.update_timestamp)) < STALE_RUN):
            under_way.add(_partition(run))
    by_partition: dict[str, list[dg.RunRecord]] = {}
    for run_id, record in sorted(found.items(), key=lambda one: -one[1].storage_id):
        for key in partitions.get(run_id, ()):
            by_partition.setdefault(key, []).append(record)
    whole = {
        run_id
        for run_id in asked
        if run_id in found and _is_whole(pipeline, found[run_id].dagster_run)
    }
    return Submits(job, by_partition, under_way, whole)


def _materialized(
    instance: dg.DagsterInstance, key: dg.AssetKey, after: datetime
) -> dict[str, set[str]]:
    """Return which partitions of an asset each run has materialized since a moment, newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=key, after_timestamp=after.timestamp())
    asked: dict[str, set[str]] = {}
    cursor, read = None, 0
    while read < MOST_EVENTS:
        page = instance.fetch_materializations(wanted, limit=PAGE, cursor=cursor)
        for record in page.records:
            asked.setdefault(record.run_id, set()).add(record.partition_key or "")
        if not page.has_more:
            break
        cursor, read = page.cursor, read + PAGE
    return asked


def _is_whole(pipeline: BatchPipeline, run: dg.DagsterRun) -> bool:
    """Whether a run that selected records asked all of them, and sent what it asked."""
    selected = run.asset_selection
    sends = not selected or pipeline.asset_key("batches") in selected
    return sends and asks_all(pipeline, run.run_config)


def _partition(run: dg.DagsterRun) -> str | None:
    """Return the partition that a run is of: "" for none, None for a range of them."""
    if "dagster/asset_partition_range_start" in run.tags:
        return None
    return run.tags.get("dagster/partition", "")


def _failed(record: dg.RunRecord) -> bool:
    return record.dagster_run.status == dg.DagsterRunStatus.FAILURE


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
