"""The question of a pipeline, bound to the columns of its source."""

from collections.abc import Mapping

from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.requests.compiled import CompiledTemplate, compile_question
from batch_pipeline.requests.label import check_not_read


def bound(pipeline: BatchPipeline, columns: Mapping[str, str]) -> CompiledTemplate:
    """Return the question of a pipeline, or of one of its variants.

    Args:
        pipeline: as it is asked: see ``BatchPipeline.as_asked``.
        columns: of the source: name to DuckDB type.

    Raises:
        InputError: it cannot be asked of these columns, or reads its own label.
    """
    question = compile_question(pipeline.request, columns, pipeline.output_prefix)
    check_not_read(pipeline.compared, question, pipeline.name)
    return question
