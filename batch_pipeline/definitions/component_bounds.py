"""Dagster's own checks that a figure of the results' metadata is within bounds, for pipelines in YAML."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import dagster as dg

from batch_pipeline.errors import InputError


@dataclass(frozen=True)
class Bounds:
    """Between which numbers a figure must be.

    Attributes:
        min: the smallest that passes; None: there is no smallest.
        max: the largest that passes; None: there is no largest.
        severity: how bad it is when it fails.

    Raises:
        InputError: no number passes, or there is no bound.
    """

    min: float | None = None
    max: float | None = None
    severity: Literal["WARN", "ERROR"] = "WARN"

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        for name, bound in (("min", self.min), ("max", self.max)):
            is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
            if bound is not None and not (is_number and isfinite(bound)):
                raise InputError(f"{name} is {bound!r}; it must be a number.")
        if self.min is None and self.max is None:
            raise InputError("there is no bound in it. Give min or max.")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise InputError(f"min is {self.min} and max {self.max}: no number is within these.")
        if self.severity not in ("WARN", "ERROR"):
            raise InputError(f"severity is {self.severity!r}; it must be WARN or ERROR.")


def bounds_checks(
    results: dg.AssetKey, bounds: Mapping[str, Bounds]
) -> list[dg.AssetChecksDefinition]:
    """Return a check ``FIGURE_bounds_check`` on an asset for each figure.

    Args:
        results: the asset.
        bounds: by the name of the figure in its metadata.
    """
    with warnings.catch_warnings():
        # They are "beta" in Dagster 1.13; whoever declares one in YAML has called nothing.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return [
            check
            for name, one in bounds.items()
            for check in dg.build_metadata_bounds_checks(
                assets=[results],
                metadata_key=name,
                min_value=one.min,
                max_value=one.max,
                severity=dg.AssetCheckSeverity[one.severity],
            )
        ]
