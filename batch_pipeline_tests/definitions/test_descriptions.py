"""What a field's description says is what Dagster's column schema says of its column."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pydantic import BaseModel, Field

from batch_pipeline.definitions.metadata import ANSWERED, CALLED, answers_said, unmarked
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline_tests.support.given_answers import OneRecord, text


class Address(BaseModel):
    """Where it is sent."""

    city: str


class Kind(Enum):
    """What it is."""

    FOOD = "Food"


class Bill(BaseModel):
    """A bill."""

    total: float = Field(description="What is to be paid, in EUR")
    due: Optional[str] = Field(None, description="Until when")  # noqa: UP045
    note: str | None = Field(None, description="A note\n  of two lines")
    inside: Annotated[str, Field(description="Inside the union")] | None = None
    sure: Literal["yes", "no"] = Field(description="Whether it is sure")
    ship: Address
    bill_to: Address | None = Field(None, description="Who pays")
    kind: Kind
    lines: list[Address] = Field(description="All of them")
    plain: int
    either: int | str | None = None


SAID = {
    "total": "What is to be paid, in EUR",
    "due": "Until when",
    "note": "A note of two lines",
    "inside": "Inside the union",
    "sure": "Whether it is sure",
    "ship": "Where it is sent.",
    "bill_to": "Who pays",
    "kind": "What it is.",
    "lines": "All of them",
    "plain": ANSWERED,
    "either": ANSWERED,
}


def template(**fields: Any) -> MessageTemplate:
    return MessageTemplate(model="claude-haiku-4-5", max_tokens=9, prompt="{{ v }}", **fields)


def test_a_fields_description_is_its_columns() -> None:
    assert answers_said(template(output=Bill), "") == SAID
    schema = Bill.model_json_schema()
    assert answers_said(template(output=schema), "ai_") == {f"ai_{n}": t for n, t in SAID.items()}


def test_text_and_tools_have_words_of_our_own() -> None:
    said = answers_said(template(params={"tools": [{"name": "f", "input_schema": {}}]}), "x_")
    assert said == {"x_answer": ANSWERED, "x_tool_calls": CALLED}


def test_dagster_is_told(claude_emulator: EmulatorProcess, tmp_path: Path) -> None:
    class Short(BaseModel):
        due: str | None = Field(None, description="Until *when*, see `due_at` <b>")

    one = OneRecord(tmp_path, claude_emulator)
    nights = one.nights(output=Short)
    one.answer(nights, text({"due": "now"}))
    found = nights.metadata("results")["dagster/column_schema"]
    assert isinstance(found, dg.TableSchema)
    said = {column.name: column.description for column in found.columns}
    assert said["due"] == r"Until \*when\*, see \`due_at\` \<b>"


@pytest.mark.parametrize(
    "words",
    [
        "invoice_id and a_b, 3 < 4 & 5 > 2, 50 %, C# (the language): yes!",
        "*bold* _it_ __very__ `code` ~gone~ [link](http://x) ![image](http://x)",
        "<img src=x> &amp; <!-- no --> <script>",
        "# heading",
        "> quote",
        "- item",
        "+ item",
        "1. item",
        "2) item",
        "back\\slash \\* here",
    ],
)
def test_what_markdown_would_read_reads_as_it_stands(words: str) -> None:
    tokens = MarkdownIt("commonmark").parse(unmarked(words))
    assert [t.type for t in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    inline = tokens[1].children or []
    assert {t.type for t in inline} <= {"text", "text_special"}
    assert "".join(t.content for t in inline) == words


@given(st.text("ab1_*`~[]()<>&#;+-.!\\ ", max_size=30))
def test_no_text_is_markup(words: str) -> None:
    line = " ".join(words.split())
    tokens = MarkdownIt("commonmark").parse(unmarked(words))
    inline = [child for token in tokens for child in token.children or ()]
    assert "".join(t.content for t in inline) == line


def test_a_long_description_is_cut() -> None:
    assert len(unmarked("x" * 2_000)) == 500
