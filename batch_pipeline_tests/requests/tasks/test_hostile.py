"""Whatever labels, rubrics and columns are called: the prompt shows them as they stand, and the API takes it."""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batch_pipeline import Classify, Extract, InputError, Score, Translate
from batch_pipeline.emulator.rules import Occasion, check_params
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline_tests.support.extent import extent

FRAGMENTS = (
    "{{", "}}", "{%", "%}", "{#", "#}", "{{ body }}", "{% raw %}", "{% endraw %}", "{", "}", "-%}", '"', "'", "\\",
    "\\n", "\n", "\r\n", "\t", "\x00", "\x85", "\u2028", "\u200b", "é", "漢", "🦊", "a", " ", ": ", "- ", "<b>",
    "record", "loop", "None", "x" * 3_000,
)  # fmt: skip
TEXT = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map("".join),
    st.text(st.characters(codec="utf-8"), max_size=30),
)
MEANING = st.one_of(st.none(), TEXT)
MANY = settings(max_examples=extent(40, 2_000), deadline=None)


def asked(door: Any, *columns: str, values: dict[str, Any]) -> tuple[str, str]:
    """The system prompt and the user's message, which the API takes."""
    question = compile_question(door.template, dict.fromkeys(columns, "VARCHAR"))
    params = question.params(values)
    check_params(params, Occasion("batch"))
    system = params["system"]
    text = system if isinstance(system, str) else "".join(block["text"] for block in system)
    return text, params["messages"][0]["content"]


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def with_line_feeds(text: str) -> str:
    """What Jinja makes of the ends of lines in a template."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(
    labels=st.dictionaries(TEXT, MEANING, min_size=2, max_size=4), body=TEXT, multi=st.booleans()
)
@MANY
def test_labels_and_what_they_mean_are_told_as_they_stand(
    labels: dict[str, str | None], body: str, multi: bool
) -> None:
    try:
        door = Classify(labels, multi=multi, column="body", model="claude-haiku-4-5")
    except InputError as error:
        # Refused for what is said, and for nothing else.
        bad = [one for one in labels if one != one.strip() or len(one.splitlines()) != 1]
        blank = [one for one in labels.values() if one and not one.strip()]
        same = len({one.casefold() for one in labels}) < len(labels)
        assert bad or blank or same, error
        return
    assume(body.strip())
    system, message = asked(door, "body", values={"body": body})
    assert message == body
    for label, meaning in labels.items():
        line = f"\n- {label}: {one_line(meaning)}" if meaning else f"\n- {label}"
        assert line in system
    field = door.output()["properties"]["labels" if multi else "label"]
    assert (field["items"] if multi else field)["enum"] == [*labels]
    assert door.template.max_tokens <= 32_000


@given(columns=st.lists(TEXT, min_size=1, max_size=3, unique_by=str.casefold), value=TEXT)
@MANY
def test_a_column_of_any_name_is_read(columns: list[str], value: str) -> None:
    assume(all(one.strip() for one in columns) and value.strip())
    door = Translate(value, column=columns, model="claude-haiku-4-5")
    plain = all(one.isidentifier() for one in columns)
    assume("record" not in columns or plain)  # refused, see below
    values = {name: f"<{place} {value}>" for place, name in enumerate(columns)}
    system, message = asked(door, *columns, values=values)
    assert system.endswith(f"The language to translate into: {one_line(value)}")
    if len(columns) == 1:
        assert message == values[columns[0]]
    else:
        lines = (f"{with_line_feeds(name)}: {values[name]}" for name in columns)
        assert message == "\n".join(lines)


def test_a_column_called_record_that_hides_another_is_refused() -> None:
    door = Translate("German", column=["record", "a b"], model="claude-haiku-4-5")
    with pytest.raises(
        InputError, match=r"reads record\['a b'\], but the source has a column record"
    ):
        asked(door, "record", "a b", values={})
    door = Translate("German", column=["record", "ab"], model="claude-haiku-4-5")
    _, message = asked(door, "record", "ab", values={"record": "R", "ab": None})
    assert message == "record: R\nab: "


@given(
    rubric=st.one_of(TEXT, st.dictionaries(st.integers(1, 5), TEXT, min_size=1)), own=st.booleans()
)
@MANY
def test_a_rubric_is_told_as_it_stands(rubric: Any, own: bool) -> None:
    texts = [rubric] if isinstance(rubric, str) else list(rubric.values())
    assume(all(one.strip() for one in texts))
    system = "Mine." if own else None
    door = Score(rubric, column="body", system=system, model="claude-haiku-4-5")
    told, _ = asked(door, "body", values={"body": "x"})
    if isinstance(rubric, str):
        assert told.endswith(f"How to score:\n{with_line_feeds(rubric.strip())}")
    else:
        assert all(f"\n- {score}: {one_line(text)}" in told for score, text in rubric.items())


@given(said=TEXT, values=st.lists(TEXT, min_size=1, max_size=3))
@MANY
def test_what_is_said_of_a_field_is_told_as_it_stands(said: str, values: list[str]) -> None:
    assume(said.strip() and all(one.strip() for one in values))
    assume(len(set(values)) == len(values))
    door = Extract(
        {"total": f"number, {said}", "size": values}, column="body", model="claude-haiku-4-5"
    )
    told, _ = asked(door, "body", values={"body": "x"})
    assert f"\n- total: {one_line(said)}\n- size" in told
