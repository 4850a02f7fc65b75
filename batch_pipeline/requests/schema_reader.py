"""Reading a JSON Schema: whether the API takes it, how it is sent, which columns it makes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from batch_pipeline.errors import InputError
from batch_pipeline.requests.column_values import (
    DECIMAL,
    decimal_digits,
    decimal_format,
    decimal_type,
    declared_digits,
    united_decimals,
)

Schema = Mapping[str, Any]
Structure = str | list[Any] | dict[str, Any]
"""A type for DuckDB's ``json_transform``: a name, a list of one, or a dict of fields."""

STRING_FORMATS = frozenset("date-time time date duration email hostname uri ipv4 ipv6 uuid".split())
"""String formats the API's grammar knows (anthropic 2.11.0, ``lib/_parse/_transform.py``)."""

_TYPES = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
_SQL_FORMATS = {"date": "DATE", "date-time": "TIMESTAMPTZ"}
_DEFINITION = re.compile(r"#/(\$defs|definitions)/[^/~]+")
_SILENT = frozenset(
    {
        "title",
        "description",
        "additionalProperties",
        "discriminator",
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "definitions",
        DECIMAL,
    }
)


class SchemaReader:
    """Walks one declared schema; every walk knows the root, where ``$ref`` points.

    Args:
        root: the whole schema, valid by its own rules.

    Attributes:
        optional: after `structure`, the places of fields that may be left out; a definition's
            fields count once, wherever it is used.
        unions: after `structure`, the places of fields of more than one type.
    """

    def __init__(self, root: Schema):
        self.root = root
        self._reached: set[str] = set()
        self.optional: dict[tuple[int, str], str] = {}
        self.unions: dict[int, str] = {}

    def resolve(self, ref: Any, where: str) -> Schema:
        """Return what a ``$ref`` points to."""
        if not isinstance(ref, str) or not ref.startswith("#/"):
            raise InputError(f"{where}: $ref {ref!r} points outside the schema; put it into $defs.")
        found: Any = self.root
        for step in ref[2:].split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                raise InputError(f"{where}: $ref {ref!r} points to nothing in the schema.")
            found = found[key]
        return found

    def structure(self, schema: Any, where: str, seen: tuple[str, ...]) -> Structure:
        """Return the column structure, having refused what the API or a column cannot take.

        Args:
            schema: one schema inside the root.
            where: its place, for errors.
            seen: the references that led here.

        Raises:
            InputError: the API would refuse it, or it could not become a column.
        """
        if not isinstance(schema, Mapping):
            raise InputError(f"{where}: expected a schema (a dict), got {schema!r}.")
        if "$ref" in schema:
            ref = schema["$ref"]
            if ref in seen or ref == "#":
                raise InputError(
                    f"{where}: the schema contains itself ({ref}); the API refuses that. Write out as many"
                    " levels as an answer may have, each as a schema of its own, or ask for a flat list"
                    " of objects, each with the name of the one above it."
                )
            self._reached.add(ref)
            return self.structure(self.resolve(ref, where), where, (*seen, ref))
        if "enum" in schema or "const" in schema:
            return _literal_type(schema.get("enum", [schema.get("const")]), where)
        branches = _branches(schema, where)
        if branches is not None:
            if len(branches) > 1:
                self.unions.setdefault(id(schema), where)
            kinds = [self.structure(branch, where, seen) for branch in branches]
            return _united([kind for kind in kinds if kind != "NULL"])
        match schema.get("type"):
            case "object":
                return self._object(schema, where, seen)
            case "array":
                if not isinstance(schema.get("items"), Mapping):
                    raise InputError(f"{where}: an array needs one schema in `items`.")
                return [self.structure(schema["items"], f"{where}[]", seen)]
            case "number" if (digits := declared_digits(schema)) is not None:
                return decimal_type(**digits)
            case "number" | "string" if kind := decimal_format(schema.get("format")):
                return kind
            case "string":
                return _SQL_FORMATS.get(schema.get("format", ""), "VARCHAR")
            case "null":
                return "NULL"
            case str(name) if name in _TYPES:
                return _TYPES[name]
        raise InputError(
            f"{where}: needs a `type` (string, integer, number, boolean, object or array), an "
            "`enum` or an `anyOf`; the API refuses a field that may be anything."
        )

    def _object(self, schema: Schema, where: str, seen: tuple[str, ...]) -> Structure:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            raise InputError(
                f"{where}: an object needs named `properties`. The API refuses free-form keys "
                "(dict[str, ...]): use a list of objects with a name and a value instead."
            )
        if isinstance(schema.get("additionalProperties"), Mapping) or "patternProperties" in schema:
            raise InputError(f"{where}: extra keys by pattern or type are refused by the API.")
        folded: dict[str, str] = {}
        for name in properties:
            if (other := folded.setdefault(name.casefold(), name)) != name:
                raise InputError(f"{where}: {other!r} and {name!r} differ by case only.")
        required = schema.get("required", [])
        for name in properties:
            if name not in required:
                self.optional.setdefault((id(schema), name), f"{where}.{name}")
        found = {
            name: self.structure(inner, f"{where}.{name}", seen)
            for name, inner in properties.items()
        }
        return {name: "JSON" if inner == "NULL" else inner for name, inner in found.items()}

    def sent(self, schema: Schema) -> dict[str, Any]:
        """Return the schema as the API takes it (refused ones never get here)."""
        described = schema.get("description")
        if "$ref" in schema:
            named = _DEFINITION.fullmatch(schema["$ref"])
            if named and not described and schema is not self.root:
                return {"$ref": schema["$ref"]}
            # The API ignores what stands beside a $ref, and the description is for the model.
            target = {**self.resolve(schema["$ref"], "output")}
            if described:
                target["description"] = described
            return self.sent(target) | self._definitions(schema)
        out: dict[str, Any] = self._definitions(schema)
        rest = {k: v for k, v in schema.items() if k not in _SILENT}
        rest |= declared_digits(schema) or {}
        if "title" in schema:
            out["title"] = schema["title"]
        for word in ("enum", "const"):
            if word in rest:
                out[word] = rest.pop(word)
        kind = rest.pop("type", None)
        if "enum" not in out and "const" not in out:
            branches = _branches(schema, "output")
            if branches is not None:
                for word in ("anyOf", "oneOf", "allOf"):
                    rest.pop(word, None)
                if isinstance(kind, list):
                    rest = {}
                parts = [self.sent(branch) for branch in branches]
                out |= parts[0] if len(parts) == 1 else {"anyOf": parts}
        elif isinstance(kind, list):
            kind = None
        if isinstance(kind, str):
            out["type"] = kind
        if kind == "object":
            out["properties"] = {k: self.sent(v) for k, v in rest.pop("properties").items()}
            out["required"] = list(rest.pop("required", []))
            out["additionalProperties"] = False
        elif kind == "array":
            out["items"] = self.sent(rest.pop("items"))
            if rest.get("minItems") in (0, 1):
                out["minItems"] = rest.pop("minItems")
        elif kind == "string" and rest.get("format") in STRING_FORMATS:
            out["format"] = rest.pop("format")
        if rest.get("default", ...) is None:
            del rest["default"]
        told = f"{{{', '.join(f'{k}: {orjson.dumps(v).decode()}' for k, v in rest.items())}}}"
        words = [described or out.get("description"), told if rest else None]
        if text := "\n\n".join(word for word in words if word):
            out["description"] = text
        return out

    def description(self, schema: Any, depth: int = 8) -> str | None:
        """Return what a schema says of itself: at its place, in its one branch, where it points."""
        if not isinstance(schema, Mapping) or not depth:
            return None
        if isinstance(text := schema.get("description"), str) and text.strip():
            return text
        if "$ref" in schema:
            return self.description(self.resolve(schema["$ref"], "output"), depth - 1)
        parts = [part for word in ("anyOf", "oneOf", "allOf") for part in schema.get(word, ())]
        parts = [part for part in parts if part != {"type": "null"}]
        return self.description(parts[0], depth - 1) if len(parts) == 1 else None

    def _definitions(self, schema: Schema) -> dict[str, Any]:
        """Return the root's definitions that are in use; nothing for any other schema."""
        if schema is not self.root:
            return {}
        used: dict[str, Any] = {}
        for word in ("$defs", "definitions"):
            for name, inner in schema.get(word, {}).items():
                if f"#/{word}/{name}" in self._reached:
                    used.setdefault(word, {})[name] = self.sent(inner)
        return used

    def folded(self, schema: Schema, value: Any) -> Any:
        """Return ``value`` with each enum or const text in its declared capitalisation."""
        if "$ref" in schema:
            return self.folded(self.resolve(schema["$ref"], "output"), value)
        if isinstance(value, str):
            options = list(self._literals(schema))
            same = {text for text in options if text.casefold() == value.casefold()}
            return same.pop() if len(same) == 1 and value not in options else value
        for branch in _branches(schema, "output") or ():
            value = self.folded(branch, value)
        if isinstance(value, dict) and isinstance(properties := schema.get("properties"), Mapping):
            return {
                k: self.folded(properties[k], v) if k in properties else v for k, v in value.items()
            }
        if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
            return [self.folded(items, item) for item in value]
        return value

    def _literals(self, schema: Schema) -> Iterator[str]:
        if "$ref" in schema:
            yield from self._literals(self.resolve(schema["$ref"], "output"))
        yield from (v for v in [*schema.get("enum", ()), schema.get("const")] if isinstance(v, str))
        if "type" not in schema:
            for branch in _branches(schema, "output") or ():
                yield from self._literals(branch)


