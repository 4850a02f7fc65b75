"""The turns by which an answer that did not fit is asked for once more."""

import json
from typing import Any

import pytest

from batch_pipeline.emulator.rules import Occasion, check_params
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.correction import Correction, corrected
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline_tests.requests.test_schema import STRING, object_of

OUTPUT = object_of(kind=STRING)
ERROR = 'kind: 5 is not of type "string". The answer reads: {"kind":5}'


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def call(name: str, value: Any) -> dict[str, Any]:
    return {"type": "tool_use", "name": name, "input": value}


def asked(*blocks: dict[str, Any], error: str = ERROR, **fields: Any) -> list[Any] | None:
    """Return the turns of a request that goes on from this answer; the API takes it."""
    declared = {"model": "claude-haiku-4-5", "max_tokens": 2_000, "output": OUTPUT} | fields
    template = MessageTemplate(
        **({"prompt": "{{ v }}"} if "messages" not in declared else {}), **declared
    )
    params = compile_question(template, {"v": "VARCHAR"}).params({"v": "a note"})
    found = corrected(params, Correction(json.dumps(blocks), error))
    if found is None:
        return None
    check_params(found, Occasion("batch"))
    assert found["messages"][:1] == params["messages"][:1]
    assert {**found, "messages": None} == {**params, "messages": None}
    return found["messages"][len(params["messages"]) :]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "claude-opus-5-5"},
        {"params": {"thinking": {"type": "enabled", "budget_tokens": 1_024}}},
        {"messages": [{"role": "user", "content": [text("{{ v }}")]}]},
    ],
)
def test_an_answer_in_text_goes_on_with_what_is_wrong(fields: dict[str, Any]) -> None:
    turns = asked(text('{"kind":'), text("5}\n"), **fields)
    assert turns is not None
    assert turns[0] == {"role": "assistant", "content": '{"kind":5}'}
    assert turns[1]["role"] == "user" and 'kind: 5 is not of type "string".' in turns[1]["content"]
    assert "reads" not in turns[1]["content"]


def test_an_answer_through_the_tool_goes_on_as_a_call_and_its_result() -> None:
    turns = asked(text("So:"), call("answer", {"kind": 5}), output_mode="tool")
    assert turns is not None
    [called], [result] = turns[0]["content"], turns[1]["content"]
    assert called["input"] == {"kind": 5} and called["id"] == result["tool_use_id"]
    assert result["is_error"] and 'kind: 5 is not of type "string".' in result["content"]
    # What came as text after all goes on as text.
    turns = asked(text("I cannot"), error="It is not JSON. It reads: I", output_mode="tool")
    assert turns is not None and turns[0]["content"] == "I cannot"


@pytest.mark.parametrize(
    "blocks", [[], [text(" \n")], [call("search", {"q": "x"})], [call("answer", ["x"])]]
)
def test_there_may_be_nothing_to_go_on_from(blocks: list[Any]) -> None:
    for mode in ("tool", "json_schema"):
        assert asked(*blocks, output_mode=mode) is None


def test_calls_of_the_users_tools_are_left_out() -> None:
    tools = [{"name": "search", "input_schema": {"type": "object"}}]
    turns = asked(text("x"), call("search", {"q": "x"}), params={"tools": tools})
    assert turns is not None and turns[0]["content"] == "x"
