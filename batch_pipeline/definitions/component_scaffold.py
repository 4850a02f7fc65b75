"""What ``dg scaffold defs`` writes: a pipeline that loads and runs as it is, to be changed from there."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import dagster as dg
import yaml
from pydantic import BaseModel, ConfigDict, Field

from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import NAME

COMPONENT = "batch_pipeline.BatchPipelineComponent"
RESOURCES = "batch_pipeline.ClaudeBatchesComponent"
MOST_COLUMNS = 20
VARIABLE = "ANTHROPIC_API_KEY"
OUTPUT = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "description": "What it is about, in one to three words."},
        "summary": {"type": "string", "description": "What it says, in one sentence."},
    },
    "required": ["topic", "summary"],
    "additionalProperties": False,
}
_TEST = '''"""The pipeline {name} asks about three of its records. A stand-in answers: it costs nothing."""

import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from batch_pipeline import (
    BatchPipelineComponent,
    BatchStore,
    ClaudeBatches,
    DuckDBTable,
    build_definitions,
)

PROJECT = Path(__file__).parents[1]


def test_{name}_answers_three_records(claude_emulator, tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    if not Path({database!r}).exists():
        pytest.skip("there is no " + {database!r})
    tree = dg.ComponentTree.for_project(PROJECT)
    (pipeline,) = (
        component.pipeline()
        for component in tree.get_all_components(of_type=BatchPipelineComponent)
        if component.name == {name!r}
    )
    table = DuckDBTable(database=str(tmp_path / "answers.duckdb"), table="answers")
    defs = build_definitions(
        replace(pipeline, destination=table, budget=None),
        claude=ClaudeBatches(api_key="any", base_url=claude_emulator.base_url),
        store=BatchStore(root=str(tmp_path / "store")),
    )
    with dg.DagsterInstance.ephemeral() as instance:

        def run(job, **config):
            return defs.resolve_job_def(job).execute_in_process(config, instance=instance)

        assert run("{name}_submit", limit=3).success
        for _ in range(60):
            assert run("{name}_collect").success
            if table.exists() and table.row_count() == 3:
                return
            time.sleep(0.5)
    pytest.fail("the batch did not end within half a minute")
'''
_PYTHON = '''"""The pipeline of this folder: one question about every record."""

import json
from pathlib import Path

import dagster as dg

from batch_pipeline import BatchPipelineComponent, DuckDBSource, DuckDBTable, MessageTemplate

HERE = Path(__file__).parent


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> BatchPipelineComponent:
    return BatchPipelineComponent(
        name={name},
        source=DuckDBSource(database={database}, table={table}, key={key}),
        request=MessageTemplate(
            model={model},
            max_tokens={max_tokens},
            prompt=(HERE / "prompt.md").read_text(encoding="utf-8"),
            output=json.loads((HERE / "output.json").read_text(encoding="utf-8")),
        ),
        output_prefix={output_prefix},
        destination=DuckDBTable(database={database}, table={answers}),
        schedule={schedule},
    )
'''


class PipelineParams(BaseModel):
    """What a new pipeline is about."""

    model_config = ConfigDict(extra="forbid")

    database: str = Field(
        "warehouse.duckdb", description="A DuckDB file, relative to the project's folder."
    )
    table: str | None = Field(
        None, description="The table with the records. None: as the pipeline is named."
    )
    key: str = Field("id", description="The column that names a record; several with commas.")
    model: str = Field("claude-haiku-4-5", description="The Claude model.")
    max_tokens: int = Field(256, ge=1, description="The longest answer, in tokens.")


class PipelineScaffolder(dg.Scaffolder[PipelineParams]):
    """Writes a pipeline, its prompt and output schema, a test, and once in a project the resources."""

    @classmethod
    def get_scaffold_params(cls) -> type[PipelineParams]:
        """Return what ``dg scaffold defs`` takes as options."""
        return PipelineParams

    def scaffold(self, request: dg.ScaffoldRequest[PipelineParams]) -> None:
        """Write it."""
        folder = request.target_path.parent if request.append else request.target_path
        name, params = pipeline_name(folder), request.params
        table = params.table or name
        keys = [key.strip() for key in params.key.split(",") if key.strip()]
        values: dict[str, Any] = {
            "name": name,
            "database": params.database,
            "table": table,
            "key": keys[0] if len(keys) == 1 else keys,
            "model": params.model,
            "max_tokens": params.max_tokens,
            "output_prefix": "ai_",
            "answers": f"{name}_answers",
            "schedule": "0 23 * * *",
        }
        columns = columns_to_name(request.project_root, params.database, table, keys)
        write_new(folder / "prompt.md", prompt_about(table, columns))
        write_new(folder / "output.json", json.dumps(OUTPUT, indent=2) + "\n")
        if request.scaffold_format == "python":
            write_new(folder / "component.py", _python(values))
        else:
            kind = COMPONENT if request.type_name.startswith("batch_pipeline.") else None
            text = _yaml(kind or request.type_name, _attributes(values))
            if request.append:
                text = request.target_path.read_text(encoding="utf-8") + f"---\n{text}"
            target = request.target_path if request.append else folder / "defs.yaml"
            target.write_text(text, encoding="utf-8")
        if (defs := _defs_folder(folder)) is not None and not _has_resources(defs):
            write_new(defs / "batch_resources" / "defs.yaml", _resources())
        if request.project_root is not None:
            write_new(
                request.project_root / "tests" / f"test_{name}.py",
                _TEST.format(name=name, database=params.database),
            )


class ResourcesScaffolder(dg.Scaffolder):
    """Writes the two resources."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        """Write them."""
        if request.scaffold_format == "python":
            raise InputError(
                f"{RESOURCES} is for YAML: leave --format out. In Python define ClaudeBatches and BatchStore as "
                "resources of dg.Definitions."
            )
        if request.append:
            text = request.target_path.read_text(encoding="utf-8")
            request.target_path.write_text(f"{text}---\n{_resources()}", encoding="utf-8")
        else:
            write_new(request.target_path / "defs.yaml", _resources())


def pipeline_name(folder: Path) -> str:
    """Return a pipeline's name, made of the folder's."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", folder.name).strip("_")
    return name if NAME.fullmatch(name) else f"pipeline_{name}"


