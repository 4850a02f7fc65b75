"""Nights whose steps are called one after the other, for tests of what they do to money and rows.

A third of a night's work is Dagster's own: runs, their events, resources made anew for each step. What
Dagster adds is tested in ``definitions/``; ``make soak`` plays all nights in its jobs.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import dagster as dg

from batch_pipeline.definitions.assets import batches, records, requests, results
from batch_pipeline.definitions.assets.define import AskConfig
from batch_pipeline.records.selection import Ask
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import extent

STAGES = {
    "submit": ("records", "requests", "batches"),
    "send": ("batches",),
    "collect": ("results",),
}
_shown: MutableMapping[dg.DagsterInstance, dict[tuple[str, str], dict[str, Any]]] = (
    WeakKeyDictionary()
)
_failed: WeakSet[dg.DagsterInstance] = WeakSet()


class _ToStandardError(logging.Handler):
    """What Dagster's console logger does, also while a test reads what is written."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


_log = logging.getLogger("batch_pipeline_tests.stages")
_log.setLevel(logging.INFO)
_log.addHandler(_ToStandardError())


@dataclass
class Called:
    """What came of a job's steps, as tests read it of a run."""

    failure: Exception | None = None
    checks: list[dg.AssetCheckResult] = field(default_factory=list)

    @property
    def success(self) -> bool:
        return self.failure is None

    def get_asset_check_evaluations(self) -> list[dg.AssetCheckResult]:
        return self.checks


@dataclass
class StageCalls(Nights):
    """A pipeline whose steps are called without Dagster's runs; its sensor is evaluated as ever."""

    def __post_init__(self) -> None:
        # The pipeline in another version, in the same Dagster, sees what was shown of it before.
        self._shown = _shown.setdefault(self.instance, {})

    def execute(
        self,
        job: str,
        config: Mapping[str, Any] | None = None,
        partition: str | None = None,
        tags: Mapping[str, str] | None = None,
        raises: bool = True,
    ) -> Any:
        """Call the steps of a job."""
        if any("partition_range" in tag for tag in tags or ()):
            return super().execute(job, config, partition, tags, raises)
        called = Called()
        _log.info(f"{job}: its steps are called")
        for stage in STAGES[job.removeprefix(f"{self.pipeline.name}_")]:
            try:
                called.checks += self._call(stage, config or {}, partition)
            except Exception as error:
                if raises:
                    self._note(job, partition, Called(error))
                    raise
                called.failure = error
                _log.error(f"{job} failed", exc_info=error)
                break
        self._note(job, partition, called)
        return called

    def refusal(self, job: str, config: Mapping[str, Any], partition: str | None = None) -> str:
        """Call the steps, and return what their failure says; "" when there was none."""
        failure = self.execute(
            f"{self.pipeline.name}_{job}", config, partition, raises=False
        ).failure
        return "" if failure is None else getattr(failure, "description", None) or str(failure)

    def select(self, *stages: str) -> None:
        """Call only some steps of the submit job."""
        for stage in stages:
            self._call(stage, {}, None)

    def _call(
        self, stage: str, config: Mapping[str, Any], partition: str | None
    ) -> Sequence[dg.AssetCheckResult]:
        pipeline = self.pipeline
        context: Any = SimpleNamespace(
            log=_log,
            resources=SimpleNamespace(
                **{pipeline.claude_key: self.claude, pipeline.store_key: self.store}
            ),
            has_partition_key=partition is not None,
            has_partition_key_range=False,
            partition_keys=[partition],
            add_asset_metadata=lambda *_, **__: None,
        )
        if stage == "records":
            op = pipeline.asset_key("records").to_python_identifier()
            given = AskConfig(**config.get("ops", {}).get(op, {}).get("config", config))
            ask = Ask(**{name: getattr(given, name) for name in type(given).model_fields})
            made = records.materialize(context, pipeline, ask)
        else:
            module = {"requests": requests, "batches": batches, "results": results}[stage]
            made = module.materialize(context, pipeline)
        self._shown[self.pipeline.name, stage] = dict(made.metadata or {})
        checks = list(made.check_results or [])
        for check in checks:
            word = "passed" if check.passed else "failed"
            where = pipeline.asset_key(stage).to_user_string()
            _log.info(
                f"'{check.check_name}' on '{where}' {word}. Description: '{check.description}'"
            )
        return checks

    def _note(self, job: str, partition: str | None, called: Called) -> None:
        """Let Dagster know of a run that failed, and of those after it: its sensor goes by them."""
        if called.success and self.instance not in _failed:
            return
        _failed.add(self.instance)
        status = dg.DagsterRunStatus.SUCCESS if called.success else dg.DagsterRunStatus.FAILURE
        tags = {} if partition is None else {"dagster/partition": partition}
        self.instance.add_run(dg.DagsterRun(job, status=status, tags=tags))

    def metadata(self, stage: str) -> dict[str, Any]:
        """The newest metadata of a stage."""
        made = dg.AssetMaterialization(
            self.pipeline.asset_key(stage), metadata=self._shown[self.pipeline.name, stage]
        )
        return {name: value.value for name, value in made.metadata.items()}


if TYPE_CHECKING:
    PlayedNights = Nights
else:
    PlayedNights = extent(sample=StageCalls, whole=Nights)
    """How most nights are played: as calls in ``make test``, in Dagster's jobs in ``make soak``."""
