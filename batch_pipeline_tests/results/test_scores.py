"""Scores: the figures are scikit-learn's, the intervals are what they are said to be."""

import random
from decimal import Decimal
from pathlib import Path

import pytest
from scipy.stats import binomtest, t
from sklearn import metrics

from batch_pipeline import MessageTemplate
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.requests.compiled import columns_of
from batch_pipeline.requests.label import agreed_columns, label_of
from batch_pipeline.results import chart
from batch_pipeline.results.cheaper_variant import cheaper_variant
from batch_pipeline.results.score_tables import (
    agreement_table,
    class_table,
    confusion_table,
    draw_scores,
    main_table,
    write_figures,
)
from batch_pipeline.results.scores import Figure, Scores, score
from batch_pipeline.store.layout import scores_name
from batch_pipeline.store.store import open_store
from batch_pipeline_tests.support.extent import only_whole

Row = tuple[str, str, str | None, str | None, bool, float | None]


def scored(rows: list[Row], kind: str) -> Scores:
    """The scores of rows: key, variant, label, answer, asked, cost."""
    with memory_connection() as con:
        con.execute(
            "create or replace temp table compared (key varchar, variant varchar, label varchar, answer varchar, asked boolean,"
            " cost double)"
        )
        con.executemany("insert into compared values (?, ?, ?, ?, ?, ?)", rows)
        return score(con, sorted({row[1] for row in rows}), kind)  # type: ignore[arg-type]


def value(scores: Scores, *which: str) -> float:
    figure = scores.get(*which)
    assert figure is not None and figure.value is not None
    return figure.value


@pytest.fixture(scope="module")
def classes() -> list[Row]:
    """600 records asked by two variants; some have no answer, some no label, one class is never answered."""
    draw = random.Random(7)
    rows: list[Row] = []
    for key in range(600):
        label = draw.choice(["net", "net", "text", "rare"]) if key % 5 else None
        for variant, right in (("a", 0.8), ("b", 0.6)):
            answer = label if label and draw.random() < right else draw.choice(["net", "text"])
            rows.append(
                (
                    f"{key}",
                    variant,
                    label,
                    None if key % 17 == 0 else answer,
                    True,
                    draw.random() / 100,
                )
            )
    return rows


def test_figures_of_classes_are_those_of_scikit_learn(classes: list[Row]) -> None:
    scores = scored(classes, "class")
    for variant in ("a", "b"):
        mine = [row for row in classes if row[1] == variant]
        labelled = [row for row in mine if row[2]]
        answered = [(row[2], row[3]) for row in labelled if row[3]]
        truth, said = [pair[0] for pair in answered], [pair[1] for pair in answered]
        assert value(scores, variant, "labelled") == len(labelled)
        assert value(scores, variant, "coverage") == pytest.approx(len(answered) / len(labelled))
        assert value(scores, variant, "accuracy") == pytest.approx(
            metrics.accuracy_score(truth, said)
        )
        assert value(scores, variant, "macro_f1") == pytest.approx(
            metrics.f1_score(truth, said, average="macro")
        )
        names = ["net", "rare", "text"]
        table = metrics.precision_recall_fscore_support(truth, said, labels=names, zero_division=0)
        for metric, column in zip(("precision", "recall", "f1"), table[:3], strict=True):
            assert [value(scores, variant, metric, name) for name in names] == pytest.approx(
                list(column)
            )
        matrix = metrics.confusion_matrix(truth, said, labels=names)
        for place, label in enumerate(names):
            for other, answer in enumerate(names):
                found = scores.get(variant, "confusion", label, answer)
                assert (found.value if found else 0) == matrix[place][other]
        accuracy = scores.get(variant, "accuracy")
        assert accuracy is not None and accuracy.n == len(answered)
        hits = sum(a == b for a, b in answered)
        wilson = binomtest(hits, len(answered)).proportion_ci(0.95, method="wilson")
        assert (accuracy.low, accuracy.high) == pytest.approx((wilson.low, wilson.high))
        for one in scores.figures:
            if one.low is not None and one.high is not None and one.value is not None:
                assert one.low <= one.value <= one.high, one
    both = [(a[3], b[3]) for a, b in zip(classes[::2], classes[1::2], strict=True) if a[3] and b[3]]
    left, right = [one[0] for one in both], [one[1] for one in both]
    assert value(scores, "a", "kappa", "", "b") == pytest.approx(
        metrics.cohen_kappa_score(left, right)
    )
    assert value(scores, "a", "agreement", "", "b") == pytest.approx(
        metrics.accuracy_score(left, right)
    )
    assert value(scores, "a", "cost_per_1000") == pytest.approx(
        1000 * sum(row[5] or 0 for row in classes[::2]) / 600
    )
    tables = [
        main_table(scores),
        agreement_table(scores),
        class_table(scores),
        confusion_table(scores),
    ]
    assert all(table and table.startswith(("| ", "**a**")) for table in tables)
    assert draw_scores(scores) is None, "without matplotlib"
    assert scored(classes, "class").figures == scores.figures, "the same figures each time"


