"""Dagster's own kits for components, on ours; and what a component's class may override."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing.test_cases import TestOpCustomization as OpKit
from dagster.components.testing.test_cases import TestTranslation as TranslationKit

from batch_pipeline import BatchPipelineComponent, BatchStore, ClaudeBatches
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.definitions.conftest import RECORDS
from batch_pipeline_tests.definitions.test_component import attributes, complete, loaded, problem

RAN: list[str] = []


class TestTranslation(TranslationKit):
    def test_translation(
        self, attributes: dict[str, Any], assertion: Any, key_modifier: Any
    ) -> None:
        if "partitions_def" in attributes:
            # Each partition is asked by itself, by the column that tells it: no stage has its own.
            said = problem(make(translation=attributes))
            assert "declare them with partitions and partition_column" in said
            return
        key = dg.AssetKey(["invoices", "records"])
        with loaded(make(translation=attributes)) as (_, definitions):
            wanted = key_modifier(key) if key_modifier else key
            graph = complete(definitions)
            (spec,) = [one for one in graph.resolve_all_asset_specs() if one.key == wanted]
            assert assertion(spec)
            dg.Definitions.validate_loadable(graph)


class TestOpCustomization(OpKit):
    def test_op_customization(self, attributes: dict[str, Any], assertion: Any) -> None:
        with loaded(make(op=attributes)) as (component, definitions):
            assert component.op is not None and assertion(component.op)
            ops = [
                one.op for one in definitions.assets or [] if isinstance(one, dg.AssetsDefinition)
            ]
            assert all(op.tags.items() >= attributes.get("tags", {}).items() for op in ops)
            if "name" in attributes:
                assert {op.name for op in ops} == {
                    f"my_op__{stage}" for stage in ("records", "requests", "batches", "results")
                }
            if "backfill_policy" in attributes:
                assert component.pipeline().backfill_policy == dg.BackfillPolicy.single_run()
            dg.Definitions.validate_loadable(complete(definitions))


def make(**fields: Any) -> dict[str, Any]:
    return attributes(**fields)


def test_dagsters_words_are_on_the_assets() -> None:
    fields = make(
        owners=["team:finance"],
        kinds=["invoice"],
        automation_condition="{{ dg.AutomationCondition.eager() }}",
        executor="multiprocess",
        asset_spec=f"{__name__}.with_skippable",
        op={"pool": "warehouse", "tags": {"dagster/priority": 3}},
        translation={
            "description": "{{ stage }} of the night",
            "metadata": {"stage": "{{ stage }}"},
        },
    )
    with loaded(fields) as (component, definitions):
        assets = {
            one.key.path[-1]: one
            for one in definitions.assets or []
            if isinstance(one, dg.AssetsDefinition)
        }
        for stage, asset in assets.items():
            (spec,) = asset.specs
            assert spec.owners == ["team:finance"] and "invoice" in spec.kinds
            assert spec.description == f"{stage} of the night" and spec.metadata["stage"] == stage
            assert (spec.automation_condition is None) == (stage == "results")
            assert spec.skippable and asset.op.pool == "warehouse"
            assert asset.op.tags["dagster/priority"] == "3"
        assert component.pipeline().executor == dg.multiprocess_executor
        assert assets["results"].specs_by_key[dg.AssetKey(["invoices", "results"])].deps


def with_skippable(spec: dg.AssetSpec) -> dg.AssetSpec:
    return spec.replace_attributes(skippable=True)


def test_two_stages_of_one_key_are_refused() -> None:
    said = problem(make(translation={"key": "same"}))
    assert "two stages have the asset key same" in said


def test_post_processing_changes_the_assets(tmp_path: Path) -> None:
    from dagster.components.testing import create_defs_folder_sandbox

    processing = {"assets": [{"target": "key:*results", "attributes": {"tags": {"gold": "yes"}}}]}
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=BatchPipelineComponent,
            defs_yaml_contents={
                "type": "batch_pipeline.BatchPipelineComponent",
                "attributes": make(),
                "post_processing": processing,
                "requirements": {"env": ["ANTHROPIC_API_KEY"]},
            },
        )
        with sandbox.load_component_and_build_defs(defs_path=folder) as (_, definitions):
            specs = {
                one.key.path[-1]: one for one in complete(definitions).resolve_all_asset_specs()
            }
            assert specs["results"].tags.get("gold") == "yes"
            assert "gold" not in specs["records"].tags


class Watched(BatchPipelineComponent):
    """A team's own component."""

    team: str = "nobody"

    def get_asset_spec(self, stage: str) -> dg.AssetSpec:
        return super().get_asset_spec(stage).merge_attributes(metadata={"team": self.team})

    def execute(self, context: dg.AssetExecutionContext, stage: str) -> Any:
        RAN.append(stage)
        return super().execute(context, stage)


def test_a_class_of_ones_own_overrides_specs_and_work(
    claude_emulator: EmulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RAN.clear()
    fields = make(
        name="packages",
        team="finance",
        source={"path": str(RECORDS), "key": "package"},
        request={"model": "claude-haiku-4-5", "max_tokens": 99, "prompt": "{{ summary }}"},
        op={"name": "night"},
        translation={"key": "lake/{{ stage }}"},
    )
    with loaded(fields, kind=f"{__name__}.Watched") as (_, definitions):
        claude = ClaudeBatches(api_key="test-key", base_url=claude_emulator.base_url)
        resources = {"claude": claude, "store": BatchStore(root=str(tmp_path / "store"))}
        whole = dg.Definitions.merge(definitions, dg.Definitions(resources=resources))
        with dg.DagsterInstance.ephemeral() as instance:
            job = whole.resolve_job_def("packages_submit")
            result = job.execute_in_process({"limit": 2}, instance=instance)
        assert result.success and RAN == ["records", "requests", "batches"]
        assert {one.asset_key.to_user_string() for one in result.get_asset_materialization_events()} == {
            "lake/records", "lake/requests", "lake/batches",
        }  # fmt: skip
        assert all(one.metadata["team"] == "finance" for one in whole.resolve_all_asset_specs())
