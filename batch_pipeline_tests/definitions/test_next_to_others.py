"""Pipelines in a code location that has assets, jobs and resources of its own, and run there."""

from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    MessageTemplate,
    build_definitions,
)
from batch_pipeline.definitions.rows import destination_of
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.definitions.conftest import TEMPLATE
from batch_pipeline_tests.definitions.test_load import NobodysManager
from batch_pipeline_tests.support.dagster_nights import Nights


def asks(name: str, warehouse: Path, **fields: Any) -> BatchPipeline:
    return BatchPipeline(
        name=name,
        source=DuckDBSource(database=str(warehouse), table="packages", key="package"),
        request=MessageTemplate(**TEMPLATE),
        **fields,
    )


def materialized(instance: dg.DagsterInstance, *key: str) -> dict[str, Any] | None:
    event = instance.get_latest_materialization_event(dg.AssetKey(list(key)))
    if event is None or event.asset_materialization is None:
        return None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_pipelines_run_among_a_users_own_assets_jobs_and_resources(
    warehouse: Path, tmp_path: Path, claude_emulator: EmulatorProcess, clock
) -> None:
    def claude(key: str) -> ClaudeBatches:
        return ClaudeBatches(api_key=key, base_url=claude_emulator.base_url)

    class Mail(dg.ConfigurableResource):
        sender: str

    @dg.asset
    def raw() -> int:
        return 1

    @dg.asset(
        ins={
            "letters": dg.AssetIn(key=["letters", "results"]),
            "tickets": dg.AssetIn(key=["tickets", "results"]),
        }
    )
    def report(
        context: dg.AssetExecutionContext, letters: pa.Table, tickets: pa.Table, mail: Mail
    ) -> None:
        context.add_output_metadata(
            {"letters": len(letters), "tickets": len(tickets), "by": mail.sender}
        )

    one = asks("letters", warehouse, upstream=[raw.key], claude_key="cheap", store_key="lake")
    other = asks("tickets", warehouse)
    definitions = dg.Definitions.merge(
        build_definitions(one),
        build_definitions(other),
        dg.Definitions(
            assets=[raw, report],
            jobs=[dg.define_asset_job("reports", selection=[report])],
            resources={
                "cheap": claude("cheap-key"),
                "lake": BatchStore(root=str(tmp_path / "lake")),
                "claude": claude("test-key"),
                "store": BatchStore(root=str(tmp_path / "store")),
                "io_manager": NobodysManager(),
                "mail": Mail(sender="night@example.com"),
            },
        ),
    )
    dg.Definitions.validate_loadable(definitions)
    instance = dg.DagsterInstance.ephemeral()

    def run(job: str, **config: Any) -> None:
        assert (
            definitions.resolve_job_def(job)
            .execute_in_process(run_config=config, instance=instance)
            .success
        )

    for name, limit in (("letters", 2), ("tickets", 3)):
        run(f"{name}_submit", limit=limit)
        run(f"{name}_collect")
    # The job of one pipeline ran neither the user's assets nor the other's.
    assert materialized(instance, "raw") is None
    run("reports")
    made = materialized(instance, "report")
    assert made is not None
    assert (made["letters"], made["tickets"], made["by"]) == (2, 3, "night@example.com")
    for pipeline, folder, rows in ((one, "lake", 2), (other, "store", 3)):
        store = BatchStore(root=str(tmp_path / folder)).open()
        assert destination_of(pipeline, store).row_count() == rows
        assert (tmp_path / folder / pipeline.name).is_dir()
    assert not (tmp_path / "lake" / "tickets").exists()


