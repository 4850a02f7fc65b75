"""Blocks of YAML: each is read by what it is for, which its first line or its ``type`` says."""

import re
from typing import Any

import dagster as dg
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from sybil import Example

from batch_pipeline import BatchCostsComponent, BatchPipelineComponent, ClaudeBatchesComponent
from batch_pipeline.cli.project import load_project
from batch_pipeline_tests.docs.project import Project, partitions_of, pipelines_of

HEADING = re.compile(r"# *(.+)\n")
RUN_CONFIG = re.compile(r"run config of (\w+)_(submit|send)")


class YamlBlocks:
    """Runs a page's blocks: components, run config, ``dagster.yaml``, ``workspace.yaml``."""

    def __init__(self, project: Project):
        """Take where they are run."""
        self._project = project

    def __call__(self, example: Example) -> None:
        """Run one."""
        text = str(example.parsed)
        found = HEADING.match(text)
        heading = found[1].strip() if found else ""
        data = yaml.safe_load(text)
        assert isinstance(data, dict), "This YAML is no mapping."
        if run_config := RUN_CONFIG.fullmatch(heading):
            self._launch(run_config[1], run_config[2], data, example.namespace)
        elif "type" in data:
            self._load_component(text)
        elif heading == "dagster.yaml":
            (self._project.folder / heading).write_text(text)
            with dg.DagsterInstance.from_config(str(self._project.folder)) as instance:
                given = {name: instance.get_settings(name) for name in data}
                assert given == data
        elif heading == "workspace.yaml":
            (self._project.folder / heading).write_text(text)
            assert load_project(self._project.folder).declared
        else:
            raise AssertionError(
                f"Nobody reads this YAML. Say in its first line what it is: # dagster.yaml, # workspace.yaml, "
                f"# run config of NAME_submit, or give it the type of a component. It begins: {text[:60]!r}"
            )

    def _load_component(self, text: str) -> None:
        with create_defs_folder_sandbox() as sandbox:
            folder = sandbox.scaffold_component(component_cls=BatchPipelineComponent)
            (folder / "defs.yaml").write_text(text)
            with sandbox.load_component_and_build_defs(defs_path=folder) as (component, loaded):
                if isinstance(component, ClaudeBatchesComponent):
                    names = {"claude": component.claude_key, "store": component.store_key}
                    given = yaml.safe_load(text)["attributes"]
                    expected = {name for field, name in names.items() if field in given}
                    assert expected and set(loaded.resources or {}) == expected
                    return
                if isinstance(component, BatchCostsComponent):
                    complete = self._project.complete(loaded)
                    assert complete.resolve_job_def("batch_costs_update")
                    return
                assert isinstance(component, BatchPipelineComponent)
                self._project.play(self._project.complete(loaded))

    def _launch(
        self, name: str, job: str, config: dict[str, Any], namespace: dict[str, Any]
    ) -> None:
        """Launch the job with this run config; of the page's pipelines, or the project's."""
        own = [one for one in namespace.values() if isinstance(one, dg.Definitions)]
        for definitions in map(self._project.complete, [*own, self._project.definitions]):
            for pipeline in pipelines_of(definitions):
                if pipeline.name == name:
                    partition = next(partitions_of(pipeline))
                    self._project.nights(definitions, pipeline).run(job, config, partition)
                    return
        raise AssertionError(f"There is no pipeline {name} on this page, nor in the project.")
