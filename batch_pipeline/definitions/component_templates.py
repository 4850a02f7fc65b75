"""Dagster's templates in a component's YAML: where they may stand, and how they are rendered.

Dagster lets every value be a ``{{ template }}``. The models of ``component_fields`` say of each field
what else it may be; a field that is ``OrTemplate`` may be a template in its place, which is checked
when it is rendered.
"""

import re
from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

BEGINS = r"\{[{%]"
PLAIN_TEXT = {"type": "string", "not": {"pattern": BEGINS}}
"""A text that is no template, as a JSON Schema."""
_template = re.compile(BEGINS)
_AS_IT_IS = core_schema.plain_serializer_function_ser_schema(lambda value: value)


def is_template(value: object) -> bool:
    """Return whether a value of the YAML is a text for Dagster to render."""
    return isinstance(value, str) and _template.search(value) is not None


def rendered(context: dg.ResolutionContext, value: Any) -> Any:
    """Let Dagster render what is a template; it would make a number of a plain text such as "1"."""
    match value:
        case str():
            return context.resolve_value(value) if is_template(value) else value
        case Mapping():
            return {name: rendered(context.at_path(name), one) for name, one in value.items()}
        case list() | tuple():
            return [rendered(context.at_path(place), one) for place, one in enumerate(value)]
    return value


class ByType:
    """Marks the type of a field that is taken as it stands: several types, and no template."""

    template = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check it, and keep it as written."""
        check = _as_written if self.template else _checked
        return core_schema.no_info_wrap_validator_function(
            check, handler(source), serialization=_AS_IT_IS
        )

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say by type what a value must be, so that an error is about the one that was meant."""
        return by_type(handler(core), handler, template=self.template)


class OrTemplate(ByType):
    """Marks the type of a field: a template may stand in its place; it is checked when it is rendered."""

    template = True


def by_type(
    schema: JsonSchemaValue, handler: GetJsonSchemaHandler, *, template: bool
) -> JsonSchemaValue:
    """Return a JSON Schema with ``anyOf`` and ``oneOf`` taken apart by the type of the value.

    Validators say of an ``anyOf`` only that nothing in it fits. So each alternative is asked for where
    the value has its type.

    Args:
        schema: as pydantic makes it.
        handler: resolves references.
        template: whether a template may stand in its place.
    """
    alternatives = schema.get("anyOf", [schema])
    kinds: list[str] = []
    rules: list[JsonSchemaValue] = []
    for one in alternatives:
        for kind, rule in _rules(one, handler):
            kinds += [kind] if kind not in kinds else []
            rules += [rule] if rule else []
    if template and "string" not in kinds:
        rules.append({"if": PLAIN_TEXT, "then": {"type": kinds[0] if len(kinds) == 1 else kinds}})
        kinds = [*kinds, "string"]
    shown: JsonSchemaValue = {"type": kinds[0] if len(kinds) == 1 else kinds}
    if len(rules) == 1:
        return shown | rules[0]
    return shown | ({"allOf": rules} if rules else {})


def _rules(
    schema: JsonSchemaValue, handler: GetJsonSchemaHandler
) -> list[tuple[str, JsonSchemaValue | None]]:
    """Return of an alternative its types, each with what a value of that type must be."""
    if "oneOf" in schema:
        return [("object", {"if": {"type": "object"}, "then": _chosen(schema, handler)})]
    if "$ref" in schema:
        inner = handler.resolve_ref_schema(schema)
        if inner.get("type") == "object":
            return [("object", {"if": {"type": "object"}, "then": {"$ref": schema["$ref"]}})]
        return _rules(inner, handler)
    if "if" in schema or isinstance(schema.get("type"), list):  # was taken apart further in
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        rest = {name: value for name, value in schema.items() if name != "type"}
        return [(kind, rest if place == 0 else None) for place, kind in enumerate(kinds)]
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if values is not None:
        return [("string", {"if": PLAIN_TEXT, "then": {"enum": values}})]
    kind = schema.get("type", "object")
    needs = {name: value for name, value in schema.items() if name not in ("type", "title")}
    if not needs or needs == {"additionalProperties": True}:
        return [(kind, None)]
    return [(kind, {"if": {"type": kind}, "then": needs})]


def _chosen(schema: JsonSchemaValue, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """Return of several mappings the one that a value means, by its ``type`` or by a field of its own."""
    named = schema.get("discriminator", {}).get("mapping")
    if named:
        by = schema["discriminator"]["propertyName"]
        chosen: JsonSchemaValue = {
            "required": [by],
            "properties": {by: {"enum": list(named)}},
        }
        cases = [
            {
                "if": {"required": [by], "properties": {by: {"const": name}}},
                "then": {"$ref": ref},
            }
            for name, ref in named.items()
        ]
        return chosen | {"allOf": cases}
    *told, last = schema["oneOf"]  # each but the last is told by a field that only it has
    chosen = {"$ref": last["$ref"]}
    for one in reversed(told):
        if "oneOf" in one:
            own, then = one["discriminator"]["propertyName"], _chosen(one, handler)
        else:
            inner = handler.resolve_ref_schema(one)
            others = [
                handler.resolve_ref_schema(other) for other in schema["oneOf"] if other is not one
            ]
            own = next(
                name
                for name in inner["required"]
                if not any(name in other["properties"] for other in others)
            )
            then = {"$ref": one["$ref"]}
        chosen = {"if": {"required": [own]}, "then": then, "else": chosen}
    return chosen


def _as_written(value: Any, check: Any) -> Any:
    return value if is_template(value) else _checked(value, check)


def _checked(value: Any, check: Any) -> Any:
    check(value)
    return value
