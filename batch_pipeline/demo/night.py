"""Playing a night in this process: the submit jobs, then the sensors' ticks and their runs.

In production the Dagster daemon does all of this; here it happens in front of your eyes, with the
same definitions and an instance that keeps the history.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from batch_pipeline.errors import BatchPipelineError

UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


class NightFailed(BatchPipelineError):
    """The night did not end well; the message says what to look at."""


@dataclass(frozen=True)
class Said:
    """What a stage said in a run."""

    stage: str
    warning: bool
    text: str


@dataclass
class Night:
    """Pipelines whose jobs and sensors are played in this process.

    Attributes:
        definitions: of the pipelines, with their resources.
        instance: where Dagster keeps the history.
        tell: gets what each run's stages said, by pipeline.
        log: a file for what Dagster prints.
        failures: what made runs fail, so far.
        last_words: what each sensor said at its last tick, if it asked for nothing.
    """

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    tell: Callable[[str, Said], None]
    log: str
    failures: list[str] = field(default_factory=list)
    last_words: dict[str, str] = field(default_factory=dict)
    _cursors: dict[str, str | None] = field(default_factory=dict)

    def submit(self, pipeline: str, config: Mapping[str, Any] | None = None) -> bool:
        """Run a pipeline's submit job; return whether it succeeded."""
        return self._run(pipeline, f"{pipeline}_submit", dict(config or {}))

    def bury_dead_runs(self) -> None:
        """Mark the runs of a night that was killed as canceled; nothing waits for them then.

        Only right where nobody else runs anything on this instance.
        """
        for run in self.instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED))):
            self.instance.report_run_canceled(run, message="The process that ran it is gone.")

    def collect(self, pipeline: str) -> bool:
        """Run a pipeline's collect job; return whether it succeeded."""
        return self._run(pipeline, f"{pipeline}_collect", {})

    def send(self, pipeline: str) -> bool:
        """Run a pipeline's send job; return whether it succeeded."""
        return self._run(pipeline, f"{pipeline}_send", {})

    def build(self, pipeline: str, config: Mapping[str, Any]) -> bool:
        """Select and build the requests of a pipeline, and send nothing."""
        keys = [dg.AssetKey([pipeline, stage]) for stage in ("records", "requests")]
        ops = {"ops": {f"{pipeline}__records": {"config": dict(config)}}}
        return self.materialize(pipeline, keys, ops)

    def materialize(
        self, pipeline: str, keys: Sequence[dg.AssetKey], config: Mapping[str, Any] | None = None
    ) -> bool:
        """Materialize assets in a run of their own."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return self._execute(pipeline, job, config=dict(config or {}), asset_selection=list(keys))

    def tick(self, pipeline: str) -> int:
        """Evaluate a pipeline's status sensor and run what it asks for; return how many runs."""
        sensor = next(
            one for one in self.definitions.sensors or () if one.name == f"{pipeline}_status"
        )
        assert isinstance(sensor, dg.SensorDefinition)
        with _quiet(self.log):
            context = dg.build_sensor_context(
                instance=self.instance,
                cursor=self._cursors.get(pipeline),
                definitions=self.definitions,
                resources=dict(self.definitions.resources or {}),
            )
            with context:
                result = sensor.evaluate_tick(context)
        self._cursors[pipeline] = result.cursor
        self.last_words[pipeline] = result.skip_message or ""
        requests = result.run_requests or []
        for request in requests:
            assert request.job_name is not None
            self._run(pipeline, request.job_name, dict(request.run_config or {}), request.tags)
        return len(requests)

    def is_behind(self, asset: dg.AssetKey, upstream: dg.AssetKey) -> bool:
        """Return whether an asset is older than the one it is made from."""
        mine = self.instance.get_latest_materialization_event(asset)
        theirs = self.instance.get_latest_materialization_event(upstream)
        return theirs is not None and (mine is None or mine.timestamp < theirs.timestamp)

    def _run(
        self,
        pipeline: str,
        name: str,
        config: dict[str, Any],
        tags: Mapping[str, str] | None = None,
    ) -> bool:
        job = self.definitions.resolve_job_def(name)
        return self._execute(pipeline, job, config=config, tags=dict(tags or {}))

    def _execute(
        self,
        pipeline: str,
        job: dg.JobDefinition,
        config: dict[str, Any],
        tags: dict[str, str] | None = None,
        asset_selection: list[dg.AssetKey] | None = None,
    ) -> bool:
        with _quiet(self.log):
            result = job.execute_in_process(
                run_config=config,
                instance=self.instance,
                tags=tags,
                asset_selection=asset_selection,
                raise_on_error=False,
            )
        for said in self._said(result.run_id):
            self.tell(pipeline, said)
        if not result.success:
            failed = result.filter_events(lambda event: event.is_step_failure)
            self.failures += [f"{event.step_key}: {_reason(event)}" for event in failed]
        return result.success

    def _said(self, run_id: str) -> Iterator[Said]:
        for entry in self.instance.all_logs(run_id):
            # What the code logged; Dagster's own events are for its log.
            if entry.dagster_event is not None or entry.step_key is None:
                continue
            level = int(entry.level)
            if not logging.INFO <= level <= logging.WARNING:
                continue  # what failed is in `failures`
            stage = entry.step_key.rpartition("__")[2]
            yield Said(stage, level == logging.WARNING, entry.user_message)


def _reason(event: dg.DagsterEvent) -> str:
    """Return why a step failed: what it says itself, or the error at the bottom."""
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error
    while error is not None and error.cause is not None:
        error = error.cause
    return "it failed" if error is None else error.message.strip()


@contextlib.contextmanager
def _quiet(log: str) -> Iterator[None]:
    """Send what Dagster prints to a file: it is kept in the history as well."""
    with open(log, "a", encoding="utf-8") as sink, contextlib.redirect_stderr(sink):
        try:
            yield
        finally:
            sys.stderr.flush()
