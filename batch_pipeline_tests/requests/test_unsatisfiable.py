"""Questions that no answer can satisfy are refused when they are declared, before anything is paid."""

from datetime import datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    FutureDate,
    NaiveDatetime,
    PastDate,
    PastDatetime,
    create_model,
)

from batch_pipeline.errors import InputError
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline_tests.definitions.test_component import attributes, loaded, problem
from batch_pipeline_tests.requests.test_schema import STRING, object_of, schema_of

INTEGER = {"type": "integer"}


def list_of(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def declare(output: Any) -> None:
    MessageTemplate(model="claude-haiku-4-5", max_tokens=9, prompt="{{ v }}", output=output)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{type: string, enum: [yes, no]}", "true"),
        ("{type: string, enum: [on, off]}", "true"),
        ("{type: string, enum: [No, Yes]}", "false"),
        ("{type: string, enum: [DE, NO, SE]}", "false"),
        ("{type: string, const: yes}", "true"),
        ("{type: array, items: {type: string, enum: [OFF, ON]}}", "false"),
        ("{anyOf: [{type: string, enum: [yes, no]}, {type: 'null'}]}", "true"),
        ("{type: [string, 'null'], enum: [yes, no]}", "true"),
        ("{type: object, properties: {b: {type: string, enum: [yes]}}, required: [b]}", "true"),
    ],
)
def test_yaml_booleans_in_the_place_of_texts_are_refused_with_the_hint_to_quote(
    text: str, value: str
) -> None:
    with pytest.raises(InputError, match=rf"output\.a.*{value}.*quoted") as refused:
        declare(object_of(a=yaml.safe_load(text)))
    assert '"yes"' in str(refused.value)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"type": "string", "enum": ["a", 1]}, "value 1 .*not of its type, string"),
        ({"type": "string", "enum": ["a", None]}, r'value null .*\[string, "null"\]'),
        ({"type": "integer", "enum": [1, 2.5]}, r"value 2\.5 "),
        ({"type": "integer", "const": "1"}, 'value "1" '),
        ({"type": "boolean", "enum": ["yes"]}, 'value "yes" '),
        ({"type": ["integer", "null"], "enum": [1, "x"]}, "integer or null"),
        ({"type": "number", "enum": [True]}, "value true "),
    ],
)
def test_a_value_outside_the_type_is_named(field: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=rf"output\.a: the .*{says}"):
        declare(object_of(a=field))


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (INTEGER | {"minimum": 5, "maximum": 1}, "minimum: 5, maximum: 1"),
        (INTEGER | {"exclusiveMinimum": 4, "exclusiveMaximum": 5}, "exclusive"),
        (INTEGER | {"minimum": 1.2, "maximum": 1.8}, "minimum"),
        (INTEGER | {"minimum": 1, "maximum": 4, "multipleOf": 5}, "multipleOf"),
        (INTEGER | {"minimum": 2**63}, "minimum"),
        ({"type": "number", "exclusiveMinimum": 5, "maximum": 5}, "exclusiveMinimum: 5"),
        (STRING | {"minLength": 5, "maxLength": 1}, "minLength: 5, maxLength: 1"),
        (STRING | {"enum": ["abc"], "pattern": "^[A-Z]+$"}, "pattern"),
        (STRING | {"enum": ["today"], "format": "date"}, "format"),
        (STRING | {"enum": ["a"], "minLength": 2}, "minLength: 2"),
        (STRING | {"format": "date", "maxLength": 4}, "maxLength: 4"),
        (STRING | {"not": STRING}, "not"),
        (STRING | {"anyOf": [INTEGER, {"type": "null"}]}, "anyOf"),
        ({"oneOf": [STRING, STRING]}, "oneOf"),
        (list_of(STRING, minItems=3, maxItems=1), "minItems: 3, maxItems: 1"),
        (list_of({"enum": ["a", "b"]}, minItems=3, uniqueItems=True), "uniqueItems"),
        (list_of(STRING, contains=INTEGER), "contains"),
        ({"anyOf": [INTEGER | {"minimum": 5, "maximum": 1}, {"type": "null"}]}, "minimum"),
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_what_excludes_itself_is_refused_with_its_place(
    field: dict[str, Any], says: str, required: bool
) -> None:
    output = object_of(a=field, b=STRING)
    output["required"] = ["a", "b"] if required else ["b"]
    with pytest.raises(InputError, match=rf"output\.a: no answer can ever fit it.*{says}"):
        declare(output)


