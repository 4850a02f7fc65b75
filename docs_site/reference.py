"""Pages that are made from the code each time the site is built."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

KINDS = {
    "Pipelines": [
        "BatchPipeline",
        "Schedule",
        "SendBetween",
        "AnswerBy",
        "Arrivals",
        "Budget",
        "Threshold",
        "Escalate",
    ],
    "Questions": ["MessageTemplate", "Classify", "Extract", "Summarize", "Translate", "Score"],
    "Sources and destinations": [
        "DuckDBSource",
        "ParquetSource",
        "RequestFiles",
        "DuckDBTable",
        "ParquetDataset",
    ],
    "Resources": ["ClaudeBatches", "BatchStore"],
    "Definitions": ["build_definitions", "batch_costs"],
    "Components": ["BatchPipelineComponent", "ClaudeBatchesComponent", "BatchCostsComponent"],
    "Errors": ["BatchPipelineError", "InputError", "HeldError", "StoreError"],
}
"""The chapters of the page on Python. What is public and in none of them comes under "Further"."""

MEMBERS = {
    "ParquetDataset": ["files"],
    "BatchPipelineComponent": ["get_asset_spec", "execute"],
}
"""What of a class is for users, besides its fields."""

TASK = """### Task

What all of the front doors have besides, by keyword.

::: batch_pipeline.requests.tasks.task.Task
    options:
      show_root_heading: false
      show_root_toc_entry: false
      members: [template]"""

COMMANDS = """# Command line

Made from the commands themselves. [What does each command do?](../cli.md) tells when and why.

::: mkdocs-click
    :module: batch_pipeline.cli.main
    :command: main
    :prog_name: batch-pipeline
    :depth: 1
"""


def python() -> str:
    """Return the page on what can be imported from `batch_pipeline`."""
    import batch_pipeline

    placed = {name for names in KINDS.values() for name in names}
    further = [name for name in batch_pipeline.__all__ if name not in placed]
    chapters = KINDS | ({"Further": further} if further else {})
    parts = [
        "# Python",
        "What can be imported from `batch_pipeline`, from its docstrings. The tables of all fields, with what a change of them "
        "means, are on [pipelines](../pipelines.md).",
    ]
    for chapter, names in chapters.items():
        parts.append(f"## {chapter}")
        for name in names:
            members = ", ".join(MEMBERS.get(name, ()))
            parts.append(f"::: batch_pipeline.{name}\n    options:\n      members: [{members}]")
            if name in chapters["Resources"]:
                parts.append(_resource(getattr(batch_pipeline, name)))
            elif name in chapters["Components"]:
                parts.append(f"Its fields: [YAML](yaml.md#batch_pipeline{name.lower()}).")
        if chapter == "Questions":
            parts.append(TASK)
    return "\n\n".join(parts) + "\n"


def _resource(kind: Any) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        default = "needed" if field.is_required() else f"`{field.default!r}`"
        shown = (
            getattr(field.annotation, "__name__", "")
            if isinstance(field.annotation, type)
            else str(field.annotation).replace("typing.", "")
        )
        rows.append(f"| `{name}` | `{shown}` | {default} | {field.description or ''} |")
    return "\n".join(rows)


def yaml() -> str:
    """Return the page on the components' fields, from their JSON Schemas."""
    from batch_pipeline import BatchCostsComponent, BatchPipelineComponent, ClaudeBatchesComponent

    parts = [
        "# YAML",
        "What may stand under `attributes` of each component, from its JSON Schema, which `dg` and editors show, too. "
        "[In YAML](../pipelines.md#in-yaml) has examples, and what the fields mean is on [pipelines](../pipelines.md).",
    ]
    mappings: dict[str, Mapping[str, Any]] = {}
    for component in (BatchPipelineComponent, ClaudeBatchesComponent, BatchCostsComponent):
        schema = component.model().model_json_schema()
        mappings |= schema.get("$defs", {})
        parts += [
            f"## batch_pipeline.{component.__name__}",
            schema.get("description", ""),
            _table(schema),
        ]
    parts.append("## Mappings")
    for name, schema in sorted(mappings.items()):
        if schema.get("properties") and name.endswith("Fields"):
            parts += [f"### {_title(name)}", schema.get("description", ""), _table(schema)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(name: str) -> str:
    return name.removesuffix("Fields")


def _table(schema: Mapping[str, Any]) -> str:
    needed = schema.get("required", ())
    rows = ["| field | what it takes | default | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        default = "needed" if name in needed else _code(field.get("default"))
        meaning = " ".join(str(field.get("description", "")).split()).replace("|", "\\|")
        if examples := field.get("examples"):
            meaning += f" Such as {_code(examples[0])}."
        rows.append(f"| `{name}` | {', '.join(_kinds(field))} | {default} | {meaning} |")
    return "\n".join(rows)


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _kinds(field: Mapping[str, Any]) -> list[str]:
    """Return what a field takes: links to mappings, single values, types."""
    names = [f"[{_title(one)}](#{_title(one).lower()})" for one in _mappings(field)]
    values = [_code(one) for one in _values(field)]
    taken = field.get("type", [])
    types = [taken] if isinstance(taken, str) else taken
    if _takes_a_template(field) and len(types) > 1:
        types = [one for one in types if one != "string"]
    plain = [
        one
        for one in types
        if one != "null" and not (one == "object" and names) and not (one == "string" and values)
    ]
    return list(dict.fromkeys([*names, *values, *plain])) or ["anything"]


def _takes_a_template(field: Mapping[str, Any]) -> bool:
    """Return whether text is taken only because a template may stand in any field's place."""
    rules = [field, *field.get("allOf", ())]
    return any("not" in rule.get("if", {}) for rule in rules)


def _mappings(value: Any) -> Iterator[str]:
    for mapping in _all_mappings(value):
        if isinstance(name := mapping.get("$ref"), str) and name.endswith("Fields"):
            yield name.rpartition("/")[2]


def _values(field: Any) -> Iterator[Any]:
    for mapping in _all_mappings(field):
        if isinstance(found := mapping.get("enum"), list):
            yield from (one for one in found if not (isinstance(one, str) and one.isupper()))


def _all_mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and those in it; not what only tells its alternatives apart."""
    if isinstance(value, Mapping):
        yield value
        for name, one in value.items():
            if name not in ("if", "properties"):
                yield from _all_mappings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _all_mappings(one)


MADE = {
    "reference/python.md": python,
    "reference/yaml.md": yaml,
    "reference/commands.md": lambda: COMMANDS,
}
"""The pages, by what they are called on the site."""
