"""The checks that a pipeline has on ``NAME/results`` by itself.

Each record has its row; no paid answer is about to be lost; and where it caches, the cache is read as expected.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from batch_pipeline.errors import counted

if TYPE_CHECKING:
    from batch_pipeline.results.account import Account
    from batch_pipeline.results.cache_hits import CacheHits
    from batch_pipeline.results.holding import Holding
    from batch_pipeline.results.retention import Retention

CHECK = "every_record_accounted_for"
RETENTION_CHECK = "answers_fetched_in_time"
CACHE_CHECK = "cache_hit_rate"


def check_specs(results: dg.AssetKey, *, caches: bool = False) -> list[dg.AssetCheckSpec]:
    """Return the checks of an asset ``results``; the first one is blocking.

    Args:
        results: the asset.
        caches: whether its pipeline caches what requests share.
    """
    cache = dg.AssetCheckSpec(
        CACHE_CHECK,
        asset=results,
        description="The last submission read as much from the prompt cache as the ones before it, but for chance.",
    )
    return [
        dg.AssetCheckSpec(
            CHECK,
            asset=results,
            blocking=True,
            description="Every record of every settled submission has exactly one row in the results, "
            "in the store and in the destination.",
        ),
        dg.AssetCheckSpec(
            RETENTION_CHECK,
            asset=results,
            description="No paid answers come near the 29 days after which the API drops them.",
        ),
        *([cache] if caches else []),
    ]


def cache_read(found: Sequence["CacheHits"]) -> dg.AssetCheckResult:
    """Return the result of the check on the cache: of the submission that is furthest below what was expected.

    Args:
        found: of each partition whose last submission was to cache something.
    """
    known = [one for one in found if one.expected is not None and one.least is not None]
    if not known:
        said = "No submission has settled yet whose cache could be compared with earlier ones"
        if found:
            said = f"Submission {found[0].number:,} read {found[0].rate:.1%}; there are too few earlier answers to compare it with"
        return dg.AssetCheckResult(check_name=CACHE_CHECK, passed=True, description=f"{said}.")
    worst = min(known, key=lambda one: one.rate - (one.least or 0))
    passed = worst.rate >= (worst.least or 0)
    tail = "" if passed else (
        ": more was written than expected, at more than the price of plain input. `batch-pipeline advise` says what the "
        "cache costs or saves"
    )  # fmt: skip
    return dg.AssetCheckResult(
        check_name=CACHE_CHECK,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"Submission {worst.number:,} read {worst.rate:.1%} of what it cached; {worst.expected:.1%} was expected, and "
            f"it is hardly ever below {worst.least:.1%}{tail}."
        ),
        metadata={
            "hit_rate": worst.rate,
            "expected": worst.expected,
            "least": worst.least,
            "cache_read_tokens": worst.read,
            "cache_write_tokens": worst.written,
            "submission": worst.number,
        },
    )


def in_time(kept: "Retention") -> dict[str, Any]:
    """Return what a check result or evaluation says of answers that wait at the API."""
    return {
        "check_name": RETENTION_CHECK,
        "passed": kept.level != "fail",
        "severity": dg.AssetCheckSeverity.ERROR
        if kept.level == "fail"
        else dg.AssetCheckSeverity.WARN,
        "description": kept.description,
        "metadata": {
            "batches_waiting": kept.waiting,
            "batches_lost": kept.lost,
            "oldest_days": kept.oldest_days,
        },
    }


def accounted_for(
    accounts: Sequence["Account"],
    holding: "Holding | None" = None,
    destination: str = "",
    late: str = "",
) -> dg.AssetCheckResult:
    """Return the result of the check that compares records with results, over some partitions.

    Args:
        accounts: of the store's files, partition by partition.
        holding: how the whole table compares with what it must hold; None: it was not compared.
        destination: which table that is.
        late: what is not answered by when it was wanted, in words.
    """
    failures = [line for one in accounts for line in one.failures]
    pending = sum(one.pending for one in accounts)
    strange = ""
    if holding is not None:
        if holding.missing or holding.doubled:
            failures.append(
                f"{destination}: {holding.missing:,} of {counted(holding.records, 'record')} have no "
                f"row, {counted(holding.doubled, 'row is', 'rows are')} there twice"
            )
        if holding.unexpected:
            strange = (
                f"{destination} has {counted(holding.unexpected, 'row')} that no record of this store "
                "stands behind: written by hand, or from another store. They are left alone; delete "
                "them, or name another destination"
            )
    numbers = {
        "submissions_compared": sum(one.settled for one in accounts),
        "records": sum(one.records for one in accounts),
        # In the store and in the destination together.
        "missing": sum(one.missing for one in accounts) + (holding.missing if holding else 0),
        "unexpected": sum(one.unexpected for one in accounts)
        + (holding.unexpected if holding else 0),
        "doubled": sum(one.doubled for one in accounts) + (holding.doubled if holding else 0),
        "pending": pending,
    }
    if failures or strange:
        description = "; ".join(filter(None, [*failures, strange]))
    elif pending:
        back = sum(one.over_budget for one in accounts)
        held = (
            f" ({back:,} of them not sent, because of a budget: `batch-pipeline held`)"
            if back
            else ""
        )
        description = (
            f"{counted(pending, 'request is', 'requests are')} still on their way{held}; all that came back is "
            "accounted for."
        )
    else:
        description = "Every record has exactly one row."
        if numbers["records"]:
            of = counted(numbers["submissions_compared"], "submission")
            description = f"{description[:-1]}: {counted(numbers['records'], 'record')} of {of}."
    if late:
        description = f"{description.rstrip('.')}. {late}."
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not failures and not strange,
        # A row too many is somebody's own: it is said, and stops nothing.
        severity=dg.AssetCheckSeverity.ERROR
        if failures or not (pending or strange or late)
        else dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=numbers,
    )
