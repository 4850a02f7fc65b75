"""Front doors: what each asks, and what it refuses when it is declared."""

from typing import Any, cast

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


@pytest.mark.parametrize(
    ("door", "golden"),
    [
        (Classify(["a", "b"], **ANY), "f9e983db61b8eb52"),
        (Classify(["a", "b"], multi=True, explain=True, **ANY), "f9072f656ce53756"),
        (Extract({"total": "number, the sum to pay"}, **ANY), "7fabed40f2c44916"),
        (Summarize(**ANY), "7545d025804650e5"),
        (Translate("German", **ANY), "ba84be1321f8591e"),
        (Score("How angry.", **ANY), "fa38dc455621a98e"),
        (Score("How angry.", system="Mine", **ANY), "f33d04ae4f86e039"),
    ],
)
def test_the_version_of_each_door_is_golden(door: Any, golden: str) -> None:
    assert version(door) == golden


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
        (lambda: Classify(cast(Any, {True: "x", "b": "y"}), **ANY), "YAML reads yes"),
        (lambda: Score("x", scale=(5, 1), **ANY), "not below"),
        (lambda: Summarize(words=0, **ANY), "words is 0"),
        (lambda: Translate(" ", **ANY), "to is"),
        (lambda: Extract({"a": "numbr"}, **ANY), "Did you mean number"),
    ],
)
def test_what_cannot_be_asked_is_refused_when_declared(make: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


@pytest.mark.parametrize(
    ("system", "told"),
    [
        ("Mine.", True),
        ("Judge subject {# harsh #} lines, harshly.", True),  # in other words than the rubric's
        ("{{ harsh }}{% if harsh %}{% endif %}", True),
        ("Be harsh.", False),
        ("{% raw %}harsh{% endraw %}", False),
    ],
)
def test_a_system_prompt_of_ones_own_is_told_what_it_does_not_say(system: str, told: bool) -> None:
    door = Score("harsh", system=system, column="harsh", model="claude-haiku-4-5")
    assert (door.template.system or "").endswith("How to score:\nharsh") is told
