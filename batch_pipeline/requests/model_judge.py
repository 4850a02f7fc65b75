"""A pydantic class as the judge of answers: its validators, defaults and constraints count."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import orjson
from pydantic import AliasChoices, AliasPath, BaseModel, RootModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

MOST_SHOWN = 300


class Judgement(NamedTuple):
    """What a class says of an answer.

    Attributes:
        values: what it made of the answer, by the names of its JSON Schema; the answer when it
            refuses it.
        refused: the field and the reason, in the class's words; None when it takes the answer.
        made: the class's own object; None when it refuses the answer.
    """

    values: Any
    refused: str | None = None
    made: BaseModel | None = None


def judged_by(model: type[BaseModel], answer: Any) -> Judgement:
    """Let a class validate an answer, as JSON, by pydantic-core.

    Args:
        model: the class; its validator is built once, when the class is.
        answer: JSON data; a number whose digits a float does not hold is a ``Decimal``.
    """
    try:
        made = model.model_validate_json(orjson.dumps(answer, default=_digits))
        return Judgement(plain_values(made), made=made)
    except ValidationError as error:
        return Judgement(answer, _reason(error))
    except Exception as error:  # a validator is the user's code: it can fail in any way
        why = f"{model.__name__} failed on the answer: {type(error).__name__}: {error}"
        return Judgement(answer, " ".join(why.split())[:MOST_SHOWN])


def naive_time(model: type[BaseModel]) -> str | None:
    """Return the place of a field that takes times without a zone only; None when there is none.

    Validators of the user's that run before may take the zone away, so what is behind one is left.
    """
    return _naive_time(model.__pydantic_core_schema__, "", {}, ())


def _naive_time(
    schema: Any, where: str, definitions: Mapping[str, Any], seen: tuple[str, ...]
) -> str | None:
    if isinstance(schema, Mapping):
        match schema.get("type"):
            case "datetime":
                return where if schema.get("tz_constraint") == "naive" else None
            case "function-before" | "function-wrap" | "function-plain" | "union" | "tagged-union":
                return None
            case "definitions":
                known = {one["ref"]: one for one in schema["definitions"]}
                return _naive_time(schema["schema"], where, known, seen)
            case "definition-ref":
                ref = schema["schema_ref"]
                if ref in seen or ref not in definitions:
                    return None
                return _naive_time(definitions[ref], where, definitions, (*seen, ref))
        fields = schema.get("fields")
        if isinstance(fields, Mapping):
            parts = [(f"{where}.{name}".lstrip("."), field) for name, field in fields.items()]
        else:
            words = ("schema", "items_schema", "values_schema", "fields")
            parts = [(where, schema[word]) for word in words if word in schema]
    elif isinstance(schema, list):  # of a tuple's items, a dataclass's fields
        parts = [
            (f"{where}.{one['name']}".lstrip(".") if "name" in one else where, one)
            for one in schema
        ]
    else:
        return None
    found = (_naive_time(inner, at, definitions, seen) for at, inner in parts)
    return next(filter(None, found), None)


def plain_values(value: Any, only_given: bool = False) -> Any:
    """Return what a class made of an answer as JSON data; a ``Decimal`` stays one.

    The values of the fields count, not how the class would serialize them: the columns have the
    types of the fields.

    Args:
        value: the class's object, or a part of it.
        only_given: leave out the fields of models that no answer gave a value to, by whichever of
            their names: those that have their defaults.
    """
    match value:
        case None | bool() | int() | float() | str() | Decimal() if not isinstance(value, Enum):
            return value
        case Enum():
            return plain_values(value.value, only_given)
        case RootModel():
            return plain_values(value.root, only_given)
        case BaseModel():
            return {
                property_name(name, field): plain_values(getattr(value, name), only_given)
                for name, field in type(value).model_fields.items()
                if not only_given or name in value.model_fields_set
            }
        case Mapping():
            return {str(name): plain_values(inner, only_given) for name, inner in value.items()}
        case set() | frozenset():
            # In an order of their own, so that the same answer always makes the same row.
            return sorted((plain_values(inner, only_given) for inner in value), key=repr)
        case list() | tuple():
            return [plain_values(inner, only_given) for inner in value]
        case datetime():
            # A column of times is in UTC; so is what names no zone.
            zoned = value if value.tzinfo else value.replace(tzinfo=UTC)
            return zoned.isoformat()
        case date() | time():
            return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain_values(getattr(value, field.name), only_given)
            for field in fields(value)
        }
    secret: Callable[[], Any] | None = getattr(value, "get_secret_value", None)
    return secret() if secret else to_jsonable_python(value, fallback=str)


def answered_part(made: Any, answer: Any) -> Any:
    """Return what a class made of an answer without what it added to it: its defaults."""
    if isinstance(made, dict) and isinstance(answer, Mapping):
        return {
            name: answered_part(inner, answer[name])
            for name, inner in made.items()
            if name in answer
        }
    if isinstance(made, list) and isinstance(answer, list) and len(made) == len(answer):
        return [answered_part(one, other) for one, other in zip(made, answer, strict=True)]
    return made


def property_name(name: str, field: FieldInfo) -> str:
    """Return a field's name in the class's JSON Schema."""
    alias = field.validation_alias
    for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
        if isinstance(choice, str):
            return choice
        if isinstance(choice, AliasPath) and len(choice.path) == 1:
            return str(choice.path[0])
    return name


def _digits(value: Any) -> str:
    """Give pydantic the digits of a number as a text; it would make a float of a number."""
    return str(value)


def _reason(error: ValidationError) -> str:
    """Return the first error's field and words, without pydantic's address."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(str(step) for step in found[0]["loc"])
    words = found[0]["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    words = " ".join(words.split())
    words = words if len(words) <= MOST_SHOWN else f"{words[:MOST_SHOWN]}..."
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{f'{place}: ' if place else ''}{words or found[0]['type']}{more}"
