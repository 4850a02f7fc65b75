"""Answers fit the question: valid under the schema, and drawn from the text."""

import hashlib
import json
from typing import Any

import anthropic
import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.emulator.filling import Filler
from batch_pipeline_tests.support.api_requests import params, with_schema

SYSTEM = """You sort invoices into cost centres.
IT: cloud, software, hosting, infrastructure, licences
Travel: flight, hotel, taxi, train
Facilities: cleaning, rent, electricity
Other: everything else
Answer with the fields asked for."""

INVOICE = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": ["IT", "Travel", "Facilities", "Other"]},
        "amount": {"type": "number"},
        "currency": {"type": "string"},
        "due_date": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "is_urgent": {"type": "boolean"},
        "supplier": {"type": "string"},
        "reason": {"type": "string"},
    },
    "required": ["category", "amount", "currency", "due_date", "is_urgent", "supplier", "reason"],
    "additionalProperties": False,
}


def text_of(message: anthropic.types.Message) -> str:
    [block] = message.content
    assert block.type == "text"
    return block.text


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "Supplier: Nimbus Ltd\nText: Cloud infrastructure, March, Rs 124500, due 2026-12-05",
            {
                "category": "IT",
                "amount": 124500,
                "currency": "INR",
                "due_date": "2026-12-05",
                "supplier": "Nimbus Ltd",
            },
        ),
        (
            "Supplier: Air Nord\nText: Two flights, no. 4711 of 3 May 2026: € 1.234,56. URGENT!",
            {
                "category": "Travel",
                "amount": 1234.56,
                "currency": "EUR",
                "due_date": "2026-05-03",
                "is_urgent": True,
            },
        ),
        (
            "Supplier: Shine\nText: 3 days of cleaning for 1,24,500.50 INR, not urgent",
            {
                "category": "Facilities",
                "amount": 124500.5,
                "currency": "INR",
                "due_date": None,
                "is_urgent": False,
            },
        ),
        (
            "Supplier: Kumo\nText: a gift for $40",
            {"category": "Other", "amount": 40, "currency": "USD"},
        ),
    ],
)
def test_an_invoice_is_read(
    client: anthropic.Anthropic, prompt: str, expected: dict[str, Any]
) -> None:
    message = client.messages.create(**with_schema(INVOICE, prompt, system=SYSTEM))
    answer = json.loads(text_of(message))
    jsonschema_rs.validate(INVOICE, answer)
    assert {name: answer[name] for name in expected} == expected
    assert message.stop_reason == "end_turn"


def test_a_plain_answer_is_an_extract_of_the_prompt(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**params("Summarise: the meeting was moved to Monday."))
    assert text_of(message) in "Summarise: the meeting was moved to Monday."


def test_a_forced_tool_is_called_with_a_fitting_input(client: anthropic.Anthropic) -> None:
    tool = {"name": "record", "input_schema": INVOICE}
    message = client.messages.create(
        **params("Text: hotel, $90", tools=[tool], tool_choice={"type": "tool", "name": "record"}),
        system=SYSTEM,
    )
    assert message.stop_reason == "tool_use"
    [block] = message.content
    assert block.type == "tool_use"
    assert (block.name, block.input["category"], block.input["amount"]) == ("record", "Travel", 90)


def test_a_strict_tool_is_called_without_being_forced(client: anthropic.Anthropic) -> None:
    tool = {"name": "record", "input_schema": INVOICE, "strict": True}
    asked = params("Text: taxi", tools=[tool], model="claude-opus-5-5")
    assert client.messages.create(**asked).stop_reason == "tool_use"


def test_thinking_comes_before_the_answer(client: anthropic.Anthropic) -> None:
    asked = params(model="claude-sonnet-4-6", thinking={"type": "adaptive"})
    message = client.messages.create(**asked)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.usage.output_tokens_details is not None
    assert 0 < message.usage.output_tokens_details.thinking_tokens < message.usage.output_tokens


def test_an_answer_stops_at_a_stop_sequence(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**params("one two three", stop_sequences=["two"]))
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "two")
    assert text_of(message) == "one "


def test_a_digest_is_the_first_free_string_of_a_schema(
    client: anthropic.Anthropic, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(answers="digest")
    prompt = "Text: hotel, $90"
    answer = json.loads(text_of(client.messages.create(**with_schema(INVOICE, prompt))))
    jsonschema_rs.validate(INVOICE, answer)
    assert answer["currency"] == hashlib.sha256(prompt.encode()).hexdigest()


NAMES = st.sampled_from(
    "id name amount total currency date is_paid reason tags score confidence email notes".split()
)
WORDS = st.sampled_from(["red", "green", "dark blue", "Other", "n/a"])
LEAVES = st.one_of(
    st.sampled_from(
        [{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")]
    ),
    st.sampled_from(
        [
            {"type": "string", "format": form}
            for form in ("date", "date-time", "email", "uri", "uuid")
        ]
    ),
    st.lists(WORDS, min_size=1, unique=True).map(lambda values: {"type": "string", "enum": values}),
    st.just({"enum": [1, 2, None]}),
    st.just({"const": "fixed"}),
    st.just({"type": ["string", "null"]}),
    st.just({"type": ["integer", "null"]}),
    st.just({"$ref": "#/$defs/money"}),
)
MONEY = {
    "type": "object",
    "properties": {"amount": {"type": "number"}, "currency": {"enum": ["USD", "INR"]}},
    "required": ["amount", "currency"],
    "additionalProperties": False,
}


def objects(parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(NAMES, parts, max_size=5).map(
        lambda properties: {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )


def nested(parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    arrays = st.tuples(parts, st.sampled_from([0, 1])).map(
        lambda drawn: {"type": "array", "items": drawn[0], "minItems": drawn[1]}
    )
    unions = st.lists(parts, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches})
    return st.one_of(arrays, unions, objects(parts))


SCHEMAS = objects(st.recursive(LEAVES, nested, max_leaves=8))
TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from(
            [
                "Rs 1,24,500.50",
                "12 May 2026",
                "2026-13-45",
                "Name: Ana",
                "not paid",
                "green",
                "a@b.example",
                "$3k",
                "-7",
                "1.2.3,4",
                "Date: 99/99/9999",
            ]
        )
    ).map("\n".join),
)


@settings(max_examples=150, deadline=None)
@given(schema=SCHEMAS, text=TEXTS, digest=st.booleans())
def test_whatever_the_schema_the_answer_is_valid(
    schema: dict[str, Any], text: str, digest: bool
) -> None:
    schema = {**schema, "$defs": {"money": MONEY}}
    filled = Filler(schema, text, SYSTEM, "d" * 64 if digest else None).fill()
    jsonschema_rs.validate(schema, filled)
    assert Filler(schema, text, SYSTEM, "d" * 64 if digest else None).fill() == filled
