"""Which JSON schemas the API takes as an output format or for a strict tool."""

from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

from batch_pipeline.emulator.errors import ApiError, invalid

MAX_OPTIONAL = 24
MAX_UNIONS = 16
# Parts that refer to each other can be as many as no compiler gets through in its 180 seconds.
MAX_PARTS = 5_000
_UNSUPPORTED = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "patternProperties",
    "oneOf",
    "not",
    "if",
)


def check_schema(schema: Any, where: str) -> None:
    """Raise the error the API gives for a schema it does not take.

    Args:
        schema: The JSON schema, parsed.
        where: The parameter it stands in, for the message.
    """
    if not isinstance(schema, dict):
        raise invalid(f"{where}: Input should be an object")
    if not is_schema(schema):
        raise invalid(f"{where}: JSON schema is invalid. It must match JSON Schema draft 2020-12")
    problem = _problem_of(orjson.dumps(schema))
    if problem is not None:
        raise invalid(f"{where}: {problem}")


def is_schema(schema: dict[str, Any]) -> bool:
    """Whether it is a JSON schema of the draft that the API reads."""
    return _is_schema(orjson.dumps({name: schema[name] for name in schema if name != "$schema"}))


@lru_cache(maxsize=256)
def _is_schema(schema_text: bytes) -> bool:
    return jsonschema_rs.meta.is_valid(orjson.loads(schema_text))


@lru_cache(maxsize=256)
def _problem_of(schema_text: bytes) -> str | None:
    # All requests of a batch carry the same schema: it is judged once.
    try:
        _Check(orjson.loads(schema_text)).run()
    except ApiError as error:
        return error.message
    return None


class _Check:
    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.optional = 0
        self.unions = 0
        self.visited = 0

    def run(self) -> None:
        self._visit(self.root, ())
        if self.optional > MAX_OPTIONAL:
            raise invalid(f"Schema is too complex: {self.optional} optional parameters")
        if self.unions > MAX_UNIONS:
            raise invalid(f"Schema is too complex: {self.unions} parameters with union types")

    def _visit(self, schema: Any, references: tuple[str, ...]) -> None:
        self.visited += 1
        if self.visited > MAX_PARTS:
            raise invalid("Schema is too complex")
        if not isinstance(schema, dict):
            raise invalid("Schemas must be objects")
        if "$ref" in schema:
            reference = schema["$ref"]
            if reference in references:
                raise invalid(f"Circular reference detected in schema definitions: {reference}")
            self._visit(resolve(self.root, reference), (*references, reference))
            return
        self._check_keywords(schema)
        self._check_object(schema)
        for branch in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
            self._visit(branch, references)
        for property in schema.get("properties", {}).values():
            self._visit(property, references)
        if "items" in schema:
            self._visit(schema["items"], references)

    def _check_keywords(self, schema: dict[str, Any]) -> None:
        types = schema.get("type")
        for keyword in _UNSUPPORTED:
            if keyword in schema:
                raise invalid(f"For '{types or 'any'}' type, '{keyword}' is not supported")
        if schema.get("minItems", 0) not in (0, 1):
            raise invalid("For 'array' type, 'minItems' values other than 0 or 1 are not supported")
        if "anyOf" in schema or (isinstance(types, list) and len(types) > 1):
            self.unions += 1
        if not {"type", "anyOf", "allOf", "enum", "const"} & schema.keys():
            raise invalid("Schema type is not specified")

    def _check_object(self, schema: dict[str, Any]) -> None:
        types = schema.get("type")
        if types != "object" and not (isinstance(types, list) and "object" in types):
            return
        if schema.get("additionalProperties") is not False:
            raise invalid(
                "For 'object' type, 'additionalProperties' must be explicitly set to false"
            )
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        for name in required:
            if name not in properties:
                raise invalid(f"Required property {name!r} is not among the properties")
        self.optional += len(properties) - len(required)


def resolve(root: dict[str, Any], reference: Any) -> dict[str, Any]:
    """The schema that a `$ref` inside `root` points to.

    Raises:
        ApiError: It points outside the schema or to nothing.
    """
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise invalid(f"Only local references are supported, not {reference!r}")
    found: Any = root
    for part in reference[1:].split("/"):
        if not part:
            continue
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            raise invalid(f"Reference {reference!r} points to nothing")
        found = found[name]
    return found
