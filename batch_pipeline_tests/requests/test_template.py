"""What a template may declare, which columns it reads, what it asks."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field

from batch_pipeline.errors import InputError
from batch_pipeline.requests.compiled import RecordRejected, compile_question
from batch_pipeline.requests.template import MessageTemplate

COLUMNS = {"supplier": "VARCHAR", "text": "VARCHAR", "my col": "VARCHAR", "amount": "DECIMAL(9,2)"}
ASKED: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 64}


class Invoice(BaseModel):
    vendor: str
    total: float


def template(**fields: Any) -> MessageTemplate:
    if not fields.keys() & {"prompt", "messages", "build"}:
        fields["prompt"] = "{{ supplier }}"
    return MessageTemplate(**(ASKED | fields))


def asked(fields: dict[str, Any], record: dict[str, Any], columns: dict[str, str] | None = None):
    compiled = compile_question(template(**fields), columns or dict.fromkeys(record, "VARCHAR"))
    return compiled.params(record)


def text_for(prompt: str, **record: Any) -> str:
    return asked({"prompt": prompt}, record)["messages"][0]["content"]


def shout(record: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": record["text"].upper()}]}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": "{{ a }}", "messages": [{"role": "user", "content": "x"}]}, "Give one of"),
        ({"prompt": None}, "Give one of"),
        ({"prompt": "Hello"}, "reads no column"),
        ({"prompt": "{{ range(3) | list }}"}, "reads no column"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "a\nb {% if %}"}, "prompt, line 2"),
        ({"prompt": "{{ a | random }}"}, "random"),
        (
            {"prompt": "{{ a }}\n{% include 'x.txt' %}"},
            "prompt, line 2: an include reads another file, .* Put its text here",
        ),
        ({"prompt": "{% extends 'x' %}{{ a }}"}, "prompt, line 1: an extends reads another file"),
        (
            {"prompt": "{{ a }}", "system": "{% if true %}{% from 'x' import m %}{% endif %}"},
            "system, line 1: an import reads another file",
        ),
        ({"messages": "hi {{ a }}"}, "messages must be a list"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] needs a role and a content"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages reads no column"),
        ({"messages": [{"role": "user", "content": "{{ a"}]}, r"messages\[0\], line 1"),
        ({"system": "{{ a"}, "system, line 1"),
        ({"system": ["x"]}, "system must be a text"),
        ({"cache": "2h", "system": "s"}, 'cache must be None, "5m" or "1h"'),
        ({"cache": "1h"}, "needs a `system`"),
        ({"cache": "1h", "system": "for {{ supplier }}"}, "reads a column"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"output_mode": "xml"}, "output_mode"),
        ({"version": ""}, "version"),
        ({"params": {"model": "x"}}, "use the field `model`"),
        ({"params": {"system": "x"}}, "use the field `system`"),
        ({"params": {"stream": True}}, "refuses in a batch"),
        ({"params": {"betas": ["a-1"]}}, "use the field `betas`"),
        ({"betas": "compact-2026-01-12"}, "betas is 'compact-2026-01-12'; it must be a list"),
        ({"betas": ["a, b"]}, "betas has 'a, b', which is no name"),
        ({"betas": [None]}, "betas has None"),
        ({"betas": ["a-1", "a-1"]}, "betas names a-1 more than once"),
        ({"params": {"metadata": object()}}, "params is not JSON"),
        (
            {"params": {"output_config": {"format": {}}}, "output": Invoice},
            "use the field `output`",
        ),
        ({"output": {"type": "string"}}, "root must be an object"),
        ({"output": "Invoice"}, "pydantic model class or a JSON Schema"),
        ({"build": shout}, "columns="),
        ({"build": shout, "columns": ["text"]}, "version="),
        ({"build": shout, "columns": "text", "version": "1"}, r"columns=\['text'\]"),
        ({"columns": ["text"]}, "columns belongs to build"),
        ({"model": "claude-opus-5-5", "output": Invoice, "output_mode": "tool"}, "tool_choice"),
        ({"params": {"tools": []}, "output": Invoice, "output_mode": "tool"}, "needs itself"),
    ],
)
def test_a_wrong_declaration_is_an_error_at_once(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        template(**fields)


def test_a_column_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"prompt reads column 'suplier'.*did you mean 'supplier'"):
        compile_question(template(prompt="{{ suplier }}"), COLUMNS)
    with pytest.raises(InputError, match="did you mean 'supplier'"):
        compile_question(template(prompt="{{ Supplier }}"), COLUMNS)
    with pytest.raises(InputError, match="build reads column 'txt'"):
        compile_question(template(build=shout, columns=["txt"], version="1"), COLUMNS)
    with pytest.raises(InputError, match=r"'my cols'.*did you mean 'my col'"):
        compile_question(template(prompt='{{ record["my cols"] }}'), COLUMNS)


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        ({"prompt": "{{ text }} {{ supplier }}"}, ("supplier", "text")),
        ({"prompt": "{% for w in text %}{{ w }}{% endfor %}"}, ("text",)),
        ({"prompt": "{% set supplier = 1 %}{{ supplier }}{{ text }}"}, ("text",)),
        ({"prompt": '{{ record["my col"] }}'}, ("my col",)),
        ({"prompt": "{{ record.supplier }}"}, ("supplier",)),
        ({"prompt": "{{ record }}"}, ("amount", "my col", "supplier", "text")),
        ({"prompt": "{{ record.items() | list }}"}, ("amount", "my col", "supplier", "text")),
        ({"prompt": "{{ text }}", "system": "{{ supplier }}"}, ("supplier", "text")),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "{{ text }}"}]}]},
            ("text",),
        ),
        ({"build": shout, "columns": ["text", "my col"], "version": "1"}, ("my col", "text")),
    ],
)
def test_the_columns_read_are_known_without_rendering(
    fields: dict[str, Any], columns: tuple[str, ...]
) -> None:
    assert compile_question(template(**fields), COLUMNS).columns == columns


def test_a_column_called_record_is_a_column() -> None:
    compiled = compile_question(
        template(prompt="{{ record }}"), {"record": "VARCHAR", "x": "VARCHAR"}
    )
    assert compiled.columns == ("record",)
    assert compiled.params({"record": "R"})["messages"][0]["content"] == "R"


def test_values_are_data_and_never_template() -> None:
    evil = "{{ 7 * 7 }} {% for x in range(9) %} {# no #} ${x} <b>&"
    assert text_for("say: {{ text }}\n", text=evil) == f"say: {evil}\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (0, "0"),
        (1.5, "1.5"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.10"), "0.10"),
        (date(2024, 2, 1), "2024-02-01"),
        (datetime(2024, 2, 1, 3, 4, 5, tzinfo=UTC), "2024-02-01T03:04:05+00:00"),
        (["é", None, 1], '["é",null,1]'),
        ({Decimal("1.5"): {b"k": b"\xff"}}, '{"1.5":{"k":"\\\\xFF"}}'),
        ({"a": Decimal("1.5"), "d": date(2024, 1, 1)}, '{"a":"1.5","d":"2024-01-01"}'),
    ],
)
def test_every_type_prints_in_one_documented_way(value: Any, text: str) -> None:
    assert text_for("[{{ v }}]", v=value) == f"[{text}]"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{{ v | upper }}.", "."),
        ('{{ "a" ~ v ~ "b" }}', "ab"),
        ("{% if v is none %}none{% endif %}", "none"),
        ("{% if v %}yes{% else %}no{% endif %}", "no"),
        ('{{ v | default("-", true) }}', "-"),
        ("{{ v.city }}.", "."),
        ("{% for x in v %}{{ x }}{% endfor %}.", "."),
        ("{{ s.zip | lower }}.", "."),
        ("{{ v == none }}", "true"),
    ],
)
def test_null_is_never_printed_as_none(prompt: str, text: str) -> None:
    assert text_for(prompt + "{{ s.a }}", v=None, s={"zip": None, "a": ""}) == text


@pytest.mark.parametrize(
    ("prompt", "record", "says"),
    [
        ("{{ 1 / n }}", {"n": 0}, "ZeroDivisionError"),
        ("{{ s.nope }}", {"s": {"a": 1}}, "has no attribute 'nope'"),
        ("{{ s.items }}", {"s": {"other": 1}}, "function"),
        ("{{ t }}", {"t": " \n"}, "prompt is empty"),
        ("{{ t.__class__.__mro__ }}", {"t": "x"}, "unsafe|no attribute"),
    ],
)
def test_a_record_that_cannot_be_asked_is_rejected_with_the_reason(
    prompt: str, record: dict[str, Any], says: str
) -> None:
    with pytest.raises(RecordRejected, match=says):
        asked({"prompt": prompt}, record)


def test_an_empty_text_block_is_rejected() -> None:
    content = [{"type": "text", "text": "fixed"}, {"type": "text", "text": "{{ t }}"}]
    with pytest.raises(RecordRejected, match="empty"):
        asked({"messages": [{"role": "user", "content": content}]}, {"t": None})


def test_a_cached_system_prompt_carries_its_ttl() -> None:
    params = asked({"system": "Be brief.", "cache": "1h"}, {"supplier": "A"})
    control = {"type": "ephemeral", "ttl": "1h"}
    assert params["system"] == [{"type": "text", "text": "Be brief.", "cache_control": control}]
    assert params == {
        "model": "claude-haiku-4-5",
        "max_tokens": 64,
        "system": params["system"],
        "messages": [{"role": "user", "content": "A"}],
    }


def test_a_system_prompt_may_read_a_column_when_nothing_is_cached() -> None:
    params = asked({"system": "For {{ supplier }}."}, {"supplier": "A"})
    assert params["system"] == [{"type": "text", "text": "For A."}]


def test_a_blank_system_prompt_is_left_out() -> None:
    for system in (" \n", "{# note #}", "{% if supplier == 'B' %}For B{% endif %}"):
        assert "system" not in asked({"system": system}, {"supplier": "A"})


def test_output_is_asked_for_beside_the_other_output_settings() -> None:
    fields = {"output": Invoice, "params": {"output_config": {"effort": "low"}, "temperature": 0}}
    params = asked(fields, {"supplier": "A"})
    assert params["temperature"] == 0
    assert params["output_config"]["effort"] == "low"
    assert params["output_config"]["format"]["type"] == "json_schema"
    assert params["output_config"]["format"]["schema"]["additionalProperties"] is False


def test_output_by_tool_forces_one_strict_tool() -> None:
    params = asked({"output": Invoice, "output_mode": "tool"}, {"supplier": "A"})
    assert params["tool_choice"] == {"type": "tool", "name": "answer"}
    (tool,) = params["tools"]
    assert tool["strict"] is True
    assert "output_config" not in params


def test_output_columns_carry_the_prefix() -> None:
    assert compile_question(template(), COLUMNS, "ai_").output_columns == [("ai_answer", "VARCHAR")]
    compiled = compile_question(template(output=Invoice), COLUMNS, "ai_")
    assert compiled.output_columns == [("ai_vendor", "VARCHAR"), ("ai_total", "DOUBLE")]


def test_build_makes_its_own_messages_over_the_declared_parameters() -> None:
    fields = {"build": shout, "columns": ["text"], "version": "1", "output": Invoice}
    params = asked(fields, {"text": "abc", "other": 1})
    assert params["messages"] == [{"role": "user", "content": "ABC"}]
    assert params["model"] == "claude-haiku-4-5"
    assert params["output_config"]["format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("built", "says"),
    [
        (None, "must return a dict"),
        ({"messages": []}, "must return a dict"),
        ({"messages": [{"role": "user", "content": object()}]}, "not JSON"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "not JSON"),
        ({"messages": [1], "model": "claude-opus-5"}, "another model"),
        ({"messages": [1], "max_tokens": 65}, "max_tokens"),
        ({"messages": [1], "stream": True}, "stream"),
    ],
)
def test_what_build_may_not_return_rejects_the_record(built: Any, says: str) -> None:
    fields = {"build": lambda record: built, "columns": ["text"], "version": "1"}
    with pytest.raises(RecordRejected, match=says):
        asked(fields, {"text": "x"})


def test_an_error_in_build_rejects_the_record() -> None:
    with pytest.raises(RecordRejected, match=r"shout\(\) failed.*AttributeError"):
        asked({"build": shout, "columns": ["text"], "version": "1"}, {"text": None})


def version(**fields: Any) -> str:
    return compile_question(template(**fields), COLUMNS).version


SCHEMA = {
    "title": "T",
    "description": "D",
    "type": "object",
    "properties": {"title": {"type": "string", "title": "Title", "description": "what it is"}},
    "required": ["title"],
}
BARE = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
}


def test_the_version_is_golden() -> None:
    """A change of these asks every record of every user again: never change them lightly."""
    assert version(prompt="{{ supplier }}") == "a5b5104af5b250cc"
    assert (
        version(prompt="{{ supplier }}", system="S", output=SCHEMA, params={"a": 1})
        == "9f3f79785449f92a"
    )
    assert version(version="v1") == "3bfc269594ef6492"


def test_the_version_does_not_change_with_what_changes_no_answer() -> None:
    base = {"prompt": "{{ supplier }}", "system": "S", "output": SCHEMA}
    assert version(**base) == version(**base, cache="1h") == version(**base, max_tokens=9)
    assert version(**base) == version(**(base | {"output": BARE})) == version(**base, betas=[])
    assert version(**base, betas=["a", "b"]) == version(**base, betas=("b", "a"))
    block = {"type": "text", "text": "{{ text }}"}
    cached = block | {"cache_control": {"type": "ephemeral"}}
    assert version(messages=[{"role": "user", "content": [block]}]) == version(
        messages=[{"role": "user", "content": [cached]}]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "{{ supplier }}!"},
        {"system": "T"},
        {"model": "claude-haiku-5-5"},
        {"output": BARE | {"required": []}},
        {"output": None},
        {"output_mode": "tool"},
        {"params": {"temperature": 1}},
        {"betas": ["compact-2026-01-12"]},
        {"version": "2"},
    ],
)
def test_the_version_changes_with_the_question(change: dict[str, Any]) -> None:
    base = {"prompt": "{{ supplier }}", "system": "S", "output": SCHEMA}
    assert version(**base) != version(**(base | change))


def test_a_schema_with_another_bound_is_another_version() -> None:
    class Bounded(BaseModel):
        n: int = Field(ge=0)

    class Wider(BaseModel):
        n: int = Field(ge=-1)

    assert version(output=Bounded) != version(output=Wider)


def test_a_declared_version_replaces_the_text_but_builds_stands_for_its_code() -> None:
    assert version(prompt="{{ text }}", version="v1") == version(
        prompt="{{ supplier }}", version="v1"
    )
    build = {"build": shout, "columns": ["text"]}
    assert version(**build, version="1") != version(**build, version="2")
    assert version(**build, version="1") != version(**build, version="1", system="S")