def test_the_innermost_place_is_named() -> None:
    broken = INTEGER | {"minimum": 5, "maximum": 1}
    with pytest.raises(InputError, match=r"output\.lines\[\]\.count: no answer"):
        declare(object_of(lines=list_of(object_of(count=broken))))
    with pytest.raises(InputError, match=r"output\.\$defs\.A: no answer"):
        declare(object_of(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": broken}})
    with pytest.raises(InputError, match=r'output\.a/b "~c: no answer'):
        declare(object_of(**{'a/b "~c': broken}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"required": ["a", "b"]}, "'b' is required, but is not among its properties"),
        ({"required": ["a", "b"], "additionalProperties": True}, "'b' is required"),
        ({"required": ["A"]}, "'A' is required"),
        ({"minProperties": 2}, "output: no answer .*minProperties: 2"),
        ({"maxProperties": 0}, "maxProperties: 0"),
        ({"dependentRequired": {"a": ["b"]}}, "output: no answer"),
        ({"if": {}, "then": False}, "output: no answer"),
        ({"propertyNames": {"pattern": "^b$"}}, "output: no answer"),
        ({"not": {}}, "output: no answer"),
    ],
)
def test_an_object_that_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        declare(object_of(a=STRING) | change)


def test_a_required_name_of_an_inner_object_is_looked_at() -> None:
    with pytest.raises(InputError, match=r"output\.lines\[\]: 'x' is required"):
        declare(object_of(lines=list_of(object_of(sku=STRING) | {"required": ["x"]})))


def test_names_that_yaml_made_booleans_of_are_refused_with_the_hint() -> None:
    with pytest.raises(InputError, match="quote the names yes, no"):
        declare(yaml.safe_load("{type: object, properties: {yes: {type: string}}}"))


class Range(BaseModel):
    n: int = Field(ge=5, le=1)


class Short(BaseModel):
    code: str | None = Field(None, min_length=3, max_length=2)


class Money(BaseModel):
    total: Decimal = Field(max_digits=4, decimal_places=2, ge=100)


class Many(BaseModel):
    tags: Annotated[list[Literal["a", "b"]], Field(min_length=3, max_length=1)]


@pytest.mark.parametrize("model", [Range, Short, Money, Many])
def test_a_class_that_excludes_itself_is_refused(model: type[BaseModel]) -> None:
    with pytest.raises(InputError, match="no answer can ever fit"):
        declare(model)


class Colour(Enum):
    RED = "red"
    NONE = None


class Fine(BaseModel):
    flag: bool | Literal["unknown"]
    mixed: Literal[True, "auto"]
    colour: Colour | None = None
    total: Decimal = Field(max_digits=4, decimal_places=2, ge=99)
    narrow: int = Field(ge=5, le=5)
    tags: list[Literal["a"]] = Field(min_length=1, max_length=1)


@pytest.mark.parametrize(
    "output",
    [
        Fine,
        object_of(a={"enum": ["a", None]}),
        object_of(a={"type": ["string", "null"], "enum": ["a", None]}),
        object_of(a={"type": "number", "enum": [1, 2.5]}),
        object_of(a={"type": "integer", "enum": [1.0]}),
        object_of(a=INTEGER | {"minimum": 5, "maximum": 5}),
        object_of(a=STRING | {"pattern": "^a$", "minLength": 1}),
        object_of(a=STRING) | {"additionalProperties": True},
        object_of(a=STRING) | {"$defs": {"Unused": INTEGER | {"minimum": 5, "maximum": 1}}},
        object_of(a=STRING | {"not": {"enum": ["x"]}}),
        object_of(a={"oneOf": [object_of(k={"const": "x"}), object_of(k={"const": "y"})]}),
    ],
)
def test_what_some_answer_fits_is_not_refused(output: Any) -> None:
    declare(output)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-5, 5), st.integers(-5, 5), st.sampled_from(["integer", "minLength", "minItems"])
)
def test_bounds_are_refused_exactly_when_nothing_lies_between(
    least: int, most: int, what: str
) -> None:
    if what == "integer":
        field = INTEGER | {"minimum": least, "maximum": most}
    else:
        least, most = abs(least), abs(most)
        other = what.replace("min", "max")
        field = (STRING if "Length" in what else list_of(STRING)) | {what: least, other: most}
    if least <= most:
        declare(object_of(a=field))
        return
    with pytest.raises(InputError, match="no answer can ever fit"):
        declare(object_of(a=field))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"stop_sequences": ["}"]}, "stop sequence '}'"),
        ({"stop_sequences": ["END", '"']}, "stop sequence '\"'"),
        ({"stop_sequences": ['"city"']}, "city"),
        ({"tool_choice": {"type": "any"}}, "every answer calls a tool"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "every answer calls a tool"),
    ],
)
def test_parameters_that_leave_no_answer_in_the_form_of_the_output_are_refused(
    params: dict[str, Any], says: str
) -> None:
    fields: dict[str, Any] = {"model": "m", "max_tokens": 9, "prompt": "{{ v }}", "params": params}
    MessageTemplate(**fields)
    with pytest.raises(InputError, match=says):
        MessageTemplate(**fields, output=object_of(city=STRING))


