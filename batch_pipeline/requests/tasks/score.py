"""Score: how good a record is, on a scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch_pipeline.errors import InputError
from batch_pipeline.requests.tasks.task import EXPLANATION, Task, object_schema
from batch_pipeline.requests.tasks.wording import check_text

MOST_LISTED = 101
"""Scores that a schema lists, so that the API's grammar gives no other; more are told as bounds."""


@dataclass(frozen=True)
class Score(Task):
    """A whole number on a scale: the column ``score``.

    A change of the scale or of the rubric is another question.

    Attributes:
        rubric: what is judged, and what the scores mean: a text, or a mapping of scores to texts.
        scale: the lowest and the highest score.
        explain: whether the column ``explanation`` says why; it is written before the score.
    """

    rubric: str | Mapping[int, str]
    scale: Sequence[int] = (1, 5)
    explain: bool = False

    def output(self) -> dict[str, Any]:
        """Return the schema: a whole number within the scale."""
        lowest, highest = self._bounds()
        if not isinstance(self.explain, bool):
            raise InputError(
                f"explain is {self.explain!r}; it must be True or False (true or false in YAML)."
            )
        score: dict[str, Any] = {"type": "integer"}
        if highest - lowest < MOST_LISTED:
            score["enum"] = list(range(lowest, highest + 1))
        else:
            score |= {"minimum": lowest, "maximum": highest}
        fields = ({"explanation": EXPLANATION} if self.explain else {}) | {"score": score}
        return object_schema(fields, list(fields))

    def asked(self) -> tuple[str, Mapping[str, Sequence[str]]]:
        """Return what is asked; the rubric must be told."""
        lowest, highest = self._bounds()
        texts, lines = self._rubric(lowest, highest)
        block = "\n".join(["How to score:", *lines])
        return f"Score a text with a whole number from {lowest} to {highest}.", {block: texts}

    def _bounds(self) -> tuple[int, int]:
        given: Any = self.scale
        try:
            lowest, highest = given
        except (TypeError, ValueError):
            lowest = highest = None
        for bound in (lowest, highest):
            if not isinstance(bound, int) or isinstance(bound, bool) or abs(bound) >= 2**53:
                raise InputError(
                    f"scale is {given!r}; it must be two whole numbers, the lowest and the highest score,"
                    " such as (1, 5)."
                )
        assert lowest is not None and highest is not None
        if lowest >= highest:
            raise InputError(
                f"scale is {given!r}: its lowest score {lowest} is not below its highest, {highest}."
            )
        return lowest, highest

    def _rubric(self, lowest: int, highest: int) -> tuple[list[str], list[str]]:
        """Return the texts of the rubric, and the lines that tell them."""
        if not isinstance(self.rubric, Mapping):
            text = check_text(self.rubric, "rubric").strip()
            return [text], [text]
        if not self.rubric:
            raise InputError("rubric is empty. Say what is judged, and what the scores mean.")
        texts: dict[int, str] = {}
        for score, meaning in self.rubric.items():
            whole = isinstance(score, int) and not isinstance(score, bool)
            if not whole or not lowest <= score <= highest:
                raise InputError(
                    f"rubric: {score!r} is no score of the scale; it goes from {lowest} to {highest}."
                )
            texts[score] = " ".join(check_text(meaning, f"rubric: what {score} means").split())
        return list(texts.values()), [f"- {score}: {text}" for score, text in texts.items()]
