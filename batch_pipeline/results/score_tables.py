"""Scores as people read them: Markdown tables, a picture, and a file with all figures."""

from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as parquet

from batch_pipeline.results import chart
from batch_pipeline.results.scores import Figure, Scores

MOST_SHOWN = 12
"""Classes, and pairs of variants, of a table that is read."""
MAIN = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "normalised_match": "normalised match",
    "macro_f1": "macro F1",
    "mae": "mean absolute error",
    "rmse": "root of the mean square",
    "cost_per_1000": "USD per 1,000 records",
}
"""The metrics of the first table, and what they are called there."""
PLOTTED = ("accuracy", "exact_match", "macro_f1", "mae", "cost_per_1000")
"""The metrics that are drawn over the nights: few, for each is drawn once a variant."""
AGREEMENT = (
    "How often two variants gave the same answer to a record that both answered, labelled or not. Cohen's kappa leaves out "
    "what chance alone would bring: 1 is always the same, 0 no more often than by chance."
)
SCHEMA = pa.schema(
    [
        ("variant", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("class", pa.string()),
        ("other", pa.string()),
        ("interval", pa.string()),
    ]
)
HOW = (
    "In brackets the 95% interval: Wilson's of a share, Student's t of a mean, a bootstrap's of F1 and kappa. Coverage is "
    "the share of labelled records with an answer; how right answers are goes by these, the cost by all that was asked."
)


def write_figures(scores: Scores, path: str) -> None:
    """Write a row per figure to a Parquet file."""
    rows = [
        {("class" if name == "of" else name): value for name, value in asdict(one).items()}
        for one in scores.figures
    ]
    parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), path)


def main_table(scores: Scores) -> str:
    """Return a table with a line per variant."""
    has = {figure.metric for figure in scores.figures if figure.value is not None}
    shown = {metric: name for metric, name in MAIN.items() if metric in has}
    lines = [_line("variant", "labelled", "coverage", *shown.values()), _rule(3 + len(shown))]
    for variant in scores.variants:
        labelled = scores.get(variant, "labelled")
        figures = [scores.get(variant, metric) for metric in ("coverage", *shown)]
        count = f"{int(labelled.value or 0):,}" if labelled else ""
        lines.append(_line(_named(variant), count, *map(in_words, figures)))
    return "\n".join([*lines, "", HOW, *(f"\n{note}" for note in scores.notes)])


def agreement_table(scores: Scores) -> str | None:
    """Return a table of how often variants give the same answer; None without two."""
    found = [one for one in scores.figures if one.metric == "agreement"]
    if not found:
        return None
    lines = [_line("variants", "both answered", "the same answer", "Cohen's kappa"), _rule(4)]
    for one in found[:MOST_SHOWN]:
        kappa = scores.get(one.variant, "kappa", other=one.other)
        lines.append(
            _line(f"{one.variant}, {one.other}", f"{one.n:,}", in_words(one), in_words(kappa))
        )
    return "\n".join([*lines, "", AGREEMENT, *_left_out(len(found), "pairs")])


def class_table(scores: Scores) -> str | None:
    """Return a table of what is known of each class; None where there are no classes."""
    names = _classes(scores)
    if not names:
        return None
    lines = [_line("class", "variant", "labelled", "precision", "recall", "F1"), _rule(6)]
    for name in names[:MOST_SHOWN]:
        for variant in scores.variants:
            figures = [scores.get(variant, metric, name) for metric in ("precision", "recall", "f1")]  # fmt: skip
            if any(figures):
                count = f"{figures[2].n:,}" if figures[2] else ""
                lines.append(_line(name, _named(variant), count, *map(in_words, figures)))
    return "\n".join([*lines, *_left_out(len(names), "classes")])


