"""What documents are cited for is kept; and turns that a batch cannot go on with are not asked again."""

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import InputError, MessageTemplate
from batch_pipeline.definitions.metadata import answers_said
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.results.judge import judge_line
from batch_pipeline.results.lost import rebuild_lost
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.given_answers import OneRecord, text

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def document(**fields: Any) -> dict[str, Any]:
    source = {"type": "text", "media_type": "text/plain", "data": "{{ v }}"}
    return {"type": "document", "source": source, "citations": {"enabled": True}} | fields


def asking(*blocks: dict[str, Any]) -> dict[str, Any]:
    content = [*blocks, {"type": "text", "text": "Who says {{ v }}?"}]
    return {"prompt": None, "messages": [{"role": "user", "content": content}]}


@pytest.fixture
def one(claude_emulator: EmulatorProcess, tmp_path: Path) -> OneRecord:
    return OneRecord(tmp_path, claude_emulator)


def test_citations_have_a_column_of_their_own_when_documents_ask_for_them(one: OneRecord) -> None:
    cited = [{"type": "char_location", "cited_text": "hel", "document_index": 0}]
    content = [
        text("It says "),
        text("hello") | {"citations": cited},
        text(".") | {"citations": None},
    ]
    row = one.answer(one.nights(**asking(document())), *content)
    assert row["answer"] == "It says hello."
    assert json.loads(row["citations"]) == [{"text": "hello", "citations": cited}]
    assert one.types()["citations"] == "JSON"


@only_whole
def test_what_the_model_thought_is_kept_when_asked_and_asks_nothing_again(one: OneRecord) -> None:
    content = [
        {"type": "thinking", "thinking": "It is short.", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "thinking", "thinking": "So yes.", "signature": "s"},
        text("Yes"),
    ]
    row = one.answer(one.nights(), *content)
    assert row["answer"] == "Yes" and "thinking" not in row
    run = one.nights(keep_thinking=True)
    run.submit()
    assert len(one.emulator.batches()) == 1
    one.emulator.clear_faults()
    run.submit(force=True)
    one.end_with(*content)
    run.collect()
    row = one.row()
    assert (row["answer"], row["thinking"]) == ("Yes", "It is short.\nSo yes.")


def test_what_the_model_thought_has_a_column_of_its_own() -> None:
    blocks = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, text("Yes")]
    message = {"content": blocks, "model": "m", "stop_reason": "end_turn", "usage": {}}
    line = json.dumps(
        {"custom_id": "a", "result": {"type": "succeeded", "message": message}}
    ).encode()
    now = datetime.now(UTC)
    kept = judge_line(line, None, now, thinking=True)
    left = judge_line(line, None, now)
    assert kept is not None and (kept.answer, kept.thinking) == ("Yes", "Hm.")
    assert left is not None and (left.answer, left.thinking) == ("Yes", None)
    template = MessageTemplate(model="m", max_tokens=9, prompt="{{ v }}", keep_thinking=True)
    compiled = compile_question(template, {"v": "VARCHAR"}, "x_")
    assert compiled.output_columns[1] == ("x_thinking", "VARCHAR")
    assert set(answers_said(template, "x_")) == {"x_answer", "x_thinking"}
    named = {"type": "object", "properties": {"Thinking": {"type": "string"}}, "required": []}
    for wrong, said in (({"output": named}, "field `thinking`"), ({"keep_thinking": 1}, "True or")):
        with pytest.raises(InputError, match=said):
            MessageTemplate(
                **{"model": "m", "max_tokens": 9, "prompt": "{{ v }}", "keep_thinking": True}
                | wrong
            )


@pytest.mark.parametrize(
    "blocks",
    [
        [document(citations={"enabled": False})],
        [document(citations=None)],
        [{"type": "text", "text": "{{ v }}", "citations": {"enabled": True}}],
    ],
)
def test_no_other_question_gets_the_column(blocks: list[dict[str, Any]]) -> None:
    template = MessageTemplate(**{"model": "m", "max_tokens": 9, **asking(*blocks)})
    assert compile_question(template, {"v": "VARCHAR"}).output_columns == [("answer", "VARCHAR")]
    asked = MessageTemplate(**{"model": "m", "max_tokens": 9, **asking(document())})
    compiled = compile_question(asked, {"v": "VARCHAR"}, "x_")
    assert compiled.output_columns == [("x_answer", "VARCHAR"), ("x_citations", "JSON")]
    assert set(answers_said(asked, "x_")) == {"x_answer", "x_citations"}


def test_what_leaves_no_place_for_citations_is_refused() -> None:
    fields = {"model": "claude-haiku-4-5", "max_tokens": 9, **asking(document())}
    with pytest.raises(InputError, match="refuses beside `output`"):
        MessageTemplate(**fields, output=SCHEMA)
    named = {"type": "object", "properties": {"Citations": {"type": "string"}}, "required": []}
    with pytest.raises(InputError, match="field `citations`"):
        MessageTemplate(**fields, output=named, output_mode="tool")


def test_what_filled_the_context_window_is_asked_again_only_when_its_request_differs(
    one: OneRecord,
) -> None:
    row = one.answer(one.nights(), text("So far"), stop_reason="model_context_window_exceeded")
    assert row["_status"] == "truncated" and "More max_tokens would not help" in row["_error"]
    one.emulator.clear_faults()
    run = one.nights()
    run.submit()
    assert len(one.emulator.batches()) == 1
    # Its index calls it rejected: nothing is damaged.
    with closing(run.claude.api()) as api:
        assert rebuild_lost(run.store.open(), api, run.pipeline.name, 3, thorough=True) == ([], [])
    one.nights(max_tokens=100).submit()
    assert len(one.emulator.batches()) == 2
