"""How good answers are: compared with labels, and with each other, with 95% intervals.

What rows there are is counted in DuckDB: of a class, each pair of label and answer once with how often it occurs, of
numbers their sums. The figures are scikit-learn's, and the intervals of shares scipy's: the extra ``scores``.
Shares have Wilson intervals; means (costs, errors) those of Student's t; F1 and kappa, which are no shares, have
those of a bootstrap: the percentiles of 1,000 samples of as many records, always the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import combinations
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal

from batch_pipeline.errors import InputError

if TYPE_CHECKING:
    import duckdb
    import numpy as np

SAMPLES = 1_000
MOST_CLASSES = 200
"""Of more different values, texts are no classes, and kappa and F1 have no intervals."""
MOST_TEXTS = 50
"""So many different texts at most are taken for classes, where the output does not list them."""
NORMALISED = "trim(lower(regexp_replace(nfc_normalize({0}), '\\s+', ' ', 'g')))"

EXTRA = "pip install 'batch-pipeline[scores]'"


@dataclass(frozen=True)
class Figure:
    """One figure of a comparison.

    Attributes:
        variant: of which variant; "" of a pipeline without.
        metric: what it is, such as accuracy.
        value: the figure; None when there is nothing to compute it from.
        low, high: its 95% interval; None when it has none.
        n: of how many records.
        of: which class it is about; "" when it is about all.
        other: the other variant, or in a confusion the answer.
        interval: how the interval was computed: wilson, t, bootstrap, or "".
    """

    variant: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    of: str = ""
    other: str = ""
    interval: Literal["wilson", "t", "bootstrap", ""] = ""


@dataclass
class Scores:
    """What came of a comparison.

    Attributes:
        variants: in the order in which they are shown.
        figures: all of them.
        notes: what there is to know besides, in sentences.
    """

    variants: list[str]
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def get(self, variant: str, metric: str, of: str = "", other: str = "") -> Figure | None:
        """Return one figure; None when there is none."""
        wanted = (variant, metric, of, other)
        return next(
            (one for one in self.figures if (one.variant, one.metric, one.of, one.other) == wanted),
            None,
        )


def check_extra() -> None:
    """Refuse to go on without the packages that compute scores.

    Raises:
        InputError: it says how to install them.
    """
    missing = [name for name in ("sklearn", "scipy") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"label needs scikit-learn and scipy, and {' and '.join(missing)} cannot be imported here. Install them: {EXTRA}. "
            "Or take label away: nothing else needs them."
        )


def score(
    con: "duckdb.DuckDBPyConnection",
    variants: Sequence[str],
    kind: Literal["class", "number", "text"],
) -> Scores:
    """Return the scores of what stands in a table.

    Args:
        con: a connection with the table ``compared``: a row per key and variant with ``key``, ``variant``, ``label``
            and ``answer`` (texts; NULL where there is none), ``asked`` (whether Claude was to answer) and ``cost``
            (in USD; NULL where it is not known).
        variants: in the order in which they are shown.
        kind: what labels and answers are.
    """
    found = Scores(list(variants))
    for variant in variants:
        found.figures += _of_variant(con, variant, kind, found.notes)
    for one, other in combinations(variants, 2):
        found.figures += _agreement(con, one, other, kind)
    return found


def _of_variant(
    con: "duckdb.DuckDBPyConnection", variant: str, kind: str, notes: list[str]
) -> Iterator[Figure]:
    rows, asked, unknown, cost, spread, labelled, answered = _row(
        con,
        "select count(*), count(*) filter (where asked), count(*) filter (where asked and cost is null),"
        " avg(cost) filter (where asked), stddev_samp(cost) filter (where asked),"
        " count(*) filter (where asked and label is not null),"
        " count(*) filter (where asked and label is not null and answer is not null)"
        " from compared where variant = ?",
        [variant],
    )
    yield Figure(variant, "rows", rows, n=rows)
    yield Figure(variant, "labelled", labelled, n=labelled)
    yield _share(variant, "coverage", answered, labelled)
    priced = asked - unknown
    if unknown:
        name = f"variant {variant}" if variant else "the answers"
        notes.append(f"The cost of {unknown:,} of {asked:,} rows of {name} is not known.")
    else:
        yield _mean(variant, "cost_per_1000", cost, spread, priced, scale=1_000)
    if not answered:
        return
    if kind == "number":
        yield from _numbers(con, variant, notes)
        return
    pairs = _pairs(
        con,
        "select label, answer, count(*) from compared where variant = ? and asked and label is not null"
        " and answer is not null group by all order by all",
        [variant],
    )
    same = sum(count for label, answer, count in pairs if label == answer)
    if kind == "text":
        yield _share(variant, "exact_match", same, answered)
        (alike,) = _row(
            con,
            f"select count(*) from compared where variant = ? and asked and {NORMALISED.format('label')} ="
            f" {NORMALISED.format('answer')}",
            [variant],
        )
        yield _share(variant, "normalised_match", alike, answered)
        labels = {label for label, _, _ in pairs}
        if len(labels) > min(MOST_TEXTS, answered // 2):
            return
    yield from _classes(variant, pairs, answered)


def _classes(
    variant: str, pairs: Sequence[tuple[str, str, int]], answered: int
) -> Iterator[Figure]:
    """Yield what is known of classes, from each pair of label and answer with how often it occurs."""
    import numpy as np
    from sklearn import metrics

    truth, said = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    counts = np.array([pair[2] for pair in pairs])
    names = sorted({*truth, *said})
    same = sum(count for label, answer, count in pairs if label == answer)
    accuracy = _share(variant, "accuracy", same, answered)
    value = float(metrics.accuracy_score(truth, said, sample_weight=counts))
    yield Figure(variant, "accuracy", value, accuracy.low, accuracy.high, answered, interval="wilson")  # fmt: skip
    places = {name: place for place, name in enumerate(names)}
    rows = np.array([places[name] for name in truth])
    columns = np.array([places[name] for name in said])
    right, labels, answers = _sums(counts[None, :], rows, columns, len(names))
    of_classes: Any = metrics.precision_recall_fscore_support
    precision, recall, f1, _ = of_classes(
        truth, said, labels=names, sample_weight=counts, zero_division=0
    )
    f1_low, f1_high, macro = None, None, (None, None)
    if len(names) <= MOST_CLASSES:
        # A class that a sample lacks has no F1 there; taken for 0, it would pull the intervals of all down.
        sampled = _f1(*_sums(_samples(counts), rows, columns, len(names)))
        f1_low, f1_high = np.nanpercentile(sampled, (2.5, 97.5), axis=0)
        macro = np.percentile(np.nanmean(sampled, axis=1), (2.5, 97.5))
    for place, name in enumerate(names):
        hits, labelled, told = (int(one[0, place]) for one in (right, labels, answers))
        for metric, share, of in (("precision", precision, told), ("recall", recall, labelled)):
            whole = _share(variant, metric, hits, of, name)
            yield Figure(variant, metric, float(share[place]), whole.low, whole.high, of, name, interval=whole.interval)  # fmt: skip
        low = None if f1_low is None else float(f1_low[place])
        high = None if f1_high is None else float(f1_high[place])
        yield Figure(variant, "f1", float(f1[place]), low, high, labelled, name, interval="bootstrap" if low is not None else "")  # fmt: skip
    low, high = (None if one is None else float(one) for one in macro)
    for metric, shares in (("macro_precision", precision), ("macro_recall", recall)):
        yield Figure(variant, metric, float(np.mean(shares)), n=answered)
    yield Figure(variant, "macro_f1", float(np.mean(f1)), low, high, answered, interval="bootstrap" if low is not None else "")  # fmt: skip
    for label, answer, count in pairs:
        yield Figure(variant, "confusion", count, n=answered, of=label, other=answer)


def _numbers(con: "duckdb.DuckDBPyConnection", variant: str, notes: list[str]) -> Iterator[Figure]:
    """Yield how far numbers are from their labels."""
    n, no_number, same, error, error_spread, square, square_spread = _row(
        con,
        "select count(gap), count(*) - count(gap), count(*) filter (where gap = 0), avg(gap), stddev_samp(gap),"
        " avg(gap * gap), stddev_samp(gap * gap) from ("
        " select abs(try_cast(label as double) - try_cast(answer as double)) as gap from compared"
        " where variant = ? and asked and label is not null and answer is not null)",
        [variant],
    )
    if no_number:
        notes.append(f"{no_number:,} labels are no numbers, and are not compared.")
    if not n:
        return
    yield _share(variant, "accuracy", same, n)
    yield _mean(variant, "mae", error, error_spread, n)
    of = _mean(variant, "rmse", square, square_spread, n)
    low, high = (None if one is None else sqrt(max(one, 0.0)) for one in (of.low, of.high))
    yield Figure(variant, "rmse", sqrt(square), low, high, n, interval=of.interval)


def _agreement(
    con: "duckdb.DuckDBPyConnection", one: str, other: str, kind: str
) -> Iterator[Figure]:
    """Yield how often two variants give the same answer, labelled or not."""
    import numpy as np
    from sklearn.metrics import cohen_kappa_score

    joined = (
        " from (select key, answer from compared where variant = ? and asked and answer is not null) as a"
        " join (select key, answer from compared where variant = ? and asked and answer is not null) as b using (key)"
    )
    same = "try_cast(a.answer as double) = try_cast(b.answer as double)"
    same = same if kind == "number" else "a.answer = b.answer"
    both, alike, values = _row(
        con,
        f"select count(*), count(*) filter (where {same}), count(distinct a.answer) + count(distinct b.answer){joined}",
        [one, other],
    )
    share = _share(one, "agreement", alike, both, other=other)
    yield share
    if not both or values > 2 * MOST_CLASSES:
        return
    pairs = _pairs(
        con, f"select a.answer, b.answer, count(*){joined} group by all order by all", [one, other]
    )
    left, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    counts = np.array([pair[2] for pair in pairs])
    names = sorted({*left, *right})
    if len(names) < 2:
        return  # all gave one answer: there is nothing that chance could explain
    value = float(cohen_kappa_score(left, right, labels=names, sample_weight=counts))
    places = {name: place for place, name in enumerate(names)}
    rows = np.array([places[name] for name in left])
    columns = np.array([places[name] for name in right])
    hits, firsts, seconds = _sums(_samples(counts), rows, columns, len(names))
    chance = (firsts * seconds).sum(axis=1) / both**2
    with np.errstate(divide="ignore", invalid="ignore"):
        sampled = (hits.sum(axis=1) / both - chance) / (1 - chance)
    low, high = np.percentile(sampled[np.isfinite(sampled)], (2.5, 97.5))
    yield Figure(one, "kappa", value, float(low), float(high), both, other=other, interval="bootstrap")  # fmt: skip


def _samples(counts: "np.ndarray") -> "np.ndarray":
    """Return how often each pair occurs in samples of as many records, drawn with replacement."""
    import numpy as np

    total = int(counts.sum())
    return np.random.default_rng(0).multinomial(total, counts / total, size=SAMPLES)


def _sums(
    counts: "np.ndarray", rows: "np.ndarray", columns: "np.ndarray", classes: int
) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Return for each sample and class how often both have it, the first has it, and the second."""
    import numpy as np

    def summed(of: "np.ndarray", where: "np.ndarray") -> "np.ndarray":
        sums = np.zeros((classes, len(counts)))
        np.add.at(sums, where, of.T)
        return sums.T

    return (
        summed(counts * (rows == columns), rows),
        summed(counts, rows),
        summed(counts, columns),
    )