def confusion_table(scores: Scores) -> str | None:
    """Return, per variant, how often records of a label got which answer; None where there are no classes."""
    names = _classes(scores)
    if not names:
        return None
    shown = names[:MOST_SHOWN]
    parts = []
    for variant in scores.variants:
        counts = {
            (one.of, one.other): int(one.value or 0)
            for one in scores.figures
            if one.metric == "confusion" and one.variant == variant
        }
        if not counts:
            continue
        lines = [_line("label \\ answer", *shown, "others"), _rule(2 + len(shown))]
        for label in shown:
            cells = [counts.get((label, answer), 0) for answer in shown]
            whole = sum(count for (one, _), count in counts.items() if one == label)
            lines.append(_line(label, *(f"{cell:,}" if cell else "" for cell in cells), f"{whole - sum(cells):,}"))  # fmt: skip
        parts.append("\n".join([f"**{_cell(variant)}**\n" if variant else "", *lines]).strip())
    return "\n\n".join([*parts, *_left_out(len(names), "classes")])


def draw_scores(scores: Scores) -> bytes | None:
    """Return a picture of how right each variant is, and what it costs, as PNG; None without matplotlib."""
    metric = next((one for one in ("accuracy", "exact_match") if _has(scores, one)), None)
    if metric is None or not chart.can_draw():
        return None
    from matplotlib.figure import Figure as Picture

    height = 0.9 + 0.36 * len(scores.variants)
    picture = Picture(figsize=(8.4, height), dpi=100, layout="constrained")
    right, cost = picture.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    places = range(len(scores.variants))[::-1]
    for axes, name, color in ((right, metric, "#3b5f9c"), (cost, "cost_per_1000", "#b9c3d3")):
        for place, variant in zip(places, scores.variants, strict=True):
            one = scores.get(variant, name)
            if one is None or one.value is None:
                continue
            low, high = one.low or one.value, one.high or one.value
            axes.barh(place, one.value, color=color, height=0.6)
            axes.plot([low, high], [place, place], color="#222222", linewidth=1.2)
            axes.plot([low, high], [place, place], "|", color="#222222", markersize=6)
        axes.set_title(f"{MAIN[name]}, with 95% intervals", fontsize=10, loc="left")
        axes.tick_params(labelsize=9)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    right.set_xlim(0, 1)
    cost.set_xlim(left=0)
    right.set_yticks(
        list(places),
        [
            one if len(one) <= 24 else f"{one[:12]} ... {one[-8:]}"
            for one in map(_named, scores.variants)
        ],
    )
    image = BytesIO()
    picture.savefig(image, format="png")
    return image.getvalue()


def in_words(figure: Figure | None) -> str:
    """Return a figure with its interval, such as `0.93 (0.90-0.95)`."""
    if figure is None or figure.value is None:
        return ""
    digits = 4 if figure.metric == "cost_per_1000" else 3
    text = f"{figure.value:,.{digits}f}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} ({figure.low:,.{digits}f}-{figure.high:,.{digits}f})"


def _named(variant: str) -> str:
    return variant or "all"


def _has(scores: Scores, metric: str) -> bool:
    return any(one.metric == metric and one.value is not None for one in scores.figures)


def _classes(scores: Scores) -> list[str]:
    """Return the classes, the most frequent first."""
    often: dict[str, int] = {}
    for one in scores.figures:
        if one.metric == "f1":
            often[one.of] = max(often.get(one.of, 0), one.n)
    return sorted(often, key=lambda name: (-often[name], name))


def _left_out(number: int, what: str) -> Iterator[str]:
    if number > MOST_SHOWN:
        yield f"\nOf {number:,} {what} the first {MOST_SHOWN}; the file has all."


def _line(*cells: str) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _rule(cells: int) -> str:
    return f"|{'---|' * cells}"


def _cell(text: str) -> str:
    """Return a text that stands in a cell as it is, whoever wrote it."""
    short = text if len(text) <= 60 else f"{text[:60]} ..."
    escaped = "".join(f"\\{one}" if one in "\\`*_[]<>|~#&" else one for one in short)
    return " ".join(escaped.split())
