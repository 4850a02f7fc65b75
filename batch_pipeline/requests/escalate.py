"""Cheap first: one model answers, and what it does not settle is asked of a better one in the same night."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from typing import Any

from batch_pipeline.errors import InputError
from batch_pipeline.records.rules import check_condition
from batch_pipeline.records.unsettled import STATUSES, Unsettled
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.requests.variants import changed_template

MOST_CONDITIONS = 20
OF_THE_MODEL = (
    "model",
    "max_tokens",
    "max_tokens_limit",
    "params",
    "cache",
    "output_mode",
    "version",
)
"""The fields of a request in which the better model's may differ: it is asked the same about the same columns."""
_LISTED = re.compile(r"\s*\w+\s*(\|\s*\w+\s*)+")


@dataclass(frozen=True)
class Escalate:
    """Which answers a better model is asked for, besides the first one.

    Attributes:
        to: the better model's name; or the fields of the request that differ, the model among them: ``max_tokens``,
            ``max_tokens_limit``, ``params``, ``cache``, ``output_mode`` and ``version``. The question is the same.
        when: which records: ``invalid``, ``refused`` or ``truncated``, after all attempts of the first model;
            a SQL condition over the columns of the results, such as ``confidence < 0.8``; or several of these.
        audit: a share of the answered records, between 0 and 1, that is asked of both, so that the report can
            say how often they agree. It is always the same records.

    Raises:
        InputError: a field cannot be what it is.
    """

    to: str | Mapping[str, Any]
    when: str | Sequence[str] = "invalid"
    audit: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        changes = {"model": self.to} if isinstance(self.to, str) else self.to
        if not isinstance(changes, Mapping) or not changes.get("model"):
            raise InputError(
                f"Escalate: to is {self.to!r}; it must be the better model's name, or the fields of the request that "
                'differ, with the model: {"model": "claude-opus-5-5", "max_tokens": 500}.'
            )
        for name in changes:
            if name not in OF_THE_MODEL:
                raise InputError(
                    f"Escalate: to has {name!r}; the better model is asked the same question, and only "
                    f"{', '.join(OF_THE_MODEL)} may differ. Compare questions with variants."
                )
        share = self.audit
        is_number = isinstance(share, int | float) and not isinstance(share, bool)
        if not is_number or not isfinite(share) or not 0 <= share <= 1:
            raise InputError(
                f"Escalate: audit is {share!r}; it must be a share of the records, such as 0.02."
            )
        given = [self.when] if isinstance(self.when, str) else self.when
        if not isinstance(given, Sequence) or len(given) > MOST_CONDITIONS:
            raise InputError(
                f"Escalate: when is {self.when!r}; it must be one of {', '.join(STATUSES)}, a SQL condition, or a list of "
                f"{MOST_CONDITIONS} such at most."
            )
        if not given and not self.audit:
            raise InputError(
                "Escalate: when is empty and audit is 0, so the better model would never be asked."
            )
        for one in given:
            self._check(one)

    @cached_property
    def unsettled(self) -> Unsettled:
        """What the first model does not settle."""
        return Unsettled(
            (self.when,) if isinstance(self.when, str) else tuple(self.when), self.audit
        )

    def template(self, first: MessageTemplate) -> MessageTemplate:
        """Return what the better model is asked.

        Raises:
            InputError: it is no other model, or its answers would have other columns.
        """
        changes = {"model": self.to} if isinstance(self.to, str) else dict(self.to)
        if changes["model"] == first.model:
            raise InputError(
                f"escalate: to is {first.model}, the model that is asked first. Name a better one."
            )
        made = changed_template(first, "escalate: to", changes)
        if made.version is not None and made.version == first.version:
            # A request's custom_id holds the version: the two models' requests must not be called the same.
            made = replace(made, version=f"{made.version} of {made.model}")
        return made

    def _check(self, one: Any) -> None:
        if one in STATUSES:
            return
        if one == "disagree":
            raise InputError(
                "Escalate: when has disagree, which needs two answers of the first model to each record; each is asked "
                "once. Let the output have a field such as confidence, and write a condition on it: confidence < 0.8."
            )
        if isinstance(one, str) and _LISTED.fullmatch(one):
            listed = ", ".join(f'"{part.strip()}"' for part in one.split("|"))
            raise InputError(f"Escalate: when is {one!r}; write several as a list: [{listed}].")
        check_condition(one, "Escalate: when")