def _branches(schema: Schema, where: str) -> list[Schema] | None:
    """Return the alternatives of a union (one for a lone ``allOf``), None when it is none."""
    kind = schema.get("type")
    if isinstance(kind, list):
        shared = {k: v for k, v in schema.items() if k not in ("title", "description", "default")}
        return [{"type": one} if one == "null" else {**shared, "type": one} for one in kind]
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return schema[word]
    if "allOf" in schema:
        if len(schema["allOf"]) != 1:
            raise InputError(f"{where}: `allOf` of several schemas; write them as one.")
        return schema["allOf"]
    return None


def _literal_type(values: Sequence[Any], where: str) -> Structure:
    kinds = {type(value) for value in values if value is not None}
    if not kinds or kinds - {str, int, float, bool}:
        raise InputError(
            f"{where}: enum and const take text, numbers and booleans, not {values!r}."
        )
    names = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
    return _united([names[kind] for kind in kinds])


def _united(kinds: list[Structure]) -> Structure:
    if not kinds:
        return "NULL"
    if all(kind == kinds[0] for kind in kinds):
        return kinds[0]
    names = [kind for kind in kinds if isinstance(kind, str)]
    if len(names) < len(kinds):
        return "JSON"
    if all(decimal_digits(kind) or kind == "BIGINT" for kind in names):
        return united_decimals(names)
    numbers = (kind in ("BIGINT", "DOUBLE") or decimal_digits(kind) for kind in names)
    return "DOUBLE" if all(numbers) else "JSON"
