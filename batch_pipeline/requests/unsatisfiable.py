"""Output schemas that no answer can satisfy: refused when declared, before each record is paid for."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
import orjson
from jsonschema_rs.canonical import find_unsatisfiable

from batch_pipeline.errors import InputError

Schema = Mapping[str, Any]

_NAMED = ("properties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf")
_ANSWERS = re.compile(
    r"(/(properties|\$defs|definitions)/[^/]*|/items|/(anyOf|oneOf|allOf)/\d+)*", re.ASCII
)
"""The places of schemas that a part of an answer must fit; not those under `not` or `if`."""
_BOOLEANS = (
    "YAML reads yes, no, on, off and the like (NO for Norway) as true or false unless they are "
    'quoted: write "yes", "no".'
)


def check_satisfiable(schema: Schema) -> None:
    """Check that an answer can fit every part of a schema.

    Args:
        schema: valid by its own rules and as strict as the columns are: with the bounds of their
            types.

    Raises:
        InputError: names the place and what excludes each other there.
    """
    for inner, where in _parts(schema, "output"):
        _check_literals(inner, where)
        _check_required(inner, where)
    try:
        found = find_unsatisfiable(_closed(schema), validate_formats=True, offline=True)
    except (ValueError, jsonschema_rs.ReferencingError):
        return  # what it does not model, it cannot tell
    places = [pointer for pointer in found if _ANSWERS.fullmatch(pointer)]
    if not places:
        return
    # The innermost place is where the fault is: what surrounds it follows from it.
    pointer = max(places, key=lambda at: ("$ref" not in _at(schema, at), at.count("/"), at))
    raise InputError(
        f"{_place(pointer)}: no answer can ever fit it"
        f"{_shown(_at(schema, pointer), found[pointer])}. Each record would be paid for in vain. "
        "Correct the schema."
    )


def _check_literals(schema: Schema, where: str) -> None:
    """Refuse enum and const values that are not of the type: no answer can be one of them."""
    kind = schema.get("type")
    if kind is None:
        return
    values = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
    fits = jsonschema_rs.validator_for({"type": kind})
    for value in values:
        if fits.is_valid(value):
            continue
        kinds = " or ".join(kind) if isinstance(kind, list) else kind
        raise InputError(
            f"{where}: the value {_json(value)} of its enum or const is not of its type, {kinds}: "
            f"no answer can ever be it.{_hint(value, kinds)}"
        )


def _hint(value: Any, kinds: str) -> str:
    if "string" not in kinds:
        return " Correct the value, or the type."
    if isinstance(value, bool):
        return f" {_BOOLEANS}"
    if value is None:
        return ' An empty value is allowed by type: [string, "null"].'
    return f' In YAML a text that looks like a number is quoted: "{value}".'


def check_yaml(schema: Any, where: str = "output") -> None:
    """Refuse values that YAML made booleans of beside texts: ``enum: [DE, NO, SE]``.

    Args:
        schema: an output schema as it came out of a YAML file.
        where: its place, for errors.

    Raises:
        InputError: names the place, with the hint to quote.
    """
    for inner, place in _parts(schema, where):
        values = inner.get("enum")
        if not isinstance(values, list):
            continue
        if any(isinstance(v, bool) for v in values) and any(isinstance(v, str) for v in values):
            raise InputError(f"{place}: its enum has both texts and true or false. {_BOOLEANS}")


def _check_required(schema: Schema, where: str) -> None:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return
    for name in schema.get("required", ()):
        if name not in properties:
            raise InputError(
                f"{where}: {name!r} is required, but is not among its properties "
                f"({', '.join(list(properties)[:10])}): no answer can ever have it."
            )


def _parts(schema: Any, where: str) -> Iterator[tuple[Schema, str]]:
    """Yield every schema inside a schema, itself first, and its place for errors."""
    if not isinstance(schema, Mapping):
        return
    yield schema, where
    for word in _NAMED:
        inner = schema.get(word)
        for name, part in inner.items() if isinstance(inner, Mapping) else ():
            yield from _parts(part, f"{where}.{name if word == 'properties' else f'{word}.{name}'}")
    for word in _LISTED:
        inner = schema.get(word)
        for part in inner if isinstance(inner, list) else ():
            yield from _parts(part, where)
    yield from _parts(schema.get("items"), f"{where}[]")


def _closed(schema: Any) -> Any:
    """Return a schema whose objects have no further keys, as the API is asked."""
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(schema)
    for word in _NAMED:
        if isinstance(closed.get(word), Mapping):
            closed[word] = {name: _closed(inner) for name, inner in closed[word].items()}
    for word in _LISTED:
        if isinstance(closed.get(word), list):
            closed[word] = [_closed(inner) for inner in closed[word]]
    if "items" in closed:
        closed["items"] = _closed(closed["items"])
    if isinstance(closed.get("properties"), Mapping):
        closed["additionalProperties"] = False
    return closed


def _steps(pointer: str) -> list[str]:
    return [s.replace("~1", "/").replace("~0", "~") for s in pointer.split("/")[1:]]


def _place(pointer: str) -> str:
    """Return a JSON pointer as errors show it: ``output.lines[].sku``."""
    place, steps = "output", iter(_steps(pointer))
    for step in steps:
        if step == "items":
            place += "[]"
        elif step in _NAMED:
            place += f".{next(steps)}" if step == "properties" else f".{step}.{next(steps)}"
        else:
            next(steps)
    return place


def _at(schema: Any, pointer: str) -> Any:
    for step in _steps(pointer):
        schema = schema[int(step)] if isinstance(schema, list) else schema[step]
    return schema if isinstance(schema, Mapping) else {}


def _shown(schema: Any, reason: Any) -> str:
    """Return the keywords that exclude each other, as they are written: ``{minimum: 5, ...}``."""
    causes = getattr(reason, "causes", None) or [c for c in [getattr(reason, "cause", None)] if c]
    words = dict.fromkeys(word for cause in causes for word in cause.keywords)
    shown = ", ".join(f"{w}: {_json(schema[w])}" for w in words if w in schema)
    return f": {{{shown if len(shown) <= 300 else shown[:300] + '...'}}}" if shown else ""


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