def test_a_prefix_a_group_tags_and_a_spec_of_ones_own_hold_when_it_runs(nights) -> None:
    raw = dg.AssetKey(["erp", "packages"])
    run: Nights = nights(
        key_prefix=["finance", "ap-team"],
        group_name="night",
        tags={"team": "finance"},
        upstream=[raw],
        asset_spec=lambda spec: spec.replace_attributes(
            owners=["team:finance"],
            metadata={**spec.metadata, "runbook": "https://example.com/" + spec.key.path[-1]},
            automation_condition=dg.AutomationCondition.on_missing(),
        ),
    )
    graph = run.definitions.resolve_asset_graph()
    for stage in ("records", "requests", "batches", "results"):
        node = graph.get(run.pipeline.asset_key(stage))
        assert node.key.path == ["finance", "ap-team", "packages", stage]
        assert node.group_name == "night" and list(node.owners) == ["team:finance"]
        assert node.tags["team"] == "finance" and node.automation_condition is not None
        assert node.metadata["runbook"] == f"https://example.com/{stage}"
    assert graph.get(run.pipeline.asset_key("records")).parent_keys == {raw}
    run.night(limit=2)
    assert len(run.rows()) == 2
    for record in run.instance.get_run_records():
        assert record.dagster_run.tags["team"] == "finance"
        assert record.dagster_run.tags["batch_pipeline/pipeline"] == "packages"

    @dg.asset(ins={"results": dg.AssetIn(key=[*run.pipeline.prefix, "results"])})
    def report(results: pa.Table) -> int:
        return len(results)

    found = dg.Definitions.merge(run.definitions, dg.Definitions(assets=[report]))
    job = found.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(asset_selection=[report.key])
    assert result.output_for_node("report") == 2


@pytest.mark.parametrize("partitioned", [False, True])
def test_an_eager_asset_downstream_is_asked_for_when_answers_arrive(
    nights, warehouse: Path, partitioned: bool
) -> None:
    query = "select * from packages qualify row_number() over (partition by section order by package) < 3"
    sections = dg.StaticPartitionsDefinition(["admin", "devel"]) if partitioned else None
    run: Nights = nights(
        source=DuckDBSource(database=str(warehouse), query=query, key="package"),
        **({"partitions": sections, "partition_column": "section"} if sections else {}),
    )

    @dg.asset(
        ins={"results": dg.AssetIn(key=["packages", "results"])},
        partitions_def=sections,
        automation_condition=dg.AutomationCondition.eager(),
    )
    def report(context: dg.AssetExecutionContext, results: pa.Table) -> None:
        context.add_output_metadata({"rows": len(results)})

    definitions = dg.Definitions.merge(run.definitions, dg.Definitions(assets=[report]))
    cursor: Any = None

    def asked_for() -> set[str | None]:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(
            definitions, instance=run.instance, cursor=cursor
        )
        cursor = result.cursor
        return set(result.get_requested_partitions(report.key))

    key = "devel" if partitioned else None
    assert asked_for() == set()
    run.submit(key)
    # That something was sent is no news for who waits for answers.
    assert asked_for() == set()
    run.until_quiet()
    assert asked_for() == {key}
    job = definitions.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(
        asset_selection=[report.key], partition_key=key, instance=run.instance
    )
    (made,) = done.asset_materializations_for_node("report")
    assert made.metadata["rows"].value == len(run.rows()) > 0
    assert asked_for() == set()


def test_answers_of_an_earlier_day_reach_who_follows_every_day(nights, warehouse: Path) -> None:
    query = "select *, date '2026-01-05' as day from packages order by package limit 2"
    days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-10")
    run: Nights = nights(
        source=DuckDBSource(database=str(warehouse), query=query, key="package"),
        partitions=days,
        partition_column="day",
    )
    eager = dg.AutomationCondition.eager()
    every_day = eager.without(dg.AutomationCondition.in_latest_time_window())

    def following(name: str, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
        @dg.asset(
            name=name,
            deps=[dg.AssetKey(["packages", "results"])],
            partitions_def=days,
            automation_condition=condition
            & dg.AutomationCondition.all_deps_blocking_checks_passed(),
        )
        def follows() -> None: ...

        return follows

    followers = [following("latest", eager), following("every", every_day)]
    definitions = dg.Definitions.merge(run.definitions, dg.Definitions(assets=followers))
    before = dg.evaluate_automation_conditions(definitions, instance=run.instance)
    run.night("2026-01-05")
    after = dg.evaluate_automation_conditions(
        definitions, instance=run.instance, cursor=before.cursor
    )
    assert set(after.get_requested_partitions(dg.AssetKey("latest"))) == set()
    assert set(after.get_requested_partitions(dg.AssetKey("every"))) == {"2026-01-05"}
