"""`batch-pipeline skill`, and that it and llms.txt say what is."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

import batch_pipeline
from batch_pipeline.cli.main import main
from batch_pipeline.cli.skill import skill_text
from batch_pipeline_tests.docs.pages import GUIDES, PAGES, ROOT
from batch_pipeline_tests.docs.test_links import linked

LLMS = ROOT / "llms.txt"
CODE = re.compile(r"`([^`\n]+)`")
FLAG = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


def run(*words: str) -> Any:
    return CliRunner().invoke(main, ["skill", *words])


def body(text: str) -> str:
    """Return what the skill and llms.txt share."""
    found = re.search(
        r"^## Install\n.*?claude_emulator\.bill[^\n]*\n", text, re.DOTALL | re.MULTILINE
    )
    assert found
    return found.group()


def fields(kind: Any) -> list[str]:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return [*kind.model_fields]


def test_the_skill_says_what_llms_txt_says() -> None:
    assert body(skill_text()) == body(LLMS.read_text())


def test_every_public_name_is_in_it() -> None:
    text = LLMS.read_text()
    lacking = [one for one in batch_pipeline.__all__ if not re.search(rf"\b{one}\b", text)]
    assert not lacking


def test_its_fields_are_those_of_the_classes() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| (.*) \|$", LLMS.read_text(), re.MULTILINE)
    named = {name: CODE.findall(cells) for name, cells in rows}
    assert len(named) == 21
    assert named == {name: fields(getattr(batch_pipeline, name)) for name in named}


def test_its_commands_and_flags_are_there_and_it_has_them_all() -> None:
    text = LLMS.read_text()
    named: set[str] = set()
    for code in CODE.findall(text):
        if code.startswith("batch-pipeline "):
            name = code.split()[1]
            named.add(name)
            assert name in main.commands, code
            options = [one for one in main.commands[name].params if isinstance(one, click.Option)]
            assert {*FLAG.findall(code)} <= {flag for one in options for flag in one.opts}, code
    assert named == set(main.commands)
    everyones = {
        flag for command in main.commands.values() for one in command.params for flag in one.opts
    }
    ours = text.replace(next(line for line in text.splitlines() if "dg scaffold" in line), "")
    alone = {
        flag for code in CODE.findall(ours) for flag in FLAG.findall(code) if flag.startswith("--")
    }
    assert alone <= everyones


def test_llms_txt_leads_to_every_page() -> None:
    found = linked(LLMS)
    assert all(path.exists() for path in found)
    assert {*PAGES} - {*GUIDES} <= found
    assert ROOT / "docs" / "howto" / "index.md" in found  # it leads to the others


def test_what_it_shows_in_python_loads() -> None:
    [shown] = re.findall(r"```python\n(.*?)```", LLMS.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(shown, names)
    assert names["defs"].resolve_job_def("ticket_labels_submit")


def test_it_is_written_as_a_skill_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        done = run("--install", str(tmp_path))
        assert done.exit_code == 0, done.output
    written = (tmp_path / "batch-pipeline" / "SKILL.md").read_text()
    assert written == run().output == skill_text()
    front = yaml.safe_load(written.split("---")[1])
    assert front["name"] == "batch-pipeline" and set(front) == {"name", "description"}
    assert 40 < len(front["description"]) <= 1024


def test_without_a_folder_it_goes_where_agents_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--install").exit_code == 0
    assert Path(".claude/skills/batch-pipeline/SKILL.md").exists()


def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "batch-pipeline" / "SKILL.md"
    target.parent.mkdir()
    target.write_text("mine")
    done = run("--install", str(tmp_path))
    assert done.exit_code == 1 and "left as it is" in done.output
    assert target.read_text() == "mine"


def test_what_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("--install", str(tmp_path / "file"))
    assert done.exit_code == 1 and "could not be written" in done.output
