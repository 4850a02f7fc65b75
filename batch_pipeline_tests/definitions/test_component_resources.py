"""The two resources in YAML: what is in the environment is read at run time, and shown nowhere."""

from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox

from batch_pipeline import BatchCostsComponent, BatchStore, ClaudeBatches, ClaudeBatchesComponent
from batch_pipeline.definitions.component_problems import YamlError
from batch_pipeline.definitions.secret_fields import revealed
from batch_pipeline_tests.definitions.test_component import attributes
from batch_pipeline_tests.support.extent import every_form

KIND = "batch_pipeline.ClaudeBatchesComponent"
SECRET = "sk-ant-" + "secret-of-the-file"


def defined(values: dict[str, Any], kind: type = ClaudeBatchesComponent) -> dg.Definitions:
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=kind,
            defs_yaml_contents={"type": f"batch_pipeline.{kind.__name__}", "attributes": values},
        )
        with sandbox.load_component_and_build_defs(defs_path=folder) as (_, definitions):
            return definitions


def problem(values: dict[str, Any], kind: type = ClaudeBatchesComponent) -> str:
    with pytest.raises(Exception) as failed:
        defined(values, kind)
    error: BaseException | None = failed.value
    while error is not None and not isinstance(error, YamlError):
        error = error.__cause__ or error.__context__
    return str(error)


def test_a_variable_is_read_when_a_run_needs_it() -> None:
    said = {
        "api_key": "{{ env.NOT_SET_YET }}",
        "base_url": "http://127.0.0.1:9",
        "timeout_seconds": 5,
        "headers": {"x-gateway": "{{ env.NOT_SET_EITHER }}", "x-team": "billing"},
        "workspace": "wrkspc_1",
    }
    resources = defined({"claude": said, "store": {"root": "{{ env('BP_ROOT') }}"}}).resources or {}
    claude, store = resources["claude"], resources["store"]
    assert isinstance(claude, ClaudeBatches) and isinstance(store, BatchStore)
    assert claude.api_key == dg.EnvVar("NOT_SET_YET") and claude.timeout_seconds == 5
    assert claude.headers["x-gateway"] == dg.EnvVar("NOT_SET_EITHER")
    assert revealed(claude.headers["x-team"]) == "billing" and claude.workspace == "wrkspc_1"
    assert store.root == dg.EnvVar("BP_ROOT")


def test_keys_are_ones_own_and_what_is_left_out_is_not_defined() -> None:
    resources = defined({"claude": {}, "claude_key": "cheap"}).resources or {}
    assert set(resources) == {"cheap"}


def test_a_wrong_field_is_named_and_a_key_never_shown() -> None:
    said = problem({"claude": {"apikey": SECRET, "max_batch_bytes": SECRET}, "store": {"rot": "x"}})
    assert "there is no field apikey; did you mean api_key?" in said
    assert "there is no field rot; did you mean root?" in said
    assert "attributes.claude.max_batch_bytes is str; it must be a valid integer" in said
    assert SECRET not in said
    said = problem({"claude": {"headers": {"Authorization": SECRET}}})
    assert (
        "headers has Authorization; use ClaudeBatches(api_key=...)" in said and SECRET not in said
    )


def test_a_project_of_yaml_alone_has_all_that_it_needs() -> None:
    with create_defs_folder_sandbox() as sandbox:
        from batch_pipeline import BatchPipelineComponent

        sandbox.scaffold_component(
            component_cls=BatchPipelineComponent,
            defs_path="invoices",
            defs_yaml_contents={
                "type": "batch_pipeline.BatchPipelineComponent",
                "attributes": attributes(),
            },
        )
        with sandbox.build_all_defs() as definitions:
            dg.Definitions.validate_loadable(definitions)
            assert set(definitions.resources or {}) >= {"claude", "store"}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"to": {"path": "costs.parquet"}}, ""),
        ({"to": {"database": "w.duckdb", "table": "batch_costs"}, "schedule": None}, ""),
        ({"to": {"path": "costs.csv"}}, "ends in .parquet"),
        ({"to": {"database": "w.duckdb", "tabel": "x"}}, "did you mean table?"),
        ({"to": {"path": "costs.parquet"}, "shedule": "5 * * * *"}, "did you mean schedule?"),
    ],
)
@every_form
def test_a_table_of_costs_in_yaml(written: dict[str, Any], said: str) -> None:
    kind = BatchCostsComponent
    if said:
        assert said in problem(written, kind)
        return
    made = defined(written, kind)
    assert [asset.key for asset in made.assets or []] == [dg.AssetKey("batch_costs")]  # type: ignore[union-attr]
    schedules = list(made.schedules or [])
    assert len(schedules) == (0 if "schedule" in written else 1)
    for schedule in schedules:
        assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
