"""Front doors: what each asks, and what it refuses when it is declared."""

from typing import Any

import pytest

from batch_pipeline import Classify, Extract, InputError, Score, Summarize, Translate
from batch_pipeline.requests.compiled import compile_question

ANY: dict[str, Any] = {"column": "body", "model": "claude-haiku-4-5"}


def version(door: Any) -> str:
    return compile_question(door.template, {"body": "VARCHAR"}).version


def test_a_version_stays_and_changes_with_what_labels_mean() -> None:
    labels = {"billing": "invoices {{x}}", "other": None}
    golden = version(Classify(labels, **ANY))
    assert golden == "755476d5ffa6f914"
    others = [{"billing": "bills", "other": None}, dict(reversed(labels.items()))]
    assert golden not in {version(Classify(one, **ANY)) for one in others}


def test_any_column_is_read_and_a_record_without_text_is_not_asked() -> None:
    template = Classify(["a", "b"], model="claude-sonnet-5", column=['a "b".c', "text"]).template
    compiled = compile_question(template, {'a "b".c': "VARCHAR", "text": "VARCHAR"})
    asked = compiled.params({'a "b".c': "X", "text": None})
    assert asked["messages"][0]["content"] == 'a "b".c: X\ntext: '
    assert asked["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Classify([], **ANY), "labels is empty"),
        (lambda: Classify(["a", "A"], **ANY), "same but for case"),
        (lambda: Classify({True: "x", "b": "y"}, **ANY), "YAML reads yes"),  # type: ignore
        (lambda: Score("x", scale=(5, 1), **ANY), "not below"),
        (lambda: Summarize(words=0, **ANY), "words is 0"),
        (lambda: Translate(" ", **ANY), "to is"),
        (lambda: Extract({"a": "numbr"}, **ANY), "Did you mean number"),
    ],
)
def test_what_cannot_be_asked_is_refused_when_declared(make: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()
