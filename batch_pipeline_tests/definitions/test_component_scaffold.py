"""What `dg scaffold defs` writes loads, and answers records as it is: its own test says so here."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import dagster as dg
import duckdb
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.utils import DefsFolderSandbox

from batch_pipeline import BatchPipelineComponent
from batch_pipeline.emulator import EmulatorProcess

PARAMS = {"database": "shop.duckdb", "table": "tickets", "key": "ticket_id"}


def scaffolded(
    sandbox: DefsFolderSandbox,
    form: Literal["yaml", "python"] = "yaml",
    name: str = "tickets",
    **more: Any,
) -> Path:
    with duckdb.connect(str(sandbox.project_root / "shop.duckdb")) as con:
        con.execute(
            "create or replace table tickets as select i as ticket_id, 'help ' || i as subject,"
            """ 'text' as "the body", 'x'::blob as picture from range(5) t(i)"""
        )
    return sandbox.scaffold_component(
        component_cls=BatchPipelineComponent,
        defs_path=name,
        scaffold_params={**PARAMS, **more},
        scaffold_format=form,
    )


def own_test(project: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_test", project / "tests" / "test_tickets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.every_form
@pytest.mark.parametrize("form", ["yaml", "python"])
def test_it_runs_a_night_unedited(
    form: Literal["yaml", "python"],
    claude_emulator: EmulatorProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with create_defs_folder_sandbox() as sandbox:
        folder = scaffolded(sandbox, form)
        prompt = (folder / "prompt.md").read_text()
        assert prompt.endswith('\n\nsubject: {{ subject }}\nthe body: {{ record["the body"] }}\n')
        monkeypatch.syspath_prepend(str(sandbox.project_root / "src"))
        module = own_test(sandbox.project_root)
        module.test_tickets_answers_three_records(claude_emulator, tmp_path, monkeypatch)
        with sandbox.build_all_defs() as definitions:
            dg.Definitions.validate_loadable(definitions)


def test_the_resources_are_written_once_and_nothing_is_overwritten() -> None:
    with create_defs_folder_sandbox() as sandbox:
        scaffolded(sandbox)
        resources = sandbox.defs_folder_path / "batch_resources" / "defs.yaml"
        resources.write_text(resources.read_text().replace("data/batches", "elsewhere"))
        folder = scaffolded(sandbox, name="more-tickets", key="a, b", model="claude-sonnet-5")
        assert "elsewhere" in resources.read_text()
        written = yaml.safe_load((folder / "defs.yaml").read_text())
        assert written["type"] == "batch_pipeline.BatchPipelineComponent"
        assert written["attributes"]["name"] == "more_tickets"
        assert written["attributes"]["source"]["key"] == ["a", "b"]
        # The table has no such key: the prompt names no column of it.
        assert "{{ record | tojson }}" in (folder / "prompt.md").read_text()
        assert len(list(sandbox.defs_folder_path.rglob("defs.yaml"))) == 3
