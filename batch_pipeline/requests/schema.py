"""The form of an answer: what the API is sent, what an answer must fit, its columns."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

import jsonschema_rs
import orjson
from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from batch_pipeline.errors import InputError
from batch_pipeline.requests.schema_reader import Schema, SchemaReader, Structure

MAX_OPTIONAL = 24
"""Optional parameters one schema may have (structured-outputs guide, 2026-08-22)."""
MAX_UNIONS = 16
"""Parameters with a union type one schema may have (same source)."""
INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}
"""An integer column is a BIGINT: a larger number would silently become NULL there."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DATE_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})", re.ASCII)


class _AnswerSchema(GenerateJsonSchema):
    """Pydantic's JSON Schema, with a ``Decimal`` as a plain number (not number-or-string)."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "number"}
        self.update_with_validations(found, schema, self.ValidationsMapping.numeric)
        return found


@dataclass(frozen=True)
class OutputSchema:
    """A checked output schema. Build one with `OutputSchema.from_`.

    Attributes:
        declared: the JSON Schema as the user declared it; answers are validated against it.
        sent: the same, as the API accepts it: closed objects, no unsupported keywords (they are
            told to the model in the description instead).
        structure: the second argument of DuckDB's ``json_transform`` that gives `columns` their
            types, as JSON text.
        columns: ``(field, DuckDB type)`` in declared order.
    """

    declared: Schema
    sent: Schema
    structure: str
    columns: tuple[tuple[str, str], ...]

    @classmethod
    def from_(cls, output: type[BaseModel] | Schema | None) -> "OutputSchema | None":
        """Return the schema of a pydantic model class or a JSON Schema; None for plain text.

        Raises:
            InputError: the API would refuse the schema, or an answer could not become columns.
        """
        if output is None:
            return None
        declared = _declared(output)
        try:
            jsonschema_rs.meta.validate(declared)
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise _not_a_schema(error) from error
        reader = SchemaReader(declared)
        structure = reader.structure(declared, "output", ())
        sent = reader.sent(declared)
        if not isinstance(structure, dict) or sent.get("type") != "object":
            raise InputError('output: the root must be an object ("type": "object").')
        for word, limit, found in (
            ("optional", MAX_OPTIONAL, list(reader.optional.values())),
            ("union-typed", MAX_UNIONS, list(reader.unions.values())),
        ):
            if len(found) > limit:
                raise InputError(
                    f"output: {len(found)} {word} fields, and the API takes {limit}: "
                    f"{', '.join(found[:5])} ... Make some required and of one type."
                )
        columns = tuple((name, sql_type(inner)) for name, inner in structure.items())
        schema = cls(declared, sent, orjson.dumps(structure).decode(), columns)
        try:
            schema.validate({})
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise _not_a_schema(error) from error
        return schema

    @cached_property
    def fingerprint(self) -> Schema:
        """The declared schema without titles and descriptions: what the version hashes."""
        return _without_prose(self.declared)

    @cached_property
    def _validator(self) -> jsonschema_rs.Validator:
        return jsonschema_rs.validator_for(
            _with_int64(self.declared),
            offline=True,
            validate_formats=True,
            formats={"date": _is_date, "date-time": _is_date_time},
        )

    def validate(self, answer: Any) -> tuple[Any, str | None]:
        """Return the answer with declared capitalisation, and why it does not fit (None: it fits).

        The API does not guarantee the capitalisation of enum and const values; where an answer
        differs from a declared value by case only, it is given the declared one.
        """
        if self._validator.is_valid(answer):
            return answer, None
        answer = SchemaReader(self.declared).folded(self.declared, answer)
        errors = list(self._validator.iter_errors(answer))
        if not errors:
            return answer, None
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return answer, f"{_described(errors[0])}{more}"


def _is_date(text: str) -> bool:
    """Whether DuckDB reads the text as a DATE: where it does not, it silently gives NULL."""
    return _is_iso(_DATE, date.fromisoformat, text)


def _is_date_time(text: str) -> bool:
    """Whether DuckDB reads the text as a TIMESTAMPTZ (no small ``t``, no leap second)."""
    return _is_iso(_DATE_TIME, datetime.fromisoformat, text)


def _is_iso(form: re.Pattern[str], parse: Callable[[str], object], text: str) -> bool:
    if not form.fullmatch(text):
        return False
    try:
        parse(text)
    except ValueError:
        return False
    return True


def sql_type(structure: Structure) -> str:
    """Return the DuckDB type that ``json_transform`` gives for a structure."""
    if isinstance(structure, str):
        return structure
    if isinstance(structure, list):
        return f"{sql_type(structure[0])}[]"
    fields = (
        f'"{name.replace(chr(34), chr(34) * 2)}" {sql_type(inner)}'
        for name, inner in structure.items()
    )
    return f"STRUCT({', '.join(fields)})"


def _described(error: jsonschema_rs.ValidationError) -> str:
    path = ".".join(str(step) for step in error.instance_path)
    message = error.message if len(error.message) <= 300 else f"{error.message[:300]}..."
    return f"{path}: {message}" if path else message


def _not_a_schema(error: Exception) -> InputError:
    known = isinstance(error, jsonschema_rs.ValidationError)
    return InputError(f"output is not a valid JSON Schema: {_described(error) if known else error}")


def _declared(output: type[BaseModel] | Schema) -> dict[str, Any]:
    if isinstance(output, type) and issubclass(output, BaseModel):
        try:
            output = output.model_json_schema(schema_generator=_AnswerSchema)
        except PydanticInvalidForJsonSchema as error:
            raise InputError(f"output: {output.__name__} has no JSON Schema: {error}") from error
    if not isinstance(output, Mapping):
        raise InputError(
            f"output must be a pydantic model class or a JSON Schema (a dict), not {output!r}."
        )
    try:
        return orjson.loads(orjson.dumps(output))
    except TypeError as error:
        raise InputError(f"output: the schema is not JSON: {error}") from error


def _children(schema: Schema) -> Iterator[tuple[str, Any]]:
    """Yield the keywords of a schema whose value is a schema, a list or a dict of schemas."""
    for word, value in schema.items():
        if word in ("properties", "$defs", "definitions", "items", "anyOf", "oneOf", "allOf"):
            yield word, value


def _mapped(schema: Any, change: Any) -> Any:
    """Return ``change`` applied to a schema and every schema inside it."""
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    for word, value in _children(schema):
        if word in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
            out[word] = {name: _mapped(inner, change) for name, inner in value.items()}
        elif isinstance(value, list):
            out[word] = [_mapped(inner, change) for inner in value]
        else:
            out[word] = _mapped(value, change)
    return change(out)


def _without_prose(schema: Schema) -> Schema:
    return _mapped(
        schema, lambda s: {k: v for k, v in s.items() if k not in ("title", "description")}
    )


def _with_int64(schema: Schema) -> dict[str, Any]:
    return _mapped(schema, lambda s: INT64 | s if s.get("type") == "integer" else s)
