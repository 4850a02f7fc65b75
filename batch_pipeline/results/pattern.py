"""A regular expression that only answers which fit their schema match.

It is for simple schemas: an object of texts, numbers, truth values, dates, choices, and lists of these.
What matches is judged: the schema and the class, where there is one, would take it as it stands, and
DuckDB reads from it what it would read from what they make of it. What does not match may fit all the
same, and is judged by them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import BaseModel

from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.requests.schema_reader import Schema, SchemaReader

SPACE = r"[ \t\n\r]*"
TEXT = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*"'
INTEGER = r"(?:0|-?[1-9][0-9]{0,17})"  # all of which 64 bits hold
# As many digits as a DOUBLE gives back; none is -0, which some keep and some do not.
NUMBER = (
    r"(?:-?[1-9][0-9]{0,14}(?:\.[0-9]{1,15})?|0(?:\.[0-9]{1,15})?|-0\.[0-9]{0,14}[1-9][0-9]{0,14})"
)
DATE = (
    r'"[1-9][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])'
    r'|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"'
)
NULL = {"type": "null"}
PROSE = {"title", "description", "default"}
AROUND = PROSE | {"$defs", "definitions", "$schema"}
MOST_BYTES = 50_000
"""Of a pattern: a schema with thousands of choices is not worth one."""


def pattern_of(output: OutputSchema) -> str | None:
    """Return the pattern of a schema's answers; None when it is not simple enough, or its class is not."""
    reader = SchemaReader(output.declared)
    root = _resolved(output.declared, reader)
    if root is None or set(root) - AROUND - {
        "type",
        "properties",
        "required",
        "additionalProperties",
    }:
        return None
    properties = root.get("properties")
    if root.get("type") != "object" or not properties:
        return None
    if not isinstance(root.get("additionalProperties", False), bool):
        return None
    if output.model is not None and not _is_plain(output.model, properties):
        return None
    # The API writes what is required first.
    required = set(root.get("required", ()))
    if required - set(properties):
        return None
    parts = []
    for name in sorted(properties, key=lambda name: name not in required):
        spelled = _spelled(name)
        value = _value(properties[name], reader)
        if spelled is None or value is None:
            return None
        parts.append(f"{spelled}{SPACE}:{SPACE}{value}{SPACE}")
    inside = f",{SPACE}".join(parts)
    pattern = rf"^{SPACE}\{{{SPACE}{inside}\}}{SPACE}$"
    return pattern if len(pattern) <= MOST_BYTES else None


def _value(schema: Any, reader: SchemaReader, in_list: bool = False) -> str | None:
    """Return the pattern of a value; None for what is not simple."""
    found = _resolved(schema, reader)
    if found is None:
        return None
    words = set(found) - PROSE
    if "anyOf" in words or isinstance(found.get("type"), list):
        return _nullable(found, words, reader)
    if "enum" in words or "const" in words:
        if words - {"enum", "const", "type"} or words >= {"enum", "const"}:
            return None
        choices = [_spelled(one) for one in found.get("enum", [found.get("const")])]
        if found.get("type", "string") != "string" or None in choices:
            return None
        return f"(?:{'|'.join(filter(None, choices))})"
    match found.get("type"):
        case "array" if words == {"type", "items"} and not in_list:
            item = _value(found["items"], reader, in_list=True)
            if item is None:
                return None
            return rf"\[{SPACE}(?:{item}{SPACE}(?:,{SPACE}{item}{SPACE})*)?\]"
        case "string" if words == {"type"}:
            return TEXT
        case "string" if words == {"type", "format"} and found["format"] == "date":
            return DATE
        case "integer" if words == {"type"}:
            return INTEGER
        case "number" if words == {"type"}:
            return NUMBER
        case "boolean" if words == {"type"}:
            return "(?:true|false)"
    return None


def _nullable(schema: Schema, words: set[str], reader: SchemaReader) -> str | None:
    """Return the pattern of what may be null besides; None for another union."""
    if words == {"anyOf"}:
        branches = schema["anyOf"]
    elif words == {"type"}:
        branches = [{"type": kind} for kind in schema["type"]]
    else:
        return None
    others = [one for one in branches if one != NULL]
    if len(branches) != 2 or len(others) != 1:
        return None
    value = _value(others[0], reader)
    return None if value is None else f"(?:{value}|null)"


def _resolved(schema: Any, reader: SchemaReader) -> Schema | None:
    """Return a schema, or what it points to; None when there is more beside that than words."""
    for _ in range(8):
        if not isinstance(schema, Mapping):
            return None
        if "$ref" not in schema:
            return schema
        if set(schema) - AROUND - {"$ref"}:
            return None
        schema = reader.resolve(schema["$ref"], "output")
    return None


def _spelled(text: Any) -> str | None:
    """Return the pattern of a text as JSON writes it; None where that could be written in two ways."""
    if not isinstance(text, str):
        return None
    try:
        written = orjson.dumps(text).decode()
    except orjson.JSONEncodeError:
        return None
    return None if "\\" in written else re.escape(written)


def _is_plain(model: type[BaseModel], properties: Mapping[str, Any]) -> bool:
    """Whether a class takes every answer that fits its schema, as it stands, and nothing of the user's runs."""
    schema: Any = model.__pydantic_core_schema__
    if not isinstance(schema, Mapping) or schema.get("type") != "model":
        return False
    inner: Any = schema.get("schema", {})
    own = {
        name
        for one in model.__mro__
        if one not in BaseModel.__mro__
        for name in vars(one)
        if name.startswith(("model_", "__")) and name in OVERRIDABLE
    }
    return (
        not own
        and type(model) is type(BaseModel)
        and set(schema)
        <= {
            "type",
            "cls",
            "schema",
            "config",
            "ref",
            "metadata",
            "root_model",
            "custom_init",
            "post_init",
        }
        and not (schema.get("root_model") or schema.get("custom_init") or schema.get("post_init"))
        and set(schema.get("config", {})) <= {"title"}
        and inner.get("type") == "model-fields"
        and set(inner) <= {"type", "fields", "model_name", "computed_fields"}
        and not inner.get("computed_fields")
        and set(inner["fields"]) == set(properties)
        and all(_is_plain_field(field) for field in inner["fields"].values())
    )


OVERRIDABLE = frozenset(
    {
        "__getattribute__",
        "__getattr__",
        "__new__",
        "__init__",
        "__setattr__",
        "model_post_init",
        "model_validate_json",
        "model_fields",
    }
)
"""What a class may do in its own way and is asked for here."""


def _is_plain_field(field: Mapping[str, Any]) -> bool:
    return (
        field.get("type") == "model-field"
        and set(field) <= {"type", "schema", "metadata"}
        and _is_plain_type(field["schema"])
    )


def _is_plain_type(schema: Mapping[str, Any]) -> bool:
    words = set(schema) - {"type", "metadata"}
    match schema.get("type"):
        case "str" | "int" | "float" | "bool" | "date":
            return not words
        case "literal":
            return words == {"expected"} and all(type(one) is str for one in schema["expected"])
        case "list":
            return words == {"items_schema"} and _is_plain_type(schema["items_schema"])
        case "nullable":
            return words == {"schema"} and _is_plain_type(schema["schema"])
        case "default":
            defaults: Sequence[str] = ("schema", "default", "default_factory")
            return words <= set(defaults) and _is_plain_type(schema["schema"])
    return False
