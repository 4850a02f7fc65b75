"""The checks on results that a user sets a threshold for."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from batch_pipeline.errors import InputError

ERROR_RATE, SCHEMA_VALID = "error_rate", "schema_valid"
CHECKS = {
    ERROR_RATE: "Of the records that were asked, no larger share than {limit:.2%} has no answer.",
    SCHEMA_VALID: "Of the answers that came back, no smaller share than {limit:.2%} fits the output schema.",
}
"""The checks there are, and what each says."""
SEVERITIES = ("WARN", "ERROR")


@dataclass(frozen=True)
class Threshold:
    """How far a check on ``NAME/results`` may go before it fails.

    Attributes:
        limit: a share from 0 to 1: of ``error_rate`` the largest that passes, of ``schema_valid`` the smallest.
        severity: how bad it is when it fails: ``WARN`` or ``ERROR``.
        blocking: assets downstream are not made in a run in which it fails; needs ``ERROR``.

    Raises:
        InputError: the limit is no share, or a field cannot be what it is.
    """

    limit: float
    severity: Literal["WARN", "ERROR"] = "WARN"
    blocking: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        limit = self.limit
        is_number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if not is_number or not isfinite(limit) or not 0 <= limit <= 1:
            raise InputError(
                f"the limit is {limit!r}; it must be a share from 0 to 1, such as 0.02 for two of a hundred."
            )
        if self.severity not in SEVERITIES:
            raise InputError(f"severity is {self.severity!r}; it must be WARN or ERROR.")
        if not isinstance(self.blocking, bool):
            raise InputError(f"blocking is {self.blocking!r}; it must be True or False.")
        if self.blocking and self.severity != "ERROR":
            raise InputError('blocking needs severity="ERROR": Dagster goes on after a warning.')


def thresholds_of(checks: Any, *, has_output: bool) -> dict[str, Threshold]:
    """Return the thresholds that a pipeline declares, by the name of their check.

    Args:
        checks: by name a share, or a `Threshold`.
        has_output: whether answers must fit a schema.

    Raises:
        InputError: there is no such check, or its threshold cannot be.
    """
    if not isinstance(checks, Mapping):
        raise InputError(
            f'checks is {checks!r}; it must be a dict of thresholds, such as {{"error_rate": 0.02}}.'
        )
    found: dict[str, Threshold] = {}
    for name, given in checks.items():
        if name not in CHECKS:
            raise InputError(f"checks has {name!r}; there are {' and '.join(CHECKS)}.")
        if name == SCHEMA_VALID and not has_output:
            raise InputError(
                "checks has 'schema_valid', and there is no schema that answers must fit: give the request an "
                "`output`, or leave that check out."
            )
        try:
            found[name] = given if isinstance(given, Threshold) else Threshold(given)
        except InputError as error:
            raise InputError(f"checks: {name}: {error}") from None
    return found
