"""The tables of the pages have what the code has: every field and default, flag and fault."""

import dataclasses
import enum
import re
from typing import Any

import click
import pytest
from pydantic_core import PydanticUndefined

from batch_pipeline import (
    Arrivals,
    BatchPipeline,
    BatchStore,
    Classify,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    Extract,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
    Score,
    Summarize,
    Translate,
)
from batch_pipeline.cli.main import main
from batch_pipeline.definitions.assets.define import AskConfig
from batch_pipeline.definitions.metadata import RESERVED
from batch_pipeline.emulator.faults.kind import KINDS
from batch_pipeline.emulator.options import Options
from batch_pipeline.requests.tasks.task import Task
from batch_pipeline_tests.docs.pages import ROOT

CODE = re.compile(r"`([^`]+)`")
REQUIRED = object()
# How the page says a default that it does not write as the code does.
IN_WORDS = {
    ("BatchPipeline", "group_name"): "the name",
    ("BatchPipeline", "executor"): "in process",
    ("Options", "organization"): "an id",
}
DECLARED = {
    BatchPipeline: "pipelines", MessageTemplate: "pipelines", DuckDBSource: "pipelines",
    ParquetSource: "pipelines", DuckDBTable: "pipelines", ParquetDataset: "pipelines",
    Task: "pipelines", Classify: "pipelines", Extract: "pipelines", Summarize: "pipelines",
    Translate: "pipelines", Score: "pipelines",
    ClaudeBatches: "pipelines", BatchStore: "pipelines", Arrivals: "arrivals", Options: "emulator",
}  # fmt: skip
HEADINGS = {
    Options: "option"
}  # the first word of the table; else `field` under a heading, or the name


def tables(page: str) -> dict[str, list[list[str]]]:
    """Return a page's tables by their first word (after the heading, when that is ``field``)."""
    found: dict[str, list[list[str]]] = {}
    heading, name = "", ""
    for line in (ROOT / "docs" / f"{page}.md").read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").strip()
        if not line.startswith("|"):
            name = ""
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not name:
            first = cells[0].strip("`")
            name = heading if first == "field" else first
            found[name] = []
        elif set(line) - set("|-: "):
            found[name].append(cells)
    return found


def defaults(kind: Any) -> dict[str, Any]:
    """Return the fields of a class with their defaults; of a front door, its own."""
    if issubclass(kind, Task) and kind is not Task:
        shared = defaults(Task)
        return {name: one for name, one in _of_dataclass(kind).items() if name not in shared}
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(kind)
    return {
        name: REQUIRED if field.default is PydanticUndefined else field.default
        for name, field in kind.model_fields.items()
    }


def _of_dataclass(kind: Any) -> dict[str, Any]:
    return {
        field.name: field.default_factory() if field.default_factory is not dataclasses.MISSING
        else REQUIRED if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(kind)
    }  # fmt: skip


def as_code(text: str) -> Any:
    """Return a default that a page shows."""
    return text if text.isupper() else eval(text)


@pytest.mark.parametrize("kind", DECLARED, ids=lambda kind: kind.__name__)
def test_every_field_stands_on_the_page_with_its_default(kind: Any) -> None:
    rows = tables(DECLARED[kind])[HEADINGS.get(kind, kind.__name__)]
    column = -2 if kind is Options else 1
    shown: dict[str, Any] = {}
    for row in rows:
        names, values = CODE.findall(row[0]), CODE.findall(row[column])
        for number, name in enumerate(names):
            where = kind.__name__, name
            if where in IN_WORDS:
                assert row[column] == IN_WORDS[where]
                shown[name] = defaults(kind)[name]
            elif kind is DuckDBSource and name in ("query", "table"):
                shown[name] = None  # one of them is needed
            else:
                shown[name] = as_code(values[number]) if values else REQUIRED
    expected = {
        name: value.name if isinstance(value, enum.Enum) else value
        for name, value in defaults(kind).items()
    }
    assert shown == expected


def test_every_field_of_the_run_config_stands_on_the_page() -> None:
    rows = tables("pipelines")["Run config of NAME_submit"]
    assert [CODE.findall(row[0])[0] for row in rows] == [*AskConfig.model_fields]


def test_every_column_of_the_results_stands_on_the_page() -> None:
    assert [name for row in tables("results")["column"] for name in CODE.findall(row[0])] == [
        *RESERVED
    ]


def test_every_command_and_flag_stands_on_the_page() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    emulator = (ROOT / "docs" / "emulator.md").read_text()
    for name, command in main.commands.items():
        assert f"`batch-pipeline {name}" in page
        text = page + (emulator if name == "emulator" else "")
        for option in command.params:
            if isinstance(option, click.Option):
                flag = max(option.opts, key=len)
                assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text), f"{name} {flag}"


def test_every_fault_stands_on_the_page() -> None:
    rows = tables("emulator")["fault"]
    assert {name for row in rows for name in CODE.findall(row[0])} == {*KINDS}