def test_a_stop_sequence_that_an_answer_can_do_without_is_taken() -> None:
    MessageTemplate(
        model="m",
        max_tokens=9,
        prompt="{{ v }}",
        params={"stop_sequences": ["END", "\n\n"], "tool_choice": {"type": "auto"}},
        output=object_of(city=STRING),
    )


def test_a_question_that_was_asked_is_read_for_good() -> None:
    asked = object_of(a={"type": "string", "enum": [True]})
    found = OutputSchema.stored(asked)
    assert found is not None and found.columns == (("a", "BOOLEAN"),)
    with pytest.raises(InputError):
        schema_of(asked)


def test_a_component_says_it_in_its_place() -> None:
    base = attributes()["request"]
    for values in (["yes", False], ["DE", False, "SE"]):
        output = object_of(country={"enum": values})
        said = problem(attributes(request={**base, "output": output}))
        assert "output.country" in said and "NO for Norway" in said
    output = object_of(a={"type": "string", "enum": [True, False]})
    assert "quoted" in problem(attributes(request={**base, "output": output}))
    output = object_of(a={"enum": [True, False]}, b={"type": "string", "enum": ["yes", "NO"]})
    with loaded(attributes(request={**base, "output": output})) as (component, _):
        assert component.pipeline().request.output == output


class Visit(BaseModel):
    at: list[NaiveDatetime | None]


class Visits(BaseModel):
    first: Visit
    visits: list[Visit]


class Stripped(BaseModel):
    at: Annotated[NaiveDatetime, BeforeValidator(lambda text: text.rstrip("Z"))]
    other: NaiveDatetime | str


def test_times_that_may_have_no_zone_are_refused_with_their_field() -> None:
    with pytest.raises(InputError, match=r"output\.first\.at: Visits takes .*`AwareDatetime`"):
        declare(Visits)
    OutputSchema.from_(Stripped)


# What each class's schema asks of the API, and what the class takes, go together.
FITTING: dict[Any, str] = {
    AwareDatetime: "2026-01-31T23:59:59Z", datetime: "2026-01-31T23:59:59+01:00",
    PastDatetime: "2020-01-31T23:59:59Z", PastDate: "2020-01-31", FutureDate: "2999-01-31",
    time: "23:59:59Z", timedelta: "P1DT2H", UUID: "12345678-1234-5678-1234-567812345678",
    bytes: "aGk=",
}  # fmt: skip


@pytest.mark.parametrize("kind", FITTING)
def test_an_answer_as_the_api_gives_it_fits_the_class(kind: Any) -> None:
    schema = OutputSchema.from_(create_model("Dated", field=(kind, ...)))
    assert schema is not None and schema.judged({"field": FITTING[kind]})[1] is None


def test_a_bound_of_more_than_64_bits_and_a_schema_in_itself_name_the_field() -> None:
    with pytest.raises(InputError, match=rf"output\.n\.maximum: {2**70} has more.*Leave that"):
        declare(create_model("Large", n=(Annotated[int, Field(le=2**70)], ...)))
    with pytest.raises(InputError, match=r"output\.a: the schema contains itself \(#\).*levels"):
        declare(object_of(a={"$ref": "#"}))
