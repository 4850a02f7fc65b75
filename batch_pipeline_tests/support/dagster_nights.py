"""Running a pipeline's nights in a test: submit, sensor ticks, and the runs that they ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import dagster as dg

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches, build_definitions
from batch_pipeline.definitions.rows import destination_of
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.store.standing import standing


@dataclass
class Nights:
    """A pipeline in a Dagster of its own, against an emulator."""

    pipeline: BatchPipeline
    claude: ClaudeBatches
    store: BatchStore
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)
    cursor: str | None = None
    ticks: list[Any] = field(default_factory=list)

    @cached_property
    def definitions(self) -> dg.Definitions:
        """What a code location of the pipeline loads."""
        return build_definitions(self.pipeline, claude=self.claude, store=self.store)

    def run(
        self,
        job: str,
        config: dict[str, Any] | None = None,
        partition: str | None = None,
        raises: bool = True,
    ) -> dg.ExecuteInProcessResult:
        """Run one of the pipeline's jobs."""
        return self.execute(f"{self.pipeline.name}_{job}", config, partition, raises=raises)

    def execute(
        self,
        job: str,
        config: Mapping[str, Any] | None = None,
        partition: str | None = None,
        tags: Mapping[str, str] | None = None,
        raises: bool = True,
    ) -> Any:
        """Run a job by its whole name."""
        return self.definitions.resolve_job_def(job).execute_in_process(
            run_config=dict(config or {}),
            instance=self.instance,
            partition_key=partition,
            tags=tags,
            raise_on_error=raises,
        )

    def refusal(self, job: str, config: Mapping[str, Any], partition: str | None = None) -> str:
        """Run a job, and return what its failure says; "" when it did not fail."""
        result = self.run(job, dict(config), partition, raises=False)
        if result.success:
            return ""
        event = next(event for event in result.all_events if event.is_step_failure)
        data = event.step_failure_data
        given = data.user_failure_data
        return (given.description if given else "") or str(data.error)

    def select(self, *stages: str) -> None:
        """Run only some steps of the submit job: the process ends before the others."""
        self.definitions.resolve_job_def(f"{self.pipeline.name}_submit").execute_in_process(
            instance=self.instance,
            asset_selection=[self.pipeline.asset_key(stage) for stage in stages],
        )

    def submit(self, partition: str | None = None, **config: Any) -> dg.ExecuteInProcessResult:
        return self.run("submit", config, partition)

    def collect(self, partition: str | None = None) -> dg.ExecuteInProcessResult:
        return self.run("collect", partition=partition)

    def tick(self):
        """Evaluate the status sensor once, as the daemon would."""
        sensor = self.definitions.get_repository_def().get_sensor_def(
            f"{self.pipeline.name}_status"
        )
        context = dg.build_sensor_context(
            instance=self.instance,
            # Without it a tick cannot tell which dynamic partitions there are.
            instance_ref=self.instance.get_ref() if self.instance.is_persistent else None,
            cursor=self.cursor,
            definitions=self.definitions,
            resources={
                self.pipeline.claude_key: self.claude,
                self.pipeline.store_key: self.store,
            },
        )
        with context:
            result = sensor.evaluate_tick(context)
        self.cursor = result.cursor
        self.ticks.append(result)
        return result

    def tick_and_run(self, raises: bool = True) -> int:
        """Evaluate the sensor and run what it asks for; return how many runs that were."""
        requests = self.tick().run_requests or []
        for request in requests:
            self.execute(
                request.job_name, request.run_config, request.partition_key, request.tags, raises
            )
        return len(requests)

    def until_quiet(self, most: int = 60) -> int:
        """Tick until the sensor asks for nothing and nothing is open; return the number of ticks."""
        for number in range(1, most + 1):
            if self.tick_and_run() == 0:
                if standing(self.store.open(), self.pipeline.name).is_quiet:
                    return number
        raise AssertionError(f"not quiet after {most} ticks: {self.ticks[-1].skip_message}")

    def rows(self) -> dict[Any, dict[str, Any]]:
        """The results table by key."""
        destination = destination_of(self.pipeline, self.store.open())
        with memory_connection() as connection:
            found = (
                connection.sql(f"select * from {destination.relation(connection)}")
                .to_arrow_table()
                .to_pylist()
            )
        keys = next(iter(self.pipeline.by_variant.values())).source.keys
        table = {
            row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys): row
            for row in found
        }
        assert len(table) == len(found), "a key has two rows"
        return table

    def metadata(self, stage: str) -> dict[str, Any]:
        """The newest materialization's metadata of a stage."""
        event = self.instance.get_latest_materialization_event(self.pipeline.asset_key(stage))
        assert event is not None and event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}

    def night(self, partition: str | None = None, **config: Any) -> None:
        """Submit, and let the sensor do the rest."""
        self.submit(partition, **config)
        self.until_quiet()