def test_figures_of_numbers_and_of_texts() -> None:
    numbers: list[Row] = [(f"{i}", "", f"{i}", f"{i + i % 3}.0", True, None) for i in range(40)]
    numbers += [
        ("x", "", "many", "3", True, 0.1),
        ("y", "", "5", None, True, 0.1),
        ("z", "", "5", "5", False, 0.0),
    ]
    scores = scored(numbers, "number")
    truth, said = list(range(40)), [i + i % 3 for i in range(40)]
    assert value(scores, "", "mae") == pytest.approx(metrics.mean_absolute_error(truth, said))
    assert value(scores, "", "rmse") == pytest.approx(metrics.root_mean_squared_error(truth, said))
    mae = scores.get("", "mae")
    gaps = [i % 3 for i in range(40)]
    spread = (sum((gap - sum(gaps) / 40) ** 2 for gap in gaps) / 39) ** 0.5
    assert mae is not None and mae.high == pytest.approx(
        sum(gaps) / 40 + t.ppf(0.975, 39) * spread / 40**0.5
    )
    assert value(scores, "", "coverage") == pytest.approx(41 / 42)
    assert scores.get("", "cost_per_1000") is None
    assert scores.notes == [
        "The cost of 40 of 42 rows of the answers is not known.", "1 labels are no numbers, and are not compared."
    ]  # fmt: skip
    texts: list[Row] = [
        (f"{i}", "", f"Text {i}", (f"Text {i}", f" text  {i}", "?")[i % 3], True, 0.0)
        for i in range(9)
    ]
    scores = scored(texts, "text")
    assert value(scores, "", "exact_match") == pytest.approx(3 / 9)
    assert value(scores, "", "normalised_match") == pytest.approx(6 / 9)
    assert scores.get("", "macro_f1") is None and class_table(scores) is None


def test_a_class_that_a_sample_lacks_pulls_no_interval_down() -> None:
    """Of 60 records in 30 classes, a sample lacks some: what it has is all right."""
    rows: list[Row] = [(f"{i}", "", f"c{i % 30}", f"c{i % 30}", True, 0.0) for i in range(60)]
    scores = scored(rows, "class")
    for one in (scores.get("", "macro_f1"), scores.get("", "f1", "c7")):
        assert one is not None and (one.value, one.low, one.high) == (1.0, 1.0, 1.0)


def test_nothing_labelled_leaves_what_needs_no_label() -> None:
    rows: list[Row] = [(f"{i}", name, None, "net", True, 0.001) for i in range(3) for name in "ab"]
    scores = scored(rows, "class")
    assert value(scores, "a", "cost_per_1000") == pytest.approx(1.0)
    assert value(scores, "a", "agreement", "", "b") == 1.0
    coverage = scores.get("a", "coverage")
    assert coverage is not None and coverage.value is None
    assert scores.get("a", "kappa", "", "b") is None and scores.get("a", "accuracy") is None
    assert "| a | 0 |" in main_table(scores)


@only_whole
def test_the_picture_is_a_png(classes: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart, "can_draw", lambda: True)
    assert (draw_scores(scored(classes, "class")) or b"").startswith(b"\x89PNG")


def test_a_cheaper_variant_that_answers_as_well_is_advised(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))

    def shown(cheap: float, labelled: int = 400) -> tuple[str, Decimal] | None:
        scores = Scores(["big", "small", "tiny"])
        for name, right, usd in (("big", 0.9, 2.0), ("small", cheap, 0.5), ("tiny", 0.6, 0.1)):
            margin = 0.03
            scores.figures += [
                Figure(name, "accuracy", right, right - margin, right + margin, labelled),
                Figure(name, "cost_per_1000", usd, usd, usd, labelled),
            ]
        write_figures(scores, str(tmp_path / "scores.parquet"))
        name = scores_name("kinds", f"{store.clock.now():%Y%m%dT%H%M%S%f}-1")
        store.files.put(str(tmp_path / "scores.parquet"), name)
        return cheaper_variant(store, "kinds", 30_000)

    assert cheaper_variant(store, "kinds", 30_000) is None
    found = shown(0.88)
    assert found is not None and "Variant small answers as well as big (88.0% right" in found[0]
    # 10,000 records of each variant, at 1.50 USD less for 1,000.
    assert found[1] == 15
    assert shown(0.8) is None and shown(0.88, labelled=99) is None


def test_what_the_model_thought_is_no_answer_to_compare() -> None:
    asked = MessageTemplate(
        model="claude-haiku-4-5", max_tokens=50, prompt="{{ text }}", keep_thinking=True
    )
    assert [name for name, _ in columns_of(asked)] == ["answer", "thinking"]
    assert agreed_columns(asked, "my_") == ["my_answer"]
    assert label_of("right", asked, "my_").answer == "my_answer"
