"""A block that does not work, or that nobody would run, is an error: what runs them is not blind."""

import traceback
from pathlib import Path
from textwrap import dedent

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.docs.project import Project
from batch_pipeline_tests.docs.test_blocks import run_blocks

PIPELINE = """
from batch_pipeline import *
one = BatchPipeline(
    name="one",
    source=DuckDBSource(database="warehouse.duckdb", table="invoices", key="invoice_id"),
    request=MessageTemplate(model="claude-haiku-4-5", max_tokens=9, prompt="{{ %s }}"),
    %s
)
"""
COMPONENT = """
type: batch_pipeline.BatchPipelineComponent
attributes:
  name: one
  source: {database: warehouse.duckdb, table: invoices, key: invoice_id}
  request: {model: claude-haiku-4-5, max_tokens: 9, prompt: "{{ %s }}"%s}
"""
BROKEN = {
    "a language that nobody knows": ("ruby", "puts 1", "Nobody runs blocks of 'ruby'"),
    "no language": ("", "anything", "Say which language"),
    "a language with more behind it": ("python no-check", "x = 1", "Nobody runs blocks of"),
    "Python that raises": ("python", "1 / 0", "division by zero"),
    "Python that is none": ("python", "def", "invalid syntax"),
    "a column that there is not": ("python", PIPELINE % ("nothing", ""), "nothing"),
    "a field that there is not": ("python", PIPELINE % ("supplier", "colour=1"), "colour"),
    "an asset that fails": (
        "python",
        "import dagster as dg\n@dg.asset\ndef one() -> None:\n    raise ValueError('it fails')",
        "it fails",
    ),
    "definitions that cannot be loaded": (
        "python",
        "import dagster as dg\ndefs = dg.Definitions(schedules=[dg.ScheduleDefinition("
        "name='a', target=dg.AssetSelection.keys('nowhere'), cron_schedule='0 1 * * *')])",
        "nowhere",
    ),
    "a test that fails": ("python", "def test_it():\n    assert 1 == 2", "assert 1 == 2"),
    "YAML for nobody": ("yaml", "a: 1", "Nobody reads this YAML"),
    "YAML that is none": ("yaml", "a: [", "flow"),
    "a component's field that there is not": (
        "yaml",
        COMPONENT % ("supplier", ", colour: 1"),
        "colour",
    ),
    "a component's column that there is not": ("yaml", COMPONENT % ("nothing", ""), "nothing"),
    "an instance's setting that there is not": (
        "yaml",
        "# dagster.yaml\nrun_monitoring: {enabled: 7}",
        "run_monitoring",
    ),
    "run config of no pipeline": (
        "yaml",
        "# run config of two_submit\nlimit: 1",
        "no pipeline two",
    ),
    "run config that is none": ("yaml", "# run config of invoices_submit\nlimits: 1", "limits"),
    "a command that nobody knows": ("shell", "ls", "Nobody knows how to run: ls"),
    "a flag that there is not": ("shell", "batch-pipeline emulator --list-faults --all", "--all"),
    "a command of ours that there is not": ("shell", "batch-pipeline lost", "lost"),
    "a demo's flag that there is not": ("shell", "batch-pipeline demo --cheap", "--cheap"),
    "a key that there is not": ("shell", "batch-pipeline history invoices X", "exit code 1"),
    "a pipe that fails": ("shell", "batch-pipeline emulator --list-faults | grep flood", "code 1"),
    "a server that does not start": ("shell", "batch-pipeline emulator --rate x=1", "no answer"),
    "a target that there is not": ("shell", "make coffee", "coffee"),
    "a package that we do not use": ("shell", "pip install batch-pipelines", "batch-pipelines"),
    "an extra that there is not": ("shell", 'pip install "batch-pipeline[gcs]"', "there are"),
    "a module that there is not": ("shell", "python -m batch_pipeline_tests.none", "there is no"),
    "a test file that there is not": ("shell", "pytest batch_pipeline_tests/none", "there is no"),
    "a script that there is not": ("shell", ".ci/none/run", "there is no such script"),
    "a reply that is an error": ("shell", "curl http://127.0.0.1:8787/none", "exit code 22"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_block_that_does_not_work_is_an_error(
    name: str, project: Project, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    language, text, said = BROKEN[name]
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n```{language}\n{text.strip()}\n```\n")
    with pytest.raises(BaseException) as failed:
        run_blocks(page, project, claude_emulator)
    told = "".join(traceback.format_exception(failed.value))
    assert said in told
    assert f"The block is in {page}, line 3." in told


@pytest.mark.parametrize(
    "text",
    [
        "Indented:\n\n    make nothing\n",
        "1. A step:\n\n       make nothing\n",
        "<pre>make nothing</pre>\n",
        "> ```shell\n> make nothing\n> ```\n",
        "````text\n```shell\nmake nothing\n```\n````\n\n```shell\nmake nothing\n",
    ],
)
def test_code_in_any_other_form_is_an_error_or_is_run(
    text: str, project: Project, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(dedent(text))
    with pytest.raises((AssertionError, ValueError)):
        run_blocks(page, project, claude_emulator)
