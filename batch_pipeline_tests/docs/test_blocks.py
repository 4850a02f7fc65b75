"""Every block of code on every page does what it says."""

from pathlib import Path

import pytest
from sybil import Example

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.docs.pages import NIGHTS, PAGES, ROOT, TEXT, blocks
from batch_pipeline_tests.docs.project import Project
from batch_pipeline_tests.docs.python_blocks import PythonBlocks
from batch_pipeline_tests.docs.reading import ReadBlocks
from batch_pipeline_tests.docs.shell_blocks import ShellBlocks
from batch_pipeline_tests.docs.state_diagram import diagram
from batch_pipeline_tests.docs.yaml_blocks import YamlBlocks
from batch_pipeline_tests.support.extent import only_whole


def mermaid(example: Example) -> None:
    """Check that a picture was made by the script that makes it, and not by hand."""
    assert example.parsed == diagram().removeprefix("```mermaid\n").removesuffix("```\n")


def run_blocks(page: Path, project: Project, emulator: EmulatorProcess) -> None:
    """Run the blocks of a page, in their order."""
    shell = ShellBlocks(project)
    runners = {
        "python": PythonBlocks(project), "yaml": YamlBlocks(project), "shell": shell, "bash": shell,
        "mermaid": mermaid, TEXT: lambda example: None,
    }  # fmt: skip
    document = blocks(page, runners)
    document.namespace.update({"__name__": page.stem, "claude_emulator": emulator})
    for example in document.examples():
        try:
            example.evaluate()
        except BaseException as error:
            error.add_note(f"The block is in {page}, line {example.line}.")
            raise
        emulator.clear_faults()
        emulator.configure(manual=False)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=only_whole if page in NIGHTS else ()) for page in PAGES],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_blocks_of_a_page_work(
    page: Path, project: Project, claude_emulator: EmulatorProcess
) -> None:
    run_blocks(page, project, claude_emulator)
    if page.name == "tutorial.md":  # the first night, one that asks nothing, and one changed review
        assert claude_emulator.bill()["requests"] == 20 + 0 + 1


def test_the_blocks_that_are_not_run_read_well(project: Project) -> None:
    read = ReadBlocks(project)
    readers = {"python": read.python, "yaml": read.yaml, "shell": read.shell}
    for page in NIGHTS:
        document = blocks(page, {**readers, TEXT: lambda example: None})
        document.namespace.update({"__name__": page.stem, "claude_emulator": project.emulator})
        for example in document.examples():
            try:
                example.evaluate()
            except BaseException as error:
                error.add_note(f"The block is in {page}, line {example.line}.")
                raise
