"""A front door in YAML is the front door in Python; what is wrong in one is named by its place."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.utils import DefsFolderSandbox
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from batch_pipeline import (
    BatchPipelineComponent,
    Classify,
    Extract,
    Score,
    Summarize,
    Translate,
)
from batch_pipeline_tests.definitions.test_component_errors import loading_says

HERE = "batch_pipeline_tests.definitions.test_component_tasks"
ABOUT = {
    "name": "tickets",
    "source": {"database": "warehouse.duckdb", "table": "tickets", "key": "ticket_id"},
}
COMMON: dict[str, Any] = {"model": "claude-haiku-4-5", "column": "body"}
MEANS = {"bug {{ x }}": "it {% breaks %} {{ env.HOME }}", "other": None}


class Order(BaseModel):
    """What a text may hold."""

    total: float


SAME = [
    (
        {
            "task": "classify",
            "labels": MEANS,
            "multi": True,
            "cache": "5m",
            "cache_seed": True,
            "betas": ["x"],
        },
        Classify(MEANS, multi=True, cache="5m", cache_seed=True, betas=["x"], **COMMON),
    ),
    (
        {"task": "classify", "labels": ["a", "{{ b }}"], "prompt": "{{ body }}{{ more }}"},
        Classify(["a", "{{ b }}"], prompt="{{ body }}{{ more }}", **COMMON),
    ),
    (
        {"task": "extract", "fields": {"total": "number, the {{ sum }}", "size": ["S", "L"]}},
        Extract({"total": "number, the {{ sum }}", "size": ["S", "L"]}, **COMMON),
    ),
    ({"task": "extract", "fields": f"{HERE}.Order"}, Extract(Order, **COMMON)),
    (
        {"task": "summarize", "words": 7, "max_tokens": 99, "max_tokens_limit": 200},
        Summarize(words=7, max_tokens=99, max_tokens_limit=200, **COMMON),
    ),
    (
        {"task": "translate", "to": "{{ 'Ger' + 'man' }}", "prompt_file": "prompt.md"},
        Translate("German", prompt="From a file: {{ body }}", **COMMON),
    ),
    (
        {"task": "score", "rubric": {1: "calm {{ y }}", 9: "angry"}, "scale": [1, 9]},
        Score({1: "calm {{ y }}", 9: "angry"}, scale=[1, 9], **COMMON),
    ),
    (
        {"task": "score", "rubric": "How {{ angry }}", "system": "Mine {{ body }}", "version": "2"},
        Score("How {{ angry }}", system="Mine {{ body }}", version="2", **COMMON),
    ),
]

# A request; what loading says of it, from the column on; what the schema says, if it can tell.
WRONG = [
    (
        "task: clasify\nmodel: m",
        "request.task: task is 'clasify'; it must be one of classify, extract, summarize, translate, score. Did you "
        "mean classify?",
        "'clasify' is not one of",
    ),
    (
        "task: classify\nmodel: m\ncolumn: body\nlabel: [a, b]",
        "request.label: there is no field label; did you mean labels?",
        "'the name labels' was expected",
    ),
    (
        "model: m\ncolumn: body\nmax_tokens: 9",
        "request.column: there is no field column; it needs the name task beside it, such as task: classify.",
        "'the name task beside it, such as task: classify' was expected",
    ),
    (
        "tsk: classify\nmodel: m\nmax_tokens: 9",
        "request.tsk: there is no field tsk; did you mean task?",
        "'the name task' was expected",
    ),
    (
        "task: summarize\nmodel: m\ncolumn: body\noutput: {type: object}",
        "request.output: there is no field output; it has ",
        "'output' was unexpected",
    ),
    (
        "task: classify\nmodel: m\nlabels: [a, b]",
        "request: Classify: column is missing: name the column",
        None,
    ),
    (
        "task: classify\nmodel: m\ncolumn: body\nlabels: {}",
        "request.labels: Classify: labels is empty. Name the labels",
        "{} should be non-empty",
    ),
    (
        "task: classify\nmodel: m\ncolumn: body\nlabels: [a, b, a]",
        "request.labels: Classify: labels: 'a' stands there twice. Remove one.",
        "has non-unique elements",
    ),
    (
        "task: classify\nmodel: m\ncolumn: body\nlabels: {a: x, b: y, a: z}",
        "request.labels.a: a stands there twice. Remove one.",
        None,
    ),
    (
        "task: classify\nmodel: m\ncolumn: body\nlabels: {yes: x, no: y}",
        "request.labels: Classify: labels: the label True is True; it must be a text. YAML reads yes",
        None,
    ),
    (
        "task: classify\nmodel: m\ncolumn: body\nlabels: 7",
        "request.labels is 7; it must be a mapping or a valid list.",
        "7 is not of type 'object', 'array'",
    ),
    (
        "task: extract\nmodel: m\ncolumn: body\nfields: {a: text, total: numbr}",
        "request.fields.total: Extract: fields: total is 'numbr'; it must begin with one of text, integer",
        "'numbr' does not match",
    ),
    (
        f"task: extract\nmodel: m\ncolumn: body\nfields: {HERE}.Ordr",
        f"request.fields: '{HERE}.Ordr' cannot be imported",
        None,
    ),
    (
        "task: summarize\nmodel: m\ncolumn: body\nwords: few",
        "request.words is 'few'; it must be a valid integer.",
        "'few' is not of type 'integer'",
    ),
    (
        "task: translate\nmodel: m\ncolumn: body\nto: NO",
        "request.to is False; it must be a valid string. YAML reads yes, no, on, off",
        "False is not of type 'string'",
    ),
    (
        "task: classify\nmodel: m\ncolumn: body\nlabels: [a, b]\non: x",
        "request.1: the name True is no text. YAML reads yes, no, on, off",
        "(True was unexpected)",
    ),
    (
        "task: score\nmodel: m\ncolumn: body\nrubric: {1: calm, 9: angry}",
        "request.rubric.9: Score: rubric: 9 is no score of the scale; it goes from 1 to 5.",
        None,
    ),
    (
        "task: score\nmodel: m\ncolumn: body\nrubric: x\nscale: [1, 2, 3]",
        "request.scale: Score: scale is [1, 2, 3]; it must be two whole numbers",
        "[1, 2, 3] is too long",
    ),
]


@pytest.fixture(scope="module")
def project() -> Iterator[DefsFolderSandbox]:
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.defs_folder_path / "tickets"
        folder.mkdir()
        (folder / "prompt.md").write_text("From a file: {{ body }}")
        yield sandbox


def write(project: DefsFolderSandbox, request: str) -> Path:
    folder = project.defs_folder_path / "tickets"
    head = yaml.safe_dump(
        {"type": "batch_pipeline.BatchPipelineComponent", "attributes": ABOUT}, sort_keys=False
    )
    inside = request.replace("\n", "\n    ")
    (folder / "defs.yaml").write_text(f"{head}  request:\n    {inside}\n")
    return folder


def test_a_task_in_yaml_is_the_front_door_in_python(project: DefsFolderSandbox) -> None:
    for fields, door in SAME:
        folder = write(project, yaml.safe_dump(COMMON | fields, sort_keys=False))
        with project.load_component_and_build_defs(defs_path=folder) as (component, _):
            assert isinstance(component, BatchPipelineComponent)
            assert component.pipeline().request == door.template, fields
        assert not schema_says(COMMON | fields), fields


def test_a_wrong_task_says_where_and_what_is_right(project: DefsFolderSandbox) -> None:
    for request, loading, checking in WRONG:
        folder = write(project, request)
        said = loading_says(project, folder)
        places = re.search(rf"line \d+, column \d+: attributes\.{re.escape(loading)}", said)
        assert places, f"{request}\n{said}"
        if loading.partition(" ")[0] not in ("request:", "request.labels.a:"):
            assert int(said.partition("line ")[2].partition(",")[0]) > 6, said  # further in
        shown = schema_says(yaml.safe_load(request))
        assert (checking or "") in shown and bool(checking) == bool(shown), f"{request}\n{shown}"


def schema_says(request: Any) -> str:
    """What ``dg check yaml`` and an editor say of a request, by the schema."""
    model = BatchPipelineComponent.get_model_cls()
    assert model is not None
    validator = Draft202012Validator(model.model_json_schema())
    return "\n".join(one.message for one in validator.iter_errors({**ABOUT, "request": request}))


@pytest.mark.parametrize("task", [Classify, Extract, Score, Summarize, Translate])
def test_a_door_has_each_of_its_fields_in_yaml(task: type[Any]) -> None:
    model = BatchPipelineComponent.get_model_cls()
    assert model is not None
    shown = model.model_json_schema()["$defs"][f"{task.__name__}Fields"]["properties"]
    assert not {one.name for one in dataclasses.fields(task) if one.init} - set(shown)
