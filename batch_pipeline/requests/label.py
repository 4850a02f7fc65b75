"""The label of a pipeline: the column of the source with the right answer, and what it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batch_pipeline.errors import InputError
from batch_pipeline.requests.compiled import BESIDES, CompiledTemplate, columns_of
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.requests.schema_reader import SchemaReader
from batch_pipeline.requests.template import MessageTemplate

NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")
TEXTS = ("VARCHAR", "DATE", "TIME", "UUID")


@dataclass(frozen=True)
class Label:
    """What answers are compared with.

    Attributes:
        column: the column of the source that holds the right answer, where it is known.
        answer: the column of the results that is compared with it.
        kind: ``class``: one of some labels; ``number``; or ``text``.
    """

    column: str
    answer: str
    kind: Literal["class", "number", "text"]


def label_of(label: Any, template: MessageTemplate, output_prefix: str) -> Label:
    """Return what a declared label means.

    Args:
        label: the source's column; or a mapping of the output's field to that column.
        template: the question; the columns of all variants' answers are the same.
        output_prefix: the pipeline's.

    Raises:
        InputError: it is no label, or not plain what it is compared with.
    """
    output = OutputSchema.from_(template.output)
    kinds = {name: kind for name, kind in columns_of(template) if name not in BESIDES}
    example = f'{{"{next(iter(kinds), "field")}": "column"}}'
    if isinstance(label, str) and label:
        if len(kinds) != 1:
            raise InputError(
                f"label is {label!r}, and the output has the fields {', '.join(kinds)}: say which one is compared with "
                f"it, such as label={example}."
            )
        field, column = next(iter(kinds)), label
    elif isinstance(label, Mapping) and len(label) == 1:
        field, column = next(iter(label.items()))
        if field not in kinds:
            raise InputError(
                f"label compares the field {field!r}, which the output does not have. It has: {', '.join(kinds)}."
            )
    else:
        field, column = "", None
    if not isinstance(column, str) or not column:
        raise InputError(
            f"label is {label!r}; it must be the name of the source's column that holds the right answer, or "
            f"label={example}."
        )
    return Label(column, f"{output_prefix}{field}", _kind(field, kinds[field], output))


def check_not_read(label: Label | None, question: CompiledTemplate, where: str) -> None:
    """Refuse a question that reads its own label: the right answer would stand in it.

    Raises:
        InputError: it does.
    """
    if label is None:
        return
    read = next((one for one in question.columns if one.lower() == label.column.lower()), None)
    if read is not None:
        raise InputError(
            f"{where}: the request reads the column `{read}`, which is its label: the right answer would stand in the "
            "question, and the scores would say nothing. Take it out of the request, or name another label."
        )


def agreed_columns(template: MessageTemplate, output_prefix: str) -> list[str]:
    """Return the columns of an answer by which two answers are the same: its classes; all where it has none.

    Classes are fields whose schema lists their texts, and true or false.
    """
    output = OutputSchema.from_(template.output)
    found = [(name, kind) for name, kind in columns_of(template) if name not in BESIDES]
    classes = [
        name
        for name, kind in found
        if kind == "BOOLEAN" or (output is not None and _is_enum(name, output))
    ]
    names = classes or [name for name, _ in found]
    return [f"{output_prefix}{name}" for name in names]


def _kind(field: str, kind: str, output: OutputSchema | None) -> Literal["class", "number", "text"]:
    if kind == "BOOLEAN" or (output is not None and _is_enum(field, output)):
        return "class"
    if kind.startswith(NUMBERS):
        return "number"
    if not kind.endswith("]") and kind.startswith(TEXTS):
        return "text"
    raise InputError(
        f"label is compared with the field {field!r}, whose column is of the type {kind}: only texts, numbers, and true "
        "or false can be compared. Name another field."
    )


def _is_enum(field: str, output: OutputSchema) -> bool:
    """Whether the schema lists the texts that a field can be."""
    reader = SchemaReader(output.declared)

    def resolved(part: Any) -> Mapping[str, Any]:
        while isinstance(part, Mapping) and "$ref" in part:
            part = reader.resolve(part["$ref"], "output")
        return part if isinstance(part, Mapping) else {}

    def listed(part: Any) -> bool:
        part = resolved(part)
        values = part.get("enum", [part["const"]] if "const" in part else None)
        if values is not None:
            return any(isinstance(one, str) for one in values)
        return any(listed(one) for word in ("anyOf", "oneOf") for one in part.get(word, ()))

    return listed(resolved(output.declared).get("properties", {}).get(field))
