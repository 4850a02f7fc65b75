"""Blocks of Python: they are executed, and what they define is used."""

import os
import re
import subprocess
import sys
from typing import Any

import dagster as dg
import pytest
from dagster.components.definitions import LazyDefinitions
from sybil import Example, Lexeme
from sybil.evaluators.python import PythonEvaluator

from batch_pipeline import BatchPipeline, build_definitions
from batch_pipeline.definitions.build import pipeline_of
from batch_pipeline_tests.docs.project import Project, pipelines_of

FILE = re.compile(r"# (\w+\.py)\n")


class PythonBlocks:
    """Runs a page's blocks one after the other, with the names of those before.

    A block that begins with the name of a file is saved as that, for the commands of the page: nothing is
    done with what it defines.

    Definitions are loaded, and each of their pipelines has a night; assets that are not ours are
    materialized after it. Tests are run by pytest, as a file that holds this block and no more.
    """

    def __init__(self, project: Project):
        """Take where they are run."""
        self._project = project
        self._run = PythonEvaluator()

    def __call__(self, example: Example) -> None:
        """Run one."""
        before = dict(example.namespace)
        text = example.parsed
        example.parsed = Lexeme(self._project.real(text), text.offset, text.line_offset)
        if file := FILE.match(text):
            (self._project.folder / file[1]).write_text(example.parsed)
            self._run(example)
            return
        self._project.play_a_night_if("pipelines" in text)
        self._run(example)
        new = {
            name: value
            for name, value in example.namespace.items()
            if before.get(name) is not value
        }
        if any(name.startswith("test_") for name in new):
            self._test(example.parsed)
        self._use(new)

    def _test(self, text: str) -> None:
        folder = self._project.folder / "tests"
        folder.mkdir(exist_ok=True)
        (folder / "test_block.py").write_text(text)
        python_path = os.pathsep.join(
            [str(self._project.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_block.py"],
            cwd=folder,
            env=self._project.environment | {"PYTHONPATH": python_path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr

    def _use(self, new: dict[str, Any]) -> None:
        own = list(new.values())
        loaded = [one() if isinstance(one, LazyDefinitions) else one for one in own]
        whole = [one for one in loaded if isinstance(one, dg.Definitions)]
        known = {id(pipeline) for one in whole for pipeline in pipelines_of(one)}
        whole += [
            build_definitions(one)
            for one in own
            if isinstance(one, BatchPipeline) and id(one) not in known
        ]
        there = {id(asset) for one in whole for asset in one.assets or ()}
        loose = [
            one for one in own if isinstance(one, dg.AssetsDefinition) and id(one) not in there
        ]
        if loose:
            more = dg.Definitions(assets=loose)
            whole.append(dg.Definitions.merge(self._project.definitions, more))
        for one in map(self._project.complete, whole):
            self._project.play(one)
            self._materialize_others(one)

    def _materialize_others(self, definitions: dg.Definitions) -> None:
        others = [
            one
            for one in definitions.assets or ()
            if isinstance(one, dg.AssetsDefinition) and pipeline_of(one) is None
        ]
        keys = [key for one in others if one.is_executable for key in one.keys]
        if keys:
            job = definitions.resolve_implicit_global_asset_job_def()
            job.execute_in_process(asset_selection=keys, instance=self._project.instance)
