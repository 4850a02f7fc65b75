"""What a rule is, the list of all rules, and what they are asked about.

To add one, write a function with `@rule(source)` in the module that fits: the first line of its
docstring says what is refused, the source says from what we know it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from batch_pipeline.emulator.betas import NEWEST_VERSION
from batch_pipeline.emulator.catalog import Model, find_model
from batch_pipeline.emulator.errors import invalid

OUR_READING = "our reading"


@dataclass(frozen=True)
class Occasion:
    """Where and how a request was made.

    Attributes:
        call: In a `batch`, as a `message` of its own, or only to `count` its tokens.
        version: The API version that was asked for.
        betas: The betas that were named; None where that was not kept: then none is missed.
        any_model: Whether any name of a model is taken, as by a relay that maps them.
        has_file: Says whether there is a file with an id.
    """

    call: Literal["batch", "message", "count"] = "message"
    version: str = NEWEST_VERSION
    betas: frozenset[str] | None = frozenset()
    any_model: bool = False
    has_file: Callable[[str], bool] = lambda id: False

    @property
    def batch(self) -> bool:
        return self.call == "batch"

    def allows(self, needed: tuple[str, ...]) -> bool:
        """Whether one of the betas that something needs was named."""
        return self.betas is None or not self.betas.isdisjoint(needed)


@dataclass(frozen=True)
class Asked:
    """A request under judgement: rules that come later rely on what earlier ones have checked."""

    params: dict[str, Any]
    occasion: Occasion

    @cached_property
    def model(self) -> Model:
        return find_model(self.params["model"])

    @property
    def thinking(self) -> str | None:
        """The kind of thinking that is asked for, None when nothing is."""
        return (self.params.get("thinking") or {}).get("type")

    @property
    def effort(self) -> str | None:
        return (self.params.get("output_config") or {}).get("effort")


@dataclass(frozen=True)
class Rule:
    """One kind of mistake.

    Attributes:
        name: What it is called in lists.
        refuses: What is refused, in a sentence.
        source: From what we know it.
        check: Raises the error that the API answers the mistake with.
    """

    name: str
    refuses: str
    source: str
    check: Callable[[Asked], None]


RULES: list[Rule] = []


def rule(source: str) -> Callable[[Callable[[Asked], None]], Callable[[Asked], None]]:
    """Register a rule; `source` says from what we know it, `OUR_READING` that we do not."""

    def register(check: Callable[[Asked], None]) -> Callable[[Asked], None]:
        refuses = (check.__doc__ or "").strip().splitlines()[0].rstrip(".")
        RULES.append(Rule(check.__name__, refuses, source, check))
        return check

    return register


def check_params(params: dict[str, Any], occasion: Occasion) -> None:
    """Raise the error that the API would answer these parameters with."""
    asked = Asked(params, occasion)
    for one in RULES:
        one.check(asked)


def needs_beta(asked: Asked, what: str, needed: tuple[str, ...]) -> None:
    """Raise the error for something that is there without its beta.

    A field that a beta brings is unknown without it (Wei-Shaw/sub2api#6454).
    """
    if not asked.occasion.allows(needed):
        raise invalid(
            f"{what}: Extra inputs are not permitted. It needs the beta header {needed[-1]}."
        )
