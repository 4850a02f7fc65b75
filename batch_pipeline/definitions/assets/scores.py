"""The step of ``NAME/scores``: how good the answers are, beside their labels and each other."""

import base64
from typing import Any

import dagster as dg

from batch_pipeline.definitions.failures import as_failures
from batch_pipeline.definitions.labelling import compared
from batch_pipeline.definitions.resources import BatchStore
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.results import score_tables as tables
from batch_pipeline.results.compared import Compared
from batch_pipeline.results.scores import Scores, check_extra, score
from batch_pipeline.store.layout import scores_name
from batch_pipeline.store.store import Store

OPENED = 1_000
"""So long a Markdown text Dagster opens in a window of its own; a shorter one it shows in a narrow cell, which cuts tables."""


def materialize(
    context: dg.AssetExecutionContext, pipeline: BatchPipeline, *, must: bool = True
) -> dg.MaterializeResult | None:
    """Compute the scores of what is in the table now, and keep them in the store.

    Args:
        context: the step's.
        pipeline: whose answers.
        must: what is in the way fails the step; else it is logged, and there are no new scores: the run has
            collected, and that is not to be repeated.
    """
    try:
        with as_failures():
            resource: BatchStore = getattr(context.resources, pipeline.store_key)
            return _materialize(context, pipeline, resource.open())
    except Exception as error:
        if must:
            raise
        said = getattr(error, "description", None) or f"{type(error).__name__}: {error}"
        context.log.error(
            f"{pipeline.name} has no new scores; its results are not concerned. {said}"
        )
        return None


def scores_of(pipeline: BatchPipeline, store: Store) -> tuple[Scores, Compared]:
    """Return the scores of what is in a pipeline's table now.

    Raises:
        InputError: there is no table yet, or what is to be compared is not in it.
    """
    with compared(pipeline, store) as (con, label, found, _):
        declared = [name for name in pipeline.by_variant if name in found.variants]
        others = [name for name in found.variants if name not in declared]
        scores = score(con, [*declared, *others], label.kind)
    if others:
        scores.notes.append(f"Not declared (any more): {', '.join(filter(None, others))}.")
    if not found.labelled:
        scores.notes.insert(
            0,
            f"No record has a label yet, so there is nothing to compare answers with: fill the column `{label.column}` of "
            f"the source, or label a sample (`batch-pipeline sample {pipeline.name} --stratified 100 --csv labels.csv`).",
        )
    scores.notes += found.notes
    return scores, found


def _materialize(
    context: dg.AssetExecutionContext, pipeline: BatchPipeline, store: Store
) -> dg.MaterializeResult:
    check_extra()
    scores, found = scores_of(pipeline, store)
    with store.files.scratch() as folder:
        tables.write_figures(scores, f"{folder}/scores.parquet")
        part = f"{store.clock.now():%Y%m%dT%H%M%S%f}-{store.files.new_part()}"
        name = store.files.put(f"{folder}/scores.parquet", scores_name(pipeline.name, part))
    for note in scores.notes:
        context.log.warning(note)
    comparison = tables.main_table(scores)
    if (image := tables.draw_scores(scores)) is not None:
        drawn = base64.b64encode(image).decode()
        comparison += f"\n\n![scores](data:image/png;base64,{drawn})"
    texts = {
        "comparison": comparison,
        "agreement": tables.agreement_table(scores),
        "classes": tables.class_table(scores),
        "confusion": tables.confusion_table(scores),
    }
    shown: dict[str, Any] = {
        name: dg.MetadataValue.md(text.ljust(OPENED)) for name, text in texts.items() if text
    }
    shown["labelled"] = found.labelled
    # As numbers, Dagster plots them over the nights: those of one metric beside each other.
    shown |= {
        f"{metric}_{one.variant}" if one.variant else metric: round(one.value, 6)
        for metric in tables.PLOTTED
        for one in scores.figures
        if one.metric == metric and one.value is not None
    }
    shown["file"] = store.files.url(name)
    return dg.MaterializeResult(metadata=shown)