def columns_to_name(
    root: Path | None, database: str, table: str, keys: Sequence[str]
) -> list[str] | None:
    """Return what a prompt may name of a table, if it is there already."""
    path = Path(database) if root is None else root / database
    if not path.exists():
        click.echo(f"There is no {path} yet: the prompt shows each record whole.")
        return None
    from batch_pipeline.records.reading import open_source, source_columns
    from batch_pipeline.records.sources import DuckDBSource

    try:
        source = DuckDBSource(database=str(path), table=table, key=keys, lock_wait_seconds=2)
        with open_source(source) as connection:
            found = source_columns(connection)
    except InputError as error:
        click.echo(f"The prompt shows each record whole, and before it runs: {error}")
        return None
    key = {one.casefold() for one in keys}
    named = [one for one, kind in found.items() if one.casefold() not in key and kind != "BLOB"]
    return named[:MOST_COLUMNS] or None


def prompt_about(table: str, columns: Sequence[str] | None) -> str:
    """Return a prompt that names columns of a table; None: it shows each record whole."""
    lines = ["What is this record about, and what does it say?", ""]
    if columns is None:
        return "\n".join([*lines, "{{ record | tojson }}", ""])
    for column in columns:
        plain = column.isidentifier() and column.isascii() and column not in _NOT_VARIABLES
        value = column if plain else f"record[{json.dumps(column, ensure_ascii=False)}]"
        lines.append(f"{column.replace('{', ' ')}: {{{{ {value} }}}}")
    return "\n".join([*lines, ""])


_NOT_VARIABLES = frozenset(
    "record and or not in is if else true false none True False None loop self range dict lipsum cycler joiner "
    "namespace".split()
)
"""Words that mean something else in Jinja."""


def _attributes(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": values["name"],
        "source": {name: values[name] for name in ("database", "table", "key")},
        "request": {
            "model": values["model"],
            "max_tokens": values["max_tokens"],
            "prompt_file": "prompt.md",
            "output_file": "output.json",
        },
        "output_prefix": values["output_prefix"],
        "destination": {"database": values["database"], "table": values["answers"]},
        "schedule": values["schedule"],
    }


def _python(values: dict[str, Any]) -> str:
    """Return the pipeline in Python; what JSON writes of texts, lists and numbers, Python reads."""
    return _PYTHON.format(
        **{name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    )


def _resources() -> str:
    attributes = {
        "claude": {"api_key": f"{{{{ env.{VARIABLE} }}}}"},
        "store": {"root": "data/batches"},
    }
    return _yaml(RESOURCES, attributes, requirements={"env": [VARIABLE]})


def _yaml(kind: str, attributes: dict[str, Any], **more: Any) -> str:
    return "\n".join(
        yaml.safe_dump(part, sort_keys=False, allow_unicode=True)
        for part in ({"type": kind}, {"attributes": attributes}, more)
        if part
    )


def _defs_folder(folder: Path) -> Path | None:
    """Return the project's folder of definitions that a component is written to."""
    return next((one for one in folder.parents if one.name == "defs"), None)


def _has_resources(defs: Path) -> bool:
    return any(re.search(r"ClaudeBatchesComponent|ClaudeBatches\(", text) for text in _texts(defs))


def _texts(defs: Path) -> Iterator[str]:
    for path in defs.rglob("*"):
        if path.suffix in (".py", ".yaml", ".yml") and path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace")


def write_new(path: Path, text: str) -> bool:
    """Write a file, unless there is one; whether it was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return False
    path.write_text(text, encoding="utf-8")
    return True
