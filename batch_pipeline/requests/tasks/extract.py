"""Extract: the fields that a record's text holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from batch_pipeline.errors import InputError
from batch_pipeline.requests.schema import MAX_UNIONS, OutputSchema
from batch_pipeline.requests.tasks.task import Task, object_schema
from batch_pipeline.requests.tasks.wording import check_text
from batch_pipeline.requests.unsatisfiable import check_yaml

KINDS: dict[str, dict[str, str]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "decimal": {"type": "number", "format": "decimal"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "datetime": {"type": "string", "format": "date-time"},
}
OTHER_NAMES: dict[Any, str] = {
    "string": "text", str: "text", int: "integer", float: "number", Decimal: "decimal",
    bool: "boolean", date: "date", datetime: "datetime",
}  # fmt: skip


@dataclass(frozen=True)
class Extract(Task):
    """The fields that a text holds, a column each.

    A change of fields, or of what is said of them, is another question. ``max_tokens`` is what all
    fields take; a text of unknown length counts 25 words, a list 10 parts.

    Attributes:
        fields: a pydantic class; a JSON Schema; or a mapping of names to ``"KIND"`` or ``"KIND, what
            it is"``, where KIND is text, integer, number, decimal, boolean, date or datetime (or a
            Python type), to a list of the texts that it may be, or to a JSON Schema. A field that is
            declared by its kind, or by a list, is NULL where the text does not say.
    """

    fields: type[BaseModel] | Mapping[str, Any]

    def output(self) -> type[BaseModel] | dict[str, Any]:
        """Return the form of the answer."""
        declared: Any = self.fields
        if isinstance(declared, type) and issubclass(declared, BaseModel):
            return declared
        if not isinstance(declared, Mapping):
            raise InputError(
                f"fields is {declared!r}; it must be a pydantic class, or a mapping of names to kinds, such as"
                ' {"total": "number, the sum to pay"}.'
            )
        if not declared:
            raise InputError("fields is empty. Name the fields to be taken out of the text.")
        if declared.get("type") == "object" and isinstance(declared.get("properties"), Mapping):
            check_yaml(declared, "fields")
            return dict(declared)
        # The API takes so many fields that may be null; more of them may be left out instead.
        nullable = len(declared) <= MAX_UNIONS
        found = {
            check_text(name, f"fields: the name {name!r}"): _field(name, one, nullable)
            for name, one in declared.items()
        }
        required = [name for name, one in declared.items() if nullable or isinstance(one, Mapping)]
        return object_schema(found, required)

    def asked(self) -> tuple[str, Mapping[str, Sequence[str]]]:
        """Return what is asked; what is said of the fields must be told."""
        schema = OutputSchema.from_(self.output())
        assert schema is not None
        said = schema.descriptions
        lines = [
            f"- {name}: {' '.join(said[name].split())}" if name in said else f"- {name}"
            for name, _ in schema.columns
        ]
        block = "\n".join(["The fields:", *lines])
        texts = [" ".join(text.split()) for text in said.values()]
        what = (
            "Take the fields out of a text. Use only what the text says and invent nothing: where it does not "
            "say, a field that may be null is null, and one that may be left out is left out."
        )
        return what, {block: texts}


def _field(name: str, declared: Any, nullable: bool) -> dict[str, Any]:
    """Return the schema of a field."""
    if isinstance(declared, Mapping):
        check_yaml(declared, f"fields: {name}")
        return dict(declared)
    if isinstance(declared, list | tuple):
        values = [check_text(value, f"fields: a value of {name}") for value in declared]
        if not values:
            raise InputError(f"fields: {name} is an empty list; name the texts that it may be.")
        kind: dict[str, Any] = {"type": "string", "enum": values}
        what = ""
    else:
        word, what = declared, ""
        if isinstance(declared, str):
            word, _, what = (part.strip() for part in declared.partition(","))
        word = OTHER_NAMES.get(word, word) if isinstance(word, str | type) else word
        if word not in KINDS:
            near = get_close_matches(str(word), KINDS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InputError(
                f"fields: {name} is {declared!r}; it must begin with one of {', '.join(KINDS)}, such as "
                f'"number, the sum to pay"; be a list of the texts that it may be, or a JSON Schema.{hint}'
            )
        kind = dict(KINDS[word])
    if nullable:
        kind["type"] = [kind["type"], "null"]
        if "enum" in kind:
            kind["enum"] = [*kind["enum"], None]
    return kind | ({"description": what} if what else {})
