"""Summarize: a record's text in few words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from batch_pipeline.errors import InputError
from batch_pipeline.requests.tasks.length import AROUND, MOST, TOKENS_PER_WORD, words_tokens
from batch_pipeline.requests.tasks.task import Task, object_schema


@dataclass(frozen=True)
class Summarize(Task):
    """A text in few words, in its own language: the column ``summary``.

    ``max_tokens`` follows from ``words``, with room for a model that counts them loosely.

    Attributes:
        words: how many at most.
    """

    words: int = 50

    def output(self) -> dict[str, Any]:
        """Return the schema: a text."""
        check_words(self.words)
        return object_schema({"summary": {"type": "string"}}, ["summary"])

    def asked(self) -> tuple[str, Mapping[str, Sequence[str]]]:
        """Return what is asked."""
        words = "1 word" if self.words == 1 else f"{self.words} words"
        return (
            f"Summarize a text in at most {words}, in the language of the text. Say what matters most first, "
            "and nothing that the text does not say.",
            {},
        )

    def answer_tokens(self, output: type[BaseModel] | dict[str, Any]) -> int:
        """Return how many tokens so many words have at most."""
        return words_tokens(self.words)


def check_words(words: object) -> None:
    """Refuse what is no number of words.

    Raises:
        InputError: it is no whole number, less than 1, or more than a model writes.
    """
    most = (MOST - 2 * AROUND) // TOKENS_PER_WORD
    if not isinstance(words, int) or isinstance(words, bool) or not 1 <= words <= most:
        raise InputError(f"words is {words!r}; it must be a whole number from 1 to {most}.")
