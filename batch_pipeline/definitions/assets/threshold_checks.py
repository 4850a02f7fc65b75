"""The checks on ``NAME/results`` that a user sets thresholds for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from batch_pipeline.errors import counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.results.thresholds import CHECKS, ERROR_RATE, Threshold

if TYPE_CHECKING:
    from batch_pipeline.results.quality import Quality
    from batch_pipeline.store.store import Store
    from batch_pipeline.store.submissions import Scope


def threshold_specs(
    results: dg.AssetKey, thresholds: Mapping[str, Threshold]
) -> list[dg.AssetCheckSpec]:
    """Return the checks of an asset ``results`` that its pipeline has thresholds for."""
    return [
        dg.AssetCheckSpec(
            name,
            asset=results,
            blocking=threshold.blocking,
            description=CHECKS[name].format(limit=threshold.limit),
        )
        for name, threshold in thresholds.items()
    ]


def threshold_results(
    store: "Store", scopes: "Sequence[Scope]", pipeline: BatchPipeline
) -> list[dg.AssetCheckResult]:
    """Return what these checks say of the last settled submissions, the worst partition before the others."""
    import duckdb

    from batch_pipeline.records.connections import first_line
    from batch_pipeline.results.quality import quality_of

    if not pipeline.thresholds:
        return []
    try:
        every = [quality_of(store, scope, pipeline.source.keys) for scope in scopes]
    except (duckdb.Error, OSError) as error:
        why = f"What the answers came to cannot be told now: {first_line(error)}"
        return [
            dg.AssetCheckResult(
                check_name=name,
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description=why,
            )
            for name in pipeline.thresholds
        ]
    known = [one for one in every if one is not None]
    return [_result(name, threshold, known) for name, threshold in pipeline.thresholds.items()]


def _result(name: str, threshold: Threshold, every: "Sequence[Quality]") -> dg.AssetCheckResult:
    rates = [(rate, one) for one in every if (rate := getattr(one, name)) is not None]
    severity = dg.AssetCheckSeverity[threshold.severity]
    if not rates:
        return dg.AssetCheckResult(
            check_name=name,
            passed=True,
            severity=severity,
            description="No submission has come to an end yet of which this could be told.",
        )
    pick = max if name == ERROR_RATE else min
    rate, worst = pick(rates, key=lambda pair: pair[0])
    is_error_rate = name == ERROR_RATE
    passed = rate <= threshold.limit if is_error_rate else rate >= threshold.limit
    if is_error_rate:
        said = (
            f"{worst.failed:,} of {counted(worst.asked, 'record')} ({rate:.2%}) have no answer; at most "
            f"{threshold.limit:.2%} may"
        )
    else:
        back = worst.asked - worst.failed + worst.invalid
        said = (
            f"{back - worst.invalid:,} of {counted(back, 'answer')} ({rate:.2%}) fit the schema; at least "
            f"{threshold.limit:.2%} must"
        )
    metadata: dict[str, Any] = {
        "rate": rate,
        "limit": threshold.limit,
        "records": worst.asked,
        "without_answer": worst.failed,
        "invalid": worst.invalid,
        "submission": worst.number,
    }
    reasons = [one for one in worst.reasons if is_error_rate or one.status == "invalid"]
    if reasons:
        metadata["worst_reasons"] = dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "status": one.status,
                        "reason": one.reason,
                        "records": one.rows,
                        "keys": "; ".join(one.keys),
                    }
                )
                for one in reasons
            ]
        )
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=severity,
        description=f"Of {worst.name}: {said}.",
        metadata=metadata,
    )
