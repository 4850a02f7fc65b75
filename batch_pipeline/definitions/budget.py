"""The caps of a pipeline and of its endpoint, as the ledger's side of sending takes them."""

from datetime import datetime
from decimal import ROUND_FLOOR, Decimal

from batch_pipeline.definitions.resources import ClaudeBatches
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.requests.budget import NANO, reserve_by
from batch_pipeline.requests.ready import ReadyLines
from batch_pipeline.store.budget import Caps


def caps_of(pipeline: BatchPipeline, claude: ClaudeBatches, at: datetime) -> Caps:
    """Return what may be spent, and what files may cost.

    Args:
        pipeline: whose budget and prices.
        claude: the endpoint, which may have a cap over all pipelines.
        at: when this is; it decides the prices.
    """
    budget = pipeline.budget
    models = dict.fromkeys(one.request.model for one in pipeline.by_scope.values())
    model = " or ".join(models)
    named = "MODEL" if isinstance(pipeline.request, ReadyLines) else next(iter(models))
    return Caps(
        per_submission=_nano(budget.per_submission_usd) if budget else None,
        per_month=_nano(budget.per_month_usd) if budget else None,
        endpoint_per_month=_nano(claude.per_month_usd),
        over=budget.over if budget else "hold",
        reserve=reserve_by(budget.reserve if budget else "p99", pipeline.prices, at),
        unpriced=(
            f"the price of {model} in a batch (with all that the request asks for) is not known, so nobody can tell "
            f'what it costs. Set it: BatchPipeline(prices={{"{named}": {{"input": ..., "output": ...}}}}), in USD for a '
            "million tokens"
        ),
    )


def _nano(usd: float | None) -> int | None:
    return None if usd is None else int((Decimal(str(usd)) * NANO).to_integral_value(ROUND_FLOOR))
