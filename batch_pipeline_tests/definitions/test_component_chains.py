"""A component's source may be the results of another component, found by its name."""

from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox

from batch_pipeline import BatchPipelineComponent
from batch_pipeline_tests.definitions.test_component import attributes

KIND = "batch_pipeline.BatchPipelineComponent"
COMPLAINTS: dict[str, Any] = {"results": "invoices", "where": "answer = 'late'"}


def project(*components: dict[str, Any]) -> dg.Definitions:
    """The definitions of a project with these components."""
    with create_defs_folder_sandbox() as sandbox:
        for values in components:
            sandbox.scaffold_component(
                component_cls=BatchPipelineComponent,
                defs_path=values["name"],
                defs_yaml_contents={"type": KIND, "attributes": values},
            )
        with sandbox.build_all_defs() as definitions:
            return definitions


def said_of(*components: dict[str, Any]) -> str:
    with pytest.raises(Exception) as failed:
        project(*components)
    said, error = [], failed.value
    while error is not None:
        said.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def test_the_first_is_found_by_its_name_wherever_it_stands() -> None:
    # Components are loaded by the names of their folders: the second before the first.
    second = attributes(name="complaints", source=COMPLAINTS)
    third = attributes(name="again", source={"results": "complaints", "key": ["invoice_id"]})
    first = attributes(key_prefix=["finance"])
    definitions = project(first, second, third)
    graph = definitions.resolve_asset_graph()
    assert graph.get(dg.AssetKey(["complaints", "records"])).parent_keys == {
        dg.AssetKey(["finance", "invoices", "results"])
    }
    assert graph.get(dg.AssetKey(["again", "records"])).parent_keys == {
        dg.AssetKey(["complaints", "results"])
    }
    assert {one.name for one in definitions.sensors or []} >= {"complaints_arrivals"}


def test_what_is_not_found_or_reads_itself_is_refused_by_name() -> None:
    wrong = attributes(name="complaints", source={"results": "invoice"})
    said = said_of(attributes(), wrong)
    assert "Did you mean `invoices`? It has: invoices." in said
    there = attributes(name="b", source={"results": "a"})
    back = attributes(name="a", source={"results": "b"})
    assert " reads a reads b" in said_of(there, back) or " reads b reads a" in said_of(there, back)
    assert "is no SQL" in said_of(attributes(source={"results": "a", "where": "answer ="}))
    assert "wherre" in said_of(attributes(source={"results": "a", "wherre": "true"}))