def _f1(right: "np.ndarray", labels: "np.ndarray", answers: "np.ndarray") -> "np.ndarray":
    """Return the F1 of each sample and class; NaN where a sample has none of a class."""
    import numpy as np

    both = labels + answers
    return np.divide(2 * right, both, out=np.full_like(both, np.nan), where=both > 0)


def _share(variant: str, metric: str, hits: int, of: int, name: str = "", other: str = "") -> Figure:  # fmt: skip
    """Return a share with its Wilson interval; without a value where it is a share of nothing."""
    from scipy.stats import binomtest

    if not of:
        return Figure(variant, metric, None, of=name, other=other)
    between = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    return Figure(variant, metric, hits / of, float(between.low), float(between.high), of, name, other, "wilson")  # fmt: skip


def _mean(
    variant: str, metric: str, mean: float | None, spread: float | None, n: int, scale: float = 1
) -> Figure:
    """Return a mean with the interval of Student's t; without one where there is a single value."""
    from scipy.stats import t

    if mean is None:
        return Figure(variant, metric, None)
    if n < 2 or spread is None:
        return Figure(variant, metric, mean * scale, n=n)
    half = float(t.ppf(0.975, n - 1)) * spread / sqrt(n)
    low, high = max(mean - half, 0.0) * scale, (mean + half) * scale
    return Figure(variant, metric, mean * scale, low, high, n, interval="t")


def _row(con: "duckdb.DuckDBPyConnection", query: str, values: list[Any]) -> tuple[Any, ...]:
    row = con.execute(query, values).fetchone()
    assert row is not None
    return row


def _pairs(
    con: "duckdb.DuckDBPyConnection", query: str, values: list[Any]
) -> list[tuple[str, str, int]]:
    return con.execute(query, values).fetchall()
