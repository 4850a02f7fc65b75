"""The form of an answer: what the API is sent, what an answer must fit, its columns."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jsonschema_rs
import orjson
from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from batch_pipeline.errors import InputError
from batch_pipeline.requests.column_values import (
    DECIMAL,
    Misfit,
    decimal_digits,
    decimal_type,
    declared_digits,
    in_columns,
    is_date,
    is_date_time,
)
from batch_pipeline.requests.model_judge import answered_part, judged_by, naive_time, plain_values
from batch_pipeline.requests.schema_reader import Schema, SchemaReader, Structure
from batch_pipeline.requests.unsatisfiable import check_satisfiable

MAX_OPTIONAL = 24
"""Optional parameters one schema may have (structured-outputs guide, 2026-08-22)."""
MAX_UNIONS = 16
"""Parameters with a union type one schema may have (same source)."""
INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}
"""An integer column is a BIGINT: a larger number would silently become NULL there."""


class _AnswerSchema(GenerateJsonSchema):
    """Pydantic's JSON Schema, with a ``Decimal`` as a plain number (not number-or-string)."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Any]:
        digits = {word: schema.get(word) for word in ("max_digits", "decimal_places")}
        found: dict[str, Any] = {"type": "number"}
        found[DECIMAL] = {word: count for word, count in digits.items() if count is not None}
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
        model: the pydantic class that judges answers, where the user declared one.
    """

    declared: Schema
    sent: Schema
    structure: str
    columns: tuple[tuple[str, str], ...]
    model: type[BaseModel] | None = field(default=None, compare=False)

    @classmethod
    def from_(cls, output: type[BaseModel] | Schema | None) -> "OutputSchema | None":
        """Return the schema of a pydantic model class or a JSON Schema; None for plain text.

        Raises:
            InputError: the API would refuse the schema, no answer could ever fit it, or an answer
                could not become columns.
        """
        found = cls.stored(output)
        if found is not None:
            _check_names(orjson.loads(found.structure), "output")
            check_satisfiable(_as_strict_as_columns(found.declared))
            if found.model is not None and (place := naive_time(found.model)):
                raise InputError(
                    f"output.{place}: {found.model.__name__} takes times without a zone only (NaiveDatetime),"
                    " and the API's format date-time asks for one: no answer could ever fit, and each"
                    " record would be paid for in vain. Declare it as `datetime` or `AwareDatetime`, or"
                    " as `str` with a description of the form."
                )
        return found

    @classmethod
    def stored(cls, output: type[BaseModel] | Schema | None) -> "OutputSchema | None":
        """Return a schema as `from_`, without asking whether an answer can fit it.

        What was asked must be read for good, whatever later versions refuse to ask.
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
        model = output if isinstance(output, type) else None
        schema = cls(declared, sent, orjson.dumps(structure).decode(), columns, model)
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
            formats={"date": is_date, "date-time": is_date_time},
        )

    @cached_property
    def _without_formats(self) -> jsonschema_rs.Validator:
        return jsonschema_rs.validator_for(
            _with_int64(self.declared), offline=True, validate_formats=False
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

    def judged(self, answer: Any) -> tuple[Any, str | None]:
        """Return the answer as its columns hold it, and why it does not fit (None: it fits).

        The schema is asked first, then the class, where there is one: the class has the last word,
        and what it makes of the answer (defaults, coercions) is the answer. An answer that the
        schema refuses fits when the class takes it and makes one of it that fits the schema.
        """
        fitted, error = self.validate(answer)
        if self.model is not None:
            made, refused, model = judged_by(self.model, fitted)
            if refused is not None:
                return fitted, refused
            if error is not None and (said := self._misread(made, model, fitted, error)):
                return fitted, said
            fitted, error = made, None
        if error is not None or not (self.exact or self.model):
            return fitted, error
        try:
            return in_columns(self._columns, fitted), None
        except Misfit as misfit:
            return fitted, str(misfit)

    def _misread(self, made: Any, model: BaseModel | None, answer: Any, error: str) -> str | None:
        """Return why what the class made of an answer does not fit the schema, None if it fits.

        The class's own defaults need not fit. What it reads in another form (a time without a zone),
        in another place or by another name, it has read.
        """
        given = plain_values(model, only_given=True)
        for said in (given, answered_part(made, answer), made):
            if self._without_formats.is_valid(said):
                return None
        return self.validate(given)[1] or error

    @property
    def exact(self) -> bool:
        """Whether numbers must be read with all their digits: a column is a decimal, or JSON."""
        return any(kind in self.structure for kind in ('"DECIMAL(', '"JSON"'))

    @cached_property
    def _columns(self) -> Structure:
        return orjson.loads(self.structure)

    @cached_property
    def descriptions(self) -> dict[str, str]:
        """What the schema says of its fields, by name: of those that it says something of."""
        reader = SchemaReader(self.declared)
        root = self.declared
        while "$ref" in root:
            root = reader.resolve(root["$ref"], "output")
        said = {name: reader.description(part) for name, part in root["properties"].items()}
        return {name: text for name, text in said.items() if text}


def _check_names(structure: Structure, where: str) -> None:
    """Refuse a property without a name: DuckDB takes none out of an answer."""
    if isinstance(structure, list):
        _check_names(structure[0], f"{where}[]")
    elif isinstance(structure, dict):
        if "" in structure:
            raise InputError(
                f"{where}: a property has an empty name, and no column can hold it. Name it."
            )
        for name, inner in structure.items():
            _check_names(inner, f"{where}.{name}")


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
        if found := _too_large(output, "output"):
            place, number = found
            raise InputError(
                f"{place}: {number} has more than 64 bits, and so has no column: a whole number of an"
                f" answer is a BIGINT, up to {2**63 - 1}. Leave that bound out, or choose one within; for"
                " larger numbers declare the field as a Decimal or as text."
            ) from error
        hint = " In YAML, quote the names yes, no, on and off." if "key" in str(error) else ""
        raise InputError(f"output: the schema is not JSON: {error}.{hint}") from error


def _too_large(value: Any, where: str) -> tuple[str, int] | None:
    """Return the first whole number of more than 64 bits, and its place; None when there is none."""
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else (where, value)
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    for name, one in inner:
        at = where if name in ("properties", "$defs") else f"{where}.{name}"
        if found := _too_large(one, at):
            return found
    return None


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
        schema, lambda s: {k: v for k, v in s.items() if k not in ("title", "description", DECIMAL)}
    )


def _with_int64(schema: Schema) -> dict[str, Any]:
    return _mapped(schema, lambda s: INT64 | s if s.get("type") == "integer" else s)


def _as_strict_as_columns(schema: Schema) -> dict[str, Any]:
    """Return a schema with the bounds that its columns have: 64 bits, a decimal's digits."""

    def bounded(inner: dict[str, Any]) -> dict[str, Any]:
        digits = declared_digits(inner)
        if not digits:
            return inner
        total, places = decimal_digits(decimal_type(**digits)) or (0, 0)
        most = 10 ** (total - places)
        found = {"allOf": [*inner.get("allOf", ())]}
        found["allOf"].append({"exclusiveMinimum": -most, "exclusiveMaximum": most})
        return inner | found

    return _mapped(_with_int64(schema), bounded)
